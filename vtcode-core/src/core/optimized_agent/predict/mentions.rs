//! Finds the paths that a text names, with the line that stands beside each. Takes the forms in
//! which searches, compilers, tests and people write them; never asks whether a file is there.

use super::Mention;

/// How much of a text is looked through.
const TEXT_BYTES: usize = 32 * 1024;
/// Paths that are taken from one text.
const MENTIONS: usize = 40;

/// What files of a repository are called at their end. A word with another end is no path: code is
/// full of `a.b`.
const EXTENSIONS: &[&str] = &[
    "adoc", "bash", "c", "cc", "cfg", "clj", "conf", "cpp", "cs", "css", "csv", "cxx", "dart",
    "ex", "exs", "fish", "go", "gradle", "graphql", "h", "hpp", "hs", "htm", "html", "ini", "java",
    "jl", "js", "json", "jsx", "kt", "less", "lua", "m", "md", "mdx", "mjs", "ml", "mod", "nix",
    "php", "pl", "proto", "ps1", "py", "pyi", "r", "rb", "rs", "rst", "sass", "scala", "scss",
    "sh", "sql", "svelte", "swift", "tf", "toml", "ts", "tsx", "txt", "vue", "xml", "yaml", "yml",
    "zig", "zsh",
];

/// Returns the paths that a text names, in order.
pub(crate) fn mentions(text: &str) -> Vec<Mention<'_>> {
    let mut end = text.len().min(TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut found: Vec<Mention<'_>> = Vec::new();
    let mut headed = false;
    for line in text[..end].lines() {
        // A search names a file on a line of its own, and then the lines in it.
        if headed && let (Some(last), Some(number)) = (found.last_mut(), leading_number(line)) {
            last.line = Some(number);
        }
        headed = false;
        // Most lines hold no path: every path has a dot.
        if !line.contains('.') {
            continue;
        }
        let mut at = 0;
        while let Some(begin) = line[at..].find(is_path_char).map(|begin| at + begin) {
            let rest = &line[begin..];
            let length = rest.find(|c| !is_path_char(c)).unwrap_or(rest.len());
            at = begin + length;
            let word = rest[..length].trim_end_matches('.');
            if !is_path(word)
                || rest[length..].starts_with('(') && !digit_follows(&rest[length + 1..])
            {
                continue;
            }
            let line_number = line_after(&rest[word.len()..]);
            headed = line_number.is_none() && word.len() == line.trim().len();
            found.push(Mention { path: word, line: line_number });
            if found.len() == MENTIONS {
                return found;
            }
        }
    }
    found
}

fn is_path_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '+' | '@')
}

fn is_path(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or(word);
    let Some((stem, extension)) = name.rsplit_once('.') else { return false };
    !stem.is_empty() && EXTENSIONS.binary_search(&extension).is_ok()
}

fn digit_follows(rest: &str) -> bool {
    rest.starts_with(|c: char| c.is_ascii_digit())
}

/// Reads the line that follows a path: `:12`, `(12,5)`, `", line 12`.
fn line_after(rest: &str) -> Option<u32> {
    let rest = rest.strip_prefix([':', '(']).or_else(|| rest.strip_prefix("\", line "))?;
    number(rest)
}

/// Reads the number of a matching line, as a search prints it.
fn leading_number(line: &str) -> Option<u32> {
    let digits = line.find(|c: char| !c.is_ascii_digit())?;
    line[digits..].starts_with([':', '-', '\t']).then(|| number(line))?
}

fn number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok().filter(|line| *line > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(&str, Option<u32>)> {
        mentions(text).into_iter().map(|mention| (mention.path, mention.line)).collect()
    }

    #[test]
    fn the_extensions_can_be_searched() {
        assert!(EXTENSIONS.is_sorted());
    }

    #[test]
    fn the_forms_of_searches_compilers_and_tests_are_read() {
        assert_eq!(
            read("src/a.rs\n12:fn a\n40:fn b\nsrc/b.rs\n"),
            [("src/a.rs", Some(12)), ("src/b.rs", None)]
        );
        assert_eq!(read("  --> src/a.rs:10:5"), [("src/a.rs", Some(10))]);
        assert_eq!(read("src/a.ts(12,5): error"), [("src/a.ts", Some(12))]);
        assert_eq!(read("  File \"app/x.py\", line 7, in f"), [("app/x.py", Some(7))]);
        assert_eq!(
            read("look at `docs/x.md`, and main.go."),
            [("docs/x.md", None), ("main.go", None)]
        );
        assert_eq!(
            read("diff --git a/src/x.c b/src/x.c"),
            [("a/src/x.c", None), ("b/src/x.c", None)]
        );
    }

    #[test]
    fn code_versions_and_calls_are_no_paths() {
        assert_eq!(read("self.name = a.b; v1.2.3; e.g. 0.5; x.js(); .rs; …"), []);
    }

    #[test]
    fn a_text_of_any_size_and_kind_is_looked_through_within_bounds() {
        let many = "src/file.rs:1 ".repeat(100_000);
        assert_eq!(mentions(&many).len(), MENTIONS);
        assert_eq!(read(&"é".repeat(TEXT_BYTES)), []);
        assert_eq!(read("a.rs:99999999999999999999"), [("a.rs", None)]);
    }
}
