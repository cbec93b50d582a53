//! A small cluster in the types of the control API: three nodes, one of them down, and a volume in each state.

use infinit::base::id::{ConfigNumber, Epoch, InvitationId, NetworkId, NodeId, SiloId, SlotIndex, VolumeId};
use infinit::daemon::api::going::Duty;
use infinit::daemon::api::scrub::{ScrubState, SiloScrub, VolumeScrub};
use infinit::daemon::api::silo::{Cleaning, Damage, Range, Scrub, Space};
use infinit::daemon::api::{
    Attachment, Cluster, Durability, Invitation, Moving, Network, Node, NodeRef, NodeState, Replica, ReplicaState,
    Role, Silo, SiloState, Slot, Status, Volume, VolumeState, VolumeStatus, Warning,
};
use infinit::interface::nbd::Counts;

const CREATED: &str = "2026-11-22T10:00:00Z";

fn node_ref(number: u8) -> NodeRef {
    NodeRef { id: NodeId([number; 32]), name: format!("host-{}", char::from(b'a' + number - 1)) }
}

pub fn network() -> Network {
    let cluster = Cluster {
        quorum: true,
        leader: Some(node_ref(1)),
        voters: (1..=3).map(node_ref).collect(),
        down_after_ms: 600_000,
    };
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
            space: (!down).then(|| space(number == 2)),
            scrub: (!down).then(|| silo_scrub(number)),
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
            duty: Duty::Stores,
            copies: 2,
            waits: None,
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
        copies: 0,
        waits: None,
        silos: Vec::new(),
        ..node(4)
    };
    vec![node(1), node(2), node(3), client]
}

/// The second silo is full.
fn space(full: bool) -> Space {
    Space {
        live_bytes: 1 << 30,
        free_bytes: if full { 0 } else { 480 << 30 },
        full,
        missing_bytes: if full { 24 << 20 } else { 0 },
        cleaning: Cleaning { written_bytes: 3 << 30, moved_bytes: 1 << 29, removed_segments: 7, damaged_places: 0 },
    }
}

/// The first is being scrubbed, the second has a damaged block.
fn silo_scrub(number: u8) -> Scrub {
    let range = Range { offset_bytes: 12288, length_bytes: 8192 };
    let damage = Damage { volume: VolumeId([1; 16]), name: Some("pg".into()), range };
    let damaged = number == 2;
    Scrub {
        running: number == 1,
        checked_bytes: 256 << 20,
        total_bytes: 1 << 30,
        finished_at: damaged.then(|| CREATED.into()),
        found_blocks: if damaged { 7 } else { 0 },
        repaired_blocks: if damaged { 5 } else { 0 },
        damaged_blocks: if damaged { 2 } else { 0 },
        damage: if damaged { vec![damage] } else { Vec::new() },
    }
}

/// A scrub of volume `pg` as it stands at the first, the second, and any later question; or one that leaves damage.
pub fn scrub(asked: usize, name: &str) -> VolumeScrub {
    let silo = |number: u8, state, checked: u64, damaged: u64, repaired: u64| SiloScrub {
        silo: SiloId([number + 16; 16]),
        node: node_ref(number),
        state,
        reason: None,
        total_bytes: 64 << 20,
        checked_bytes: checked << 20,
        bytes_per_second: (checked > 0).then_some(512 << 20),
        damaged_blocks: damaged,
        repaired_blocks: repaired,
        left_blocks: damaged - repaired,
        left: Vec::new(),
    };
    let volume = volumes().into_iter().find(|volume| volume.name == "pg").unwrap();
    let whole = |number| silo(number, ScrubState::Done, 64, 0, 0);
    let silos = match (name, asked) {
        ("pg", 0) => [1, 2, 3].map(|number| silo(number, ScrubState::Waiting, 0, 0, 0)),
        ("pg", 1) => [silo(1, ScrubState::Reading, 32, 0, 0), silo(2, ScrubState::Repairing, 64, 2, 1), whole(3)],
        ("pg", _) => [whole(1), silo(2, ScrubState::Done, 64, 2, 2), whole(3)],
        (_, _) => {
            let left = vec![Range { offset_bytes: 12288, length_bytes: 8192 }];
            let damaged = SiloScrub { left, ..silo(1, ScrubState::Done, 64, 3, 1) };
            let why = "the silo takes nothing since a sync failed: Input/output error";
            let failed = SiloScrub { reason: Some(why.into()), ..silo(2, ScrubState::Failed, 3, 0, 0) };
            let away =
                SiloScrub { reason: Some("node host-c is down".into()), ..silo(3, ScrubState::Unreachable, 0, 0, 0) };
            match name {
                "mail" => [damaged, failed, away],
                "old" => [damaged, whole(2), whole(3)],
                "waiting" => [1, 2, 3].map(|number| silo(number, ScrubState::Reading, 1, 0, 0)),
                "failed" => [whole(1), failed, away],
                _ => [whole(1), whole(2), away],
            }
        }
    };
    let attached_to = (name != "old").then(|| node_ref(1));
    VolumeScrub { id: volume.id, name: name.into(), attached_to, silos: silos.into() }
}

pub fn attachment() -> Attachment {
    Attachment {
        node: node_ref(1),
        epoch: Epoch(3),
        since: CREATED.into(),
        nbd_uri: Some("nbd+unix:///pg?socket=/var/lib/infinit/nbd/pg.sock".into()),
    }
}

/// One copy that has received 3 MiB in 2 s, a tenth of what it lacks.
fn moving() -> Moving {
    Moving {
        copies: 1,
        moved_bytes: 3 << 20,
        bytes_per_second: Some(3 << 19),
        left_bytes: Some(27 << 20),
        left_ms: Some(18_000),
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
        missing_copies: 0,
        moving_slots: 0,
        moving: None,
        attachment: Some(attachment()),
    };
    vec![
        Volume {
            reason: Some("the copy on host-c is behind by 12MiB".into()),
            mend: Some("start host-c again".into()),
            missing_copies: 5,
            moving_slots: 1,
            moving: Some(moving()),
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
        bytes_per_second: None,
        left_ms: None,
        leaves: false,
    };
    let slot = |index, reason: Option<&str>, replicas: [Replica; 3]| Slot {
        slot: SlotIndex(index),
        configuration: ConfigNumber(1),
        state: volume.state,
        reason: reason.map(Into::into),
        replicas: replicas.into(),
        joining: Vec::new(),
    };
    if volume.attachment.is_none() {
        let idle = |number| replica(number, ReplicaState::Idle, None);
        let down = replica(3, ReplicaState::Down, None);
        let slots = vec![slot(0, Some("the copy on host-c is down"), [idle(1), idle(2), down])];
        return VolumeStatus { volume, clients: None, repaired_blocks: None, slots };
    }
    let moved = Replica {
        moved_bytes: Some(3 << 20),
        bytes_per_second: Some(3 << 19),
        left_ms: Some(18_000),
        ..replica(2, ReplicaState::CatchingUp, None)
    };
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
    Status { network: network(), nodes: nodes(), volumes: volumes(), moving: Some(moving()), warnings: vec![warning] }
}

/// A network of one node with nothing to complain about.
pub fn quiet_status() -> Status {
    let mut status = status();
    status.nodes.truncate(1);
    if let Some(cluster) = &mut status.network.cluster {
        cluster.voters.truncate(1);
    }
    status.volumes.retain(|volume| volume.state == VolumeState::Healthy);
    status.moving = None;
    status.warnings.clear();
    status
}

pub fn invitation(role: Role, uses: u32) -> Invitation {
    let expires_at = "2026-11-22T11:00:00Z".into();
    Invitation { id: InvitationId([5; 16]), token: "infinit1token".into(), role, expires_at, uses }
}
