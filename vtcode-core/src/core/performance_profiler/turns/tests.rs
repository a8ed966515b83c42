use proptest::prelude::*;

use super::super::scenes::{done, ended, finished, prompt, sent, started};
use super::*;
use crate::llm::message::Usage;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn turns(events: impl IntoIterator<Item = (u64, EventKind)>) -> Turns {
    let mut turns = Turns::default();
    for (at, kind) in events {
        turns.take(&Event { at: ms(at), kind });
    }
    turns
}

fn only(turns: &Turns) -> &TurnProfile {
    assert_eq!(turns.iter().count(), 1);
    turns.iter().next().unwrap()
}

#[test]
fn a_turn_says_what_it_waited_for_and_what_a_free_tool_would_save() {
    let turns = turns([
        (100, prompt()),
        (101, sent(1)),
        (2101, EventKind::FirstByte),
        (4200, ended()),
        (4200, started("list_files")),
        (4201, started("grep_file")),
        (4301, done("list_files", 0, 100)),
        (4501, done("grep_file", 0, 300)),
        (4502, finished()),
    ]);
    assert_eq!(
        only(&turns).to_string(),
        "turn 1: 4.10 s model, 300.0 ms tools, 3.0 ms us; making grep_file free saves 200.0 ms"
    );
    assert_eq!(turns.stage(Stage::ModelWait).max, ms(4099));
    assert_eq!(turns.stage(Stage::FirstByte).max, ms(2000));
    assert_eq!(turns.stage(Stage::Stream).max, ms(2099));
    assert_eq!((turns.stage(Stage::ToolRun).count, turns.stage(Stage::ToolRun).max), (2, ms(300)));
    assert_eq!(turns.stage(Stage::Parse).count, 0, "it was not measured");
}

#[test]
fn a_call_that_waited_for_another_is_on_the_path_behind_it() {
    // One slot: b runs when a is through.
    let turns = turns([
        (0, prompt()),
        (0, sent(1)),
        (50, EventKind::FirstByte),
        (60, started("a")),
        (61, started("b")),
        (100, ended()),
        (260, done("a", 0, 200)),
        (361, done("b", 199, 100)),
        (361, finished()),
    ]);
    let path = only(&turns).critical_path();
    let pieces: Vec<_> = path.segments.iter().map(|s| (&s.on, s.took())).collect();
    let tool = |name: &str| Waited::Tool(name.to_owned());
    assert_eq!(
        pieces,
        [
            (&Waited::Model, ms(60)),
            (&tool("a"), ms(200)),
            (&Waited::Us, ms(1)),
            (&tool("b"), ms(100)),
        ],
        "a began while the answer still came"
    );
    let saves: Vec<_> = path.savings.iter().map(|s| (s.tool.as_str(), s.saves)).collect();
    assert_eq!(saves, [("a", ms(200)), ("b", ms(100))]);
}

#[test]
fn a_call_that_was_through_before_the_answer_costs_nothing() {
    let turns = turns([
        (0, prompt()),
        (0, sent(1)),
        (10, EventKind::FirstByte),
        (20, started("a")),
        (50, done("a", 0, 30)),
        (100, ended()),
        (101, finished()),
    ]);
    let path = only(&turns).critical_path();
    assert_eq!(path.waited(|on| *on == Waited::Model), ms(100));
    assert!(path.savings.is_empty(), "{path:?}");
}

#[test]
fn a_question_to_the_user_is_neither_the_tools_nor_ours() {
    let turns = turns([
        (0, prompt()),
        (0, sent(1)),
        (10, EventKind::FirstByte),
        (20, ended()),
        (20, started("run_command")),
        (5030, done("run_command", 5000, 10)),
        (5030, finished()),
    ]);
    assert_eq!(
        only(&turns).to_string(),
        "turn 1: 20.0 ms model, 10.0 ms tools, 0 µs us, 5.00 s waiting for leave or a slot; making \
         run_command free saves 10.0 ms"
    );
}

#[test]
fn an_attempt_that_failed_is_the_models_time_and_prompts_are_apart() {
    let wait = ms(100);
    let turns = turns([
        (0, prompt()),
        (5, sent(1)),
        (10, EventKind::FirstByte),
        (20, EventKind::Retry { attempt: 2, wait, cause: String::new() }),
        (150, EventKind::FirstByte),
        (160, ended()),
        (161, finished()),
        (9000, prompt()),
        (9002, sent(1)),
        (
            9500,
            EventKind::PromptFailed { error: String::new(), class: None, usage: Usage::default() },
        ),
    ]);
    let both: Vec<_> = turns.iter().collect();
    assert_eq!((both[0].attempts.len(), both[0].total()), (2, ms(161)));
    assert_eq!(both[0].critical_path().waited(|on| *on == Waited::Model), ms(155));
    assert_eq!((both[1].number, both[1].of_prompt, both[1].total()), (2, 1, ms(500)));
    assert_eq!(both[1].answered(), Some(ms(9500)), "it never was; its wait ends with the prompt");
    assert_eq!(turns.stage(Stage::FirstByte).count, 2);
    assert_eq!(turns.stage(Stage::Idle).max, ms(9000 - 161));
    assert_eq!(turns.slowest().unwrap().number, 2);
}

#[test]
fn our_own_work_is_told_apart_where_it_was_measured() {
    let work = OwnWork { render: ms(1), journal: ms(2), parse: ms(3), cache_check: Duration::ZERO };
    let turns = turns([
        (0, prompt()),
        (5, sent(1)),
        (10, ended()),
        (10, EventKind::OwnWork { work }),
        (11, EventKind::OwnWork { work }),
        (11, finished()),
    ]);
    assert_eq!(only(&turns).own.parse, ms(6));
    let counts = [Stage::Render, Stage::Journal, Stage::Parse, Stage::CacheCheck]
        .map(|stage| turns.stage(stage).count);
    assert_eq!(counts, [2, 2, 2, 0]);
}

#[test]
fn the_newest_turns_are_kept_and_all_are_counted() {
    let more = (1..=TURNS as u64 + 10).flat_map(|n| [(n * 10, sent(1)), (n * 10 + 5, ended())]);
    let turns = turns([(0, prompt())].into_iter().chain(more));
    assert_eq!((turns.count(), turns.iter().count()), (TURNS as u64 + 10, TURNS));
    assert_eq!(turns.stage(Stage::ModelWait).count, TURNS as u64 + 10);
}

fn wild() -> impl Strategy<Value = Vec<(u64, EventKind)>> {
    let names = prop_oneof![Just("a"), Just("b"), Just("c")];
    let kind = prop_oneof![
        Just(prompt()),
        Just(sent(1)),
        Just(EventKind::FirstByte),
        Just(EventKind::Retry { attempt: 2, wait: ms(7), cause: String::new() }),
        names.clone().prop_map(started),
        (names, 0u64..90, 0u64..90).prop_map(|(name, waited, ran)| done(name, waited, ran)),
        Just(ended()),
        Just(finished()),
    ];
    // Now and then an event comes a little late.
    let step = prop_oneof![5 => 0i64..60, 1 => -20i64..0];
    proptest::collection::vec((step, kind), 0..40).prop_map(|steps| {
        let mut at = 100_i64;
        let timed = steps.into_iter().map(|(step, kind)| {
            at = (at + step).max(0);
            (at.unsigned_abs(), kind)
        });
        timed.collect()
    })
}

proptest! {
    /// Whatever order events come in: a path has no gaps, covers the turn, and no tool saves more
    /// than the turn took.
    #[test]
    fn a_path_covers_its_turn(events in wild()) {
        for turn in turns(events).iter() {
            let path = turn.critical_path();
            let mut at = turn.began;
            for segment in &path.segments {
                prop_assert_eq!(segment.from, at);
                prop_assert!(segment.until > segment.from);
                at = segment.until;
            }
            prop_assert_eq!(at, turn.ended.max(turn.began));
            for saving in &path.savings {
                prop_assert!(saving.saves <= turn.total(), "{:?} of {:?}", saving, turn);
            }
        }
    }
}
