//! Any text comes in as a patch and is applied to three small files in a temporary folder.
//! A patch that succeeds changed what it says; one that fails changed nothing.
//! Never touches anything outside the folder.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::builtin::apply_patch::apply;

fuzz_target!(|patch: &str| {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    fs::create_dir(folder.path().join("src")).expect("the folder is new");
    for (name, text) in
        [("a.rs", "one\ntwo\nthree\n"), ("b.rs", "bee\n"), ("src/c.rs", "sea\r\nsee\r\n")]
    {
        fs::write(folder.path().join(name), text).expect("the folder is ours");
    }
    let workspace = Workspace::open(folder.path()).expect("the folder is there");
    let before = tree(folder.path());
    let changed = match apply(&workspace, patch) {
        Ok(applied) => !applied.changes.is_empty(),
        Err(_) => false,
    };
    assert_eq!(changed, tree(folder.path()) != before);
});

/// Returns what lies below a folder; folders hold nothing.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let mut bytes = Vec::new();
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("it is a folder");
            left.extend(entries.map(|entry| entry.expect("it can be read").path()));
        } else {
            bytes = fs::read(&path).expect("it is a file");
        }
        all.insert(path, bytes);
    }
    all
}
