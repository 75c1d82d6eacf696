//! The client of Axis, for document-management systems and their operators.
//!
//! One [`Client`] per system and home directory. It keeps what it promises to
//! send on disk before it tries, verifies what it receives before anybody sees
//! it, and tries again only where that is safe and can help. See the README
//! for a first tour.

mod answered;
mod client;
mod directory;
mod enrol;
pub mod error;
mod evidence;
mod feed;
mod files;
mod format;
mod home;
mod names;
mod numbers;
mod progress;
pub mod receipt;
mod receive;
mod reconcile;
mod retry;
mod send;
#[cfg(test)]
mod testing;
mod tidy;
mod tls;
mod trust;

pub use axis_proto::{self as proto, reason::Language, token::EnrolmentToken};

pub use client::{Client, ClientOptions, OnRetry};
pub use directory::Directory;
pub use enrol::{Enrolled, Renew};
pub use error::{
    Cause, Error, Head, HomeProblem, LogProblem, Refused, Result, Task, Unreachable, Verification, Violation,
};
pub use evidence::{Evidence, VerifiedEvidence};
pub use feed::{Feed, FeedItem, FeedOptions};
pub use home::Profile;
pub use names::safe as safe_file_name;
pub use progress::{Progress, Step, Watch, quiet};
pub use receive::{Deliveries, MailboxNumbers, ReceiveOptions, Received, ReceivedDocument, Saved, Settled};
pub use reconcile::{Offered, Outcome, Reconciliation};
pub use send::{Outgoing, OutgoingFile, Sent, Source};
pub use trust::{KnownLog, KnownLogs};
