//! A hub as users start it: the binary, in a process that can be killed.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use axis_hub::clock::Clock;
use axis_proto::note::CheckpointVerifier;
use tempfile::TempDir;

use crate::{
    Admin, Ministry, PATIENCE, admin, eventually,
    hub::{Ports, check, make},
    seed::Seeded,
    within,
};

/// A hub in a process and a directory of its own.
pub struct HubProcess {
    /// Its log, and the homes of its systems.
    dir: TempDir,
    hub: PathBuf,
    environment: Vec<(String, PathBuf)>,
    verifier_key: String,
    /// Longest that it may take to start and to stop: more with a long past.
    patience: Duration,
    child: Option<Child>,
    _ports: Option<Ports>,
}

impl HubProcess {
    /// Makes a hub and starts it.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_in(None, &[]).await
    }

    /// Makes a hub in a directory that is somewhere else, and starts it with
    /// these variables in its environment.
    pub async fn start_in(hub: Option<&Path>, environment: &[(&str, &Path)]) -> anyhow::Result<Self> {
        crate::log();
        let dir = TempDir::new()?;
        let hub = hub.map_or_else(|| dir.path().join("hub"), Path::to_owned);
        let (verifier_key, ports) = make(&hub, &Clock::system())?;
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), value.to_path_buf())).collect();
        let mut hub = Self {
            dir,
            hub,
            environment,
            verifier_key,
            patience: PATIENCE,
            child: None,
            _ports: Some(ports),
        };
        hub.resume().await?;
        Ok(hub)
    }

    /// Makes a hub and starts it, with these `tracing` directives.
    pub async fn start_logging(filter: &str) -> anyhow::Result<Self> {
        let mut hub = Self::start().await?;
        hub.terminate().await?;
        let settings = hub.path().join("hub.toml");
        let text = std::fs::read_to_string(&settings)?;
        let changed = text.replace("filter = \"info\"", &format!("filter = \"{filter}\""));
        anyhow::ensure!(changed != text, "hub.toml says what is logged");
        std::fs::write(&settings, changed)?;
        hub.resume().await?;
        Ok(hub)
    }

    /// Makes a hub with a past and starts it. Its systems are
    /// [`crate::seed::home`].
    pub async fn seeded(plan: crate::seed::Plan) -> anyhow::Result<Self> {
        crate::log();
        let dir = TempDir::new()?;
        let (hub, path) = (dir.path().join("hub"), dir.path().join("hub"));
        // a millisecond for each envelope, many times what it takes
        let patience = PATIENCE + Duration::from_millis(plan.waiting + plan.settled);
        let seeded = tokio::task::spawn_blocking(move || crate::seed::seed(&path, &plan, &mut |_| {}));
        let Seeded { verifier_key, ports, .. } = seeded.await??;
        let mut hub =
            Self { dir, hub, environment: Vec::new(), verifier_key, patience, child: None, _ports: ports };
        hub.resume().await?;
        Ok(hub)
    }

    /// A figure of `/proc/<pid>/status` that is in KiB, as MiB; 0 where there
    /// is none.
    pub fn memory_mib(&self, name: &str) -> u64 {
        let Some(child) = &self.child else { return 0 };
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1_024
    }

    /// The hub's directory.
    pub fn path(&self) -> PathBuf {
        self.hub.clone()
    }

    /// Verifies its checkpoints.
    pub fn verifier(&self) -> CheckpointVerifier {
        CheckpointVerifier::parse(&self.verifier_key).expect("the hub made it")
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

    /// Starts it where it stopped or was killed, and waits until it serves.
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        let addresses = self.path().join("addresses.toml");
        let _gone = std::fs::remove_file(&addresses);
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("hub.log"))?;
        let mut child = Command::new(binary("axis-hub")?)
            .args(["--dir".as_ref(), self.path().as_os_str(), "serve".as_ref()])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting axis-hub")?;
        let mut ended = None;
        within(self.patience, "the hub serves", async || {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || addresses.exists()
        })
        .await;
        anyhow::ensure!(ended.is_none(), "the hub ended: {}", self.log_end());
        self.child = Some(child);
        Ok(())
    }

    /// Runs `axis-hub` on its directory, and returns what it printed; an error
    /// if it did not succeed.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run_hub(&self.path(), arguments)
    }

    /// Brings a backup up to date; what `axis-hub backup --json` says.
    pub fn back_up(&self, backup: &Path) -> anyhow::Result<serde_json::Value> {
        let backup = backup.to_str().context("a path")?;
        Ok(serde_json::from_str(&self.command(&["backup", backup, "--json"])?)?)
    }

    /// Kills it, loses its disk, and restores a backup in its place with its
    /// old keys, on the same ports. What was there is left beside it, in
    /// `lost`. Not started yet; returns the verifier of the log before.
    pub fn lose_and_restore(&mut self, backup: &Path) -> anyhow::Result<CheckpointVerifier> {
        self.kill()?;
        let lost = self.dir.path().join("lost");
        std::fs::rename(self.path(), &lost)?;
        let keys = lost.join("keys");
        let (backup, keys) = (backup.to_str().context("a path")?, keys.to_str().context("a path")?);
        let restored = self.command(&["restore", backup, "--keys", keys])?;
        let before = self.verifier();
        self.verifier_key = restored.trim().to_owned();
        Ok(before)
    }

    /// SIGKILL: it learns nothing.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, and waits for its end in good order.
    pub async fn terminate(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            Command::new("kill").arg(child.id().to_string()).status()?;
            let mut status = None;
            within(self.patience, "the hub stops", async || {
                status = child.try_wait().ok().flatten();
                status.is_some()
            })
            .await;
            let status = status.context("it ended")?;
            anyhow::ensure!(status.success(), "the hub ended with {status}: {}", self.log_end());
        }
        Ok(())
    }

    /// Waits until it ends by itself, and says how.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        // kept until it has ended: nothing is left behind if it does not
        let child = self.child.as_mut().context("it runs")?;
        let mut status = None;
        eventually("the hub ends", async || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        })
        .await;
        self.child = None;
        status.context("it ended")
    }

    /// Looks at everything it holds; it must not run.
    pub fn check(&self) -> anyhow::Result<axis_hub::fsck::Report> {
        check(&self.path(), self.verifier())
    }

    /// The most memory that it ever had resident, in KiB.
    pub fn peak_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.as_ref()?.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    }

    /// All that it logged.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.dir.path().join("hub.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The end of what it logged.
    pub fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("hub.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Stops it and looks at everything it holds.
    pub async fn finish(mut self) -> anyhow::Result<axis_hub::fsck::Report> {
        self.terminate().await?;
        check(&self.path(), self.verifier())
    }
}

impl Drop for HubProcess {
    fn drop(&mut self) {
        let _gone = self.kill();
    }
}

/// Runs `axis-hub` on a hub's directory, and returns what it printed; an error
/// with its words if it did not succeed.
pub fn run_hub(dir: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(binary("axis-hub")?)
        .args(arguments)
        .arg("--dir")
        .arg(dir)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .context("running axis-hub")?;
    let words = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "axis-hub {}: {}: {words}", arguments.join(" "), output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// What `axis --json` says for a home.
pub fn run_axis(home: &Path, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
    let output =
        Command::new(binary("axis")?).arg("--json").arg("--home").arg(home).args(arguments).output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "axis {}: {words}", arguments.join(" "));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A binary of this workspace, built beside the test.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.parent().context("a program lies somewhere")?;
    // tests lie in target/<profile>/deps
    let folder = if beside.ends_with("deps") { beside.parent().unwrap_or(beside) } else { beside };
    let path = folder.join(name);
    anyhow::ensure!(path.exists(), "{} is missing; hint: cargo build --workspace", path.display());
    Ok(path)
}
