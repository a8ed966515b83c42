//! A profiled run, held against those before it. Whatever goes wrong here costs the run nothing but
//! a line.

use vtcode_core::config::env::Env;
use vtcode_core::core::performance_profiler::Profile;
use vtcode_core::core::performance_profiler::baseline::Verdict;
use vtcode_core::core::performance_profiler::history;

use crate::exec::note;

/// Our own work per turn may grow by this before it is told.
const MAX_PERCENT: f64 = 25.0;

/// Says whether our own work per turn has become slower, and keeps the run.
pub(crate) fn tell(profile: &Profile, env: &Env) {
    let Some(state) = env.state_dir() else { return };
    let path = state.join("perf/own-work.jsonl");
    match history::hold_against(&path, history::own_work(&profile.turns)) {
        Ok(Some(found)) if found.verdict(MAX_PERCENT) == Verdict::Slower => note(&format!(
            "performance regression: our own work took {:.2} times as long per turn as in the runs \
             before (at least {:.2} times); vtcode itself or this machine has become slower",
            found.ratio, found.low
        )),
        Ok(_) => {}
        Err(error) => {
            note(&format!("this run is not kept for comparison: {}: {error}", path.display()));
        }
    }
}
