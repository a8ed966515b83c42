//! One task: `exec` begins a session, `resume` goes on with one; both end in [`drive`].

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use vtcode_core::config::env::Env;
use vtcode_core::config::files;
use vtcode_core::config::layers::Settings;
use vtcode_core::config::reload::Reload;
use vtcode_core::core::event::{Event, EventKind, Prefix, SessionHeader};
use vtcode_core::core::journal::{self, Journal, SessionEntry, SessionStatus, Sessions};
use vtcode_core::core::optimized_agent::{
    AgentOutcome, AnswerSchema, End, OptimizedAgentEngine, prompt,
};
use vtcode_core::core::performance_profiler::Profile;
use vtcode_core::llm::discover;
use vtcode_core::llm::message::{Image, Message, Prompt};
use vtcode_core::llm::optimized_client::OptimizedLLMClient;
use vtcode_core::safety::preimage::Preimages;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::async_pipeline::AsyncToolPipeline;
use vtcode_core::tools::builtin::run_command::Check;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;

use crate::approval;
use crate::args::{Common, Exec, Resume};
use crate::exit::{self, Exit, Usage};
use crate::images;
use crate::json::{JsonLines, Lost};
use crate::perf;
use crate::regressions;
use crate::reread;
use crate::setup;
use crate::terminal::{Screen, Terminal, clean, file_change, span};

/// Everything that a run works with.
pub(crate) struct Session {
    pub(crate) header: SessionHeader,
    pub(crate) client: OptimizedLLMClient,
    pub(crate) settings: Settings,
    pub(crate) sessions: Sessions,
    pub(crate) journal: Journal,
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) registry: Arc<OptimizedToolRegistry>,
    pub(crate) check: Option<Check>,
    pub(crate) preimages: Arc<Preimages>,
    pub(crate) messages: Vec<Message>,
    pub(crate) sent: Option<Prefix>,
    pub(crate) entry: SessionEntry,
    /// What the last answer must be.
    pub(crate) answer_schema: Option<AnswerSchema>,
    /// Looks whether the user's settings have changed.
    pub(crate) reload: Option<Reload>,
}

/// The file of a session in which it keeps what its model has seen of each file.
const SEEN: &str = "seen.json";

/// How a run tells what happens.
#[derive(Debug)]
pub(crate) enum Reporting {
    Json(JsonLines),
    Terminal(Terminal),
}

/// What a run gave.
pub(crate) struct Report {
    pub(crate) outcome: AgentOutcome,
    pub(crate) profile: Profile,
}

/// Runs `vtcode exec`.
pub(crate) async fn run(args: Exec) -> anyhow::Result<Exit> {
    let env = Env::of_process();
    let json = args.common.json;
    tell_errors(
        json,
        Box::pin(async {
            let env = files::with_credentials(env)?;
            let prompt = read_prompt(args.prompt.as_deref())?;
            let cwd = setup::folder(args.cd.as_deref())?;
            // Absolute, so that the session goes on in the same ones from wherever it is resumed.
            let add_dirs: anyhow::Result<_> =
                args.add_dir.iter().map(|dir| setup::folder(Some(dir))).collect();
            check_output(&args.common)?;
            let answer_schema = read_schema(&args.common)?;
            let images = images::read(&args.common.image)?;
            let (mut settings, reload) = setup::reloadable(&cwd, Some(&args.common), &env)?;
            let endpoint = discover::endpoint(&settings, &env).await?;
            let routes = setup::routes(endpoint, &mut settings, &env)?;
            let (client, add_dirs) = (setup::client(routes, &env)?, add_dirs?);
            images::check(&images, &client.provider()?.images(), &client.endpoint()?.model)?;
            // The connection is made while the session is prepared, which blocks.
            client.warm_up();
            let its_env = env.clone();
            let session = tokio::task::spawn_blocking(move || {
                begin(cwd, add_dirs, client, settings, &its_env)
            });
            let session = session.await??;
            let session = Session { answer_schema, reload: Some(reload), ..session };
            let prompt = with_files(prompt, images, &session)?;
            Box::pin(drive(session, prompt, args.common, &env)).await
        }),
    )
    .await
}

/// Runs `vtcode resume`.
pub(crate) async fn resume(args: Resume) -> anyhow::Result<Exit> {
    let env = Env::of_process();
    let json = args.common.json;
    tell_errors(
        json,
        Box::pin(async {
            let env = files::with_credentials(env)?;
            let sessions = setup::sessions(&env)?;
            let (id, prompt) = if args.last {
                if args.prompt.is_some() {
                    return Err(Usage("give a session or --last, not both".to_owned()).into());
                }
                (last_session(&sessions)?, args.session)
            } else {
                let none = "which session? `vtcode sessions` lists them; --last takes the newest";
                (args.session.ok_or_else(|| Usage(none.to_owned()))?, args.prompt)
            };
            let prompt = read_prompt(prompt.as_deref())?;
            check_output(&args.common)?;
            let answer_schema = read_schema(&args.common)?;
            let images = images::read(&args.common.image)?;
            let session = go_on(&sessions, &id, &args.common, &env).await?;
            let session = Session { answer_schema, ..session };
            let prompt = with_files(prompt, images, &session)?;
            Box::pin(drive(session, prompt, args.common, &env)).await
        }),
    )
    .await
}

/// Readers of JSON lines see an error there, too.
async fn tell_errors(
    json: bool,
    work: impl Future<Output = anyhow::Result<Exit>>,
) -> anyhow::Result<Exit> {
    let result = work.await;
    if let (true, Err(error)) = (json, &result) {
        JsonLines::error(&exit::words(error));
    }
    result
}

/// Finds out before any work is done whether there is a place for its answer.
fn check_output(common: &Common) -> Result<(), Usage> {
    for path in &common.profile_out {
        perf::form(path)?;
        check_place("the profile", path)?;
    }
    common.output.as_ref().map_or(Ok(()), |path| check_place("the answer", path))
}

fn check_place(what: &str, path: &Path) -> Result<(), Usage> {
    let folder = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    if path.is_dir() || !folder.is_none_or(Path::is_dir) {
        let path = path.display();
        return Err(Usage(format!("cannot write {what} to `{path}`: no such folder, or one")));
    }
    Ok(())
}

/// Finds out whether a file takes the answer, and leaves none of an earlier run in it: should this
/// one end without any, nobody takes the older one for it.
fn make_place(path: &Path) -> Result<(), Usage> {
    let about = std::fs::symlink_metadata(path);
    if std::fs::metadata(path).is_ok_and(|about| !about.is_file()) {
        // A pipe or a terminal holds none, and to open a pipe may wait for its reader.
        return Ok(());
    }
    let file = File::options().write(true).create(true).truncate(true).open(path);
    file.map_err(|error| {
        Usage(format!("cannot write the answer to `{}`: {error}", path.display()))
    })?;
    if !about.is_ok_and(|about| about.is_symlink()) {
        // Where the folder holds on to it, an empty file says as much.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// The largest schema that is read.
const SCHEMA_BYTES: u64 = 1 << 20;

/// Reads what the last answer must be, if it must be of some kind.
fn read_schema(common: &Common) -> Result<Option<AnswerSchema>, Usage> {
    let Some(path) = &common.output_schema else { return Ok(None) };
    let unusable = |why: &dyn std::fmt::Display| {
        Usage(format!("cannot use `{}` as the schema of the answer: {why}", path.display()))
    };
    let file = File::open(path).map_err(|error| unusable(&error))?;
    if !file.metadata().is_ok_and(|about| about.is_file()) {
        return Err(unusable(&"it is no file"));
    }
    let mut text = String::new();
    let read = file.take(SCHEMA_BYTES + 1).read_to_string(&mut text);
    if read.map_err(|error| unusable(&error))? as u64 > SCHEMA_BYTES {
        return Err(unusable(&"it is larger than 1 MiB"));
    }
    AnswerSchema::parse(&text).map(Some).map_err(|error| unusable(&error))
}

/// The longest prompt that is read.
const PROMPT_BYTES: u64 = 8 << 20;

fn read_prompt(argument: Option<&str>) -> anyhow::Result<String> {
    let text = match argument {
        Some(text) if text != "-" => text.to_owned(),
        None if io::stdin().is_terminal() => {
            return Err(Usage(
                "what is the task? Give it as an argument, or `-` to read it from \
                              stdin"
                    .to_owned(),
            )
            .into());
        }
        _ => {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().take(PROMPT_BYTES + 1).read_to_end(&mut bytes);
            read.context("cannot read the prompt from stdin")?;
            if bytes.len() as u64 > PROMPT_BYTES {
                return Err(Usage("the prompt on stdin is longer than 8 MiB".to_owned()).into());
            }
            String::from_utf8(bytes)
                .map_err(|_| Usage("the prompt on stdin is not UTF-8 text".to_owned()))?
        }
    };
    if text.trim().is_empty() {
        return Err(Usage(
            "the prompt is empty: give the task as an argument, or `-` and the task on stdin"
                .to_owned(),
        )
        .into());
    }
    Ok(text)
}

/// Follows each `@file` of a prompt; what looks like a file and is none is told.
fn with_files(prompt: String, images: Vec<Image>, session: &Session) -> anyhow::Result<Prompt> {
    let rules = session.client.provider()?.images();
    images::check(&images, &rules, &session.header.model)?;
    let prompt = prompt::expand(Prompt { text: prompt, images }, &session.workspace, &rules);
    for missed in &prompt.missed {
        note(&format!("{missed}; the words go out as they are"));
    }
    Ok(prompt.prompt)
}

/// Begins a session in a folder.
pub(crate) fn begin(
    cwd: PathBuf,
    add_dirs: Vec<PathBuf>,
    client: OptimizedLLMClient,
    settings: Settings,
    env: &Env,
) -> anyhow::Result<Session> {
    if let Some(dir) = std::iter::once(&cwd).chain(&add_dirs).find(|dir| dir.to_str().is_none()) {
        // The journal is text, and so is all that a model reads.
        return Err(
            Usage(format!("cannot work in `{}`: its path is not UTF-8", dir.display())).into()
        );
    }
    let sessions = setup::sessions(env)?;
    let session_id = uuid::Uuid::now_v7().to_string();
    let spool_dir = sessions.reserve(&session_id)?;
    let session_dir = spool_dir.parent().context("the session has no folder")?;
    let preimages = Arc::new(Preimages::open(session_dir, settings.safety.undo_bytes, 0));
    let workspace = workspace(&cwd, &add_dirs, &spool_dir, &preimages)?;
    let sandbox = setup::sandbox(&workspace, &settings, env)?;
    let registry = setup::registry(&workspace, spool_dir, sandbox, &settings, env)?;
    let check = setup::check(&workspace, &registry, &settings, env);
    let endpoint = client.endpoint()?;
    let header = SessionHeader {
        format: journal::FORMAT,
        session_id,
        started_at_ms: setup::now_ms(),
        cwd,
        add_dirs,
        provider: endpoint.provider.clone(),
        base_url: endpoint.base_url.clone(),
        model: endpoint.model.clone(),
        system: setup::system_prompt(&workspace, &registry, env),
    };
    let journal = sessions.create(header.clone())?;
    let entry = SessionEntry::from_header(&header);
    let messages = vec![];
    Ok(Session {
        header,
        client,
        settings,
        sessions,
        journal,
        workspace,
        registry,
        check,
        preimages,
        messages,
        sent: None,
        entry,
        answer_schema: None,
        reload: None,
    })
}

/// Returns the folders that a session works in.
pub(crate) fn workspace(
    cwd: &Path,
    add_dirs: &[PathBuf],
    spool_dir: &Path,
    preimages: &Arc<Preimages>,
) -> anyhow::Result<Arc<Workspace>> {
    let mut workspace = Workspace::open(cwd)?.with_dir(spool_dir, false)?;
    for dir in add_dirs {
        workspace = workspace.with_dir(dir, true)?;
    }
    Ok(Arc::new(workspace.with_preimages(Arc::clone(preimages))))
}

/// Opens a session to go on with it: with its own provider and model unless told otherwise.
async fn go_on(
    sessions: &Sessions,
    id: &str,
    common: &Common,
    env: &Env,
) -> anyhow::Result<Session> {
    let (mut journal, replay) = sessions.resume(id)?;
    let mut header = replay.header.clone().context("the journal has no header")?;
    let (mut settings, reload) = setup::reloadable(&header.cwd, Some(common), env)?;
    // All stays as it was unless the command line says otherwise. Another provider has other
    // models and another address; a server that moved has not.
    if common.provider.as_ref().is_none_or(|provider| *provider == header.provider) {
        settings.provider = Some(header.provider.clone());
        if common.base_url.is_none() {
            settings.base_url = Some(header.base_url.clone());
        }
        if common.model.is_none() {
            settings.model = Some(header.model.clone());
        }
    }
    let endpoint = discover::endpoint(&settings, env).await?;
    let routes = setup::routes(endpoint.clone(), &mut settings, env)?;
    let client = setup::client(routes, env)?;
    client.warm_up();
    // The connection is on its way before the rest is prepared, which blocks.
    tokio::task::yield_now().await;
    if replay.torn {
        note("the last record of this session was torn and is lost; what came before it is kept");
    }
    for call in &replay.interrupted {
        note(&format!("`{}` had started and may have run; the model is told", call.name));
    }
    let changed = (endpoint.provider.as_str(), endpoint.base_url.as_str(), endpoint.model.as_str())
        != (header.provider.as_str(), header.base_url.as_str(), header.model.as_str());
    if changed {
        header.provider.clone_from(&endpoint.provider);
        header.base_url.clone_from(&endpoint.base_url);
        header.model.clone_from(&endpoint.model);
        journal.append(&Event {
            at: Duration::ZERO,
            kind: EventKind::SessionResumed {
                provider: header.provider.clone(),
                base_url: header.base_url.clone(),
                model: header.model.clone(),
            },
        })?;
    }
    let undo_bytes = settings.safety.undo_bytes;
    let preimages = Arc::new(Preimages::open(journal.dir(), undo_bytes, replay.turns()));
    // The journal's lock is held: nobody else works on this session.
    preimages.sweep();
    let workspace = workspace(&header.cwd, &header.add_dirs, &journal.spool_dir(), &preimages)?;
    workspace.versions().load(&journal.dir().join(SEEN));
    let sandbox = setup::sandbox(&workspace, &settings, env)?;
    let registry = setup::registry(&workspace, journal.spool_dir(), sandbox, &settings, env)?;
    let check = setup::check(&workspace, &registry, &settings, env);
    let listed = sessions.list()?.into_iter().find(|entry| entry.id == header.session_id);
    let entry = listed.unwrap_or_else(|| SessionEntry::from_header(&header));
    let entry = SessionEntry { model: header.model.clone(), ..entry };
    let sent = replay.sent().copied();
    let messages = replay.messages;
    let sessions = sessions.clone();
    Ok(Session {
        header,
        client,
        settings,
        sessions,
        journal,
        workspace,
        registry,
        check,
        preimages,
        messages,
        sent,
        entry,
        answer_schema: None,
        reload: Some(reload),
    })
}

/// Returns the newest session of this folder, or of all when it has none.
pub(crate) fn last_session(sessions: &Sessions) -> anyhow::Result<String> {
    let entries = sessions.list()?;
    if let Some(entry) = of_this_folder(&entries) {
        return Ok(entry.id.clone());
    }
    let newest =
        entries.first().ok_or_else(|| Usage("there is no session to go on with yet".to_owned()))?;
    note(&format!("no session of this folder; going on in {}", newest.cwd.display()));
    Ok(newest.id.clone())
}

/// Returns the newest session of the current folder.
pub(crate) fn of_this_folder(entries: &[SessionEntry]) -> Option<&SessionEntry> {
    let here = std::env::current_dir().and_then(|dir| dir.canonicalize()).ok()?;
    entries.iter().find(|entry| entry.cwd == here)
}

/// Works on one prompt, tells what happens and sums it up.
pub(crate) async fn drive(
    session: Session,
    prompt: Prompt,
    common: Common,
    env: &Env,
) -> anyhow::Result<Exit> {
    let id = session.header.session_id.clone();
    let endpoint = session.client.endpoint()?;
    let (model, base_url) = (endpoint.model.clone(), endpoint.base_url.clone());
    let profiling = session.settings.optimization.profiling.clone();
    let preimages = Arc::clone(&session.preimages);
    let sessions = session.sessions.clone();
    let goes_on = !session.messages.is_empty();
    common.output.as_deref().map_or(Ok(()), make_place)?;
    note(&format!("{model} at {base_url} · session {id}"));
    let (reporting, lost) = if common.json {
        let lines = JsonLines::begin(&id);
        let lost = lines.lost();
        (Reporting::Json(lines), lost)
    } else {
        let terminal = Terminal::new(Screen::Stderr, env.text("NO_COLOR").is_some());
        (Reporting::Terminal(terminal), Lost::default())
    };
    let began = Instant::now();
    let Report { outcome, profile } = work(session, prompt, reporting).await?;
    let exit = Exit::of(outcome.end.as_ref());
    let mut written = match lost.get() {
        Some(error) => Err(anyhow::anyhow!("cannot print the events: {error}")),
        None => Ok(()),
    };
    if let Some(End::Done(text)) = &outcome.end {
        if !common.json {
            written = print_answer(text).context("cannot print the answer");
        }
        if let Some(path) = &common.output {
            let to_file = std::fs::write(path, text)
                .with_context(|| format!("cannot write the answer to `{}`", path.display()));
            written = written.and(to_file);
        }
    }
    summary(&outcome, began.elapsed(), goes_on.then_some(&*id));
    if preimages.has_changes() {
        note(&format!("to undo: vtcode undo --session {id}"));
    }
    if profiling.enabled {
        let _ = write!(io::stderr(), "{}", profile.table());
        if profiling.enable_regression_testing {
            regressions::tell(&profile, env);
        }
    }
    if !common.profile_out.is_empty() {
        // The journal has it all: a profile costs a run nothing before its end.
        let report = perf::of_session(&sessions, &id);
        for path in &common.profile_out {
            let report = report.as_ref().map_err(|e| anyhow::anyhow!("no profile: {e:#}"));
            // The work is done, whether or not it can be looked at.
            if let Err(error) = report.and_then(|report| perf::write(report, path)) {
                note(&format!("{error:#}"));
            }
        }
    }
    match outcome.end.as_ref() {
        Some(End::Done(_)) | None => {}
        Some(end) => {
            note(&end.to_string());
            note(&format!("to go on: vtcode resume {id} \"…\""));
        }
    }
    written?;
    Ok(exit)
}

/// Prints the answer: on a terminal without what could control it.
fn print_answer(text: &str) -> io::Result<()> {
    let text = text.trim_end();
    let text = if io::stdout().is_terminal() { clean(text) } else { text.to_owned() };
    match writeln!(io::stdout(), "{text}") {
        // Who closed the pipe has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Runs the engine on one prompt.
pub(crate) async fn work(
    session: Session,
    prompt: Prompt,
    reporting: Reporting,
) -> anyhow::Result<Report> {
    let Session {
        header,
        client,
        settings,
        sessions,
        journal,
        workspace,
        registry,
        check,
        preimages,
        messages,
        sent,
        mut entry,
        answer_schema,
        reload,
    } = session;
    let seen = journal.dir().join(SEEN);
    let endpoint = client.endpoint()?;
    let reread =
        reload.and_then(|reload| reread::before_turns(reload, endpoint, &workspace, &registry));
    let kept = Arc::clone(&preimages);
    let pipeline = Arc::new(AsyncToolPipeline::with_registry(registry));
    let measured = settings.optimization.profiling.enabled;
    let profile = if measured {
        Profile::monitored(settings.limits.profiling.monitor_interval)
    } else {
        Profile::default()
    };
    let profile = Arc::new(Mutex::new(profile));
    let profiled = Arc::clone(&profile);
    let mut engine = OptimizedAgentEngine::new(
        header.session_id.clone(),
        Arc::clone(&pipeline),
        Arc::new(client),
    )
    .with_limits(settings.limits.agent.clone())
    .with_system(header.system)
    .with_messages(messages)
    .with_sent(sent)
    .with_journal(journal)
    .on_event(move |event| lock(&profiled).take(event))
    .on_event(printer(reporting))
    .on_event(move |event| match event.kind {
        EventKind::RequestSent { .. } => preimages.begin_turn(),
        EventKind::ToolFinished { .. } => tell(&preimages),
        _ => {}
    });

    if let Some(check) = check {
        engine = engine.with_check(check);
    }
    if let Some(schema) = answer_schema {
        engine = engine.with_answer_schema(schema);
    }
    if let Some(reread) = reread {
        engine = engine.with_reread(reread);
    }
    if let Some(confirm) = approval::confirm_on_terminal(settings.safety.approval) {
        engine = engine.with_confirm(confirm);
    }

    if entry.title.is_empty() {
        entry.title = prompt.text.lines().next().unwrap_or_default().chars().take(80).collect();
        entry.updated_at_ms = setup::now_ms();
        sessions.note(&entry)?;
    }
    engine.submit(prompt).await?;
    engine.close_input();
    // While the model thinks.
    let (own, max_bytes) = (header.session_id.clone(), settings.limits.state_bytes);
    let below = {
        let sessions = sessions.clone();
        tokio::task::spawn_blocking(move || {
            let mut removed = Vec::new();
            let done = sessions.keep_below(max_bytes, &own, |gone| removed.push(gone));
            (removed, done)
        })
    };
    let result = until_done(&engine).await;
    let (removed, done) = below.await?;
    for line in &removed {
        note(&line.to_string());
    }
    if let Err(error) = done {
        note(&format!("cannot keep the sessions below state.max_mb: {error}"));
    }
    pipeline.shutdown().await;
    // What still runs in the background ends here.
    drop((engine, pipeline));
    kept.after_command();
    tell(&kept);
    if let Err(error) = workspace.versions().save(&seen) {
        note(&format!("what was read is not kept for when the session goes on: {error}"));
    }
    entry.status = match &result {
        Ok(AgentOutcome { end: Some(End::Done(_)), .. }) => SessionStatus::Done,
        Ok(AgentOutcome { end: Some(End::Interrupted), .. }) | Err(_) => SessionStatus::Interrupted,
        Ok(_) => SessionStatus::Failed,
    };
    entry.updated_at_ms = setup::now_ms();
    if let Err(error) = sessions.note(&entry) {
        note(&format!("the list of sessions could not be updated: {error}"));
    }
    let profile = lock(&profile).clone();
    Ok(Report { outcome: result?, profile })
}

fn printer(reporting: Reporting) -> impl Fn(&Event) + Send + Sync {
    let reporting = Mutex::new(reporting);
    move |event| match &mut *lock(&reporting) {
        Reporting::Json(lines) => lines.event(event),
        Reporting::Terminal(terminal) => terminal.event(event),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is printed next does not depend on what a panic left behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A signal that ends the work, unless whoever started us had it ignored.
struct Ends(Option<Signal>);

impl Ends {
    /// Returns it; `ignored` has a bit for each signal, from 1.
    fn on(kind: SignalKind, ignored: u64) -> io::Result<Self> {
        if ignored >> (kind.as_raw_value() - 1) & 1 == 1 {
            Ok(Self(None))
        } else {
            Ok(Self(Some(signal(kind)?)))
        }
    }

    async fn recv(&mut self) {
        match &mut self.0 {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// Returns the signals that we were started to ignore, as `nohup` and a shell's `&` do: to listen
/// would end a work that is meant to outlive its terminal.
fn ignored_signals() -> u64 {
    // Where there is no such file, none is known to be ignored.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// A second signal that comes sooner is the first one once more: `timeout` sends its own to the
/// program and then to the program's group, and an end in order takes less than this.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// Runs the engine until it is done. The first Ctrl-C (or TERM, or HUP) ends the work in order;
/// the second one at once.
async fn until_done(engine: &OptimizedAgentEngine) -> anyhow::Result<AgentOutcome> {
    let ignored = ignored_signals();
    let mut interrupt = Ends::on(SignalKind::interrupt(), ignored)?;
    let mut terminate = Ends::on(SignalKind::terminate(), ignored)?;
    let mut hangup = Ends::on(SignalKind::hangup(), ignored)?;
    let cancel = engine.cancel_token();
    let run = engine.start();
    tokio::pin!(run);
    let mut asked: Option<Instant> = None;
    loop {
        tokio::select! {
            outcome = &mut run => return Ok(outcome?),
            () = interrupt.recv() => {}
            () = terminate.recv() => {}
            () = hangup.recv() => {}
        }
        match asked {
            Some(asked) if asked.elapsed() >= SAME_SIGNAL => anyhow::bail!(exit::Killed),
            Some(_) => {}
            None => {
                asked = Some(Instant::now());
                cancel.cancel();
            }
        }
    }
}

/// Says what was changed, what it used and what it cost.
/// Tells what was changed and what it took; `goes_on` names a session of which that is only the rest.
fn summary(outcome: &AgentOutcome, took: Duration, goes_on: Option<&str>) {
    for change in &outcome.changes {
        note(&format!("changed: {}", file_change(change)));
    }
    let usage = outcome.usage;
    let cost = match outcome.cost_usd {
        Some(usd) => format!("${usd:.4}"),
        None => "cost unknown".to_owned(),
    };
    let turns = if outcome.turns == 1 { "turn" } else { "turns" };
    let of = if goes_on.is_some() { "this run: " } else { "" };
    note(&format!(
        "{of}{} {turns} · {} tokens in ({} cached), {} out · {cost} · {}",
        outcome.turns,
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.output_tokens,
        span(took),
    ));
    if let Some(id) = goes_on {
        note(&format!("the whole session: vtcode perf report {id}"));
    }
}

/// Tells what cannot be taken back.
fn tell(preimages: &Preimages) {
    preimages.take_notes().iter().for_each(|text| note(text));
}

pub(crate) fn note(text: &str) {
    // A terminal that is gone must not end the work.
    let _ = writeln!(io::stderr(), "vtcode: {}", clean(text));
}
