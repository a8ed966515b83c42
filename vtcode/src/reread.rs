//! The user's own file, looked at before each turn: what of it may change while a session runs goes
//! to the parts that obey it. Only where the session itself cannot write that file.

use std::sync::{Arc, Mutex, PoisonError};

use vtcode_core::config::endpoint::Endpoint;
use vtcode_core::config::reload::Reload;
use vtcode_core::core::memory_pool::global_pool;
use vtcode_core::core::optimized_agent::{Changed, Reread};
use vtcode_core::safety::policy::Policy;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;

use crate::setup;

/// Returns what the engine asks before each turn; none where commands run without a sandbox, and
/// the model could write the file that sets its limits.
pub(crate) fn before_turns(
    reload: Reload,
    endpoint: &Endpoint,
    workspace: &Workspace,
    registry: &Arc<OptimizedToolRegistry>,
) -> Option<Reread> {
    if !registry.permissions().is_confined() {
        return None;
    }
    let writable = workspace.folders().filter(|(_, writable)| *writable);
    let reload = reload.with_writable(writable.map(|(folder, _)| folder.to_owned()));
    let (reload, endpoint) = (Mutex::new(reload), endpoint.clone());
    let registry = Arc::clone(registry);
    Some(Arc::new(move || {
        // Each look replaces what it changes as a whole.
        let mut reload = reload.lock().unwrap_or_else(PoisonError::into_inner);
        let change = reload.look(|settings| {
            Policy::new(&settings.safety.permissions).map_err(|error| error.to_string())?;
            setup::settle(settings, &endpoint).map_err(|error| error.0)
        })?;
        let (notes, mut warnings) = (change.notes, Vec::from_iter(change.warning));
        let limits = change.settings.map(|settings| {
            global_pool().set_limits(settings.limits.pool);
            let rules = registry.permissions().set_rules(&settings.safety.permissions);
            warnings.extend(rules.err().map(|error| error.to_string()));
            settings.limits.agent
        });
        Some(Changed { limits, notes, warnings })
    }))
}
