//! Proxies as text.

use std::fmt::Write as _;

use serde_json::Value;

/// Between two columns, as kubectl has it.
const GAP: usize = 3;

/// A table of `meta.k8s.io`, as kubectl prints it; columns of lower priority only if it is to be `wide`.
pub(super) fn table(table: &Value, wide: bool) -> String {
    let columns = items(table, "columnDefinitions");
    let shown: Vec<usize> =
        (0..columns.len()).filter(|index| wide || columns[*index]["priority"].as_i64() == Some(0)).collect();
    let mut rows = vec![shown.iter().map(|index| text(&columns[*index]["name"]).to_uppercase()).collect()];
    for row in items(table, "rows") {
        let cells = items(row, "cells");
        rows.push(shown.iter().map(|index| cells.get(*index).map(text).unwrap_or_default()).collect());
    }
    if rows.len() == 1 { "No proxies found.\n".to_owned() } else { aligned(&rows) }
}

/// Everything about one proxy but its resources that are as they are to be.
pub(super) fn details(proxy: &Value) -> String {
    let status = &proxy["status"];
    let client = &status["client"];
    let name = match text(&client["name"]) {
        name if name.is_empty() => "<unknown>".to_owned(),
        name => name,
    };
    let unanswered = match status["unansweredSeconds"].as_f64() {
        Some(seconds) => format!("a change for {seconds:.3} s"),
        None => "<none>".to_owned(),
    };
    let fields = [
        ("Name:", text(&proxy["metadata"]["name"])),
        ("Pod:", or_none(&status["pod"])),
        ("Node:", or_none(&status["node"])),
        ("Client:", format!("{name} {}", text(&client["version"])).trim().to_owned()),
        ("Variant:", text(&status["variant"])),
        ("Connected:", format!("since {}", text(&status["connectedSince"]))),
        ("Unanswered:", unanswered),
    ];
    let mut rows: Vec<Vec<String>> = fields.map(|(key, value)| vec![key.to_owned(), value]).into();
    let mut out = aligned(&rows);

    rows = vec![header(&["Type", "State", "Resources", "Sent", "Acked", "Answered"])];
    for type_ in items(status, "types") {
        let answered =
            [&type_["ackedTime"], &type_["refusedTime"]].into_iter().filter_map(Value::as_str).max();
        rows.push(vec![
            text(&type_["type"]),
            text(&type_["state"]),
            text(&type_["resources"]),
            or_none(&type_["sentVersion"]),
            or_none(&type_["ackedVersion"]),
            answered.unwrap_or("<none>").to_owned(),
        ]);
    }
    let _ = write!(out, "Types:\n{}", indented(&aligned(&rows)));

    rows = Vec::new();
    for type_ in items(status, "types") {
        for refused in items(type_, "refused") {
            rows.push(vec![
                text(&type_["type"]),
                text(&refused["name"]),
                text(&refused["version"]),
                text(&refused["message"]),
            ]);
        }
        let last = &type_["lastRefusal"];
        if items(type_, "refused").is_empty() && !last.is_null() {
            rows.push(vec![
                text(&type_["type"]),
                "<none>".to_owned(),
                text(&last["version"]),
                text(&last["message"]),
            ]);
        }
    }
    if rows.is_empty() {
        out.push_str("Refused:   <none>\n");
    } else {
        rows.insert(0, header(&["Type", "Name", "Version", "Message"]));
        let _ = write!(out, "Refused:\n{}", indented(&aligned(&rows)));
    }
    out
}

/// What control wants the proxy to have against what it acknowledged, where they differ.
pub(super) fn diff(proxy: &Value) -> String {
    let resources = items(&proxy["status"], "resources");
    let mut rows = vec![header(&["Type", "Name", "Wanted", "Acked", "State", "Message"])];
    for resource in resources {
        if matches!(resource["state"].as_str(), Some("Synced" | "Absent")) {
            continue;
        }
        rows.push(vec![
            text(&resource["type"]),
            text(&resource["name"]),
            or_none(&resource["wantedVersion"]),
            or_none(&resource["ackedVersion"]),
            text(&resource["state"]),
            text(&resource["message"]),
        ]);
    }
    let (all, differ) = (resources.len(), rows.len() - 1);
    if differ == 0 {
        return format!("The proxy has all {all} resources as control wants them.\n");
    }
    format!("{}{differ} of {all} resources differ from what control wants.\n", aligned(&rows))
}

fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Without line ends: one row is one line.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace(['\n', '\r'], " "),
        other => other.to_string(),
    }
}

fn or_none(value: &Value) -> String {
    match text(value) {
        text if text.is_empty() => "<none>".to_owned(),
        text => text,
    }
}

fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_uppercase()).collect()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// All but the last column as wide as its widest cell.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:0$}", width + GAP);
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn proxy() -> Value {
        json!({
            "metadata": { "name": "sidecar~default~web-1" },
            "status": {
                "pod": "default/web-1", "node": null, "client": { "name": "weft-proxy", "version": "0.1.0" },
                "variant": "Delta", "connectedSince": "2026-01-01T00:00:00.000Z", "unansweredSeconds": null,
                "types": [
                    { "type": "CDS", "state": "Synced", "resources": 2, "sentVersion": "a", "ackedVersion": "a",
                      "ackedTime": "2026-01-01T00:00:01.000Z", "refusedTime": null, "refused": [],
                      "lastRefusal": null },
                    { "type": "RDS", "state": "Refused", "resources": 1, "sentVersion": "b", "ackedVersion": "",
                      "ackedTime": null, "refusedTime": "2026-01-01T00:00:02.000Z",
                      "refused": [{ "name": "web.default:80", "version": "b1", "message": "no\ngood" }],
                      "lastRefusal": { "version": "b", "message": "web.default:80: no good" } },
                ],
                "resources": [
                    { "type": "CDS", "name": "web.default:80", "state": "Synced", "wantedVersion": "a1",
                      "ackedVersion": "a1" },
                    { "type": "RDS", "name": "web.default:80", "state": "Refused", "wantedVersion": "b1",
                      "ackedVersion": "b0", "message": "no good" },
                ],
            },
        })
    }

    #[test]
    fn a_table_is_printed_as_kubectl_does() {
        let column = |name: &str, priority: i64| json!({ "name": name, "priority": priority });
        let found = json!({
            "columnDefinitions": [column("Name", 0), column("Node", 1), column("RDS", 0)],
            "rows": [{ "cells": ["sidecar~default~web-1", "n1", "SYNCED"] }, { "cells": ["g", "n1", "-"] }],
        });
        let narrow =
            "NAME                    RDS\nsidecar~default~web-1   SYNCED\ng                       -\n";
        assert_eq!(table(&found, false), narrow);
        assert!(table(&found, true).starts_with("NAME                    NODE   RDS\n"));
        assert_eq!(table(&json!({ "columnDefinitions": [], "rows": [] }), false), "No proxies found.\n");
    }

    #[test]
    fn details_name_what_is_refused() {
        let text = details(&proxy());
        for line in [
            "Client:       weft-proxy 0.1.0\n",
            "  TYPE   STATE     RESOURCES   SENT   ACKED    ANSWERED\n",
            "  RDS    Refused   1           b      <none>   2026-01-01T00:00:02.000Z\n",
            "  RDS    web.default:80   b1        no good\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_diff_has_what_differs_and_nothing_else() {
        let mut proxy = proxy();
        let text = diff(&proxy);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("RDS    web.default:80   b1       b0      Refused   no good\n"), "{text}");
        assert!(text.ends_with("1 of 2 resources differ from what control wants.\n"), "{text}");
        proxy["status"]["resources"][1]["state"] = "Synced".into();
        assert_eq!(diff(&proxy), "The proxy has all 2 resources as control wants them.\n");
    }
}
