//! A server's side of TLS on loopback, with a certificate made on the spot that vouches for itself:
//! connections come in encrypted and go on in the clear to another port. Counts both.
//! Whoever is not told of the certificate must not talk to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A server that speaks TLS and hands everything on. It runs as long as its runtime.
#[derive(Debug)]
pub struct TlsServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// The certificate, as a file of trusted ones holds it.
    pub pem: String,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    handshakes: AtomicUsize,
}

impl TlsServer {
    /// Starts a server that hands everything on to `inner`.
    pub async fn start(inner: SocketAddr) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (certificate, key) = self_signed();
        let pem = pem(&certificate);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(certificate)], key)
            .expect("key and certificate belong together");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counted.connections.fetch_add(1, Ordering::SeqCst);
                let (acceptor, counts) = (acceptor.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let _ = socket.set_nodelay(true);
                    let Ok(mut outside) = acceptor.accept(socket).await else { return };
                    counts.handshakes.fetch_add(1, Ordering::SeqCst);
                    let Ok(mut inside) = TcpStream::connect(inner).await else { return };
                    let _ = inside.set_nodelay(true);
                    // Either side may go at any time; that is its right.
                    let _ = copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
        Self { address, pem, counts }
    }

    /// Returns how many connections came, and how many of them shook hands.
    pub fn counts(&self) -> (usize, usize) {
        let read = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (read(&self.counts.connections), read(&self.counts.handshakes))
    }
}

/// Returns a certificate for `localhost` and 127.0.0.1 with its key, as DER and PKCS #8.
fn self_signed() -> (Vec<u8>, Vec<u8>) {
    const SEQUENCE: u8 = 0x30;
    const OBJECT: u8 = 0x06;
    const BITS: u8 = 0x03;
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random);
    let key = key.expect("the system has random numbers");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.as_ref(), &random);
    let pair = pair.expect("it was just made");

    let signed_with = der(SEQUENCE, &[&der(OBJECT, &[b"\x2a\x86\x48\xce\x3d\x04\x03\x02"])]);
    let common_name = [der(OBJECT, &[b"\x55\x04\x03"]), der(0x0c, &[b"localhost"])].concat();
    let name = der(SEQUENCE, &[&der(0x31, &[&der(SEQUENCE, &[&common_name])])]);
    let valid =
        der(SEQUENCE, &[&der(0x17, &[b"200101000000Z"]), &der(0x18, &[b"21000101000000Z"])]);
    let curve = [
        der(OBJECT, &[b"\x2a\x86\x48\xce\x3d\x02\x01"]),
        der(OBJECT, &[b"\x2a\x86\x48\xce\x3d\x03\x01\x07"]),
    ];
    let public = der(BITS, &[b"\0", pair.public_key().as_ref()]);
    let public = der(SEQUENCE, &[&der(SEQUENCE, &[&curve.concat()]), &public]);
    let names = der(SEQUENCE, &[&der(0x82, &[b"localhost"]), &der(0x87, &[&[127, 0, 0, 1]])]);
    let names = der(SEQUENCE, &[&der(OBJECT, &[b"\x55\x1d\x11"]), &der(0x04, &[&names])]);
    let body = der(
        SEQUENCE,
        &[
            &der(0xa0, &[&der(0x02, &[b"\x02"])]),
            &der(0x02, &[b"\x01"]),
            &signed_with,
            &name,
            &valid,
            &name,
            &public,
            &der(0xa3, &[&der(SEQUENCE, &[&names])]),
        ],
    );
    let signature = pair.sign(&random, &body).expect("the system has random numbers");
    let signature = der(BITS, &[b"\0", signature.as_ref()]);
    (der(SEQUENCE, &[&body, &signed_with, &signature]), key.as_ref().to_vec())
}

/// Returns one element of DER.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short @ 0..0x80) => out.push(short),
        Ok(long) => out.extend([0x81, long]),
        Err(_) => {
            let length = u16::try_from(content.len()).expect("no certificate is that long");
            out.push(0x82);
            out.extend(length.to_be_bytes());
        }
    }
    out.extend(content);
    out
}

fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----");
    for (index, bytes) in der.chunks(3).enumerate() {
        if index % 16 == 0 {
            text.push('\n');
        }
        let mut three = [0; 4];
        three[1..=bytes.len()].copy_from_slice(bytes);
        let number = u32::from_be_bytes(three) as usize;
        for digit in 0..4 {
            let shown = digit <= bytes.len();
            let value = DIGITS[number >> (18 - 6 * digit) & 63];
            text.push(if shown { char::from(value) } else { '=' });
        }
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}
