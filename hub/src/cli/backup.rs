//! `backup` and `restore`: what keeps the hub's data beyond its own disk.

use std::{
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use axis_hub::{
    backup::{self, BackupError, Head, Made, RestoreOptions, Source, Step},
    clock::Clock,
    config::{self, Config},
    disk::{self, Disk, RealDisk},
    limits,
    observe::words,
};
use axis_proto::{admin::v1::BackupMade, reason::Language};
use serde_json::json;

use super::{
    admin::{self, BackupCall},
    args::{Backup, Restore},
    json,
    say::{Failure, Result, Ticker, language, put, say, tr},
    stores::{chain, load, start_failure},
};

/// `axis-hub backup`
pub async fn backup(dir: &Path, args: &Backup) -> Result<()> {
    let config = load(dir)?;
    let settings = std::fs::read_to_string(dir.join(config::FILE_NAME));
    let settings = settings.map_err(|error| Failure::new(chain(&error)))?;
    prepare(&config, &args.directory)?;
    let lock = disk::lock(&args.directory).map_err(|error| in_use(&error))?;
    // a hub that does not run erases nothing, nor starts before the end
    let (call, stopped) = match runs(&config) {
        true => (Some(BackupCall::begin(&mut admin::connect(dir).await?).await?), None),
        false => (None, Some(disk::lock(&config.data_dir()).map_err(|error| start_failure(&error))?)),
    };
    let head = match &call {
        Some(call) => Head {
            hub_id: call.head.hub_id.clone(),
            checkpoint: call.head.checkpoint.clone(),
            log_verifier_key: call.head.log_verifier_key.clone(),
        },
        None => head_of_closed(&config)?,
    };
    let ended = call.as_ref().map(|call| Arc::clone(&call.ended)).unwrap_or_default();
    let target = args.directory.clone();
    let work = tokio::task::spawn_blocking(move || {
        let (data, disk) = (config.data_dir(), RealDisk::shared());
        let source = Source { disk: Arc::clone(&disk), data: &data, settings: &settings, ended: &ended };
        let mut ticker = Ticker::new();
        backup::run(&source, &head, &disk, &target, Clock::system().now_ms(), &mut |step| {
            ticker.at(shown(step))
        })
    });
    let made = work.await.map_err(|error| Failure::new(error.to_string()))?.map_err(failure)?;
    drop((stopped, lock));
    if let Some(call) = call {
        let mut directory = std::path::absolute(&args.directory).unwrap_or_default().display().to_string();
        while directory.len() > limits::BACKUP_DIRECTORY_BYTES_MAX {
            directory.pop();
        }
        let Made { bytes, copied_bytes, .. } = made;
        call.made(BackupMade { directory, size: made.manifest.size, bytes, copied_bytes }).await?;
    }
    report(args, &made)
}

/// Makes the backup's directory for its owner alone, and looks where it is.
fn prepare(config: &Config, directory: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| Failure::new(format!("{}: {error}", directory.display())))?;
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
    if device(directory) == device(&config.data_dir()) {
        say(tr(
            "warning: the backup is on the disk that it is a backup of; losing that disk loses both",
            "cảnh báo: bản sao lưu nằm trên chính đĩa dữ liệu; hỏng đĩa này là mất cả hai",
        ));
    }
    Ok(())
}

/// Whether a hub runs; one that may not be asked does.
fn runs(config: &Config) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let asked = std::os::unix::net::UnixStream::connect(config.admin_socket());
    !asked.is_err_and(|error| matches!(error.kind(), NotFound | ConnectionRefused))
}

/// The end of a hub that does not run, as its journal says.
fn head_of_closed(config: &Config) -> Result<Head> {
    let closed = backup::closed(&RealDisk::shared(), &config.data_dir()).map_err(failure)?;
    let (Some(last), Some(log)) = (closed.last, closed.logs.last()) else {
        return Err(Failure::new(tr("the journal is empty", "nhật ký chưa có gì")));
    };
    let log_verifier_key = log.opened.log_verifier_key.clone();
    if log_verifier_key.is_empty() {
        return Err(Failure::new(tr(
            "the journal does not say which key verifies it",
            "nhật ký không cho biết khóa kiểm chứng",
        ))
        .hint(tr(
            "start the hub, and back it up while it runs",
            "hãy chạy trục rồi sao lưu khi trục đang chạy",
        )));
    }
    Ok(Head { hub_id: config.hub_id.to_string(), checkpoint: last.checkpoint, log_verifier_key })
}

fn report(args: &Backup, made: &Made) -> Result<()> {
    let (manifest, lang) = (&made.manifest, language());
    if args.output.json {
        json::put(&json!({
            "run": manifest.run,
            "hub_id": manifest.hub_id,
            "origin": manifest.origin,
            "records": manifest.size,
            "root": manifest.root,
            "documents": manifest.documents.count,
            "bytes": made.bytes,
            "copied_bytes": made.copied_bytes,
            "damaged": named(&made.damaged),
        }));
    } else {
        put(match lang {
            Language::En => format!(
                "{} records of {}, {} documents, {}; {} of it copied now, and read back",
                words::count(lang, manifest.size),
                manifest.origin,
                words::count(lang, manifest.documents.count),
                words::bytes(lang, made.bytes),
                words::bytes(lang, made.copied_bytes),
            ),
            Language::Vi => format!(
                "{} bản ghi của {}, {} văn bản, {}; lần này sao {} và đã đọc lại để kiểm tra",
                words::count(lang, manifest.size),
                manifest.origin,
                words::count(lang, manifest.documents.count),
                words::bytes(lang, made.bytes),
                words::bytes(lang, made.copied_bytes),
            ),
        });
    }
    lost(
        &made.damaged,
        tr("damaged in the hub, and not in the backup", "hỏng trong trục và không có trong bản sao lưu"),
    )
}

/// `axis-hub backup --verify`
pub fn verify(args: &Backup) -> Result<()> {
    let mut ticker = Ticker::new();
    let disk: Arc<dyn Disk> = RealDisk::shared();
    let lock = match disk::lock(&args.directory) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Err(in_use(&error)),
        // on a medium that cannot be written nobody else writes
        lock => lock.ok(),
    };
    let found = backup::verify(&disk, &args.directory, &mut |step| ticker.at(shown(step)));
    drop((ticker, lock));
    let found = found.map_err(failure)?;
    let manifest = &found.manifest;
    if args.output.json {
        json::put(&json!({
            "run": manifest.run,
            "hub_id": manifest.hub_id,
            "origin": manifest.origin,
            "records": manifest.size,
            "root": manifest.root,
            "documents": manifest.documents.count,
            "made_unix_ms": manifest.made_unix_ms,
            "damaged": named(&found.damaged),
        }));
    } else {
        put(format!(
            "{}: {} {} {}, {} {}",
            words::moment(manifest.made_unix_ms),
            words::count(language(), manifest.size),
            tr("records of", "bản ghi của"),
            manifest.origin,
            words::count(language(), manifest.documents.count),
            tr("documents", "văn bản"),
        ));
    }
    lost(&found.damaged, tr("damaged in the backup", "hỏng trong bản sao lưu"))?;
    if !args.output.json {
        put(tr("all is well", "mọi thứ đều đúng"));
    }
    Ok(())
}

/// `axis-hub restore`
pub fn restore(dir: PathBuf, args: Restore) -> Result<()> {
    let options = RestoreOptions { backup: args.backup, dir, keys: args.keys, new_key: args.new_key };
    let mut ticker = Ticker::new();
    let restored = backup::restore(&options, &Clock::system(), &mut |step| ticker.at(shown(step)));
    drop(ticker);
    let restored = restored.map_err(failure)?;
    let shown = options.dir.display();
    if args.output.json {
        json::put(&json!({
            "log_verifier_key": restored.log_verifier_key,
            "previous_origin": restored.previous_origin,
            "previous_records": restored.previous_size,
            "made_unix_ms": restored.made_unix_ms,
            "signed_by_previous": restored.signed_by_previous,
            "new_authority": restored.new_authority,
            "documents": restored.documents,
            "succession": restored.succession,
            "damaged": named(&restored.damaged),
        }));
    } else {
        put(&restored.log_verifier_key);
    }
    say(match language() {
        Language::En => format!(
            "the key above verifies the log from record {} on: publish it beside the one of {}",
            restored.previous_size, restored.previous_origin
        ),
        Language::Vi => format!(
            "khóa trên dùng để kiểm chứng nhật ký từ bản ghi {} trở đi: hãy công bố cùng với khóa của {}",
            restored.previous_size, restored.previous_origin
        ),
    });
    if !restored.signed_by_previous {
        say(tr(
            "the previous log's key did not sign: each client asks its operator to accept the new log (`axis log accept`)",
            "khóa của nhật ký cũ không ký: mỗi bên kết nối phải được người vận hành chấp nhận nhật ký mới (`axis log accept`)",
        ));
    }
    if restored.new_authority {
        say(tr(
            "the authority is new: every system has to enrol anew (`axis-hub system token`)",
            "cơ quan cấp chứng thư là mới: mọi hệ thống phải ghi danh lại (`axis-hub system token`)",
        ));
    }
    if !restored.config.tls.trusted_authorities.is_empty() {
        say(tr(
            "hub.toml trusts further authorities: put their files back",
            "hub.toml tin cậy thêm cơ quan cấp chứng thư khác: hãy chép lại các tệp đó",
        ));
    }
    say(format!("hint: {} `axis-hub serve --dir {shown}`", tr("start it with", "khởi động bằng")));
    lost(&restored.damaged, tr("missing or damaged in the backup", "thiếu hoặc hỏng trong bản sao lưu"))
}

/// Names documents that could not be had.
fn lost(damaged: &[(PathBuf, String)], what: &str) -> Result<()> {
    for (path, why) in damaged {
        say(format!("{}: {why}", path.display()));
    }
    match damaged.len() {
        0 => Ok(()),
        count => Err(Failure::damaged(format!("{count} {}: {what}", tr("documents", "văn bản")))),
    }
}

fn named(damaged: &[(PathBuf, String)]) -> Vec<String> {
    damaged.iter().map(|(path, why)| format!("{}: {why}", path.display())).collect()
}

fn shown(step: Step) -> String {
    let lang = language();
    match step {
        Step::Segments(bytes) => format!("{} {}", tr("journal", "nhật ký"), words::bytes(lang, bytes)),
        Step::Documents(count) => format!("{} {}", tr("documents", "văn bản"), words::count(lang, count)),
        Step::Records(count) => {
            format!("{} {}", tr("records read back", "bản ghi đã đọc lại"), words::count(lang, count))
        }
    }
}

fn in_use(error: &std::io::Error) -> Failure {
    let failure = Failure::new(chain(error));
    match error.kind() {
        std::io::ErrorKind::WouldBlock => failure.hint(tr(
            "another backup works in this directory; let it end",
            "đang có tiến trình sao lưu khác trong thư mục này; hãy chờ nó xong",
        )),
        _ => failure,
    }
}

fn failure(error: BackupError) -> Failure {
    let words = chain(&error);
    match error {
        BackupError::Journal(_) | BackupError::Damaged { .. } => Failure::damaged(words).hint(tr(
            "the runbook says what to do with a damaged journal or backup; keep both as they are",
            "sổ tay vận hành chỉ cách xử lý nhật ký hoặc bản sao lưu bị hỏng; hãy giữ nguyên cả hai",
        )),
        BackupError::Missing(_) => Failure::new(words).hint(tr(
            "name the directory that `axis-hub backup` wrote, or a copy of a hub's directory",
            "hãy chỉ thư mục do `axis-hub backup` ghi, hoặc bản chép của thư mục trục",
        )),
        BackupError::Refused(_) => Failure::new(words).hint(tr(
            "restore into a directory of its own, with --keys DIR of the old hub, or --new-key if its key is lost",
            "hãy khôi phục vào thư mục riêng, với --keys DIR của trục cũ, hoặc --new-key nếu đã mất khóa",
        )),
        BackupError::Io { .. } | BackupError::Newer { .. } | BackupError::Other { .. } => Failure::new(words),
    }
}
