//! `infinit demo`: what the product does, shown on this machine.

use clap::Args;
use indicatif::ProgressBar;

use crate::base::error::Fault;
use crate::base::units::Size;
use crate::cli::context::Context;
use crate::cli::table::Grid;
use crate::cli::terminal::{Stop, Terminal};
use crate::daemon::offline::{self, DemoEvent, DemoProof};

/// Run three nodes on this machine, kill one in the middle of a copy, and prove that nothing was lost
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Leave the cluster running and say what to try next
    #[arg(long)]
    keep: bool,
}

impl DemoArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let terminal = &context.terminal;
        let mut bar: Option<ProgressBar> = None;
        let mut tell = |event| match event {
            DemoEvent::Step(step) => match &bar {
                // A line printed past the bar would tear it.
                Some(bar) if !bar.is_finished() && !bar.is_hidden() => bar.println(step),
                _ => terminal.note(&step),
            },
            DemoEvent::Copied { bytes, total_bytes } => {
                let bar = bar.get_or_insert_with(|| terminal.byte_bar(total_bytes));
                bar.set_position(bytes);
                if bytes >= total_bytes && !bar.is_finished() {
                    bar.finish_and_clear();
                }
            }
        };
        let proof = offline::demo(self.keep, &mut tell).await;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let proof = proof?;
        // What follows is said even if nobody reads the table to its end.
        let shown = terminal.show(&proof, || text(terminal, &proof));
        for next in &proof.next {
            terminal.hint(next);
        }
        match proof.writes_lost {
            0 => shown,
            lost => Err(Fault::failed(format!("{lost} answered writes are lost")).hint("please report this").into()),
        }
    }
}

fn text(terminal: &Terminal, proof: &DemoProof) -> String {
    let mut grid = Grid::bare(terminal);
    grid.fact("written", Size(proof.bytes_written).to_string());
    grid.fact("answered writes", proof.writes_answered.to_string());
    grid.fact("verified", proof.writes_verified.to_string());
    grid.fact("lost", proof.writes_lost.to_string());
    grid.fact("longest stall", format!("{}ms, while a node was killed", proof.stall_ms));
    grid.fact("kept at", proof.kept.as_ref().map(|path| path.display().to_string()));
    grid.finish()
}
