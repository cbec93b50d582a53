//! A request that the device works on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::protocol::CACHE_STEP_BYTES;
use super::request::{Command, Request};
use crate::volume::block::device::{Device, Extent, IoError, IoResult, Origin};

/// What the answer to a request needs to know of it.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
    pub command: Command,
}

/// What the device gave.
pub enum Done {
    Data(Bytes),
    Extents(Vec<Extent>),
    Plain,
}

/// A request in flight: resolves to its ticket and its outcome. Dropping it gives the request up.
pub struct Running<'d> {
    ticket: Ticket,
    work: Work<'d>,
}

enum Work<'d> {
    Data(BoxFuture<'d, IoResult<Bytes>>),
    Extents(BoxFuture<'d, IoResult<Vec<Extent>>>),
    Plain(BoxFuture<'d, IoResult<()>>),
}

impl<'d> Running<'d> {
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Hands a request that was judged to the device. `payload` is empty except for a write.
    pub fn begin(
        device: &'d dyn Device,
        request: &Request,
        command: Command,
        payload: Bytes,
        origin: &Arc<dyn Origin>,
    ) -> Self {
        let (offset, length) = (request.offset, request.length);
        let origin = || Arc::clone(origin);
        let work = match command {
            Command::Read => Work::Data(device.read(offset, length)),
            Command::Write { fua } => Work::Plain(device.write(offset, payload, fua, origin())),
            Command::Flush => Work::Plain(device.flush()),
            Command::Trim { fua } => Work::Plain(device.trim(offset, length.into(), fua, origin())),
            Command::Zero { keep, fua } => Work::Plain(device.zero(offset, length.into(), keep, fua, origin())),
            Command::Cache => Work::Plain(Box::pin(cache(device, offset, length))),
            Command::Status { .. } => Work::Extents(device.status(offset, length.into())),
        };
        Self { ticket: Ticket { cookie: request.cookie, offset, length, command }, work }
    }
}

impl Ticket {
    /// The memory that the request takes while the device works on it: its payload, or the answer's.
    pub fn weight(&self) -> usize {
        match self.command {
            Command::Read | Command::Write { .. } => self.length as usize,
            Command::Cache => self.length.min(CACHE_STEP_BYTES) as usize,
            Command::Flush | Command::Trim { .. } | Command::Zero { .. } | Command::Status { .. } => 0,
        }
    }
}

impl Future for Running<'_> {
    type Output = (Ticket, IoResult<Done>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let length = self.ticket.length as usize;
        let outcome = match &mut self.work {
            Work::Data(work) => work.as_mut().poll(cx).map(|data| whole(data?, length).map(Done::Data)),
            Work::Extents(work) => work.as_mut().poll(cx).map_ok(Done::Extents),
            Work::Plain(work) => work.as_mut().poll(cx).map_ok(|()| Done::Plain),
        };
        outcome.map(|outcome| (self.ticket, outcome))
    }
}

/// The client would take what follows a short answer for data: better an error.
fn whole(data: Bytes, length: usize) -> IoResult<Bytes> {
    if data.len() == length {
        Ok(data)
    } else {
        Err(IoError::Unreadable(format!("the volume gave {} bytes instead of {length}", data.len())))
    }
}

/// Reads the range and drops it, so that its blocks are warm.
async fn cache(device: &dyn Device, offset: u64, length: u32) -> IoResult<()> {
    let mut done = 0;
    while done < length {
        let step = (length - done).min(CACHE_STEP_BYTES);
        device.read(offset + u64::from(done), step).await?;
        done += step;
    }
    Ok(())
}
