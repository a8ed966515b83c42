//! A way that is long: connections come in and go on to another port, and every byte arrives half a
//! round trip later. A new connection takes a whole one before its first byte goes on, as the
//! handshake of TCP does, which loopback answers at once.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// Chunks on their way in one direction.
const ON_THE_WAY: usize = 1024;

/// Starts the way to `inner` and returns where it begins. It runs as long as its runtime.
pub(crate) async fn distance(inner: SocketAddr, round_trip: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move {
                if !round_trip.is_zero() {
                    sleep(round_trip).await;
                }
                let Ok(far) = TcpStream::connect(inner).await else { return };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let ((near_read, near_write), (far_read, far_write)) =
                    (near.into_split(), far.into_split());
                tokio::join!(
                    carry(near_read, far_write, round_trip / 2),
                    carry(far_read, near_write, round_trip / 2),
                );
            });
        }
    });
    address
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let read = async move {
        loop {
            let mut bytes = Vec::with_capacity(16 * 1024);
            match from.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) if sender.send((Instant::now() + delay, bytes)).await.is_err() => return,
                Ok(_) => {}
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = chunks.recv().await {
            if !delay.is_zero() {
                sleep_until(due).await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
