//! The network between simulated members: it loses, delays, repeats and parts, each direction by itself. What is under way
//! arrives even if its sender has died meanwhile.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use infinit::base::id::NodeId;
use infinit::cluster::consensus::runtime::simulated;
use infinit::cluster::consensus::{CLUSTER_GROUP, Rpc, RpcError, told};
use infinit::transport::network::ConnectError;
use tokio::sync::oneshot;

use super::cluster::{Cluster, after, id, place};
use super::temper::MS;

/// One member's end of the network.
pub struct Wire {
    pub from: usize,
    pub cluster: Cluster,
}

impl Rpc for Wire {
    fn call(&self, to: NodeId, request: Bytes, _limit: Duration) -> BoxFuture<'_, Result<Bytes, RpcError>> {
        let (sender, answer) = oneshot::channel();
        let (cluster, from, to) = (self.cluster.clone(), self.from, place(to));
        self.cluster.outside(async move { cluster.carry(from, to, request, sender).await });
        Box::pin(async move {
            match answer.await {
                Ok(answer) => answer,
                // It was lost: nobody ever hears why.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

impl Cluster {
    async fn carry(self, from: usize, to: usize, request: Bytes, sender: oneshot::Sender<Result<Bytes, RpcError>>) {
        simulated::mix(u64::from(crc32c::crc32c(&request)));
        self.note(|| format!("n{from} → n{to}: {}", told::request(CLUSTER_GROUP, &request)));
        if self.repeats() {
            let (cluster, request) = (self.clone(), request.clone());
            self.outside(async move {
                if let Some(delay) = cluster.way(from, to) {
                    after(delay).await;
                    // A repetition's answer is nobody's.
                    let _ = cluster.deliver(from, to, request).await;
                }
            });
        }
        let Some(delay) = self.way(from, to) else { return };
        after(delay).await;
        let answer = self.deliver(from, to, request).await;
        let Some(delay) = self.way(to, from) else { return };
        after(delay).await;
        self.note(|| match &answer {
            Ok(answer) => format!("n{from} ← n{to}: {}", told::answer(CLUSTER_GROUP, answer)),
            Err(error) => format!("n{from} ← n{to}: {error}"),
        });
        // Whoever asked may have given up.
        let _ = sender.send(answer);
    }

    /// Hands a request to the process of a member, and waits for its answer.
    async fn deliver(&self, from: usize, to: usize, request: Bytes) -> Result<Bytes, RpcError> {
        let refused = RpcError::Connect(ConnectError::Unreachable("connection refused".into()));
        let life = self.shared().nodes[to].life.clone();
        let Some((host, group)) = life.and_then(|life| Some((life.host, life.group?))) else { return Err(refused) };
        let (sender, answer) = oneshot::channel();
        host.spawn(async move {
            // The network may have lost the way back.
            let _ = sender.send(group.serve(id(from), request).await);
        });
        answer.await.map_err(|_| RpcError::Broken)
    }

    fn repeats(&self) -> bool {
        let mut shared = self.shared();
        let repeated = if shared.healing { 0 } else { shared.temper.repeated };
        shared.dice.chance(repeated)
    }

    /// How long a message takes this way; `None` if it is lost.
    fn way(&self, from: usize, to: usize) -> Option<Duration> {
        let mut guard = self.shared();
        let shared = &mut *guard;
        if shared.healing {
            return Some(Duration::from_nanos(shared.dice.between(MS / 10, MS)));
        }
        let cut = shared.cuts.get(&(from, to)).is_some_and(|until| simulated::now_ns() < *until);
        if cut || shared.dice.chance(shared.temper.lost) {
            return None;
        }
        let (least, most) = shared.temper.latency_ns;
        let late = if shared.dice.chance(shared.temper.late) { shared.dice.below(shared.temper.late_ns) } else { 0 };
        Some(Duration::from_nanos(shared.dice.between(least, most) + late))
    }
}
