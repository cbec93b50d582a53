//! The socket that clients connect to: a Unix socket for this user alone, or a TCP port of this machine.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::address::Address;
use crate::base::error::{Fault, plain};

/// Only the user the daemon runs as may use its volumes; root may anyway.
const SOCKET_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A bound socket.
pub enum Listener {
    Unix { listener: UnixListener, _file: SocketFile },
    Tcp(TcpListener),
}

/// A client's connection.
pub enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// The name of a Unix socket, removed when dropped unless another socket has taken its place.
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode of our socket.
    identity: Option<(u64, u64)>,
}

impl Listener {
    /// Binds, and says where: with the port that was picked if the address asked for any.
    pub async fn bind(address: &Address) -> Result<(Self, Address), Fault> {
        match address {
            Address::Unix(path) => bind_unix(path).await.map(|listener| (listener, address.clone())),
            Address::Tcp(socket_address) => {
                let refused = |error: std::io::Error| match error.kind() {
                    ErrorKind::AddrInUse => Fault::conflict(format!("the port of {address} is in use"))
                        .hint("choose another one, or port 0 to have a free one picked"),
                    _ => Fault::failed(format!("cannot listen on {address}: {}", plain(&error))),
                };
                let listener = TcpListener::bind(socket_address).await.map_err(refused)?;
                let bound = listener.local_addr().map_err(refused)?;
                Ok((Self::Tcp(listener), Address::Tcp(bound)))
            }
        }
    }

    /// Waits for a client.
    pub async fn accept(&self) -> std::io::Result<Accepted> {
        match self {
            Self::Unix { listener, .. } => listener.accept().await.map(|(socket, _)| Accepted::Unix(socket)),
            Self::Tcp(listener) => {
                let (socket, _) = listener.accept().await?;
                // Answers are sent whole, so waiting to fill a segment only delays them.
                socket.set_nodelay(true)?;
                Ok(Accepted::Tcp(socket))
            }
        }
    }
}

async fn bind_unix(path: &Path) -> Result<Listener, Fault> {
    remove_stale(path).await?;
    let failed = |error: rustix::io::Errno| match error {
        rustix::io::Errno::ADDRINUSE => in_use(path),
        error => Fault::io("listen on the socket", path, &error.into()),
    };
    let socket = bound_socket(path).map_err(failed)?;
    let identity = std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let file = SocketFile { path: path.to_owned(), identity };
    let listener = UnixListener::from_std(socket.into()).map_err(|error| Fault::io("listen on", path, &error))?;
    Ok(Listener::Unix { listener, _file: file })
}

/// The mode is set before the name exists, so there is no moment in which others could connect.
fn bound_socket(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&socket, SOCKET_MODE)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Makes way for a new socket if the one there is of a process that has died; refuses anything else that is there.
async fn remove_stale(path: &Path) -> Result<(), Fault> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Fault::io("look at", path, &error)),
    };
    if !found.file_type().is_socket() {
        return Err(Fault::conflict(format!("{} is there and is no socket", path.display()))
            .hint("choose another path with --nbd unix:PATH"));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| Fault::io("remove the stale socket", path, &error))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // A full backlog or a lack of permission: someone is there all the same.
        Ok(_) | Err(_) => Err(in_use(path)),
    }
}

fn in_use(path: &Path) -> Fault {
    Fault::conflict(format!("another process serves at {}", path.display()))
        .hint("stop it, or choose another path with --nbd unix:PATH")
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = std::fs::symlink_metadata(&self.path).ok().map(|found| (found.dev(), found.ino()));
        if self.identity.is_some() && found == self.identity {
            // Left behind, the name is recognised as stale by the next one to bind it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::base::error::Kind;

    async fn bind(path: &Path) -> Result<Listener, Fault> {
        Listener::bind(&Address::unix(path).unwrap()).await.map(|(listener, _)| listener)
    }

    #[tokio::test]
    async fn a_unix_socket_is_private_replaces_a_stale_one_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pg.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dead process leaves its socket");
        let listener = bind(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = bind(&path).await.err().unwrap();
        assert_eq!(second.kind, Kind::Conflict);
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_not_ours_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pg.sock");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path).await.err().unwrap().kind, Kind::Conflict);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");

        std::fs::remove_file(&path).unwrap();
        let listener = bind(&path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let successor = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists(), "the successor's name stays");
        drop(successor);
        let missing = bind(&folder.path().join("no/such/folder.sock")).await.err().unwrap();
        assert_eq!(missing.kind, Kind::Failed);
    }

    #[tokio::test]
    async fn a_tcp_port_is_picked_and_a_taken_one_refused() {
        let any = "tcp:127.0.0.1:0".parse().unwrap();
        let (_listener, bound) = Listener::bind(&any).await.unwrap();
        assert_ne!(bound, any);
        assert_eq!(Listener::bind(&bound).await.err().unwrap().kind, Kind::Conflict);
    }
}
