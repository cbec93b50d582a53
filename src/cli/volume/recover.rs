//! `infinit volume recover`.

use std::fmt::Write;
use std::time::Duration;

use clap::Args;

use crate::base::units::Span;
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::api::recovery::{RecoverVolume, RecoveredVolume};

/// How long the daemon's own answer may be late.
const GRACE: Duration = Duration::from_secs(5);

/// Make a detached volume attachable again whose copies lost data, from what is left of it
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Recover the volume of this name
    #[arg(value_name = "NAME", value_parser = value::volume_name)]
    name: String,
    /// Go on with what is left, even if answered and flushed writes are gone for good
    #[arg(long)]
    accept_loss: bool,
    /// Give up after this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = value::positive_span)]
    timeout: Span,
}

impl RecoverArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let request = RecoverVolume { accept_loss: self.accept_loss, timeout_ms: Some(value::millis(self.timeout)) };
        let client = context.daemon().await?.with_timeout(self.timeout.0.saturating_add(GRACE));
        let spinner = context.terminal.spinner(format!("recovering volume {}", self.name));
        let recovered = client.post::<RecoveredVolume>(&super::route(&self.name, "/recover"), &request).await;
        spinner.finish_and_clear();
        let recovered = recovered?;
        context.terminal.note(&summary(&recovered));
        context.terminal.show(&recovered, String::new)
    }
}

fn summary(recovered: &RecoveredVolume) -> String {
    if !recovered.lost {
        return format!("volume {} needs no recovery: nothing that was flushed is lost", recovered.name);
    }
    let mut text = format!("volume {} is recovered from what is left, and may be attached", recovered.name);
    for slot in &recovered.slots {
        let (from, known) = (slot.from, slot.known);
        // Writing to a string cannot fail.
        let _ = write!(text, "; slot {} goes on from write {} of epoch {}", slot.slot, from.write, from.epoch);
        if known != from {
            let _ = write!(text, " (write {} of epoch {} had been on a disk)", known.write, known.epoch);
        }
    }
    text
}
