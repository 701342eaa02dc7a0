//! The check of one setting: the value found, the value wanted, and the verdict.

use anyhow::Result;
use serde::Serialize;

use crate::exit::Verdict;
use crate::output::Output;

/// The verdict on a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, with less than what is promised at its best.
    Warning,
    /// It could not be found out.
    Unknown,
    /// The promise does not hold with it.
    Wrong,
    /// The server did not answer.
    Unreachable,
}

/// The check of one setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The setting's name.
    pub name: String,
    /// Whether it is as wanted.
    pub status: Status,
    /// The value that was found.
    pub found: String,
    /// The value that is wanted.
    pub wanted: String,
    /// How to mend it; empty if there is nothing to mend.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mend: String,
}

impl Check {
    /// As it should be.
    pub fn ok(name: impl Into<String>, found: impl Into<String>, wanted: impl Into<String>) -> Self {
        let (name, found, wanted) = (name.into(), found.into(), wanted.into());
        Self { name, status: Status::Ok, found, wanted, mend: String::new() }
    }

    /// With another verdict, and a way to mend it.
    #[must_use]
    pub fn with(mut self, status: Status, mend: impl Into<String>) -> Self {
        self.status = status;
        self.mend = mend.into();
        self
    }

    /// With another verdict unless `holds`.
    #[must_use]
    pub fn unless(self, holds: bool, status: Status, mend: impl Into<String>) -> Self {
        if holds { self } else { self.with(status, mend) }
    }
}

/// Checks a value that the server reports; unknown if it does not report it.
pub fn known<T: ToString>(
    name: String,
    value: Option<T>,
    wanted: &str,
    judge: impl FnOnce(T, Check) -> Check,
) -> Check {
    match value {
        Some(value) => {
            let check = Check::ok(name, value.to_string(), wanted);
            judge(value, check)
        }
        None => Check::ok(name, "the server does not report it", wanted)
            .with(Status::Unknown, "allow holdfastctl to read the server's configuration, or look yourself"),
    }
}

/// Prints checks, and what follows from them.
pub fn report(checks: &[Check], output: &mut Output<'_>) -> Result<Verdict> {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    for check in checks {
        let Check { name, found, wanted, mend, .. } = check;
        let status = format!("{:?}", check.status).to_lowercase();
        // One line each; the last part is as long as it must be.
        let more = if mend.is_empty() { String::new() } else { format!("; wanted: {wanted}; to mend it: {mend}") };
        output.say(check, format!("{status:<11}  {name:<width$}  {found}{more}"))?;
    }
    Ok(match checks.iter().map(|check| check.status).max() {
        Some(Status::Unreachable) => Verdict::Unreachable,
        Some(Status::Wrong) => Verdict::Wrong,
        _ => Verdict::Fine,
    })
}
