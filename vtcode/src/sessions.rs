//! `vtcode sessions`: lists from the index alone, and deletes.

use std::io::{self, Write as _};

use vtcode_core::config::env::Env;
use vtcode_core::core::journal::SessionStatus;

use crate::args::{Sessions, SessionsCommand};
use crate::exit::Exit;
use crate::setup;
use crate::terminal::{clean, one_line};

pub(crate) fn run(args: &Sessions) -> anyhow::Result<Exit> {
    let env = Env::of_process();
    let sessions = setup::sessions(&env)?;
    let mut out = io::stdout().lock();
    if let Some(SessionsCommand::Delete { sessions: ids }) = &args.command {
        // All names are looked up before anything is removed.
        let ids: Vec<String> = ids.iter().map(|id| sessions.find(id)).collect::<Result<_, _>>()?;
        for id in ids {
            sessions.delete(&id)?;
            let _ = writeln!(out, "deleted {id}");
        }
        return Ok(Exit::Done);
    }
    let entries = sessions.list()?;
    if entries.is_empty() && !args.json {
        let _ = writeln!(io::stderr(), "no sessions yet; `vtcode exec` begins one");
    }
    let now = setup::now_ms();
    for entry in entries {
        if args.json {
            let _ = writeln!(out, "{}", serde_json::to_string(&entry)?);
            continue;
        }
        let status = match entry.status {
            SessionStatus::Open => "open",
            SessionStatus::Done => "done",
            SessionStatus::Failed => "failed",
            SessionStatus::Interrupted => "interrupted",
            SessionStatus::Deleted => "deleted",
        };
        let line = format!(
            "{}  {:>8}  {status:<11}  {}  {}",
            entry.id,
            ago(now.saturating_sub(entry.updated_at_ms)),
            entry.cwd.display(),
            entry.title,
        );
        if writeln!(out, "{}", clean(&one_line(&line))).is_err() {
            break;
        }
    }
    Ok(Exit::Done)
}

/// Writes how long ago something was.
fn ago(ms: u64) -> String {
    match ms / 1000 {
        s if s < 60 => format!("{s} s ago"),
        s if s < 3600 => format!("{} min ago", s / 60),
        s if s < 86_400 => format!("{} h ago", s / 3600),
        s => format!("{} d ago", s / 86_400),
    }
}
