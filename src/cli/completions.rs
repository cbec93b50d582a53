//! `infinit completions`: the same files that stand in `completions/`.

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use crate::base::error::Fault;
use crate::cli::context::Context;
use crate::cli::terminal::Stop;

/// Print what completes this command line in a shell
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Print it for this shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: KnownShell,
}

/// The shells whose completions are installed and tested.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum KnownShell {
    Bash,
    Zsh,
    Fish,
}

impl CompletionsArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), Stop> {
        let shell = match self.shell {
            KnownShell::Bash => Shell::Bash,
            KnownShell::Zsh => Shell::Zsh,
            KnownShell::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut crate::cli::definitions(), "infinit", &mut script);
        let script = String::from_utf8(script).map_err(|_| Fault::failed("the completions are not UTF-8"))?;
        context.terminal.print(&script)
    }
}
