//! This machine's name and addresses, from the kernel's own tables; names that it was given, from a resolver.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::base::address::Address;
use crate::base::error::{Fault, Kind, Result};
use crate::transport::resolver::{RESOLVE_TIME_MAX, ResolveError, resolve};

/// The most addresses a node tells of itself.
const ADDRESSES_MAX: usize = 8;

/// The host name, for people.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().trim().to_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// What to tell others: the address given for it, else the one listened on, else every address of this machine.
/// Loopback addresses only if there is nothing else: they lead nowhere from another machine.
pub fn advertised(listen: SocketAddr, advertise: Option<&Address>) -> Vec<Address> {
    if let Some(address) = advertise {
        return vec![if address.port() == 0 { address.with_port(listen.port()) } else { address.clone() }];
    }
    if !listen.ip().is_unspecified() {
        return vec![listen.into()];
    }
    let v4 = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut found: Vec<IpAddr> = local_v4(&v4).into_iter().map(IpAddr::V4).collect();
    if listen.is_ipv6() {
        found.extend(global_v6(&v6).into_iter().map(IpAddr::V6));
    }
    let (loopback, mut outer): (Vec<IpAddr>, Vec<IpAddr>) = found.into_iter().partition(IpAddr::is_loopback);
    if outer.is_empty() {
        outer = if loopback.is_empty() { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { loopback };
    }
    outer.truncate(ADDRESSES_MAX);
    outer.into_iter().map(|ip| SocketAddr::new(ip, listen.port()).into()).collect()
}

/// The address that a node is to listen on.
pub async fn listening(listen: &Address) -> Result<SocketAddr> {
    let found = resolve(listen, RESOLVE_TIME_MAX).await.map_err(|error| name_fault("--listen", &error))?;
    // A resolved place has at least one address.
    Ok(found[0])
}

/// Refuses a name to be reached by that does not exist. Name servers that do not answer prove nothing: the others may
/// reach better ones.
pub async fn check_advertised(advertise: &Address) -> Result<()> {
    match resolve(advertise, RESOLVE_TIME_MAX).await {
        Ok(_) => Ok(()),
        Err(error @ ResolveError::NoSuchName(_)) => Err(name_fault("--advertise", &error)),
        Err(error) => {
            tracing::warn!("--advertise {advertise}: {error}; the others are told it all the same");
            Ok(())
        }
    }
}

fn name_fault(flag: &str, error: &ResolveError) -> Fault {
    let (kind, hint) = match error {
        ResolveError::NoSuchName(_) => {
            (Kind::NotFound, format!("add it to /etc/hosts or to DNS, or write an address: {flag} IP:PORT"))
        }
        ResolveError::NoAnswer { .. } => {
            (Kind::Unreachable, format!("check /etc/resolv.conf, or write an address: {flag} IP:PORT"))
        }
    };
    Fault::new(kind, format!("{flag}: {error}")).hint(hint)
}

/// The local addresses in the kernel's IPv4 routing table: each a line `|-- ADDRESS`, then `/32 host LOCAL`.
fn local_v4(table: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(address) = last
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// The addresses of global scope (the fourth column is 00): 32 hexadecimal digits without colons.
fn global_v6(table: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| {
        let mut columns = line.split_whitespace();
        let (digits, scope) = (columns.next()?, columns.nth(2)?);
        let bits = u128::from_str_radix(digits, 16).ok()?;
        (scope == "00").then(|| Ipv6Addr::from(bits))
    };
    table.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let trie = "Main:\n  |-- 10.0.0.0\n     /24 link UNICAST\n  |-- 10.0.0.5\n     /32 host LOCAL\nLocal:\n  |-- 10.0.0.5\n     /32 host LOCAL\n  |-- 127.0.0.1\n     /32 host LOCAL\n";
        assert_eq!(local_v4(trie), [Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::LOCALHOST]);
        let inet6 =
            "fe800000000000000000000000000001 02 40 20 80 eth0\n20010db8000000000000000000000001 02 40 00 80 eth0\n";
        assert_eq!(global_v6(inet6), ["2001:db8::1".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn what_is_listened_on_is_advertised() {
        let listen: SocketAddr = "127.0.0.1:7000".parse().unwrap();
        assert_eq!(advertised(listen, None), [listen.into()]);
        for (told, known) in [("192.0.2.1:0", "192.0.2.1:7000"), ("host-a:0", "host-a:7000"), ("host-a:1", "host-a:1")]
        {
            let advertise: Address = told.parse().unwrap();
            assert_eq!(advertised(listen, Some(&advertise)), [known.parse().unwrap()]);
        }
        let any = advertised("0.0.0.0:7000".parse().unwrap(), None);
        assert!(!any.is_empty() && any.iter().all(|address| address.port() == 7000));
    }
}
