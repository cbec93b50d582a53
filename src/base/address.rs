//! Where a node is reached: an IP address or a host name, and a port.
//!
//! A name is kept as a name and passed on as one: whoever dials it resolves it, anew each time.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest host name, in bytes, and the longest of its labels (RFC 1035, section 2.3.4).
pub const HOST_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// `IP:PORT` or `HOST:PORT`. Text for people; in bytes an IP address reads and writes as a `SocketAddr` does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    Ip(SocketAddr),
    Name(HostPort),
}

/// A host name that could be one, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl Address {
    pub fn port(&self) -> u16 {
        match self {
            Address::Ip(address) => address.port(),
            Address::Name(name) => name.port,
        }
    }

    /// The same place with another port.
    pub fn with_port(&self, port: u16) -> Address {
        match self {
            Address::Ip(address) => Address::Ip(SocketAddr::new(address.ip(), port)),
            Address::Name(name) => Address::Name(HostPort { host: name.host.clone(), port }),
        }
    }

    /// The address, if it is no name.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Address::Ip(address) => Some(address.ip()),
            Address::Name(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Name(name) => write!(f, "{}:{}", name.host, name.port),
        }
    }
}

/// Why text is no address; the sentence names what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAddress(pub String);

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoAddress {}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Address::Ip(address));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(NoAddress(format!("'{text}' has no port")));
        };
        if host.contains(':') {
            return Err(NoAddress(format!("'{text}' is no HOST:PORT; an IPv6 address stands in brackets")));
        }
        let Ok(port) = port.parse::<u16>() else { return Err(NoAddress(format!("'{port}' is no port"))) };
        host_port(host, port)
    }
}

fn host_port(host: &str, port: u16) -> Result<Address, NoAddress> {
    let label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let whole = host.strip_suffix('.').unwrap_or(host);
    // A last label of digits alone is a mistyped IP address (RFC 3696, section 2).
    let numeric = whole.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if whole.len() > HOST_BYTES_MAX || numeric || !whole.split('.').all(label) {
        return Err(NoAddress(format!("'{host}' is neither an IP address nor a host name")));
    }
    Ok(Address::Name(HostPort { host: host.to_owned(), port }))
}

/// What stands in bytes. The first two variants are those of `SocketAddr`.
#[derive(Serialize, Deserialize)]
enum Encoded {
    V4(SocketAddrV4),
    V6(SocketAddrV6),
    Name(String, u16),
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        let encoded = match self {
            Address::Ip(SocketAddr::V4(address)) => Encoded::V4(*address),
            Address::Ip(SocketAddr::V6(address)) => Encoded::V6(*address),
            Address::Name(name) => Encoded::Name(name.host.clone(), name.port),
        };
        encoded.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(D::Error::custom);
        }
        match Encoded::deserialize(deserializer)? {
            Encoded::V4(address) => Ok(Address::Ip(address.into())),
            Encoded::V6(address) => Ok(Address::Ip(address.into())),
            Encoded::Name(host, port) => host_port(&host, port).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_read_and_print() {
        for text in ["192.0.2.7:7420", "[2001:db8::7]:0", "host-a:7420", "node_1.example.com.:1"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
            let bytes = postcard::to_stdvec(&address).unwrap();
            assert_eq!(postcard::from_bytes::<Address>(&bytes).unwrap(), address);
        }
        let long = format!("{}:1", "a.".repeat(127) + "a");
        for text in
            ["", "host-a", "host-a:", "host-a:70000", ":7420", "300.1.1.1:1", "10.1:1", "a b:1", "::1:1", "-a:1", &long]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_ip_address_is_the_same_in_bytes_as_it_was_without_names() {
        for text in ["192.0.2.7:7420", "[2001:db8::7]:7420"] {
            let plain: SocketAddr = text.parse().unwrap();
            assert_eq!(postcard::to_stdvec(&Address::from(plain)), postcard::to_stdvec(&plain));
        }
        let forged = postcard::to_stdvec(&Encoded::Name("a\x1b[2J".to_owned(), 1)).unwrap();
        assert!(postcard::from_bytes::<Address>(&forged).is_err());
    }
}
