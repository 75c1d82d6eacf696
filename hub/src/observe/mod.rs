//! What operators see: metrics, readiness, and one plain page, all on a
//! listener of their own. Looks only; never changes anything.

pub mod context;
pub mod last_backup;
mod listener;
pub mod metrics;
pub mod page;
pub mod presence;
pub mod readiness;
mod serve;
pub mod words;

pub use context::{ObserveContext, Overview};
pub use last_backup::{BackupMade, LastBackup};
pub use metrics::{CommitSample, Metrics, Submission};
pub use presence::{Presence, Seen, StreamGuard};
pub use readiness::{Health, Readiness, WriterGuard};
pub use serve::serve;
