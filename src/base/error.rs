//! What a person sees when something is refused or fails: a kind that becomes the exit code, one line that says what,
//! which and why, and a hint with the command that mends it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a command did not do what it was asked, and the exit code that says so to a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Failed,
    Usage,
    NotFound,
    Conflict,
    Unreachable,
    Refused,
    TimedOut,
}

impl Kind {
    /// The process's exit code, as documented in `man infinit`.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::NotFound => 3,
            Kind::Conflict => 4,
            Kind::Unreachable => 5,
            Kind::Refused => 6,
            Kind::TimedOut => 7,
        }
    }
}

/// An error as a person sees it. Layers have errors of their own and turn them into this one at their edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub kind: Kind,
    /// One line: what failed, which one, and why.
    pub message: String,
    /// The command or the change that mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

pub type Result<T, E = Fault> = std::result::Result<T, E>;

impl Fault {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unreachable, message)
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    pub fn timed_out(message: impl Into<String>) -> Self {
        Self::new(Kind::TimedOut, message)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An operating system error on a path: `cannot open /x: Permission denied`.
    pub fn io(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::failed(format!("cannot {doing} {}: {}", path.display(), plain(error)))
    }
}

/// An operating system error without Rust's `(os error 13)`.
pub fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_reads_as_a_sentence() {
        let fault = Fault::io("open", std::path::Path::new("/x"), &std::io::Error::from_raw_os_error(13));
        assert_eq!(fault.message, "cannot open /x: Permission denied");
        assert_eq!(fault.kind.exit_code(), 1);
    }
}
