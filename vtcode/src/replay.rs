//! `vtcode replay`: a recorded session comes in, the real engine plays it with virtual time, and
//! what it took is printed; with `--compare`, also with every optimization off and each one alone.
//! Asks no model and touches no file but the one that it reads.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use vtcode_core::config::limits::{Limits, Price};
use vtcode_core::laboratory::corpus;
use vtcode_core::laboratory::jobs::{Draws, on_all_cores};
use vtcode_core::laboratory::judge::Counting;
use vtcode_core::laboratory::play::{PlayError, Played, Setting, play};
use vtcode_core::laboratory::tape::Tape;

use crate::args::Replay;
use crate::exit::{Exit, Usage};
use crate::terminal::clean;

/// Prices that records are reckoned with, whatever model they name: those of Claude Sonnet 4.
const PRICE: Price = Price { input: 3.0, cached: 0.3, output: 15.0 };

/// Tokens that may be attached to a step's results, where files are attached.
const ATTACHED_TOKENS: u64 = 3000;

/// How often sessions are drawn again for an interval.
const DRAWS: usize = 1000;

/// What a session is played with.
struct Variant {
    name: &'static str,
    setting: Setting,
}

/// Runs `vtcode replay`.
pub(crate) fn run(args: &Replay) -> anyhow::Result<Exit> {
    let text = read(&args.file)?;
    let mut tapes = tapes(&text, &args.file)?;
    if let Some(id) = &args.session {
        tapes.retain(|tape| tape.id.starts_with(id.as_str()));
        if tapes.is_empty() {
            let file = args.file.display();
            return Err(Usage(format!("no session in `{file}` begins with `{id}`")).into());
        }
    }
    if !args.all {
        tapes.truncate(1);
    }
    let variants = if args.compare { variants() } else { vec![everything(Counting::Lines)] };
    let jobs: Vec<(usize, usize)> = (0..tapes.len())
        .flat_map(|tape| (0..variants.len()).map(move |variant| (tape, variant)))
        .collect();
    let played = on_all_cores(args.jobs, &jobs, |&(tape, variant)| {
        one(&tapes[tape], &variants[variant].setting)
    });
    let played: Vec<Played> = played.into_iter().collect::<anyhow::Result<_>>()?;
    let rows: Vec<&[Played]> = played.chunks(variants.len()).collect();
    let report = report(&tapes, &variants, &rows, args.all);
    let report = if io::stdout().is_terminal() { clean(&report) } else { report };
    match write!(io::stdout(), "{report}") {
        // Who closed the pipe has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Done),
    }
}

/// Plays one tape, in a runtime of its own whose clock stands still while there is work.
fn one(tape: &Tape, setting: &Setting) -> anyhow::Result<Played> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let played: Result<Played, PlayError> = runtime.block_on(play(tape, setting));
    played.with_context(|| format!("cannot play session `{}`", tape.id))
}

/// Reads a file, packed or not.
fn read(path: &Path) -> anyhow::Result<String> {
    let read = std::fs::File::open(path).and_then(|file| corpus::text(io::BufReader::new(file)));
    read.map_err(|error| Usage(format!("cannot read `{}`: {error}", path.display())).into())
}

/// Makes tapes of whichever kind of record a text is.
fn tapes(text: &str, path: &Path) -> anyhow::Result<Vec<Tape>> {
    let neither = || {
        Usage(format!(
            "`{}` is no recorded session: neither a session's journal (`journal.jsonl` below \
             `sessions/` in the state folder) nor a corpus with one session a line",
            path.display()
        ))
    };
    let empty = || {
        let path = path.display();
        Usage(format!(
            "`{path}` is empty, so there is no recorded session in it; give a session's journal or \
             a corpus"
        ))
    };
    let first = text.lines().find(|line| !line.trim().is_empty()).ok_or_else(empty)?;
    let first: serde_json::Value = serde_json::from_str(first).map_err(|_| neither())?;
    if first.get("steps").is_some() {
        let sessions = corpus::sessions(text).map_err(|error| {
            Usage(format!("`{}` {}", path.display(), crate::exit::words(&error.into())))
        })?;
        return Ok(sessions.iter().map(Tape::of_session).collect());
    }
    if first.get("type").and_then(serde_json::Value::as_str) != Some("session_started") {
        return Err(neither().into());
    }
    let tape =
        Tape::of_journal(text).map_err(|error| Usage(format!("`{}`: {error}", path.display())))?;
    Ok(vec![tape])
}

fn everything(counting: Counting) -> Variant {
    let mut limits = Limits::full();
    (limits.agent.price, limits.agent.attached_tokens) = (Some(PRICE), ATTACHED_TOKENS);
    let name = match counting {
        Counting::Lines => "everything on",
        Counting::File => "everything on, at best",
    };
    Variant { name, setting: Setting { limits, counting } }
}

/// Everything off, each optimization alone, everything on.
fn variants() -> Vec<Variant> {
    let full = Limits::full();
    let alone = |name, counting, turn_on: &dyn Fn(&mut Limits)| {
        let mut limits = Limits::plain();
        limits.agent.price = Some(PRICE);
        turn_on(&mut limits);
        Variant { name, setting: Setting { limits, counting } }
    };
    let attach = |limits: &mut Limits| limits.agent.attached_tokens = ATTACHED_TOKENS;
    vec![
        alone("everything off", Counting::Lines, &|_| {}),
        alone("calls start mid-stream", Counting::Lines, &|limits| {
            limits.agent.calls_started_mid_stream = full.agent.calls_started_mid_stream;
        }),
        alone("calls run at once", Counting::Lines, &|limits| {
            limits.tools.max_concurrent = full.tools.max_concurrent;
        }),
        alone("results kept and shared", Counting::Lines, &|limits| {
            (limits.tools.cache, limits.tools.share_reads) = (full.tools.cache, true);
        }),
        alone("files attached", Counting::Lines, &attach),
        alone("files attached, at best", Counting::File, &attach),
        everything(Counting::Lines),
        everything(Counting::File),
    ]
}

fn report(tapes: &[Tape], variants: &[Variant], rows: &[&[Played]], all: bool) -> String {
    let mut text = String::new();
    let out = &mut text;
    if all {
        let _ =
            writeln!(out, "{} sessions, played on the real engine in virtual time", tapes.len());
    } else {
        let tape = &tapes[0];
        let _ = writeln!(out, "session {} ({}), played on the real engine", tape.id, tape.repo);
    }
    let _ = writeln!(
        out,
        "\n  {:<25}{:>11}{:>9}{:>9}{:>9}{:>9}{:>10}{:>9}  event hash",
        "", "time", "steps", "avoided", "input", "output", "cost", "attached"
    );
    for (nth, variant) in variants.iter().enumerate() {
        let column: Vec<&Played> = rows.iter().map(|row| &row[nth]).collect();
        let sum = Sum::of(&column);
        let _ = writeln!(
            out,
            "  {:<25}{:>11}{:>9}{:>9}{:>9}{:>9}{:>10}{:>9}  {}",
            variant.name,
            span(sum.time),
            sum.steps,
            sum.avoided,
            tokens(sum.input),
            tokens(sum.output),
            format!("${:.2}", sum.cost),
            tokens(sum.attached_tokens),
            hash(&column),
        );
    }
    if rows.len() > 1 && variants.len() > 1 {
        let _ = writeln!(
            out,
            "\n  against everything off, with 95 % intervals over sessions:\n  {:<25}{:>24}{:>24}{:>24}",
            "", "time", "steps", "cost"
        );
        for (nth, variant) in variants.iter().enumerate().skip(1) {
            let pairs: Vec<(Sum, Sum)> =
                rows.iter().map(|row| (Sum::of(&[&row[0]]), Sum::of(&[&row[nth]]))).collect();
            let cells = [
                change(&pairs, |sum| sum.time.as_secs_f64()),
                change(&pairs, |sum| sum.steps as f64),
                change(&pairs, |sum| sum.cost),
            ];
            let _ = writeln!(
                out,
                "  {:<25}{:>24}{:>24}{:>24}",
                variant.name, cells[0], cells[1], cells[2]
            );
        }
    }
    let sums: Vec<Sum> = (0..variants.len())
        .map(|nth| Sum::of(&rows.iter().map(|row| &row[nth]).collect::<Vec<_>>()))
        .collect();
    for (variant, sum) in variants.iter().zip(&sums).filter(|(_, sum)| sum.attached > 0) {
        let _ = writeln!(
            out,
            "\n  {}: {} files attached, {} of them ({:.0} %) asked for later in the record; stopped \
             in {} of {} sessions",
            variant.name,
            sum.attached,
            sum.used,
            100.0 * sum.used as f64 / sum.attached as f64,
            sum.stopped,
            rows.len(),
        );
    }
    out.push_str(UNKNOWN);
    text
}

const UNKNOWN: &str = "
What a record cannot tell:
  · whether a model goes on without asking for what is attached. A step is left out when all of it
    asks only for lines that are attached; \"at best\", for any part of such a file. No step is the
    lower bound, \"at best\" the upper one.
  · when an answer's first byte came: half of its time is taken, and its parts follow evenly. So
    much as calls start before the answer's end is an estimate.
  · what a result that was not asked for again would have been: results are kept only where the
    record shows that the same call gave the same.
Waiting for people is not counted, neither between prompts nor for permissions where the tool has a
clock of its own. Tokens are bytes / 4, prices those of Claude Sonnet 4.
";

/// What several sessions took.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    time: Duration,
    steps: u64,
    avoided: u64,
    input: u64,
    output: u64,
    cost: f64,
    attached: u64,
    attached_tokens: u64,
    used: u64,
    stopped: u64,
}

impl Sum {
    fn of(played: &[&Played]) -> Self {
        let mut sum = Self::default();
        for one in played {
            sum.time += one.time;
            sum.steps += u64::from(one.steps);
            sum.avoided += u64::from(one.avoided);
            sum.input += one.usage.input_tokens;
            sum.output += one.usage.output_tokens;
            sum.cost += PRICE.of(one.usage);
            sum.attached += u64::from(one.attached);
            sum.attached_tokens += one.attached_tokens;
            sum.used += u64::from(one.used);
            sum.stopped += u64::from(one.stopped);
        }
        sum
    }
}

/// Returns by how much a variant changes something, in per cent, with its 95 % interval.
fn change(pairs: &[(Sum, Sum)], of: impl Fn(&Sum) -> f64) -> String {
    let values: Vec<(f64, f64)> = pairs.iter().map(|(a, b)| (of(a), of(b))).collect();
    let ratio = |drawn: &mut dyn Iterator<Item = usize>| {
        let (before, after) = drawn
            .fold((0.0, 0.0), |(before, after), at| (before + values[at].0, after + values[at].1));
        if before > 0.0 { 100.0 * (after / before - 1.0) } else { 0.0 }
    };
    let mut draws = Draws::among(values.len());
    let mut ratios: Vec<f64> = (0..DRAWS).map(|_| ratio(&mut draws.all())).collect();
    ratios.sort_by(f64::total_cmp);
    let (low, high) = (ratios[DRAWS / 40], ratios[DRAWS - 1 - DRAWS / 40]);
    format!("{:+.2} % [{low:+.2}, {high:+.2}]", ratio(&mut (0..values.len())))
}

/// Names the events of several sessions by one hash.
fn hash(played: &[&Played]) -> String {
    match played {
        [one] => one.hash.clone(),
        several => {
            // FNV-1a over the sessions' own hashes, which are of all their events.
            let all = several.iter().flat_map(|one| one.hash.bytes());
            let hash = all.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            format!("{hash:016x}")
        }
    }
}

fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 7200 => format!("{:.1} h", time.as_secs_f64() / 3600.0),
        seconds if seconds >= 120 => format!("{:.1} min", time.as_secs_f64() / 60.0),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

fn tokens(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..10_000_000 => format!("{:.0}k", count as f64 / 1e3),
        _ => format!("{:.1}M", count as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Ends what computes when the scope is left, by a failed assertion, too.
    struct Ends<'a>(&'a AtomicBool);

    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_setting_plays_the_same_events_at_any_load() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../vtcode-core/src/laboratory/sample.jsonl");
        let tapes = tapes(&read(&sample).unwrap(), &sample).unwrap();
        let variants = variants();
        let jobs: Vec<(usize, usize)> = (0..tapes.len())
            .flat_map(|tape| (0..variants.len()).map(move |variant| (tape, variant)))
            .collect();
        let all = |threads| {
            let play = |&(tape, variant): &(usize, usize)| {
                one(&tapes[tape], &variants[variant].setting).unwrap()
            };
            on_all_cores(Some(threads), &jobs, play)
        };
        let quiet = all(1);
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _ends = Ends(&ended);
            // Each round has one more thread beside it that takes the processors away now and then.
            for threads in [2, 5] {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
                for ((tape, variant), (one, other)) in
                    jobs.iter().zip(quiet.iter().zip(all(threads)))
                {
                    let (session, setting) = (&tapes[*tape].id, variants[*variant].name);
                    assert_eq!(*one, other, "{session}, {setting}, on {threads} threads");
                }
            }
        });
    }
}
