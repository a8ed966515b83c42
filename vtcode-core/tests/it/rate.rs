//! Rate limits against a provider that truly limits: a bucket of its own, and 429 when it is empty.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::limits::{ClientLimits, Limits, RateLimits};
use vtcode_core::llm::LLMRequest;
use vtcode_core::llm::message::Outcome;
use vtcode_core::llm::optimized_client::{LlmError, OptimizedLLMClient, StreamEvent};
use vtcode_testkit::{Bucket, Fault, Reply, ScriptedModel, fail, say};

/// A model with a limit, which counts what it refused.
async fn limited(per_second: f64, burst: f64) -> (ScriptedModel, Arc<AtomicUsize>) {
    let bucket = Bucket::new(per_second, burst);
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let model = ScriptedModel::start_with(move |_, _| {
        if bucket.take() {
            return say("yes");
        }
        count.fetch_add(1, Ordering::SeqCst);
        fail(Fault::status(429))
    });
    (model.await, refused)
}

fn client(model: &ScriptedModel, rate: RateLimits, folder: Option<&Path>) -> OptimizedLLMClient {
    let endpoint = Endpoint::new(Wire::OpenAiChat, model.openai_url(), "m");
    let backoff = Duration::from_millis(1);
    // All of them ask the same, and each is to be asked.
    let limits = ClientLimits { rate, backoff, shared_bytes: 0, ..Limits::full().client };
    OptimizedLLMClient::with_shared_limits(endpoint, limits, folder).unwrap()
}

fn requests(per_minute: u64, burst: u64) -> RateLimits {
    RateLimits {
        requests_per_minute: Some(per_minute),
        burst: Some(burst),
        ..RateLimits::default()
    }
}

async fn ask(client: &OptimizedLLMClient) -> Result<String, LlmError> {
    Ok(client.chat_optimized(LLMRequest::from_prompt("hi")).await?.text())
}

/// The clients of several processes know each other by the file alone, as these do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_clients_together_stay_below_what_the_provider_allows() {
    let (model, refused) = limited(100.0, 80.0).await;
    let folder = tempfile::tempdir().unwrap();
    let mut agents = JoinSet::new();
    for _ in 0..4 {
        // Far less at once than the provider takes, so that a machine that stalls for a moment, and
        // then sends what had waited, does not fail this; the crowd at once would.
        let client = client(&model, requests(6_000, 10), Some(folder.path()));
        for _ in 0..5 {
            let client = client.clone();
            agents.spawn(async move {
                for _ in 0..5 {
                    ask(&client).await.unwrap();
                }
            });
        }
    }
    while let Some(agent) = agents.join_next().await {
        agent.unwrap();
    }
    assert_eq!(refused.load(Ordering::SeqCst), 0);
    assert_eq!(model.requests().len(), 100);
}

/// The control: without limits of our own the same crowd is refused.
#[tokio::test]
async fn without_a_limit_the_same_crowd_is_refused() {
    let (model, refused) = limited(50.0, 5.0).await;
    let client = client(&model, RateLimits::default(), None);
    let asked = futures_util::future::join_all((0..20).map(|_| ask(&client)));
    asked.await;
    assert!(refused.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn one_that_is_told_to_wait_holds_the_others_back_too() {
    let replies: Vec<Reply> =
        vec![fail(Fault::status(429).header("retry-after", "3600")), say("nobody gets here")];
    let model = ScriptedModel::start(replies).await;
    let folder = tempfile::tempdir().unwrap();
    let rate = requests(60_000, 100);
    let one = client(&model, rate, Some(folder.path()));
    let other = client(&model, rate, Some(folder.path()));
    let Err(LlmError::RateLimited { .. }) = ask(&one).await else { panic!("it was refused") };
    let Err(error) = ask(&other).await else { panic!("it is not to ask before an hour is over") };
    let LlmError::RateLimited { retry_after: Some(wait), .. } = &error else { panic!("{error}") };
    assert!(*wait > Duration::from_secs(3000) && *wait <= Duration::from_secs(3600), "{wait:?}");
    assert!(error.to_string().contains("come back in 3"), "{error}");
    assert_eq!(model.requests().len(), 1);
}

#[tokio::test]
async fn a_wait_is_told_and_counted() {
    let model = ScriptedModel::start(vec![say("one"), say("two")]).await;
    let client = client(&model, requests(600, 1), None);
    ask(&client).await.unwrap();
    let mut stream = client.stream(&LLMRequest::from_prompt("hi"));
    let mut waits = Vec::new();
    while let Some(event) = stream.next().await {
        if let StreamEvent::Waiting { wait } = event.unwrap() {
            waits.push(wait);
        }
    }
    assert_eq!(waits.len(), 1);
    let metrics = client.get_metrics().await;
    assert_eq!((metrics.waits, metrics.attempts), (1, vec![(Outcome::Done, 2)]));
    assert!(metrics.waited <= Duration::from_millis(100), "{:?}", metrics.waited);
}

/// Returns the wait that a request is told, and gives it up.
async fn wait_and_give_up(client: &OptimizedLLMClient) -> Duration {
    let mut stream = client.stream(&LLMRequest::from_prompt("hi"));
    match stream.next().await {
        Some(Ok(StreamEvent::Waiting { wait })) => wait,
        other => panic!("no wait: {other:?}"),
    }
}

#[tokio::test]
async fn who_gives_up_gives_the_place_back() {
    let model = ScriptedModel::start(vec![say("one")]).await;
    let client = client(&model, requests(1, 1), None);
    ask(&client).await.unwrap();
    for _ in 0..3 {
        // Were the places of those before kept, this would be minutes.
        assert!(wait_and_give_up(&client).await <= Duration::from_secs(60));
    }
    assert_eq!(model.requests().len(), 1);
}

#[tokio::test]
async fn tokens_are_settled_by_what_the_answer_says() {
    let used = |input| say("ok").usage(input, 0, 1);
    let model = ScriptedModel::start(vec![used(50), used(5000), used(50)]).await;
    let rate = RateLimits { input_tokens_per_minute: Some(6000), ..RateLimits::default() };
    let client = client(&model, rate, None);
    ask(&client).await.unwrap();
    ask(&client).await.unwrap();
    // 5,050 of the minute's 6,000 are gone, so nothing waits yet; the guess alone was far less.
    ask(&client).await.unwrap();
    assert_eq!(client.get_metrics().await.waits, 0);
    let model = ScriptedModel::start(vec![used(50), used(50_000)]).await;
    let client = self::client(&model, rate, None);
    ask(&client).await.unwrap();
    ask(&client).await.unwrap();
    assert!(wait_and_give_up(&client).await > Duration::from_secs(400));
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_one_warning_and_no_lost_turn() {
    let model = ScriptedModel::start(vec![say("one"), say("two")]).await;
    let client = client(&model, requests(60_000, 10), Some(Path::new("/dev/null/rate")));
    let mut warnings = 0;
    for _ in 0..2 {
        let mut stream = client.stream(&LLMRequest::from_prompt("hi"));
        while let Some(event) = stream.next().await {
            warnings += usize::from(matches!(event.unwrap(), StreamEvent::Degraded { .. }));
        }
    }
    assert_eq!(warnings, 1);
    assert_eq!(model.requests().len(), 2);
}

/// Returns the file in which the only account of this folder keeps its limits.
fn record(folder: &Path) -> std::path::PathBuf {
    let mut files = std::fs::read_dir(folder).unwrap();
    files.next().expect("somebody has asked").unwrap().path()
}

/// Asks once and returns how often it was said that the limits are not shared.
async fn warnings(client: &OptimizedLLMClient) -> usize {
    let mut stream = client.stream(&LLMRequest::from_prompt("hi"));
    let mut warnings = 0;
    while let Some(event) = stream.next().await {
        warnings += usize::from(matches!(event.unwrap(), StreamEvent::Degraded { .. }));
    }
    warnings
}

#[tokio::test]
async fn a_process_that_is_killed_while_it_holds_the_limits_holds_up_nobody() {
    let model = ScriptedModel::start_with(|_, _| say("yes")).await;
    let folder = tempfile::tempdir().unwrap();
    let rate = requests(60_000, 100);
    let one = client(&model, rate, Some(folder.path()));
    ask(&one).await.unwrap();

    // The lock goes with the open file, which is the other process's alone once it has begun.
    let file = std::fs::OpenOptions::new().write(true).open(record(folder.path())).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut holder = std::process::Command::new("sleep").arg("1000").stdin(file).spawn().unwrap();

    // While it holds them, nobody waits for it for long; one warning says what that means.
    let held_up = client(&model, rate, Some(folder.path()));
    assert_eq!(warnings(&held_up).await, 1);
    assert_eq!(warnings(&held_up).await, 0);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let after = client(&model, rate, Some(folder.path()));
    assert_eq!(warnings(&after).await, 0);
    // And they are shared again.
    let narrow = requests(1, 1);
    ask(&client(&model, narrow, Some(folder.path()))).await.unwrap();
    let last = client(&model, narrow, Some(folder.path()));
    assert!(wait_and_give_up(&last).await > Duration::from_secs(50));
}

#[tokio::test]
async fn a_file_of_any_bytes_holds_up_nobody_and_is_mended() {
    let model = ScriptedModel::start_with(|_, _| say("yes")).await;
    let folder = tempfile::tempdir().unwrap();
    let narrow = requests(1, 1);
    ask(&client(&model, narrow, Some(folder.path()))).await.unwrap();
    let path = record(folder.path());
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = Vec::new();
    for bit in (0..whole.len() * 8).step_by(13) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        flipped.push(bytes);
    }
    let cut = (0..whole.len()).step_by(7).map(|at| whole[..at].to_vec());
    for bytes in cut.chain(flipped).chain([vec![0xff; 300], vec![0; 300]]) {
        std::fs::write(&path, &bytes).unwrap();
        // Nothing that can be read is as good as nothing: the one place that there is, is free.
        let begins_anew = client(&model, narrow, Some(folder.path()));
        assert_eq!(warnings(&begins_anew).await, 0);
        let next = client(&model, narrow, Some(folder.path()));
        assert!(wait_and_give_up(&next).await > Duration::from_secs(50), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_wait_beyond_all_reason_does_not_stop_everyone_for_years() {
    let years = fail(Fault::status(429).header("retry-after", "1000000000"));
    let model = ScriptedModel::start(vec![years, say("yes")]).await;
    let folder = tempfile::tempdir().unwrap();
    let rate = requests(60_000, 100);
    ask(&client(&model, rate, Some(folder.path()))).await.unwrap_err();
    let Err(error) = ask(&client(&model, rate, Some(folder.path()))).await else {
        panic!("it is asked to wait")
    };
    let LlmError::RateLimited { retry_after: Some(wait), .. } = error else { panic!("{error}") };
    assert!(wait <= Duration::from_secs(86_400), "{wait:?}");
}
