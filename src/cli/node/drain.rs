//! `infinit node drain`.

use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use crate::base::error::Fault;
use crate::base::units::Size;
use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::terminal::{Stop, clean};
use crate::daemon::api::going::{DrainNode, Duty};
use crate::daemon::api::{self, Node};

/// How often it is asked what is left.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Empty a node: its copies go to the other nodes, and it gets no new ones
///
/// Volumes stay attached to it. Once it is empty it can be stopped, or leave the network: infinit node remove. The copies go
/// on moving if this command is interrupted, or the node that runs it.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Empty the node of this name or id
    #[arg(value_name = "NODE")]
    node: String,
    /// Return once it is empty
    #[arg(long, conflicts_with = "cancel")]
    wait: bool,
    /// Let it hold copies again; what has moved already comes back only as far as its share
    #[arg(long)]
    cancel: bool,
}

impl DrainArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let client = context.daemon().await?;
        let terminal = &context.terminal;
        let path = format!("/v1/nodes/{}", api::encode_segment(&self.node));
        let mut node: Node = client.post(&format!("{path}/drain"), &DrainNode { cancel: self.cancel }).await?;
        let name = node.name.clone();
        if self.cancel {
            terminal.note(&format!("node {name} holds copies again"));
            return terminal.show(&node, String::new);
        }
        if self.wait && node.copies > 0 {
            let bar = terminal.byte_bar(0);
            let watched = tokio::select! {
                watched = until_empty(&client, &path, &bar) => watched,
                _ = tokio::signal::ctrl_c() => Err(Fault::failed(format!("no longer watched: node {name} is emptied all the same"))
                    .hint(format!("watch it again: infinit node drain {name} --wait"))),
            };
            bar.finish_and_clear();
            node = watched?;
        }
        terminal.note(&match node.copies {
            0 => format!("node {name} is empty"),
            _ => format!("node {name} is being emptied: {}", left(&node)),
        });
        if let Some(waits) = &node.waits {
            terminal.note(waits);
        }
        if node.copies > 0 {
            terminal.hint(&format!("wait for it: infinit node drain {name} --wait"));
        }
        terminal.show(&node, String::new)
    }
}

/// What is still to go.
pub(super) fn left(node: &Node) -> String {
    let copies = match node.copies {
        1 => "1 copy".to_owned(),
        several => format!("{several} copies"),
    };
    match live_bytes(node) {
        Some(bytes) => format!("{copies} with {} to move", Size(bytes)),
        None => format!("{copies} to move"),
    }
}

/// What its silos hold, if they tell.
fn live_bytes(node: &Node) -> Option<u64> {
    let told: Option<Vec<u64>> = node.silos.iter().map(|silo| Some(silo.space?.live_bytes)).collect();
    told.map(|bytes| bytes.iter().sum())
}

async fn until_empty(client: &Client, path: &str, bar: &ProgressBar) -> Result<Node, Fault> {
    loop {
        let node: Node = client.get(path).await?;
        if node.copies == 0 {
            return Ok(node);
        }
        if node.duty == Duty::Stores {
            return Err(Fault::failed(format!("node {} is not emptied any more: somebody cancelled it", node.name))
                .hint(format!("infinit node drain {} --wait", node.name)));
        }
        show_left(bar, &node);
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Counts from what there was at first.
pub(super) fn show_left(bar: &ProgressBar, node: &Node) {
    let left = live_bytes(node).unwrap_or_default();
    let total = bar.length().unwrap_or_default().max(left);
    bar.set_length(total);
    bar.set_position(total - left);
    let waits = node.waits.as_ref().map_or_else(String::new, |waits| format!("; {}", clean(waits)));
    bar.set_message(format!("{} copies left on {}{waits}", node.copies, node.name));
}
