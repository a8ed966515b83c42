//! Stands between the pool and the sockets: counts what is opened, knows whether something is being
//! opened, opens one connection ahead of the request that will use it, and opens none for a request
//! that gets one which is on its way back into the pool.

use std::any::Any;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower_layer::Layer;
use tower_service::Service;

/// How long a connection that was opened ahead may lie unused before it is not trusted any more:
/// servers close one that says nothing.
const FRESH: Duration = Duration::from_secs(4);

/// How long a request waits for a connection that is being opened ahead before it opens its own,
/// too.
const HEAD_START: Duration = Duration::from_millis(250);

/// How long a connection whose answer has ended takes at most on its way back into the pool. The pool
/// takes it there in a task of its own: a request that comes at once finds none, and would open
/// another one although it then goes out over the first.
const ON_ITS_WAY: Duration = Duration::from_millis(50);

tokio::task_local! {
    /// Whether the request goes out that asks for a connection.
    static SENT: Sent;
}

/// Whether a request goes out over some connection.
#[derive(Debug, Clone, Default)]
pub(in crate::llm::optimized_client) struct Sent(Arc<AtomicBool>);

impl Sent {
    /// It does.
    pub(in crate::llm::optimized_client) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sends a request; what opens connections for it knows it by this.
    pub(in crate::llm::optimized_client) fn during<T>(
        self,
        sending: impl Future<Output = T>,
    ) -> impl Future<Output = T> {
        SENT.scope(self, sending)
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A connection; its type has no name outside the HTTP client.
type Opened = Box<dyn Any + Send>;

/// Opens connections. Clones share their counts.
#[derive(Debug, Clone)]
pub(super) struct Opener(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connect: Duration,
    opened: AtomicU64,
    opened_ahead: AtomicU64,
    opening: AtomicU32,
    ahead: Mutex<Ahead>,
    /// When the last answer ended whose connection goes back into the pool, until somebody counts
    /// on it.
    returned_at: Mutex<Option<Instant>>,
}

/// The connection that is opened ahead.
#[derive(Debug, Default)]
enum Ahead {
    #[default]
    None,
    /// The next call asks for it.
    Wanted,
    Opening(Spare),
}

#[derive(Debug)]
struct Spare {
    task: JoinHandle<Option<(Opened, Instant)>>,
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Opener {
    pub(super) fn new(connect: Duration) -> Self {
        Self(Arc::new(Shared {
            connect,
            opened: AtomicU64::new(0),
            opened_ahead: AtomicU64::new(0),
            opening: AtomicU32::new(0),
            ahead: Mutex::default(),
            returned_at: Mutex::default(),
        }))
    }

    /// Makes the next call open a connection that is kept for the call after it. False when there
    /// was a connection before, or nobody to open one in the background.
    pub(super) fn opens_ahead(&self) -> bool {
        let mut ahead = self.0.ahead();
        let first = self.opened() == 0 && !self.is_opening() && matches!(*ahead, Ahead::None);
        let wanted = first && Handle::try_current().is_ok();
        if wanted {
            *ahead = Ahead::Wanted;
        }
        wanted
    }

    /// No call came that could have opened one.
    pub(super) fn opens_nothing_ahead(&self) {
        let mut ahead = self.0.ahead();
        if matches!(*ahead, Ahead::Wanted) {
            *ahead = Ahead::None;
        }
    }

    /// An answer has ended, and its connection goes back into the pool.
    pub(super) fn returns(&self) {
        *self.0.returned_at() = Some(Instant::now());
    }

    pub(super) fn opened(&self) -> u64 {
        self.0.opened.load(Ordering::Relaxed)
    }

    pub(super) fn opened_ahead(&self) -> u64 {
        self.0.opened_ahead.load(Ordering::Relaxed)
    }

    pub(super) fn is_opening(&self) -> bool {
        self.0.opening.load(Ordering::Relaxed) > 0
    }
}

impl Shared {
    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        // Each use replaces the whole value: it is sound after any panic.
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn returned_at(&self) -> MutexGuard<'_, Option<Instant>> {
        // Each use replaces the whole value: it is sound after any panic.
        self.returned_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a connection unless the request gets one meanwhile that is on its way back.
    async fn if_needed<C>(
        self: Arc<Self>,
        returned_at: Option<(Instant, Sent)>,
        connecting: impl Future<Output = Result<C, BoxError>>,
    ) -> Result<C, BoxError> {
        if let Some((at, sent)) = returned_at {
            // Once it is there, this goes on in the background, where nobody needs its result.
            sleep_until(at + ON_ITS_WAY).await;
            if sent.get() {
                return Err("a connection came back in time".into());
            }
        }
        self.counted(connecting).await
    }

    /// Opens a connection, and counts it.
    async fn counted<C>(
        self: Arc<Self>,
        connecting: impl Future<Output = Result<C, BoxError>>,
    ) -> Result<C, BoxError> {
        let opening = OpeningGuard::new(self);
        let connection = connecting.await?;
        opening.0.opened.fetch_add(1, Ordering::Relaxed);
        Ok(connection)
    }
}

/// Counts a connection that is being opened, until it stands or is given up.
struct OpeningGuard(Arc<Shared>);

impl OpeningGuard {
    fn new(shared: Arc<Shared>) -> Self {
        shared.opening.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for OpeningGuard {
    fn drop(&mut self) {
        self.0.opening.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S> Layer<S> for Opener {
    type Service = Opening<S>;

    fn layer(&self, sockets: S) -> Opening<S> {
        let sockets = Arc::new(sockets);
        Opening { sockets, shared: Arc::clone(&self.0) }
    }
}

/// The HTTP client's way to a socket, through an [`Opener`]. It is cloned several times for each
/// request, of which few open a connection: only then the way below, some boxes deep, is cloned, too.
#[derive(Debug)]
pub(super) struct Opening<S> {
    sockets: Arc<S>,
    shared: Arc<Shared>,
}

impl<S> Clone for Opening<S> {
    fn clone(&self) -> Self {
        Self { sockets: Arc::clone(&self.sockets), shared: Arc::clone(&self.shared) }
    }
}

impl<S, To> Service<To> for Opening<S>
where
    S: Service<To, Error = BoxError> + Clone + Send + 'static,
    S::Response: Send + 'static,
    S::Future: Send + 'static,
    To: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    /// Always: what is below is asked by each call.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: To) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let mut sockets = S::clone(&self.sockets);
        let opening = async move {
            poll_fn(|cx| sockets.poll_ready(cx)).await?;
            sockets.call(to).await
        };
        let mut ahead = self.shared.ahead();
        let state = std::mem::take(&mut *ahead);
        if matches!(state, Ahead::None) {
            // One that comes back serves one request: the next one does not count on it.
            let returned_at = self.shared.returned_at().take();
            let returned_at = returned_at.zip(SENT.try_with(Sent::clone).ok());
            return Box::pin(shared.if_needed(returned_at, opening));
        }
        let connecting = shared.clone().counted(opening);
        match state {
            Ahead::None => Box::pin(connecting),
            Ahead::Wanted => {
                let limited = timeout(self.shared.connect, connecting);
                let task = tokio::spawn(async move {
                    let connection = limited.await.ok()?.ok()?;
                    Some((Box::new(connection) as Opened, Instant::now()))
                });
                *ahead = Ahead::Opening(Spare { task });
                // Whoever asked for it sends nothing.
                Box::pin(std::future::pending())
            }
            Ahead::Opening(spare) => Box::pin(take(spare, shared, connecting)),
        }
    }
}

/// Returns the connection that is opened ahead, or one of the request's own, whichever stands
/// first; the one ahead has a head start.
async fn take<C: Send + 'static>(
    mut spare: Spare,
    shared: Arc<Shared>,
    connecting: impl Future<Output = Result<C, BoxError>>,
) -> Result<C, BoxError> {
    let mut connecting = std::pin::pin!(connecting);
    let opened = tokio::select! {
        biased;
        opened = &mut spare.task => opened.ok().flatten(),
        own = async { sleep(HEAD_START).await; connecting.as_mut().await } => return own,
    };
    let fresh = opened.filter(|(_, at)| at.elapsed() < FRESH);
    match fresh.and_then(|(connection, _)| connection.downcast().ok()) {
        Some(connection) => {
            shared.opened_ahead.fetch_add(1, Ordering::Relaxed);
            Ok(*connection)
        }
        None => connecting.await,
    }
}
