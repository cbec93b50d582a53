//! What goes wrong, and how it ends: once the faults are over every member must be able to propose again, and all must
//! come to the same state and agree on who votes, in bounded time.

use std::collections::BTreeSet;
use std::time::Duration;

use infinit::base::id::NodeId;
use infinit::cluster::consensus::runtime::simulated::{self, Host};
use infinit::cluster::consensus::{Group, ProposeError};
use infinit::store::faulty::Crash;

use super::cluster::{Cluster, NODES_MAX, after, place};
use super::temper::{Fault, HEALING_NS, MS, SECOND};

/// How long a crash that was scheduled for an operation of the disk may keep one waiting.
const CRASH_PATIENCE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What a member may take to carry out a proposal once all is well.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

impl Cluster {
    /// Faults come one after the other until the time is over.
    pub async fn break_then_heal(&self) {
        self.outside({
            let cluster = self.clone();
            async move { cluster.bury().await }
        });
        loop {
            let (pause, over) = {
                let mut shared = self.shared();
                let (mean, until) = (shared.temper.fault_every_ns, shared.temper.duration_ns);
                let pause = shared.dice.around(mean).min(until);
                (pause, simulated::now_ns() + pause >= until)
            };
            if over {
                break;
            }
            after(Duration::from_nanos(pause)).await;
            self.fault();
        }
        let left = self.shared().temper.duration_ns.saturating_sub(simulated::now_ns());
        after(Duration::from_nanos(left)).await;
        self.heal().await;
    }

    fn fault(&self) {
        let Some(fault) = self.draw_fault() else { return };
        let target = self.target(fault);
        let outage = self.outage();
        let Some(node) = target else { return };
        self.note(|| format!("fault: {fault:?} of n{node} for {outage:?}"));
        self.count(fault.name());
        match fault {
            Fault::Deafen | Fault::Isolate | Fault::Split => self.cut(fault, node, outage),
            Fault::Crash | Fault::CrashLeader => self.crash(node, Crash::Process, outage),
            Fault::Power => self.crash(node, Crash::Power, outage),
            Fault::CrashInCommit => self.crash_in_commit(node, Crash::Process, outage),
            Fault::PowerInCommit | Fault::PowerLeader => self.crash_in_commit(node, Crash::Power, outage),
            Fault::PowerAll => {
                let nodes = self.shared().nodes.len();
                for node in 0..nodes {
                    self.crash(node, Crash::Power, self.outage());
                }
            }
            Fault::Pause | Fault::PauseLeader => self.pause(node, outage),
            Fault::SlowDisk => self.slow_disk(node, outage),
            Fault::FailedSync => self.fail_sync(node, outage),
            Fault::Restart => self.restart(node, outage),
            Fault::Join => self.outside({
                let cluster = self.clone();
                async move {
                    if let Some(node) = cluster.admit().await {
                        cluster.open_silo(node).await;
                    }
                }
            }),
            Fault::Leave => self.outside({
                let cluster = self.clone();
                async move { cluster.dismiss(node).await }
            }),
        }
    }

    fn draw_fault(&self) -> Option<Fault> {
        let mut guard = self.shared();
        let shared = &mut *guard;
        let total: u64 = shared.temper.faults.iter().map(|(_, weight)| weight).sum();
        let mut drawn = if total == 0 { return None } else { shared.dice.below(total) };
        for (fault, weight) in &shared.temper.faults {
            if drawn < *weight {
                return Some(*fault);
            }
            drawn -= weight;
        }
        None
    }

    fn target(&self, fault: Fault) -> Option<usize> {
        let leader = self.leader();
        let mut shared = self.shared();
        match fault {
            Fault::CrashLeader | Fault::PowerLeader | Fault::PauseLeader if leader.is_some() => leader,
            Fault::Join => (shared.nodes.len() < NODES_MAX).then_some(0),
            _ => {
                let there: Vec<_> = (0..shared.nodes.len()).filter(|node| !shared.nodes[*node].gone).collect();
                shared.dice.pick(&there).copied()
            }
        }
    }

    fn outage(&self) -> Duration {
        let mut shared = self.shared();
        let mean = shared.temper.outage_ns;
        Duration::from_nanos(shared.dice.around(mean))
    }

    fn cut(&self, fault: Fault, node: usize, outage: Duration) {
        let mut guard = self.shared();
        let shared = &mut *guard;
        let (len, until) = (shared.nodes.len(), simulated::now_ns() + outage.as_nanos() as u64);
        let drawn = shared.dice.next();
        let other = drawn as usize % len;
        let ways = drawn % 3;
        let here = |node: usize| drawn >> node & 1 == 0;
        for (from, to) in (0..len).flat_map(|from| (0..len).map(move |to| (from, to))) {
            let is_cut = match fault {
                Fault::Deafen => (from, to) == (node, other),
                Fault::Split => here(from) != here(to),
                _ => from == node && ways < 2 || to == node && ways != 1,
            };
            if is_cut {
                shared.cuts.insert((from, to), until);
            }
        }
    }

    fn crash(&self, node: usize, crash: Crash, outage: Duration) {
        self.end(node, crash);
        self.start_after(node, outage);
    }

    fn crash_in_commit(&self, node: usize, crash: Crash, outage: Duration) {
        let Some(life) = self.life(node) else { return };
        {
            let mut shared = self.shared();
            let operations = shared.dice.below(24);
            shared.nodes[node].disk.crash_after(operations, crash);
        }
        let cluster = self.clone();
        self.outside(async move {
            let until = simulated::now_ns() + CRASH_PATIENCE.as_nanos() as u64;
            while !life.is_dead() && simulated::now_ns() < until {
                after(LOOK_AGAIN).await;
            }
            if cluster.life(node) == Some(life) && !cluster.shared().healing {
                cluster.crash(node, crash, outage);
            }
        });
    }

    fn life(&self, node: usize) -> Option<Host> {
        self.shared().nodes[node].life.as_ref().map(|life| life.host)
    }

    fn pause(&self, node: usize, outage: Duration) {
        let Some(host) = self.life(node) else { return };
        host.pause();
        self.outside(async move {
            after(outage).await;
            host.thaw();
        });
    }

    fn slow_disk(&self, node: usize, outage: Duration) {
        let Some(host) = self.life(node) else { return };
        host.set_blocking_ns(20 * MS..=800 * MS);
        let usual = self.shared().temper.disk_ns;
        self.outside(async move {
            after(outage).await;
            host.set_blocking_ns(usual.0..=usual.1);
        });
    }

    /// The log of a member fails for good; its process is restarted by somebody who notices.
    fn fail_sync(&self, node: usize, outage: Duration) {
        let Some(life) = self.life(node) else { return };
        {
            let mut shared = self.shared();
            let syncs = shared.dice.below(6);
            shared.nodes[node].disk_failed = true;
            shared.nodes[node].disk.fail_sync_after(syncs);
        }
        let cluster = self.clone();
        self.outside(async move {
            after(CRASH_PATIENCE).await;
            if cluster.life(node) == Some(life) && !cluster.shared().healing {
                cluster.crash(node, Crash::Process, outage);
            }
        });
    }

    fn restart(&self, node: usize, outage: Duration) {
        let running = self.running().into_iter().find(|(running, ..)| *running == node);
        let Some((_, host, group)) = running else { return };
        let cluster = self.clone();
        host.spawn(async move {
            group.hand_over().await;
            let ending = cluster.clone();
            group.shutdown().await;
            cluster.outside(async move {
                if ending.life(node) == Some(host) {
                    ending.crash(node, Crash::Process, outage);
                }
            });
        });
    }

    /// Members that left end for good once nobody counts on them any more.
    async fn bury(&self) {
        while !self.shared().finished {
            after(LOOK_AGAIN).await;
            let leader = self.leader();
            let led = self.running().into_iter().find(|(node, ..)| Some(*node) == leader);
            let Some((_, _, group)) = led else { continue };
            let (state, status) = (group.state().borrow().clone(), group.status());
            let listed = |node: &NodeId| status.voters.contains(node) || status.learners.contains(node);
            for node in state.revoked.keys().filter(|node| !listed(node)).map(|node| place(*node)) {
                if !self.shared().nodes[node].gone {
                    self.shared().nodes[node].gone = true;
                    self.end(node, Crash::Process);
                    self.count("gone");
                }
            }
        }
    }

    async fn heal(&self) {
        let began = simulated::now_ns();
        self.note(|| "faults are over".to_owned());
        let nodes = {
            let mut shared = self.shared();
            (shared.healing, shared.quiet) = (true, true);
            shared.cuts.clear();
            shared.nodes.len()
        };
        for node in 0..nodes {
            self.revive(node);
        }
        self.all_propose().await;
        while !self.is_well() {
            if simulated::now_ns() > began + HEALING_NS {
                return self.fail(format!("after {} s: {}", HEALING_NS / SECOND, self.complaint()));
            }
            after(LOOK_AGAIN).await;
        }
        let took = (simulated::now_ns() - began) / MS;
        let mut shared = self.shared();
        shared.note(|| format!("all is well after {took} ms"));
        let name = match took {
            0..2_000 => "well within 2 s",
            2_000..10_000 => "well within 10 s",
            _ => "well later",
        };
        *shared.counts.entry(name).or_default() += 1;
        shared.finished = true;
    }

    /// Whatever a member's process suffers from ends now.
    fn revive(&self, node: usize) {
        let running = self.running().into_iter().find(|(running, ..)| *running == node);
        match running {
            Some((_, host, group)) if group.status().stopped.is_none() && !self.shared().nodes[node].disk_failed => {
                host.thaw();
                host.set_blocking_ns(0..=MS);
                // A crash that was ordered and has not come yet never does.
                self.shared().nodes[node].disk.crash_after(1 << 60, Crash::Process);
            }
            _ => self.end(node, Crash::Process),
        }
        self.start(node);
    }

    /// Each member carries something out.
    async fn all_propose(&self) {
        let newest = self.running().into_iter().map(|(_, _, group)| group.state().borrow().clone());
        let newest = newest.max_by_key(|state| state.members.len() + 2 * state.revoked.len()).unwrap_or_default();
        for node in newest.members.keys().map(|id| place(*id)) {
            if let Err(why) = self.proposes(node).await {
                return self.fail(format!("n{node} cannot propose although the faults are over: {why}"));
            }
        }
    }

    async fn proposes(&self, node: usize) -> Result<(), String> {
        let until = simulated::now_ns() + HEALING_NS;
        while simulated::now_ns() < until {
            let running = self.running().into_iter().find(|(running, ..)| *running == node);
            if let Some((node, host, group)) = running {
                let command = {
                    let mut shared = self.shared();
                    let at = shared.tag();
                    shared.creation(at)
                };
                match self.propose(node, host, group, command, ANSWER_LIMIT).await {
                    Ok(Ok(_) | Err(ProposeError::Refused(_))) => return Ok(()),
                    // Its process ended: it was being restarted.
                    Err(_) | Ok(Err(ProposeError::Stopped)) => (),
                    Ok(Err(error)) => return Err(error.to_string()),
                }
            }
            if self.shared().nodes[node].gone {
                return Ok(());
            }
            after(LOOK_AGAIN).await;
        }
        Err("it does not come up".to_owned())
    }

    /// All members hold the newest state and agree on who votes.
    pub fn is_well(&self) -> bool {
        let running = self.running();
        let Some(leader) = self.leader() else { return false };
        let Some((_, _, led)) = running.iter().find(|(node, ..)| *node == leader) else { return false };
        let state = led.state().borrow().clone();
        let (wanted, told) = (led.status().voters, led.status().learners);
        let votes = match state.members.values().filter(|member| member.role.votes()).count() {
            0..=2 => 1,
            3..=4 => 3,
            _ => 5,
        };
        let listed: BTreeSet<_> = wanted.union(&told).copied().collect();
        let members: BTreeSet<_> = state.members.keys().copied().collect();
        let group_of = |id: &NodeId| running.iter().find(|(node, ..)| *node == place(*id)).map(|(_, _, group)| group);
        let agrees = |group: &Group| {
            let status = group.status();
            let newest = self.shared().history.is_newest(&group.state().borrow());
            newest && status.has_quorum && status.voters == wanted && status.applied == led.status().applied
        };
        wanted.len() == votes && listed == members && members.iter().all(|member| group_of(member).is_some_and(agrees))
    }

    fn complaint(&self) -> String {
        let told = self.running().into_iter().map(|(node, _, group)| {
            let newest = self.shared().history.is_newest(&group.state().borrow());
            let (members, status) = (group.state().borrow().members.len(), group.status());
            let voters: Vec<_> = status.voters.iter().map(|id| place(*id)).collect();
            let learners: Vec<_> = status.learners.iter().map(|id| place(*id)).collect();
            format!(
                "n{node} has {} entries ({}), {members} members, voters {voters:?}, learners {learners:?}, quorum {}, \
                 leader {:?}, stopped {:?}",
                status.applied,
                if newest { "newest" } else { "old" },
                status.has_quorum,
                status.leader.map(place),
                status.stopped
            )
        });
        told.collect::<Vec<_>>().join("; ")
    }
}
