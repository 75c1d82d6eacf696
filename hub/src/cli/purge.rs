//! `purge request` and `purge confirm`: content that must leave at once.

use axis_hub::observe::words;
use axis_proto::{
    admin::v1::{ConfirmPurgeRequest, ConfirmPurgeResponse, RequestPurgeRequest},
    id::EnvelopeId,
    reason::Language,
};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    admin::Admin,
    args::PurgeCommand,
    json,
    say::{Failure, Result, language, put, say, tr},
};

/// `axis-hub purge …`
pub async fn purge(mut admin: Admin, command: PurgeCommand) -> Result<()> {
    match command {
        PurgeCommand::Request { envelope, sender, remark } => {
            let (envelope_id, sender) = (id_of(&envelope), sender.to_string());
            let request = RequestPurgeRequest { sender: sender.clone(), envelope_id, remark: remark.remark };
            let answer = admin.request_purge(request).await?.into_inner();
            say(format!(
                "{} {} ({} {})",
                tr(
                    "asked for; nothing is erased before another person agrees, until",
                    "đã ghi yêu cầu; chỉ xóa khi có người thứ hai xác nhận, trước"
                ),
                words::moment(answer.lapses_unix_ms),
                tr("record", "bản ghi"),
                answer.sequence,
            ));
            say(format!(
                "hint: {} `axis-hub purge confirm {envelope} --sender {sender}`",
                tr("the other person types", "người thứ hai gõ")
            ));
            Ok(())
        }
        PurgeCommand::Confirm { envelope, sender, output } => {
            say(tr("erasing; this reads the journal's files", "đang xóa; việc này đọc các tệp nhật ký"));
            let request = ConfirmPurgeRequest { sender: sender.to_string(), envelope_id: id_of(&envelope) };
            let answer = admin.confirm_purge(request).await?.into_inner();
            match output.json {
                true => json::put(&object(&answer)),
                false => put(text(&answer)),
            }
            beyond_reach(&answer);
            if answer.documents_busy.is_empty() {
                return Ok(());
            }
            Err(Failure::new(tr(
                "a document is being uploaded just now, and was not erased",
                "có tệp đang được tải lên nên chưa xóa được",
            ))
            .hint(tr("type the same command again", "hãy chạy lại lệnh này")))
        }
    }
}

fn id_of(envelope: &EnvelopeId) -> Bytes {
    Bytes::copy_from_slice(envelope.as_bytes())
}

fn text(answer: &ConfirmPurgeResponse) -> String {
    let lang = language();
    let mut lines = vec![match lang {
        Language::En => format!(
            "erased by record {}: {} bytes out of {} journal files, {} documents out of the vault; \
             {} recipients had not settled it and were returned",
            answer.erased_sequence,
            words::count(lang, answer.erased_bytes),
            answer.segments_rewritten,
            answer.documents_removed.len(),
            answer.returned_count,
        ),
        Language::Vi => format!(
            "đã xóa theo bản ghi {}: {} byte khỏi {} tệp nhật ký, {} tệp khỏi kho; \
             {} nơi nhận chưa kết thúc đã được trả về",
            answer.erased_sequence,
            words::count(lang, answer.erased_bytes),
            answer.segments_rewritten,
            answer.documents_removed.len(),
            answer.returned_count,
        ),
    }];
    for sha256 in &answer.documents_removed {
        lines.push(format!("  {} {}", tr("erased", "đã xóa"), hex::encode(sha256)));
    }
    for sha256 in &answer.documents_kept {
        let why = tr("kept, another envelope names it:", "giữ lại vì gói tin khác còn dùng:");
        lines.push(format!("  {why} {}", hex::encode(sha256)));
    }
    for sha256 in &answer.documents_busy {
        lines.push(format!("  {} {}", tr("being uploaded:", "đang được tải lên:"), hex::encode(sha256)));
    }
    let kept = tr("digest and evidence stay:", "mã băm và bằng chứng vẫn lưu:");
    lines.push(format!("{kept} {}", hex::encode(&answer.envelope_digest)));
    lines.join("\n")
}

/// What no command of ours reaches.
fn beyond_reach(answer: &ConfirmPurgeResponse) {
    let taken = match language() {
        Language::En => format!("{} recipients were given it: ask them to erase it", answer.taken_count),
        Language::Vi => format!("{} nơi nhận đã được giao: hãy yêu cầu họ xóa", answer.taken_count),
    };
    say(format!("{} {taken}", tr("not within reach:", "ngoài tầm với:")));
    say(tr(
        "not within reach: the sender's own copy; backups made before now (the next backup leaves it out); \
         blocks that the disk has freed but not overwritten",
        "ngoài tầm với: bản của chính nơi gửi; các bản sao lưu đã có (lần sao lưu sau sẽ không còn); \
         các khối đĩa đã giải phóng nhưng chưa ghi đè",
    ));
}

fn object(answer: &ConfirmPurgeResponse) -> Value {
    let all = |digests: &[Bytes]| digests.iter().map(hex::encode).collect::<Vec<_>>();
    json!({
        "erased_sequence": answer.erased_sequence,
        "envelope_digest": hex::encode(&answer.envelope_digest),
        "returned": answer.returned_count,
        "taken": answer.taken_count,
        "segments_rewritten": answer.segments_rewritten,
        "erased_bytes": answer.erased_bytes,
        "documents_removed": all(&answer.documents_removed),
        "documents_kept": all(&answer.documents_kept),
        "documents_busy": all(&answer.documents_busy),
    })
}
