//! The tools in their order: a name or an id goes in, the tool comes out. It only grows: tools that
//! are registered together are a page that never changes again, and the pages are a chain.
//! Reading takes no lock and touches nothing that another thread writes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::iter::successors;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::{Entry, ToolId};
use crate::tools::tool::Tool;

/// All tools of a registry.
#[derive(Default)]
pub(super) struct Catalog {
    first: OnceLock<Box<Page>>,
    /// Held while pages are added.
    appending: Mutex<()>,
}

/// Tools that were registered together.
struct Page {
    /// The id of the first of them.
    start: u32,
    tools: Vec<Arc<Entry>>,
    by_name: HashMap<Cow<'static, str>, ToolId, foldhash::fast::FixedState>,
    next: OnceLock<Box<Page>>,
}

impl Catalog {
    /// Appends tools and returns how many. One whose name is taken is left out.
    pub(super) fn append(&self, tools: impl IntoIterator<Item = Arc<dyn Tool>>) -> usize {
        // It guards no data, so none can be half changed.
        let _appending = self.appending.lock().unwrap_or_else(PoisonError::into_inner);
        let start = self.len();
        let mut page =
            Page { start, tools: Vec::new(), by_name: HashMap::default(), next: OnceLock::new() };
        for tool in tools {
            let name = &tool.spec().name;
            if self.id(name).is_some() || page.by_name.contains_key(name) {
                continue;
            }
            let id = ToolId(start + page.tools.len() as u32);
            page.by_name.insert(name.clone(), id);
            page.tools.push(Arc::new(Entry::new(id, tool)));
        }
        let added = page.tools.len();
        if added > 0 {
            let end = self.pages().last().map_or(&self.first, |last| &last.next);
            // Nobody else appends, so the place is free.
            let _ = end.set(Box::new(page));
        }
        added
    }

    /// Returns the id of a name. // bench: lookup among 40 tools
    pub(super) fn id(&self, name: &str) -> Option<ToolId> {
        self.pages().find_map(|page| page.by_name.get(name)).copied()
    }

    /// Returns the tool of an id.
    pub(super) fn get(&self, id: ToolId) -> Option<&Arc<Entry>> {
        self.pages().find_map(|page| page.tools.get(id.0.checked_sub(page.start)? as usize))
    }

    /// Returns every tool, in order.
    pub(super) fn tools(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.pages().flat_map(|page| &page.tools)
    }

    fn len(&self) -> u32 {
        self.pages().last().map_or(0, |last| last.start + last.tools.len() as u32)
    }

    fn pages(&self) -> impl Iterator<Item = &Page> {
        let first = self.first.get().map(Box::as_ref);
        successors(first, |page: &&Page| page.next.get().map(Box::as_ref))
    }
}
