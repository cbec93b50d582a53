//! Disks that are files: loop devices with a file system of their own, one of them over a server that fails on demand.
//! All is gone with the test: unmounted, detached and ended by what it is, never by a name.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::e2e::cluster::{PATIENCE, eventually};
use crate::tools::{run, tool};

/// After so long errors end by themselves: a device that fails blocks whoever syncs all file systems.
const ERRORS_AT_MOST: Duration = Duration::from_secs(120);

/// A file system on a file.
pub struct LoopDisk {
    image: PathBuf,
    device: String,
    mounted: PathBuf,
    _folder: tempfile::TempDir,
    faulty: Option<Faulty>,
}

/// A server between the loop device and the image.
struct Faulty {
    nbdkit: Child,
    nbdfuse: Child,
    mounted: PathBuf,
    /// While this file exists, writes fail.
    errors: PathBuf,
    watchdog: Option<Child>,
}

impl LoopDisk {
    /// An ext4 of so many bytes.
    pub fn new(bytes: u64) -> LoopDisk {
        let folder = tempfile::Builder::new().prefix("disk").tempdir().unwrap();
        let image = image(folder.path(), bytes);
        Self::on(folder, image, None)
    }

    /// An ext4 whose writes fail while [`Self::fail`] says so.
    pub fn faulty(bytes: u64) -> LoopDisk {
        let folder = tempfile::Builder::new().prefix("disk").tempdir().unwrap();
        let image = image(folder.path(), bytes);
        let faulty = Faulty::start(folder.path(), &image);
        Self::on(folder, image, Some(faulty))
    }

    fn on(folder: tempfile::TempDir, image: PathBuf, faulty: Option<Faulty>) -> LoopDisk {
        let backing = faulty.as_ref().map_or_else(|| image.clone(), |faulty| faulty.mounted.join("nbd"));
        let device = run(tool("losetup", "mount").args(["--find", "--show"]).arg(&backing)).trim().to_owned();
        let mounted = folder.path().join("mounted");
        fs::create_dir(&mounted).unwrap();
        // From here on, dropping it undoes what was done.
        let disk = LoopDisk { image, device, mounted, _folder: folder, faulty };
        run(tool("mount", "mount").arg(&disk.device).arg(&disk.mounted));
        disk
    }

    /// Where the file system is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    pub fn image(&self) -> &Path {
        &self.image
    }

    /// From now on, or no longer, writes fail.
    pub fn fail(&mut self, fail: bool) {
        let faulty = self.faulty.as_mut().expect("the disk is one that fails");
        faulty.end_watchdog();
        if fail {
            let mut sleeping = Command::new("sh");
            sleeping.args(["-c", "sleep \"$1\"; rm -f \"$2\"", "sh", &ERRORS_AT_MOST.as_secs().to_string()]);
            faulty.watchdog = Some(sleeping.arg(&faulty.errors).spawn().unwrap());
            File::create(&faulty.errors).unwrap();
        } else {
            fs::remove_file(&faulty.errors).unwrap();
        }
    }

    /// Makes the kernel forget what it keeps of a file that is synced, so that it is read from the disk.
    pub fn forget(path: &Path) {
        let file = File::open(path).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if let Some(faulty) = &mut self.faulty {
            // Whoever waits for the disk is let go first.
            let _ = fs::remove_file(&faulty.errors);
        }
        // What cannot be undone now may have been undone by what failed; nothing of it may keep the test.
        let _ = tool("umount", "mount").arg("-l").arg(&self.mounted).status();
        let _ = tool("losetup", "mount").arg("-d").arg(&self.device).status();
        if let Some(faulty) = &mut self.faulty {
            let _ = tool("umount", "mount").arg("-l").arg(&faulty.mounted).status();
            for process in [&mut faulty.nbdfuse, &mut faulty.nbdkit] {
                let _ = process.kill();
                let _ = process.wait();
            }
            faulty.end_watchdog();
        }
    }
}

impl Faulty {
    fn start(folder: &Path, image: &Path) -> Faulty {
        let (socket, errors, mounted) = (folder.join("nbd.sock"), folder.join("errors"), folder.join("fuse"));
        fs::create_dir(&mounted).unwrap();
        let mut nbdkit = tool("nbdkit", "nbdkit");
        nbdkit.args(["--foreground", "--exit-with-parent", "--filter=error", "--unix"]).arg(&socket);
        nbdkit.args(["file", &format!("file={}", image.display())]);
        nbdkit.args(["error-pwrite=EIO", "error-pwrite-rate=100%"]);
        nbdkit.arg(format!("error-pwrite-file={}", errors.display()));
        let nbdkit = nbdkit.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        assert!(eventually(PATIENCE, || socket.exists()), "nbdkit does not listen");
        let mut nbdfuse = tool("nbdfuse", "libnbd-bin");
        nbdfuse.arg(&mounted).arg(format!("nbd+unix:///?socket={}", socket.display()));
        let nbdfuse = nbdfuse.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        assert!(eventually(PATIENCE, || mounted.join("nbd").exists()), "nbdfuse does not mount");
        Faulty { nbdkit, nbdfuse, mounted, errors, watchdog: None }
    }

    fn end_watchdog(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            let _ = watchdog.kill();
            let _ = watchdog.wait();
        }
    }
}

/// An image with an empty ext4.
fn image(folder: &Path, bytes: u64) -> PathBuf {
    let image = folder.join("image");
    OpenOptions::new().write(true).create_new(true).open(&image).unwrap().set_len(bytes).unwrap();
    // Nothing is written later on by itself, and root keeps nothing for itself.
    let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    run(tool("mkfs.ext4", "e2fsprogs").args(options).arg(&image));
    image
}
