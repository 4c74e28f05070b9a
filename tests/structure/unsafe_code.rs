//! Where `unsafe` may be written: in one small module, for system calls.

use std::{fs, path::Path};

/// The only folder, from the root of the workspace.
const ALLOWED: &str = "proxy/src/sys";

#[test]
fn unsafe_code_is_in_one_module_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the workspace has a manifest");
    assert!(manifest.contains("unsafe_code = \"deny\""), "the workspace denies unsafe code");
    let mut found = Vec::new();
    for folder in ["proxy", "xds", "discovery", "control", "benches", "tests"] {
        search(&root, &root.join(folder), &mut found);
    }
    assert!(found.is_empty(), "the compiler is told to allow unsafe code outside {ALLOWED}: {found:?}");
}

/// Collects the files that lift the workspace's `deny(unsafe_code)`; without lifting it none can have any.
fn search(root: &Path, folder: &Path, found: &mut Vec<String>) {
    let mut entries = fs::read_dir(folder).expect("a folder of the workspace").flatten().peekable();
    assert!(entries.peek().is_some(), "{} is empty", folder.display());
    for entry in entries {
        let path = entry.path();
        let name = path.strip_prefix(root).expect("below the root").display().to_string();
        if path.is_dir() && !path.ends_with("target") {
            search(root, &path, found);
        } else if name.ends_with(".rs") && !name.starts_with(ALLOWED) {
            let text = fs::read_to_string(&path).expect("a source file");
            let lifts = |level: &str| text.contains(&format!("{level}(unsafe_code"));
            if ["allow", "expect", "warn"].into_iter().any(lifts) {
                found.push(name);
            }
        }
    }
}
