//! How `axis` ends when something went wrong: what happened and what to do
//! next, in the user's language, and an exit status that scripts can tell
//! apart.

use std::{io::ErrorKind, path::Path};

use axis_client::{
    Cause, Error, HomeProblem, LogProblem, Refused, Task,
    proto::hub::v1::{Reason, Remedy},
};
use serde_json::json;

use crate::{
    output::{Output, time},
    words::Word,
};

/// Why a command did not do what it should.
#[derive(Debug)]
pub enum Failure {
    /// The library says why.
    Client(Error),
    /// The command line or the home says why: a word, its facts, a hint.
    Said { word: Word, facts: Vec<(&'static str, String)>, hint: Option<Word>, status: Status },
    /// Already told; only the status is left.
    Told(Status),
}

/// The exit status, as `axis --help` documents it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Failed = 1,
    Usage = 2,
    Refused = 3,
    Identity = 4,
    Unreachable = 5,
    Unverified = 6,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl Failure {
    /// Something of the catalogue.
    pub fn said(status: Status, word: Word, facts: Vec<(&'static str, String)>, hint: Option<Word>) -> Self {
        Self::Said { word, facts, hint, status }
    }

    pub fn status(&self) -> Status {
        match self {
            Self::Client(error) => status_of(error),
            Self::Said { status, .. } | Self::Told(status) => *status,
        }
    }

    /// Tells it all.
    pub fn tell(&self, output: &Output, home: &Path) {
        match self {
            Self::Told(_) => {}
            Self::Client(error) => tell(error, output, home),
            Self::Said { word, facts, hint, .. } => {
                let facts: Vec<(&str, &dyn std::fmt::Display)> =
                    facts.iter().map(|(name, fact)| (*name, fact as &dyn std::fmt::Display)).collect();
                say_error(output, &output.text(*word, &facts), None, self.status());
                if let Some(hint) = hint {
                    output.hint(*hint, &facts);
                }
            }
        }
    }
}

/// Tells about an error without ending.
pub fn tell(error: &Error, output: &Output, home: &Path) {
    let (inner, pending) = match error {
        Error::Pending { envelope_id, source } => (source.as_ref(), Some(envelope_id)),
        other => (other, None),
    };
    say_error(output, &message(inner, output), Some(inner), status_of(inner));
    if let Error::Refused(refused) = inner {
        details(refused, output);
    }
    if let Some(envelope_id) = pending {
        output.say(Word::KeptInOutbox, &[("id", envelope_id)]);
    }
    let home = home.display().to_string();
    match hint(inner) {
        // what waits is sent again as it is
        _ if pending.is_some() && status_of(inner) != Status::Identity => output.hint(Word::HintPending, &[]),
        Some(word) => output.hint(word, &[("home", &home)]),
        None => {}
    }
}

fn say_error(output: &Output, message: &str, error: Option<&Error>, status: Status) {
    output.line(&format!("{} {message}", output.word(Word::ErrorWord)));
    if output.json {
        let refusal = error.and_then(Error::refusal);
        output.result(String::new, || {
            json!({
                "error": message,
                "status": status as u8,
                "reason": refusal.map(|refused| refused.reason.short_name()),
                "facts": refusal.map(|refused| &refused.facts),
                "violations": refusal.map(|refused| {
                    refused.violations.iter().map(|violation| json!({
                        "field": violation.field,
                        "reason": violation.reason.short_name(),
                        "message": violation.message,
                    })).collect::<Vec<_>>()
                }),
            })
        });
    }
}

fn status_of(error: &Error) -> Status {
    match error {
        Error::Refused(refused) => match refused.remedy {
            Remedy::Report => Status::Failed,
            Remedy::Enrol if refused.reason != Reason::TokenInvalid => Status::Identity,
            _ => Status::Refused,
        },
        Error::Unreachable(unreachable) => match unreachable.cause {
            Cause::HubNotTrusted => Status::Unverified,
            cause if cause.is_lasting() => Status::Identity,
            _ => Status::Unreachable,
        },
        Error::Verification(_) | Error::MailboxGap { .. } | Error::Log(_) => Status::Unverified,
        Error::Pending { source, .. } => status_of(source),
        Error::Home(HomeProblem::NotEnrolled { .. }) => Status::Identity,
        _ => Status::Failed,
    }
}

/// One sentence.
pub fn message(error: &Error, output: &Output) -> String {
    match error {
        Error::Refused(refused) => {
            let incident = refused.incident_id.as_ref();
            match incident {
                Some(id) => format!("{} ({})", refused.message, output.text(Word::Incident, &[("id", id)])),
                None => refused.message.clone(),
            }
        }
        Error::Unreachable(unreachable) => output.text(
            Word::Unreachable,
            &[("address", &unreachable.address), ("cause", &output.word(cause(unreachable.cause)))],
        ),
        Error::Verification(found) => {
            let text =
                output.text(Word::NotVerifiedError, &[("what", &found.what), ("detail", &found.detail)]);
            match &found.delivery {
                Some(id) => format!("{}: {text}", output.text(Word::OfDelivery, &[("id", id)])),
                None => text,
            }
        }
        Error::MailboxGap { floor, missing } => {
            let numbers: Vec<String> = missing
                .iter()
                .take(8)
                .map(|range| match (range.start(), range.end()) {
                    (start, end) if start == end => start.to_string(),
                    (start, end) => format!("{start}–{end}"),
                })
                .collect();
            output.text(Word::MailboxGap, &[("numbers", &numbers.join(", ")), ("floor", floor)])
        }
        Error::Pending { source, .. } => message(source, output),
        Error::Io { task, path, source } => {
            let word = if *task == Task::Read { Word::CannotRead } else { Word::CannotWrite };
            let why = match source.kind() {
                ErrorKind::NotFound => output.word(Word::FileNotFound).to_owned(),
                ErrorKind::PermissionDenied => output.word(Word::FileNotAllowed).to_owned(),
                ErrorKind::IsADirectory => output.word(Word::FileIsFolder).to_owned(),
                ErrorKind::StorageFull => output.word(Word::DiskFull).to_owned(),
                _ => source.to_string(),
            };
            output.text(word, &[("path", path), ("why", &why)])
        }
        Error::Home(problem) => match problem {
            HomeProblem::NotEnrolled { home } => output.text(Word::NotEnrolled, &[("home", home)]),
            HomeProblem::AlreadyEnrolled { home, system } => {
                output.text(Word::AlreadyEnrolled, &[("home", home), ("system", system)])
            }
            HomeProblem::OtherIdentity { expected, found } => {
                output.text(Word::OtherIdentity, &[("expected", expected), ("found", found)])
            }
            HomeProblem::Newer { path, found, read } => {
                output.text(Word::NewerFile, &[("path", path), ("found", found), ("read", read)])
            }
            HomeProblem::Damaged { path, detail } => {
                output.text(Word::Damaged, &[("path", path), ("detail", detail)])
            }
            HomeProblem::Busy { home } => output.text(Word::Busy, &[("home", home)]),
            HomeProblem::BeingSent { envelope_id } => output.text(Word::BeingSent, &[("id", envelope_id)]),
            other => other.to_string(),
        },
        Error::Log(problem) => match problem {
            LogProblem::Forked { remembered, shown } => {
                output.text(Word::LogForked, &[("remembered", remembered), ("shown", shown)])
            }
            LogProblem::Unproven { since_unix_ms, shown } => {
                let since = since_unix_ms.map_or_else(|| "–".to_owned(), time);
                output.text(Word::LogUnproven, &[("shown", shown), ("since", &since)])
            }
            LogProblem::Unknown { known, verifier_key } => {
                output.text(Word::LogUnknown, &[("known", known), ("key", verifier_key)])
            }
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}

/// What exactly is wrong, a line each.
fn details(refused: &Refused, output: &Output) {
    for violation in &refused.violations {
        let why = match violation.reason {
            // said above already
            reason if reason == refused.reason || reason == Reason::Unspecified => String::new(),
            reason => format!("{} ", reason.message(output.language)),
        };
        output.line(&format!("  {}: {why}{}", violation.field, violation.message));
    }
    for (name, fact) in &refused.facts {
        output.line(&format!("  {name}: {fact}"));
    }
}

fn hint(error: &Error) -> Option<Word> {
    Some(match error {
        Error::Refused(refused) => match refused.remedy {
            Remedy::FixRequest | Remedy::Upload => Word::HintFixRequest,
            Remedy::RetryLater => Word::HintRetryLater,
            Remedy::FixAccess => Word::HintFixAccess,
            Remedy::Enrol if refused.reason == Reason::TokenInvalid => return None,
            Remedy::Enrol => Word::HintEnrol,
            Remedy::CheckDirectory => Word::HintDirectory,
            Remedy::MakeAnew => Word::HintMakeAnew,
            Remedy::LeaseAgain => Word::HintReceiveAgain,
            Remedy::CorrectReference => Word::HintReference,
            Remedy::RestartFromFloor => Word::HintFloor,
            Remedy::Report => Word::HintReport,
            Remedy::Accept | Remedy::Unspecified => return None,
        },
        Error::Unreachable(unreachable) => match unreachable.cause {
            Cause::HubNotTrusted => Word::HintHubNotTrusted,
            cause if cause.is_lasting() => Word::HintEnrol,
            _ => Word::HintUnreachable,
        },
        Error::Verification(_) => Word::HintVerification,
        Error::Log(LogProblem::Forked { .. }) => Word::HintLogForked,
        Error::Log(LogProblem::Unproven { .. }) => Word::HintLogUnproven,
        Error::Log(_) => Word::HintLogAccept,
        Error::MailboxGap { .. } => Word::HintGap,
        Error::Home(HomeProblem::NotEnrolled { .. }) => Word::HintEnrolFirst,
        Error::Home(HomeProblem::AlreadyEnrolled { .. }) => Word::HintEnrolAgain,
        Error::Home(HomeProblem::Busy { .. }) => Word::HintBusy,
        _ => return None,
    })
}

fn cause(cause: Cause) -> Word {
    match cause {
        Cause::ConnectionRefused => Word::CauseConnectionRefused,
        Cause::NameUnknown => Word::CauseNameUnknown,
        Cause::TimedOut => Word::CauseTimedOut,
        Cause::Broken => Word::CauseBroken,
        Cause::CertificateRevoked => Word::CauseCertificateRevoked,
        Cause::CertificateExpired => Word::CauseCertificateExpired,
        Cause::AuthorityUnknown => Word::CauseAuthorityUnknown,
        Cause::CertificateRefused => Word::CauseCertificateRefused,
        Cause::HubNotTrusted => Word::CauseHubNotTrusted,
        _ => Word::CauseOther,
    }
}
