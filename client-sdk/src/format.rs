//! Which version of its format a file of the home has: the number `format` in
//! it; a file without one is of version 1. What a later release wrote is
//! refused by its name and left as it is. A release that raises the version
//! writes the profile first, so that an older one is refused at the door.

use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::{Error, HomeProblem, Result};

/// The version that this release writes; it reads all up to it.
pub const VERSION: u32 = 1;

/// What every version of every file says.
#[derive(Deserialize)]
struct Version {
    #[serde(default = "first")]
    format: u32,
}

#[derive(Serialize)]
struct Written<'a, T> {
    format: u32,
    #[serde(flatten)]
    body: &'a T,
}

fn first() -> u32 {
    1
}

/// Reads a JSON file of the home.
pub fn from_json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    // first of all: what follows may mean something else
    let version: Version = serde_json::from_slice(bytes).map_err(|error| Error::damaged(path, error))?;
    check(path, version.format.into())?;
    serde_json::from_slice(bytes).map_err(|error| Error::damaged(path, error))
}

/// A JSON file of the home.
pub fn to_json<T: Serialize>(path: &Path, body: &T) -> Result<Vec<u8>> {
    let written = serde_json::to_vec_pretty(&Written { format: VERSION, body });
    written.map_err(|error| Error::damaged(path, error))
}

/// Reads a TOML file of the home.
pub fn from_toml<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    let damaged = |error: toml::de::Error| Error::damaged(path, error.message());
    let mut table: toml::Table = toml::from_str(text).map_err(damaged)?;
    match table.remove("format") {
        None => {}
        Some(toml::Value::Integer(format)) => check(path, format.try_into().unwrap_or_default())?,
        Some(other) => return Err(Error::damaged(path, format!("`{other}` is no version"))),
    }
    table.try_into().map_err(damaged)
}

/// A TOML file of the home.
pub fn to_toml<T: Serialize>(path: &Path, body: &T) -> Result<String> {
    let text = toml::to_string(body).map_err(|error| Error::damaged(path, error))?;
    Ok(format!("format = {VERSION}\n{text}"))
}

fn check(path: &Path, found: u64) -> Result<()> {
    match found {
        0 => Err(Error::damaged(path, "there is no version 0")),
        _ if found <= VERSION.into() => Ok(()),
        _ => Err(HomeProblem::Newer { path: path.display().to_string(), found, read: VERSION }.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::PathBuf,
        time::{Duration, SystemTime},
    };

    use axis_proto::{
        id::{AgencyCode, Digest, EnvelopeId},
        key::SigningKey,
        record::v1::{ClockConfirmed, record::Event},
        seal::{self, PayloadType},
    };

    use super::*;
    use crate::{
        FeedOptions, KnownLogs,
        answered::{self, Answer},
        files,
        home::{self, Home},
        numbers::Ledger,
        reconcile,
        send::outbox::{self, Draft, Entry, Plan},
        testing::Enrolled,
        tidy,
    };

    const KEEP: Duration = Duration::from_secs(86_400);

    /// A home with a file of each kind.
    struct Full {
        enrolled: Enrolled,
        home: Home,
        waits: EnvelopeId,
        went: EnvelopeId,
    }

    impl Full {
        async fn new() -> Self {
            let enrolled = Enrolled::new().await;
            let home = enrolled.inner().home.clone();
            let agency: AgencyCode = "H53".parse().unwrap();
            let sealed = seal::seal(PayloadType::Envelope, "bytes", &[&SigningKey::generate()]);
            let receipt = enrolled.receipt(3, Event::ClockConfirmed(ClockConfirmed { operator: "o".into() }));
            let (waits, went) = (EnvelopeId::new_v7(), EnvelopeId::new_v7());

            enrolled.inner().trust.verify(&receipt).unwrap();
            enrolled.inner().trust.keep_evidence();
            Ledger::open(&home.mailbox()).unwrap().enter("hub/log/1", true).unwrap();
            files::write_lazily(&home.feed(), br#"{"after":7}"#).unwrap();
            reconcile::save(&home, &reconcile::Reconciliation::default()).unwrap();
            let digest = Digest::of(b"bytes");
            let parties = (agency.clone(), agency.clone());
            let place = ("7-0".parse().unwrap(), 3);
            let answer = Answer::new((digest, went), parties, place, ("hub/log/1".into(), 9), &sealed);
            answered::keep(&home, &answer).unwrap();
            files::make_directory(&home.outbox()).unwrap();
            for id in [waits, went] {
                let sender = agency.clone();
                let plan = Plan { envelope_id: id, sender, envelope_digest: digest, documents: Vec::new() };
                let entry = Draft::begin(&home).unwrap().finish(&home, &sealed, plan).unwrap();
                if id == went {
                    entry.sent(&receipt, 3, true).unwrap();
                }
            }
            Self { enrolled, home, waits, went }
        }

        /// Reads a file as the SDK does.
        async fn read(&self, path: &Path) -> Result<()> {
            let home = &self.home;
            let folder = path.parent().unwrap_or(path);
            match path.file_name().unwrap_or_default().to_str().unwrap_or_default() {
                "axis.toml" => home::load_profile(home).map(drop),
                "log.json" => KnownLogs::load(home.path()).map(drop),
                "mailbox.json" => Ledger::open(path).map(drop),
                "feed.json" => self.enrolled.client.feed(FeedOptions::default()).await.map(drop),
                "reconciled.json" => self.enrolled.client.reconciliation().map(drop),
                "tidied" => tidy::tidy(home, KEEP, u64::MAX),
                "plan.json" if folder.starts_with(home.outbox()) => Entry::open(home, &self.waits).map(drop),
                "plan.json" => {
                    let opened = Entry::open_sent(home, &self.went).map(drop);
                    let kept = outbox::kept(home, &self.went, |_| 0).map(drop);
                    assert_eq!(opened.is_err(), kept.is_err());
                    kept
                }
                _ => answered::each(home, drop),
            }
        }
    }

    /// Every file that only the SDK reads.
    fn own(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                own(&path, found);
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // locks, keys, signed bytes, and receipts, which are for everyone and say it in their proof
            let other = [".lock", "lock", ".pem", "sealed.bin", ".receipt.json"];
            if !other.iter().any(|end| name.ends_with(end)) {
                found.push(path);
            }
        }
    }

    type Whole = Vec<(PathBuf, Vec<u8>, SystemTime)>;

    fn whole(home: &Home) -> Whole {
        let mut paths = Vec::new();
        own(home.path(), &mut paths);
        paths.sort();
        let read = |path: PathBuf| {
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            (path.clone(), fs::read(path).unwrap(), modified)
        };
        paths.into_iter().map(read).collect()
    }

    /// The file as a release wrote it that says another version, or none.
    fn with_version(text: &str, version: Option<u32>) -> String {
        let own = [
            format!("\"format\": {VERSION}"),
            format!("\"format\":{VERSION}"),
            format!("format = {VERSION}"),
        ];
        let found = own.iter().find(|own| text.contains(*own)).unwrap_or_else(|| panic!("{text}"));
        let said = version.map(|version| found.replace(&VERSION.to_string(), &version.to_string()));
        let other = if found.starts_with('"') { "\"other\": 0" } else { "" };
        text.replacen(found, &said.unwrap_or(other.into()), 1)
    }

    #[tokio::test]
    async fn what_a_later_release_wrote_is_refused_by_name_and_left_as_it_is() {
        let full = Full::new().await;
        // the client's start writes it
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !full.home.tidied().exists() && std::time::Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        fs::write(full.home.feed(), to_json(&full.home.feed(), &serde_json::json!({ "after": 7 })).unwrap())
            .unwrap();
        let files = whole(&full.home);
        assert_eq!(files.len(), 9, "{files:#?}");
        for (path, bytes, _) in files {
            let text = String::from_utf8(bytes).unwrap();
            full.read(&path).await.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            // as the first releases wrote it
            fs::write(&path, with_version(&text, None)).unwrap();
            full.read(&path).await.unwrap_or_else(|error| panic!("{}: {error}", path.display()));

            fs::write(&path, with_version(&text, Some(VERSION + 1))).unwrap();
            let before = whole(&full.home);
            let error = full.read(&path).await.unwrap_err();
            let named = HomeProblem::Newer {
                path: path.display().to_string(),
                found: u64::from(VERSION) + 1,
                read: VERSION,
            };
            assert!(matches!(&error, Error::Home(problem) if *problem == named), "{error:?}");
            assert_eq!(whole(&full.home), before);

            fs::write(&path, with_version(&text, Some(0))).unwrap();
            let error = full.read(&path).await;
            // losing it costs nothing
            let is_lost = path.ends_with("tidied") && error.is_ok();
            assert!(is_lost || matches!(error, Err(Error::Home(HomeProblem::Damaged { .. }))), "{error:?}");
            fs::write(&path, text).unwrap();
        }
    }
}
