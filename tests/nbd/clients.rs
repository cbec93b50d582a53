//! The clients that people use: libnbd's tools, qemu's, fio.

use std::path::Path;
use std::process::Command;

use infinit::interface::nbd::Export;
use infinit::volume::block::memory::Memory;
use serde_json::Value;

use super::Served;
use crate::tools::{python, run, run_to_fail, tool};

const MIB: u64 = 1 << 20;

fn nbdinfo(arguments: &[&str]) -> Command {
    let mut command = tool("nbdinfo", "libnbd-bin");
    command.args(arguments);
    command
}

fn qemu_img(arguments: &[&str]) -> Command {
    let mut command = tool("qemu-img", "qemu-utils");
    command.args(arguments);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that compress badly and repeat nowhere, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn nbdinfo_sees_all_that_is_offered() {
    let served = Served::new(Memory::new(64 * MIB));
    let list: Value = serde_json::from_str(&run(&mut nbdinfo(&["--list", "--json", &served.uri()]))).unwrap();
    let export = &list["exports"][0];
    assert_eq!(list["protocol"], "newstyle-fixed");
    assert_eq!(list["structured"], true);
    assert_eq!(export["export-name"], "disk");
    assert_eq!(export["export-size"], 64 * MIB);
    assert_eq!(export["contexts"][0], "base:allocation");
    assert_eq!(export["block_size_minimum"], 1);
    assert_eq!(export["block_size_preferred"], 4096);
    assert_eq!(export["block_size_maximum"], 32 * MIB);
    for feature in ["flush", "fua", "trim", "zero", "fast-zero", "multi-conn", "cache", "df"] {
        run(&mut nbdinfo(&["--can", feature, &served.uri()]));
    }
    assert_eq!(run(&mut nbdinfo(&["--size", &served.uri()])).trim(), (64 * MIB).to_string());
    run_to_fail(&mut nbdinfo(&["--is", "read-only", &served.uri()]));
    let unknown = run_to_fail(&mut nbdinfo(&[&served.server().uri("absent")]));
    assert!(unknown.contains("opt_go"), "{unknown}");
}

#[test]
fn a_read_only_export_says_so_and_is_listed_beside_the_other() {
    let served = Served::new(Memory::new(MIB));
    let read_only = Export { read_only: true, ..Export::new(served.memory.clone()) };
    served.shelf.put("a name/with ?&", read_only);
    let uri = served.server().uri("a name/with ?&");
    run(&mut nbdinfo(&["--is", "read-only", &uri]));
    run_to_fail(&mut nbdinfo(&["--can", "trim", &uri]));
    run_to_fail(&mut nbdinfo(&["--can", "write", &uri]));
    let list = run(&mut nbdinfo(&["--list", &served.uri()]));
    assert!(list.contains("export=\"disk\"") && list.contains("export=\"a name/with ?&\""), "{list}");
}

#[test]
fn nbdcopy_brings_in_and_out_what_it_was_given() {
    let served = Served::new(Memory::new(64 * MIB));
    let (before, after) = (served.folder.path().join("before"), served.folder.path().join("after"));
    let mut bytes = noise(64 << 20);
    bytes[5 << 20..20 << 20].fill(0);
    std::fs::write(&before, &bytes).unwrap();
    let mut copy_in = tool("nbdcopy", "libnbd-bin");
    run(copy_in.args(["--flush", text(&before), &served.uri()]));
    assert!(served.memory.flushes() > 0);
    assert!(served.counts().connections >= 2, "several connections were used: {:?}", served.counts());
    run(tool("nbdcopy", "libnbd-bin").args([&served.uri(), text(&after)]));
    assert!(std::fs::read(&after).unwrap() == bytes, "the copy differs");
}

#[test]
fn qemu_img_converts_an_image_in_and_finds_it_identical() {
    let served = Served::new(Memory::new(32 * MIB));
    let (plain, image) = (served.folder.path().join("plain"), served.folder.path().join("image.qcow2"));
    let mut bytes = noise(32 << 20);
    bytes[1 << 20..9 << 20].fill(0);
    std::fs::write(&plain, &bytes).unwrap();
    run(&mut qemu_img(&["convert", "-f", "raw", "-O", "qcow2", text(&plain), text(&image)]));
    run(&mut qemu_img(&["convert", "-n", "-f", "qcow2", "-O", "raw", text(&image), &served.uri()]));
    let compared = run(&mut qemu_img(&["compare", "-f", "qcow2", "-F", "raw", text(&image), &served.uri()]));
    assert!(compared.contains("identical"), "{compared}");
}

#[test]
fn qemu_io_writes_and_reads_at_any_alignment() {
    let served = Served::new(Memory::new(16 * MIB));
    let mut command = tool("qemu-io", "qemu-utils");
    command.args(["-f", "raw", "-d", "unmap"]);
    for step in [
        "write -P 0xab 0 64k",
        "write -P 0x11 513 1023",
        "read -P 0x11 513 1023",
        "read -P 0xab 0 513",
        "read -P 0xab 1536 62k",
        "write -f -P 0x22 4095 2",
        "read -P 0x22 4095 2",
        "write -z 511 3",
        "read -P 0 511 3",
        "write -z -u 32k 16k",
        "read -P 0 32k 16k",
        "discard 48k 4k",
        "flush",
        "read -P 0xab 52k 12k",
    ] {
        command.args(["-c", step]);
    }
    let output = run(command.arg(served.uri()));
    assert!(!output.contains("verification failed") && !output.contains("error"), "{output}");
    assert!(served.memory.flushes() > 0 && served.memory.fua() > 0);
}

#[test]
fn the_map_shows_data_zeroes_and_holes() {
    let served = Served::new(Memory::new(8 * MIB));
    let mut command = tool("qemu-io", "qemu-utils");
    command.args(["-f", "raw", "-c", "write -P 1 1M 1M", "-c", "write -z 4M 1M"]);
    run(command.arg(served.uri()));
    let map: Value = serde_json::from_str(&run(&mut nbdinfo(&["--map", "--json", &served.uri()]))).unwrap();
    let stretches: Vec<(u64, u64, u64)> = map
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["offset"].as_u64().unwrap(), s["length"].as_u64().unwrap(), s["type"].as_u64().unwrap()))
        .collect();
    let hole = |offset, length| (offset * MIB, length * MIB, 3);
    let expected = [hole(0, 1), (MIB, MIB, 0), hole(2, 2), (4 * MIB, MIB, 2), hole(5, 3)];
    assert_eq!(stretches, expected);
}

#[test]
fn tcp_and_the_default_export_serve_the_same_clients() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::at(Memory::new(MIB), &"tcp:127.0.0.1:0".parse().unwrap(), folder);
    assert!(served.uri().starts_with("nbd://127.0.0.1:") && served.uri().ends_with("/disk"));
    for uri in [served.uri(), served.server().uri("")] {
        assert_eq!(run(&mut nbdinfo(&["--size", &uri])).trim(), MIB.to_string());
    }
}

#[test]
fn fio_verifies_what_it_wrote_at_depth() {
    let served = Served::new(Memory::new(64 * MIB));
    let mut fio = tool("fio", "fio");
    fio.current_dir(served.folder.path()).args([
        "--name=verify",
        "--ioengine=nbd",
        "--rw=randwrite",
        "--bsrange=512-64k",
    ]);
    fio.args(["--blockalign=512", "--iodepth=32", "--size=64m", "--io_size=64m", "--verify=crc32c", "--fsync=64"]);
    run(fio.arg(format!("--uri={}", served.uri())));
    let counts = served.counts();
    assert!(counts.written_bytes >= 60 * MIB && counts.flushes > 0 && counts.errors == 0, "{counts:?}");
    assert_eq!(counts.flushes, served.memory.flushes());
}

#[test]
fn libnbd_gets_the_error_of_the_specification_for_each_wrong_request() {
    let served = Served::new(Memory::new(64 * MIB));
    let read_only = Export { read_only: true, ..Export::new(served.memory.clone()) };
    served.shelf.put("fixed", read_only);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nbd/errors.py");
    let mut command = python("python3-libnbd");
    run(command.arg(script).args([served.uri(), served.server().uri("fixed")]));
}
