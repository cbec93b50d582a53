//! `infinit node install`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, ValueHint};

use crate::base::error::{Fault, plain};
use crate::cli::context::{Context, absolute};
use crate::cli::node::run::NodeOptions;
use crate::cli::terminal::Stop;
use crate::daemon::offline::Place;

/// Where an administrator's own units belong.
const UNIT_DIR: &str = "/etc/systemd/system";
const UNIT_NAME: &str = "infinit.service";
/// Exists exactly if systemd is this machine's init (`sd_booted(3)`).
const SYSTEMD_RUNS: &str = "/run/systemd/system";

/// Let systemd run this machine's node, now and at every start
#[derive(Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    options: NodeOptions,
    /// Print the unit and change nothing
    #[arg(long)]
    print: bool,
    /// Write the unit and do not start it
    #[arg(long)]
    no_start: bool,
    /// Write the unit to this directory
    #[arg(long, value_name = "DIR", default_value = UNIT_DIR, value_hint = ValueHint::DirPath)]
    unit_dir: PathBuf,
    /// Run this binary [default: this one]
    #[arg(long, value_name = "PATH", hide = true, value_hint = ValueHint::FilePath)]
    binary: Option<PathBuf>,
}

impl InstallArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Stop> {
        let binary = match &self.binary {
            Some(path) => absolute(path)?,
            None => std::env::current_exe()
                .map_err(|error| Fault::failed(format!("cannot find this binary: {}", plain(&error))))?,
        };
        let unit = unit(&binary, &context.place()?, &self.options);
        if self.print {
            return context.terminal.print(&unit);
        }
        let path = self.unit_dir.join(UNIT_NAME);
        write(&path, &unit)?;
        context.terminal.note(&format!("wrote {}", path.display()));
        if self.no_start || !Path::new(SYSTEMD_RUNS).exists() {
            context.terminal.hint("start the node: systemctl enable --now infinit");
            return Ok(());
        }
        systemctl(&["daemon-reload"]).await?;
        systemctl(&["enable", "--now", UNIT_NAME]).await?;
        context.terminal.note("the node runs, and starts with this machine");
        context.terminal.hint("its log: journalctl -u infinit");
        Ok(())
    }
}

fn write(path: &Path, unit: &str) -> Result<(), Fault> {
    std::fs::write(path, unit).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            Fault::refused(format!("may not write {}: {}", path.display(), plain(&error)))
                .hint("run this as root, or see the unit with --print")
        }
        _ => Fault::io("write", path, &error),
    })
}

async fn systemctl(args: &[&str]) -> Result<(), Fault> {
    let command = format!("systemctl {}", args.join(" "));
    let output = tokio::process::Command::new("systemctl")
        .args(args)
        .output()
        .await
        .map_err(|error| Fault::failed(format!("cannot run {command}: {}", plain(&error))))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.lines().next().unwrap_or("it does not say why");
    Err(Fault::failed(format!("{command} failed: {why}")).hint("see journalctl -u infinit"))
}

/// The unit. Hardened as far as a node allows that keeps silos and sockets wherever its user wants them.
fn unit(binary: &Path, place: &Place, options: &NodeOptions) -> String {
    let mut command = vec![text(binary), "--home".into(), text(&place.home), "node".into(), "run".into()];
    command.extend(place.network.iter().flat_map(|network| ["--network".to_owned(), network.clone()]));
    for silo in &options.silo {
        let capacity = silo.capacity.map_or_else(String::new, |capacity| format!(":{}B", capacity.0));
        command.extend(["--silo".into(), format!("{}{capacity}", silo.path.display())]);
    }
    let addresses = [("--listen", &options.listen), ("--advertise", &options.advertise)];
    for (name, address) in addresses {
        command.extend(address.iter().flat_map(|address| [name.to_owned(), address.to_string()]));
    }
    command.extend(options.zone.iter().flat_map(|zone| ["--zone".to_owned(), zone.clone()]));
    if let Some(role) = options.role.and_then(|role| role.to_possible_value()) {
        command.extend(["--role".into(), role.get_name().to_owned()]);
    }
    if options.no_mdns {
        command.push("--no-mdns".into());
    }
    let command: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    UNIT.replace("@COMMAND@", &command.join(" "))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A word of a command line as systemd reads it (`systemd.service(5)`, "Command lines").
fn quoted(word: &str) -> String {
    let word = word.replace('%', "%%").replace('$', "$$");
    let safe = |c: char| c.is_ascii_alphanumeric() || "/._-:%$[]=+,@".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        return word;
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

const UNIT: &str = "\
[Unit]
Description=Infinit storage node
Documentation=man:infinit(1)
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart=@COMMAND@
Restart=on-failure
RestartSec=1s
# Wrong usage, no network to be a node of, refused: trying again changes nothing.
RestartPreventExitStatus=2 3 6
# It detaches its volumes and writes everything out before it ends.
TimeoutStopSec=90s
LimitNOFILE=1048576
OOMScoreAdjust=-500
UMask=0077

NoNewPrivileges=yes
ProtectSystem=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::node::run::RunRole;

    #[test]
    fn the_unit_runs_the_node_with_its_options() {
        let options = NodeOptions {
            silo: vec!["/data:1GiB", "/with space"].into_iter().map(|s| crate::cli::value::silo(s).unwrap()).collect(),
            listen: Some("0.0.0.0:7000".parse().unwrap()),
            advertise: None,
            zone: Some("50%".into()),
            role: Some(RunRole::Storage),
            no_mdns: true,
        };
        let place = |network: Option<&str>| Place {
            home: "/var/lib/infinit".into(),
            network: network.map(str::to_owned),
            program: "infinit".to_owned(),
        };
        let start = |network| {
            let unit = unit(Path::new("/usr/bin/infinit"), &place(network), &options);
            unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap().to_owned()
        };
        let expected = "ExecStart=/usr/bin/infinit --home /var/lib/infinit node run --silo /data:1073741824B \
                        --silo \"/with space\" --listen 0.0.0.0:7000 --zone 50%% --role storage --no-mdns";
        assert_eq!(start(None), expected);
        assert!(start(Some("prod")).contains(" node run --network prod --silo "));
    }
}
