//! A node's signed word on where it is.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::base::address::Address;
use crate::base::id::NodeId;
use crate::transport::identity::{NodeKey, Signature, SignedUse, verify};

/// The most addresses of each kind in a record.
pub const ADDRESSES_MAX: usize = 16;
/// The longest encoded record: its addresses, id and signature fit with room to spare.
const RECORD_BYTES_MAX: usize = 1024;

/// What the node signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Terms {
    node: NodeId,
    data: Vec<Address>,
    discovery: Vec<SocketAddr>,
    sequence: u64,
}

/// Where a node's data plane and discovery listen, signed with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRecord {
    terms: Terms,
    signature: Signature,
}

impl AddressRecord {
    /// A record of this node. `sequence` grows with each: milliseconds since 1970 unless a later one was used before.
    pub fn sign(
        key: &NodeKey,
        data: Vec<Address>,
        discovery: Vec<SocketAddr>,
        sequence: u64,
    ) -> Result<AddressRecord, RecordError> {
        let terms = Terms { node: key.node(), data, discovery, sequence };
        let bytes = terms.encode()?;
        Ok(AddressRecord { terms, signature: key.sign(SignedUse::AddressRecord, &bytes) })
    }

    pub fn node(&self) -> NodeId {
        self.terms.node
    }

    /// Where the data plane listens.
    pub fn data(&self) -> &[Address] {
        &self.terms.data
    }

    /// Where discovery listens.
    pub fn discovery(&self) -> &[SocketAddr] {
        &self.terms.discovery
    }

    pub fn sequence(&self) -> u64 {
        self.terms.sequence
    }

    /// The bytes that are published.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        postcard::to_stdvec(self).map_err(|_| RecordError::Damaged)
    }

    /// Reads and verifies a record; any bytes are safe.
    pub fn decode(bytes: &[u8]) -> Result<AddressRecord, RecordError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::Damaged);
        }
        let Ok((record, [])) = postcard::take_from_bytes::<AddressRecord>(bytes) else {
            return Err(RecordError::Damaged);
        };
        let signed = record.terms.encode()?;
        if verify(&record.terms.node.0, SignedUse::AddressRecord, &signed, &record.signature) {
            Ok(record)
        } else {
            Err(RecordError::Forged)
        }
    }
}

impl Terms {
    fn encode(&self) -> Result<Vec<u8>, RecordError> {
        if self.data.len() > ADDRESSES_MAX || self.discovery.len() > ADDRESSES_MAX {
            return Err(RecordError::TooManyAddresses);
        }
        postcard::to_stdvec(self).map_err(|_| RecordError::Damaged)
    }
}

/// Why bytes are no node's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    Damaged,
    /// Not signed by the node it names.
    Forged,
    TooManyAddresses,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RecordError::Damaged => "the address record is damaged",
            RecordError::Forged => "the address record is not signed by its node",
            RecordError::TooManyAddresses => "the address record holds too many addresses",
        })
    }
}

impl std::error::Error for RecordError {}

/// Fuzz entry: reads any bytes as an address record.
pub fn fuzz_address_record(bytes: &[u8]) {
    // Only a panic would be a finding.
    let _ = AddressRecord::decode(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> AddressRecord {
        let data = vec!["192.0.2.7:7000".parse().unwrap(), "[2001:db8::7]:7000".parse().unwrap()];
        AddressRecord::sign(&NodeKey::generate(), data, vec!["192.0.2.7:7001".parse().unwrap()], 42).unwrap()
    }

    #[test]
    fn a_record_reads_back_and_no_bit_of_it_can_change() {
        let record = record();
        let bytes = record.encode().unwrap();
        assert_eq!(AddressRecord::decode(&bytes).unwrap(), record);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(AddressRecord::decode(&bad).is_err(), "bit {bit}");
        }
        let many = vec!["192.0.2.7:7000".parse().unwrap(); ADDRESSES_MAX + 1];
        let refused = AddressRecord::sign(&NodeKey::generate(), many, Vec::new(), 1);
        assert_eq!(refused, Err(RecordError::TooManyAddresses));
    }

    #[test]
    fn the_longest_record_fits() {
        let most: Vec<SocketAddr> = vec!["[2001:db8:1:2:3:4:5:6]:65535".parse().unwrap(); ADDRESSES_MAX];
        let record = AddressRecord::sign(
            &NodeKey::generate(),
            most.iter().copied().map(Address::from).collect(),
            most,
            u64::MAX,
        )
        .unwrap();
        assert_eq!(AddressRecord::decode(&record.encode().unwrap()), Ok(record));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            fuzz_address_record(&bytes);
        }
    }
}
