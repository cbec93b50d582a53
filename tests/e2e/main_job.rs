//! The main job: three homes by hand, a replicated volume, and the clients that people have.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::e2e::acceptance;
use crate::e2e::cluster::{Cluster, PATIENCE, eventually};
use crate::tools::{run, tool};

const MIB: usize = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Noise with a stretch of zeroes, as images have.
fn image(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut image = Vec::with_capacity(bytes + 8);
    while image.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        image.extend(state.to_le_bytes());
    }
    image.truncate(bytes);
    image[bytes / 4..bytes / 2].fill(0);
    image
}

#[test]
fn three_homes_by_hand_serve_the_clients_that_people_have() {
    let cluster = Cluster::new(3);
    let bytes = if acceptance() { 512 * MIB } else { 64 * MIB };
    cluster.run(1, &["volume", "create", "pg", "--size", "1GiB"]);
    let uri = cluster.run(0, &["volume", "attach", "pg"]).trim().to_owned();
    assert_eq!(uri, format!("nbd+unix:///pg?socket={}", text(&cluster.socket(0, "pg"))));
    told(&uri);
    copied_in_and_out(&cluster, &uri, bytes);
    converted(&cluster, &uri);
    with_a_file_system(&cluster, &uri);
    cluster.run(0, &["volume", "detach", "pg"]);
    assert!(!cluster.socket(0, "pg").exists());
    cluster.run(2, &["volume", "delete", "pg", "--yes"]);
    cluster.refused(1, &["volume", "status", "pg"]).expect(3, &["pg"]);
}

fn told(uri: &str) {
    let list = run(tool("nbdinfo", "libnbd-bin").args(["--list", "--json", uri]));
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["exports"][0]["export-name"], "pg", "{list}");
    assert_eq!(list["exports"][0]["export-size"], 1 << 30, "{list}");
    for feature in ["flush", "fua", "trim", "zero", "multi-conn", "cache", "df"] {
        run(tool("nbdinfo", "libnbd-bin").args(["--can", feature, uri]));
    }
}

fn copied_in_and_out(cluster: &Cluster, uri: &str, bytes: usize) {
    let (before, after) = (cluster.folder.path().join("before"), cluster.folder.path().join("after"));
    let image = image(bytes);
    std::fs::write(&before, &image).unwrap();
    run(tool("nbdcopy", "libnbd-bin").args(["--flush", text(&before), uri]));
    run(tool("nbdcopy", "libnbd-bin").args([uri, text(&after)]));
    let copy = std::fs::read(&after).unwrap();
    assert!(copy[..bytes] == image, "the copy differs");
    assert!(copy[bytes..].iter().all(|byte| *byte == 0), "something lies beyond the copy");
    std::fs::remove_file(&after).unwrap();
}

fn converted(cluster: &Cluster, uri: &str) {
    let (plain, image_path) = (cluster.folder.path().join("plain"), cluster.folder.path().join("image.qcow2"));
    std::fs::write(&plain, image(32 * MIB)).unwrap();
    run(tool("qemu-img", "qemu-utils").args(["convert", "-f", "raw", "-O", "qcow2", text(&plain), text(&image_path)]));
    // What lay there before must read as the image's zeroes afterwards.
    run(tool("qemu-img", "qemu-utils").args(["convert", "-n", "-f", "qcow2", "-O", "raw", text(&image_path), uri]));
    let first = format!(
        "json:{{\"driver\":\"raw\",\"size\":{},\"file\":{{\"driver\":\"nbd\",\"export\":\"pg\",\"server\":{{\"type\":\"unix\",\"path\":\"{}\"}}}}}}",
        32 * MIB,
        text(&cluster.socket(0, "pg"))
    );
    let compared = run(tool("qemu-img", "qemu-utils").args(["compare", "-f", "qcow2", text(&image_path), &first]));
    assert!(compared.contains("identical"), "{compared}");
}

/// A file system through FUSE: made, checked, checked again by a mount of its own.
fn with_a_file_system(cluster: &Cluster, uri: &str) {
    let mounted = Fuse::mount(&cluster.folder.path().join("fuse"), uri);
    run(tool("mkfs.ext4", "e2fsprogs").args(["-q", "-F", text(&mounted.disk)]));
    mounted.unmount();
    let mounted = Fuse::mount(&cluster.folder.path().join("fuse"), uri);
    let checked = run(tool("fsck.ext4", "e2fsprogs").args(["-f", "-n", text(&mounted.disk)]));
    assert!(checked.contains("Pass 5"), "{checked}");
    mounted.unmount();
}

/// A volume as a file, by nbdfuse.
struct Fuse {
    process: Child,
    folder: std::path::PathBuf,
    disk: std::path::PathBuf,
}

impl Fuse {
    fn mount(folder: &Path, uri: &str) -> Fuse {
        std::fs::create_dir_all(folder).unwrap();
        let disk = folder.join("disk");
        let process = tool("nbdfuse", "nbdfuse").args([text(&disk), uri]).stdin(Stdio::null()).spawn().unwrap();
        let mut fuse = Fuse { process, folder: folder.to_owned(), disk };
        let there = eventually(PATIENCE, || fuse.disk.exists() || fuse.process.try_wait().unwrap().is_some());
        assert!(there && fuse.disk.exists(), "nbdfuse did not mount");
        fuse
    }

    fn unmount(mut self) {
        run(&mut Self::unmounting(&self.folder));
        let ended = eventually(PATIENCE, || self.process.try_wait().unwrap().is_some());
        assert!(ended, "nbdfuse did not end");
    }

    /// Root needs no helper to unmount; others have the one that mounted for them.
    fn unmounting(folder: &Path) -> Command {
        let mut command = if rustix::process::geteuid().is_root() {
            tool("umount", "mount")
        } else {
            let mut command = tool("fusermount3", "fuse3");
            command.arg("-u");
            command
        };
        command.arg(folder);
        command
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            // A mount left behind by a failed test would keep its folder from being removed.
            let _ = Self::unmounting(&self.folder).output();
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}
