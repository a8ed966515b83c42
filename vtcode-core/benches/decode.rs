//! What a streamed delta costs, from the bytes of a chunk to the delta that the engine gets, on each
//! wire: ours, and what a decoder does that parses each event into a `Value` and keeps a `String` of
//! its words. Both sides in turns, in one process; prints medians, the 5th and the 95th percentile,
//! and allocations. Asserts no time.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use mimalloc::MiMalloc;
use serde_json::Value;
use vtcode_core::config::endpoint::Wire;
use vtcode_core::llm::message::Delta;
use vtcode_core::llm::provider::{self, Decoder, sse::SseParser};
use vtcode_testkit::{Allocations, Counting};

#[path = "../tests/it/streams.rs"]
#[expect(dead_code, reason = "shared with the tests, which use all of it")]
mod streams;

#[global_allocator]
static ALLOCATOR: Counting<MiMalloc> = Counting(MiMalloc);

const ROUNDS: usize = 301;
const DELTAS: usize = 200;

/// Ours: the framer, the decoder, and one list for what it gives.
struct Ours {
    parser: SseParser,
    decoder: Box<dyn Decoder>,
    deltas: Vec<Delta>,
}

impl Ours {
    fn begin(wire: Wire) -> Self {
        let decoder = provider::for_wire(wire).decoder(&Arc::default());
        let mut ours = Self { parser: SseParser::new(), decoder, deltas: Vec::new() };
        ours.take(&streams::begin(wire));
        ours
    }

    fn take(&mut self, chunk: &str) {
        let Self { parser, decoder, deltas } = self;
        let take = |event: &str, data: &str| {
            decoder.event(event, data, deltas).expect("the events are sound");
        };
        parser.push(chunk.as_bytes(), take).expect("the events are short");
        black_box(&deltas);
        deltas.clear();
    }
}

/// The plain way: lines, a `Value`, a `String`.
#[derive(Default)]
struct Plain {
    buffer: String,
    text: String,
    deltas: Vec<String>,
}

impl Plain {
    fn take(&mut self, wire: Wire, chunk: &str) {
        self.buffer.push_str(chunk);
        while let Some(end) = self.buffer.find("\n\n").or_else(|| self.buffer.find("\r\n\r\n")) {
            let event: String = self.buffer.drain(..end + 2).collect();
            for line in event.lines() {
                let Some(data) = line.strip_prefix("data: ") else { continue };
                let event: Value = serde_json::from_str(data).expect("the events are sound");
                let words = match wire {
                    Wire::OpenAiChat => &event["choices"][0]["delta"]["content"],
                    Wire::OpenAiResponses => &event["delta"],
                    Wire::Anthropic => &event["delta"]["text"],
                    _ => &event["candidates"][0]["content"]["parts"][0]["text"],
                };
                if let Some(words) = words.as_str() {
                    self.text.push_str(words);
                    self.deltas.push(words.to_owned());
                }
            }
        }
        black_box(&self.deltas);
        self.deltas.clear();
    }
}

fn main() {
    println!("a streamed delta, framing included: ns and allocations a delta, medians of {ROUNDS}");
    for wire in Wire::ALL {
        for (name, piece) in [("a word", "a word "), ("with escapes", "a \\\"line\\\"\\n")] {
            let delta = streams::delta(wire, piece);
            let (mut ours, mut plain) = (Ours::begin(wire), Plain::default());
            let (mut ours_ns, mut plain_ns) = (Vec::new(), Vec::new());
            let (mut ours_asked, mut plain_asked) = (0, 0);
            for _ in 0..ROUNDS {
                let (ns, asked) = measured(|| ours.take(black_box(&delta)));
                ours_ns.push(ns);
                ours_asked += asked;
                let (ns, asked) = measured(|| plain.take(wire, black_box(&delta)));
                plain_ns.push(ns);
                plain_asked += asked;
            }
            let each = |asked: u64| asked as f64 / (ROUNDS * DELTAS) as f64;
            println!(
                "{wire:9} {name:12} {:3} B  ours {} ({:.4} allocations)  Value and String {} ({:.1})",
                delta.len(),
                spread(&mut ours_ns),
                each(ours_asked),
                spread(&mut plain_ns),
                each(plain_asked),
            );
        }
    }
}

/// Runs some deltas; returns what one took, and what all asked the allocator for.
fn measured(mut one: impl FnMut()) -> (f64, u64) {
    let began = Instant::now();
    let ((), asked) = Allocations::during(|| (0..DELTAS).for_each(|_| one()));
    (began.elapsed().as_secs_f64() * 1e9 / DELTAS as f64, asked.count)
}

fn spread(ns: &mut [f64]) -> String {
    ns.sort_unstable_by(f64::total_cmp);
    let at = |percent: usize| ns[(ns.len() - 1) * percent / 100];
    format!("{:6.0} ns ({:.0} – {:.0})", at(50), at(5), at(95))
}
