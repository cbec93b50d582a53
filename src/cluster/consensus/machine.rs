//! The replicated state machine: applies committed proposals to the cluster state, publishes it, and keeps snapshots.
//!
//! The state lives in memory. On disk is the last snapshot; after a restart the log's committed entries beyond it are
//! applied again. So an accepted command costs one log commit and no more.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::{Mutex, watch};

use crate::base::mutant::{self, Mutant};
use crate::cluster::consensus::log_file::{Change, Damage, Fact, Found, GroupNumber, LogError, LogFile};
#[cfg(test)]
use crate::cluster::consensus::runtime::simulated::{self, Overheard};
use crate::cluster::consensus::session::Sessions;
use crate::cluster::consensus::stored::{BadBytes, Image};
use crate::cluster::consensus::types::{
    Entry, LogId, Payload, Proposal, Reply, Snapshot, SnapshotMeta, StoredMembership, Types,
};
use crate::cluster::state::ClusterState;
use crate::cluster::state::command::{Command, Outcome};
use crate::cluster::state::level::Level;
use crate::cluster::state::refusal::Refusal;

/// Where the applied state is seen from outside.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub state: watch::Sender<Arc<ClusterState>>,
    /// How many log entries are applied to it; sent after the state.
    pub applied: watch::Sender<u64>,
}

/// The state machine of the cluster group.
#[derive(Debug)]
pub(super) struct Machine {
    cluster: Arc<ClusterState>,
    sessions: Sessions,
    applied: Option<LogId>,
    membership: StoredMembership,
    published: Published,
    snapshots: Snapshots,
}

/// The last snapshot, in memory and on disk.
#[derive(Clone, Debug)]
struct Snapshots {
    file: LogFile,
    group: GroupNumber,
    last: Arc<Mutex<Option<(SnapshotMeta, Bytes)>>>,
}

impl Machine {
    /// Starts from the snapshot that the file held, if any.
    pub fn new(file: LogFile, group: GroupNumber, found: &Found) -> Result<Self, LogError> {
        let damaged = |_: BadBytes| LogError::Damaged { group, what: Damage::Fact(Fact::Snapshot as u8) };
        let bytes = found.fact(Fact::Snapshot).map(Bytes::copy_from_slice);
        let image = bytes.as_ref().map(|bytes| Image::decode(bytes)).transpose().map_err(damaged)?;
        let last = image.as_ref().zip(bytes).map(|(image, bytes)| (image.meta.clone(), bytes));
        let published = Published { state: watch::Sender::default(), applied: watch::Sender::new(0) };
        let mut machine = Self {
            cluster: Arc::default(),
            sessions: Sessions::default(),
            applied: None,
            membership: StoredMembership::default(),
            published,
            snapshots: Snapshots { file, group, last: Arc::new(Mutex::new(last)) },
        };
        if let Some(image) = image {
            machine.adopt(image);
        }
        Ok(machine)
    }

    pub fn published(&self) -> Published {
        self.published.clone()
    }

    fn adopt(&mut self, image: Image) {
        self.applied = image.meta.last_log_id;
        self.membership = image.meta.last_membership;
        self.sessions = image.sessions;
        self.cluster = Arc::new(image.cluster);
        self.publish();
    }

    fn publish(&self) {
        self.published.state.send_if_modified(|state| {
            let changed = !Arc::ptr_eq(state, &self.cluster);
            *state = Arc::clone(&self.cluster);
            changed
        });
        let entries = self.applied.map_or(0, |applied| applied.index + 1);
        self.published.applied.send_replace(entries);
        #[cfg(test)]
        simulated::overhear(|| Overheard::Published { entries, state: Arc::clone(&self.cluster) });
    }

    fn decide(&mut self, proposal: Proposal) -> Result<Outcome, Refusal> {
        let leaves = matches!(proposal.command, Command::Leave { .. });
        let cluster = &mut self.cluster;
        // Copies the state once a batch, because the published one is held by those who watch it.
        let answer = self.sessions.once(&proposal.ticket, || Arc::make_mut(cluster).apply(proposal.command));
        if leaves && answer.is_ok() {
            let recent = if cluster.level >= Level(1) { cluster.left_lately() } else { BTreeSet::new() };
            self.sessions.keep_only(|node| cluster.members.contains_key(node) || recent.contains(node));
        }
        answer
    }

    fn take(&mut self, entry: Entry) -> Reply {
        let reply = match entry.payload {
            Payload::Blank => Reply::Nothing,
            Payload::Normal(proposal) => Reply::Decided(self.decide(proposal)),
            Payload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Reply::Nothing
            }
        };
        self.applied = Some(entry.log_id);
        reply
    }

    /// Applies what the log has beyond the snapshot, outside of a group.
    pub fn replay(&mut self, entries: Vec<Entry>) {
        let beyond = self.applied.map(|id| id.index);
        for entry in entries.into_iter().filter(|entry| Some(entry.log_id.index) > beyond) {
            self.take(entry);
        }
    }

    pub fn image(&self) -> Image {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        Image { meta, sessions: self.sessions.clone(), cluster: ClusterState::clone(&self.cluster) }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            #[cfg(test)]
            let command = match &entry.payload {
                Payload::Normal(proposal) => Some(proposal.command.clone()),
                Payload::Blank | Payload::Membership(_) => None,
            };
            #[cfg(test)]
            let log_id = entry.log_id;
            let reply = self.take(entry);
            #[cfg(test)]
            simulated::overhear(|| Overheard::applied(log_id, command, &reply));
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        self.publish();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { image: self.image(), snapshots: self.snapshots.clone() }
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, snapshot: Bytes) -> Result<(), io::Error> {
        let image = Image::decode(&snapshot).map_err(io::Error::other)?;
        if !mutant::on(Mutant::GroupSnapshotForgotten) {
            self.snapshots.keep(&image.meta, &snapshot).await?;
        }
        self.adopt(image);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let last = self.snapshots.last.lock().await;
        Ok(last.as_ref().map(|(meta, bytes)| Snapshot { meta: meta.clone(), snapshot: bytes.clone() }))
    }
}

impl Snapshots {
    /// Makes the snapshot durable, unless a newer one is already.
    async fn keep(&self, meta: &SnapshotMeta, bytes: &Bytes) -> io::Result<()> {
        let mut last = self.last.lock().await;
        if last.as_ref().is_some_and(|(kept, _)| kept.last_log_id >= meta.last_log_id) {
            return Ok(());
        }
        let change = Change::Fact { fact: Fact::Snapshot, bytes: bytes.to_vec() };
        self.file.write_and_wait(self.group, vec![change]).await?;
        *last = Some((meta.clone(), bytes.clone()));
        Ok(())
    }
}

/// Builds a snapshot of the state as it was when it was asked for.
#[derive(Debug)]
pub(super) struct Builder {
    image: Image,
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let bytes = self.image.encode();
        self.snapshots.keep(&self.image.meta, &bytes).await?;
        Ok(Snapshot { meta: self.image.meta.clone(), snapshot: bytes })
    }
}
