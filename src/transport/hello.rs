//! The first words on a connection: who am I, of which network, what for.
//!
//! ```text
//! dialler                         listener
//!   Hello ───────────────────────▶  checks version, network, passport, membership
//!   checks the same  ◀─────────────  Hello, or Refusal with its reason
//!   Accepted, or Refusal ─────────▶
//!
//! offset size   one message, in a frame of its own
//!      0    4  magic "INFH"
//!      4    1  kind: 1 hello, 2 refusal, 3 accepted
//!      5    2  protocol version of the sender, little-endian
//!      7       a hello: network, purpose, passport (postcard); a refusal: its reason, UTF-8
//! ```
//!
//! Everything up to the reason of a refusal stays as it is in all versions, so that two versions can tell each other
//! why they do not talk.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::id::{NetworkId, NodeId};
use crate::transport::network::Purpose;
use crate::transport::passport::{PASSPORT_BYTES_MAX, Passport, PassportError};

/// The version of the data plane's protocol. History: 1, the first.
pub const PROTOCOL_VERSION: u16 = 1;
/// The longest message of the greeting; nobody gets more memory before it has proved a passport.
pub(crate) const HELLO_BYTES_MAX: usize = PASSPORT_BYTES_MAX + 256;
/// The longest reason of a refusal, in bytes; what is beyond is not shown.
const REASON_BYTES_MAX: usize = 512;

const MAGIC: [u8; 4] = *b"INFH";
const HEAD_BYTES: usize = 7;

/// What a node says of itself when a connection opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) network: NetworkId,
    pub(crate) purpose: Purpose,
    pub(crate) passport: Passport,
}

impl Hello {
    /// Checks all that can be told offline: that the peer is of this network and that the passport is its own.
    pub(crate) fn check(&self, network: NetworkId, peer: NodeId, now: u64) -> Result<(), Refused> {
        if self.network != network {
            return Err(Refused::Network { mine: network, theirs: self.network });
        }
        self.passport.verify_holder(network, peer, now).map_err(Refused::Passport)
    }
}

/// One message of the greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    Hello(Box<Hello>),
    Refusal(String),
    Accepted,
}

impl Greeting {
    /// The bytes of the message.
    pub(crate) fn encode(&self) -> Bytes {
        let (kind, body) = match self {
            // Postcard into a vector fails for no value of this type: all lengths are known.
            Greeting::Hello(hello) => (1, postcard::to_stdvec(hello).unwrap_or_default()),
            Greeting::Refusal(reason) => (2, reason.clone().into_bytes()),
            Greeting::Accepted => (3, Vec::new()),
        };
        [&MAGIC[..], &[kind], &PROTOCOL_VERSION.to_le_bytes(), &body].concat().into()
    }

    /// Reads a message; any bytes are safe.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Greeting, Refused> {
        let Some((head, body)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Err(Refused::Garbage) };
        if head[..4] != MAGIC {
            return Err(Refused::Garbage);
        }
        if head[4] == 2 {
            return Ok(Greeting::Refusal(readable(body)));
        }
        let version = u16::from_le_bytes([head[5], head[6]]);
        if version != PROTOCOL_VERSION {
            return Err(Refused::Version(version));
        }
        match head[4] {
            1 => match postcard::take_from_bytes::<Hello>(body) {
                // A later version may say more.
                Ok((hello, _)) => Ok(Greeting::Hello(Box::new(hello))),
                Err(_) => Err(Refused::Garbage),
            },
            3 if body.is_empty() => Ok(Greeting::Accepted),
            _ => Err(Refused::Garbage),
        }
    }
}

/// A stranger's text, fit for a terminal and a log.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(REASON_BYTES_MAX)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Why one node does not talk to another. The text is what the other side gets to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Garbage,
    Version(u16),
    Network {
        mine: NetworkId,
        theirs: NetworkId,
    },
    Passport(PassportError),
    /// The cluster does not admit it: no member, or revoked.
    Admission(String),
    /// It already has as many connections as one node may have.
    Connections,
    /// The other side refused us; its reason.
    ByPeer(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Garbage => f.write_str("what it says is no greeting"),
            Refused::Version(theirs) => {
                write!(f, "it speaks protocol version {theirs}, this node version {PROTOCOL_VERSION}")
            }
            Refused::Network { mine, theirs } => {
                write!(f, "it is of network {}, this node of network {}", theirs.short(), mine.short())
            }
            Refused::Passport(error) => error.fmt(f),
            Refused::Admission(reason) | Refused::ByPeer(reason) => f.write_str(reason),
            Refused::Connections => f.write_str("this node has too many connections open already"),
        }
    }
}

impl std::error::Error for Refused {}

/// Fuzz entry: reads any bytes as a greeting, and as the body of one, and checks what it says.
pub fn fuzz_hello(bytes: &[u8]) {
    // The head must not keep a fuzzer out.
    let framed = [&MAGIC[..], &[1], &PROTOCOL_VERSION.to_le_bytes(), bytes].concat();
    for bytes in [bytes, &framed] {
        if let Ok(Greeting::Hello(hello)) = Greeting::decode(bytes) {
            // Refused or not, no bytes may make this panic.
            let _ = hello.check(hello.network, hello.passport.node(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::identity::{NetworkKey, NodeKey};
    use crate::transport::passport::Role;
    use proptest::prelude::*;

    #[test]
    fn greetings_read_back_and_say_what_is_wrong() {
        let (owner, node) = (NetworkKey::generate(), NodeKey::generate().node());
        let passport = Passport::by_network(&owner, node, Role::Storage, 10).unwrap();
        let hello = Hello { network: owner.network(), purpose: Purpose::Data, passport };
        for greeting in
            [Greeting::Hello(Box::new(hello.clone())), Greeting::Refusal("revoked".into()), Greeting::Accepted]
        {
            assert_eq!(Greeting::decode(&greeting.encode()).unwrap(), greeting);
        }
        hello.check(owner.network(), node, 10).unwrap();
        let other = NetworkKey::generate().network();
        assert!(matches!(hello.check(other, node, 10), Err(Refused::Network { .. })));
        let refused = hello.check(owner.network(), NodeKey::generate().node(), 10);
        assert_eq!(refused, Err(Refused::Passport(PassportError::WrongNode)));

        let mut newer = Greeting::Accepted.encode().to_vec();
        newer[5] = 9;
        assert_eq!(Greeting::decode(&newer), Err(Refused::Version(9)));
        newer[4] = 2;
        newer.extend_from_slice(b"too old\x1b[31m");
        assert_eq!(Greeting::decode(&newer), Ok(Greeting::Refusal("too old [31m".into())));
        assert_eq!(Greeting::decode(b"GET / HTTP/1.1\r\n"), Err(Refused::Garbage));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0_u8..5) {
            fuzz_hello(&bytes);
            fuzz_hello(&[&MAGIC[..], &[kind], &PROTOCOL_VERSION.to_le_bytes(), &bytes].concat());
        }
    }
}
