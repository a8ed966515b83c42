//! What can go wrong with a model request, with what the user can do about it.
//! Facts in, one sentence out. Never holds a key.

use std::time::Duration;

use crate::llm::message::ImageError;
use crate::llm::provider::DecodeError;

use super::clocks::Clock;

/// Why a model request failed. The causes stand in the message, as it is all that a retry event,
/// a JSON line or a status bar shows. A provider's words are cut after 1,000 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LlmError {
    /// Nobody called `start`, so it is not known where requests go.
    #[error("the model client has not started: call `start` before the first request")]
    NotStarted,
    /// The endpoint cannot be used at all.
    #[error("the endpoint is not usable: {what}")]
    Endpoint {
        /// What is wrong, and how it should be.
        what: String,
    },
    /// No connection came about.
    #[error("cannot reach {url}: {cause}; is the base URL right and the server running?")]
    Unreachable {
        /// Where to.
        url: String,
        /// The operating system's or the protocol's words.
        cause: String,
        /// True when a server of this machine refuses: nobody listens.
        refused_locally: bool,
    },
    /// The server cannot prove who it is.
    #[error(
        "{url} is not trusted: {cause}; if its certificate is signed by an authority of your own, \
         name that in client.ca_file or SSL_CERT_FILE"
    )]
    Untrusted {
        /// Where to.
        url: String,
        /// What is wrong with its certificate.
        cause: String,
    },
    /// The server does not speak TLS.
    #[error("{url} speaks no TLS: {cause}; is it https:// there?")]
    NoTls {
        /// Where to.
        url: String,
        /// What came instead.
        cause: String,
    },
    /// A clock ran out.
    #[error("{url} took too long: {clock} ({after:?})")]
    TimedOut {
        /// Where.
        url: String,
        /// Which clock.
        clock: Clock,
        /// Its limit.
        after: Duration,
    },
    /// The key is missing, wrong, or may not do this.
    #[error(
        "the provider refused the key (HTTP {status}): {message}; check the key and what it may use"
    )]
    Auth {
        /// The HTTP status.
        status: u16,
        /// The provider's words.
        message: String,
    },
    /// The model or the URL does not exist.
    #[error(
        "{url} knows no model `{model}`, or not this path: {message}; check the model's name and the base URL"
    )]
    NotFound {
        /// The URL asked.
        url: String,
        /// The model asked for.
        model: String,
        /// The provider's words.
        message: String,
    },
    /// Too many requests, and the wait is longer than we may wait.
    #[error("the provider limits the rate: {message}; {}", come_back(*.retry_after))]
    RateLimited {
        /// How long to wait, if the provider said so, or the client's own limits do.
        retry_after: Option<Duration>,
        /// The provider's words.
        message: String,
    },
    /// The provider does not take the request; sending it again changes nothing.
    #[error("the provider does not take the request (HTTP {status}): {message}")]
    BadRequest {
        /// The HTTP status; 200 where the error came in an answer's place.
        status: u16,
        /// The provider's words.
        message: String,
    },
    /// The provider is in trouble.
    #[error("the provider failed (HTTP {status}): {message}{}", and_come_back(*.retry_after))]
    Server {
        /// The HTTP status.
        status: u16,
        /// How long to wait, if the provider said so.
        retry_after: Option<Duration>,
        /// The provider's words.
        message: String,
    },
    /// Something answers, but not a model.
    #[error("{url} answers, but not as a model does ({what}); check the base URL and the provider")]
    NotAModel {
        /// The URL asked.
        url: String,
        /// What came instead.
        what: String,
    },
    /// The connection broke while the answer was on its way.
    #[error("the connection to {url} broke during the answer: {cause}")]
    Interrupted {
        /// Where.
        url: String,
        /// What the connection says.
        cause: String,
    },
    /// The answer outgrew the bound.
    #[error("the answer is longer than {limit_bytes} bytes")]
    TooLong {
        /// The bound: 256 MiB for the whole answer, 32 MiB for one event or line of it.
        limit_bytes: usize,
    },
    /// The images of a request cannot be sent; nothing was.
    #[error(transparent)]
    Images(#[from] ImageError),
    /// The stream is not what the wire promises, or holds an error.
    #[error(transparent)]
    Stream(#[from] DecodeError),
}

fn and_come_back(after: Option<Duration>) -> String {
    // Who may come back at once need not be told when.
    let wait = after.filter(|after| !after.is_zero());
    wait.map_or_else(String::new, |after| format!("; {}", come_back(Some(after))))
}

/// When a request leaves its endpoint for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaves {
    Never,
    /// Once it has had its share of the attempts.
    WithItsShare,
    AtOnce,
}

/// How servers say it: OpenAI's code and words (also of vLLM, LM Studio and most compatible ones),
/// Anthropic's, Gemini's, llama.cpp's, Ollama's.
const TOO_LONG: &[&str] = &[
    "context_length_exceeded",
    "maximum context length",
    "exceeds the context window",
    "context window",
    "prompt is too long",
    "exceed context limit",
    "input token count",
    "exceeds the maximum number of tokens",
    "exceed_context_size",
    "available context size",
    "context length",
    "input is too long",
];

fn come_back(after: Option<Duration>) -> String {
    match after {
        Some(after) => format!("come back in {} s", after.as_secs_f64().ceil()),
        None => "come back later".to_owned(),
    }
}

impl LlmError {
    /// Returns whether there is no provider or it refuses this user's request, in contrast to one
    /// that tried and failed.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NotStarted
            | Self::Endpoint { .. }
            | Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::NoTls { .. }
            | Self::Auth { .. }
            | Self::NotFound { .. }
            | Self::RateLimited { .. }
            | Self::BadRequest { .. }
            | Self::NotAModel { .. }
            | Self::Images(_)
            | Self::TimedOut { clock: Clock::Connect, .. } => true,
            Self::TimedOut { .. }
            | Self::Server { .. }
            | Self::Interrupted { .. }
            | Self::TooLong { .. }
            | Self::Stream(_) => false,
        }
    }

    /// Returns whether the request is longer than the model can read.
    pub fn is_too_long(&self) -> bool {
        let (Self::BadRequest { status: 400 | 413 | 422 | 200, message }
        | Self::Server { status: 500, message, .. }
        | Self::Stream(DecodeError::Reported { message, .. })) = self
        else {
            return false;
        };
        let words = message.to_ascii_lowercase();
        TOO_LONG.iter().any(|mark| words.contains(mark))
    }

    /// Returns whether the same request may succeed a little later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::RateLimited { .. }
            | Self::Server { .. }
            | Self::Interrupted { .. }
            | Self::Stream(
                DecodeError::EndedEarly | DecodeError::Reported { temporary: true, .. },
            ) => true,
            Self::TimedOut { clock, .. } => *clock != Clock::Total,
            Self::NotStarted
            | Self::Endpoint { .. }
            | Self::Untrusted { .. }
            | Self::NoTls { .. }
            | Self::Auth { .. }
            | Self::NotFound { .. }
            | Self::BadRequest { .. }
            | Self::NotAModel { .. }
            | Self::Images(_)
            | Self::TooLong { .. }
            | Self::Stream(_) => false,
        }
    }

    /// Returns when a request leaves its endpoint for another one because of it.
    pub(super) fn leaves(&self) -> Leaves {
        /// A wait that is longer is spent better elsewhere.
        const PATIENCE: Duration = Duration::from_secs(5);
        if self.is_too_long() {
            return Leaves::Never;
        }
        match self {
            // What is wrong is the endpoint's: its name, its key, its account, or that it does not
            // answer in time.
            Self::Untrusted { .. }
            | Self::NoTls { .. }
            | Self::Auth { .. }
            | Self::NotFound { .. }
            | Self::NotAModel { .. }
            | Self::BadRequest { status: 300..=399 | 402 | 429, .. } => Leaves::AtOnce,
            Self::TimedOut { clock, .. } if *clock != Clock::Total => Leaves::AtOnce,
            Self::RateLimited { retry_after: Some(wait), .. }
            | Self::Server { retry_after: Some(wait), .. }
                if *wait > PATIENCE =>
            {
                Leaves::AtOnce
            }
            error if error.is_temporary() => Leaves::WithItsShare,
            // What is wrong is the request, and it would be elsewhere, too.
            _ => Leaves::Never,
        }
    }

    /// Returns when the provider asked us to come back.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Server { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }
}
