//! Follows recorded sessions and counts which steps attached files would have made unnecessary.
//!
//! After every tool step the predictor guesses, and what the rule picks counts as attached. The next
//! step of the record is **avoided** when each of its calls is a read-only one that asks only for
//! files that are attached and unchanged since: the model had no reason to ask. An avoided step is
//! not shown to the predictor, and nothing is attached to its result, for there is none.

use std::collections::{BTreeSet, HashMap};

use super::acts::{Act, mention};
use super::corpus::{Call, Session, Step};
use crate::core::optimized_agent::predict::weights::Weights;
use crate::core::optimized_agent::predict::worth::{Bounds, LINE_BYTES, TOKEN_BYTES, Worth, part};
use crate::core::optimized_agent::predict::{Predictor, Source, Span};

/// When a file is attached, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// What a step and a token are worth.
    pub worth: Worth,
    /// How much is attached at most.
    pub bounds: Bounds,
}

/// What counts as asking for something attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// Any part of the file.
    File,
    /// Only lines that are attached.
    Lines,
}

/// What was counted. The tokens of prompts, results and attached files are estimated at 4 bytes
/// each; those that the model wrote are the record's.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// The model's steps.
    pub steps: u64,
    /// Their time, in milliseconds.
    pub steps_ms: u64,
    /// Steps that became unnecessary.
    pub avoided: u64,
    /// Their time, in milliseconds.
    pub avoided_ms: u64,
    /// Of these, steps whose files were all attached to the very result before.
    pub avoided_next: u64,
    /// Steps that remain, but one of whose calls asked for what was attached.
    pub in_part: u64,
    /// Files attached.
    pub attached: u64,
    /// Of these, files that the next step asked for.
    pub used_next: u64,
    /// Of these, files that any later step asked for, while they were unchanged.
    pub used: u64,
    /// The tokens attached.
    pub tokens: u64,
    /// Of these, tokens of files that nobody asked for.
    pub wasted_tokens: u64,
    /// The tokens in the window at each avoided step, added up.
    pub avoided_context: u64,
    /// The tokens that the model wrote in avoided steps.
    pub avoided_output: u64,
    /// Wasted tokens, times the requests that carried them on: in tokens, too.
    pub wasted_carried: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.steps_ms += other.steps_ms;
        self.avoided += other.avoided;
        self.avoided_ms += other.avoided_ms;
        self.avoided_next += other.avoided_next;
        self.in_part += other.in_part;
        self.attached += other.attached;
        self.used_next += other.used_next;
        self.used += other.used;
        self.tokens += other.tokens;
        self.wasted_tokens += other.wasted_tokens;
        self.avoided_context += other.avoided_context;
        self.avoided_output += other.avoided_output;
        self.wasted_carried += other.wasted_carried;
    }
}

/// A file whose size no record shows.
const UNKNOWN_BYTES: u64 = 8 * 1024;

/// A session, read for judging.
pub struct Reading<'a> {
    session: &'a Session,
    /// What each call meant, by step.
    acts: Vec<Vec<Act>>,
    /// What is known of the files' sizes.
    sizes: HashMap<String, u64>,
}

impl<'a> Reading<'a> {
    /// Reads a session. A file is taken to be as large as the largest result of reading it shows,
    /// at 40 bytes for each line before the part that was read; one that no result shows, 8 KiB.
    pub fn of(session: &'a Session) -> Self {
        let acts: Vec<Vec<Act>> = session
            .steps
            .iter()
            .map(|step| match step {
                Step::Tool { calls } => calls.iter().map(Act::of).collect(),
                _ => Vec::new(),
            })
            .collect();
        let mut sizes = HashMap::new();
        for (step, acts) in session.steps.iter().zip(&acts) {
            let Step::Tool { calls } = step else { continue };
            for (call, act) in calls.iter().zip(acts) {
                let [(path, span)] = &act.reads[..] else { continue };
                let bytes = match span {
                    Span::Whole => call.result_bytes.unwrap_or(0),
                    Span::Lines { first, .. } => {
                        u64::from(*first) * LINE_BYTES + call.result_bytes.unwrap_or(0)
                    }
                };
                let known = sizes.entry(plain(path).to_owned()).or_insert(0);
                *known = bytes.max(*known);
            }
        }
        Self { session, acts, sizes }
    }

    fn size(&self, path: &str) -> u64 {
        self.sizes.get(path).copied().filter(|bytes| *bytes > 0).unwrap_or(UNKNOWN_BYTES)
    }

    /// Tells a predictor what a step of the record says.
    fn tell(&self, predictor: &mut Predictor, at: usize) {
        match &self.session.steps[at] {
            Step::User { paths, .. } => predictor.prompt(paths.iter().map(|path| mention(path))),
            Step::Llm { paths, .. } => {
                predictor.step();
                predictor.words(paths.iter().map(|path| mention(path)));
            }
            Step::Tool { calls } => {
                for (call, act) in calls.iter().zip(&self.acts[at]) {
                    for (path, span) in &act.reads {
                        predictor.read(path, *span);
                    }
                    if !call.error {
                        for path in &call.files {
                            predictor.edited(path);
                        }
                    }
                    let named = call.result_paths.iter().map(|path| mention(path));
                    // A search in one file prints lines of it without its name.
                    let searched = act.searches.iter().filter(|_| call.result_bytes > Some(40));
                    let searched = searched.map(|path| mention(path));
                    predictor.told(act.source, call.error, searched.chain(named));
                }
            }
        }
    }

    /// Returns the files that one of the next steps asks for, whatever else it does, before they
    /// are changed. `at` is an index into the session's steps, and `within` how many tool steps
    /// behind it are looked at. Paths come without a leading `./`.
    pub fn next_reads(&self, at: usize, within: usize) -> BTreeSet<&str> {
        let mut reads = BTreeSet::new();
        let mut changed: BTreeSet<&str> = BTreeSet::new();
        let later = self.session.steps.iter().zip(&self.acts).skip(at + 1);
        let results = later.filter_map(|(step, acts)| match step {
            Step::Tool { calls } => Some((calls, acts)),
            _ => None,
        });
        for (calls, acts) in results.take(within) {
            let asked = acts.iter().flat_map(|act| act.reads.iter().map(|(path, _)| plain(path)));
            reads.extend(asked.filter(|path| !changed.contains(path)));
            changed.extend(calls.iter().flat_map(|call| call.files.iter().map(|path| plain(path))));
        }
        reads
    }

    /// Follows the record without attaching anything; shows the predictor after each tool step,
    /// with the step's index.
    pub fn follow(&self, mut each: impl FnMut(usize, &Predictor)) {
        let mut predictor = Predictor::default();
        for (at, step) in self.session.steps.iter().enumerate() {
            self.tell(&mut predictor, at);
            if matches!(step, Step::Tool { .. }) {
                each(at, &predictor);
            }
        }
    }

    /// Follows the record with a predictor of these weights, attaches what the rule picks, and
    /// counts what came of it.
    pub fn judge(&self, weights: &Weights, rule: &Rule, counting: Counting) -> Tally {
        let mut tally = Tally::default();
        let mut predictor = Predictor::with_weights(weights.clone());
        let mut attached: Vec<Attached> = Vec::new();
        let mut context = 0u64;
        let steps = &self.session.steps;
        let total = steps.iter().filter(|step| step.is_llm()).count() as u64;
        let mut at = 0;
        while at < steps.len() {
            match &steps[at] {
                Step::User { bytes, .. } => {
                    context += bytes / TOKEN_BYTES;
                    self.tell(&mut predictor, at);
                }
                Step::Llm { llm_ms, out_tokens, .. } => {
                    tally.steps += 1;
                    tally.steps_ms += llm_ms.unwrap_or(0);
                    let calls = match steps.get(at + 1) {
                        Some(Step::Tool { calls }) => &calls[..],
                        _ => &[],
                    };
                    let acts = self.acts.get(at + 1).map_or(&[][..], Vec::as_slice);
                    let asked = asks(&mut attached, calls, acts, counting, tally.steps);
                    context += out_tokens.unwrap_or(0);
                    if let Asked::Nothing { next } = asked {
                        tally.avoided += 1;
                        tally.avoided_next += u64::from(next);
                        tally.avoided_ms += llm_ms.unwrap_or(0);
                        tally.avoided_context += context;
                        tally.avoided_output += out_tokens.unwrap_or(0);
                        // Neither this answer nor its results are there.
                        at += 2;
                        continue;
                    }
                    tally.in_part += u64::from(matches!(asked, Asked::InPart));
                    self.tell(&mut predictor, at);
                }
                Step::Tool { calls } => {
                    let bytes: u64 = calls.iter().filter_map(|call| call.result_bytes).sum();
                    context += bytes / TOKEN_BYTES;
                    self.tell(&mut predictor, at);
                    for call in calls {
                        for file in call.files.iter().filter(|_| !call.error) {
                            attached
                                .iter_mut()
                                .filter(|a| same(&a.path, file))
                                .for_each(|a| a.changed = true);
                        }
                    }
                    let picked = self.picks(&predictor, rule);
                    for (path, span, tokens) in picked {
                        predictor.attached(&path, span);
                        context += tokens;
                        attached.push(Attached {
                            path,
                            span,
                            tokens,
                            step: tally.steps,
                            changed: false,
                            used: None,
                        });
                    }
                }
            }
            at += 1;
        }
        for file in &attached {
            tally.attached += 1;
            tally.tokens += file.tokens;
            tally.used += u64::from(file.used.is_some());
            tally.used_next += u64::from(file.used == Some(file.step + 1));
            if file.used.is_none() {
                tally.wasted_tokens += file.tokens;
                tally.wasted_carried += file.tokens * (total - file.step).saturating_sub(1);
            }
        }
        tally
    }

    fn picks(&self, predictor: &Predictor, rule: &Rule) -> Vec<(String, Span, u64)> {
        let bounds = &rule.bounds;
        let mut picked = Vec::new();
        let mut left = bounds.tokens;
        for guess in predictor.guesses(bounds.files * 4) {
            let known = guess.shown_now || guess.read == Some(Span::Whole);
            let (span, tokens) = part(&guess, self.size(guess.path), bounds);
            let gains = rule.worth.gain(guess.probability, tokens) > 0.0;
            if picked.len() < bounds.files && tokens <= left && gains && !known {
                left -= tokens;
                picked.push((guess.path.to_owned(), span, tokens));
            }
        }
        picked
    }
}

struct Attached {
    path: String,
    span: Span,
    tokens: u64,
    step: u64,
    changed: bool,
    /// The step that asked for it first.
    used: Option<u64>,
}

enum Asked {
    /// Nothing that is not attached; and whether all of it was attached to the result before.
    Nothing {
        next: bool,
    },
    InPart,
    Other,
}

/// Finds out what of a step's calls is attached already.
fn asks(
    attached: &mut [Attached],
    calls: &[Call],
    acts: &[Act],
    counting: Counting,
    step: u64,
) -> Asked {
    let (mut all, mut any, mut next) = (!calls.is_empty(), false, true);
    for (call, act) in calls.iter().zip(acts) {
        let mut covered = call.read_only && act.source != Source::Edit && !act.reads.is_empty();
        for (path, span) in &act.reads {
            let covers = |a: &&mut Attached| {
                !a.changed
                    && same(&a.path, path)
                    && (counting == Counting::File || holds(a.span, *span))
            };
            match attached.iter_mut().rev().find(covers) {
                Some(file) => {
                    file.used.get_or_insert(step);
                    next &= file.step + 1 == step;
                }
                None => covered = false,
            }
        }
        all &= covered;
        any |= covered;
    }
    match (all, any) {
        (true, _) => Asked::Nothing { next },
        (_, true) => Asked::InPart,
        _ => Asked::Other,
    }
}

fn holds(attached: Span, asked: Span) -> bool {
    match (attached, asked) {
        (Span::Whole, _) => true,
        (Span::Lines { .. }, Span::Whole) => false,
        (Span::Lines { first, last }, Span::Lines { first: from, last: to }) => {
            first <= from && to <= last
        }
    }
}

/// Returns whether two paths name one file, as far as names tell.
fn same(a: &str, b: &str) -> bool {
    plain(a) == plain(b)
}

fn plain(path: &str) -> &str {
    path.trim_start_matches("./")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laboratory::corpus;

    const RULE: Rule = Rule {
        worth: Worth { step: 1e6, token: 1.0 },
        bounds: Bounds { files: 3, tokens: 4000, whole_tokens: 1200, part_lines: 120 },
    };

    fn judged(text: &str, counting: Counting) -> Tally {
        let sessions = corpus::sessions(text).unwrap();
        Reading::of(&sessions[0]).judge(&Weights::shipped(), &RULE, counting)
    }

    /// A search, a read of what it named, and an end.
    fn session(read: &str) -> String {
        format!(
            r#"{{"session_id":"s","repo":"r","steps":[{{"kind":"user","bytes":40}},{{"kind":"llm","llm_ms":1000}},{{"kind":"tool","calls":[{{"name":"Grep","args":{{"path":"src"}},"cls":"ro","read_only":true,"result_bytes":400,"result_paths":["src/a.rs:40"]}}]}},{{"kind":"llm","llm_ms":5000,"out_tokens":50}},{{"kind":"tool","calls":[{read}]}},{{"kind":"llm","llm_ms":2000}}]}}"#
        )
    }

    const READ: &str = r#"{"name":"Read","args":{"file_path":"src/a.rs"},"cls":"ro","read_only":true,"result_bytes":2000}"#;

    #[test]
    fn a_step_that_asks_only_for_what_is_attached_is_avoided() {
        let tally = judged(&session(READ), Counting::Lines);
        assert_eq!((tally.steps, tally.avoided, tally.avoided_ms), (3, 1, 5000));
        assert_eq!((tally.attached, tally.used, tally.used_next), (1, 1, 1));
        assert_eq!((tally.tokens, tally.wasted_tokens, tally.avoided_output), (500, 0, 50));
    }

    #[test]
    fn a_step_that_does_anything_else_is_not() {
        let edit =
            r#"{"name":"Edit","args":{"file_path":"src/a.rs"},"cls":"write","files":["src/a.rs"]}"#;
        let tally = judged(&session(edit), Counting::File);
        assert_eq!((tally.avoided, tally.in_part), (0, 0));
        let tally = judged(&session(&format!("{READ},{edit}")), Counting::File);
        assert_eq!((tally.avoided, tally.in_part), (0, 1));
    }

    #[test]
    fn lines_count_only_where_they_are_attached() {
        let far = READ.replace(r#""src/a.rs"}"#, r#""src/a.rs","offset":2000,"limit":10}"#);
        assert_eq!(judged(&session(&far), Counting::File).avoided, 1);
        assert_eq!(judged(&session(&far), Counting::Lines).avoided, 0);
    }

    #[test]
    fn a_rule_that_gains_nothing_attaches_nothing() {
        let sessions = corpus::sessions(&session(READ)).unwrap();
        let rule = Rule { worth: Worth { step: 0.0, token: 1.0 }, ..RULE };
        let tally = Reading::of(&sessions[0]).judge(&Weights::shipped(), &rule, Counting::File);
        assert_eq!((tally.attached, tally.avoided, tally.steps), (0, 0, 3));
    }

    #[test]
    fn the_bundled_sample_has_the_shape_of_the_corpus() {
        let sessions = corpus::sessions(include_str!("sample.jsonl")).unwrap();
        assert_eq!(sessions.len(), 10);
        let mut sum = Tally::default();
        for session in &sessions {
            sum += Reading::of(session).judge(&Weights::shipped(), &RULE, Counting::File);
        }
        assert!(sum.avoided > 0 && sum.attached > sum.used && sum.steps > sum.avoided, "{sum:?}");
        let error = corpus::sessions("{\"steps\":[]}\n{").unwrap_err();
        assert_eq!(error.line, 1);
    }
}
