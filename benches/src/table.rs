//! Results as Markdown.

use std::fmt::Write as _;

use crate::{
    results::{Results, Spread},
    rows::{Figure, LINES, Line, ROWS, Row},
};

/// Above this share of its core a proxy counts as saturated.
const SATURATED: f64 = 90.0;

/// The comparison, then rates, then what failed.
pub fn render(results: &Results, heading: &str) -> String {
    let mut text = format!("{heading}\n\n");
    comparison(&mut text, results);
    rates(&mut text, results);
    failures(&mut text, results);
    text
}

/// Three significant digits.
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 99.95 {
        format!("{value:.0}")
    } else if magnitude >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn comparison(text: &mut String, results: &Results) {
    let names = results.proxies.join(" | ");
    let rule = "|---:".repeat(results.proxies.len());
    _ = writeln!(text, "| | unit | {names} | Weft / best other | target | |");
    _ = writeln!(text, "|---|---{rule}|---:|---|---|");
    for line in LINES.iter().filter(|line| has_any(results, line)) {
        let cells: Vec<String> = results.proxies.iter().map(|proxy| cell(results, line, proxy)).collect();
        let ratio = results
            .comparison(line)
            .map_or_else(String::new, |compared| format!("{:.2} ({})", compared.ratio, compared.best));
        let target = line.target.map_or_else(String::new, |target| target.to_string());
        let verdict = match results.met(line) {
            Some(true) => "met",
            Some(false) => "**missed**",
            None if line.target.is_some() => "not decided",
            None => "",
        };
        _ = writeln!(
            text,
            "| {} | {} | {} | {ratio} | {target} | {verdict} |",
            line.title,
            line.figure.unit(),
            cells.join(" | ")
        );
    }
}

fn has_any(results: &Results, line: &Line) -> bool {
    results.proxies.iter().any(|proxy| {
        results.spread(line.row, proxy, line.figure).is_some() || results.failure(line.row, proxy).is_some()
    })
}

/// Median, and the range where there is one.
fn cell(results: &Results, line: &Line, proxy: &str) -> String {
    match results.spread(line.row, proxy, line.figure) {
        Some(spread) => with_range(spread),
        None if results.failure(line.row, proxy).is_some() => "failed".to_owned(),
        None => "–".to_owned(),
    }
}

fn with_range(spread: Spread) -> String {
    let [median, low, high] = [spread.median, spread.low, spread.high].map(number);
    if low == high { median } else { format!("{median} ({low}–{high})") }
}

fn rates(text: &mut String, results: &Results) {
    let names = results.proxies.join(" | ");
    let rule = "|---:".repeat(results.proxies.len());
    _ = writeln!(
        text,
        "\nRate, and the share of its core that the proxy used; \\* marks cores that were not saturated: there the load or \
         the upstream was the limit, and the rate says nothing about the proxy.\n"
    );
    _ = writeln!(text, "| | unit | {names} |");
    _ = writeln!(text, "|---|---{rule}|");
    for row in ROWS {
        let cells: Vec<Option<String>> =
            results.proxies.iter().map(|proxy| rate(results, row, proxy)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let cells: Vec<String> =
            cells.into_iter().map(|cell| cell.unwrap_or_else(|| "–".to_owned())).collect();
        let title = LINES.iter().find(|line| line.row == row.key).map_or(row.key, |line| line.title);
        let title = title.strip_suffix(", median").unwrap_or(title);
        let bytes = results
            .proxies
            .iter()
            .any(|proxy| results.spread(row.key, proxy, Figure::CpuPerGigabyte).is_some());
        let unit = if bytes { "MB/s" } else { "1/s" };
        _ = writeln!(text, "| {title} | {unit} | {} |", cells.join(" | "));
    }
}

fn rate(results: &Results, row: &Row, proxy: &str) -> Option<String> {
    let rate = results.spread(row.key, proxy, Figure::Rate)?.median;
    let busy = results.spread(row.key, proxy, Figure::Busy)?.median;
    let mark = if busy < SATURATED { "\\*" } else { "" };
    Some(format!("{rate:.0}, {busy:.0} %{mark}"))
}

fn failures(text: &mut String, results: &Results) {
    let mut failures = results.failures().peekable();
    if failures.peek().is_some() {
        _ = writeln!(text, "\nWhat failed, with the last reason:\n");
    }
    for (row, proxy, reason) in failures {
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let short: String = reason.chars().take(300).collect();
        _ = writeln!(text, "- {row}, {proxy}: {short}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    #[test]
    fn a_line_shows_medians_ranges_ratio_and_verdict() {
        let mut results = Results::new(vec!["Weft", "Envoy", "HAProxy", "nginx"]);
        for cpu in [20.0, 22.0, 21.0] {
            results.add("small-64", "Weft", Ok(Sample::from([(Figure::Cpu, cpu)])));
        }
        results.add(
            "small-64",
            "HAProxy",
            Ok(Sample::from([(Figure::Cpu, 30.0), (Figure::Rate, 33000.0), (Figure::Busy, 80.0)])),
        );
        results.add("small-64", "nginx", Err("it\nfell | over".to_owned()));
        let text = render(&results, "Here.");
        assert!(
            text.contains(
                "| HTTP/1 small, 64 connections | µs | 21.0 (20.0–22.0) | – | 30.0 | failed | 0.70 (HAProxy) | ≤ 0.75 of the best | met |"
            ),
            "{text}"
        );
        assert!(
            text.contains("| HTTP/1 small, 64 connections | 1/s | – | – | 33000, 80 %\\* | – |"),
            "{text}"
        );
        assert!(text.contains("- small-64, nginx: it fell \\| over"), "{text}");
    }
}
