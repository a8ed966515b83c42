//! The built-in tools, one a file. Every path they take goes through `safety::workspace`.

mod blocking;
mod change;
pub(crate) mod lines;
mod nearest;
#[cfg(test)]
mod testing;
mod walk;

pub mod apply_patch;
pub mod command_output;
pub mod command_stop;
pub mod edit_file;
pub mod grep_file;
pub mod list_files;
pub mod read_file;
pub mod run_command;
pub mod write_file;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde_json::Value;

use crate::config::limits::ToolLimits;
use crate::safety::sandbox::Sandbox;
use crate::safety::workspace::{Workspace, WorkspacePath};
use crate::tools::tool::{Tool, ToolError, ToolSpec};

/// Returns all built-in tools over a workspace, in the order in which they are offered.
/// `variables` is the environment for commands, from which secrets are taken out here;
/// `spool_dir` takes outputs too long to be given whole; `sandbox` confines the commands.
pub fn all(
    workspace: &Arc<Workspace>,
    spool_dir: PathBuf,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    sandbox: Arc<Sandbox>,
    limits: &ToolLimits,
) -> Vec<Arc<dyn Tool>> {
    let (workspace, bytes) = (|| Arc::clone(workspace), limits.result_bytes);
    let env = run_command::without_secrets(variables);
    let background = Arc::new(run_command::Background::default());
    let shared = || Arc::clone(&background);
    vec![
        Arc::new(read_file::ReadFile::new(workspace(), bytes)),
        Arc::new(list_files::ListFiles::new(workspace(), bytes)),
        Arc::new(grep_file::GrepFile::new(workspace(), bytes)),
        Arc::new(edit_file::EditFile::new(workspace())),
        Arc::new(write_file::WriteFile::new(workspace())),
        Arc::new(apply_patch::ApplyPatch::new(workspace())),
        Arc::new(run_command::RunCommand::new(
            workspace(),
            spool_dir,
            env,
            bytes,
            shared(),
            sandbox,
        )),
        Arc::new(command_output::CommandOutput::new(shared())),
        Arc::new(command_stop::CommandStop::new(shared())),
    ]
}

/// Resolves a path that may be left out: it stands for the main folder then.
fn resolve_or_root(workspace: &Workspace, path: Option<&str>) -> Result<WorkspacePath, ToolError> {
    Ok(workspace.resolve(path.filter(|path| !path.is_empty()).unwrap_or("."))?)
}

/// Returns the spec of a tool whose arguments are `A`, with a schema of no more bytes than needed:
/// every request carries it.
pub(crate) fn spec<A: JsonSchema>(name: &'static str, description: &'static str) -> ToolSpec {
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|s| {
        s.meta_schema = None;
        s.inline_subschemas = true;
    });
    let schema = settings.into_generator().into_root_schema_for::<A>();
    let mut parameters = schema.to_value();
    compact(&mut parameters);
    ToolSpec { name: name.into(), description: description.into(), parameters }
}

/// Drops what says nothing to a model: titles, integer formats, null beside a type, null defaults.
fn compact(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for key in ["title", "format", "default", "$schema"] {
        map.remove(key);
    }
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            map.insert("type".to_owned(), only);
        }
    }
    for (key, value) in map.iter_mut() {
        match value {
            // The names below `properties` are the tool's own, not schema keywords.
            Value::Object(properties) if key == "properties" => {
                properties.values_mut().for_each(compact);
            }
            Value::Object(_) => compact(value),
            Value::Array(items) => items.iter_mut().for_each(compact),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every request carries the schemas: a longer one must be worth it.
    #[test]
    fn what_the_model_is_told_of_the_tools_stays_small() {
        let place = testing::Place::with(&[]);
        let spool_dir = place.outside().join("spool");
        let limits = crate::config::limits::Limits::full().tools;
        let tools = all(&place.workspace, spool_dir, [], Arc::new(Sandbox::off()), &limits);
        let bytes = |tool: &Arc<dyn Tool>| {
            let ToolSpec { name, description, parameters } = tool.spec();
            let wire = serde_json::json!([name, description, parameters]);
            wire.to_string().len()
        };
        let bytes: usize = tools.iter().map(bytes).sum();
        assert!(bytes < 4000, "{bytes}");
    }
}
