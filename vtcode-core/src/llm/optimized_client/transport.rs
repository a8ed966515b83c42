//! How a request goes out and its answer comes in: over the network.
//! A test may play the answers itself, in a time that it has paused: while a socket is silent, such a
//! time runs on by itself, and a clock would end what is only on its way.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// A request on its way.
pub(super) type Sending = Pin<Box<dyn Future<Output = reqwest::Result<reqwest::Response>> + Send>>;

/// The way out.
pub(super) enum Transport {
    Network,
    /// Answers every request itself.
    #[cfg(test)]
    Played(Box<dyn Fn(reqwest::Request) -> Sending + Send + Sync>),
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

impl Transport {
    pub(super) fn send(&self, request: reqwest::RequestBuilder) -> Sending {
        match self {
            Self::Network => Box::pin(request.send()),
            #[cfg(test)]
            Self::Played(play) => match request.build() {
                Ok(request) => play(request),
                Err(error) => Box::pin(std::future::ready(Err(error))),
            },
        }
    }
}
