//! What the scripted model says to one request: words, thinking and tool calls come in, one message
//! goes out, the same for every wire, with its timing and, if wanted, the way in which it fails.
//! Never renders anything; `wire` does.

use std::time::Duration;

use serde_json::Value;

/// The answer to one request. The default one is valid and says nothing.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub(crate) parts: Vec<Part>,
    pub(crate) delay: Option<Duration>,
    pub(crate) pace: Option<Duration>,
    pub(crate) usage: Option<Usage>,
    pub(crate) finish: Option<String>,
    pub(crate) fault: Option<Fault>,
    pub(crate) number: Option<usize>,
}

#[derive(Debug, Clone)]
pub(crate) enum Part {
    Text(String),
    Thinking(String),
    Call { id: Option<String>, name: String, arguments: String },
}

/// Token counts, as a provider reports and bills them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All input tokens, cached ones included.
    pub input: u64,
    /// Input tokens that came from the provider's cache.
    pub cached: u64,
    /// Output tokens, thinking included.
    pub output: u64,
}

/// A way in which an answer fails. Where a fault counts events, an answer that is not streamed is
/// one event.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Fault {
    /// Answers with this status instead of the reply.
    Status {
        /// The status code.
        code: u16,
        /// Headers besides those that frame the body.
        headers: Vec<(String, String)>,
        /// The body; the wire's own error shape when empty.
        body: String,
    },
    /// Closes the connection after so many events, in the middle of the body.
    CutAfterEvents(usize),
    /// Closes the connection after so many bytes of the body.
    CutAfterBytes(usize),
    /// Closes the connection after so many bytes of the response, whose head and framing count too.
    CutResponseAfterBytes(usize),
    /// Resets the connection (RST) after so many events, in the middle of the body.
    ResetAfterEvents(usize),
    /// Reads the request, keeps the connection open and never sends a byte.
    Silence,
    /// Keeps the connection open after so many events and sends nothing more until the client goes.
    StallAfterEvents(usize),
    /// After so many events, sends one byte at a time with this pause before each.
    DripAfterEvents(usize, Duration),
    /// After so many events, sends one line of so many bytes that belongs to no event yet.
    LongLineAfterEvents(usize, usize),
    /// Says that the body, which is as it should be, is of this content type.
    ContentType(String),
    /// Sends other bytes wherever these stand in the body; with some that are not UTF-8, what a
    /// server does that takes its text for another encoding.
    Replace {
        /// What stands there.
        from: Vec<u8>,
        /// What is sent.
        to: Vec<u8>,
    },
    /// After so many events, reports in the stream that the provider is overloaded, and ends it.
    ErrorAfterEvents(usize),
    /// Sends these bytes as the body, properly framed.
    Garbage(Vec<u8>),
    /// Resets the connection (RST) once the request is read.
    Reset,
    /// Answers 200 with a page of HTML, as a captive portal does.
    NotSse,
    /// Answers with a valid, complete message that has no content.
    Empty,
    /// Closes the connection once the request is read, without a byte.
    CloseBeforeResponse,
    /// Ends the body cleanly after the content, without saying why the model stopped.
    MissingTerminal,
}

impl Fault {
    /// Returns an HTTP error with the wire's own error body.
    pub fn status(code: u16) -> Self {
        Self::Status { code, headers: Vec::new(), body: String::new() }
    }

    /// Adds a header to a [`Fault::Status`]; panics on any other fault.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let Self::Status { headers, .. } = &mut self else {
            panic!("only a status has headers, this is {self:?}");
        };
        headers.push((name.into(), value.into()));
        self
    }

    /// Returns a [`Fault::Replace`].
    pub fn replace(from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) -> Self {
        let from = from.into();
        assert!(!from.is_empty(), "nothing stands everywhere");
        Self::Replace { from, to: to.into() }
    }
}

/// Returns a reply of words.
pub fn say(text: impl Into<String>) -> Reply {
    Reply { parts: vec![Part::Text(text.into())], ..Reply::default() }
}

/// Returns a reply of thinking.
pub fn think(text: impl Into<String>) -> Reply {
    Reply { parts: vec![Part::Thinking(text.into())], ..Reply::default() }
}

/// Returns a reply of one tool call.
pub fn call(name: impl Into<String>, arguments: impl Into<Value>) -> Reply {
    raw_call(name, arguments.into().to_string())
}

/// Returns a reply of one tool call whose arguments are this text, whether JSON or not.
pub fn raw_call(name: impl Into<String>, arguments: impl Into<String>) -> Reply {
    let part = Part::Call { id: None, name: name.into(), arguments: arguments.into() };
    Reply { parts: vec![part], ..Reply::default() }
}

/// Returns a reply that fails.
pub fn fail(fault: Fault) -> Reply {
    Reply::default().fault(fault)
}

impl Reply {
    /// Appends what `next` says to the same message. What `next` sets besides (timing, usage,
    /// finish, fault) replaces what was set here.
    #[must_use]
    pub fn and(mut self, next: Self) -> Self {
        self.parts.extend(next.parts);
        Self {
            parts: self.parts,
            delay: next.delay.or(self.delay),
            pace: next.pace.or(self.pace),
            usage: next.usage.or(self.usage),
            finish: next.finish.or(self.finish),
            fault: next.fault.or(self.fault),
            number: next.number.or(self.number),
        }
    }

    /// Waits this long before the first byte of the response.
    #[must_use]
    pub fn delay(mut self, before_first_byte: Duration) -> Self {
        self.delay = Some(before_first_byte);
        self
    }

    /// Waits this long between two chunks.
    #[must_use]
    pub fn pace(mut self, between_chunks: Duration) -> Self {
        self.pace = Some(between_chunks);
        self
    }

    /// Gives the last call this id, instead of one that is unique on this server.
    #[must_use]
    pub fn call_id(mut self, new: impl Into<String>) -> Self {
        match self.parts.last_mut() {
            Some(Part::Call { id, .. }) => *id = Some(new.into()),
            other => panic!("call_id belongs right after a call, not after {other:?}"),
        }
        self
    }

    /// Reports these token counts: all input, how much of it came from the provider's cache, and
    /// the output. Without it, one token for every four bytes is reported and none cached.
    #[must_use]
    pub fn usage(mut self, input: u64, cached: u64, output: u64) -> Self {
        assert!(cached <= input, "cached tokens are a part of the input");
        self.usage = Some(Usage { input, cached, output });
        self
    }

    /// Makes its ids those of the answer to this request, whichever it answers: the bytes are then
    /// the same each time.
    #[must_use]
    pub fn number(mut self, number: usize) -> Self {
        self.number = Some(number);
        self
    }

    /// Gives this reason for the end, in the words of any wire (`"length"` and `"max_tokens"`
    /// are the same); an unknown word is sent as it is.
    #[must_use]
    pub fn finish(mut self, reason: impl Into<String>) -> Self {
        self.finish = Some(reason.into());
        self
    }

    /// Makes the reply fail in this way.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn and_keeps_the_order_and_the_later_setting() {
        let reply = think("hm")
            .finish("stop")
            .and(call("a", Value::Null).call_id("first"))
            .and(say("done").finish("length"));

        assert!(matches!(
            &reply.parts[..],
            [Part::Thinking(_), Part::Call { id: Some(id), .. }, Part::Text(_)] if id == "first"
        ));
        assert_eq!(reply.finish.as_deref(), Some("length"));
        assert!(reply.delay.is_none());
    }

    #[test]
    #[should_panic(expected = "right after a call")]
    fn an_id_without_a_call_is_the_authors_mistake() {
        let _ = say("no call here").call_id("x");
    }

    #[test]
    #[should_panic(expected = "only a status has headers")]
    fn a_header_on_a_reset_is_the_authors_mistake() {
        let _ = Fault::Reset.header("a", "b");
    }
}
