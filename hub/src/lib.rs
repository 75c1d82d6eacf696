//! The hub of Axis: the stages an envelope passes, in the order it passes
//! them, then the stores, then what is around them. See `ARCHITECTURE.md`.

// the way in and out
pub mod admit;
pub mod authenticate;
pub mod commit;
pub mod deliver;
pub mod verify;
pub mod wire;

// truth, its rules, what follows from it
pub mod evidence;
pub mod journal;
pub mod machine;
pub mod state;
pub mod vault;

// around them
pub mod archive;
pub mod backup;
pub mod clock;
pub mod config;
pub mod disk;
pub mod disk_room;
pub mod error;
pub mod formats;
pub mod fsck;
pub mod gate;
pub mod hub;
pub mod identity;
pub mod limits;
pub mod observe;
pub mod retention;
#[cfg(test)]
mod testing;
