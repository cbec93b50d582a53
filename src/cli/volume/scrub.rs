//! `infinit volume scrub`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;

use crate::base::error::{Fault, Kind};
use crate::base::id::SiloId;
use crate::base::units::Size;
use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::table::{Grid, Toned, optional, plain};
use crate::cli::terminal::{Stop, Terminal};
use crate::cli::value;
use crate::daemon::api::scrub::{ScrubState, ScrubVolume, SiloScrub, VolumeScrub};

/// How often it is asked how far the scrub has come.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// A node that stops answering in the middle is waited for so long.
const AWAY_AT_MOST: Duration = Duration::from_secs(15);

/// Damaged ranges of a copy that the error names; JSON has more.
const RANGES_MAX: usize = 4;

/// Read and verify every copy of a volume, and repair what is damaged from another copy
///
/// Every block of the volume is read on every node that has a copy, as fast as the disks give, and so is each silo's
/// index. What is damaged is repaired from another copy while the volume is attached, and at the next attach otherwise.
/// When interrupted it only stops watching: the scrub goes on, and asking again joins it.
#[derive(Debug, Args)]
pub struct ScrubArgs {
    /// Scrub the volume of this name
    #[arg(value_name = "NAME", value_parser = value::volume_name)]
    name: String,
}

impl ScrubArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let client = context.daemon().await?;
        let terminal = &context.terminal;
        let bar = terminal.byte_bar(0);
        let watched = tokio::select! {
            watched = watch(&client, &self.name, &bar) => watched,
            _ = tokio::signal::ctrl_c() => Err(left_alone(&self.name)),
        };
        bar.finish_and_clear();
        let scrub = watched?;
        terminal.show(&scrub, || table(terminal, &scrub))?;
        verdict(&scrub)?;
        terminal.note(&summary(&scrub));
        Ok(())
    }
}

fn left_alone(name: &str) -> Fault {
    Fault::failed(format!("no longer watched: the scrub of volume {name} goes on"))
        .hint(format!("join it again: infinit volume scrub {name}"))
}

/// Begins the scrub and returns once nothing more comes of it.
async fn watch(client: &Client, name: &str, bar: &ProgressBar) -> Result<VolumeScrub, Fault> {
    let route = super::route(name, "/scrub");
    let mut scrub: VolumeScrub = client.post(&route, &ScrubVolume {}).await?;
    let begun: BTreeSet<SiloId> =
        scrub.silos.iter().filter(|silo| silo.state != ScrubState::Unreachable).map(|silo| silo.silo).collect();
    let mut heard = Instant::now();
    loop {
        show_progress(bar, &scrub);
        let away = |silo: &SiloScrub| silo.state == ScrubState::Unreachable && begun.contains(&silo.silo);
        if !scrub.silos.iter().any(away) {
            heard = Instant::now();
        }
        let waits = |silo: &SiloScrub| silo.state.is_under_way() || away(silo) && heard.elapsed() < AWAY_AT_MOST;
        if !scrub.silos.iter().any(waits) {
            return Ok(scrub);
        }
        tokio::time::sleep(ASK_EVERY).await;
        scrub = client.get(&route).await?;
    }
}

fn show_progress(bar: &ProgressBar, scrub: &VolumeScrub) {
    bar.set_length(scrub.silos.iter().map(|silo| silo.total_bytes).sum());
    bar.set_position(scrub.silos.iter().map(|silo| silo.checked_bytes).sum());
    let damaged: u64 = scrub.silos.iter().map(|silo| silo.damaged_blocks).sum();
    let repaired: u64 = scrub.silos.iter().map(|silo| silo.repaired_blocks).sum();
    bar.set_message(if damaged > 0 { format!("{damaged} damaged, {repaired} repaired") } else { String::new() });
}

fn table(terminal: &Terminal, scrub: &VolumeScrub) -> String {
    let mut grid =
        Grid::new(terminal, &["NODE", "SILO", "SCRUB", "CHECKED", "RATE", "DAMAGED", "REPAIRED", "LEFT", "REASON"]);
    for silo in &scrub.silos {
        grid.row(vec![
            plain(&silo.node.name),
            plain(silo.silo.short()),
            silo.state.cell(),
            plain(Size(silo.checked_bytes).to_string()),
            optional(silo.bytes_per_second.map(|rate| format!("{}/s", Size(rate)))),
            plain(silo.damaged_blocks.to_string()),
            plain(silo.repaired_blocks.to_string()),
            plain(silo.left_blocks.to_string()),
            optional(silo.reason.clone()),
        ]);
    }
    grid.finish()
}

fn summary(scrub: &VolumeScrub) -> String {
    let copies = match scrub.silos.len() {
        1 => "its silo is".to_owned(),
        several => format!("its {several} silos are"),
    };
    let repaired: u64 = scrub.silos.iter().map(|silo| silo.repaired_blocks).sum();
    let repaired =
        if repaired > 0 { format!(", {} repaired from another copy", blocks(repaired)) } else { String::new() };
    format!("volume {} is scrubbed: {copies} whole{repaired}", scrub.name)
}

fn blocks(count: u64) -> String {
    format!("{count} damaged {}", if count == 1 { "block" } else { "blocks" })
}

/// Where the damage is, as far as a line has room for it.
fn ranges(silo: &SiloScrub) -> String {
    let mut ranges: Vec<String> = silo.left.iter().take(RANGES_MAX).map(ToString::to_string).collect();
    if silo.left.len() > RANGES_MAX {
        ranges.push("others".to_owned());
    }
    if ranges.is_empty() { String::new() } else { format!(", bytes {}", ranges.join(", ")) }
}

/// What is not as it should be, all of it in one line, and what to do about the worst.
fn verdict(scrub: &VolumeScrub) -> Result<(), Fault> {
    let name = &scrub.name;
    let place = |silo: &SiloScrub| format!("silo {} on {}", silo.silo.short(), silo.node.name);
    let why = |silo: &SiloScrub| silo.reason.clone().unwrap_or_else(|| silo.state.to_string());
    let mut said = Vec::new();
    for silo in scrub.silos.iter().filter(|silo| silo.left_blocks > 0) {
        let count = blocks(silo.left_blocks);
        said.push(format!("{count} not repaired on {}{}", place(silo), ranges(silo)));
    }
    let damaged = !said.is_empty();
    let failed = scrub.silos.iter().filter(|silo| silo.state == ScrubState::Failed);
    said.extend(failed.map(|silo| format!("{} failed: {}", place(silo), why(silo))));
    let broken = said.len();
    let unseen = |silo: &&SiloScrub| silo.state != ScrubState::Failed && silo.state != ScrubState::Done;
    said.extend(
        scrub.silos.iter().filter(unseen).map(|silo| format!("{} was not scrubbed: {}", place(silo), why(silo))),
    );
    if said.is_empty() {
        return Ok(());
    }
    let (kind, hint) = match (damaged, &scrub.attached_to) {
        (true, None) => (Kind::Failed, format!("they are repaired once it is attached: infinit volume attach {name}")),
        (true, Some(_)) => (
            Kind::Failed,
            format!("no other copy could give them: see infinit volume status {name}, mend that, and scrub again"),
        ),
        (false, _) if broken > 0 => {
            (Kind::Failed, "the volume goes on with its other copies; what mends the silo: infinit status".to_owned())
        }
        (false, _) => (Kind::Unreachable, format!("start it, then again: infinit volume scrub {name}")),
    };
    Err(Fault::new(kind, format!("volume {name}: {}", said.join("; "))).hint(hint))
}
