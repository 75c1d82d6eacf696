//! The real binary on a real file system: the power is cut, and the disk runs
//! full. Needs root and loop devices: `tests/power` runs it.

mod cut;
mod full;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use axis_tests::Device;
use tempfile::TempDir;

/// A file system that is removed with its image.
struct Place {
    // in this order: unmounted before its folder goes
    device: Device,
    _folder: TempDir,
}

impl Place {
    fn make(bytes: u64) -> anyhow::Result<Self> {
        let folder = TempDir::new_in(given("AXIS_POWER_DIR")?)?;
        Ok(Self { device: Device::make(folder.path(), bytes)?, _folder: folder })
    }

    fn hub(&self) -> PathBuf {
        self.device.path().join("hub")
    }
}

/// What `tests/power` says.
fn given(name: &str) -> anyhow::Result<PathBuf> {
    let value = std::env::var_os(name).with_context(|| format!("{name} is not set; run tests/power"))?;
    Ok(Path::new(&value).to_owned())
}
