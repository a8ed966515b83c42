//! The project's own checks and benches: `cargo xtask tidy`, `cargo xtask config-docs`,
//! `cargo xtask bench-agent`, `cargo xtask bench-session`, `cargo xtask predict-cv`, `cargo xtask gate`.

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench_agent;
mod bench_session;
mod config_docs;
mod gate;
mod predict_cv;
mod tidy;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own checks and benches")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the layers, the links in the documents and the generated files
    Tidy,
    /// Write the documents that are generated from the table of keys
    ConfigDocs,
    /// Measure an agent against a scripted model on loopback
    BenchAgent(bench_agent::Options),
    /// Cross-validate the prediction of reads over recorded sessions, by repository
    PredictCv(predict_cv::Options),
    /// Count instructions and allocations of fixed workloads, and fail if they grew
    Gate(gate::Options),
    /// The inside of the gate
    #[command(hide = true)]
    GateCount(gate::CountOptions),
    /// Measure what a long session, and waiting, cost
    BenchSession(bench_session::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        Command::Tidy => tidy::run(),
        Command::ConfigDocs => config_docs::run(),
        Command::BenchAgent(options) => bench_agent::run(&options),
        Command::PredictCv(options) => predict_cv::run(&options),
        Command::Gate(options) => gate::run(&options),
        Command::GateCount(options) => gate::count(&options),
        Command::BenchSession(options) => bench_session::run(&options),
    }
}

/// Returns the repository's root.
fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies in the repository")
}
