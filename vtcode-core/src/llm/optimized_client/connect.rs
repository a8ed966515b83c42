//! The HTTP client: a base URL and limits in, one pooled client out.
//! Knows what a server on this machine needs not: proxies, and the system's certificates, whose
//! loading costs more than the first request. Never follows a redirect, which would carry the key.

use std::net::IpAddr;
use std::sync::Once;
use std::time::Duration;

use reqwest::Url;

/// Keeps a connection through a long run of tools.
const POOL_IDLE: Duration = Duration::from_secs(300);
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Returns a client for one server, which keeps so many connections while they are idle.
pub(in crate::llm) fn client(
    url: &Url,
    connect: Duration,
    idle_connections: usize,
) -> reqwest::Result<reqwest::Client> {
    install_crypto();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("vtcode/", env!("CARGO_PKG_VERSION")))
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
    builder.build()
}

/// Installs the crypto of TLS, without which no client can be built.
pub(super) fn install_crypto() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // An error says that the program installed one before us, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
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

    #[test]
    fn clients_are_built_for_plain_and_for_tls_servers() {
        for url in ["http://127.0.0.1:1/v1", "http://example.com", "https://example.com/v1"] {
            client(&Url::parse(url).unwrap(), Duration::from_secs(1), 1).unwrap();
        }
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
