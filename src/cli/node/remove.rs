//! `infinit node remove`.

use std::time::Duration;

use clap::Args;

use crate::base::error::{Fault, Kind};
use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::daemon::api::going::{Duty, RemoveNode, RemovedNode};
use crate::daemon::api::{self, Node};

/// How often it is asked what is left.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Take a node out of the network: its passport counts no more, anywhere
///
/// The node must be empty (infinit node drain). One that will not come back is given up with --dead: its copies are made
/// anew from the others, and then it leaves; that goes on if this command is interrupted. To join again it needs a new home
/// and a new invitation.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Take out the node of this name or id
    #[arg(value_name = "NODE")]
    node: String,
    /// It is lost for good: make its copies anew from the others, without waiting for it
    #[arg(long)]
    dead: bool,
}

impl RemoveArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let client = context.daemon().await?;
        let terminal = &context.terminal;
        let path = format!("/v1/nodes/{}", api::encode_segment(&self.node));
        let node: Node = client.get(&path).await?;
        let (name, id) = (node.name, node.id);
        terminal.confirm(context.yes, &format!("removing node {name}"), "is for good: its passport counts no more")?;
        let mut removed: RemovedNode = client.post(&format!("{path}/remove"), &RemoveNode { dead: self.dead }).await?;
        if removed.copies > 0 {
            let spinner = terminal.spinner(format!("making {} copies of node {name} anew", removed.copies));
            let gone = format!("/v1/nodes/{id}");
            let watched = tokio::select! {
                watched = until_gone(&client, &gone) => watched,
                _ = tokio::signal::ctrl_c() => Err(Fault::failed(format!("no longer watched: node {name} leaves all the same"))
                    .hint("how far it is: infinit node list")),
            };
            spinner.finish_and_clear();
            watched?;
            removed.copies = 0;
        }
        terminal.note(&format!("node {name} is removed"));
        terminal.show(&removed, String::new)
    }
}

async fn until_gone(client: &Client, path: &str) -> Result<(), Fault> {
    loop {
        match client.get::<Node>(path).await {
            Err(fault) if fault.kind == Kind::NotFound => return Ok(()),
            Err(fault) => return Err(fault),
            Ok(node) if node.duty != Duty::Leaves => {
                return Err(Fault::failed(format!(
                    "node {} does not leave any more: somebody cancelled it",
                    node.name
                )));
            }
            Ok(_) => tokio::time::sleep(ASK_EVERY).await,
        }
    }
}
