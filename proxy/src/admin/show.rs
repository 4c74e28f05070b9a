//! What the admin address shows.

use std::{borrow::Cow, fmt::Write as _, sync::atomic::Ordering};

use prometheus::proto::MetricFamily;
use regex::Regex;
use serde_json::{Value, json};
use weft_xds::json::to_json;

use super::Admin;
use crate::{
    cluster::{
        breaker::Priority,
        endpoint::{Host, Status},
    },
    metrics::{ServerNumbers, collect},
    overload::{Action, memory::of_process},
};

/// What Envoy says where it cannot hand over to a successor.
pub(super) const HOT_RESTART: &str = "disabled";

impl Admin {
    pub(super) fn server_info(&self) -> Value {
        let mut options = json!({
            "concurrency": self.shared.workers,
            "drain_time": format!("{}s", self.drain_time.as_secs()),
            "drain_strategy": format!("{:?}", self.shared.drain_plan.strategy),
        });
        for (name, value) in &self.command_line {
            options[*name] = Value::String(value.clone());
        }
        json!({
            "version": concat!("weft/", env!("CARGO_PKG_VERSION")),
            "state": self.lifecycle().0,
            "uptime_current_epoch": format!("{}s", self.started.elapsed().as_secs()),
            "uptime_all_epochs": format!("{}s", self.started.elapsed().as_secs()),
            "hot_restart_version": HOT_RESTART,
            "node": to_json(&self.node).unwrap_or_default(),
            "command_line_options": options,
        })
    }

    pub(super) fn metrics(&self) -> Vec<MetricFamily> {
        let mut numbers = ServerNumbers {
            live: self.lifecycle().1,
            uptime_seconds: self.started.elapsed().as_secs(),
            concurrency: self.shared.workers,
            memory: of_process("VmRSS").unwrap_or_default(),
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
                "envoy_control_plane_connected_state".into(),
                None,
                f64::from(u8::from(state.updates.connected)),
            ));
            numbers.gauges.push((
                "envoy_cluster_manager_active_clusters".into(),
                None,
                state.clusters.len() as f64,
            ));
            numbers.gauges.push((
                "envoy_listener_manager_total_listeners_active".into(),
                None,
                state.listeners.len() as f64,
            ));
            numbers.counters.extend(state.updates.counters());
            if let Some(last_good) = &state.last_good {
                let counts = &last_good.counts;
                let in_force = f64::from(u8::from(last_good.is_in_force()));
                numbers.gauges.push(("weft_last_good_config_in_force".into(), None, in_force));
                for (name, value) in [
                    ("weft_last_good_config_writes", &counts.writes),
                    ("weft_last_good_config_write_failures", &counts.write_failures),
                    ("weft_last_good_config_files_refused", &counts.files_refused),
                ] {
                    numbers.counters.push((name.into(), value.load(Ordering::Relaxed)));
                }
            }
            let panics = self.shared.caught_panics.load(Ordering::Relaxed);
            numbers.counters.push(("weft_server_caught_panics_total".into(), panics));
            let logs = &self.shared.log_stats;
            for (name, value) in [
                ("envoy_access_log_file_write_buffered", &logs.write_buffered),
                ("envoy_access_log_file_write_completed", &logs.write_completed),
                ("envoy_access_log_file_write_failed", &logs.write_failed),
                ("envoy_access_log_file_reopen_failed", &logs.reopen_failed),
                ("envoy_access_log_file_lines_dropped", &logs.dropped),
            ] {
                numbers.counters.push((name.into(), value.load(Ordering::Relaxed)));
            }
            let waiting = logs.write_total_buffered.load(Ordering::Relaxed);
            numbers.gauges.push(("envoy_access_log_file_write_total_buffered".into(), None, waiting as f64));
            for (name, entry) in &state.clusters {
                let set = entry.cluster.endpoints.load();
                let healthy = set.eligible.iter().filter(|host| host.endpoint.is_fit()).count();
                numbers.gauges.push((
                    "envoy_cluster_membership_total".into(),
                    Some(name.clone()),
                    set.hosts.len() as f64,
                ));
                numbers.gauges.push((
                    "envoy_cluster_membership_healthy".into(),
                    Some(name.clone()),
                    healthy as f64,
                ));
                for (counter, value) in entry.cluster.upkeep.counters() {
                    numbers.cluster_counters.push((counter, name.clone(), value));
                }
                numbers.gauges.push((
                    "envoy_cluster_lb_subsets_active".into(),
                    Some(name.clone()),
                    entry.cluster.upkeep.subsets() as f64,
                ));
                if entry.cluster.outlier.is_some() {
                    let ejected = set.hosts.iter().filter(|host| host.endpoint.is_ejected()).count();
                    numbers.gauges.push((
                        "envoy_cluster_outlier_detection_ejections_active".into(),
                        Some(name.clone()),
                        ejected as f64,
                    ));
                }
            }
        }
        self.overload_numbers(&mut numbers);
        collect(&self.shared.registry, &numbers)
    }

    fn overload_numbers(&self, numbers: &mut ServerNumbers) {
        let overload = &self.shared.overload;
        let name =
            |of: &str, what: &str| Cow::Owned(format!("envoy_overload_{}_{what}", of.replace('.', "_")));
        for monitor in overload.monitors() {
            numbers.gauges.push((name(&monitor.name, "pressure"), None, monitor.pressure as f64));
            numbers.counters.push((name(&monitor.name, "failed_updates"), monitor.failed_updates));
        }
        for action in Action::ALL {
            let level = overload.level(action);
            let active = f64::from(u8::from(level >= 1.0));
            numbers.gauges.push((name(action.name(), "active"), None, active));
            numbers.gauges.push((name(action.name(), "scale_percent"), None, (level * 100.0).floor()));
        }
    }

    /// Envoy's numbers come from its allocator; ours are what the kernel says of the process.
    pub(super) fn memory(&self) -> Value {
        let own = of_process("RssAnon").unwrap_or_default().to_string();
        json!({
            "allocated": own,
            "heap_size": own,
            "pageheap_unmapped": "0",
            "pageheap_free": "0",
            "total_thread_cache": "0",
            "total_physical_bytes": of_process("VmRSS").unwrap_or_default().to_string(),
        })
    }

    pub(super) fn clusters_text(&self, filter: Option<&Regex>) -> String {
        let mut text = String::new();
        for (name, entry) in &self.state.lock().clusters {
            if filter.is_some_and(|filter| !filter.is_match(name)) {
                continue;
            }
            let _ = writeln!(text, "{name}::observability_name::{name}");
            for (of, priority) in [("default", Priority::Default), ("high", Priority::High)] {
                let breaker = entry.cluster.breaker_of(priority);
                let limits = &breaker.limits;
                for (what, limit) in [
                    ("connections", limits.connections),
                    ("pending_requests", limits.pending),
                    ("requests", limits.requests),
                    ("retries", breaker.max_retries()),
                ] {
                    let _ = writeln!(text, "{name}::{of}_priority::max_{what}::{limit}");
                }
            }
            let _ = writeln!(text, "{name}::added_via_api::{}", !entry.from_file);
            for host in &entry.cluster.endpoints.load().hosts {
                let address = &host.endpoint.address_text;
                for (counter, value) in counters(host) {
                    let _ = writeln!(text, "{name}::{address}::{counter}::{value}");
                }
                let _ = writeln!(text, "{name}::{address}::hostname::{}", host.endpoint.hostname);
                let _ = writeln!(text, "{name}::{address}::health_flags::{}", health_flags(host));
                let _ = writeln!(text, "{name}::{address}::weight::{}", host.weight);
                let _ = writeln!(text, "{name}::{address}::region::{}", host.zone.region);
                let _ = writeln!(text, "{name}::{address}::zone::{}", host.zone.zone);
                let _ = writeln!(text, "{name}::{address}::sub_zone::{}", host.zone.sub_zone);
                let _ = writeln!(text, "{name}::{address}::canary::false");
                let _ = writeln!(text, "{name}::{address}::priority::{}", host.priority);
                // What Envoy says of a host whose rate of success it does not know.
                let _ = writeln!(text, "{name}::{address}::success_rate::-1");
                let _ = writeln!(text, "{name}::{address}::local_origin_success_rate::-1");
            }
        }
        text
    }

    pub(super) fn clusters_json(&self, filter: Option<&Regex>) -> Value {
        let clusters: Vec<Value> = self
            .state
            .lock()
            .clusters
            .iter()
            .filter(|(name, _)| filter.is_none_or(|filter| filter.is_match(name)))
            .map(|(name, entry)| {
                let limits =
                    [("DEFAULT", Priority::Default), ("HIGH", Priority::High)].map(|(of, priority)| {
                        let breaker = entry.cluster.breaker_of(priority);
                        json!({
                            "priority": of,
                            "max_connections": breaker.limits.connections,
                            "max_pending_requests": breaker.limits.pending,
                            "max_requests": breaker.limits.requests,
                            "max_retries": breaker.max_retries(),
                        })
                    });
                let hosts: Vec<Value> = entry.cluster.endpoints.load().hosts.iter().map(host_json).collect();
                json!({
                    "name": name,
                    "added_via_api": !entry.from_file,
                    "observability_name": name,
                    "host_statuses": hosts,
                    "circuit_breakers": {"thresholds": limits},
                })
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

fn health_flags(host: &Host) -> &'static str {
    match host.status {
        Status::Unhealthy | Status::Draining => "/failed_eds_health",
        Status::Healthy if host.endpoint.is_failing_checks() => "/failed_active_hc",
        Status::Healthy if host.endpoint.is_ejected() => "/failed_outlier_check",
        Status::Healthy => "healthy",
    }
}

fn host_json(host: &Host) -> Value {
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
        "locality": {"region": host.zone.region, "zone": host.zone.zone, "sub_zone": host.zone.sub_zone},
    })
}
