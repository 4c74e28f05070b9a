//! Reads Prometheus' text format, as far as a kubelet writes it.

/// One sample.
#[derive(Debug, PartialEq)]
pub(super) struct Sample<'t> {
    pub(super) name: &'t str,
    labels: &'t str,
    pub(super) value: f64,
}

/// The samples of a text. Lines that are no samples are skipped: a newer kubelet may write what we do not know.
pub(super) fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        None => ("", rest),
        Some(rest) => {
            rest.split_at_checked(end_of_labels(rest)?).map(|(labels, rest)| (labels, &rest[1..]))?
        }
    };
    // A timestamp may follow the value.
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name, labels, value })
}

/// Where the closing brace is, which may also occur inside of a quoted value.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

// === impl Sample ===

impl Sample<'_> {
    /// The value of a label; empty if it has none, as Prometheus has it.
    pub(super) fn label(&self, wanted: &str) -> String {
        let mut rest = self.labels;
        while let Some((name, after)) = rest.split_once('=') {
            let Some(after) = after.trim_start().strip_prefix('"') else { break };
            let (value, end) = unquote(after);
            if name.trim_matches([',', ' ', '\t']) == wanted {
                return value;
            }
            rest = &after[end..];
        }
        String::new()
    }
}

/// The value up to the closing quote, and where the text goes on.
fn unquote(text: &str) -> (String, usize) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, at + 1),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, other)) => value.push(other),
                None => break,
            },
            other => value.push(other),
        }
    }
    (value, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_kubelet_writes() {
        let text = "# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time\n\
            # TYPE node_cpu_usage_seconds_total counter\n\
            node_cpu_usage_seconds_total 12.5 1695000000000\n\
            container_memory_working_set_bytes{container=\"web\",namespace=\"default\",pod=\"web-1\"} 1.048576e+06 1695\n\
            odd{a=\"x}\\\"y\\n\", b=\"z\"} 1\n";
        let samples: Vec<Sample<'_>> = samples(text).collect();
        assert_eq!((samples[0].name, samples[0].value), ("node_cpu_usage_seconds_total", 12.5));
        assert_eq!(samples[1].value, 1_048_576.0);
        assert_eq!((samples[1].label("pod"), samples[1].label("container")), ("web-1".into(), "web".into()));
        assert_eq!((samples[2].label("a"), samples[2].label("b")), ("x}\"y\n".into(), "z".into()));
        assert_eq!(samples[2].label("none"), "");
    }

    #[test]
    fn skips_what_it_cannot_read() {
        for text in ["", "x", "x{", "x{a=\"b", "x{a=\"b\"}", "x nonsense", "{} 1 2 {", "x{a} 1\n}"] {
            let found: Vec<Sample<'_>> = samples(text).collect();
            assert!(found.iter().all(|sample| sample.label("a").len() < 9), "{text}: {found:?}");
        }
    }
}
