//! A part that fails while a session works: the session goes on without it, and the model reads
//! what it would have read. The rate limiter's file has its own in `rate`, a profile that cannot be
//! kept in the program's tests.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use vtcode_core::config::endpoint::Wire;
use vtcode_core::config::limits::PoolLimits;
use vtcode_core::core::event::EventKind;
use vtcode_core::core::memory_pool::global_pool;
use vtcode_core::core::performance_profiler::Profile;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_core::tools::tool::{CallContext, Effect, Tool, ToolFuture, ToolOutput, ToolSpec};
use vtcode_testkit::{call, say};

use crate::session::{POOL, Session, full};

#[tokio::test]
async fn a_pool_that_is_exhausted_is_the_allocator_and_the_same_transcript() {
    let _alone = POOL.lock().await;
    let pool = global_pool();
    let tiny = PoolLimits { buffers: 1, buffer_bytes: 256, ..PoolLimits::FULL };
    let mut seen = Vec::new();
    for limits in [PoolLimits::FULL, tiny, PoolLimits::NONE] {
        pool.set_limits(limits);
        pool.shed();
        let before = pool.statistics_of_this_thread();
        let print = |n: u64| call("run_command", json!({"command": format!("seq {n} 400")}));
        let replies = vec![print(1), print(2).and(print(3)), say("Done.")];
        let session = Session::new(Wire::OpenAiChat, full(), replies).await;
        session.run(&["go"]).await;
        let after = pool.statistics_of_this_thread();
        let dropped = after.full + after.oversize - before.full - before.oversize;
        seen.push((session.transcript(), after.reused - before.reused, dropped));
    }
    pool.set_limits(PoolLimits::FULL);
    let [(with, reused, _), (tiny, _, dropped), (without, never, _)] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert!(with.contains("\n    400"), "{with}");
    assert!(*reused > 0, "what a command prints does not come through the pool");
    assert!(*dropped > 0 && *never == 0, "{dropped} dropped, {never} used again");
    assert!(tiny == with && without == with);
}

/// A tool that says something of itself that nobody can use.
struct Nonsense(ToolSpec);

impl Nonsense {
    fn named(name: &'static str) -> Self {
        let parameters = json!({"type": 7, "properties": "x", "required": {"a": 1}});
        Self(ToolSpec { name: name.into(), description: "Nonsense.".into(), parameters })
    }
}

impl Tool for Nonsense {
    fn spec(&self) -> &ToolSpec {
        &self.0
    }

    fn effect(&self, _args: &Value) -> Effect {
        Effect::default()
    }

    fn call<'a>(&'a self, _args: &'a Value, _context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async { Ok(ToolOutput::text("ran")) })
    }
}

#[tokio::test]
async fn a_tool_that_the_catalog_does_not_take_leaves_the_others_as_they_were() {
    let replies = || {
        let read = call("read_file", json!({"path": "a.txt"}));
        vec![read, call("list_files", json!({})), say("Done.")]
    };
    let plain = Session::new(Wire::OpenAiChat, full(), replies()).await;
    plain.run(&["go"]).await;

    let registry: Arc<Mutex<Option<Arc<OptimizedToolRegistry>>>> = Arc::default();
    let (held, taken) = (Arc::clone(&registry), Arc::new(Mutex::new(Vec::new())));
    let answers = Arc::clone(&taken);
    let session = Session::new(Wire::OpenAiChat, full(), replies()).await.on_event(move |event| {
        if let (EventKind::FirstByte, Some(registry)) = (&event.kind, &*held.lock().unwrap()) {
            let specs = registry.specs();
            answers.lock().unwrap().push(registry.register(Arc::new(Nonsense::named("read_file"))));
            assert_eq!(registry.specs().len(), specs.len());
        }
    });
    let (journal, messages) = session.open();
    let (engine, pipeline) = session.engine(journal, messages);
    *registry.lock().unwrap() = Some(Arc::clone(pipeline.registry()));
    engine.submit("go").await.unwrap();
    engine.close_input();
    engine.start().await.unwrap();
    pipeline.shutdown().await;
    assert_eq!(*taken.lock().unwrap(), [false, false, false], "the name is taken, each time");
    assert_eq!(session.transcript(), plain.transcript());
    assert_eq!(warnings(&session), ["the tools go on without another tool named `read_file`"]);
    assert_eq!(profile(&session).fallbacks().tools, 3, "each time is counted");
}

/// What the user was warned of.
fn warnings(session: &Session) -> Vec<String> {
    let message = |kind| match kind {
        EventKind::Warning { message } => Some(message),
        _ => None,
    };
    session.kinds().into_iter().filter_map(message).collect()
}

fn profile(session: &Session) -> Profile {
    let mut profile = Profile::default();
    session.events.lock().unwrap().iter().for_each(|event| profile.take(event));
    profile
}

/// A tool that crashes when it is asked what it is.
struct Speechless;

impl Tool for Speechless {
    fn spec(&self) -> &ToolSpec {
        panic!("nobody knows")
    }

    fn effect(&self, _args: &Value) -> Effect {
        Effect::default()
    }

    fn call<'a>(&'a self, _args: &'a Value, _context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async { Ok(ToolOutput::text("ran")) })
    }
}

#[tokio::test]
async fn a_catalog_that_cannot_be_made_whole_is_the_catalog_without_that_tool() {
    let replies = || {
        let read = |path: &str| call("read_file", json!({"path": path}));
        vec![read("a.txt"), read("b.txt"), say("Done.")]
    };
    let plain = Session::new(Wire::OpenAiChat, full(), replies()).await;
    plain.run(&["go"]).await;
    let session = Session::new(Wire::OpenAiChat, full(), replies()).await.tool(Speechless);
    session.run(&["go"]).await;
    assert_eq!(session.bodies(), plain.bodies());
    let told = ["the tools go on without a tool that crashed when it was asked what it is"];
    assert_eq!(warnings(&session), told);
    assert_eq!(profile(&session).fallbacks().warnings, 1);
}

#[tokio::test]
async fn a_profile_that_crashes_is_told_once_and_the_session_goes_on() {
    let replies = || {
        let read = |path: &str| call("read_file", json!({"path": path}));
        vec![read("a.txt"), read("b.txt"), say("Done.")]
    };
    let plain = Session::new(Wire::OpenAiChat, full(), replies()).await;
    plain.run(&["go"]).await;
    let session = Session::new(Wire::OpenAiChat, full(), replies()).await;
    let session = session.on_event(|event| {
        assert!(!matches!(event.kind, EventKind::FirstByte), "the profile's sink is gone");
    });
    session.run(&["go"]).await;
    assert_eq!(session.transcript(), plain.transcript());
    let told = warnings(&session);
    assert!(told.len() == 1 && told[0].ends_with("the profile's sink is gone"), "{told:?}");
    assert_eq!(profile(&session).fallbacks().warnings, 1);
}

#[tokio::test]
async fn a_schema_that_nobody_can_compile_is_its_own_tools_trouble_alone() {
    let ask = call("nonsense", json!({"a": 1})).and(call("read_file", json!({"path": "a.txt"})));
    let replies = vec![ask, say("Done.")];
    let session = Session::new(Wire::OpenAiChat, full(), replies).await;
    let session = session.tool(Nonsense::named("nonsense"));
    session.run(&["go"]).await;
    let text = session.transcript();
    assert!(text.contains("gives read_file: ") && text.contains("1\talpha"), "{text}");
    assert!(text.contains(" nonsense: ") && text.contains("assistant: Done."), "{text}");
}
