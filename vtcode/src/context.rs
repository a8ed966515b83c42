//! `vtcode context`: what fills the model's window in a session, and what would leave it next.

use std::io::{self, Write as _};

use anyhow::Context as _;
use vtcode_core::config::endpoint::Wire;
use vtcode_core::config::env::Env;
use vtcode_core::core::optimized_agent::contents::Contents;
use vtcode_core::llm::models;
use vtcode_core::safety::preimage::Preimages;

use crate::args::Context;
use crate::exec;
use crate::exit::Exit;
use crate::setup;
use crate::terminal::{clean, one_line};

/// Results that are named of those that would leave next.
const NAMED: usize = 5;

pub(crate) fn run(args: &Context) -> anyhow::Result<Exit> {
    let env = Env::of_process();
    let sessions = setup::sessions(&env)?;
    let id = match &args.session {
        Some(id) => id.clone(),
        None => exec::last_session(&sessions)?,
    };
    let view = sessions.look(&id)?;
    let header = &view.header;
    let mut settings = setup::settings(&header.cwd, None, &env)?;
    // A provider that the user named speaks whatever wire; its models are known by their names.
    let wire = header.provider.parse().unwrap_or(Wire::OpenAiChat);
    let facts = models::of(wire, &header.model, &settings);
    models::fill_in(&mut settings, wire, facts);
    let spool = sessions.reserve(&header.session_id)?;
    let session_dir = spool.parent().context("the session has no folder")?.to_owned();
    let preimages = std::sync::Arc::new(Preimages::open(&session_dir, 0, 0));
    let workspace = exec::workspace(&header.cwd, &header.add_dirs, &spool, &preimages)?;
    let sandbox = setup::quiet_sandbox(&workspace, &settings, &env)?;
    let registry = setup::registry(&workspace, spool, sandbox, &settings, &env)?;
    let contents = Contents::of(&view, &registry.specs(), &settings.limits.agent.context);

    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&contents)?)?;
        return Ok(Exit::Done);
    }
    let text = shown(&contents, &header.session_id, &header.model);
    // Who closed the pipe has seen enough.
    let _ = out.write_all(clean(&text).as_bytes());
    Ok(Exit::Done)
}

fn shown(contents: &Contents, id: &str, model: &str) -> String {
    let mut text = format!("session {id}, {model}\nthe next request holds, about:\n");
    let mut line = |words: &str| {
        text.push_str(words.trim_end());
        text.push('\n');
    };
    let full = contents.window_tokens.unwrap_or(contents.tokens).max(1);
    for row in &contents.rows {
        let share = 100.0 * row.tokens as f64 / full as f64;
        let count = if row.count > 1 { format!("{} of them", row.count) } else { String::new() };
        let what = row.what.words();
        line(&format!("  {what:<28}{:>9} tokens  {share:>5.1} %  {count}", row.tokens));
    }
    line(&format!("  {:<28}{:>9} tokens", "all of it", contents.tokens));
    line(&match (contents.window_tokens, contents.most_tokens) {
        (Some(window), Some(most)) => format!(
            "The window holds {window} tokens; from {most} on, older messages leave it \
             (context.compact_at_percent)."
        ),
        (Some(window), None) => {
            format!(
                "The window holds {window} tokens; nothing leaves it before the provider says so."
            )
        }
        (None, _) => "Nobody knows the window of this model: older messages leave it once the \
                      provider says that a request is too long (context.window_tokens tells it)."
            .to_owned(),
    });
    if let Some(last) = contents.last {
        line(&format!(
            "Of the {} tokens of the last request, the provider had {} in its cache.",
            last.input_tokens, last.cached_input_tokens
        ));
    }
    match contents.next.len() {
        0 => line("Nothing could be put aside now."),
        all => {
            line(&format!("First to leave, of {all} long results:"));
            for leaving in contents.next.iter().take(NAMED) {
                let call = one_line(&format!("{} {}", leaving.tool, leaving.arguments));
                let call: String = call.chars().take(100).collect();
                line(&format!("  {:>9} tokens  {call}", leaving.tokens));
            }
        }
    }
    text
}
