//! The disk runs full.
