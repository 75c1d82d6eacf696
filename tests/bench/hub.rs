//! The hub that is measured: the real binary in a process of its own, and what
//! the system knows about it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// Longest that a start may take: ten million waiting from nothing.
const START_MAX: Duration = Duration::from_secs(3_600);

/// A running hub; killed when dropped.
pub struct Hub {
    child: Child,
    dir: PathBuf,
}

impl Hub {
    /// Starts it and waits until it serves.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let addresses = dir.join("addresses.toml");
        let _gone = std::fs::remove_file(&addresses);
        let log = std::fs::File::options().create(true).append(true).open(dir.join("hub.log"))?;
        let child = Command::new(axis_tests::binary("axis-hub")?)
            .args(["--dir".as_ref(), dir.as_os_str(), "serve".as_ref()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting axis-hub")?;
        let mut hub = Self { child, dir: dir.to_owned() };
        let deadline = Instant::now() + START_MAX;
        while !addresses.exists() {
            let ended = hub.child.try_wait()?;
            anyhow::ensure!(ended.is_none(), "the hub ended: see {}", dir.join("hub.log").display());
            anyhow::ensure!(Instant::now() < deadline, "the hub did not start within {START_MAX:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(hub)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time that it has used.
    pub fn cpu(&self) -> Duration {
        crate::measure::cpu(&self.pid().to_string())
    }

    /// A figure in KiB of `/proc/<pid>/status`.
    pub fn memory_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default()
    }

    /// The same as MiB.
    pub fn memory_mib(&self, name: &str) -> u64 {
        self.memory_kib(name) / 1_024
    }

    /// What its metrics say now.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let addresses: toml::Table = std::fs::read_to_string(self.dir.join("addresses.toml"))?.parse()?;
        let operators = addresses.get("operators").and_then(|address| address.as_str());
        let mut stream = TcpStream::connect(operators.context("the hub says no address for operators")?)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no metric {name}"))?.trim().parse()?)
    }

    /// SIGTERM, and how long it took to end.
    pub fn stop(mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "the hub ended with {status}: see {}", self.dir.display());
        Ok(began.elapsed())
    }

    /// SIGKILL.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Bytes that a directory takes.
pub fn bytes_in(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
