//! What a client asks once it has an export: the fixed header of a request, and whether it may be carried out.

use super::errno::{Effect, Errno, out_of_range};
use super::protocol::{
    CMD_BLOCK_STATUS, CMD_CACHE, CMD_FLAG_DF, CMD_FLAG_FAST_ZERO, CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLAG_REQ_ONE,
    CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES, PAYLOAD_BYTES_MAX, REQUEST_BYTES, REQUEST_MAGIC,
};

/// The header of a request as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub flags: u16,
    pub command: u16,
    /// Chosen by the client and sent back with the answer.
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

/// These bytes are no request: the client is out of step, and nothing after them can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARequest;

/// What was agreed in the handshake, by which requests are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Bytes of the export.
    pub size: u64,
    pub read_only: bool,
    pub structured: bool,
    /// `base:allocation` was selected.
    pub allocation: bool,
}

/// A request that may be carried out: its range lies within the export and is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Read,
    Write { fua: bool },
    Flush,
    Trim { fua: bool },
    Cache,
    Zero { keep: bool, fua: bool },
    Status { one: bool },
}

impl Request {
    /// Reads the header of a request.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, NotARequest> {
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) << 16 | u32::from(u16_at(at + 2));
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        if u32_at(0) != REQUEST_MAGIC {
            return Err(NotARequest);
        }
        Ok(Self { flags: u16_at(4), command: u16_at(6), cookie: u64_at(8), offset: u64_at(16), length: u32_at(24) })
    }

    /// Bytes of payload that follow the header, whether or not the request is carried out.
    pub fn payload_bytes(&self) -> u32 {
        if self.command == CMD_WRITE { self.length } else { 0 }
    }

    /// Decides whether the request may be carried out, or with which error it is refused.
    pub fn judge(&self, rules: &Rules) -> Result<Command, Errno> {
        let fua = self.flags & CMD_FLAG_FUA != 0;
        let (command, allowed) = match self.command {
            CMD_READ => (Command::Read, if rules.structured { CMD_FLAG_DF } else { 0 }),
            CMD_WRITE => (Command::Write { fua }, 0),
            CMD_FLUSH => (Command::Flush, 0),
            CMD_TRIM => (Command::Trim { fua }, 0),
            CMD_CACHE => (Command::Cache, 0),
            CMD_WRITE_ZEROES => {
                let keep = self.flags & CMD_FLAG_NO_HOLE != 0;
                // Zeroes are metadata here, so each such request is a fast one.
                (Command::Zero { keep, fua }, CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO)
            }
            CMD_BLOCK_STATUS if rules.allocation => {
                (Command::Status { one: self.flags & CMD_FLAG_REQ_ONE != 0 }, CMD_FLAG_REQ_ONE)
            }
            _ => return Err(Errno::Inval),
        };
        // Clients are known to set FUA on anything, and the specification has servers take it.
        if self.flags & !(allowed | CMD_FLAG_FUA) != 0 {
            return Err(Errno::Inval);
        }
        if rules.read_only && command.changes() {
            return Err(Errno::Perm);
        }
        self.judge_range(command, rules).map(|()| command)
    }

    fn judge_range(&self, command: Command, rules: &Rules) -> Result<(), Errno> {
        if command == Command::Flush {
            return if self.offset == 0 && self.length == 0 { Ok(()) } else { Err(Errno::Inval) };
        }
        if self.length == 0 {
            return Err(Errno::Inval);
        }
        let end = self.offset.checked_add(u64::from(self.length));
        if end.is_none_or(|end| end > rules.size) {
            return Err(out_of_range(command.effect()));
        }
        let carries = matches!(command, Command::Read | Command::Write { .. });
        if carries && self.length > PAYLOAD_BYTES_MAX {
            let unsplit = self.flags & CMD_FLAG_DF != 0;
            return Err(if unsplit { Errno::Overflow } else { Errno::Inval });
        }
        Ok(())
    }
}

impl Command {
    /// Whether it changes the export.
    pub fn changes(self) -> bool {
        match self {
            Command::Write { .. } | Command::Trim { .. } | Command::Zero { .. } => true,
            Command::Read | Command::Flush | Command::Cache | Command::Status { .. } => false,
        }
    }

    /// Whether it can fail for want of space.
    pub fn effect(self) -> Effect {
        match self {
            Command::Write { .. } | Command::Zero { .. } => Effect::Adds,
            Command::Read | Command::Flush | Command::Trim { .. } | Command::Cache | Command::Status { .. } => {
                Effect::Other
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules { size: 1 << 30, read_only: false, structured: true, allocation: true };

    fn request(command: u16, flags: u16, offset: u64, length: u32) -> Request {
        Request { flags, command, cookie: 7, offset, length }
    }

    fn refusal(command: u16, flags: u16, offset: u64, length: u32) -> Option<Errno> {
        request(command, flags, offset, length).judge(&RULES).err()
    }

    #[test]
    fn what_is_within_the_rules_is_carried_out() {
        assert_eq!(request(CMD_READ, CMD_FLAG_DF, 1, 3).judge(&RULES), Ok(Command::Read));
        assert_eq!(request(CMD_WRITE, CMD_FLAG_FUA, 0, 1 << 20).judge(&RULES), Ok(Command::Write { fua: true }));
        assert_eq!(request(CMD_FLUSH, 0, 0, 0).judge(&RULES), Ok(Command::Flush));
        assert_eq!(request(CMD_READ, CMD_FLAG_FUA, 0, 1).judge(&RULES), Ok(Command::Read));
        let zero = request(CMD_WRITE_ZEROES, CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO, 0, 1 << 30);
        assert_eq!(zero.judge(&RULES), Ok(Command::Zero { keep: true, fua: false }));
        let status = request(CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE, 0, 512);
        assert_eq!(status.judge(&RULES), Ok(Command::Status { one: true }));
    }

    #[test]
    fn each_refusal_has_the_code_of_the_specification() {
        let end = RULES.size;
        for command in [CMD_READ, CMD_WRITE, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS] {
            assert_eq!(refusal(command, 0, 0, 0), Some(Errno::Inval), "empty, command {command}");
            assert_eq!(refusal(command, 1 << 9, 0, 512), Some(Errno::Inval), "unknown flag, command {command}");
            let beyond = match command {
                CMD_WRITE | CMD_WRITE_ZEROES => Errno::NoSpc,
                _ => Errno::Inval,
            };
            assert_eq!(refusal(command, 0, end - 511, 512), Some(beyond), "past the end, command {command}");
            assert_eq!(refusal(command, 0, u64::MAX, 512), Some(beyond), "wraps around, command {command}");
        }
        assert_eq!(refusal(CMD_READ, 0, 0, PAYLOAD_BYTES_MAX + 1), Some(Errno::Inval));
        assert_eq!(refusal(CMD_READ, CMD_FLAG_DF, 0, PAYLOAD_BYTES_MAX + 1), Some(Errno::Overflow));
        assert_eq!(refusal(CMD_WRITE, 0, 0, PAYLOAD_BYTES_MAX + 1), Some(Errno::Inval));
        assert_eq!(refusal(CMD_TRIM, 0, 0, PAYLOAD_BYTES_MAX + 1), None);
        assert_eq!(refusal(CMD_WRITE, CMD_FLAG_DF, 0, 1), Some(Errno::Inval));
        assert_eq!(refusal(CMD_FLUSH, 0, 0, 1), Some(Errno::Inval));
        assert_eq!(refusal(99, 0, 0, 1), Some(Errno::Inval));
    }

    #[test]
    fn what_was_not_agreed_is_refused() {
        let plain = Rules { structured: false, allocation: false, ..RULES };
        assert_eq!(request(CMD_READ, CMD_FLAG_DF, 0, 1).judge(&plain), Err(Errno::Inval));
        assert_eq!(request(CMD_BLOCK_STATUS, 0, 0, 1).judge(&plain), Err(Errno::Inval));
        let read_only = Rules { read_only: true, ..RULES };
        for command in [CMD_WRITE, CMD_TRIM, CMD_WRITE_ZEROES] {
            assert_eq!(request(command, 0, 0, 1).judge(&read_only), Err(Errno::Perm));
        }
        assert_eq!(request(CMD_READ, 0, 0, 1).judge(&read_only), Ok(Command::Read));
    }

    proptest! {
        #[test]
        fn whatever_is_let_in_lies_within_the_export(
            bytes in any::<[u8; REQUEST_BYTES]>(), command in 0u16..8, structured: bool, read_only: bool,
        ) {
            let mut bytes = bytes;
            bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
            bytes[6..8].copy_from_slice(&command.to_be_bytes());
            let request = Request::decode(&bytes).unwrap();
            let rules = Rules { structured, read_only, allocation: structured, size: 1 << 40 };
            if let Ok(command) = request.judge(&rules) {
                prop_assert!(request.offset + u64::from(request.length) <= rules.size);
                prop_assert!(!(read_only && command.changes()));
            }
        }
    }

    #[test]
    fn another_magic_is_no_request() {
        assert_eq!(Request::decode(&[0; REQUEST_BYTES]), Err(NotARequest));
    }
}
