//! The two kinds of socket a client may come by, and what tells the volume that a client is still there.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::volume::block::device::Origin;

/// A connected stream socket.
pub trait Socket: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static {}

impl Socket for TcpStream {}
impl Socket for UnixStream {}

/// The connection that requests come from. It holds the socket by a descriptor of its own, so that the question can be
/// asked for as long as a request is parked somewhere.
pub struct Connection {
    socket: OwnedFd,
}

impl Connection {
    pub fn of(socket: &impl AsFd) -> std::io::Result<Self> {
        Ok(Self { socket: socket.as_fd().try_clone_to_owned()? })
    }

    /// Ends the connection in both directions, whoever else still holds a descriptor of it.
    pub fn cut(&self) {
        // Fails only on a socket that is not connected any more, which is what is wanted.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

impl Origin for Connection {
    fn stands(&self) -> bool {
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut asked = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An interrupted or failed poll tells nothing: the request then goes on, as without the question.
        poll(&mut asked, Some(&now)).is_err() || !asked[0].revents().intersects(gone)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream as StdUnixStream;

    use super::*;

    #[test]
    fn a_connection_stands_until_either_side_ends_it() {
        let (here, mut there) = StdUnixStream::pair().unwrap();
        let connection = Connection::of(&here).unwrap();
        there.write_all(b"unread bytes change nothing").unwrap();
        assert!(connection.stands());
        drop(there);
        assert!(!connection.stands());

        let (here, there) = StdUnixStream::pair().unwrap();
        let connection = Connection::of(&here).unwrap();
        connection.cut();
        assert!(!connection.stands());
        assert!(!Connection::of(&there).unwrap().stands(), "the client notices");
    }

    #[test]
    fn a_tcp_connection_is_no_different() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (here, _) = listener.accept().unwrap();
        let connection = Connection::of(&here).unwrap();
        assert!(connection.stands());
        client.shutdown(std::net::Shutdown::Write).unwrap();
        // The end of the stream travels through the loopback device: wait for it by reading.
        assert_eq!(std::io::Read::read(&mut &here, &mut [0; 1]).unwrap(), 0);
        assert!(!connection.stands());
    }
}
