//! The silos' end of the data plane: frames of a writer on another node, handed to the silos of this one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::base::id::SiloId;
use crate::cluster::replication::keeper;
use crate::cluster::replication::message::{FromSilo, ToSilo};
use crate::cluster::replication::service::{SiloHandle, Silos};
use crate::transport::network::{Channel, FrameSender};

/// Serves one connection until it breaks or says something that is no message.
pub async fn serve(mut channel: Channel, silos: Silos) {
    let mut sessions: HashMap<SiloId, (SiloHandle, u64)> = HashMap::new();
    while let Some(bytes) = channel.receiver.recv().await {
        let message = match ToSilo::decode(bytes) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!("node {} sent something that is no message: {error}", channel.peer.short());
                break;
            }
        };
        let damaged = matches!(&message, ToSilo::Append(append) if append.record.verify().is_err());
        if damaged {
            tracing::warn!("node {} sent a record that does not match its checksum", channel.peer.short());
            break;
        }
        let silo = message.silo();
        let (handle, session) = match sessions.entry(silo) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(vacant) => {
                let Some(handle) = silos.get(silo) else {
                    if channel.sender.send(keeper::unknown(silo, &message).encode()).is_err() {
                        break;
                    }
                    continue;
                };
                vacant.insert(open(handle, channel.sender.clone()))
            }
        };
        handle.deliver(channel.peer, *session, message);
    }
    for (handle, session) in sessions.values() {
        handle.close(*session);
    }
}

fn open(handle: SiloHandle, sender: FrameSender) -> (SiloHandle, u64) {
    let session = handle.open(Arc::new(move |answer: FromSilo| {
        // A writer that does not take its answers is gone, or will be cut off: it asks again when it is back.
        let _ = sender.send(answer.encode());
    }));
    (handle, session)
}
