//! `infinit volume create`.

use clap::{Args, ValueEnum};

use crate::base::units::{Size, Span};
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::api::{Cluster, CreateVolume, Durability, Network, Volume};

/// Create a volume; it takes space as it is written
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Give the volume this name
    #[arg(value_name = "NAME", value_parser = value::volume_name)]
    name: String,
    /// Give it this size, a multiple of 4KiB up to 64TiB
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = value::volume_size)]
    size: Size,
    /// Keep so many copies, 1 to 7, each on another node
    #[arg(long, value_name = "N", default_value = "3", allow_negative_numbers = true, value_parser = value::replicas)]
    replicas: u8,
    /// Say what an answered write means
    #[arg(long, value_enum, default_value_t = AnsweredWrite::Flush)]
    durability: AnsweredWrite,
    /// Let a writer that vanished keep others out for this time
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = value::lease)]
    lease: Span,
    /// Let I/O fail after this time without a majority of the copies [default: it waits and goes on by itself]
    #[arg(long, value_name = "TIME", value_parser = value::io_timeout)]
    io_timeout: Option<Span>,
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum AnsweredWrite {
    /// A majority has it; a flush puts it on disk, as with any disk's own cache
    Flush,
    /// A majority has it on disk
    Write,
}

impl CreateArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let durability = match self.durability {
            AnsweredWrite::Flush => Durability::Flush,
            AnsweredWrite::Write => Durability::Write,
        };
        let request = CreateVolume {
            name: self.name,
            size_bytes: self.size.0,
            replicas: self.replicas,
            durability,
            lease_ms: value::millis(self.lease),
            io_timeout_ms: self.io_timeout.map(value::millis),
        };
        let client = context.daemon().await?;
        let volume: Volume = client.post("/v1/volumes", &request).await?;
        let copies = if volume.replicas == 1 { "a single copy" } else { &format!("{} copies", volume.replicas) };
        context.terminal.note(&format!("volume {} is created: {}, {copies}", volume.name, Size(volume.size_bytes)));
        if volume.replicas.is_multiple_of(2) {
            let network: Network = client.get("/v1/network").await?;
            if let Some(hint) = network.cluster.and_then(|cluster| too_few_voters(&cluster)) {
                context.terminal.hint(&hint);
            }
        }
        context.terminal.show(&volume, String::new)
    }
}

/// What the loss of half of an even number of copies means where nobody could decide which half goes on.
fn too_few_voters(cluster: &Cluster) -> Option<String> {
    let voters: Vec<&str> = cluster.voters.iter().map(|voter| voter.name.as_str()).collect();
    (voters.len() < 3).then(|| {
        format!(
            "its I/O waits whenever {} is lost; a third node that only votes mends that: infinit node run --role witness",
            voters.join(" or ")
        )
    })
}
