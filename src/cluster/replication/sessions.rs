//! The silos' end of the data plane: frames of a writer on another node, handed to the silos of this one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::id::{NodeId, SiloId};
use crate::cluster::replication::message::{Append, FromSilo, ToSilo};
use crate::cluster::replication::service::{SiloHandle, SiloSession, Silos};
use crate::transport::network::{Channel, FrameSender};

/// Frames taken together at the most.
const FRAMES_MAX: usize = 256;

/// What a connection has to do with one silo.
struct Open {
    session: SiloSession,
    /// What has arrived for it and is not handed over yet.
    messages: Vec<ToSilo>,
}

/// Serves one connection until it breaks or says something that is no message. Small writes are carried out right here:
/// the connection has a thread of its own, which may wait for the disk.
pub async fn serve(mut channel: Channel, silos: Silos) {
    let mut sessions: HashMap<SiloId, Open> = HashMap::new();
    let mut frames = Vec::new();
    let mut standing = true;
    while standing && channel.receiver.recv_many(&mut frames, FRAMES_MAX).await > 0 {
        for bytes in frames.drain(..) {
            let Some(message) = decode(channel.peer, bytes) else {
                standing = false;
                break;
            };
            let silo = message.silo();
            let open = match sessions.entry(silo) {
                Entry::Occupied(open) => open.into_mut(),
                Entry::Vacant(vacant) => match silos.get(silo) {
                    Some(handle) => vacant.insert(open(&handle, channel.sender.clone())),
                    None => {
                        standing = channel.sender.send(silos.refusal(silo, &message).encode()).is_ok();
                        continue;
                    }
                },
            };
            open.messages.push(message);
        }
        for open in sessions.values_mut().filter(|open| !open.messages.is_empty()) {
            // What is to be synced here is synced before the answers leave: their client flushes each write, so it waits
            // for the disk either way, and one frame that says all costs less than two.
            if let Some(owed) = open.session.process(channel.peer, &mut open.messages) {
                owed.run();
            }
        }
    }
}

/// A message that is whole; none ends the connection.
fn decode(peer: NodeId, bytes: Bytes) -> Option<ToSilo> {
    match ToSilo::decode(bytes) {
        Ok(ToSilo::Append(append)) => {
            let Ok(record) = append.record.verified() else {
                tracing::warn!("node {} sent a record that does not match its checksum", peer.short());
                return None;
            };
            Some(ToSilo::Append(Append { record, ..append }))
        }
        Ok(message) => Some(message),
        Err(error) => {
            tracing::warn!("node {} sent something that is no message: {error}", peer.short());
            None
        }
    }
}

fn open(handle: &SiloHandle, sender: FrameSender) -> Open {
    let session = handle.open(Arc::new(move |answer: FromSilo| {
        // A writer that does not take its answers is gone, or will be cut off: it asks again when it is back.
        let _ = sender.send(answer.encode());
    }));
    Open { session, messages: Vec::new() }
}
