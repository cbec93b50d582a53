//! `infinit volume detach`.

use std::time::Duration;

use clap::Args;

use crate::base::units::Span;
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::api::{DetachVolume, DetachedVolume};

/// How long the daemon's own answer may be late.
const GRACE: Duration = Duration::from_secs(5);

/// Detach a volume, wherever it is attached: its export closes, and another node may attach it
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Detach the volume of this name
    #[arg(value_name = "NAME", value_parser = value::volume_name)]
    name: String,
    /// Give up after this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = value::positive_span)]
    timeout: Span,
}

impl DetachArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let request = DetachVolume { timeout_ms: Some(value::millis(self.timeout)) };
        let client = context.daemon().await?.with_timeout(self.timeout.0.saturating_add(GRACE));
        let detached: DetachedVolume = client.post(&super::route(&self.name, "/detach"), &request).await?;
        let what = if detached.was_attached { "is detached" } else { "was not attached" };
        context.terminal.note(&format!("volume {} {what}", detached.volume.name));
        context.terminal.show(&detached, String::new)
    }
}
