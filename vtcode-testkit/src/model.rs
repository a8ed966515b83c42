//! The scripted model: HTTP requests on loopback come in, the script's replies go out, and every
//! request is kept as it came, with the moments at which things happened.
//! Never judges what an agent asks for; it answers what the script says, or says that it has ended.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::http::{self, Inbox, Incoming, ReadError};
use crate::reply::{Reply, Usage};
use crate::response::{Chunking, Ending, Response};
use crate::wire::Wire;

/// Pieces of a response whose moments are noted.
const WRITES_NOTED: usize = 4096;

/// A model on a loopback port that says what its script tells it to. Dropping it closes the port
/// and every connection.
pub struct ScriptedModel {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Dropped to end the listener's task.
    stop: oneshot::Sender<()>,
    listener: JoinHandle<()>,
}

/// A request that came in. All but the lists of models are kept, those to wrong paths too.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Request {
    /// The wire, if the path belongs to one.
    pub wire: Option<Wire>,
    /// The method.
    pub method: String,
    /// The path with its query, as asked for.
    pub path: String,
    /// The headers in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body's exact bytes.
    pub body: Arc<[u8]>,
    /// The number of its connection, counted from 0.
    pub connection: usize,
    /// When the last byte of the request was read.
    pub received_at: Instant,
    /// When the first bytes of the response were written.
    pub first_byte_at: Option<Instant>,
    /// When each piece of the response was written; of a long one, the first 4,096.
    pub written_at: Vec<Instant>,
    /// When the response had ended, in whichever way.
    pub ended_at: Option<Instant>,
    /// True when the client went before the response had ended.
    pub client_left: bool,
    /// What the response said of the tokens used, as far as it went out: what is billed. An event
    /// counts when its last byte has been written.
    pub billed: Usage,
    /// The events of the whole answer, whatever its fault left of it.
    pub answer_events: usize,
    /// The bytes of the whole response, its head included, whatever its fault left of it.
    pub answer_bytes: usize,
    /// Why the request was refused, or got no reply because the script had ended. Failures that the
    /// script orders are no errors. Known before the first byte of the response.
    pub error: Option<String>,
}

impl Request {
    /// Returns the body as JSON, or null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Returns the first value of a header; the name's case does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        http::header(&self.headers, name)
    }
}

impl ScriptedModel {
    /// Starts a model that answers the valid request number i (from 0) with `replies[i]`, and with
    /// an error 500, which also stands in the request's `error`, when there are no more.
    pub async fn start(replies: Vec<Reply>) -> Self {
        Self::start_responder(Box::new(move |_, number| {
            replies.get(number).cloned().ok_or_else(|| {
                format!("the script has {} replies, this is request {}", replies.len(), number + 1)
            })
        }))
        .await
    }

    /// Starts a model that asks `respond` for the reply to each valid request, with its number from
    /// 0. It is called in the connection's task and must not block.
    pub async fn start_with(
        respond: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_responder(Box::new(move |request, number| Ok(respond(request, number)))).await
    }

    async fn start_responder(respond: Box<Responder>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a machine without a free loopback port cannot run this");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            respond,
            chunking: Mutex::default(),
            bodies: AtomicUsize::new(usize::MAX),
            log: watch::Sender::new(Log::default()),
        });
        let (stop, stopped) = oneshot::channel();
        let listener = tokio::spawn(listen(listener, Arc::clone(&shared), stopped));
        Self { address, shared, stop, listener }
    }

    /// Splits the streams of all later responses in this way.
    #[must_use]
    pub fn chunking(self, chunking: Chunking) -> Self {
        *self.shared.chunking.lock().unwrap_or_else(PoisonError::into_inner) = chunking;
        self
    }

    /// Keeps the bodies of so many requests, the newest, and of older ones all else: for sessions
    /// that are too long for a test's memory.
    #[must_use]
    pub fn keeping_bodies(self, count: usize) -> Self {
        self.shared.bodies.store(count, Ordering::Relaxed);
        self
    }

    /// Returns the base URL for the Chat Completions and Responses wires; it ends in `/v1`.
    pub fn openai_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Returns the base URL for the Messages wire: the server's root, without a slash at the end.
    pub fn anthropic_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the base URL for the Gemini wire: the server's root, without a slash at the end.
    pub fn gemini_url(&self) -> String {
        self.anthropic_url()
    }

    /// Returns the address listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the requests so far, in the order in which they were completely read.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.log.borrow().requests.clone()
    }

    /// Returns how many connections have been accepted.
    pub fn connections(&self) -> usize {
        self.shared.log.borrow().connections
    }

    /// Waits until so many requests have been read. Never returns when they do not come.
    pub async fn wait_for_requests(&self, count: usize) {
        self.wait_until(|requests| requests.len() >= count).await;
    }

    /// Waits until the requests are as wanted, for example until the first has ended. Never returns
    /// when they do not get so.
    pub async fn wait_until(&self, wanted: impl Fn(&[Request]) -> bool) {
        let mut log = self.shared.log.subscribe();
        let reached = log.wait_for(|log| wanted(&log.requests)).await;
        reached.expect("the sender is in `self`");
    }

    /// Closes the port and every connection, and returns when they are closed. Dropping closes them
    /// as well, a moment later.
    pub async fn shutdown(self) {
        drop(self.stop);
        // A panic in there has been reported by the runtime; there is nothing to add.
        let _ = self.listener.await;
    }
}

impl fmt::Debug for ScriptedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedModel").field("address", &self.address).finish_non_exhaustive()
    }
}

/// How long to wait when the process has no more file descriptors, the one way in which accepting
/// fails again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Accepts connections until `stopped`; then closes them all.
async fn listen(listener: TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            Some(_) = open.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let number = shared.log.borrow().connections;
                    shared.log.send_modify(|log| log.connections += 1);
                    open.spawn(serve(stream, number, Arc::clone(&shared)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    open.shutdown().await;
}

/// Serves one connection until either side closes it.
async fn serve(mut stream: TcpStream, connection: usize, shared: Arc<Shared>) {
    // Without it, small chunks would wait for acknowledgements; it fails only on a dead connection.
    let _ = stream.set_nodelay(true);
    let mut inbox = Inbox::default();
    loop {
        let (incoming, refusal) = match inbox.request(&mut stream).await {
            Ok(incoming) => (incoming, None),
            Err(ReadError::Gone) => return,
            Err(ReadError::Refused { code, why }) => (Incoming::default(), Some((code, why))),
        };
        let refused = refusal.is_some();
        let last = incoming.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let Turn { slot, response } = shared.take(incoming, refusal, connection);

        let (mut read, mut write) = stream.split();
        let written = |first, billed| {
            shared.note(slot, |request, now| {
                request.billed = billed;
                if request.written_at.len() < WRITES_NOTED {
                    request.written_at.push(now);
                }
                if first {
                    request.first_byte_at = Some(now);
                }
            });
        };
        let left = tokio::select! {
            biased;
            sent = response.send(&mut write, written) => sent.is_err(),
            () = inbox.until_gone(&mut read) => true,
        };
        shared.note(slot, |request, now| {
            request.client_left = left;
            request.ended_at = Some(now);
        });
        if refused && !left {
            // To close while the client still writes would reset the connection, and the client
            // might never read why it was refused.
            return Inbox::drain(&mut stream).await;
        }
        if response.ending == Ending::Reset {
            // It fails only on a connection that is reset already.
            let _ = stream.set_zero_linger();
        }
        if left || last || response.ending != Ending::Clean {
            return;
        }
    }
}

struct Shared {
    respond: Box<Responder>,
    chunking: Mutex<Chunking>,
    /// Bodies that are kept.
    bodies: AtomicUsize,
    log: watch::Sender<Log>,
}

/// Gives the reply to a request and its number, or says why there is none.
type Responder = dyn Fn(&Request, usize) -> Result<Reply, String> + Send + Sync;

#[derive(Default)]
struct Log {
    requests: Vec<Request>,
    connections: usize,
    /// How many of the requests were valid, and so took a number.
    numbered: usize,
}

/// A request that has its response.
struct Turn {
    /// Its place in the log, if it is kept.
    slot: Option<usize>,
    response: Response,
}

impl Shared {
    /// Puts a request into the log and finds its response. A refusal is a request that could not
    /// even be read.
    fn take(&self, incoming: Incoming, refusal: Option<(u16, String)>, connection: usize) -> Turn {
        let received_at = Instant::now();
        let path = incoming.target.split('?').next().unwrap_or_default();
        let wire = Wire::of_path(path);
        // An unknown path is answered in the manner of the wire that the client seems to speak.
        let manner = match wire {
            Some(wire) => wire,
            None if incoming.header("anthropic-version").is_some() => Wire::Messages,
            None if path.starts_with("/v1beta/") => Wire::Gemini,
            None => Wire::Chat,
        };
        if incoming.method == "GET" && ["/v1/models", "/v1beta/models"].contains(&path) {
            return Turn { slot: None, response: Response::json(200, &[], &manner.models()) };
        }
        let body: Result<Value, (u16, String)> = match (refusal, wire) {
            (Some(refusal), _) => Err(refusal),
            (None, Some(wire)) if incoming.method == "POST" => {
                wire.request(&incoming.target, &incoming.body)
            }
            _ => Err((404, format!("Invalid URL ({} {path})", incoming.method))),
        };
        let request = Request {
            wire,
            method: incoming.method,
            path: incoming.target,
            headers: incoming.headers,
            body: incoming.body.into(),
            connection,
            received_at,
            first_byte_at: None,
            written_at: Vec::new(),
            ended_at: None,
            client_left: false,
            billed: Usage::default(),
            answer_events: 0,
            answer_bytes: 0,
            error: body.as_ref().err().map(|(_, why)| why.clone()),
        };
        let (mut slot, mut number) = (0, 0);
        self.log.send_modify(|log| {
            slot = log.requests.len();
            number = log.numbered;
            log.numbered += usize::from(body.is_ok());
            log.requests.push(request.clone());
            let kept = self.bodies.load(Ordering::Relaxed);
            if let Some(past) = log.requests.len().checked_sub(kept.saturating_add(1)) {
                log.requests[past].body = Arc::default();
            }
        });
        let response = match body {
            Ok(body) => match (self.respond)(&request, number) {
                Ok(reply) => {
                    let chunking = *self.chunking.lock().unwrap_or_else(PoisonError::into_inner);
                    let bytes = request.body.len();
                    Response::of_reply(manner, number, &body, bytes, &reply, chunking)
                }
                Err(why) => {
                    self.log.send_modify(|log| log.requests[slot].error = Some(why.clone()));
                    // Clients that know this header spare themselves a row of retries.
                    let headers = [("x-should-retry".to_owned(), "false".to_owned())];
                    Response::json(500, &headers, &manner.error(500, &why))
                }
            },
            Err((code, why)) => Response::json(code, &[], &manner.error(code, &why)),
        };
        self.log.send_modify(|log| {
            let request = &mut log.requests[slot];
            request.answer_events = response.answer_events;
            request.answer_bytes = response.answer_bytes;
        });
        Turn { slot: Some(slot), response }
    }

    /// Notes what happened to a request just now, if it is kept.
    fn note(&self, slot: Option<usize>, happened: impl FnOnce(&mut Request, Instant)) {
        if let Some(slot) = slot {
            let now = Instant::now();
            self.log.send_modify(|log| happened(&mut log.requests[slot], now));
        }
    }
}
