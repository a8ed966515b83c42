//! The tools in their order: a name or an id goes in, the tool comes out. It only grows: tools that
//! are registered together are a page that never changes again, and the pages are a chain.
//! Reading takes no lock and touches nothing that another thread writes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::iter::successors;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Entry, ToolId};
use crate::tools::tool::Tool;

/// All tools of a registry.
#[derive(Default)]
pub(super) struct Catalog {
    first: OnceLock<Box<Page>>,
    /// Held while pages are added.
    appending: Mutex<Untold>,
    /// Tools that were left out.
    left_out: AtomicU64,
}

/// Why tools were left out, each reason once.
#[derive(Default)]
struct Untold {
    reasons: Vec<String>,
    /// Of these, how many were told.
    told: usize,
}

/// Reasons that are told; a program that registers in a loop fills no memory.
const REASONS: usize = 32;

/// Tools that were registered together.
struct Page {
    /// The id of the first of them.
    start: u32,
    tools: Vec<Arc<Entry>>,
    by_name: HashMap<Cow<'static, str>, ToolId, foldhash::fast::FixedState>,
    next: OnceLock<Box<Page>>,
}

impl Catalog {
    /// Appends tools and returns how many. One whose name is taken, or that panics when it is asked
    /// what it is, is left out.
    pub(super) fn append(&self, tools: impl IntoIterator<Item = Arc<dyn Tool>>) -> usize {
        let mut untold = self.untold();
        let start = self.len();
        let mut page =
            Page { start, tools: Vec::new(), by_name: HashMap::default(), next: OnceLock::new() };
        for tool in tools {
            let said = catch_unwind(AssertUnwindSafe(|| tool.spec().name.clone()));
            let Ok(name) = said else {
                self.leaves_out(&mut untold, "a tool that crashed when it was asked what it is");
                continue;
            };
            if self.id(&name).is_some() || page.by_name.contains_key(&name) {
                let what = format!("another tool named `{name}`");
                self.leaves_out(&mut untold, &what);
                continue;
            }
            let id = ToolId(start + page.tools.len() as u32);
            page.by_name.insert(name, id);
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

    /// Returns how many tools were left out.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Takes what is to be told of tools that were left out: each reason once.
    pub(super) fn news(&self) -> Vec<String> {
        // Asked before every request: without news, it is a load.
        if self.left_out() == 0 {
            return Vec::new();
        }
        let mut untold = self.untold();
        let news = untold.reasons[untold.told..].to_vec();
        untold.told = untold.reasons.len();
        news
    }

    fn leaves_out(&self, untold: &mut Untold, what: &str) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
        let reason = format!("the tools go on without {what}");
        if untold.reasons.len() < REASONS && !untold.reasons.contains(&reason) {
            untold.reasons.push(reason);
        }
    }

    fn untold(&self) -> MutexGuard<'_, Untold> {
        // Each change is one push: none can be half made.
        self.appending.lock().unwrap_or_else(PoisonError::into_inner)
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
