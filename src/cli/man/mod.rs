//! `infinit man`: the same pages that stand in `man/`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::base::error::Fault;
use crate::cli::context::Context;
use crate::cli::terminal::Stop;

mod overview;
mod page;

/// Print a manual page: infinit man | man -l -
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Print the page of this command [default: the overview]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
    /// Write all pages to this directory
    #[arg(long, value_name = "DIR", hide = true, conflicts_with = "command", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

impl ManArgs {
    pub(super) fn run(self, context: &Context) -> Result<(), Stop> {
        let pages = page::all(&crate::cli::definitions());
        if let Some(dir) = self.dir {
            std::fs::create_dir_all(&dir).map_err(|error| Fault::io("create", &dir, &error))?;
            for page in pages {
                let path = dir.join(format!("{}.1", page.name));
                std::fs::write(&path, page.text).map_err(|error| Fault::io("write", &path, &error))?;
            }
            return Ok(());
        }
        let name = match &self.command {
            Some(command) => format!("infinit-{command}"),
            None => "infinit".to_owned(),
        };
        match pages.iter().find(|page| page.name == name) {
            Some(page) => context.terminal.print(&page.text),
            None => {
                let known: Vec<&str> = pages.iter().filter_map(|page| page.name.strip_prefix("infinit-")).collect();
                Err(Fault::not_found(format!("there is no manual page {name}"))
                    .hint(format!("there are: {}", known.join(", ")))
                    .into())
            }
        }
    }
}
