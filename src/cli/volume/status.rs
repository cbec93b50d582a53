//! `infinit volume status`.

use clap::Args;

use crate::base::units::{Size, Span};
use crate::cli::context::Context;
use crate::cli::table::{Grid, Tone, Toned, optional, plain};
use crate::cli::terminal::{Stop, Terminal};
use crate::cli::value;
use crate::daemon::api::{Moving, Replica, VolumeStatus};

/// Show how a volume stands: where it is attached, its copies, what would mend it
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Show the volume of this name
    #[arg(value_name = "NAME", value_parser = value::volume_name)]
    name: String,
}

impl StatusArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let status: VolumeStatus = context.daemon().await?.get(&super::route(&self.name, "")).await?;
        context
            .terminal
            .show(&status, || format!("{}\n{}", facts(&context.terminal, &status), slots(&context.terminal, &status)))
    }
}

fn facts(terminal: &Terminal, status: &VolumeStatus) -> String {
    let volume = &status.volume;
    let mut grid = Grid::bare(terminal);
    grid.fact("volume", volume.name.clone());
    grid.fact("id", volume.id.to_string());
    grid.row(vec![("state".to_owned(), Tone::Faint), volume.state.cell()]);
    grid.fact("because", volume.reason.clone());
    grid.fact("to mend it", volume.mend.clone());
    grid.fact("size", Size(volume.size_bytes).to_string());
    grid.fact("copies", volume.replicas.to_string());
    let slots = status.slots.len();
    let missing = volume.missing_copies;
    grid.fact("missing", (missing > 0).then(|| format!("{missing} {}", if missing == 1 { "copy" } else { "copies" })));
    let to_move = (volume.moving_slots > 0).then(|| format!("{} of {slots} slots", volume.moving_slots));
    let now = volume.moving.as_ref().map(moving);
    let moving: Vec<String> = to_move.into_iter().chain(now).collect();
    grid.fact("moving", (!moving.is_empty()).then(|| moving.join("; ")));
    grid.fact("durability", volume.durability.to_string());
    grid.fact("lease", Span(std::time::Duration::from_millis(volume.lease_ms)).to_string());
    let io_timeout = volume.io_timeout_ms.map(std::time::Duration::from_millis);
    grid.fact("I/O fails after", io_timeout.map(|limit| format!("{} without a majority", Span(limit))));
    grid.fact("created", volume.created_at.clone());
    if let Some(attachment) = &volume.attachment {
        let place = format!("{} since {}, epoch {}", attachment.node.name, attachment.since, attachment.epoch);
        grid.fact("attached to", place);
        grid.fact("served at", attachment.nbd_uri.clone().unwrap_or_else(|| "the export is closed".to_owned()));
    }
    grid.fact("clients", status.clients.map(|counts| format!("{} connected", counts.connections_open)));
    let repaired = status.repaired_blocks.filter(|blocks| *blocks > 0);
    grid.fact("repaired", repaired.map(|blocks| format!("{blocks} damaged blocks, from another copy")));
    grid.finish()
}

fn slots(terminal: &Terminal, status: &VolumeStatus) -> String {
    let mut grid = Grid::new(terminal, &["SLOT", "STATE", "NODE", "SILO", "COPY", "BEHIND", "REASON"]);
    for slot in &status.slots {
        let joining = slot.joining.iter().map(|replica| (replica, true));
        let copies = slot.replicas.iter().map(|replica| (replica, false)).chain(joining);
        for (index, (replica, joins)) in copies.enumerate() {
            // The slot's own cells stand in its first row only.
            let first = index == 0;
            let blank = || plain("");
            grid.row(vec![
                if first { plain(slot.slot.to_string()) } else { blank() },
                if first { slot.state.cell() } else { blank() },
                plain(&replica.node.name),
                plain(replica.silo.short()),
                copy(replica, joins),
                optional(behind(replica)),
                if first { optional(slot.reason.clone()) } else { blank() },
            ]);
        }
    }
    grid.finish()
}

/// What is being copied, how fast, and what is left of it.
pub fn moving(moving: &Moving) -> String {
    let copies =
        if moving.copies == 1 { "1 copy receives".to_owned() } else { format!("{} copies receive", moving.copies) };
    let rate = moving.bytes_per_second.map_or_else(String::new, |rate| format!(", {}/s", Size(rate)));
    let left = moving.left_bytes.zip(moving.left_ms).map(|(bytes, ms)| {
        let time = Span(std::time::Duration::from_secs(ms.div_ceil(1000).max(1)));
        format!(", about {} and {time} left", Size(bytes))
    });
    format!("{copies} data, {} so far{rate}{}", Size(moving.moved_bytes), left.unwrap_or_default())
}

/// How a copy stands; one that comes or goes says so.
fn copy(replica: &Replica, joins: bool) -> (String, Tone) {
    let (state, tone) = replica.state.cell();
    match (joins, replica.leaves) {
        (true, _) => (format!("joining, {state}"), tone),
        (false, true) => (format!("{state}, leaving"), tone),
        (false, false) => (state, tone),
    }
}

/// What a copy lacks, or what it has received of that; nothing where it lacks nothing or nobody knows.
fn behind(replica: &Replica) -> Option<String> {
    if let Some(moved @ 1..) = replica.moved_bytes {
        let rate = replica.bytes_per_second.map_or_else(String::new, |rate| format!(", {}/s", Size(rate)));
        let left = replica.left_ms.map(|ms| Span(std::time::Duration::from_secs(ms.div_ceil(1000).max(1))));
        let left = left.map_or_else(String::new, |left| format!(", {left} left"));
        return Some(format!("{} moved{rate}{left}", Size(moved)));
    }
    let size = replica.behind_bytes.filter(|bytes| *bytes > 0).map(|bytes| Size(bytes).to_string());
    let writes = replica.behind_writes.filter(|writes| *writes > 0);
    let writes = writes.map(|writes| format!("{writes} {}", if writes == 1 { "write" } else { "writes" }));
    let parts: Vec<String> = size.into_iter().chain(writes).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
