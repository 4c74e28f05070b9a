//! Proxies as kubectl prints them.

use std::time::SystemTime;

use jiff::SignedDuration;
use serde_json::{Value, json};
use weft_api::table::human_duration;
use weft_xds::{ResourceType, server::ProxyBooks, session::server::SyncState};

use super::object;

/// The types that have a column always; the others show under `-o wide`.
const MAIN: [&str; 5] = ["CDS", "EDS", "LDS", "RDS", "SDS"];
/// A row is to stay readable; the object has the whole text.
const MAX_REFUSAL: usize = 80;

/// What of an object its row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    Nothing,
    Metadata,
    Object,
}

/// A table as of `revision`; each proxy comes with the revision of its last change.
pub(super) fn table(
    version: &str,
    proxies: &[(ProxyBooks, u64)],
    revision: u64,
    include: Include,
    with_columns: bool,
) -> Value {
    let now = SystemTime::now();
    let rows: Vec<Value> = proxies
        .iter()
        .map(|(books, changed)| {
            let mut row = json!({ "cells": cells(books, now) });
            match include {
                Include::Nothing => {}
                Include::Metadata => {
                    row["object"] = json!({
                        "kind": "PartialObjectMetadata",
                        "apiVersion": format!("meta.k8s.io/{version}"),
                        "metadata": object::proxy(books, *changed)["metadata"],
                    });
                }
                Include::Object => row["object"] = object::proxy(books, *changed),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": { "resourceVersion": revision.to_string() },
        "columnDefinitions": if with_columns { columns() } else { Vec::new() },
        "rows": rows,
    })
}

fn columns() -> Vec<Value> {
    let column = |name: &str, description: &str, priority: u8| {
        let format = if name == "Name" { "name" } else { "" };
        json!({ "name": name, "type": "string", "format": format, "description": description,
                "priority": priority })
    };
    let mut columns = vec![
        column("Name", "The proxy's id, as it introduced itself.", 0),
        column("Pod", "The pod that it serves.", 0),
        column("Client", "The program and its version, as it says.", 0),
        column("Connected", "How long it has been connected.", 0),
    ];
    columns.extend(types().map(|(short, priority)| {
        column(
            &short,
            "SYNCED, STALE, REFUSED or NOT SENT; nothing if it did not ask for the type.",
            priority,
        )
    }));
    columns.push(column("Last Refusal", "What it refused of what it is to have.", 0));
    columns.push(column("Node", "The machine on which it runs.", 1));
    columns.push(column("Variant", "The variant of the protocol that it speaks.", 1));
    columns.push(column("Unanswered", "How long the oldest change waits for its answer.", 1));
    columns
}

/// What the columns of the types are called, with the priority of each.
fn types() -> impl Iterator<Item = (String, u8)> {
    let all = ResourceType::ALL.into_iter().map(object::short);
    all.map(|short| {
        let priority = u8::from(!MAIN.contains(&short.as_str()));
        (short, priority)
    })
}

fn cells(books: &ProxyBooks, now: SystemTime) -> Vec<Value> {
    let none = || "<none>".to_owned();
    let age = now.duration_since(books.connected_at).unwrap_or_default();
    let (client, version) = object::client(&books.node);
    let client = [client, version].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
    let client = if client.is_empty() { "<unknown>".to_owned() } else { client.join("/") };
    let mut cells = vec![
        books.node.id.clone(),
        object::pod(&books.node).unwrap_or_else(none),
        client,
        human_duration(SignedDuration::from_secs(i64::try_from(age.as_secs()).unwrap_or(i64::MAX))),
    ];
    cells.extend(ResourceType::ALL.into_iter().map(|type_| {
        match books.types.get(&type_) {
            None => "-".to_owned(),
            Some(status) => match status.state {
                SyncState::Synced => "SYNCED",
                SyncState::NotSent => "NOT SENT",
                SyncState::Stale => "STALE",
                SyncState::Refused => "REFUSED",
            }
            .to_owned(),
        }
    }));
    cells.push(last_refusal(books).unwrap_or_else(none));
    cells.push(object::place(&books.node).unwrap_or_else(none));
    cells.push(object::variant_text(books.variant).to_owned());
    cells.push(books.unanswered_for.map_or_else(none, |waiting| format!("{:.3}s", waiting.as_secs_f64())));
    cells.into_iter().map(Value::from).collect()
}

/// What stands refused, or the last refusal if nothing does but its words.
fn last_refusal(books: &ProxyBooks) -> Option<String> {
    let newest = books
        .types
        .iter()
        .filter(|(_, status)| !status.refused.is_empty() || status.last_nack.is_some())
        .max_by_key(|(_, status)| status.refused_at)?;
    let (type_, status) = newest;
    let text = match status.refused.iter().next() {
        Some((name, refused)) => {
            let more = match status.refused.len() {
                1 => String::new(),
                number => format!(" and {} more", number - 1),
            };
            format!("{} {name}{more}: {}", object::short(*type_), refused.reason)
        }
        None => format!("{}: {}", object::short(*type_), status.last_nack.as_ref()?.message),
    };
    let text = text.replace('\n', " ");
    Some(match text.char_indices().nth(MAX_REFUSAL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    })
}
