//! A small NBD client: what `infinit demo` and the end-to-end tests drive a volume with.
//!
//! It speaks fixed newstyle with `NBD_OPT_GO` and simple replies over a Unix socket. Any number of requests are in
//! flight at once and answers are taken in any order. One task writes requests, one reads answers; when either ends,
//! every request still in flight gets [`NbdError::Lost`], as does every later one: the client never connects again by
//! itself, so that its user knows which requests were answered and which were not.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::base::error::Fault;
use crate::interface::nbd::protocol::{
    CMD_DISC, CMD_FLAG_FUA, CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, INFO_EXPORT,
    INIT_MAGIC, OPT_GO, OPTION_BYTES_MAX, OPTION_MAGIC, OPTION_REPLY_MAGIC, PAYLOAD_BYTES_MAX, REP_ACK, REP_INFO,
    REQUEST_BYTES, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC,
};

/// Requests that wait for the socket; with more waiting, the callers wait.
const QUEUE_MAX: usize = 64;
/// How long a server may take to greet and to open the export: one that was stopped accepts and says nothing.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Bytes of a simple reply without its data: magic, error, cookie.
const REPLY_BYTES: usize = 16;
/// Bytes of an option's reply without its data: magic, option, type, length.
const OPTION_REPLY_BYTES: usize = 20;

/// Why a request, or a connection, came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NbdError {
    /// Nobody listens, or may be asked.
    Connect(io::ErrorKind),
    /// The server did not greet or open the export in time.
    Silent,
    /// The server breaks the protocol.
    Protocol(&'static str),
    /// The server does not open the export; the type of its reply to `NBD_OPT_GO`.
    Export(u32),
    /// The server answered the request with this error (`NBD_E…`).
    Refused(u32),
    /// The connection ended before the answer: the request was carried out or not.
    Lost,
}

/// A connection to one export. Cheap to clone; it ends once the last clone and the last request are gone.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Outgoing>,
    size_bytes: u64,
}

#[derive(Debug, Default)]
struct Shared(Mutex<Flight>);

/// The requests in flight.
#[derive(Debug, Default)]
struct Flight {
    ended: bool,
    last_cookie: u64,
    waiting: HashMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// Bytes of data that follow a good answer.
    data_bytes: usize,
    answer: oneshot::Sender<Result<Bytes, NbdError>>,
}

#[derive(Debug)]
struct Outgoing {
    header: [u8; REQUEST_BYTES],
    data: Bytes,
}

impl Client {
    /// Connects and opens the export of this name.
    pub async fn connect(socket: &Path, export: &str) -> Result<Client, NbdError> {
        let mut stream = UnixStream::connect(socket).await.map_err(|error| NbdError::Connect(error.kind()))?;
        let size_bytes =
            timeout(HANDSHAKE_MAX, handshake(&mut stream, export)).await.map_err(|_| NbdError::Silent)??;
        let (reading, writing) = stream.into_split();
        let shared = Arc::<Shared>::default();
        let (queue, outgoing) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(send(writing, outgoing, shared.clone()));
        tokio::spawn(receive(reading, shared.clone()));
        Ok(Client { shared, queue, size_bytes })
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Writes; with `fua`, the answer means that it is durable.
    pub async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), NbdError> {
        let flags = if fua { CMD_FLAG_FUA } else { 0 };
        let length = data.len() as u32;
        self.request(CMD_WRITE, flags, offset, length, data, 0).await.map(drop)
    }

    pub async fn read(&self, offset: u64, length: u32) -> Result<Bytes, NbdError> {
        self.request(CMD_READ, 0, offset, length, Bytes::new(), length as usize).await
    }

    /// Makes durable every write that was answered before.
    pub async fn flush(&self) -> Result<(), NbdError> {
        self.request(CMD_FLUSH, 0, 0, 0, Bytes::new(), 0).await.map(drop)
    }

    /// Lets go of a range, which reads as zeroes afterwards.
    pub async fn trim(&self, offset: u64, length: u32) -> Result<(), NbdError> {
        self.request(CMD_TRIM, 0, offset, length, Bytes::new(), 0).await.map(drop)
    }

    async fn request(
        &self,
        command: u16,
        flags: u16,
        offset: u64,
        length: u32,
        data: Bytes,
        data_bytes: usize,
    ) -> Result<Bytes, NbdError> {
        let (answer, answered) = oneshot::channel();
        let cookie = self.shared.expect(Waiting { data_bytes, answer })?;
        let outgoing = Outgoing { header: header(command, flags, cookie, offset, length), data };
        // If the writing task is gone, so is the request's place in the flight: the answer below says it.
        let _ = self.queue.send(outgoing).await;
        answered.await.unwrap_or(Err(NbdError::Lost))
    }
}

impl Shared {
    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(&self, waiting: Waiting) -> Result<u64, NbdError> {
        let mut flight = self.flight();
        if flight.ended {
            return Err(NbdError::Lost);
        }
        flight.last_cookie += 1;
        let cookie = flight.last_cookie;
        flight.waiting.insert(cookie, waiting);
        Ok(cookie)
    }

    fn end(&self) {
        let mut flight = self.flight();
        flight.ended = true;
        // Dropping the senders tells each request that its answer will not come.
        flight.waiting.clear();
    }
}

fn header(command: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> [u8; REQUEST_BYTES] {
    let mut header = [0; REQUEST_BYTES];
    header[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    header[4..6].copy_from_slice(&flags.to_be_bytes());
    header[6..8].copy_from_slice(&command.to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..24].copy_from_slice(&offset.to_be_bytes());
    header[24..].copy_from_slice(&length.to_be_bytes());
    header
}

/// Greets and opens the export; returns its size in bytes.
async fn handshake(stream: &mut UnixStream, export: &str) -> Result<u64, NbdError> {
    let lost = |_: io::Error| NbdError::Lost;
    if stream.read_u64().await.map_err(lost)? != INIT_MAGIC || stream.read_u64().await.map_err(lost)? != OPTION_MAGIC {
        return Err(NbdError::Protocol("this is no newstyle server"));
    }
    let flags = stream.read_u16().await.map_err(lost)?;
    if flags & FLAG_FIXED_NEWSTYLE == 0 {
        return Err(NbdError::Protocol("the server is not of the fixed newstyle"));
    }
    let mut hello = Vec::new();
    hello.extend(u32::from(flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)).to_be_bytes());
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend(OPT_GO.to_be_bytes());
    // The name's length, the name, and that no further information is asked for.
    hello.extend((export.len() as u32 + 6).to_be_bytes());
    hello.extend((export.len() as u32).to_be_bytes());
    hello.extend(export.as_bytes());
    hello.extend(0_u16.to_be_bytes());
    stream.write_all(&hello).await.map_err(lost)?;
    let mut size_bytes = None;
    loop {
        let (kind, data) = option_reply(stream).await?;
        match kind {
            REP_ACK => return size_bytes.ok_or(NbdError::Protocol("the server tells no size")),
            REP_INFO => {
                let mut data = data.as_slice();
                if data.len() >= 12 && data.get_u16() == INFO_EXPORT {
                    size_bytes = Some(data.get_u64());
                }
            }
            other => return Err(NbdError::Export(other)),
        }
    }
}

/// The type and the data of one reply to the option.
async fn option_reply(stream: &mut UnixStream) -> Result<(u32, Vec<u8>), NbdError> {
    let mut header = [0; OPTION_REPLY_BYTES];
    stream.read_exact(&mut header).await.map_err(|_| NbdError::Lost)?;
    let mut fields = header.as_slice();
    if fields.get_u64() != OPTION_REPLY_MAGIC || fields.get_u32() != OPT_GO {
        return Err(NbdError::Protocol("that is no reply to the option"));
    }
    let (kind, length) = (fields.get_u32(), fields.get_u32());
    if length > OPTION_BYTES_MAX {
        return Err(NbdError::Protocol("the reply to the option is too long"));
    }
    let mut data = vec![0; length as usize];
    stream.read_exact(&mut data).await.map_err(|_| NbdError::Lost)?;
    Ok((kind, data))
}

/// Writes requests until the client is dropped, then says goodbye.
async fn send(mut writing: OwnedWriteHalf, mut outgoing: mpsc::Receiver<Outgoing>, shared: Arc<Shared>) {
    while let Some(Outgoing { header, data }) = outgoing.recv().await {
        if writing.write_all_buf(&mut Buf::chain(header.as_slice(), data)).await.is_err() {
            shared.end();
            return;
        }
    }
    // The server closes the connection either way.
    let _ = writing.write_all(&header(CMD_DISC, 0, 0, 0, 0)).await;
}

/// Hands answers to those who wait for them until the connection ends or breaks the protocol.
async fn receive(reading: OwnedReadHalf, shared: Arc<Shared>) {
    let mut reading = BufReader::with_capacity(PAYLOAD_BYTES_MAX as usize / 256, reading);
    while answer(&mut reading, &shared).await.is_some() {}
    shared.end();
}

async fn answer(reading: &mut BufReader<OwnedReadHalf>, shared: &Shared) -> Option<()> {
    let mut header = [0; REPLY_BYTES];
    reading.read_exact(&mut header).await.ok()?;
    let mut fields = header.as_slice();
    let (magic, error, cookie) = (fields.get_u32(), fields.get_u32(), fields.get_u64());
    if magic != SIMPLE_REPLY_MAGIC {
        return None;
    }
    let Waiting { data_bytes, answer } = shared.flight().waiting.remove(&cookie)?;
    let outcome = if error == 0 {
        let mut data = vec![0; data_bytes];
        reading.read_exact(&mut data).await.ok()?;
        Ok(Bytes::from(data))
    } else {
        Err(NbdError::Refused(error))
    };
    // Whoever asked may have given up waiting.
    let _ = answer.send(outcome);
    Some(())
}

impl fmt::Display for NbdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NbdError::Connect(kind) => write!(f, "cannot connect to the NBD socket: {kind}"),
            NbdError::Silent => f.write_str("the NBD server says nothing"),
            NbdError::Protocol(what) => write!(f, "the NBD server breaks the protocol: {what}"),
            NbdError::Export(reply) => write!(f, "the NBD server does not open the export (reply {reply:#x})"),
            NbdError::Refused(errno) => write!(f, "the NBD server answered with error {errno}"),
            NbdError::Lost => f.write_str("the NBD connection ended before the answer"),
        }
    }
}

impl std::error::Error for NbdError {}

impl From<NbdError> for Fault {
    fn from(error: NbdError) -> Self {
        Fault::failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::nbd::{Address, Export, Exports, Refusal, Server};
    use crate::volume::block::memory::Memory;

    struct Disk(Export);

    impl Exports for Disk {
        fn list(&self) -> Vec<String> {
            vec!["disk".to_owned()]
        }

        fn find(&self, name: &str) -> Result<Export, Refusal> {
            if name == "disk" { Ok(self.0.clone()) } else { Err(Refusal::Unknown) }
        }
    }

    async fn serve(folder: &tempfile::TempDir) -> (Server, std::path::PathBuf, Arc<Memory>) {
        let socket = folder.path().join("nbd.sock");
        let memory = Arc::new(Memory::new(1 << 20));
        let exports = Arc::new(Disk(Export::new(memory.clone())));
        let server = Server::start(&Address::unix(socket.clone()).unwrap(), exports).await.unwrap();
        (server, socket, memory)
    }

    #[tokio::test]
    async fn many_requests_in_flight_get_their_own_answers() {
        let folder = tempfile::tempdir().unwrap();
        let (server, socket, memory) = serve(&folder).await;
        let client = Client::connect(&socket, "disk").await.unwrap();
        assert_eq!(client.size_bytes(), 1 << 20);
        let writes = (0..128_u64).map(|i| client.write(i * 4096, Bytes::from(vec![i as u8 + 1; 4096]), i % 7 == 0));
        for written in futures::future::join_all(writes).await {
            written.unwrap();
        }
        client.flush().await.unwrap();
        client.trim(4096, 4096).await.unwrap();
        let reads = (0..128_u64).map(|i| client.read(i * 4096, 4096));
        for (i, data) in futures::future::join_all(reads).await.into_iter().enumerate() {
            let expected = if i == 1 { 0 } else { i as u8 + 1 };
            assert!(data.unwrap() == vec![expected; 4096], "block {i}");
        }
        assert_eq!((memory.flushes(), memory.fua()), (1, 19));
        server.stop().await;
    }

    #[tokio::test]
    async fn errors_and_a_lost_connection_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let (server, socket, _memory) = serve(&folder).await;
        assert!(matches!(Client::connect(&socket, "absent").await, Err(NbdError::Export(_))));
        let absent = Client::connect(&folder.path().join("absent"), "disk").await;
        assert_eq!(absent.err(), Some(NbdError::Connect(io::ErrorKind::NotFound)));
        let client = Client::connect(&socket, "disk").await.unwrap();
        assert_eq!(client.read(1 << 20, 512).await, Err(NbdError::Refused(22)));
        assert_eq!(client.write(1 << 20, Bytes::from_static(&[1; 512]), false).await, Err(NbdError::Refused(28)));
        assert_eq!(client.read(0, 2).await.unwrap(), [0; 2].as_slice());
        server.abort();
        server.stop().await;
        assert_eq!(client.flush().await, Err(NbdError::Lost));
        assert_eq!(client.read(0, 2).await, Err(NbdError::Lost));
    }

    #[tokio::test]
    async fn a_server_that_is_none_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("other.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let other = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"220 this is a mail server and nothing else\r\n").await.unwrap();
        });
        assert!(matches!(Client::connect(&socket, "disk").await, Err(NbdError::Protocol(_))));
        other.await.unwrap();
    }
}
