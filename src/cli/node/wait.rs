//! `infinit node wait`.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::base::error::{Fault, Kind};
use crate::base::units::Span;
use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::api::{Ready, Status, Volume, VolumeState};

/// How often it is tried whether the daemon listens by now.
const RETRY_EVERY: Duration = Duration::from_millis(100);
/// How often it is looked whether copies are up to date by now.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the daemon's own answer may be late.
const GRACE: Duration = Duration::from_secs(2);

/// Wait until this node has joined and the cluster has a quorum
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Wait until no attached volume lacks a copy that is up to date, too
    #[arg(long)]
    copies: bool,
    /// Give up after this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = value::positive_span)]
    timeout: Span,
}

impl WaitArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let spinner = context.terminal.spinner("waiting for the node".to_owned());
        let client = context.client()?;
        let deadline = Instant::now() + self.timeout.0;
        let ready = wait(&client, deadline, self.timeout).await;
        let copies = match (&ready, self.copies) {
            (Ok(_), true) => copies(&client, deadline, self.timeout).await,
            _ => Ok(()),
        };
        spinner.finish_and_clear();
        let ready = ready?;
        // Only now is it certain that a daemon answers, so only now is it asked whose it is.
        context.daemon().await?;
        copies?;
        let unknown = match ready.nodes_unknown {
            0 => String::new(),
            unknown => format!(", {unknown} not asked yet"),
        };
        let copies = if self.copies { ", and all copies are up to date" } else { "" };
        context.terminal.note(&format!(
            "node {} is ready: network {} has a quorum, {} of {} nodes up{unknown}{copies}",
            ready.node.name, ready.network, ready.nodes_up, ready.nodes
        ));
        context.terminal.show(&ready, String::new)
    }
}

/// Waits for the daemon, which may be about to start, and then for what it says.
async fn wait(client: &Client, deadline: Instant, timeout: Span) -> Result<Ready, Fault> {
    let mut retry = interval(RETRY_EVERY);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if timeout_at(deadline, retry.tick()).await.is_err() {
            let fault = client.no_daemon();
            let message = format!("{} after {timeout}", fault.message);
            return Err(Fault { kind: Kind::TimedOut, message, ..fault });
        }
        if client.connect().await?.is_none() {
            continue;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let path = format!("/v1/node/ready?timeout_ms={}", left.as_millis());
        match client.clone().with_timeout(left + GRACE).get(&path).await {
            // The daemon stopped, or had only just begun, between one connection and the next.
            Err(fault) if fault.kind == Kind::Unreachable && Instant::now() < deadline => {}
            answer => return answer,
        }
    }
}

/// Waits until all copies of what is attached are up to date.
async fn copies(client: &Client, deadline: Instant, timeout: Span) -> Result<(), Fault> {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let left = deadline.saturating_duration_since(Instant::now());
        let status: Status = client.clone().with_timeout(left + GRACE).get("/v1/status").await?;
        let lacks = |volume: &&Volume| matches!(volume.state, VolumeState::Degraded | VolumeState::Suspended);
        let Some(volume) = status.volumes.iter().find(lacks) else { return Ok(()) };
        if Instant::now() >= deadline {
            let why = volume.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            let message = format!("volume {} is {} still after {timeout}{why}", volume.name, volume.state);
            return Err(Fault::timed_out(message).hint("infinit status, or wait longer: --timeout TIME"));
        }
    }
}
