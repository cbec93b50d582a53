//! `infinit node show`.

use clap::Args;

use crate::base::units::Size;
use crate::cli::context::Context;
use crate::cli::table::{Grid, Tone, Toned, optional, plain};
use crate::cli::terminal::{Stop, Terminal};
use crate::daemon::api::going::Duty;
use crate::daemon::api::silo::{Scrub, Space};
use crate::daemon::api::{self, Node, Silo, SiloState};

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
    grid.fact("duty", (node.duty != Duty::Stores).then(|| node.duty.to_string()));
    grid.fact("copies", (!node.silos.is_empty()).then(|| node.copies.to_string()));
    grid.fact("waits", node.waits.clone());
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
    let header =
        ["SILO", "STATE", "LIVE", "USED", "FREE", "CAPACITY", "CLEANED", "SCRUBBED", "DAMAGED", "PATH", "REASON"];
    let mut grid = Grid::new(terminal, &header);
    for silo in &node.silos {
        let size = |of: fn(&Space) -> u64| optional(silo.space.as_ref().map(|space| Size(of(space)).to_string()));
        grid.row(vec![
            plain(silo.id.short()),
            state(silo),
            size(|space| space.live_bytes),
            optional(silo.used_bytes.map(|used| Size(used).to_string())),
            size(|space| space.free_bytes),
            plain(Size(silo.capacity_bytes).to_string()),
            size(|space| space.cleaning.moved_bytes),
            optional(silo.scrub.as_ref().map(scrubbed)),
            optional(silo.scrub.as_ref().map(damaged)),
            optional(silo.path.as_ref().map(|path| path.display().to_string())),
            optional(silo.reason.clone().or_else(|| missing(silo))),
        ]);
    }
    grid.finish()
}

/// A silo that is up and full serves what is there, and takes nothing new.
fn state(silo: &Silo) -> (String, Tone) {
    let full = silo.state == SiloState::Up && silo.space.is_some_and(|space| space.full);
    if full { ("full".to_owned(), Tone::Warning) } else { silo.state.cell() }
}

fn missing(silo: &Silo) -> Option<String> {
    let space = silo.space.filter(|space| space.full)?;
    Some(format!("takes no new writes until {} more are free", Size(space.missing_bytes)))
}

/// How far the pass under way has come, else when the last one ended.
fn scrubbed(scrub: &Scrub) -> String {
    if scrub.running {
        return format!("{} of {}", Size(scrub.checked_bytes), Size(scrub.total_bytes));
    }
    scrub.finished_at.clone().unwrap_or_else(|| "never".to_owned())
}

/// The damaged blocks known now, and how many were repaired so far.
fn damaged(scrub: &Scrub) -> String {
    match (scrub.damaged_blocks, scrub.repaired_blocks) {
        (damaged, 0) => damaged.to_string(),
        (damaged, repaired) => format!("{damaged}, {repaired} repaired"),
    }
}
