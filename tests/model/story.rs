//! Traces as a reader reads them: an action a line, and what it did.

use super::actions::{Action, Model};
use super::properties::{Violation, names};
use super::search::Trace;
use super::state::{Mode, NONE, Set, State};

/// The whole trace.
pub fn tell(model: &Model, trace: &Trace) -> String {
    let mut state = State::initial(&model.shape);
    let mut lines = Vec::new();
    for (number, action) in trace.actions.iter().enumerate() {
        let Some((after, _)) = model.apply(&state, *action) else { break };
        lines.push(format!("{:3}  {}", number + 1, line(model, &state, *action, &after)));
        for effect in effects(model, &state, &after) {
            lines.push(format!("       {effect}"));
        }
        state = after;
    }
    lines.push(format!("     {}", verdict(model, &state, trace.violation)));
    lines.join("\n") + "\n"
}

/// A silo, and where there are several slots which replica of it.
fn replica_name(model: &Model, replica: usize) -> String {
    let (silo, slot) = model.shape.replicas[replica];
    format!("s{}{}", silo + 1, in_slot(model, slot))
}

fn vote(model: &Model, state: &State, replica: usize) -> String {
    let (epoch, seq) = model.vote(state, replica);
    format!("({epoch}, {seq}): {}", names(state, state.replicas[replica].complete()))
}

/// What a replica has, and how safely.
fn holds(state: &State, replica: usize) -> String {
    let replica = &state.replicas[replica];
    let unsynced = replica.history & !replica.synced;
    let synced = if unsynced == 0 { String::new() } else { format!(", not synced: {}", names(state, unsynced)) };
    format!("{}{synced}", names(state, replica.history))
}

fn line(model: &Model, before: &State, action: Action, after: &State) -> String {
    match action {
        Action::Promise { epoch, silo } => promise(model, after, epoch, silo),
        Action::Confirm { epoch, silo } => format!("s{} promises epoch {epoch}, its vote standing", silo + 1),
        Action::Choose { epoch, slot, votes } => choose(model, after, epoch, slot, votes),
        Action::Place { epoch, replica } => place(model, before, after, epoch, replica),
        Action::Transfer { replica, source, .. } => {
            let (name, source) = (replica_name(model, replica), replica_name(model, source));
            let (base, what) = (after.replicas[replica].base, names(after, after.replicas[replica].staged));
            format!("{name} is sent what {source} has above {base}: {what}")
        }
        Action::Adopt { epoch, replica } => {
            let what = names(after, after.replicas[replica].history);
            format!("{} adopts epoch {epoch}, with {what}", replica_name(model, replica))
        }
        Action::Append { epoch, replica } => {
            let what = names(after, after.replicas[replica].history & !before.replicas[replica].history);
            format!("writer {epoch} sends {what} to {}", replica_name(model, replica))
        }
        Action::FallBehind { epoch, replica } => {
            let name = replica_name(model, replica);
            format!("writer {epoch} no longer remembers what {name} lacks: it is to catch up")
        }
        Action::Write { epoch, slot } => {
            let write = after.writes[usize::from(before.written)];
            let slot = in_slot(model, slot);
            format!("writer {epoch} takes write w{}{slot}, ({}, {})", after.written, write.epoch, write.seq)
        }
        Action::Sync { silo } => format!("s{} syncs", silo + 1),
        Action::Restart { silo, .. } => format!("s{} restarts, with {}", silo + 1, held(model, after, silo)),
        Action::PowerLoss { silo, lost, unadopts, .. } => {
            let what = if unadopts { "its adoption".to_owned() } else { names(before, lost) };
            format!("s{} loses power and with it {what}; left is {}", silo + 1, held(model, after, silo))
        }
        Action::Tear { silo, lost } => {
            format!("s{}'s disk loses {}, although synced", silo + 1, names(before, lost))
        }
        Action::Cut { epoch, silo } => format!("the connection of writer {epoch} and s{} breaks", silo + 1),
    }
}

/// Which slot, where there are several.
fn in_slot(model: &Model, slot: usize) -> String {
    if model.shape.slots == 1 { String::new() } else { format!(" in slot {}", slot + 1) }
}

fn promise(model: &Model, after: &State, epoch: u8, silo: usize) -> String {
    let votes = model.replicas_of_silo(silo).map(|replica| match model.shape.slots {
        1 => vote(model, after, replica),
        _ => format!("{}{}", vote(model, after, replica), in_slot(model, model.slot_of(replica))),
    });
    let votes = votes.collect::<Vec<_>>().join(", ");
    let all_are = |mode: Mode| model.replicas_of_silo(silo).all(|replica| after.view(epoch, replica).mode == mode);
    let verb = if all_are(Mode::Asked) {
        format!("is asked for epoch {epoch}, has not promised it yet,")
    } else {
        format!("promises epoch {epoch}")
    };
    let fate = if all_are(Mode::Away) { ", which is less than it reported durable: it is out" } else { "" };
    format!("s{} {verb} and votes {votes}{fate}", silo + 1)
}

fn choose(model: &Model, after: &State, epoch: u8, slot: usize, votes: u8) -> String {
    let from = (0..model.shape.replicas.len()).filter(|replica| votes >> replica & 1 == 1);
    let from: Vec<String> = from.map(|replica| format!("s{}", model.shape.replicas[replica].0 + 1)).collect();
    let chosen = after.writer(epoch).slots[slot];
    let (votes, what) = (from.join(" and "), names(after, chosen.history));
    let slot = in_slot(model, slot);
    format!("writer {epoch} chooses ({}, {}) of {votes}{slot}: {what}", chosen.choice.0, chosen.choice.1)
}

fn held(model: &Model, state: &State, silo: usize) -> String {
    let each = model.replicas_of_silo(silo).map(|replica| match model.shape.slots {
        1 => holds(state, replica),
        _ => format!("{}{}", holds(state, replica), in_slot(model, model.slot_of(replica))),
    });
    each.collect::<Vec<_>>().join(", ")
}

fn place(model: &Model, before: &State, after: &State, epoch: u8, index: usize) -> String {
    let (name, replica) = (replica_name(model, index), &after.replicas[index]);
    if replica.is_catching_up() {
        return format!("{name} begins to catch up: compared above {}, the stream from {}", replica.base, replica.live);
    }
    let mut what = names(after, replica.history);
    let (end, applied) = (after.end_of(replica.history), model.applied(after, index));
    if end != applied {
        what = format!("{what}, but its S is {applied}");
    }
    if replica.adopted != epoch {
        return format!("{name} goes on in epoch {epoch} with {what}, its A still {}", replica.adopted);
    }
    let verb = if before.replicas[index].adopted == epoch { "goes on in" } else { "adopts" };
    format!("{name} {verb} epoch {epoch}, with {what}")
}

/// What followed at once.
fn effects(model: &Model, before: &State, after: &State) -> Vec<String> {
    let mut effects = Vec::new();
    let mut note = |set: Set, what: &str| {
        if set != 0 {
            effects.push(format!("{}: {what}", names(after, set)));
        }
    };
    let flushed = after.flushed & !before.flushed;
    let answered = after.answered & !before.answered;
    let own = flushed & (before.answered | answered);
    note(answered, "answered");
    note(own, "covered by a flush");
    note(flushed & !own, "recovered: a read shows it, and a flush covers it");
    note(after.excused & !before.excused, "on no majority any more, and never flushed: it may be lost");
    for epoch in model.epochs() {
        if after.writer(epoch).serving && !before.writer(epoch).serving {
            let of = |slot: usize| {
                format!("{}{}", names(after, after.writer(epoch).slots[slot].history), in_slot(model, slot))
            };
            let what: Vec<String> = (0..model.shape.slots).map(of).collect();
            effects.push(format!("writer {epoch} serves, with {}", what.join(", ")));
        }
    }
    let dropped = after.dropped & !before.dropped;
    if dropped != 0 {
        effects.push(format!("a read shows that {} is not there", names(after, dropped)));
    }
    effects
}

fn verdict(model: &Model, state: &State, violation: Violation) -> String {
    let history = |replica: usize| {
        let adopted = state.replicas[replica].adopted;
        format!(
            "{} has {} in epoch {adopted}",
            replica_name(model, replica),
            names(state, state.replicas[replica].complete())
        )
    };
    match violation {
        Violation::Lost { write, epoch, replica } => {
            let promise = if state.flushed >> write & 1 == 1 { "flushed" } else { "answered" };
            let place = replica_name(model, replica);
            format!("LOST: a read in epoch {epoch} at {place} lacks w{}, which was {promise}", write + 1)
        }
        Violation::CameBack { write, epoch, replica } => {
            let place = replica_name(model, replica);
            format!("CAME BACK: a read in epoch {epoch} at {place} shows w{}, which was gone", write + 1)
        }
        Violation::HistoriesDiffer { one, other } => {
            format!("TWO HISTORIES OF ONE EPOCH: {}, {}", history(one), history(other))
        }
        Violation::WatermarksLie { one, other } => {
            let mark = |replica: usize| state.replicas[replica].watermark;
            let (one_mark, other_mark) = (mark(one), mark(other));
            format!("WATERMARKS {one_mark} AND {other_mark} LIE: {}, {}", history(one), history(other))
        }
        Violation::HealthyCalledDamaged { replica } => {
            debug_assert!(state.replicas[replica].incomplete != NONE || state.replicas[replica].torn == 0);
            let (epoch, seq) = state.replicas[replica].reported;
            let vote = vote(model, state, replica);
            format!("CALLED DAMAGED: {} reported ({epoch}, {seq}) and has {vote}", replica_name(model, replica))
        }
    }
}
