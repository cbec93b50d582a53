//! A small mutational fuzzer for everything that decodes bytes from outside: none of them may panic, whatever comes.
//!
//! It knows nothing of coverage; what makes it reach deep is a corpus of valid inputs and targets that mend checksums.
//! `tests/data/fuzz` keeps the corpus: a file a target, an input a line, in hexadecimal. It holds what today's encoders
//! make, so that what they made once is decoded for ever, and every input that ever made a decoder panic.
//! `INFINIT_FUZZ_SECONDS` is the time for each target (2 by default, 600 in the acceptance run), `INFINIT_FUZZ_SEED`
//! another seed; `INFINIT_BLESS=1` adds the inputs that are made here to the corpus.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use infinit::base::id::{
    ConfigNumber, Epoch, Incarnation, InvitationId, NetworkId, NodeId, Seq, SiloId, SlotIndex, SlotKey, SnapshotId,
    Stamp, VolumeId,
};
use infinit::base::record::{HEADER_BYTES, Record};
use infinit::cluster::consensus;
use infinit::cluster::replication::message::{
    Ack, Answer, Append, FromSilo, Parcel, ReadRefusal, Request as Ask, ToSilo,
};
use infinit::cluster::state::command::{Command, Genesis, Join, NewMember, SiloOpening, VolumeCreation};
use infinit::cluster::state::level::Level;
use infinit::cluster::state::volume::Policy;
use infinit::cluster::state::{self, ClusterState};
use infinit::daemon::api::{self, going};
use infinit::daemon::home;
use infinit::daemon::membership::{JoinAnswer, JoinRequest};
use infinit::daemon::peers::{self, SignOfLife, Told};
use infinit::interface::nbd::option::{self, OptionHeader};
use infinit::interface::nbd::protocol::{OPT_GO, OPT_SET_META_CONTEXT, OPTION_HEADER_BYTES, REQUEST_BYTES};
use infinit::interface::nbd::request::{Request, Rules};
use infinit::store::replay;
use infinit::transport::discovery::AddressRecord;
use infinit::transport::identity::{NetworkKey, NodeKey, TokenKey};
use infinit::transport::passport::{self, Invitation, Passport, Role};
use infinit::transport::token::{self, Contact, Token};
use infinit::transport::{callback, discovery, hello, rpc, stream};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};
use serde::de::DeserializeOwned;

use crate::nbd::raw;

/// The longest input that is made.
const INPUT_BYTES_MAX: usize = 16 << 10;
/// Numbers at which lengths and counts are most often wrong.
const EDGES: [u64; 12] = [0, 1, 2, 7, 8, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0xffff_ffff_ffff_ffff];

/// Runs `target` on `corpus`, on what is kept, and on mutations of both for the configured time.
///
/// # Panics
/// If the target panics; prints the seed and the input in hexadecimal.
pub fn fuzz(name: &str, made: &[Vec<u8>], target: fn(&[u8])) {
    let corpus = &kept(name, made)[..];
    let number = |variable, default| std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (seconds, seed) = (number("INFINIT_FUZZ_SECONDS", 2), number("INFINIT_FUZZ_SEED", 1));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut random = StdRng::seed_from_u64(seed);
    let mut runs = 0_u64;
    corpus.iter().for_each(|input| run(name, input, target, "kept"));
    while Instant::now() < end {
        for _ in 0..256 {
            let input = mutated(corpus, &mut random);
            run(name, &input, target, &format!("made by seed {seed} in run {runs}"));
            runs += 1;
        }
    }
    println!("{name}: {runs} inputs in {seconds} s, seed {seed}");
    assert!(runs > 1000, "{name}: only {runs} inputs in {seconds} s");
}

fn run(name: &str, input: &[u8], target: fn(&[u8]), origin: &str) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let (hex, file) = (hex(input), file_name(name));
        panic!(
            "{name}: the target panicked on an input {origin}; once mended, keep it in tests/data/fuzz/{file}: {hex}"
        );
    }
}

fn hex(input: &[u8]) -> String {
    input.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(line: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(line.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..line.len()).step_by(2).map(digits).collect();
    bytes.unwrap_or_else(|| panic!("no hexadecimal: {line}"))
}

fn file_name(name: &str) -> String {
    format!("{}.txt", name.replace(' ', "-"))
}

/// The inputs that were made for this run and those kept for the target.
fn kept(name: &str, made: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz").join(file_name(name));
    let text = fs::read_to_string(&path).unwrap_or_default();
    let mut inputs: BTreeSet<Vec<u8>> = text.lines().filter(|line| !line.starts_with('#')).map(unhex).collect();
    if std::env::var_os("INFINIT_BLESS").is_some() {
        let new: String = made.iter().filter(|input| !inputs.contains(*input)).map(|input| hex(input) + "\n").collect();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text + &new).unwrap();
    } else {
        assert!(!inputs.is_empty(), "nothing is kept for {name}: run with INFINIT_BLESS=1");
    }
    inputs.extend(made.iter().cloned());
    inputs.into_iter().collect()
}

fn mutated(corpus: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut input = corpus.choose(random).cloned().unwrap_or_default();
    for _ in 0..random.random_range(1..=6) {
        mutate(&mut input, corpus, random);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut StdRng) {
    let at = if input.is_empty() { 0 } else { random.random_range(0..input.len()) };
    let length = random.random_range(0..=(input.len() - at).min(64));
    match random.random_range(0..8) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 if at < input.len() => input[at] = random.random(),
        2 => edge(input, at, random),
        3 => input.truncate(at),
        4 => drop(input.drain(at..at + length)),
        5 => {
            let copy = input[at..at + length].to_vec();
            input.splice(at..at, copy);
        }
        6 => {
            let mut noise = vec![0; random.random_range(1..32)];
            random.fill_bytes(&mut noise);
            input.splice(at..at, noise);
        }
        _ => {
            let other = corpus.choose(random).map_or(&[][..], Vec::as_slice);
            let from = if other.is_empty() { 0 } else { random.random_range(0..other.len()) };
            input.splice(at.., other[from..].iter().copied());
        }
    }
}

/// Overwrites a field of two, four or eight bytes, in either byte order, with a number at an edge.
fn edge(input: &mut [u8], at: usize, random: &mut StdRng) {
    let number = EDGES.choose(random).copied().unwrap_or_default();
    let width = [2, 4, 8].choose(random).copied().unwrap_or(4);
    let bytes = if random.random() { number.to_le_bytes() } else { (number << (64 - 8 * width)).to_be_bytes() };
    let end = (at + width).min(input.len());
    input[at..end].copy_from_slice(&bytes[..end - at]);
}

#[test]
fn nbd_options() {
    let go = raw::ask("disk", &[0, 1, 3]);
    let contexts = raw::contexts("disk", &["base:allocation", "base:", "x-any:thing"]);
    let corpus = [
        raw::option(OPT_GO, go.len() as u32, &go),
        raw::option(OPT_SET_META_CONTEXT, contexts.len() as u32, &contexts),
        raw::option(1, 4, b"disk"),
        raw::option(3, 0, b""),
    ];
    fuzz("nbd options", &corpus, |input| {
        let Some((header, data)) = input.split_first_chunk::<OPTION_HEADER_BYTES>() else { return };
        let Ok(header) = OptionHeader::decode(header) else { return };
        let data = &data[..data.len().min(header.length as usize)];
        // Each option must stand the data of any other.
        (0..12).chain([header.code]).for_each(|code| drop(option::decode(code, data)));
    });
}

#[test]
fn nbd_requests() {
    let corpus: Vec<_> = (0..9).map(|command| raw::request(command, 1, 7, 4096, 512)).collect();
    fuzz("nbd requests", &corpus, |input| {
        let Some(Ok(request)) = input.first_chunk::<REQUEST_BYTES>().map(Request::decode) else { return };
        let size = 1 << 30;
        for structured in [false, true] {
            let rules = Rules { size, read_only: false, structured, allocation: structured };
            if request.judge(&rules).is_ok() {
                assert!(request.offset <= size && size - request.offset >= u64::from(request.length));
            }
        }
    });
}

#[test]
fn records() {
    let key = SlotKey { volume: VolumeId([7; 16]), slot: SlotIndex(1) };
    let stamp = Stamp::new(Epoch(3), Seq(9));
    let records = [
        Record::write(key, 8192, stamp, Bytes::from(vec![5; 8192])),
        Record::zeroes(key, 0, 4096, stamp),
        Record::trim(key, 0, 1 << 30, stamp),
        Record::marker(key, SnapshotId([1; 16]), stamp).into_transfer(),
    ];
    let corpus: Vec<_> = records.iter().map(|record| [&record.head[..], &record.payload[..]].concat()).collect();
    fuzz("records", &corpus, |input| {
        decode_record(input);
        // With its checksums mended, what is wrong inside comes to light.
        let mut mended = input.to_vec();
        if mended.len() < HEADER_BYTES {
            return;
        }
        let table_bytes = u32::from_le_bytes([mended[28], mended[29], mended[30], mended[31]]) as usize;
        if let Some(table) = mended.get(HEADER_BYTES..HEADER_BYTES.saturating_add(table_bytes)) {
            let crc = crc32c::crc32c(table);
            mended[80..84].copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32c::crc32c(&mended[..92]);
        mended[92..96].copy_from_slice(&crc.to_le_bytes());
        decode_record(&mended);
    });
}

fn decode_record(input: &[u8]) {
    if let Ok(record) = Record::decode(&mut Bytes::copy_from_slice(input)) {
        let _ = record.verify();
        let _ = record.snapshot();
    }
}

#[test]
fn replication_messages() {
    let key = SlotKey { volume: VolumeId([7; 16]), slot: SlotIndex(1) };
    let record = Record::write(key, 8192, Stamp::new(Epoch(3), Seq(9)), Bytes::from(vec![5; 4096]));
    let silo = SiloId([2; 16]);
    let append = Append {
        silo,
        config: ConfigNumber(1),
        epoch: Epoch(3),
        previous: Seq(8),
        incarnation: Incarnation(4),
        committed: Seq(5),
        sent: 6,
        sync: false,
        record: record.clone(),
    };
    let (slot, epoch, incarnation) = (SlotIndex(1), Epoch(3), Incarnation(4));
    let mut records = BytesMut::from(&record.clone().into_transfer().head[..]);
    records.extend_from_slice(&record.payload);
    let parcel = Parcel { listings: Vec::new(), records: records.freeze() };
    let to_silo = [
        ToSilo::Append(append),
        ToSilo::Rare(
            silo,
            key.volume,
            Ask::Transfer { slot, epoch, incarnation, attempt: 1, cursor: 1, parcel: parcel.clone() },
        ),
        ToSilo::Rare(silo, key.volume, Ask::Repair { slot, epoch, incarnation, block: 2, parcel: parcel.clone() }),
        ToSilo::Rare(silo, key.volume, Ask::Fetch { id: 1, slot, epoch, floor: Seq(1), block: 2 }),
        ToSilo::Rare(
            silo,
            key.volume,
            Ask::CatchUp { slot, epoch, incarnation, attempt: 1, base: Seq(1), floor: Seq(2) },
        ),
        ToSilo::Rare(silo, key.volume, Ask::Release { epoch }),
        ToSilo::Rare(
            silo,
            key.volume,
            Ask::Configure { slot, epoch, incarnation, config: ConfigNumber(2), silos: vec![silo] },
        ),
        ToSilo::Rare(silo, key.volume, Ask::Dismiss { slot, epoch, incarnation }),
    ];
    let ack = Ack { silo, key, epoch, incarnation, applied: Seq(1), durable: Seq(1), takes_writes: true, sent: 1 };
    let changed = vec![1, 2, 3];
    let from_silo = [
        FromSilo::Ack(ack),
        FromSilo::Rare(silo, key.volume, Answer::CatchingUp { slot, epoch, incarnation, attempt: 1, changed }),
        FromSilo::Rare(silo, key.volume, Answer::Fetched { id: 1, result: Ok(parcel) }),
        FromSilo::Rare(silo, key.volume, Answer::Read { id: 1, result: Err(ReadRefusal::Behind) }),
    ];
    let corpus: Vec<Vec<u8>> =
        to_silo.into_iter().map(ToSilo::encode).map(|frame| frame.into_bytes().to_vec()).collect();
    fuzz("messages to silos", &corpus, |input| {
        let decoded = ToSilo::decode(Bytes::copy_from_slice(input));
        if let Ok(ToSilo::Rare(_, volume, Ask::Transfer { slot, parcel, .. } | Ask::Repair { slot, parcel, .. })) =
            decoded
        {
            // Whether it is one is not asked here.
            let _ = parcel.split(SlotKey { volume, slot });
        }
    });
    let corpus: Vec<Vec<u8>> = from_silo.iter().map(|message| message.encode().into_bytes().to_vec()).collect();
    fuzz("messages from silos", &corpus, |input| drop(FromSilo::decode(input)));
}

/// The decoders of the layers below have entry points of their own.
#[test]
fn peers_and_segments() {
    let owner = NetworkKey::generate();
    let (node, one_off) = (NodeKey::generate(), TokenKey::generate());
    let invitation = Invitation::by_network(&owner, Role::Storage, u64::MAX / 2, 3, &one_off).unwrap();
    let passport = Passport::by_invitation(&invitation, &one_off, node.node(), 1_800_000_000).unwrap();
    let passport = passport.encode().unwrap();
    let contact = Contact { node: node.node(), addresses: vec!["127.0.0.1:7420".parse().unwrap()] };
    let token = Token::new("prod".to_owned(), invitation, one_off, vec![contact]).unwrap().to_string().into_bytes();
    fuzz("passports", std::slice::from_ref(&passport), passport::fuzz_passport);
    fuzz("tokens", &[token], token::fuzz_token);
    let hello = [&owner.network().0[..], &[0], &passport].concat();
    fuzz("greetings", &[hello], hello::fuzz_hello);
    // A call, a meeting and a refusal.
    let calls =
        [[&[0][..], &[7; 16]].concat(), [&[1][..], &[7; 48]].concat(), [&[3][..], &[7; 16], b"\x04gone"].concat()];
    fuzz("calls", &calls, callback::fuzz_calls);
    fuzz("frames", &[vec![4, 0, 0, 0, 1, 2, 3, 4], vec![0; 8]], stream::fuzz_frames);
    fuzz("requests between daemons", &[vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 9, 9]], rpc::fuzz_message);
    let discovered = vec!["192.0.2.1:7421".parse().unwrap()];
    let record = AddressRecord::sign(&node, vec!["127.0.0.1:7420".parse().unwrap()], discovered, 42).unwrap();
    fuzz("address records", &[record.encode().unwrap()], discovery::fuzz_address_record);
    fuzz("segments", &replay::fuzz_segment_inputs(), |input| {
        replay::fuzz_segment(input);
    });
}

#[test]
fn the_log_of_the_group_and_its_messages() {
    fuzz("stored by the group", &consensus::fuzz_stored_inputs(), consensus::fuzz_stored);
    fuzz("messages between members", &consensus::fuzz_message_inputs(), consensus::fuzz_message);
    fuzz("cluster states", &[ClusterState::default().encode(), moving_state().encode()], |input| {
        if let Ok(state) = ClusterState::decode(input) {
            assert!(ClusterState::decode(&state.encode()).is_ok_and(|again| again == state));
        }
    });
    // A run of two blocks' data, then one of zeroes and one of holes.
    let rows =
        ["0105010200000000000900000000000000", "01400001000000000002000000000000008100010000000000030000000000000000"];
    fuzz("rows of the index", &rows.map(unhex), infinit::store::fuzz_rows);
}

/// A cluster with something of everything that changed with the second version: an emptied node, a witness, a silo given up.
fn moving_state() -> ClusterState {
    let member = |name: &str, role| NewMember {
        name: name.to_owned(),
        role,
        passport: vec![1, 2, 3],
        data_addresses: vec!["127.0.0.1:7420".parse().unwrap()],
        discovery_addresses: Vec::new(),
        zone: Some("a".to_owned()),
    };
    let id = |number: u8| NodeId([number; 32]);
    let founder = Genesis {
        network: NetworkId([9; 32]),
        name: "prod".to_owned(),
        founder: id(1),
        member: member("a", state::member::Role::Admin),
        at: 1,
    };
    let join = |number: u8, role| {
        let invitation = state::command::Invitation { id: InvitationId([number; 16]), uses_max: 1, expires_at: 9 };
        Command::Join(Join { node: id(number), member: member("b", role), invitation, at: 2 })
    };
    let open = |number: u8| {
        let chain = vec![Incarnation(u64::from(number))];
        let silo = SiloId([number; 16]);
        Command::OpenSilo(SiloOpening { silo, node: id(number), capacity_bytes: 1 << 40, chain })
    };
    let policy = Policy { replicas: 2, ..Policy::default() };
    let volume = VolumeCreation { id: VolumeId([7; 16]), name: "pg".to_owned(), size_bytes: 1 << 30, policy, at: 3 };
    let mut state = ClusterState::default();
    let commands = [
        Command::Genesis(founder),
        Command::Raise { level: Level::OWN },
        join(2, state::member::Role::Storage),
        join(3, state::member::Role::Storage),
        join(4, state::member::Role::Witness),
        open(1),
        open(2),
        open(3),
        Command::CreateVolume(volume),
        Command::SetSiloState { silo: SiloId([3; 16]), state: state::silo::SiloState::Down },
        Command::SetDownAfter { down_after_ms: 60_000 },
        Command::Maintain { volume: VolumeId([7; 16]), node: id(1), at: 4 },
    ];
    for command in commands {
        let told = command.to_string();
        state.apply(command).unwrap_or_else(|refusal| panic!("{told}: {refusal}"));
    }
    state
}

#[test]
fn what_daemons_ask_one_another() {
    let asks = [
        peers::Ask::Ping,
        peers::Ask::Examine,
        peers::Ask::Whereabouts(NodeId([1; 32])),
        peers::Ask::Quorum,
        peers::Ask::Report(VolumeId([7; 16])),
    ];
    let told = [
        Told::Alive(SignOfLife::default()),
        Told::Quorum { has_quorum: true, generation: 1 },
        Told::Whereabouts(vec!["127.0.0.1:7420".parse().unwrap()]),
        Told::Report(None),
    ];
    let asks = asks.iter().map(|ask| postcard::to_stdvec(ask).unwrap());
    let corpus: Vec<Vec<u8>> = asks.chain(told.iter().map(|told| postcard::to_stdvec(told).unwrap())).collect();
    fuzz("questions between daemons", &corpus, |input| {
        // Whether they are any is not asked here.
        drop(postcard::from_bytes::<peers::Ask>(input));
        drop((postcard::from_bytes::<JoinRequest>(input), postcard::from_bytes::<JoinAnswer>(input)));
        match postcard::from_bytes(input) {
            Ok(Told::Report(Some(report))) => drop(report.whole()),
            Ok(Told::Alive(life)) => assert!(Level::of_version(&life.version) <= Level::OWN),
            _ => {}
        }
    });
}

#[test]
fn what_people_ask_and_write_down() {
    fn json<T: DeserializeOwned>(input: &[u8]) {
        drop(serde_json::from_slice::<T>(input));
    }
    let bodies = [
        r#"{"cancel":true}"#,
        r#"{"dead":true}"#,
        r#"{"replicas":2}"#,
        r#"{"down_after_ms":60000}"#,
        r#"{"keep_attached":true}"#,
        r#"{"name":"pg","size_bytes":4096,"replicas":3,"durability":"flush"}"#,
    ];
    fuzz("requests to the control API", &bodies.map(|body| body.as_bytes().to_vec()), |input| {
        json::<going::DrainNode>(input);
        json::<going::RemoveNode>(input);
        json::<going::SetVolume>(input);
        json::<going::SetNetwork>(input);
        json::<going::StopNode>(input);
        json::<api::CreateVolume>(input);
        json::<api::AttachVolume>(input);
        json::<api::VolumeStatus>(input);
        json::<api::Node>(input);
    });
    let files = ["witness = true\nzone = \"a\"\n[[silos]]\npath = \"/d\"\n", "name = \"prod\"\nzone = 'ä\n"];
    fuzz("files of a home", &files.map(|file| file.as_bytes().to_vec()), home::fuzz_files);
}
