//! Whether a member is up, from its signs of life: pure, the times are passed in.
//!
//! A member is unknown until its first ping was answered or has failed; a failure counts only a second after the first
//! try, because members that have just joined, or restart together, are reached after a few. It is up while it is heard,
//! and down once it was not heard for some seconds, or at once if it said good-bye. A good-bye names the run of the
//! daemon that says it: later signs of that run were on their way already and change nothing.

use std::time::Duration;

use crate::base::clock::Moment;
use crate::daemon::peers::SignOfLife;

/// A member not heard for so long is down.
pub const DOWN_AFTER: Duration = Duration::from_secs(3);
/// So long it is tried before a failure counts.
const FAILED_AFTER: Duration = Duration::from_secs(1);
/// A member that was heard is asked for a sign of life again after so long; others more often.
const HEARD_FOR: Duration = Duration::from_millis(750);
/// A member whose first ping has neither been answered nor failed by then is down.
pub const UNKNOWN_AT_MOST: Duration = Duration::from_secs(3);

/// What was heard of one member.
#[derive(Clone, Debug)]
pub struct Track {
    /// When it was first asked for.
    since: Moment,
    heard: Option<Heard>,
    /// When the first ping failed, by the wall clock.
    failed: Option<u64>,
    /// The run that said good-bye, and when.
    left: Option<(u64, u64)>,
}

/// The last sign of life.
#[derive(Clone, Debug)]
struct Heard {
    at: Moment,
    wall: u64,
    /// Since when it has been heard without a break.
    up_since: u64,
    life: SignOfLife,
}

/// How a member stands; since when, in seconds since 1970, if that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Unknown,
    Up { since: u64, life: SignOfLife },
    Down { since: Option<u64> },
}

impl Track {
    pub fn new(now: Moment) -> Self {
        Self { since: now, heard: None, failed: None, left: None }
    }

    /// A ping was answered.
    pub fn answered(&mut self, now: Moment, wall: u64, life: SignOfLife) {
        if self.left.is_some_and(|(run, _)| run == life.run) {
            return;
        }
        let unbroken = self.heard.as_ref().filter(|heard| self.left.is_none() && now.since(heard.at) < DOWN_AFTER);
        let up_since = unbroken.map_or(wall, |heard| heard.up_since);
        self.left = None;
        self.heard = Some(Heard { at: now, wall, up_since, life });
    }

    /// Whether it is to be asked for a sign of life.
    pub fn is_due(&self, now: Moment) -> bool {
        self.left.is_some() || self.heard.as_ref().is_none_or(|heard| now.since(heard.at) >= HEARD_FOR)
    }

    /// A ping failed.
    pub fn failed(&mut self, wall: u64) {
        self.failed.get_or_insert(wall);
    }

    /// The member said that it stops.
    pub fn said_goodbye(&mut self, wall: u64, run: u64) {
        self.left = Some((run, wall));
    }

    /// Whether the last thing it said was good-bye.
    pub fn has_left(&self) -> bool {
        self.left.is_some()
    }

    pub fn standing(&self, now: Moment) -> Standing {
        if let Some((_, wall)) = self.left {
            return Standing::Down { since: Some(wall) };
        }
        match (&self.heard, self.failed) {
            (Some(heard), _) if now.since(heard.at) < DOWN_AFTER => {
                Standing::Up { since: heard.up_since, life: heard.life.clone() }
            }
            (Some(heard), _) => Standing::Down { since: Some(heard.wall + DOWN_AFTER.as_secs()) },
            (None, Some(_)) if now.since(self.since) < FAILED_AFTER => Standing::Unknown,
            (None, Some(failed)) => Standing::Down { since: Some(failed) },
            (None, None) if now.since(self.since) < UNKNOWN_AT_MOST => Standing::Unknown,
            (None, None) => Standing::Down { since: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::default() + Duration::from_millis(ms)
    }

    fn life(run: u64) -> SignOfLife {
        SignOfLife { run, ..SignOfLife::default() }
    }

    fn up(since: u64, run: u64) -> Standing {
        Standing::Up { since, life: life(run) }
    }

    #[test]
    fn a_member_is_unknown_until_its_first_ping_has_ended() {
        let mut track = Track::new(at(0));
        assert_eq!(track.standing(at(2999)), Standing::Unknown);
        assert_eq!(track.standing(at(3000)), Standing::Down { since: None });
        track.failed(100);
        assert_eq!(track.standing(at(999)), Standing::Unknown);
        assert_eq!(track.standing(at(1000)), Standing::Down { since: Some(100) });
        track.answered(at(1500), 101, life(1));
        assert_eq!(track.standing(at(1600)), up(101, 1));
    }

    #[test]
    fn a_member_is_up_as_long_as_it_is_heard() {
        let mut track = Track::new(at(0));
        track.answered(at(0), 100, life(1));
        track.answered(at(2000), 102, life(1));
        track.failed(103);
        assert_eq!(track.standing(at(4999)), up(100, 1));
        assert_eq!(track.standing(at(5000)), Standing::Down { since: Some(105) });
        track.answered(at(9000), 109, life(1));
        assert_eq!(track.standing(at(9000)), up(109, 1));
    }

    #[test]
    fn who_is_heard_is_asked_less_often() {
        let mut track = Track::new(at(0));
        assert!(track.is_due(at(0)));
        track.answered(at(0), 100, life(1));
        assert!(!track.is_due(at(500)) && track.is_due(at(1000)));
        track.answered(at(1000), 101, life(1));
        assert!(!track.is_due(at(1500)));
        track.said_goodbye(101, 1);
        assert!(track.is_due(at(1500)), "its next run is awaited");
    }

    #[test]
    fn a_goodbye_counts_at_once_and_until_the_next_run() {
        let mut track = Track::new(at(0));
        track.answered(at(0), 100, life(1));
        track.said_goodbye(101, 1);
        track.answered(at(1000), 101, life(1));
        assert_eq!(track.standing(at(1000)), Standing::Down { since: Some(101) });
        track.answered(at(1500), 102, life(2));
        assert_eq!(track.standing(at(1500)), up(102, 2));
    }
}
