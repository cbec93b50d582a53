//! `infinit node show`.

use clap::Args;

use crate::base::units::Size;
use crate::cli::context::Context;
use crate::cli::table::{Grid, Tone, Toned, optional, plain};
use crate::cli::terminal::{Stop, Terminal};
use crate::daemon::api::{self, Node};

/// Show one node and its silos
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Show the node of this name or id [default: this machine's]
    #[arg(value_name = "NODE")]
    node: Option<String>,
}

impl ShowArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let wanted = self.node.as_deref().unwrap_or("self");
        let path = format!("/v1/nodes/{}", api::encode_segment(wanted));
        let node: Node = context.daemon().await?.get(&path).await?;
        context.terminal.show(&node, || facts(&context.terminal, &node))
    }
}

fn facts(terminal: &Terminal, node: &Node) -> String {
    let mut grid = Grid::bare(terminal);
    grid.fact("node", node.name.clone());
    grid.fact("id", node.id.to_string());
    let since = node.since.as_ref().map_or_else(String::new, |since| format!(" since {since}"));
    let (state, tone) = node.state.cell();
    grid.row(vec![("state".to_owned(), Tone::Faint), (state + &since, tone)]);
    grid.fact("role", node.role.to_string());
    grid.fact("votes", super::list::vote(node).map(ToOwned::to_owned));
    grid.fact("zone", node.zone.clone());
    grid.fact("addresses", Some(node.addresses.join(", ")).filter(|text| !text.is_empty()));
    grid.fact("version", node.version.clone());
    let mut text = grid.finish();
    if !node.silos.is_empty() {
        text.push('\n');
        text.push_str(&silos(terminal, node));
    }
    text
}

fn silos(terminal: &Terminal, node: &Node) -> String {
    let mut grid = Grid::new(terminal, &["SILO", "STATE", "USED", "CAPACITY", "PATH", "REASON"]);
    for silo in &node.silos {
        grid.row(vec![
            plain(silo.id.short()),
            silo.state.cell(),
            optional(silo.used_bytes.map(|used| Size(used).to_string())),
            plain(Size(silo.capacity_bytes).to_string()),
            optional(silo.path.as_ref().map(|path| path.display().to_string())),
            optional(silo.reason.clone()),
        ]);
    }
    grid.finish()
}
