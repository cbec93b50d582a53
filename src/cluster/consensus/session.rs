//! Each proposal is applied once, however often it is sent.
//!
//! A proposer that hears no answer sends the same proposal again, perhaps to another leader, and both may reach the log.
//! So each carries a ticket: the proposing node, a session drawn at random when its group started, and a number. The
//! replicated state keeps the answers of a session's numbers until the proposer says, with a later ticket, that it has
//! settled them (Ongaro, "Consensus: Bridging Theory and Practice", 6.3). A repetition gets the first answer again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::base::id::NodeId;
use crate::base::mutant::{self, Mutant};
use crate::cluster::consensus::runtime;
use crate::cluster::state::command::Outcome;
use crate::cluster::state::refusal::Refusal;

/// Sessions remembered a node: the running one, and some before it whose last messages may still arrive.
const SESSIONS_A_NODE: usize = 4;
/// Answers remembered a session. A proposer has at most [`super::PROPOSALS_MAX`] open, so this is never reached.
const ANSWERS_A_SESSION: usize = 4 * super::PROPOSALS_MAX;

/// Names a proposal, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ticket {
    pub node: NodeId,
    pub session: u64,
    pub number: u64,
    /// All numbers below this one have their answer and are not sent again.
    pub settled: u64,
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:x}.{}", self.node.short(), self.session, self.number)
    }
}

/// The answers of the proposals that may still be repeated. Part of the replicated state, and changed only by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sessions {
    /// The sessions of each node, the one heard of last at the end.
    nodes: BTreeMap<NodeId, Vec<Session>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    id: u64,
    settled: u64,
    answers: BTreeMap<u64, Result<Outcome, Refusal>>,
}

impl Sessions {
    /// The answer to a proposal: of the first time if there was one, else of `decide`, which is then remembered.
    pub fn once(
        &mut self,
        ticket: &Ticket,
        decide: impl FnOnce() -> Result<Outcome, Refusal>,
    ) -> Result<Outcome, Refusal> {
        if mutant::on(Mutant::GroupProposalRepeated) {
            return decide();
        }
        let session = self.session(ticket);
        if ticket.number < session.settled {
            return Err(Refusal::Superseded);
        }
        session.settled = session.settled.max(ticket.settled.min(ticket.number));
        session.answers = session.answers.split_off(&session.settled);
        if let Some(answer) = session.answers.get(&ticket.number) {
            return answer.clone();
        }
        let answer = decide();
        session.answers.insert(ticket.number, answer.clone());
        while session.answers.len() > ANSWERS_A_SESSION {
            session.answers.pop_first();
        }
        answer
    }

    /// Drops what is remembered of nodes that are no members any more.
    pub fn keep_only(&mut self, member: impl Fn(&NodeId) -> bool) {
        self.nodes.retain(|node, _| member(node));
    }

    fn session(&mut self, ticket: &Ticket) -> &mut Session {
        let sessions = self.nodes.entry(ticket.node).or_default();
        let session = match sessions.iter().position(|session| session.id == ticket.session) {
            Some(index) => sessions.remove(index),
            None => Session { id: ticket.session, settled: 0, answers: BTreeMap::new() },
        };
        if sessions.len() >= SESSIONS_A_NODE {
            sessions.remove(0);
        }
        let last = sessions.len();
        sessions.push(session);
        &mut sessions[last]
    }
}

/// The proposer's side: hands out numbers, and knows which are settled.
#[derive(Debug)]
pub(super) struct Tickets {
    node: NodeId,
    session: u64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    numbers: BTreeSet<u64>,
}

impl Tickets {
    pub fn new(node: NodeId) -> Self {
        Self { node, session: runtime::random(), open: Mutex::default() }
    }

    /// A new number, open until it is dropped.
    pub fn draw(&self) -> OpenTicket<'_> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let number = open.next;
        open.next += 1;
        open.numbers.insert(number);
        OpenTicket { tickets: self, number }
    }
}

/// A number whose proposal may still be sent.
pub(super) struct OpenTicket<'a> {
    tickets: &'a Tickets,
    number: u64,
}

impl OpenTicket<'_> {
    /// The ticket as it is to be sent now.
    pub fn ticket(&self) -> Ticket {
        let open = self.tickets.open.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = open.numbers.first().copied().unwrap_or(self.number);
        Ticket { node: self.tickets.node, session: self.tickets.session, number: self.number, settled }
    }
}

impl Drop for OpenTicket<'_> {
    fn drop(&mut self) {
        self.tickets.open.lock().unwrap_or_else(PoisonError::into_inner).numbers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Epoch;

    fn ticket(session: u64, number: u64, settled: u64) -> Ticket {
        Ticket { node: NodeId([1; 32]), session, number, settled }
    }

    fn granted(epoch: u64) -> Result<Outcome, Refusal> {
        Ok(Outcome::Granted { epoch: Epoch(epoch) })
    }

    #[test]
    fn a_repetition_gets_the_first_answer_and_an_old_one_none() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.once(&ticket(1, 0, 0), || granted(1)), granted(1));
        assert_eq!(sessions.once(&ticket(1, 0, 0), || unreachable!()), granted(1));
        assert_eq!(sessions.once(&ticket(1, 1, 0), || Err(Refusal::NoNetwork)), Err(Refusal::NoNetwork));
        assert_eq!(sessions.once(&ticket(1, 1, 0), || unreachable!()), Err(Refusal::NoNetwork));
        assert_eq!(sessions.once(&ticket(1, 2, 2), || granted(2)), granted(2));
        assert_eq!(sessions.once(&ticket(1, 1, 0), || unreachable!()), Err(Refusal::Superseded));
        assert_eq!(sessions.nodes[&NodeId([1; 32])][0].answers.len(), 1);
    }

    #[test]
    fn a_restart_begins_a_session_and_a_few_are_remembered() {
        let mut sessions = Sessions::default();
        for session in 0..10 {
            assert_eq!(sessions.once(&ticket(session, 0, 0), || granted(session)), granted(session));
        }
        assert_eq!(sessions.once(&ticket(8, 0, 0), || unreachable!()), granted(8));
        assert_eq!(sessions.nodes[&NodeId([1; 32])].len(), SESSIONS_A_NODE);
        sessions.keep_only(|_| false);
        assert_eq!(sessions, Sessions::default());
    }

    #[test]
    fn a_ticket_settles_what_is_answered() {
        let tickets = Tickets::new(NodeId([1; 32]));
        let first = tickets.draw();
        let second = tickets.draw();
        assert_eq!((second.ticket().number, second.ticket().settled), (1, 0));
        drop(first);
        assert_eq!(second.ticket().settled, 1);
        drop(second);
        assert_eq!(tickets.draw().ticket().settled, 2);
    }
}
