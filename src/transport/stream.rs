//! A TCP connection under TLS that carries length-prefixed frames, driven by whoever polls it.
//!
//! rustls is driven through its unbuffered interface in one place, with one large buffer in each direction: one read
//! takes many records from the socket, they are decrypted in place, and many small frames leave in few large records
//! and few writes. A general TLS stream that is split into two halves takes a lock a call and reads 4 KiB at a time.
//!
//! ```text
//! plain text: { length u32 little-endian, that many bytes } …      a length of 0 is a sign of life
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CertificateError, ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::base::error::plain;
use crate::base::id::NodeId;
use crate::transport::network::{FRAME_BYTES_MAX, Frame};
use crate::transport::tls::{WrongNode, certified_node};

/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER_BYTES: usize = 4;
/// Bytes asked from the socket at once: some records, small enough to stay in the processor's cache.
const READ_BYTES: usize = 128 << 10;
/// Plain text from which on a piece is encrypted where it lies instead of being gathered: one TLS record.
const RECORD_BYTES: usize = 16 << 10;
/// What TLS 1.3 adds to a record at the most: header, content type, tag, and slack for a key update.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// Plain text is received into chunks of this size, which the small frames within share.
const CHUNK_BYTES: usize = 64 << 10;
/// Memory that a frame's announced length alone can claim: a record of the largest kind fits.
const RESERVED_BYTES_MAX: usize = 256 << 10;

/// One connection. Nothing happens unless it is polled.
pub(crate) struct SecureStream {
    tcp: TcpStream,
    session: Session,
    incoming: Buffer,
    outgoing: Buffer,
    inbox: Inbox,
    /// Small pieces gathered into one record.
    gathered: BytesMut,
    /// What is to be encrypted next, in order.
    staged: Vec<Bytes>,
    peer_closed: bool,
}

enum Session {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What the session needs before it can go on.
enum Step {
    Again,
    NeedsBytes,
    Ready,
    PeerClosed,
    Closed,
}

impl SecureStream {
    /// The side that dialled. The address is only a formality of TLS: the certificate names the node.
    pub(crate) fn client(tcp: TcpStream, config: Arc<ClientConfig>, to: SocketAddr) -> Result<Self, StreamError> {
        let name = ServerName::IpAddress(to.ip().into());
        let session = UnbufferedClientConnection::new(config, name).map_err(StreamError::from_tls)?;
        Ok(Self::new(tcp, Session::Client(Box::new(session))))
    }

    /// The side that listened.
    pub(crate) fn server(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<Self, StreamError> {
        let session = UnbufferedServerConnection::new(config).map_err(StreamError::from_tls)?;
        Ok(Self::new(tcp, Session::Server(Box::new(session))))
    }

    fn new(tcp: TcpStream, session: Session) -> Self {
        Self {
            tcp,
            session,
            incoming: Buffer::default(),
            outgoing: Buffer::default(),
            inbox: Inbox::default(),
            gathered: BytesMut::new(),
            staged: Vec::new(),
            peer_closed: false,
        }
    }

    /// Goes on in the runtime that was entered.
    pub(crate) fn moved(mut self) -> Result<Self, StreamError> {
        let tcp = self.tcp.into_std().and_then(TcpStream::from_std);
        self.tcp = tcp.map_err(StreamError::from_io)?;
        Ok(self)
    }

    /// Completes the handshake and says which node is at the other end.
    pub(crate) async fn handshake(&mut self) -> Result<NodeId, StreamError> {
        loop {
            if let Err(error) = self.advance() {
                // The alert that tells the peer why; if it does not get there, the error at hand is still the one.
                let _ = self.flush().await;
                return Err(error);
            }
            self.flush().await?;
            let (handshaking, certificates) = match &self.session {
                Session::Client(session) => (session.is_handshaking(), session.peer_certificates()),
                Session::Server(session) => (session.is_handshaking(), session.peer_certificates()),
            };
            if !handshaking {
                return certified_node(certificates).ok_or(StreamError::Protocol("it shows no node key".into()));
            }
            if !self.fill().await? {
                return Err(StreamError::Closed);
            }
        }
    }

    /// Sends one frame and waits until it is handed to the system.
    pub(crate) async fn send(&mut self, frame: Bytes) -> Result<(), StreamError> {
        self.stage(Frame::one(frame));
        self.advance()?;
        self.flush().await
    }

    /// The next frame; an end of the connection is an error.
    pub(crate) async fn receive(&mut self, len_max: usize) -> Result<Bytes, StreamError> {
        loop {
            if let Some(frame) = self.take_frame(len_max)? {
                return Ok(frame);
            }
            if self.peer_closed || !self.fill().await? {
                return Err(StreamError::Closed);
            }
            self.advance()?;
        }
    }

    /// Tells the peer that nothing follows, and waits until it has closed too, so that what was sent last is not
    /// lost to a reset. The caller bounds the time.
    pub(crate) async fn finish(&mut self) -> Result<(), StreamError> {
        self.advance()?;
        self.close_notify();
        self.flush().await?;
        poll_fn(|context| Pin::new(&mut self.tcp).poll_shutdown(context)).await.map_err(StreamError::from_io)?;
        while self.fill().await? {
            self.incoming.clear();
        }
        Ok(())
    }

    /// Puts a frame among what is encrypted by the next [`SecureStream::advance`]. Long pieces are not copied.
    pub(crate) fn stage(&mut self, frame: Frame) {
        self.gathered.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        for part in frame.parts {
            if part.len() >= RECORD_BYTES {
                self.staged.push(self.gathered.split().freeze());
                self.staged.push(part);
            } else {
                self.gathered.extend_from_slice(&part);
            }
        }
    }

    /// Whether encrypted bytes wait for the socket.
    pub(crate) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Encrypted bytes that wait for the socket.
    pub(crate) fn outgoing_bytes(&self) -> usize {
        self.outgoing.len()
    }

    /// Whether the peer said that nothing follows.
    pub(crate) fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Decrypts what was read and encrypts what was staged.
    pub(crate) fn advance(&mut self) -> Result<(), StreamError> {
        if !self.gathered.is_empty() {
            self.staged.push(self.gathered.split().freeze());
        }
        loop {
            let incoming = self.incoming.filled_mut();
            let (discard, step) = match &mut self.session {
                Session::Client(session) => {
                    react(session.process_tls_records(incoming), &mut self.outgoing, &mut self.inbox, &mut self.staged)
                }
                Session::Server(session) => {
                    react(session.process_tls_records(incoming), &mut self.outgoing, &mut self.inbox, &mut self.staged)
                }
            };
            self.incoming.consume(discard);
            match step {
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Ok(Step::NeedsBytes | Step::Ready) => return Ok(()),
                Ok(Step::Closed) => {
                    self.peer_closed = true;
                    return Ok(());
                }
                Err(error) => {
                    self.queue_alert();
                    return Err(error);
                }
            }
        }
    }

    /// Takes the next whole frame of what was decrypted.
    pub(crate) fn take_frame(&mut self, len_max: usize) -> Result<Option<Bytes>, StreamError> {
        match self.inbox.frames.pop_front() {
            Some(frame) if frame.len() > len_max => Err(StreamError::FrameTooLong(frame.len())),
            Some(frame) => Ok(Some(frame)),
            // The rest of a frame that is too long is not waited for.
            None => frame_length(&self.inbox.bytes, len_max).map(|_| None),
        }
    }

    /// Reads from the socket once; `false` at its end.
    pub(crate) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, StreamError>> {
        let mut space = ReadBuf::new(self.incoming.space(READ_BYTES));
        ready!(Pin::new(&mut self.tcp).poll_read(context, &mut space)).map_err(StreamError::from_io)?;
        let read = space.filled().len();
        self.incoming.extend(read);
        Poll::Ready(Ok(read > 0))
    }

    /// Writes to the socket until nothing waits.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        while !self.outgoing.is_empty() {
            let written = ready!(Pin::new(&mut self.tcp).poll_write(context, self.outgoing.filled()));
            match written.map_err(StreamError::from_io)? {
                0 => return Poll::Ready(Err(StreamError::Closed)),
                written => self.outgoing.consume(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    async fn fill(&mut self) -> Result<bool, StreamError> {
        poll_fn(|context| self.poll_fill(context)).await
    }

    async fn flush(&mut self) -> Result<(), StreamError> {
        poll_fn(|context| self.poll_flush(context)).await
    }

    fn close_notify(&mut self) {
        let incoming = self.incoming.filled_mut();
        let space = self.outgoing.space(RECORD_OVERHEAD_BYTES);
        let (discard, written) = match &mut self.session {
            Session::Client(session) => queue_close_notify(session.process_tls_records(incoming), space),
            Session::Server(session) => queue_close_notify(session.process_tls_records(incoming), space),
        };
        self.incoming.consume(discard);
        self.outgoing.extend(written);
    }

    /// After an error of TLS: what the session wants to tell the peer about it.
    fn queue_alert(&mut self) {
        let mut nothing = Vec::new();
        loop {
            let incoming = self.incoming.filled_mut();
            let (outgoing, inbox) = (&mut self.outgoing, &mut self.inbox);
            let (discard, step) = match &mut self.session {
                Session::Client(session) => react(session.process_tls_records(incoming), outgoing, inbox, &mut nothing),
                Session::Server(session) => react(session.process_tls_records(incoming), outgoing, inbox, &mut nothing),
            };
            self.incoming.consume(discard);
            if !matches!(step, Ok(Step::Again)) {
                return;
            }
        }
    }
}

/// The length of the frame at the front, once its header is there. Refuses one beyond the limit.
pub(crate) fn frame_length(bytes: &[u8], len_max: usize) -> Result<Option<usize>, StreamError> {
    let Some(header) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
    let len = u32::from_le_bytes(*header) as usize;
    if len > len_max { Err(StreamError::FrameTooLong(len)) } else { Ok(Some(len)) }
}

/// Does what one state of the session asks for; returns the bytes of the input it is done with.
fn react<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Buffer,
    inbox: &mut Inbox,
    staged: &mut Vec<Bytes>,
) -> (usize, Result<Step, StreamError>) {
    let mut discard = status.discard;
    let step = match status.state {
        Err(error) => Err(StreamError::from_tls(error)),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    inbox.extend(record.payload);
                }
                Some(Err(error)) => break Err(StreamError::from_tls(error)),
                None => break Ok(Step::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => match data.encode(outgoing.space(RECORD_OVERHEAD_BYTES)) {
            Ok(written) => {
                outgoing.extend(written);
                Ok(Step::Again)
            }
            Err(EncodeError::InsufficientSize(need)) => match data.encode(outgoing.space(need.required_size)) {
                Ok(written) => {
                    outgoing.extend(written);
                    Ok(Step::Again)
                }
                Err(error) => Err(StreamError::Protocol(error.to_string())),
            },
            Err(error) => Err(StreamError::Protocol(error.to_string())),
        },
        // What was encoded is in the outgoing buffer, in order, ahead of all that follows.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            let sealed = staged.drain(..).try_for_each(|plain| {
                let records = plain.len() / RECORD_BYTES + 2;
                let need = plain.len() + records * RECORD_OVERHEAD_BYTES;
                let written = match traffic.encrypt(&plain, outgoing.space(need)) {
                    Err(EncryptError::InsufficientSize(more)) => {
                        traffic.encrypt(&plain, outgoing.space(more.required_size))
                    }
                    other => other,
                };
                written.map(|written| outgoing.extend(written)).map_err(|e| StreamError::Protocol(e.to_string()))
            });
            sealed.map(|()| Step::Ready)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::NeedsBytes),
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::Closed) => Ok(Step::Closed),
        Ok(_) => Err(StreamError::Protocol("early data is not taken".into())),
    };
    (discard, step)
}

fn queue_close_notify<Data>(status: UnbufferedStatus<'_, '_, Data>, space: &mut [u8]) -> (usize, usize) {
    match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            (status.discard, traffic.queue_close_notify(space).unwrap_or(0))
        }
        _ => (status.discard, 0),
    }
}

/// What was decrypted.
#[derive(Default)]
struct Inbox {
    /// Whole frames that are not taken yet.
    frames: VecDeque<Bytes>,
    /// The beginning of the next one.
    bytes: BytesMut,
}

impl Inbox {
    fn extend(&mut self, some: &[u8]) {
        if self.bytes.capacity() - self.bytes.len() < some.len() {
            self.bytes.reserve(CHUNK_BYTES.max(some.len()));
        }
        self.bytes.extend_from_slice(some);
        while let Ok(Some(len)) = frame_length(&self.bytes, FRAME_BYTES_MAX) {
            let whole = FRAME_HEADER_BYTES + len;
            if self.bytes.len() < whole {
                // The rest of a long frame goes to one place from its first bytes on, so that it is copied only once.
                self.bytes.reserve((whole - self.bytes.len()).min(RESERVED_BYTES_MAX));
                return;
            }
            self.bytes.advance(FRAME_HEADER_BYTES);
            self.frames.push_back(self.bytes.split_to(len).freeze());
        }
    }
}

/// A queue of bytes in one piece of initialised memory, so that neither end zeroes or shifts it needlessly.
#[derive(Default)]
struct Buffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn filled(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }

    /// Free bytes behind what is filled, at least so many.
    fn space(&mut self, least: usize) -> &mut [u8] {
        if self.data.len() - self.end < least {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.data.len() - self.end < least {
                self.data.resize(self.end + least, 0);
            }
        }
        &mut self.data[self.end..]
    }

    fn extend(&mut self, bytes: usize) {
        self.end += bytes;
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.end {
            self.clear();
        }
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }
}

/// Why a connection does not work, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamError {
    /// The peer ended it.
    Closed,
    Io(String),
    /// The other end is another node, or its certificate is no node's.
    WrongPeer(String),
    /// What the peer sends makes no sense, or it says so of what we send.
    Protocol(String),
    FrameTooLong(usize),
}

impl StreamError {
    fn from_io(error: std::io::Error) -> Self {
        StreamError::Io(plain(&error))
    }

    fn from_tls(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<WrongNode>() {
                    Some(wrong) => StreamError::WrongPeer(wrong.to_string()),
                    None => StreamError::WrongPeer("its certificate is not a node's".into()),
                }
            }
            rustls::Error::InvalidCertificate(_) => StreamError::WrongPeer("its certificate is not a node's".into()),
            rustls::Error::AlertReceived(alert) => StreamError::WrongPeer(format!("it refused this node: {alert:?}")),
            other => StreamError::Protocol(other.to_string()),
        }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Closed => f.write_str("the other end closed the connection"),
            StreamError::Io(why) | StreamError::WrongPeer(why) | StreamError::Protocol(why) => f.write_str(why),
            StreamError::FrameTooLong(len) => write!(f, "it announces a message of {len} bytes, over the limit"),
        }
    }
}

impl std::error::Error for StreamError {}

/// Fuzz entry: splits any bytes into frames as a connection does.
pub fn fuzz_frames(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some(len)) = frame_length(rest, 1 << 20) {
        match rest.get(FRAME_HEADER_BYTES + len..) {
            Some(following) => rest = following,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_is_read_once_it_is_whole_and_bounded() {
        assert_eq!(frame_length(&[1, 0, 0], 10), Ok(None));
        assert_eq!(frame_length(&[10, 0, 0, 0, 9], 10), Ok(Some(10)));
        assert_eq!(frame_length(&[11, 0, 0, 0], 10), Err(StreamError::FrameTooLong(11)));
        assert_eq!(frame_length(&[0xff; 4], 8 << 20), Err(StreamError::FrameTooLong(0xffff_ffff)));
    }

    #[test]
    fn frames_come_out_whole_however_their_bytes_arrive() {
        let frames: Vec<Vec<u8>> = [0, 1, 5, 70_000, 131_200, 3, 400_000].map(|len| vec![len as u8 | 1; len]).into();
        let sent: Vec<u8> =
            frames.iter().flat_map(|frame| [&(frame.len() as u32).to_le_bytes()[..], &frame[..]].concat()).collect();
        for step in [1, 7, 4096, 16 << 10, sent.len()] {
            let mut inbox = Inbox::default();
            sent.chunks(step).for_each(|some| inbox.extend(some));
            assert!(inbox.bytes.is_empty() && inbox.frames.iter().eq(frames.iter()), "in steps of {step}");
        }
    }

    proptest! {
        #[test]
        fn a_buffer_gives_back_what_was_put_in(pieces in proptest::collection::vec((0_usize..300, 0_usize..300), 1..50)) {
            let (mut buffer, mut model, mut next) = (Buffer::default(), Vec::new(), 0_u8);
            for (put, take) in pieces {
                let bytes: Vec<u8> = (0..put).map(|_| { next = next.wrapping_add(1); next }).collect();
                buffer.space(put)[..put].copy_from_slice(&bytes);
                buffer.extend(put);
                model.extend_from_slice(&bytes);
                let take = take.min(model.len());
                buffer.consume(take);
                model.drain(..take);
                prop_assert_eq!(buffer.filled(), &model[..]);
                prop_assert_eq!(buffer.len(), model.len());
            }
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_frames(&bytes);
        }
    }
}
