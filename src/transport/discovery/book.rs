//! What is known of peers: in memory for everyone who asks, in redb for the next start.
//!
//! One table, `peers`: the node's id (32 bytes) → a version byte (1) and what is known (postcard). The node's own
//! record is kept too, so that its sequence numbers go on after a restart, whatever the clock says then. It is a
//! cache of hints: at most [`PEERS_MAX`] entries, those not heard of for longest make room.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::base::address::Address;
use crate::base::id::NodeId;
use crate::transport::discovery::record::{ADDRESSES_MAX, AddressRecord};
use crate::transport::discovery::{DiscoveryError, Seed};

const PEERS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("peers");
const VERSION: u8 = 1;
/// The most peers remembered; each takes about a kilobyte.
pub(super) const PEERS_MAX: usize = 1024;
/// redb's own cache: the file is small and read once.
const CACHE_BYTES: usize = 1 << 20;

/// What is known of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Its own word, verified when it was learnt.
    record: Option<AddressRecord>,
    /// What others said: the token, the cluster state, the node itself when it connected.
    data: Vec<Address>,
    discovery: Vec<SocketAddr>,
    /// Grows with each change of the book; the entry with the lowest makes room.
    touched: u64,
}

/// The peers this node knows of.
pub(super) struct Book {
    entries: Mutex<Entries>,
    database: Arc<Database>,
    path: PathBuf,
}

#[derive(Default)]
struct Entries {
    by_node: HashMap<NodeId, Entry>,
    /// Nodes whose entry is newer than what is on disk.
    unsaved: Vec<NodeId>,
    clock: u64,
}

impl Book {
    /// Opens or creates the file of known peers, off the runtime's threads.
    pub(super) async fn open(path: PathBuf) -> Result<Book, DiscoveryError> {
        let opening = tokio::task::spawn_blocking(move || Self::open_blocking(&path));
        opening.await.map_err(|_| DiscoveryError::Stopped)?
    }

    fn open_blocking(path: &Path) -> Result<Book, DiscoveryError> {
        let cannot = |why: String| DiscoveryError::Peers { path: path.to_owned(), why };
        let database =
            Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|e| cannot(e.to_string()))?;
        let mut entries = Entries::default();
        let read = read_all(&database, &mut entries).map_err(|e| cannot(e.to_string()));
        read?;
        Ok(Book { entries: Mutex::new(entries), database: Arc::new(database), path: path.to_owned() })
    }

    /// Where a node's data plane is: its own word first, then what others said.
    pub(super) fn data_addresses(&self, node: NodeId) -> Vec<Address> {
        let entries = self.entries();
        let Some(entry) = entries.by_node.get(&node) else { return Vec::new() };
        let own = entry.record.as_ref().map_or(&[][..], AddressRecord::data);
        merged(own, &entry.data)
    }

    /// Where a node's discovery is: its own word first, then what others said.
    pub(super) fn discovery_addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        let entries = self.entries();
        let Some(entry) = entries.by_node.get(&node) else { return Vec::new() };
        let own = entry.record.as_ref().map_or(&[][..], AddressRecord::discovery);
        merged(own, &entry.discovery)
    }

    /// All nodes of which a discovery address is known, those heard of last first.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        let entries = self.entries();
        let mut nodes: Vec<(u64, NodeId)> = entries.by_node.iter().map(|(node, e)| (e.touched, *node)).collect();
        nodes.sort_unstable_by(|a, b| b.cmp(a));
        nodes.into_iter().map(|(_, node)| node).collect()
    }

    /// The sequence number of the last record known of a node, 0 without one.
    pub(super) fn sequence(&self, node: NodeId) -> u64 {
        let entries = self.entries();
        entries.by_node.get(&node).and_then(|entry| entry.record.as_ref()).map_or(0, AddressRecord::sequence)
    }

    /// Takes in a verified record, unless a newer one is known.
    pub(super) fn learn(&self, record: AddressRecord) {
        self.change(record.node(), |entry| {
            let newer = entry.record.as_ref().is_none_or(|known| known.sequence() < record.sequence());
            if newer {
                entry.record = Some(record);
            }
        });
    }

    /// Takes in where a node that is connected says its discovery listens.
    pub(super) fn learn_discovery(&self, node: NodeId, addresses: &[SocketAddr]) {
        self.change(node, |entry| entry.discovery = merged(addresses, &entry.discovery));
    }

    /// Takes in what a token or the cluster state says.
    pub(super) fn seed(&self, seed: &Seed) {
        self.change(seed.node, |entry| {
            entry.data = merged(&seed.data, &entry.data);
            entry.discovery = merged(&seed.discovery, &entry.discovery);
        });
    }

    /// Drops all that is known of a node.
    pub(super) fn forget(&self, node: NodeId) {
        let mut entries = self.entries();
        if entries.by_node.remove(&node).is_some() {
            entries.unsaved.push(node);
        }
    }

    fn change(&self, node: NodeId, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries();
        entries.clock += 1;
        let touched = entries.clock;
        let entry = entries.by_node.entry(node).or_default();
        let before = entry.clone();
        change(entry);
        if *entry == before {
            return;
        }
        entry.touched = touched;
        entries.unsaved.push(node);
        if entries.by_node.len() > PEERS_MAX {
            let oldest = entries.by_node.iter().min_by_key(|(_, entry)| entry.touched).map(|(node, _)| *node);
            if let Some(oldest) = oldest {
                entries.by_node.remove(&oldest);
                entries.unsaved.push(oldest);
            }
        }
    }

    /// Whether something is not on disk yet.
    pub(super) fn is_unsaved(&self) -> bool {
        !self.entries().unsaved.is_empty()
    }

    /// Writes what changed; blocks on the disk. A failure leaves it to be tried again.
    pub(super) fn save(&self) -> Result<(), DiscoveryError> {
        let changed: Vec<(NodeId, Option<Entry>)> = {
            let mut entries = self.entries();
            let mut nodes = std::mem::take(&mut entries.unsaved);
            nodes.sort_unstable();
            nodes.dedup();
            nodes.into_iter().map(|node| (node, entries.by_node.get(&node).cloned())).collect()
        };
        if changed.is_empty() {
            return Ok(());
        }
        write_all(&self.database, &changed).map_err(|error| {
            self.entries().unsaved.extend(changed.iter().map(|(node, _)| *node));
            DiscoveryError::Peers { path: self.path.clone(), why: error.to_string() }
        })
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Each use leaves the map whole, so a panic elsewhere leaves nothing half done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first list and what the second adds to it, bounded.
fn merged<A: Clone + PartialEq>(first: &[A], second: &[A]) -> Vec<A> {
    let mut all: Vec<A> = Vec::new();
    for address in first.iter().chain(second) {
        if all.len() < ADDRESSES_MAX && !all.contains(address) {
            all.push(address.clone());
        }
    }
    all
}

fn read_all(database: &Database, entries: &mut Entries) -> Result<(), redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(PEERS) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for row in table.iter()? {
        let (key, value) = row?;
        // A hint that does not read, of another version perhaps, is no loss: the network knows.
        if let Some((&VERSION, bytes)) = value.value().split_first()
            && let Ok(entry) = postcard::from_bytes::<Entry>(bytes)
        {
            entries.clock = entries.clock.max(entry.touched);
            entries.by_node.insert(NodeId(*key.value()), entry);
        }
    }
    Ok(())
}

fn write_all(database: &Database, changed: &[(NodeId, Option<Entry>)]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(PEERS)?;
        for (node, entry) in changed {
            let encoded = entry.as_ref().and_then(|entry| postcard::to_stdvec(entry).ok());
            match encoded {
                Some(bytes) => table.insert(&node.0, [&[VERSION][..], &bytes].concat().as_slice())?,
                None => table.remove(&node.0)?,
            };
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::identity::NodeKey;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn data(port: u16) -> Address {
        at(port).into()
    }

    #[tokio::test]
    async fn the_newest_word_of_a_node_wins_and_survives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.redb");
        let key = NodeKey::generate();
        let book = Book::open(path.clone()).await.unwrap();
        book.seed(&Seed { node: key.node(), data: vec![data(1)], discovery: vec![at(2)] });
        assert_eq!(book.data_addresses(key.node()), vec![data(1)]);
        book.learn(AddressRecord::sign(&key, vec![data(5)], vec![at(6)], 20).unwrap());
        book.learn(AddressRecord::sign(&key, vec![data(3)], vec![at(4)], 10).unwrap());
        book.learn_discovery(key.node(), &[at(7)]);
        assert!(book.is_unsaved());
        book.save().unwrap();
        assert!(!book.is_unsaved());
        drop(book);

        let book = Book::open(path.clone()).await.unwrap();
        assert_eq!(book.data_addresses(key.node()), vec![data(5), data(1)]);
        assert_eq!(book.discovery_addresses(key.node()), vec![at(6), at(7), at(2)]);
        assert_eq!((book.sequence(key.node()), book.nodes()), (20, vec![key.node()]));
        let again = Book::open(path.clone()).await;
        assert!(matches!(again.err(), Some(DiscoveryError::Peers { .. })), "a book is opened once");
        book.forget(key.node());
        book.save().unwrap();
        drop(book);
        assert!(Book::open(path).await.unwrap().nodes().is_empty());
    }

    #[tokio::test]
    async fn the_book_is_bounded_and_forgets_whom_it_heard_of_longest_ago() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(dir.path().join("peers.redb")).await.unwrap();
        let nodes: Vec<NodeId> = (0..PEERS_MAX + 3).map(|_| NodeId::random()).collect();
        for node in &nodes {
            book.learn_discovery(*node, &[at(1)]);
        }
        assert_eq!(book.nodes().len(), PEERS_MAX);
        assert!(book.discovery_addresses(nodes[0]).is_empty());
        assert_eq!(book.discovery_addresses(nodes[PEERS_MAX + 2]), vec![at(1)]);
    }

    #[tokio::test]
    async fn a_file_that_is_no_book_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.redb");
        std::fs::write(&path, vec![7; 10_000]).unwrap();
        assert!(matches!(Book::open(path).await.err(), Some(DiscoveryError::Peers { .. })));
    }
}
