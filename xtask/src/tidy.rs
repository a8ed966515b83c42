//! Checks that need no compiler: the repository's files come in, findings with file and line go
//! out. Knows what rustc and clippy cannot: the layers, the habits of the house, the links of the
//! documents and whether what is generated is fresh. Never changes a file.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use self::source::Source;
use crate::config_docs;

mod commands;
mod habits;
mod layers;
mod links;
mod packages;
mod source;

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let tree = Tree::read(crate::root())?;
    let findings = tree.findings()?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: {} files, nothing to put right", tree.files.len());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("tidy: {} to put right", findings.len());
    Ok(ExitCode::FAILURE)
}

/// Something to put right.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: PathBuf,
    /// Counted from 1; 0 means the file as a whole.
    line: usize,
    what: String,
}

impl Finding {
    fn at(path: impl Into<PathBuf>, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.into(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.what)
    }
}

/// The repository. All paths are relative to its root.
struct Tree {
    root: PathBuf,
    files: BTreeSet<PathBuf>,
    sources: Vec<Source>,
}

impl Tree {
    fn read(root: &Path) -> anyhow::Result<Self> {
        let mut tree =
            Self { root: root.to_owned(), files: files_below(root)?, sources: Vec::new() };
        for path in tree.files.iter().filter(|path| is_source(path)) {
            let source = Source::parse(path, tree.text(path)?);
            tree.sources.push(source.with_context(|| path.display().to_string())?);
        }
        source::mark_test_files(&mut tree.sources);
        Ok(tree)
    }

    fn text(&self, path: impl AsRef<Path>) -> anyhow::Result<String> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(self.root.join(path));
        text.with_context(|| format!("cannot read {}", path.display()))
    }

    fn findings(&self) -> anyhow::Result<Vec<Finding>> {
        let mut findings = layers::check(self)?;
        findings.extend(packages::check(self)?);
        findings.extend(habits::check(self));
        findings.extend(links::check(self)?);
        findings.extend(commands::check(self)?);
        findings.extend(stale_documents(self));
        findings.sort();
        Ok(findings)
    }

    /// The documents that people read.
    fn documents(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().filter(|path| path.extension().is_some_and(|e| e == "md"))
    }
}

/// Every file that a clean clone would hold, and those about to be added.
fn files_below(root: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    // Only the repository's own .gitignore counts: what a machine ignores beyond it would make the
    // answer depend on the machine.
    let walk = ignore::WalkBuilder::new(root)
        .hidden(false)
        .parents(false)
        .ignore(false)
        .git_global(false)
        .git_exclude(false)
        .require_git(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .build();
    let mut files = BTreeSet::new();
    for entry in walk {
        let entry = entry?;
        if entry.file_type().is_some_and(|kind| kind.is_file()) {
            files.insert(entry.path().strip_prefix(root)?.to_owned());
        }
    }
    Ok(files)
}

/// Whether a file is code of a package of this workspace; the demo's sample project is not.
fn is_source(path: &Path) -> bool {
    let folder = path.components().nth(1).and_then(|c| c.as_os_str().to_str());
    path.extension().is_some_and(|e| e == "rs")
        && matches!(folder, Some("src" | "tests" | "benches" | "examples" | "build.rs"))
}

fn stale_documents(tree: &Tree) -> impl Iterator<Item = Finding> {
    let fresh = |path: &str, text: &str| tree.text(path).is_ok_and(|found| found == text);
    config_docs::documents()
        .into_iter()
        .filter(move |(path, text)| !fresh(path, text))
        .map(|(path, _)| Finding::at(path, 0, "is stale; `cargo xtask config-docs` writes it anew"))
}

#[cfg(test)]
mod tests;
