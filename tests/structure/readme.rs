//! The README stays true where that can be checked cheaply.

use std::{fs, path::PathBuf, process::Command};

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
