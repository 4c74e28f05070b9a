//! The README stays true where that can be checked cheaply.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("there is a README")
}

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs: it runs this test");
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

#[test]
fn the_two_commands_are_there_and_name_what_exists() {
    let readme = readme();
    assert!(readme.contains("cargo run --release --bin weft -- up --demo"));
    for script in ["tests/run", "benches/run", ".ci/run"] {
        assert!(readme.contains(&format!("`{script}`")), "the README does not name {script}");
        assert!(root().join(script).is_file(), "{script} is not there");
    }
}

#[test]
fn every_crate_has_a_row_in_the_architecture_table() {
    let readme = readme();
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("a list of packages") {
        let name = package["name"].as_str().expect("a name");
        let row =
            readme.lines().find(|line| line.starts_with("| `") && line.contains(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("{name} has no row in the architecture table"));
        let folder = row.split('`').nth(1).expect("a row starts with its folder");
        let manifest = package["manifest_path"].as_str().expect("a path");
        assert!(manifest.ends_with(&format!("/{folder}Cargo.toml")), "{name} is not in {folder}: {manifest}");
    }
}

/// The first cells of the tables in a part of the README, and the rest of each row.
fn rows(part: &str) -> Vec<(&str, &str)> {
    let rows = part.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    rows.filter(|(first, _)| !["message", "HTTP filter", "row"].contains(first)).collect()
}

#[test]
fn every_row_about_configuration_has_tests_behind_it() {
    let readme = readme();
    let (_, part) = readme.split_once("## Envoy configuration").expect("there is the section");
    let (part, _) = part.split_once("\n## ").expect("it is not the last");
    let (supported, tested) = part.split_once("What holds a row").expect("it has the list of tests");
    let mut sources = String::new();
    for folder in ["proxy/src", "proxy/tests", "tests/engine"] {
        read_all(&root().join(folder), &mut sources);
    }
    let tested = rows(tested);
    for (row, _) in rows(supported) {
        assert!(tested.iter().any(|(other, _)| *other == row), "no test is named for the row {row:?}");
    }
    for (row, tests) in tested {
        assert!(rows(supported).iter().any(|(other, _)| *other == row), "{row:?} is no row");
        for test in tests.split('`').skip(1).step_by(2) {
            assert!(sources.contains(&format!("fn {test}(")), "{row}: there is no test {test}");
        }
    }
}

#[test]
fn every_rule_of_xds_has_tests_for_both_ends_or_says_that_it_is_not_supported() {
    let readme = readme();
    let (_, part) = readme.split_once("## The xDS protocol").expect("there is the section");
    let (part, _) = part.split_once("\n## ").expect("it is not the last");
    let mut sources = String::new();
    for folder in [
        "proxy/src",
        "proxy/tests",
        "proxy/kit/src",
        "xds/src",
        "xds/tests",
        "tests/engine",
        "tests/e2e",
        "control/mesh/src",
        "control/mesh/tests",
        "control/node/src",
        "control/node/tests",
        "discovery/src",
    ] {
        read_all(&root().join(folder), &mut sources);
    }
    let rules: Vec<_> = rows(part).into_iter().filter(|(rule, _)| *rule != "rule").collect();
    assert!(rules.len() > 20, "the table looks otherwise now");
    for (rule, cells) in rules {
        let cells: Vec<_> = cells.trim_end_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 2, "{rule}: a cell for each end");
        for cell in cells.into_iter().filter(|cell| !["none", "not supported"].contains(cell)) {
            let tests: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
            assert!(!tests.is_empty(), "{rule}: {cell:?} names no test");
            for test in tests {
                assert!(sources.contains(&format!("fn {test}(")), "{rule}: there is no test {test}");
            }
        }
    }
}

#[test]
fn every_http_filter_has_a_row() {
    let kinds = fs::read_to_string(root().join("proxy/src/filter/config.rs")).expect("it lists the filters");
    let readme = readme();
    let kinds: Vec<&str> =
        kinds.lines().filter_map(|line| line.trim().strip_prefix('&')?.strip_suffix("::KIND,")).collect();
    assert!(kinds.len() > 5, "the list looks otherwise now: {kinds:?}");
    for kind in kinds {
        assert!(rows(&readme).iter().any(|(row, _)| *row == kind), "the filter {kind} has no row");
    }
}

/// Appends every source file below a folder.
fn read_all(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace").flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).expect("a source file"));
        }
    }
}

#[test]
fn links_within_the_tree_lead_somewhere() {
    let readme = readme();
    let targets = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
        assert!(root().join(target).exists(), "the README links to {target}, which is not there");
    }
}

#[test]
fn nothing_is_left_to_be_filled_in() {
    let shouted = |word: &&str| word.len() > 5 && word.contains('_') && !word.chars().any(char::is_lowercase);
    let known = ["WEFT_DATA_DIR", "XDG_DATA_HOME", "WEFT_LOG", "POD_IP"];
    let readme = readme();
    let words = readme.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    // Envoy's and Kubernetes' own names stand in backquotes within tables; a placeholder stands alone on its line.
    let open: Vec<&str> = words.filter(shouted).filter(|word| !known.contains(word)).collect();
    let alone: Vec<&str> = open.into_iter().filter(|word| readme.lines().any(|line| line == *word)).collect();
    assert!(alone.is_empty(), "{alone:?}");
}
