//! Silos that fill, by their capacity and by the end of the disk: clients are told "no space" and nothing else, everything
//! answered is there, the status says which silo and how much, and it all goes on by itself once there is room.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use infinit::daemon::api::{Node, NodeState, Silo, SiloState, VolumeState, VolumeStatus};
use rustix::fs::FallocateFlags;
use serde::Deserialize;

use crate::e2e::acceptance;
use crate::e2e::cluster::{Cluster, PATIENCE, eventually};
use crate::e2e::disks::LoopDisk;
use crate::tools::{python, run, run_to_fail, tool};

const MIB: u64 = 1 << 20;
const IMAGE_BYTES: u64 = 64 * MIB;
/// What fio writes.
const FIO_BYTES: u64 = 256 * MIB;
/// `ENOSPC`, as `full.py` exits with it.
const NO_SPACE: i32 = 28;
/// The longest that a client may wait for any answer: a silo that is full is asked again after a second or three.
const ANSWER_SECONDS_MAX: f64 = 10.0;
/// How soon writes are taken again once there is room.
const AGAIN_MAX: Duration = Duration::from_secs(20);

/// What `full.py` did.
#[derive(Debug, Deserialize)]
struct Done {
    /// Bytes of the chunks that are there now.
    bytes: u64,
    longest_seconds: f64,
    #[serde(default)]
    taken: u64,
    #[serde(default)]
    refused: u64,
    #[serde(default)]
    trimmed: u64,
    #[serde(default)]
    verified: u64,
}

/// A volume, and the account that a client keeps of what was answered there.
struct Volume {
    name: &'static str,
    account: PathBuf,
}

impl Volume {
    /// Makes it and attaches it to the first node.
    fn create(cluster: &Cluster, name: &'static str, size: &str) -> Volume {
        cluster.run(0, &["volume", "create", name, "--size", size]);
        cluster.attach(0, name);
        cluster.until_volume(0, name, VolumeState::Healthy);
        Volume { name, account: cluster.folder.path().join(format!("{name}.json")) }
    }

    fn uri(&self, cluster: &Cluster, node: usize) -> String {
        format!("nbd+unix:///{}?socket={}", self.name, cluster.socket(node, self.name).display())
    }

    fn command(&self, cluster: &Cluster, node: usize, what: &str, rest: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/full.py");
        let mut command = python("python3-libnbd");
        command.arg(script).arg(what).arg(self.uri(cluster, node)).arg(&self.account).args(rest);
        command
    }

    fn ask(&self, cluster: &Cluster, node: usize, what: &str, rest: &[&str]) -> Done {
        let done: Done = serde_json::from_str(&run(&mut self.command(cluster, node, what, rest))).unwrap();
        assert!(done.longest_seconds < ANSWER_SECONDS_MAX, "{what}: {done:?}");
        done
    }

    /// Writes until there is no space, and says how much is there.
    fn fill(&self, cluster: &Cluster) -> Done {
        let done = self.ask(cluster, 0, "fill", &[]);
        assert!(done.refused > 0, "the volume is written to its end: {done:?}");
        done
    }

    /// Writes so many MiB, of which nothing may be refused.
    fn write(&self, cluster: &Cluster, mib: u64) {
        let chunks = mib * 16;
        let done = self.ask(cluster, 0, "fill", &[&chunks.to_string()]);
        assert!(done.refused == 0 && done.taken == chunks, "{done:?}");
    }

    fn trim_half(&self, cluster: &Cluster) {
        let done = self.ask(cluster, 0, "trim", &["2"]);
        assert!(done.trimmed > 0, "{done:?}");
    }

    fn verify(&self, cluster: &Cluster, node: usize) {
        let done = self.ask(cluster, node, "verify", &[]);
        assert!(done.verified > 0, "{done:?}");
    }

    /// The copy of another node is whole: what is read there is read from it.
    fn verify_copy(&self, cluster: &Cluster, node: usize) {
        cluster.until_volume(node, self.name, VolumeState::Healthy);
        cluster.run(node, &["volume", "attach", self.name, "--takeover"]);
        self.verify(cluster, node);
    }

    /// Returns once a write is taken, and says how long that took.
    fn until_taken(&self, cluster: &Cluster, since: &str) -> Duration {
        let begun = Instant::now();
        let taken = || {
            let output = self.command(cluster, 0, "put", &[]).output().unwrap();
            let refused = output.status.code() == Some(NO_SPACE);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(refused || output.status.success(), "{}: {said}", output.status);
            !refused
        };
        assert!(eventually(AGAIN_MAX, taken), "{since}, and writes are refused still: {:#?}", cluster.status(0).nodes);
        begun.elapsed()
    }
}

/// The silo of a node, as this node tells of it.
fn silo(cluster: &Cluster, node: usize) -> Silo {
    let own = cluster.status(node).nodes.into_iter().find(|told| told.this);
    own.unwrap().silos.remove(0)
}

fn is_full(silo: &Silo) -> bool {
    silo.space.is_some_and(|space| space.full)
}

/// The nodes whose silos are full.
fn full_nodes(cluster: &Cluster) -> Vec<usize> {
    (0..3).filter(|node| is_full(&silo(cluster, *node))).collect()
}

/// What a volume that refuses writes needs: what a third silo has room for depends on how its disk was filled.
fn most(full: &[usize]) -> bool {
    full.len() >= 2
}

/// The same where one that was full may have come free by its own cleaning since a write was refused.
fn some(full: &[usize]) -> bool {
    !full.is_empty()
}

/// For scripts and for people, sooner or later, on every node: which silos are full, how much is missing, and that nothing
/// else is wrong. `expected` says whether these nodes' silos are the right ones.
fn assert_told(cluster: &Cluster, expected: impl Fn(&[usize]) -> bool) {
    let (mut full, mut last) = (Vec::new(), None);
    let is_told = || {
        full = full_nodes(cluster);
        let ids: Vec<_> = full.iter().map(|node| silo(cluster, *node).id).collect();
        let all = [0, 1, 2].map(|node| cluster.status(node));
        let agreed = all.iter().all(|status| {
            let mut silos = status.nodes.iter().flat_map(|node| &node.silos);
            silos.all(|silo| silo.state == SiloState::Up && is_full(silo) == ids.contains(&silo.id))
        });
        let status = &all[1];
        let well = status.nodes.iter().all(|node| node.state == NodeState::Up);
        let warned = status.warnings.len() == full.len()
            && ids.iter().all(|id| {
                let of_it = |message: &str| message.contains(&id.short()) && message.contains("full");
                status.warnings.iter().any(|warning| of_it(&warning.message) && warning.hint.is_some())
            });
        last = Some(all);
        expected(&full) && agreed && well && warned
    };
    assert!(eventually(PATIENCE, is_told), "{full:?} are full: {last:#?}");
    let table = cluster.run(1, &["status"]);
    for node in full {
        let told = silo(cluster, node);
        let space = told.space.unwrap();
        assert!(space.missing_bytes > 0, "{told:#?}");
        assert!(told.used_bytes.unwrap() <= told.capacity_bytes, "{told:#?}");
        assert!(table.contains(&format!("silo {}", told.id.short())), "{table}");
        let shown: Node = cluster.ask(node, &["node", "show"]);
        assert!(is_full(&shown.silos[0]), "{shown:#?}");
        let table = cluster.run(node, &["node", "show"]);
        assert!(table.contains("full") && table.contains("takes no new writes until"), "{table}");
    }
}

/// Bytes that the files of a node's silo take on its disk.
fn taken_on_disk(cluster: &Cluster, node: usize) -> u64 {
    let files = fs::read_dir(cluster.home(node).join("silo")).unwrap();
    // A segment may be removed in between.
    files.filter_map(|file| file.unwrap().metadata().ok()).map(|file| file.blocks() * 512).sum()
}

/// Three nodes, each with a silo in its home that takes so many MiB.
fn cluster_of(mib: [u64; 3]) -> Cluster {
    let mut cluster = Cluster::bare(3);
    let named = |node: usize| silo_of(&cluster, node, mib[node]);
    let names: Vec<String> = (0..3).map(named).collect();
    cluster.found(&names);
    cluster
}

fn silo_of(cluster: &Cluster, node: usize, mib: u64) -> String {
    format!("{}:{mib}MiB", cluster.home(node).join("silo").display())
}

#[test]
fn silos_filled_to_their_capacity_lose_nothing_and_go_on_once_there_is_room() {
    let mib = if acceptance() { 2048 } else { 384 };
    let mut cluster = cluster_of([mib; 3]);
    let pg = Volume::create(&cluster, "pg", "8GiB");
    let other = Volume::create(&cluster, "other", "1GiB");
    let image = image(&cluster);
    run(nbdcopy().arg("--flush").arg(&image).arg(other.uri(&cluster, 0)));

    let filled = pg.fill(&cluster);
    eprintln!("{filled:?} of {mib} MiB: {:?}", silo(&cluster, 1).space);
    assert_told(&cluster, most);
    for node in 0..3 {
        let taken = taken_on_disk(&cluster, node);
        assert!(taken <= mib * MIB, "the silo of node {node} takes {taken} bytes on its disk");
    }
    let status: VolumeStatus = cluster.ask(1, &["volume", "status", "pg"]);
    assert!(status.volume.reason.as_ref().is_some_and(|reason| reason.contains("full")), "{status:#?}");
    // Programs that know nothing of all this are told by the error that they know.
    let refused = run_to_fail(nbdcopy().arg(&image).arg(other.uri(&cluster, 0)));
    assert!(refused.contains("No space left on device"), "{refused}");
    pg.verify(&cluster, 0);

    killed_while_full(&mut cluster, &pg);
    trimmed_while_full(&cluster, &pg, &filled);
    deleted_while_full(&cluster, &pg, &other, &image);
    for node in [1, 2] {
        pg.verify_copy(&cluster, node);
    }
}

/// Nothing is lost if everything is killed in this very state, and the state lasts.
fn killed_while_full(cluster: &mut Cluster, pg: &Volume) {
    cluster.kill(&[0, 1, 2]);
    (0..3).for_each(|node| cluster.start(node));
    (0..3).for_each(|node| cluster.wait(node));
    for volume in ["pg", "other"] {
        cluster.until_volume(0, volume, VolumeState::Healthy);
    }
    pg.verify(cluster, 0);
    assert_told(cluster, most);
}

/// Trimmed data makes room, which is taken again.
fn trimmed_while_full(cluster: &Cluster, pg: &Volume, filled: &Done) {
    pg.trim_half(cluster);
    let after = pg.until_taken(cluster, "half of the volume was trimmed");
    pg.verify(cluster, 0);
    cluster.until(2, "no silo is full", |status| status.warnings.is_empty());
    let again = pg.fill(cluster);
    eprintln!("writes were taken again {after:?} after the trim, then {again:?}");
    // Not quite as much as before: what is left of segments that are nearly full is not worth copying.
    assert!(again.bytes > filled.bytes * 8 / 10, "{filled:?} before, {again:?}");
    pg.verify(cluster, 0);
    assert_told(cluster, most);
}

/// So does another volume that is deleted; until then it is as it was.
fn deleted_while_full(cluster: &Cluster, pg: &Volume, other: &Volume, image: &Path) {
    let copy = cluster.folder.path().join("copy");
    run(nbdcopy().arg(other.uri(cluster, 0)).arg(&copy));
    let (expected, mut found) = (fs::read(image).unwrap(), vec![0; IMAGE_BYTES as usize]);
    File::open(&copy).unwrap().read_exact(&mut found).unwrap();
    assert!(expected == found, "the other volume has changed");
    fs::remove_file(copy).unwrap();
    cluster.run(0, &["volume", "detach", other.name]);
    cluster.run(2, &["volume", "delete", other.name, "--yes"]);
    let after = pg.until_taken(cluster, "another volume was deleted");
    eprintln!("writes were taken again {after:?} after the other volume was deleted");
    pg.write(cluster, 32);
    pg.verify(cluster, 0);
}

fn nbdcopy() -> Command {
    tool("nbdcopy", "libnbd-bin")
}

/// A file of noise.
fn image(cluster: &Cluster) -> PathBuf {
    let path = cluster.folder.path().join("image");
    let mut noise = File::open("/dev/urandom").unwrap().take(IMAGE_BYTES);
    std::io::copy(&mut noise, &mut File::create(&path).unwrap()).unwrap();
    path
}

#[test]
fn a_volume_goes_on_without_its_one_full_silo_which_catches_up_once_there_is_room() {
    let mut cluster = cluster_of([768, 768, 192]);
    let pg = Volume::create(&cluster, "pg", "2GiB");
    // More than the small silo has room for, and more than the writer remembers for it.
    pg.write(&cluster, 288);
    assert_told(&cluster, |full| full == [2]);
    cluster.until_volume(1, pg.name, VolumeState::Degraded);
    pg.write(&cluster, 16);
    pg.verify(&cluster, 0);
    // It is told to take more.
    cluster.stop(2);
    let larger = silo_of(&cluster, 2, 768);
    cluster.start_with(2, &["--silo", &larger]);
    cluster.wait(2);
    let took = cluster.until_volume(2, pg.name, VolumeState::Healthy);
    eprintln!("the copy had caught up {took:?} after its silo had room");
    assert_told(&cluster, <[usize]>::is_empty);
    pg.verify_copy(&cluster, 2);
}

/// Somebody else's file takes all that a disk has left.
fn take_the_rest(disk: &LoopDisk) -> PathBuf {
    let path = disk.path().join("foreign");
    let file = File::create(&path).unwrap();
    let stat = rustix::fs::statvfs(disk.path()).unwrap();
    let mut bytes = stat.f_bavail * stat.f_frsize;
    // The file system takes a little for itself, and the silo may be faster.
    while rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes).is_err() {
        bytes = bytes.checked_sub(MIB / 4).expect("a disk on which nothing is left is no surprise to anybody");
    }
    path
}

#[test]
fn disks_that_somebody_else_fills_are_full_silos_until_they_are_freed() {
    let disks = [0; 3].map(|_| LoopDisk::new(512 * MIB));
    let cluster = Cluster::with_silos(&disks.each_ref().map(|disk| disk.path().join("silo").display().to_string()));
    let pg = Volume::create(&cluster, "pg", "2GiB");
    pg.write(&cluster, 32);
    // One of three: nobody who writes is the wiser.
    let foreign = take_the_rest(&disks[2]);
    pg.write(&cluster, 96);
    assert_told(&cluster, |full| full == [2]);
    fs::remove_file(foreign).unwrap();
    cluster.until_volume(1, pg.name, VolumeState::Healthy);
    assert_told(&cluster, <[usize]>::is_empty);
    // All of them.
    let foreign = disks.each_ref().map(take_the_rest);
    let filled = pg.fill(&cluster);
    assert_told(&cluster, some);
    pg.verify(&cluster, 0);
    foreign.iter().for_each(|path| fs::remove_file(path).unwrap());
    let after = pg.until_taken(&cluster, "the disks were freed");
    eprintln!("{filled:?}; writes were taken again {after:?} after the disks were freed");
    // The disks' own end, reached by the volume itself.
    let filled = pg.fill(&cluster);
    eprintln!("{filled:?} on disks of 512 MiB");
    assert_told(&cluster, some);
    pg.verify(&cluster, 0);
    pg.trim_half(&cluster);
    pg.until_taken(&cluster, "half of the volume was trimmed");
    pg.verify(&cluster, 0);
    // Its files lie on the disks.
    drop(cluster);
}

#[test]
fn trimmed_space_returns_to_the_file_system() {
    let cluster = Cluster::new(3);
    let pg = Volume::create(&cluster, "pg", "1GiB");
    let taken = || [0, 1, 2].map(|node| taken_on_disk(&cluster, node));
    let fio = |what: &str| {
        let mut fio = tool("fio", "fio");
        fio.args(["--name=full", "--ioengine=nbd", "--rw=randwrite", "--bs=64k", "--iodepth=16", "--size=256m"]);
        fio.args(["--verify=crc32c", "--verify_state_save=0", "--end_fsync=1", "--thread", what]);
        run(fio.arg(format!("--uri={}", pg.uri(&cluster, 0))));
    };
    let before = taken();
    fio("--do_verify=1");
    let full = taken();
    assert!(full.iter().all(|bytes| *bytes >= FIO_BYTES), "{full:?}");
    fio("--verify_only");
    // As fstrim does it.
    let mut nbdsh = python("python3-libnbd");
    nbdsh.args(["-m", "nbd", "--uri", &pg.uri(&cluster, 0), "-c", "h.trim(1 << 30, 0)", "-c", "h.flush()"]);
    run(&mut nbdsh);
    let begun = Instant::now();
    // A segment of 64 MiB is kept for cleaning to copy to, and another may have been begun.
    let gone = || taken().iter().zip(before).all(|(now, before)| *now < before + FIO_BYTES * 5 / 8);
    let returned = eventually(PATIENCE, gone);
    eprintln!("on the disks: {before:?} empty, {full:?} written, {:?} {:?} after the trim", taken(), begun.elapsed());
    assert!(returned, "the space does not return");
}
