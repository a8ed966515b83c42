//! A session that dies at any record of its journal, and is gone on with: nothing that ran runs
//! again, the model is told what may have run, the same bytes are sent, and the folder is whole.
//!
//! The kernel ends the program: with a bound on the size of its files it dies at the very byte of
//! the journal that passes it (SIGXFSZ, for which nobody listens), as abruptly as by SIGKILL and at
//! the same place each time. SIGKILL itself comes where the session waits for something.
//! `VTCODE_CRASH_STEP` bytes lie between two such places besides those at each record.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::process::{Resource, Rlimit, Signal, prlimit};
use serde_json::{Value, json};
use vtcode_testkit::{Reply, ScriptedModel, call, say, think};

use crate::resume::goes_on;
use crate::user::{Running, User, results, soon};

const SCRIPT: &str = "work";
const GO_ON: &str = "what now?";

fn run(command: &str) -> Reply {
    call("run_command", json!({"command": command}))
}

/// Turns in which most things happen: calls together, an edit, a command that fails, one in the
/// background, a new file.
fn script() -> Vec<Reply> {
    let read = |path: &str| call("read_file", json!({"path": path}));
    let edit = json!({"path": "a.txt", "old_text": "alpha", "new_text": "gamma"});
    let background = json!({
        "command": "echo $$ > pid; echo four >> log; echo ready; sleep 1000",
        "background": true,
    });
    vec![
        think("Hm.")
            .and(say("I look."))
            .and(read("a.txt"))
            .and(read("b.txt"))
            .and(run("echo one >> log")),
        call("edit_file", edit).and(run("echo two >> log; cat a.txt")).and(read("none")),
        run("echo three >> log; exit 3").and(call("run_command", background)),
        call("write_file", json!({"path": "c.txt", "content": "delta\n".repeat(50)}))
            .and(run("echo five >> log")),
        say("Done."),
    ]
}

/// Answers a session's requests from the script, and whatever is asked later with an end.
async fn model() -> ScriptedModel {
    ScriptedModel::start_with(|request, number| {
        let later = String::from_utf8_lossy(&request.body).contains(GO_ON);
        match script().get(number) {
            Some(reply) if !later => reply.clone(),
            _ => say("I see."),
        }
    })
    .await
}

fn user() -> User {
    User::with([("a.txt", "alpha\n"), ("b.txt", "beta\n")])
}

/// Starts the session so that no file of it, its journal before all, grows beyond so many bytes.
async fn start(user: &User, model: &ScriptedModel, most_bytes: Option<u64>) -> Running {
    let go = user.home.path().join("go");
    rustix::fs::mkfifoat(rustix::fs::CWD, &go, rustix::fs::Mode::RWXU).unwrap();
    let url = model.openai_url();
    let waits = r#"ulimit -c 0; read -r line < "$0" && exec "$@""#;
    let args = ["-c", waits, go.to_str().unwrap(), env!("CARGO_BIN_EXE_vtcode")];
    let exec = ["exec", "--model", "scripted", "--base-url", &url, SCRIPT];
    let running = user.program("sh", args.into_iter().chain(exec)).start();
    if let Some(most) = most_bytes {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        prlimit(Some(running.pid()), Resource::Fsize, limit).unwrap();
    }
    // The shell reads it, and the program takes the shell's place, limit and all.
    soon("the shell", tokio::fs::write(go, "go\n")).await.unwrap();
    running
}

fn journal(user: &User) -> Vec<u8> {
    std::fs::read(user.session().join("journal.jsonl")).unwrap()
}

fn records(journal: &[u8]) -> Vec<Value> {
    let whole = journal.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n"));
    whole.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn ids(records: &[Value], kind: &str) -> Vec<String> {
    let of_kind = records.iter().filter(|record| record["type"] == kind);
    of_kind.map(|record| record["call_id"].as_str().unwrap().to_owned()).collect()
}

/// Goes on with a session that died, and checks what must hold wherever it did.
async fn goes_on_well(user: &User, model: &ScriptedModel, at: &str) {
    let before = records(&journal(user));
    let ran_before = user.folder.snapshot();
    let sent = model.requests();
    let resumed = user.vtcode(["resume", "--last", GO_ON]).run().await.exits(0);
    assert_eq!(resumed.stdout, "I see.\n", "{at}");

    let requests = model.requests();
    let [.., next] = &requests[..] else { panic!("{at}") };
    assert_eq!(requests.len(), sent.len() + 1, "{at}: one question, and nothing ran");
    assert!(requests.iter().all(|request| request.error.is_none()), "{at}");
    // A request is recorded before it is sent, so that what was sent begins what is sent now.
    let recorded = before.iter().filter(|record| record["type"] == "request_sent").count();
    assert!(sent.len() <= recorded, "{at}");
    if let Some(last) = sent.last() {
        goes_on(last, next);
    }

    // What the model reads of each call: its result if it is recorded, else what became of it.
    let (started, ended) = (ids(&before, "tool_started"), ids(&before, "tool_finished"));
    let told = results(next);
    let asked: Vec<_> =
        before.iter().filter(|record| record["part"]["type"] == "tool_call").collect();
    assert_eq!(told.len(), asked.len(), "{at}");
    for (call, told) in asked.iter().zip(&told) {
        let id = call["part"]["id"].as_str().unwrap().to_owned();
        let may_have_run = told.contains("interrupted: this call had started and may have run");
        let never_ran = told.contains("interrupted: this call never started");
        let is_open = started.contains(&id) && !ended.contains(&id);
        assert_eq!((may_have_run, never_ran), (is_open, !started.contains(&id)), "{at}: {told}");
        let said = resumed.stderr.matches("had started and may have run").count();
        assert_eq!(said, started.len() - ended.len(), "{at}: {resumed}");
    }

    // The folder: no call ran twice, no file is half written, and going on changed nothing but that
    // what was to take a file's place when the session died does not lie beside it any more.
    let folder = user.folder.snapshot();
    let stays = |name: &&String| !name.starts_with(".vtcode-");
    let left = ran_before.keys().filter(stays).collect::<Vec<_>>();
    assert_eq!(folder.keys().collect::<Vec<_>>(), left, "{at}");
    let text = |name: &str| folder.get(name).map(|bytes| String::from_utf8(bytes.clone()).unwrap());
    let log = text("log").unwrap_or_default();
    let lines: BTreeSet<_> = log.lines().collect();
    assert_eq!(lines.len(), log.lines().count(), "{at}: a tool ran twice: {log}");
    assert!(lines.len() <= ids(&before, "tool_started").len(), "{at}");
    let a = text("a.txt").unwrap();
    assert!(["alpha\n", "gamma\n"].contains(&a.as_str()), "{at}: {a}");
    let c = text("c.txt").unwrap_or_else(|| "delta\n".repeat(50));
    assert_eq!(c, "delta\n".repeat(50), "{at}");
    for name in folder.keys() {
        let known = ["a.txt", "b.txt", "c.txt", "log", "pid"].contains(&name.as_str());
        assert!(known, "{at}: `{name}` was left behind");
    }
    // The journal is whole again, and the session can be gone on with once more.
    let after = records(&journal(user));
    assert_eq!(before[..], after[..before.len()], "{at}: a record was changed");
    assert_eq!(ids(&after, "tool_started"), started, "{at}");
}

async fn is_gone(folder: &Path) {
    let Ok(pid) = std::fs::read_to_string(folder.join("pid")) else { return };
    let Ok(pid) = pid.trim().parse::<u32>() else { return };
    let stat = format!("/proc/{pid}/stat");
    soon("the end of the command in the background", async {
        loop {
            // A zombie that its parent has not asked for yet runs no more; the id may be new.
            let Ok(text) = std::fs::read_to_string(&stat) else { return };
            let runs = text.contains("(bash)") || text.contains("(sh)");
            if !runs || text.rsplit(')').next().unwrap().trim_start().starts_with('Z') {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Lets a session die where its journal has so many bytes; returns how many records it wrote.
async fn dies_at(bytes: u64) -> usize {
    let (user, model) = (user(), model().await);
    let ran = start(&user, &model, Some(bytes)).await.end().await;
    let kept = journal(&user);
    assert_eq!(kept.len() as u64, bytes, "it dies at this very byte: {ran}");
    assert_eq!(ran.code(), None, "{ran}");
    is_gone(user.folder.path()).await;
    let count = records(&kept).len();
    goes_on_well(&user, &model, &format!("after {count} records, {bytes} bytes")).await;
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_dies_at_any_record_of_its_journal_goes_on_and_runs_nothing_twice() {
    let (user, model) = (user(), model().await);
    start(&user, &model, None).await.end().await.exits(0).prints("Done.\n");
    let whole = journal(&user);
    let total = records(&whole).len();
    assert!(total > 45, "{total} records");
    assert_eq!(user.folder.read("log"), "one\ntwo\nthree\nfour\nfive\n");

    let lines: Vec<_> = whole.split_inclusive(|b| *b == b'\n').map(<[u8]>::len).collect();
    let begins: Vec<_> =
        lines.iter().scan(0, |at, len| Some(std::mem::replace(at, *at + len))).collect();
    let step = std::env::var("VTCODE_CRASH_STEP").ok().map(|step| step.parse().unwrap());
    let more = step.into_iter().flat_map(|step| (lines[0]..whole.len()).step_by(step));
    let (mut reached, mut points) = (BTreeSet::new(), 0);
    let mut extra: Vec<_> = more.collect();
    // Behind each record, in the middle of the next one. Times and numbers of processes differ by
    // some bytes from one session to the next, and calls end in another order: what was missed is
    // tried again, elsewhere in the record.
    let most = |reached: &BTreeSet<usize>| reached.len() * 10 >= total * 9;
    for (round, part) in [2, 8, 3, 5, 4, 7].into_iter().enumerate() {
        if round > 2 && most(&reached) {
            break;
        }
        let missed = (1..total).filter(|count| !reached.contains(count));
        let mut places: Vec<_> = missed.map(|n| begins[n] + lines[n] / part).collect();
        places.append(&mut extra);
        points += places.len();
        reached.extend(all_die_at(places).await);
    }
    println!(
        "{points} crashes survived, behind {} of {total} records; no tool ran twice",
        reached.len()
    );
    assert!(most(&reached), "{} of {total}: {reached:?}", reached.len());
}

/// Lets a session die at each of these places; returns how many records each wrote.
async fn all_die_at(places: Vec<usize>) -> Vec<usize> {
    // Some at once: they wait for disks and processes more than they work.
    let (queue, mut dying) = (&mut places.into_iter(), tokio::task::JoinSet::new());
    for place in queue.by_ref().take(4) {
        dying.spawn(dies_at(place as u64));
    }
    let mut reached = Vec::new();
    while let Some(count) = dying.join_next().await {
        reached.push(count.unwrap());
        if let Some(place) = queue.next() {
            dying.spawn(dies_at(place as u64));
        }
    }
    reached
}

#[tokio::test]
async fn a_session_that_is_killed_while_it_waits_goes_on_and_runs_nothing_twice() {
    // For the model, after so many answers.
    for answers in 0..script().len() {
        let user = user();
        let model = ScriptedModel::start_with(move |request, number| {
            let later = String::from_utf8_lossy(&request.body).contains(GO_ON);
            match script().get(number) {
                _ if later => say("I see."),
                Some(reply) if number < answers => reply.clone(),
                _ => say("").fault(vtcode_testkit::Fault::StallAfterEvents(0)),
            }
        })
        .await;
        let running = start(&user, &model, None).await;
        soon("the request", model.wait_for_requests(answers + 1)).await;
        running.signal(Signal::KILL);
        running.end().await;
        is_gone(user.folder.path()).await;
        goes_on_well(&user, &model, &format!("while it waits for answer {answers}")).await;
    }
}

/// Starts a session whose model asks for one call, and answers what is asked later with an end.
async fn one_call(user: &User, asks: Reply, most_bytes: Option<u64>) -> (ScriptedModel, Running) {
    let model = ScriptedModel::start_with(move |request, _| {
        let later = String::from_utf8_lossy(&request.body).contains(GO_ON);
        if later { say("I see.") } else { asks.clone() }
    })
    .await;
    let running = start(user, &model, most_bytes).await;
    (model, running)
}

/// Goes on with a session whose only call was cut off; returns what the model reads of that call.
async fn reads_of_its_call(user: &User, model: &ScriptedModel) -> String {
    user.vtcode(["resume", "--last", GO_ON]).run().await.exits(0).prints("I see.\n");
    let requests = model.requests();
    assert_eq!(requests.len(), 2, "one question, and the call did not run again");
    goes_on(&requests[0], &requests[1]);
    let [told] = &results(&requests[1])[..] else { panic!("it asked for one call") };
    told.clone()
}

#[tokio::test]
async fn a_call_that_is_killed_while_it_waits_for_a_pipe_may_have_run_and_never_runs_again() {
    let user = user();
    let pipe = user.folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let command = run("echo $$ > pid; echo once >> log; read -r line < pipe; echo twice >> log");
    let (model, running) = one_call(&user, command, None).await;
    // It can be opened once the command has opened it, too, and waits for a line.
    let mut options = tokio::fs::OpenOptions::new();
    let writer = soon("the command", options.write(true).open(&pipe)).await.unwrap();
    running.signal(Signal::KILL);
    running.end().await;
    is_gone(user.folder.path()).await;
    drop(writer);
    let told = reads_of_its_call(&user, &model).await;
    assert!(told.contains("interrupted: this call had started and may have run"), "{told}");
    assert_eq!(user.folder.read("log"), "once\n");
}

#[tokio::test]
async fn a_file_that_was_to_take_anothers_place_is_gone_when_the_session_goes_on() {
    // It dies while it writes the file that is to replace this one, which is then the longest.
    let content = format!("alpha\n{}", "a line of many\n".repeat(20_000));
    let user = User::with([("big.txt", content.as_str())]);
    let foreign = ".vtcode-0123456789abcdef0123456789abcdef.tmp";
    user.folder.write(foreign, "another process writes this");
    let edit = json!({"path": "big.txt", "old_text": "alpha", "new_text": "gamma"});
    let (model, running) = one_call(&user, call("edit_file", edit), Some(200_000)).await;
    let ran = running.end().await;
    assert_eq!(ran.code(), None, "{ran}");
    let aside = |user: &User| {
        let names = user.folder.snapshot().into_keys();
        names.filter(|name| name.starts_with(".vtcode-") && name != foreign).count()
    };
    assert_eq!(aside(&user), 1, "{ran}");

    let told = reads_of_its_call(&user, &model).await;
    assert!(told.contains("interrupted: this call had started and may have run"), "{told}");
    assert_eq!(aside(&user), 0);
    assert_eq!(user.folder.read(foreign), "another process writes this");
    assert_eq!(user.folder.read("big.txt"), content);
}
