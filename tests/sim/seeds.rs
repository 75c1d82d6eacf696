//! Worlds in which something was wrong once. They are run every time, first.

/// The seeds of worlds of cuts.
pub const CUTS: &[u64] = &[
    1,
    2,
    3,
    // a purge that had lapsed was agreed to after the clock was set back
    260_839_506_423,
];
/// The seeds of worlds of weather.
pub const WEATHER: &[u64] = &[1, 2, 3];
