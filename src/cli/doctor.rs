//! `infinit doctor`.

use clap::Args;

use crate::base::error::Fault;
use crate::cli::context::Context;
use crate::cli::table::{Grid, Tone, optional, plain};
use crate::cli::terminal::{Stop, Terminal};
use crate::daemon::api::doctor::{Check, Checkup, Verdict};
use crate::daemon::offline;

/// Check this machine and the way to the others, and say what to do about what is wrong
///
/// Looks at limits, memory, disks and how fast they sync, at the clocks and versions of the other nodes, and whether each
/// reaches this one and is reached. Changes nothing. Fails if any line is an ERROR.
#[derive(Debug, Args)]
pub struct DoctorArgs {}

impl DoctorArgs {
    pub async fn run(self, context: &Context) -> Result<(), Stop> {
        let client = context.client()?;
        let checkup: Checkup = match client.connect().await? {
            Some(_) => context.daemon().await?.get("/v1/doctor").await?,
            None => {
                let mut checks = offline::examine(&context.place()?);
                let fault = client.no_daemon();
                checks.push(Check::error("node", fault.message, fault.hint.unwrap_or_default()));
                Checkup { checks }
            }
        };
        context.terminal.show(&checkup, || table(&context.terminal, &checkup))?;
        let errors = checkup.checks.iter().filter(|check| check.verdict == Verdict::Error).count();
        if errors == 0 {
            return Ok(());
        }
        let what = if errors == 1 { "1 check".to_owned() } else { format!("{errors} checks") };
        Err(Fault::failed(format!("{what} failed")).hint("each line says what to do about it").into())
    }
}

fn table(terminal: &Terminal, checkup: &Checkup) -> String {
    let mut grid = Grid::new(terminal, &["VERDICT", "CHECK", "FINDING", "TO DO"]);
    for check in &checkup.checks {
        let verdict = match check.verdict {
            Verdict::Ok => ("OK", Tone::Good),
            Verdict::Warning => ("WARNING", Tone::Warning),
            Verdict::Error => ("ERROR", Tone::Bad),
        };
        grid.row(vec![
            (verdict.0.to_owned(), verdict.1),
            plain(&check.name),
            plain(&check.finding),
            optional(check.hint.clone()),
        ]);
    }
    grid.finish()
}
