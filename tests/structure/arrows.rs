//! Which crate may depend on which: the table of the README's architecture section, enforced.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// Crate → what of ours it may depend on. What is not listed here is no crate of this workspace.
const ALLOWED: &[(&str, &[&str])] = &[
    ("weft-kit", &[]),
    ("weft-xds", &["weft-kit"]),
    ("weft-discovery", &["weft-kit"]),
    ("weft-proxy", &["weft-xds", "weft-discovery", "weft-kit"]),
    ("weft-api", &[]),
    ("weft-store", &["weft-api", "weft-kit"]),
    ("weft-apiserver", &["weft-api", "weft-store", "weft-kit"]),
    ("weft-scheduler", &["weft-api", "weft-kit"]),
    ("weft-controllers", &["weft-api", "weft-kit"]),
    ("weft-node", &["weft-api", "weft-kit"]),
    ("weft-mesh", &["weft-api", "weft-xds", "weft-discovery", "weft-kit"]),
    (
        "weft",
        &[
            "weft-api",
            "weft-store",
            "weft-apiserver",
            "weft-scheduler",
            "weft-controllers",
            "weft-node",
            "weft-mesh",
            "weft-discovery",
            "weft-xds",
            "weft-proxy",
            "weft-kit",
        ],
    ),
];

/// Crates that may depend on anything: nothing that runs in production depends on them.
const UNBOUNDED: &[&str] = &["weft-tests", "weft-benches"];

/// Heavy libraries that only one side may see: crate of theirs → the only crates of ours that may name it.
const CONFINED: &[(&str, &[&str])] = &[
    ("envoy-types", &["weft-xds"]),
    ("prost-reflect", &["weft-xds"]),
    ("redb", &["weft-store"]),
    ("bollard", &["weft-node"]),
];

/// Our crates and what each names in its manifest, tests and build scripts aside.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs: it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    packages
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().expect("a list of dependencies");
            let normal = all.iter().filter(|dependency| dependency["kind"].is_null());
            (name(package), normal.map(name).collect())
        })
        .collect()
}

#[test]
fn crates_depend_only_on_what_the_architecture_allows() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let dependencies = dependencies();
    for (package, named) in dependencies.iter().filter(|(package, _)| !UNBOUNDED.contains(&package.as_str()))
    {
        let may =
            allowed.get(package.as_str()).unwrap_or_else(|| panic!("{package} has no row in the table"));
        for ours in named.iter().filter(|name| dependencies.contains_key(*name)) {
            assert!(may.contains(&ours.as_str()), "{package} must not depend on {ours}");
        }
    }
    for (package, _) in ALLOWED {
        assert!(dependencies.contains_key(*package), "the table has a row for {package}, which is not there");
    }
}

#[test]
fn heavy_libraries_stay_where_they_are_wrapped() {
    for (package, named) in dependencies() {
        for (library, owners) in CONFINED {
            let may = owners.contains(&package.as_str()) || UNBOUNDED.contains(&package.as_str());
            assert!(
                may || !named.contains(*library),
                "{package} must not depend on {library}: only {owners:?} may"
            );
        }
    }
}
