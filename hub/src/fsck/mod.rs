//! Every invariant over closed stores. Only reads; names what is wrong and
//! where, and leaves mending to `rebuild` and to people.

mod checker;

pub use checker::{Checker, Counts, Violation};
