//! `infinit volume`: block devices of the cluster.

use clap::Subcommand;

use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::daemon::api;

mod attach;
mod create;
mod delete;
mod detach;
pub mod list;
mod recover;
mod scrub;
mod set;
pub mod status;

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    Create(create::CreateArgs),
    List(list::ListArgs),
    Status(status::StatusArgs),
    Attach(attach::AttachArgs),
    Detach(detach::DetachArgs),
    Set(set::SetArgs),
    Scrub(scrub::ScrubArgs),
    Recover(recover::RecoverArgs),
    Delete(delete::DeleteArgs),
}

impl VolumeCommand {
    pub async fn run(self, context: &Context) -> Result<(), Stop> {
        match self {
            VolumeCommand::Create(args) => args.run(context).await,
            VolumeCommand::List(args) => args.run(context).await,
            VolumeCommand::Status(args) => args.run(context).await,
            VolumeCommand::Attach(args) => args.run(context).await,
            VolumeCommand::Detach(args) => args.run(context).await,
            VolumeCommand::Set(args) => args.run(context).await,
            VolumeCommand::Scrub(args) => args.run(context).await,
            VolumeCommand::Recover(args) => args.run(context).await,
            VolumeCommand::Delete(args) => args.run(context).await,
        }
    }
}

/// The route of a volume, or of a verb on it.
fn route(name: &str, verb: &str) -> String {
    format!("/v1/volumes/{}{verb}", api::encode_segment(name))
}
