//! The state machine against every order of events: a model checker walks them all, and a journal
//! kept on the way must give back the conversation that the engine holds. Stories of one case each
//! stand behind it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use super::*;
use crate::config::limits::Limits;
use crate::core::event::{Event, EventKind};
use crate::core::journal::Replay;
use crate::llm::message::tool_calls;
use crate::tools::tool::Detail;

fn limits(calls_started_mid_stream: usize) -> AgentLimits {
    AgentLimits { calls_started_mid_stream, ..Limits::full().agent }
}

fn failure(kind: FailureKind) -> Failure {
    Failure { message: "broke".to_owned(), kind }
}

fn text(words: &str) -> Part {
    Part::Text { text: words.to_owned() }
}

fn call(id: &str) -> ToolCall {
    ToolCall { id: id.to_owned(), name: "tool".to_owned(), arguments: "{}".to_owned() }
}

fn result(id: &str) -> ToolAnswer {
    ToolAnswer {
        call_id: id.to_owned(),
        name: "tool".to_owned(),
        text: format!("result of {id}"),
        is_error: false,
    }
}

fn ended(finish: FinishReason) -> Input {
    let usage = Usage { input_tokens: 10, cached_input_tokens: 0, output_tokens: 1 };
    Input::AnswerEnded { finish, usage, verdict: Verdict::Free }
}

fn judged(verdict: Verdict) -> Input {
    let (finish, usage) = (FinishReason::Stop, Usage::default());
    Input::AnswerEnded { finish, usage, verdict }
}

fn stepped(mut phase: Phase, input: Input, limits: &AgentLimits) -> (Phase, Vec<Action>) {
    let mut actions = Vec::new();
    step(&mut phase, input, limits, &mut actions);
    (phase, actions)
}

/// How much the model and the user may do.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Answers that may be anything; the ones after them are words and end well.
    answers: usize,
    /// Calls in each of them.
    calls: usize,
    prompts: usize,
    /// Times that the conversation may be too long.
    shortened: usize,
}

/// What the driver, the tools and the model know; everything but the phase.
#[derive(Debug, Clone, Default)]
struct World {
    conversation: Vec<Message>,
    /// What the open stream has said.
    stream: Option<Vec<Part>>,
    /// It is a summary, of which the journal keeps no part.
    summing_up: bool,
    /// Times that the conversation was made shorter.
    shortened: usize,
    answers: usize,
    running: BTreeMap<usize, ToolCall>,
    started: BTreeSet<String>,
    results: BTreeSet<String>,
    prompts: usize,
    finished: usize,
    stopped: bool,
    stopped_idle: bool,
    turns: u32,
}

struct Checker {
    limits: AgentLimits,
    bounds: Bounds,
    seen: HashSet<String>,
    closed: usize,
}

impl Checker {
    /// Walks every order of events and returns how many states there were.
    fn walk(limits: AgentLimits, bounds: Bounds) -> usize {
        let mut checker = Self { limits, bounds, seen: HashSet::new(), closed: 0 };
        let mut open = vec![(Phase::Idle, World::default(), Vec::new())];
        while let Some((phase, world, events)) = open.pop() {
            if !checker.seen.insert(format!("{phase:?} {world:?}")) {
                continue;
            }
            checker.check(&phase, &world, &events);
            for input in checker.inputs(&phase, &world) {
                open.push(checker.follow(phase.clone(), world.clone(), events.clone(), input));
            }
        }
        assert!(checker.closed > 0);
        checker.seen.len()
    }

    /// Everything that can happen now.
    fn inputs(&self, phase: &Phase, world: &World) -> Vec<Input> {
        let mut inputs = Vec::new();
        if *phase == Phase::Idle {
            inputs.push(Input::Closed);
            if world.prompts < self.bounds.prompts {
                inputs.push(Input::Prompt("go".into()));
            }
        }
        if let Some(said) = world.stream.as_ref().filter(|_| world.summing_up) {
            if said.is_empty() {
                inputs.push(Input::Part(text("in short")));
                inputs.push(Input::Part(Part::ToolCall(call("in a summary"))));
                inputs.push(Input::AnswerBroke(failure(FailureKind::Unavailable)));
            }
            inputs.push(Input::AnswerBroke(failure(FailureKind::TooLong)));
            inputs.push(ended(FinishReason::Stop));
        } else if let Some(said) = &world.stream {
            let calls = tool_calls(said).count();
            if said.is_empty() && world.shortened < self.bounds.shortened {
                inputs.push(Input::Overfull);
                inputs.push(Input::AnswerBroke(failure(FailureKind::TooLong)));
            }
            if world.answers > self.bounds.answers {
                let last = ended(FinishReason::Stop);
                inputs.push(if said.is_empty() { Input::Part(text("done")) } else { last });
            } else {
                if said.is_empty() {
                    inputs.push(Input::Part(text("words")));
                    inputs.push(Input::Part(text(" \n")));
                }
                if calls < self.bounds.calls {
                    let id = format!("{}.{calls}", world.answers);
                    inputs.push(Input::Part(Part::ToolCall(call(&id))));
                }
                inputs.push(ended(FinishReason::Stop));
                inputs.push(ended(FinishReason::Length));
                inputs.push(ended(FinishReason::Refusal));
                inputs.push(judged(Verdict::Unfit("no JSON".to_owned())));
                inputs.push(Input::AnswerBroke(failure(FailureKind::Stream)));
                inputs.push(Input::AnswerBroke(failure(FailureKind::Unavailable)));
                inputs.push(Input::Spent(Usage::default()));
            }
        }
        inputs.extend(world.running.iter().map(|(at, call)| {
            Input::CallDone(*at, ToolAnswer { is_error: world.stopped, ..result(&call.id) })
        }));
        if !world.stopped && *phase != Phase::Closed {
            inputs.push(Input::Stop(Stop::Interrupted));
            inputs.push(Input::Stop(Stop::Limit(Limit::Wall(Duration::ZERO))));
            inputs.push(Input::Stop(Stop::Failed(failure(FailureKind::Journal))));
        }
        inputs
    }

    /// Lets one thing happen, as the driver does, and checks each action when it is due.
    fn follow(
        &self,
        phase: Phase,
        mut world: World,
        mut events: Vec<EventKind>,
        input: Input,
    ) -> (Phase, World, Vec<EventKind>) {
        let was_idle = phase == Phase::Idle;
        match &input {
            Input::Prompt(Prompt { text, images }) => {
                world.prompts += 1;
                let (text, images) = (text.clone(), images.clone());
                events.push(EventKind::PromptStarted { text, images });
            }
            Input::Part(part) => {
                world.stream.as_mut().unwrap().push(part.clone());
                if !world.summing_up {
                    events.push(EventKind::Part { part: part.clone() });
                }
            }
            Input::AnswerEnded { finish, usage, .. } => {
                (world.stream, world.summing_up) = (None, false);
                events.push(EventKind::ResponseEnded { finish: *finish, usage: *usage });
            }
            // The driver finds out before it sends.
            Input::AnswerBroke(_) | Input::Overfull => {
                (world.stream, world.summing_up) = (None, false);
            }
            Input::CallDone(at, answer) => {
                world.running.remove(at).unwrap();
                world.results.insert(answer.call_id.clone());
                let ToolAnswer { call_id, name, text, is_error } = answer.clone();
                let (detail, waited, ran) = (Detail::Plain, Duration::ZERO, Duration::ZERO);
                events.push(EventKind::ToolFinished {
                    call_id,
                    name,
                    text,
                    is_error,
                    class: None,
                    detail,
                    waited,
                    ran,
                });
            }
            Input::Stop(_) => (world.stopped, world.stopped_idle) = (true, was_idle),
            Input::Spent(_) | Input::Closed => {}
        }
        let stopping = matches!(input, Input::Stop(_));
        let (phase, actions) = stepped(phase, input, &self.limits);
        for (at, action) in actions.iter().enumerate() {
            match action {
                Action::Append(message) => world.conversation.push(message.clone()),
                Action::SendBack(text) => {
                    world.conversation.push(Message::user(text.clone()));
                    events.push(EventKind::AnswerSentBack { text: text.clone() });
                }
                Action::Ask { turn } => {
                    world.turns = *turn;
                    assert!(*turn <= self.limits.max_turns);
                    world.ask();
                    events.push(EventKind::RequestSent {
                        turn: *turn,
                        body_bytes: 0,
                        prefix: None,
                    });
                }
                Action::Again { attempt, cause } => {
                    world.ask();
                    let (attempt, cause, wait) = (*attempt, cause.clone(), Duration::ZERO);
                    events.push(EventKind::Retry { attempt, wait, cause });
                }
                Action::Start(index) => {
                    let call = phase.call(*index).unwrap();
                    assert!(!world.stopped, "a call starts after the stop");
                    assert!(world.started.insert(call.id.clone()), "{} starts twice", call.id);
                    if let Some(said) = &world.stream {
                        let nth = tool_calls(said).position(|c| c == call).unwrap();
                        assert!(nth < self.limits.calls_started_mid_stream);
                    }
                    assert!(world.running.insert(*index, call.clone()).is_none());
                    let (call_id, name) = (call.id.clone(), call.name.clone());
                    let arguments = String::new();
                    events.push(EventKind::ToolStarted { call_id, name, arguments });
                }
                Action::SumUp => {
                    assert!(world.stream.is_none() && world.running.is_empty());
                    (world.stream, world.summing_up) = (Some(Vec::new()), true);
                }
                // What stands in the conversation then is the driver's.
                Action::Compact(_) | Action::Shorten => {
                    assert!(world.stream.is_none() && world.running.is_empty());
                    assert!(matches!(actions[at + 1..], [Action::Ask { .. }]));
                    world.shortened += 1;
                }
                Action::StopAll => {
                    assert!(stopping);
                    (world.stream, world.summing_up) = (None, false);
                }
                Action::Warn(_) => {}
                Action::Finish { end, usage } => {
                    assert_eq!(at + 1, actions.len(), "nothing follows the end");
                    assert!(matches!(phase, Phase::Idle | Phase::Closed));
                    assert!(world.running.is_empty(), "a call outlives its prompt");
                    assert!(world.stream.is_none(), "a stream outlives its prompt");
                    world.finished += 1;
                    events.push(match end {
                        End::Done(_) => EventKind::PromptFinished { usage: *usage },
                        end => EventKind::PromptFailed {
                            error: end.to_string(),
                            class: end.class(),
                            usage: *usage,
                        },
                    });
                }
            }
        }
        (phase, world, events)
    }

    fn check(&mut self, phase: &Phase, world: &World, events: &[EventKind]) {
        let context = || format!("{phase:?}\n{world:?}\n{events:?}");
        let at_rest = matches!(phase, Phase::Idle | Phase::Closed);
        // Something that will come on its own leads on.
        let leads_on = match phase {
            Phase::Idle | Phase::Closed => true,
            Phase::Asking(..) => world.stream.is_some() && !world.summing_up,
            Phase::SummingUp(..) => world.stream.is_some() && world.summing_up,
            Phase::Working(..) => world.stream.is_none() && !world.running.is_empty(),
            Phase::Stopping(..) => world.stopped && !world.running.is_empty(),
        };
        assert!(leads_on, "stuck: {}", context());
        self.closed += usize::from(*phase == Phase::Closed);

        let due = world.prompts - usize::from(!at_rest) + usize::from(world.stopped_idle);
        assert_eq!(world.finished, due, "{}", context());
        well_formed(&world.conversation);
        let answers: Vec<&ToolAnswer> = world
            .conversation
            .iter()
            .flat_map(|message| match message {
                Message::Tool { results } => results.as_slice(),
                _ => &[],
            })
            .collect();
        for answer in &answers {
            let id = &answer.call_id;
            if world.results.contains(id) {
                assert_eq!(answer.text, result(id).text, "{}", context());
            } else {
                // Only a call that never started has no result of its own.
                let never = ToolAnswer::interrupted(&call(id), false);
                assert_eq!(**answer, never, "{}", context());
                assert!(!world.started.contains(id), "{}", context());
            }
        }
        if at_rest {
            let told: Vec<_> = answers.iter().map(|answer| &answer.call_id).collect();
            for id in &world.started {
                assert_eq!(told.iter().filter(|told| **told == id).count(), 1, "{}", context());
            }
        }

        // A journal read after the process died here.
        let mut replay = Replay::default();
        for kind in events {
            replay.take(Event { at: Duration::ZERO, kind: kind.clone() });
        }
        replay.end();
        well_formed(&replay.messages);
        assert!(replay.messages.starts_with(&world.conversation), "{}", context());
        if at_rest {
            assert_eq!(replay.messages, world.conversation, "{}", context());
            assert!(replay.interrupted.is_empty(), "{}", context());
        }
        let open: BTreeSet<_> = world.running.values().map(|call| &call.id).collect();
        let interrupted: BTreeSet<_> = replay.interrupted.iter().map(|call| &call.id).collect();
        assert_eq!(interrupted, open, "{}", context());

        for late in self.late(phase) {
            let (after, actions) = stepped(phase.clone(), late.clone(), &self.limits);
            assert_eq!((&after, actions), (phase, Vec::new()), "{late:?} in {}", context());
        }
    }

    /// What comes too late to mean anything.
    fn late(&self, phase: &Phase) -> Vec<Input> {
        let said = || {
            vec![
                Input::Part(text("late")),
                Input::Part(Part::ToolCall(call("late"))),
                ended(FinishReason::Stop),
                Input::AnswerBroke(failure(FailureKind::Stream)),
                Input::Overfull,
            ]
        };
        let mut late = vec![Input::CallDone(self.bounds.calls, result("unknown"))];
        match phase {
            Phase::Asking(..) => {}
            Phase::SummingUp(..) => {
                late.extend([Input::Overfull, Input::Closed, Input::Prompt("late".into())]);
            }
            Phase::Idle | Phase::Working(..) => late.extend(said()),
            Phase::Stopping(..) => {
                late.extend(said());
                late.push(Input::Stop(Stop::Interrupted));
                late.push(Input::Closed);
            }
            Phase::Closed => {
                late.extend(said());
                late.push(Input::Stop(Stop::Interrupted));
                late.push(Input::Prompt("late".into()));
                late.push(Input::Closed);
            }
        }
        late
    }
}

impl World {
    fn ask(&mut self) {
        assert!(self.stream.is_none() && self.running.is_empty() && !self.stopped);
        self.stream = Some(Vec::new());
        self.answers += 1;
    }
}

/// Every assistant message says something, and its calls are answered right behind it, each once
/// and in the order asked.
fn well_formed(conversation: &[Message]) {
    for (at, message) in conversation.iter().enumerate() {
        match message {
            Message::User { .. } => {}
            Message::Assistant { parts } => {
                assert!(!is_silent(parts), "{conversation:?}");
                let asked: Vec<_> = tool_calls(parts).map(|call| &call.id).collect();
                let next = conversation.get(at + 1);
                let answered: Vec<_> = match next {
                    Some(Message::Tool { results }) => results.iter().map(|a| &a.call_id).collect(),
                    _ => Vec::new(),
                };
                assert_eq!(answered, asked, "{conversation:?}");
            }
            Message::Tool { .. } => {
                let before = at.checked_sub(1).map(|at| &conversation[at]);
                assert!(matches!(before, Some(Message::Assistant { .. })), "{conversation:?}");
            }
        }
    }
}

#[test]
fn every_order_of_events_ends_well_and_the_journal_tells_the_same() {
    for mid_stream in [0, 1, usize::MAX] {
        for (answers, calls, prompts) in [(2, 3, 1), (2, 2, 2)] {
            let states =
                Checker::walk(limits(mid_stream), Bounds { answers, calls, prompts, shortened: 0 });
            assert!(states > 3000, "{states} states");
        }
    }
    // Enough answers to use up all that are asked for again.
    Checker::walk(limits(usize::MAX), Bounds { answers: 4, calls: 1, prompts: 1, shortened: 0 });
}

#[test]
fn every_order_of_events_ends_well_within_two_turns() {
    let limits = AgentLimits { max_turns: 2, ..limits(usize::MAX) };
    Checker::walk(limits, Bounds { answers: 3, calls: 2, prompts: 1, shortened: 0 });
}

#[test]
fn every_order_of_events_ends_well_when_requests_are_too_long() {
    for (answers, calls, shortened) in [(2, 2, 1), (2, 1, 3)] {
        let bounds = Bounds { answers, calls, prompts: 1, shortened };
        let states = Checker::walk(limits(usize::MAX), bounds);
        assert!(states > 1000, "{states} states");
    }
}

#[test]
fn a_request_that_is_too_long_is_shortened_once_and_then_fails() {
    let limits = limits(usize::MAX);
    let too_long = || Input::AnswerBroke(failure(FailureKind::TooLong));
    let (phase, actions) = run(&limits, [too_long()]);
    assert!(matches!(phase, Phase::Asking(..)));
    assert!(matches!(actions[2..], [Action::Shorten, Action::Ask { turn: 1 }]), "{actions:?}");
    let (phase, actions) = run(&limits, [too_long(), too_long()]);
    assert_eq!(phase, Phase::Idle);
    let End::Failed(failed) = end(&actions) else { panic!("{actions:?}") };
    assert_eq!(failed.kind, FailureKind::TooLong);
    // Another request may be shortened again.
    let (phase, _) = run(&limits, [too_long()].into_iter().chain(turn("a")).chain([too_long()]));
    assert!(matches!(phase, Phase::Asking(..)));
}

#[test]
fn a_summary_takes_the_place_of_what_came_before_whatever_becomes_of_it() {
    let limits = limits(usize::MAX);
    let compacted = |inputs: Vec<Input>| {
        let (phase, mut actions) = run(&limits, std::iter::once(Input::Overfull).chain(inputs));
        assert!(matches!(phase, Phase::Asking(..)));
        assert_eq!(actions.pop(), Some(Action::Ask { turn: 1 }));
        assert!(actions.contains(&Action::SumUp));
        actions.pop().unwrap()
    };
    let so = || Some("so and so".to_owned());
    let words = [part("so "), asked("none runs"), part("and so"), ended(FinishReason::Stop)];
    assert_eq!(compacted(words.into()), Action::Compact(so()));
    assert_eq!(compacted(vec![ended(FinishReason::Stop)]), Action::Compact(None));
    let broke = Input::AnswerBroke(failure(FailureKind::Unavailable));
    assert_eq!(compacted(vec![part("so"), broke]), Action::Compact(None));
}

#[test]
fn what_attempts_and_a_summary_used_counts_whatever_became_of_them() {
    let limits = limits(usize::MAX);
    let tokens = |input_tokens| Usage { input_tokens, ..Usage::default() };
    let spent = |input_tokens| Input::Spent(tokens(input_tokens));
    let used = |input_tokens| Input::AnswerEnded {
        finish: FinishReason::Stop,
        usage: tokens(input_tokens),
        verdict: Verdict::Free,
    };
    let total = |inputs: Vec<Input>| {
        let (_, actions) = run(&limits, inputs);
        let Some(Action::Finish { usage, .. }) = actions.last() else { panic!("{actions:?}") };
        usage.input_tokens
    };
    // An attempt, one at the summary, the summary, the answer.
    let summed_up = vec![spent(1), Input::Overfull, spent(10), used(100), part("so"), used(1000)];
    assert_eq!(total(summed_up), 1111);
    let broke = Input::AnswerBroke(failure(FailureKind::Unavailable));
    assert_eq!(total(vec![Input::Overfull, spent(10), broke, part("so"), used(1000)]), 1010);
    // What is known only when the prompt ends already.
    let stop = Input::Stop(Stop::Interrupted);
    let done = Input::CallDone(0, result("a"));
    assert_eq!(total(vec![asked("a"), stop, spent(1), done]), 1);
}

#[test]
fn the_user_is_told_of_what_was_cut_off_or_broke() {
    let limits = limits(usize::MAX);
    let warns = |inputs: Vec<Input>, of: &str| {
        let (_, actions) = run(&limits, inputs);
        actions.iter().any(|action| matches!(action, Action::Warn(text) if text.contains(of)))
    };
    assert!(warns(vec![asked("a"), ended(FinishReason::Length)], "output limit"));
    assert!(!warns(vec![asked("a"), ended(FinishReason::ToolCalls)], ""));
    let broke = || Input::AnswerBroke(failure(FailureKind::Unavailable));
    assert!(warns(vec![asked("a"), broke()], "broke off"));
    assert!(warns(vec![Input::Overfull, broke()], "could not be summed up"));
}

#[test]
fn an_answer_that_has_begun_is_not_given_up_for_a_summary() {
    for begun in [part("words"), asked("a")] {
        let (phase, actions) = run(&limits(usize::MAX), [begun, Input::Overfull]);
        assert!(matches!(phase, Phase::Asking(..)));
        assert!(!actions.contains(&Action::SumUp));
    }
}

/// Steps through inputs and returns the phase and all actions.
fn run(limits: &AgentLimits, inputs: impl IntoIterator<Item = Input>) -> (Phase, Vec<Action>) {
    let (mut phase, mut all) = (Phase::Idle, Vec::new());
    for input in std::iter::once(Input::Prompt("go".into())).chain(inputs) {
        step(&mut phase, input, limits, &mut all);
    }
    (phase, all)
}

fn end(actions: &[Action]) -> &End {
    match actions.last() {
        Some(Action::Finish { end, .. }) => end,
        other => panic!("the prompt goes on: {other:?}"),
    }
}

fn part(words: &str) -> Input {
    Input::Part(text(words))
}

fn asked(id: &str) -> Input {
    Input::Part(Part::ToolCall(call(id)))
}

fn turn(id: &str) -> [Input; 3] {
    [asked(id), ended(FinishReason::ToolCalls), Input::CallDone(0, result(id))]
}

#[test]
fn a_prompt_ends_at_its_turns_and_the_results_are_kept() {
    let limits = AgentLimits { max_turns: 2, ..limits(usize::MAX) };
    let (phase, actions) = run(&limits, [turn("a"), turn("b")].into_iter().flatten());
    assert_eq!(phase, Phase::Idle);
    assert_eq!(*end(&actions), End::Limit(Limit::Turns(2)));
    let before_last = &actions[actions.len() - 2];
    assert_eq!(*before_last, Action::Append(Message::Tool { results: vec![result("b")] }));
}

#[test]
fn an_empty_answer_is_asked_for_again_once_in_a_row() {
    let limits = limits(usize::MAX);
    let empty = || ended(FinishReason::Stop);
    let (phase, actions) = run(&limits, [empty()]);
    assert!(matches!(phase, Phase::Asking(..)));
    assert!(matches!(actions.last(), Some(Action::Again { attempt: 2, .. })));

    let (_, actions) = run(&limits, [part(" \n"), empty(), empty()]);
    let End::Failed(failure) = end(&actions) else { panic!("{actions:?}") };
    assert_eq!(failure.kind, FailureKind::Model);

    let [asked, ended, done] = turn("a");
    let (phase, _) = run(&limits, [empty(), asked, ended, done, empty()]);
    assert!(matches!(phase, Phase::Asking(..)), "the turn between them went well");
}

#[test]
fn thinking_without_a_word_is_an_empty_answer() {
    let thought = Part::Reasoning { text: "hm".to_owned(), signature: None, redacted: false };
    let inputs = [Input::Part(thought), ended(FinishReason::Stop)];
    let (_, actions) = run(&limits(usize::MAX), inputs.clone());
    assert!(matches!(actions.last(), Some(Action::Again { .. })));
    let (_, actions) = run(&limits(usize::MAX), inputs.clone().into_iter().chain(inputs));
    let appended = actions.iter().filter(|action| matches!(action, Action::Append(_))).count();
    assert_eq!(appended, 1, "the prompt alone: {actions:?}");
}

#[test]
fn a_broken_answer_is_asked_for_again_twice_in_a_row() {
    let limits = limits(usize::MAX);
    let broke = || Input::AnswerBroke(failure(FailureKind::Stream));
    let (phase, actions) = run(&limits, [part("I"), broke(), part("I look"), broke()]);
    assert!(matches!(phase, Phase::Asking(..)));
    assert!(matches!(actions.last(), Some(Action::Again { attempt: 3, .. })));

    let (phase, actions) = run(&limits, [broke(), broke(), part("I look."), broke()]);
    assert_eq!(phase, Phase::Idle);
    assert_eq!(*end(&actions), End::Failed(failure(FailureKind::Stream)));
    // What it said whole is kept, as it is after an interruption.
    let kept = Message::Assistant { parts: vec![text("I look.")] };
    assert_eq!(actions[actions.len() - 2], Action::Append(kept));
}

#[test]
fn what_is_no_fault_of_the_stream_is_not_asked_for_again() {
    for kind in [FailureKind::Provider, FailureKind::Unavailable, FailureKind::Model] {
        let (_, actions) = run(&limits(usize::MAX), [Input::AnswerBroke(failure(kind))]);
        assert_eq!(*end(&actions), End::Failed(failure(kind)));
    }
}

#[test]
fn an_answer_that_breaks_after_a_call_goes_on_from_the_call() {
    for mid_stream in [0, usize::MAX] {
        let inputs = [
            part("I look."),
            asked("a"),
            Input::AnswerBroke(failure(FailureKind::Unavailable)),
            Input::CallDone(0, result("a")),
        ];
        let (_, actions) = run(&limits(mid_stream), inputs);
        assert!(actions.iter().any(|action| matches!(action, Action::Warn(_))));
        assert_eq!(*actions.last().unwrap(), Action::Ask { turn: 2 });
        let starts = actions.iter().filter(|action| matches!(action, Action::Start(..))).count();
        assert_eq!(starts, 1);
    }
}

#[test]
fn a_refusal_fails_and_a_cut_answer_is_told() {
    let refused = [part("I can't."), ended(FinishReason::Refusal)];
    let (_, actions) = run(&limits(usize::MAX), refused);
    let End::Failed(failure) = end(&actions) else { panic!("{actions:?}") };
    assert_eq!(failure.kind, FailureKind::Model);
    assert!(failure.message.contains("I can't."));

    let (_, actions) = run(&limits(usize::MAX), [part("So"), ended(FinishReason::Length)]);
    assert_eq!(*end(&actions), End::Limit(Limit::Output));
    assert!(actions.iter().any(|action| matches!(action, Action::Append(_))), "its words stay");

    // Nothing said: the limit went on thinking, and asking again would cost the same again.
    let (_, actions) = run(&limits(usize::MAX), [ended(FinishReason::Length)]);
    assert_eq!(*end(&actions), End::Limit(Limit::Output));
}

#[test]
fn usage_adds_up_over_the_turns() {
    let last = [part("done"), ended(FinishReason::Stop)];
    let (_, actions) = run(&limits(0), turn("a").into_iter().chain(last));
    let Some(Action::Finish { usage, .. }) = actions.last() else { panic!("{actions:?}") };
    assert_eq!((usage.input_tokens, usage.output_tokens), (20, 2));
}

#[test]
fn an_unfit_answer_is_sent_back_once() {
    let no = || judged(Verdict::Unfit("no JSON".to_owned()));
    let yes = judged(Verdict::Fits("{}".to_owned()));
    let (phase, actions) = run(&limits(0), [part("So"), no()]);
    assert!(matches!(phase, Phase::Asking(..)));
    let back = [Action::SendBack("no JSON".to_owned()), Action::Ask { turn: 2 }];
    assert_eq!(actions[actions.len() - 2..], back);

    let (_, actions) = run(&limits(0), [part("So"), no(), part("```{}```"), yes]);
    assert_eq!(*end(&actions), End::Done("{}".to_owned()));

    let (_, actions) = run(&limits(0), [part("So"), no(), part("So"), no()]);
    let End::Failed(failure) = end(&actions) else { panic!("{actions:?}") };
    assert!(failure.kind == FailureKind::Model && failure.message.contains("no JSON"));

    // A call is no last answer, and a limit holds.
    let (phase, _) = run(&limits(0), [part("So"), asked("a"), no()]);
    assert!(matches!(phase, Phase::Working(..)));
    let one = AgentLimits { max_turns: 1, ..limits(0) };
    assert!(matches!(end(&run(&one, [part("So"), no()]).1), End::Failed(_)));
}
