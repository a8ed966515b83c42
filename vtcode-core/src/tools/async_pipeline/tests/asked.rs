//! Calls that somebody is asked about before they run.

use std::sync::Mutex;

use super::*;
use crate::config::safety::{Approval, SafetySettings};
use crate::safety::permissions::Answer;
use crate::safety::workspace::Workspace;

/// A pipeline of one slot whose tool `act` may do anything, and the ends by which its questions
/// are answered.
fn asked(ran: &Arc<AtomicUsize>) -> (AsyncToolPipeline, Arc<Mutex<Vec<oneshot::Sender<Answer>>>>) {
    let questions: Arc<Mutex<Vec<oneshot::Sender<Answer>>>> = Arc::default();
    let asking = Arc::clone(&questions);
    let workspace = Arc::new(Workspace::open(Path::new(".")).unwrap());
    let settings = SafetySettings { approval: Approval::Untrusted, ..SafetySettings::default() };
    let permissions = Permissions::new(&settings, workspace).unwrap();
    let permissions = permissions.with_approver(Arc::new(move |_| {
        let (sender, receiver) = oneshot::channel();
        asking.lock().unwrap().push(sender);
        Box::pin(async move { receiver.await.unwrap_or(Answer::No) })
    }));
    let counted = Arc::clone(ran);
    let act = probe("act", move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { said("done") }
    });
    let tools: Vec<Arc<dyn Tool>> = vec![Arc::new(act.effect(|_| Effect::opaque()))];
    let limits = ToolLimits { max_concurrent: 1, ..Limits::full().tools };
    let registry =
        OptimizedToolRegistry::with_tools(tools, limits).with_permissions(Arc::new(permissions));
    (AsyncToolPipeline::with_registry(Arc::new(registry)), questions)
}

async fn question(questions: &Mutex<Vec<oneshot::Sender<Answer>>>) -> oneshot::Sender<Answer> {
    within(async {
        loop {
            if let Some(question) = questions.lock().unwrap().pop() {
                return question;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_question_takes_no_slot_and_its_answer_decides() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (pipeline, questions) = asked(&ran);
    for (answer, runs) in [(Answer::Once, 1), (Answer::No, 1), (Answer::Once, 2)] {
        pipeline.submit_request(request("a", "act", json!({}))).await.unwrap();
        let open = question(&questions).await;
        drop(within(pipeline.registry().permit(ExecutionPriority::Low)).await.unwrap());
        open.send(answer).unwrap();
        let result = within(pipeline.wait_result("a")).await.result;
        assert_eq!(result.is_ok(), answer == Answer::Once);
        assert_eq!(ran.load(Ordering::SeqCst), runs);
    }
}

#[tokio::test]
async fn an_interrupted_question_is_withdrawn_and_the_call_never_runs() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (pipeline, questions) = asked(&ran);
    let (request, cancel) = cancellable("a", "act");
    pipeline.submit_request(request).await.unwrap();
    let mut open = question(&questions).await;
    cancel.cancel();
    let result = within(pipeline.wait_result("a")).await.result;
    assert!(matches!(result, Err(ToolError::Cancelled { .. })), "{result:?}");
    within(open.closed()).await;
    assert_eq!(ran.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn the_time_that_an_answer_takes_is_not_the_calls() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (pipeline, questions) = asked(&ran);
    let timeout = Duration::from_secs(1);
    let hasty = ToolRequest { timeout, ..request("a", "act", json!({})) };
    pipeline.submit_request(hasty).await.unwrap();
    let open = question(&questions).await;
    tokio::time::advance(Duration::from_secs(3600)).await;
    open.send(Answer::Once).unwrap();
    assert_eq!(words(pipeline.wait_result("a").await), "done");
}
