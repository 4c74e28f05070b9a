//! `/metrics/resource`: what containers, pods and the node use, in the kubelet's names.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::{
    agent::PodTable,
    proc,
    runtime::{PodUid, Runtime, Usage},
};

struct PodUsage {
    namespace: String,
    pod: String,
    containers: Vec<Usage>,
}

pub(super) async fn resource(pods: &PodTable, runtime: &dyn Runtime) -> String {
    let mut usages = Vec::new();
    let mut errors = 0;
    for pod in pods.all() {
        let Some(uid) = pod.metadata.uid.as_deref().and_then(PodUid::new) else { continue };
        match runtime.usage(&uid).await {
            Ok(containers) if containers.is_empty() => {}
            Ok(containers) => usages.push(PodUsage {
                namespace: pod.metadata.namespace.clone().unwrap_or_default(),
                pod: pod.metadata.name.clone().unwrap_or_default(),
                containers,
            }),
            Err(error) => {
                tracing::debug!(error = weft_kit::error::chain(&error), "a pod's usage cannot be read");
                errors = 1;
            }
        }
    }
    let available = proc::meminfo("MemAvailable").unwrap_or(0);
    let memory = proc::meminfo("MemTotal").unwrap_or(0).saturating_sub(available);
    render(&usages, proc::node_cpu_seconds(), memory, errors, Timestamp::now())
}

fn render(pods: &[PodUsage], node_cpu: Option<f64>, node_memory: u64, errors: u32, now: Timestamp) -> String {
    let mut text = String::new();
    let time = now.as_millisecond();
    let mut family = |name: &str, kind: &str, help: &str, lines: &mut dyn FnMut(&mut String, &str)| {
        let _ = writeln!(text, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        lines(&mut text, name);
    };
    // Label values are names that the API server has validated: nothing in them needs escaping.
    let each = |text: &mut String, name: &str, value: &dyn Fn(&Usage) -> String| {
        for pod in pods {
            for usage in &pod.containers {
                let (container, namespace, pod) = (&usage.container, &pod.namespace, &pod.pod);
                let value = value(usage);
                let _ = writeln!(
                    text,
                    "{name}{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\"}} {value} {time}"
                );
            }
        }
    };
    let sum = |text: &mut String, name: &str, value: &dyn Fn(&PodUsage) -> String| {
        for pod in pods {
            let (namespace, name_) = (&pod.namespace, &pod.pod);
            let _ =
                writeln!(text, "{name}{{namespace=\"{namespace}\",pod=\"{name_}\"}} {} {time}", value(pod));
        }
    };
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        &mut |text, name| {
            each(text, name, &|usage| usage.cpu_seconds.to_string());
        },
    );
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        &mut |text, name| {
            each(text, name, &|usage| usage.working_set_bytes.to_string());
        },
    );
    family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
        &mut |text, name| {
            each(text, name, &|usage| usage.started_at.as_second().to_string());
        },
    );
    family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        &mut |text, name| {
            if let Some(seconds) = node_cpu {
                let _ = writeln!(text, "{name} {seconds} {time}");
            }
        },
    );
    family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
        &mut |text, name| {
            let _ = writeln!(text, "{name} {node_memory} {time}");
        },
    );
    family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
        &mut |text, name| {
            sum(text, name, &|pod| {
                pod.containers.iter().map(|usage| usage.cpu_seconds).sum::<f64>().to_string()
            });
        },
    );
    family(
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
        &mut |text, name| {
            sum(text, name, &|pod| {
                pod.containers.iter().map(|usage| usage.working_set_bytes).sum::<u64>().to_string()
            });
        },
    );
    family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
        &mut |text, name| {
            let _ = writeln!(text, "{name} {errors}");
        },
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Role;

    #[test]
    fn lines_have_the_kubelets_names_labels_and_times() {
        let usage = |container: &str, cpu_seconds, working_set_bytes| Usage {
            container: container.into(),
            role: Role::App,
            started_at: Timestamp::from_second(5).expect("valid"),
            cpu_seconds,
            working_set_bytes,
        };
        let pods = [PodUsage {
            namespace: "default".into(),
            pod: "web-1".into(),
            containers: vec![usage("web", 1.5, 100), usage("weft-proxy", 0.25, 50)],
        }];
        let text = render(&pods, Some(9.0), 1000, 0, Timestamp::from_second(7).expect("valid"));
        for line in [
            "container_cpu_usage_seconds_total{container=\"web\",namespace=\"default\",pod=\"web-1\"} 1.5 7000",
            "container_start_time_seconds{container=\"web\",namespace=\"default\",pod=\"web-1\"} 5 7000",
            "pod_cpu_usage_seconds_total{namespace=\"default\",pod=\"web-1\"} 1.75 7000",
            "pod_memory_working_set_bytes{namespace=\"default\",pod=\"web-1\"} 150 7000",
            "node_cpu_usage_seconds_total 9 7000",
            "node_memory_working_set_bytes 1000 7000",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|present| present == line), "{line} is missing from\n{text}");
        }
    }
}
