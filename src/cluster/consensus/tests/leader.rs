//! A leader dies and another takes its place, in time: the product's own timing.
//!
//! `INFINIT_LEADER_KILLS` sets how many leaders die (20 unless set; 200 to accept a change of the timing).

use std::time::Instant;

use super::*;

/// Half of the leaders die with their process, so that nobody listens where they were; the others are cut off, so that
/// calls to them hang.
#[derive(Clone, Copy)]
enum Death {
    Process,
    PowerLoss,
    Isolation,
}

const DEATHS: [Death; 4] = [Death::Process, Death::Isolation, Death::PowerLoss, Death::Isolation];

/// Kills the leader and returns how long it was until a survivor led with a majority.
async fn succession(cluster: &mut Cluster, death: Death) -> Duration {
    let old = cluster.leader(&[0, 1, 2]).await;
    // Not always at the same moment between two heartbeats.
    let moment = Duration::from_millis(rand::rng().random_range(0..300));
    tokio::time::sleep(moment).await;
    let killed = Instant::now();
    match death {
        Death::Process => cluster.kill(old, false),
        Death::PowerLoss => cluster.kill(old, true),
        Death::Isolation => cluster.net.isolate(node(old), 3, true),
    }
    let survivors: Vec<_> = (0..3).filter(|index| *index != old).collect();
    let leads = |index: usize| {
        let cluster = &*cluster;
        async move { cluster.settled(index, |status| status.leader == Some(node(index))).await }
    };
    let (a, b) = (Box::pin(leads(survivors[0])), Box::pin(leads(survivors[1])));
    futures::future::select(a, b).await;
    let took = killed.elapsed();
    match death {
        Death::Process | Death::PowerLoss => cluster.start(old).await,
        Death::Isolation => cluster.net.isolate(node(old), 3, false),
    }
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_is_there_within_three_seconds() {
    let wanted: usize = match std::env::var("INFINIT_LEADER_KILLS") {
        Ok(count) => count.parse().unwrap(),
        Err(_) => 20,
    };
    let clusters = wanted.min(10);
    let runs = (0..clusters).map(|run| async move {
        let mut cluster = Cluster::new(3, Tuning::default()).await;
        let mut times = Vec::new();
        for kill in 0..(wanted + clusters - 1 - run) / clusters {
            times.push(succession(&mut cluster, DEATHS[(run + kill) % 4]).await);
        }
        times
    });
    let runs: Vec<_> = runs.map(tokio::spawn).collect();
    let mut times = Vec::new();
    for run in runs {
        times.extend(run.await.unwrap());
    }
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!(
        "{} leaders died: shortest {:?}, median {:?}, 90 % {:?}, 99 % {:?}, longest {:?}",
        times.len(),
        times[0],
        at(50),
        at(90),
        at(99),
        times[times.len() - 1]
    );
    assert_eq!(times.len(), wanted);
    let late = times.iter().filter(|time| **time > Duration::from_secs(3)).count();
    assert!(late * 100 <= times.len(), "{late} of {} took longer than 3 s", times.len());
    assert!(*times.last().unwrap() <= Duration::from_secs(6));
}

#[tokio::test]
async fn a_leader_that_stops_hands_over_first() {
    let mut cluster = Cluster::new(3, Tuning::default()).await;
    let old = cluster.leader(&[0, 1, 2]).await;
    let started = Instant::now();
    cluster.group(old).hand_over().await;
    let heir = (0..3).find(|index| cluster.group(*index).status().leader == Some(node(*index)));
    let next = match heir {
        Some(heir) => heir,
        None => cluster.leader(&[0, 1, 2]).await,
    };
    assert_ne!(next, old);
    // Faster than any election that waits for a silent leader's lease to run out.
    assert!(started.elapsed() < Duration::from_millis(1_000), "{:?}", started.elapsed());
    cluster.kill(old, false);
    cluster.group(next).propose(create_volume("v", VOLUME, 3), LONG).await.unwrap();
}

#[tokio::test]
async fn a_member_that_was_cut_off_does_not_depose_the_leader() {
    let cluster = Cluster::new(3, QUICK).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let other = (leader + 1) % 3;
    cluster.net.isolate(node(other), 3, true);
    let lost = cluster.settled(other, |status| !status.has_quorum).await;
    let term = cluster.group(leader).status().term;
    // Long enough for several elections that it cannot win.
    tokio::time::sleep(5 * QUICK.stale()).await;
    cluster.net.isolate(node(other), 3, false);
    let back = cluster.settled(other, |status| status.has_quorum).await;
    assert_eq!(back.leader, Some(node(leader)));
    assert_eq!((lost.leader, back.term), (None, term));
}
