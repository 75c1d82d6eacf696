//! The two things that cross a stage's border, told apart by whose they are:
//! the caller's refusal and our fault.

use std::{collections::BTreeMap, sync::Arc};

use axis_proto::hub::v1::Reason;

/// What a stage answers when it does not succeed.
#[derive(Debug, Clone)]
pub enum Error {
    /// The caller's: catalogued in `reason.proto`, counted, shown whole.
    Refused(Box<Refusal>),
    /// Ours: logged with its causes under an incident id, shown as nothing.
    Fault(Fault),
}

/// Shorthand for what stages return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A no with its reason, places and facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What exactly, at most [`crate::limits::VIOLATIONS_MAX`].
    pub violations: Vec<Violation>,
    /// How long to wait before trying again, in milliseconds; 0 if the caller
    /// chooses.
    pub retry_after_ms: u64,
    /// Facts that belong to the reason, such as `expected_digest`.
    pub facts: BTreeMap<String, String>,
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where: a path such as `envelope.recipients[3].agency`.
    pub field: String,
    /// Why.
    pub reason: Reason,
    /// What was found, in words that do not depend on the language: a code, a
    /// number, a digest. May be empty.
    pub detail: String,
}

/// A failure of the hub's own, with its causes.
#[derive(Debug, Clone)]
pub struct Fault {
    source: Arc<dyn std::error::Error + Send + Sync>,
}

impl Fault {
    /// Wraps a cause.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: Arc::from(source.into()) }
    }

    /// The cause with all of its own causes, for the log.
    pub fn chain(&self) -> String {
        let mut text = self.source.to_string();
        let mut cause = self.source.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl Refusal {
    /// A refusal with nothing but its reason.
    pub fn new(reason: Reason) -> Self {
        Self { reason, violations: Vec::new(), retry_after_ms: 0, facts: BTreeMap::new() }
    }

    /// Names one more place. Beyond the bound, nothing is added.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>, reason: Reason, detail: impl ToString) -> Self {
        if self.violations.len() < crate::limits::VIOLATIONS_MAX {
            self.violations.push(Violation { field: field.into(), reason, detail: detail.to_string() });
        }
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl ToString) -> Self {
        self.facts.insert(name.to_owned(), value.to_string());
        self
    }

    /// Says how long to wait.
    #[must_use]
    pub fn retry_after_ms(mut self, wait: u64) -> Self {
        self.retry_after_ms = wait;
        self
    }
}

impl Error {
    /// A refusal with nothing but its reason.
    pub fn refused(reason: Reason) -> Self {
        Refusal::new(reason).into()
    }

    /// A refusal that names one place.
    pub fn invalid(field: impl Into<String>, reason: Reason, detail: impl ToString) -> Self {
        Refusal::new(reason).at(field, reason, detail).into()
    }

    /// A fault.
    pub fn fault(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Fault(Fault::new(source))
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::fault(error)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refusal) => {
                write!(f, "refused: {}", refusal.reason.as_str_name())?;
                for violation in &refusal.violations {
                    write!(
                        f,
                        "; {} {} {}",
                        violation.field,
                        violation.reason.as_str_name(),
                        violation.detail
                    )?;
                }
                Ok(())
            }
            Self::Fault(fault) => write!(f, "fault: {}", fault.chain()),
        }
    }
}

impl std::error::Error for Error {}
