//! Log levels while the process runs.

use std::{collections::BTreeMap, fmt::Write as _};

use parking_lot::Mutex;

use super::query::Query;

/// The level of everything and of single loggers, as set over admin.
#[derive(Debug, Default)]
pub(super) struct Levels(Mutex<Chosen>);

#[derive(Debug, Clone, Default)]
struct Chosen {
    /// `None` is what the command line says.
    all: Option<&'static str>,
    single: BTreeMap<&'static str, &'static str>,
}

/// Our loggers: the parts of the proxy, each of them a module.
const LOGGERS: &[&str] = &[
    "access_log",
    "admin",
    "balance",
    "cli",
    "cluster",
    "config",
    "http",
    "listener",
    "load",
    "metrics",
    "net",
    "overload",
    "pool",
    "route",
    "server",
    "tcp",
    "tls",
    "worker",
    "xds",
];

/// Envoy's names of levels, and those of our logs.
const LEVELS: &[(&str, &str)] = &[
    ("trace", "trace"),
    ("debug", "debug"),
    ("info", "info"),
    ("warning", "warn"),
    ("error", "error"),
    ("critical", "error"),
    ("off", "off"),
];

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)
usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)
usage: /logging?level=<level> (change all levels)
levels: trace debug info warning error critical off
";

// === impl Levels ===

impl Levels {
    /// Does what the query says and lists the levels; the error is an answer too.
    pub(super) fn change(&self, query: &Query, initial: &str) -> Result<String, String> {
        let mut next = self.0.lock().clone();
        let told = next.take(query);
        if let Err(reason) = told {
            return Err(format!("error: {reason}\n\n{USAGE}{}", self.0.lock().list(initial)));
        }
        if query.iter().next().is_some() {
            weft_kit::telemetry::set_filter(&next.filter(initial))
                .map_err(|error| format!("error: {}\n", weft_kit::error::chain(&error)))?;
            *self.0.lock() = next.clone();
        }
        Ok(next.list(initial))
    }
}

// === impl Chosen ===

impl Chosen {
    fn take(&mut self, query: &Query) -> Result<(), &'static str> {
        for (name, value) in query.iter() {
            match name {
                "level" => {
                    self.all = Some(level(value)?);
                    self.single.clear();
                }
                "paths" => {
                    for pair in value.split(',') {
                        let (name, value) = pair.split_once(':').ok_or("a path needs a level")?;
                        self.single.insert(logger(name)?, level(value)?);
                    }
                }
                name => {
                    self.single.insert(logger(name)?, level(value)?);
                }
            }
        }
        Ok(())
    }

    /// As the logs' own filter.
    fn filter(&self, initial: &str) -> String {
        self.single.iter().fold(self.all.unwrap_or(initial).to_owned(), |mut filter, (name, level)| {
            let target = if *name == "xds" { "weft_xds".to_owned() } else { format!("weft_proxy::{name}") };
            let _ = write!(filter, ",{target}={level}");
            filter
        })
    }

    fn list(&self, initial: &str) -> String {
        LOGGERS.iter().fold("active loggers:\n".to_owned(), |mut text, name| {
            let level = self.single.get(name).copied().or(self.all).unwrap_or(initial);
            let _ = writeln!(text, "  {name}: {level}");
            text
        })
    }
}

fn level(name: &str) -> Result<&'static str, &'static str> {
    LEVELS.iter().find(|(envoy, _)| *envoy == name).map(|(_, ours)| *ours).ok_or("unknown logger level")
}

fn logger(name: &str) -> Result<&'static str, &'static str> {
    LOGGERS.iter().find(|logger| **logger == name).copied().ok_or("unknown logger name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_become_one_filter() {
        let mut chosen = Chosen::default();
        assert_eq!(chosen.filter("info"), "info");
        chosen.take(&Query::parse("http=debug&paths=xds:trace,tcp:off")).expect("known");
        assert_eq!(chosen.filter("info"), "info,weft_proxy::http=debug,weft_proxy::tcp=off,weft_xds=trace");
        assert!(chosen.list("info").contains("  http: debug\n"));
        chosen.take(&Query::parse("level=warning")).expect("known");
        assert_eq!(chosen.filter("info"), "warn");
        assert_eq!(chosen.take(&Query::parse("level=loud")), Err("unknown logger level"));
        assert_eq!(chosen.take(&Query::parse("nobody=info")), Err("unknown logger name"));
    }
}
