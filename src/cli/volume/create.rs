//! `infinit volume create`.

use clap::{Args, ValueEnum};

use crate::base::units::{Size, Span};
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::api::{CreateVolume, Durability, Volume};

/// Create a volume; it takes space as it is written
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Give the volume this name
    #[arg(value_name = "NAME", value_parser = value::volume_name)]
    name: String,
    /// Give it this size, a multiple of 4KiB up to 64TiB
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = value::volume_size)]
    size: Size,
    /// Keep this odd number of copies, each on another node
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
        let volume: Volume = context.daemon().await?.post("/v1/volumes", &request).await?;
        let copies = if volume.replicas == 1 { "a single copy" } else { &format!("{} copies", volume.replicas) };
        context.terminal.note(&format!("volume {} is created: {}, {copies}", volume.name, Size(volume.size_bytes)));
        context.terminal.show(&volume, String::new)
    }
}
