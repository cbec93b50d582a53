//! The judge: there is one history, and every member goes through it; what clients were answered is in it, once, and in
//! an order that agrees with time.
//!
//! The history is what state machines were overheard to apply. Whoever applies an entry first adds it; everybody else
//! must apply the same there, also after a restart, and must show the same state after as many entries. A second
//! [`ClusterState`], driven by nothing but the commands in their order, says what each must have answered: so a command
//! that is carried out twice, or not at all, is seen at once.
//!
//! An answer must be the one that the history holds, and later in it than all that was answered before the question was
//! asked. A read must show a state that includes all of that. A question without an answer promises nothing; its command
//! may be in the history, once.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use infinit::base::id::{Epoch, VolumeId};
use infinit::cluster::consensus::ProposeError;
use infinit::cluster::consensus::runtime::simulated::Overheard;
use infinit::cluster::state::ClusterState;
use infinit::cluster::state::command::{Command, Outcome};
use infinit::cluster::state::refusal::Refusal;

type Answer = Result<Outcome, Refusal>;

/// What the log holds at one place.
struct Entry {
    term: u64,
    /// `None` for the group's own.
    decided: Option<(Command, Answer)>,
}

pub struct History {
    entries: Vec<Entry>,
    /// The state after so many entries, as a number.
    states: Vec<u64>,
    model: ClusterState,
    granted: BTreeMap<(VolumeId, Epoch), u64>,
    /// So many entries were answered or read by somebody.
    known: usize,
}

impl Default for History {
    fn default() -> Self {
        let model = ClusterState::default();
        let states = vec![digest(&model)];
        History { entries: Vec::new(), states, model, granted: BTreeMap::new(), known: 0 }
    }
}

fn digest(state: &ClusterState) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.encode().hash(&mut hasher);
    hasher.finish()
}

impl History {
    /// How much a question that is asked now must see.
    pub fn known(&self) -> usize {
        self.known
    }

    pub fn overhear(&mut self, event: &Overheard) -> Result<(), String> {
        match event {
            Overheard::Applied { index, term, decided } => self.applied(*index as usize, *term, decided.as_deref()),
            Overheard::Published { entries, state } => {
                let entries = *entries as usize;
                let found = digest(state);
                match self.states.get(entries) {
                    Some(expected) if *expected == found => Ok(()),
                    Some(_) => Err(format!("after {entries} entries its state is not the others'")),
                    None => Err(format!("it claims to have {entries} entries, and nobody has applied so many")),
                }
            }
        }
    }

    fn applied(&mut self, index: usize, term: u64, decided: Option<&(Command, Answer)>) -> Result<(), String> {
        if let Some(known) = self.entries.get(index) {
            if known.term != term || known.decided.as_ref() != decided {
                let (was, is) = (shown(known.decided.as_ref()), shown(decided));
                return Err(format!("entry {index} was {was} of term {}, and now is {is} of term {term}", known.term));
            }
            return Ok(());
        }
        if index != self.entries.len() {
            return Err(format!("it applies entry {index}, and nobody has applied entry {}", self.entries.len()));
        }
        if let Some((command, answer)) = decided {
            self.judge(index, command, answer)?;
        }
        self.entries.push(Entry { term, decided: decided.cloned() });
        self.states.push(digest(&self.model));
        Ok(())
    }

    /// A new entry's answer must be the model's, or the first one again.
    fn judge(&mut self, index: usize, command: &Command, answer: &Answer) -> Result<(), String> {
        // Its proposer has given up or has its answer: it is not carried out, now or ever.
        if *answer == Err(Refusal::Superseded) {
            return Ok(());
        }
        if let Some((first, _, earlier)) = self.find(command) {
            if answer == earlier {
                return Ok(());
            }
            return Err(format!("entry {index} repeats entry {first}, {command}: {earlier:?}, and now {answer:?}"));
        }
        let expected = self.model.apply(command.clone());
        if *answer != expected {
            return Err(format!("entry {index}, {command}, was answered {answer:?} instead of {expected:?}"));
        }
        if let (Command::Attach { volume, .. }, Ok(Outcome::Granted { epoch })) = (command, answer) {
            let before = self.granted.insert((*volume, *epoch), index as u64);
            if let Some(before) = before {
                return Err(format!("entries {before} and {index} grant {epoch} of the same volume"));
            }
        }
        Ok(())
    }

    /// The first entry with a command that was carried out.
    fn find(&self, command: &Command) -> Option<(usize, &Command, &Answer)> {
        let decided = self.entries.iter().enumerate().filter_map(|(index, entry)| {
            let (command, answer) = entry.decided.as_ref()?;
            Some((index, command, answer))
        });
        let carried_out = |answer: &Answer| *answer != Err(Refusal::Superseded);
        let mut same = decided.filter(|(_, known, answer)| *known == command && carried_out(answer));
        same.next()
    }

    /// A client was answered, who asked when so much was known.
    pub fn answered(
        &mut self,
        since: usize,
        command: &Command,
        answer: &Result<Outcome, ProposeError>,
    ) -> Result<(), String> {
        let answer: Answer = match answer {
            Ok(outcome) => Ok(outcome.clone()),
            Err(ProposeError::Refused(refusal)) => Err(refusal.clone()),
            Err(ProposeError::NoQuorum | ProposeError::TimedOut | ProposeError::Stopped) => return Ok(()),
            Err(ProposeError::TooLarge) => return Err(format!("{command} is not large")),
        };
        let Some((index, _, decided)) = self.find(command) else {
            return Err(format!("{command} was answered {answer:?}, and nobody has applied it"));
        };
        if *decided != answer {
            return Err(format!("{command}, entry {index}, was answered {answer:?} instead of {decided:?}"));
        }
        if index < since {
            return Err(format!("{command} is entry {index}, and {since} were known before it was proposed"));
        }
        self.known = self.known.max(index + 1);
        Ok(())
    }

    /// A client read this state, who asked when so much was known.
    pub fn read(&mut self, since: usize, state: &ClusterState) -> Result<(), String> {
        let found = digest(state);
        let Some(entries) = (since..self.states.len()).find(|entries| self.states[*entries] == found) else {
            let older = self.states.iter().rposition(|state| *state == found);
            return Err(format!("a read shows {older:?} entries, and {since} were known before"));
        };
        self.known = self.known.max(entries);
        Ok(())
    }

    /// Whether a command has been carried out in this state.
    pub fn shows(&self, state: &ClusterState, command: &Command) -> bool {
        let found = digest(state);
        self.find(command).is_some_and(|(index, ..)| self.states[index + 1..].contains(&found))
    }

    /// Whether this is the state after all entries.
    pub fn is_newest(&self, state: &ClusterState) -> bool {
        self.states.last() == Some(&digest(state))
    }
}

fn shown(decided: Option<&(Command, Answer)>) -> String {
    decided.map_or("the group's own".to_owned(), |(command, answer)| format!("{command} ({answer:?})"))
}
