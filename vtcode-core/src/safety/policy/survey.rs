//! What a line may run, wherever in it that stands: a tree comes in, every command in it goes out,
//! those in substitutions, loops and functions and those that other commands run included.
//! What cannot be known before it runs (a variable, a substitution) is an unknown word. Proves
//! nothing: what is not found here may still be run, so it only ever finds reasons to refuse.

use tree_sitter::{Node, Tree};

use super::grammar;

mod unwrap;
pub(super) use unwrap::{Runs, runs};

/// How deep commands are followed that hold command lines (`bash -c '…'`).
const MAX_DEPTH: usize = 4;
/// How many commands are looked at; a line with more is not read.
const MAX_COMMANDS: usize = 2_000;

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) commands: Vec<Found>,
    pub(super) redirects: Vec<Target>,
    /// Some of it was not looked at: too long, too deep.
    pub(super) incomplete: bool,
    /// A function that calls itself more than once.
    pub(super) multiplies: bool,
}

/// A command; words that are not known are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The name first.
    pub(super) words: Vec<Option<String>>,
    /// It is run by another command, which was found, too.
    pub(super) inner: bool,
    /// Unknown words may follow, as those that `xargs` adds.
    pub(super) open: bool,
    /// It is a shell that reads what it runs from its input, and that is not known.
    pub(super) fed: bool,
}

/// Where a redirection leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// It writes.
    pub(super) writes: bool,
    pub(super) path: Option<String>,
    /// There is no command: the file is only emptied.
    pub(super) bare: bool,
}

impl Found {
    /// Returns the command of these words.
    pub(super) fn of(words: &[String]) -> Self {
        Self { words: words.iter().cloned().map(Some).collect(), ..Self::default() }
    }

    /// Returns the words that are known.
    pub(super) fn known(&self) -> Vec<String> {
        self.words.iter().flatten().cloned().collect()
    }

    /// Returns the program's name without its path; none when it is not known.
    pub(super) fn name(&self) -> Option<&str> {
        let name = self.words.first()?.as_deref()?;
        Some(name.rsplit('/').next().unwrap_or(name))
    }
}

/// Programs that run a command line.
pub(super) const SHELLS: &[&str] =
    &["sh", "bash", "dash", "zsh", "ksh", "ash", "mksh", "fish", "csh", "tcsh"];

impl Survey {
    /// Looks through a whole line.
    pub(super) fn of(text: &str, tree: Option<&Tree>) -> Self {
        let mut survey = Self::default();
        match tree {
            Some(tree) => survey.look(text, tree, 0),
            None => survey.incomplete = true,
        }
        survey
    }

    fn text(&mut self, text: &str, depth: usize) {
        if depth > MAX_DEPTH {
            self.incomplete = true;
            return;
        }
        match grammar::parse(text) {
            Some(tree) => self.look(text, &tree, depth),
            None => self.incomplete = true,
        }
    }

    /// Looks at every piece. A loop, because the tree is as deep as the line is long.
    fn look(&mut self, text: &str, tree: &Tree, depth: usize) {
        // With the node around each: to ask the tree for it takes a walk from the root.
        let mut open = vec![(tree.root_node(), None)];
        while let Some((node, around)) = open.pop() {
            if self.commands.len() > MAX_COMMANDS {
                self.incomplete = true;
                return;
            }
            match node.kind() {
                "command" | "declaration_command" | "unset_command" | "ERROR" => {
                    let found = Found { words: words(node, text), ..Found::default() };
                    self.take(found, script(node, around, text), depth);
                }
                "function_definition" => self.multiplies |= multiplies(node, text),
                "file_redirect" => self.redirects.push(target(node, around, text)),
                _ => {}
            }
            let mut cursor = node.walk();
            open.extend(node.children(&mut cursor).map(|child| (child, Some(node))));
        }
    }

    /// Takes a command, and those that it runs.
    fn take(&mut self, found: Found, script: Option<String>, depth: usize) {
        let mut waiting = vec![(found, script)];
        while let Some((mut found, script)) = waiting.pop() {
            if found.words.is_empty() {
                continue;
            }
            if self.commands.len() > MAX_COMMANDS {
                self.incomplete = true;
                return;
            }
            match runs(&found) {
                Runs::Nothing => {}
                Runs::Commands(inner) => {
                    waiting.extend(inner.into_iter().map(|inner| (inner, script.clone())));
                }
                Runs::Lines(lines) => {
                    let from = self.commands.len();
                    for line in lines {
                        match line {
                            Some(line) => self.text(&line, depth + 1),
                            None => found.fed = true,
                        }
                    }
                    for inner in &mut self.commands[from..] {
                        inner.inner = true;
                    }
                }
                Runs::Input => match script {
                    Some(script) => self.text(&script, depth + 1),
                    None => found.fed = true,
                },
            }
            self.commands.push(found);
        }
    }
}

/// Returns the words of a command.
fn words(node: Node<'_>, text: &str) -> Vec<Option<String>> {
    // What bash takes for a command is none to the parser when braces begin it.
    if let Some(many) = braces(text[node.byte_range()].trim()) {
        return many.into_iter().map(Some).collect();
    }
    let mut words = Vec::new();
    let mut cursor = node.walk();
    for part in node.children(&mut cursor) {
        match part.kind() {
            "command_name" => {
                let mut cursor = part.walk();
                let inner = part.children(&mut cursor).next();
                match braces(&text[part.byte_range()]) {
                    Some(many) => words.extend(many.into_iter().map(Some)),
                    None => words.push(inner.and_then(|inner| word(inner, text))),
                }
            }
            "variable_assignment" if words.is_empty() => {}
            "word" | "number" | "concatenation" => match braces(&text[part.byte_range()]) {
                Some(many) => words.extend(many.into_iter().map(Some)),
                None => words.push(word(part, text)),
            },
            "export" | "declare" | "typeset" | "local" | "readonly" | "unset" | "unsetenv" => {
                words.push(Some(part.kind().to_owned()));
            }
            "file_redirect"
            | "heredoc_redirect"
            | "herestring_redirect"
            | "comment"
            | ";"
            | "&"
            | "&&"
            | "||"
            | "|"
            | "("
            | ")"
            | "{"
            | "}"
            | "\n" => {}
            _ => words.push(word(part, text)),
        }
    }
    words
}

/// Returns a word's value, if it can be known.
fn word(node: Node<'_>, text: &str) -> Option<String> {
    let own = &text[node.byte_range()];
    match node.kind() {
        "word" | "number" => {
            // Braces without a comma or a range stand for themselves.
            let expands = own.contains('{') && (own.contains(',') || own.contains(".."));
            (!expands && !own.contains(['$', '`'])).then(|| unescaped(own, false))
        }
        "raw_string" => Some(own.trim_matches('\'').to_owned()),
        "ansi_c_string" => ansi(own),
        "string" => {
            let mut cursor = node.walk();
            let plain = node.children(&mut cursor).all(|part| {
                matches!(part.kind(), "\"" | "string_content")
                    && !text[part.byte_range()].is_empty()
            });
            let inner = own.strip_prefix('"')?.strip_suffix('"')?;
            plain.then(|| unescaped(inner, true))
        }
        "concatenation" => {
            let mut whole = String::new();
            let mut cursor = node.walk();
            for part in node.children(&mut cursor) {
                whole.push_str(&word(part, text)?);
            }
            Some(whole)
        }
        _ => None,
    }
}

/// Takes backslashes out, as bash does outside of quotes or inside double ones.
fn unescaped(text: &str, quoted: bool) -> String {
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quoted) {
            ('\\', false) => value.extend(chars.next().filter(|next| *next != '\n')),
            ('\\', true) => match chars.next() {
                Some('\n') | None => {}
                Some(next @ ('$' | '`' | '"' | '\\')) => value.push(next),
                Some(other) => value.extend(['\\', other]),
            },
            (c, _) => value.push(c),
        }
    }
    value
}

/// Reads `$'…'`.
fn ansi(text: &str) -> Option<String> {
    let inner = text.strip_prefix("$'")?.strip_suffix('\'')?;
    let mut value = Vec::new();
    let mut rest = inner.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            value.push(*first);
            continue;
        }
        let [escape, after @ ..] = rest else { break };
        rest = after;
        let digits = |bytes: &[u8], most: usize, radix: u32| {
            let digit = |b: &&u8| char::from(**b).is_digit(radix);
            let len = bytes.iter().take(most).take_while(digit).count();
            let number = std::str::from_utf8(&bytes[..len]).unwrap_or_default();
            Some((u32::from_str_radix(number, radix).ok()?, len))
        };
        match escape {
            b'n' => value.push(b'\n'),
            b't' => value.push(b'\t'),
            b'r' => value.push(b'\r'),
            b'a' | b'b' | b'e' | b'E' | b'f' | b'v' | b'c' => return None,
            b'x' => {
                let (byte, len) = digits(rest, 2, 16)?;
                value.push(byte as u8);
                rest = &rest[len..];
            }
            b'u' | b'U' => {
                let most = if *escape == b'u' { 4 } else { 8 };
                let (code, len) = digits(rest, most, 16)?;
                value.extend(char::from_u32(code)?.to_string().bytes());
                rest = &rest[len..];
            }
            b'0'..=b'7' => {
                let (byte, len) = digits(&inner.as_bytes()[inner.len() - rest.len() - 1..], 3, 8)?;
                value.push(byte as u8);
                rest = &rest[len - 1..];
            }
            other => value.push(*other),
        }
    }
    String::from_utf8(value).ok()
}

/// Expands a word that is one pair of braces with commas: `{rm,-rf,/}`.
fn braces(text: &str) -> Option<Vec<String>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let plain = !inner.contains(['{', '}', '$', '`', '\'', '"', '\\']) && inner.contains(',');
    plain.then(|| inner.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect())
}

/// Returns the text of the here-document or here-string that a command reads, if it is literal.
fn script(node: Node<'_>, around: Option<Node<'_>>, text: &str) -> Option<String> {
    let around = around.filter(|parent| parent.kind() == "redirected_statement");
    for place in [Some(node), around].into_iter().flatten() {
        let mut cursor = place.walk();
        for redirect in place.children(&mut cursor) {
            let mut cursor = redirect.walk();
            let mut parts = redirect.children(&mut cursor);
            match redirect.kind() {
                "heredoc_redirect" => {
                    let body = parts.find(|part| part.kind() == "heredoc_body");
                    return body.map(|body| text[body.byte_range()].to_owned());
                }
                "herestring_redirect" => return parts.last().and_then(|part| word(part, text)),
                _ => {}
            }
        }
    }
    None
}

fn target(node: Node<'_>, around: Option<Node<'_>>, text: &str) -> Target {
    let mut target = Target { writes: false, path: None, bare: bare(around) };
    let mut cursor = node.walk();
    for part in node.children(&mut cursor) {
        match part.kind() {
            "file_descriptor" => {}
            kind if kind.contains(['<', '>']) && !part.is_named() => {
                target.writes |= kind.contains('>');
            }
            _ => target.path = word(part, text),
        }
    }
    target
}

/// Returns whether a redirection stands alone.
fn bare(around: Option<Node<'_>>) -> bool {
    around.is_none_or(|parent| {
        let mut cursor = parent.walk();
        let alone = parent.children(&mut cursor).all(|part| part.kind() == "file_redirect");
        matches!(parent.kind(), "redirected_statement" | "command") && alone
    })
}

/// Returns whether a function calls itself more than once, as a fork bomb does.
fn multiplies(node: Node<'_>, text: &str) -> bool {
    let Some(name) = node.child_by_field_name("name").map(|name| &text[name.byte_range()]) else {
        return false;
    };
    let Some(body) = node.child_by_field_name("body") else { return false };
    let mut calls = 0;
    let mut open = vec![body];
    while let Some(node) = open.pop() {
        if node.kind() == "command_name" && &text[node.byte_range()] == name {
            calls += 1;
        }
        let mut cursor = node.walk();
        open.extend(node.children(&mut cursor));
    }
    calls > 1
}
