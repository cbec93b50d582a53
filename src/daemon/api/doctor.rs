//! What `infinit doctor` finds.

use serde::{Deserialize, Serialize};

/// All that was looked at, in the order in which people read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkup {
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub verdict: Verdict,
    /// What was looked at: a word or two.
    pub name: String,
    /// What was found, in one line.
    pub finding: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Ok,
    /// It works, and may not for long or not as it should.
    Warning,
    /// Something does not work.
    Error,
}

impl Check {
    pub fn ok(name: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, name: name.into(), finding: finding.into(), hint: None }
    }

    pub fn warning(name: impl Into<String>, finding: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, hint: Some(hint.into()), ..Self::ok(name, finding) }
    }

    pub fn error(name: impl Into<String>, finding: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Error, hint: Some(hint.into()), ..Self::ok(name, finding) }
    }
}

impl Checkup {
    pub fn worst(&self) -> Verdict {
        self.checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok)
    }
}
