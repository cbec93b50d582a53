//! The command line: a folder a noun, a file a verb.
//!
//! A verb is a struct of arguments, whose doc comments are its help, and a `run` that asks the daemon over
//! [`client`], or calls `daemon::offline` where no daemon is needed, and shows the answer through [`terminal`]. What a
//! script wants goes to stdout alone; everything else goes to stderr. Every failure is a `Fault`: one line, a hint and
//! an exit code; what clap refuses becomes one too ([`usage`]), so that wrong usage reads like any other error.
//!
//! Nothing here knows how blocks are stored or carried.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::base::error::Fault;

pub mod client;
pub mod completions;
pub mod context;
pub mod demo;
pub mod doctor;
pub mod man;
pub mod network;
pub mod node;
pub mod status;
pub mod table;
pub mod terminal;
pub mod usage;
pub mod value;
pub mod volume;

use context::{Context, Global};
use terminal::{Stop, Terminal};

/// Turn a few machines into one storage cluster that serves replicated volumes
#[derive(Debug, Parser)]
#[command(
    name = "infinit",
    bin_name = "infinit",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Start here: infinit demo"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// The nouns, and the verbs without one.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, join and look at networks: clusters with keys of their own
    #[command(subcommand, disable_help_subcommand = true)]
    Network(network::NetworkCommand),
    /// Run this machine's node and look at its fellows
    #[command(subcommand, disable_help_subcommand = true)]
    Node(node::NodeCommand),
    /// Create volumes, attach them and see how they stand
    #[command(subcommand, disable_help_subcommand = true)]
    Volume(volume::VolumeCommand),
    Status(status::StatusArgs),
    Doctor(doctor::DoctorArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// More would not make the control plane faster.
const THREADS_MAX: usize = 8;

/// Parses the arguments, runs the verb, shows what went wrong, and says with which code to exit.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage::report(&error, &args),
    };
    let context = Context::new(cli.global);
    // Few threads: an idle node mostly wakes up for timers, and each thread more is woken to see that there is nothing
    // left to do. What moves blocks has threads of its own.
    let threads =
        std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).clamp(1, THREADS_MAX));
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return finish(&context.terminal, Err(Fault::failed(format!("cannot start: {error}")).into())),
    };
    let outcome = runtime.block_on(run(cli.command, &context));
    // What still runs in the background must not keep the process: the verb is done.
    runtime.shutdown_background();
    finish(&context.terminal, outcome)
}

async fn run(command: Command, context: &Context) -> Result<(), Stop> {
    match command {
        Command::Network(verb) => verb.run(context).await,
        Command::Node(verb) => verb.run(context).await,
        Command::Volume(verb) => verb.run(context).await,
        Command::Status(args) => args.run(context).await,
        Command::Doctor(args) => args.run(context).await,
        Command::Demo(args) => args.run(context).await,
        Command::Completions(args) => args.run(context),
        Command::Man(args) => args.run(context),
    }
}

fn finish(terminal: &Terminal, outcome: Result<(), Stop>) -> ExitCode {
    match outcome {
        Ok(()) | Err(Stop::ReaderGone) => ExitCode::SUCCESS,
        Err(Stop::Fault(fault)) => {
            terminal.fault(&fault);
            ExitCode::from(fault.kind.exit_code())
        }
    }
}

/// The definitions that help, completions and man pages are made from.
pub fn definitions() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        definitions().debug_assert();
    }

    #[test]
    fn every_help_text_is_a_sentence_without_its_full_stop() {
        fn check(command: &clap::Command) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty() && !about.ends_with('.'), "help of {}: {about:?}", command.get_name());
            for arg in command.get_arguments() {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty() && !help.ends_with('.'), "{} {}: {help:?}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&definitions());
    }
}
