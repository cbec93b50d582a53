//! Time, passed in so that simulation can drive it.
//!
//! Leases count by CLOCK_BOOTTIME, which goes on while a machine sleeps and never jumps; wall time is for expiries of
//! passports and for what people read.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment on this machine's CLOCK_BOOTTIME, in nanoseconds since boot. Never sent to another machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// Now, by CLOCK_BOOTTIME.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        Self(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    /// The time from `earlier` until this moment, zero if it lies ahead.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, duration: Duration) -> Moment {
        Moment(self.0 + duration.as_nanos() as u64)
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;

    fn sub(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_sub(duration.as_nanos() as u64))
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0 / 1_000_000)
    }
}

/// Wall time in milliseconds since 1970, UTC. For tests alone, `INFINIT_TEST_CLOCK_OFFSET` shifts it by so many seconds: nothing
/// else can do that to a program that is linked statically.
pub fn wall_ms() -> u64 {
    static OFFSET_MS: OnceLock<i64> = OnceLock::new();
    let offset_ms = OFFSET_MS.get_or_init(|| {
        let seconds = std::env::var("INFINIT_TEST_CLOCK_OFFSET").ok().and_then(|text| text.parse::<i64>().ok());
        seconds.map_or(0, |seconds| seconds.saturating_mul(1000))
    });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    now.saturating_add_signed(*offset_ms)
}

/// Wall time in whole seconds since 1970, UTC.
pub fn wall_seconds() -> u64 {
    wall_ms() / 1000
}

/// RFC 3339 in UTC, from seconds since 1970. Days to civil date after Howard Hinnant's `civil_from_days`.
pub fn rfc3339(seconds: u64) -> String {
    let (days, rest) = ((seconds / 86_400) as i64, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_reads_as_rfc3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(1_795_305_600), "2026-11-22T00:00:00Z");
    }

    #[test]
    fn boot_time_advances() {
        let first = Moment::now();
        assert!(Moment::now() >= first);
        assert_eq!((first + Duration::from_secs(1)).since(first), Duration::from_secs(1));
        assert_eq!(first.since(first + Duration::from_secs(1)), Duration::ZERO);
    }
}
