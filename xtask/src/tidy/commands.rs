//! The commands that the documents promise: Markdown and the names of the tests come in, commands
//! that would do nothing go out. Cargo passes a filter that no test matches, so a renamed test would
//! leave a promise that checks nothing. Never runs a command.

use super::{Finding, Tree};

/// The command that the README gives for the tests, and that the CI runs.
const TEST: &str = "cargo test --workspace";
/// Where it must stand. A file that does not exist yet promises nothing.
const PLACES: [&str; 2] = ["README.md", ".ci/run"];

pub(super) fn check(tree: &Tree) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for place in PLACES.iter().filter(|place| tree.files.contains(std::path::Path::new(place))) {
        let text = tree.text(place)?;
        let given = text.split(TEST).skip(1).any(|rest| {
            rest.is_empty() || rest.starts_with(['\n', '`']) || rest.trim_start().starts_with('#')
        });
        if !given {
            findings.push(Finding::at(
                place,
                0,
                format!("does not give `{TEST}`, and nothing but it"),
            ));
        }
    }
    let names: Vec<&str> = test_names(tree).collect();
    for document in tree.documents() {
        for (n, line) in tree.text(document)?.lines().enumerate() {
            for filter in filters(line) {
                let known = filter.split("::").all(|part| names.iter().any(|n| n.contains(part)));
                if !known {
                    let what = format!("runs the tests named `{filter}`, but there are none");
                    findings.push(Finding::at(document, n + 1, what));
                }
            }
        }
    }
    Ok(findings)
}

/// The names of functions, modules and files that a test's full name is made of.
fn test_names(tree: &Tree) -> impl Iterator<Item = &str> {
    tree.sources.iter().flat_map(|source| {
        let declared = (0..source.tokens.len())
            .filter(|place| matches!(source.at(*place), "fn" | "mod"))
            .map(|place| source.at(place + 1));
        declared.chain(source.path.file_stem().and_then(|name| name.to_str()))
    })
}

/// Returns the test names that the `cargo test` commands of a line ask for.
fn filters(line: &str) -> Vec<&str> {
    const WITH_VALUE: [&str; 8] =
        ["-p", "--package", "--test", "--bench", "--bin", "--features", "-j", "--profile"];
    let mut filters = Vec::new();
    for command in line.split("cargo test").skip(1) {
        let command = command.split(['`', '#', '|', '&', ';']).next().unwrap_or_default();
        let mut words = command.split_whitespace().take_while(|word| *word != "--");
        while let Some(word) = words.next() {
            if WITH_VALUE.contains(&word) {
                words.next();
            // A name in capitals or brackets stands for any.
            } else if word.starts_with(|c: char| c.is_lowercase() || c == '_') {
                filters.push(word);
                break;
            }
        }
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_the_first_word_that_belongs_to_no_option() {
        assert_eq!(
            filters("    cargo test -p vtcode-core --release a_b::c -- --nocapture"),
            ["a_b::c"]
        );
        assert_eq!(filters("run `cargo test one` and `cargo test two`, then"), ["one", "two"]);
        assert_eq!(filters("cargo test --workspace   # all of them"), Vec::<&str>::new());
        assert_eq!(filters("`cargo test NAME` filters, `cargo test` does not"), Vec::<&str>::new());
    }
}
