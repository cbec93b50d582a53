//! A small cluster in the types of the control API: three nodes, one of them down, and a volume in each state.

use infinit::base::id::{ConfigNumber, Epoch, InvitationId, NetworkId, NodeId, SiloId, SlotIndex, VolumeId};
use infinit::daemon::api::{
    Attachment, Cluster, Durability, Invitation, Network, Node, NodeRef, NodeState, Replica, ReplicaState, Role, Silo,
    SiloState, Slot, Status, Volume, VolumeState, VolumeStatus, Warning,
};
use infinit::interface::nbd::Counts;

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
            used_bytes: (!down).then_some((1 << 30) + (512 << 20)),
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
        replicas: 3,
        durability: Durability::Flush,
        lease_ms: 5000,
        io_timeout_ms: None,
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
        Volume { attachment: None, replicas: 1, ..volume(3, "old", VolumeState::Detached) },
        Volume { size_bytes: (1 << 40) + (1 << 39), ..volume(4, "logs", VolumeState::Healthy) },
    ]
}

pub fn volume_status(volume: Volume) -> VolumeStatus {
    let replica = |number: u8, state, behind: Option<(u64, u64)>| Replica {
        silo: SiloId([number + 16; 16]),
        node: node_ref(number),
        state,
        behind_bytes: behind.map(|(bytes, _)| bytes),
        behind_writes: behind.map(|(_, writes)| writes),
        moved_bytes: None,
    };
    let slot = |index, reason: Option<&str>, replicas: [Replica; 3]| Slot {
        slot: SlotIndex(index),
        configuration: ConfigNumber(1),
        state: volume.state,
        reason: reason.map(Into::into),
        replicas: replicas.into(),
    };
    if volume.attachment.is_none() {
        let idle = |number| replica(number, ReplicaState::Idle, None);
        let down = replica(3, ReplicaState::Down, None);
        let slots = vec![slot(0, Some("the copy on host-c is down"), [idle(1), idle(2), down])];
        return VolumeStatus { volume, clients: None, repaired_blocks: None, slots };
    }
    let moved = Replica { moved_bytes: Some(3 << 20), ..replica(2, ReplicaState::CatchingUp, None) };
    let good = |number, behind| replica(number, ReplicaState::UpToDate, Some(behind));
    let slots = vec![
        slot(
            0,
            Some("the copy on host-c is down, 12MiB behind"),
            [good(1, (0, 0)), good(2, (4096, 1)), replica(3, ReplicaState::Down, Some((12 << 20, 3072)))],
        ),
        slot(
            1,
            Some("the copy on host-b is catching up, 3MiB moved so far"),
            [good(1, (0, 0)), moved, replica(3, ReplicaState::Damaged, None)],
        ),
        slot(
            2,
            None,
            [good(1, (0, 0)), replica(2, ReplicaState::Stalled, None), replica(3, ReplicaState::Foreign, None)],
        ),
    ];
    let clients = Counts {
        connections: 3,
        connections_open: 2,
        reads: 40,
        writes: 30,
        flushes: 20,
        trims: 10,
        zeroes: 5,
        read_bytes: 163_840,
        written_bytes: 122_880,
        errors: 1,
    };
    VolumeStatus { volume, clients: Some(clients), repaired_blocks: Some(2), slots }
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
