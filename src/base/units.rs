//! Sizes and times as people write them: `20GiB`, `512MiB`, `1TB`; `30s`, `1h`, `7d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

const SIZES: [(&str, u64); 12] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

/// A number of bytes. Reads only with a unit, prints in binary units.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(['-', '−']) {
            return Err("a size cannot be negative: write one like 20GiB".to_owned());
        }
        let (digits, unit) = split(text);
        if unit.is_empty() {
            return Err(format!("a size needs a unit: {}", units_for(digits)));
        }
        let Some((_, scale)) = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
            return Err(format!("unknown unit '{unit}': use B, KiB, MiB, GiB, TiB, kB, MB, GB or TB"));
        };
        scaled(digits, *scale).map(Size).ok_or_else(|| format!("'{text}' is no size: write one like 20GiB"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, scale) in &SIZES[..5] {
            if self.0 >= *scale {
                let whole = self.0 as f64 / *scale as f64;
                return if self.0.is_multiple_of(*scale) {
                    write!(f, "{}{name}", self.0 / scale)
                } else {
                    write!(f, "{whole:.1}{name}")
                };
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// A length of time that people write with a unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, unit) = split(text);
        let scale_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err(format!("a time needs a unit: did you mean {text}s?")),
            _ => return Err(format!("unknown unit '{unit}': use ms, s, m, h or d")),
        };
        scaled(digits, scale_ms)
            .map(|ms| Span(Duration::from_millis(ms)))
            .ok_or_else(|| format!("'{text}' is no time: write one like 30s"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        for (name, scale) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if ms >= scale && ms.is_multiple_of(scale) {
                return write!(f, "{}{name}", ms / scale);
            }
        }
        write!(f, "{ms}ms")
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// What a size without its unit may have meant: what is large enough was counted in bytes.
fn units_for(digits: &str) -> String {
    match digits.parse::<f64>() {
        Ok(number) if number >= 1_000_000.0 => format!("did you mean {digits}B?"),
        Ok(number) if number > 0.0 => format!("did you mean {digits}GiB or {digits}MiB?"),
        _ => "write one like 20GiB".to_owned(),
    }
}

/// `digits × scale` in whole units; `None` for nonsense and for what does not fit.
fn scaled(digits: &str, scale: u64) -> Option<u64> {
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let value = digits.parse::<f64>().ok()? * scale as f64;
    (value.is_finite() && value < u64::MAX as f64).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        assert_eq!("20GiB".parse(), Ok(Size(20 << 30)));
        assert_eq!("1TB".parse(), Ok(Size(1_000_000_000_000)));
        assert_eq!("1.5GiB".parse(), Ok(Size(3 << 29)));
        assert_eq!("0B".parse(), Ok(Size(0)));
        assert!("20".parse::<Size>().unwrap_err().contains("20GiB"));
        assert!("-1".parse::<Size>().unwrap_err().contains("negative"));
        assert!("20971520".parse::<Size>().unwrap_err().contains("20971520B"));
        assert!("20XB".parse::<Size>().unwrap_err().contains("unknown unit"));
        assert!("GiB".parse::<Size>().is_err());
        assert!("999999999PiB".parse::<Size>().is_err());
        assert_eq!(Size(20 << 30).to_string(), "20GiB");
        assert_eq!(Size(3 << 29).to_string(), "1.5GiB");
        assert_eq!(Size(0).to_string(), "0B");
    }

    #[test]
    fn times_read_and_print() {
        assert_eq!("30s".parse(), Ok(Span(Duration::from_secs(30))));
        assert_eq!("7d".parse::<Span>().unwrap().to_string(), "7d");
        assert!("30".parse::<Span>().unwrap_err().contains("30s"));
        assert!("1y".parse::<Span>().is_err());
    }
}
