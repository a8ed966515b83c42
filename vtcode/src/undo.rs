//! `vtcode undo`: a session and a turn come in, its paths are what they were before.
//! Holds the session's lock while it works, so that nothing runs that could change them meanwhile.

use std::io::{self, Write as _};
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::{Value, json};
use vtcode_core::config::env::Env;
use vtcode_core::core::journal::JournalError;
use vtcode_core::safety::preimage::{Conflict, Plan, Preimages, Restored, UndoError, Which};

use crate::args::Undo;
use crate::exec::{note, of_this_folder, workspace};
use crate::exit::{Exit, Usage};
use crate::setup;
use crate::terminal::{clean, file_change, one_line};

/// The files whose differences are shown when nothing was restored.
const SHOWN: usize = 5;

/// Runs `vtcode undo`.
pub(crate) fn run(args: &Undo) -> anyhow::Result<Exit> {
    let env = Env::of_process();
    let sessions = setup::sessions(&env)?;
    let id =
        match &args.session {
            Some(id) => sessions.find(id)?,
            // What another folder's session changed is not meant by who says nothing of it.
            None => of_this_folder(&sessions.list()?).map(|entry| entry.id.clone()).ok_or_else(
                || Usage("no session of this folder; --session names one of another".to_owned()),
            )?,
        };
    let (journal, replay) = sessions.resume(&id).map_err(|error| match error {
        JournalError::InUse { .. } => Usage(error.to_string()).into(),
        other => anyhow::Error::from(other),
    })?;
    let header = replay.header.clone().context("the journal has no header")?;
    let settings = setup::settings(&header.cwd, None, &env)?;
    let undo_bytes = settings.safety.undo_bytes;
    let preimages = Arc::new(Preimages::open(journal.dir(), undo_bytes, replay.turns()));
    if args.list {
        return list(&preimages, args.json);
    }
    let workspace = workspace(&header.cwd, &header.add_dirs, &journal.spool_dir(), &preimages)?;
    let which = match (args.turn, args.all, args.redo) {
        (Some(turn), ..) => Which::Turn(turn),
        (None, true, _) => Which::All,
        (None, false, true) => Which::LastUndo,
        (None, false, false) => Which::Newest,
    };
    let done = preimages.plan(which).and_then(|plan| {
        let done = if args.dry_run {
            preimages.preview(&workspace, &plan)?
        } else {
            preimages.undo(&workspace, &plan)?
        };
        Ok((plan, done))
    });
    for text in preimages.take_notes() {
        note(&text);
    }
    match done {
        Ok((plan, restored)) => Ok(told(args, &id, &plan, &restored)),
        Err(error @ (UndoError::Nothing(_) | UndoError::NoSuchTurn(_))) => {
            Err(Usage(format!("session {id}: {error}")).into())
        }
        Err(UndoError::Changed(conflicts)) => {
            refused(args.json, &conflicts);
            Err(UndoError::Changed(conflicts).into())
        }
        Err(error) => Err(error.into()),
    }
}

fn list(preimages: &Preimages, json: bool) -> anyhow::Result<Exit> {
    let turns = preimages.turns()?;
    if turns.is_empty() && !json {
        note("this session changed nothing that can be taken back");
    }
    let mut out = io::stdout().lock();
    for turn in turns {
        let paths: Vec<_> = turn.paths.iter().map(|path| path.display().to_string()).collect();
        let line = if json {
            json!({"type": "turn", "turn": turn.number, "undone": turn.undone, "paths": paths})
                .to_string()
        } else {
            let undone = if turn.undone { " (undone)" } else { "" };
            clean(&one_line(&format!("turn {}{undone}: {}", turn.number, paths.join(", "))))
        };
        if writeln!(out, "{line}").is_err() {
            break;
        }
    }
    Ok(Exit::Done)
}

/// Tells what was restored, or would be.
fn told(args: &Undo, id: &str, plan: &Plan, restored: &Restored) -> Exit {
    let mut out = io::stdout().lock();
    let mut line = |json: Value, text: String| {
        let text = if args.json { json.to_string() } else { clean(&text) };
        // Who closed the pipe has seen enough; the work is done.
        let _ = writeln!(out, "{text}");
    };
    let did = if args.dry_run { "would restore" } else { "restored" };
    for change in &restored.changes {
        let json = json!({"type": "restored", "dry_run": args.dry_run, "change": change});
        line(json, format!("{did}: {}", file_change(change)));
    }
    for path in &restored.folders_kept {
        let json = json!({"type": "kept", "path": path});
        line(json, format!("kept: {} (something else is in it)", one_line(path)));
    }
    for (path, why) in &plan.lost {
        let path = one_line(&path.display().to_string());
        let json = json!({"type": "lost", "path": path, "why": why});
        line(json, format!("not restored: {path}: {why}"));
    }
    let turns: Vec<_> = plan.turns.iter().map(ToString::to_string).collect();
    let json = json!({
        "type": "undone", "session": id, "turns": plan.turns, "dry_run": args.dry_run,
    });
    if args.json {
        line(json, String::new());
    } else {
        let what = if turns.len() == 1 { "turn" } else { "turns" };
        let done = match (args.dry_run, args.redo) {
            (true, _) => "nothing was changed: this is what undo would do to",
            (false, true) => "taken back again: undo",
            (false, false) => "taken back:",
        };
        note(&format!("{done} {what} {} of session {id}", turns.join(", ")));
    }
    if plan.lost.is_empty() { Exit::Done } else { Exit::Failed }
}

/// Shows what is not as the session left it.
fn refused(json: bool, conflicts: &[Conflict]) {
    if json {
        let mut out = io::stdout().lock();
        for Conflict { path, why, difference } in conflicts {
            let line = json!({
                "type": "changed_since", "path": path, "why": why, "difference": difference,
            });
            let _ = writeln!(out, "{line}");
        }
        return;
    }
    for (nth, Conflict { path, why, difference }) in conflicts.iter().enumerate() {
        note(&format!("{} {why}", one_line(path)));
        if nth < SHOWN && !difference.is_empty() {
            let _ = writeln!(io::stderr(), "{}", clean(difference));
        }
    }
}
