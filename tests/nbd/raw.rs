//! A client of the tests' own that can say anything, right or wrong, byte by byte.

use std::io::{Read, Result, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use infinit::interface::nbd::protocol::{
    BASE_ALLOCATION, CMD_READ, CMD_WRITE, INIT_MAGIC, OPT_GO, OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, REP_ACK, REP_INFO, REP_META_CONTEXT, REPLY_ERROR, REPLY_FLAG_DONE, REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};

/// No answer takes so long, unless something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Raw {
    pub stream: UnixStream,
}

/// What came back for a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub cookie: u64,
    pub errno: u32,
    /// Type of the chunk; none for a simple reply.
    pub chunk: Option<u16>,
    /// The chunk's payload; nothing for a simple reply, whose data must be read apart.
    pub payload: Vec<u8>,
}

impl Raw {
    /// Connects and exchanges greeting and flags.
    pub fn connect(socket: &Path) -> Result<Self> {
        Self::connect_with_flags(socket, 3)
    }

    pub fn connect_with_flags(socket: &Path, flags: u32) -> Result<Self> {
        let mut raw = Self::connect_silent(socket)?;
        let greeting = raw.receive(18)?;
        assert_eq!(greeting[..8], INIT_MAGIC.to_be_bytes());
        assert_eq!(greeting[8..16], OPTION_MAGIC.to_be_bytes());
        raw.send(&flags.to_be_bytes())?;
        Ok(raw)
    }

    /// Connects and says nothing.
    pub fn connect_silent(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn receive(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Sends an option and collects its replies, up to the last.
    pub fn option(&mut self, code: u32, data: &[u8]) -> Result<Vec<(u32, Vec<u8>)>> {
        self.send(&option(code, data.len() as u32, data))?;
        let mut replies = Vec::new();
        loop {
            let header = self.receive(20)?;
            assert_eq!(header[..8], OPTION_REPLY_MAGIC.to_be_bytes());
            assert_eq!(header[8..12], code.to_be_bytes());
            let kind = u32_at(&header, 12);
            let data = self.receive(u32_at(&header, 16) as usize)?;
            replies.push((kind, data));
            if kind == REP_ACK || kind >> 31 == 1 {
                return Ok(replies);
            }
        }
    }

    /// The types of the replies to an option.
    pub fn option_kinds(&mut self, code: u32, data: &[u8]) -> Result<Vec<u32>> {
        Ok(self.option(code, data)?.into_iter().map(|(kind, _)| kind).collect())
    }

    /// Agrees on an export; with structured replies, on `base:allocation` too.
    pub fn into_transmission(mut self, export: &str, structured: bool) -> Self {
        if structured {
            assert_eq!(self.option_kinds(OPT_STRUCTURED_REPLY, b"").unwrap(), [REP_ACK]);
            let contexts = contexts(export, &[BASE_ALLOCATION]);
            assert_eq!(self.option_kinds(OPT_SET_META_CONTEXT, &contexts).unwrap(), [REP_META_CONTEXT, REP_ACK]);
        }
        let replies = self.option_kinds(OPT_GO, &ask(export, &[])).unwrap();
        assert_eq!(replies, [REP_INFO, REP_INFO, REP_ACK]);
        self
    }

    /// The next answer, simple or structured.
    pub fn answer(&mut self) -> Result<Answer> {
        let magic = u32_at(&self.receive(4)?, 0);
        if magic == SIMPLE_REPLY_MAGIC {
            let rest = self.receive(12)?;
            return Ok(Answer { cookie: u64_at(&rest, 4), errno: u32_at(&rest, 0), chunk: None, payload: Vec::new() });
        }
        assert_eq!(magic, STRUCTURED_REPLY_MAGIC, "the server is out of step");
        let rest = self.receive(16)?;
        assert_eq!(rest[..2], REPLY_FLAG_DONE.to_be_bytes());
        let chunk = u16::from_be_bytes([rest[2], rest[3]]);
        let payload = self.receive(u32_at(&rest, 12) as usize)?;
        let errno = if chunk == REPLY_ERROR { u32_at(&payload, 0) } else { 0 };
        Ok(Answer { cookie: u64_at(&rest, 4), errno, chunk: Some(chunk), payload })
    }

    /// Sends a request and returns the error of its answer, which must be the next; reads are not for this.
    pub fn errno_of(&mut self, request: &[u8]) -> Result<u32> {
        self.send(request)?;
        let answer = self.answer()?;
        assert_eq!(answer.cookie.to_be_bytes(), request[8..16]);
        Ok(answer.errno)
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<u32> {
        let header = request(CMD_WRITE, 0, offset, offset, data.len() as u32);
        self.errno_of(&[&header, data].concat())
    }

    /// Reads without structured replies.
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>> {
        assert_eq!(self.errno_of(&request(CMD_READ, 0, offset, offset, length))?, 0);
        self.receive(length as usize)
    }

    /// Whether the server has ended the connection: nothing more comes, not even what was on its way.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// An option that announces `length` bytes and carries `data`.
pub fn option(code: u32, length: u32, data: &[u8]) -> Vec<u8> {
    [&OPTION_MAGIC.to_be_bytes()[..], &code.to_be_bytes(), &length.to_be_bytes(), data].concat()
}

/// The data of INFO and GO.
pub fn ask(export: &str, infos: &[u16]) -> Vec<u8> {
    let mut data = string(export);
    data.extend((infos.len() as u16).to_be_bytes());
    infos.iter().for_each(|info| data.extend(info.to_be_bytes()));
    data
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn contexts(export: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = string(export);
    data.extend((queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| data.extend(string(query)));
    data
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

/// The header of a request.
pub fn request(command: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    [
        &REQUEST_MAGIC.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}
