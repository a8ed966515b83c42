//! Results that are used again: identical reads in flight share one run, and a finished read is
//! kept and served while everything that it was read from is unchanged.

use std::sync::Arc;

use super::metrics::Waiting;
use super::{Core, Ending, Job};
use crate::config::limits::ToolLimits;
use crate::core::cache::{Cache, Flight, Key, key};
use crate::core::memory_budget::Sheds;
use crate::core::performance_profiler::Stopwatch;
use crate::tools::tool::{ToolError, ToolOutput};
use crate::tools::witness::Evidence;

/// Files that are looked at on the spot; more are looked at where blocking does no harm.
const LOOKS_AT_ONCE: usize = 32;

/// What is kept.
#[derive(Debug)]
pub(super) struct Results {
    cache: Cache<Arc<ToolOutput>>,
    share: bool,
    measured: bool,
}

impl Results {
    pub(super) fn new(limits: &ToolLimits) -> Self {
        let (share, measured) = (limits.share_reads, limits.measured);
        Self { cache: Cache::new(limits.cache), share, measured }
    }
}

impl Sheds for Core {
    fn kept_bytes(&self) -> u64 {
        self.results.cache.kept_bytes()
    }

    fn shed(&self) {
        self.results.cache.clear();
    }
}

impl Core {
    /// Gives the result of a repeatable read: kept, shared or run.
    pub(super) async fn repeatable(self: &Arc<Self>, job: &Job, waiting: Waiting<'_>) -> Ending {
        let id = job.tool.spec().name.as_bytes();
        // Fields stand in a fixed order, so equal arguments are equal bytes.
        let key = key([id, job.args.to_string().as_bytes()]);
        if let Some(kept) = self.results.cache.get(&key) {
            if self.still_holds(&kept).await {
                return Ending { cache_hit: true, ..Ending::again(&kept) };
            }
            self.results.cache.remove(&key);
            self.counters.stale();
        }
        if !self.results.share {
            let ending = self.run(job, waiting).await;
            self.keep(key, &ending);
            return ending;
        }
        // Only among equals: who follows a less urgent call waits as long as that one does.
        let flight = self::key([key.as_slice(), &[job.priority as u8]]);
        loop {
            match self.results.cache.flight(flight) {
                Flight::Lead(lead) => {
                    let ending = self.run(job, waiting).await;
                    let kept = self.keep(key, &ending);
                    match ending.result {
                        // Another takes it over.
                        Err(ToolError::Cancelled { .. } | ToolError::TimedOut { .. }) => {}
                        // Without evidence: who follows is told to look for itself.
                        _ => lead.land(kept.unwrap_or_default()),
                    }
                    return ending;
                }
                Flight::Follow(follow) => match job.waits_for(follow.landed()).await {
                    // It may have looked before this call was submitted: what it saw must still be
                    // so. Then it could as well have looked now.
                    Ok(Some(kept)) if self.still_holds(&kept).await => {
                        return Ending { shared: true, ..Ending::again(&kept) };
                    }
                    Ok(Some(_)) => return self.run(job, waiting).await,
                    // Who ran it was cancelled.
                    Ok(None) => {}
                    Err(error) => return Ending::early(error),
                },
            }
        }
    }

    /// Looks whether a kept result still holds.
    async fn still_holds(&self, kept: &Arc<ToolOutput>) -> bool {
        let watch = Stopwatch::begin(self.results.measured);
        let holds = still_holds(kept).await;
        if let Some(took) = watch.read() {
            self.counters.checked(took);
        }
        holds
    }

    /// Keeps a result that can be served again.
    fn keep(&self, key: Key, ending: &Ending) -> Option<Arc<ToolOutput>> {
        let output = ending.result.as_ref().ok().filter(|output| !output.is_error)?;
        let evidence = output.evidence.as_ref().filter(|evidence| evidence.can_tell())?;
        let bytes = output.text.len() + evidence.bytes();
        let kept = Arc::new(output.clone());
        self.results.cache.insert(key, Arc::clone(&kept), bytes);
        Some(kept)
    }
}

impl Ending {
    fn again(kept: &Arc<ToolOutput>) -> Self {
        let started = Some(tokio::time::Instant::now());
        Self { result: Ok(ToolOutput::clone(kept)), started, cache_hit: false, shared: false }
    }
}

async fn still_holds(kept: &Arc<ToolOutput>) -> bool {
    let Some(evidence) = &kept.evidence else { return false };
    if evidence.len() <= LOOKS_AT_ONCE {
        return evidence.still_holds();
    }
    let kept = Arc::clone(kept);
    let look = move || kept.evidence.as_ref().is_some_and(Evidence::still_holds);
    tokio::task::spawn_blocking(look).await.unwrap_or(false)
}
