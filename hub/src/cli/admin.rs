//! The way to the running hub: its Unix socket. The only file of the command
//! line that knows tonic.

use std::{
    io::ErrorKind,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axis_proto::{
    admin::v1::{
        BackupMade, BackupRequest, BackupResponse, ChangeDirectoryRequest,
        admin_service_client::AdminServiceClient,
    },
    hub::v1::{Reason, Remedy},
    record::v1::{DirectoryEntry, directory_entry::Value},
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use super::{
    say::{Failure, Result, language, tr},
    table::clean,
};

/// The operators' service.
pub type Admin = AdminServiceClient<Channel>;

/// The socket's name in the hub's directory.
const SOCKET: &str = "admin.sock";
/// A page of the longest lists fits.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Connects to the hub that runs in this directory.
pub async fn connect(dir: &Path) -> Result<Admin> {
    let path = dir.join(SOCKET);
    // once by hand, for the error says more than a transport error would
    UnixStream::connect(&path).await.map_err(|error| unreachable(dir, &error))?;
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // the address is never looked up; the connector knows the way
    let channel = Endpoint::from_static("http://hub.invalid")
        .connect_timeout(Duration::from_secs(5))
        .connect_with_connector(connector)
        .await
        .map_err(|error| Failure::unreachable(error.to_string()))?;
    Ok(Admin::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX))
}

fn unreachable(dir: &Path, error: &std::io::Error) -> Failure {
    let shown = dir.display();
    if !dir.join(axis_hub::config::FILE_NAME).exists() && error.kind() != ErrorKind::PermissionDenied {
        return Failure::unreachable(match language() {
            axis_proto::reason::Language::En => format!("{shown} is not a hub's directory"),
            axis_proto::reason::Language::Vi => format!("{shown} không phải là thư mục của trục"),
        })
        .hint(tr(
            "name it with --dir DIR or AXIS_HUB_DIR; make one with `axis-hub init DIR --hub-id ID`",
            "chỉ ra bằng --dir DIR hoặc AXIS_HUB_DIR; tạo mới bằng `axis-hub init DIR --hub-id ID`",
        ));
    }
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure::unreachable(format!(
            "{} {shown}",
            tr("no hub is running in", "không có trục nào đang chạy trong")
        ))
        .hint(format!("{} `axis-hub serve --dir {shown}`", tr("start it with", "khởi động bằng"))),
        ErrorKind::PermissionDenied => Failure::unreachable(format!(
            "{} {shown}/{SOCKET}",
            tr("you may not open", "bạn không được phép mở")
        ))
        .hint(tr(
            "only the user that the hub runs as, and root, are operators: use sudo -u",
            "chỉ tài khoản chạy trục và root mới là người vận hành: hãy dùng sudo -u",
        )),
        _ => Failure::unreachable(format!("{shown}/{SOCKET}: {error}")),
    }
}

/// A backup for which the hub holds erasing still.
pub struct BackupCall {
    /// Up to where it goes.
    pub head: BackupResponse,
    /// Set when the call ends: the hub may erase again.
    pub ended: Arc<AtomicBool>,
    requests: mpsc::Sender<BackupRequest>,
    answer: JoinHandle<std::result::Result<Option<BackupResponse>, Status>>,
}

impl BackupCall {
    /// Asks the hub.
    pub async fn begin(admin: &mut Admin) -> Result<Self> {
        let (requests, stream) = mpsc::channel(2);
        let _room_for_two = requests.try_send(BackupRequest { made: None });
        let mut answers = admin.backup(ReceiverStream::new(stream)).await?.into_inner();
        let gone = || Failure::unreachable(tr("the hub said nothing", "trục không trả lời"));
        let head = answers.message().await?.ok_or_else(gone)?;
        let ended = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&ended);
        let answer = tokio::spawn(async move {
            let answer = answers.message().await;
            noted.store(true, Ordering::Release);
            answer
        });
        Ok(Self { head, ended, requests, answer })
    }

    /// Tells the hub that the backup is made.
    pub async fn made(self, made: BackupMade) -> Result<()> {
        // a hub that is gone says so in its answer
        let _gone = self.requests.send(BackupRequest { made: Some(made) }).await;
        self.answer.await.map_err(|error| Failure::new(error.to_string()))??;
        Ok(())
    }
}

/// Writes entries of the directory.
pub async fn change_directory(
    admin: &mut Admin,
    values: Vec<Value>,
    remark: String,
) -> std::result::Result<(), Status> {
    let entries = values.into_iter().map(|value| DirectoryEntry { value: Some(value) }).collect();
    admin.change_directory(ChangeDirectoryRequest { entries, remark }).await?;
    Ok(())
}

/// What a refused request was about, for commands that can say more.
pub fn violations(status: &Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let reason = details
            .error_info()
            .filter(|info| info.domain == "axis")
            .and_then(|info| Reason::from_short_name(&info.reason));
        let Some(reason) = reason else {
            return match status.code() {
                Code::Unavailable => Failure::unreachable(tr(
                    "the hub went away before it answered",
                    "trục ngắt kết nối trước khi trả lời",
                ))
                .hint(tr("look at its log", "hãy xem nhật ký của trục")),
                _ => Failure::new(clean(status.message())),
            };
        };
        let mut words = reason.message(language()).to_owned();
        if let Some(incident) = details.request_info() {
            words.push_str(&format!(" [{}]", clean(&incident.request_id)));
        }
        for (field, description) in violations(&status) {
            words.push_str(&format!("\n  {}: {}", clean(&field), clean(&description)));
        }
        let facts = details.error_info().map(|info| info.metadata.clone()).unwrap_or_default();
        let facts: std::collections::BTreeMap<_, _> = facts.into_iter().collect();
        for (name, value) in facts {
            words.push_str(&format!("\n  {} = {}", clean(&name), clean(&value)));
        }
        let failure = Failure::new(words);
        match hint_for(reason) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

fn hint_for(reason: Reason) -> Option<&'static str> {
    let hint = match reason {
        Reason::NotFound | Reason::DeliveryUnknown => tr(
            "look with `axis-hub system list`, `agency list`, `group list`, `key list` or `parked list`",
            "tra cứu bằng `axis-hub system list`, `agency list`, `group list`, `key list` hoặc `parked list`",
        ),
        Reason::AlreadyExists => tr(
            "for a further token: `axis-hub system token ID`",
            "để lấy mã ghi danh khác: `axis-hub system token ID`",
        ),
        Reason::RecipientUnknown => tr(
            "add it with `axis-hub agency add CODE --name NAME`",
            "thêm bằng `axis-hub agency add CODE --name TÊN`",
        ),
        Reason::DiskFull => tr(
            "make room on the data disk; deliveries go on meanwhile",
            "giải phóng dung lượng đĩa dữ liệu; việc phát văn bản vẫn tiếp tục",
        ),
        Reason::Fault => tr(
            "the log has the causes under this incident id",
            "nhật ký của trục ghi nguyên nhân theo mã sự cố này",
        ),
        _ if reason.remedy() == Remedy::RetryLater => tr("try again in a moment", "hãy thử lại sau giây lát"),
        _ => return None,
    };
    Some(hint)
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::{super::say, *};

    fn told(status: Status) -> String {
        say::set_language(axis_proto::reason::Language::En);
        format!("{:?}", Failure::from(status))
    }

    #[test]
    fn a_refusal_names_reason_place_and_way_out() {
        let mut details = ErrorDetails::with_error_info("NOT_FOUND", "axis", []);
        details.add_bad_request_violation("system_id", "NOT_FOUND: vp\u{1b}cp");
        let text = told(Status::with_error_details(Code::NotFound, "not shown", details));
        assert!(
            text.contains("Nothing like that is known here.") && text.contains("system_id: NOT_FOUND"),
            "{text}"
        );
        assert!(text.contains("axis-hub system list") && text.contains("code: 1"), "{text}");
        assert!(!text.contains("not shown") && !text.contains("u{1b}"), "{text}");
    }

    #[test]
    fn a_fault_shows_its_incident() {
        let mut details = ErrorDetails::with_error_info("FAULT", "axis", []);
        details.set_request_info("01ab", "");
        let text = told(Status::with_error_details(Code::Internal, "", details));
        assert!(text.contains("[01ab]"), "{text}");
    }

    #[test]
    fn a_hub_that_is_not_there_is_told_from_a_directory_that_is_none() {
        say::set_language(axis_proto::reason::Language::En);
        let dir = tempfile::tempdir().unwrap();
        let missing = std::io::Error::from(ErrorKind::NotFound);
        let text = format!("{:?}", unreachable(dir.path(), &missing));
        assert!(text.contains("is not a hub's directory") && text.contains("code: 3"), "{text}");
        std::fs::write(dir.path().join(axis_hub::config::FILE_NAME), "").unwrap();
        let text = format!("{:?}", unreachable(dir.path(), &missing));
        assert!(text.contains("no hub is running in") && text.contains("axis-hub serve"), "{text}");
    }
}
