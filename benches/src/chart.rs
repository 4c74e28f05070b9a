//! Results as a picture: one panel per group of lines, one bar per proxy, from zero; whiskers from the lowest to the
//! highest round.

use std::fmt::Write as _;

use crate::{
    results::{Results, Spread},
    rows::{LINES, Line},
    table::number,
};

const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 24.0;
const PANEL: f64 = 210.0;
/// Within a panel: title above, names below.
const ABOVE: f64 = 44.0;
const BELOW: f64 = 22.0;
/// Room of a bar with its gap.
const BAR: f64 = 30.0;
/// Between the bars of two lines.
const GAP: f64 = 26.0;
/// In the order of the proxies; Weft's stands out.
const COLOURS: [&str; 6] = ["#d1495b", "#7a8fa6", "#a3b18a", "#c9b27c", "#9d8ab5", "#888888"];

/// One panel: lines with the same unit.
struct Panel<'a> {
    title: &'a str,
    lines: Vec<&'a Line>,
}

/// A whole picture.
pub fn render(results: &Results, heading: &str) -> String {
    let rows = arrange(panels(results), results.proxies.len());
    let height = 92.0 + rows.len() as f64 * (PANEL + MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(
        &mut svg,
        MARGIN,
        26.0,
        "start",
        "font-size=\"17\" font-weight=\"bold\"",
        "Weft beside its peers: less is better",
    );
    text(&mut svg, MARGIN, 44.0, "start", "fill=\"#555555\"", heading);
    legend(&mut svg, results);
    for (index, row) in rows.iter().enumerate() {
        let mut left = MARGIN;
        for panel in row {
            draw(&mut svg, results, panel, left, 84.0 + index as f64 * (PANEL + MARGIN));
            left += width(panel, results.proxies.len()) + MARGIN;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn panels(results: &Results) -> Vec<Panel<'static>> {
    let mut panels: Vec<Panel<'static>> = Vec::new();
    for line in LINES {
        if !results.proxies.iter().any(|proxy| results.spread(line.row, proxy, line.figure).is_some()) {
            continue;
        }
        match panels.iter_mut().find(|panel| panel.title == line.group) {
            Some(panel) => panel.lines.push(line),
            None => panels.push(Panel { title: line.group, lines: vec![line] }),
        }
    }
    panels
}

/// Panels side by side as long as they fit.
fn arrange(panels: Vec<Panel<'static>>, proxies: usize) -> Vec<Vec<Panel<'static>>> {
    let mut rows: Vec<Vec<Panel<'static>>> = Vec::new();
    let mut used = WIDTH;
    for panel in panels {
        let width = width(&panel, proxies) + MARGIN;
        match rows.last_mut() {
            Some(row) if used + width <= WIDTH - MARGIN => row.push(panel),
            _ => {
                used = 0.0;
                rows.push(vec![panel]);
            }
        }
        used += width;
    }
    rows
}

fn width(panel: &Panel<'_>, proxies: usize) -> f64 {
    (panel.lines.len() as f64 * (proxies as f64 * BAR + GAP)).max(panel.title.len() as f64 * 6.6)
}

fn legend(svg: &mut String, results: &Results) {
    for (index, proxy) in results.proxies.iter().enumerate() {
        let left = MARGIN + index as f64 * 92.0;
        _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"55\" width=\"12\" height=\"12\" fill=\"{}\"/>",
            COLOURS[index % COLOURS.len()]
        );
        text(svg, left + 17.0, 65.0, "start", "", proxy);
    }
}

fn draw(svg: &mut String, results: &Results, panel: &Panel<'_>, left: f64, top: f64) {
    text(svg, left, top + 14.0, "start", "font-size=\"13\" font-weight=\"bold\"", panel.title);
    let spread = |line: &Line, proxy: &str| results.spread(line.row, proxy, line.figure);
    let most = panel
        .lines
        .iter()
        .flat_map(|line| results.proxies.iter().filter_map(|proxy| spread(line, proxy)))
        .fold(0.0, |most: f64, spread| most.max(spread.median));
    let foot = top + PANEL - BELOW;
    let scale = (foot - top - ABOVE) / most.max(f64::MIN_POSITIVE);
    let mut x = left;
    for line in &panel.lines {
        let group = results.proxies.len() as f64 * BAR;
        for (index, proxy) in results.proxies.iter().enumerate() {
            let place = x + index as f64 * BAR;
            match spread(line, proxy) {
                Some(spread) => bar(svg, place, foot, scale, spread, COLOURS[index % COLOURS.len()]),
                None => text(svg, place + BAR / 2.0, foot - 4.0, "middle", "fill=\"#aaaaaa\"", "–"),
            }
        }
        _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{foot:.1}\" x2=\"{:.1}\" y2=\"{foot:.1}\" stroke=\"#333333\"/>",
            x + group
        );
        text(svg, x + group / 2.0, foot + 15.0, "middle", "", line.short);
        x += group + GAP;
    }
}

fn bar(svg: &mut String, left: f64, foot: f64, scale: f64, spread: Spread, colour: &str) {
    // A whisker may be longer than the panel is high: one bad round must not make all bars small.
    let y = |value: f64| foot - (value.max(0.0) * scale).min(PANEL - BELOW - 30.0);
    let (top, middle) = (y(spread.median), left + BAR / 2.0);
    _ = writeln!(
        svg,
        "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
        left + 2.0,
        BAR - 4.0,
        foot - top
    );
    _ = writeln!(
        svg,
        "<line x1=\"{middle:.1}\" y1=\"{:.1}\" x2=\"{middle:.1}\" y2=\"{:.1}\" stroke=\"#222222\"/>",
        y(spread.low),
        y(spread.high)
    );
    text(svg, middle, y(spread.high).min(top) - 4.0, "middle", "font-size=\"10\"", &number(spread.median));
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, style: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{content}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{results::Sample, rows::Figure};

    #[test]
    fn bars_are_as_high_as_their_values() {
        let mut results = Results::new(vec!["Weft", "Envoy"]);
        results.add("small-64", "Weft", Ok(Sample::from([(Figure::Cpu, 20.0)])));
        results.add("small-64", "Envoy", Ok(Sample::from([(Figure::Cpu, 80.0)])));
        let svg = render(&results, "a machine & <more>");
        let heights: Vec<f64> = svg
            .lines()
            .filter(|line| {
                line.starts_with("<rect x=") && line.contains("y=\"") && !line.contains("width=\"12\"")
            })
            .filter_map(|line| line.split("height=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(heights.len(), 2, "{svg}");
        assert!((heights[1] / heights[0] - 4.0).abs() < 0.01, "{heights:?}");
        assert!(svg.contains("a machine &amp; &lt;more>"), "{svg}");
    }
}
