//! The rules of the cluster state, one by one, and what holds under any sequence of commands.

use proptest::prelude::*;

use super::*;
use crate::base::error::{Fault, Kind};
use crate::base::id::{ConfigNumber, Epoch, Incarnation, SlotIndex};
use crate::cluster::state::command::{
    Announcement, AttachMode, Genesis, Invitation, Join, NewMember, Reconfiguration, SiloOpening, VolumeCreation,
};
use crate::cluster::state::level::Level;
use crate::cluster::state::member::{Duty, Role};
use crate::cluster::state::plan::Move;
use crate::cluster::state::silo::SiloState;
use crate::cluster::state::stored::BadState;
use crate::cluster::state::volume::Policy;

const GIB: u64 = 1 << 30;

fn node(index: u8) -> NodeId {
    NodeId([index; 32])
}

fn silo(index: u8) -> SiloId {
    SiloId([index; 16])
}

fn volume(index: u8) -> VolumeId {
    VolumeId([index; 16])
}

fn member(name: &str, role: Role) -> NewMember {
    NewMember {
        name: name.to_owned(),
        role,
        passport: name.as_bytes().to_vec(),
        data_addresses: vec!["127.0.0.1:1".parse().unwrap()],
        discovery_addresses: vec![],
        zone: None,
    }
}

fn genesis() -> Command {
    Command::Genesis(Genesis {
        network: NetworkId([1; 32]),
        name: "prod".into(),
        founder: node(0),
        member: member("host-0", Role::Admin),
        at: 100,
    })
}

fn join(index: u8, invitation: u8, role: Role, at: u64) -> Command {
    Command::Join(Join {
        node: node(index),
        member: member(&format!("host-{index}"), role),
        invitation: Invitation { id: InvitationId([invitation; 16]), uses_max: 3, expires_at: 1_000 },
        at,
    })
}

fn open(index: u8, on: u8, chain: &[u64]) -> Command {
    Command::OpenSilo(SiloOpening {
        silo: silo(index),
        node: node(on),
        capacity_bytes: 1000 * GIB,
        chain: chain.iter().map(|link| Incarnation(*link)).collect(),
    })
}

fn create(index: u8, name: &str, size_bytes: u64, replicas: u8) -> Command {
    let policy = Policy { replicas, ..Policy::default() };
    Command::CreateVolume(VolumeCreation { id: volume(index), name: name.into(), size_bytes, policy, at: 5 })
}

fn attach(index: u8, on: u8, mode: AttachMode) -> Command {
    Command::Attach { volume: volume(index), node: node(on), mode, at: 7 }
}

/// Three storage nodes with a silo each, and one volume.
fn cluster() -> ClusterState {
    let mut state = ClusterState::default();
    let commands = [
        genesis(),
        join(1, 1, Role::Storage, 200),
        join(2, 1, Role::Storage, 200),
        open(0, 0, &[10]),
        open(1, 1, &[11]),
        open(2, 2, &[12]),
        create(0, "pg", 20 * GIB, 3),
        Command::Raise { level: Level::OWN },
    ];
    for command in commands {
        state.apply(command).unwrap();
    }
    state
}

/// Applies a command that must be refused, and checks that it changed nothing.
fn refused(state: &mut ClusterState, command: Command) -> Refusal {
    let before = state.clone();
    let refusal = state.apply(command).unwrap_err();
    assert_eq!(*state, before);
    refusal
}

fn granted(state: &mut ClusterState, command: Command) -> Epoch {
    match state.apply(command).unwrap() {
        Outcome::Granted { epoch } => epoch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_comes_before_the_genesis_and_it_comes_once() {
    let mut state = ClusterState::default();
    assert_eq!(refused(&mut state, join(1, 1, Role::Storage, 1)), Refusal::NoNetwork);
    assert_eq!(refused(&mut state, create(0, "pg", GIB, 1)), Refusal::NoNetwork);
    state.apply(genesis()).unwrap();
    let founded = state.clone();
    assert_eq!(state.apply(genesis()), Ok(Outcome::Done));
    assert_eq!(state, founded);
    let Command::Genesis(mut other) = genesis() else { unreachable!() };
    other.network = NetworkId([2; 32]);
    assert_eq!(refused(&mut state, Command::Genesis(other)), Refusal::OtherNetwork { network: "prod".into() });
}

#[test]
fn an_invitation_is_good_for_so_many_nodes_and_so_long() {
    let mut state = ClusterState::default();
    state.apply(genesis()).unwrap();
    for index in 1..=3 {
        state.apply(join(index, 1, Role::Storage, 200)).unwrap();
    }
    // The same node again, after a lost answer: it gets the passport that counts, and no use is counted.
    let again = state.apply(join(3, 1, Role::Storage, 2_000)).unwrap();
    assert_eq!(again, Outcome::Joined { passport: b"host-3".to_vec() });
    let used_up = refused(&mut state, join(4, 1, Role::Storage, 200));
    assert_eq!(used_up, Refusal::InvitationUsedUp { uses_max: 3 });
    assert_eq!(Fault::from(used_up).kind, Kind::Refused);
    let late = refused(&mut state, join(4, 2, Role::Storage, 1_001));
    assert_eq!(late, Refusal::InvitationExpired { expired_at: 1_000 });
    // Long after it expired, its uses are forgotten; it is refused as expired all the same.
    let Command::Join(mut fresh) = join(4, 2, Role::Storage, 1_000_000) else { unreachable!() };
    fresh.invitation.expires_at = 2_000_000;
    state.apply(Command::Join(fresh)).unwrap();
    assert_eq!(state.invitations.len(), 1);
    let expired = refused(&mut state, join(5, 1, Role::Storage, 1_000_000));
    assert_eq!(expired, Refusal::InvitationExpired { expired_at: 1_000 });
}

#[test]
fn a_node_that_left_does_not_come_back() {
    let mut state = cluster();
    state.apply(join(3, 1, Role::Client, 300)).unwrap();
    let leave = Command::Leave { node: node(3), at: 400 };
    state.apply(leave.clone()).unwrap();
    assert_eq!(state.apply(leave), Ok(Outcome::Done));
    assert_eq!(refused(&mut state, join(3, 2, Role::Storage, 500)), Refusal::Revoked { node: node(3) });
    let holds = refused(&mut state, Command::Leave { node: node(2), at: 400 });
    assert_eq!(holds, Refusal::NodeHoldsSlots { node: "host-2".into(), volume: "pg".into() });
    granted(&mut state, attach(0, 2, AttachMode::Fresh));
    let attached = refused(&mut state, Command::Leave { node: node(2), at: 400 });
    assert_eq!(attached, Refusal::NodeAttached { node: "host-2".into(), volume: "pg".into() });
}

#[test]
fn a_silo_must_continue_its_chain() {
    let mut state = cluster();
    let opened = state.apply(open(1, 1, &[11, 20, 21])).unwrap();
    assert_eq!(opened, Outcome::SiloOpened { new: false, moved_from: None });
    assert_eq!(state.silos[&silo(1)].incarnation, Incarnation(21));
    // The backup of the disk from before: its chain ends at 11.
    let foreign = refused(&mut state, open(1, 1, &[11, 30]));
    assert_eq!(foreign, Refusal::ForeignSilo { silo: silo(1) });
    assert_eq!(refused(&mut state, open(1, 1, &[])), Refusal::ForeignSilo { silo: silo(1) });
    // The disk in another machine.
    let moved = state.apply(open(1, 2, &[21, 22])).unwrap();
    assert_eq!(moved, Outcome::SiloOpened { new: false, moved_from: Some(node(1)) });
    state.apply(join(3, 1, Role::Client, 300)).unwrap();
    assert_eq!(refused(&mut state, open(9, 3, &[1])), Refusal::RoleGivesNoSilos { node: "host-3".into() });
    assert_eq!(refused(&mut state, open(9, 8, &[1])), Refusal::NoSuchNode { node: node(8) });
}

#[test]
fn bad_volumes_are_refused_with_what_is_possible() {
    let mut state = cluster();
    for size_bytes in [0, 4095, (64 << 40) + 4096] {
        assert_eq!(refused(&mut state, create(1, "v", size_bytes, 3)), Refusal::BadSize { size_bytes });
    }
    let long = "x".repeat(65);
    for name in ["", "a/b", "a\nb", long.as_str()] {
        let refusal = refused(&mut state, create(1, name, GIB, 3));
        assert!(matches!(refusal, Refusal::BadName { .. }), "{refusal:?}");
        let fault = Fault::from(refusal);
        assert_eq!(fault.kind, Kind::Usage);
        assert!(!fault.message.contains('\n'));
    }
    for replicas in [0, 8, 9] {
        assert_eq!(refused(&mut state, create(1, "v", GIB, replicas)), Refusal::BadReplicas { replicas });
    }
    let few = refused(&mut state, create(1, "v", GIB, 5));
    assert_eq!(few, Refusal::TooFewNodes { replicas: 5, nodes: 3 });
    assert!(Fault::from(few).hint.unwrap().contains("--replicas 1"));
    let taken = refused(&mut state, create(1, "pg", GIB, 3));
    assert_eq!(Fault::from(taken).kind, Kind::Conflict);
    state.apply(create(1, "largest", 64 << 40, 1)).unwrap();
    assert_eq!(state.volumes[&volume(1)].slots.len(), 64);
    // The same creation again is the same volume.
    assert_eq!(state.apply(create(1, "largest", 64 << 40, 1)), Ok(Outcome::Created { volume: volume(1) }));
    assert_eq!(refused(&mut state, create(1, "other", GIB, 1)), Refusal::VolumeIdUsed { volume: volume(1) });
}

#[test]
fn slots_lie_on_silos_in_service_only() {
    let mut state = cluster();
    state.apply(join(3, 1, Role::Storage, 300)).unwrap();
    state.apply(open(3, 3, &[13])).unwrap();
    state.apply(Command::SetSiloState { silo: silo(0), state: SiloState::Retired }).unwrap();
    state.apply(create(1, "v", 100 * GIB, 3)).unwrap();
    for slot in &state.volumes[&volume(1)].slots {
        assert_eq!(slot.silos.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
        assert!(!slot.silos.contains(&silo(0)));
    }
    state.apply(Command::SetSiloState { silo: silo(1), state: SiloState::Retired }).unwrap();
    assert_eq!(refused(&mut state, create(2, "w", GIB, 3)), Refusal::TooFewNodes { replicas: 3, nodes: 2 });
}

#[test]
fn one_node_writes_a_volume() {
    let mut state = cluster();
    let first = granted(&mut state, attach(0, 0, AttachMode::Fresh));
    let held = refused(&mut state, attach(0, 1, AttachMode::Fresh));
    let fault = Fault::from(held);
    assert_eq!(fault.kind, Kind::Conflict);
    assert!(fault.message.contains("host-0"));
    assert_eq!(fault.hint.as_deref(), Some("infinit volume attach pg --takeover"));
    let second = granted(&mut state, attach(0, 1, AttachMode::Takeover));
    assert_eq!(second, first.next());
    // The old holder is fenced: it neither resumes nor detaches.
    let resume = refused(&mut state, attach(0, 0, AttachMode::Resume { epoch: first }));
    assert_eq!(resume, Refusal::NotResumable { volume: "pg".into() });
    let detach = |epoch| Command::Detach { volume: volume(0), epoch };
    assert!(matches!(refused(&mut state, detach(first)), Refusal::StaleEpoch { .. }));
    // The new one resumes after its restart, with an epoch of its own again.
    let third = granted(&mut state, attach(0, 1, AttachMode::Resume { epoch: second }));
    assert_eq!(third, second.next());
    assert!(matches!(
        refused(&mut state, attach(0, 1, AttachMode::Resume { epoch: second })),
        Refusal::NotResumable { .. }
    ));
    state.apply(detach(third)).unwrap();
    state.apply(detach(third)).unwrap();
    assert_eq!(granted(&mut state, attach(0, 2, AttachMode::Fresh)), third.next());
}

#[test]
fn a_closed_export_is_opened_by_its_user_only() {
    let mut state = cluster();
    let first = granted(&mut state, attach(0, 0, AttachMode::Fresh));
    let close = |epoch| Command::CloseExport { volume: volume(0), epoch };
    assert!(matches!(refused(&mut state, close(first.next())), Refusal::StaleEpoch { .. }));
    state.apply(close(first)).unwrap();
    refused(&mut state, attach(0, 0, AttachMode::Resume { epoch: first }));
    refused(&mut state, attach(0, 1, AttachMode::Fresh));
    let second = granted(&mut state, attach(0, 0, AttachMode::Fresh));
    assert!(!state.volumes[&volume(0)].attachment.as_ref().unwrap().export_closed);
    assert_eq!(second, first.next());
}

#[test]
fn a_deleted_volume_leaves_a_tombstone() {
    let mut state = cluster();
    let epoch = granted(&mut state, attach(0, 0, AttachMode::Fresh));
    let delete = Command::DeleteVolume { volume: volume(0), at: 9 };
    let fault = Fault::from(refused(&mut state, delete.clone()));
    assert_eq!((fault.kind, fault.hint.as_deref()), (Kind::Conflict, Some("infinit volume detach pg")));
    state.apply(Command::Detach { volume: volume(0), epoch }).unwrap();
    state.apply(delete.clone()).unwrap();
    assert_eq!(state.apply(delete), Ok(Outcome::Done));
    assert_eq!(state.deleted[&volume(0)], 9);
    assert_eq!(refused(&mut state, create(0, "pg", GIB, 3)), Refusal::VolumeIdUsed { volume: volume(0) });
    state.apply(create(1, "pg", GIB, 3)).unwrap();
    let unknown = refused(&mut state, Command::DeleteVolume { volume: volume(7), at: 9 });
    assert_eq!(unknown.kind(), Kind::NotFound);
}

#[test]
fn a_stored_state_reads_back_and_damage_is_noticed() {
    let state = cluster();
    let bytes = state.encode();
    // The version stands in front.
    assert_eq!(bytes[0], 1);
    assert_eq!(ClusterState::decode(&bytes), Ok(state));
    assert_eq!(ClusterState::decode(&bytes[..bytes.len() - 1]), Err(BadState));
    assert_eq!(ClusterState::decode(&[9, 0, 0]), Err(BadState));
}

fn any_command() -> impl Strategy<Value = Command> {
    let role = prop_oneof![Just(Role::Storage), Just(Role::Client), Just(Role::Admin)];
    let epoch = (0u64..6).prop_map(Epoch);
    let mode = prop_oneof![
        Just(AttachMode::Fresh),
        Just(AttachMode::Takeover),
        (0u64..6).prop_map(|epoch| AttachMode::Resume { epoch: Epoch(epoch) })
    ];
    let name = prop::sample::select(vec!["a", "b", "c", "", "x/y"]);
    let size = prop::sample::select(vec![0, 4096, GIB, 100 * GIB, 65 << 40, 17]);
    prop_oneof![
        1 => Just(genesis()),
        2 => Just(Command::Raise { level: Level::OWN }),
        3 => (0u8..5, 0u8..3, role, 0u64..1_200).prop_map(|(n, i, role, at)| join(n, i, role, at)),
        1 => (0u8..5).prop_map(|n| Command::Announce(Announcement {
            node: node(n), name: "renamed".into(), data_addresses: vec![], discovery_addresses: vec![], zone: None,
        })),
        1 => (0u8..5).prop_map(|n| Command::Leave { node: node(n), at: 3 }),
        3 => (0u8..5, 0u8..5, prop::collection::vec(0u64..4, 0..3)).prop_map(|(s, n, chain)| open(s, n, &chain)),
        2 => (0u8..5, 0usize..3).prop_map(|(s, state)| Command::SetSiloState {
            silo: silo(s), state: [SiloState::InService, SiloState::Retired, SiloState::Down][state],
        }),
        2 => (0u8..5, 0usize..3).prop_map(|(n, duty)| Command::SetDuty {
            node: node(n), duty: [Duty::Stores, Duty::Drains, Duty::Leaves][duty],
        }),
        1 => (0u8..5, any::<bool>()).prop_map(|(n, witness)| Command::SetRole {
            node: node(n), role: if witness { Role::Witness } else { Role::Storage },
        }),
        1 => (0u8..6, 0u8..6).prop_map(|(v, replicas)| Command::SetReplicas { volume: volume(v), replicas }),
        2 => (0u8..6, 0u8..5).prop_map(|(v, n)| Command::Maintain { volume: volume(v), node: node(n), at: 4 }),
        2 => (0u8..6, 0u64..6, 0u32..3, prop::collection::vec(0u8..5, 0..4)).prop_map(|(v, epoch, config, silos)| {
            Command::Reconfigure(Reconfiguration {
                volume: volume(v), slot: SlotIndex(0), epoch: Epoch(epoch), config: ConfigNumber(config),
                silos: silos.into_iter().map(silo).collect(),
            })
        }),
        4 => (0u8..6, name, size, 0u8..4).prop_map(|(v, name, size, replicas)| create(v, name, size, replicas)),
        6 => (0u8..6, 0u8..5, mode).prop_map(|(v, n, mode)| attach(v, n, mode)),
        2 => (0u8..6, epoch.clone()).prop_map(|(v, epoch)| Command::Detach { volume: volume(v), epoch }),
        1 => (0u8..6, epoch).prop_map(|(v, epoch)| Command::CloseExport { volume: volume(v), epoch }),
        1 => (0u8..6).prop_map(|v| Command::DeleteVolume { volume: volume(v), at: 3 }),
    ]
}

/// Every move is taken by the state, none gives up a copy that is wanted, and where all are made, none is left.
fn follow_the_plan(mut state: ClusterState, now: u64) -> Result<(), TestCaseError> {
    for _ in 0..2 {
        for (id, moves) in state.moves(now) {
            for Move { slot, config, silos } in moves {
                let volume = &state.volumes[&id];
                let before = &volume.slots[slot.0 as usize].silos;
                prop_assert!(silos.len() >= before.len().min(usize::from(volume.policy.replicas)));
                let change = Reconfiguration { volume: id, slot, epoch: volume.epoch, config, silos };
                state.apply(Command::Reconfigure(change)).unwrap();
            }
        }
    }
    prop_assert_eq!(state.moves(now), BTreeMap::new());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_the_state_stays_sound(commands in prop::collection::vec(any_command(), 1..80)) {
        let mut state = ClusterState::default();
        let mut twin = ClusterState::default();
        for command in commands {
            let before = state.clone();
            let result = state.apply(command.clone());
            prop_assert_eq!(&result, &twin.apply(command));
            prop_assert_eq!(&state, &twin);
            if let Err(refusal) = &result {
                prop_assert_eq!(&state, &before);
                let fault = Fault::from(refusal.clone());
                prop_assert!(!fault.message.is_empty() && !fault.message.contains('\n'));
            }
            for (id, old) in &before.volumes {
                let Some(new) = state.volumes.get(id) else {
                    prop_assert!(old.attachment.is_none() && state.deleted.contains_key(id));
                    continue;
                };
                prop_assert!(new.epoch >= old.epoch);
                let regranted = new.attachment.as_ref().is_some_and(|a| a.epoch > old.epoch);
                prop_assert!(!regranted || new.epoch > old.epoch);
                // For an attachment, or for work on a volume that has none.
                prop_assert!(new.epoch == old.epoch || regranted || old.attachment.is_none() && new.attachment.is_none());
                for (new, old) in new.slots.iter().zip(&old.slots) {
                    prop_assert_eq!(new.silos != old.silos, new.config > old.config);
                }
            }
            let names: std::collections::BTreeSet<_> = state.volumes.values().map(|v| &v.name).collect();
            prop_assert_eq!(names.len(), state.volumes.len());
            prop_assert!(state.silos.values().all(|silo| state.members.contains_key(&silo.node)));
            prop_assert!(state.volumes.keys().all(|id| !state.deleted.contains_key(id)));
            let mut placed = state.volumes.values().flat_map(|volume| volume.slots.iter().flat_map(|slot| &slot.silos));
            prop_assert!(placed.all(|silo| state.silos.contains_key(silo)));
        }
        for now in [0, u64::MAX] {
            follow_the_plan(ClusterState { level: Level::OWN, ..state.clone() }, now)?;
        }
        prop_assert_eq!(ClusterState::decode(&state.encode()), Ok(state));
    }
}

/// A fourth node with a silo.
fn with_a_fourth(state: &mut ClusterState) {
    state.apply(join(3, 9, Role::Storage, 200)).unwrap();
    state.apply(open(3, 3, &[1])).unwrap();
}

#[test]
fn a_node_drains_where_others_can_take_its_copies() {
    let mut state = cluster();
    let drain = |index: u8| Command::SetDuty { node: node(index), duty: Duty::Drains };
    let refused = state.apply(drain(1)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "volume 'pg' has 3 copies, and without node host-1 there are 2 nodes with a silo to hold them"
    );
    assert_eq!(Fault::from(refused).hint.as_deref(), Some("add a node, or: infinit volume set pg --replicas 2"));
    assert_eq!(state.moves(0), BTreeMap::new());

    with_a_fourth(&mut state);
    state.apply(drain(1)).unwrap();
    let moves = state.moves(0);
    assert_eq!(state.stuck_on(node(1), &moves), []);
    // Should the other node go after all, the copy stays where it is, and that is told.
    let mut fewer = state.clone();
    fewer.silos.remove(&silo(3));
    assert_eq!(fewer.stuck_on(node(1), &fewer.moves(0)), [volume(0)]);
    let Some([only]) = moves.get(&volume(0)).map(Vec::as_slice) else { panic!("{moves:?}") };
    assert!(only.silos.len() == 3 && only.silos.contains(&silo(3)) && !only.silos.contains(&silo(1)), "{only:?}");
    assert_eq!(refusal(&mut state, drain(2)), "NoRoomElsewhere");
    assert_eq!(refusal(&mut state, Command::Leave { node: node(1), at: 300 }), "NodeHoldsSlots");

    let epoch = state.volumes[&volume(0)].epoch;
    let change =
        Reconfiguration { volume: volume(0), slot: only.slot, epoch, config: only.config, silos: only.silos.clone() };
    state.apply(Command::Reconfigure(change)).unwrap();
    assert_eq!((state.moves(0), state.copies_on(node(1))), (BTreeMap::new(), 0));
    state.apply(Command::Leave { node: node(1), at: 300 }).unwrap();
    assert!(!state.silos.contains_key(&silo(1)));
}

#[test]
fn a_drain_that_is_cancelled_moves_nothing_more() {
    let mut state = cluster();
    with_a_fourth(&mut state);
    for duty in [Duty::Drains, Duty::Stores] {
        state.apply(Command::SetDuty { node: node(1), duty }).unwrap();
    }
    assert_eq!(state.moves(0), BTreeMap::new());
}

#[test]
fn a_node_that_is_given_up_is_attached_to_nothing_and_its_copies_go_elsewhere() {
    let mut state = cluster();
    state.apply(attach(0, 1, AttachMode::Fresh)).unwrap();
    let give_up = Command::SetDuty { node: node(1), duty: Duty::Leaves };
    assert_eq!(refusal(&mut state, give_up.clone()), "NoRoomElsewhere");
    assert!(state.volumes[&volume(0)].attachment.is_some());
    with_a_fourth(&mut state);
    state.apply(give_up).unwrap();
    assert_eq!(state.volumes[&volume(0)].attachment, None);
    assert_eq!(state.moves(0).len(), 1);
}

#[test]
fn one_copy_lies_on_the_node_that_a_volume_is_attached_to_once_that_lasts() {
    let mut state = cluster();
    with_a_fourth(&mut state);
    let near = |state: &ClusterState, now| {
        let moves = state.moves(now);
        moves.get(&volume(0)).map(|moves| moves[0].silos.len() == 3 && moves[0].silos.contains(&silo(3)))
    };
    state.apply(attach(0, 3, AttachMode::Fresh)).unwrap();
    let since = state.volumes[&volume(0)].attachment.as_ref().unwrap().since;
    assert_eq!(near(&state, since), Some(true), "nothing was written before the first");
    state.apply(attach(0, 3, AttachMode::Takeover)).unwrap();
    assert_eq!((near(&state, since + 599), near(&state, since + 600)), (None, Some(true)));
    // Where it has a copy already, nothing moves; nor where it can have none.
    state.apply(attach(0, 1, AttachMode::Takeover)).unwrap();
    assert_eq!(near(&state, since + 600), None);
    state.apply(attach(0, 3, AttachMode::Takeover)).unwrap();
    state.apply(Command::SetDuty { node: node(3), duty: Duty::Drains }).unwrap();
    assert_eq!(near(&state, since + 600), None);
}

#[test]
fn the_copies_of_a_lost_silo_stay_its_own_where_no_other_node_is_free() {
    let mut state = cluster();
    let set = |state| Command::SetSiloState { silo: silo(2), state };
    state.apply(set(SiloState::Down)).unwrap();
    assert_eq!(state.moves(0), BTreeMap::new());
    with_a_fourth(&mut state);
    let moves = state.moves(0);
    assert_eq!(moves.len(), 1);
    assert!(!moves[&volume(0)][0].silos.contains(&silo(2)));
    state.apply(set(SiloState::InService)).unwrap();
    assert_eq!(state.moves(0), BTreeMap::new());
}

#[test]
fn the_number_of_copies_changes_where_there_are_nodes_for_them() {
    let mut state = cluster();
    let set = |replicas| Command::SetReplicas { volume: volume(0), replicas };
    assert_eq!(refusal(&mut state, set(8)), "BadReplicas");
    assert_eq!(refusal(&mut state, set(5)), "TooFewNodes");
    state.apply(set(1)).unwrap();
    assert_eq!(state.moves(0)[&volume(0)][0].silos.len(), 1);
    state.apply(set(3)).unwrap();
    assert_eq!(state.moves(0), BTreeMap::new());
}

#[test]
fn a_witness_votes_and_gives_no_silos() {
    let mut state = cluster();
    let witness = |index| Command::SetRole { node: node(index), role: Role::Witness };
    assert_eq!(refusal(&mut state, witness(1)), "HoldsSilos");
    with_a_fourth(&mut state);
    state.apply(witness(3)).unwrap();
    assert!(!state.silos.contains_key(&silo(3)));
    assert_eq!(refusal(&mut state, open(3, 3, &[1])), "RoleGivesNoSilos");
    state.apply(Command::SetRole { node: node(3), role: Role::Storage }).unwrap();
    state.apply(open(3, 3, &[1])).unwrap();
}

#[test]
fn silos_are_replaced_after_a_time_that_makes_sense() {
    let mut state = cluster();
    for down_after_ms in [0, 4_999, 31 * 86_400_000] {
        assert_eq!(refusal(&mut state, Command::SetDownAfter { down_after_ms }), "BadDownAfter");
    }
    state.apply(Command::SetDownAfter { down_after_ms: 60_000 }).unwrap();
    assert_eq!(state.settings.down_after_ms, 60_000);
}

/// The variant of a refusal.
fn refusal(state: &mut ClusterState, command: Command) -> String {
    let debug = format!("{:?}", refused(state, command));
    debug.split([' ', '{']).next().unwrap_or_default().to_owned()
}

#[test]
fn nothing_is_decided_that_a_member_does_not_understand() {
    let mut state = ClusterState { level: Level(0), ..cluster() };
    let new = Command::SetDownAfter { down_after_ms: 60_000 };
    assert_eq!(refused(&mut state, new.clone()), Refusal::NotAllUnderstand);
    state.apply(Command::Raise { level: Level(1) }).unwrap();
    state.apply(new).unwrap();
    state.apply(Command::Raise { level: Level(0) }).unwrap();
    assert_eq!(state.level, Level(1));
}

#[test]
fn the_last_copy_is_not_given_up_with_a_dead_node() {
    let mut state = cluster();
    let volume = state.volumes.get_mut(&volume(0)).unwrap();
    for slot in &mut volume.slots {
        slot.silos = vec![silo(1)];
    }
    volume.policy.replicas = 1;
    let leaves = |index: u8| Command::SetDuty { node: node(index), duty: Duty::Leaves };
    let refused = state.apply(leaves(1)).unwrap_err();
    assert_eq!(refused.to_string(), "volume 'pg' has no other copy of some of its data than on node host-1");
    assert_eq!(Fault::from(refused).hint.as_deref(), Some("if it may be lost: infinit volume delete pg"));
    state.apply(leaves(2)).unwrap();
}
