//! The commands that need no model: what the configuration is, what a model gets, one patch.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::sync::Arc;

use anyhow::Context as _;
use vtcode_core::config::env::Env;
use vtcode_core::safety::sandbox::Sandbox;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::builtin::apply_patch;

use crate::args::{ApplyPatch, Config, ConfigCommand, Prompt, PromptCommand};
use crate::exit::Exit;
use crate::setup;
use crate::terminal::clean;

/// Runs `vtcode config`.
pub(crate) fn config(args: &Config) -> anyhow::Result<Exit> {
    let env = Env::of_process();
    let settings = setup::settings(&setup::folder(None)?, None, &env)?;
    let mut out = io::stdout().lock();
    match args.command {
        ConfigCommand::Check => {
            let _ = writeln!(out, "the configuration can be used");
        }
        ConfigCommand::Show => {
            for (key, value, origin) in settings.show() {
                let _ = writeln!(out, "{} = {}  # {origin}; {}", key.name, clean(&value), key.doc);
            }
        }
    }
    Ok(Exit::Done)
}

/// Runs `vtcode prompt show`.
pub(crate) fn prompt(args: &Prompt) -> anyhow::Result<Exit> {
    let PromptCommand::Show = args.command;
    let env = Env::of_process();
    let cwd = setup::folder(None)?;
    let settings = setup::settings(&cwd, None, &env)?;
    let workspace = Arc::new(Workspace::open(&cwd)?);
    // Nothing runs here, so nothing is spooled.
    let spool = std::env::temp_dir();
    let registry = setup::registry(&workspace, spool, Sandbox::off(), &settings, &env)?;
    let mut text = format!("{}\n\n", setup::system_prompt(&workspace, &registry, &env));
    for spec in registry.specs() {
        let _ = writeln!(text, "## {}\n{}\n{}\n", spec.name, spec.description, spec.parameters);
    }
    let mut out = io::stdout().lock();
    // The exact bytes, except where an AGENTS.md could control the terminal with them.
    let text = if out.is_terminal() { clean(&text) } else { text };
    let _ = out.write_all(text.as_bytes());
    Ok(Exit::Done)
}

/// The longest patch that is read.
const PATCH_BYTES: u64 = 64 << 20;

/// Runs `vtcode apply-patch`.
pub(crate) fn apply_patch(args: ApplyPatch) -> anyhow::Result<Exit> {
    let patch = if let Some(patch) = args.patch {
        patch
    } else {
        let mut text = String::new();
        let mut stdin = io::stdin().lock().take(PATCH_BYTES);
        stdin.read_to_string(&mut text).context("cannot read the patch from stdin")?;
        text
    };
    let workspace = Workspace::open(&setup::folder(None)?)?;
    let applied = apply_patch::apply(&workspace, &patch)?;
    let _ = writeln!(io::stdout(), "{}", clean(&applied.to_string()));
    Ok(Exit::Done)
}
