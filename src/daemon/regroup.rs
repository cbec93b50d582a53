//! `network recover`: a network that lost the majority of its voters goes on with what one member knows
//! (`cluster/consensus/recovery`), and members that know more, which is lost, forget it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::base::error::{Fault, Result};
use crate::base::id::NetworkId;
use crate::cluster::consensus::recovery::{self, Known};
use crate::daemon::api::NodeRef;
use crate::daemon::home::{Home, HomeLock};
use crate::daemon::membership::Anyone;
use crate::daemon::peers::{Ask, Told};
use crate::daemon::{addresses, twin};
use crate::transport::endpoint::Dialer;

/// What the network would go on with, or went on with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recovery {
    pub id: NetworkId,
    pub name: String,
    /// The member whose knowledge counts.
    pub node: NodeRef,
    /// How often the network was recovered before.
    pub generation: u64,
    /// The last change that the member knows: who has the highest term, and of these the most changes, knows the most.
    pub term: u64,
    pub changes: u64,
    /// Who voted, as far as the member knows.
    pub voters: Vec<NodeRef>,
    pub nodes: usize,
    pub volumes: usize,
    /// What the member knew is kept here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
}

/// A network that may be recovered from this home. Its daemon cannot start meanwhile.
pub struct Recoverable {
    home: Home,
    known: Known,
    /// What the other members that answer say: whether there is a quorum, and how often the network was recovered.
    told: Vec<(bool, u64)>,
    _lock: HomeLock,
}

const LOG: &str = "cluster.redb";
/// Members that answer and have no quorum may be agreeing on a leader: so long they are asked again.
const AGREEING_MAX: Duration = Duration::from_secs(5);

/// Looks at what this member knows, and what the others say.
pub async fn look(home: Home) -> Result<Recoverable> {
    let lock = home.lock().map_err(|fault| fault.hint("stop this node first: infinit node stop"))?;
    let network = home.network()?;
    if !home.file(LOG).exists() {
        return Err(Fault::not_found(format!("this node knows nothing of network {} yet", network.name))
            .hint("recover it on a node that ran"));
    }
    let known = recovery::known(home.file(LOG)).await?;
    let node = home.node_key()?.node();
    let dialer = Dialer::new(&home.node_key()?, home.passport()?, Arc::new(Anyone));
    let dialer = dialer.map_err(|error| Fault::failed(error.to_string()))?;
    let members = known.state.members.iter().map(|(id, member)| (*id, member.data_addresses.clone()));
    let contacts = network.contacts.iter().map(|known| (known.node, known.addresses.clone()));
    let others: Vec<_> = members.chain(contacts).filter(|(id, places)| *id != node && !places.is_empty()).collect();
    let until = Instant::now() + AGREEING_MAX;
    let told = loop {
        let asked = others.iter().map(|(id, places)| twin::ask::<Told>(&dialer, *id, places, Ask::Quorum));
        let answers = join_all(asked).await.into_iter().flatten();
        let told = answers.filter_map(|answer| match answer {
            Told::Quorum { has_quorum, generation } => Some((has_quorum, generation)),
            _ => None,
        });
        let told: Vec<(bool, u64)> = told.collect();
        if told.is_empty() || told.iter().any(|(has_quorum, _)| *has_quorum) || Instant::now() >= until {
            break told;
        }
        sleep(AGREEING_MAX / 10).await;
    };
    Ok(Recoverable { home, known, told, _lock: lock })
}

impl Recoverable {
    pub fn describe(&self) -> Result<Recovery> {
        let network = self.home.network()?;
        let node = self.home.node_key()?.node();
        let state = &self.known.state;
        let name = |id| state.node_label(id);
        Ok(Recovery {
            id: network.id,
            name: network.name,
            node: NodeRef { id: node, name: addresses::host_name() },
            generation: self.known.generation,
            term: self.known.term,
            changes: self.known.changes,
            voters: self.known.voters.iter().map(|id| NodeRef { id: *id, name: name(*id) }).collect(),
            nodes: state.members.len(),
            volumes: state.volumes.len(),
            kept: None,
        })
    }

    /// Fails where a member that answers is of a network that works, or was recovered already.
    pub fn check(&self) -> Result<()> {
        let network = self.home.network()?.name;
        if self.told.iter().any(|(_, generation)| *generation > self.known.generation) {
            return Err(Fault::conflict(format!("network {network} was recovered on another node already"))
                .hint("infinit node run; should it say so: infinit network recover --follow"));
        }
        if self.told.iter().any(|(has_quorum, _)| *has_quorum) {
            return Err(Fault::conflict(format!("network {network} has a quorum: another node says so"))
                .hint("infinit node run, then infinit node list"));
        }
        Ok(())
    }

    /// The network goes on with what this member knows.
    pub async fn recover(self) -> Result<Recovery> {
        self.check()?;
        let log = self.home.file(LOG);
        let kept = self.kept();
        keep_copy(&log, &kept)?;
        let node = self.home.node_key()?.node();
        recovery::recover(log, node).await?;
        Ok(Recovery { kept: Some(kept), ..self.describe()? })
    }

    /// This member forgets what it knows of the cluster; the recovered network tells it all anew.
    pub fn follow(self) -> Result<Recovery> {
        let mut network = self.home.network()?;
        if !self.told.iter().any(|(has_quorum, generation)| *has_quorum && *generation > self.known.generation) {
            return Err(Fault::refused(format!(
                "no node that answers is of a recovered network {}, and what this one knows may be needed",
                network.name
            ))
            .hint("start the node on which it was recovered: infinit node run"));
        }
        let recovery = self.describe()?;
        // A founder without a log would found the network again.
        network.founder = false;
        self.home.save_network_file(&network)?;
        let (log, kept) = (self.home.file(LOG), self.kept());
        std::fs::rename(&log, &kept).map_err(|error| Fault::io("rename", &log, &error))?;
        sync_folder(&kept)?;
        Ok(Recovery { kept: Some(kept), ..recovery })
    }

    fn kept(&self) -> PathBuf {
        self.home.file(&format!("{LOG}.generation-{}", self.known.generation))
    }
}

/// What the daemon ends with whose member knows more than the network was recovered with.
pub fn superseded(network: &str) -> Fault {
    Fault::conflict(format!("network {network} was recovered without what this node knew of it"))
        .hint("infinit network recover --follow, then infinit node run")
}

fn keep_copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map_err(|error| Fault::io("copy", from, &error))?;
    let file = std::fs::File::open(to).and_then(|file| file.sync_all());
    file.map_err(|error| Fault::io("sync", to, &error))?;
    sync_folder(to)
}

fn sync_folder(file: &Path) -> Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| Fault::io("sync", folder, &error))
}
