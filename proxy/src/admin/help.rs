//! What there is to ask for.

use std::fmt::Write as _;

/// An endpoint; the order is that of the listing.
pub(super) struct Endpoint {
    pub(super) path: &'static str,
    /// Whether it changes something and needs a POST.
    pub(super) changes: bool,
    about: &'static str,
    parameters: &'static [(&'static str, &'static str)],
}

const fn endpoint(
    path: &'static str,
    about: &'static str,
    parameters: &'static [(&'static str, &'static str)],
) -> Endpoint {
    Endpoint { path, changes: false, about, parameters }
}

const fn change(
    path: &'static str,
    about: &'static str,
    parameters: &'static [(&'static str, &'static str)],
) -> Endpoint {
    Endpoint { path, changes: true, about, parameters }
}

const FORMAT: (&str, &str) = ("format", "File format to use; One of (text, json)");

/// Everything that is answered.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    endpoint("/", "Admin home page", &[]),
    endpoint("/certs", "print certs on machine", &[]),
    endpoint(
        "/clusters",
        "upstream cluster status",
        &[FORMAT, ("filter", "Regular expression for filtering clusters by name")],
    ),
    endpoint(
        "/config_dump",
        "dump the configuration in force",
        &[
            ("resource", "The resource to dump"),
            ("mask", "The mask to apply, to every element of the resource if one is given"),
            ("name_regex", "Dump only what has a name that matches the whole expression"),
            ("include_eds", "Dump endpoints as well"),
        ],
    ),
    change(
        "/drain_listeners",
        "drain listeners",
        &[
            (
                "graceful",
                "Close the sockets only when the drain time is over; clients are told to go meanwhile",
            ),
            ("skip_exit", "Drain the connections but never close the sockets"),
            ("inboundonly", "Drain only listeners whose traffic_direction is INBOUND"),
        ],
    ),
    change("/healthcheck/fail", "cause the server to fail health checks", &[]),
    change("/healthcheck/ok", "cause the server to pass health checks", &[]),
    endpoint("/help", "print out list of admin commands", &[]),
    endpoint("/hot_restart_version", "print the hot restart compatibility version", &[]),
    endpoint("/listeners", "print listener info", &[FORMAT]),
    change(
        "/logging",
        "query/change logging levels",
        &[
            (
                "level",
                "desired logging level of all loggers; One of (trace, debug, info, warning, error, critical, off)",
            ),
            ("paths", "Change several loggers by setting to <logger1>:<level1>,<logger2>:<level2>"),
            ("<logger>", "desired logging level of this logger"),
        ],
    ),
    endpoint("/memory", "print current allocation/heap usage", &[]),
    change("/quitquitquit", "exit the server", &[]),
    endpoint("/ready", "print server state, return 200 if LIVE, otherwise return 503", &[]),
    change("/reopen_logs", "reopen access logs", &[]),
    change("/reset_counters", "not possible here; says why", &[]),
    endpoint("/runtime", "print runtime values", &[]),
    endpoint("/server_info", "print server version/status information", &[]),
    endpoint(
        "/stats",
        "print server stats",
        &[
            ("format", "Format to use; One of (text, json, prometheus)"),
            ("usedonly", "Only include stats that are not zero"),
            ("filter", "Regular expression for filtering stats by name"),
        ],
    ),
    endpoint(
        "/stats/prometheus",
        "print server stats in prometheus format",
        &[
            ("usedonly", "Only include stats that are not zero"),
            ("filter", "Regular expression for filtering stats by name"),
        ],
    ),
];

/// The listing.
pub(super) fn text() -> String {
    ENDPOINTS.iter().fold("admin commands are:\n".to_owned(), |mut text, endpoint| {
        let post = if endpoint.changes { " (POST)" } else { "" };
        let _ = writeln!(text, "  {}{post}: {}", endpoint.path, endpoint.about);
        for (name, about) in endpoint.parameters {
            let _ = writeln!(text, "      {name}: {about}");
        }
        text
    })
}
