//! The home directory of a node: keys, passport, settings, and what they are called.
//!
//! ```text
//! HOME/lock                      held by the daemon that runs on this home
//! HOME/control.sock              the control API, while the daemon runs
//! HOME/nbd/VOLUME.sock           the NBD socket of an attached volume
//! HOME/silo/                     the default silo
//! HOME/networks/NAME/network.toml  version, id, contacts: there once the network was created or joined
//! HOME/networks/NAME/network.key   the network's private key, only where it was created (mode 0600)
//! HOME/networks/NAME/node.key      this node's private key (mode 0600)
//! HOME/networks/NAME/passport      this node's passport
//! HOME/networks/NAME/node.toml     what `node run` was last told: silos, ports, zone
//! HOME/networks/NAME/cluster.redb  log and state of the cluster group
//! HOME/networks/NAME/peers.redb    addresses of known peers
//! HOME/networks/NAME/exports.toml  the volumes attached here, and where their clients reach them
//! ```

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::address::Address;
use crate::base::error::{Fault, Result};
use crate::base::id::{NetworkId, NodeId};
use crate::daemon::offline::{Place, SiloSpec};
use crate::transport::identity::{KeyError, NetworkKey, NodeKey};
use crate::transport::passport::Passport;
use crate::transport::token::Contact;

/// The version of everything in a home.
const HOME_VERSION: u32 = 1;

/// One network within a home.
#[derive(Clone, Debug)]
pub struct Home {
    pub root: PathBuf,
    pub name: String,
    dir: PathBuf,
}

/// `network.toml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkFile {
    pub version: u32,
    pub id: NetworkId,
    pub name: String,
    /// Seconds since 1970.
    pub created_at: u64,
    /// The node that created the network: it founds the cluster group at its first start.
    pub founder: bool,
    /// Nodes to dial while nothing better is known.
    #[serde(default)]
    pub contacts: Vec<KnownNode>,
}

/// A node and where it was last known to listen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownNode {
    pub node: NodeId,
    pub addresses: Vec<Address>,
}

/// `node.toml`: what a restart needs no flags for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<Address>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<Address>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// It votes and stores nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub witness: bool,
    #[serde(default)]
    pub silos: Vec<SiloSpec>,
}

/// Held as long as a daemon runs on the home.
pub struct HomeLock {
    _file: File,
}

impl Home {
    /// The network of a home that a command means; `verb` is the command, for the hint where it means no single one.
    pub fn find(place: &Place, verb: &str) -> Result<Home> {
        let names = names(&place.home)?;
        let name = match (&place.network, names.as_slice()) {
            (Some(name), _) if names.contains(name) => name.clone(),
            (Some(name), _) => {
                return Err(Fault::not_found(format!("there is no network '{name}' in {}", place.home.display()))
                    .hint(format!("{} network list", place.program)));
            }
            (None, [only]) => only.clone(),
            (None, []) => {
                return Err(Fault::not_found(format!("there is no network in {}", place.home.display()))
                    .hint("infinit network create NAME, or infinit network join TOKEN"));
            }
            (None, several) => {
                let commands: Vec<String> = several.iter().map(|name| place.command(verb, name)).collect();
                return Err(Fault::usage(format!(
                    "there are several networks in {}: {}",
                    place.home.display(),
                    several.join(", ")
                ))
                .hint(commands.join(", or ")));
            }
        };
        Ok(Self::of(&place.home, &name))
    }

    /// The place of a network, whether it is there or not.
    pub fn of(root: &Path, name: &str) -> Home {
        Home { root: root.to_owned(), name: name.to_owned(), dir: root.join("networks").join(name) }
    }

    /// Every network of a home, by name.
    pub fn all(root: &Path) -> Result<Vec<Home>> {
        Ok(names(root)?.iter().map(|name| Self::of(root, name)).collect())
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where everything of this network lies but its silos.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn is_there(&self) -> bool {
        self.file("network.toml").exists()
    }

    /// Makes the directories, readable by their owner alone.
    pub fn create(&self) -> Result<()> {
        create_dir(&self.dir)
    }

    pub fn network(&self) -> Result<NetworkFile> {
        let path = self.file("network.toml");
        let file: NetworkFile = load(&path)?;
        if file.version > HOME_VERSION {
            return Err(Fault::failed(format!(
                "{} has version {}, and this Infinit knows up to {HOME_VERSION}",
                path.display(),
                file.version
            ))
            .hint("install the newer infinit again"));
        }
        Ok(file)
    }

    pub fn save_network(
        &self,
        id: NetworkId,
        created_at: u64,
        founder: bool,
        contacts: &[Contact],
    ) -> Result<NetworkFile> {
        let contacts = contacts.iter().map(|c| KnownNode { node: c.node, addresses: c.addresses.clone() }).collect();
        let file = NetworkFile { version: HOME_VERSION, id, name: self.name.clone(), created_at, founder, contacts };
        self.save_network_file(&file)?;
        Ok(file)
    }

    pub fn save_network_file(&self, file: &NetworkFile) -> Result<()> {
        save(&self.file("network.toml"), file)
    }

    pub fn node_key(&self) -> Result<NodeKey> {
        NodeKey::load(&self.file("node.key")).map_err(key_fault)
    }

    /// The node's key, made if there is none yet.
    pub fn node_key_or_new(&self) -> Result<NodeKey> {
        match NodeKey::load(&self.file("node.key")) {
            Err(KeyError::Missing(_)) => {
                let key = NodeKey::generate();
                key.save(&self.file("node.key")).map_err(key_fault)?;
                Ok(key)
            }
            other => other.map_err(key_fault),
        }
    }

    /// The network's private key, where it was created.
    pub fn network_key(&self) -> Result<Option<NetworkKey>> {
        match NetworkKey::load(&self.file("network.key")) {
            Ok(key) => Ok(Some(key)),
            Err(KeyError::Missing(_)) => Ok(None),
            Err(other) => Err(key_fault(other)),
        }
    }

    pub fn save_network_key(&self, key: &NetworkKey) -> Result<()> {
        key.save(&self.file("network.key")).map_err(key_fault)
    }

    pub fn passport(&self) -> Result<Passport> {
        let path = self.file("passport");
        let bytes = std::fs::read(&path).map_err(|error| Fault::io("read", &path, &error))?;
        Passport::decode(&bytes).map_err(|error| {
            Fault::failed(format!("the passport {} is damaged: {error}", path.display()))
                .hint("infinit network join TOKEN, with a new invitation")
        })
    }

    pub fn save_passport(&self, passport: &Passport) -> Result<()> {
        let bytes = passport.encode().map_err(|error| Fault::failed(error.to_string()))?;
        write_file(&self.file("passport"), &bytes)
    }

    pub fn node_file(&self) -> Result<NodeFile> {
        let path = self.file("node.toml");
        if path.exists() { load(&path) } else { Ok(NodeFile::default()) }
    }

    pub fn save_node_file(&self, file: &NodeFile) -> Result<()> {
        save(&self.file("node.toml"), file)
    }

    pub fn control_socket(&self) -> PathBuf {
        self.root.join(crate::daemon::api::SOCKET)
    }

    /// The default NBD socket of a volume; its name is encoded, so that it stays one file.
    pub fn nbd_socket(&self, volume: &str) -> PathBuf {
        self.root.join("nbd").join(format!("{}.sock", crate::daemon::api::encode_segment(volume)))
    }

    /// Removes everything of the network but its silos.
    pub fn remove(&self) -> Result<()> {
        std::fs::remove_dir_all(&self.dir).map_err(|error| Fault::io("remove", &self.dir, &error))
    }

    /// Takes the home for a daemon.
    pub fn lock(&self) -> Result<HomeLock> {
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Fault::io("open", &path, &error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(HomeLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Fault::conflict(format!("another daemon runs on {}", self.root.display()))
                    .hint("infinit node stop, or choose another --home"))
            }
            Err(errno) => Err(Fault::io("lock", &path, &errno.into())),
        }
    }
}

/// The names of the networks in a home.
fn names(root: &Path) -> Result<Vec<String>> {
    let dir = root.join("networks");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Fault::io("read", &dir, &error)),
    };
    let mut names: Vec<String> = entries
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.path().join("network.toml").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Makes a directory and those above it, readable by their owner alone; one that is there is left as it is.
pub fn make_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// As [`make_dir`], for a directory of the home.
pub fn create_dir(path: &Path) -> Result<()> {
    make_dir(path).map_err(|error| {
        Fault::io("create", path, &error).hint("choose a home that this user may write: infinit --home DIR")
    })
}

/// Reads a TOML file.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|error| Fault::io("read", path, &error))?;
    parse(path, &text)
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.as_bytes().get(..span.start)).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Fault::failed(format!("{} line {line}: {}", path.display(), error.message().replace('\n', " ")))
            .hint("restore the file from a backup, or mend that line")
    })
}

/// What a fuzzer feeds: any text as each TOML file of a home.
pub fn fuzz_files(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("a file");
    // Whether it is one is not asked here.
    let _ = (parse::<NodeFile>(path, text).is_ok(), parse::<NetworkFile>(path, text).is_ok());
}

/// Writes a TOML file so that a crash leaves the old one or the new one.
pub fn save<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = toml::to_string_pretty(value).map_err(|error| Fault::failed(error.to_string()))?;
    write_file(path, text.as_bytes())
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let fault = |error: std::io::Error| Fault::io("write", path, &error);
    let temporary = path.with_extension("new");
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary).map_err(fault)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fault)?;
    std::fs::rename(&temporary, path).map_err(fault)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(fault)
}

fn key_fault(error: KeyError) -> Fault {
    let hint = match &error {
        KeyError::TooOpen { path, .. } => format!("chmod 600 {}", path.display()),
        KeyError::Missing(_) | KeyError::Damaged(_) => {
            "restore the key from a backup, or join again: infinit network join TOKEN".to_owned()
        }
        KeyError::AlreadyThere(_) => "choose another name or another --home".to_owned(),
        KeyError::Io { .. } => "check the permissions of the home".to_owned(),
    };
    Fault::failed(error.to_string()).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;

    #[test]
    fn a_home_says_what_is_missing_or_unclear() {
        let root = tempfile::tempdir().unwrap();
        let place = |network: Option<&str>| Place {
            home: root.path().to_owned(),
            network: network.map(str::to_owned),
            program: "infinit".to_owned(),
        };
        assert_eq!(Home::find(&place(None), "node run").unwrap_err().kind, Kind::NotFound);
        for name in ["a", "b"] {
            let home = Home::of(root.path(), name);
            home.create().unwrap();
            home.save_network(NetworkId([1; 32]), 7, true, &[]).unwrap();
        }
        let unclear = Home::find(&place(None), "node run").unwrap_err();
        assert!(unclear.message.contains("a, b"));
        assert!(unclear.hint.unwrap().starts_with("infinit node run --network a, or "));
        assert_eq!(Home::find(&place(Some("b")), "node run").unwrap().name, "b");
        assert_eq!(Home::find(&place(Some("c")), "node run").unwrap_err().kind, Kind::NotFound);
    }

    #[test]
    fn newer_and_half_written_files_are_refused_with_their_line() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::of(root.path(), "n");
        home.create().unwrap();
        let mut file = home.save_network(NetworkId([1; 32]), 7, true, &[]).unwrap();
        file.version = 2;
        home.save_network_file(&file).unwrap();
        assert!(home.network().unwrap_err().message.contains("version 2"));
        std::fs::write(home.file("node.toml"), "zone = \"a\"\nlisten = \"127.").unwrap();
        assert!(home.node_file().unwrap_err().message.contains("line 2"));
    }

    #[test]
    fn a_second_daemon_on_a_home_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::of(root.path(), "n");
        let lock = home.lock().unwrap();
        assert_eq!(home.lock().err().map(|fault| fault.kind), Some(Kind::Conflict));
        drop(lock);
        home.lock().unwrap();
    }
}
