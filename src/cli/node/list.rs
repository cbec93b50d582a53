//! `infinit node list`.

use clap::Args;

use crate::base::units::Size;
use crate::cli::context::Context;
use crate::cli::table::{Grid, Tone, Toned, optional, plain};
use crate::cli::terminal::{Stop, Terminal};
use crate::daemon::api::Node;
use crate::daemon::api::going::Duty;

/// List the nodes of the network
#[derive(Debug, Args)]
pub struct ListArgs {}

impl ListArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let nodes: Vec<Node> = context.daemon().await?.get("/v1/nodes").await?;
        context.terminal.show(&nodes, || table(&context.terminal, &nodes))
    }
}

/// The nodes, this machine's own with a star.
pub fn table(terminal: &Terminal, nodes: &[Node]) -> String {
    let mut grid =
        Grid::new(terminal, &["NODE", "ID", "STATE", "ROLE", "VOTES", "ADDRESS", "ZONE", "SILOS", "USED", "CAPACITY"]);
    for node in nodes {
        let own = if node.this { "*" } else { "" };
        let stores = !node.silos.is_empty();
        let used: Option<u64> = node.silos.iter().map(|silo| silo.used_bytes).sum();
        let capacity: u64 = node.silos.iter().map(|silo| silo.capacity_bytes).sum();
        grid.row(vec![
            plain(format!("{}{own}", node.name)),
            plain(node.id.short()),
            state(node),
            plain(node.role.to_string()),
            optional(vote(node).map(ToOwned::to_owned)),
            optional(node.addresses.first().cloned()),
            optional(node.zone.clone()),
            plain(node.silos.len().to_string()),
            optional(used.filter(|_| stores).map(|used| Size(used).to_string())),
            optional(stores.then(|| Size(capacity).to_string())),
        ]);
    }
    grid.finish()
}

/// How the node is, and whether its copies go elsewhere.
fn state(node: &Node) -> (String, Tone) {
    let (state, tone) = node.state.cell();
    match (node.duty, node.copies) {
        (Duty::Stores, _) => (state, tone),
        (Duty::Drains, 0) => (format!("{state}, empty"), tone),
        (Duty::Drains, copies) => (format!("{state}, draining ({copies} left)"), Tone::Warning),
        (Duty::Leaves, copies) => (format!("{state}, leaving ({copies} left)"), Tone::Warning),
    }
}

/// What the node is in the cluster group, beyond following it.
pub fn vote(node: &Node) -> Option<&'static str> {
    match (node.leader, node.voter) {
        (true, _) => Some("leader"),
        (false, true) => Some("voter"),
        (false, false) => None,
    }
}
