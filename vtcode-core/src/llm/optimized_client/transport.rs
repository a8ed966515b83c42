//! How a request goes out and its answer comes in: over the network, or out of a record.
//! A test may play the answers itself, in a time that it has paused: while a socket is silent, such a
//! time runs on by itself, and a clock would end what is only on its way.

use std::fmt;
#[cfg(test)]
use std::pin::Pin;

use super::connect::Sent;
use super::hedge::{Opening, opened};
use super::recorded::{self, Recorded};

/// A request on its way.
#[cfg(test)]
pub(super) type Sending = Pin<Box<dyn Future<Output = reqwest::Result<reqwest::Response>> + Send>>;

/// The way out.
pub(super) enum Transport {
    Network,
    /// Answers out of a record, for a session that is played again.
    Recorded(Recorded),
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
    /// Sends a request whose body has so many bytes, and waits until its answer begins.
    pub(super) fn open(
        &self,
        request: reqwest::RequestBuilder,
        body_bytes: usize,
        sent: Sent,
    ) -> Opening {
        match self {
            Self::Recorded(recorded) => {
                let response = recorded::response(recorded(body_bytes));
                Box::pin(opened(std::future::ready(Ok(response))))
            }
            Self::Network => Box::pin(opened(sent.during(request.send()))),
            #[cfg(test)]
            Self::Played(play) => match request.build() {
                Ok(request) => Box::pin(opened(play(request))),
                Err(error) => Box::pin(std::future::ready(Err(error))),
            },
        }
    }
}
