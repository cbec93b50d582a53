//! The task that owns an attached volume's writer: requests and messages in, answers and frames out.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use crate::base::clock::Moment;
use crate::base::id::{ConfigNumber, Epoch, Incarnation, NodeId, SiloId, SlotIndex};
use crate::cluster::replication::connections::{Connections, Incoming};
use crate::cluster::replication::order::RequestId;
use crate::cluster::replication::service::Silos;
use crate::cluster::replication::writer::reconfigure::Proposal;
use crate::cluster::replication::writer::report::Report;
use crate::cluster::replication::writer::{Output, Phase, Request, RequestError, Response, Writer, WriterOptions};
use crate::cluster::state::ClusterState;
use crate::transport::network::Network;

/// How often the writer is told the time, and how often while it is at rest.
const TICK: Duration = Duration::from_millis(25);
const TICK_AT_REST: Duration = Duration::from_millis(250);
/// Inputs taken together at the most, so that frames that follow one another leave together.
const BATCH_MAX: usize = 256;
/// How long a release may take before the driver ends anyway: the silos' lease runs out by itself.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

type Answer = oneshot::Sender<Result<Response, RequestError>>;

/// Where an attached writer is, for whoever waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    Recovering,
    Serving {
        resumed: Option<bool>,
    },
    /// Another writer took over.
    Fenced {
        promise: Epoch,
    },
    /// The chosen history is gone; attach again with the next epoch.
    GaveUp,
    Released,
}

/// What the cluster state is to be asked for; whoever asks tells [`DriverHandle::proposal_ended`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    pub slot: SlotIndex,
    pub config: ConfigNumber,
    /// Those that the slot has until then.
    pub before: Vec<SiloId>,
    pub silos: Vec<SiloId>,
}

/// A silo that a slot is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub silo: SiloId,
    pub node: NodeId,
    /// The last one that the cluster state knows.
    pub incarnation: Incarnation,
}

enum Input {
    Request(Request, Answer),
    Report(oneshot::Sender<Report>),
    Fence(Epoch),
    RetainedBytesMax(usize),
    Confirmed(Vec<(SiloId, Incarnation)>),
    Reconfigure(SlotIndex, Vec<Target>),
    ProposalEnded(SlotIndex, Proposal),
    Release,
}

/// A running writer. Dropping every handle does not stop it; [`DriverHandle::release`] does.
#[derive(Clone)]
pub struct DriverHandle {
    inputs: mpsc::UnboundedSender<Input>,
    life: watch::Receiver<Life>,
}

impl DriverHandle {
    /// Starts a writer's task on the current runtime. `nodes` says where each silo lives; silos of this node are
    /// reached without the network.
    pub fn start(
        options: WriterOptions,
        nodes: &BTreeMap<SiloId, NodeId>,
        silos: Silos,
        network: Arc<dyn Network>,
        proposals: mpsc::UnboundedSender<Proposed>,
    ) -> DriverHandle {
        let (inputs, receiver) = mpsc::unbounded_channel();
        let (life, life_watch) = watch::channel(Life::Recovering);
        let (incoming, messages) = mpsc::unbounded_channel();
        let connections = Connections::new(options.node, nodes, silos, network, incoming);
        let writer = Writer::new(options, Moment::now());
        let driver = Driver {
            writer,
            connections,
            answers: HashMap::new(),
            next_request: 0,
            life,
            releasing_since: None,
            proposals,
        };
        tokio::spawn(driver.run(receiver, messages));
        DriverHandle { inputs, life: life_watch }
    }

    /// Carries out a request. Waits as long as the volume is suspended.
    pub async fn request(&self, request: Request) -> Result<Response, RequestError> {
        let (answer, answered) = oneshot::channel();
        if self.inputs.send(Input::Request(request, answer)).is_err() {
            return Err(RequestError::Fenced);
        }
        answered.await.unwrap_or(Err(RequestError::Fenced))
    }

    /// The writer's state; none once it has ended.
    pub async fn report(&self) -> Option<Report> {
        let (answer, answered) = oneshot::channel();
        self.inputs.send(Input::Report(answer)).ok()?;
        answered.await.ok()
    }

    /// Tells the writer which incarnations of its silos the cluster state knows, as long as it runs: a silo's chain goes
    /// back no further.
    pub fn follow(&self, mut state: watch::Receiver<Arc<ClusterState>>) {
        let inputs = self.inputs.downgrade();
        tokio::spawn(async move {
            loop {
                let known =
                    state.borrow_and_update().silos.iter().map(|(silo, info)| (*silo, info.incarnation)).collect();
                let Some(inputs) = inputs.upgrade() else { return };
                if inputs.send(Input::Confirmed(known)).is_err() {
                    return;
                }
                drop(inputs);
                if state.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// The writer's share of the bytes of writes that this node may remember.
    pub fn set_retained_bytes_max(&self, bytes: usize) {
        // A writer that has ended remembers nothing.
        let _ = self.inputs.send(Input::RetainedBytesMax(bytes));
    }

    /// The cluster state knows a higher epoch.
    pub fn fence(&self, epoch: Epoch) {
        // A writer that has ended needs no fence.
        let _ = self.inputs.send(Input::Fence(epoch));
    }

    /// The slot is to have these silos from now on: they are brought up to date, and then take the place of those it has.
    pub fn reconfigure(&self, slot: SlotIndex, target: Vec<Target>) {
        // A writer that has ended changes nothing.
        let _ = self.inputs.send(Input::Reconfigure(slot, target));
    }

    /// What became of a proposal.
    pub fn proposal_ended(&self, slot: SlotIndex, proposal: Proposal) {
        // A writer that has ended needs no answer.
        let _ = self.inputs.send(Input::ProposalEnded(slot, proposal));
    }

    /// Lets the lease go, without flushing. [`Life::Released`] says when it is done.
    pub fn release(&self) {
        // A writer that has ended holds no lease.
        let _ = self.inputs.send(Input::Release);
    }

    pub fn life(&self) -> watch::Receiver<Life> {
        self.life.clone()
    }
}

struct Driver {
    writer: Writer,
    connections: Connections,
    answers: HashMap<RequestId, Answer>,
    next_request: RequestId,
    life: watch::Sender<Life>,
    releasing_since: Option<Moment>,
    proposals: mpsc::UnboundedSender<Proposed>,
}

impl Driver {
    async fn run(
        mut self,
        mut inputs: mpsc::UnboundedReceiver<Input>,
        mut messages: mpsc::UnboundedReceiver<Incoming>,
    ) {
        let now = Moment::now();
        for silo in self.connections.local() {
            self.writer.connected(now, silo);
        }
        self.carry_out(now);
        let mut tick = pin!(sleep(TICK));
        let (mut some_inputs, mut some_messages) = (Vec::new(), Vec::new());
        loop {
            tokio::select! {
                biased;
                _ = messages.recv_many(&mut some_messages, BATCH_MAX) => {}
                count = inputs.recv_many(&mut some_inputs, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                }
                () = &mut tick => {}
            }
            let now = Moment::now();
            for message in some_messages.drain(..) {
                self.incoming(now, message);
            }
            for input in some_inputs.drain(..) {
                self.input(now, input);
            }
            // Messages that never end must not keep time from passing.
            let (instant, at_rest) = (Instant::now(), self.writer.is_at_rest());
            if instant >= tick.deadline() {
                self.writer.tick(now);
                tick.as_mut().reset(instant + if at_rest { TICK_AT_REST } else { TICK });
            } else if !at_rest && tick.deadline() > instant + TICK {
                tick.as_mut().reset(instant + TICK);
            }
            self.carry_out(now);
            if self.ended(now) {
                return;
            }
        }
    }

    fn incoming(&mut self, now: Moment, incoming: Incoming) {
        match incoming {
            Incoming::Connected(connection) => {
                for silo in self.connections.connected(connection) {
                    self.writer.connected(now, silo);
                }
            }
            Incoming::Disconnected { connection } => {
                for silo in self.connections.disconnected(connection) {
                    self.writer.disconnected(now, silo);
                }
            }
            Incoming::Message { connection, message } => {
                if self.connections.is_current(connection, message.silo()) {
                    self.writer.message(now, message);
                }
            }
        }
    }

    fn input(&mut self, now: Moment, input: Input) {
        match input {
            Input::Request(request, answer) => {
                self.next_request += 1;
                self.answers.insert(self.next_request, answer);
                self.writer.submit(now, self.next_request, request);
            }
            Input::Report(answer) => {
                // Whoever asked may be gone.
                let _ = answer.send(self.writer.report(now));
            }
            Input::Fence(epoch) => self.writer.fence(epoch),
            Input::RetainedBytesMax(bytes) => self.writer.set_retained_bytes_max(bytes),
            Input::Confirmed(known) => {
                for (silo, incarnation) in known {
                    self.writer.confirmed(silo, incarnation);
                }
            }
            Input::Reconfigure(slot, target) => self.reconfigure(now, slot, &target),
            Input::ProposalEnded(slot, proposal) => self.writer.proposal_ended(now, slot, proposal),
            Input::Release => {
                self.releasing_since.get_or_insert(now);
                self.writer.release();
            }
        }
    }

    fn reconfigure(&mut self, now: Moment, slot: SlotIndex, target: &[Target]) {
        let silos = target.iter().map(|target| target.silo).collect();
        let known: Vec<(SiloId, Incarnation)> = target.iter().map(|target| (target.silo, target.incarnation)).collect();
        for silo in self.writer.reconfigure(now, slot, silos, &known) {
            let node = target.iter().find(|target| target.silo == silo).map(|target| target.node);
            if node.is_some_and(|node| self.connections.add(silo, node)) {
                self.writer.connected(now, silo);
            }
        }
    }

    fn carry_out(&mut self, now: Moment) {
        // Sending to a silo whose queue is full breaks its connection, which has outputs of its own.
        loop {
            let outputs = self.writer.take_outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Send(silo, message) => {
                        for gone in self.connections.send(silo, message) {
                            self.writer.disconnected(now, gone);
                        }
                    }
                    Output::Answer(id, result) => {
                        if let Some(answer) = self.answers.remove(&id) {
                            // The client may be gone; the write stands all the same.
                            let _ = answer.send(result);
                        }
                    }
                    Output::Serving { resumed } => {
                        self.life.send_replace(Life::Serving { resumed });
                    }
                    Output::Fenced { promise } => {
                        self.life.send_replace(Life::Fenced { promise });
                    }
                    Output::GiveUp => {
                        self.life.send_replace(Life::GaveUp);
                    }
                    Output::Released => {
                        self.life.send_replace(Life::Released);
                    }
                    Output::Reconfigure { slot, config, before, silos } => {
                        // Without anybody left to ask, both majorities stay.
                        let _ = self.proposals.send(Proposed { slot, config, before, silos });
                    }
                    // It may be wanted again by now.
                    Output::Disconnect(silo) => {
                        if !self.writer.silos().any(|wanted| wanted == silo) {
                            self.connections.remove(silo);
                        }
                    }
                }
            }
        }
    }

    fn ended(&mut self, now: Moment) -> bool {
        let overdue = self.releasing_since.is_some_and(|since| now.since(since) >= RELEASE_LIMIT);
        if overdue && self.writer.phase() != Phase::Over {
            self.life.send_replace(Life::Released);
        }
        overdue || self.writer.phase() == Phase::Over
    }
}
