//! `queue`, `parked`, `track`, `status`, `top` and `clock`: what waits, and
//! how the hub does.

use std::{io::IsTerminal as _, time::Duration};

use axis_hub::{clock::Clock, observe::words};
use axis_proto::{
    admin::v1::{
        ConfirmClockRequest, GetStatusRequest, GetStatusResponse, ListParkedRequest, ListQueuesRequest,
        ParkedDelivery, Queue, RequeueRequest, ReturnRequest, TrackRequest,
    },
    hub::v1::{TrackRequest as Tracked, TrackResponse, TrackedRecipient},
    reason::Language,
    record::v1::ErasureCause,
};

use super::{
    admin::Admin,
    args::{Output, ParkedCommand, Top, Track},
    json,
    say::{Failure, Result, language, put, say, tr},
    table::{Table, clean},
};

/// The longest page of a list.
const PAGE_MAX: u32 = 1_000;

/// `axis-hub queue`
pub async fn queue(mut admin: Admin, output: Output) -> Result<()> {
    let queues = queues(&mut admin).await?;
    if output.json {
        json::put(&queues.iter().map(json::queue).collect());
    } else {
        put(queue_table(&queues, Clock::system().now_ms()).to_string());
    }
    Ok(())
}

/// `axis-hub parked …`
pub async fn parked(mut admin: Admin, command: ParkedCommand) -> Result<()> {
    match command {
        ParkedCommand::List { system, output } => {
            let deliveries = all_parked(&mut admin, system.map(|id| id.to_string())).await?;
            if output.json {
                json::put(&deliveries.iter().map(json::parked).collect());
                return Ok(());
            }
            let table = parked_table(&deliveries, Clock::system().now_ms());
            put(table.to_string());
            if !table.is_empty() {
                say(format!(
                    "hint: {} `axis-hub parked requeue ID --remark …`, `axis-hub parked return ID --remark …`",
                    tr("again, or back to the sender:", "gửi lại, hoặc trả về nơi gửi:")
                ));
            }
        }
        ParkedCommand::Requeue { delivery, remark } => {
            let request = RequeueRequest { delivery_id: delivery.to_string(), remark: remark.remark };
            admin.requeue(request).await?;
            say(format!("{} {delivery}", tr("back in the queue:", "đã đưa lại vào hàng đợi:")));
        }
        ParkedCommand::Return { delivery, remark } => {
            let request = ReturnRequest { delivery_id: delivery.to_string(), remark: remark.remark };
            admin.r#return(request).await?;
            say(format!("{} {delivery}", tr("returned to its sender:", "đã trả về nơi gửi:")));
        }
    }
    Ok(())
}

/// `axis-hub track`
pub async fn track(mut admin: Admin, track: Track) -> Result<()> {
    let (head, recipients) = tracked(&mut admin, &track).await?;
    if track.output.json {
        json::put(&json::track(&head, &recipients));
        return Ok(());
    }
    say(format!(
        "{} {}, {} {}, {}/{} {}",
        tr("accepted", "trục nhận lúc"),
        words::moment(head.accepted_unix_ms),
        tr("expires", "hết hạn lúc"),
        words::moment(head.expires_unix_ms),
        head.settled_count,
        head.recipient_count,
        tr("settled", "đã kết thúc"),
    ));
    if head.erased_unix_ms > 0 {
        let why = match head.erasure_cause() {
            ErasureCause::Purged => tr("purged", "xóa khẩn"),
            ErasureCause::Retention | ErasureCause::Unspecified => tr("kept long enough", "hết thời hạn lưu"),
        };
        say(format!(
            "{} {} ({why}, {} {}); {}",
            tr("content erased", "nội dung đã xóa lúc"),
            words::moment(head.erased_unix_ms),
            tr("record", "bản ghi"),
            head.erased_sequence,
            tr("digest and evidence stay", "mã băm và bằng chứng vẫn lưu"),
        ));
    }
    let mut table = match language() {
        Language::Vi => Table::new(["Nơi nhận", "Hệ thống", "Tình trạng", "Từ lúc", "Số lần", "Mã lượt gửi"]),
        Language::En => Table::new(["Recipient", "System", "State", "Since", "Attempts", "Delivery"]),
    };
    for recipient in recipients {
        let mut state = words::delivery_state(language(), recipient.state()).to_owned();
        if recipient.late_accepted {
            state.push_str(tr(", accepted late", ", đã xác nhận muộn"));
        }
        table.row([
            recipient.agency,
            recipient.system,
            state,
            words::moment(recipient.since_unix_ms),
            recipient.attempts.to_string(),
            recipient.delivery_id,
        ]);
    }
    put(table.to_string());
    Ok(())
}

/// `axis-hub clock confirm`
pub async fn confirm_clock(mut admin: Admin) -> Result<()> {
    admin.confirm_clock(ConfirmClockRequest {}).await?;
    say(tr("the clock is trusted; deadlines act", "đồng hồ được tin cậy; các thời hạn có hiệu lực trở lại"));
    Ok(())
}

/// `axis-hub status`
pub async fn status(mut admin: Admin, output: Output) -> Result<()> {
    let status = hub_status(&mut admin).await?;
    match output.json {
        true => json::put(&json::status(&status)),
        false => put(status_lines(&status, Clock::system().now_ms())),
    }
    if status.ready {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{}: {}",
        tr("the hub cannot commit", "trục không ghi nhận được"),
        clean(&status.not_ready_because)
    )))
}

/// `axis-hub top`
pub async fn top(mut admin: Admin, top: Top) -> Result<()> {
    tokio::select! {
        shown = show(&mut admin, top) => shown,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn show(admin: &mut Admin, top: Top) -> Result<()> {
    let clock = Clock::system();
    // where nobody looks, no cursor is moved
    let screen = std::io::stdout().is_terminal() && !top.once;
    loop {
        let text = match look(admin, top.max, clock.now_ms()).await {
            Ok(text) => text,
            Err(failure) if top.once => return Err(failure),
            Err(_) => {
                tr("the hub does not answer; trying again", "trục không trả lời; đang thử lại").to_owned()
            }
        };
        match screen {
            // from the top left, each line cleared to its end, then the rest
            true => put(format!("\x1b[H{}\x1b[K\n\x1b[J", text.replace('\n', "\x1b[K\n"))),
            false => put(text),
        }
        if top.once {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn look(admin: &mut Admin, max: usize, now: u64) -> Result<String> {
    let status = hub_status(admin).await?;
    let mut queues = queues(admin).await?;
    queues.sort_by(|a, b| b.waiting.cmp(&a.waiting).then_with(|| a.system.cmp(&b.system)));
    queues.truncate(max);
    Ok(format!("{}\n\n{}", status_lines(&status, now), queue_table(&queues, now)))
}

async fn queues(admin: &mut Admin) -> Result<Vec<Queue>> {
    Ok(admin.list_queues(ListQueuesRequest {}).await?.into_inner().queues)
}

async fn hub_status(admin: &mut Admin) -> Result<GetStatusResponse> {
    Ok(admin.get_status(GetStatusRequest {}).await?.into_inner())
}

async fn all_parked(admin: &mut Admin, system: Option<String>) -> Result<Vec<ParkedDelivery>> {
    let (mut all, mut after_delivery_id) = (Vec::new(), String::new());
    let system = system.unwrap_or_default();
    loop {
        let system = system.clone();
        let request = ListParkedRequest { system, after_delivery_id, max_deliveries: PAGE_MAX };
        let page = admin.list_parked(request).await?.into_inner();
        all.extend(page.deliveries);
        after_delivery_id = page.next_after_delivery_id;
        if after_delivery_id.is_empty() {
            return Ok(all);
        }
    }
}

async fn tracked(admin: &mut Admin, track: &Track) -> Result<(TrackResponse, Vec<TrackedRecipient>)> {
    let (mut recipients, mut first_recipient_index) = (Vec::new(), 0);
    loop {
        let request = Tracked {
            sender: track.sender.to_string(),
            envelope_id: bytes::Bytes::copy_from_slice(track.envelope.as_bytes()),
            first_recipient_index,
            max_recipients: PAGE_MAX,
        };
        let answer = admin.track(TrackRequest { request: Some(request) }).await?.into_inner();
        let mut head = answer.response.unwrap_or_default();
        recipients.append(&mut head.recipients);
        first_recipient_index = head.next_recipient_index;
        if first_recipient_index == 0 {
            return Ok((head, recipients));
        }
    }
}

fn queue_table(queues: &[Queue], now: u64) -> Table {
    let mut table = match language() {
        Language::Vi => Table::new([
            "Hệ thống",
            "Đang chờ",
            "Đang lấy",
            "Chờ xử lý",
            "Dung lượng",
            "Chờ lâu nhất",
            "Theo độ khẩn",
            "Số lần",
            "Kết nối",
            "Luồng",
            "Trạng thái",
        ]),
        Language::En => Table::new([
            "System", "Waiting", "Leased", "Parked", "Bytes", "Oldest", "Lanes", "Attempts", "Seen",
            "Streams", "State",
        ]),
    };
    for queue in queues {
        let lanes: Vec<String> = queue.lanes.iter().map(ToString::to_string).collect();
        table.row([
            queue.system.clone(),
            words::count(language(), queue.waiting),
            words::count(language(), queue.leased),
            words::count(language(), queue.parked),
            words::bytes(language(), queue.waiting_bytes),
            words::age_of(language(), queue.oldest_unix_ms, now),
            lanes.join("/"),
            queue.attempts_most.to_string(),
            words::age_of(language(), queue.last_seen_unix_ms, now),
            queue.streams.to_string(),
            words::system_state(language(), queue.state()).to_owned(),
        ]);
    }
    table
}

fn parked_table(deliveries: &[ParkedDelivery], now: u64) -> Table {
    let mut table = match language() {
        Language::Vi => Table::new([
            "Mã lượt gửi",
            "Nơi nhận",
            "Hệ thống",
            "Nơi gửi",
            "Gói tin",
            "Số lần",
            "Đã chờ",
            "Hết hạn",
        ]),
        Language::En => Table::new([
            "Delivery",
            "Recipient",
            "System",
            "Sender",
            "Envelope",
            "Attempts",
            "Parked for",
            "Expires",
        ]),
    };
    for delivery in deliveries {
        table.row([
            delivery.delivery_id.clone(),
            delivery.agency.clone(),
            delivery.system.clone(),
            delivery.sender.clone(),
            json::envelope_id(&delivery.envelope_id),
            delivery.attempts.to_string(),
            words::age_of(language(), delivery.since_unix_ms, now),
            words::moment(delivery.expires_unix_ms),
        ]);
    }
    table
}

fn status_lines(status: &GetStatusResponse, now: u64) -> String {
    let lang = language();
    let ready = match (status.ready, status.not_ready_because.as_str()) {
        (true, "") => tr("ready", "sẵn sàng").to_owned(),
        (true, why) => format!("{}: {}", tr("ready, but", "sẵn sàng, nhưng"), clean(why)),
        (false, why) => format!("{}: {}", tr("NOT READY", "CHƯA SẴN SÀNG"), clean(why)),
    };
    let clock = match status.clock_trusted {
        true => tr("clock trusted", "đồng hồ tin cậy").to_owned(),
        false => tr(
            "CLOCK NOT TRUSTED, nothing expires (axis-hub clock confirm)",
            "ĐỒNG HỒ CHƯA TIN CẬY, chưa tính thời hạn (axis-hub clock confirm)",
        )
        .to_owned(),
    };
    let backup = match status.last_backup_unix_ms {
        0 => tr("no backup is known", "chưa có bản sao lưu nào được ghi nhận").to_owned(),
        made => format!("{} {}", tr("last backup", "sao lưu gần nhất"), words::age_of(lang, made, now)),
    };
    format!(
        "{} {} – {ready}\n{} {}, {} {}, {} {}\n{} {} / {}, {} {} / {}\n{clock}, {backup}",
        clean(&status.hub_id),
        clean(&status.version),
        tr("up", "đã chạy"),
        words::age_of(lang, status.started_unix_ms, now),
        tr("connections", "kết nối"),
        status.connections,
        tr("records", "bản ghi"),
        words::count(lang, status.journal_records),
        tr("commit p50 / p99", "ghi nhận p50 / p99"),
        words::milliseconds(lang, status.commit_p50_us),
        words::milliseconds(lang, status.commit_p99_us),
        tr("disk free", "đĩa còn trống"),
        words::bytes(lang, status.disk_free_bytes),
        words::bytes(lang, status.disk_total_bytes),
    )
}
