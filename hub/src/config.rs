//! What an operator may set: one TOML file, `hub.toml`, with a default for
//! everything but the hub's name. Never decides an outcome: what does is in
//! `limits.rs` and in the records.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use axis_proto::id::HubId;
use serde::Deserialize;

use crate::{limits, machine::Kept};

/// The file inside the hub's directory.
pub const FILE_NAME: &str = "hub.toml";

/// Keys that had another name once, as (old, new).
const RENAMED: &[(&str, &str)] = &[];

/// The settings of one hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The hub's directory. Not in the file: it is where the file lies.
    pub dir: PathBuf,
    /// Name of the hub, as envelopes must name it.
    pub hub_id: HubId,
    /// Where the hub listens.
    pub listen: Listen,
    /// How systems reach it.
    pub public: Public,
    /// Identity of systems.
    pub tls: Tls,
    /// How long what is settled is kept.
    pub retention: Retention,
    /// What a system may cause in a day.
    pub quota: Quota,
    /// What is logged.
    pub log: Log,
    /// How long the hub waits for others. Not in the file: for tests, which
    /// do not wait as long.
    pub patience: Patience,
}

/// Where the hub listens. Port 0 takes a free one; `addresses.toml` says
/// which.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// For systems, with client certificates.
    pub systems: SocketAddr,
    /// For enrolment, with the server's certificate only.
    pub enrolment: SocketAddr,
    /// For operators: metrics, readiness and the page. Plain HTTP.
    pub operators: SocketAddr,
}

/// How systems reach the hub.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Public {
    /// `host:port` that systems are told; if empty, where the hub listens.
    pub systems: String,
    /// `host:port` in enrolment tokens; if empty, where the hub listens.
    pub enrolment: String,
    /// Further names and addresses for the server's certificate.
    pub names: Vec<String>,
}

/// Identity of systems.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM files of further authorities for systems' certificates, relative
    /// to the hub's directory. Each certificate is registered all the same.
    pub trusted_authorities: Vec<PathBuf>,
    /// How long the certificates last that the hub signs, in days.
    pub certificate_days: u32,
}

/// How long what is settled is kept. Each envelope is promised at its
/// acceptance what holds then.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Content, in days after the last settlement.
    pub cargo_days: u64,
    /// What Track and re-submission know, in days after the last settlement.
    pub summary_days: u64,
    /// How far back a feed can be read, in days.
    pub feed_days: u64,
}

impl Default for Retention {
    fn default() -> Self {
        let days = |ms: u64| ms / limits::DAY_MS;
        Self {
            cargo_days: days(limits::CARGO_KEPT_MS),
            summary_days: days(limits::SUMMARY_KEPT_MS),
            feed_days: days(limits::FEED_KEPT_MS),
        }
    }
}

impl Retention {
    /// What an envelope is promised.
    pub fn kept(&self) -> Kept {
        Kept { cargo_ms: self.cargo_days * limits::DAY_MS, summary_ms: self.summary_days * limits::DAY_MS }
    }

    /// How far back a feed can be read.
    pub fn feed_ms(&self) -> u64 {
        self.feed_days * limits::DAY_MS
    }

    fn check(&self) -> Result<(), String> {
        let most = limits::KEPT_MAX_MS / limits::DAY_MS;
        for (key, days, least_ms) in [
            ("cargo_days", self.cargo_days, limits::CARGO_KEPT_MIN_MS),
            ("summary_days", self.summary_days, limits::SUMMARY_KEPT_MIN_MS),
            ("feed_days", self.feed_days, limits::FEED_KEPT_MIN_MS),
        ] {
            let least = least_ms / limits::DAY_MS;
            if !(least..=most).contains(&days) {
                return Err(format!("retention.{key}: {least} to {most}"));
            }
        }
        if self.summary_days < self.cargo_days {
            return Err("retention.summary_days: at least cargo_days".to_owned());
        }
        Ok(())
    }
}

/// What a system may cause in a day, before it has to wait: one allowance for
/// ordinary envelopes and everything else, the same again for urgent ones.
/// Acknowledgements and rejections are never refused by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Records, each recipient of an envelope counted as one.
    pub records_per_day: u64,
    /// Bytes of envelopes and documents.
    pub bytes_per_day: u64,
}

/// How long the hub waits for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// See [`limits::ANSWER_TIMEOUT`].
    pub answer: Duration,
    /// See [`limits::MESSAGE_TIMEOUT`].
    pub message: Duration,
    /// See [`limits::KEEPALIVE_INTERVAL`].
    pub keepalive_interval: Duration,
    /// See [`limits::KEEPALIVE_TIMEOUT`].
    pub keepalive: Duration,
    /// See [`limits::ENROLMENT_CONNECTION_LIFE`].
    pub enrolment_life: Duration,
    /// See [`limits::HANDSHAKE_TIMEOUT`].
    pub handshake: Duration,
    /// See [`limits::GREETING_TIMEOUT`].
    pub greeting: Duration,
    /// See [`limits::OPERATORS_IDLE_TIMEOUT`].
    pub operators_idle: Duration,
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// What is logged, as `tracing` directives.
    pub filter: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not TOML, a key is unknown or a value has the wrong type.
    #[error("{}: {why}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A key has another name now.
    #[error("{}: `{old}` is now called `{new}`", .path.display())]
    Renamed {
        /// The file.
        path: PathBuf,
        /// What it was.
        old: String,
        /// What it is.
        new: String,
    },
}

impl Default for Listen {
    fn default() -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self { systems: local(7443), enrolment: local(7444), operators: local(7480) }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self { trusted_authorities: Vec::new(), certificate_days: 397 }
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self { records_per_day: limits::RECORDS_PER_DAY, bytes_per_day: limits::BYTES_PER_DAY }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: limits::ANSWER_TIMEOUT,
            message: limits::MESSAGE_TIMEOUT,
            keepalive_interval: limits::KEEPALIVE_INTERVAL,
            keepalive: limits::KEEPALIVE_TIMEOUT,
            enrolment_life: limits::ENROLMENT_CONNECTION_LIFE,
            handshake: limits::HANDSHAKE_TIMEOUT,
            greeting: limits::GREETING_TIMEOUT,
            operators_idle: limits::OPERATORS_IDLE_TIMEOUT,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    hub_id: String,
    #[serde(default)]
    listen: Listen,
    #[serde(default)]
    public: Public,
    #[serde(default)]
    tls: Tls,
    #[serde(default)]
    retention: Retention,
    #[serde(default)]
    quota: Quota,
    #[serde(default)]
    log: Log,
}

impl Config {
    /// Every default, for the hub of this name in this directory.
    pub fn new(dir: impl Into<PathBuf>, hub_id: HubId) -> Self {
        Self {
            dir: dir.into(),
            hub_id,
            listen: Listen::default(),
            public: Public::default(),
            tls: Tls::default(),
            retention: Retention::default(),
            quota: Quota::default(),
            log: Log::default(),
            patience: Patience::default(),
        }
    }

    /// Reads `hub.toml` in the hub's directory.
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join(FILE_NAME);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
        Self::parse(dir, &path, &text, RENAMED)
    }

    /// Reads the settings of a hub that will be in a directory, from a text.
    pub fn from_text(dir: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::parse(dir, &dir.join(FILE_NAME), text, RENAMED)
    }

    fn parse(dir: &Path, path: &Path, text: &str, renamed: &[(&str, &str)]) -> Result<Self, ConfigError> {
        let invalid = |why: String| ConfigError::Invalid { path: path.to_owned(), why };
        let table: toml::Table = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        if let Some((old, new)) = renamed.iter().find(|(old, _)| holds(&table, old)) {
            return Err(ConfigError::Renamed {
                path: path.to_owned(),
                old: (*old).to_owned(),
                new: (*new).to_owned(),
            });
        }
        let file: File = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        let hub_id = file.hub_id.parse().map_err(|error| invalid(format!("hub_id: {error}")))?;
        for (key, address) in
            [("public.systems", &file.public.systems), ("public.enrolment", &file.public.enrolment)]
        {
            if !address.is_empty() && host_and_port(address).is_none() {
                return Err(invalid(format!("{key}: `{address}` is not `host:port`")));
            }
        }
        if !(1..=3_660).contains(&file.tls.certificate_days) {
            return Err(invalid("tls.certificate_days: 1 to 3660".to_owned()));
        }
        file.retention.check().map_err(invalid)?;
        if file.quota.records_per_day == 0 || file.quota.bytes_per_day == 0 {
            return Err(invalid("quota: records_per_day and bytes_per_day are at least 1".to_owned()));
        }
        let File { listen, public, tls, retention, quota, log, .. } = file;
        let patience = Patience::default();
        Ok(Self { dir: dir.to_owned(), hub_id, listen, public, tls, retention, quota, log, patience })
    }

    /// The settings as the text of a `hub.toml`, every key explained.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut section = |head: &str, keys: &[(&str, &str, String)]| {
            if !head.is_empty() {
                let _ = write!(text, "\n[{head}]\n");
            }
            for (words, key, value) in keys {
                for line in words.lines() {
                    let _ = writeln!(text, "# {line}");
                }
                let _ = writeln!(text, "{key} = {value}");
            }
        };
        section(
            "",
            &[("Name of the hub, as envelopes must name it.", "hub_id", quoted(self.hub_id.as_str()))],
        );
        section(
            "listen",
            &[
                (
                    "For systems, with client certificates. Port 0 takes a free one, here and below;\n\
                     the addresses in use are written to addresses.toml.",
                    "systems",
                    quoted(&self.listen.systems.to_string()),
                ),
                (
                    "For enrolment, with the server's certificate only.",
                    "enrolment",
                    quoted(&self.listen.enrolment.to_string()),
                ),
                (
                    "For operators: metrics, readiness and the page. Plain HTTP, so keep it on loopback\n\
                     or behind a proxy that asks who is there.",
                    "operators",
                    quoted(&self.listen.operators.to_string()),
                ),
            ],
        );
        section(
            "public",
            &[
                (
                    "`host:port` where systems reach the hub. If empty, where it listens.",
                    "systems",
                    quoted(&self.public.systems),
                ),
                (
                    "`host:port` that enrolment tokens name. If empty, where the hub listens.",
                    "enrolment",
                    quoted(&self.public.enrolment),
                ),
                (
                    "Further host names and IP addresses for the server's certificate.",
                    "names",
                    list(&self.public.names),
                ),
            ],
        );
        let authorities: Vec<String> =
            self.tls.trusted_authorities.iter().map(|path| path.display().to_string()).collect();
        section(
            "tls",
            &[
                (
                    "PEM files of further authorities for systems' certificates, relative to the hub's\n\
                     directory. A certificate of theirs must be registered all the same.",
                    "trusted_authorities",
                    list(&authorities),
                ),
                (
                    "How long the certificates last that the hub signs, in days.",
                    "certificate_days",
                    self.tls.certificate_days.to_string(),
                ),
            ],
        );
        section(
            "retention",
            &[
                (
                    "Days after its last settlement that the content of an envelope is kept, 1 to 36500.\n\
                     Its records, digests and proofs stay for ever. An envelope keeps what held when it was\n\
                     accepted.",
                    "cargo_days",
                    self.retention.cargo_days.to_string(),
                ),
                (
                    "Days after its last settlement that Track and re-submission know an envelope; at least\n\
                     61, and not less than cargo_days.",
                    "summary_days",
                    self.retention.summary_days.to_string(),
                ),
                (
                    "Days that a system's feed can be read back; at least 30.",
                    "feed_days",
                    self.retention.feed_days.to_string(),
                ),
            ],
        );
        section(
            "quota",
            &[
                (
                    "What a system may cause in a day before it has to wait, in its ordinary envelopes and\n\
                     all else, and as much again in urgent envelopes. Each recipient is a record.",
                    "records_per_day",
                    self.quota.records_per_day.to_string(),
                ),
                (
                    "Bytes of its envelopes and documents.",
                    "bytes_per_day",
                    self.quota.bytes_per_day.to_string(),
                ),
            ],
        );
        let format = match self.log.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        section(
            "log",
            &[
                ("`text` for people, `json` for collectors.", "format", quoted(format)),
                ("What is logged, as tracing directives.", "filter", quoted(&self.log.filter)),
            ],
        );
        text
    }

    /// The text of `deploy/hub.example.toml`: every default.
    pub fn example() -> String {
        let hub_id = "axis.example".parse().expect("a constant that is a hub id");
        let mut text =
            "# Every setting of a hub with its default. `axis-hub init` writes such a file; only\n\
             # `hub_id` must be there, and unknown keys are refused.\n\n"
                .to_owned();
        text.push_str(&Self::new("", hub_id).render());
        text
    }

    /// Where the stores lie.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where the hub's own keys lie.
    pub fn keys_dir(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// The operators' socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    /// Where the running hub says what it listens on.
    pub fn addresses_file(&self) -> PathBuf {
        self.dir.join("addresses.toml")
    }

    /// Every host name and IP address that the server's certificate must
    /// carry: the public ones, those it listens on, and the machine itself.
    pub fn server_names(&self) -> Vec<String> {
        let public = [&self.public.systems, &self.public.enrolment];
        let public = public.into_iter().filter_map(|address| host_and_port(address)).map(|(host, _)| host);
        let listen = [self.listen.systems.ip(), self.listen.enrolment.ip()];
        let listen = listen.into_iter().filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
        let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut names: Vec<String> =
            public.chain(self.public.names.iter().cloned()).chain(listen).chain(local).collect();
        names.sort();
        names.dedup();
        names
    }
}

impl Public {
    /// What others are told of an address: what is set, else where it
    /// listens, with a host that can be called.
    pub fn address(&self, set: &str, bound: SocketAddr) -> String {
        let callable = match (bound.ip().is_unspecified(), bound.is_ipv4()) {
            (false, _) => bound,
            (true, true) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), bound.port()),
            (true, false) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), bound.port()),
        };
        match (set.is_empty(), self.names.first()) {
            (false, _) => set.to_owned(),
            (true, Some(name)) if name.contains(':') => format!("[{name}]:{}", bound.port()),
            (true, Some(name)) => format!("{name}:{}", bound.port()),
            (true, None) => callable.to_string(),
        }
    }
}

/// Splits `host:port`, where the host may be an IPv6 address in brackets.
pub fn host_and_port(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|inner| inner.parse::<Ipv6Addr>().is_ok())?,
        None => Some(host).filter(|host| !host.is_empty() && !host.contains([':', '/', ' ']))?,
    };
    Some((host.to_owned(), port.parse().ok().filter(|port| *port != 0)?))
}

fn holds(table: &toml::Table, dotted: &str) -> bool {
    match dotted.split_once('.') {
        None => table.contains_key(dotted),
        Some((head, rest)) => {
            table.get(head).and_then(toml::Value::as_table).is_some_and(|inner| holds(inner, rest))
        }
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn list(items: &[String]) -> String {
    toml::Value::from(items.to_vec()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/hub"), Path::new("hub.toml"), text, &[("tls.days", "tls.certificate_days")])
    }

    #[test]
    fn a_name_is_enough() {
        let config = parse("hub_id = \"axis.example\"").unwrap();
        assert_eq!(config, Config::new("/hub", "axis.example".parse().unwrap()));
    }

    #[test]
    fn what_is_rendered_reads_back() {
        let mut config = Config::new("/hub", "axis.example".parse().unwrap());
        config.public.systems = "axis.example:7443".to_owned();
        config.public.names = vec!["hub \"two\"".to_owned(), "10.0.0.1".to_owned()];
        config.tls.trusted_authorities = vec!["keys/other.crt".into()];
        config.quota.records_per_day = 5;
        config.log.format = LogFormat::Json;
        config.retention = Retention { cargo_days: 1, summary_days: 61, feed_days: 30 };
        assert_eq!(parse(&config.render()).unwrap(), config);
    }

    #[test]
    fn the_example_in_deploy_shows_every_default() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/hub.example.toml");
        assert_eq!(parse(&Config::example()).unwrap(), Config::new("/hub", "axis.example".parse().unwrap()));
        if std::env::var_os("AXIS_WRITE").is_some() {
            std::fs::write(&example, Config::example()).unwrap();
        }
        let text = std::fs::read_to_string(&example).unwrap();
        assert_eq!(text, Config::example(), "run the tests once with AXIS_WRITE=1 to write it anew");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, words: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        check("", "hub_id");
        check("hub_id = \"A B\"", "hub_id");
        check("hub_id = \"a\"\nlimit = 1", "limit");
        check("hub_id = \"a\"\n[listen]\nsystem = \"127.0.0.1:1\"", "system");
        check("hub_id = \"a\"\n[public]\nsystems = \"axis.example\"", "host:port");
        check("hub_id = \"a\"\n[tls]\ncertificate_days = 0", "certificate_days");
        check("hub_id = \"a\"\n[retention]\ncargo_days = 0", "retention.cargo_days: 1 to");
        check("hub_id = \"a\"\n[retention]\nsummary_days = 60", "retention.summary_days: 61 to");
        check("hub_id = \"a\"\n[retention]\nsummary_days = 80", "at least cargo_days");
        check("hub_id = \"a\"\n[retention]\nfeed_days = 29", "retention.feed_days: 30 to");
        check("hub_id = \"a\"\n[quota]\nbytes_per_day = 0", "at least 1");
        check("hub_id = \"a\"\n[tls]\ndays = 9", "`tls.days` is now called `tls.certificate_days`");
    }

    #[test]
    fn others_are_told_of_an_address_that_can_be_called() {
        let mut public = Public::default();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(public.address("", at("127.0.0.1:5")), "127.0.0.1:5");
        assert_eq!(public.address("", at("0.0.0.0:5")), "127.0.0.1:5");
        assert_eq!(public.address("", at("[::]:5")), "[::1]:5");
        assert_eq!(public.address("axis.example:9", at("0.0.0.0:5")), "axis.example:9");
        public.names.push("axis.example".to_owned());
        assert_eq!(public.address("", at("0.0.0.0:5")), "axis.example:5");
    }

    #[test]
    fn server_names_are_those_that_systems_use() {
        let mut config = Config::new("/hub", "a".parse().unwrap());
        config.public.systems = "axis.example:7443".to_owned();
        config.public.enrolment = "[2001:db8::1]:7444".to_owned();
        config.listen.systems = "0.0.0.0:7443".parse().unwrap();
        assert_eq!(config.server_names(), ["127.0.0.1", "2001:db8::1", "::1", "axis.example", "localhost"]);
    }
}
