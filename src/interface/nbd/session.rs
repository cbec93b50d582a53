//! One connection in the transmission phase.
//!
//! One task does it all: it reads what the socket holds, hands each whole request to the device, polls the device's
//! futures in place, and sends the answers that are ready with one vectored call, in the order in which they became
//! ready. So a request that the device answers at once costs one wake-up, one read and one write.
//!
//! What a client sends is bounded by not reading its socket: while too many requests or bytes are with the device, or
//! too many answers wait to be taken, the rest stays in the kernel's buffers and then with the client.

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::Sleep;

use super::errno::{Errno, errno};
use super::exports::{Counters, count};
use super::handshake::Agreement;
use super::outbox::{Outbox, SLICES_MAX};
use super::protocol::{
    ANSWER_BYTES_MAX, CMD_DISC, EXTENTS_MAX, PAYLOAD_DRAIN_BYTES_MAX, REQUEST_BYTES, REQUEST_BYTES_IN_FLIGHT_MAX,
    REQUESTS_MAX,
};
use super::reply;
use super::request::{Command, Request, Rules};
use super::running::{Done, Running, Ticket};
use super::socket::Socket;
use crate::volume::block::device::{Device, IoError, IoResult, Origin};

/// What one read takes from the socket: 31 requests of 4 KiB with their headers.
pub const INBOX_BYTES: usize = 128 << 10;
/// What one read takes while a client sends large writes: the next header and little of its payload, so that nearly
/// all of it is read to where it stays instead of being moved there.
const INBOX_BYTES_BETWEEN_LARGE: usize = 4 << 10;
/// A payload from which on a client counts as sending large writes.
const LARGE_BYTES: usize = 64 << 10;
/// With less room than this a new buffer is begun.
const INBOX_ROOM_BYTES_MIN: usize = 2 << 10;
/// While the socket is not read, its end does not show: then it is asked for at this interval.
const STANDS_EVERY: Duration = Duration::from_secs(1);

/// How a session ended.
#[derive(Debug)]
pub enum End {
    /// The client said goodbye, or the server was stopped: everything in flight was answered.
    Orderly,
    /// The client went away; what was in flight was given up.
    Gone,
    Io(std::io::Error),
    /// What came was no request.
    NotARequest,
    /// A write so large that its payload is not even thrown away.
    TooLarge(u32),
}

/// Serves a client until it leaves, breaks the protocol, or `stopping` becomes true.
pub async fn serve(
    socket: &mut impl Socket,
    inbox: BytesMut,
    agreement: &Agreement,
    origin: Arc<dyn Origin>,
    mut stopping: watch::Receiver<bool>,
) -> End {
    let mut session = Session {
        socket,
        inbox,
        inbox_needed: REQUEST_BYTES,
        inbox_next: INBOX_BYTES,
        outbox: Outbox::default(),
        device: &*agreement.export.device,
        counters: &agreement.export.counters,
        rules: agreement.rules,
        origin,
        running: FuturesUnordered::new(),
        running_bytes: 0,
        refused: None,
        leaving: false,
        paused: None,
    };
    let mut stop = pin!(stopping.wait_for(|stopping| *stopping));
    poll_fn(|cx| {
        // Polled last, so that a busy session does not look at it for each request.
        if let Poll::Ready(end) = session.poll(cx) {
            return Poll::Ready(end);
        }
        if session.leaving || stop.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        session.leaving = true;
        session.poll(cx)
    })
    .await
}

struct Session<'s, S> {
    socket: &'s mut S,
    /// Received and not yet understood.
    inbox: BytesMut,
    /// What `inbox` must hold before the next step is possible.
    inbox_needed: usize,
    /// The size of the next buffer.
    inbox_next: usize,
    outbox: Outbox,
    device: &'s dyn Device,
    counters: &'s Counters,
    rules: Rules,
    origin: Arc<dyn Origin>,
    running: FuturesUnordered<Running<'s>>,
    running_bytes: usize,
    refused: Option<RefusedWrite>,
    /// No more requests are taken; what is in flight is answered.
    leaving: bool,
    /// Set while the socket is not read.
    paused: Option<Pin<Box<Sleep>>>,
}

/// A write that was refused. Its answer waits until its payload has come: clients do not look for one before.
struct RefusedWrite {
    cookie: u64,
    errno: Errno,
    /// Bytes still to come, and to be thrown away.
    left: usize,
}

impl<'s, S: Socket> Session<'s, S> {
    /// Goes on as far as it can. Each step that is left pending has registered the task.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let received = match self.receive(cx) {
                Ok(received) => received,
                Err(end) => return Poll::Ready(end),
            };
            let completed = self.complete_ready(cx);
            let sent = match self.send(cx) {
                Ok(sent) => sent,
                Err(error) => return Poll::Ready(End::Io(error)),
            };
            if self.leaving && self.running.is_empty() && self.outbox.is_empty() {
                return Poll::Ready(End::Orderly);
            }
            if !(received || completed || sent) {
                return self.watch_paused(cx);
            }
        }
    }

    /// Begins the requests that are at hand, or reads once. True if there may be more to do.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut begun = false;
        while !self.leaving && self.has_room() && self.take_request(cx)? {
            begun = true;
        }
        if self.leaving || !self.has_room() || self.inbox.len() >= self.inbox_needed {
            return Ok(begun);
        }
        self.make_room();
        match pin!(self.socket.read_buf(&mut self.inbox)).poll(cx) {
            Poll::Pending => Ok(begun),
            Poll::Ready(Ok(0)) => Err(End::Gone),
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Ready(Err(error)) => Err(End::Io(error)),
        }
    }

    /// Whether another request, of whatever size, may be looked at.
    fn has_room(&self) -> bool {
        self.running.len() < REQUESTS_MAX
            && self.outbox.len() < ANSWER_BYTES_MAX
            && self.running_bytes < REQUEST_BYTES_IN_FLIGHT_MAX
    }

    /// Whether the bytes of this request may be added to those in flight. Alone, any request may.
    fn has_room_for(&self, bytes: usize) -> bool {
        self.running_bytes == 0 || self.running_bytes + bytes <= REQUEST_BYTES_IN_FLIGHT_MAX
    }

    /// Takes one request from the inbox, if it is whole and there is room for it.
    fn take_request(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.refused.is_some() {
            return Ok(self.throw_away());
        }
        let Some(header) = self.inbox.first_chunk() else {
            self.inbox_needed = REQUEST_BYTES;
            return Ok(false);
        };
        let request = Request::decode(header).map_err(|_| End::NotARequest)?;
        if request.command == CMD_DISC {
            self.leaving = true;
            return Ok(true);
        }
        let payload = request.payload_bytes();
        if payload > PAYLOAD_DRAIN_BYTES_MAX {
            return Err(End::TooLarge(payload));
        }
        match request.judge(&self.rules) {
            Ok(command) => self.take_judged(cx, &request, command, payload as usize),
            Err(errno) => {
                self.inbox.advance(REQUEST_BYTES);
                self.refused = Some(RefusedWrite { cookie: request.cookie, errno, left: payload as usize });
                self.throw_away();
                Ok(true)
            }
        }
    }

    /// Throws away what has come of a refused write, and answers it once that was all.
    fn throw_away(&mut self) -> bool {
        let Some(refused) = &mut self.refused else { return false };
        let part = refused.left.min(self.inbox.len());
        self.inbox.advance(part);
        refused.left -= part;
        if refused.left > 0 {
            self.inbox_needed = 1;
            return part > 0;
        }
        let (cookie, errno) = (refused.cookie, refused.errno);
        self.refused = None;
        self.inbox_needed = REQUEST_BYTES;
        self.answer_error(cookie, errno, refusal(errno));
        true
    }

    fn take_judged(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request,
        command: Command,
        payload: usize,
    ) -> Result<bool, End> {
        let weight = if command == Command::Read { request.length as usize } else { payload };
        if !self.has_room_for(weight) {
            // Taken up again once something in flight is done; until then nothing more is read.
            self.inbox_needed = REQUEST_BYTES;
            return Ok(false);
        }
        if self.inbox.len() < REQUEST_BYTES + payload {
            self.inbox_needed = REQUEST_BYTES + payload;
            return Ok(false);
        }
        self.inbox.advance(REQUEST_BYTES);
        let payload = self.inbox.split_to(payload).freeze();
        if matches!(command, Command::Write { .. }) {
            self.inbox_next = if payload.len() >= LARGE_BYTES { INBOX_BYTES_BETWEEN_LARGE } else { INBOX_BYTES };
        }
        self.inbox_needed = REQUEST_BYTES;
        self.begin(cx, Running::begin(self.device, request, command, payload, &self.origin), command);
        Ok(true)
    }

    /// Polls a request for the first time; only what is not answered at once is kept.
    fn begin(&mut self, cx: &mut Context<'_>, mut running: Running<'s>, command: Command) {
        count(self.counter(command), 1);
        match Pin::new(&mut running).poll(cx) {
            Poll::Ready((ticket, outcome)) => self.answer(ticket, outcome),
            Poll::Pending => {
                self.running_bytes += running.ticket().weight();
                self.running.push(running);
            }
        }
    }

    fn counter(&self, command: Command) -> &std::sync::atomic::AtomicU64 {
        match command {
            Command::Read | Command::Cache | Command::Status { .. } => &self.counters.reads,
            Command::Write { .. } => &self.counters.writes,
            Command::Flush => &self.counters.flushes,
            Command::Trim { .. } => &self.counters.trims,
            Command::Zero { .. } => &self.counters.zeroes,
        }
    }

    /// Answers what the device has finished.
    fn complete_ready(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(Some((ticket, outcome))) = self.running.poll_next_unpin(cx) {
            self.running_bytes -= ticket.weight();
            self.answer(ticket, outcome);
            any = true;
        }
        any
    }

    fn answer(&mut self, ticket: Ticket, outcome: IoResult<Done>) {
        let Ticket { cookie, offset, length, command } = ticket;
        match outcome {
            Ok(Done::Plain) => {
                if matches!(command, Command::Write { .. }) {
                    count(&self.counters.written_bytes, length.into());
                }
                self.outbox.pack(|out| reply::simple(out, cookie));
            }
            Ok(Done::Data(data)) => {
                count(&self.counters.read_bytes, length.into());
                if self.rules.structured {
                    self.outbox.pack(|out| reply::structured_data(out, cookie, offset, length));
                } else {
                    self.outbox.pack(|out| reply::simple(out, cookie));
                }
                self.outbox.data(data);
            }
            Ok(Done::Extents(extents)) => {
                let count_max = if command == (Command::Status { one: true }) { 1 } else { EXTENTS_MAX };
                self.outbox.pack(|out| reply::block_status(out, cookie, &extents, length, count_max));
            }
            Err(error) => {
                log(&error, &ticket);
                self.answer_error(cookie, errno(&error, command.effect()), &error.to_string());
            }
        }
    }

    fn answer_error(&mut self, cookie: u64, errno: Errno, message: &str) {
        count(&self.counters.errors, 1);
        if self.rules.structured {
            self.outbox.pack(|out| reply::structured_error(out, cookie, errno, message));
        } else {
            self.outbox.pack(|out| reply::simple_error(out, cookie, errno));
        }
    }

    /// Sends what the socket takes. True if it took something.
    fn send(&mut self, cx: &mut Context<'_>) -> std::io::Result<bool> {
        let mut any = false;
        while !self.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.outbox.slices(&mut slices);
            match Pin::new(&mut *self.socket).poll_write_vectored(cx, &slices[..count]) {
                Poll::Pending => break,
                Poll::Ready(sent) => {
                    self.outbox.advance(sent?);
                    any = true;
                }
            }
        }
        Ok(any)
    }

    /// Sees to it that the inbox can take what is needed next, without moving a payload that others hold.
    fn make_room(&mut self) {
        let missing = self.inbox_needed - self.inbox.len();
        // The end of a large payload is read by itself; anything else along with what follows it.
        let large = self.inbox_needed >= LARGE_BYTES;
        let wanted = if large { missing } else { missing.max(INBOX_ROOM_BYTES_MIN) };
        if self.inbox.capacity() - self.inbox.len() >= wanted || self.inbox.try_reclaim(wanted) {
            return;
        }
        let mut fresh = BytesMut::with_capacity(self.inbox_needed.max(self.inbox_next));
        fresh.extend_from_slice(&self.inbox);
        self.inbox = fresh;
    }

    /// While the socket is not read, asks now and then whether the client is still there.
    fn watch_paused(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let reading = !self.leaving && self.has_room() && self.inbox.len() < self.inbox_needed;
        if reading {
            self.paused = None;
            return Poll::Pending;
        }
        loop {
            let paused = self.paused.get_or_insert_with(|| Box::pin(tokio::time::sleep(STANDS_EVERY)));
            ready!(paused.as_mut().poll(cx));
            self.paused = None;
            if !self.origin.stands() {
                return Poll::Ready(End::Gone);
            }
        }
    }
}

/// What a person reads beside the code of a refusal.
fn refusal(errno: Errno) -> &'static str {
    match errno {
        Errno::Perm => "the export is read-only",
        Errno::Inval => "the request is not one that this export serves",
        Errno::NoSpc => "the range goes beyond the end of the export",
        Errno::Overflow => "the range is too large for one piece",
        Errno::Shutdown => "the volume is no longer attached here",
        Errno::Io => "the request failed",
    }
}

/// This is where the device's errors end, so they are logged here: those that tell of trouble, once.
fn log(error: &IoError, ticket: &Ticket) {
    match error {
        IoError::Unreadable(_) | IoError::TimedOut => {
            tracing::warn!("{:?} of {} bytes at {}: {error}", ticket.command, ticket.length, ticket.offset);
        }
        IoError::OutOfRange | IoError::NoSpace | IoError::ReadOnly | IoError::Shutdown | IoError::Abandoned => {
            tracing::debug!("{:?} of {} bytes at {}: {error}", ticket.command, ticket.length, ticket.offset);
        }
    }
}
