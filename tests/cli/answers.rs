//! A small cluster in the types of the control API: three nodes, one of them down, and a volume in each state.

use infinit::base::id::{ConfigNumber, Epoch, InvitationId, NetworkId, NodeId, SiloId, SlotIndex, VolumeId};
use infinit::daemon::api::{
    Attachment, Cluster, Durability, Invitation, Network, Node, NodeRef, NodeState, Replica, ReplicaState, Role, Silo,
    SiloState, Slot, Status, Volume, VolumeState, VolumeStatus, Warning,
};

const CREATED: &str = "2026-11-22T10:00:00Z";

fn node_ref(number: u8) -> NodeRef {
    NodeRef { id: NodeId([number; 32]), name: format!("host-{}", char::from(b'a' + number - 1)) }
}

pub fn network() -> Network {
    let cluster = Cluster { quorum: true, leader: Some(node_ref(1)), voters: (1..=3).map(node_ref).collect() };
    Network {
        id: NetworkId([0x4e; 32]),
        name: "prod".into(),
        role: Role::Storage,
        owner: true,
        node: node_ref(1),
        cluster: Some(cluster),
    }
}

pub fn nodes() -> Vec<Node> {
    let node = |number: u8| {
        let NodeRef { id, name } = node_ref(number);
        let down = number == 3;
        let silo = Silo {
            id: SiloId([number + 16; 16]),
            state: if down { SiloState::Down } else { SiloState::Up },
            reason: down.then(|| "its node is down".into()),
            path: (number == 1).then(|| "/data".into()),
            capacity_bytes: 500 << 30,
            used_bytes: (1 << 30) + (512 << 20),
        };
        Node {
            id,
            name,
            role: Role::Storage,
            state: if down { NodeState::Down } else { NodeState::Up },
            since: Some(CREATED.into()),
            this: number == 1,
            voter: true,
            leader: number == 1,
            zone: (number == 2).then(|| "rack-2".into()),
            addresses: vec![format!("192.0.2.{number}:7000")],
            version: Some("0.1.0".into()),
            silos: vec![silo],
        }
    };
    let client = Node {
        role: Role::Client,
        state: NodeState::Joining,
        voter: false,
        addresses: Vec::new(),
        version: None,
        since: None,
        silos: Vec::new(),
        ..node(4)
    };
    vec![node(1), node(2), node(3), client]
}

pub fn attachment() -> Attachment {
    Attachment {
        node: node_ref(1),
        epoch: Epoch(3),
        since: CREATED.into(),
        nbd_uri: Some("nbd+unix:///pg?socket=/var/lib/infinit/nbd/pg.sock".into()),
    }
}

pub fn volumes() -> Vec<Volume> {
    let volume = |number: u8, name: &str, state| Volume {
        id: VolumeId([number; 16]),
        name: name.into(),
        size_bytes: 20 << 30,
        used_bytes: Some(1 << 30),
        replicas: 3,
        durability: Durability::Flush,
        lease_ms: 5000,
        created_at: CREATED.into(),
        state,
        reason: None,
        mend: None,
        attachment: Some(attachment()),
    };
    vec![
        Volume {
            reason: Some("the copy on host-c is behind by 12MiB".into()),
            mend: Some("start host-c again".into()),
            ..volume(1, "pg", VolumeState::Degraded)
        },
        Volume {
            reason: Some("slot 0 has no majority: host-b and host-c are down".into()),
            mend: Some("start host-b or host-c again".into()),
            ..volume(2, "mail", VolumeState::Suspended)
        },
        Volume { used_bytes: None, attachment: None, replicas: 1, ..volume(3, "old", VolumeState::Detached) },
        Volume { size_bytes: (1 << 40) + (1 << 39), ..volume(4, "logs", VolumeState::Healthy) },
    ]
}

pub fn volume_status(volume: Volume) -> VolumeStatus {
    let replica = |number: u8, state, behind_bytes, behind_writes| Replica {
        silo: SiloId([number + 16; 16]),
        node: node_ref(number),
        state,
        behind_bytes,
        behind_writes,
    };
    let slot = |index, last, reason: Option<&str>| Slot {
        slot: SlotIndex(index),
        configuration: ConfigNumber(1),
        state: volume.state,
        reason: reason.map(Into::into),
        replicas: vec![replica(1, ReplicaState::UpToDate, 0, 0), replica(2, ReplicaState::CatchingUp, 4096, 1), last],
    };
    let slots = vec![
        slot(0, replica(3, ReplicaState::Down, 12 << 20, 3072), Some("host-c is down")),
        slot(1, replica(3, ReplicaState::Damaged, 0, 0), None),
    ];
    VolumeStatus { volume, slots }
}

pub fn status() -> Status {
    let warning = Warning {
        message: format!("node host-c is down since {CREATED}"),
        hint: Some("start it again there: infinit node run".into()),
    };
    Status { network: network(), nodes: nodes(), volumes: volumes(), warnings: vec![warning] }
}

/// A network of one node with nothing to complain about.
pub fn quiet_status() -> Status {
    let mut status = status();
    status.nodes.truncate(1);
    if let Some(cluster) = &mut status.network.cluster {
        cluster.voters.truncate(1);
    }
    status.volumes.retain(|volume| volume.state == VolumeState::Healthy);
    status.warnings.clear();
    status
}

pub fn invitation(role: Role, uses: u32) -> Invitation {
    let expires_at = "2026-11-22T11:00:00Z".into();
    Invitation { id: InvitationId([5; 16]), token: "infinit1token".into(), role, expires_at, uses }
}
