//! The engine's state machine: a phase and an input go in, the next phase and what is to be done
//! come out.
//! Knows no clock, no disk and no network, so every interleaving can be tried in a test.

use std::mem::take;

use crate::config::limits::AgentLimits;
use crate::core::event::ErrorClass;
use crate::core::journal::is_silent;
use crate::core::memory_budget::OutOfMemory;
use crate::llm::message::{
    FinishReason, Message, Part, Prompt, ToolAnswer, ToolCall, Usage, words,
};

/// Answers in a row without a word or a call that are asked for again before the prompt fails.
const EMPTY_ANSWERS_ALLOWED: u32 = 1;
/// Answers in a row that broke off before their first call that are asked for again.
const BROKEN_ANSWERS_ALLOWED: u32 = 2;
/// Last answers that do not fit the schema asked for and are sent back.
const UNFIT_ANSWERS_ALLOWED: u32 = 1;

/// Where a session stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    /// Nothing to do until the next prompt.
    Idle,
    /// A request is out and its answer may be streaming.
    Asking(Task, Answer),
    /// The answer is complete and some of its calls still run.
    Working(Task, Answer),
    /// The model sums up what came before, because the next request would not fit into its window;
    /// its words so far.
    SummingUp(Task, String),
    /// The prompt ends early; its running calls are being ended.
    Stopping(Task, Answer, End),
    /// No further input will come.
    Closed,
}

/// What a prompt has used so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Task {
    pub(crate) turns: u32,
    pub(crate) usage: Usage,
    empty: u32,
    broken: u32,
    unfit: u32,
    /// The conversation was shortened because the provider found this request too long.
    shortened: bool,
}

/// The answer to one request, as far as it has come.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answer {
    parts: Vec<Part>,
    calls: Vec<Call>,
}

#[derive(Debug, Clone, PartialEq)]
struct Call {
    /// Which of the parts it is.
    part: usize,
    state: CallState,
}

#[derive(Debug, Clone, PartialEq)]
enum CallState {
    Waiting,
    Running,
    Done(ToolAnswer),
}

/// What happens to a session.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Input {
    Prompt(Prompt),
    /// A part of the answer is complete.
    Part(Part),
    AnswerEnded {
        finish: FinishReason,
        usage: Usage,
        verdict: Verdict,
    },
    AnswerBroke(Failure),
    /// The request would not fit into the model's window.
    Overfull,
    /// An attempt that gave no answer used tokens all the same.
    Spent(Usage),
    /// The call at this place in the answer gave its result.
    CallDone(usize, ToolAnswer),
    /// The prompt must end early.
    Stop(Stop),
    /// No further prompt will come.
    Closed,
}

impl Input {
    /// Returns whether the next thing to happen may be a request.
    pub(crate) fn may_begin_turn(&self) -> bool {
        matches!(self, Self::Prompt(_) | Self::AnswerEnded { .. } | Self::CallDone(..))
    }
}

/// What the words of a whole answer are worth, should they be the last ones.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// Any words will do.
    Free,
    /// They are a value of the kind that was asked for; the value's text.
    Fits(String),
    /// They are not; what is wrong with them.
    Unfit(String),
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Add a message to the conversation.
    Append(Message),
    /// Send the conversation to the model.
    Ask {
        turn: u32,
    },
    /// The same request goes out again, because its answer was lost.
    Again {
        attempt: u32,
        cause: String,
    },
    /// Ask the model to sum up what came before.
    SumUp,
    /// Put this summary, or what is known without one, in the place of what came before.
    Compact(Option<String>),
    /// Shorten the conversation without the model, which finds it too long.
    Shorten,
    /// Tell the model what is wrong with its last answer.
    SendBack(String),
    /// Hand the call at this place in the answer to the pipeline.
    Start(usize),
    /// End the stream and all running calls.
    StopAll,
    Warn(String),
    /// The prompt is over.
    Finish {
        end: End,
        usage: Usage,
    },
}

/// Why a request gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong and what to do.
    pub message: String,
    /// What kind of thing went wrong.
    pub kind: FailureKind,
}

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// No provider could be reached, or it refused the request.
    Provider,
    /// The provider answered with failures of its own until no retry was left.
    Unavailable,
    /// The answer broke off or could not be read; asking again may help.
    Stream,
    /// The request is longer than the model can read.
    TooLong,
    /// The model's answer was of no use.
    Model,
    /// The session could not be kept.
    Journal,
}

impl FailureKind {
    /// Returns whose failure it is.
    pub fn class(self) -> ErrorClass {
        match self {
            Self::Provider | Self::Unavailable | Self::Stream | Self::TooLong => {
                ErrorClass::Provider
            }
            Self::Model => ErrorClass::Model,
            Self::Journal => ErrorClass::Environment,
        }
    }
}

/// Why a prompt must end early.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stop {
    Interrupted,
    Limit(Limit),
    Failed(Failure),
}

/// A limit that the user set.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Limit {
    /// `--max-turns`.
    Turns(u32),
    /// `--max-tokens`.
    Tokens(u64),
    /// `--max-cost`, in US dollars.
    Cost(f64),
    /// `--max-wall`.
    Wall(std::time::Duration),
    /// `optimization.agent_execution.max_memory_mb`.
    Memory(OutOfMemory),
    /// The most that the model says in one answer: its own bound, or `limits.max_output_tokens`.
    Output,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Turns(1) => write!(f, "the limit of 1 turn was reached (--max-turns)"),
            Self::Turns(n) => write!(f, "the limit of {n} turns was reached (--max-turns)"),
            Self::Tokens(n) => write!(
                f,
                "the limit of {n} tokens was reached: the next request would pass it (--max-tokens)"
            ),
            Self::Cost(usd) => write!(
                f,
                "the limit of ${usd} was reached: the next request would pass it (--max-cost)"
            ),
            Self::Memory(full) => write!(f, "the memory limit was reached: {full}"),
            Self::Wall(d) => write!(f, "the time limit of {d:?} was reached (--max-wall)"),
            Self::Output => f.write_str(
                "the answer was cut off at the output limit (limits.max_output_tokens, or the model's own)",
            ),
        }
    }
}

/// How a prompt ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum End {
    /// The model said that it is done; its last words.
    Done(String),
    /// It could not be done.
    Failed(Failure),
    /// A limit ended it.
    Limit(Limit),
    /// The user ended it.
    Interrupted,
}

/// Takes the session to where it stands once `input` has happened, and adds to `actions` what is
/// then to be done, in order. An input that has no meaning in a phase (a result that comes after
/// everything was stopped) changes nothing.
///
/// The phase changes where it lies and the actions go into a list that is used again: moving the
/// one and making the other was most of what a transition cost (bench: engine).
pub(crate) fn step(
    phase: &mut Phase,
    input: Input,
    limits: &AgentLimits,
    actions: &mut Vec<Action>,
) {
    let next = match (&mut *phase, input) {
        (Phase::Idle, Input::Prompt(prompt)) => {
            let task = Task { turns: 1, ..Task::default() };
            actions.extend([Action::Append(prompt.into()), Action::Ask { turn: 1 }]);
            Phase::Asking(task, Answer::default())
        }
        (Phase::Idle, Input::Closed) => Phase::Closed,
        (Phase::Idle, Input::Stop(stop)) => {
            actions.push(finish(stop.into(), &Task::default()));
            Phase::Closed
        }
        (Phase::Asking(_, answer), Input::Part(part)) => {
            return answer.take_part(part, limits, actions);
        }
        (Phase::Asking(task, answer), Input::AnswerEnded { finish, usage, verdict }) => {
            task.usage += usage;
            answer_ended(take(task), take(answer), (finish, verdict), limits, actions)
        }
        (
            Phase::Asking(task, _) | Phase::SummingUp(task, _) | Phase::Stopping(task, ..),
            Input::Spent(usage),
        ) => {
            task.usage += usage;
            return;
        }
        (Phase::Asking(task, answer), Input::AnswerBroke(failure)) => {
            answer_broke(take(task), take(answer), failure, limits, actions)
        }
        (Phase::Asking(_, answer), Input::CallDone(index, result)) => {
            return answer.done(index, result);
        }
        (Phase::Asking(task, answer), Input::Overfull) if *answer == Answer::default() => {
            actions.push(Action::SumUp);
            Phase::SummingUp(take(task), String::new())
        }
        (Phase::SummingUp(_, words), Input::Part(Part::Text { text })) => {
            return words.push_str(&text);
        }
        (Phase::SummingUp(task, words), Input::AnswerEnded { usage, .. }) => {
            task.usage += usage;
            let summary = Some(take(words)).filter(|words| !words.trim().is_empty());
            summed_up(take(task), summary, actions)
        }
        (Phase::SummingUp(task, _), Input::AnswerBroke(failure)) => {
            actions.push(Action::Warn(format!(
                "the conversation could not be summed up, so less of it is kept: {}",
                failure.message
            )));
            summed_up(take(task), None, actions)
        }
        (Phase::SummingUp(task, _), Input::Stop(stop)) => {
            actions.push(Action::StopAll);
            stopping(take(task), Answer::default(), stop.into(), actions)
        }
        (Phase::Working(task, answer), Input::CallDone(index, result)) => {
            answer.done(index, result);
            if !answer.has_all_results() {
                return;
            }
            next_turn(take(task), take(answer), limits, actions)
        }
        (Phase::Stopping(task, answer, end), Input::CallDone(index, result)) => {
            answer.done(index, result);
            let end = std::mem::replace(end, End::Interrupted);
            stopping(take(task), take(answer), end, actions)
        }
        (Phase::Asking(task, answer) | Phase::Working(task, answer), Input::Stop(stop)) => {
            actions.push(Action::StopAll);
            stopping(take(task), take(answer), stop.into(), actions)
        }
        _ => return,
    };
    *phase = next;
}

/// The request that did not fit follows the summary, whatever became of that.
fn summed_up(task: Task, summary: Option<String>, actions: &mut Vec<Action>) -> Phase {
    actions.extend([Action::Compact(summary), Action::Ask { turn: task.turns }]);
    Phase::Asking(task, Answer::default())
}

fn answer_ended(
    mut task: Task,
    mut answer: Answer,
    (reason, verdict): (FinishReason, Verdict),
    limits: &AgentLimits,
    actions: &mut Vec<Action>,
) -> Phase {
    if !answer.calls.is_empty() {
        answer.start_waiting(actions);
        if reason == FinishReason::Length {
            actions.push(Action::Warn(
                "the answer was cut off at the output limit after a tool call and goes on from it"
                    .to_owned(),
            ));
        }
        return next_turn(task, answer, limits, actions);
    }
    let text = words(&answer.parts);
    // One that spent all its tokens on thinking would do so again.
    if text.trim().is_empty() && !matches!(reason, FinishReason::Refusal | FinishReason::Length) {
        if task.empty < EMPTY_ANSWERS_ALLOWED {
            task.empty += 1;
            actions.push(Action::Again {
                attempt: task.empty + 1,
                cause: "the model gave an empty answer".to_owned(),
            });
            return Phase::Asking(task, Answer::default());
        }
        let failure = Failure {
            message: "the model gave an empty answer, twice; try another model, or say more in \
                      the prompt"
                .to_owned(),
            kind: FailureKind::Model,
        };
        actions.push(finish(End::Failed(failure), &task));
        return Phase::Idle;
    }
    answer.give_messages(actions);
    let useless = |message| End::Failed(Failure { message, kind: FailureKind::Model });
    let end = match (reason, verdict) {
        (FinishReason::Length, _) => End::Limit(Limit::Output),
        (FinishReason::Refusal, _) => useless(match text.trim() {
            "" => "the model, or a filter of its provider, refused without a word".to_owned(),
            words => format!("the model refused: {words}"),
        }),
        (_, Verdict::Free) => End::Done(text),
        (_, Verdict::Fits(json)) => End::Done(json),
        (_, Verdict::Unfit(problems))
            if task.unfit < UNFIT_ANSWERS_ALLOWED && task.turns < limits.max_turns =>
        {
            task.unfit += 1;
            actions.push(Action::SendBack(problems));
            return ask_next(task, answer, actions);
        }
        (_, Verdict::Unfit(problems)) => {
            useless(format!("the answer is not what --output-schema asks for: {problems}"))
        }
    };
    actions.push(finish(end, &task));
    Phase::Idle
}

/// A broken answer that holds calls counts as ended: they ran, or run, and are not asked for again.
fn answer_broke(
    mut task: Task,
    mut answer: Answer,
    failure: Failure,
    limits: &AgentLimits,
    actions: &mut Vec<Action>,
) -> Phase {
    if !answer.calls.is_empty() {
        actions.push(Action::Warn(format!(
            "the answer broke off after a tool call and goes on from it: {}",
            failure.message
        )));
        answer.start_waiting(actions);
        return next_turn(task, answer, limits, actions);
    }
    if failure.kind == FailureKind::TooLong && !task.shortened {
        task.shortened = true;
        actions.extend([Action::Shorten, Action::Ask { turn: task.turns }]);
        return Phase::Asking(task, Answer::default());
    }
    if failure.kind == FailureKind::Stream && task.broken < BROKEN_ANSWERS_ALLOWED {
        task.broken += 1;
        actions.push(Action::Again { attempt: task.broken + 1, cause: failure.message });
        return Phase::Asking(task, Answer::default());
    }
    answer.give_messages(actions);
    actions.push(finish(End::Failed(failure), &task));
    Phase::Idle
}

/// Goes on once every call of a complete answer has its result.
fn next_turn(
    task: Task,
    mut answer: Answer,
    limits: &AgentLimits,
    actions: &mut Vec<Action>,
) -> Phase {
    if !answer.has_all_results() {
        return Phase::Working(task, answer);
    }
    answer.give_messages(actions);
    if task.turns >= limits.max_turns {
        actions.push(finish(End::Limit(Limit::Turns(limits.max_turns)), &task));
        return Phase::Idle;
    }
    ask_next(task, answer, actions)
}

/// Asks with what was added to the conversation. The answer to come takes the place of one whose
/// messages were given.
fn ask_next(mut task: Task, mut answer: Answer, actions: &mut Vec<Action>) -> Phase {
    task.turns += 1;
    (task.empty, task.broken, task.shortened) = (0, 0, false);
    actions.push(Action::Ask { turn: task.turns });
    answer.parts.clear();
    answer.calls.clear();
    Phase::Asking(task, answer)
}

/// Ends the prompt once no call runs any more.
fn stopping(task: Task, mut answer: Answer, end: End, actions: &mut Vec<Action>) -> Phase {
    if answer.calls.iter().any(|call| call.state == CallState::Running) {
        return Phase::Stopping(task, answer, end);
    }
    answer.give_messages(actions);
    actions.push(finish(end, &task));
    Phase::Closed
}

fn finish(end: End, task: &Task) -> Action {
    Action::Finish { end, usage: task.usage }
}

impl Phase {
    /// Returns the call at this place in the answer that is being worked on.
    pub(crate) fn call(&self, index: usize) -> Option<&ToolCall> {
        match self {
            Self::Asking(_, answer) | Self::Working(_, answer) | Self::Stopping(_, answer, _) => {
                answer.call(answer.calls.get(index)?.part)
            }
            Self::Idle | Self::SummingUp(..) | Self::Closed => None,
        }
    }
}

impl Answer {
    /// Takes a part that is complete; a call among the first ones starts at once.
    fn take_part(&mut self, part: Part, limits: &AgentLimits, actions: &mut Vec<Action>) {
        if matches!(part, Part::ToolCall(_)) {
            self.calls.push(Call { part: self.parts.len(), state: CallState::Waiting });
            if self.calls.len() <= limits.calls_started_mid_stream {
                self.start_waiting(actions);
            }
        }
        self.parts.push(part);
    }

    fn call(&self, part: usize) -> Option<&ToolCall> {
        match self.parts.get(part)? {
            Part::ToolCall(call) => Some(call),
            Part::Text { .. } | Part::Reasoning { .. } => None,
        }
    }

    /// Starts every call that waits.
    fn start_waiting(&mut self, actions: &mut Vec<Action>) {
        for (index, call) in self.calls.iter_mut().enumerate() {
            if call.state == CallState::Waiting {
                call.state = CallState::Running;
                actions.push(Action::Start(index));
            }
        }
    }

    fn done(&mut self, index: usize, result: ToolAnswer) {
        if let Some(call) = self.calls.get_mut(index) {
            call.state = CallState::Done(result);
        }
    }

    fn has_all_results(&self) -> bool {
        self.calls.iter().all(|call| matches!(call.state, CallState::Done(_)))
    }

    /// Gives the messages that this answer adds to the conversation, results in the order asked.
    fn give_messages(&mut self, actions: &mut Vec<Action>) {
        if is_silent(&self.parts) {
            return;
        }
        let mut calls = take(&mut self.calls);
        let results: Vec<ToolAnswer> = calls
            .drain(..)
            .filter_map(|Call { part, state }| {
                let interrupted = |ran| Some(ToolAnswer::interrupted(self.call(part)?, ran));
                match state {
                    CallState::Done(answer) => Some(answer),
                    CallState::Running => interrupted(true),
                    CallState::Waiting => interrupted(false),
                }
            })
            .collect();
        // Emptied, it is there for the next answer's calls.
        self.calls = calls;
        actions.push(Action::Append(Message::Assistant { parts: take(&mut self.parts) }));
        if !results.is_empty() {
            actions.push(Action::Append(Message::Tool { results }));
        }
    }
}

impl End {
    /// Returns whose failure it is; none when it is none, or a limit or the user ended the prompt.
    pub fn class(&self) -> Option<ErrorClass> {
        match self {
            Self::Failed(failure) => Some(failure.kind.class()),
            Self::Done(_) | Self::Limit(_) | Self::Interrupted => None,
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done(_) => f.write_str("done"),
            Self::Failed(failure) => f.write_str(&failure.message),
            Self::Limit(limit) => limit.fmt(f),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl From<Stop> for End {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Interrupted => Self::Interrupted,
            Stop::Limit(limit) => Self::Limit(limit),
            Stop::Failed(failure) => Self::Failed(failure),
        }
    }
}

#[cfg(test)]
mod tests;
