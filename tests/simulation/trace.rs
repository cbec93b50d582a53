//! A line an event, for people; and a number that is the same if and only if all events were.

use infinit::base::id::SiloId;
use infinit::cluster::replication::message::{Answer, FromSilo, Request, ToSilo};

/// What happened. Lines are made only if somebody reads them; the digest always.
pub struct Trace {
    pub lines: Option<Vec<String>>,
    pub digest: u64,
    pub events: u64,
    /// Leave out what only keeps leases alive.
    pub quiet: bool,
}

impl Trace {
    pub fn new(kept: bool) -> Self {
        Self { lines: kept.then(Vec::new), digest: 0xcbf2_9ce4_8422_2325, events: 0, quiet: false }
    }

    pub fn mix(&mut self, numbers: &[u64]) {
        self.events += 1;
        for number in numbers {
            self.digest = (self.digest ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    pub fn line(&mut self, now: u64, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>6}.{:03} {}", now / 1_000_000_000, now / 1_000_000 % 1000, text()));
        }
    }
}

/// The name of a silo: their ids are made of their place.
pub fn silo_name(silo: SiloId) -> String {
    format!("s{}", silo.0[0])
}

/// A message to a silo in a few words.
pub fn to_silo(message: &ToSilo) -> String {
    match message {
        ToSilo::Append(append) => format!(
            "append {:?} after {}{} committed {}",
            append.record,
            append.previous,
            if append.sync { " durably" } else { "" },
            append.committed
        ),
        ToSilo::Rare(_, _, request) => match request {
            Request::Promote { epoch, own_dead, slots, .. } => {
                let own = if *own_dead { " own" } else { "" };
                format!("promote {epoch}{own} slots {:?}", slots.iter().map(|(slot, _)| slot.0).collect::<Vec<_>>())
            }
            Request::Heartbeat { epoch, .. } => format!("heartbeat {epoch}"),
            Request::Sync { slot, upto, .. } => format!("sync slot {slot} to {upto}"),
            Request::AdoptAsIs { slot, epoch, expected, .. } => {
                format!("adopt {epoch} as it is, slot {slot}, if ({}, {})", expected.adopted, expected.applied)
            }
            Request::CatchUp { slot, epoch, base, floor, .. } => {
                format!("catch up {epoch}, slot {slot}, from {base} to {floor}")
            }
            Request::Transfer { slot, parcel, .. } => format!("transfer slot {slot}: {parcel:?}"),
            Request::Adopt { slot, epoch, .. } => format!("adopt {epoch}, slot {slot}"),
            Request::Read { slot, epoch, floor, first_block, blocks, .. } => {
                format!("read {epoch} slot {slot} {first_block}+{blocks} floor {floor}")
            }
            Request::Allocation { slot, first_block, blocks, .. } => {
                format!("allocation slot {slot} {first_block}+{blocks}")
            }
            Request::Delta { slot, base, floor, from_extent, .. } => {
                format!("delta slot {slot} above {base} floor {floor} from extent {from_extent}")
            }
            Request::Fetch { slot, block, floor, .. } => format!("fetch slot {slot} block {block} floor {floor}"),
            Request::Repair { slot, block, parcel, .. } => format!("repair slot {slot} block {block}: {parcel:?}"),
            Request::Indexed { slot, block, .. } => format!("which version of slot {slot} block {block}?"),
            Request::FetchVersion { slot, block, stamp, .. } => format!("fetch slot {slot} block {block} of {stamp:?}"),
            Request::Release { epoch } => format!("release {epoch}"),
            Request::Configure { slot, config, .. } => format!("slot {slot} has configuration {config}"),
            Request::Dismiss { slot, .. } => format!("dismissed from slot {slot}"),
        },
    }
}

/// A message of a silo in a few words.
pub fn from_silo(message: &FromSilo) -> String {
    match message {
        FromSilo::Ack(ack) => {
            format!("ack {} slot {} applied {} durable {}", ack.epoch, ack.key.slot, ack.applied, ack.durable)
        }
        FromSilo::Rare(_, _, answer) => match answer {
            Answer::Promised(promised) => {
                let votes: Vec<String> = promised
                    .slots
                    .iter()
                    .map(|vote| {
                        let incomplete = if vote.incomplete { " incomplete" } else { "" };
                        let (adopted, applied) = (vote.vote.adopted, vote.vote.applied);
                        format!("slot {} ({adopted}, {applied}){incomplete} durable {}", vote.slot, vote.durable)
                    })
                    .collect();
                format!("promised {}: {}", promised.epoch, votes.join("; "))
            }
            Answer::Refused { reason, .. } => format!("refused: {reason:?}"),
            Answer::Gap { slot, applied, .. } => format!("gap slot {slot} after {applied}"),
            Answer::Renewed { epoch, .. } => format!("renewed {epoch}"),
            Answer::CatchingUp { slot, changed, .. } => format!("catching up slot {slot}, changed {changed:?}"),
            Answer::Transferred { slot, .. } => format!("transferred slot {slot}"),
            Answer::Adopted { slot, epoch, applied, .. } => format!("adopted {epoch} slot {slot} at {applied}"),
            Answer::Read { result, .. } => match result {
                Ok(_) => "read done".to_owned(),
                Err(refusal) => format!("read refused: {refusal:?}"),
            },
            Answer::Allocation { result, .. } => format!("allocation done: {}", result.is_ok()),
            Answer::Delta { result, .. } => match result {
                Ok((parcel, _)) => format!("delta: {parcel:?}"),
                Err(refusal) => format!("delta refused: {refusal:?}"),
            },
            Answer::Fetched { result, .. } => match result {
                Ok(parcel) => format!("fetched: {parcel:?}"),
                Err(refusal) => format!("fetch refused: {refusal:?}"),
            },
            Answer::Indexed { result, .. } => match result {
                Ok(stamp) => format!("the version is {stamp:?}"),
                Err(refusal) => format!("version refused: {refusal:?}"),
            },
            Answer::Repaired { slot, block, mended, .. } => format!("repaired slot {slot} block {block}: {mended}"),
            Answer::Damaged { slot, block, .. } => format!("damaged: slot {slot} block {block}"),
            Answer::Released { epoch } => format!("released {epoch}"),
        },
    }
}

/// Whether a message only keeps a lease alive.
pub fn is_heartbeat(message: &ToSilo) -> bool {
    matches!(message, ToSilo::Rare(_, _, Request::Heartbeat { .. }))
}
