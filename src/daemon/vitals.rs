//! Whether a silo answers: its worker is asked again and again, so that whoever tells how the silo stands never waits
//! for a disk himself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::clock::Moment;
use crate::cluster::replication::service::SiloHandle;
use crate::store::space::SpaceReport;

/// A silo that owes an answer, or the end of a sync, for so long is stalled. A busy disk takes a second or two.
pub const STALLED_AFTER: Duration = Duration::from_secs(5);
/// How often the worker is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What is known of a silo. Cheap to clone.
#[derive(Clone)]
pub struct Vitals {
    handle: SiloHandle,
    signs: Arc<Mutex<Signs>>,
}

/// What the worker said last.
#[derive(Clone, Debug, Default)]
struct Signs {
    space: SpaceReport,
    fault: Option<String>,
    /// Why the cluster does not take the silo.
    foreign: Option<String>,
    /// Since when it has owed an answer.
    asked: Option<Moment>,
}

/// How a silo stands now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    pub space: SpaceReport,
    pub fault: Option<String>,
    pub foreign: Option<String>,
    /// For how long the disk has owed an answer, if that is too long.
    pub stalled: Option<Duration>,
}

impl Vitals {
    /// The silo was opened just now, and answers.
    pub fn new(handle: SiloHandle) -> Self {
        let silo = handle.silo();
        let signs =
            Signs { space: silo.space(), fault: silo.faulted().map(|fault| fault.to_string()), ..Signs::default() };
        Self { handle, signs: Arc::new(Mutex::new(signs)) }
    }

    /// The cluster does not take the silo: it serves nothing from here on.
    pub fn retire(&self, why: String) {
        self.handle.retire(why.clone());
        self.signs().foreign = Some(why);
    }

    /// Asks the worker as long as it runs.
    pub async fn watch(self) {
        let mut tick = tokio::time::interval(ASK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.signs().asked = Some(Moment::now());
            let told = self.handle.inspect(|keeper| {
                let silo = keeper.silo();
                (silo.space(), silo.faulted().map(|fault| fault.to_string()))
            });
            let Some((space, fault)) = told.await else { return };
            let mut signs = self.signs();
            signs.asked = None;
            signs.space = space;
            signs.fault = fault;
        }
    }

    /// Says at once what is known.
    pub fn pulse(&self, now: Moment) -> Pulse {
        let signs = self.signs().clone();
        let owed = [signs.asked, self.handle.syncing_since()].into_iter().flatten().map(|since| now.since(since)).max();
        Pulse {
            space: signs.space,
            fault: signs.fault,
            foreign: signs.foreign,
            stalled: owed.filter(|owed| *owed >= STALLED_AFTER),
        }
    }

    fn signs(&self) -> MutexGuard<'_, Signs> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Incarnation, NodeId, SiloId};
    use crate::cluster::replication::service::SiloService;
    use crate::store::disk::{Disk, RealDisk};
    use crate::store::silo::{Silo, SiloOptions};

    #[test]
    fn a_worker_that_hangs_is_noticed_by_nobody_waiting_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()));
        Silo::format(disk.clone(), SiloId([1; 16])).unwrap();
        let silo = Silo::open(disk, SiloOptions::new(1 << 30, Incarnation(1), [7; 16])).unwrap();
        let service = SiloService::start(silo, NodeId([7; 32]), [7; 16], runtime.handle().clone()).unwrap();
        let vitals = Vitals::new(service.handle().clone());

        let (release, held) = std::sync::mpsc::channel::<()>();
        let (hangs, hanging) = std::sync::mpsc::channel();
        let hold = service.handle().clone();
        let holding = runtime.spawn(async move {
            hold.inspect(move |_| {
                hangs.send(()).unwrap();
                held.recv().unwrap();
            })
            .await
        });
        hanging.recv().unwrap();
        let watching = runtime.spawn(vitals.clone().watch());
        while vitals.signs().asked.is_none() {
            std::thread::yield_now();
        }
        let now = Moment::now();
        assert_eq!(vitals.pulse(now).stalled, None);
        let later = now + STALLED_AFTER * 2;
        assert!(vitals.pulse(later).stalled.is_some_and(|owed| owed >= STALLED_AFTER * 2));

        release.send(()).unwrap();
        assert_eq!(runtime.block_on(holding).unwrap(), Some(()));
        while vitals.pulse(later).stalled.is_some() {
            std::thread::yield_now();
        }
        vitals.retire("it is another".to_owned());
        assert_eq!(vitals.pulse(later).foreign.as_deref(), Some("it is another"));
        service.stop().unwrap();
        runtime.block_on(watching).unwrap();
    }
}
