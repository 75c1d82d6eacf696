//! The rules: what a command becomes, and what follows from a record. Pure:
//! no I/O, no clock, no configuration. Time and chance are handed in.
//!
//! A delivery's life:
//!
//! ```text
//!            consign        lease            ack
//! accepted ─────────▶ waiting ─────▶ leased ─────────▶ acknowledged
//!                      ▲  ▲ nack, lapse │ │   reject
//!                      │  └─────────────┘ ├──────────▶ rejected
//!              requeue │                  │ attempts used up
//!                      └──────── parked ◀─┘
//!                                  │ return
//!                                  └─────────────────▶ returned
//!      waiting, parked ── deadline ──────────────────▶ expired
//! ```
//!
//! An envelope that few are to see now is accepted and consigned in one record.
//!
//! What waits or is parked goes along when another system serves its agency.
//!
//! An envelope whose recipients are all settled is erased after its time, and
//! then forgotten; a purge settles what waits as returned, and erases at once.
//!
//! A leased delivery does not expire before its lease has ended. An
//! acknowledgement settles whatever was ever leased and is not settled.

mod apply;
mod batch;
mod command;
mod decide;
mod delivery;
mod directory;
mod envelope;
mod expand;
mod moves;
pub mod query;
mod ready;
mod retention;
pub mod tables;

pub use apply::{apply, delivery_id, delivery_of};
pub use batch::{Batch, Context, Tally, has_pending, pending_consignment};
pub use command::{Command, Content, Kept, Outcome, Signed, Submit};
pub use decide::decide;
pub use delivery::{due_consignments, is_due};
pub use envelope::{Expansion, check};
pub use expand::{Ahead, Expanding, is_wide};
pub use retention::{ACCOUNT, envelope_of, erasable, is_forgotten_by, lapsed_grants, purges_under_way};

/// The layout of keys and rows; another number rebuilds the state.
pub const LAYOUT_VERSION: u32 = tables::LAYOUT_VERSION;

#[cfg(test)]
mod tests;
