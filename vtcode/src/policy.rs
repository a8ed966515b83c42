//! `vtcode policy check`: a command line and the user's rules come in, what the policy says of it
//! is printed. Runs nothing.

use std::io::{self, Write as _};

use vtcode_core::config::env::Env;
use vtcode_core::safety::policy::{Judgement, Policy};

use crate::args::{self, PolicyCommand};
use crate::exit::Exit;
use crate::setup;
use crate::terminal::clean;

/// Runs `vtcode policy`.
pub(crate) fn run(args: &args::Policy) -> anyhow::Result<Exit> {
    let PolicyCommand::Check { json, cd, words } = &args.command;
    let env = Env::of_process();
    let cwd = setup::folder(cd.as_deref())?;
    let settings = setup::settings(&cwd, None, &env)?;
    let policy = Policy::new(&settings.safety.permissions)?;
    let Judgement { verdict, class, rule, reason, .. } = policy.judge(&words.join(" "), &cwd);
    let mut out = io::stdout().lock();
    // Who closed the pipe wants no answer.
    let _ = if *json {
        let (verdict, class) = (verdict.to_string(), class.to_string());
        let object = serde_json::json!({
            "verdict": verdict, "class": class, "rule": rule, "reason": reason,
        });
        writeln!(out, "{object}")
    } else {
        let (rule, reason) = (clean(&rule), clean(&reason));
        writeln!(out, "verdict: {verdict}\nclass: {class}\nrule: {rule}\nreason: {reason}")
    };
    Ok(Exit::Done)
}
