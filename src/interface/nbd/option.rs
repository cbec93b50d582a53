//! What a client asks during the handshake: bytes in, values out, every length checked.

use super::protocol::{
    INFO_NAME, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT,
    OPT_STRUCTURED_REPLY, OPTION_HEADER_BYTES, OPTION_MAGIC, STRING_BYTES_MAX,
};

/// The header of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    pub code: u32,
    /// Bytes of data that follow the header.
    pub length: u32,
}

/// These bytes are no option: the client is out of step, and nothing after them can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnOption;

/// The data of an option contradicts itself or is not text where text belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOption;

/// An option, borrowed from the bytes it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOption<'a> {
    ExportName(&'a str),
    Abort,
    List,
    Info(Ask<'a>),
    Go(Ask<'a>),
    StructuredReply,
    ListMetaContext(ContextQueries<'a>),
    SetMetaContext(ContextQueries<'a>),
    /// To be answered with "unsupported".
    Unknown(u32),
}

/// The export that INFO or GO names, and the kinds of information the client would like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask<'a> {
    pub export: &'a str,
    pub wants_name: bool,
}

/// The export and the queries of LIST_META_CONTEXT or SET_META_CONTEXT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextQueries<'a> {
    pub export: &'a str,
    pub queries: Vec<&'a str>,
}

impl OptionHeader {
    /// Reads the header of an option.
    pub fn decode(bytes: &[u8; OPTION_HEADER_BYTES]) -> Result<Self, NotAnOption> {
        let mut reader = Reader(bytes);
        let (Ok(magic_high), Ok(magic_low), Ok(code), Ok(length)) =
            (reader.u32(), reader.u32(), reader.u32(), reader.u32())
        else {
            return Err(NotAnOption);
        };
        if u64::from(magic_high) << 32 | u64::from(magic_low) != OPTION_MAGIC {
            return Err(NotAnOption);
        }
        Ok(Self { code, length })
    }
}

/// Reads the data of an option.
pub fn decode(code: u32, data: &[u8]) -> Result<ClientOption<'_>, BadOption> {
    let mut reader = Reader(data);
    let option = match code {
        OPT_EXPORT_NAME => ClientOption::ExportName(reader.text(data.len())?),
        OPT_ABORT => {
            // Whatever it carries, the client wants to leave.
            return Ok(ClientOption::Abort);
        }
        OPT_LIST => ClientOption::List,
        OPT_INFO => ClientOption::Info(reader.ask()?),
        OPT_GO => ClientOption::Go(reader.ask()?),
        OPT_STRUCTURED_REPLY => ClientOption::StructuredReply,
        OPT_LIST_META_CONTEXT => ClientOption::ListMetaContext(reader.context_queries()?),
        OPT_SET_META_CONTEXT => ClientOption::SetMetaContext(reader.context_queries()?),
        unknown => return Ok(ClientOption::Unknown(unknown)),
    };
    if reader.0.is_empty() { Ok(option) } else { Err(BadOption) }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], BadOption> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(BadOption)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, BadOption> {
        let bytes = self.take(2)?.try_into().map_err(|_| BadOption)?;
        Ok(u16::from_be_bytes(bytes))
    }

    fn u32(&mut self) -> Result<u32, BadOption> {
        let bytes = self.take(4)?.try_into().map_err(|_| BadOption)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn text(&mut self, length: usize) -> Result<&'a str, BadOption> {
        if length > STRING_BYTES_MAX {
            return Err(BadOption);
        }
        std::str::from_utf8(self.take(length)?).map_err(|_| BadOption)
    }

    /// A string with its length before it.
    fn string(&mut self) -> Result<&'a str, BadOption> {
        let length = self.u32()?;
        self.text(length as usize)
    }

    fn ask(&mut self) -> Result<Ask<'a>, BadOption> {
        let export = self.string()?;
        let mut wants_name = false;
        for _ in 0..self.u16()? {
            wants_name |= self.u16()? == INFO_NAME;
        }
        Ok(Ask { export, wants_name })
    }

    fn context_queries(&mut self) -> Result<ContextQueries<'a>, BadOption> {
        let export = self.string()?;
        let count = self.u32()?;
        // Each query takes four bytes at least, so a count that the data cannot hold fails here and allocates nothing.
        if count as usize > self.0.len() / 4 {
            return Err(BadOption);
        }
        let queries = (0..count).map(|_| self.string()).collect::<Result<_, _>>()?;
        Ok(ContextQueries { export, queries })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
    }

    #[test]
    fn options_read_as_they_were_sent() {
        assert_eq!(decode(OPT_EXPORT_NAME, b"pg"), Ok(ClientOption::ExportName("pg")));
        assert_eq!(decode(OPT_LIST, b""), Ok(ClientOption::List));
        let go = [string("pg"), vec![0, 2, 0, 3, 0, 1]].concat();
        assert_eq!(decode(OPT_GO, &go), Ok(ClientOption::Go(Ask { export: "pg", wants_name: true })));
        let set = [string("pg"), vec![0, 0, 0, 2], string("base:allocation"), string("x-y:z")].concat();
        let expected = ContextQueries { export: "pg", queries: vec!["base:allocation", "x-y:z"] };
        assert_eq!(decode(OPT_SET_META_CONTEXT, &set), Ok(ClientOption::SetMetaContext(expected)));
        assert_eq!(decode(77, b"anything"), Ok(ClientOption::Unknown(77)));
    }

    #[test]
    fn lengths_that_contradict_one_another_are_refused() {
        assert_eq!(decode(OPT_LIST, b"x"), Err(BadOption));
        assert_eq!(decode(OPT_STRUCTURED_REPLY, b"x"), Err(BadOption));
        assert_eq!(decode(OPT_EXPORT_NAME, &[0xff]), Err(BadOption));
        assert_eq!(decode(OPT_EXPORT_NAME, &[b'a'; STRING_BYTES_MAX + 1]), Err(BadOption));
        assert_eq!(decode(OPT_GO, &[0xff, 0xff, 0xff, 0xff, 0, 0]), Err(BadOption));
        assert_eq!(decode(OPT_GO, &[string("pg"), vec![0, 2, 0, 3]].concat()), Err(BadOption));
        assert_eq!(decode(OPT_GO, &[string("pg"), vec![0, 0, 9]].concat()), Err(BadOption));
        assert_eq!(decode(OPT_SET_META_CONTEXT, &[string("pg"), vec![0xff; 4]].concat()), Err(BadOption));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_option_or_refused(code in 0u32..12, data in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(code, &data);
        }

        #[test]
        fn any_names_and_queries_survive(export in ".{0,40}", queries in prop::collection::vec(".{0,40}", 0..8)) {
            let count = (queries.len() as u32).to_be_bytes().to_vec();
            let mut data = [string(&export), count].concat();
            queries.iter().for_each(|query| data.extend(string(query)));
            let queries = queries.iter().map(String::as_str).collect();
            let expected = ClientOption::ListMetaContext(ContextQueries { export: &export, queries });
            prop_assert_eq!(decode(OPT_LIST_META_CONTEXT, &data), Ok(expected));
        }
    }
}
