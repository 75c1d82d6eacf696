//! Where peers' programs are, what they say of their version, and how one gets
//! them.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context as _;

/// Where Debian keeps RabbitMQ's own script; the one in `sbin` changes the user
/// and the directory.
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// Where Debian keeps versions of PostgreSQL.
const POSTGRESQL: &str = "/usr/lib/postgresql";

/// What is not found by itself.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Places {
    /// The Python environment's programs, with `nats-server` and `python`
    #[arg(long, value_name = "DIR")]
    python: Option<PathBuf>,
    /// Axis's `bench`, beside its `axis-hub`
    #[arg(long, value_name = "FILE")]
    bench: Option<PathBuf>,
}

impl Places {
    /// `nats-server`.
    pub fn nats(&self) -> anyhow::Result<PathBuf> {
        self.python_program("nats-server")
    }

    /// `python` that knows `as4`.
    pub fn python(&self) -> anyhow::Result<PathBuf> {
        self.python_program("python")
    }

    fn python_program(&self, name: &str) -> anyhow::Result<PathBuf> {
        let beside = self.python.iter().map(|dir| dir.join(name));
        program(beside).with_context(|| format!("no {name}: --python DIR, which tests/bench/peers/run makes"))
    }

    /// `bench`.
    pub fn bench(&self) -> anyhow::Result<PathBuf> {
        program(self.bench.clone()).context("no bench: --bench FILE, which tests/bench/peers/run builds")
    }

    /// RabbitMQ's own script.
    pub fn rabbitmq(&self) -> anyhow::Result<PathBuf> {
        program([PathBuf::from(RABBITMQ)]).context("apt-get install --no-install-recommends rabbitmq-server")
    }

    /// Erlang's port mapper.
    pub fn epmd(&self) -> anyhow::Result<PathBuf> {
        program(path().map(|dir| dir.join("epmd"))).context("apt-get install erlang-base")
    }

    /// The directory with `initdb` and `postgres`: the newest.
    pub fn postgresql(&self) -> anyhow::Result<PathBuf> {
        let versions = std::fs::read_dir(POSTGRESQL).into_iter().flatten().flatten();
        let mut versions: Vec<_> = versions.map(|entry| entry.path().join("bin")).collect();
        let number = |bin: &PathBuf| {
            bin.parent().and_then(|dir| dir.file_name()?.to_str()?.parse::<u32>().ok()).unwrap_or_default()
        };
        versions.sort_unstable_by_key(|bin| std::cmp::Reverse(number(bin)));
        let all = versions.into_iter().chain(path());
        let found = program(all.map(|dir| dir.join("initdb"))).context("apt-get install postgresql")?;
        Ok(found.parent().context("a directory")?.to_owned())
    }

    /// What each that is there says of its version.
    pub fn versions(&self) -> Vec<(&'static str, String)> {
        let mut versions = Vec::new();
        if let Ok(bench) = self.bench() {
            versions.push(("Axis", says(&bench.with_file_name("axis-hub"), &["--version"])));
        }
        if let Ok(nats) = self.nats() {
            versions.push(("JetStream", says(&nats, &["--version"])));
        }
        if self.rabbitmq().is_ok() {
            // asking it would start its VM
            let packages = ["-W", "-f", "${Package} ${Version}, ", "rabbitmq-server", "erlang-base"];
            versions.push((
                "RabbitMQ",
                says(Path::new("dpkg-query"), &packages).trim_end_matches(", ").to_owned(),
            ));
        }
        if let Ok(bin) = self.postgresql() {
            versions.push(("PostgreSQL", says(&bin.join("postgres"), &["--version"])));
        }
        if let Ok(python) = self.python() {
            let version = "import sys,as4,importlib.metadata as m;print('as4',m.version('as4')+', Python',sys.version.split()[0])";
            versions.push(("AS4", says(&python, &["-c", version])));
        }
        versions
    }
}

fn path() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

/// The first of some files that is there and can be run.
fn program(places: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    places
        .into_iter()
        .find(|path| path.metadata().is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0))
}

/// The first line of what a program says.
pub fn says(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}
