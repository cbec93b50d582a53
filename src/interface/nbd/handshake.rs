//! The fixed newstyle handshake: which export, and by which rules.
//!
//! [`Negotiation`] is pure: an option in, bytes of the answer and the next step out. [`negotiate`] moves the bytes.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::exports::{Export, Exports, Refusal, resolve};
use super::option::{self, Ask, ClientOption, ContextQueries, OptionHeader};
use super::protocol::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, FLAG_CAN_MULTI_CONN, FLAG_FIXED_NEWSTYLE, FLAG_HAS_FLAGS, FLAG_NO_ZEROES,
    FLAG_READ_ONLY, FLAG_SEND_CACHE, FLAG_SEND_DF, FLAG_SEND_FAST_ZERO, FLAG_SEND_FLUSH, FLAG_SEND_FUA, FLAG_SEND_TRIM,
    FLAG_SEND_WRITE_ZEROES, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST, OPT_LIST_META_CONTEXT,
    OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY, OPTION_BYTES_MAX, OPTION_DRAIN_BYTES_MAX, OPTION_HEADER_BYTES, REP_ACK,
    REP_ERR_INVALID, REP_ERR_SHUTDOWN, REP_ERR_TOO_BIG, REP_ERR_UNKNOWN, REP_ERR_UNSUP,
};
use super::reply;
use super::request::Rules;
use super::socket::Socket;

/// What client and server agreed on.
pub struct Agreement {
    pub name: String,
    pub export: Export,
    pub rules: Rules,
}

/// What follows an option.
pub enum Next {
    /// Another option.
    Option,
    /// Requests.
    Serve(Box<Agreement>),
    /// Nothing: the client left, or cannot be told what is wrong.
    Close,
}

/// Why a handshake led nowhere.
#[derive(Debug)]
pub enum HandshakeError {
    Io(std::io::Error),
    /// The client set flags that were not offered.
    UnknownFlags(u32),
    /// What came was no option.
    NotAnOption,
    /// An option so long that it is not even thrown away.
    TooLong(u32),
}

impl From<std::io::Error> for HandshakeError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl std::fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::UnknownFlags(flags) => write!(f, "the client set unknown flags {flags:#x}"),
            Self::NotAnOption => f.write_str("the client sent something that is no option"),
            Self::TooLong(length) => write!(f, "the client sent an option of {length} bytes"),
        }
    }
}

/// The state of one handshake.
pub struct Negotiation<'e> {
    exports: &'e dyn Exports,
    no_zeroes: bool,
    structured: bool,
    /// The export that `base:allocation` was last selected for.
    allocation_of: Option<String>,
}

impl<'e> Negotiation<'e> {
    /// Begins once the client has answered the greeting with its flags.
    pub fn new(exports: &'e dyn Exports, client_flags: u32) -> Result<Self, HandshakeError> {
        let known = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
        if client_flags & !known != 0 {
            return Err(HandshakeError::UnknownFlags(client_flags));
        }
        let no_zeroes = client_flags & u32::from(FLAG_NO_ZEROES) != 0;
        Ok(Self { exports, no_zeroes, structured: false, allocation_of: None })
    }

    /// Answers an option whose data is all there.
    pub fn answer(&mut self, code: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        let Ok(option) = option::decode(code, data) else {
            if code == OPT_EXPORT_NAME {
                return Next::Close;
            }
            reply::option_reply(out, code, REP_ERR_INVALID, b"the option's lengths contradict one another");
            return Next::Option;
        };
        match option {
            ClientOption::ExportName(name) => return self.export_name(name, out),
            ClientOption::Abort => {
                reply::option_reply(out, OPT_ABORT, REP_ACK, b"");
                return Next::Close;
            }
            ClientOption::List => self.list(out),
            ClientOption::Info(ask) => {
                self.inform(OPT_INFO, &ask, out);
            }
            ClientOption::Go(ask) => {
                if let Some(agreement) = self.inform(OPT_GO, &ask, out) {
                    return Next::Serve(Box::new(agreement));
                }
            }
            ClientOption::StructuredReply => {
                self.structured = true;
                reply::option_reply(out, OPT_STRUCTURED_REPLY, REP_ACK, b"");
            }
            ClientOption::ListMetaContext(asked) => self.list_contexts(&asked, out),
            ClientOption::SetMetaContext(asked) => self.set_contexts(&asked, out),
            ClientOption::Unknown(code) => {
                reply::option_reply(out, code, REP_ERR_UNSUP, b"this server does not know the option");
            }
        }
        Next::Option
    }

    /// The old way in, which can only succeed or close.
    fn export_name(&mut self, name: &str, out: &mut Vec<u8>) -> Next {
        let Ok((name, export)) = resolve(self.exports, name) else { return Next::Close };
        let agreement = self.agreement(name, export);
        reply::export_name(out, agreement.rules.size, flags(&agreement.rules), !self.no_zeroes);
        Next::Serve(Box::new(agreement))
    }

    fn list(&self, out: &mut Vec<u8>) {
        for name in self.exports.list() {
            reply::listed_export(out, OPT_LIST, &name);
        }
        reply::option_reply(out, OPT_LIST, REP_ACK, b"");
    }

    /// INFO, and GO up to its acknowledgement.
    fn inform(&self, option: u32, ask: &Ask<'_>, out: &mut Vec<u8>) -> Option<Agreement> {
        let (name, export) = self.find(option, ask.export, out)?;
        let agreement = self.agreement(name, export);
        reply::export_info(out, option, agreement.rules.size, flags(&agreement.rules));
        if ask.wants_name {
            reply::name_info(out, option, &agreement.name);
        }
        reply::block_size_info(out, option);
        reply::option_reply(out, option, REP_ACK, b"");
        Some(agreement)
    }

    fn list_contexts(&self, asked: &ContextQueries<'_>, out: &mut Vec<u8>) {
        if self.find_for_contexts(OPT_LIST_META_CONTEXT, asked, out).is_none() {
            return;
        }
        // Without a query all contexts are listed, and "base:" alone asks for all of that namespace.
        let listed = |query: &&str| *query == BASE_ALLOCATION || *query == "base:";
        if asked.queries.is_empty() || asked.queries.iter().any(listed) {
            reply::meta_context(out, OPT_LIST_META_CONTEXT, 0, BASE_ALLOCATION);
        }
        reply::option_reply(out, OPT_LIST_META_CONTEXT, REP_ACK, b"");
    }

    fn set_contexts(&mut self, asked: &ContextQueries<'_>, out: &mut Vec<u8>) {
        // Whatever comes of it, the selection before is gone.
        self.allocation_of = None;
        let Some(name) = self.find_for_contexts(OPT_SET_META_CONTEXT, asked, out) else { return };
        if asked.queries.contains(&BASE_ALLOCATION) {
            self.allocation_of = Some(name);
            reply::meta_context(out, OPT_SET_META_CONTEXT, BASE_ALLOCATION_ID, BASE_ALLOCATION);
        }
        reply::option_reply(out, OPT_SET_META_CONTEXT, REP_ACK, b"");
    }

    fn find_for_contexts(&self, option: u32, asked: &ContextQueries<'_>, out: &mut Vec<u8>) -> Option<String> {
        if !self.structured {
            reply::option_reply(out, option, REP_ERR_INVALID, b"structured replies must be negotiated first");
            return None;
        }
        self.find(option, asked.export, out).map(|(name, _)| name)
    }

    /// The export, or the answer that there is none.
    fn find(&self, option: u32, name: &str, out: &mut Vec<u8>) -> Option<(String, Export)> {
        match resolve(self.exports, name) {
            Ok(found) => Some(found),
            Err(Refusal::Unknown) => {
                reply::option_reply(out, option, REP_ERR_UNKNOWN, b"there is no such export");
                None
            }
            Err(Refusal::Shutdown) => {
                reply::option_reply(out, option, REP_ERR_SHUTDOWN, b"the volume is no longer attached here");
                None
            }
        }
    }

    fn agreement(&self, name: String, export: Export) -> Agreement {
        let rules = Rules {
            size: export.device.size(),
            read_only: export.read_only,
            structured: self.structured,
            allocation: self.allocation_of.as_ref() == Some(&name),
        };
        Agreement { name, export, rules }
    }
}

/// The transmission flags of an export. Several connections are safe because all of them lead to the one device, and a
/// flush or FUA there covers what any of them had answered.
fn flags(rules: &Rules) -> u16 {
    let mut flags = FLAG_HAS_FLAGS | FLAG_SEND_FLUSH | FLAG_SEND_FUA | FLAG_CAN_MULTI_CONN | FLAG_SEND_CACHE;
    if rules.read_only {
        flags |= FLAG_READ_ONLY;
    } else {
        flags |= FLAG_SEND_TRIM | FLAG_SEND_WRITE_ZEROES | FLAG_SEND_FAST_ZERO;
    }
    if rules.structured {
        flags |= FLAG_SEND_DF;
    }
    flags
}

/// Leads a client from its first byte to an agreement. `None`: it left by itself, or asked for what cannot be
/// refused with words. Bytes that came after the last option stay in `inbox`.
pub async fn negotiate(
    socket: &mut impl Socket,
    inbox: &mut BytesMut,
    exports: &dyn Exports,
) -> Result<Option<Agreement>, HandshakeError> {
    let mut out = Vec::new();
    reply::greeting(&mut out);
    socket.write_all(&out).await?;
    if !fill(socket, inbox, 4).await? {
        return Ok(None);
    }
    let mut negotiation = Negotiation::new(exports, inbox.get_u32())?;
    while fill(socket, inbox, OPTION_HEADER_BYTES).await? {
        let mut header = [0; OPTION_HEADER_BYTES];
        inbox.copy_to_slice(&mut header);
        let header = OptionHeader::decode(&header).map_err(|_| HandshakeError::NotAnOption)?;
        out.clear();
        let next = if header.length > OPTION_BYTES_MAX {
            if !discard(socket, inbox, header.length).await? {
                return Ok(None);
            }
            reply::option_reply(&mut out, header.code, REP_ERR_TOO_BIG, b"the option is too long");
            Next::Option
        } else {
            let length = header.length as usize;
            if !fill(socket, inbox, length).await? {
                return Ok(None);
            }
            let data = inbox.split_to(length);
            negotiation.answer(header.code, &data, &mut out)
        };
        socket.write_all(&out).await?;
        match next {
            Next::Option => {}
            Next::Serve(agreement) => return Ok(Some(*agreement)),
            Next::Close => return Ok(None),
        }
    }
    Ok(None)
}

/// Reads until `inbox` holds `length` bytes; false if the client ended before.
async fn fill(socket: &mut impl Socket, inbox: &mut BytesMut, length: usize) -> std::io::Result<bool> {
    while inbox.len() < length {
        inbox.reserve(length - inbox.len());
        if socket.read_buf(inbox).await? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Throws `length` bytes away; false if the client ended before.
async fn discard(socket: &mut impl Socket, inbox: &mut BytesMut, length: u32) -> Result<bool, HandshakeError> {
    if length > OPTION_DRAIN_BYTES_MAX {
        return Err(HandshakeError::TooLong(length));
    }
    let mut left = length as usize;
    while left > 0 {
        if inbox.is_empty() && !fill(socket, inbox, 1).await? {
            return Ok(false);
        }
        let part = left.min(inbox.len());
        inbox.advance(part);
        left -= part;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::interface::nbd::protocol::OPTION_REPLY_MAGIC;
    use crate::volume::block::memory::Memory;

    struct Names(Vec<&'static str>);

    impl Exports for Names {
        fn list(&self) -> Vec<String> {
            self.0.iter().map(|name| name.to_string()).collect()
        }

        fn find(&self, name: &str) -> Result<Export, Refusal> {
            if name == "closing" {
                return Err(Refusal::Shutdown);
            }
            if !self.0.contains(&name) {
                return Err(Refusal::Unknown);
            }
            Ok(Export::new(Arc::new(Memory::new(1 << 20))))
        }
    }

    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
    }

    fn ask(name: &str) -> Vec<u8> {
        [string(name), vec![0, 0]].concat()
    }

    fn contexts(name: &str, query: &str) -> Vec<u8> {
        [string(name), vec![0, 0, 0, 1], string(query)].concat()
    }

    /// The types of the replies in `out`.
    fn kinds(mut out: &[u8]) -> Vec<u32> {
        let mut kinds = Vec::new();
        while !out.is_empty() {
            assert_eq!(out.get_u64(), OPTION_REPLY_MAGIC);
            out.get_u32();
            kinds.push(out.get_u32());
            let length = out.get_u32() as usize;
            out.advance(length);
        }
        kinds
    }

    fn answered(negotiation: &mut Negotiation<'_>, code: u32, data: &[u8]) -> Vec<u32> {
        let mut out = Vec::new();
        assert!(matches!(negotiation.answer(code, data, &mut out), Next::Option));
        kinds(&out)
    }

    #[test]
    fn every_option_is_answered_and_framing_kept() {
        let exports = Names(vec!["a", "b"]);
        let mut n = Negotiation::new(&exports, 3).unwrap();
        assert_eq!(answered(&mut n, OPT_LIST, b""), [2, 2, REP_ACK]);
        assert_eq!(answered(&mut n, OPT_LIST, b"x"), [REP_ERR_INVALID]);
        assert_eq!(answered(&mut n, 5, b""), [REP_ERR_UNSUP], "TLS");
        assert_eq!(answered(&mut n, 0xdead, b"data"), [REP_ERR_UNSUP]);
        assert_eq!(answered(&mut n, OPT_INFO, &ask("a")), [3, 3, REP_ACK]);
        assert_eq!(answered(&mut n, OPT_INFO, &ask("c")), [REP_ERR_UNKNOWN]);
        assert_eq!(answered(&mut n, OPT_INFO, &ask("closing")), [REP_ERR_SHUTDOWN]);
        assert_eq!(answered(&mut n, OPT_GO, &ask("")), [REP_ERR_UNKNOWN], "two exports, no default");
        assert_eq!(answered(&mut n, OPT_SET_META_CONTEXT, &contexts("a", BASE_ALLOCATION)), [REP_ERR_INVALID]);
        assert_eq!(answered(&mut n, OPT_STRUCTURED_REPLY, b""), [REP_ACK]);
        assert_eq!(answered(&mut n, OPT_LIST_META_CONTEXT, &contexts("a", "base:")), [4, REP_ACK]);
        assert_eq!(answered(&mut n, OPT_LIST_META_CONTEXT, &contexts("a", "qemu:")), [REP_ACK]);
        assert_eq!(answered(&mut n, OPT_SET_META_CONTEXT, &contexts("a", BASE_ALLOCATION)), [4, REP_ACK]);
    }

    /// The agreement reached by GO or EXPORT_NAME.
    fn agreed(negotiation: &mut Negotiation<'_>, code: u32, data: &[u8]) -> Agreement {
        match negotiation.answer(code, data, &mut Vec::new()) {
            Next::Serve(agreement) => *agreement,
            Next::Option | Next::Close => panic!("no agreement"),
        }
    }

    #[test]
    fn contexts_count_only_for_the_export_they_were_selected_for() {
        let exports = Names(vec!["a", "b"]);
        let mut n = Negotiation::new(&exports, 3).unwrap();
        answered(&mut n, OPT_STRUCTURED_REPLY, b"");
        answered(&mut n, OPT_SET_META_CONTEXT, &contexts("a", BASE_ALLOCATION));
        assert!(agreed(&mut n, OPT_GO, &ask("a")).rules.allocation);
        assert!(!agreed(&mut n, OPT_GO, &ask("b")).rules.allocation);
        answered(&mut n, OPT_SET_META_CONTEXT, &contexts("a", "x-none:"));
        assert!(!agreed(&mut n, OPT_GO, &ask("a")).rules.allocation);
    }

    #[test]
    fn the_only_export_is_the_default() {
        let exports = Names(vec!["only"]);
        let mut n = Negotiation::new(&exports, 3).unwrap();
        assert_eq!(agreed(&mut n, OPT_EXPORT_NAME, b"").name, "only");
        assert_eq!(agreed(&mut n, OPT_GO, &ask("")).name, "only");
        assert!(matches!(n.answer(OPT_EXPORT_NAME, b"other", &mut Vec::new()), Next::Close));
        assert!(matches!(n.answer(OPT_ABORT, b"", &mut Vec::new()), Next::Close));
        assert!(Negotiation::new(&exports, 4).is_err());
    }

    proptest! {
        #[test]
        fn any_option_gets_well_formed_answers(code in 2u32..16, data in prop::collection::vec(any::<u8>(), 0..100)) {
            let exports = Names(vec!["a"]);
            let mut out = Vec::new();
            let mut negotiation = Negotiation::new(&exports, 3).unwrap();
            negotiation.answer(code, &data, &mut out);
            prop_assert!(!kinds(&out).is_empty());
        }
    }
}
