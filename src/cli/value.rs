//! How the values of arguments are read. Each parser refuses early, with the hint that mends it.

use std::path::PathBuf;

use crate::base::address::{Address, NoAddress};
use crate::base::error::{Fault, Result};
use crate::base::units::{Size, Span};
use crate::daemon::api::{self, NbdAddress};
use crate::daemon::offline::SiloSpec;

/// The name of a volume.
pub fn volume_name(text: &str) -> Result<String> {
    api::check_name("volume", text).map(|()| text.to_owned())
}

/// The name of a network.
pub fn network_name(text: &str) -> Result<String> {
    api::check_name("network", text).map(|()| text.to_owned())
}

/// The size of a volume.
pub fn volume_size(text: &str) -> Result<Size> {
    // Nothing needs no unit to be refused for what it is.
    let size = if text.parse::<f64>().is_ok_and(|number| number == 0.0) { Size(0) } else { size(text)? };
    api::check_volume_size(size).map(|()| size)
}

/// A number of copies.
pub fn replicas(text: &str) -> Result<u8> {
    let replicas = text
        .parse::<u8>()
        .map_err(|_| Fault::usage(format!("'{text}' is no number of copies")).hint("use 3, or 1 for a single copy"))?;
    api::check_replicas(replicas).map(|()| replicas)
}

/// The term of a lease.
pub fn lease(text: &str) -> Result<Span> {
    let span = span(text)?;
    api::check_lease_ms(millis(span)).map(|()| span)
}

/// How long I/O waits for a majority.
pub fn io_timeout(text: &str) -> Result<Span> {
    let span = span(text)?;
    api::check_io_timeout_ms(millis(span)).map(|()| span)
}

/// A length of time that is not zero.
pub fn positive_span(text: &str) -> Result<Span> {
    let span = span(text)?;
    if span.0.is_zero() {
        return Err(Fault::usage("no time at all").hint("write one like 30s"));
    }
    Ok(span)
}

/// A length of time.
pub fn span(text: &str) -> Result<Span> {
    text.parse().map_err(with_hint)
}

/// Whole milliseconds, as the API has them.
pub fn millis(span: Span) -> u64 {
    u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX)
}

/// An address or a name to listen on or to be reached at.
pub fn address(text: &str) -> Result<Address> {
    text.parse().map_err(|error: NoAddress| {
        Fault::usage(error.to_string())
            .hint("write one like 192.0.2.7:7420, [2001:db8::7]:7420 or host-a.example.com:7420")
    })
}

/// Where to serve NBD, a relative path made absolute, because the daemon has another working directory.
pub fn nbd_address(text: &str) -> Result<NbdAddress> {
    match text.parse()? {
        NbdAddress::Unix(path) => {
            let path = crate::cli::context::absolute(&path)?;
            format!("unix:{}", path.display()).parse()
        }
        tcp => Ok(tcp),
    }
}

/// `PATH` or `PATH:CAPACITY`. What follows the last colon is a capacity if it begins with a digit.
pub fn silo(text: &str) -> Result<SiloSpec> {
    let (path, capacity) = match text.rsplit_once(':') {
        Some((path, tail)) if tail.starts_with(|c: char| c.is_ascii_digit()) => (path, Some(size(tail)?)),
        Some((_, "")) => {
            return Err(
                Fault::usage("nothing follows the colon").hint("write PATH or PATH:CAPACITY, like /data:500GiB")
            );
        }
        _ => (text, None),
    };
    if path.is_empty() {
        return Err(Fault::usage("the silo's path is empty").hint("write PATH or PATH:CAPACITY, like /data:500GiB"));
    }
    if capacity == Some(Size(0)) {
        return Err(
            Fault::usage("a silo of 0 bytes holds nothing").hint("leave the capacity out to use the whole disk")
        );
    }
    Ok(SiloSpec { path: crate::cli::context::absolute(&PathBuf::from(path))?, capacity })
}

/// The longest name of a zone, in bytes.
const ZONE_BYTES_MAX: usize = 64;

/// The name of a zone; the empty one takes it back.
pub fn zone(text: &str) -> Result<String> {
    if text.len() > ZONE_BYTES_MAX || text.chars().any(char::is_control) || text.trim() != text {
        return Err(Fault::usage("that is no name of a zone").hint(format!(
            "use at most {ZONE_BYTES_MAX} bytes without control characters and spaces at the ends, like rack-2; '' for none"
        )));
    }
    Ok(text.to_owned())
}

fn size(text: &str) -> Result<Size> {
    text.parse().map_err(with_hint)
}

/// Units say what is wrong and, after a colon, what to write instead.
fn with_hint(text: String) -> Fault {
    match text.split_once(": ") {
        Some((message, hint)) => Fault::usage(message).hint(hint),
        None => Fault::usage(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silo_is_a_path_with_or_without_a_capacity() {
        let spec = |path: &str, capacity| SiloSpec { path: path.into(), capacity };
        assert_eq!(silo("/data"), Ok(spec("/data", None)));
        assert_eq!(silo("/data:500GiB"), Ok(spec("/data", Some(Size(500 << 30)))));
        assert_eq!(silo("/a:b"), Ok(spec("/a:b", None)));
        assert!(silo("data").unwrap().path.is_absolute());
        for text in ["", ":1GiB", "/data:", "/data:5", "/data:0B"] {
            let fault = silo(text).unwrap_err();
            assert!(fault.hint.is_some(), "{text}: {fault}");
        }
    }

    #[test]
    fn units_give_their_hint_apart() {
        let fault = volume_size("20").unwrap_err();
        assert_eq!(fault.message, "a size needs a unit");
        assert_eq!(fault.hint.as_deref(), Some("did you mean 20GiB or 20MiB?"));
        assert_eq!(volume_size("0").unwrap_err(), volume_size("0GiB").unwrap_err());
        assert!(positive_span("0s").is_err());
        assert!(lease("999ms").is_err());
        assert_eq!(millis(lease("5s").unwrap()), 5000);
    }

    #[test]
    fn addresses_may_be_names() {
        for text in ["127.0.0.1:0", "[::1]:7000", "host-a:7000"] {
            assert_eq!(address(text).unwrap().to_string(), text);
        }
        assert!(address("host-a").unwrap_err().hint.unwrap().contains("host-a.example.com:7420"));
    }
}
