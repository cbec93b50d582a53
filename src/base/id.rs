//! Every id is a type of its own, so that a silo is never taken for a volume nor an epoch for a sequence number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Defines a fixed-width binary id that people read and type as lower-case hexadecimal.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Draws a random id from the operating system.
            pub fn random() -> Self {
                Self(rand::random())
            }

            /// The first eight digits, enough for a person to tell a few apart.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| BadId)?;
                Ok(Self(bytes.try_into().map_err(|_| BadId)?))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    Ok(Self(<[u8; $bytes]>::deserialize(deserializer)?))
                }
            }
        }
    };
}

/// Defines a counter-like id.
macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl $name {
            pub const ZERO: Self = Self(0);

            /// The one after this.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

hex_id!(
    /// A network: the bytes of its Ed25519 public key.
    NetworkId, 32
);
hex_id!(
    /// A node: the bytes of its Ed25519 public key, from which its libp2p peer id follows.
    NodeId, 32
);
hex_id!(
    /// A volume: drawn at random at creation, never reused.
    VolumeId, 16
);
hex_id!(
    /// A silo: one directory that a node contributes. A blank or restored disk gets a new one.
    SiloId, 16
);
hex_id!(
    /// An invitation to a network.
    InvitationId, 16
);
hex_id!(
    /// A snapshot of a volume.
    SnapshotId, 16
);

number_id!(
    /// Who may write a volume: granted by the cluster state at each attach, one higher each time.
    Epoch, u64
);
number_id!(
    /// The number a writer gives a write, across the whole volume.
    Seq, u64
);
number_id!(
    /// A random number that a silo replaces at each opening.
    Incarnation, u64
);
number_id!(
    /// The index of a slot within its volume.
    SlotIndex, u32
);
number_id!(
    /// The configuration number of a slot: one higher with each change of its silos.
    ConfigNumber, u32
);

/// One slot of one volume; with a silo it names a replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SlotKey {
    pub volume: VolumeId,
    pub slot: SlotIndex,
}

/// The version of a record: the epoch and the number it was first written with, for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Stamp {
    pub epoch: Epoch,
    pub seq: Seq,
}

impl Stamp {
    pub const ZERO: Self = Self { epoch: Epoch(0), seq: Seq(0) };

    pub fn new(epoch: Epoch, seq: Seq) -> Self {
        Self { epoch, seq }
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch.0, self.seq.0)
    }
}

/// Text that is no id of the kind asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct BadId;

impl fmt::Display for BadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an id of the right length in hexadecimal")
    }
}

impl std::error::Error for BadId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_prints() {
        let id = VolumeId::random();
        assert_eq!(id.to_string().parse::<VolumeId>(), Ok(id));
        assert_eq!("12".parse::<VolumeId>(), Err(BadId));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<VolumeId>(&json).unwrap(), id);
    }

    #[test]
    fn stamps_order_by_epoch_first() {
        assert!(Stamp::new(Epoch(2), Seq(1)) > Stamp::new(Epoch(1), Seq(9)));
    }
}
