//! The control API: what the daemon and its clients say to each other, as JSON over HTTP on `<home>/control.sock`.
//!
//! | route | request | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`] |
//! | `GET /v1/doctor` | | [`doctor::Checkup`] |
//! | `GET /v1/network` | | [`Network`] |
//! | `PATCH /v1/network` | [`going::SetNetwork`] | [`Network`] |
//! | `POST /v1/network/invitations` | [`Invite`] | [`Invitation`] |
//! | `POST /v1/network/leave` | | [`Left`] |
//! | `GET /v1/nodes` | | array of [`Node`] |
//! | `GET /v1/nodes/{id or name}` | | [`Node`]; `self` is the node that answers |
//! | `POST /v1/nodes/{id or name}/drain` | [`going::DrainNode`] | [`Node`]; its copies go elsewhere from now on |
//! | `POST /v1/nodes/{id or name}/remove` | [`going::RemoveNode`] | [`going::RemovedNode`] |
//! | `GET /v1/node/ready?timeout_ms=` | | [`Ready`], once it is so; a fault of kind `timed-out` otherwise |
//! | `POST /v1/node/stop` | [`going::StopNode`] | [`going::Stopping`]; then the process ends |
//! | `GET /v1/volumes` | | array of [`Volume`] |
//! | `POST /v1/volumes` | [`CreateVolume`] | [`Volume`] |
//! | `GET /v1/volumes/{name}` | | [`VolumeStatus`] |
//! | `PATCH /v1/volumes/{name}` | [`going::SetVolume`] | [`Volume`] |
//! | `DELETE /v1/volumes/{name}` | | [`DeletedVolume`] |
//! | `POST /v1/volumes/{name}/attach` | [`AttachVolume`] | [`Attachment`] |
//! | `POST /v1/volumes/{name}/recover` | [`recovery::RecoverVolume`] | [`recovery::RecoveredVolume`] |
//! | `POST /v1/volumes/{name}/scrub` | [`scrub::ScrubVolume`] | [`scrub::VolumeScrub`], begun or joined; `GET` tells of the last one |
//! | `POST /v1/volumes/{name}/detach` | [`DetachVolume`] | [`DetachedVolume`], also if it was not attached |
//!
//! Every failure is a [`Fault`] as JSON with the HTTP status of [`http_status`]. Sizes are bytes, times RFC 3339 in
//! UTC, ids are strings under `id`, names stand under `name`, lists are arrays. Names in paths are percent-encoded
//! ([`encode_segment`]). Answers may gain fields: clients ignore what they do not know. Requests with unknown fields
//! are refused, so that a misspelt one is never silently dropped.

pub mod doctor;
pub mod going;
pub mod recovery;
pub mod scrub;
pub mod silo;
pub mod slot;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::block::{BLOCK_BYTES, VOLUME_BYTES_MAX};
use crate::base::error::{Fault, Kind, Result};
use crate::base::id::{Epoch, InvitationId, NetworkId, NodeId, SiloId, VolumeId};
use crate::base::units::Size;
use crate::cluster::state::volume::{self, check_lease};
use crate::daemon::api::going::Duty;
use crate::interface::nbd::Counts;

pub use crate::daemon::api::slot::{Moving, Replica, ReplicaState, Slot};

/// The file name of the control socket in a daemon's home.
pub const SOCKET: &str = "control.sock";
/// The most bytes of a name.
pub const NAME_BYTES_MAX: usize = 64;
/// How many copies a volume has unless told otherwise.
pub const REPLICAS_DEFAULT: u8 = 3;
/// The most copies: beyond that a write waits for too many to gain anything.
pub const REPLICAS_MAX: u8 = volume::REPLICAS_MAX;
/// The lease's term unless told otherwise, in milliseconds.
pub const LEASE_MS_DEFAULT: u64 = 5_000;
/// The shortest time after which I/O may fail for want of a majority: a hiccup must not reach a file system.
pub const IO_TIMEOUT_MS_MIN: u64 = 1_000;
/// The longest.
pub const IO_TIMEOUT_MS_MAX: u64 = 86_400_000;
/// The longest path of a Unix socket, bytes (`sockaddr_un` less its final zero).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Everything at one moment, as `infinit status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub network: Network,
    pub nodes: Vec<Node>,
    pub volumes: Vec<Volume>,
    /// What is being copied, of all volumes together; absent while nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Moving>,
    /// What is wrong beyond single volumes: a node down, no quorum, a damaged silo.
    pub warnings: Vec<Warning>,
}

/// Something that is not as it should be, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A network as this machine knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub name: String,
    /// What this machine's passport allows.
    pub role: Role,
    /// This machine holds the network's key and may invite.
    pub owner: bool,
    /// This machine's node.
    pub node: NodeRef,
    /// How the cluster group stands; absent while no daemon runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
}

/// The cluster group: the voters that agree on members and volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// A majority of the voters answers, so changes are possible.
    pub quorum: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<NodeRef>,
    pub voters: Vec<NodeRef>,
    /// A silo that nobody reached for so long is replaced.
    #[serde(default)]
    pub down_after_ms: u64,
}

/// What a passport allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Contributes silos and attaches volumes.
    #[default]
    Storage,
    /// Attaches volumes and stores nothing.
    Client,
    /// Storage, and may invite others.
    Admin,
    /// Votes, and stores nothing.
    Witness,
}

/// A node named within something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRef {
    pub id: NodeId,
    pub name: String,
}

/// A member of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub name: String,
    pub role: Role,
    pub state: NodeState,
    /// Since when the daemon that answers has seen it in this state; null if that is not known.
    #[serde(default)]
    pub since: Option<String>,
    /// The node that answers.
    pub this: bool,
    pub voter: bool,
    pub leader: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Where the others reach it, `IP:PORT`.
    pub addresses: Vec<String>,
    /// Its Infinit's version, once it has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default)]
    pub duty: Duty,
    /// Copies of slots that lie on its silos.
    #[serde(default)]
    pub copies: u32,
    /// Why some of its copies do not go, though they should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    pub silos: Vec<Silo>,
}

/// Whether a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    Up,
    Down,
    /// Has a passport and has not been heard of yet.
    Joining,
    /// The daemon that answers began a moment ago and has not asked it yet; for three seconds at the most.
    Unknown,
}

/// One directory that a node contributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silo {
    pub id: SiloId,
    pub state: SiloState,
    /// Why it is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Known on its own node only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    pub capacity_bytes: u64,
    /// Null while its node does not tell, as what follows.
    #[serde(default)]
    pub used_bytes: Option<u64>,
    #[serde(default)]
    pub space: Option<silo::Space>,
    #[serde(default)]
    pub scrub: Option<silo::Scrub>,
}

/// Whether a silo serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiloState {
    Up,
    Down,
    /// Its disk failed or lost what it had acknowledged: it neither votes nor counts.
    Damaged,
    /// The cluster does not take it: it is not the silo that is known by its id.
    Foreign,
    /// Its disk has not answered for some seconds.
    Stalled,
    /// Its node is.
    Unknown,
}

/// A volume, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub id: VolumeId,
    pub name: String,
    pub size_bytes: u64,
    pub replicas: u8,
    pub durability: Durability,
    pub lease_ms: u64,
    /// I/O fails after so long without a majority of the copies; it waits if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_timeout_ms: Option<u64>,
    pub created_at: String,
    pub state: VolumeState,
    /// Why it is degraded or suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What would mend it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
    /// Copies that its slots should have beyond those that are up to date, or as good as can be seen while it is detached.
    #[serde(default)]
    pub missing_copies: u32,
    /// Slots that do not lie yet where they should.
    #[serde(default)]
    pub moving_slots: u32,
    /// What is being copied; absent while nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Moving>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// When a majority has it; a flush makes it durable, as with a disk's volatile cache.
    #[default]
    Flush,
    /// When a majority has it on disk.
    Write,
}

/// How a volume stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// Attached, every copy up to date.
    Healthy,
    /// Works; some copies are behind or away.
    Degraded,
    /// I/O waits: a slot has no majority.
    Suspended,
    /// Nobody has it attached.
    Detached,
}

/// Who has a volume attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub node: NodeRef,
    pub epoch: Epoch,
    pub since: String,
    /// Where NBD clients connect on that node; absent while the export is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd_uri: Option<String>,
}

/// A volume in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    #[serde(flatten)]
    pub volume: Volume,
    /// What NBD clients have asked for since it was attached; absent while it is served nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<Counts>,
    /// Damaged blocks repaired from another copy since it was attached; absent while it is served nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired_blocks: Option<u64>,
    pub slots: Vec<Slot>,
}

/// Asks for a new volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    pub name: String,
    pub size_bytes: u64,
    #[serde(default = "replicas_default")]
    pub replicas: u8,
    #[serde(default)]
    pub durability: Durability,
    #[serde(default = "lease_ms_default")]
    pub lease_ms: u64,
    /// Let I/O fail after so long without a majority; it waits if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_timeout_ms: Option<u64>,
}

fn replicas_default() -> u8 {
    REPLICAS_DEFAULT
}

fn lease_ms_default() -> u64 {
    LEASE_MS_DEFAULT
}

impl CreateVolume {
    /// Refuses what no cluster could create; the daemon checks again what the client has checked.
    pub fn check(&self) -> Result<()> {
        check_name("volume", &self.name)?;
        check_volume_size(Size(self.size_bytes))?;
        check_replicas(self.replicas)?;
        self.io_timeout_ms.map_or(Ok(()), check_io_timeout_ms)?;
        check_lease_ms(self.lease_ms)
    }
}

/// Asks to attach a volume to the daemon's node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachVolume {
    /// Where to serve NBD; a Unix socket in the home if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd: Option<NbdAddress>,
    /// Ask the holder to release, else wait its lease out.
    #[serde(default)]
    pub takeover: bool,
    /// Give up after so long; the daemon's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Asks to detach a volume, wherever it is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachVolume {
    /// Give up after so long; the daemon's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// A volume that nobody has attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachedVolume {
    #[serde(flatten)]
    pub volume: Volume,
    /// Whether somebody had it until now; if not, nothing was done.
    pub was_attached: bool,
}

/// A volume that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedVolume {
    pub id: VolumeId,
    pub name: String,
}

/// Asks for an invitation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    #[serde(default)]
    pub role: Role,
    pub expires_ms: u64,
    pub uses: u32,
}

/// An invitation. The token is a secret: whoever has it may join until it expires or is used up.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    pub id: InvitationId,
    pub token: String,
    pub role: Role,
    pub expires_at: String,
    pub uses: u32,
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, token: _, role, expires_at, uses } = self;
        write!(f, "Invitation({}, {role:?}, {uses} uses until {expires_at})", id.short())
    }
}

/// The network that this machine has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    pub id: NetworkId,
    pub name: String,
}

/// The answering node has joined, and the cluster group has a quorum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub node: NodeRef,
    pub network: String,
    /// Members that are up, those that were not asked yet when the time was over, and all of them.
    pub nodes_up: u32,
    #[serde(default)]
    pub nodes_unknown: u32,
    pub nodes: u32,
}

/// Where an export is served: `unix:PATH` or `tcp:IP:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdAddress {
    Unix(PathBuf),
    /// A loopback address: NBD proves nobody's identity.
    Tcp(SocketAddr),
}

impl FromStr for NbdAddress {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self> {
        const HINT: &str = "write unix:/run/pg.sock or tcp:127.0.0.1:10809";
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(Fault::usage("the path of the Unix socket is empty").hint(HINT));
            }
            if path.len() > SOCKET_PATH_BYTES_MAX {
                return Err(Fault::usage(format!(
                    "the path of a Unix socket has {SOCKET_PATH_BYTES_MAX} bytes at most"
                ))
                .hint("choose a shorter path"));
            }
            return Ok(NbdAddress::Unix(path.into()));
        }
        let Some(address) = text.strip_prefix("tcp:") else {
            return Err(Fault::usage(format!("'{text}' is no NBD address")).hint(HINT));
        };
        let Ok(address) = address.parse::<SocketAddr>() else {
            return Err(Fault::usage(format!("'{address}' is no IP:PORT")).hint(HINT));
        };
        if !address.ip().is_loopback() {
            return Err(Fault::usage(format!("{} is not this machine's loopback address", address.ip()))
                .hint("NBD proves nobody's identity: use 127.0.0.1 or a Unix socket"));
        }
        Ok(NbdAddress::Tcp(address))
    }
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NbdAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            NbdAddress::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl Serialize for NbdAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NbdAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The HTTP status that goes with a fault.
pub fn http_status(kind: Kind) -> u16 {
    match kind {
        Kind::Failed => 500,
        Kind::Usage => 400,
        Kind::NotFound => 404,
        Kind::Conflict => 409,
        Kind::Unreachable => 503,
        Kind::Refused => 403,
        Kind::TimedOut => 504,
    }
}

/// Percent-encodes one segment of a path (RFC 3986, section 2.3: all but the unreserved).
pub fn encode_segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    // A segment of dots alone would be taken for a way up.
    if encoded.bytes().all(|b| b == b'.') { encoded.replace('.', "%2E") } else { encoded }
}

/// Refuses a name that is empty, too long, or would not survive a path or a terminal. `what` is `volume` or `network`.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > NAME_BYTES_MAX {
        format!("has {} bytes, and {NAME_BYTES_MAX} is the most", name.len())
    } else if name.contains('/') {
        "contains '/'".to_owned()
    } else if name.chars().any(char::is_control) {
        "contains a control character".to_owned()
    } else if name.starts_with('-') {
        "starts with '-'".to_owned()
    } else if name == "." || name == ".." {
        "means a directory".to_owned()
    } else if name.trim() != name {
        "starts or ends with a space".to_owned()
    } else {
        return Ok(());
    };
    Err(Fault::usage(format!("the {what}'s name {why}"))
        .hint(format!("use 1 to {NAME_BYTES_MAX} bytes without '/' and control characters, like pg-data")))
}

/// Refuses a volume's size that is 0, no multiple of 4 KiB, or over 64 TiB.
pub fn check_volume_size(size: Size) -> Result<()> {
    if size.0 == 0 {
        return Err(Fault::usage("a volume of 0 bytes holds nothing").hint("write a size like --size 20GiB"));
    }
    if size.0 > VOLUME_BYTES_MAX {
        return Err(Fault::usage(format!("{size} is over {}, the largest volume", Size(VOLUME_BYTES_MAX)))
            .hint(format!("write a size up to --size {}, or use several volumes", Size(VOLUME_BYTES_MAX))));
    }
    if !size.0.is_multiple_of(BLOCK_BYTES) {
        let up = size.0.next_multiple_of(BLOCK_BYTES);
        return Err(Fault::usage(format!("{} bytes are no multiple of {}", size.0, Size(BLOCK_BYTES)))
            .hint(format!("the next multiple is --size {up}B; whole MiB and GiB always fit")));
    }
    Ok(())
}

/// Refuses a number of copies that no volume can have.
pub fn check_replicas(replicas: u8) -> Result<()> {
    let refuse = |why: &str| {
        Err(Fault::usage(format!("{replicas} replicas {why}")).hint("use 3, or 1 for a single copy without protection"))
    };
    match replicas {
        0 => refuse("hold nothing"),
        n if n > REPLICAS_MAX => refuse(&format!("are over {REPLICAS_MAX}, the most")),
        _ => Ok(()),
    }
}

/// Refuses a limit that a busy disk alone would reach, and one that nobody would wait for.
pub fn check_io_timeout_ms(io_timeout_ms: u64) -> Result<()> {
    if (IO_TIMEOUT_MS_MIN..=IO_TIMEOUT_MS_MAX).contains(&io_timeout_ms) {
        return Ok(());
    }
    Err(Fault::usage("I/O may fail after 1s to 1d without a majority").hint("without --io-timeout it waits"))
}

/// Refuses a lease too short to be renewed or too long to wait out.
pub fn check_lease_ms(lease_ms: u64) -> Result<()> {
    Ok(check_lease(lease_ms).map(|_| ())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_encoded_for_paths() {
        assert_eq!(encode_segment("pg-data_1.0~"), "pg-data_1.0~");
        assert_eq!(encode_segment("a b/ü?"), "a%20b%2F%C3%BC%3F");
        assert_eq!(encode_segment(".."), "%2E%2E");
    }

    #[test]
    fn names_are_refused_for_what_they_contain() {
        for name in ["pg", "pg-data.1", "données", &"n".repeat(64)] {
            check_name("volume", name).unwrap();
        }
        for name in ["", "a/b", "a\nb", "-a", ".", "..", " a", &"n".repeat(65), &"ü".repeat(33)] {
            let fault = check_name("volume", name).unwrap_err();
            assert_eq!(fault.kind, Kind::Usage, "{name}");
            assert!(fault.hint.is_some());
        }
    }

    #[test]
    fn a_volume_that_cannot_be_is_refused() {
        let good: CreateVolume = serde_json::from_str(r#"{"name":"pg","size_bytes":4096}"#).unwrap();
        good.check().unwrap();
        assert_eq!((good.replicas, good.lease_ms, good.durability), (3, 5000, Durability::Flush));
        let bad = [
            CreateVolume { size_bytes: 0, ..good.clone() },
            CreateVolume { size_bytes: 4097, ..good.clone() },
            CreateVolume { size_bytes: VOLUME_BYTES_MAX + 4096, ..good.clone() },
            CreateVolume { replicas: 0, ..good.clone() },
            CreateVolume { replicas: 8, ..good.clone() },
            CreateVolume { lease_ms: 999, ..good.clone() },
            CreateVolume { lease_ms: 600_001, ..good.clone() },
            CreateVolume { name: "a/b".into(), ..good },
        ];
        for request in bad {
            assert_eq!(request.check().unwrap_err().kind, Kind::Usage, "{request:?}");
        }
        assert!(serde_json::from_str::<CreateVolume>(r#"{"name":"pg","size_bytes":1,"sise":2}"#).is_err());
    }

    #[test]
    fn nbd_addresses_read_and_print() {
        for text in ["unix:/run/pg.sock", "tcp:127.0.0.1:10809", "tcp:[::1]:0"] {
            let address: NbdAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(serde_json::from_str::<NbdAddress>(&format!("\"{text}\"")).unwrap(), address);
        }
        for text in ["", "unix:", "/run/pg.sock", "tcp:localhost:1", "tcp:127.0.0.1", "tcp:0.0.0.0:1", "tcp:10.0.0.1:1"]
        {
            assert_eq!(text.parse::<NbdAddress>().unwrap_err().kind, Kind::Usage, "{text}");
        }
        assert!(format!("unix:/{}", "p".repeat(107)).parse::<NbdAddress>().is_err());
    }

    #[test]
    fn an_invitation_never_prints_its_token() {
        let invitation = Invitation {
            id: InvitationId([1; 16]),
            token: "secret".into(),
            role: Role::Storage,
            expires_at: "2026-11-22T00:00:00Z".into(),
            uses: 1,
        };
        assert!(!format!("{invitation:?}").contains("secret"));
    }
}
