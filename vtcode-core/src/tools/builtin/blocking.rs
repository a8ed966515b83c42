//! Runs file work on a thread that may block: a closure comes in, its result goes out.
//! The work's token is cancelled when its call is, or when the call's future is dropped, and all
//! work looks at it between two steps. Never lets a write that has begun go unreported.

use std::io;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::tools::tool::{CallContext, Tool, ToolError, ToolOutput};

/// Runs `work` that only reads; returns at once when the call is cancelled.
pub(super) async fn reading<T: Send + 'static>(
    name: &'static str,
    context: &CallContext,
    work: impl FnOnce(&CancellationToken) -> Result<T, ToolError> + Send + 'static,
) -> Result<T, ToolError> {
    let cancel = context.cancel.child_token();
    let _stop = cancel.clone().drop_guard();
    let done = cancel.run_until_cancelled(run(name, cancel.clone(), work)).await;
    done.unwrap_or_else(|| Err(ToolError::Cancelled { name: name.to_owned() }))
}

/// Runs `work` that may write. It calls [`go_on`] before it writes, and what it did from there on
/// is its result, whether or not the call is cancelled meanwhile.
pub(super) async fn writing<T: Send + 'static>(
    name: &'static str,
    context: &CallContext,
    work: impl FnOnce(&CancellationToken) -> Result<T, ToolError> + Send + 'static,
) -> Result<T, ToolError> {
    let cancel = context.cancel.child_token();
    let _stop = cancel.clone().drop_guard();
    run(name, cancel.clone(), work).await
}

/// Runs a batch's calls one after the other. That is how each gets its own failure where they have
/// failed together.
pub(super) async fn each_alone(
    tool: &impl Tool,
    calls: &[&Value],
    context: &CallContext,
) -> Vec<Result<ToolOutput, ToolError>> {
    let mut results = Vec::with_capacity(calls.len());
    for args in calls {
        results.push(tool.call(args, context).await);
    }
    results
}

/// Returns the batch that all the calls belong to, if it is one.
pub(super) fn one_batch(tool: &impl Tool, calls: &[&Value]) -> Option<String> {
    let batch = tool.batch(calls.first()?)?;
    let same = calls[1..].iter().all(|args| tool.batch(args).as_ref() == Some(&batch));
    same.then_some(batch)
}

async fn run<T: Send + 'static>(
    name: &'static str,
    cancel: CancellationToken,
    work: impl FnOnce(&CancellationToken) -> Result<T, ToolError> + Send + 'static,
) -> Result<T, ToolError> {
    match tokio::task::spawn_blocking(move || work(&cancel)).await {
        Ok(done) => done,
        Err(broken) => {
            Err(ToolError::Failed(format!("`{name}` broke on these arguments: {broken}")))
        }
    }
}

/// Fails when nobody waits for the call any more.
pub(super) fn go_on(name: &str, cancel: &CancellationToken) -> Result<(), ToolError> {
    if cancel.is_cancelled() {
        return Err(ToolError::Cancelled { name: name.to_owned() });
    }
    Ok(())
}

/// Fails as [`go_on`] does, between two reads.
pub(super) fn check(cancel: &CancellationToken) -> io::Result<()> {
    if cancel.is_cancelled() {
        // Not `Interrupted`, which readers take as a reason to try again.
        return Err(io::Error::other("cancelled"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::tools::builtin::testing::context;

    /// Works until it is told to stop, then says so.
    fn endless(
        stopped: tokio::sync::oneshot::Sender<()>,
    ) -> impl FnOnce(&CancellationToken) -> Result<(), ToolError> {
        move |cancel| {
            while go_on("test", cancel).is_ok() {
                std::thread::yield_now();
            }
            stopped.send(()).map_err(|()| ToolError::Failed("nobody waits".to_owned()))
        }
    }

    #[tokio::test]
    async fn dropping_the_call_stops_the_work() {
        let context = context();
        let (stopped, stop) = tokio::sync::oneshot::channel();
        let mut call = Box::pin(reading("test", &context, endless(stopped)));
        assert!(futures_util::poll!(&mut call).is_pending());
        drop(call);
        tokio::time::timeout(Duration::from_secs(30), stop).await.expect("it goes on").unwrap();
        let (stopped, stop) = tokio::sync::oneshot::channel();
        let mut call = Box::pin(writing("test", &context, endless(stopped)));
        assert!(futures_util::poll!(&mut call).is_pending());
        drop(call);
        tokio::time::timeout(Duration::from_secs(30), stop).await.expect("it goes on").unwrap();
        assert!(!context.cancel.is_cancelled(), "other calls go on");
    }

    #[tokio::test]
    async fn cancelling_a_reader_answers_at_once_and_stops_the_work() {
        let (stopped, stop) = tokio::sync::oneshot::channel();
        let context = context();
        let mut call = Box::pin(reading("test", &context, endless(stopped)));
        assert!(futures_util::poll!(&mut call).is_pending());
        context.cancel.cancel();
        assert!(matches!(call.await, Err(ToolError::Cancelled { name }) if name == "test"));
        tokio::time::timeout(Duration::from_secs(30), stop).await.expect("it goes on").unwrap();
    }

    #[tokio::test]
    async fn a_write_that_has_begun_is_finished_and_reported() {
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (cancelled, wait) = mpsc::channel::<()>();
        let context = context();
        let call = writing("test", &context, move |cancel| {
            go_on("test", cancel)?;
            begun.send(()).unwrap();
            wait.recv().unwrap();
            Ok("written")
        });
        let cancel = async {
            has_begun.await.unwrap();
            context.cancel.cancel();
            cancelled.send(()).unwrap();
        };
        assert_eq!(tokio::join!(call, cancel).0.unwrap(), "written");
    }

    #[tokio::test]
    async fn a_panic_is_a_result() {
        let broken = reading("test", &context(), |_| -> Result<(), _> { panic!("a bug") }).await;
        assert!(broken.unwrap_err().to_string().starts_with("`test` broke"));
    }
}
