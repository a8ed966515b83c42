//! The Chrome trace: a report comes in, complete events (`ph: X`) on named lanes come out. What
//! overlaps on a lane without lying inside the other gets a lane of its own.

use std::time::Duration;

use serde_json::{Value, json};

use super::SessionReport;
use crate::core::performance_profiler::turns::Waited;

/// One bar.
struct Bar {
    lane: String,
    /// Lanes of one kind stand together.
    kind: u8,
    name: String,
    from: Duration,
    until: Duration,
    args: Value,
}

pub(super) fn of(report: &SessionReport) -> Value {
    let mut lanes: Vec<(u8, String, Duration)> = Vec::new();
    let mut events = vec![json!({
        "ph": "M", "pid": 1, "name": "process_name",
        "args": {"name": format!("vtcode session {}", report.session_id)},
    })];
    let mut bars = bars(report);
    bars.sort_by_key(|bar| (bar.kind, bar.from));
    for bar in &bars {
        let lane = lane_for(&mut lanes, bar);
        events.push(json!({
            "ph": "X", "pid": 1, "tid": lane + 1, "name": bar.name, "cat": bar.lane,
            "ts": micros(bar.from), "dur": micros(bar.until.saturating_sub(bar.from)),
            "args": bar.args,
        }));
    }
    for (number, (_, name, _)) in lanes.iter().enumerate() {
        events.push(json!({
            "ph": "M", "pid": 1, "tid": number + 1, "name": "thread_name", "args": {"name": name},
        }));
        events.push(json!({
            "ph": "M", "pid": 1, "tid": number + 1, "name": "thread_sort_index",
            "args": {"sort_index": number},
        }));
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ms" })
}

/// Returns the first lane of the bar's kind and name that is free, or a new one.
fn lane_for(lanes: &mut Vec<(u8, String, Duration)>, bar: &Bar) -> usize {
    let mut copies = 0;
    for (number, (kind, name, busy)) in lanes.iter_mut().enumerate() {
        let own = *kind == bar.kind && name.split(" #").next() == Some(&bar.lane);
        copies += usize::from(own);
        if own && *busy <= bar.from {
            *busy = bar.until;
            return number;
        }
    }
    let name = if copies == 0 { bar.lane.clone() } else { format!("{} #{}", bar.lane, copies + 1) };
    lanes.push((bar.kind, name, bar.until));
    lanes.len() - 1
}

fn bars(report: &SessionReport) -> Vec<Bar> {
    let mut bars = Vec::new();
    for turn in report.profile.turns.iter() {
        let path = turn.critical_path();
        bars.push(Bar {
            lane: "turns".to_owned(),
            kind: 0,
            name: format!("turn {}", turn.number),
            from: turn.began,
            until: turn.ended,
            args: json!({"waited_for": path.to_string()}),
        });
        for segment in &path.segments {
            let name = match &segment.on {
                Waited::Model => "model",
                Waited::Tool(tool) => tool,
                Waited::Queue => "waiting for leave or a slot",
                Waited::Us => "vtcode",
            };
            bars.push(Bar {
                lane: if segment.on == Waited::Us {
                    "vtcode itself"
                } else {
                    "what the turn waited for"
                }
                .to_owned(),
                kind: if segment.on == Waited::Us { 4 } else { 1 },
                name: name.to_owned(),
                from: segment.from,
                until: segment.until,
                args: json!({"turn": turn.number}),
            });
        }
        for (number, attempt) in turn.attempts.iter().enumerate() {
            let ended = attempt.ended.unwrap_or(turn.ended);
            let mut piece = |name: &str, from, until| {
                bars.push(Bar {
                    lane: format!("model, attempt {}", number + 1),
                    kind: 2,
                    name: name.to_owned(),
                    from,
                    until,
                    args: json!({"turn": turn.number}),
                });
            };
            let first_byte = attempt.first_byte.unwrap_or(ended);
            piece("until it answers", attempt.sent, first_byte);
            if first_byte < ended {
                piece("while it answers", first_byte, ended);
            }
        }
        for call in &turn.calls {
            bars.push(Bar {
                lane: call.tool.clone(),
                kind: 3,
                name: if call.failed {
                    format!("{} (failed)", call.tool)
                } else {
                    call.tool.clone()
                },
                from: call.began,
                until: call.finished.unwrap_or(turn.ended).max(call.began),
                args: json!({
                    "turn": turn.number, "call": call.call_id,
                    "arguments": report.arguments(&call.call_id),
                    "waited_us": micros(call.began.saturating_sub(call.submitted)),
                }),
            });
        }
    }
    bars
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
