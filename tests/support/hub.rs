//! A hub inside the test's own process: quick to start, its clock ours to
//! move.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use axis_hub::{
    backup::{self, RestoreOptions},
    clock::Clock,
    config::{Config, Listen},
    disk::RealDisk,
    fsck,
    hub::Hub,
    identity::{InitOptions, init},
};
use axis_proto::note::CheckpointVerifier;
use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::{Admin, Ministry, admin, copy, seed::Seeded};

/// A hub in a directory of its own.
pub struct TestHub {
    dir: TempDir,
    verifier_key: String,
    clock: Clock,
    hub: Option<Hub>,
    change: fn(&mut Config),
    _ports: Option<Ports>,
}

impl TestHub {
    /// Makes a hub and starts it, with the machine's clock.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(Clock::system()).await
    }

    /// Makes a hub and starts it, with this clock.
    pub async fn start_with(clock: Clock) -> anyhow::Result<Self> {
        Self::start_changed(clock, |_| {}).await
    }

    /// Makes a hub and starts it, with settings that were changed.
    pub async fn start_changed(clock: Clock, change: fn(&mut Config)) -> anyhow::Result<Self> {
        crate::log();
        let dir = TempDir::new()?;
        let (verifier_key, ports) = make(&dir.path().join("hub"), &clock)?;
        let mut hub = Self { dir, verifier_key, clock, hub: None, change, _ports: Some(ports) };
        hub.resume().await?;
        Ok(hub)
    }

    /// Makes a hub with a past and starts it. Its systems are
    /// [`crate::seed::home`].
    pub async fn seeded(plan: crate::seed::Plan) -> anyhow::Result<Self> {
        crate::log();
        let dir = TempDir::new()?;
        let path = dir.path().join("hub");
        let seeded = tokio::task::spawn_blocking(move || crate::seed::seed(&path, &plan, &mut |_| {}));
        let Seeded { verifier_key, ports, .. } = seeded.await??;
        let (clock, change) = (Clock::system(), |_: &mut Config| {});
        let mut hub = Self { dir, verifier_key, clock, hub: None, change, _ports: ports };
        hub.resume().await?;
        Ok(hub)
    }

    /// The hub's directory.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("hub")
    }

    /// Its clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Verifies its checkpoints.
    pub fn verifier(&self) -> CheckpointVerifier {
        CheckpointVerifier::parse(&self.verifier_key).expect("the hub made it")
    }

    /// What its checkpoints are verified with, as text.
    pub fn verifier_key(&self) -> &str {
        &self.verifier_key
    }

    /// The running hub.
    pub fn hub(&self) -> &Hub {
        self.hub.as_ref().expect("it runs")
    }

    /// What operators do.
    pub async fn admin(&self) -> anyhow::Result<Admin> {
        admin(&self.path()).await
    }

    /// Adds a system that serves these new agencies, and enrols it.
    pub async fn ministry(&self, system: &str, codes: &[&str]) -> anyhow::Result<Ministry> {
        let token = crate::admin::add_system(&mut self.admin().await?, system, codes).await?;
        Ministry::enrol(&self.dir.path().join(system), &token).await
    }

    /// Stops it in good order.
    pub async fn stop(&mut self) {
        if let Some(hub) = self.hub.take() {
            hub.stop().await;
        }
    }

    /// Starts it again where it stopped, on the same ports.
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        let mut config = Config::load(&self.path())?;
        (self.change)(&mut config);
        let hub = Hub::start(config, self.clock.clone()).await.context("starting the hub")?;
        self.hub = Some(hub);
        Ok(())
    }

    /// Loses its disk but for the keys, and restores a backup, or an old copy
    /// of its directory, in its place. It must not run, and is not started;
    /// returns the verifier of the log before.
    pub fn restore(&mut self, backup: &Path) -> anyhow::Result<CheckpointVerifier> {
        anyhow::ensure!(self.hub.is_none(), "it runs");
        let lost = TempDir::new_in(self.dir.path())?;
        let lost = lost.path().join("hub");
        std::fs::rename(self.path(), &lost)?;
        let (backup, keys) = (backup.to_owned(), Some(lost.join("keys")));
        let options = RestoreOptions { backup, dir: self.path(), keys, new_key: false };
        let restored = backup::restore(&options, &self.clock, &mut |_| {})?;
        let before = self.verifier();
        self.verifier_key = restored.log_verifier_key;
        Ok(before)
    }

    /// Copies its directory as it is now, for which it stops a while.
    pub async fn copy_to(&mut self, older: &Path) -> anyhow::Result<()> {
        self.stop().await;
        copy(&self.path(), older)?;
        self.resume().await
    }

    /// Loses its disk and goes on from a copy; returns the verifier of the log
    /// before.
    pub async fn go_back_to(&mut self, older: &Path) -> anyhow::Result<CheckpointVerifier> {
        self.stop().await;
        let before = self.restore(older)?;
        self.resume().await?;
        Ok(before)
    }

    /// Stops it and looks at everything it holds.
    pub async fn finish(mut self) -> anyhow::Result<fsck::Report> {
        self.stop().await;
        let report = check(&self.path(), self.verifier())?;
        Ok(report)
    }
}

/// `fsck` over a stopped hub's directory; an error if anything is wrong.
pub fn check(dir: &Path, verifier: CheckpointVerifier) -> anyhow::Result<fsck::Report> {
    let report = fsck::run(fsck::Stores {
        data: &dir.join("data"),
        disk: RealDisk::shared(),
        verifier,
        progress: &mut |_| {},
    })?;
    anyhow::ensure!(report.is_clean(), "fsck: {:#?}", report.violations);
    Ok(report)
}

/// Makes a hub that listens on free ports, and returns its verifier key. The
/// ports are its own for as long as they are held.
pub fn make(dir: &Path, clock: &Clock) -> anyhow::Result<(String, Ports)> {
    let (ports, listen) = Ports::take()?;
    let mut options = InitOptions::new("truc.test".parse()?);
    options.listen = listen;
    Ok((init(dir, &options, clock)?.log_verifier_key, ports))
}

/// Ports that nobody else is given, also while their hub is stopped.
#[derive(Debug)]
pub struct Ports {
    _held: Vec<TcpSocket>,
}

impl Ports {
    /// Takes free ones.
    fn take() -> anyhow::Result<(Self, Listen)> {
        let mut held = Vec::new();
        let mut take = || {
            let socket = TcpSocket::new_v4()?;
            // as the hub has it: that one is bound and does not listen is in nobody's way then
            socket.set_reuseaddr(true)?;
            socket.bind("127.0.0.1:0".parse()?)?;
            let address = socket.local_addr()?;
            held.push(socket);
            anyhow::Ok(address)
        };
        let listen = Listen { systems: take()?, enrolment: take()?, operators: take()? };
        if !cfg!(target_os = "linux") {
            // elsewhere it would be in the hub's own way
            held.clear();
        }
        Ok((Self { _held: held }, listen))
    }
}
