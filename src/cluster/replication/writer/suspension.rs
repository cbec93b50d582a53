//! I/O to a slot without a majority waits and resumes by itself; where the policy names a limit, it fails beyond it
//! (rule 11).

use crate::base::clock::Moment;
use crate::cluster::replication::order::RequestId;
use crate::cluster::replication::writer::{Output, Phase, Request, RequestError, Writer};

impl Writer {
    /// Whether a request would wait for a slot that has been without a majority for too long.
    pub(super) fn gives_up(&self, now: Moment, request: &Request) -> bool {
        let touched = match request {
            Request::Flush => 0..=self.slots.len() - 1,
            other => self.slots_of(other),
        };
        self.phase == Phase::Serving && touched.into_iter().any(|index| self.is_given_up(now, index))
    }

    fn is_given_up(&self, now: Moment, index: usize) -> bool {
        let since = self.slots[index].suspended_since;
        self.options.io_timeout.is_some_and(|limit| since.is_some_and(|since| now.since(since) >= limit))
    }

    /// Fails what has waited for too long. A write that has its number is driven to a majority all the same (rule 6).
    pub(super) fn tick_suspension(&mut self, now: Moment) {
        if self.options.io_timeout.is_none() || self.phase != Phase::Serving {
            return;
        }
        let mut any = false;
        for index in 0..self.slots.len() {
            if self.is_given_up(now, index) {
                any = true;
                self.slots[index].given_up = self.slots[index].last;
            }
        }
        if !any {
            return;
        }
        let late: Vec<RequestId> =
            self.pending.iter().filter(|(_, p)| self.gives_up(now, &p.request)).map(|(id, _)| *id).collect();
        let mut free = Vec::new();
        for id in &late {
            self.pending.remove(id);
            self.reads.retain(|_, task| task.request() != *id);
            self.order.leave(*id, &mut free);
        }
        let flushes = std::mem::take(&mut self.flushes).into_keys();
        for id in late.into_iter().chain(flushes) {
            self.outputs.push(Output::Answer(id, Err(RequestError::TimedOut)));
        }
        for id in free {
            self.run(now, id);
        }
    }
}
