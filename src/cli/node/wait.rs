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
use crate::daemon::api::Ready;

/// How often it is tried whether the daemon listens by now.
const RETRY_EVERY: Duration = Duration::from_millis(100);
/// How long the daemon's own answer may be late.
const GRACE: Duration = Duration::from_secs(2);

/// Wait until this node has joined and the cluster has a quorum
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Give up after this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = value::positive_span)]
    timeout: Span,
}

impl WaitArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let spinner = context.terminal.spinner("waiting for the node".to_owned());
        let ready = wait(&context.client()?, self.timeout).await;
        spinner.finish_and_clear();
        let ready = ready?;
        // Only now is it certain that a daemon answers, so only now is it asked whose it is.
        context.daemon().await?;
        let unknown = match ready.nodes_unknown {
            0 => String::new(),
            unknown => format!(", {unknown} not asked yet"),
        };
        context.terminal.note(&format!(
            "node {} is ready: network {} has a quorum, {} of {} nodes up{unknown}",
            ready.node.name, ready.network, ready.nodes_up, ready.nodes
        ));
        context.terminal.show(&ready, String::new)
    }
}

/// Waits for the daemon, which may be about to start, and then for what it says.
async fn wait(client: &Client, timeout: Span) -> Result<Ready, Fault> {
    let deadline = Instant::now() + timeout.0;
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
