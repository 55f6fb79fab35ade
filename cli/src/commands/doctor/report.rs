//! What was found, printed as it is found.

use serde_json::{Value, json};

use crate::{
    error::{Error, Exit},
    io::Io,
    output::{Format, print_document, print_line},
    sanitize::one_line,
};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// As it should be.
    Ok,
    /// Worth knowing, and nothing wrong.
    Note,
    /// Something is wrong with settings or the fleet.
    Problem,
    /// No coordinator can be reached.
    Unreachable,
    /// Not done, since one before it failed.
    Skipped,
}

impl Status {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem | Self::Unreachable => "problem",
            Self::Skipped => "skipped",
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// What was looked at, in one word.
    pub(super) name: &'static str,
    /// How it came out.
    pub(super) status: Status,
    /// What was found.
    pub(super) detail: String,
    /// What to do; empty where there is nothing to do.
    pub(super) fix: String,
}

impl Check {
    pub(super) fn new(name: &'static str, status: Status, detail: impl Into<String>) -> Self {
        Self { name, status, detail: detail.into(), fix: String::new() }
    }

    pub(super) fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, detail)
    }

    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    fn json(&self) -> Value {
        json!({ "check": self.name, "status": self.status.word(), "detail": self.detail, "fix": self.fix })
    }
}

/// All checks so far.
pub(super) struct Report {
    io: Io,
    format: Format,
    checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(io: Io, format: Format) -> Self {
        Self { io, format, checks: Vec::new() }
    }

    /// Takes a check and prints it, unless all are printed at the end.
    pub(super) fn add(&mut self, check: Check) -> Result<(), Error> {
        match self.format {
            Format::Json => {}
            Format::Jsonl => print_line(&self.io, &check.json())?,
            Format::Table | Format::SeedJson => {
                let detail = one_line(&check.detail);
                self.io.line(&format!("{:<8} {:<12} {detail}", check.status.word(), check.name))?;
                if !check.fix.is_empty() {
                    self.io.line(&format!("{:<21} fix: {}", "", one_line(&check.fix)))?;
                }
            }
        }
        self.checks.push(check);
        Ok(())
    }

    /// Prints what is left to print, and gives the exit code.
    pub(super) fn finish(self) -> Result<Exit, Error> {
        let any = |status: Status| self.checks.iter().any(|check| check.status == status);
        let exit = if any(Status::Unreachable) {
            Exit::Unreachable
        } else if any(Status::Problem) {
            Exit::Rejected
        } else {
            Exit::Completed
        };
        if self.format == Format::Json {
            let checks: Vec<Value> = self.checks.iter().map(Check::json).collect();
            print_document(&self.io, &json!({ "healthy": exit == Exit::Completed, "checks": checks }))?;
        }
        Ok(exit)
    }
}
