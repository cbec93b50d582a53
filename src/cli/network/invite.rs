//! `infinit network invite`.

use clap::{Args, ValueEnum};

use crate::base::units::Span;
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::api::{Invite, Role};
use crate::daemon::offline;

/// Print a token with which other machines join
#[derive(Debug, Args)]
pub struct InviteArgs {
    /// Let them be this
    #[arg(long, value_enum, default_value_t = InvitedRole::Storage)]
    role: InvitedRole,
    /// Let the token expire after this time
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = value::positive_span)]
    expires: Span,
    /// Let so many machines join with it
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    uses: u32,
}

/// What invited machines may be.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum InvitedRole {
    /// Stores data and attaches volumes
    Storage,
    /// Attaches volumes and stores nothing
    Client,
    /// Does all that storage does, and may invite others
    Admin,
}

impl InviteArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let role = match self.role {
            InvitedRole::Storage => Role::Storage,
            InvitedRole::Client => Role::Client,
            InvitedRole::Admin => Role::Admin,
        };
        let request = Invite { role, expires_ms: value::millis(self.expires), uses: self.uses };
        // The daemon knows the addresses to dial and can be asked by any admin; the network's key alone will do too.
        let invitation = match context.client()?.connect().await? {
            Some(_) => context.daemon().await?.post("/v1/network/invitations", &request).await?,
            None => offline::invite(&context.place()?, &request).await?,
        };
        let many = if invitation.uses == 1 { "one machine" } else { &format!("{} machines", invitation.uses) };
        context.terminal.note(&format!("lets {many} join as {} until {}", invitation.role, invitation.expires_at));
        context.terminal.show(&invitation, || format!("{}\n", invitation.token))
    }
}
