//! The layers: ARCHITECTURE.md's list of rooms and the engine's code come in, every place where a
//! lower layer names a higher one goes out. The document is the only source of the list, so it and
//! the code cannot disagree for long. Never looks at tests: they may use any room.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};

use super::source::Source;
use super::{Finding, Tree};

const DOCUMENT: &str = "ARCHITECTURE.md";
const PACKAGE: &str = "vtcode-core/src";

/// The layer of each room.
#[derive(Debug)]
struct Layers(BTreeMap<String, u32>);

struct Room<'a> {
    name: &'a str,
    layer: u32,
}

impl Layers {
    /// Reads the indented block below the heading "Layers": a number, then the rooms of that layer.
    fn read(document: &str) -> anyhow::Result<Self> {
        let mut lines = document.lines().skip_while(|line| !line.starts_with("## Layers")).skip(1);
        let block: Vec<&str> = lines
            .by_ref()
            .skip_while(|line| !line.starts_with("    "))
            .take_while(|line| line.starts_with("    "))
            .collect();
        ensure!(!block.is_empty(), "no indented list of layers below the heading \"Layers\"");
        let mut rooms = BTreeMap::new();
        let mut layer = None;
        for word in block.iter().flat_map(|line| line.split([' ', ','])).filter(|w| !w.is_empty()) {
            if let Ok(number) = word.parse() {
                layer = Some(number);
            } else {
                let layer = layer.with_context(|| format!("`{word}` stands before any layer"))?;
                if rooms.insert(word.to_owned(), layer).is_some() {
                    bail!("`{word}` is listed twice");
                }
            }
        }
        Ok(Self(rooms))
    }

    /// Returns the room that a path of modules leads to: its first segment that is a room.
    fn room<'a>(&self, path: &'a [String]) -> Option<Room<'a>> {
        path.iter().find_map(|name| Some(Room { name, layer: *self.0.get(name)? }))
    }
}

pub(super) fn check(tree: &Tree) -> anyhow::Result<Vec<Finding>> {
    let layers = Layers::read(&tree.text(DOCUMENT)?).context(DOCUMENT)?;
    let sources: Vec<&Source> =
        tree.sources.iter().filter(|s| s.path.starts_with(PACKAGE) && !s.test).collect();
    let mut findings = Vec::new();
    for source in &sources {
        let module = source.module();
        match layers.room(&module) {
            Some(room) => findings.extend(upward(source, &room, &layers)),
            None if leads_to_a_room(&module, &sources, &layers) => findings.extend(door(source)),
            None => findings.push(Finding::at(
                &source.path,
                0,
                format!("is in no room of {DOCUMENT}'s layers; list its room there"),
            )),
        }
    }
    Ok(findings)
}

fn upward(source: &Source, room: &Room<'_>, layers: &Layers) -> Vec<Finding> {
    let mut findings = Vec::new();
    for named in source.named() {
        let Room { name, layer } = room;
        let path = format!("crate::{}", named.segments.join("::"));
        let what = match layers.room(&named.segments) {
            Some(other) if other.layer > *layer => format!(
                "{name} (layer {layer}) names {} (layer {}) as `{path}`",
                other.name, other.layer
            ),
            Some(_) => continue,
            None => format!("{name} names `{path}`, which is in no room of {DOCUMENT}'s layers"),
        };
        findings.push(Finding::at(&source.path, named.line, what));
    }
    findings
}

/// Whether a file is the door of a folder that holds rooms, such as `core.rs`.
fn leads_to_a_room(module: &[String], sources: &[&Source], layers: &Layers) -> bool {
    sources.iter().any(|other| {
        let other = other.module();
        other.starts_with(module) && layers.room(&other).is_some()
    })
}

/// A door declares what lies behind it. Code there would be in no layer.
fn door(source: &Source) -> Option<Finding> {
    const CODE: [&str; 7] = ["fn", "struct", "enum", "trait", "impl", "static", "macro_rules"];
    let (_, code) = source.product().find(|(_, token)| CODE.contains(&&*token.text))?;
    let what = "holds code, but is only the door to the rooms behind it; give the code a room";
    Some(Finding::at(&source.path, code.line, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "
## Rooms
    9 not_this
## Layers (a lower one never names a higher one)
As a list:

    2 agent   1 pipeline, client
    0 event

Text.
    7 nor_this";

    fn path(text: &str) -> Vec<String> {
        text.split("::").map(str::to_owned).collect()
    }

    #[test]
    fn the_list_is_read_from_the_document() {
        let layers = Layers::read(DOCUMENT).unwrap();
        let listed: Vec<_> = layers.0.iter().map(|(name, layer)| (&**name, *layer)).collect();
        assert_eq!(listed, [("agent", 2), ("client", 1), ("event", 0), ("pipeline", 1)]);
    }

    #[test]
    fn a_path_leads_to_the_first_room_on_it() {
        let layers = Layers::read(DOCUMENT).unwrap();
        let room = |text: &str| layers.room(&path(text)).map(|room| room.layer);
        assert_eq!(room("core::agent"), Some(2));
        assert_eq!(room("core::agent::event::X"), Some(2));
        assert_eq!(room("core"), None);
        assert_eq!(room(""), None);
    }

    #[test]
    fn a_list_that_says_nothing_or_two_things_is_an_error() {
        let error = |text: &str| Layers::read(text).unwrap_err().to_string();
        assert!(error("# No such heading\n    1 a").starts_with("no indented list"));
        assert_eq!(error("## Layers\n    a 1 b"), "`a` stands before any layer");
        assert_eq!(error("## Layers\n    1 a 2 a"), "`a` is listed twice");
    }
}
