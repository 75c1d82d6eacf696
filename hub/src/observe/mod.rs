//! What operators see: metrics, readiness, and one plain page, all on a
//! listener of their own. Looks only; never changes anything.

pub mod metrics;
pub mod presence;
pub mod readiness;

pub use metrics::{CommitSample, Metrics, Submission};
pub use presence::{Presence, Seen, StreamGuard};
pub use readiness::{Health, Readiness, WriterGuard};
