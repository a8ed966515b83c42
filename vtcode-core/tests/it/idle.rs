//! An engine that waits for a prompt does nothing at all.

use std::future::Future as _;
use std::task::Poll;
use std::time::Duration;

use vtcode_core::config::endpoint::Wire;
use vtcode_core::core::optimized_agent::End;
use vtcode_testkit::say;

use crate::session::{Session, full};

#[tokio::test]
async fn an_engine_without_a_prompt_sets_no_timer_and_is_not_woken() {
    let session = Session::new(Wire::OpenAiChat, full(), vec![say("Done.")]).await;
    let (journal, messages) = session.open();
    let (engine, pipeline) = session.engine(journal, messages);
    let mut polls = 0;
    let mut run = Box::pin(engine.start());
    let mut counted = std::future::poll_fn(|context| {
        polls += 1;
        run.as_mut().poll(context)
    });
    // With the clock stopped, time goes on at once to the next timer, whoever set it.
    tokio::time::pause();
    tokio::select! {
        biased;
        ended = &mut counted => panic!("ended without a prompt: {ended:?}"),
        () = tokio::time::sleep(Duration::from_secs(3600)) => {}
    }
    drop(counted);
    // At the beginning, and when the hour was over.
    assert_eq!(polls, 2, "woken in an hour in which nothing happened");
    tokio::time::resume();
    engine.submit("go").await.unwrap();
    engine.close_input();
    let outcome = std::future::poll_fn(|context| match run.as_mut().poll(context) {
        Poll::Ready(outcome) => Poll::Ready(outcome.unwrap()),
        Poll::Pending => Poll::Pending,
    });
    assert_eq!(outcome.await.end, Some(End::Done("Done.".to_owned())));
    pipeline.shutdown().await;
}
