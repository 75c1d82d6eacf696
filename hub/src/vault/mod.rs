//! Documents by digest.
