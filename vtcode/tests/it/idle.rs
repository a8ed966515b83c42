//! A program that waits costs nothing: no timer ticks while nothing happens.

use std::path::PathBuf;
use std::time::Duration;

use vtcode_testkit::{Fault, ScriptedModel, say};

use crate::user::User;

/// How often the threads of a process were given the processor, and the ticks that they used.
fn used(pid: u32) -> (u64, u64) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let tasks: Vec<PathBuf> = tasks.map(|task| task.unwrap().path()).collect();
    let switches = tasks.iter().map(|task| {
        let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
        let counts = status.lines().filter(|line| line.contains("ctxt_switches:"));
        counts
            .map(|line| line.rsplit(':').next().unwrap().trim().parse::<u64>().unwrap())
            .sum::<u64>()
    });
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<u64> = fields.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
    (switches.sum(), fields[12] + fields[13])
}

#[tokio::test]
async fn waiting_for_a_silent_model_costs_nothing() {
    let user = User::new();
    let silent = say("never").fault(Fault::StallAfterEvents(0));
    let model = ScriptedModel::start(vec![silent]).await;
    let running = user.exec(&model, "go").start();
    model.wait_for_requests(1).await;
    // What it still does after the request went out, it does soon.
    let mut before = used(running.id());
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = used(running.id());
        if now.0 == before.0 {
            break;
        }
        before = now;
    }
    // Not a wait for something: this is the time that is measured.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = used(running.id());
    let (switches, ticks) = (after.0 - before.0, after.1 - before.1);
    assert!(switches <= 4 && ticks <= 1, "{switches} switches and {ticks} ticks in 2 s");
    running.signal(rustix::process::Signal::INT);
    running.end().await.exits(130);
}
