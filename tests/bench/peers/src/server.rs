//! A peer's server: a process group of its own that ends when it is dropped,
//! in a directory that goes with it.

use std::{
    collections::HashMap,
    fs::File,
    net::TcpListener,
    ops::Range,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};

/// Longest until a peer serves.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest that it may take to end before it is killed.
const STOP_MAX: Duration = Duration::from_secs(10);

/// A running server.
pub struct Server {
    name: String,
    child: Child,
    stop: Signal,
    log: PathBuf,
}

impl Server {
    /// Starts a command; `stop` is what it takes for the order to end at once.
    pub fn start(name: &str, mut command: Command, stop: Signal, log: PathBuf) -> anyhow::Result<Self> {
        let out = File::create(&log)?;
        // a group of its own: a terminal's Ctrl-C is for us, and we end it
        command.process_group(0).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, stop, log })
    }

    /// Who it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tries until it serves.
    pub async fn ready<T, F: Future<Output = anyhow::Result<T>>>(
        &mut self,
        attempt: impl Fn() -> F,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let error = match attempt().await {
                Ok(served) => return Ok(served),
                Err(error) => error,
            };
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                return Err(error.context(format!(
                    "{} does not serve ({ended:?}){}",
                    self.name,
                    self.said()
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits for one that ends by itself, and well.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => anyhow::bail!("{} ended with {status}{}", self.name, self.said()),
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The end of its log.
    fn said(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let mut tail: Vec<_> = log.lines().rev().take(12).collect();
        tail.reverse();
        format!("; it said:\n{}", tail.join("\n"))
    }

    /// Processor time so far of it and all that it started.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        let _gone = kill_process_group(group, self.stop);
        let deadline = Instant::now() + STOP_MAX;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _gone = kill_process_group(group, Signal::KILL);
        let _ended = self.child.wait();
    }
}

/// Of a process and its descendants, those that have ended too.
fn cpu_seconds(root: u32) -> f64 {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((pid, rest)) = stat.split_once(' ') else { continue };
        // the name is in parentheses, and may hold some itself
        let Some((_, rest)) = rest.rsplit_once(") ") else { continue };
        let fields: Vec<u64> = rest.split(' ').map(|field| field.parse().unwrap_or_default()).collect();
        let (Ok(pid), [_, parent, ..]) = (pid.parse::<u64>(), fields.as_slice()) else { continue };
        // utime, stime, and the same of children that it has waited for
        all.insert(pid, (*parent, fields.iter().skip(11).take(4).sum::<u64>()));
    }
    let below = |pid: &u64| {
        let line = std::iter::successors(Some(*pid), |pid| all.get(pid).map(|(parent, _)| *parent));
        line.take(64).any(|pid| pid == u64::from(root))
    };
    let ticks: u64 = all.iter().filter(|(pid, _)| below(pid)).map(|(_, (_, ticks))| ticks).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Ports below those that a system gives to whoever connects somewhere: one of
/// these might be gone before its server has it.
const PORTS: Range<u16> = 12_000..30_000;

/// A port of 127.0.0.1 that nobody has just now, another one each time.
pub fn free_port() -> anyhow::Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in PORTS {
        let step = std::process::id().wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + (step % PORTS.len() as u32) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no port from {} to {} is free", PORTS.start, PORTS.end)
}

/// Who a server that refuses root runs as instead: the user that its package
/// made. Nobody where we are not root ourselves.
pub fn user_instead_of_root(name: &str) -> anyhow::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let user = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|user| user[0] == name);
    match user.as_deref() {
        Some([_, _, uid, gid, ..]) => Ok(Some((uid.parse()?, gid.parse()?))),
        _ => anyhow::bail!("there is no user {name}, and as root it does not run"),
    }
}

/// Gives a directory and what is in it to a user.
pub fn give(path: &Path, user: (u32, u32)) -> anyhow::Result<()> {
    std::os::unix::fs::chown(path, Some(user.0), Some(user.1))?;
    if std::fs::metadata(path)?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give(&entry?.path(), user)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_ends_with_what_it_started() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!; while :; do :; done"]);
        let log = dir.path().join("log");
        let server = Server::start("sh", command, Signal::TERM, log.clone()).expect("started");
        let deadline = Instant::now() + Duration::from_secs(30);
        while server.cpu_seconds() < 0.05 {
            assert!(Instant::now() < deadline, "its processor time is not seen");
            std::thread::yield_now();
        }
        let child = std::fs::read_to_string(&log).expect("a log");
        drop(server);
        // ended, and perhaps not yet waited for by whoever inherits it
        let status = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        assert!(status.is_empty() || status.contains(") Z "), "{status}");
    }
}
