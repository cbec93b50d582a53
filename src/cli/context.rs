//! What every verb is given: the global options, the home they lead to, and the terminal.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueHint};

use crate::base::error::{Fault, Result};
use crate::cli::client::Client;
use crate::cli::terminal::{Output, Terminal};
use crate::cli::value;
use crate::daemon::api::{self, Network};
use crate::daemon::offline::{self, Place};

/// The home of a machine's own daemon, run by root.
const SYSTEM_HOME: &str = "/var/lib/infinit";
/// How long a plain request may take: the daemon answers within seconds or says why not.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Options that every verb takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Keep keys, state and the control socket in this directory
    #[arg(long, global = true, value_name = "DIR", env = "INFINIT_HOME", hide_env_values = true, value_hint = ValueHint::DirPath)]
    pub home: Option<PathBuf>,
    /// Choose the network where this machine has several
    #[arg(long, global = true, value_name = "NAME", value_parser = value::network_name)]
    pub network: Option<String>,
    /// Print tables for people or JSON for scripts
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Print results and errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Tell more; twice tells all
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print without colors, as the variable NO_COLOR does
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Answer yes where something is about to be destroyed
    #[arg(long, global = true)]
    pub yes: bool,
}

/// The global options, made use of.
pub struct Context {
    pub terminal: Terminal,
    pub yes: bool,
    home: Option<PathBuf>,
    network: Option<String>,
}

impl Context {
    pub fn new(global: Global) -> Self {
        let terminal = Terminal::new(global.output, global.quiet, global.verbose, global.no_color);
        Self { terminal, yes: global.yes, home: global.home, network: global.network }
    }

    /// The home directory as an absolute path, whether it exists or not.
    pub fn home(&self) -> Result<PathBuf> {
        let home = match &self.home {
            Some(home) => home.clone(),
            None => {
                default_home(rustix::process::geteuid().is_root(), |name| std::env::var_os(name).map(PathBuf::from))?
            }
        };
        absolute(&home)
    }

    /// The home and the network in it that is meant.
    pub fn place(&self) -> Result<Place> {
        let home = self.home()?;
        let program = match &self.home {
            Some(_) => format!("infinit --home {}", home.display()),
            None => "infinit".to_owned(),
        };
        Ok(Place { home, network: self.network.clone(), program })
    }

    /// A client of this home's daemon, which may not be running.
    pub fn client(&self) -> Result<Client> {
        let place = self.place()?;
        let start = offline::start_command(&place);
        Ok(Client::new(place.home.join(api::SOCKET), start, REQUEST_TIMEOUT))
    }

    /// A client of this home's daemon, once it has shown that it serves the network that is meant.
    pub async fn daemon(&self) -> Result<Client> {
        let client = self.client()?;
        if let Some(meant) = &self.network
            && let Some(network) = self.served().await?
            && network.name != *meant
        {
            return Err(Fault::not_found(format!("this daemon serves network {}, not {meant}", network.name))
                .hint("choose the home of the other network's daemon with --home"));
        }
        Ok(client)
    }

    /// The network that this home's daemon serves, if one runs.
    pub async fn served(&self) -> Result<Option<Network>> {
        let client = self.client()?;
        match client.connect().await? {
            Some(_) => client.get("/v1/network").await.map(Some),
            None => Ok(None),
        }
    }
}

/// Where state lives unless told otherwise: `/var/lib/infinit` for root, the XDG data directory for others.
fn default_home(root: bool, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    if root {
        return Ok(SYSTEM_HOME.into());
    }
    // The XDG specification says to ignore a path that is not absolute.
    let set = |name: &str| variable(name).filter(|path| path.is_absolute());
    set("XDG_DATA_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("infinit"))
        .ok_or_else(|| Fault::usage("there is no home directory: HOME is not set").hint("choose one with --home DIR"))
}

/// A path that means the same to a process with another working directory.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Fault::io("find", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_is_where_its_user_keeps_data() {
        let home = |root, variables: &[(&str, &str)]| {
            let find = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| PathBuf::from(v.1));
            default_home(root, find).map(|path| path.display().to_string()).map_err(|fault| fault.kind.exit_code())
        };
        assert_eq!(home(true, &[("HOME", "/root")]), Ok("/var/lib/infinit".into()));
        assert_eq!(home(false, &[("HOME", "/home/a")]), Ok("/home/a/.local/share/infinit".into()));
        assert_eq!(home(false, &[("HOME", "/home/a"), ("XDG_DATA_HOME", "/d")]), Ok("/d/infinit".into()));
        assert_eq!(home(false, &[("HOME", "/h"), ("XDG_DATA_HOME", "d")]), Ok("/h/.local/share/infinit".into()));
        assert_eq!(home(false, &[]), Err(2));
    }
}
