//! What the disk can do at this moment: it is not the same every minute.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use crate::load::BODY_BYTES;

/// How long it is asked.
const TIME: Duration = Duration::from_secs(1);

/// `fdatasync`s a second of 4 KiB appended, one after the other.
pub fn syncs_per_second(dir: &Path) -> anyhow::Result<f64> {
    let path = dir.join("appends");
    let (mut file, mut count, began) = (File::create(&path)?, 0, Instant::now());
    while began.elapsed() < TIME {
        file.write_all(&[7; BODY_BYTES])?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

/// Device and kind of the file system that a directory is in.
pub fn file_system(dir: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let of = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        dir.starts_with(at).then(|| (at.len(), format!("{kind} on {device}")))
    });
    // of two mounts at one place the later is seen
    of.max_by_key(|(length, _)| *length).map_or_else(|| "unknown".to_owned(), |(_, name)| name)
}
