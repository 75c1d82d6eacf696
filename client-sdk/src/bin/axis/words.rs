//! Every sentence that `axis` says, in both languages side by side. Nothing
//! is said elsewhere, but for what the hub says itself.

use std::fmt::Display;

use axis_client::Language;

macro_rules! words {
    ($($word:ident { en: $en:literal, vi: $vi:literal })*) => {
        /// One sentence or word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(clippy::enum_variant_names)]
        pub enum Word { $($word),* }

        impl Word {
            /// All of them.
            #[cfg(test)]
            pub const ALL: &[Self] = &[$(Self::$word),*];

            /// As it is written, with `{places}` for facts.
            pub const fn text(self, language: Language) -> &'static str {
                match (self, language) {
                    $((Self::$word, Language::En) => $en, (Self::$word, Language::Vi) => $vi,)*
                }
            }
        }
    };
}

/// A sentence with its facts.
pub fn say(language: Language, word: Word, facts: &[(&str, &dyn Display)]) -> String {
    let mut text = word.text(language).to_owned();
    for (name, fact) in facts {
        text = text.replace(&format!("{{{name}}}"), &fact.to_string());
    }
    text
}

words! {
    // enroll
    Enrolled {
        en: "enrolled as {system} at {hub}; it serves {agencies}",
        vi: "đã ghi danh hệ thống {system} tại trục {hub}; phục vụ {agencies}"
    }
    NoAgencies { en: "no agency yet", vi: "chưa có cơ quan nào" }
    Renewed {
        en: "renewed; the certificate is valid until {until}",
        vi: "đã gia hạn; chứng thư có hiệu lực đến {until}"
    }
    KeysStay {
        en: "the keys were made here and are kept in {home}; back it up, show it to nobody",
        vi: "khóa được tạo tại máy này và lưu trong {home}; hãy sao lưu và không cho ai xem"
    }
    HintAfterEnrol {
        en: "axis send --from CODE --to CODE --subject \"…\" FILE, or axis receive",
        vi: "axis send --from MÃ --to MÃ --subject \"…\" TỆP, hoặc axis receive"
    }
    TokenNeeded {
        en: "a token is needed: ask the hub's operators for one",
        vi: "cần có mã ghi danh: hãy xin đơn vị vận hành trục"
    }
    TokenBad { en: "this is no enrolment token: {why}", vi: "đây không phải mã ghi danh: {why}" }
    HintToken {
        en: "paste the whole line that `axis-hub system add` or `axis-hub system token` printed",
        vi: "dán nguyên dòng do `axis-hub system add` hoặc `axis-hub system token` in ra"
    }
    CertificateEnds {
        en: "this system's certificate ends on {until}",
        vi: "chứng thư của hệ thống hết hạn ngày {until}"
    }
    FormerKey {
        en: "the former signing key {key} stays valid",
        vi: "khóa ký cũ {key} vẫn còn hiệu lực"
    }
    HintRevokeKey {
        en: "once the outbox is empty: axis enroll --revoke-signing-key {key}",
        vi: "khi không còn gói tin chờ gửi: axis enroll --revoke-signing-key {key}"
    }
    KeyRevoked { en: "revoked the signing key {key}", vi: "đã thu hồi khóa ký {key}" }
    HintRenew { en: "axis enroll --renew", vi: "axis enroll --renew" }

    // send
    Sent {
        en: "accepted by the hub as record {sequence}",
        vi: "trục đã tiếp nhận, bản ghi số {sequence}"
    }
    SentBefore {
        en: "the hub had accepted it before, as record {sequence}",
        vi: "trục đã tiếp nhận từ trước, bản ghi số {sequence}"
    }
    ReceiptKept { en: "receipt: {path}", vi: "biên nhận: {path}" }
    HintTrack { en: "axis track {id}", vi: "axis track {id}" }
    OutboxWaits {
        en: "{count} envelope(s) of before wait in the outbox",
        vi: "còn {count} gói tin trước đó đang chờ gửi"
    }
    HintPending {
        en: "axis send --pending sends them, the same bytes again",
        vi: "axis send --pending để gửi lại đúng nội dung đó"
    }
    OutboxEmpty { en: "nothing waits in the outbox", vi: "không có gói tin nào chờ gửi" }
    KeptInOutbox {
        en: "envelope {id} is safe in the outbox; it is not known to be accepted",
        vi: "gói tin {id} vẫn được giữ để gửi lại; chưa biết trục đã tiếp nhận hay chưa"
    }
    NothingSent { en: "nothing was sent", vi: "chưa gửi đi đâu cả" }
    ReplyBad {
        en: "`{text}` names no envelope: write SENDER/ENVELOPE_ID",
        vi: "`{text}` không chỉ một gói tin: hãy ghi MÃ_CƠ_QUAN_GỬI/MÃ_GÓI_TIN"
    }

    // receive
    Received {
        en: "{subject} · from {sender} to {recipient} · {count} file(s), {bytes}",
        vi: "{subject} · từ {sender} đến {recipient} · {count} tệp, {bytes}"
    }
    Acknowledged { en: "acknowledged as record {sequence}", vi: "đã xác nhận, bản ghi số {sequence}" }
    AcknowledgedLate {
        en: "acknowledged late, as record {sequence}: the delivery had ended before; its sender sees this",
        vi: "xác nhận muộn, bản ghi số {sequence}: lượt gửi đã kết thúc trước đó; nơi gửi thấy được điều này"
    }
    NotAcknowledged {
        en: "not acknowledged: it comes again",
        vi: "chưa xác nhận: văn bản sẽ được gửi lại"
    }
    NothingWaits { en: "nothing waits", vi: "không có văn bản nào đang chờ" }
    NothingNow {
        en: "nothing to take now; {count} are held elsewhere or come again later",
        vi: "chưa có gì để nhận; {count} văn bản đang được giữ hoặc sẽ gửi lại sau"
    }
    Waiting { en: "waiting for documents; stop with Ctrl-C", vi: "đang chờ văn bản; dừng bằng Ctrl-C" }
    Total { en: "{count} received", vi: "đã nhận {count}" }

    // track
    TrackHead {
        en: "envelope {id} from {sender} · {priority} · accepted {accepted} · expires {expires}",
        vi: "gói tin {id} của {sender} · {priority} · tiếp nhận {accepted} · hết hạn {expires}"
    }
    TrackCount {
        en: "{settled} of {count} recipients have ended",
        vi: "{settled} trên {count} nơi nhận đã kết thúc"
    }
    TrackErased {
        en: "the hub erased the content at {when} (record {record}); digest and evidence stay",
        vi: "trục đã xóa nội dung lúc {when} (bản ghi {record}); mã băm và bằng chứng vẫn lưu"
    }
    WhoSent {
        en: "this home did not send {id}, and serves several agencies",
        vi: "gói tin {id} không được gửi từ đây, và hệ thống phục vụ nhiều cơ quan"
    }
    HintSender {
        en: "name its sender: axis track {id} --sender CODE",
        vi: "hãy nêu cơ quan gửi: axis track {id} --sender MÃ"
    }
    Agency { en: "agency", vi: "cơ quan" }
    State { en: "state", vi: "trạng thái" }
    Since { en: "since", vi: "từ lúc" }
    Attempts { en: "attempts", vi: "số lần" }
    System { en: "system", vi: "hệ thống" }
    LateAccepted { en: "acknowledged late", vi: "xác nhận muộn" }
    SignedBy { en: "signed by {key} of {agency}", vi: "do khóa {key} của {agency} ký" }
    SignedErased { en: "what it signed is erased", vi: "nội dung đã ký đã bị xóa" }
    SignedKept {
        en: "what they signed is kept in {path}, for axis verify",
        vi: "nội dung đã ký được lưu tại {path}, kiểm tra bằng axis verify"
    }
    StateAccepted { en: "accepted", vi: "trục đã tiếp nhận" }
    StateWaiting { en: "waiting", vi: "chờ nhận" }
    StateLeased { en: "being taken", vi: "đang nhận" }
    StateParked { en: "parked", vi: "chờ đơn vị vận hành" }
    StateAcknowledged { en: "acknowledged", vi: "đã nhận" }
    StateRejected { en: "rejected", vi: "bị từ chối" }
    StateExpired { en: "expired", vi: "quá hạn" }
    StateWithdrawn { en: "withdrawn", vi: "đã thu hồi" }
    StateReturned { en: "returned", vi: "đã trả lại" }
    StateUnknown { en: "unknown", vi: "không rõ" }
    PriorityNormal { en: "normal", vi: "thường" }
    PriorityUrgent { en: "urgent", vi: "khẩn" }
    PriorityVeryUrgent { en: "very urgent", vi: "thượng khẩn" }
    PriorityExpress { en: "express", vi: "hỏa tốc" }
    PriorityExpressTimed { en: "express, timed", vi: "hỏa tốc hẹn giờ" }

    // feed
    FeedEmpty { en: "nothing new", vi: "không có gì mới" }

    // agency
    AgencyUnknown { en: "no agency has the code {code}", vi: "không có cơ quan nào mang mã {code}" }
    HintList { en: "axis agency list \"{text}\"", vi: "axis agency list \"{text}\"" }
    NoAgencyFound { en: "no agency matches", vi: "không tìm thấy cơ quan phù hợp" }
    Code { en: "code", vi: "mã định danh" }
    Name { en: "name", vi: "tên" }
    Aliases { en: "other codes", vi: "mã khác" }
    Parent { en: "under", vi: "cơ quan cấp trên" }
    ServedBy { en: "system", vi: "hệ thống" }
    Successors { en: "succeeded by", vi: "đơn vị kế thừa" }
    AgencyActive { en: "active", vi: "đang hoạt động" }
    AgencySuspended { en: "suspended", vi: "tạm ngừng" }
    AgencyClosed { en: "closed", vi: "đã giải thể" }
    NotConnected { en: "not connected", vi: "chưa kết nối" }

    // verify
    Verified {
        en: "{file}: valid · record {sequence} of {log} · {time} · {event}",
        vi: "{file}: hợp lệ · bản ghi số {sequence} của {log} · {time} · {event}"
    }
    VerifiedOpening { en: "  it opens: {what}", vi: "  phần được mở: {what}" }
    VerifiedSigned {
        en: "  signed by {key} of {agency}, a key of system {system}",
        vi: "  do khóa {key} của {agency} ký, khóa thuộc hệ thống {system}"
    }
    VerifiedUnsigned {
        en: "  this is the hub's word; what {agency} signed is not in the file: axis track --signed",
        vi: "  đây là lời của trục; tệp không có nội dung {agency} đã ký: axis track --signed"
    }
    NotVerified { en: "{file}: NOT valid: {why}", vi: "{file}: KHÔNG hợp lệ: {why}" }
    KeyNeeded {
        en: "no log key: the home {home} holds none",
        vi: "thiếu khóa kiểm tra nhật ký: {home} không có"
    }
    HintKey {
        en: "axis verify --key VKEY with the key that the hub publishes",
        vi: "axis verify --key VKEY với khóa mà trục công bố"
    }
    KeyBad { en: "this is no log key: {why}", vi: "đây không phải khóa nhật ký: {why}" }

    VerifiedLost {
        en: "  the hub was restored from a backup that lacks this record; the receipt proves that it was there",
        vi: "  trục đã được khôi phục từ bản sao lưu không có bản ghi này; biên nhận chứng minh nó đã từng tồn tại"
    }

    // reconcile
    NotRestored {
        en: "the hub has the log that it always had: nothing is to be offered again",
        vi: "nhật ký của trục vẫn như trước: không có gì phải gửi lại"
    }
    WasRestored {
        en: "the hub was restored from a backup; what it lacks is offered again",
        vi: "trục đã được khôi phục từ bản sao lưu; đang gửi lại những gì trục thiếu"
    }
    OfferedAccepted {
        en: "{id}: accepted anew, as record {sequence}",
        vi: "{id}: trục đã tiếp nhận lại, bản ghi số {sequence}"
    }
    OfferedKnown {
        en: "{id}: the hub had it, as record {sequence}",
        vi: "{id}: trục vẫn còn, bản ghi số {sequence}"
    }
    OfferedRefused {
        en: "{id} from {sender}: NOT accepted: {why}",
        vi: "{id} của {sender}: KHÔNG được tiếp nhận: {why}"
    }
    OfferedFilesMissing {
        en: "{id} from {sender}: NOT offered: these files are not where they were: {names}",
        vi: "{id} của {sender}: KHÔNG gửi lại được: không còn tệp {names}"
    }
    OfferedFailed {
        en: "{id}: not known to be accepted yet: {why}",
        vi: "{id}: chưa rõ trục đã tiếp nhận hay chưa: {why}"
    }
    Reconciled {
        en: "offered again to {log}: {accepted} accepted anew, {known} were there, {failed} failed",
        vi: "đã gửi lại cho {log}: {accepted} được tiếp nhận lại, {known} vẫn còn, {failed} không được"
    }
    AnsweredAgain {
        en: "{count} answer(s) of before given again",
        vi: "đã gửi lại {count} phúc đáp trước đây"
    }
    AnswersWait {
        en: "{count} answer(s) of before are given again when their deliveries come again",
        vi: "{count} phúc đáp trước đây sẽ được gửi lại khi văn bản đến lần nữa"
    }
    HintReconcile { en: "axis reconcile tries again", vi: "axis reconcile để thử lại" }

    // log
    LogCurrent {
        en: "{log}: the hub's log now, proven up to {size} records\n  key {key}",
        vi: "{log}: nhật ký hiện nay của trục, đã kiểm chứng đến {size} bản ghi\n  khóa {key}"
    }
    LogFormer {
        en: "{log}: a former log, seen up to {size} records\n  key {key}",
        vi: "{log}: nhật ký trước đây, đã thấy đến {size} bản ghi\n  khóa {key}"
    }
    LogContinues {
        en: "  continues {log}, of which it holds {size} records",
        vi: "  nối tiếp {log}, giữ {size} bản ghi của nhật ký đó"
    }
    LogByPerson { en: "  accepted by a person", vi: "  do người vận hành chấp nhận" }
    LogForked {
        en: "the hub's log has two histories: it has shown {remembered}, and then {shown}",
        vi: "nhật ký của trục có hai lịch sử khác nhau: trước là {remembered}, sau là {shown}"
    }
    LogUnknown {
        en: "the hub's log is now {key}, and {known} did not sign for it",
        vi: "nhật ký của trục nay là {key}, nhưng {known} không ký xác nhận"
    }
    LogUnproven {
        en: "the hub does not prove that its log holds what it has signed: {shown}; asked in vain since {since}",
        vi: "trục không chứng minh được nhật ký còn giữ những gì đã ký: {shown}; đã hỏi không được từ {since}"
    }
    HintLogForked {
        en: "do not go on; send {home}/log.json to the hub's operators: it holds both, signed. \
             Once they have given you the key of the right log: axis log accept --key VKEY",
        vi: "không nên tiếp tục; hãy gửi {home}/log.json cho đơn vị vận hành trục: tệp này giữ cả hai, có chữ ký. \
             Khi được cấp khóa của nhật ký đúng: axis log accept --key VKEY"
    }
    HintLogUnproven {
        en: "tell the hub's operators; every command asks the hub again, and goes on once it has proven it",
        vi: "báo cho đơn vị vận hành trục; mỗi lệnh sẽ hỏi lại trục và tiếp tục khi trục đã chứng minh được"
    }
    HintLogAccept {
        en: "ask the hub's operators, not the hub, whether this key is theirs; if it is: axis log accept --key VKEY",
        vi: "hãy hỏi đơn vị vận hành (không hỏi qua trục) khóa này có đúng không; nếu đúng: axis log accept --key VKEY"
    }

    // progress
    StepReading { en: "reading", vi: "đang đọc" }
    StepUploading { en: "uploading", vi: "đang tải lên" }
    StepSubmitting { en: "handing over", vi: "đang gửi" }
    StepDownloading { en: "downloading", vi: "đang tải về" }
    StepDone { en: "done", vi: "xong" }

    // what went wrong
    ErrorWord { en: "error:", vi: "lỗi:" }
    HintWord { en: "hint:", vi: "gợi ý:" }
    Incident { en: "incident {id}", vi: "mã sự cố {id}" }
    Unreachable {
        en: "the hub at {address} does not answer: {cause}",
        vi: "trục tại {address} không trả lời: {cause}"
    }
    CauseConnectionRefused { en: "nobody listens there", vi: "không có dịch vụ nào ở địa chỉ đó" }
    CauseNameUnknown { en: "the name does not resolve", vi: "không phân giải được tên miền" }
    CauseTimedOut { en: "it took too long", vi: "quá thời gian chờ" }
    CauseBroken { en: "the connection broke", vi: "mất kết nối" }
    CauseCertificateRevoked {
        en: "this system's certificate was revoked",
        vi: "chứng thư của hệ thống này đã bị thu hồi"
    }
    CauseCertificateExpired {
        en: "this system's certificate has expired",
        vi: "chứng thư của hệ thống này đã hết hạn"
    }
    CauseAuthorityUnknown {
        en: "the hub does not know who issued this system's certificate",
        vi: "trục không công nhận nơi cấp chứng thư của hệ thống này"
    }
    CauseCertificateRefused {
        en: "the hub does not take this system's certificate",
        vi: "trục không chấp nhận chứng thư của hệ thống này"
    }
    CauseHubNotTrusted {
        en: "whoever answers there is not the hub that this home enrolled with",
        vi: "nơi trả lời không phải là trục mà hệ thống đã ghi danh"
    }
    CauseOther { en: "the connection failed", vi: "không kết nối được" }
    NotVerifiedError {
        en: "{what} does not verify: {detail}",
        vi: "không xác minh được ({what}): {detail}"
    }
    OfDelivery { en: "delivery {id}", vi: "lượt gửi {id}" }
    MailboxGap {
        en: "mailbox numbers {numbers} never came, although the hub counts up to {floor} as settled",
        vi: "các số {numbers} trong hộp thư chưa bao giờ đến, dù trục coi đến số {floor} là đã xong"
    }
    NotEnrolled { en: "{home} holds no identity", vi: "{home} chưa được ghi danh" }
    AlreadyEnrolled {
        en: "{home} is enrolled already, as {system}",
        vi: "{home} đã được ghi danh, là hệ thống {system}"
    }
    OtherIdentity {
        en: "this home belongs to {expected}, but the token was for {found}",
        vi: "thư mục này của {expected}, nhưng mã ghi danh dành cho {found}"
    }
    NewerFile {
        en: "{path} has format version {found}, this release reads {read}; use the release that wrote it",
        vi: "{path} có định dạng phiên bản {found}, bản phần mềm này chỉ đọc đến {read}; hãy dùng bản đã ghi tệp này"
    }
    Damaged { en: "{path} is damaged: {detail}", vi: "{path} bị hỏng: {detail}" }
    Busy {
        en: "another process does the same with {home}",
        vi: "một tiến trình khác đang làm việc này với {home}"
    }
    BeingSent {
        en: "another process sends envelope {id}",
        vi: "một tiến trình khác đang gửi văn bản {id}"
    }
    CannotRead { en: "cannot read {path}: {why}", vi: "không đọc được {path}: {why}" }
    CannotWrite { en: "cannot write {path}: {why}", vi: "không ghi được {path}: {why}" }
    FileNotFound { en: "there is no such file", vi: "không có tệp này" }
    FileNotAllowed { en: "permission denied", vi: "không có quyền truy cập" }
    FileIsFolder { en: "it is a folder", vi: "đây là thư mục" }
    DiskFull { en: "the disk is full", vi: "ổ đĩa đã đầy" }
    Retrying {
        en: "{why}; trying again, stop with Ctrl-C",
        vi: "{why}; đang thử lại, dừng bằng Ctrl-C"
    }

    // what to do next
    HintFixRequest {
        en: "correct what is named above and send again",
        vi: "hãy sửa các chỗ nêu trên rồi gửi lại"
    }
    HintRetryLater { en: "try again in a while", vi: "hãy thử lại sau ít phút" }
    HintFixAccess {
        en: "this is for the hub's operators to change; tell them the message above",
        vi: "việc này do đơn vị vận hành trục xử lý; hãy gửi họ thông báo trên"
    }
    HintEnrol {
        en: "ask the hub's operators for a new token, then: axis enroll TOKEN --renew",
        vi: "xin đơn vị vận hành trục mã ghi danh mới, rồi: axis enroll MÃ --renew"
    }
    HintEnrolFirst {
        en: "ask the hub's operators for a token, then: axis enroll TOKEN",
        vi: "xin đơn vị vận hành trục mã ghi danh, rồi: axis enroll MÃ"
    }
    HintEnrolAgain {
        en: "use another --home, or --renew to go on with this one",
        vi: "dùng --home khác, hoặc thêm --renew để tiếp tục với thư mục này"
    }
    HintDirectory {
        en: "look codes up with axis agency show CODE or axis agency list TEXT",
        vi: "tra mã bằng axis agency show MÃ hoặc axis agency list TỪ_KHÓA"
    }
    HintMakeAnew {
        en: "send it again: a new envelope is made each time",
        vi: "hãy gửi lại: mỗi lần gửi là một gói tin mới"
    }
    HintReference {
        en: "check the id; an envelope of another agency is found with --sender CODE",
        vi: "kiểm tra lại mã; gói tin của cơ quan khác cần --sender MÃ"
    }
    HintReceiveAgain { en: "axis receive", vi: "axis receive" }
    HintFloor {
        en: "read from the beginning of what is kept: --after 0",
        vi: "đọc lại từ đầu phần còn lưu: --after 0"
    }
    HintReport {
        en: "tell the hub's operators the incident id, and try again later",
        vi: "báo mã sự cố cho đơn vị vận hành trục và thử lại sau"
    }
    HintUnreachable {
        en: "check the network and the address in {home}/axis.toml, then try again",
        vi: "kiểm tra mạng và địa chỉ trong {home}/axis.toml rồi thử lại"
    }
    HintHubNotTrusted {
        en: "do not go on; ask the hub's operators whether its certificate authority has changed",
        vi: "không nên tiếp tục; hãy hỏi đơn vị vận hành xem trục có đổi nơi cấp chứng thư không"
    }
    HintVerification {
        en: "keep the files and tell the hub's operators",
        vi: "giữ lại các tệp và báo cho đơn vị vận hành trục"
    }
    HintGap {
        en: "documents may be missing: tell the hub's operators these numbers",
        vi: "có thể thiếu văn bản: báo các số này cho đơn vị vận hành trục"
    }
    HintBusy {
        en: "stop the other one, or use another --home",
        vi: "dừng tiến trình kia, hoặc dùng --home khác"
    }
}

/// The text of help, by command and argument: English, then Vietnamese.
pub const HELP: &[(&str, &str, &str)] = &[
    (
        "",
        "Exchanges signed documents with other agencies through an Axis hub",
        "Gửi, nhận văn bản điện tử có chữ ký số qua trục liên thông Axis",
    ),
    (
        "after",
        "Exit status: 0 done · 1 failed here or in the hub · 2 wrong usage · 3 refused by the hub · \
         4 no valid identity · 5 the hub does not answer · 6 something does not verify",
        "Mã thoát: 0 xong · 1 lỗi tại máy này hoặc tại trục · 2 sai cú pháp · 3 trục từ chối · \
         4 chưa ghi danh hoặc chứng thư không hợp lệ · 5 trục không trả lời · 6 không xác minh được",
    ),
    ("home", "Where keys and memory are kept", "Thư mục lưu khóa và trạng thái"),
    ("lang", "Language, else from the locale", "Ngôn ngữ; mặc định theo hệ thống"),
    ("json", "Print results as JSON, one a line", "In kết quả dạng JSON, mỗi dòng một kết quả"),
    (
        "enroll",
        "Become a system of a hub, or renew its certificate",
        "Ghi danh hệ thống tại trục, hoặc gia hạn chứng thư",
    ),
    (
        "enroll.token",
        "One-time token from the hub's operators; `-` reads it from the input",
        "Mã ghi danh dùng một lần do đơn vị vận hành cấp; `-` để đọc từ đầu vào",
    ),
    (
        "enroll.renew",
        "Go on with this home: with a token enrol it again, without one renew the certificate",
        "Dùng tiếp thư mục này: có mã thì ghi danh lại, không có mã thì gia hạn chứng thư",
    ),
    (
        "enroll.signing_key",
        "With --renew and no token: make a new signing key too",
        "Khi --renew không có mã: tạo cả khóa ký mới",
    ),
    (
        "enroll.revoke_signing_key",
        "Revoke one of this system's signing keys, at once",
        "Thu hồi ngay một khóa ký của hệ thống",
    ),
    ("send", "Send files to agencies", "Gửi tệp đến các cơ quan"),
    ("send.from", "Code of the sending agency", "Mã định danh cơ quan gửi"),
    ("send.to", "Codes of those who are to act on it", "Mã định danh nơi nhận để xử lý"),
    ("send.cc", "Codes of those who are to know of it", "Mã định danh nơi nhận để biết"),
    ("send.group", "Groups whose members receive it", "Nhóm nơi nhận"),
    ("send.subject", "Subject", "Trích yếu"),
    ("send.number", "Number", "Số văn bản"),
    ("send.notation", "Notation, such as VPCP-TTĐT", "Ký hiệu, ví dụ VPCP-TTĐT"),
    ("send.kind", "Name of the document type", "Tên loại văn bản, ví dụ \"Công văn\""),
    ("send.content", "Short content", "Nội dung tóm tắt"),
    ("send.place", "Place of issue", "Nơi ban hành"),
    ("send.date", "Date of issue, yyyy-MM-dd", "Ngày ban hành, yyyy-MM-dd"),
    ("send.signer", "Full name of the signer", "Họ tên người ký"),
    ("send.position", "Position of the signer", "Chức vụ người ký"),
    ("send.due", "Deadline for the answer, yyyy-MM-dd", "Hạn xử lý, yyyy-MM-dd"),
    (
        "send.priority",
        "thuong, khan, thuong-khan, hoa-toc, hoa-toc-hen-gio, or normal, urgent, very-urgent, express, \
         express-timed",
        "thuong, khan, thuong-khan, hoa-toc, hoa-toc-hen-gio, hoặc normal, urgent, very-urgent, express, \
         express-timed",
    ),
    (
        "send.reply_to",
        "The envelope this answers: SENDER/ENVELOPE_ID",
        "Gói tin được trả lời: MÃ_CƠ_QUAN_GỬI/MÃ_GÓI_TIN",
    ),
    (
        "send.expires_days",
        "Days after which what nobody took expires",
        "Số ngày, sau đó phần chưa nhận sẽ hết hạn",
    ),
    (
        "send.id",
        "Envelope id of your own choice (UUIDv7): the same id again sends the same bytes",
        "Mã gói tin tự chọn (UUIDv7): gửi lại cùng mã là gửi lại đúng nội dung đó",
    ),
    ("send.pending", "Send again what waits in the outbox", "Gửi lại những gói tin còn chờ"),
    ("send.files", "Files to send", "Các tệp cần gửi"),
    ("receive", "Receive what waits for this system", "Nhận văn bản gửi đến hệ thống này"),
    ("receive.follow", "Wait for what comes", "Chờ văn bản mới"),
    ("receive.into", "Write to DIR/<sender>/<envelope id>/", "Lưu vào DIR/<cơ quan gửi>/<mã gói tin>/"),
    ("receive.max", "The most to receive", "Số lượng tối đa"),
    (
        "receive.ack",
        "Acknowledge what is safely written (the default)",
        "Xác nhận sau khi đã lưu an toàn (mặc định)",
    ),
    ("receive.no_ack", "Write, but do not acknowledge", "Lưu nhưng không xác nhận"),
    ("track", "Where an envelope is, and since when", "Gói tin đang ở đâu, từ lúc nào"),
    ("track.envelope_id", "Its id, as `axis send` printed it", "Mã gói tin do `axis send` in ra"),
    ("track.sender", "Code of the agency that sent it", "Mã cơ quan gửi"),
    (
        "track.signed",
        "Fetch what each recipient signed, verify it and keep it in receipts/",
        "Lấy nội dung từng nơi nhận đã ký, kiểm tra và lưu vào receipts/",
    ),
    ("feed", "What happened to this system's envelopes", "Diễn biến các gói tin của hệ thống"),
    ("feed.follow", "Wait for what comes", "Chờ diễn biến mới"),
    (
        "feed.after",
        "Only entries after this number, and do not remember how far was read",
        "Chỉ các mục sau số này, không ghi nhớ vị trí đọc",
    ),
    ("agency", "Look agencies up", "Tra cứu cơ quan"),
    ("agency.list", "Agencies whose code or name contains a text", "Danh sách cơ quan theo mã hoặc tên"),
    ("agency.list.text", "The text; all agencies without it", "Từ khóa; bỏ trống để xem tất cả"),
    ("agency.list.max", "The most to list", "Số lượng tối đa"),
    ("agency.show", "One agency, by any of its codes", "Một cơ quan, theo bất kỳ mã nào của cơ quan đó"),
    ("agency.show.code", "Its code", "Mã định danh"),
    ("verify", "Verify receipts, offline", "Kiểm tra biên nhận, không cần mạng"),
    ("verify.receipts", "Receipt files", "Các tệp biên nhận"),
    (
        "verify.key",
        "Verifier key of the hub's log, else those that the home knows",
        "Khóa nhật ký của trục; mặc định lấy từ --home",
    ),
    (
        "reconcile",
        "Offer again what a hub lacks that was restored from a backup",
        "Gửi lại những gì trục thiếu sau khi khôi phục từ bản sao lưu",
    ),
    ("log", "The hub's log that this home trusts", "Nhật ký của trục mà hệ thống này tin cậy"),
    (
        "log.show",
        "Which logs are known, and up to where they are proven",
        "Các nhật ký đã biết và mức đã kiểm chứng",
    ),
    (
        "log.accept",
        "Go on with a log that the former one did not sign for",
        "Chấp nhận nhật ký mới mà nhật ký trước không ký xác nhận",
    ),
    (
        "log.accept.key",
        "Its verifier key, as the hub's operators gave it",
        "Khóa kiểm tra do đơn vị vận hành trục cấp",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn places(text: &str) -> BTreeSet<&str> {
        text.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name).collect()
    }

    #[test]
    fn both_languages_state_the_same_facts() {
        for word in Word::ALL {
            let (en, vi) = (word.text(Language::En), word.text(Language::Vi));
            assert!(!en.is_empty() && !vi.is_empty(), "{word:?}");
            assert_eq!(places(en), places(vi), "{word:?}");
        }
    }

    #[test]
    fn facts_take_their_places() {
        let said = say(Language::Vi, Word::Sent, &[("sequence", &7)]);
        assert_eq!(said, "trục đã tiếp nhận, bản ghi số 7");
    }
}
