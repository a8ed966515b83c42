//! What a streamed delta costs: framing and decoding take no memory once an answer runs.

use std::sync::Arc;

use vtcode_core::config::endpoint::Wire;
use vtcode_core::llm::message::Delta;
use vtcode_core::llm::provider::{self, sse::SseParser};
use vtcode_testkit::Allocations;

use crate::session::POOL;
use crate::streams;

/// Deltas that are decoded before anything is counted: more than half of all, so that the text that
/// gathers, which doubles its room when it is full, does so once more at most.
const BEFORE: usize = 9_000;
const COUNTED: usize = 4_000;

#[test]
fn a_delta_takes_no_memory_on_any_wire() {
    // Somebody who makes the pool smaller meanwhile makes deltas dearer.
    let _alone = POOL.blocking_lock();
    for wire in Wire::ALL {
        for piece in ["a word ", "a line\\n", "\\\"quoted\\\" ", "gr\u{fc}n \u{1f642} "] {
            let (begin, delta) = (streams::begin(wire), streams::delta(wire, piece));
            let mut decoder = provider::for_wire(wire).decoder(&Arc::default());
            let (mut parser, mut deltas) = (SseParser::new(), Vec::new());
            let mut take = |bytes: &[u8]| {
                let mut said = 0;
                parser
                    .push(bytes, |event, data| decoder.event(event, data, &mut deltas).unwrap())
                    .unwrap();
                for delta in deltas.drain(..) {
                    if let Delta::Text(text) = delta {
                        said += text.len();
                    }
                }
                said
            };
            take(begin.as_bytes());
            (0..BEFORE).for_each(|_| assert!(take(delta.as_bytes()) > 0, "{wire} {piece}"));
            // The second half of an event in a chunk of its own, as the network cuts it.
            let (head, tail) = delta.as_bytes().split_at(delta.len() / 2);
            take(head);
            take(tail);
            let mut each = vec![0_u64; COUNTED];
            for asked in &mut each {
                let (_, counted) = Allocations::during(|| {
                    take(delta.as_bytes());
                    take(head);
                    take(tail)
                });
                *asked = counted.count;
            }
            let some = each.iter().filter(|asked| **asked > 0).count();
            // The answer's own text doubles its room; nothing else ever asks for any.
            assert!(some <= 1, "{wire} {piece}: {some} of {COUNTED} deltas took memory");
        }
    }
}

#[test]
fn a_piece_of_a_calls_arguments_takes_no_memory_where_the_wire_has_such() {
    let _alone = POOL.blocking_lock();
    for wire in [Wire::OpenAiChat, Wire::OpenAiResponses, Wire::Anthropic] {
        let mut decoder = provider::for_wire(wire).decoder(&Arc::default());
        let (mut parser, mut deltas) = (SseParser::new(), Vec::new());
        let mut take = |text: &str| {
            parser
                .push(text.as_bytes(), |event, data| {
                    decoder.event(event, data, &mut deltas).unwrap();
                })
                .unwrap();
            deltas.clear();
        };
        take(&streams::begin_call(wire));
        let piece = streams::arguments(wire, "lines of a \\\\n file ");
        (0..BEFORE).for_each(|_| take(&piece));
        let mut some = 0;
        for _ in 0..COUNTED {
            let ((), asked) = Allocations::during(|| take(&piece));
            some += usize::from(asked.count > 0);
        }
        assert!(some <= 1, "{wire}: {some} of {COUNTED} pieces took memory");
    }
}

#[test]
fn each_answer_is_framed_in_buffers_that_were_used_before() {
    let _alone = POOL.blocking_lock();
    let bytes = b"event: content\ndata: {\"text\":\ndata: \"some words\"}\n\n";
    let frame_all = || {
        let mut events = 0;
        // Cut at each place, so that every line has to be put together once.
        for cut in 1..bytes.len() {
            let mut parser = SseParser::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                parser.push(part, |_, _| events += 1).unwrap();
            }
        }
        events
    };
    // The first time fills the shelves.
    frame_all();
    let (events, asked) = Allocations::during(frame_all);
    assert_eq!((events, asked.count), (bytes.len() - 1, 0));
}
