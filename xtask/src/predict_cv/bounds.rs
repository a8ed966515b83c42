//! What other ways of saving steps and time could gain on recorded sessions, at most: reads that
//! could have gone in one message, checks after edits, slow calls run ahead.
//! Bounds, not gains: no record tells what a model would have done otherwise.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use vtcode_core::core::optimized_agent::predict::Source;
use vtcode_core::laboratory::acts::{Act, mention};
use vtcode_core::laboratory::corpus::{Call, Session, Step};

/// A call is slow from here on.
const SLOW_MS: u64 = 1000;
/// Records without the tool's own clock count waits for a permission, too: longer ones are cut.
const LONGEST_MS: u64 = 60_000;

/// Commands that only look whether a project is sound, as a check after edits would.
const CHECKS: [&str; 12] = [
    "cargo check",
    "cargo clippy",
    "cargo build",
    "tsc",
    "go vet",
    "go build",
    "ruff",
    "eslint",
    "mypy",
    "pyright",
    "run lint",
    "run typecheck",
];

/// Steps of one kind, and the model's time for them.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    steps: u64,
    ms: u64,
}

impl Part {
    fn add(&mut self, step: &ToolStep<'_>) {
        self.steps += 1;
        self.ms += step.thought_ms;
    }
}

/// Calls run ahead of time.
#[derive(Debug, Clone, Copy, Default)]
struct Ahead {
    /// How often that would have been.
    ran: u64,
    ran_ms: u64,
    /// How often the very next step asked for it.
    hit: u64,
    /// Of its time, what would have passed while the model thought.
    hidden_ms: u64,
}

#[derive(Debug, Default)]
struct Bounds {
    steps: u64,
    model_ms: u64,
    tools_ms: u64,
    /// Steps that only read and name nothing that the step before showed first.
    independent: Part,
    /// Of these, steps of searches alone behind a step of searches alone.
    searches: Part,
    /// Of these, steps of reads of the files that the step before read.
    ranges: Part,
    /// Steps of quick checks alone, right behind an edit.
    checks: Part,
    slow: u64,
    slow_ms: u64,
    /// Of the slow time, that of calls made before in the session.
    known_ms: u64,
    tests: Ahead,
    network: Ahead,
}

/// The calls of one step, with the time of the answer that asked for them.
struct ToolStep<'a> {
    calls: &'a [Call],
    acts: Vec<Act>,
    thought_ms: u64,
}

/// Writes what the sessions tell.
pub(super) fn report(sessions: &[Session]) -> String {
    let mut bounds = Bounds::default();
    for session in sessions {
        bounds.take(session);
    }
    bounds.text()
}

impl Bounds {
    fn take(&mut self, session: &Session) {
        let steps = tool_steps(session);
        self.steps += session.steps.iter().filter(|step| step.is_llm()).count() as u64;
        self.model_ms += session
            .steps
            .iter()
            .map(|step| match step {
                Step::Llm { llm_ms, .. } => llm_ms.unwrap_or(0),
                _ => 0,
            })
            .sum::<u64>();
        let mut shown: HashSet<&str> = HashSet::new();
        for pair in 0..steps.len() {
            let step = &steps[pair];
            if let Some(before) = pair.checked_sub(1).map(|at| &steps[at]) {
                self.behind(before, step, &shown);
            }
            let results = step.calls.iter().flat_map(|call| &call.result_paths);
            shown.extend(results.map(|path| mention(path).path));
        }
        self.ahead(&steps);
    }

    /// Looks at a step behind another; `shown` was shown before either.
    fn behind(&mut self, before: &ToolStep<'_>, step: &ToolStep<'_>, shown: &HashSet<&str>) {
        if step.calls.iter().all(is_check) && before.acts.iter().any(|a| a.source == Source::Edit) {
            self.checks.add(step);
        }
        let looks = |step: &ToolStep<'_>| {
            step.calls.iter().all(|call| call.read_only && matches!(&*call.cls, "ro" | "ro_net"))
        };
        if !looks(before) || !looks(step) {
            return;
        }
        let new: HashSet<&str> = before
            .calls
            .iter()
            .flat_map(|call| &call.result_paths)
            .map(|path| mention(path).path)
            .filter(|path| !shown.contains(path))
            .collect();
        let args: String = step.calls.iter().map(|call| call.args.to_string()).collect();
        let follows = new.iter().any(|path| {
            args.contains(path) || args.contains(path.rsplit('/').next().unwrap_or(path))
        });
        if follows {
            return;
        }
        self.independent.add(step);
        let searches = |step: &ToolStep<'_>| step.acts.iter().all(|a| a.source == Source::Search);
        if searches(before) && searches(step) {
            self.searches.add(step);
        }
        let read = |step: &ToolStep<'_>| -> HashSet<String> {
            step.acts
                .iter()
                .flat_map(|act| act.reads.iter().map(|(path, _)| path.clone()))
                .collect()
        };
        let (first, then) = (read(before), read(step));
        if !then.is_empty() && then.is_subset(&first) {
            self.ranges.add(step);
        }
    }

    /// Looks at what running calls ahead of time would have hidden.
    fn ahead(&mut self, steps: &[ToolStep<'_>]) {
        let mut known: HashSet<String> = HashSet::new();
        let mut latest: HashMap<&str, (String, u64)> = HashMap::new();
        for (at, step) in steps.iter().enumerate() {
            let edited = step.acts.iter().any(|act| act.source == Source::Edit);
            for call in step.calls {
                let (ms, name) = (time(call), key(call));
                self.tools_ms += ms;
                if call.read_only && ms >= SLOW_MS && matches!(&*call.cls, "ro" | "ro_net") {
                    self.slow += 1;
                    self.slow_ms += ms;
                    self.known_ms += if known.contains(&name) { ms } else { 0 };
                }
                if ms >= SLOW_MS && matches!(&*call.cls, "test" | "ro_net") {
                    latest.insert(&call.cls, (name.clone(), ms));
                }
                known.insert(name);
            }
            // The rule that is judged: the last slow one of its kind runs again ahead, a test after
            // each step that edits, a network read after each other step.
            let Some(next) = steps.get(at + 1) else { continue };
            for (class, ahead, due) in
                [("test", &mut self.tests, edited), ("ro_net", &mut self.network, !edited)]
            {
                let Some((name, ms)) = latest.get(class).filter(|_| due) else { continue };
                ahead.ran += 1;
                ahead.ran_ms += ms;
                if let Some(call) = next.calls.iter().find(|call| key(call) == *name) {
                    ahead.hit += 1;
                    ahead.hidden_ms += time(call).min(next.thought_ms);
                }
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::from("\nwhat else could be saved, at most:\n");
        let of_time = |ms: u64| 100.0 * ms as f64 / (self.model_ms + self.tools_ms).max(1) as f64;
        let parts = [
            ("reads that did not need the step before, in its message", self.independent),
            ("  of them a search behind a search (`patterns`)", self.searches),
            ("  of them other lines of the same files (`files`)", self.ranges),
            ("a quick check alone, right behind an edit (`check.command`)", self.checks),
        ];
        for (name, part) in parts {
            let _ = writeln!(
                text,
                "  {name:<62}{:>6} steps {:>6.2} % of steps {:>6.2} % of time",
                part.steps,
                100.0 * part.steps as f64 / self.steps.max(1) as f64,
                of_time(part.ms),
            );
        }
        let _ = writeln!(
            text,
            "  slow reads, 1 s or longer: {} calls, {:.2} % of time; {:.2} % are calls made before \
             in the session, the others would have to be guessed",
            self.slow,
            of_time(self.slow_ms),
            of_time(self.known_ms),
        );
        for (name, ahead) in [
            ("the last test again after each edit", &self.tests),
            ("the last network read again after each other step", &self.network),
        ] {
            let _ = writeln!(
                text,
                "  {name}: run {} times for {} of use ({:.1} %), hides {:.2} % of time and takes \
                 {:.1} s of tools for each second it hides",
                ahead.ran,
                ahead.hit,
                100.0 * ahead.hit as f64 / ahead.ran.max(1) as f64,
                of_time(ahead.hidden_ms),
                ahead.ran_ms as f64 / ahead.hidden_ms.max(1) as f64,
            );
        }
        text
    }
}

fn tool_steps(session: &Session) -> Vec<ToolStep<'_>> {
    let mut steps = Vec::new();
    let mut thought_ms = 0;
    for step in &session.steps {
        match step {
            Step::User { .. } => thought_ms = 0,
            Step::Llm { llm_ms, .. } => thought_ms = llm_ms.unwrap_or(0),
            Step::Tool { calls } if !calls.is_empty() => {
                let acts = calls.iter().map(Act::of).collect();
                steps.push(ToolStep { calls, acts, thought_ms });
            }
            Step::Tool { .. } => {}
        }
    }
    steps
}

fn key(call: &Call) -> String {
    format!("{} {}", call.name, call.args)
}

fn time(call: &Call) -> u64 {
    let ms = u64::try_from(call.ran().as_millis()).unwrap_or(u64::MAX);
    if call.self_ms.is_some() { ms } else { ms.min(LONGEST_MS) }
}

fn is_check(call: &Call) -> bool {
    let line = ["cmd", "command"].iter().find_map(|name| call.args.get(name)?.as_str());
    line.is_some_and(|line| CHECKS.iter().any(|check| line.contains(check)))
}
