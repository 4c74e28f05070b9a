//! The metrics of connections before HTTP: listeners, their filters, and TCP proxies.

use super::{
    Registry,
    text::{Families, difference, tls},
};

const TCP: &str = "envoy_tcp_prefix";
const LISTENER: &str = "envoy_listener_address";
const CONNECTION_LIMIT: &str = "envoy_connection_limit_prefix";
const PROXY_PROTOCOL: &str = "envoy_proxy_protocol_prefix";
const PROXY_PROTOCOL_VERSION: &str = "envoy_proxy_protocol_version";

pub(super) fn write(families: &mut Families, registry: &Registry) {
    tcp_proxies(families, registry);
    listeners(families, registry);
    connection_limits(families, registry);
    proxy_protocol(families, registry);
    tls_inspectors(families, registry);
}

fn tcp_proxies(families: &mut Families, registry: &Registry) {
    for (prefix, cells) in registry.tcp_proxies() {
        let labels = [(TCP, prefix.as_str())];
        let mut counter = |metric: &str, value: u64| {
            families.counter(&format!("envoy_tcp_{metric}"), &labels, value);
        };
        counter("downstream_cx_total", cells.sum(|c| &c.cx_total));
        counter("downstream_cx_no_route", cells.sum(|c| &c.cx_no_route));
        counter("downstream_cx_rx_bytes_total", cells.sum(|c| &c.cx_rx_bytes));
        counter("downstream_cx_tx_bytes_total", cells.sum(|c| &c.cx_tx_bytes));
        counter("idle_timeout", cells.sum(|c| &c.idle_timeout));
        counter("max_downstream_connection_duration", cells.sum(|c| &c.max_duration));
        families.gauge(
            "envoy_tcp_downstream_cx_active",
            &labels,
            difference(&cells, |c| &c.cx_total, |c| &c.cx_destroy),
        );
    }
}

fn listeners(families: &mut Families, registry: &Registry) {
    for (address, cells) in registry.listeners() {
        let labels = [(LISTENER, address.as_str())];
        let mut counter = |metric: &str, value: u64| {
            families.counter(&format!("envoy_listener_{metric}"), &labels, value);
        };
        counter("downstream_cx_total", cells.sum(|c| &c.cx_total));
        counter("downstream_cx_destroy", cells.sum(|c| &c.cx_destroy));
        counter("downstream_cx_accept_failed", cells.sum(|c| &c.accept_failed));
        counter("downstream_cx_overflow", cells.sum(|c| &c.cx_overflow));
        counter("downstream_cx_overload_reject", cells.sum(|c| &c.cx_overload_reject));
        counter("downstream_global_cx_overflow", cells.sum(|c| &c.global_cx_overflow));
        counter("downstream_pre_cx_timeout", cells.sum(|c| &c.pre_cx_timeout));
        counter("downstream_listener_filter_remote_close", cells.sum(|c| &c.filter_remote_close));
        counter("downstream_listener_filter_error", cells.sum(|c| &c.filter_error));
        counter("no_filter_chain_match", cells.sum(|c| &c.no_filter_chain_match));
        tls(families, "envoy_listener_ssl", &labels, |counter| cells.sum(|c| counter(&c.ssl)));
        families.gauge(
            "envoy_listener_downstream_cx_active",
            &labels,
            difference(&cells, |c| &c.cx_total, |c| &c.cx_destroy),
        );
    }
}

fn connection_limits(families: &mut Families, registry: &Registry) {
    for (prefix, cells) in registry.connection_limits() {
        let labels = [(CONNECTION_LIMIT, prefix.as_str())];
        families.counter("envoy_connection_limit_limited_connections", &labels, cells.sum(|c| &c.limited));
        families.gauge(
            "envoy_connection_limit_active_connections",
            &labels,
            difference(&cells, |c| &c.opened, |c| &c.closed),
        );
    }
}

fn proxy_protocol(families: &mut Families, registry: &Registry) {
    use crate::proxy_protocol::Version;

    for (prefix, cells) in registry.proxy_protocols() {
        // Without a prefix there is no label, as in Envoy.
        let prefix = Some((PROXY_PROTOCOL, prefix.as_str())).filter(|(_, prefix)| !prefix.is_empty());
        let labels: Vec<_> = prefix.into_iter().collect();
        families.counter(
            "envoy_proxy_proto_not_found_disallowed",
            &labels,
            cells.sum(|c| &c.not_found_disallowed),
        );
        families.counter("envoy_proxy_proto_not_found_allowed", &labels, cells.sum(|c| &c.not_found_allowed));
        for (version, digit) in [(Version::V1, "1"), (Version::V2, "2")] {
            let labels: Vec<_> = prefix.into_iter().chain([(PROXY_PROTOCOL_VERSION, digit)]).collect();
            let mut counter = |metric: &str, value: u64| {
                families.counter(&format!("envoy_proxy_proto_versions_{metric}"), &labels, value);
            };
            counter("found", cells.sum(|c| &c.version(version).found));
            counter("disallowed", cells.sum(|c| &c.version(version).disallowed));
            counter("error", cells.sum(|c| &c.version(version).error));
        }
    }
}

fn tls_inspectors(families: &mut Families, registry: &Registry) {
    let cells = registry.tls_inspectors();
    let mut counter = |metric: &str, value: u64| {
        families.counter(&format!("envoy_tls_inspector_{metric}"), &[], value);
    };
    counter("client_hello_too_large", cells.sum(|c| &c.client_hello_too_large));
    counter("tls_found", cells.sum(|c| &c.tls_found));
    counter("tls_not_found", cells.sum(|c| &c.tls_not_found));
    counter("alpn_found", cells.sum(|c| &c.alpn_found));
    counter("alpn_not_found", cells.sum(|c| &c.alpn_not_found));
    counter("sni_found", cells.sum(|c| &c.sni_found));
    counter("sni_not_found", cells.sum(|c| &c.sni_not_found));
}
