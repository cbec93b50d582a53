//! `infinit volume list`.

use clap::Args;

use crate::base::units::Size;
use crate::cli::context::Context;
use crate::cli::table::{Grid, Tone, Toned, optional, plain};
use crate::cli::terminal::{Stop, Terminal};
use crate::daemon::api::Volume;

/// List the volumes of the network
#[derive(Debug, Args)]
pub struct ListArgs {}

impl ListArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let volumes: Vec<Volume> = context.daemon().await?.get("/v1/volumes").await?;
        if volumes.is_empty() {
            context.terminal.hint("there is none yet: infinit volume create NAME --size 20GiB");
        }
        context.terminal.show(&volumes, || table(&context.terminal, &volumes))
    }
}

/// The volumes, a row each.
pub fn table(terminal: &Terminal, volumes: &[Volume]) -> String {
    let mut grid = Grid::new(terminal, &["VOLUME", "SIZE", "COPIES", "STATE", "ATTACHED TO"]);
    for volume in volumes {
        grid.row(vec![
            plain(&volume.name),
            plain(Size(volume.size_bytes).to_string()),
            plain(volume.replicas.to_string()),
            state(volume),
            optional(volume.attachment.as_ref().map(|attachment| attachment.node.name.clone())),
        ]);
    }
    grid.finish()
}

/// How a volume is, and whether its copies are on their way.
fn state(volume: &Volume) -> (String, Tone) {
    let (state, tone) = volume.state.cell();
    match volume.moving_slots {
        0 => (state, tone),
        1 => (format!("{state}, 1 slot moving"), tone),
        several => (format!("{state}, {several} slots moving"), tone),
    }
}
