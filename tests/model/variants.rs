//! The broken variants: the protocol with one of its rules left out. Each must violate a property, and the shortest way
//! there is kept in `traces/`, so that a reader sees what the rule is for.

use super::state::{Bounds, Shape};
use super::{ONE_SLOT, TWO_SLOTS};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    PromiseNotPersisted,
    VoteBeforePromise,
    OldEpochAcknowledged,
    SeqWithoutEpoch,
    TailRestamped,
    AdoptionNotSynced,
    AdoptionBeforeItsData,
    NoAdoptionOnEmptyTail,
    ServesBeforeMajority,
    SecondChoice,
    DropBeforeAdoption,
    StaleSuffixKept,
    ComparedFromItsEnd,
    OneVoteOverTwoSlots,
    IncompleteNotDurable,
    IncompleteVotesAsItIs,
    DurableIsAppliedAtRestart,
    TornBelowReported,
}

/// A variant with what a reader of its trace is told, and the bounds that suffice for it.
pub struct Broken {
    pub variant: Variant,
    /// The trace's file name.
    pub name: &'static str,
    /// The rule of `block.md` that is broken, and how.
    pub rule: &'static str,
    pub shape: Shape,
}

const fn bounds(epochs: u8, writes: u8, power_losses: u8, restarts: u8) -> Bounds {
    Bounds { epochs, writes, power_losses, restarts, tears: 0, cuts: 0, tells: true }
}

const fn one(bounds: Bounds) -> Shape {
    Shape { bounds, ..ONE_SLOT }
}

pub const BROKEN: [Broken; 18] = [
    Broken {
        variant: Variant::PromiseNotPersisted,
        name: "promise_not_persisted",
        rule: "Rule 8: a silo fsyncs its promise before it answers. Here it keeps it in memory.",
        shape: one(bounds(2, 1, 0, 1)),
    },
    Broken {
        variant: Variant::VoteBeforePromise,
        name: "vote_before_promise",
        rule: "Rule 12: a silo reports (A, S) only after persisting its promise. Here it reports first, and promises \
               later.",
        shape: one(bounds(2, 1, 0, 0)),
    },
    Broken {
        variant: Variant::OldEpochAcknowledged,
        name: "old_epoch_acknowledged",
        rule: "Rule 8: after its promise a silo refuses lower epochs. Here it goes on with the stream of the one it \
               adopted.",
        shape: one(bounds(2, 1, 0, 0)),
    },
    Broken {
        variant: Variant::SeqWithoutEpoch,
        name: "seq_without_epoch",
        rule: "Rule 12: the highest (A, S) is chosen, epoch first. Here S alone is compared.",
        shape: one(bounds(3, 2, 0, 0)),
    },
    Broken {
        variant: Variant::TailRestamped,
        name: "tail_restamped",
        rule: "Rule 12: a silo is brought to the chosen history, its records keeping their stamps, and then adopts the \
               epoch in one commit. Here the tail is sent anew with stamps of the new epoch, and a silo votes with the \
               stamp of its last record.",
        shape: one(bounds(3, 2, 0, 0)),
    },
    Broken {
        variant: Variant::AdoptionNotSynced,
        name: "adoption_not_synced",
        rule: "Rule 12: a silo adopts in one fsynced commit. Here a power loss takes the adoption back.",
        shape: one(bounds(3, 1, 1, 0)),
    },
    Broken {
        variant: Variant::AdoptionBeforeItsData,
        name: "adoption_before_its_data",
        rule: "Rule 12: the data of an adopted history is synced before the commit. Here only the commit is.",
        shape: one(Bounds { tells: false, ..bounds(3, 1, 1, 0) }),
    },
    Broken {
        variant: Variant::NoAdoptionOnEmptyTail,
        name: "no_adoption_on_empty_tail",
        rule: "Rule 12: a writer serves only when a majority adopted, even if there was no tail. Here a silo that has \
               the chosen history already does not record the epoch.",
        shape: one(bounds(3, 2, 0, 0)),
    },
    Broken {
        variant: Variant::ServesBeforeMajority,
        name: "serves_before_majority",
        rule: "Rule 12: a writer serves only when a majority adopted. Here one silo is enough, as if what was chosen \
               were recorded elsewhere.",
        shape: one(bounds(3, 1, 0, 0)),
    },
    Broken {
        variant: Variant::SecondChoice,
        name: "second_choice",
        rule: "Rule 12: a writer chooses once per slot and epoch. Here a better report makes it choose again.",
        shape: one(bounds(3, 1, 0, 0)),
    },
    Broken {
        variant: Variant::DropBeforeAdoption,
        name: "drop_before_adoption",
        rule: "Rule 12: until the adopting commit a silo drops nothing and votes as before. Here it drops what is above \
               the point of comparison when it begins to catch up.",
        shape: one(bounds(3, 2, 0, 0)),
    },
    Broken {
        variant: Variant::StaleSuffixKept,
        name: "stale_suffix_kept",
        rule: "Rule 12: the adopting commit drops what the source lacks. Here the stale suffix stays.",
        shape: one(bounds(2, 1, 0, 0)),
    },
    Broken {
        variant: Variant::ComparedFromItsEnd,
        name: "compared_from_its_end",
        rule: "Rule 12: a silo with a lower A compares from its own watermark. Here it compares from its end.",
        shape: one(bounds(3, 2, 0, 0)),
    },
    Broken {
        variant: Variant::OneVoteOverTwoSlots,
        name: "one_vote_over_two_slots",
        rule: "Words: promise, (A, S) and D are per volume, slot and silo. Here a silo has one S over its slots.",
        shape: Shape { bounds: bounds(2, 2, 0, 0), ..TWO_SLOTS },
    },
    Broken {
        variant: Variant::IncompleteNotDurable,
        name: "incomplete_not_durable",
        rule: "Rule 13: a silo persists that it is incomplete before it stores anything out of prefix. Here only its \
               memory knows.",
        shape: one(bounds(2, 2, 0, 1)),
    },
    Broken {
        variant: Variant::IncompleteVotesAsItIs,
        name: "incomplete_votes_as_it_is",
        rule: "Rule 13: an incomplete silo votes with its last complete (A, S). Here it votes with what it has by now.",
        shape: one(bounds(2, 2, 0, 0)),
    },
    Broken {
        variant: Variant::DurableIsAppliedAtRestart,
        name: "durable_is_applied_at_restart",
        rule: "Rule 14: after an unclean stop the tail is written anew and synced before D covers it. Here D is set to S.",
        shape: one(Bounds { tells: false, ..bounds(2, 1, 1, 1) }),
    },
    Broken {
        variant: Variant::TornBelowReported,
        name: "torn_below_reported",
        rule: "Rule 14: a voter below the (A, D) that it once reported is damaged. Here a torn tail is taken as it is.",
        shape: one(Bounds { tears: 1, ..bounds(2, 1, 0, 0) }),
    },
];
