//! `init`, `serve`, `fsck` and `rebuild`: what works on the hub's directory
//! itself, under its lock.

use std::{
    error::Error,
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use axis_hub::{
    clock::Clock,
    config::{Config, ConfigError, Log, LogFormat},
    disk::{self, RealDisk, version::Newer},
    evidence, formats,
    fsck::{self, Report, Stores},
    hub::{self, Hub},
    identity::{self, Identity, InitError, InitOptions},
    journal::{self, segments},
    observe::words,
};
use axis_proto::reason::Language;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{
    args::{InitSettings, Output},
    json,
    say::{Failure, Progress, Result, language, put, say, tr},
};

/// `axis-hub init`
pub fn init(dir: PathBuf, settings: InitSettings) -> Result<()> {
    let mut options = InitOptions::new(settings.hub_id);
    options.public_addresses = settings.public_addresses;
    let listen = &mut options.listen;
    listen.systems = settings.listen_systems.unwrap_or(listen.systems);
    listen.enrolment = settings.listen_enrolment.unwrap_or(listen.enrolment);
    listen.operators = settings.listen_operators.unwrap_or(listen.operators);
    let shown = dir.display();
    let made = identity::init(&dir, &options, &Clock::system()).map_err(|error| {
        let failure = Failure::new(chain(&error));
        match error {
            InitError::Exists(_) => failure.hint(tr(
                "`axis-hub serve` runs the hub that is there; name another directory for a new one",
                "`axis-hub serve` chạy trục đã có ở đó; hãy chọn thư mục khác cho trục mới",
            )),
            _ => failure,
        }
    })?;
    put(&made.log_verifier_key);
    say(tr(
        "the key above verifies the log's checkpoints: publish it",
        "khóa trên dùng để kiểm chứng nhật ký của trục: hãy công bố",
    ));
    say(match language() {
        Language::En => {
            format!("hub {} is made in {shown}; its settings are in {shown}/hub.toml", options.hub_id)
        }
        Language::Vi => format!("đã tạo trục {} trong {shown}; cấu hình ở {shown}/hub.toml", options.hub_id),
    });
    say(format!("hint: {} `axis-hub serve --dir {shown}`", tr("start it with", "khởi động bằng")));
    Ok(())
}

/// `axis-hub serve`
pub fn serve(dir: &Path) -> Result<()> {
    let config = load(dir)?;
    start_log(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("hub")
        .build()
        .map_err(|error| Failure::new(chain(&error)))?;
    let outcome = runtime.block_on(serve_until_told(config));
    // what was left is named already, and must not hold the process
    runtime.shutdown_background();
    outcome
}

async fn serve_until_told(config: Config) -> Result<()> {
    let no_signals = |error: std::io::Error| Failure::new(chain(&error));
    // before the start, so that a signal during it is not lost
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    // a long catching up need not be waited for: the next start goes on with it
    let hub = tokio::select! {
        started = Hub::start(config, Clock::system()) => started.map_err(|error| start_failure(&error))?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        why = hub.failed() => Some(why),
    };
    tracing::info!(signal = failed.is_none(), "stopping");
    let left = hub.stop().await;
    if !left.is_empty() {
        say(format!("{}: {}", tr("left when stopping", "còn dở khi dừng"), left.join("; ")));
    }
    match failed {
        None => Ok(()),
        Some(why) => Err(Failure::new(why).hint(tr(
            "start the hub again: it finds out what the disk holds; look at the disk if it does not",
            "hãy khởi động lại trục để đối chiếu với dữ liệu trên đĩa; nếu không được, hãy kiểm tra đĩa",
        ))),
    }
}

/// `axis-hub fsck`
pub fn fsck(dir: &Path, output: Output) -> Result<()> {
    let config = load(dir)?;
    let data = config.data_dir();
    let _lock = disk::lock(&data).map_err(|error| start_failure(&error))?;
    let damaged = |error: &(dyn Error + 'static)| {
        Failure::damaged(chain(error)).hint(tr(
            "keep the directory as it is; the runbook says how to restore a journal",
            "giữ nguyên thư mục; sổ tay vận hành chỉ cách khôi phục nhật ký",
        ))
    };
    let disk = RealDisk::shared();
    formats::check(&*disk, &data).map_err(|error| start_failure(&error))?;
    let journal =
        segments::open_read_only(disk.clone(), &data.join(hub::JOURNAL)).map_err(|error| damaged(&error))?;
    let records = journal.size();
    let identity = Identity::load(&config.keys_dir()).map_err(|error| start_failure(&error))?;
    let logs = journal::logs(&*disk, &data.join(hub::JOURNAL)).map_err(|error| damaged(&error))?;
    let signer = evidence::logs::signer(&logs, &identity).map_err(Failure::damaged)?;
    let verifier = signer.verifier();
    let progress = Progress::new(usize::try_from(records).unwrap_or(usize::MAX));
    let stores = Stores {
        data: &data,
        disk,
        verifier,
        progress: &mut |done| progress.at(usize::try_from(done).unwrap_or(usize::MAX)),
    };
    let report = fsck::run(stores).map_err(|error| damaged(&error))?;
    match output.json {
        true => json::put(&serde_json::to_value(&report).map_err(|error| Failure::new(error.to_string()))?),
        false => put(report_text(&report)),
    }
    match report.violations.len() {
        0 => Ok(()),
        count => Err(Failure::damaged(match language() {
            Language::En => format!("{count} things are not as they must be"),
            Language::Vi => format!("{count} điều không đúng như phải có"),
        })
        .hint(tr(
            "tree and state can be made anew with `axis-hub rebuild`; for the journal see the runbook",
            "cây băm và trạng thái có thể dựng lại bằng `axis-hub rebuild`; với nhật ký, xem sổ tay vận hành",
        ))),
    }
}

fn report_text(report: &Report) -> String {
    let (lang, counts) = (language(), &report.counts);
    let mut lines = vec![match lang {
        Language::En => format!(
            "{} records in {} batches and {} files; {} envelopes, {} deliveries, {} of them settled; {} documents read",
            words::count(lang, counts.records),
            words::count(lang, counts.batches),
            report.segments,
            words::count(lang, counts.envelopes),
            words::count(lang, counts.deliveries),
            words::count(lang, counts.settled),
            words::count(lang, report.documents),
        ),
        Language::Vi => format!(
            "{} bản ghi trong {} lô, {} tệp; {} gói tin, {} lượt gửi, {} đã kết thúc; đã đọc {} văn bản",
            words::count(lang, counts.records),
            words::count(lang, counts.batches),
            report.segments,
            words::count(lang, counts.envelopes),
            words::count(lang, counts.deliveries),
            words::count(lang, counts.settled),
            words::count(lang, report.documents),
        ),
    }];
    let notes = report.incomplete_batch.iter().chain(&report.notes);
    lines.extend(notes.map(|note| format!("{}: {note}", tr("note", "lưu ý"))));
    lines.extend(report.violations.iter().map(|violation| match violation.sequence {
        Some(sequence) => format!("{} {sequence}: {}", tr("record", "bản ghi"), violation.what),
        None => violation.what.clone(),
    }));
    if report.is_clean() {
        lines.push(tr("all is well", "mọi thứ đều đúng").to_owned());
    }
    lines.join("\n")
}

/// `axis-hub rebuild`
pub fn rebuild(dir: &Path) -> Result<()> {
    let config = load(dir)?;
    let records = hub::rebuild(&config).map_err(|error| start_failure(&error))?;
    say(match language() {
        Language::En => format!("tree and state are made anew from {records} records"),
        Language::Vi => format!("đã dựng lại cây băm và trạng thái từ {records} bản ghi"),
    });
    Ok(())
}

pub(super) fn load(dir: &Path) -> Result<Config> {
    Config::load(dir).map_err(|error| {
        let failure = Failure::new(chain(&error));
        match error {
            ConfigError::Unreadable { .. } => failure.hint(tr(
                "name the hub's directory with --dir DIR or AXIS_HUB_DIR; make one with `axis-hub init DIR --hub-id ID`",
                "chỉ thư mục của trục bằng --dir DIR hoặc AXIS_HUB_DIR; tạo mới bằng `axis-hub init DIR --hub-id ID`",
            )),
            ConfigError::Invalid { .. } | ConfigError::Renamed { .. } => failure.hint(tr(
                "deploy/hub.example.toml shows every setting",
                "deploy/hub.example.toml có đủ mọi mục cấu hình",
            )),
        }
    })
}

/// Says what to do about the usual reasons.
pub(super) fn start_failure(error: &(dyn Error + 'static)) -> Failure {
    let words = chain(error);
    let failure = Failure::new(&words);
    let mut cause = Some(error);
    while let Some(found) = cause {
        if found.downcast_ref::<std::io::Error>().is_some_and(is_newer_derived) {
            return failure.hint(tr(
                "to go back a release all the same, make tree and state anew with its own `axis-hub rebuild`",
                "nếu vẫn muốn quay về bản cũ, hãy dựng lại cây băm và trạng thái bằng `axis-hub rebuild` của bản đó",
            ));
        }
        if let Some(io) = found.downcast_ref::<std::io::Error>() {
            let hint = match io.kind() {
                std::io::ErrorKind::AddrInUse => tr(
                    "another process listens there; stop it or change [listen] in hub.toml (port 0 takes a free one)",
                    "có tiến trình khác đang dùng cổng này; hãy dừng nó hoặc đổi [listen] trong hub.toml (cổng 0 là tự chọn)",
                ),
                std::io::ErrorKind::WouldBlock => tr(
                    "a hub runs in this directory already; stop it first",
                    "đã có trục chạy trong thư mục này; hãy dừng nó trước",
                ),
                std::io::ErrorKind::PermissionDenied => tr(
                    "run it as the user that owns the hub's directory",
                    "hãy chạy bằng tài khoản sở hữu thư mục của trục",
                ),
                std::io::ErrorKind::StorageFull => {
                    tr("make room on the data disk", "giải phóng dung lượng đĩa dữ liệu")
                }
                _ => "",
            };
            if !hint.is_empty() {
                return failure.hint(hint);
            }
        }
        cause = found.source();
    }
    failure
}

/// Whether a later release wrote what can be made anew from the journal.
fn is_newer_derived(error: &std::io::Error) -> bool {
    let newer = error.get_ref().and_then(|inner| inner.downcast_ref::<Newer>());
    newer.is_some_and(|newer| !newer.path.parent().is_some_and(|dir| dir.ends_with(hub::VAULT)))
}

/// An error with its causes, each once.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// Log lines go to stderr; with colours only on a terminal.
fn start_log(log: &Log) -> Result<()> {
    let filter = EnvFilter::try_new(&log.filter)
        .map_err(|error| Failure::new(format!("hub.toml: log.filter: {error}")))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot listen")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_usual_reasons_have_a_way_out() {
        let check = |kind: std::io::ErrorKind, way_out: &str| {
            let failure = format!("{:?}", start_failure(&Outer(kind.into())));
            assert!(failure.contains("cannot listen: ") && failure.contains(way_out), "{failure}");
        };
        super::super::say::set_language(Language::En);
        check(std::io::ErrorKind::AddrInUse, "[listen]");
        check(std::io::ErrorKind::WouldBlock, "runs in this directory already");
        check(std::io::ErrorKind::NotFound, "hints: []");
    }
}
