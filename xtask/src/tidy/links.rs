//! The links of the documents: Markdown comes in, every relative link that leads nowhere goes out,
//! be it to a file or to a heading in it. Never follows a link out of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::{Finding, Tree};

pub(super) fn check(tree: &Tree) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for document in tree.documents() {
        for link in links(&tree.text(document)?) {
            if let Some(why) = fault(tree, document, &link.target)? {
                let what = format!("links to `{}`, {why}", link.target);
                findings.push(Finding::at(document, link.line, what));
            }
        }
    }
    Ok(findings)
}

/// Returns what is wrong with a link.
fn fault(tree: &Tree, document: &Path, target: &str) -> anyhow::Result<Option<String>> {
    if target.split_once(':').is_some_and(|(scheme, _)| scheme.chars().all(char::is_alphanumeric)) {
        return Ok(None);
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = path.split('?').next().unwrap_or(path);
    let Some(file) = resolve(document, path) else {
        return Ok(Some("which is outside the repository".to_owned()));
    };
    if tree.files.contains(&file) {
        let known = anchor.is_empty() || anchors(&file, &tree.text(&file)?, anchor);
        return Ok((!known).then(|| format!("but there is no `{anchor}` in that file")));
    }
    let is_folder = tree.files.iter().any(|other| other.starts_with(&file));
    Ok((!is_folder || !anchor.is_empty()).then(|| "which is not in the repository".to_owned()))
}

/// Returns the path in the repository that a link in a document means.
fn resolve(document: &Path, target: &str) -> Option<PathBuf> {
    if target.is_empty() {
        return Some(document.to_owned());
    }
    let from_the_root = target.starts_with('/');
    let mut path = if from_the_root { PathBuf::new() } else { document.parent()?.to_owned() };
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir if !path.pop() => return None,
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    Some(path)
}

/// Whether a file has an anchor: a heading, an `id`, or a line (`#L12`) where it is no document.
fn anchors(file: &Path, text: &str, anchor: &str) -> bool {
    if file.extension().is_some_and(|e| e == "md") {
        headings(text).contains(anchor)
            || ["id", "name"].iter().any(|name| text.contains(&format!("{name}=\"{anchor}\"")))
    } else {
        let mut ends = anchor.split('-').map(|end| end.strip_prefix('L')?.parse().ok());
        ends.all(|line| line.is_some_and(|line: usize| (1..=text.lines().count()).contains(&line)))
    }
}

#[derive(Debug, PartialEq)]
struct Link {
    target: String,
    line: usize,
}

/// Returns the targets of `[…](target)`, `[…]: target`, `href="target"` and `src="target"`.
fn links(text: &str) -> Vec<Link> {
    let prose = prose(text);
    let mut links = Vec::new();
    for opening in ["](", "href=\"", "src=\""] {
        for (at, _) in prose.match_indices(opening) {
            let rest = &prose[at + opening.len()..];
            let target = if opening == "](" { destination(rest) } else { rest.split('"').next() };
            let line = 1 + prose[..at].matches('\n').count();
            links.extend(target.map(|target| Link { target: target.to_owned(), line }));
        }
    }
    for (n, line) in prose.lines().enumerate() {
        let definition = line.trim_start().strip_prefix('[').and_then(|l| l.split_once("]:"));
        if let Some((label, rest)) = definition
            && !label.contains(']')
            && let Some(target) = rest.split_whitespace().next()
        {
            let target = target.trim_matches(['<', '>']).to_owned();
            links.push(Link { target, line: n + 1 });
        }
    }
    links
}

/// Takes a link's target from behind its opening bracket, without its title.
fn destination(rest: &str) -> Option<&str> {
    if let Some(rest) = rest.strip_prefix('<') {
        return rest.split_once('>').map(|(target, _)| target);
    }
    let mut depth = 1;
    let end = rest.find(|c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0 || c.is_whitespace()
    })?;
    // Behind a blank there may be a title, but then the bracket closes.
    let paragraph = rest.split("\n\n").next()?;
    paragraph.get(end..)?.contains(')').then(|| &rest[..end])
}

/// Blanks out code, so that brackets in it are no links. Lines stay where they are.
fn prose(text: &str) -> String {
    let mut prose = String::with_capacity(text.len());
    for (line, code) in with_fences(text) {
        if !code {
            prose.push_str(line);
        }
        prose.push('\n');
    }
    blank_spans(&prose)
}

/// Blanks out what stands between two runs of as many backticks within one paragraph.
fn blank_spans(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('`') {
        let run = rest[start..].len() - rest[start..].trim_start_matches('`').len();
        let (before, after) = (&rest[..start + run], &rest[start + run..]);
        out.push_str(before);
        rest = after;
        let paragraph = &after[..after.find("\n\n").unwrap_or(after.len())];
        if let Some(end) = closing_run(paragraph, run) {
            out.extend(after[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            out.push_str(&after[end..end + run]);
            rest = &after[end + run..];
        }
    }
    out + rest
}

/// Returns where the first run of exactly so many backticks starts.
fn closing_run(text: &str, run: usize) -> Option<usize> {
    let mut at = 0;
    while let Some(start) = text[at..].find('`').map(|start| at + start) {
        let length = text[start..].len() - text[start..].trim_start_matches('`').len();
        if length == run {
            return Some(start);
        }
        at = start + length;
    }
    None
}

/// Returns each line and whether it belongs to a fenced block of code.
pub(super) fn with_fences(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut fence: Option<&str> = None;
    text.lines().map(move |line| {
        let start = line.trim_start();
        let marks = &start[..start.len() - start.trim_start_matches(['`', '~']).len()];
        let is_mark = marks.len() >= 3 && (marks.starts_with("```") || marks.starts_with("~~~"));
        match fence {
            None if is_mark => fence = Some(marks),
            None => return (line, false),
            Some(open) if is_mark && marks.starts_with(open) && start == marks => fence = None,
            Some(_) => {}
        }
        (line, true)
    })
}

/// Returns the anchors of a document's headings, as GitHub makes them.
fn headings(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (line, code) in with_fences(text) {
        let title = line.trim_start_matches('#');
        let level = line.len() - title.len();
        if code || !(1..=6).contains(&level) || !title.starts_with(' ') {
            continue;
        }
        let anchor = slug(title.trim().trim_end_matches('#').trim_end());
        let times = seen.entry(anchor.clone()).or_default();
        anchors.insert(if *times == 0 { anchor } else { format!("{anchor}-{times}") });
        *times += 1;
    }
    anchors
}

fn slug(title: &str) -> String {
    let mut slug = String::new();
    let mut rest = title;
    // Of a link in a heading only its text counts.
    while let Some(end) = rest.find("](") {
        slug.push_str(&rest[..end]);
        rest = rest[end..].split_once(')').map_or("", |(_, rest)| rest);
    }
    slug.push_str(rest);
    let kept = slug.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(text: &str) -> Vec<String> {
        links(text).into_iter().map(|link| format!("{} {}", link.line, link.target)).collect()
    }

    #[test]
    fn every_kind_of_link_is_found_with_its_line() {
        let text = "# [A](a.md)\n\nSee [b\nc](b.md#x \"title\") and ![p](<p q.png>), [w](w_(x).md).\n\
            [ref]: ref.md\n<a href=\"h.md\"><img src=\"i.png\"></a>";
        assert_eq!(
            targets(text),
            ["1 a.md", "4 b.md#x", "4 p q.png", "4 w_(x).md", "6 h.md", "6 i.png", "5 ref.md"]
        );
    }

    #[test]
    fn code_holds_no_links() {
        let text = "`a[0](x)` and ``b ` [c](y)`` [`d`](z)\n\n```rust\n[e](f)\n~~~\n```\n~~~ \n[g](h)\n~~~\n\
            a lone ` stays\n\n[i](j)";
        assert_eq!(targets(text), ["1 z", "12 j"]);
    }

    #[test]
    fn an_open_end_is_no_link() {
        assert_eq!(targets("[a](b"), Vec::<String>::new());
        assert_eq!(targets("[a](<b\n[c]:\n```"), Vec::<String>::new());
    }

    #[test]
    fn headings_become_anchors_as_on_the_forge() {
        let text = "# One, two: `three_x`!\n## Again\n## Again ##\n### See [it](x.md) – here\n#no\n\
            ```\n# comment\n```";
        let anchors: Vec<String> = headings(text).into_iter().collect();
        assert_eq!(anchors, ["again", "again-1", "one-two-three_x", "see-it--here"]);
    }

    #[test]
    fn a_link_is_meant_from_where_it_stands() {
        let resolve = |target| resolve(Path::new("docs/a.md"), target);
        assert_eq!(resolve("../README.md"), Some("README.md".into()));
        assert_eq!(resolve("./b/../c.md"), Some("docs/c.md".into()));
        assert_eq!(resolve("/x.md"), Some("x.md".into()));
        assert_eq!(resolve(""), Some("docs/a.md".into()));
        assert_eq!(resolve("../../x.md"), None);
    }
}
