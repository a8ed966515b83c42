//! The connections to one server: a base URL and limits in, one pooled client out, and the count of
//! what was opened. Knows what a server on this machine needs not: proxies, and the system's
//! certificates, whose loading costs more than the first request. Never follows a redirect, which
//! would carry the key; never uses a connection again that broke or fell silent.

use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use reqwest::{Certificate, Url};

use self::opener::Opener;
use super::error::LlmError;
use super::{causes, root_cause};
use crate::config::limits::ClientLimits;

mod opener;

pub(super) use self::opener::Sent;

/// Keeps a connection through a long run of tools.
const POOL_IDLE: Duration = Duration::from_secs(300);
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How we name ourselves. A request brings it along: added by the HTTP library, it would make each
/// request's headers grow.
pub(super) const USER_AGENT: &str = concat!("vtcode/", env!("CARGO_PKG_VERSION"));

/// The longest file of certificates that is read.
const MAX_CA_BYTES: u64 = 4 << 20;

/// The connections to one server.
#[derive(Debug)]
pub(super) struct Connections {
    url: Url,
    plan: Plan,
    http: Mutex<reqwest::Client>,
    opener: Opener,
    /// True once the server was found to break HTTP/2.
    without_http2: AtomicBool,
}

/// What every pool to the server is built from.
#[derive(Debug)]
struct Plan {
    connect: Duration,
    idle_connections: usize,
    ping: Duration,
    pong: Duration,
    authorities: Vec<Certificate>,
}

impl Connections {
    /// Returns the connections to the server of a URL; opens none.
    pub(super) fn new(url: &Url, limits: &ClientLimits) -> Result<Self, LlmError> {
        let unusable = |what: String| LlmError::Endpoint { what };
        if url.scheme() == "http" && !is_local(url) && !limits.plain_http {
            return Err(unusable(format!(
                "plain http:// to `{}` would show the key and the code to everybody on the way; \
                 use https://, or set client.allow_http = true in your own vtcode.toml if the way \
                 is yours",
                url.host_str().unwrap_or_default()
            )));
        }
        let authorities = match &limits.ca_file {
            Some(path) => authorities(path).map_err(|why| {
                unusable(format!("cannot use client.ca_file `{}`: {why}", path.display()))
            })?,
            None => Vec::new(),
        };
        let plan = Plan {
            connect: limits.connect,
            idle_connections: limits.idle_connections,
            ping: limits.ping,
            pong: limits.pong,
            authorities,
        };
        let opener = Opener::new(limits.connect);
        let http = plan
            .build(url, &opener, true)
            .map_err(|error| unusable(format!("no HTTPS here: {}", root_cause(&error))))?;
        let (http, without_http2) = (Mutex::new(http), AtomicBool::new(false));
        Ok(Self { url: url.clone(), plan, http, opener, without_http2 })
    }

    /// Returns the client through which requests go.
    pub(super) fn client(&self) -> reqwest::Client {
        self.http().clone()
    }

    /// Opens the first connection ahead of the first request, so that the handshakes are over when
    /// it comes. Sends nothing over it. Does nothing once there was a connection.
    pub(super) fn warm_up(&self) {
        if self.plan.idle_connections == 0 || !self.opener.opens_ahead() {
            return;
        }
        // Polled once, it asks for a connection, which the opener keeps for itself; it never gets
        // to the point of sending.
        let _ = self.client().get(self.url.clone()).send().now_or_never();
        self.opener.opens_nothing_ahead();
    }

    /// Leaves every connection that there is: the next request opens one. Needed where many
    /// requests share one, which stays in the pool although the stream on it was given up.
    pub(super) fn renew(&self) {
        if self.url.scheme() == "https" {
            self.rebuild();
        }
    }

    /// Speaks HTTP/1.1 from now on; returns whether that is news.
    pub(super) fn leave_http2(&self) -> bool {
        let news = !self.without_http2.swap(true, Ordering::Relaxed);
        if news {
            self.rebuild();
        }
        news
    }

    fn rebuild(&self) {
        let http2 = !self.without_http2.load(Ordering::Relaxed);
        // What was built once can be built again; should it not, what there is will do.
        if let Ok(http) = self.plan.build(&self.url, &self.opener, http2) {
            *self.http() = http;
        }
    }

    fn http(&self) -> MutexGuard<'_, reqwest::Client> {
        // Each use replaces or copies it whole: it is sound after any panic.
        self.http.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer has ended whose connection can carry another request.
    pub(super) fn returns(&self) {
        if self.plan.idle_connections > 0 {
            self.opener.returns();
        }
    }

    /// Returns how many connections were opened.
    pub(super) fn opened(&self) -> u64 {
        self.opener.opened()
    }

    /// Returns how many of them were opened ahead of their request, and used by it.
    pub(super) fn opened_ahead(&self) -> u64 {
        self.opener.opened_ahead()
    }

    /// Returns whether a connection is being opened.
    pub(super) fn is_opening(&self) -> bool {
        self.opener.is_opening()
    }
}

impl Plan {
    fn build(&self, url: &Url, opener: &Opener, http2: bool) -> reqwest::Result<reqwest::Client> {
        install_crypto();
        let mut builder = builder(url, self.connect, self.idle_connections)
            .connector_layer(opener.clone())
            .http2_keep_alive_interval(self.ping)
            .http2_keep_alive_timeout(self.pong);
        if !self.authorities.is_empty() {
            builder = builder.tls_certs_merge(self.authorities.iter().cloned());
        }
        if !http2 {
            builder = builder.http1_only();
        }
        builder.build()
    }
}

/// Returns a client for one server, which keeps so many connections while they are idle.
pub(in crate::llm) fn client(
    url: &Url,
    connect: Duration,
    idle_connections: usize,
) -> reqwest::Result<reqwest::Client> {
    install_crypto();
    builder(url, connect, idle_connections).build()
}

fn builder(url: &Url, connect: Duration, idle_connections: usize) -> reqwest::ClientBuilder {
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect)
        .tcp_nodelay(true)
        .tcp_keepalive(KEEP_ALIVE)
        .pool_max_idle_per_host(idle_connections)
        .pool_idle_timeout(POOL_IDLE);
    if is_local(url) {
        builder = builder.no_proxy();
        if url.scheme() == "http" {
            builder = builder.tls_certs_only(std::iter::empty());
        }
    }
    builder
}

/// Installs the crypto of TLS, without which no client can be built.
pub(super) fn install_crypto() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // An error says that the program installed one before us, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// Reads the certificates of a file, which are trusted besides the system's.
fn authorities(path: &Path) -> Result<Vec<Certificate>, String> {
    let mut pem = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_CA_BYTES).read_to_end(&mut pem))
        .map_err(|error| error.to_string())?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| root_cause(&error))?;
    if found.is_empty() {
        return Err("it holds no certificate in PEM form".to_owned());
    }
    Ok(found)
}

/// Returns whether the peer sent something that is no HTTP.
pub(super) fn is_garbage(error: &reqwest::Error) -> bool {
    causes(error)
        .any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse))
}

/// Returns whether the peer broke HTTP/2, as opposed to the connection under it.
pub(super) fn is_http2(error: &reqwest::Error) -> bool {
    let broken = |error: &h2::Error| {
        let reason = error.reason();
        !error.is_io()
            && reason.is_some_and(|reason| {
                !matches!(
                    reason,
                    h2::Reason::NO_ERROR | h2::Reason::CANCEL | h2::Reason::REFUSED_STREAM
                )
            })
    };
    causes(error).any(|cause| cause.downcast_ref::<h2::Error>().is_some_and(broken))
}

/// Returns what went wrong in the handshake, if that is what failed.
pub(super) fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(inside)
}

/// Looks into the I/O errors that the way up wraps round an error; they name no source.
fn inside<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref().or_else(|| {
        let wrapper: &std::io::Error = error.downcast_ref()?;
        inside(wrapper.get_ref()?)
    })
}

/// Returns whether a URL names this machine.
pub(super) fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::Limits;

    fn connections(url: &str, limits: &ClientLimits) -> Result<Connections, String> {
        let url = Url::parse(url).unwrap();
        Connections::new(&url, limits).map_err(|error| error.to_string())
    }

    #[test]
    fn clients_are_built_for_plain_and_for_tls_servers() {
        for url in ["http://127.0.0.1:1/v1", "https://127.0.0.1:1", "https://example.com/v1"] {
            let connections = connections(url, &Limits::full().client).unwrap();
            assert!(connections.leave_http2() && !connections.leave_http2(), "told once: {url}");
            client(&Url::parse(url).unwrap(), Duration::from_secs(1), 1).unwrap();
        }
    }

    #[test]
    fn what_everybody_could_read_is_sent_only_where_the_user_allows_it() {
        let limits = Limits::full().client;
        let refused = connections("http://example.com/v1", &limits).unwrap_err();
        assert!(refused.contains("client.allow_http"), "{refused}");
        let allowed = ClientLimits { plain_http: true, ..limits };
        connections("http://example.com/v1", &allowed).unwrap();
    }

    #[test]
    fn a_file_that_holds_no_certificates_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let limits = ClientLimits { ca_file: Some(file.clone()), ..Limits::full().client };
        let missing = connections("https://example.com", &limits).unwrap_err();
        assert!(
            missing.contains("client.ca_file") && missing.contains("No such file"),
            "{missing}"
        );
        std::fs::write(&file, "no PEM").unwrap();
        let empty = connections("https://example.com", &limits).unwrap_err();
        assert!(empty.contains("no certificate"), "{empty}");
    }

    #[test]
    fn only_this_machine_is_local() {
        let local = |url: &str| is_local(&Url::parse(url).unwrap());
        for url in ["http://127.0.0.1", "http://127.9.9.9:1", "http://[::1]:80", "http://localhost"]
        {
            assert!(local(url), "{url}");
        }
        for url in ["http://10.0.0.1", "https://localhost.example.com", "http://[2001:db8::1]"] {
            assert!(!local(url), "{url}");
        }
    }
}
