//! One HTTP response: a reply, or an error, comes in; the exact writes to the socket go out, and
//! what becomes of the connection after them. Faults do their damage here.
//! Decides nothing while it sends, except when the next write is due.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::WriteHalf;

use crate::bill::Bill;
use crate::http;
use crate::reply::{Fault, Reply, Usage};
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
    writes: Vec<Write>,
    pub(crate) ending: Ending,
    pub(crate) answer_events: usize,
    pub(crate) answer_bytes: usize,
}

/// One write to the socket.
#[derive(Debug, Default)]
struct Write {
    /// The head stands in the first one, together with the first chunk.
    bytes: Vec<u8>,
    /// How often they are written.
    times: usize,
    /// A wait before it, besides the pace.
    pause: Duration,
    /// What is billed once it is written.
    billed: Usage,
}

impl Write {
    fn once(bytes: Vec<u8>, billed: Usage) -> Self {
        Self { bytes, times: 1, billed, ..Self::default() }
    }
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

    /// Writes the response. Returns never when it stalls; `written` is called after each write, with
    /// whether it was the first and what is billed by now.
    pub(crate) async fn send(
        &self,
        to: &mut WriteHalf<'_>,
        written: impl Fn(bool, Usage),
    ) -> io::Result<()> {
        pause(self.delay).await;
        for (index, write) in self.writes.iter().enumerate() {
            if index > 0 {
                pause(self.pace).await;
            }
            pause(write.pause).await;
            for _ in 0..write.times {
                to.write_all(&write.bytes).await?;
            }
            written(index == 0, write.billed);
        }
        if self.ending == Ending::Stall {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn nothing(ending: Ending) -> Self {
        Self {
            delay: Duration::ZERO,
            pace: Duration::ZERO,
            writes: Vec::new(),
            ending,
            answer_events: 0,
            answer_bytes: 0,
        }
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
        let answer_bytes = bytes.len();
        let writes = vec![Write::once(bytes, Usage::default())];
        Self { writes, answer_bytes, ..Self::nothing(Ending::Clean) }
    }

    /// Renders an answer; `fault` is one that damages the body.
    fn of_answer(
        wire: Wire,
        answer: &Answer<'_>,
        request: &Value,
        fault: Option<&Fault>,
        chunking: Chunking,
    ) -> Self {
        if matches!(fault, Some(Fault::Silence)) {
            return Self::nothing(Ending::Stall);
        }
        if request["stream"] == true {
            return Self::streamed(wire, answer, fault, chunking);
        }
        if matches!(fault, Some(Fault::ErrorAfterEvents(_))) {
            return Self::json(503, &[], &wire.error(503, "the script orders this error"));
        }
        let whole = wire.whole(answer);
        let mut body = vec![whole.to_string().into_bytes()];
        let content_type = change(&mut body, fault).unwrap_or("application/json");
        // What is announced is the whole body; a fault may send less.
        let length = body[0].len().to_string();
        let head = [("content-type", content_type), ("content-length", length.as_str())];
        let head = http::head(200, &head);
        let answer_bytes = head.len() + body[0].len();
        let (ending, limit) = cut(&mut body, fault);
        let body = body.concat();
        let sent_whole = body.len() + head.len() == answer_bytes;
        let mut bytes = [head, body].concat();
        bytes.truncate(limit);
        let billed = if sent_whole && bytes.len() == answer_bytes {
            Bill::new(wire).whole(&whole)
        } else {
            Usage::default()
        };
        let writes = vec![Write::once(bytes, billed)];
        Self { writes, answer_events: 1, answer_bytes, ..Self::nothing(ending) }
    }

    fn streamed(
        wire: Wire,
        answer: &Answer<'_>,
        fault: Option<&Fault>,
        chunking: Chunking,
    ) -> Self {
        let mut events = wire.stream(answer);
        let content_type = change(&mut events, fault).unwrap_or("text/event-stream; charset=utf-8");
        let head = http::head(
            200,
            &[
                ("content-type", content_type),
                ("cache-control", "no-cache"),
                ("transfer-encoding", "chunked"),
            ],
        );
        let number = answer.number() as u64;
        let (answer_events, bill) = (events.len(), || Bill::new(wire));
        let whole = frame(&head, &rechunk(&events, chunking, number), usize::MAX, bill());
        let answer_bytes =
            whole.iter().map(|write| write.bytes.len()).sum::<usize>() + http::LAST_CHUNK.len();

        let rest = match fault {
            Some(Fault::DripAfterEvents(count, pause)) => {
                let rest = events.split_off((*count).min(events.len()));
                Some((rest.concat(), *pause))
            }
            _ => None,
        };
        let (ending, limit) = cut(&mut events, fault);
        if let Some(Fault::ErrorAfterEvents(_)) = fault {
            events.push(wire.error_event());
        }
        let mut writes = frame(&head, &rechunk(&events, chunking, number), limit, bill());
        if let Some((rest, pause)) = rest {
            let mut bill = bill();
            bill.sent(&events.concat());
            writes.extend(rest.iter().map(|byte| {
                let mut bytes = Vec::new();
                http::chunk(&mut bytes, &[*byte]);
                Write { pause, ..Write::once(bytes, bill.sent(&[*byte])) }
            }));
        }
        if let Some(Fault::LongLineAfterEvents(_, bytes)) = fault {
            let billed = writes.last().map(|write| write.billed).unwrap_or_default();
            let mut piece = Vec::new();
            http::chunk(&mut piece, &vec![b'x'; LONG_LINE_PIECE]);
            let times = bytes.div_ceil(LONG_LINE_PIECE);
            writes.push(Write { bytes: piece, times, billed, ..Write::default() });
        }
        if ending == Ending::Clean {
            let last = writes.last_mut().expect("the head stands there");
            if last.times == 1 {
                last.bytes.extend_from_slice(http::LAST_CHUNK);
            } else {
                let billed = last.billed;
                writes.push(Write::once(http::LAST_CHUNK.to_vec(), billed));
            }
        } else if let Some(Fault::CutResponseAfterBytes(_)) = fault
            && limit + http::LAST_CHUNK.len() > answer_bytes
        {
            let left = limit + http::LAST_CHUNK.len() - answer_bytes;
            let last = writes.last_mut().expect("the head stands there");
            last.bytes.extend_from_slice(&http::LAST_CHUNK[..left.min(http::LAST_CHUNK.len())]);
        }
        Self { writes, answer_events, answer_bytes, ..Self::nothing(ending) }
    }
}

/// Bytes of a long line that are written at once.
const LONG_LINE_PIECE: usize = 64 * 1024;

/// Changes what the body says, and returns the content type that a fault orders.
fn change<'a>(events: &mut Vec<Vec<u8>>, fault: Option<&'a Fault>) -> Option<&'a str> {
    match fault {
        Some(Fault::Garbage(bytes)) => *events = vec![bytes.clone()],
        Some(Fault::Replace { from, to }) => {
            for event in events {
                *event = replaced(event, from, to);
            }
        }
        Some(Fault::ContentType(name)) => return Some(name),
        _ => {}
    }
    None
}

/// Leaves of the body what a fault leaves of it. Returns what becomes of the connection, and how
/// many bytes of the whole response are sent.
fn cut(events: &mut Vec<Vec<u8>>, fault: Option<&Fault>) -> (Ending, usize) {
    let ending = match fault {
        Some(Fault::CutAfterEvents(count)) => {
            events.truncate(*count);
            Ending::Close
        }
        Some(Fault::ResetAfterEvents(count)) => {
            events.truncate(*count);
            Ending::Reset
        }
        Some(Fault::CutAfterBytes(count)) => {
            let mut left = *count;
            for event in events {
                event.truncate(left);
                left -= event.len();
            }
            Ending::Close
        }
        Some(Fault::CutResponseAfterBytes(count)) => return (Ending::Close, *count),
        Some(Fault::StallAfterEvents(count)) => {
            events.truncate(*count);
            Ending::Stall
        }
        Some(Fault::ErrorAfterEvents(count) | Fault::LongLineAfterEvents(count, _)) => {
            events.truncate(*count);
            Ending::Clean
        }
        _ => Ending::Clean,
    };
    (ending, usize::MAX)
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(from) {
            out.extend_from_slice(to);
            at += from.len();
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

/// What stands between the client and the model in a hotel.
const PORTAL: &[u8] =
    b"<!doctype html><html><head><title>Sign in</title></head><body>Welcome!</body></html>\n";

/// Joins the head with the first chunk, as a fast provider would: a client then needs no second read
/// for what is already there. Sends `limit` bytes at most.
fn frame(head: &[u8], chunks: &[Vec<u8>], limit: usize, mut bill: Bill) -> Vec<Write> {
    let mut writes = vec![Write::once(head.to_vec(), Usage::default())];
    writes[0].bytes.truncate(limit);
    let mut left = limit.saturating_sub(head.len());
    for (index, body) in chunks.iter().enumerate() {
        if left == 0 {
            break;
        }
        if index > 0 {
            writes.push(Write::once(Vec::new(), Usage::default()));
        }
        let mut chunk = Vec::new();
        http::chunk(&mut chunk, body);
        chunk.truncate(left);
        left -= chunk.len();
        let before = format!("{:x}\r\n", body.len()).len();
        let of_body = chunk.len().saturating_sub(before).min(body.len());
        let write = writes.last_mut().expect("the head stands there");
        write.billed = bill.sent(&body[..of_body]);
        write.bytes.extend_from_slice(&chunk);
    }
    writes
}

/// Splits the body's bytes; an empty chunk would end the body, so there is none.
fn rechunk(events: &[Vec<u8>], chunking: Chunking, number: u64) -> Vec<Vec<u8>> {
    let mut random;
    let mut next: Box<dyn FnMut() -> usize> = match chunking {
        Chunking::WholeEvents => {
            return events.iter().filter(|event| !event.is_empty()).cloned().collect();
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
