//! The habits of the house: each file's tokens and text come in, what breaks a habit goes out.
//! CONVENTIONS.md gives the reasons. Holds only rules that a glance at one file decides.

use super::source::Source;
use super::{Finding, Tree};

/// The names that the project was given; no other name says that it is optimized.
const OPTIMIZED: [&str; 10] = [
    "OptimizedToolRegistry",
    "OptimizedLLMClient",
    "OptimizedAgentEngine",
    "optimized_registry",
    "optimized_client",
    "optimized_agent",
    "execute_tool_optimized",
    "chat_optimized",
    "use_optimized_registry",
    "use_optimized_loop",
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        let mut say = |line, what: &str| findings.push(Finding::at(&source.path, line, what));
        if source.path.ends_with("mod.rs") {
            say(0, "is a mod.rs; name the file after its module");
        }
        if !source.test && !source.text.starts_with("//!") {
            say(1, "does not open with `//!`: what comes in, what goes out, what it never does");
        }
        ignored_tests(source, &mut say);
        unfinished_code(source, &mut say);
        names_that_boast(source, &mut say);
        bare_core(source, &mut say);
        unsafe_code(source, &mut say);
    }
    findings
}

fn ignored_tests(source: &Source, say: &mut impl FnMut(usize, &str)) {
    let ignores = |place: usize| {
        let mut words = source.tokens[place..].iter().take_while(|token| token.text != "]");
        words.any(|token| token.text == "ignore")
    };
    for (place, token) in source.tokens.iter().enumerate() {
        let attribute = source.starts(place, &["#", "["]);
        let on_a_condition = source.at(place + 2) == "cfg_attr";
        if attribute && (source.at(place + 2) == "ignore" || on_a_condition && ignores(place)) {
            say(token.line, "ignores a test; assert today's wrong answer and say why");
        }
    }
}

fn unfinished_code(source: &Source, say: &mut impl FnMut(usize, &str)) {
    for (place, token) in source.product() {
        if matches!(&*token.text, "todo" | "unimplemented") && source.starts(place + 1, &["!", "("])
        {
            say(token.line, &format!("`{}!` is not finished", token.text));
        }
    }
}

fn names_that_boast(source: &Source, say: &mut impl FnMut(usize, &str)) {
    const KEYWORDS: [&str; 8] =
        ["fn", "struct", "enum", "union", "trait", "type", "mod", "macro_rules"];
    for (place, token) in source.product().filter(|(_, t)| KEYWORDS.contains(&&*t.text)) {
        let name = source.at(if source.at(place + 1) == "!" { place + 2 } else { place + 1 });
        if name.to_lowercase().contains("optimized") && !OPTIMIZED.contains(&name) {
            say(token.line, &format!("`{name}` says that it is optimized; name what it does"));
        }
    }
}

/// In the engine `core` is a module of our own, so a bare `core::` means two things.
fn bare_core(source: &Source, say: &mut impl FnMut(usize, &str)) {
    if !source.path.starts_with("vtcode-core/src") {
        return;
    }
    for (place, _) in source.paths() {
        if source.at(place) == "core" {
            say(source.tokens[place].line, "says `core::`; write `std::` or `crate::core::`");
        }
    }
}

fn unsafe_code(source: &Source, say: &mut impl FnMut(usize, &str)) {
    let lines: Vec<&str> = source.text.lines().collect();
    let of_its_own = (0..source.tokens.len()).any(|place| {
        ["allow", "expect"]
            .iter()
            .any(|how| source.starts(place, &["#", "!", "[", how, "(", "unsafe_code"]))
    });
    for (place, token) in source.tokens.iter().enumerate().filter(|(_, t)| t.text == "unsafe") {
        if !of_its_own {
            say(
                token.line,
                "is unsafe in a file without `#![expect(unsafe_code)]`; give it its own",
            );
        }
        let declared = matches!(source.at(place + 1), "fn" | "trait");
        if !declared && !is_explained(&lines, token.line) {
            say(token.line, "is unsafe without a `// SAFETY:` line");
        }
    }
}

/// Whether a `// SAFETY:` stands on a line, or in the comment above the statement it belongs to.
fn is_explained(lines: &[&str], line: usize) -> bool {
    let mut above = lines[..line].iter().rev().map(|line| line.trim());
    if above.next().is_some_and(|line| line.contains("// SAFETY:")) {
        return true;
    }
    for line in above {
        if line.starts_with("// SAFETY:") {
            return true;
        }
        let is_comment = line.starts_with("//");
        if !is_comment && (line.is_empty() || line.ends_with([';', '{', '}'])) {
            return false;
        }
    }
    false
}
