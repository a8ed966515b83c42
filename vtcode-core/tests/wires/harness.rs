//! An answer's bytes in pieces come in, what the client hears of it comes out as text: through the
//! framing and the decoders that requests use. Shared by the tests of captured answers and by the
//! fuzz targets, one for each wire.

use std::fmt::Write as _;
use std::sync::Arc;

use vtcode_core::config::endpoint::Wire;
use vtcode_core::llm::message::{Delta, Part, ToolCall, Usage};
use vtcode_core::llm::provider::sse::Framing;
use vtcode_core::llm::provider::{self, DecodeError};

/// What an answer said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// A line for each delta, and the error as the last one.
    pub(crate) text: String,
    /// The bytes of all deltas.
    pub(crate) bytes: usize,
}

/// Hears an answer that arrives in these pieces.
pub(crate) fn told<'a>(wire: Wire, pieces: impl IntoIterator<Item = &'a [u8]>) -> Told {
    let provider = provider::for_wire(wire);
    let mut decoder =
        provider.decoder(&Arc::from(["read_file".to_owned(), "list_files".to_owned()]));
    let (mut framing, mut deltas) = (Framing::Unknown, Vec::new());
    let mut heard: Result<(), String> = Ok(());
    let words = |error: DecodeError| error.to_string();
    for piece in pieces {
        let piece = framing.begin(piece);
        match &mut framing {
            Framing::Unknown => {}
            Framing::Whole(body) => body.extend_from_slice(piece),
            Framing::Events(parser) => {
                let framed = parser.push(piece, |event, data| {
                    if heard.is_ok() {
                        heard = decoder.event(event, data, &mut deltas).map_err(words);
                    }
                });
                heard =
                    std::mem::replace(&mut heard, Ok(())).and(framed.map_err(|e| e.to_string()));
            }
        }
        if heard.is_err() {
            break;
        }
    }
    let heard = heard.and_then(|()| match &framing {
        Framing::Whole(body) => match provider.error_message(body) {
            Some(message) => Err(format!("the provider reported: {message}")),
            None => decoder
                .event("", &String::from_utf8_lossy(body), &mut deltas)
                .and_then(|()| decoder.end(&mut deltas))
                .map_err(words),
        },
        Framing::Unknown | Framing::Events(_) => decoder.end(&mut deltas).map_err(words),
    });
    let bytes = deltas.iter().map(bytes).sum();
    let mut text = String::new();
    for delta in &deltas {
        line(&mut text, delta);
    }
    if let Err(error) = heard {
        text.push_str(&error);
        text.push('\n');
    }
    Told { text, bytes }
}

fn bytes(delta: &Delta) -> usize {
    match delta {
        Delta::Text(words) | Delta::Reasoning(words) => words.len(),
        Delta::Part(part) => part.bytes(),
        Delta::Usage(_) | Delta::Finish(_) => 0,
    }
}

fn line(text: &mut String, delta: &Delta) {
    // Writing to a String cannot fail.
    let _ = match delta {
        Delta::Text(words) => writeln!(text, "text {words:?}"),
        Delta::Reasoning(words) => writeln!(text, "reasoning {words:?}"),
        Delta::Part(Part::Text { text: words }) => writeln!(text, "= text {words:?}"),
        Delta::Part(Part::Reasoning { text: words, signature, redacted }) => {
            let kind = if *redacted { "redacted" } else { "reasoning" };
            writeln!(text, "= {kind} {words:?} {signature:?}")
        }
        Delta::Part(Part::ToolCall(ToolCall { id, name, arguments })) => {
            writeln!(text, "= call {id} {name} {arguments}")
        }
        Delta::Usage(Usage { input_tokens, cached_input_tokens, output_tokens }) => {
            writeln!(text, "usage {input_tokens} ({cached_input_tokens}) {output_tokens}")
        }
        Delta::Finish(finish) => writeln!(text, "finish {finish:?}"),
    };
}

/// Checks that any bytes say the same however they arrive, and that what is said of them does not
/// outgrow them; panics if not. Returns what they say.
pub(crate) fn check(wire: Wire, bytes: &[u8]) -> String {
    /// How much more than its bytes an answer may say: all is told twice, as deltas and as a part,
    /// and each byte that is no text becomes three.
    const TIMES: usize = 6;
    /// What a call without a name of its own gets, and the shortest that a call can be.
    const ID: usize = 100;
    let whole = told(wire, [bytes]);
    let calls = whole.text.lines().filter(|line| line.starts_with("= call")).count();
    let most = bytes.len() * TIMES + calls * ID;
    assert!(whole.bytes <= most, "{wire}: {} bytes say {}", bytes.len(), whole.bytes);
    assert_eq!(told(wire, bytes.chunks(1)), whole, "{wire}: byte by byte");
    let mut dice = Dice::of(bytes);
    for _ in 0..2 {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = rest.len().min(1 + dice.roll(200));
            let (piece, after) = rest.split_at(1 + dice.roll(most));
            pieces.push(piece);
            rest = after;
        }
        assert_eq!(told(wire, pieces.iter().copied()), whole, "{wire}: {pieces:?}");
    }
    whole.text
}

/// Dice that fall the same each time.
pub(crate) struct Dice(u64);

impl Dice {
    /// Returns dice that fall as these bytes have it.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix))
    }

    /// Returns a number below `sides`, which is not 0; 0 if it is.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides.max(1)
    }
}
