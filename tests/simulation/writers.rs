//! Writers and their clients: attaching, carrying out what a writer asks for, and checking what it answers.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use infinit::base::block::BLOCK_BYTES;
use infinit::base::id::{Epoch, SlotIndex, Stamp};
use infinit::base::record::{Record, RecordKind};
use infinit::cluster::replication::driver::Proposed;
use infinit::cluster::replication::message::{self, RunKind, ToSilo};
use infinit::cluster::replication::order::RequestId;
use infinit::cluster::replication::writer::{Distance, Output, Phase, RequestError, Response, Writer, WriterOptions};

use super::temper::{MS, SECOND};
use super::workload::{BLOCK_SECTORS, Kind, Op, SECTOR, Tag, draw, tags_of};
use super::world::{Event, Placed, TICK, VOLUME, World, key_of, node_id, silo_at, silo_id};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Paused,
    /// The process is gone.
    Dead,
}

pub struct WriterHost {
    pub node: usize,
    pub epoch: Epoch,
    pub writer: Writer,
    state: State,
    /// By silo, the connection that the writer believes in.
    pub links: Vec<Option<u64>>,
    /// Requests that are not answered yet.
    pub ops: BTreeMap<RequestId, Op>,
    outstanding: Vec<usize>,
    clients_of: BTreeMap<RequestId, usize>,
    /// What a paused process finds when it goes on.
    pub held: Vec<Event>,
    /// Requests that change something and were given up on.
    late: BTreeMap<RequestId, Op>,
    /// The records of each request, until it is answered.
    stamps: BTreeMap<Tag, Vec<(usize, Stamp)>>,
    resumes: Option<Epoch>,
    pub served: bool,
    pub released: bool,
    /// It was ended to start again at once, and its clients' devices stay.
    pub has_live_client: bool,
    pub answers: BTreeMap<Tag, Result<Response, RequestError>>,
}

impl WriterHost {
    pub fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    pub fn is_paused(&self) -> bool {
        self.state == State::Paused
    }

    pub fn is_running(&self) -> bool {
        self.state == State::Running && self.writer.phase() != Phase::Over
    }

    pub fn is_serving(&self) -> bool {
        self.is_running() && self.writer.phase() == Phase::Serving
    }
}

impl World {
    /// The cluster state grants the next epoch to a node, whose daemon starts a writer. A node runs one writer: an
    /// earlier one dies with its daemon.
    pub fn attach(&mut self, node: usize) {
        self.attach_as(node, false);
        if self.control.is_none() {
            self.let_old_writers_know();
        }
    }

    /// Old writers hear of the newest epoch from the cluster state, some time later, or not until the end.
    pub fn let_old_writers_know(&mut self) {
        if self.temper.clients > 0 && (self.healing || self.dice.chance(700)) {
            let most = if self.healing { 100 * MS } else { self.temper.lease.as_nanos() as u64 };
            let wait = self.dice.below(most);
            self.at(wait, Event::Tell);
        }
    }

    /// The same, and old writers do not hear of it from the cluster state.
    pub fn attach_as(&mut self, node: usize, accept_loss: bool) {
        if self.control.is_some() {
            return self.ask_for_epoch(node, accept_loss);
        }
        self.cluster.epoch = self.cluster.epoch.next();
        self.begin_writer(node, accept_loss);
    }

    /// A node's daemon was granted the highest epoch, and starts a writer.
    pub fn begin_writer(&mut self, node: usize, accept_loss: bool) {
        for old in 0..self.writers.len() {
            if self.writers[old].node == node && !self.writers[old].is_dead() {
                self.kill_writer(old);
            }
        }
        // What the daemon's clients may still believe in: the last epoch that they were served by, if its writer died.
        let last = self.writers.iter().rev().find(|old| old.node == node && old.served);
        let resumes = last.filter(|old| old.writer.phase() == Phase::Serving).map(|old| old.epoch);
        let epoch = self.cluster.epoch;
        let at = self.writers.len();
        self.trace.mix(&[self.now, 20, at as u64, node as u64]);
        self.note(|| format!("w{at} attaches on node {} with epoch {epoch}", node + 1));
        let factor = self.temper.lease_factor_max;
        let lease = self.temper.lease * if factor > 1 { self.dice.between(1, u64::from(factor)) as u32 } else { 1 };
        let shape = &self.temper.shape;
        let of = |placed: &Placed| (placed.config, placed.silos.iter().map(|silo| silo_id(*silo)).collect());
        let slots = self.cluster.slots.iter().map(of).collect();
        let distance = |silo: usize| match silo {
            _ if silo == node => Some(Distance::Here),
            _ => (shape.zones && silo % 2 == node % 2).then_some(Distance::Zone),
        };
        let options = WriterOptions {
            volume: VOLUME,
            epoch,
            node: node_id(node),
            own_dead: true,
            resumes,
            lease,
            durability: self.temper.durability,
            io_timeout: self.temper.io_timeout,
            accept_loss,
            slot_bytes: shape.slot_bytes,
            slots,
            incarnations: self.cluster.incarnations.clone(),
            distances: (0..shape.silos).filter_map(|silo| Some((silo_id(silo), distance(silo)?))).collect(),
        };
        let silos = shape.silos;
        let writer = Writer::new(options, self.moment(node));
        let clients = self.temper.clients;
        self.writers.push(WriterHost {
            node,
            epoch,
            writer,
            state: State::Running,
            links: vec![None; silos],
            ops: BTreeMap::new(),
            outstanding: vec![0; clients],
            clients_of: BTreeMap::new(),
            held: Vec::new(),
            late: BTreeMap::new(),
            stamps: BTreeMap::new(),
            resumes,
            served: false,
            released: false,
            has_live_client: false,
            answers: BTreeMap::new(),
        });
        self.cluster.holder = Some(at);
        self.count("attaches");
        self.at(TICK, Event::Tick(at));
        for silo in 0..silos {
            let wait = self.latency();
            self.at(wait, Event::Reconnect(at, silo));
        }
        for client in 0..clients {
            let wait = self.dice.around(self.temper.think_ns);
            self.at(wait, Event::Client(at, client));
        }
    }

    /// A writer's node hears which incarnations the cluster state knows.
    pub fn inform(&mut self, at: usize) {
        if self.writers[at].is_paused() {
            self.writers[at].held.push(Event::Inform(at));
        } else if self.writers[at].is_running() {
            for (silo, incarnation) in self.cluster.incarnations.clone() {
                self.writers[at].writer.confirmed(silo, incarnation);
            }
        }
    }

    pub fn tick(&mut self, at: usize) {
        if self.writers[at].is_dead() || self.writers[at].writer.phase() == Phase::Over {
            return;
        }
        if !self.writers[at].is_paused() {
            let now = self.moment(self.writers[at].node);
            self.writers[at].writer.tick(now);
            self.pump(at);
            self.check_outsiders(at);
        }
        self.at(TICK, Event::Tick(at));
    }

    /// A client asks for something, if it may have more under way, and comes again after a while.
    pub fn client(&mut self, at: usize, client: usize) {
        let host = &self.writers[at];
        if host.is_dead() || host.writer.phase() == Phase::Over || self.quiet {
            return;
        }
        let wait = self.dice.around(self.temper.think_ns);
        self.at(wait, Event::Client(at, client));
        if host_is_full(&self.writers[at], client, self.temper.depth) {
            return;
        }
        let tag = self.fresh_tag();
        if tag.is_multiple_of(128) {
            let open = self.writers.iter().filter(|host| !host.is_dead()).flat_map(|host| host.ops.values());
            let oldest = open.map(|op| op.submitted).min().unwrap_or(self.now);
            let held = self.writers.iter().any(|host| !host.held.is_empty());
            if !held {
                self.registers.prune(oldest);
            }
        }
        let op = draw(&mut self.dice, &self.temper, &self.hot, tag, self.now);
        self.writers[at].outstanding[client] += 1;
        self.writers[at].clients_of.insert(tag, client);
        self.submit(at, op);
    }

    pub fn fresh_tag(&mut self) -> Tag {
        self.next_tag += 1;
        self.next_tag - 1
    }

    /// Hands a request to a writer.
    pub fn submit(&mut self, at: usize, mut op: Op) {
        op.submitted = self.now;
        self.trace.mix(&[self.now, 21, at as u64, op.tag, op.position, op.length]);
        self.note(|| {
            format!(
                "w{at} {:?} {} at {}+{}{}",
                op.kind,
                op.tag,
                op.position,
                op.length,
                if op.fua { " fua" } else { "" }
            )
        });
        let epoch = self.writers[at].epoch;
        if op.changes() {
            self.registers.submitted(self.now, epoch, op.tag, op.kind != Kind::Write, op.position, op.length);
        }
        if self.writers[at].is_paused() {
            // The request waits in the daemon's socket; it is taken when the process goes on.
            self.writers[at].held.push(Event::Request(op));
        } else {
            self.hand_over(at, op);
        }
    }

    /// Carries out what a writer asks for.
    pub fn pump(&mut self, at: usize) {
        loop {
            let outputs = self.writers[at].writer.take_outputs();
            if outputs.is_empty() || self.failure.is_some() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Send(_, message) => {
                        self.overhear(at, &message);
                        self.send_to_silo(at, message);
                    }
                    Output::Answer(id, result) => self.answered(at, id, result),
                    Output::Serving { resumed } => self.serving(at, resumed),
                    Output::Fenced { promise } => {
                        self.note(|| format!("w{at} is fenced by epoch {promise}"));
                        self.count("fenced");
                        self.ended(at, false);
                    }
                    Output::GiveUp => {
                        self.note(|| format!("w{at} gives its epoch up"));
                        self.count("gave up");
                        self.ended(at, true);
                    }
                    Output::Reconfigure { slot, config, before, silos } => {
                        self.put_to_cluster(at, Proposed { slot, config, before, silos });
                    }
                    Output::Disconnect(silo) => self.let_go_of(at, silo_at(silo)),
                    Output::Released => {
                        self.note(|| format!("w{at} has released the volume"));
                        self.writers[at].released = true;
                        self.ended(at, false);
                    }
                }
            }
        }
    }

    /// The ledger hears what a writer decides.
    fn overhear(&mut self, at: usize, message: &ToSilo) {
        let epoch = self.writers[at].epoch;
        match message {
            ToSilo::Append(append) => {
                let slot = append.record.header.slot.0 as usize;
                let host = &mut self.writers[at];
                let (ops, late) = (&host.ops, &host.late);
                // What a writer had still to send when it was fenced was answered already, as failed.
                let is_over = host.writer.phase() == Phase::Over;
                let mut found = 0;
                let new = self.ledgers[slot].sequenced(epoch, append.previous, &append.record, |record| {
                    found = owner(ops, record);
                    if found == 0 {
                        found = owner(late, record);
                    }
                    found
                });
                match new {
                    Ok(true) if found == 0 && is_over => {}
                    Ok(true) if found == 0 => self.fail(format!("nobody asked for {:?}", append.record)),
                    Ok(true) => {
                        let stamp = append.record.header.stamp;
                        let gone = host.ops.get(&found).is_some_and(|op| op.gone);
                        if host.late.contains_key(&found) {
                            self.ledgers[slot].given_up(stamp);
                        }
                        host.stamps.entry(found).or_default().push((slot, stamp));
                        if gone {
                            self.fail(format!("request {found} got its number although its client was gone"));
                        }
                    }
                    Ok(false) => {}
                    Err(why) => self.fail(format!("w{at} slot {slot}: {why}")),
                }
            }
            ToSilo::Rare(_, _, message::Request::AdoptAsIs { slot, expected, .. }) => {
                let index = slot.0 as usize;
                let standing = self.votes(*slot);
                let result = self.ledgers[index].chosen(epoch, *expected, &standing);
                self.check(result.map_err(|why| format!("w{at} slot {slot}: {why}")));
            }
            ToSilo::Rare(..) => {}
        }
    }

    /// What the silos of a slot would vote; not those that may have to stay out.
    fn votes(&self, slot: SlotIndex) -> Vec<infinit::store::slot::Vote> {
        let silos = &self.cluster.slots[slot.0 as usize].silos;
        let key = key_of(slot.0 as usize);
        let silos = silos.iter().filter(|silo| self.silos[**silo].out.is_none());
        silos.filter_map(|silo| Some(self.silos[*silo].standing.get(&key)?.vote)).collect()
    }

    fn serving(&mut self, at: usize, resumed: Option<bool>) {
        let epoch = self.writers[at].epoch;
        self.trace.mix(&[self.now, 22, at as u64]);
        self.note(|| format!("w{at} serves epoch {epoch}, resumed {resumed:?}"));
        self.count("served");
        self.writers[at].served = true;
        for slot in 0..self.ledgers.len() {
            // One that a fault takes out of service by now had recorded it when it said so, whatever is left there.
            let (silos, key) = (&self.cluster.slots[slot].silos, key_of(slot));
            let has_recorded = |silo: &&usize| {
                let standing = self.silos[**silo].standing.get(&key);
                self.silos[**silo].out.is_some() || standing.is_some_and(|standing| standing.vote.adopted >= epoch)
            };
            let adopted = silos.iter().filter(has_recorded).count();
            if adopted < self.ledgers[slot].majority {
                self.fail(format!("w{at} serves slot {slot}, and {adopted} silos have recorded its epoch"));
            }
            let (lost, was_answered) = self.ledgers[slot].settle(epoch);
            if resumed == Some(true) && was_answered {
                self.fail(format!("w{at} resumes clients, but sectors {lost:?} lost what they were answered"));
            }
            if !lost.is_empty() {
                self.count("lawful losses");
            }
            let Some(choice) = self.ledgers[slot].choice(epoch) else {
                return self.fail(format!("w{at} serves slot {slot} without a choice"));
            };
            let content = self.ledgers[slot].content(choice);
            for sector in lost {
                let tags = content.get(&(sector / BLOCK_SECTORS));
                let value = tags.map_or(0, |(_, tags)| tags[(sector % BLOCK_SECTORS) as usize]);
                self.registers.restart(epoch, sector, value);
            }
            self.ledgers[slot].adopted(epoch);
            if resumed == Some(true) && Some(choice.adopted) != self.writers[at].resumes {
                self.fail(format!(
                    "w{at} resumes epoch {:?}, but {} wrote since",
                    self.writers[at].resumes, choice.adopted
                ));
            }
        }
        if resumed == Some(true) {
            self.count("resumed");
            self.at(0, Event::SendAgain(at));
        }
    }

    /// A device that outlived the dead writer sends again what that one did not answer; here each with a mark of its
    /// own, because the first may have been carried out, and be seen before the second is.
    pub fn send_again(&mut self, at: usize) {
        let resumes = self.writers[at].resumes;
        let dead = self.writers.iter().find(|old| old.has_live_client && Some(old.epoch) == resumes);
        let open: Vec<Op> = dead.map(|old| old.ops.values().cloned().collect()).unwrap_or_default();
        for op in open.into_iter().filter(|op| !op.gone && !op.left.load(Ordering::Relaxed)) {
            self.count("requests sent again");
            let tag = self.fresh_tag();
            self.submit(at, Op { fua: op.fua, ..Op::new(tag, op.kind, op.position, op.length) });
        }
    }

    /// A writer answers a client.
    fn answered(&mut self, at: usize, id: RequestId, result: Result<Response, RequestError>) {
        let Some(op) = self.writers[at].ops.remove(&id) else {
            return self.fail(format!("w{at} answers request {id} again"));
        };
        let code = match &result {
            Ok(_) => 0,
            Err(error) => 1 + error.clone() as u64,
        };
        self.trace.mix(&[self.now, 23, at as u64, id, code]);
        self.note(|| match &result {
            Ok(Response::Data(bytes)) => format!("w{at} answers {id} with {} bytes", bytes.len()),
            Ok(other) => format!("w{at} answers {id}: {other:?}"),
            Err(error) => format!("w{at} fails {id}: {error:?}"),
        });
        if let Some(client) = self.writers[at].clients_of.remove(&id) {
            self.writers[at].outstanding[client] -= 1;
        }
        let checked = match (&result, op.kind) {
            (Ok(Response::Done), Kind::Write | Kind::Zero | Kind::Trim) => self.write_answered(at, &op),
            (Ok(Response::Done), Kind::Flush) => {
                self.flush_answered(at, &op);
                Ok(())
            }
            (Ok(Response::Data(bytes)), Kind::Read) => self.read_answered(at, &op, bytes),
            (Ok(Response::Runs(runs)), Kind::Allocation) => self.runs_answered(at, &op, runs),
            (Err(RequestError::Fenced), _) => Ok(()),
            // A write may still take effect, as one that was never answered: it may have its number, and be sent later.
            (Err(RequestError::TimedOut), _) if self.temper.io_timeout.is_some() => {
                if op.changes() {
                    for (slot, stamp) in self.writers[at].stamps.get(&id).cloned().unwrap_or_default() {
                        self.ledgers[slot].given_up(stamp);
                    }
                    self.writers[at].late.insert(id, op);
                }
                Ok(())
            }
            (Err(RequestError::NoSpace | RequestError::Abandoned), _) if op.changes() => {
                self.registers.void(self.writers[at].epoch, op.tag, op.position, op.length);
                Ok(())
            }
            (Err(_), _) if self.errors_are_lawful => Ok(()),
            _ => Err(format!("request {op:?} was answered with {result:?}")),
        };
        self.check(checked);
        self.count(if result.is_ok() { "answered" } else { "failed" });
        if self.temper.clients == 0 {
            self.writers[at].answers.insert(id, result);
        }
    }

    fn write_answered(&mut self, at: usize, op: &Op) -> Result<(), String> {
        let epoch = self.writers[at].epoch;
        let durable = op.fua || self.temper.durability == infinit::cluster::replication::writer::Durability::Write;
        for (slot, stamp) in self.writers[at].stamps.remove(&op.tag).unwrap_or_default() {
            let standing = self.votes(SlotIndex(slot as u32));
            self.ledgers[slot].answered(self.now, stamp, durable, &standing)?;
        }
        self.registers.answered(self.now, epoch, op.tag, op.position, op.length)
    }

    /// Whatever was answered on this writer before the flush was asked for is safe now, and all that it recovered.
    fn flush_answered(&mut self, at: usize, flush: &Op) {
        let epoch = self.writers[at].epoch;
        for ledger in &mut self.ledgers {
            ledger.flushed(epoch, |entry| entry.answered.is_some_and(|at| at < flush.submitted));
        }
    }

    fn read_answered(&mut self, at: usize, op: &Op, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() as u64 != op.length {
            return Err(format!("{op:?} was answered with {} bytes", bytes.len()));
        }
        let epoch = self.writers[at].epoch;
        for (index, tag) in tags_of(op.position, bytes)?.into_iter().enumerate() {
            let sector = op.position / SECTOR + index as u64;
            self.registers.read(op.submitted, self.now, epoch, sector, tag).map_err(|why| format!("w{at}: {why}"))?;
        }
        Ok(())
    }

    /// What is not allocated reads as zeroes.
    fn runs_answered(&mut self, at: usize, op: &Op, runs: &[message::Run]) -> Result<(), String> {
        let epoch = self.writers[at].epoch;
        let mut block = op.first_block();
        for run in runs {
            if run.kind != RunKind::Data {
                for sector in block * BLOCK_SECTORS..(block + run.blocks) * BLOCK_SECTORS {
                    self.registers
                        .read(op.submitted, self.now, epoch, sector, 0)
                        .map_err(|why| format!("w{at}: {why}"))?;
                }
            }
            block += run.blocks;
        }
        if runs.is_empty() || block > op.end_block() {
            return Err(format!("{op:?} was answered with {runs:?}"));
        }
        Ok(())
    }

    /// A writer is at its end: its connections go, and somebody attaches anew.
    fn ended(&mut self, at: usize, gave_up: bool) {
        if !self.writers[at].ops.is_empty() {
            return self.fail(format!("w{at} ended and left {} requests unanswered", self.writers[at].ops.len()));
        }
        self.cut_all_of_writer(at, true);
        if self.cluster.holder == Some(at) && self.persistent && !self.writers[at].released {
            let node = if gave_up { self.writers[at].node } else { self.dice.below(self.silos.len() as u64) as usize };
            let wait = self.dice.around(300 * MS).min(SECOND);
            self.at(wait, Event::Attach(node));
        }
    }

    /// The writer's process dies: what it was asked and did not answer stays open for ever.
    pub fn kill_writer(&mut self, at: usize) {
        self.trace.mix(&[self.now, 24, at as u64]);
        self.note(|| format!("w{at} dies"));
        self.writers[at].state = State::Dead;
        self.writers[at].held.clear();
        self.cut_all_of_writer(at, true);
    }

    pub fn pause(&mut self, at: usize, duration: u64) {
        if self.writers[at].state == State::Running {
            self.note(|| format!("w{at} is paused for {} ms", duration / MS));
            self.writers[at].state = State::Paused;
            self.at(duration, Event::Thaw(at));
        }
    }

    pub fn thaw(&mut self, at: usize) {
        if self.writers[at].state != State::Paused {
            return;
        }
        self.note(|| format!("w{at} goes on"));
        self.trace.mix(&[self.now, 25, at as u64]);
        self.writers[at].state = State::Running;
        for event in std::mem::take(&mut self.writers[at].held) {
            match event {
                Event::ToWriter(id, message) => self.arrive_at_writer(id, message),
                Event::Broken(id) => self.hear_of_break(id),
                Event::Request(op) => self.hand_over(at, op),
                Event::Inform(at) => self.inform(at),
                Event::Decided(at, slot, proposal) => self.decided(at, slot, proposal),
                _ => {}
            }
        }
    }

    /// A request that waited in the socket of a paused process.
    fn hand_over(&mut self, at: usize, op: Op) {
        let (tag, request) = (op.tag, op.request());
        self.writers[at].ops.insert(tag, op);
        let now = self.moment(self.writers[at].node);
        self.writers[at].writer.submit(now, tag, request);
        self.pump(at);
    }
}

fn host_is_full(host: &WriterHost, client: usize, depth: usize) -> bool {
    host.outstanding[client] >= depth
}

/// The request that a record belongs to: that whose mark it bears, or the oldest of its kind that covers it.
fn owner(ops: &BTreeMap<RequestId, Op>, record: &Record) -> Tag {
    let header = &record.header;
    let (first, end) = (header.first_block(), header.first_block() + header.block_count());
    let covers = |op: &&Op| op.first_block() <= first && end <= op.end_block();
    let bears = |op: &&Op| {
        let sector = (op.position / SECTOR).max(first * BLOCK_SECTORS);
        let at = (sector * SECTOR - first * BLOCK_BYTES) as usize;
        record.payload.get(at..at + 8).is_some_and(|raw| raw == op.tag.to_le_bytes())
    };
    let kind = match header.kind {
        RecordKind::Trim => Kind::Trim,
        _ if record.payload.is_empty() => Kind::Zero,
        _ => Kind::Write,
    };
    ops.values()
        .filter(|op| op.kind == kind && covers(op))
        .find(|op| kind != Kind::Write || bears(op))
        .map_or(0, |op| op.tag)
}
