//! Who a node is: an Ed25519 key, kept in a file that only its owner reads.
//!
//! A node's key is its libp2p identity and the root of its TLS certificates; a network's key signs passports and
//! invitations. Every signature is made over a purpose and the message, so that one made for one thing is never
//! valid for another.
//!
//! ```text
//! offset size   a key file, 41 bytes
//!      0    4  magic "INFK"
//!      4    1  kind: 1 the network's key, 2 a node's
//!      5   32  the secret (RFC 8032)
//!     37    4  CRC32C of bytes 0..37, little-endian
//! ```

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base::error::plain;
use crate::base::id::{NetworkId, NodeId};

const MAGIC: [u8; 4] = *b"INFK";
const FILE_BYTES: usize = 41;
/// A libp2p peer id of an Ed25519 key is these bytes (identity multihash, protobuf header) and the public key.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// What a signature is for. The text is part of what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedUse {
    Invitation,
    Passport,
    AddressRecord,
}

impl SignedUse {
    fn prefix(self) -> &'static [u8] {
        match self {
            SignedUse::Invitation => b"infinit invitation v1\0",
            SignedUse::Passport => b"infinit passport v1\0",
            SignedUse::AddressRecord => b"infinit address record v1\0",
        }
    }

    fn message(self, bytes: &[u8]) -> Vec<u8> {
        [self.prefix(), bytes].concat()
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(&data_encoding::HEXLOWER.encode(&self.0));
        }
        // Serde knows arrays of up to 32 elements: a signature is written as its two halves, without a length.
        let (mut first, mut second) = ([0; 32], [0; 32]);
        first.copy_from_slice(&self.0[..32]);
        second.copy_from_slice(&self.0[32..]);
        (first, second).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut bytes = [0; 64];
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            let raw = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
            bytes = raw.try_into().map_err(|_| D::Error::custom("a signature has 64 bytes"))?;
        } else {
            let (first, second) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
            bytes[..32].copy_from_slice(&first);
            bytes[32..].copy_from_slice(&second);
        }
        Ok(Self(bytes))
    }
}

/// Whether `signature` was made over `bytes` for this use by the owner of the public key.
pub fn verify(public: &[u8; 32], signed_use: SignedUse, bytes: &[u8], signature: &Signature) -> bool {
    ed25519::PublicKey::try_from_bytes(public).is_ok_and(|key| key.verify(&signed_use.message(bytes), &signature.0))
}

/// The libp2p name of a node; `None` if the id is no Ed25519 public key.
pub fn peer_id(node: NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&node.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The node behind a libp2p name; `None` if its key is of another kind.
pub fn node_id(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&PEER_ID_PREFIX)?;
    Some(NodeId(key.try_into().ok()?))
}

/// The key of a network. Whoever holds it owns the network.
#[derive(Clone)]
pub struct NetworkKey(ed25519::Keypair);

/// The key of a node: its libp2p identity and what its TLS certificates are signed with.
#[derive(Clone)]
pub struct NodeKey(ed25519::Keypair);

/// The key inside a join token, used once to sign the passport of whoever joins with it.
#[derive(Clone)]
pub struct TokenKey(ed25519::Keypair);

impl NetworkKey {
    const KIND: u8 = 1;

    /// Draws a new key from the operating system.
    pub fn generate() -> Self {
        Self(ed25519::Keypair::generate())
    }

    /// Reads the key from its file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        load(path, Self::KIND).map(Self)
    }

    /// Writes the key to a new file that only its owner can read. Never overwrites one.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        save(path, Self::KIND, &self.0)
    }

    /// The network this is the key of.
    pub fn network(&self) -> NetworkId {
        NetworkId(self.0.public().to_bytes())
    }

    /// Signs `bytes` for one use.
    pub fn sign(&self, signed_use: SignedUse, bytes: &[u8]) -> Signature {
        sign(&self.0, signed_use, bytes)
    }
}

impl NodeKey {
    const KIND: u8 = 2;

    /// Draws a new key from the operating system.
    pub fn generate() -> Self {
        Self(ed25519::Keypair::generate())
    }

    /// Reads the key from its file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        load(path, Self::KIND).map(Self)
    }

    /// Writes the key to a new file that only its owner can read. Never overwrites one.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        save(path, Self::KIND, &self.0)
    }

    /// The node this is the key of.
    pub fn node(&self) -> NodeId {
        NodeId(self.0.public().to_bytes())
    }

    /// Signs `bytes` for one use.
    pub fn sign(&self, signed_use: SignedUse, bytes: &[u8]) -> Signature {
        sign(&self.0, signed_use, bytes)
    }

    /// The key in libp2p's terms, for the swarm and for certificates.
    pub(crate) fn keypair(&self) -> Keypair {
        Keypair::from(self.0.clone())
    }
}

impl TokenKey {
    /// Draws a new key from the operating system.
    pub fn generate() -> Self {
        Self(ed25519::Keypair::generate())
    }

    /// The key that an invitation names.
    pub fn public(&self) -> [u8; 32] {
        self.0.public().to_bytes()
    }

    /// Signs `bytes` for one use.
    pub fn sign(&self, signed_use: SignedUse, bytes: &[u8]) -> Signature {
        sign(&self.0, signed_use, bytes)
    }

    /// The secret, to be put into a token and nowhere else.
    pub(crate) fn secret(&self) -> [u8; 32] {
        secret_bytes(&self.0)
    }

    pub(crate) fn from_secret(secret: [u8; 32]) -> Option<Self> {
        keypair_of(secret).map(Self)
    }
}

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkKey({})", self.network().short())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.node().short())
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

/// Why a key file could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    Missing(PathBuf),
    /// Others than the owner may read the file; the mode is the low nine bits.
    TooOpen {
        path: PathBuf,
        mode: u32,
    },
    /// Not a key file of this kind, cut, or its checksum is wrong.
    Damaged(PathBuf),
    /// A key is there already, and is never overwritten.
    AlreadyThere(PathBuf),
    Io {
        path: PathBuf,
        why: String,
    },
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Missing(path) => write!(f, "there is no key at {}", path.display()),
            KeyError::TooOpen { path, mode } => {
                write!(f, "the key {} can be read by others (mode {mode:o}, must be 600)", path.display())
            }
            KeyError::Damaged(path) => write!(f, "the key {} is damaged", path.display()),
            KeyError::AlreadyThere(path) => write!(f, "there already is a key at {}", path.display()),
            KeyError::Io { path, why } => write!(f, "cannot use the key {}: {why}", path.display()),
        }
    }
}

impl std::error::Error for KeyError {}

fn sign(key: &ed25519::Keypair, signed_use: SignedUse, bytes: &[u8]) -> Signature {
    let raw = key.sign(&signed_use.message(bytes));
    Signature(raw.try_into().expect("an Ed25519 signature has 64 bytes by definition"))
}

fn secret_bytes(key: &ed25519::Keypair) -> [u8; 32] {
    let mut secret = [0; 32];
    secret.copy_from_slice(key.secret().as_ref());
    secret
}

fn keypair_of(mut secret: [u8; 32]) -> Option<ed25519::Keypair> {
    ed25519::SecretKey::try_from_bytes(&mut secret).ok().map(ed25519::Keypair::from)
}

fn load(path: &Path, kind: u8) -> Result<ed25519::Keypair, KeyError> {
    let io = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => KeyError::Missing(path.to_owned()),
        _ => KeyError::Io { path: path.to_owned(), why: plain(&error) },
    };
    let file = File::open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::TooOpen { path: path.to_owned(), mode });
    }
    let mut raw = Vec::with_capacity(FILE_BYTES + 1);
    file.take(FILE_BYTES as u64 + 1).read_to_end(&mut raw).map_err(io)?;
    decode_key(&raw, kind).ok_or_else(|| KeyError::Damaged(path.to_owned()))
}

fn decode_key(raw: &[u8], kind: u8) -> Option<ed25519::Keypair> {
    let raw: &[u8; FILE_BYTES] = raw.try_into().ok()?;
    let sound = raw[..4] == MAGIC && raw[4] == kind && raw[37..] == crc32c::crc32c(&raw[..37]).to_le_bytes();
    if !sound {
        return None;
    }
    keypair_of(raw[5..37].try_into().ok()?)
}

/// Writes to a temporary file beside the target, syncs it, moves it there if nothing is there, syncs the folder.
fn save(path: &Path, kind: u8, key: &ed25519::Keypair) -> Result<(), KeyError> {
    let io = |error: std::io::Error| KeyError::Io { path: path.to_owned(), why: plain(&error) };
    let mut raw = [0; FILE_BYTES];
    raw[..4].copy_from_slice(&MAGIC);
    raw[4] = kind;
    raw[5..37].copy_from_slice(&secret_bytes(key));
    let crc = crc32c::crc32c(&raw[..37]);
    raw[37..].copy_from_slice(&crc.to_le_bytes());

    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let temporary = folder.join(format!(".key-{:016x}", rand::random::<u64>()));
    let written = write_private(&temporary, &raw).map_err(io).and_then(|()| {
        renameat_with(CWD, &temporary, CWD, path, RenameFlags::NOREPLACE).map_err(|error| match error {
            rustix::io::Errno::EXIST => KeyError::AlreadyThere(path.to_owned()),
            other => io(other.into()),
        })
    });
    if let Err(error) = written {
        // The secret must not stay behind; that the removal fails too adds nothing to the error at hand.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

fn write_private(path: &Path, raw: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(raw)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_private_on_disk_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let key = NodeKey::generate();
        key.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(NodeKey::load(&path).unwrap().node(), key.node());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays behind");
    }

    #[test]
    fn each_bad_key_file_has_its_own_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("network.key");
        assert_eq!(NetworkKey::load(&path).unwrap_err(), KeyError::Missing(path.clone()));
        let key = NetworkKey::generate();
        key.save(&path).unwrap();
        assert_eq!(NetworkKey::generate().save(&path), Err(KeyError::AlreadyThere(path.clone())));
        assert_eq!(NetworkKey::load(&path).unwrap().network(), key.network());
        assert_eq!(NodeKey::load(&path).unwrap_err(), KeyError::Damaged(path.clone()), "a key of another kind");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(NetworkKey::load(&path).unwrap_err(), KeyError::TooOpen { path: path.clone(), mode: 0o640 });
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();

        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(NetworkKey::load(&path).unwrap_err(), KeyError::Damaged(path.clone()), "byte {at}");
        }
        std::fs::write(&path, &good[..40]).unwrap();
        assert_eq!(NetworkKey::load(&path).unwrap_err(), KeyError::Damaged(path.clone()));
        let nowhere = dir.path().join("no/folder/key");
        assert!(matches!(key.save(&nowhere), Err(KeyError::Io { .. })));
    }

    #[test]
    fn a_node_is_its_libp2p_peer() {
        let key = NodeKey::generate();
        let peer = key.keypair().public().to_peer_id();
        assert_eq!(peer_id(key.node()), Some(peer));
        assert_eq!(node_id(&peer), Some(key.node()));
        assert_eq!(node_id(&PeerId::random()), None);
    }

    #[test]
    fn a_signature_is_good_for_its_use_its_message_and_its_key_only() {
        let key = NodeKey::generate();
        let signature = key.sign(SignedUse::AddressRecord, b"here");
        assert!(verify(&key.node().0, SignedUse::AddressRecord, b"here", &signature));
        assert!(!verify(&key.node().0, SignedUse::Passport, b"here", &signature));
        assert!(!verify(&key.node().0, SignedUse::AddressRecord, b"there", &signature));
        assert!(!verify(&NodeKey::generate().node().0, SignedUse::AddressRecord, b"here", &signature));
    }

    #[test]
    fn nothing_prints_a_secret() {
        let (node, token) = (NodeKey::generate(), TokenKey::generate());
        assert_eq!(format!("{node:?}"), format!("NodeKey({})", node.node().short()));
        assert_eq!(format!("{token:?}"), "TokenKey");
    }
}
