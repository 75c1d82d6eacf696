//! A hub in a directory of its own with a crowd of systems, for as long as a
//! profile runs.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use axis_tests::{
    Raw, channel,
    crowd::{Crowd, crowd},
};
use rustls::ClientConfig;
use tempfile::TempDir;

use crate::{exchange::Party, hub::Hub};

/// What a client of ours lets the hub send on one call before it is read, and
/// on all calls together.
pub const WINDOWS: (Option<u32>, Option<u32>) = (Some(4 * 1024 * 1024), Some(16 * 1024 * 1024));

/// A running hub and those who may call it.
pub struct Stage {
    /// Dropped before what it works in.
    pub hub: Hub,
    /// Who may call.
    pub crowd: Crowd,
    /// Their sides of TLS.
    pub tls: Vec<Arc<ClientConfig>>,
    /// Where systems call.
    pub address: String,
    _dir: TempDir,
}

impl Stage {
    /// Makes a hub below `above`, and starts it.
    pub fn set(above: &Path, systems: usize) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("axis-bench-").tempdir_in(above)?;
        let path = dir.path().join("hub");
        let crowd = crowd(&path, systems)?;
        let hub = Hub::start(&path)?;
        let addresses: toml::Table = std::fs::read_to_string(path.join("addresses.toml"))?.parse()?;
        let address = addresses.get("systems").and_then(toml::Value::as_str).context("an address")?;
        Ok(Self { address: address.to_owned(), tls: crowd.tls()?, crowd, hub, _dir: dir })
    }

    /// Stops the hub, as its operators would.
    pub fn stop(self) -> anyhow::Result<()> {
        self.hub.stop().map(drop)
    }

    /// A connection of a system, straight to the hub or by way of an address.
    pub fn raw(&self, place: usize, by_way_of: Option<&str>) -> anyhow::Result<Raw> {
        let member = self.crowd.members.get(place).context("there are not so many systems")?;
        let address = by_way_of.unwrap_or(&self.address);
        let channel = channel(self.tls[place].clone(), address, WINDOWS.0, WINDOWS.1)?;
        Ok(Raw { channel, key: member.key.clone(), agency: member.agency.clone() })
    }

    /// A system that sends and receives.
    pub async fn party(&self, place: usize, by_way_of: Option<&str>) -> anyhow::Result<Party> {
        Party::join(self.raw(place, by_way_of)?).await
    }
}
