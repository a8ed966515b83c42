//! The terminal program: arguments in; progress on stderr, the answer on stdout and an exit code
//! out. Assembles the library's rooms; knows no HTTP.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

mod allocator;
mod approval;
mod args;
mod bench;
mod context;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod exec;
mod exit;
mod images;
mod json;
mod local;
mod models;
mod perf;
mod policy;
mod regressions;
mod replay;
mod reread;
mod sessions;
mod setup;
mod terminal;
mod undo;

use args::{Args, Command};
use exit::Exit;

fn main() -> ExitCode {
    // Commands run as the same user, and our environment holds keys.
    vtcode_core::safety::sandbox::hide_memory();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version go to stdout and are no fault; a closed pipe is none either.
            let _ = error.print();
            if args::is_piece_of_a_task(&error) {
                let _ = writeln!(std::io::stderr(), "\n{}", args::TASK_HINT);
            }
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    // One thread: the work is waiting, and blocking calls have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(args)),
        Err(error) => Err(anyhow::Error::new(error).context("cannot start")),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            let words = terminal::clean(&exit::words(&error));
            let _ = writeln!(std::io::stderr(), "vtcode: {words}");
            exit::of_error(&error).into()
        }
    }
}

async fn dispatch(args: Args) -> anyhow::Result<Exit> {
    match args.command {
        None => {
            args::print_help();
            Ok(Exit::Done)
        }
        Some(Command::Exec(exec)) => exec::run(exec).await,
        Some(Command::Resume(resume)) => exec::resume(resume).await,
        Some(Command::Sessions(sessions)) => sessions::run(&sessions),
        Some(Command::Undo(undo)) => undo::run(&undo),
        Some(Command::Context(args)) => context::run(&args),
        Some(Command::Models(args)) => models::run(&args),
        Some(Command::Doctor(doctor)) => doctor::run(&doctor).await,
        Some(Command::Config(config)) => local::config(&config),
        Some(Command::Prompt(prompt)) => local::prompt(&prompt),
        Some(Command::Replay(args)) => replay::run(&args),
        Some(Command::Policy(args)) => policy::run(&args),
        Some(Command::Perf(perf)) => perf::run(&perf),
        // It has runtimes of its own, and threads that compete for the processor.
        Some(Command::Bench(options)) => {
            tokio::task::spawn_blocking(move || bench::run(&options)).await?
        }
        Some(Command::ApplyPatch(patch)) => local::apply_patch(patch),
        #[cfg(feature = "demo")]
        Some(Command::Demo(options)) => Box::pin(demo::run(options)).await,
    }
}
