//! Where a server listens, as people write it (`unix:PATH`, `tcp:127.0.0.1:PORT`), and the URI by which clients find
//! an export there.

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::base::error::Fault;

/// The longest path of a Unix socket on Linux, without the zero that ends it.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A place to listen at. TCP is for this machine alone: what leaves it must be encrypted, which NBD here is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    /// A loopback address; port 0 picks a free one.
    Tcp(SocketAddr),
}

impl Address {
    /// A Unix socket at this absolute path.
    pub fn unix(path: impl Into<PathBuf>) -> Result<Self, Fault> {
        let path = path.into();
        if !path.is_absolute() {
            return Err(Fault::usage(format!("the socket path {} is not absolute", path.display()))
                .hint("write it from the root, like unix:/run/infinit/pg.sock"));
        }
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(Fault::usage(format!(
                "the socket path {} is longer than the {SOCKET_PATH_BYTES_MAX} bytes that Linux allows",
                path.display()
            ))
            .hint("choose a shorter one with --nbd unix:PATH"));
        }
        Ok(Self::Unix(path))
    }

    /// A TCP port of this machine.
    pub fn tcp(address: SocketAddr) -> Result<Self, Fault> {
        if !address.ip().is_loopback() {
            return Err(Fault::refused(format!(
                "NBD over TCP is not encrypted and is served on this machine alone, not on {}",
                address.ip()
            ))
            .hint("use --nbd tcp:127.0.0.1:PORT, and attach the volume on the machine that needs it"));
        }
        Ok(Self::Tcp(address))
    }

    /// The URI of an export served here, as NBD clients take it.
    pub fn uri(&self, export: &str) -> String {
        let name = percent_encoded(export.as_bytes(), b"");
        match self {
            Self::Unix(path) => {
                format!("nbd+unix:///{name}?socket={}", percent_encoded(path.as_os_str().as_bytes(), b"/"))
            }
            Self::Tcp(address) => format!("nbd://{address}/{name}"),
        }
    }
}

impl FromStr for Address {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::unix(path);
        }
        let address = text.strip_prefix("tcp:").and_then(|rest| rest.parse().ok());
        match address {
            Some(address) => Self::tcp(address),
            None => Err(Fault::usage(format!("'{text}' is no NBD address"))
                .hint("write unix:/PATH or tcp:127.0.0.1:PORT (an IP address, not a name)")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters and those in `keep`.
fn percent_encoded(bytes: &[u8], keep: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || keep.contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_read_print_and_become_uris() {
        assert_eq!(address("unix:/run/a b/pg.sock").uri("pg"), "nbd+unix:///pg?socket=/run/a%20b/pg.sock");
        assert_eq!(address("unix:/s").uri("é?&"), "nbd+unix:///%C3%A9%3F%26?socket=/s");
        assert_eq!(address("tcp:127.0.0.1:10809").uri("pg"), "nbd://127.0.0.1:10809/pg");
        assert_eq!(address("tcp:[::1]:1").uri("pg"), "nbd://[::1]:1/pg");
        for text in ["unix:/run/pg.sock", "tcp:127.0.0.1:0", "tcp:[::1]:10809"] {
            assert_eq!(address(text).to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_a_hint() {
        let long = format!("unix:/{}", "a".repeat(107));
        let table = [
            ("tcp:0.0.0.0:10809", Kind::Refused),
            ("tcp:192.0.2.1:10809", Kind::Refused),
            ("tcp:localhost:10809", Kind::Usage),
            ("tcp:127.0.0.1", Kind::Usage),
            ("unix:pg.sock", Kind::Usage),
            ("unix:", Kind::Usage),
            (&long, Kind::Usage),
            ("pg.sock", Kind::Usage),
            ("", Kind::Usage),
        ];
        for (text, kind) in table {
            let fault = text.parse::<Address>().unwrap_err();
            assert_eq!(fault.kind, kind, "{text}");
            assert!(fault.hint.is_some(), "{text}");
        }
    }
}
