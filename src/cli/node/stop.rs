//! `infinit node stop`.

use std::os::fd::OwnedFd;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::UnixStream;

use crate::base::error::{Fault, plain};
use crate::base::units::Span;
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::api::going::{StopNode, Stopping};

/// Stop this machine's node: detach its volumes, write everything out, end
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Leave its volumes attached, for a restart: clients that connect again go on
    #[arg(long)]
    keep_attached: bool,
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
        let stopping: Stopping = client.post("/v1/node/stop", &StopNode { keep_attached: self.keep_attached }).await?;
        let spinner = context.terminal.spinner(format!("stopping node {}", stopping.node.name));
        let ended = await_end(process, self.timeout).await;
        spinner.finish_and_clear();
        if !ended? {
            return Err(Fault::timed_out(format!("node {} still runs after {}", stopping.node.name, self.timeout))
                .hint("its log says what it waits for")
                .into());
        }
        context.terminal.note(&format!("node {} has stopped", stopping.node.name));
        context.terminal.show(&stopping, String::new)
    }
}

/// The process at the other end, held so that its end can be awaited even if its number is used again.
fn daemon_process(stream: &UnixStream) -> Result<OwnedFd, Fault> {
    let refuse = |error: std::io::Error| Fault::failed(format!("cannot find the daemon's process: {}", plain(&error)));
    let pid = stream.peer_cred().map_err(refuse)?.pid().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| {
        Fault::failed("the daemon runs in another container").hint("stop it there, or stop its container")
    })?;
    pidfd_open(pid, PidfdFlags::empty()).map_err(|error| refuse(error.into()))
}

/// Whether the process ended in time: its descriptor becomes readable when it does.
async fn await_end(process: OwnedFd, timeout: Span) -> Result<bool, Fault> {
    let limit = Timespec::try_from(timeout.0).ok();
    let wait = move || loop {
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], limit.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready,
        }
    };
    let ready =
        tokio::task::spawn_blocking(wait).await.map_err(|_| Fault::failed("waiting for the daemon broke off"))?;
    ready
        .map(|count| count > 0)
        .map_err(|error| Fault::failed(format!("cannot watch the daemon: {}", plain(&error.into()))))
}
