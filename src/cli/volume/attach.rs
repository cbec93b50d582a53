//! `infinit volume attach`.

use std::time::Duration;

use clap::Args;

use crate::base::error::Fault;
use crate::base::units::Span;
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::api::{AttachVolume, Attachment, NbdAddress};

/// How long the daemon's own answer may be late.
const GRACE: Duration = Duration::from_secs(5);

/// Attach a volume to this node, which alone may then write it, and print the NBD URI
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Attach the volume of this name
    #[arg(value_name = "NAME", value_parser = value::volume_name)]
    name: String,
    /// Serve NBD here [default: a Unix socket in the home]
    #[arg(long, value_name = "unix:PATH|tcp:127.0.0.1:PORT", value_parser = value::nbd_address)]
    nbd: Option<NbdAddress>,
    /// Take it from the node it is attached to: at once if that answers, else once its lease has run out
    #[arg(long)]
    takeover: bool,
    /// Give up after this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = value::positive_span)]
    timeout: Span,
}

impl AttachArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let request =
            AttachVolume { nbd: self.nbd, takeover: self.takeover, timeout_ms: Some(value::millis(self.timeout)) };
        let client = context.daemon().await?.with_timeout(self.timeout.0.saturating_add(GRACE));
        let spinner = context.terminal.spinner(format!("attaching volume {}", self.name));
        let attached = client.post::<Attachment>(&super::route(&self.name, "/attach"), &request).await;
        spinner.finish_and_clear();
        let attachment = attached?;
        let Some(uri) = attachment.nbd_uri.clone() else {
            return Err(Fault::failed(format!("volume {} is attached, but the daemon serves no export", self.name))
                .hint(format!("infinit volume detach {0}, then infinit volume attach {0}", self.name))
                .into());
        };
        context
            .terminal
            .note(&format!("volume {} is attached to {}, epoch {}", self.name, attachment.node.name, attachment.epoch));
        context.terminal.show(&attachment, || format!("{uri}\n"))
    }
}
