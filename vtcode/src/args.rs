//! The command line.

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, CommandFactory as _, Parser, Subcommand, ValueEnum};

const AFTER_HELP: &str = "\
Start here:
  vtcode demo                        see it work: no key, no network
  vtcode exec \"fix the failing test\"  one task in the current folder

Exit codes: 0 done, 1 the task failed, 2 usage or configuration, 3 no provider, no key or refused
by it, 4 a limit was reached, 130 interrupted.";

/// A coding agent for the terminal: it takes a task and a folder, and works until it is done.
#[derive(Debug, Parser)]
#[command(name = "vtcode", version, after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Exec(Exec),
    Resume(Resume),
    Sessions(Sessions),
    Undo(Undo),
    Context(Context),
    Models(Models),
    Doctor(Doctor),
    #[cfg(feature = "demo")]
    Demo(Demo),
    Config(Config),
    Prompt(Prompt),
    Policy(Policy),
    Perf(crate::perf::Perf),
    Bench(crate::bench::Bench),
    Replay(Replay),
    ApplyPatch(ApplyPatch),
}

/// Work on one task without a terminal: the answer on stdout, progress on stderr
#[derive(Debug, Parser)]
pub(crate) struct Exec {
    /// The task; `-` reads it from stdin, `@path`, `@path:10-40` and `@"a path"` in it attach files
    pub(crate) prompt: Option<String>,
    /// The folder to work in
    #[arg(short = 'C', long = "cd", value_name = "DIR")]
    pub(crate) cd: Option<PathBuf>,
    /// A further folder that tools may read and write; may be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) add_dir: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What every command that asks a model takes.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct Common {
    /// Show the model this image with the task (png, jpeg, gif or webp); may be repeated
    #[arg(short, long, value_name = "FILE")]
    pub(crate) image: Vec<PathBuf>,
    /// Print one JSON event a line on stdout instead of the answer
    #[arg(long)]
    pub(crate) json: bool,
    /// The model's name as the provider knows it
    #[arg(short, long)]
    pub(crate) model: Option<String>,
    /// Who is asked: a wire (openai, also for compatible servers; responses, anthropic, gemini), a
    /// known server (ollama, openrouter, mistral, …), or one of [providers] in your file
    #[arg(long)]
    pub(crate) provider: Option<String>,
    /// Where the provider is reached; ends in /v1 for openai and responses, the server's root
    /// for anthropic and gemini
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: Option<String>,
    /// Where a request goes when the provider fails before it has answered: provider/model,
    /// provider, or /model of the same provider; may be repeated, and is tried in this order
    #[arg(long, value_name = "PROVIDER/MODEL")]
    pub(crate) fallback: Vec<String>,
    /// How hard the model should think
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub(crate) effort: Option<Effort>,
    /// What commands may touch; workspace-write unless configured otherwise
    #[arg(short, long, value_enum, value_name = "MODE")]
    pub(crate) sandbox: Option<Sandbox>,
    /// Let commands reach the network
    #[arg(long)]
    pub(crate) allow_network: bool,
    /// When somebody is asked before a command runs; never unless configured otherwise
    #[arg(short, long, value_enum, value_name = "WHEN")]
    pub(crate) ask_for_approval: Option<Approval>,
    /// No sandbox, nothing asked, nothing refused: only inside a container of its own
    #[arg(long, conflicts_with_all = ["sandbox", "ask_for_approval"])]
    pub(crate) yolo: bool,
    /// Model requests the task may take
    #[arg(long, value_name = "N")]
    pub(crate) max_turns: Option<u64>,
    /// Input and output tokens the task may use
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u64>,
    /// US dollars the task may cost
    #[arg(long, value_name = "USD")]
    pub(crate) max_cost: Option<f64>,
    /// Seconds the run may take
    #[arg(long, value_name = "SECONDS")]
    pub(crate) max_wall: Option<u64>,
    /// Give the answer again that the very same request got before, in this run or an earlier one;
    /// for replays and evaluations
    #[arg(long)]
    pub(crate) cache: bool,
    /// Write the answer to this file, too; a run that ends without one leaves none there
    #[arg(short = 'o', long = "output-last-message", value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// End with one JSON value that fits the JSON schema in this file; exit code 1 if the model
    /// does not give one, also when told what was wrong
    #[arg(long, value_name = "FILE")]
    pub(crate) output_schema: Option<PathBuf>,
    /// End with the table of where the time went
    #[arg(long)]
    pub(crate) profile: bool,
    /// A quick check, such as "cargo check --quiet", that runs in a sandbox after edits while the
    /// model thinks; what is new in its outcome goes to the model with the next result
    #[arg(long, value_name = "COMMAND")]
    pub(crate) check: Option<String>,
    /// Named configuration to start from: development, production or debug
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<String>,
    /// Write the profile to this file when the run ends; its name decides what it is: .html for one
    /// page, .json, or .trace.json for Perfetto; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) profile_out: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Effort {
    Minimal,
    Low,
    Medium,
    High,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sandbox {
    /// Commands write nothing but a temporary folder
    ReadOnly,
    /// Commands write the workspace, a temporary folder and declared caches
    WorkspaceWrite,
    /// Commands may do what you may
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Approval {
    /// Nobody: what is not contained by the sandbox is refused
    Never,
    /// For what the sandbox would not contain
    OnRequest,
    /// For everything not proven harmless
    Untrusted,
}

/// Go on with a session, with its own provider and model unless told otherwise
#[derive(Debug, Parser)]
pub(crate) struct Resume {
    /// The session's id, or the beginning of it; with --last, the prompt
    pub(crate) session: Option<String>,
    /// What to do next; `-` reads it from stdin
    pub(crate) prompt: Option<String>,
    /// The newest session: of this folder if it has one
    #[arg(long)]
    pub(crate) last: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// List sessions, the newest first, or delete some
#[derive(Debug, Parser)]
pub(crate) struct Sessions {
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Option<SessionsCommand>,
}

/// Show what fills the model's window in a session, and what would leave it next
#[derive(Debug, Parser)]
pub(crate) struct Context {
    /// The session's id, or the beginning of it; the newest one of this folder unless given
    pub(crate) session: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// List what is known of models: window, output limit, prices, images, and where it is known from
#[derive(Debug, Parser)]
pub(crate) struct Models {
    /// Only those whose names hold this
    pub(crate) name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Take back what a turn of a session changed: the newest one, so that again means one more
///
/// Only paths that the session changed are touched, and a repository is never reset. When one of
/// them is not what the session left any more, nothing is restored. Files that git ignores are not
/// kept when a command changes them.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct Undo {
    /// The session's id, or the beginning of it; the newest one of this folder unless given
    #[arg(long, value_name = "SESSION")]
    pub(crate) session: Option<String>,
    /// Take back this turn
    #[arg(long, value_name = "N", conflicts_with_all = ["all", "redo"])]
    pub(crate) turn: Option<u32>,
    /// Take back all turns
    #[arg(long, conflicts_with = "redo")]
    pub(crate) all: bool,
    /// Take back the newest undo
    #[arg(long)]
    pub(crate) redo: bool,
    /// List the turns that changed something, and change nothing
    #[arg(long, conflicts_with_all = ["turn", "all", "redo", "dry_run"])]
    pub(crate) list: bool,
    /// Say what would be restored, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Say what works here: provider, key, configuration, terminal, state folder
#[derive(Debug, Parser)]
pub(crate) struct Doctor {
    /// Ask no server whether it is there
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// Remove sessions and everything kept of them
    Delete {
        /// Their ids, or the beginnings of them
        #[arg(required = true)]
        sessions: Vec<String>,
    },
}

/// See the agent repair a failing test: a recorded model, the real engine, tools and HTTP client
#[cfg(feature = "demo")]
#[derive(Debug, Parser)]
pub(crate) struct Demo {
    /// Work on a copy of this folder instead of the bundled sample
    #[arg(long, value_name = "DIR")]
    pub(crate) sample: Option<PathBuf>,
    /// Keep the changed copy and say where it is
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) keep: bool,
}

/// Look at the configuration
#[derive(Debug, Parser)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every value and where it came from
    Show,
    /// Say whether it can be used; exit code 2 if not
    Check,
    /// Write a `vtcode.toml` that holds every key as a comment; never over another file
    Init {
        /// Write your own file instead of this folder's
        #[arg(long)]
        user: bool,
    },
}

/// Look at what the model gets
#[derive(Debug, Parser)]
pub(crate) struct Prompt {
    #[command(subcommand)]
    pub(crate) command: PromptCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PromptCommand {
    /// Print the system prompt and the tools' schemas for the current folder
    Show,
}

/// Ask the policy; nothing is run
#[derive(Debug, Parser)]
pub(crate) struct Policy {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say whether a shell command line may run, and why; the exit code is 0 whatever the verdict
    Check {
        /// Print one JSON object: verdict, class, rule, reason
        #[arg(long)]
        json: bool,
        /// The folder in which it would run
        #[arg(short = 'C', long = "cd", visible_alias = "cwd", value_name = "DIR")]
        cd: Option<PathBuf>,
        /// The command line; several words are joined by blanks, as a shell would read them
        #[arg(required = true, last = true, value_name = "COMMAND")]
        words: Vec<String>,
    },
}

/// Apply a `*** Begin Patch` patch to the current folder, as the tool does
#[derive(Debug, Parser)]
pub(crate) struct ApplyPatch {
    /// The patch; read from stdin when absent
    pub(crate) patch: Option<String>,
}

pub(crate) const TASK_HINT: &str =
    "The task is one argument, in quotes; one that begins with `-` stands after `--`, or on stdin.";

/// Returns whether an error is about a word of a task that was not quoted, or about a task that
/// was taken for an option, as a list of points is.
pub(crate) fn is_piece_of_a_task(error: &clap::Error) -> bool {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return false;
    };
    let takes_one = std::env::args_os().nth(1).is_some_and(|c| c == "exec" || c == "resume");
    takes_one
        && error.kind() == ErrorKind::UnknownArgument
        && (!argument.starts_with('-') || argument.contains(char::is_whitespace))
}

pub(crate) fn print_help() {
    // Who closed the pipe wants no help.
    let _ = Args::command().print_help();
}

/// Play a recorded session on the real engine in virtual time: what it took, and what it would take
#[derive(Debug, Parser)]
pub(crate) struct Replay {
    /// A session's journal, or a corpus with one recorded session a line (`.zst` is unpacked)
    pub(crate) file: PathBuf,
    /// Play it with every optimization off, with each one alone, and with all of them
    #[arg(long)]
    pub(crate) compare: bool,
    /// The session of a corpus whose id begins like this; the first unless given
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// All sessions of a corpus, added up
    #[arg(long, conflicts_with = "session")]
    pub(crate) all: bool,
    /// Sessions that are played at the same time; one for each processor unless given
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
}
