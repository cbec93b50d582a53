//! `infinit node run`.

use clap::{Args, ValueEnum, ValueHint};
use tracing_subscriber::EnvFilter;

use crate::base::address::Address;
use crate::cli::context::Context;
use crate::cli::terminal::Stop;
use crate::cli::value;
use crate::daemon::offline::{self, RunOptions, SiloSpec};

/// Run this machine's node in the foreground until it is told to stop
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    options: NodeOptions,
}

/// How to run a node. What is left out is as it was last time.
#[derive(Clone, Debug, Args)]
pub struct NodeOptions {
    /// Store blocks in this directory, up to this capacity; may be given several times [default: silo/ in the home]
    #[arg(long, value_name = "PATH[:CAPACITY]", value_parser = value::silo, value_hint = ValueHint::DirPath)]
    pub silo: Vec<SiloSpec>,
    /// Listen on this address, or on that of this name, resolved at each start; port 0 picks a free port once and keeps it
    #[arg(long, value_name = "HOST:PORT", value_parser = value::address)]
    pub listen: Option<Address>,
    /// Tell the others to reach this node at this address or name; they resolve it each time they connect
    #[arg(long, value_name = "HOST:PORT", value_parser = value::address)]
    pub advertise: Option<Address>,
    /// Say what this node fails together with, as a rack or a room; copies are spread over zones; '' takes it back
    #[arg(long, value_name = "ZONE", value_parser = value::zone)]
    pub zone: Option<String>,
    /// Vote without storing anything, as the third of two storage nodes; or store again [default: storage]
    #[arg(long, value_name = "ROLE")]
    pub role: Option<RunRole>,
    /// Do not look for peers on the local network by multicast
    #[arg(long)]
    pub no_mdns: bool,
}

/// What a node that may store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RunRole {
    Storage,
    Witness,
}

impl RunArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let NodeOptions { silo, listen, advertise, zone, role, no_mdns } = self.options;
        start_log(context);
        let witness = role.map(|role| role == RunRole::Witness);
        let options = RunOptions { silos: silo, listen, advertise, zone, witness, mdns: !no_mdns };
        Ok(offline::run(&context.place()?, options).await?)
    }
}

/// The log goes to stderr, where systemd's journal and a person both find it. `INFINIT_LOG` says in tracing's filter
/// language what is logged; without it, `-q` and `-v` do. The consensus library warns of each message that a node which
/// is down does not get, several times a second, and discovery's of knowing nobody at first: the daemon says itself, once,
/// who is not reached.
fn start_log(context: &Context) {
    let level = match (context.terminal.is_quiet(), context.terminal.verbose()) {
        (true, _) => "warn,openraft=error",
        (false, 0) => "infinit=info,openraft=error,libp2p_kad=error,warn",
        (false, 1) => "infinit=debug,openraft=error,info",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_from_env("INFINIT_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(context.terminal.colored_err())
        .with_target(context.terminal.verbose() > 0)
        // A log that nobody reads any more is no reason to end, and cannot be complained of on the same stderr.
        .log_internal_errors(false);
    // A second initialization in one process would fail; there is none, and a lost log is no reason not to run.
    let _ = log.try_init();
}
