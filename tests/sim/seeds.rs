//! Worlds in which something was wrong once. They are run every time, first.

/// The seeds of worlds of cuts.
pub const CUTS: &[u64] = &[
    1,
    2,
    3, // a sync of a document failed, and so did the removal of what it was for: it
    // was taken for durable
    983_428_248_403,
];
/// The seeds of worlds of weather.
pub const WEATHER: &[u64] = &[1, 2, 3];
