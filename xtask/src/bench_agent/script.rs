//! The four scripts: a workspace, the turns that the model asks for and its answer; and the proof
//! that an agent did what it was asked, read from what it sent back.
//! Never trusts an exit code that an agent reports; what a command prints is known beforehand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use vtcode_testkit::{Reply, Request, TempWorkspace, call, say};

/// What the model says last, and the agent has to print.
const ANSWER: &str = "The bench is done";
/// What it says before that in a long answer, once for each delta.
const WORD: &str = "abc ";
const FILES: usize = 50;
const LINES: usize = 12;
/// Every so many files there is something to find.
const NEEDLES: usize = 10;

/// What a model asks for, turn by turn, before it answers.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) prompt: &'static str,
    pub(super) turns: Vec<Vec<Step>>,
    /// How many words come before the answer, each in a delta of its own.
    pub(super) words: usize,
}

/// A command line and what it prints, in pieces that look the same however an agent quotes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) line: String,
    pub(super) shows: Vec<String>,
    /// What it takes at least.
    pub(super) lasts: Duration,
}

impl Script {
    /// S3: the model answers at once.
    pub(super) fn answer() -> Self {
        Self { prompt: "Say that the bench is done.", turns: Vec::new(), words: 0 }
    }

    /// S4: the model answers at once, with 40 kB in 10,000 deltas.
    pub(super) fn long_answer() -> Self {
        Self { words: 10_000, ..Self::answer() }
    }

    /// S1: twenty turns of one short command each.
    pub(super) fn turns() -> Self {
        let step = |turn: usize| match turn % 3 {
            0 => Step::cat(turn * 2),
            1 => Step::grep(),
            _ => Step::ls(),
        };
        let turns = (0..20).map(|turn| vec![step(turn)]).collect();
        Self { prompt: "Look round in src, then say that the bench is done.", turns, words: 0 }
    }

    /// S2: ten turns of four commands that wait.
    pub(super) fn parallel() -> Self {
        let turn = |turn: usize| (0..4).map(|call| Step::sleep(turn * 4 + call)).collect();
        let turns = (0..10).map(turn).collect();
        Self { prompt: "Wait, then say that the bench is done.", turns, words: 0 }
    }

    /// Returns what answers the model's requests, each in its turn. Requests without tools are an
    /// agent's own affairs (a title for the session, say) and take no turn.
    pub(super) fn responder(
        self,
        tool: String,
        field: String,
    ) -> impl Fn(&Request, usize) -> Reply + Send + Sync + 'static {
        let next = AtomicUsize::new(0);
        move |request, _| {
            if !has_tools(request) {
                return say("Bench");
            }
            let turn = next.fetch_add(1, Ordering::Relaxed);
            let Some(steps) = self.turns.get(turn) else {
                let words = std::iter::repeat_n(say(WORD), self.words);
                return words.chain([say(ANSWER)]).fold(Reply::default(), Reply::and);
            };
            steps.iter().enumerate().fold(Reply::default(), |reply, (index, step)| {
                let mut arguments = Map::new();
                arguments.insert(field.clone(), Value::from(step.line.as_str()));
                reply.and(call(tool.as_str(), arguments).call_id(id(turn, index)))
            })
        }
    }

    /// Finds the requests that took a turn, and checks that each brought the results of the turn
    /// before, and that the answer was printed.
    pub(super) fn check<'a>(
        &self,
        requests: &'a [Request],
        printed: &str,
    ) -> anyhow::Result<Vec<&'a Request>> {
        let turns: Vec<_> = requests
            .iter()
            .filter(|request| request.error.is_none() && has_tools(request))
            .collect();
        let bodies: Vec<_> = turns.iter().map(|request| request.json()).collect();
        for (turn, steps) in self.turns.iter().enumerate() {
            let Some(body) = bodies.get(turn + 1) else {
                bail!("the results of turn {} never came", turn + 1);
            };
            check_turn(turn, steps, body)
                .with_context(|| format!("turn {} of {}", turn + 1, self.turns.len()))?;
            // From request to request, as an agent may start a tool while the response streams.
            let took = turns[turn + 1].received_at.duration_since(turns[turn].received_at);
            let lasts = steps.iter().map(|step| step.lasts).max().unwrap_or_default();
            ensure!(took >= lasts, "turn {} took {took:?}, its commands {lasts:?}", turn + 1);
        }
        let (asked, wanted) = (turns.len(), self.turns.len() + 1);
        ensure!(asked == wanted, "the agent made {asked} requests with tools, not {wanted}");
        let answer = WORD.repeat(self.words) + ANSWER;
        ensure!(printed.contains(&answer), "the agent did not print the model's answer");
        Ok(turns)
    }
}

impl Step {
    /// Each another command: an agent may stop a model that repeats itself.
    fn sleep(number: usize) -> Self {
        let lasts = Duration::from_millis(200);
        Self { line: format!("sleep 0.200{number:02}"), shows: Vec::new(), lasts }
    }

    fn cat(number: usize) -> Self {
        let shows = (0..LINES).map(|line| content(number, line)).collect();
        Self { line: format!("cat src/f{number}.rs"), shows, lasts: Duration::ZERO }
    }

    fn grep() -> Self {
        let shows = (0..FILES).step_by(NEEDLES).map(|number| {
            let line = LINES - 1;
            format!("src/f{number}.rs:{}:{}", line + 1, content(number, line))
        });
        Self {
            line: "grep -rn needle src".to_owned(),
            shows: shows.collect(),
            lasts: Duration::ZERO,
        }
    }

    fn ls() -> Self {
        let shows = (0..FILES).map(|number| format!(" f{number}.rs")).collect();
        Self { line: "ls -la src".to_owned(), shows, lasts: Duration::ZERO }
    }

    /// Checks a command's output.
    pub(super) fn check(&self, output: &str) -> anyhow::Result<()> {
        match self.shows.iter().find(|piece| !output.contains(piece.as_str())) {
            None => Ok(()),
            Some(piece) => {
                let start: String = output.chars().take(200).collect();
                bail!("`{}` did not print `{piece}`, it printed: {start:?}", self.line)
            }
        }
    }
}

/// Makes the folder that the commands look at.
pub(super) fn workspace() -> TempWorkspace {
    TempWorkspace::with((0..FILES).map(|number| {
        let lines: Vec<_> = (0..LINES).map(|line| content(number, line) + "\n").collect();
        (format!("src/f{number}.rs"), lines.concat())
    }))
}

/// A line of a file; without anything that JSON, HTML or a shell would write in another way.
fn content(number: usize, line: usize) -> String {
    let needle = line == LINES - 1 && number.is_multiple_of(NEEDLES);
    let name = if needle { "needle" } else { "part" };
    format!("pub const {name}_{number}_{line}: usize = {};", number * LINES + line)
}

fn id(turn: usize, index: usize) -> String {
    format!("call_{turn}_{index}")
}

/// Reads no more than it must, as the agent waits meanwhile.
fn has_tools(request: &Request) -> bool {
    #[derive(Deserialize)]
    struct Asked {
        #[serde(default)]
        tools: Option<Vec<IgnoredAny>>,
    }
    serde_json::from_slice::<Asked>(&request.body)
        .is_ok_and(|asked| asked.tools.is_some_and(|tools| !tools.is_empty()))
}

/// Checks that a request's last results are those of a turn, in the order asked.
fn check_turn(turn: usize, steps: &[Step], body: &Value) -> anyhow::Result<()> {
    let results = results(body);
    let first = results.len().checked_sub(steps.len()).context("results are missing")?;
    for (index, (step, (call, output))) in steps.iter().zip(&results[first..]).enumerate() {
        let wanted = id(turn, index);
        ensure!(*call == wanted, "a result of `{call}` stands where that of `{wanted}` belongs");
        step.check(output)?;
    }
    Ok(())
}

/// Returns the tool results in a request of either wire: their calls and their text.
fn results(body: &Value) -> Vec<(&str, String)> {
    let mut results = Vec::new();
    for message in body["messages"].as_array().into_iter().flatten() {
        if message["role"] == "tool" {
            results.push((&message["tool_call_id"], &message["content"]));
        }
        for block in message["content"].as_array().into_iter().flatten() {
            if block["type"] == "tool_result" {
                results.push((&block["tool_use_id"], &block["content"]));
            }
        }
    }
    results
        .into_iter()
        .map(|(id, content)| {
            let mut text = String::new();
            all_text(content, &mut text);
            (id.as_str().unwrap_or_default(), text)
        })
        .collect()
}

/// Agents wrap output in objects of their own; it is in there somewhere.
fn all_text(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => {
            out.push_str(text);
            out.push('\n');
        }
        Value::Array(values) => values.iter().for_each(|value| all_text(value, out)),
        Value::Object(map) => map.values().for_each(|value| all_text(value, out)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_are_found_on_both_wires() {
        let chat = json!({"messages": [
            {"role": "user", "content": "do"},
            {"role": "assistant", "tool_calls": [{"id": "call_0_0"}]},
            {"role": "tool", "tool_call_id": "call_0_0", "content": "one"},
        ]});
        let messages = json!({"messages": [
            {"role": "user", "content": [{"type": "text", "text": "do"}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "call_0_0", "content": [
                    {"type": "text", "text": "one"},
                ]},
            ]},
        ]});
        let of = |body: &Value| {
            results(body).into_iter().map(|(id, text)| (id.to_owned(), text)).collect::<Vec<_>>()
        };
        assert_eq!(of(&chat), [("call_0_0".to_owned(), "one\n".to_owned())]);
        let [(id, text)] = &of(&messages)[..] else { panic!("one result: {messages}") };
        assert_eq!(id, "call_0_0");
        assert!(text.contains("one\n"), "{text}");
    }

    #[test]
    fn a_turn_needs_its_own_results_in_its_own_order() {
        let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "x"});
        let body =
            |ids: &[&str]| json!({"messages": ids.iter().map(|id| result(id)).collect::<Vec<_>>()});
        let steps = &Script::parallel().turns[0][..2];
        check_turn(1, steps, &body(&["call_0_0", "call_1_0", "call_1_1"])).unwrap();
        let swapped = check_turn(1, steps, &body(&["call_1_1", "call_1_0"])).unwrap_err();
        assert!(swapped.to_string().contains("stands where"), "{swapped}");
        assert!(check_turn(1, steps, &body(&["call_1_1"])).is_err());
    }

    #[test]
    fn output_that_lacks_a_line_is_no_proof() {
        let step = Step::cat(4);
        let whole = step.shows.join("\n");
        step.check(&whole).unwrap();
        assert!(step.check(&whole.replace(&step.shows[3], "")).is_err());
        assert!(step.check("").unwrap_err().to_string().contains("cat src/f4.rs"));
    }
}
