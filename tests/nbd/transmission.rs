//! Many requests and connections at once: order, bounds, and what becomes of requests whose client is gone.

use std::io::Write;
use std::sync::Arc;

use infinit::interface::nbd::protocol::{
    CMD_DISC, CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, REPLY_OFFSET_DATA, REQUESTS_MAX,
};
use infinit::volume::block::device::{Device, IoError};
use infinit::volume::block::memory::Memory;

use super::Served;
use super::raw::request;

const MIB: u64 = 1 << 20;

#[test]
fn answers_come_as_they_are_ready() {
    let served = Served::new(Memory::new(MIB));
    let mut client = served.connect(false);
    let hold = served.memory.hold(0..4096);
    let slow = [request(CMD_WRITE, 0, 1, 0, 4096), vec![1; 4096]].concat();
    let quick = [request(CMD_WRITE, 0, 2, 8192, 4096), vec![2; 4096]].concat();
    let flush = request(CMD_FLUSH, 0, 3, 0, 0);
    client.send(&[slow, quick, flush].concat()).unwrap();
    assert_eq!(client.answer().unwrap().cookie, 2);
    assert_eq!(client.answer().unwrap().cookie, 3);
    drop(hold);
    assert_eq!(client.answer().unwrap().cookie, 1);
}

#[test]
fn a_goodbye_waits_for_what_is_in_flight() {
    let served = Served::new(Memory::new(MIB));
    let mut client = served.connect(true);
    let hold = served.memory.hold(0..1);
    let write = [request(CMD_WRITE, 0, 1, 0, 4), b"last".to_vec()].concat();
    client.send(&[write, request(CMD_DISC, 0, 0, 0, 0)].concat()).unwrap();
    served.runtime.block_on(served.memory.waiting(1));
    drop(hold);
    assert_eq!(client.answer().unwrap().cookie, 1);
    assert!(client.is_closed());
    assert_eq!(served.runtime.block_on(served.memory.read(0, 4)).unwrap(), "last");
}

#[test]
fn a_parked_write_dies_with_its_connection() {
    let served = Served::new(Memory::new(MIB));
    let hold = served.memory.hold(0..4096);
    let mut lost = served.connect(false);
    lost.send(&[request(CMD_WRITE, 0, 1, 0, 4), b"lost".to_vec()].concat()).unwrap();
    served.runtime.block_on(served.memory.waiting(1));
    drop(lost);
    served.runtime.block_on(served.memory.waiting(0));
    let mut again = served.connect(false);
    again.send(&[request(CMD_WRITE, 0, 2, 2, 5), b"again".to_vec()].concat()).unwrap();
    served.runtime.block_on(served.memory.waiting(1));
    drop(hold);
    assert_eq!(again.answer().unwrap().errno, 0);
    assert_eq!(again.read(0, 7).unwrap(), b"\0\0again");
}

#[test]
fn a_client_that_is_gone_is_noticed_while_its_requests_fill_the_queue() {
    let served = Served::new(Memory::new(MIB));
    let _hold = served.memory.hold(0..MIB);
    let mut client = served.connect(false);
    // One more than the server takes: it does not read the socket any more and so cannot see its end there.
    let requests: Vec<u8> =
        (0..=REQUESTS_MAX as u64).flat_map(|cookie| request(CMD_READ, 0, cookie, cookie, 1)).collect();
    client.send(&requests).unwrap();
    served.runtime.block_on(served.memory.waiting(REQUESTS_MAX));
    drop(client);
    served.runtime.block_on(served.memory.waiting(0));
}

#[test]
fn errors_of_the_volume_reach_the_client_with_their_code() {
    let served = Served::new(Memory::new(MIB));
    let table = [
        (IoError::NoSpace, 28),
        (IoError::ReadOnly, 1),
        (IoError::Shutdown, 108),
        (IoError::TimedOut, 5),
        (IoError::Unreadable("block 7 does not match its checksum".into()), 5),
    ];
    for structured in [false, true] {
        let mut client = served.connect(structured);
        for (error, code) in &table {
            for command in [CMD_READ, CMD_FLUSH, CMD_TRIM] {
                served.memory.fail_next(error.clone());
                let length = if command == CMD_FLUSH { 0 } else { 512 };
                client.send(&request(command, 0, 1, 0, length)).unwrap();
                let answer = client.answer().unwrap();
                assert_eq!(answer.errno, *code, "{error}");
                if structured {
                    assert_eq!(answer.payload[6..], *error.to_string().as_bytes());
                }
            }
        }
    }
    assert_eq!(served.counts().errors, 30);
}

#[test]
fn a_hundred_connections_write_and_read_at_once() {
    let served = Served::new(Memory::new(64 * MIB));
    let mut clients: Vec<_> = (0..100).map(|_| served.connect(true)).collect();
    // An answer to each shows that all are counted by now.
    clients.iter_mut().for_each(|client| assert_eq!(client.errno_of(&request(CMD_FLUSH, 0, 1, 0, 0)).unwrap(), 0));
    assert_eq!((served.counts().connections_open, served.server().connections()), (100, 100));
    std::thread::scope(|scope| {
        for (index, mut client) in clients.into_iter().enumerate() {
            scope.spawn(move || {
                let base = index as u64 * 64 * 1024;
                let writes: Vec<u8> = (0..16u64)
                    .flat_map(|n| [request(CMD_WRITE, 0, n, base + n * 4096, 4096), vec![index as u8; 4096]].concat())
                    .collect();
                client.send(&writes).unwrap();
                (0..16).for_each(|_| assert_eq!(client.answer().unwrap().errno, 0));
                client.send(&request(CMD_READ, 0, 1, base, 65536)).unwrap();
                let answer = client.answer().unwrap();
                assert_eq!(answer.chunk, Some(REPLY_OFFSET_DATA));
                assert!(answer.payload[8..].iter().all(|byte| *byte == index as u8));
                client.send(&request(CMD_DISC, 0, 0, 0, 0)).unwrap();
                assert!(client.is_closed());
            });
        }
    });
    let counts = served.counts();
    assert_eq!((counts.writes, counts.reads, counts.connections), (1600, 100, 100));
    assert_eq!((counts.written_bytes, counts.read_bytes), (1600 * 4096, 100 * 65536));
}

#[test]
fn what_one_connection_has_written_and_flushed_another_reads() {
    let served = Served::new(Memory::new(MIB));
    let (mut writer, mut reader) = (served.connect(false), served.connect(false));
    for round in 0..200_u64 {
        assert_eq!(writer.write(round * 10, &round.to_be_bytes()).unwrap(), 0);
        assert_eq!(writer.errno_of(&request(CMD_FLUSH, 0, 1, 0, 0)).unwrap(), 0);
        assert_eq!(reader.read(round * 10, 8).unwrap(), round.to_be_bytes());
    }
}

#[test]
fn a_client_that_reads_no_answers_is_not_read_either() {
    let served = Served::new(Memory::new(MIB));
    let mut client = served.connect(false);
    client.stream.set_nonblocking(true).unwrap();
    // Each request asks for a MiB. The server must stop taking them long before this many answers are in its memory.
    let requests: Vec<u8> = (0..100_000_u64).flat_map(|cookie| request(CMD_READ, 0, cookie, 0, 1 << 20)).collect();
    let mut sent = 0;
    loop {
        match client.stream.write(&requests[sent..]) {
            Ok(part) => sent += part,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let before = served.counts().reads;
                let mut other = served.connect(false);
                assert_eq!(other.read(0, 512).unwrap(), [0; 512], "another client is served meanwhile");
                if served.counts().reads == before + 1 {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    let taken = served.counts().reads;
    assert!(taken < 100, "{taken} requests were taken without a reader");
    client.stream.set_nonblocking(false).unwrap();
    for cookie in 0..(sent / 28) as u64 {
        assert_eq!(client.answer().unwrap().cookie, cookie);
        client.receive(1 << 20).unwrap();
        if cookie > 200 {
            break;
        }
    }
}

#[test]
fn large_requests_share_the_bytes_in_flight_and_all_arrive() {
    let served = Served::new(Memory::new(256 * MIB));
    let mut client = served.connect(false);
    let hold = served.memory.hold(0..256 * MIB);
    let memory = Arc::clone(&served.memory);
    let sender = std::thread::spawn({
        let mut stream = client.stream.try_clone().unwrap();
        move || {
            for cookie in 0..12_u64 {
                let data = vec![cookie as u8; 8 << 20];
                stream.write_all(&request(CMD_WRITE, 0, cookie, cookie * (8 << 20), 8 << 20)).unwrap();
                stream.write_all(&data).unwrap();
            }
        }
    });
    // 32 MiB are four of these; the fifth waits in the socket.
    served.runtime.block_on(memory.waiting(4));
    drop(hold);
    (0..12).for_each(|_| assert_eq!(client.answer().unwrap().errno, 0));
    sender.join().unwrap();
    for cookie in 0..12_u64 {
        let read = client.read(cookie * (8 << 20), 8 << 20).unwrap();
        assert!(read.iter().all(|byte| u64::from(*byte) == cookie));
    }
}
