//! Connections between writers and silos: in order while they last, cut at any moment. What was on its way to a silo
//! when its connection was cut may still arrive, late and beside what comes on the next one; what was on its way to the
//! writer is lost with it. A rough network loses, doubles and overtakes within a connection too, which no transport
//! does: the machines must be safe without leaning on it.

use infinit::cluster::replication::message::{FromSilo, ToSilo};

use super::temper::MS;
use super::trace::{from_silo, is_heartbeat, silo_name, to_silo};
use super::world::{Event, World, node_id, silo_at, silo_id};

/// One connection. Its number is the session at the silo.
#[derive(Debug)]
pub struct Connection {
    pub writer: usize,
    pub silo: usize,
    /// The opening of the silo that it leads to.
    pub life: u64,
    pub stands: bool,
    /// After the cut, what was sent before still arrives.
    lingers: bool,
    last_to_silo: u64,
    last_to_writer: u64,
}

impl World {
    /// A writer tries to reach a silo.
    pub fn reconnect(&mut self, writer: usize, silo: usize) {
        let host = &self.writers[writer];
        if host.is_dead() || host.links[silo].is_some() {
            return;
        }
        let (to, from) = self.blocked_until(writer, silo);
        let reachable = self.silos[silo].keeper.is_some() && to <= self.now && from <= self.now;
        if !reachable || self.writers[writer].is_paused() {
            let wait = 50 * MS + self.dice.below(200 * MS);
            self.at(wait, Event::Reconnect(writer, silo));
            return;
        }
        let id = self.next_connection;
        self.next_connection += 1;
        let life = self.silos[silo].life;
        let (last_to_silo, last_to_writer) = (self.now, self.now);
        let connection = Connection { writer, silo, life, stands: true, lingers: false, last_to_silo, last_to_writer };
        self.connections.insert(id, connection);
        self.writers[writer].links[silo] = Some(id);
        self.trace.mix(&[self.now, 1, writer as u64, silo as u64]);
        self.note(|| format!("w{writer} – s{} connected", silo + 1));
        let now = self.moment(self.writers[writer].node);
        self.writers[writer].writer.connected(now, silo_id(silo));
        self.pump(writer);
    }

    /// A writer's message goes out on its present connection, if it has one.
    pub fn send_to_silo(&mut self, writer: usize, message: ToSilo) {
        let silo = silo_at(message.silo());
        if !(self.trace.quiet && is_heartbeat(&message)) {
            self.note(|| format!("w{writer} → {}: {}", silo_name(silo_id(silo)), to_silo(&message)));
        }
        let Some(id) = self.writers[writer].links[silo] else { return };
        if self.losses.iter().any(|(at, which)| *at == silo && which(&message)) {
            return self.note(|| "    which is lost".to_owned());
        }
        if self.late.iter().any(|(at, which)| *at == silo && which(&message)) {
            self.note(|| "    which takes long".to_owned());
            return self.under_way.push((id, message));
        }
        let (lost, doubled, overtaken) = self.temper.rough;
        let rough = !self.healing;
        if rough && self.dice.chance(lost) {
            return;
        }
        let again = rough && doubled > 0 && self.dice.chance(doubled);
        let ordered = !(rough && overtaken > 0 && self.dice.chance(overtaken));
        let (blocked, _) = self.blocked_until(writer, silo);
        let arrival = (self.now + self.latency()).max(blocked);
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.stands) else { return };
        let mut at = arrival;
        if ordered {
            at = at.max(connection.last_to_silo + 1);
            connection.last_to_silo = at;
        }
        let now = self.now;
        if again {
            let later = self.latency();
            self.at(at - now + later, Event::ToSilo(id, message.clone()));
        }
        self.at(at - now, Event::ToSilo(id, message));
    }

    pub fn arrive_at_silo(&mut self, id: u64, message: ToSilo) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (silo, writer) = (connection.silo, connection.writer);
        let host = &mut self.silos[silo];
        if host.keeper.is_none() || host.life != connection.life || !(connection.stands || connection.lingers) {
            return;
        }
        let node = node_id(self.writers[writer].node);
        host.inbox.push((node, id, message));
        if !host.working {
            host.working = true;
            let life = host.life;
            let slow = if host.slow_until > self.now { self.dice.between(50 * MS, 700 * MS) } else { 0 };
            let wait = self.dice.below(MS / 5) + slow;
            let wait = if self.temper.clients == 0 { 0 } else { wait };
            self.at(wait, Event::Work(silo, life));
        }
    }

    /// A silo's answer goes back on the connection that it belongs to.
    pub fn send_to_writer(&mut self, id: u64, message: FromSilo) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (silo, writer) = (connection.silo, connection.writer);
        if !(self.trace.quiet
            && matches!(&message, FromSilo::Rare(_, _, infinit::cluster::replication::message::Answer::Renewed { .. })))
        {
            self.note(|| format!("s{} → w{writer}: {}", silo + 1, from_silo(&message)));
        }
        if self.late_acks == Some(silo) && matches!(message, FromSilo::Ack(_)) {
            self.note(|| "    which takes long".to_owned());
            return self.acks_under_way.push((writer, message));
        }
        let (lost, doubled, overtaken) = self.temper.rough;
        let rough = !self.healing;
        if rough && self.dice.chance(lost) {
            return;
        }
        let again = rough && doubled > 0 && self.dice.chance(doubled);
        let ordered = !(rough && overtaken > 0 && self.dice.chance(overtaken));
        let (_, blocked) = self.blocked_until(writer, silo);
        let arrival = (self.now + self.latency()).max(blocked);
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.stands) else { return };
        let mut at = arrival;
        if ordered {
            at = at.max(connection.last_to_writer + 1);
            connection.last_to_writer = at;
        }
        if again {
            let later = self.latency();
            self.at(at - now + later, Event::ToWriter(id, message.clone()));
        }
        self.at(at - now, Event::ToWriter(id, message));
    }

    pub fn arrive_at_writer(&mut self, id: u64, message: FromSilo) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (silo, writer) = (connection.silo, connection.writer);
        let current = connection.stands && self.writers[writer].links[silo] == Some(id);
        if self.writers[writer].is_dead() || !current {
            return;
        }
        if self.writers[writer].is_paused() {
            self.writers[writer].held.push(Event::ToWriter(id, message));
            return;
        }
        self.trace.mix(&[self.now, 2, id]);
        let now = self.moment(self.writers[writer].node);
        self.writers[writer].writer.message(now, message);
        self.pump(writer);
    }

    /// Cuts a connection; both ends hear of it, the writer some time later.
    pub fn cut(&mut self, id: u64, lingers: bool) {
        let delay = self.dice.below(300 * MS);
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.stands) else { return };
        connection.stands = false;
        connection.lingers = lingers;
        let (writer, silo) = (connection.writer, connection.silo);
        self.trace.mix(&[self.now, 3, id]);
        self.note(|| {
            format!("w{writer} – s{} cut{}", silo + 1, if lingers { ", with messages under way" } else { "" })
        });
        self.at(delay, Event::Broken(id));
    }

    pub fn hear_of_break(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (writer, silo) = (connection.writer, connection.silo);
        if self.writers[writer].is_dead() || self.writers[writer].links[silo] != Some(id) {
            return;
        }
        if self.writers[writer].is_paused() {
            self.writers[writer].held.push(Event::Broken(id));
            return;
        }
        self.writers[writer].links[silo] = None;
        self.trace.mix(&[self.now, 4, id]);
        self.note(|| format!("w{writer} hears that s{} is cut off", silo + 1));
        let now = self.moment(self.writers[writer].node);
        self.writers[writer].writer.disconnected(now, silo_id(silo));
        self.pump(writer);
        let wait = 20 * MS + self.dice.below(200 * MS);
        self.at(wait, Event::Reconnect(writer, silo));
    }

    /// Nothing passes from a writer to a silo for so long, or back, or both.
    pub fn partition(&mut self, writer: usize, silo: usize, to: bool, from: bool, duration: u64) {
        let until = self.now + duration;
        let blocked = self.blocked.entry((writer, silo)).or_default();
        if to {
            blocked.0 = until;
        }
        if from {
            blocked.1 = until;
        }
        self.note(|| format!("w{writer} – s{} partitioned (to {to}, from {from}) for {} ms", silo + 1, duration / MS));
    }

    pub fn blocked_until(&self, writer: usize, silo: usize) -> (u64, u64) {
        self.blocked.get(&(writer, silo)).copied().unwrap_or_default()
    }

    /// Whether a writer's connection leads to the silo as it is now.
    pub fn leads_to_present(&self, writer: usize, silo: usize) -> bool {
        let connection = self.writers[writer].links[silo].and_then(|id| self.connections.get(&id));
        connection.is_some_and(|connection| connection.stands && connection.life == self.silos[silo].life)
    }

    pub fn cut_all_of_silo(&mut self, silo: usize) {
        let ids: Vec<u64> =
            self.connections.iter().filter(|(_, c)| c.silo == silo && c.stands).map(|(id, _)| *id).collect();
        for id in ids {
            self.cut(id, false);
        }
    }

    pub fn cut_all_of_writer(&mut self, writer: usize, lingers: bool) {
        let ids: Vec<u64> =
            self.connections.iter().filter(|(_, c)| c.writer == writer && c.stands).map(|(id, _)| *id).collect();
        for id in ids {
            self.cut(id, lingers);
        }
    }
}
