//! Host names to addresses, by `/etc/hosts` and the name servers of `/etc/resolv.conf`.
//!
//! Both files are read anew for each question and nothing is kept: names are asked for rarely, at a start or a dial,
//! and an answer from yesterday is what a name is there to avoid. The C library is never asked: it would load
//! libraries of the host, and the binary is static.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{TokioResolver, system_conf};
use tokio::time::timeout;

use crate::base::address::Address;

/// The time that one name may take where a person waits for it.
pub const RESOLVE_TIME_MAX: Duration = Duration::from_secs(5);

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The name servers say that there is no such name, or that it has no address.
    NoSuchName(String),
    /// Nobody could be asked, or nobody answered.
    NoAnswer { host: String, why: String },
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResolveError::NoSuchName(host) => write!(f, "there is no host '{host}'"),
            ResolveError::NoAnswer { host, why } => write!(f, "cannot resolve '{host}': {why}"),
        }
    }
}

impl std::error::Error for ResolveError {}

/// The addresses of a place, IPv4 first, within `limit`; at least one.
pub async fn resolve(address: &Address, limit: Duration) -> Result<Vec<SocketAddr>, ResolveError> {
    let (host, port) = match address {
        Address::Ip(address) => return Ok(vec![*address]),
        Address::Name(name) => (name.host(), address.port()),
    };
    let no_answer = |why: String| ResolveError::NoAnswer { host: host.to_owned(), why };
    let (resolver, has_servers) = resolver().map_err(|error| no_answer(error.to_string()))?;
    let looked_up = match timeout(limit, resolver.lookup_ip(host)).await {
        Ok(Ok(looked_up)) => looked_up,
        Ok(Err(error)) if error.is_no_records_found() => return Err(ResolveError::NoSuchName(host.to_owned())),
        Ok(Err(_)) if !has_servers => return Err(no_answer("/etc/resolv.conf names no server to ask".to_owned())),
        Ok(Err(error)) => return Err(no_answer(error.to_string())),
        Err(_) => return Err(no_answer("no name server answers in time".to_owned())),
    };
    let mut found: Vec<SocketAddr> = looked_up.iter().map(|ip| SocketAddr::new(ip, port)).collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found.dedup();
    if found.is_empty() { Err(ResolveError::NoSuchName(host.to_owned())) } else { Ok(found) }
}

/// A resolver by the system's files as they are now, and whether it has anybody to ask: without a usable
/// `/etc/resolv.conf` the hosts file still counts.
fn resolver() -> Result<(TokioResolver, bool), NetError> {
    let read = system_conf::read_system_conf();
    let has_servers = read.is_ok();
    let (config, mut options) = read.unwrap_or_else(|_| (ResolverConfig::default(), ResolverOpts::default()));
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 0;
    let resolver =
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build()?;
    Ok((resolver, has_servers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_itself_and_localhost_needs_nobody() {
        let plain: Address = "192.0.2.7:7420".parse().unwrap();
        assert_eq!(resolve(&plain, RESOLVE_TIME_MAX).await, Ok(vec!["192.0.2.7:7420".parse().unwrap()]));
        let local = resolve(&"localhost:7".parse().unwrap(), RESOLVE_TIME_MAX).await.unwrap();
        assert_eq!(local[0], "127.0.0.1:7".parse().unwrap());
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_an_error_in_time() {
        // Reserved by RFC 6761: whoever is asked, if anybody can be, says no.
        let address: Address = "no-such-host.invalid:7".parse().unwrap();
        let begun = std::time::Instant::now();
        let error = resolve(&address, RESOLVE_TIME_MAX).await.unwrap_err();
        assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
        assert!(begun.elapsed() < RESOLVE_TIME_MAX + Duration::from_secs(1));
    }
}
