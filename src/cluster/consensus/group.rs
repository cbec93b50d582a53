//! One member's part in the cluster group.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::raft::AppendEntriesResponse;
use openraft::raft::linearizable_read::Linearizer;
use openraft::{LinearizerOption, Raft};
use tokio::sync::{Semaphore, watch};

use crate::base::id::NodeId;
use crate::base::mutant::{self, Mutant};
use crate::cluster::consensus::log_file::{LogError, LogFile};
use crate::cluster::consensus::log_store::LogStore;
use crate::cluster::consensus::machine::Machine;
use crate::cluster::consensus::membership;
use crate::cluster::consensus::network::Peers;
use crate::cluster::consensus::recovery::generation;
use crate::cluster::consensus::runtime::{self, Instant, JoinHandle, timeout, timeout_at};
use crate::cluster::consensus::session::Tickets;
use crate::cluster::consensus::status::{self, GroupStatus};
use crate::cluster::consensus::stored::Image;
use crate::cluster::consensus::types::{Proposal, Reply, SNAPSHOT_LIMIT, Snapshot, Tuning, Types};
use crate::cluster::consensus::wire::{self, Answer, Failure, Request, SnapshotPart};
use crate::cluster::consensus::{
    CLUSTER_GROUP, GroupOptions, PROPOSAL_BYTES_MAX, PROPOSALS_MAX, ProposeError, SNAPSHOT_BYTES_MAX, Storage,
};
use crate::cluster::state::ClusterState;
use crate::cluster::state::command::{Command, Outcome};
use crate::cluster::state::refusal::Refusal;

/// Between two tries, unless the status changes before.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long a leader works on a proposal of another member, which will have asked again by then.
const SERVE_LIMIT: Duration = Duration::from_secs(5);
/// How long the first start of a network may take: one disk write, in a group of one.
const BOOTSTRAP_LIMIT: Duration = Duration::from_secs(30);
/// How long handing the leadership over may take before stopping goes on without it.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);

/// A member of the cluster group. Cheap to clone; stops with its last clone, as abruptly as a process dies, unless
/// [`Group::shutdown`] was called.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    peers: Peers,
    raft: Raft<Types, Machine>,
    state: watch::Receiver<Arc<ClusterState>>,
    applied: watch::Receiver<u64>,
    status: watch::Receiver<GroupStatus>,
    heard: watch::Sender<Option<Instant>>,
    tickets: Tickets,
    places: Semaphore,
    introduced: Vec<NodeId>,
    arriving: Mutex<Option<Arriving>>,
    superseded: watch::Sender<bool>,
    tuning: Tuning,
    tasks: [JoinHandle<()>; 2],
    /// The log file, if it is the group's own.
    file: Option<LogFile>,
}

/// A snapshot of which parts are still to come.
struct Arriving {
    from: NodeId,
    transfer: u64,
    total: u64,
    bytes: Vec<u8>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        // openraft's tasks hold one another and do not end by themselves.
        let raft = self.raft.clone();
        runtime::spawn_if_running(async move {
            // It has stopped already, or its tasks ended with the process.
            let _ = raft.shutdown().await;
        });
    }
}

/// Why a try of a proposal or read brought no answer, and where to turn next.
enum Miss {
    /// The member asked says who leads.
    Leader(NodeId),
    /// Nobody is known to lead.
    Unknown,
    Stopped,
}

impl Group {
    /// Opens the log and takes part from then on, as far as it was a member before; a new member waits until the leader
    /// reaches it. Does not need the network.
    pub async fn start(options: GroupOptions) -> Result<Group, LogError> {
        let GroupOptions { node, storage, rpc, peers: introduced, tuning } = options;
        let (log_file, own) = match storage {
            Storage::File(path) => (LogFile::open(path).await?, true),
            Storage::Shared(file) => (file, false),
        };
        let found = log_file.take(CLUSTER_GROUP);
        let store = LogStore::new(log_file.clone(), CLUSTER_GROUP, &found)?;
        let machine = Machine::new(log_file.clone(), CLUSTER_GROUP, &found)?;
        let published = machine.published();
        let inconsistent = |why: String| LogError::Inconsistent(why);
        let config = tuning.raft_config().map_err(|error| inconsistent(error.to_string()))?;
        let quorum = Arc::new(AtomicBool::new(false));
        let patience = tuning.stale();
        let peers = Peers { node, group: CLUSTER_GROUP, rpc, patience, quorum: Arc::clone(&quorum) };
        let raft = Raft::new(node, Arc::new(config), peers.clone(), store, machine).await;
        let raft = raft.map_err(|error| inconsistent(error.to_string()))?;

        let (heard, hears) = watch::channel(None);
        let (status_sender, status) = watch::channel(GroupStatus::default());
        let (state, applied) = (published.state.subscribe(), published.applied.subscribe());
        let sources = status::Sources {
            raft: raft.clone(),
            heard: hears,
            applied: applied.clone(),
            quorum,
            stale: tuning.stale(),
        };
        let tasks = [
            runtime::spawn(status::keep(sources, status_sender)),
            runtime::spawn(membership::keep(raft.clone(), state.clone(), tuning.stale())),
        ];
        let inner = Inner {
            peers,
            raft,
            state,
            applied,
            status,
            heard,
            tickets: Tickets::new(node),
            places: Semaphore::new(PROPOSALS_MAX),
            introduced,
            arriving: Mutex::default(),
            superseded: watch::Sender::new(false),
            tuning,
            tasks,
            file: own.then_some(log_file),
        };
        Ok(Group { inner: Arc::new(inner) })
    }

    /// The first start of a network's first node: it becomes the one voter and proposes the genesis. Repeating it
    /// changes nothing. Never call it on a node that joined.
    pub async fn bootstrap(&self, genesis: Command) -> Result<Outcome, ProposeError> {
        let raft = &self.inner.raft;
        if !raft.is_initialized().await.map_err(|_| ProposeError::Stopped)? {
            let me = BTreeMap::from([(self.inner.peers.node, ())]);
            if let Err(error) = raft.initialize(me).await {
                tracing::debug!(%error, "the group was founded before");
            }
        }
        self.propose(genesis, BOOTSTRAP_LIMIT).await
    }

    /// Proposes a command, on whatever member. Tried again until it is answered or `limit` is out, and carried out at
    /// most once however often it is sent. Returns once the local state has it, or when `limit` is out after the answer.
    pub async fn propose(&self, command: Command, limit: Duration) -> Result<Outcome, ProposeError> {
        let deadline = runtime::now() + limit;
        // Its encoded length needs no buffer.
        let fits = postcard::experimental::serialized_size(&command).is_ok_and(|len| len <= PROPOSAL_BYTES_MAX);
        if !fits {
            return Err(ProposeError::TooLarge);
        }
        let place = timeout_at(deadline, self.inner.places.acquire()).await;
        let _place = place.map_err(|_| self.late())?.map_err(|_| ProposeError::Stopped)?;
        let number = self.inner.tickets.draw();
        let attempt = |leader| {
            let proposal = Proposal { ticket: number.ticket(), command: command.clone() };
            self.propose_at(leader, proposal)
        };
        let (answer, applied) = self.ask_leader(deadline, attempt).await?;
        // The answer stands, even if this member is slow to see it.
        let _ = timeout_at(deadline, self.applied(applied)).await;
        answer.map_err(ProposeError::Refused)
    }

    /// The state as applied here, now and as it changes. May be behind the leader's.
    pub fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.inner.state.clone()
    }

    /// A state that includes everything that was answered anywhere before this call.
    pub async fn current(&self, limit: Duration) -> Result<Arc<ClusterState>, ProposeError> {
        let deadline = runtime::now() + limit;
        if mutant::on(Mutant::GroupReadsLocalState) {
            return Ok(self.inner.state.borrow().clone());
        }
        let index = self.ask_leader(deadline, |leader| self.read_index_at(leader)).await?;
        timeout_at(deadline, self.applied(index)).await.map_err(|_| self.late())??;
        Ok(self.inner.state.borrow().clone())
    }

    /// The group as this member sees it now.
    pub fn status(&self) -> GroupStatus {
        self.inner.status.borrow().clone()
    }

    /// The status as it changes.
    pub fn watch_status(&self) -> watch::Receiver<GroupStatus> {
        self.inner.status.clone()
    }

    /// Before a graceful stop: gives the leadership, if this member has it, to the voter with the longest log.
    pub async fn hand_over(&self) {
        let mut metrics = self.inner.raft.metrics();
        let me = self.inner.peers.node;
        let heir = {
            let metrics = metrics.borrow_watched();
            if !metrics.state.is_leader() {
                return;
            }
            let alive = |node: &NodeId| {
                let acked = metrics.heartbeat.as_ref().and_then(|acks| acks.get(node).copied().flatten());
                acked.is_some_and(|at| at.elapsed() < self.inner.tuning.stale())
            };
            let matched = |node: &NodeId| metrics.replication.as_ref().and_then(|all| all.get(node).copied().flatten());
            let voters = metrics.membership_config.voter_ids();
            voters.filter(|node| *node != me && alive(node)).max_by_key(matched)
        };
        let Some(heir) = heir else { return };
        if self.inner.raft.trigger().transfer_leader(heir).await.is_err() {
            return;
        }
        let handed_over = async {
            while metrics.borrow_watched().current_leader.is_none_or(|leader| leader == me) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        if timeout(HAND_OVER_LIMIT, handed_over).await.is_err() {
            tracing::debug!(heir = %heir.short(), "the leadership was not taken over in time");
        }
    }

    /// Stops taking part and closes the log file, if it is the group's own: another may open it then.
    pub async fn shutdown(self) {
        for task in &self.inner.tasks {
            task.abort();
        }
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "the cluster group did not stop cleanly");
        }
        if let Some(file) = &self.inner.file {
            file.close().await;
        }
    }

    /// Answers a request of another member, whose name the transport has verified. Never fails: bytes that are no
    /// request, and requests that speak for another than `from`, are answered with an error.
    pub async fn serve(&self, from: NodeId, request: Bytes) -> Bytes {
        let answer = match wire::decode(CLUSTER_GROUP, &request) {
            Ok(request) => match wire::check(from, &request) {
                Ok(()) => self.answer(from, request).await,
                Err(failure) => Answer::Failed(failure),
            },
            Err(failure) => Answer::Failed(failure),
        };
        wire::encode(CLUSTER_GROUP, &answer)
    }

    async fn answer(&self, from: NodeId, request: Request) -> Answer {
        let raft = &self.inner.raft;
        let stopped = Answer::Failed(Failure::Stopped);
        match request {
            // Nothing before the recovery counts: whoever knows less than the snapshot gets that.
            Request::Append { entries, .. } if self.is_of_the_past(entries.vote.leader_id.term) => {
                Answer::Append(AppendEntriesResponse::Conflict)
            }
            Request::Append { entries, quorum } => match raft.append_entries(entries).await {
                Ok(response) => {
                    if quorum && !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                        self.inner.heard.send_replace(Some(runtime::now()));
                    }
                    Answer::Append(response)
                }
                Err(_) => stopped,
            },
            Request::Vote(vote) => raft.vote(vote).await.map_or(stopped, Answer::Vote),
            Request::PreVote(vote) => raft.pre_vote(vote).await.map_or(stopped, Answer::PreVote),
            Request::Snapshot(part) => self.snapshot_part(from, part).await,
            Request::Transfer(transfer) => {
                raft.handle_transfer_leader(transfer).await.map_or(stopped, Answer::Transfer)
            }
            Request::Propose(proposal) => {
                let fits = postcard::experimental::serialized_size(&proposal.command)
                    .is_ok_and(|len| len <= PROPOSAL_BYTES_MAX);
                if !fits {
                    return Answer::Failed(Failure::Malformed);
                }
                self.serve_limited(self.propose_here(proposal), |(answer, applied)| Answer::Proposed {
                    answer,
                    applied,
                })
                .await
            }
            Request::ReadIndex => self.serve_limited(self.read_index_here(), Answer::ReadIndex).await,
        }
    }

    /// Whether the network was recovered since what this member knows to be committed. Its own term says nothing: it hears of the new
    /// one before it has any of the log.
    fn is_of_the_past(&self, term: u64) -> bool {
        let committed = self.inner.raft.metrics().borrow_watched().local_committed;
        committed.is_some_and(|id| generation(term) > generation(id.leader_id.term))
    }

    /// Set once a recovered network cannot take this member with what it knows beyond it.
    pub fn superseded(&self) -> watch::Receiver<bool> {
        self.inner.superseded.subscribe()
    }

    async fn serve_limited<T>(
        &self,
        work: impl Future<Output = Result<T, Miss>>,
        answer: impl FnOnce(T) -> Answer,
    ) -> Answer {
        match timeout(SERVE_LIMIT, work).await {
            Ok(Ok(done)) => answer(done),
            Ok(Err(Miss::Leader(leader))) => Answer::NotLeader(Some(leader)),
            Ok(Err(Miss::Unknown)) => Answer::NotLeader(None),
            Ok(Err(Miss::Stopped)) => Answer::Failed(Failure::Stopped),
            Err(_) => Answer::Failed(Failure::NoQuorum),
        }
    }

    /// Puts the parts of a snapshot together and installs the whole.
    async fn snapshot_part(&self, from: NodeId, part: SnapshotPart) -> Answer {
        let malformed = Answer::Failed(Failure::Malformed);
        let whole = {
            let mut arriving = self.inner.arriving.lock().unwrap_or_else(PoisonError::into_inner);
            let end = part.offset.saturating_add(part.bytes.len() as u64);
            if part.total > SNAPSHOT_BYTES_MAX || end > part.total {
                return malformed;
            }
            if part.offset == 0 {
                *arriving = Some(Arriving { from, transfer: part.transfer, total: part.total, bytes: Vec::new() });
            }
            let Some(current) = arriving.as_mut() else { return malformed };
            let follows = current.from == from
                && current.transfer == part.transfer
                && current.total == part.total
                && current.bytes.len() as u64 == part.offset;
            if !follows {
                return malformed;
            }
            current.bytes.extend_from_slice(&part.bytes);
            if end < part.total {
                return Answer::Snapshot(None);
            }
            arriving.take().map_or_else(Vec::new, |arrived| arrived.bytes)
        };
        // openraft panics on a snapshot that lies beyond its leader's vote or contradicts what is committed here.
        let Ok(image) = Image::decode(&whole) else { return malformed };
        let committed = self.inner.raft.metrics().borrow_watched().local_committed;
        let contradicts = image.meta.last_log_id.is_none_or(|last| {
            last.leader_id > part.vote.leader_id || committed.is_some_and(|id| last > id && last.index <= id.index)
        });
        if contradicts {
            if self.is_of_the_past(part.vote.leader_id.term) {
                self.inner.superseded.send_replace(true);
            }
            return Answer::Failed(Failure::Forged);
        }
        let snapshot = Snapshot { meta: image.meta, snapshot: whole.into() };
        let installed = self.inner.raft.install_full_snapshot(part.vote, snapshot);
        match timeout(SNAPSHOT_LIMIT, installed).await {
            Ok(Ok(response)) => Answer::Snapshot(Some(response)),
            Ok(Err(_)) | Err(_) => Answer::Failed(Failure::Stopped),
        }
    }

    /// Asks whoever leads, again and again until there is an answer or the time is out.
    async fn ask_leader<T, F>(&self, deadline: Instant, ask: impl Fn(NodeId) -> F) -> Result<T, ProposeError>
    where
        F: Future<Output = Result<T, Miss>>,
    {
        let mut status = self.inner.status.clone();
        let mut hint = None;
        let mut round = 0;
        loop {
            let asked = hint.take().or_else(|| self.leader()).or_else(|| self.somebody(round));
            round += 1;
            let before = status.borrow_and_update().leader;
            if let Some(leader) = asked {
                let until = deadline.min(runtime::now() + self.try_limit());
                match timeout_at(until, ask(leader)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(Miss::Stopped)) => return Err(ProposeError::Stopped),
                    Ok(Err(Miss::Leader(other))) if other != leader => hint = Some(other),
                    Ok(Err(Miss::Leader(_) | Miss::Unknown)) | Err(_) => (),
                }
            }
            if runtime::now() >= deadline {
                return Err(self.late());
            }
            // A hint may be followed at once, but not two that name each other.
            if hint.is_none() || round % 4 == 0 {
                let changed = status.wait_for(|now| now.leader != before || now.stopped.is_some());
                let until = deadline.min(runtime::now() + RETRY_AFTER);
                let ended = match timeout_at(until, changed).await {
                    Ok(Ok(now)) => now.stopped.is_some(),
                    // Whoever keeps the status has ended with the group.
                    Ok(Err(_)) => true,
                    Err(_) => false,
                };
                if ended {
                    return Err(ProposeError::Stopped);
                }
            }
        }
    }

    /// How long one try of a proposal or read waits before the leader is looked for again.
    fn try_limit(&self) -> Duration {
        2 * self.inner.tuning.stale()
    }

    /// The leader as far as this member knows.
    fn leader(&self) -> Option<NodeId> {
        self.inner.raft.metrics().borrow_watched().current_leader
    }

    /// Some other member, a different one each round: it may know the leader.
    fn somebody(&self, round: usize) -> Option<NodeId> {
        let mut known: BTreeSet<_> = self.inner.state.borrow().members.keys().copied().collect();
        known.extend(&self.inner.introduced);
        known.remove(&self.inner.peers.node);
        let len = known.len().max(1);
        known.into_iter().nth(round % len)
    }

    async fn propose_at(&self, leader: NodeId, proposal: Proposal) -> Result<(Result<Outcome, Refusal>, u64), Miss> {
        if leader == self.inner.peers.node {
            return self.propose_here(proposal).await;
        }
        match self.inner.peers.ask(leader, &Request::Propose(proposal), self.try_limit()).await {
            Ok(Answer::Proposed { answer, applied }) => Ok((answer, applied)),
            Ok(Answer::NotLeader(Some(leader))) => Err(Miss::Leader(leader)),
            Ok(_) | Err(_) => Err(Miss::Unknown),
        }
    }

    async fn propose_here(&self, proposal: Proposal) -> Result<(Result<Outcome, Refusal>, u64), Miss> {
        match self.inner.raft.client_write(proposal).await {
            Ok(written) => match written.data {
                Reply::Decided(answer) => Ok((answer, written.log_id.index + 1)),
                Reply::Nothing => Err(Miss::Unknown),
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => Err(self.elsewhere(to.leader_id)),
            // Whether the entry survived is open; the ticket makes asking again harmless.
            Err(RaftError::APIError(_)) => Err(Miss::Unknown),
            Err(RaftError::Fatal(_)) => Err(Miss::Stopped),
        }
    }

    async fn read_index_at(&self, leader: NodeId) -> Result<u64, Miss> {
        if leader == self.inner.peers.node {
            return self.read_index_here().await;
        }
        match self.inner.peers.ask(leader, &Request::ReadIndex, self.try_limit()).await {
            Ok(Answer::ReadIndex(index)) => Ok(index),
            Ok(Answer::NotLeader(Some(leader))) => Err(Miss::Leader(leader)),
            Ok(_) | Err(_) => Err(Miss::Unknown),
        }
    }

    /// Confirms the leadership with a majority, by a round of heartbeats sent after this call.
    async fn read_index_here(&self) -> Result<u64, Miss> {
        if mutant::on(Mutant::GroupReadUnconfirmed) && self.leader() == Some(self.inner.peers.node) {
            return Ok(*self.inner.applied.borrow());
        }
        let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(self.try_limit());
        match self.inner.raft.get_read_linearizer(option).await {
            Ok(linearizer) => Ok(entries_to_read(&linearizer)),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => Err(self.elsewhere(to.leader_id)),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(Miss::Unknown),
            Err(RaftError::Fatal(_)) => Err(Miss::Stopped),
        }
    }

    fn elsewhere(&self, leader: Option<NodeId>) -> Miss {
        match leader {
            Some(leader) if leader != self.inner.peers.node => Miss::Leader(leader),
            _ => Miss::Unknown,
        }
    }

    /// Returns once so many log entries are applied here.
    async fn applied(&self, entries: u64) -> Result<(), ProposeError> {
        let mut applied = self.inner.applied.clone();
        applied.wait_for(|applied| *applied >= entries).await.map_err(|_| ProposeError::Stopped)?;
        Ok(())
    }

    /// Why the time ran out.
    fn late(&self) -> ProposeError {
        let status = self.inner.status.borrow();
        match (&status.stopped, status.has_quorum) {
            (Some(_), _) => ProposeError::Stopped,
            (None, true) => ProposeError::TimedOut,
            (None, false) => ProposeError::NoQuorum,
        }
    }
}

fn entries_to_read(linearizer: &Linearizer<Types>) -> u64 {
    linearizer.read_log_id().index() + 1
}
