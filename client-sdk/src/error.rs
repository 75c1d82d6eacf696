//! What can go wrong, told apart by what the caller can do about it. Match on
//! reasons and remedies, never on text.

use std::{collections::BTreeMap, fmt, io, ops::RangeInclusive, path::Path, time::Duration};

use axis_proto::{
    hub::v1::{Reason, Refusal, Remedy},
    id::{DeliveryId, EnvelopeId},
    reason::Language,
    shape::ShapeError,
};
use tonic_types::StatusExt as _;

/// The result of anything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The hub said no, or would have: nothing was queued, nothing was lost.
    #[error("{0}")]
    Refused(Box<Refused>),
    /// The hub did not answer. What was asked may have happened; asking again
    /// is safe.
    #[error("{0}")]
    Unreachable(#[from] Unreachable),
    /// Something does not hold what it promises; nothing of it was given out.
    #[error("{0}")]
    Verification(#[from] Verification),
    /// The hub says that these mailbox numbers are settled, but this side
    /// never saw them: something is missing. Tell the hub's operators.
    #[error(
        "mailbox numbers {} never came, although the hub counts up to {floor} as settled",
        Numbers(missing)
    )]
    MailboxGap {
        /// What the hub counts as settled.
        floor: u64,
        /// The numbers that were never seen.
        missing: Vec<RangeInclusive<u64>>,
    },
    /// Not accepted yet; the exact bytes are safe in the outbox, and
    /// [`Client::flush_outbox`](crate::Client::flush_outbox) sends them again.
    #[error("envelope {envelope_id} is kept in the outbox")]
    Pending {
        /// The envelope.
        envelope_id: EnvelopeId,
        /// Why the last attempt failed.
        source: Box<Error>,
    },
    /// A file on this side cannot be read or written.
    #[error("cannot {task} {path}")]
    Io {
        /// What was tried.
        task: Task,
        /// With which file.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The home directory does not allow it.
    #[error("{0}")]
    Home(#[from] HomeProblem),
    /// The hub's log is not the one that this home trusts.
    #[error("{0}")]
    Log(#[from] LogProblem),
}

/// What was tried with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// To read it.
    Read,
    /// To make, write, move or lock it.
    Write,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

/// What is wrong with a home directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HomeProblem {
    /// It holds no identity.
    #[error("{home} holds no identity: enrol first")]
    NotEnrolled {
        /// The directory.
        home: String,
    },
    /// It holds one already.
    #[error("{home} is already enrolled as {system}")]
    AlreadyEnrolled {
        /// The directory.
        home: String,
        /// As whom.
        system: String,
    },
    /// The token was for another system or another hub than the home's.
    #[error("this home belongs to {expected}, but the token was for {found}")]
    OtherIdentity {
        /// Whose home it is: `system at hub`.
        expected: String,
        /// Whom the token was for.
        found: String,
    },
    /// A file in it cannot be understood.
    #[error("{path} is damaged: {detail}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A later release wrote a file in it.
    #[error("{path} has format version {found}, this release reads {read}; use the release that wrote it")]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        found: u64,
        /// The latest version that is read here.
        read: u32,
    },
    /// Another process or stream uses it in the same way.
    #[error("another process does the same with {home}")]
    Busy {
        /// The directory.
        home: String,
    },
    /// Another process sends the same envelope.
    #[error("another process sends envelope {envelope_id}")]
    BeingSent {
        /// The envelope.
        envelope_id: EnvelopeId,
    },
}

/// What is wrong with the hub's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogProblem {
    /// It has shown two heads of which one does not go on from the other:
    /// somebody has rewritten it, or an older copy of the hub was started. Both
    /// are kept in the home, and nothing is trusted until a person decides.
    #[error("the hub's log has two histories: it has shown {remembered}, and then {shown}")]
    Forked {
        /// What was seen before.
        remembered: Box<Head>,
        /// What does not go on from it.
        shown: Box<Head>,
    },
    /// It does not prove that a head that it has signed goes on from what it
    /// showed before: it said that it cannot, or has not for ten minutes in
    /// which it answered other calls, or too many heads wait. It is asked again
    /// by the next call; a person may decide before.
    #[error("the hub does not prove that its log holds what it has signed: {shown}")]
    Unproven {
        /// When it was first asked in vain, in milliseconds since 1970; none if
        /// that was just now.
        since_unix_ms: Option<u64>,
        /// The largest head that is not proven.
        shown: Box<Head>,
    },
    /// The hub has another log, and the one that is known did not sign for it.
    #[error("the hub's log is now {verifier_key}, and {known} did not sign for it")]
    Unknown {
        /// Origin of the log that is known.
        known: String,
        /// Verifier key of the one that the hub names.
        verifier_key: String,
    },
}

/// A head of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Head {
    /// The log.
    pub origin: String,
    /// Number of its records.
    pub size: u64,
    /// The root over them.
    pub root: [u8; 32],
    /// The signed note that says so.
    pub note: String,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, size, root, .. } = self;
        let root: String = root.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        write!(f, "{origin} of {size} records with root {root}…")
    }
}

/// A refusal: why, what to do, and what exactly is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// What to do about it.
    pub remedy: Remedy,
    /// For people, in the language of [`ClientOptions`](crate::ClientOptions).
    pub message: String,
    /// What exactly, each with its place. May be empty.
    pub violations: Vec<Violation>,
    /// Facts that belong to the reason, such as `expected_digest`.
    pub facts: BTreeMap<String, String>,
    /// How long the hub asks to wait before trying again.
    pub retry_after: Option<Duration>,
    /// What to tell the operators, if the hub failed.
    pub incident_id: Option<String>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Where: a path such as `envelope.recipients[3].agency`.
    pub field: String,
    /// Why.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

impl Refused {
    fn new(reason: Reason, message: String) -> Self {
        Self {
            reason,
            remedy: reason.remedy(),
            message,
            violations: Vec::new(),
            facts: BTreeMap::new(),
            retry_after: None,
            incident_id: None,
        }
    }

    /// What the hub would say about an envelope of this shape.
    pub(crate) fn of_shape(errors: Vec<ShapeError>, language: Language) -> Self {
        let reason = errors.first().map_or(Reason::FieldInvalid, |error| error.reason);
        let mut refused = Self::new(reason, reason.message(language).to_owned());
        refused.violations = errors
            .into_iter()
            .map(|error| Violation { field: error.field, reason: error.reason, message: error.detail })
            .collect();
        refused
    }

    /// Reads a refusal that came inside a stream or an answer.
    pub(crate) fn of_message(refusal: Refusal) -> Self {
        let reason = refusal.reason();
        let mut refused = Self::new(reason, refusal.message);
        // a reason that is newer than this client still has a remedy that is not
        match Remedy::try_from(refusal.remedy) {
            Ok(remedy) if remedy != Remedy::Unspecified => refused.remedy = remedy,
            _ => {}
        }
        refused.violations = refusal
            .violations
            .into_iter()
            .map(|violation| Violation {
                reason: violation.reason(),
                field: violation.field,
                message: violation.message,
            })
            .collect();
        refused.facts = refusal.facts;
        refused.retry_after =
            (refusal.retry_after_ms > 0).then(|| Duration::from_millis(refusal.retry_after_ms));
        refused.incident_id = (!refusal.incident_id.is_empty()).then_some(refusal.incident_id);
        refused
    }

    /// Reads a refusal out of a gRPC status, if it is one.
    fn of_status(status: &tonic::Status) -> Option<Self> {
        let details = status.check_error_details().ok()?;
        let info = details.error_info().filter(|info| info.domain == "axis")?;
        // a reason that is newer than this client: the gRPC code still says what to do
        let reason = Reason::from_short_name(&info.reason).unwrap_or(Reason::Unspecified);
        let message = details.localized_message().map_or(status.message(), |text| text.message.as_str());
        let mut refused = Self::new(reason, message.to_owned());
        if reason == Reason::Unspecified {
            refused.remedy = remedy_of_code(status.code());
        }
        refused.facts = info.metadata.clone().into_iter().collect();
        if let Some(request) = details.bad_request() {
            refused.violations = request.field_violations.iter().map(violation).collect();
        }
        refused.retry_after = details.retry_info().and_then(|info| info.retry_delay);
        refused.incident_id =
            details.request_info().map(|info| info.request_id.clone()).filter(|id| !id.is_empty());
        Some(refused)
    }
}

fn violation(violation: &tonic_types::FieldViolation) -> Violation {
    let (reason, message) = match violation.description.split_once(": ") {
        Some((name, detail)) if Reason::from_short_name(name).is_some() => (name, detail),
        _ => (violation.reason.as_str(), violation.description.as_str()),
    };
    Violation {
        field: violation.field.clone(),
        reason: Reason::from_short_name(reason).unwrap_or(Reason::Unspecified),
        message: message.to_owned(),
    }
}

fn remedy_of_code(code: tonic::Code) -> Remedy {
    use tonic::Code;
    match code {
        Code::InvalidArgument => Remedy::FixRequest,
        Code::ResourceExhausted | Code::Unavailable => Remedy::RetryLater,
        Code::PermissionDenied => Remedy::FixAccess,
        Code::Unauthenticated => Remedy::Enrol,
        Code::FailedPrecondition => Remedy::MakeAnew,
        Code::Aborted => Remedy::LeaseAgain,
        Code::NotFound => Remedy::CorrectReference,
        Code::OutOfRange => Remedy::RestartFromFloor,
        _ => Remedy::Report,
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(incident) = &self.incident_id {
            write!(f, " (incident {incident})")?;
        }
        Ok(())
    }
}

/// The hub did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the hub at {address} does not answer: {cause}")]
#[non_exhaustive]
pub struct Unreachable {
    /// Where it should be.
    pub address: String,
    /// Why, as far as can be told.
    pub cause: Cause,
    /// What the layers below said.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Why a hub does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Nobody listens there.
    ConnectionRefused,
    /// The name does not resolve.
    NameUnknown,
    /// Too slow, or no way there.
    TimedOut,
    /// The connection broke.
    Broken,
    /// This side's certificate was revoked.
    CertificateRevoked,
    /// This side's certificate is past its end.
    CertificateExpired,
    /// The hub does not know who issued this side's certificate.
    AuthorityUnknown,
    /// The hub does not take this side's certificate.
    CertificateRefused,
    /// Whoever answers there is not the hub that this home enrolled with.
    HubNotTrusted,
    /// Something else.
    Other,
}

impl Cause {
    /// Whether trying again cannot help.
    pub const fn is_lasting(self) -> bool {
        matches!(
            self,
            Self::CertificateRevoked
                | Self::CertificateExpired
                | Self::AuthorityUnknown
                | Self::CertificateRefused
                | Self::HubNotTrusted
        )
    }

    /// Looks for the cause in an error and in all that it came from.
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut link = Some(error);
        let mut found = Self::Other;
        while let Some(error) = link {
            let here = Self::of_link(error);
            if here.is_lasting() {
                return here;
            }
            if here != Self::Other {
                found = here;
            }
            // an io::Error's source() skips the error that it wraps
            link = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        found
    }

    fn of_link(error: &(dyn std::error::Error + 'static)) -> Self {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Self::of_tls(error);
        }
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>())
        {
            return Self::of_io(error);
        }
        // h2 keeps the words of an error, not the error
        let text = error.to_string();
        let alerts = [
            ("CertificateRevoked", Self::CertificateRevoked),
            ("CertificateExpired", Self::CertificateExpired),
            ("UnknownCA", Self::AuthorityUnknown),
            ("CertificateRequired", Self::CertificateRefused),
            ("BadCertificate", Self::CertificateRefused),
            ("AccessDenied", Self::CertificateRefused),
        ];
        let alert = text.contains("fatal alert");
        alerts.iter().find(|(name, _)| alert && text.contains(name)).map_or(Self::Other, |(_, cause)| *cause)
    }

    fn of_tls(error: &rustls::Error) -> Self {
        use rustls::AlertDescription as Alert;
        match error {
            rustls::Error::AlertReceived(alert) => match alert {
                Alert::CertificateRevoked => Self::CertificateRevoked,
                Alert::CertificateExpired => Self::CertificateExpired,
                Alert::UnknownCA => Self::AuthorityUnknown,
                Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateUnknown
                | Alert::AccessDenied => Self::CertificateRefused,
                _ => Self::Broken,
            },
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                Self::HubNotTrusted
            }
            _ => Self::Broken,
        }
    }

    fn of_io(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::ConnectionRefused,
            Kind::TimedOut | Kind::HostUnreachable | Kind::NetworkUnreachable => Self::TimedOut,
            Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::UnexpectedEof
            | Kind::NotConnected => Self::Broken,
            _ if error.to_string().contains("lookup") => Self::NameUnknown,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnectionRefused => "nobody listens there",
            Self::NameUnknown => "the name does not resolve",
            Self::TimedOut => "it took too long",
            Self::Broken => "the connection broke",
            Self::CertificateRevoked => "this system's certificate was revoked",
            Self::CertificateExpired => "this system's certificate has expired",
            Self::AuthorityUnknown => "the hub does not know the issuer of this system's certificate",
            Self::CertificateRefused => "the hub does not take this system's certificate",
            Self::HubNotTrusted => "whoever answers is not the hub that this home enrolled with",
            Self::Other => "the connection failed",
        })
    }
}

/// Something does not hold what it promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} does not verify: {detail}")]
#[non_exhaustive]
pub struct Verification {
    /// What was checked: `signature`, `envelope`, `document`, `receipt`,
    /// `feed`, `mailbox`, `answer`, `log`, `checkpoint`, `hub` or `file`.
    pub what: &'static str,
    /// What was found.
    pub detail: String,
    /// The delivery that it belongs to, if to one.
    pub delivery: Option<DeliveryId>,
}

impl Verification {
    pub(crate) fn new(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, detail: detail.into(), delivery: None }
    }

    pub(crate) fn of(mut self, delivery: DeliveryId) -> Self {
        self.delivery = Some(delivery);
        self
    }
}

/// Whether to try again, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Not as it is.
    No,
    /// Later; the hub may have said when.
    Later(Option<Duration>),
    /// A few times: the hub failed.
    Few,
}

impl Error {
    /// What a gRPC status says.
    pub(crate) fn of_status(status: tonic::Status, address: &str) -> Self {
        use tonic::Code;
        if let Some(refused) = Refused::of_status(&status) {
            return Self::Refused(Box::new(refused));
        }
        let broken = std::error::Error::source(&status).is_some();
        let cause = Cause::of(&status);
        match status.code() {
            Code::Unauthenticated => Self::unexplained(Reason::NotAuthenticated, &status),
            Code::ResourceExhausted | Code::OutOfRange if !broken => {
                Self::unexplained(Reason::TooLarge, &status)
            }
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => {
                Self::unreachable(address, cause, status)
            }
            _ if broken => Self::unreachable(address, cause, status),
            _ => Self::unexplained(Reason::Fault, &status),
        }
    }

    fn unexplained(reason: Reason, status: &tonic::Status) -> Self {
        let message = format!("{} ({:?})", status.message(), status.code());
        Self::Refused(Box::new(Refused::new(reason, message)))
    }

    fn unreachable(
        address: &str,
        cause: Cause,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unreachable(Unreachable { address: address.to_owned(), cause, source: Some(source.into()) })
    }

    pub(crate) fn timed_out(address: &str) -> Self {
        Self::Unreachable(Unreachable { address: address.to_owned(), cause: Cause::TimedOut, source: None })
    }

    pub(crate) fn broken(address: &str) -> Self {
        Self::Unreachable(Unreachable { address: address.to_owned(), cause: Cause::Broken, source: None })
    }

    pub(crate) fn refused(refused: Refused) -> Self {
        Self::Refused(Box::new(refused))
    }

    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Io { task: Task::Read, path: path.display().to_string(), source }
    }

    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        Self::Io { task: Task::Write, path: path.display().to_string(), source }
    }

    pub(crate) fn damaged(path: &Path, detail: impl fmt::Display) -> Self {
        Self::Home(HomeProblem::Damaged { path: path.display().to_string(), detail: detail.to_string() })
    }

    pub(crate) fn again(&self) -> Again {
        match self {
            Self::Refused(refused) => match refused.remedy {
                Remedy::RetryLater => Again::Later(refused.retry_after),
                Remedy::Report => Again::Few,
                _ => Again::No,
            },
            Self::Unreachable(unreachable) if !unreachable.cause.is_lasting() => Again::Later(None),
            _ => Again::No,
        }
    }

    /// Whether something was on its way and did not arrive: a shorter message
    /// may.
    pub(crate) fn may_be_the_link(&self) -> bool {
        matches!(self, Self::Unreachable(Unreachable { cause, .. })
            if matches!(cause, Cause::Broken | Cause::TimedOut | Cause::Other))
    }

    /// The refusal behind this error, if there is one, pending or not.
    pub fn refusal(&self) -> Option<&Refused> {
        match self {
            Self::Refused(refused) => Some(refused),
            Self::Pending { source, .. } => source.refusal(),
            _ => None,
        }
    }

    /// The reason of the refusal behind this error, if there is one.
    pub fn reason(&self) -> Option<Reason> {
        self.refusal().map(|refused| refused.reason)
    }
}

/// Ranges of numbers, the first few of them.
struct Numbers<'a>(&'a [RangeInclusive<u64>]);

impl fmt::Display for Numbers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().take(8).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            match (range.start(), range.end()) {
                (start, end) if start == end => write!(f, "{comma}{start}")?,
                (start, end) => write!(f, "{comma}{start} to {end}")?,
            }
        }
        if self.0.len() > 8 { f.write_str(", …") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};
    use tonic_types::ErrorDetails;

    use super::*;

    fn status(code: Code, reason: &str, details: impl FnOnce(&mut ErrorDetails)) -> Status {
        let mut all = ErrorDetails::new();
        let facts = [("expected_digest".to_owned(), "ab".to_owned())];
        all.set_error_info(reason, "axis", facts.into_iter().collect::<std::collections::HashMap<_, _>>());
        details(&mut all);
        Status::with_error_details(code, "text", all)
    }

    fn refused(status: Status) -> Refused {
        match Error::of_status(status, "hub:1") {
            Error::Refused(refused) => *refused,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_refusal_keeps_all_that_the_hub_said() {
        let refused = refused(status(Code::FailedPrecondition, "RECIPIENTS_REFUSED", |details| {
            details.set_localized_message("vi", "Có nơi nhận không hợp lệ");
            details.add_bad_request_violation(
                "envelope.recipients[3].agency",
                "RECIPIENT_UNKNOWN: no agency H99",
            );
        }));
        assert_eq!((refused.reason, refused.remedy), (Reason::RecipientsRefused, Remedy::CheckDirectory));
        assert_eq!(refused.message, "Có nơi nhận không hợp lệ");
        assert_eq!(refused.facts["expected_digest"], "ab");
        assert_eq!(
            refused.violations,
            [Violation {
                field: "envelope.recipients[3].agency".into(),
                reason: Reason::RecipientUnknown,
                message: "no agency H99".into(),
            }]
        );
        assert_eq!(Error::refused(refused).again(), Again::No);
    }

    #[test]
    fn the_remedy_decides_about_trying_again() {
        let delay = Duration::from_millis(1_500);
        let busy = refused(status(Code::ResourceExhausted, "BUSY", |details| {
            details.set_retry_info(Some(delay));
        }));
        assert_eq!(Error::refused(busy).again(), Again::Later(Some(delay)));
        let fault = refused(status(Code::Internal, "FAULT", |details| {
            details.set_request_info("i-77", "");
        }));
        assert_eq!(fault.to_string(), "text (incident i-77)");
        assert_eq!(Error::refused(fault).again(), Again::Few);
        // newer than this client
        let unknown = refused(status(Code::Unavailable, "SOMETHING_NEW", |_| ()));
        assert_eq!((unknown.reason, unknown.remedy), (Reason::Unspecified, Remedy::RetryLater));
    }

    #[test]
    fn a_broken_connection_is_no_refusal() {
        for code in [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::DeadlineExceeded] {
            let error = Error::of_status(Status::new(code, "transport error"), "hub:1");
            assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
            assert_eq!(error.again(), Again::Later(None));
        }
        let odd = Error::of_status(Status::new(Code::Unimplemented, "no"), "hub:1");
        assert_eq!(odd.reason(), Some(Reason::Fault));
    }

    #[test]
    fn the_cause_is_found_under_the_layers() {
        #[derive(Debug, thiserror::Error)]
        #[error("transport error")]
        struct Layer(#[source] io::Error);

        let check = |error: io::Error, cause| assert_eq!(Cause::of(&Layer(error)), cause);
        let alert = |alert| io::Error::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(alert));
        check(alert(rustls::AlertDescription::CertificateRevoked), Cause::CertificateRevoked);
        check(alert(rustls::AlertDescription::CertificateExpired), Cause::CertificateExpired);
        check(alert(rustls::AlertDescription::UnknownCA), Cause::AuthorityUnknown);
        check(io::ErrorKind::ConnectionRefused.into(), Cause::ConnectionRefused);
        check(io::Error::other("connection error: received fatal alert: UnknownCA"), Cause::AuthorityUnknown);
        check(io::Error::other("failed to lookup address information"), Cause::NameUnknown);
        assert!(Cause::CertificateRevoked.is_lasting() && !Cause::Broken.is_lasting());
    }

    #[test]
    fn a_gap_names_its_numbers() {
        let error = Error::MailboxGap { floor: 9, missing: vec![2..=2, 5..=7] };
        assert_eq!(
            error.to_string(),
            "mailbox numbers 2, 5 to 7 never came, although the hub counts up to 9 as settled"
        );
    }
}
