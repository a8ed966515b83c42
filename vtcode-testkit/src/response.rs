//! One HTTP response: a reply, or an error, comes in; the exact writes to the socket go out, and
//! what becomes of the connection after them. Faults do their damage here.
//! Decides nothing while it sends, except when the next write is due.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::WriteHalf;

use crate::http;
use crate::reply::{Fault, Reply};
use crate::wire::{Answer, Wire};

/// How the events of a stream are split into HTTP chunks. Each chunk is one write to the socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Chunking {
    /// One event a chunk.
    #[default]
    WholeEvents,
    /// So many bytes a chunk, whatever they cut; 0 counts as 1.
    Bytes(usize),
    /// From 1 to 64 bytes a chunk, the same sizes for the same seed and request number.
    Random(u64),
}

/// What becomes of the connection after the last write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It serves the next request.
    Clean,
    /// It is closed.
    Close,
    /// It is reset.
    Reset,
    /// It stays open and is never written to again.
    Stall,
}

/// A response, ready to send.
#[derive(Debug)]
pub(crate) struct Response {
    delay: Duration,
    pace: Duration,
    /// The head stands in the first one, together with the first chunk.
    writes: Vec<Vec<u8>>,
    pub(crate) ending: Ending,
}

impl Response {
    /// Returns a response with a JSON body.
    pub(crate) fn json(code: u16, headers: &[(String, String)], body: &Value) -> Self {
        Self::plain(code, headers, "application/json", body.to_string().as_bytes())
    }

    /// Returns the response that a reply gives to a request, whatever its fault.
    pub(crate) fn of_reply(
        wire: Wire,
        number: usize,
        request: &Value,
        request_bytes: usize,
        reply: &Reply,
        chunking: Chunking,
    ) -> Self {
        let response = match &reply.fault {
            Some(Fault::Status { code, headers, body }) if body.is_empty() => {
                Self::json(*code, headers, &wire.error(*code, "the script orders this error"))
            }
            Some(Fault::Status { code, headers, body }) => {
                Self::plain(*code, headers, "application/json", body.as_bytes())
            }
            Some(Fault::NotSse) => Self::plain(200, &[], "text/html; charset=utf-8", PORTAL),
            Some(Fault::CloseBeforeResponse) => Self::nothing(Ending::Close),
            Some(Fault::Reset) => Self::nothing(Ending::Reset),
            Some(Fault::Empty) => {
                let reply = Reply { parts: Vec::new(), ..reply.clone() };
                let answer = Answer::new(wire, number, request, request_bytes, &reply);
                Self::of_answer(wire, &answer, request, None, chunking)
            }
            Some(Fault::MissingTerminal) => {
                let answer = Answer::new(wire, number, request, request_bytes, reply).without_end();
                Self::of_answer(wire, &answer, request, None, chunking)
            }
            fault => {
                let answer = Answer::new(wire, number, request, request_bytes, reply);
                Self::of_answer(wire, &answer, request, fault.as_ref(), chunking)
            }
        };
        Self {
            delay: reply.delay.unwrap_or_default(),
            pace: reply.pace.unwrap_or_default(),
            ..response
        }
    }

    /// Writes the response. Returns never when it stalls; `first` is called after the first write.
    pub(crate) async fn send(
        &self,
        to: &mut WriteHalf<'_>,
        first: impl FnOnce(),
    ) -> io::Result<()> {
        pause(self.delay).await;
        let mut first = Some(first);
        for (index, bytes) in self.writes.iter().enumerate() {
            if index > 0 {
                pause(self.pace).await;
            }
            to.write_all(bytes).await?;
            if let Some(first) = first.take() {
                first();
            }
        }
        if self.ending == Ending::Stall {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn nothing(ending: Ending) -> Self {
        Self { delay: Duration::ZERO, pace: Duration::ZERO, writes: Vec::new(), ending }
    }

    fn plain(code: u16, headers: &[(String, String)], content_type: &str, body: &[u8]) -> Self {
        let length = body.len().to_string();
        let mut all = vec![("content-length", length.as_str())];
        if http::header(headers, "content-type").is_none() {
            all.push(("content-type", content_type));
        }
        all.extend(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let mut bytes = http::head(code, &all);
        bytes.extend_from_slice(body);
        Self { writes: vec![bytes], ..Self::nothing(Ending::Clean) }
    }

    /// Renders an answer; `fault` is one that damages the body.
    fn of_answer(
        wire: Wire,
        answer: &Answer<'_>,
        request: &Value,
        fault: Option<&Fault>,
        chunking: Chunking,
    ) -> Self {
        let streamed = request["stream"] == true;
        let mut events = if streamed {
            wire.stream(answer)
        } else {
            vec![wire.whole(answer).to_string().into_bytes()]
        };
        if let Some(Fault::Garbage(bytes)) = fault {
            events = vec![bytes.clone()];
        }
        // What is announced is the whole body; a fault may send less.
        let length = events.iter().map(Vec::len).sum::<usize>().to_string();
        let ending = match fault {
            Some(Fault::CutAfterEvents(count)) => {
                events.truncate(*count);
                Ending::Close
            }
            Some(Fault::CutAfterBytes(count)) => {
                let mut left = *count;
                for event in &mut events {
                    event.truncate(left);
                    left -= event.len();
                }
                Ending::Close
            }
            Some(Fault::StallAfterEvents(count)) => {
                events.truncate(*count);
                Ending::Stall
            }
            Some(Fault::ErrorAfterEvents(count)) if streamed => {
                events.truncate(*count);
                events.push(wire.error_event());
                Ending::Clean
            }
            Some(Fault::ErrorAfterEvents(_)) => {
                return Self::json(503, &[], &wire.error(503, "the script orders this error"));
            }
            _ => Ending::Clean,
        };
        let writes = if streamed {
            let number = answer.number() as u64;
            let head = http::head(200, &STREAM_HEADERS);
            frame(head, &rechunk(events, chunking, number), ending)
        } else {
            let head = [("content-type", "application/json"), ("content-length", length.as_str())];
            vec![[http::head(200, &head), events.concat()].concat()]
        };
        Self { writes, ..Self::nothing(ending) }
    }
}

const STREAM_HEADERS: [(&str, &str); 3] = [
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache"),
    ("transfer-encoding", "chunked"),
];

/// What stands between the client and the model in a hotel.
const PORTAL: &[u8] =
    b"<!doctype html><html><head><title>Sign in</title></head><body>Welcome!</body></html>\n";

/// Joins the head with the first chunk and the end with the last, as a fast provider would: a client
/// then needs no second read for what is already there.
fn frame(head: Vec<u8>, chunks: &[Vec<u8>], ending: Ending) -> Vec<Vec<u8>> {
    let mut writes = vec![head];
    for (index, bytes) in chunks.iter().enumerate() {
        if index > 0 {
            writes.push(Vec::new());
        }
        http::chunk(writes.last_mut().expect("the head stands there"), bytes);
    }
    if ending == Ending::Clean {
        writes.last_mut().expect("the head stands there").extend_from_slice(http::LAST_CHUNK);
    }
    writes
}

/// Splits the body's bytes; an empty chunk would end the body, so there is none.
fn rechunk(events: Vec<Vec<u8>>, chunking: Chunking, number: u64) -> Vec<Vec<u8>> {
    let mut random;
    let mut next: Box<dyn FnMut() -> usize> = match chunking {
        Chunking::WholeEvents => {
            return events.into_iter().filter(|event| !event.is_empty()).collect();
        }
        Chunking::Bytes(bytes) => Box::new(move || bytes.max(1)),
        Chunking::Random(seed) => {
            random = seed ^ number.rotate_left(32);
            Box::new(move || {
                // splitmix64: any seed is a good one, 0 too.
                random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = random;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                1 + ((z ^ (z >> 31)) % 64) as usize
            })
        }
    };
    let body = events.concat();
    let mut rest = &body[..];
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(next().min(rest.len()));
        chunks.push(chunk.to_vec());
        rest = later;
    }
    chunks
}

/// Sleeps, unless there is nothing to sleep: even a sleep of zero costs a turn of the timer.
async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
