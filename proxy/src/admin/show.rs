//! What the admin address shows.

use std::{fmt::Write as _, sync::atomic::Ordering};

use serde_json::{Value, json};
use weft_xds::json::to_json;

use super::Admin;
use crate::{
    cluster::{
        Cluster,
        endpoint::{Host, Status},
    },
    metrics::{ServerNumbers, prometheus_text},
};

pub(super) const HELP: &str = "admin commands are:
  /clusters[?format=json]: endpoints and what they did
  /config_dump: the configuration in force
  /drain_listeners[?graceful] (POST): stop accepting
  /healthcheck/fail (POST): be not ready
  /healthcheck/ok (POST): be ready again
  /listeners[?format=json]: where we listen
  /logging?level=LEVEL (POST): change what is logged
  /quitquitquit (POST): end at once
  /ready: whether traffic is welcome
  /server_info: who we are
  /stats[?format=json|prometheus]: counters
  /stats/prometheus: counters for Prometheus
";

impl Admin {
    pub(super) fn server_info(&self) -> Value {
        json!({
            "version": concat!("weft/", env!("CARGO_PKG_VERSION")),
            "state": self.lifecycle().0,
            "uptime_current_epoch": format!("{}s", self.started.elapsed().as_secs()),
            "uptime_all_epochs": format!("{}s", self.started.elapsed().as_secs()),
            "node": to_json(&self.node).unwrap_or_default(),
            "command_line_options": {
                "concurrency": self.shared.workers,
                "drain_time": format!("{}s", self.drain_time.as_secs()),
            },
        })
    }

    pub(super) fn prometheus(&self) -> Result<String, prometheus::Error> {
        let mut numbers = ServerNumbers {
            live: self.lifecycle().1,
            uptime_seconds: self.started.elapsed().as_secs(),
            concurrency: self.shared.workers,
            memory: resident_bytes(),
            state: match self.lifecycle().0 {
                "LIVE" => 0,
                "DRAINING" => 1,
                _ => 2,
            },
            ..ServerNumbers::default()
        };
        {
            let state = self.state.lock();
            numbers.gauges.push((
                "envoy_control_plane_connected_state",
                None,
                f64::from(u8::from(state.updates.connected)),
            ));
            numbers.gauges.push(("envoy_cluster_manager_active_clusters", None, state.clusters.len() as f64));
            numbers.gauges.push((
                "envoy_listener_manager_total_listeners_active",
                None,
                state.listeners.len() as f64,
            ));
            numbers.counters.push(("envoy_xds_update_success", state.updates.accepted));
            numbers.counters.push(("envoy_xds_update_rejected", state.updates.rejected));
            numbers
                .counters
                .push(("envoy_access_logs_dropped", self.shared.log_lines_dropped.load(Ordering::Relaxed)));
            for (name, entry) in &state.clusters {
                let set = entry.cluster.endpoints.load();
                let healthy = set.eligible.iter().filter(|host| entry.cluster.is_fit(&host.endpoint)).count();
                numbers.gauges.push((
                    "envoy_cluster_membership_total",
                    Some(name.clone()),
                    set.hosts.len() as f64,
                ));
                numbers.gauges.push(("envoy_cluster_membership_healthy", Some(name.clone()), healthy as f64));
            }
        }
        prometheus_text(&self.shared.registry, &numbers)
    }

    /// The counters as `name{labels}: value` lines: readable, and the same names as everywhere.
    pub(super) fn stats_text(&self) -> String {
        let text = self.prometheus().unwrap_or_default();
        text.lines().filter(|line| !line.starts_with('#')).fold(String::new(), |mut lines, line| {
            if let Some((name, value)) = line.rsplit_once(' ') {
                let _ = writeln!(lines, "{name}: {value}");
            }
            lines
        })
    }

    pub(super) fn stats_json(&self) -> Value {
        let text = self.prometheus().unwrap_or_default();
        let stats: Vec<Value> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| json!({"name": name, "value": value.parse::<f64>().unwrap_or_default()}))
            .collect();
        json!({ "stats": stats })
    }

    pub(super) fn clusters_text(&self) -> String {
        let mut text = String::new();
        for (name, entry) in &self.state.lock().clusters {
            let limits = &entry.cluster.breaker.limits;
            let _ = writeln!(text, "{name}::observability_name::{name}");
            let _ = writeln!(text, "{name}::default_priority::max_connections::{}", limits.connections);
            let _ = writeln!(text, "{name}::default_priority::max_pending_requests::{}", limits.pending);
            let _ = writeln!(text, "{name}::default_priority::max_requests::{}", limits.requests);
            let _ = writeln!(text, "{name}::default_priority::max_retries::{}", limits.retries);
            let _ = writeln!(text, "{name}::added_via_api::{}", !entry.from_file);
            for host in &entry.cluster.endpoints.load().hosts {
                let address = &host.endpoint.address_text;
                for (counter, value) in counters(host) {
                    let _ = writeln!(text, "{name}::{address}::{counter}::{value}");
                }
                let _ = writeln!(text, "{name}::{address}::hostname::{}", host.endpoint.hostname);
                let _ =
                    writeln!(text, "{name}::{address}::health_flags::{}", health_flags(&entry.cluster, host));
                let _ = writeln!(text, "{name}::{address}::weight::{}", host.weight);
                let _ = writeln!(text, "{name}::{address}::region::{}", host.zone.region);
                let _ = writeln!(text, "{name}::{address}::zone::{}", host.zone.zone);
                let _ = writeln!(text, "{name}::{address}::sub_zone::{}", host.zone.sub_zone);
            }
        }
        text
    }

    pub(super) fn clusters_json(&self) -> Value {
        let clusters: Vec<Value> = self
            .state
            .lock()
            .clusters
            .iter()
            .map(|(name, entry)| {
                let hosts: Vec<Value> = entry
                    .cluster
                    .endpoints
                    .load()
                    .hosts
                    .iter()
                    .map(|host| host_json(&entry.cluster, host))
                    .collect();
                json!({"name": name, "added_via_api": !entry.from_file, "observability_name": name, "host_statuses": hosts})
            })
            .collect();
        json!({ "cluster_statuses": clusters })
    }

    pub(super) fn listeners_text(&self) -> String {
        self.state.lock().listeners.iter().fold(String::new(), |mut text, (name, entry)| {
            if let Some(bound) = &entry.bound {
                let _ = writeln!(text, "{name}::{}", bound.address);
            }
            text
        })
    }

    pub(super) fn listeners_json(&self) -> Value {
        let listeners: Vec<Value> = self
            .state
            .lock()
            .listeners
            .iter()
            .filter_map(|(name, entry)| {
                let address = entry.bound.as_ref()?.address;
                Some(json!({
                    "name": name,
                    "local_address": {"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}},
                }))
            })
            .collect();
        json!({ "listener_statuses": listeners })
    }

    pub(super) fn config_dump(&self) -> Value {
        let state = self.state.lock();
        let version = |type_: &str| state.versions.get(type_).cloned().unwrap_or_default();
        let resource = |value: Result<Value, weft_xds::json::ConfigError>| value.unwrap_or_default();
        let split = |items: Vec<(bool, Value)>| -> (Vec<Value>, Vec<Value>) {
            let (of_file, of_server): (Vec<_>, Vec<_>) =
                items.into_iter().partition(|(from_file, _)| *from_file);
            (of_file.into_iter().map(|(_, v)| v).collect(), of_server.into_iter().map(|(_, v)| v).collect())
        };
        let (static_clusters, dynamic_clusters) = split(
            state
                .clusters
                .values()
                .map(|entry| (entry.from_file, json!({"cluster": resource(to_json(&entry.message))})))
                .collect(),
        );
        let (static_listeners, dynamic_listeners) = split(
            state
                .listeners
                .values()
                .map(|entry| {
                    let message = resource(to_json(&entry.message));
                    let item = if entry.from_file {
                        json!({ "listener": message })
                    } else {
                        json!({"name": entry.message.name, "active_state": {"listener": message}})
                    };
                    (entry.from_file, item)
                })
                .collect(),
        );
        let routes: Vec<Value> =
            state.routes.values().map(|route| json!({"route_config": resource(to_json(route))})).collect();
        let endpoints: Vec<Value> =
            state.endpoints.values().map(|set| json!({"endpoint_config": resource(to_json(set))})).collect();
        let kind = |name: &str| format!("type.googleapis.com/envoy.admin.v3.{name}");
        json!({"configs": [
            {"@type": kind("ClustersConfigDump"), "version_info": version("cluster"),
             "static_clusters": static_clusters, "dynamic_active_clusters": dynamic_clusters},
            {"@type": kind("EndpointsConfigDump"), "dynamic_endpoint_configs": endpoints},
            {"@type": kind("ListenersConfigDump"), "version_info": version("listener"),
             "static_listeners": static_listeners, "dynamic_listeners": dynamic_listeners},
            {"@type": kind("RoutesConfigDump"), "dynamic_route_configs": routes},
        ]})
    }
}

fn counters(host: &Host) -> [(&'static str, u64); 8] {
    let stats = &host.endpoint.stats;
    let read = |cell: &std::sync::atomic::AtomicU64| cell.load(Ordering::Relaxed);
    [
        ("cx_active", read(&stats.cx_active)),
        ("cx_connect_fail", read(&stats.cx_connect_fail)),
        ("cx_total", read(&stats.cx_total)),
        ("rq_active", read(&stats.rq_active)),
        ("rq_error", read(&stats.rq_error)),
        ("rq_success", read(&stats.rq_success)),
        ("rq_timeout", read(&stats.rq_timeout)),
        ("rq_total", read(&stats.rq_total)),
    ]
}

fn health_flags(cluster: &Cluster, host: &Host) -> &'static str {
    match host.status {
        Status::Unhealthy | Status::Draining => "/failed_eds_health",
        Status::Healthy if host.endpoint.is_failing_checks() => "/failed_active_hc",
        Status::Healthy if host.endpoint.is_ejected() => "/failed_outlier_check",
        Status::Healthy if !cluster.is_fit(&host.endpoint) => "/failed_active_hc",
        Status::Healthy => "healthy",
    }
}

fn host_json(cluster: &Cluster, host: &Host) -> Value {
    let address = host.endpoint.address;
    let stats: Vec<Value> = counters(host)
        .into_iter()
        .map(|(name, value)| {
            let kind = if name.ends_with("_active") { "GAUGE" } else { "COUNTER" };
            json!({"name": name, "type": kind, "value": value.to_string()})
        })
        .collect();
    json!({
        "address": {"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}},
        "hostname": host.endpoint.hostname,
        "stats": stats,
        "weight": host.weight,
        "health_status": {
            "eds_health_status": match host.status {
                Status::Healthy => "HEALTHY",
                Status::Draining => "DRAINING",
                Status::Unhealthy => "UNHEALTHY",
            },
            "failed_active_health_check": host.endpoint.is_failing_checks(),
            "failed_outlier_check": host.endpoint.is_ejected(),
        },
        "flags": health_flags(cluster, host),
        "locality": {"region": host.zone.region, "zone": host.zone.zone, "sub_zone": host.zone.sub_zone},
    })
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    pages * 4096
}
