use std::collections::HashSet;

use super::*;
use crate::core::event::{SessionHeader, ToolCount, ToolCounts};
use crate::llm::message::{FinishReason, ToolCall};
use crate::tools::tool::Detail;

/// What a model, a tool's name or a prompt may hold at its worst.
const HOSTILE: &str = "</title><script>alert(1)</script>\"'&\u{202e}<img src=x onerror=y>\u{1b}[2J";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn header() -> SessionHeader {
    SessionHeader {
        format: 1,
        session_id: "s1".to_owned(),
        started_at_ms: 1,
        cwd: "/w".into(),
        add_dirs: Vec::new(),
        provider: "openai".to_owned(),
        base_url: String::new(),
        model: HOSTILE.to_owned(),
        system: String::new(),
    }
}

/// A prompt of two turns, the first with a second attempt and two calls that overlap.
fn prompt(tool: &str) -> Vec<(u64, EventKind)> {
    let attempt = |number, outcome| {
        EventKind::AttemptEnded(Attempt {
            attempt: number,
            model: "m".to_owned(),
            outcome,
            usage: Usage { input_tokens: 100, cached_input_tokens: 40, output_tokens: 7 },
            cost_usd: Some(0.0002),
            first_byte: Some(ms(20)),
            took: ms(80),
            parse: ms(1),
        })
    };
    let call = |id: &str| {
        let (name, arguments) = (tool.to_owned(), format!("{{\"path\":\"{HOSTILE}\"}}"));
        EventKind::Part { part: Part::ToolCall(ToolCall { id: id.to_owned(), name, arguments }) }
    };
    let started = |id: &str| EventKind::ToolStarted {
        call_id: id.to_owned(),
        name: tool.to_owned(),
        arguments: String::new(),
    };
    let finished = |id: &str, ran, is_error| EventKind::ToolFinished {
        call_id: id.to_owned(),
        name: tool.to_owned(),
        text: String::new(),
        is_error,
        class: None,
        detail: Detail::Plain,
        waited: ms(1),
        ran: ms(ran),
    };
    let sent = |turn| EventKind::RequestSent { turn, body_bytes: 1000, prefix: None };
    let ended = || EventKind::ResponseEnded { finish: FinishReason::Stop, usage: Usage::default() };
    let counted = ToolCount { name: tool.to_owned(), ran: 2, failed: 1, ..ToolCount::default() };
    let counts = ToolCounts { cache_hits: 3, tools: vec![counted], ..ToolCounts::default() };
    vec![
        (0, EventKind::PromptStarted { text: HOSTILE.to_owned(), images: Vec::new() }),
        (2, sent(1)),
        (30, attempt(1, Outcome::Stalled)),
        (30, EventKind::Retry { attempt: 2, wait: ms(5), cause: HOSTILE.to_owned() }),
        (55, EventKind::FirstByte),
        (90, call("a")),
        (90, started("a")),
        (95, call("b")),
        (95, started("b")),
        (115, attempt(2, Outcome::Done)),
        (115, ended()),
        (160, finished("b", 60, false)),
        (200, finished("a", 105, true)),
        (203, sent(2)),
        (243, EventKind::FirstByte),
        (253, attempt(1, Outcome::Done)),
        (253, ended()),
        (254, EventKind::ToolCounts { counts }),
        (254, EventKind::PromptFinished { usage: Usage::default() }),
    ]
}

pub(super) fn report() -> SessionReport {
    let mut report = SessionReport::default();
    report.take(&Event { at: ms(0), kind: EventKind::SessionStarted(header()) });
    // The second run has a clock of its own.
    for _ in 0..2 {
        for (at, kind) in prompt(HOSTILE) {
            report.take(&Event { at: ms(at), kind });
        }
    }
    report
}

#[test]
fn two_runs_of_a_session_are_laid_end_to_end() {
    let report = report();
    assert_eq!(report.profile.total(), ms(2 * 254));
    assert_eq!((report.prompts.len(), report.profile.turns.count()), (2, 4));
    let began: Vec<_> = report.profile.turns.iter().map(|turn| turn.began).collect();
    assert!(began.is_sorted(), "{began:?}");
    assert_eq!(report.profile.turns.iter().last().unwrap().ended, ms(2 * 254));
    let Ledger { count, lost, usage, sent_bytes, .. } = report.ledger;
    assert_eq!((count, lost, usage.input_tokens, sent_bytes), (6, 2, 600, 4000));
}

/// Reads a page tag by tag: every tag that is opened is closed, in order, and every `&` begins a
/// name. Returns the tags.
fn well_formed(page: &str) -> HashSet<String> {
    const VOID: [&str; 2] = ["meta", "!doctype"];
    let (mut open, mut seen) = (Vec::new(), HashSet::new());
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').expect("a tag has an end") + at;
        let tag = &rest[at + 1..end];
        let name: String = tag
            .trim_start_matches('/')
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '!')
            .collect();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(&*name), "near {tag}");
        } else if !VOID.contains(&&*name) {
            open.push(name.clone());
        }
        seen.insert(name);
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?}");
    for after in page.split('&').skip(1) {
        let name = after.split(';').next().unwrap_or_default();
        assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "&{name}");
    }
    seen
}

#[test]
fn the_page_is_well_formed_and_holds_nothing_that_others_wrote_as_markup() {
    let page = report().html();
    let tags = well_formed(&page);
    for bad in ["script", "img", "iframe", "link", "object", "a", "form"] {
        assert!(!tags.contains(bad), "<{bad}>");
    }
    for part in
        ["http:", "https:", "url(", "@import", "javascript:", " onerror=\"", "\u{202e}", "\u{1b}"]
    {
        assert!(!page.contains(part), "{part:?}");
    }
    assert!(page.contains("&lt;script&gt;alert(1)"), "it is shown all the same");
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn the_page_shows_every_turn_call_and_attempt() {
    let page = report().html();
    assert_eq!(page.matches("<details").count(), 4);
    assert_eq!(page.matches("model, attempt 2").count(), 2);
    // In each run three attempts and two calls, with a name and a time each.
    assert_eq!(page.matches("<text ").count(), 2 * (3 + 2) * 2);
    assert_eq!(page.matches("<rect class=\"tool bad\"").count(), 2);
    for words in ["prefers-color-scheme: dark", "stalled", "results served from the cache", "p99"] {
        assert!(page.contains(words), "{words}");
    }
}

#[test]
fn a_page_of_nothing_and_one_of_very_much_are_pages() {
    well_formed(&SessionReport::default().html());
    let mut long = SessionReport::default();
    for run in 0..300u64 {
        for (at, kind) in prompt("read_file") {
            long.take(&Event { at: ms(run * 300 + at), kind });
        }
    }
    let page = long.html();
    well_formed(&page);
    assert_eq!(page.matches("<details").count(), 200);
    assert!(page.contains("400 earlier turns not drawn") && page.len() < 2 << 20, "{}", page.len());
}

#[test]
fn bars_on_one_lane_of_the_trace_never_overlap() {
    let trace = report().trace();
    let events = trace["traceEvents"].as_array().unwrap();
    let named = |lane: &Value| {
        let name = events.iter().find(|e| e["name"] == "thread_name" && e["tid"] == *lane);
        name.unwrap()["args"]["name"].as_str().unwrap().to_owned()
    };
    let mut lanes: HashMap<String, Vec<(u64, u64)>> = HashMap::new();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let (from, took) = (event["ts"].as_u64().unwrap(), event["dur"].as_u64().unwrap());
        lanes.entry(named(&event["tid"])).or_default().push((from, from + took));
    }
    for (name, bars) in &mut lanes {
        bars.sort_unstable();
        assert!(bars.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{name}: {bars:?}");
    }
    let names: HashSet<&str> = lanes.keys().map(String::as_str).collect();
    for lane in ["turns", "vtcode itself", "model, attempt 1", "model, attempt 2", HOSTILE] {
        assert!(names.contains(lane), "{lane} is not among {names:?}");
    }
    assert!(names.contains(&*format!("{HOSTILE} #2")), "two calls ran at once");
}

#[test]
fn the_json_holds_measurements_that_can_be_compared() {
    let json = report().json();
    assert_eq!(json["totals_us"]["total"], 508_000);
    assert_eq!(json["ledger"]["tool_results"]["kept"], 3);
    let requests = json["ledger"]["requests"].as_array().unwrap();
    assert_eq!((requests.len(), &requests[0]["model"]), (6, &"m".into()));
    assert_eq!(
        (&requests[0]["cost_usd"], &requests[0]["per_token_us"]),
        (&0.0002.into(), &8571.into())
    );
    assert!((json["ledger"]["cost_usd"].as_f64().unwrap() - 0.0012).abs() < 1e-9);
    assert_eq!(json["turns"].as_array().unwrap().len(), 4);
    let runs: Vec<BenchmarkResults> = serde_json::from_value(json["benchmarks"].clone()).unwrap();
    let turn = runs.iter().find(|run| run.name == "turn").unwrap();
    assert_eq!(turn.operations, 4);
    assert_eq!(turn.samples_ns[0], 200_000_000);
    assert!(runs.iter().any(|run| run.name.starts_with("tool ")));
}

/// "Trace Event Format": an object with `traceEvents`; complete events with microseconds, and
/// metadata that names each lane once.
#[test]
fn the_trace_is_what_chromes_format_asks_for_and_what_belongs_to_a_turn_lies_in_it() {
    let trace = report().trace();
    assert_eq!(trace["displayTimeUnit"], "ms");
    let events = trace["traceEvents"].as_array().unwrap();
    let (mut names, mut turns, mut parts) = (HashMap::new(), HashMap::new(), Vec::new());
    for event in events {
        assert!(event["name"].is_string() && event["pid"].is_u64(), "{event}");
        assert!(event["args"].is_object(), "{event}");
        match event["ph"].as_str().unwrap() {
            "M" => match event["name"].as_str().unwrap() {
                "thread_name" => {
                    let lane = event["tid"].as_u64().unwrap();
                    let name = event["args"]["name"].as_str().unwrap();
                    assert_eq!(names.insert(lane, name), None, "{lane} has two names");
                }
                "thread_sort_index" => assert!(event["args"]["sort_index"].is_u64(), "{event}"),
                "process_name" => assert!(event["args"]["name"].is_string(), "{event}"),
                other => panic!("{other} is no metadata"),
            },
            "X" => {
                let from = event["ts"].as_u64().unwrap();
                let until = from + event["dur"].as_u64().unwrap();
                assert!(event["cat"].is_string(), "{event}");
                if event["cat"] == "turns" {
                    turns.insert(event["name"].as_str().unwrap().to_owned(), (from, until));
                } else {
                    let turn = format!("turn {}", event["args"]["turn"]);
                    parts.push((turn, from, until, event["tid"].as_u64().unwrap()));
                }
            }
            other => panic!("{other} is no event of ours"),
        }
    }
    assert_eq!((turns.len(), parts.len() > 20), (4, true));
    for (turn, from, until, lane) in parts {
        let (began, ended) = turns[&turn];
        assert!(began <= from && until <= ended, "{turn}: {from} to {until}");
        assert!(names.contains_key(&lane), "{lane} has no name");
    }
}

#[test]
fn what_was_attached_and_what_failed_stands_on_the_page_and_in_the_json() {
    use crate::core::event::{AttachedFile, AttachedKind, AttachmentEnd, ClientCounts};
    let attached = |path: &str| AttachedFile {
        path: path.to_owned(),
        lines: None,
        tokens: 100,
        probability: 0.9,
    };
    let settled = |end| EventKind::AttachmentSettled {
        path: HOSTILE.to_owned(),
        tokens: 100,
        end,
        saved: ms(40),
    };
    let counts = ClientCounts { kept: 2, shared: 3, disk_failures: 4, ..ClientCounts::default() };
    let mut report = SessionReport::default();
    let files = [HOSTILE, "b", "c"].map(attached).to_vec();
    for kind in [
        EventKind::PromptStarted { text: "go".to_owned(), images: Vec::new() },
        EventKind::Attached {
            call_id: "a".to_owned(),
            text: HOSTILE.to_owned(),
            files,
            what: AttachedKind::Guess,
        },
        settled(AttachmentEnd::Used),
        settled(AttachmentEnd::Asked),
        EventKind::Warning { message: HOSTILE.to_owned() },
        EventKind::ClientCounts { counts },
        EventKind::PromptFinished { usage: Usage::default() },
    ] {
        report.take(&Event { at: ms(1), kind });
    }
    let page = report.html();
    well_formed(&page);
    for figure in [
        "before they were asked for</dt><dd>3 files",
        "used, and not asked for</dt><dd>1<",
        "asked for all the same</dt><dd>1<",
        "not used, or not yet</dt><dd>1<",
        "tokens, of these wasted</dt><dd>300, 100<",
        "kept and given again</dt><dd>2<",
        "with an identical request</dt><dd>3<",
        "answers on the disk, times</dt><dd>4<",
        "warnings</dt><dd>1<",
    ] {
        assert!(page.contains(figure), "{figure}");
    }
    let json = report.json();
    assert_eq!(json["ledger"]["attached"]["wasted_tokens"], 100);
    assert_eq!(json["ledger"]["answers"], json!({"kept": 2, "shared": 3}));
    assert_eq!(json["fallbacks"]["answers_on_disk"], 4);
}
