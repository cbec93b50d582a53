//! What three nodes on one machine cost at the very least, for `tests/bench/nbd`: an NBD server that keeps a copy in a file
//! of its own and one with each of two peers, over TCP, and answers a write at a majority. No encryption, no checksums, no
//! order, no recovery, no index: nothing but the system calls that every such server makes, one thread a process, for one
//! client, one request after the other even if it asks for several at a time. Built by `rustc -O` alone.
//!
//! ```text
//! floor peer FILE                             writes its port to stdout
//! floor serve SOCKET SIZE FILE SYNC PORT…     SYNC is 1 where every copy syncs with each write
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};

/// A block behind the head that every record has.
const RECORD_BYTES: usize = 64 + 4096;
/// A copy's file is written round and round, as a log whose segments are used again.
const LOG_BYTES: u64 = 64 << 20;

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// Flags, and that it takes flushes.
const EXPORT_FLAGS: u16 = 1 | 4;
const OPT_ABORT: u32 = 2;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = 0x8000_0001;
const CMD_WRITE: u16 = 1;
const CMD_DISC: u16 = 2;
const CMD_FLUSH: u16 = 3;

/// One copy's file, written before, so that nothing is allocated.
struct Copy {
    file: File,
    end: u64,
}

impl Copy {
    fn open(path: &str) -> io::Result<Copy> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        let zeroes = vec![0; 1 << 20];
        for offset in (0..LOG_BYTES).step_by(zeroes.len()) {
            file.write_all_at(&zeroes, offset)?;
        }
        file.sync_all()?;
        Ok(Copy { file, end: 0 })
    }

    fn append(&mut self, record: &[u8], sync: bool) -> io::Result<()> {
        if self.end + record.len() as u64 > LOG_BYTES {
            self.end = 0;
        }
        self.file.write_all_at(record, self.end)?;
        self.end += record.len() as u64;
        if sync { self.file.sync_data() } else { Ok(()) }
    }
}

fn peer(path: &str) -> io::Result<()> {
    let mut copy = Copy::open(path)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    io::stdout().flush()?;
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut record = vec![0; RECORD_BYTES];
    while stream.read_exact(&mut record).is_ok() {
        copy.append(&record, record[0] == 1)?;
        // As long as an acknowledgement.
        stream.write_all(&record[..64])?;
    }
    Ok(())
}

/// The copies of the server: its own, and those of its peers.
struct Copies {
    own: Copy,
    peers: Vec<TcpStream>,
    sync: bool,
    record: Vec<u8>,
    writes: u64,
}

/// Acknowledgements that nobody waits for are taken so many together.
const DRAIN_EVERY: u64 = 16;

impl Copies {
    fn connect(path: &str, sync: bool, ports: &[String]) -> io::Result<Copies> {
        let mut peers = Vec::new();
        for port in ports {
            let stream = TcpStream::connect(("127.0.0.1", port.parse().map_err(io::Error::other)?))?;
            stream.set_nodelay(true)?;
            peers.push(stream);
        }
        let mut record = vec![0; RECORD_BYTES];
        record[0] = u8::from(sync);
        Ok(Copies { own: Copy::open(path)?, peers, sync, record, writes: 0 })
    }

    /// Returns once the own copy and the first peer's have it, which are a majority of three; the rest answer when they like.
    fn write(&mut self) -> io::Result<()> {
        for peer in &mut self.peers {
            peer.write_all(&self.record)?;
        }
        self.own.append(&self.record, self.sync)?;
        let mut answers = [0; 64 * DRAIN_EVERY as usize];
        let Some((first, others)) = self.peers.split_first_mut() else { return Ok(()) };
        first.read_exact(&mut answers[..64])?;
        self.writes += 1;
        if self.writes.is_multiple_of(DRAIN_EVERY) {
            others.iter_mut().try_for_each(|peer| peer.read_exact(&mut answers))?;
        }
        Ok(())
    }
}

fn number<const N: usize>(stream: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The fixed newstyle handshake; false if the client only looked.
fn greet(stream: &mut UnixStream, size: u64) -> io::Result<bool> {
    let mut hello = MAGIC.to_be_bytes().to_vec();
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend(3_u16.to_be_bytes());
    stream.write_all(&hello)?;
    number::<4>(stream)?;
    loop {
        number::<8>(stream)?;
        let option = u32::from_be_bytes(number(stream)?);
        let len = u32::from_be_bytes(number(stream)?);
        io::copy(&mut stream.take(len.into()), &mut io::sink())?;
        let reply = |kind: u32, data: &[u8]| {
            let mut reply = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
            [option, kind, data.len() as u32].iter().for_each(|field| reply.extend(field.to_be_bytes()));
            reply.extend(data);
            reply
        };
        match option {
            OPT_GO => {
                let mut export = 0_u16.to_be_bytes().to_vec();
                export.extend(size.to_be_bytes());
                export.extend(EXPORT_FLAGS.to_be_bytes());
                stream.write_all(&reply(REP_INFO, &export))?;
                stream.write_all(&reply(REP_ACK, &[]))?;
                return Ok(true);
            }
            OPT_ABORT => return Ok(false),
            _ => stream.write_all(&reply(REP_ERR_UNSUP, &[]))?,
        }
    }
}

fn talk(stream: &mut UnixStream, copies: &mut Copies) -> io::Result<()> {
    let mut request = [0; 28];
    while stream.read_exact(&mut request).is_ok() {
        let magic = u32::from_be_bytes(request[..4].try_into().unwrap_or_default());
        let kind = u16::from_be_bytes([request[6], request[7]]);
        if magic != REQUEST_MAGIC || kind == CMD_DISC {
            return Ok(());
        }
        match kind {
            CMD_WRITE => {
                stream.read_exact(&mut copies.record[64..])?;
                copies.write()?;
            }
            // Where clients flush, every copy has synced with the write.
            CMD_FLUSH => {}
            other => return Err(io::Error::other(format!("request {other} is not for the floor"))),
        }
        let mut reply = [0; 16];
        reply[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
        reply[8..].copy_from_slice(&request[8..16]);
        stream.write_all(&reply)?;
    }
    Ok(())
}

fn serve(socket: &str, size: &str, path: &str, sync: &str, ports: &[String]) -> io::Result<()> {
    let mut copies = Copies::connect(path, sync == "1", ports)?;
    let size = size.parse().map_err(io::Error::other)?;
    let listener = UnixListener::bind(socket)?;
    loop {
        let (mut stream, _) = listener.accept()?;
        // A client that goes away is no error, and the next one is served.
        if greet(&mut stream, size).is_ok_and(|goes_on| goes_on) {
            talk(&mut stream, &mut copies)?;
        }
    }
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &words[..] {
        ["peer", path] => peer(path),
        ["serve", socket, size, path, sync, _, ..] => serve(socket, size, path, sync, &arguments[5..]),
        _ => Err(io::Error::other("usage: floor peer FILE | floor serve SOCKET SIZE FILE SYNC PORT...")),
    }
}
