//! A silo's side of the protocol on a disk that fills at any moment: what there is no space for is not answered and has
//! not happened, and asked for again once there is space it is done.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::base::block::BLOCK_BYTES;
use crate::base::clock::Moment;
use crate::base::id::{ConfigNumber, Epoch, Incarnation, NodeId, Seq, SiloId, SlotIndex, SlotKey, Stamp, VolumeId};
use crate::base::record::Record;
use crate::cluster::replication::keeper::{Keeper, Outcome};
use crate::cluster::replication::message::{Ack, Answer, Append, FromSilo, Listing, Parcel, Request, ToSilo};
use crate::store::faulty::FaultyDisk;
use crate::store::silo::{Silo, SiloOptions};
use crate::store::slot::Vote;

const SILO: SiloId = SiloId([8; 16]);
const VOLUMES: [VolumeId; 2] = [VolumeId([1; 16]), VolumeId([2; 16])];
const SLOT: SlotIndex = SlotIndex(0);
const INCARNATION: Incarnation = Incarnation(1);
/// Blocks of each record of the stream.
const BLOCKS: u64 = 12;

struct Host {
    disk: FaultyDisk,
    keeper: Keeper,
    now: Moment,
    /// How far the stream of each volume has come, and the history that the silo must hold.
    streams: BTreeMap<VolumeId, Stream>,
    silences: u64,
}

#[derive(Default)]
struct Stream {
    epoch: u64,
    applied: u64,
    /// By block: the stamp of what it holds.
    blocks: BTreeMap<u64, Stamp>,
}

fn key(volume: VolumeId) -> SlotKey {
    SlotKey { volume, slot: SLOT }
}

fn data(stamp: Stamp, blocks: u64) -> Bytes {
    vec![stamp.seq.0 as u8; (blocks * BLOCK_BYTES) as usize].into()
}

fn place(seq: u64) -> u64 {
    seq * 7 % 40 * BLOCKS
}

impl Host {
    fn begin() -> Self {
        let disk = FaultyDisk::new(1);
        Silo::format(Arc::new(disk.clone()), SILO).unwrap();
        let options = SiloOptions {
            segment_bytes: 512 << 10,
            index_cache_bytes: 1 << 20,
            checkpoint_log_bytes: 1 << 20,
            ..SiloOptions::new(1 << 40, INCARNATION, [1; 16])
        };
        let silo = Silo::open(Arc::new(disk.clone()), options).unwrap();
        let keeper = Keeper::new(Arc::new(silo), [1; 16], Moment(1));
        let streams = VOLUMES.iter().map(|volume| (*volume, Stream::default())).collect();
        Self { disk, keeper, now: Moment(1), streams, silences: 0 }
    }

    fn send(&mut self, messages: Vec<ToSilo>) -> Vec<FromSilo> {
        self.now = Moment(self.now.0 + 1_000_000);
        let Outcome { replies, .. } =
            self.keeper.process(self.now, messages.into_iter().map(|m| (NodeId([7; 32]), 5, m)));
        assert!(self.keeper.silo().faulted().is_none());
        for (_, reply) in &replies {
            if let FromSilo::Ack(ack) = reply {
                let stands = self.keeper.silo().slot(ack.key).unwrap().applied;
                assert!(ack.applied <= stands && ack.durable <= stands, "{ack:?}, but the silo has {stands:?}");
            }
            let refused = matches!(reply, FromSilo::Rare(_, _, Answer::Refused { .. }));
            assert!(!refused, "{reply:?}");
        }
        replies.into_iter().map(|(_, reply)| reply).collect()
    }

    /// Asks until it is answered: a few times without space if there is none, then with it.
    fn ask(&mut self, volume: VolumeId, request: Request, is_answer: impl Fn(&Answer) -> bool) -> Answer {
        for round in 0..6 {
            let message = ToSilo::Rare(SILO, volume, request.clone());
            let replies = self.send(vec![message]);
            let answer = replies.into_iter().find_map(|reply| match reply {
                FromSilo::Rare(_, _, answer) if is_answer(&answer) => Some(answer),
                _ => None,
            });
            if let Some(answer) = answer {
                return answer;
            }
            self.silences += 1;
            self.check();
            if round == 2 {
                self.lift();
            }
        }
        panic!("never answered: {request:?}");
    }

    fn lift(&mut self) {
        self.disk.fill_after(None);
        self.keeper.silo().clean().unwrap();
    }

    /// The silo holds exactly what was acknowledged.
    fn check(&self) {
        for (volume, stream) in &self.streams {
            if stream.epoch == 0 {
                continue;
            }
            let digest = self.keeper.silo().digest(key(*volume)).unwrap();
            let found: BTreeMap<u64, Stamp> = digest.iter().map(|(block, (stamp, _))| (*block, *stamp)).collect();
            assert_eq!(found, stream.blocks, "{volume:?}");
        }
    }

    fn promote(&mut self, volume: VolumeId, epoch: u64) -> Vote {
        let request = Request::Promote {
            epoch: Epoch(epoch),
            holder: NodeId([7; 32]),
            own_dead: true,
            lease_ms: 1000,
            sent: self.now.0,
            slots: vec![(SLOT, ConfigNumber(0))],
        };
        let answer = self.ask(volume, request, |answer| matches!(answer, Answer::Promised(_)));
        let Answer::Promised(promised) = answer else { unreachable!() };
        promised.slots[0].vote
    }

    fn attach(&mut self, volume: VolumeId, epoch: u64) {
        let expected = self.promote(volume, epoch);
        let (epoch_id, attempt) = (Epoch(epoch), 1);
        let request = Request::AdoptAsIs { slot: SLOT, epoch: epoch_id, incarnation: INCARNATION, attempt, expected };
        self.ask(volume, request, |answer| matches!(answer, Answer::Adopted { .. }));
        self.streams.get_mut(&volume).unwrap().epoch = epoch;
    }

    /// Streams `count` records to both volumes in one batch, trims among them, and notes what was acknowledged.
    fn stream(&mut self, count: u64) {
        let mut messages = Vec::new();
        for (volume, stream) in &self.streams {
            for seq in stream.applied + 1..=stream.applied + count {
                let stamp = Stamp::new(Epoch(stream.epoch), Seq(seq));
                let (position, length) = (place(seq) * BLOCK_BYTES, BLOCKS * BLOCK_BYTES);
                let record = match seq % 6 {
                    0 => Record::trim(key(*volume), position, length, stamp),
                    _ => Record::write(key(*volume), position, stamp, data(stamp, BLOCKS)),
                };
                messages.push(ToSilo::Append(Append {
                    silo: SILO,
                    config: ConfigNumber(0),
                    epoch: Epoch(stream.epoch),
                    previous: Seq(seq - 1),
                    incarnation: INCARNATION,
                    committed: Seq(seq.saturating_sub(1)),
                    sent: self.now.0,
                    sync: seq % 4 == 0,
                    record,
                }));
            }
        }
        for reply in self.send(messages) {
            let FromSilo::Ack(Ack { key, applied, .. }) = reply else { panic!("{reply:?}") };
            let stream = self.streams.get_mut(&key.volume).unwrap();
            for seq in stream.applied + 1..=applied.0 {
                let stamp = Stamp::new(Epoch(stream.epoch), Seq(seq));
                for block in place(seq)..place(seq) + BLOCKS {
                    if seq % 6 == 0 {
                        stream.blocks.remove(&block);
                    } else {
                        stream.blocks.insert(block, stamp);
                    }
                }
            }
            stream.applied = stream.applied.max(applied.0);
        }
        self.check();
    }

    /// Streams until both volumes have come so far.
    fn stream_to(&mut self, seq: u64) {
        let mut rounds = 0;
        while self.streams.values().any(|stream| stream.applied < seq) {
            let before: u64 = self.streams.values().map(|stream| stream.applied).sum();
            self.stream(5);
            self.keeper.silo().checkpoint_due().then(|| drop(self.keeper.silo().checkpoint()));
            if self.streams.values().map(|stream| stream.applied).sum::<u64>() == before {
                self.silences += 1;
                rounds += 1;
                if rounds == 3 {
                    self.lift();
                }
                assert!(rounds < 6, "the stream stands still with space");
            }
        }
    }

    /// The volume's silo is brought from where it is to `floor` by transfer, in a new epoch.
    fn catch_up(&mut self, volume: VolumeId, epoch: u64, floor: u64) {
        let vote = self.promote(volume, epoch);
        let (base, epoch_id, incarnation, attempt) = (vote.applied, Epoch(epoch), INCARNATION, 1);
        let floor_id = Seq(floor);
        let request = Request::CatchUp { slot: SLOT, epoch: epoch_id, incarnation, attempt, base, floor: floor_id };
        self.ask(volume, request, |answer| matches!(answer, Answer::CatchingUp { .. }));
        let mut blocks = self.streams[&volume].blocks.clone();
        for cursor in 1..=4u64 {
            let (extent, mut present, mut records) = (cursor + 20, [0u8; 32], BytesMut::new());
            for index in 0..40 {
                let stamp = Stamp::new(Epoch(epoch - 1), Seq(base.0 + 1 + index % 3));
                let block = extent * 256 + index;
                present[index as usize / 8] |= 1 << (index % 8);
                let record = Record::write(key(volume), block * BLOCK_BYTES, stamp, data(stamp, 1)).into_transfer();
                records.extend_from_slice(&record.head);
                records.extend_from_slice(&record.payload);
                blocks.insert(block, stamp);
            }
            let listings = vec![Listing { extent, present, floor: floor_id }];
            let parcel = Parcel { listings, records: records.freeze() };
            let request = Request::Transfer { slot: SLOT, epoch: epoch_id, incarnation, attempt, cursor, parcel };
            self.ask(volume, request, |answer| matches!(answer, Answer::Transferred { cursor: c, .. } if *c == cursor));
        }
        let request = Request::Adopt { slot: SLOT, epoch: epoch_id, incarnation, attempt };
        let adopted = self.ask(volume, request, |answer| matches!(answer, Answer::Adopted { .. }));
        assert!(matches!(adopted, Answer::Adopted { applied, .. } if applied == floor_id));
        *self.streams.get_mut(&volume).unwrap() = Stream { epoch, applied: floor, blocks };
        self.check();
    }

    fn life(&mut self) {
        VOLUMES.iter().for_each(|volume| self.attach(*volume, 1));
        self.stream_to(30);
        self.attach(VOLUMES[0], 2);
        self.stream_to(50);
        let floor = self.streams[&VOLUMES[1]].applied + 3;
        self.catch_up(VOLUMES[1], 2, floor);
        self.stream_to(80);
        self.keeper.silo().checkpoint().unwrap_or_default();
        self.keeper.forget(VOLUMES[0]);
        self.disk.fill_after(None);
        self.keeper.forget_rest();
        assert!(self.keeper.silo().slot(key(VOLUMES[0])).is_none());
        self.streams.remove(&VOLUMES[0]);
        self.stream_to(100);
    }
}

#[test]
fn a_silo_whose_disk_fills_at_any_operation_takes_back_what_it_could_not_write() {
    let mut counting = Host::begin();
    let begun = counting.disk.operations();
    counting.life();
    assert_eq!(counting.silences, 0);
    let operations = counting.disk.operations() - begun;
    let mut silent = 0;
    let rounds = operations.min(150);
    for round in 0..rounds {
        let mut host = Host::begin();
        host.disk.fill_after(Some(operations * round / rounds));
        host.life();
        silent += u64::from(host.silences > 0);
    }
    assert!(silent > rounds / 2, "{silent} of {rounds} disks were full when it mattered");
}
