//! A Rust file as the checks see it: text comes in, a flat row of tokens goes out, each with its
//! line and whether only tests compile it. Comments and the insides of strings are gone, so they
//! can neither break a rule nor hide that one is broken. Never resolves a name that does not start
//! with `crate`, `self` or `super`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) tokens: Vec<Token>,
    /// Whether the whole file is compiled for tests alone.
    pub(super) test: bool,
    /// The files of the modules that are declared for tests alone, without `.rs`.
    test_files: BTreeSet<PathBuf>,
}

pub(super) struct Token {
    /// A word, one sign (half a bracket is one too), or `"` for any literal.
    pub(super) text: String,
    pub(super) line: usize,
    /// Whether it is compiled for tests alone, as far as this file can tell.
    pub(super) test: bool,
    /// How many `mod name { … }` stand around it.
    inline_modules: usize,
}

/// A path in the code. One that starts with `crate`, `self` or `super` is seen from the crate's root.
#[derive(Debug, PartialEq)]
pub(super) struct Named {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
}

impl Source {
    pub(super) fn parse(path: &Path, text: String) -> anyhow::Result<Self> {
        let stream: TokenStream = text.parse().map_err(|e: proc_macro2::LexError| {
            let at = e.span().start();
            anyhow::anyhow!("no Rust: {e} in line {}", at.line)
        })?;
        let folder = path.components().nth(1).map(|c| c.as_os_str().to_owned());
        let mut source = Self {
            path: path.to_owned(),
            text,
            tokens: Vec::new(),
            test: folder.is_some_and(|name| name == "tests" || name == "benches"),
            test_files: BTreeSet::new(),
        };
        source.take(stream, &Place { test: false, inline_modules: 0, files: stem(path) });
        Ok(source)
    }

    /// Returns the module that the file is, seen from its crate's root.
    pub(super) fn module(&self) -> Vec<String> {
        let inside = stem(&self.path);
        let names = inside.components().skip(2);
        names.map(|c| c.as_os_str().to_string_lossy().into_owned()).collect()
    }

    /// Returns the tokens that reach the product.
    pub(super) fn product(&self) -> impl Iterator<Item = (usize, &Token)> {
        self.tokens.iter().enumerate().filter(|(_, token)| !self.test && !token.test)
    }

    /// Returns the text of the token at a place, `""` beyond the end.
    pub(super) fn at(&self, place: usize) -> &str {
        self.tokens.get(place).map_or("", |token| &token.text)
    }

    /// Returns whether these tokens start at a place.
    pub(super) fn starts(&self, place: usize, texts: &[&str]) -> bool {
        texts.iter().enumerate().all(|(n, text)| self.at(place + n) == *text)
    }

    /// Returns the paths that the product's code names from `crate`, `self` or `super` on.
    pub(super) fn named(&self) -> Vec<Named> {
        let relative = |place| matches!(self.at(place), "crate" | "self" | "super");
        // `pub(in crate::llm)` says who may look in, not what is used.
        let visibility = |place| place >= 2 && self.starts(place - 2, &["(", "in"]);
        let product = |place: usize| !self.test && !self.tokens[place].test;
        let paths = self.paths().into_iter();
        let named =
            paths.filter(|(place, _)| relative(*place) && !visibility(*place) && product(*place));
        named.flat_map(|(_, named)| named).collect()
    }

    /// Returns where each path of more than one word starts, and what it or its braces name.
    pub(super) fn paths(&self) -> Vec<(usize, Vec<Named>)> {
        let module = self.module();
        let mut paths = Vec::new();
        let mut behind = 0;
        for (place, token) in self.tokens.iter().enumerate() {
            let starts = token.text.starts_with(is_of_a_word)
                && self.starts(place + 1, &[":", ":"])
                && !(place >= 2 && self.starts(place - 2, &[":", ":"]));
            if starts && place >= behind {
                // The names of the inline modules do not matter: they are the file's own room.
                let inline = std::iter::repeat_n("{}".to_owned(), token.inline_modules);
                let here = module.iter().cloned().chain(inline).collect();
                let mut named = Vec::new();
                behind = self.path_at(place, here, &mut named);
                paths.push((place, named));
            }
        }
        paths
    }

    /// Takes one path, or a tree of them in braces; returns the place behind it.
    fn path_at(&self, mut place: usize, mut path: Vec<String>, named: &mut Vec<Named>) -> usize {
        let line = self.tokens.get(place).map_or(0, |token| token.line);
        loop {
            match self.at(place) {
                "crate" => path.clear(),
                "super" => {
                    path.pop();
                }
                "self" => {}
                "{" => return self.group_at(place, &path, named),
                word if word.starts_with(is_of_a_word) => {
                    path.push(word.to_owned());
                }
                // `*`, a turbofish, a macro's variable: the path so far is what is named.
                _ => break,
            }
            place += 1;
            if !self.starts(place, &[":", ":"]) {
                break;
            }
            place += 2;
        }
        named.push(Named { segments: path, line });
        place
    }

    fn group_at(&self, open: usize, path: &[String], named: &mut Vec<Named>) -> usize {
        let mut place = open + 1;
        while !matches!(self.at(place), "}" | "") {
            if self.at(place) == "," {
                place += 1;
                continue;
            }
            place = self.path_at(place, path.to_vec(), named);
            // What is left is `*` or `as name`.
            while !matches!(self.at(place), "," | "}" | "") {
                place += 1;
            }
        }
        place + 1
    }

    fn take(&mut self, stream: TokenStream, place: &Place) {
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while at < trees.len() {
            if !place.test && is_test_attribute(&trees[at..]) {
                let end = item_end(&trees, at + 2);
                self.note_test_module(&trees[at..end], place);
                let place = Place { test: true, ..place.clone() };
                for tree in &trees[at..end] {
                    self.take_tree(tree.clone(), &place);
                }
                at = end;
            } else {
                let tree = trees[at].clone();
                match (inline_module(&trees[..at]), &tree) {
                    (Some(name), TokenTree::Group(_)) => {
                        self.take_tree(tree, &place.inside(&name.to_string()));
                    }
                    _ => self.take_tree(tree, place),
                }
                at += 1;
            }
        }
    }

    fn take_tree(&mut self, tree: TokenTree, place: &Place) {
        let start = tree.span().start().line;
        match tree {
            TokenTree::Ident(word) => self.push(word.to_string(), start, place),
            TokenTree::Punct(sign) => self.push(sign.as_char().to_string(), start, place),
            TokenTree::Literal(_) => self.push("\"".to_owned(), start, place),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => (" ", " "),
                };
                self.push(open.to_owned(), start, place);
                self.take(group.stream(), place);
                self.push(close.to_owned(), group.span_close().start().line, place);
            }
        }
    }

    fn push(&mut self, text: String, line: usize, place: &Place) {
        let Place { test, inline_modules, .. } = *place;
        self.tokens.push(Token { text, line, test, inline_modules });
    }

    /// Notes the file of `#[cfg(test)] mod name;`, or the folder of `#[cfg(test)] mod name {}`.
    fn note_test_module(&mut self, item: &[TokenTree], place: &Place) {
        let before_the_end = item.split_last().map_or(item, |(_, rest)| rest);
        if let Some(name) = inline_module(before_the_end) {
            self.test_files.insert(place.files.join(name.to_string()));
        }
    }
}

/// Where a token stands.
#[derive(Clone)]
struct Place {
    test: bool,
    inline_modules: usize,
    /// The folder that holds the files of the modules declared here.
    files: PathBuf,
}

impl Place {
    fn inside(&self, module: &str) -> Self {
        Self {
            test: self.test,
            inline_modules: self.inline_modules + 1,
            files: self.files.join(module),
        }
    }
}

/// Returns the module's name behind `mod name`.
fn inline_module(before: &[TokenTree]) -> Option<&proc_macro2::Ident> {
    match before {
        [.., TokenTree::Ident(word), TokenTree::Ident(name)] if *word == "mod" => Some(name),
        _ => None,
    }
}

fn is_of_a_word(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

/// Marks the files whose module is declared for tests alone, and the files below them.
pub(super) fn mark_test_files(sources: &mut [Source]) {
    let declared: Vec<PathBuf> =
        sources.iter().flat_map(|source| source.test_files.iter().cloned()).collect();
    for source in sources {
        let stem = stem(&source.path);
        source.test |= declared.iter().any(|test| stem.starts_with(test));
    }
}

/// The path of a file as a module: the folder that holds the files of its child modules.
fn stem(path: &Path) -> PathBuf {
    match path.file_name().and_then(|name| name.to_str()) {
        Some("lib.rs" | "main.rs") => path.parent().unwrap_or(path).to_owned(),
        _ => path.with_extension(""),
    }
}

fn is_test_attribute(trees: &[TokenTree]) -> bool {
    let [TokenTree::Punct(hash), TokenTree::Group(attribute), ..] = trees else { return false };
    let words = attribute.stream().to_string().replace(char::is_whitespace, "");
    hash.as_char() == '#' && (words == "cfg(test)" || words.starts_with("cfg(all(test,"))
}

/// Returns the place behind the item, field, arm or statement that starts at a place.
fn item_end(trees: &[TokenTree], start: usize) -> usize {
    let mut place = start;
    while let Some([TokenTree::Punct(hash), TokenTree::Group(_)]) = trees.get(place..place + 2)
        && hash.as_char() == '#'
    {
        place += 2;
    }
    if let Some(TokenTree::Ident(word)) = trees.get(place)
        && *word == "pub"
    {
        place += 1;
        place += usize::from(matches!(trees.get(place), Some(TokenTree::Group(_))));
    }
    // An item has commas between its generic parameters; to all else a comma is the end.
    let is_item = trees.get(place).is_some_and(|first| {
        const ITEMS: [&str; 15] = [
            "mod",
            "use",
            "fn",
            "struct",
            "enum",
            "union",
            "impl",
            "trait",
            "const",
            "static",
            "type",
            "async",
            "unsafe",
            "extern",
            "macro_rules",
        ];
        ITEMS.contains(&&*first.to_string())
    });
    for (n, tree) in trees.iter().enumerate().skip(place) {
        match tree {
            TokenTree::Punct(sign) if sign.as_char() == ';' => return n + 1,
            TokenTree::Punct(sign) if sign.as_char() == ',' && !is_item => return n + 1,
            TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => return n + 1,
            _ => {}
        }
    }
    trees.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source::parse(Path::new(path), text.to_owned()).unwrap()
    }

    fn named(path: &str, text: &str) -> Vec<String> {
        let named = source(path, text).named();
        named.iter().map(|n| format!("{} {}", n.line, n.segments.join("::"))).collect()
    }

    #[test]
    fn a_use_with_nested_groups_over_several_lines_names_each_leaf_on_its_line() {
        let text = "
            pub use crate::core::{
                event::{self, Event, EventKind as Kind},
                journal::*,
            };
            pub(crate) use crate::{tools, llm::message};";
        assert_eq!(
            named("p/src/a.rs", text),
            [
                "3 core::event",
                "3 core::event::Event",
                "3 core::event::EventKind",
                "4 core::journal",
                "6 tools",
                "6 llm::message",
            ]
        );
    }

    #[test]
    fn a_path_in_the_middle_of_code_counts_and_in_words_does_not() {
        let text = r#"
            //! [`crate::core::journal`]
            /// See [`crate::core::event`].
            fn f<T>(x: &crate::tools::tool::Tool) -> Vec<crate::llm::message::Delta> {
                // crate::comment::here
                let _ = ("crate::string", r"crate::raw", 'c', b"crate::bytes");
                println!("{}", crate::core::cache::get::<T>());
                other::crate_like::x();
                self.field
            }"#;
        assert_eq!(
            named("p/src/a.rs", text),
            ["4 tools::tool::Tool", "4 llm::message::Delta", "7 core::cache::get"]
        );
    }

    #[test]
    fn self_and_super_are_seen_from_where_they_stand() {
        let text = "
            use super::phase;
            use super::super::{event::Event, super::tools};
            use self::inner::X;
            mod small { use super::super::turn; }
            pub(in super::super) fn f() {}
            pub(in super::super::super) use super::super::event;
            pub(in crate::llm) fn g() {}";
        assert_eq!(
            named("p/src/core/agent/turn.rs", text),
            [
                "2 core::agent::phase",
                "3 core::event::Event",
                "3 tools",
                "4 core::agent::turn::inner::X",
                "5 core::agent::turn",
                "7 core::event",
            ]
        );
    }

    #[test]
    fn what_only_tests_compile_names_nothing() {
        let text = "
            #[cfg(test)] use crate::a::{b, c};
            #[cfg(test)] fn f<A, B>(a: A) where B: X { crate::d::e() }
            #[cfg(all(test, unix))] #[allow(x)] mod tests { use crate::f::g; }
            struct S { #[cfg(test)] pub(super) x: crate::h::I, y: crate::stays::One }
            #[cfg(not(test))] use crate::stays::Two;
            #[cfg(any(test, feature = \"x\"))] use crate::stays::Three;";
        assert_eq!(named("p/src/a.rs", text), ["5 stays::One", "6 stays::Two", "7 stays::Three"]);
    }

    #[test]
    fn a_file_declared_for_tests_is_a_test_with_all_below_it() {
        let mut sources = vec![
            source("p/src/lib.rs", "mod a; #[cfg(test)] pub(crate) mod testing;"),
            source("p/src/a.rs", "#[cfg(test)] mod tests; mod b { #[cfg(test)] mod c; }"),
            source("p/src/a/tests.rs", "use crate::x;"),
            source("p/src/a/tests/more.rs", ""),
            source("p/src/a/b/c.rs", ""),
            source("p/src/a/tests_of_others.rs", ""),
            source("p/src/testing.rs", ""),
            source("p/tests/it/main.rs", ""),
        ];
        mark_test_files(&mut sources);
        let product: Vec<&Path> =
            sources.iter().filter(|s| !s.test).map(|s| s.path.as_path()).collect();
        assert_eq!(
            product,
            [
                Path::new("p/src/lib.rs"),
                Path::new("p/src/a.rs"),
                Path::new("p/src/a/tests_of_others.rs")
            ]
        );
    }

    #[test]
    fn text_that_is_no_rust_is_an_error_with_its_line() {
        let error = Source::parse(Path::new("p/src/a.rs"), "fn f() {\n\"open".into()).err();
        assert!(error.unwrap().to_string().contains("line"), "names the line");
    }

    #[test]
    fn an_open_end_is_no_endless_loop() {
        assert_eq!(named("p/src/a.rs", "use crate::"), ["1 "]);
        assert_eq!(named("p/src/a.rs", "m!(crate::{a \"b\" , *, $c});"), ["1 a", "1 ", "1 "]);
    }
}
