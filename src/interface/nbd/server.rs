//! The server: accepts clients, leads each through handshake and session in a task of its own, and ends them all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinHandle, JoinSet};

use super::address::Address;
use super::exports::{Counters, Exports, count};
use super::handshake::negotiate;
use super::listener::{Accepted, Listener};
use super::protocol::{CONNECTIONS_MAX, HANDSHAKE_MAX, STOP_MAX};
use super::session::{self, End, INBOX_BYTES};
use super::socket::{Connection, Socket};
use crate::base::error::Fault;
use crate::volume::block::device::Origin;

/// How long the server waits when it cannot accept, for want of descriptors or memory, before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server. Dropping it cuts all connections; [`Server::stop`] lets them finish.
pub struct Server {
    address: Address,
    sessions: Arc<Sessions>,
    stopping: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

/// The connections, by their tasks.
#[derive(Default)]
struct Sessions(Mutex<HashMap<Id, Session>>);

struct Session {
    /// The name of the export, once it is chosen.
    export: Arc<OnceLock<String>>,
    task: AbortHandle,
}

impl Server {
    /// Binds the address and begins to serve. Must be called within a tokio runtime.
    pub async fn start(address: &Address, exports: Arc<dyn Exports>) -> Result<Self, Fault> {
        let (listener, address) = Listener::bind(address).await?;
        let sessions = Arc::<Sessions>::default();
        let (stopping, stop) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, exports, Arc::clone(&sessions), stop));
        Ok(Self { address, sessions, stopping, accepting })
    }

    /// Where it listens: with the port that was picked if any was asked for.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The URI by which NBD clients find an export here.
    pub fn uri(&self, export: &str) -> String {
        self.address.uri(export)
    }

    /// How many clients are connected, those in the handshake included.
    pub fn connections(&self) -> usize {
        self.sessions.lock().len()
    }

    /// Cuts all connections to an export at once, without answers to what is in flight: for a volume that was fenced.
    /// The server goes on; see to it that the export is not found any more before calling this.
    pub fn abort_export(&self, name: &str) {
        for session in self.sessions.lock().values() {
            if session.export.get().is_some_and(|export| export == name) {
                session.task.abort();
            }
        }
    }

    /// Cuts all connections at once. The server goes on.
    pub fn abort(&self) {
        self.sessions.lock().values().for_each(|session| session.task.abort());
    }

    /// Takes no more clients and no more requests, answers what is in flight within [`STOP_MAX`], closes everything
    /// and removes the Unix socket.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        if let Err(error) = (&mut self.accepting).await {
            tracing::error!("the NBD server ended by itself: {error}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Sessions {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Session>> {
        // Nothing that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts until stopped, then ends the sessions.
async fn accept(
    listener: Listener,
    exports: Arc<dyn Exports>,
    sessions: Arc<Sessions>,
    mut stop: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    let stopping = stop.clone();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            Some(ended) = tasks.join_next_with_id() => forget(&sessions, ended),
            accepted = listener.accept() => match accepted {
                Ok(_) if tasks.len() >= CONNECTIONS_MAX => {
                    tracing::warn!("an NBD client was turned away: {CONNECTIONS_MAX} are connected");
                }
                Ok(client) => {
                    let export = Arc::default();
                    let served = greet(client, Arc::clone(&exports), Arc::clone(&export), stopping.clone());
                    let task = tasks.spawn(served);
                    sessions.lock().insert(task.id(), Session { export, task });
                }
                Err(error) => {
                    tracing::warn!("cannot accept an NBD client: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let finished = async {
        while let Some(ended) = tasks.join_next_with_id().await {
            forget(&sessions, ended);
        }
    };
    if tokio::time::timeout(STOP_MAX, finished).await.is_err() {
        tracing::warn!("{} NBD clients had requests in flight and were cut off", tasks.len());
        tasks.shutdown().await;
        sessions.lock().clear();
    }
}

/// Waits until the server is stopped or dropped.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn forget(sessions: &Sessions, ended: Result<(Id, ()), JoinError>) {
    let id = match ended {
        Ok((id, ())) => id,
        Err(error) => {
            if error.is_panic() {
                tracing::error!("an NBD session failed: {error}");
            }
            error.id()
        }
    };
    sessions.lock().remove(&id);
}

async fn greet(
    client: Accepted,
    exports: Arc<dyn Exports>,
    chosen: Arc<OnceLock<String>>,
    stopping: watch::Receiver<bool>,
) {
    match client {
        Accepted::Unix(socket) => serve(socket, &*exports, &chosen, stopping).await,
        Accepted::Tcp(socket) => serve(socket, &*exports, &chosen, stopping).await,
    }
}

/// One client from its first byte to its last.
async fn serve(
    mut socket: impl Socket,
    exports: &dyn Exports,
    chosen: &OnceLock<String>,
    mut stopping: watch::Receiver<bool>,
) {
    let connection = match Connection::of(&socket) {
        Ok(connection) => Arc::new(connection),
        Err(error) => return tracing::warn!("cannot serve an NBD client: {error}"),
    };
    // However this ends, by an abort too: the client must see the end although requests may still hold the socket.
    let _cut = Cut(Arc::clone(&connection));
    let mut inbox = BytesMut::with_capacity(INBOX_BYTES);
    let agreement = tokio::select! {
        negotiated = tokio::time::timeout(HANDSHAKE_MAX, negotiate(&mut socket, &mut inbox, exports)) => {
            match negotiated {
                Ok(Ok(Some(agreement))) => agreement,
                Ok(Ok(None)) => return,
                Ok(Err(error)) => return tracing::debug!("an NBD handshake failed: {error}"),
                Err(_) => return tracing::debug!("an NBD client took longer than {HANDSHAKE_MAX:?} to choose an export"),
            }
        }
        () = stopped(&mut stopping) => return,
    };
    // Set once: this is the only task that has it.
    let _ = chosen.set(agreement.name.clone());
    let _open = Open::count(Arc::clone(&agreement.export.counters));
    let origin: Arc<dyn Origin> = connection;
    match session::serve(&mut socket, inbox, &agreement, origin, stopping).await {
        End::Orderly => {}
        End::Gone => tracing::debug!("an NBD client of {} went away", agreement.name),
        End::Io(error) => tracing::debug!("the connection of an NBD client of {} broke: {error}", agreement.name),
        End::NotARequest => tracing::warn!("an NBD client of {} sent what is no request", agreement.name),
        End::TooLarge(length) => {
            tracing::warn!("an NBD client of {} announced a write of {length} bytes", agreement.name);
        }
    }
}

struct Cut(Arc<Connection>);

impl Drop for Cut {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// A connection as the counters see it.
struct Open(Arc<Counters>);

impl Open {
    fn count(counters: Arc<Counters>) -> Self {
        count(&counters.connections, 1);
        count(&counters.connections_open, 1);
        Self(counters)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections_open.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}
