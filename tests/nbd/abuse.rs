//! The abuse client: thousands of wrong requests, through libnbd and through raw sockets, while a bystander works on
//! the same export and must notice nothing. Any server of the export will do: [`abuse`] takes its socket and URI.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use infinit::interface::nbd::protocol::{
    CMD_FLAG_REQ_ONE, CMD_FLUSH, CMD_WRITE, OPTION_BYTES_MAX, OPTION_DRAIN_BYTES_MAX, PAYLOAD_BYTES_MAX,
    PAYLOAD_DRAIN_BYTES_MAX, REP_ERR_TOO_BIG, REP_ERR_UNSUP,
};
use infinit::volume::block::memory::Memory;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::Served;
use super::raw::{Raw, option, request};
use crate::tools::python;

/// Bytes at the start of the export that the abuse may write; the bystander has the megabyte after them.
const PLAYGROUND_BYTES: u64 = 64 << 20;
/// The smallest export that can be abused.
pub const EXPORT_BYTES_MIN: u64 = PLAYGROUND_BYTES + (1 << 20);
/// Rounds through libnbd and through raw sockets each, unless `INFINIT_ABUSE_ROUNDS` says otherwise.
const ROUNDS: u64 = 300;

/// A server to abuse.
pub struct Target {
    pub socket: PathBuf,
    pub uri: String,
    pub export: String,
}

/// How many rounds were asked for.
pub fn rounds() -> u64 {
    std::env::var("INFINIT_ABUSE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

/// Abuses the export. Its first 64 MiB and the MiB after them are overwritten.
///
/// # Panics
/// If an answer is wrong, a connection is not closed that must be, or the bystander notices anything.
pub fn abuse(target: &Target, rounds: u64, seed: u64) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let bystander = scope.spawn(|| bystand(target, &ended));
        let libnbd = scope.spawn(|| through_libnbd(target, rounds, seed));
        let raw = scope.spawn(|| {
            let mut random = StdRng::seed_from_u64(seed);
            for round in 0..rounds {
                through_raw_socket(target, &mut random)
                    .unwrap_or_else(|error| panic!("raw round {round} of seed {seed}: {error}"));
            }
        });
        let outcomes = [libnbd.join(), raw.join()];
        ended.store(true, Ordering::Relaxed);
        let turns = bystander.join().expect("the bystander was disturbed");
        assert!(turns > 0);
        outcomes.into_iter().for_each(|outcome| outcome.expect("the abuse found a fault"));
    });
}

/// Writes and reads back until told to end; returns how many times.
fn bystand(target: &Target, ended: &AtomicBool) -> u64 {
    let mut client = Raw::connect(&target.socket).unwrap().into_transmission(&target.export, false);
    let mut turns = 0;
    while !ended.load(Ordering::Relaxed) || turns == 0 {
        let offset = PLAYGROUND_BYTES + turns * 4099 % ((1 << 20) - 5000);
        let data: Vec<u8> = (0..5000).map(|at| (turns + at) as u8).collect();
        assert_eq!(client.write(offset, &data).unwrap(), 0);
        assert!(client.read(offset, 5000).unwrap() == data, "turn {turns} read something else");
        turns += 1;
    }
    turns
}

fn through_libnbd(target: &Target, rounds: u64, seed: u64) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nbd/abuse.py");
    let output = python("python3-libnbd")
        .arg(script)
        .args([&target.uri, &rounds.to_string(), &seed.to_string(), &PLAYGROUND_BYTES.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// One round: a connection, something wrong, the right answer or the end.
fn through_raw_socket(target: &Target, random: &mut StdRng) -> std::io::Result<()> {
    let connect = || Raw::connect(&target.socket);
    let structured = random.random();
    let session = || connect().map(|raw| raw.into_transmission(&target.export, structured));
    match random.random_range(0..10) {
        0 => closes(session()?, &oversize(random)),
        1 => closes(session()?, &garbage(random, 28)),
        2 => closes(connect()?, &garbage(random, 16)),
        3 => closes(Raw::connect_with_flags(&target.socket, random.random_range(4..=u32::MAX))?, b""),
        4 => closes(connect()?, &option(random.random(), OPTION_DRAIN_BYTES_MAX + 1, b"")),
        5 => cut(session()?, random),
        6 => cut_option(connect()?, random),
        7 => unknown_commands(session()?, random),
        8 => unknown_options(connect()?, random, &target.export),
        _ => refused_write(session()?, random),
    }
}

fn closes(mut raw: Raw, bytes: &[u8]) -> std::io::Result<()> {
    // The server may have closed before all was sent; that is an end too.
    let _ = raw.send(bytes);
    if raw.is_closed() { Ok(()) } else { Err(std::io::Error::other("the connection was not closed")) }
}

fn oversize(random: &mut StdRng) -> Vec<u8> {
    request(CMD_WRITE, 0, 1, 0, random.random_range(PAYLOAD_DRAIN_BYTES_MAX + 1..=u32::MAX))
}

/// Bytes whose first are no magic number, and enough of them to be judged.
fn garbage(random: &mut StdRng, least: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(least..least + 500)];
    random.fill_bytes(&mut bytes);
    bytes[0] = 0xff;
    bytes
}

/// Half a request, then nothing: the server takes its leave too.
fn cut(mut raw: Raw, random: &mut StdRng) -> std::io::Result<()> {
    let length = random.random_range(1..100_000);
    let whole = [request(CMD_WRITE, 0, 1, 0, length), vec![0xee; length as usize]].concat();
    raw.send(&whole[..random.random_range(1..whole.len())])?;
    if random.random() {
        raw.stream.shutdown(std::net::Shutdown::Write)?;
        return closes(raw, b"");
    }
    Ok(())
}

fn cut_option(mut raw: Raw, random: &mut StdRng) -> std::io::Result<()> {
    let whole = option(random.random_range(1..12), 300, &[0x20; 300]);
    raw.send(&whole[..random.random_range(1..whole.len())])?;
    raw.stream.shutdown(std::net::Shutdown::Write)?;
    closes(raw, b"")
}

fn unknown_commands(mut raw: Raw, random: &mut StdRng) -> std::io::Result<()> {
    for _ in 0..random.random_range(1..20) {
        let wrong = request(
            random.random_range(8..=u16::MAX),
            random.random(),
            random.random(),
            random.random(),
            random.random(),
        );
        expect(&mut raw, &wrong, 22)?;
    }
    expect(&mut raw, &request(CMD_FLUSH, 0, 3, 0, 0), 0)
}

fn expect(raw: &mut Raw, request: &[u8], errno: u32) -> std::io::Result<()> {
    let found = raw.errno_of(request)?;
    if found == errno { Ok(()) } else { Err(std::io::Error::other(format!("error {found} instead of {errno}"))) }
}

fn unknown_options(mut raw: Raw, random: &mut StdRng, export: &str) -> std::io::Result<()> {
    for _ in 0..random.random_range(1..20) {
        let length = random.random_range(0..3 * OPTION_BYTES_MAX as usize / 2);
        let kinds = raw.option_kinds(random.random_range(12..=u32::MAX), &vec![0x41; length])?;
        let expected = if length > OPTION_BYTES_MAX as usize { REP_ERR_TOO_BIG } else { REP_ERR_UNSUP };
        assert_eq!(kinds, [expected]);
    }
    let mut session = raw.into_transmission(export, true);
    expect(&mut session, &request(CMD_FLUSH, 0, 3, 0, 0), 0)
}

/// A write that is refused after its whole payload came, and framing kept.
fn refused_write(mut raw: Raw, random: &mut StdRng) -> std::io::Result<()> {
    let rare = random.random_range(0..50) == 0;
    let length = if rare { random.random_range(PAYLOAD_BYTES_MAX + 1..=PAYLOAD_DRAIN_BYTES_MAX) } else { 70_000 };
    let payload = vec![0xdd; length as usize];
    let (flags, errno) = if rare { (0, 22) } else { (CMD_FLAG_REQ_ONE, 22) };
    expect(&mut raw, &[request(CMD_WRITE, flags, 1, 0, length), payload].concat(), errno)?;
    let beyond = [request(CMD_WRITE, 0, 2, u64::MAX - 4, 10), vec![0; 10]].concat();
    expect(&mut raw, &beyond, 28)?;
    expect(&mut raw, &request(CMD_FLUSH, 0, 3, 0, 0), 0)
}

#[test]
fn abuse_gets_the_right_answer_or_a_closed_connection_and_disturbs_nobody() {
    let served = Served::new(Memory::new(EXPORT_BYTES_MIN));
    let target = Target { socket: served.socket(), uri: served.uri(), export: "disk".into() };
    abuse(&target, rounds(), 1);
    assert_eq!(served.memory.waiting_now(), 0);
}
