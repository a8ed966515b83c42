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
use crate::exit::{Exit, Usage};
use crate::setup;
use crate::terminal::clean;

/// Runs `vtcode config`.
pub(crate) fn config(args: &Config) -> anyhow::Result<Exit> {
    let env = Env::of_process();
    if let ConfigCommand::Init { user } = args.command {
        return init(user, &env);
    }
    let settings = setup::settings(&setup::folder(None)?, None, &env)?;
    let mut out = io::stdout().lock();
    match args.command {
        ConfigCommand::Init { .. } => {}
        ConfigCommand::Check => {
            let _ = writeln!(out, "the configuration can be used");
        }
        ConfigCommand::Show => {
            for (key, value, origin) in settings.show() {
                let _ = writeln!(out, "{} = {}  # {origin}; {}", key.name, clean(&value), key.doc);
            }
            for (name, value) in settings.named.show() {
                let _ = writeln!(out, "{} = {}  # your file", clean(&name), clean(&value));
            }
        }
    }
    Ok(Exit::Done)
}

/// Every key as a comment; written from the table of keys.
const COMMENTED: &str = include_str!("../../vtcode.toml.example");

/// Runs `vtcode config init`.
fn init(user: bool, env: &Env) -> anyhow::Result<Exit> {
    let folder = if user {
        let folder = env.config_dir();
        let folder = folder.ok_or_else(|| Usage("no home folder: set HOME".to_owned()))?;
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        folder
    } else {
        setup::folder(None)?
    };
    let path = folder.join("vtcode.toml");
    // A link in its place is a file in its place.
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    let written = made.and_then(|mut file| file.write_all(COMMENTED.as_bytes()));
    match written {
        Ok(()) => {
            let _ = writeln!(io::stdout(), "wrote {}", clean(&path.display().to_string()));
            Ok(Exit::Done)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let path = path.display();
            Err(Usage(format!("{path} exists; it is not overwritten")).into())
        }
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
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
