//! `infinit network recover`.

use std::fmt::Write;

use clap::Args;

use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::daemon::offline;
use crate::daemon::regroup::Recovery;

/// Go on with what this node knows after the majority of the voters is lost for good; its daemon must not run
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Forget what this node knows of the cluster instead: the network was recovered on another node that knew less
    #[arg(long)]
    follow: bool,
}

impl RecoverArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let place = context.place()?;
        let spinner = context.terminal.spinner("asking the other nodes".to_owned());
        let looked = offline::recoverable(&place).await;
        spinner.finish_and_clear();
        let network = looked?;
        let found = network.describe()?;
        let done = if self.follow {
            let what = format!("forgetting what this node knows of network {}", found.name);
            context.terminal.confirm(context.yes, &what, "leaves it with what the recovered network tells it")?;
            network.follow()?
        } else {
            network.check()?;
            context.terminal.note(&known(&found));
            let what = format!("recovering network {} on this node", found.name);
            let why = "gives up what other nodes know beyond that; nodes that are lost must never come back with their old disks";
            context.terminal.confirm(context.yes, &what, why)?;
            network.recover().await?
        };
        let verb = if self.follow { "is to be told anew" } else { "is recovered" };
        context.terminal.note(&format!("network {} {verb}: {}", done.name, offline::start_command(&place)));
        if !self.follow {
            context.terminal.hint("for each node that is lost: infinit node remove NODE --dead");
        }
        context.terminal.show(&done, String::new)
    }
}

fn known(found: &Recovery) -> String {
    let (changes, term) = (found.changes, found.term);
    let mut text = format!("this node knows {changes} changes of the cluster, the last of term {term}");
    // Writing to a string cannot fail.
    let _ = write!(text, ": {} nodes and {} volumes; ", found.nodes, found.volumes);
    let voters: Vec<_> = found.voters.iter().map(|voter| voter.name.as_str()).collect();
    let _ = write!(text, "voters were {}. ", voters.join(", "));
    text.push_str("Recover on the node with the highest term and, of these, the most changes");
    text
}
