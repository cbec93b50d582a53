//! `infinit node stop`.

use std::os::fd::OwnedFd;

use clap::Args;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::base::error::{Fault, plain};
use crate::base::units::Span;
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::api::Stopping;

/// Stop this machine's node: detach its volumes, write everything out, end
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Give up waiting after this time
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = value::positive_span)]
    timeout: Span,
}

impl StopArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let Some(stream) = context.client()?.connect().await? else {
            context.terminal.note("no node runs here");
            return Ok(());
        };
        let process = daemon_process(&stream)?;
        drop(stream);
        let client = context.daemon().await?.with_timeout(self.timeout.0);
        let stopping: Stopping = client.post("/v1/node/stop", &serde_json::json!({})).await?;
        let spinner = context.terminal.spinner(format!("stopping node {}", stopping.node.name));
        // The descriptor of a process becomes readable when the process ends.
        let ended = tokio::time::timeout(self.timeout.0, process.readable()).await;
        spinner.finish_and_clear();
        match ended {
            Err(_) => Err(Fault::timed_out(format!("node {} still runs after {}", stopping.node.name, self.timeout))
                .hint("its log says what it waits for")
                .into()),
            Ok(Err(error)) => Err(Fault::failed(format!("cannot watch the daemon: {}", plain(&error))).into()),
            Ok(Ok(_)) => {
                context.terminal.note(&format!("node {} has stopped", stopping.node.name));
                context.terminal.show(&stopping, String::new)
            }
        }
    }
}

/// The process at the other end, held so that its end can be awaited even if its number is used again.
fn daemon_process(stream: &UnixStream) -> Result<AsyncFd<OwnedFd>, Fault> {
    let refuse = |error: std::io::Error| Fault::failed(format!("cannot find the daemon's process: {}", plain(&error)));
    let pid = stream.peer_cred().map_err(refuse)?.pid().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| {
        Fault::failed("the daemon runs in another container").hint("stop it there, or stop its container")
    })?;
    let descriptor = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|error| refuse(error.into()))?;
    AsyncFd::register(descriptor).map_err(refuse)
}
