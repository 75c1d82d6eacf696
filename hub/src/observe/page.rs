//! The operators' page: what waits and how the hub does, at a glance. Plain
//! HTML without script; Vietnamese by default.

use axis_proto::{
    admin::v1::{ParkedDelivery, Queue},
    id::EnvelopeId,
    reason::Language,
    record::v1::SystemState,
};
use maud::{DOCTYPE, Markup, html};

use super::{
    Health,
    context::Overview,
    words::{age, age_of, bytes, count, lanes, milliseconds, moment, pick, system_state},
};

/// The page's style, served from a file of its own.
pub const STYLE: &str = include_str!("style.css");

/// How often the page asks anew.
const REFRESH_SECONDS: u32 = 10;

/// How a reader wants the page.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// In which language.
    pub language: Language,
    /// Whether it asks anew by itself.
    pub refresh: bool,
}

impl View {
    fn link(self) -> String {
        let refresh = if self.refresh { "" } else { "&refresh=off" };
        format!("/?lang={}{refresh}", self.language.tag())
    }
}

/// The page.
pub fn page(view: View, overview: &Overview) -> Markup {
    let language = view.language;
    let tr = |en, vi| pick(language, en, vi);
    let (other, other_name) = match language {
        Language::En => (Language::Vi, "Tiếng Việt"),
        Language::Vi => (Language::En, "English"),
    };
    let status = &overview.status;
    html! {
        (DOCTYPE)
        html lang=(language.tag()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if view.refresh {
                    meta http-equiv="refresh" content={ (REFRESH_SECONDS) "; url=" (view.link()) };
                }
                title { (heading(language, &overview.health)) " – " (status.hub_id) }
                link rel="stylesheet" href="/style.css";
            }
            body {
                header {
                    h1 { (tr("Document exchange hub", "Trục liên thông văn bản")) " " span.id { (status.hub_id) } }
                    nav aria-label=(tr("View", "Cách xem")) {
                        a href=(View { language: other, ..view }.link()) lang=(other.tag()) hreflang=(other.tag()) { (other_name) }
                        " · "
                        @if view.refresh {
                            a href=(View { refresh: false, ..view }.link()) { (tr("Stop refreshing", "Dừng tự cập nhật")) }
                        } @else {
                            a href=(View { refresh: true, ..view }.link()) { (tr("Refresh by itself", "Tự cập nhật")) }
                        }
                    }
                }
                main {
                    (health(language, overview))
                    (facts(language, overview))
                    (queues(language, overview))
                    (parked(language, overview))
                }
                footer {
                    p { (tr("As of", "Số liệu lúc")) " " (moment(overview.now_ms)) }
                }
            }
        }
    }
}

fn heading(language: Language, health: &Health) -> &'static str {
    match (health.is_ready(), health.is_degraded()) {
        (true, false) => pick(language, "Ready", "Sẵn sàng"),
        (true, true) => pick(language, "Ready, limited", "Sẵn sàng, có hạn chế"),
        (false, _) => pick(language, "Not ready", "Chưa sẵn sàng"),
    }
}

/// One line in a box: sign, words, and why.
fn health(language: Language, overview: &Overview) -> Markup {
    let (status, health) = (&overview.status, &overview.health);
    let (class, sign) = match (health.is_ready(), health.is_degraded()) {
        (true, false) => ("well", "✓"),
        (true, true) => ("warn", "!"),
        (false, _) => ("bad", "✕"),
    };
    let because = health.because_in(language);
    html! {
        p.health.(class) role="status" {
            span aria-hidden="true" { (sign) " " }
            strong { (heading(language, health)) }
            @if !because.is_empty() { ": " (because) }
        }
        @if !status.clock_trusted {
            p.health.warn role="status" {
                span aria-hidden="true" { "! " }
                strong { (pick(language, "Clock not trusted", "Đồng hồ chưa được tin cậy")) }
                ": "
                (pick(
                    language,
                    "nothing expires until it agrees again or an operator confirms it with",
                    "chưa tính quá hạn cho đến khi đồng hồ khớp lại hoặc người vận hành xác nhận bằng lệnh",
                ))
                " " code { "axis-hub clock confirm" }
            }
        }
    }
}

fn facts(language: Language, overview: &Overview) -> Markup {
    let tr = |en, vi| pick(language, en, vi);
    let status = &overview.status;
    let used = status.disk_total_bytes.saturating_sub(status.disk_free_bytes);
    let percent = used.saturating_mul(100).checked_div(status.disk_total_bytes).unwrap_or(100);
    let waiting: u64 = overview.queues.iter().map(|queue| queue.waiting).sum();
    let facts = [
        (tr("Deliveries waiting", "Lượt gửi đang chờ"), count(language, waiting)),
        (
            tr("Commit, median / 99%", "Ghi nhận, trung vị / 99%"),
            format!(
                "{} / {}",
                milliseconds(language, status.commit_p50_us),
                milliseconds(language, status.commit_p99_us)
            ),
        ),
        (
            tr("Disk free", "Đĩa còn trống"),
            format!(
                "{} / {} ({} {percent}%)",
                bytes(language, status.disk_free_bytes),
                bytes(language, status.disk_total_bytes),
                tr("used", "đã dùng"),
            ),
        ),
        (
            tr("Clock", "Đồng hồ"),
            match status.clock_trusted {
                true => tr("trusted", "tin cậy"),
                false => tr("not trusted", "chưa tin cậy"),
            }
            .to_owned(),
        ),
        (tr("Connections", "Kết nối"), count(language, u64::from(status.connections))),
        (tr("Records", "Bản ghi"), count(language, status.journal_records)),
        (
            tr("Not yet in the state on disk", "Chưa ghi vào trạng thái trên đĩa"),
            count(language, status.state_lag_records),
        ),
        (tr("Running for", "Đã chạy"), age(language, overview.now_ms.saturating_sub(status.started_unix_ms))),
        (tr("Version", "Phiên bản"), status.version.clone()),
    ];
    html! {
        section aria-labelledby="facts" {
            h2 #facts { (tr("The hub", "Tình trạng trục")) }
            dl {
                @for (name, value) in facts {
                    div { dt { (name) } dd { (value) } }
                }
            }
        }
    }
}

fn queues(language: Language, overview: &Overview) -> Markup {
    let tr = |en, vi| pick(language, en, vi);
    html! {
        section aria-labelledby="queues" {
            h2 #queues { (tr("What waits, by system", "Hàng đợi theo hệ thống")) }
            @if overview.queues.is_empty() {
                p { (tr("No system yet. Add one with", "Chưa có hệ thống nào. Thêm bằng lệnh")) " " code { "axis-hub system add" } }
            } @else {
                div.scroll role="region" aria-labelledby="queues" tabindex="0" {
                    table {
                        thead {
                            tr {
                                th scope="col" rowspan="2" { (tr("System", "Hệ thống")) }
                                th.number scope="col" rowspan="2" { (tr("Waiting", "Đang chờ")) }
                                th scope="colgroup" colspan="5" { (tr("of these, by urgency", "trong đó, theo độ khẩn")) }
                                th.number scope="col" rowspan="2" { (tr("Being taken", "Đang lấy")) }
                                th.number scope="col" rowspan="2" { (tr("Parked", "Chờ xử lý")) }
                                th.number scope="col" rowspan="2" { (tr("Size", "Dung lượng")) }
                                th.number scope="col" rowspan="2" { (tr("Oldest", "Chờ lâu nhất")) }
                                th.number scope="col" rowspan="2" { (tr("Most attempts", "Số lần thử nhiều nhất")) }
                                th.number scope="col" rowspan="2" { (tr("Last seen", "Kết nối lần cuối")) }
                                th.number scope="col" rowspan="2" { (tr("Open streams", "Luồng đang mở")) }
                                th scope="col" rowspan="2" { (tr("State", "Trạng thái")) }
                            }
                            tr {
                                @for lane in lanes(language) { th.number scope="col" { (lane) } }
                            }
                        }
                        tbody {
                            @for queue in &overview.queues { (queue_row(language, overview, queue)) }
                        }
                    }
                }
            }
        }
    }
}

fn queue_row(language: Language, overview: &Overview, queue: &Queue) -> Markup {
    let name = overview.names.get(&queue.system).map_or("", String::as_str);
    let number = |value: u64| html! { td.number { (count(language, value)) } };
    html! {
        tr {
            th scope="row" {
                (queue.system)
                @if !name.is_empty() { br; span.name { (name) } }
            }
            (number(queue.waiting))
            @for lane in &queue.lanes { (number(*lane)) }
            (number(queue.leased))
            td.number.attention[queue.parked > 0] { (count(language, queue.parked)) }
            td.number { (bytes(language, queue.waiting_bytes)) }
            td.number { (age_of(language, queue.oldest_unix_ms, overview.now_ms)) }
            (number(u64::from(queue.attempts_most)))
            td.number { (age_of(language, queue.last_seen_unix_ms, overview.now_ms)) }
            (number(u64::from(queue.streams)))
            td.attention[queue.state() == SystemState::Suspended] { (system_state(language, queue.state())) }
        }
    }
}

fn parked(language: Language, overview: &Overview) -> Markup {
    let tr = |en, vi| pick(language, en, vi);
    html! {
        section aria-labelledby="parked" {
            h2 #parked { (tr("Parked deliveries", "Lượt gửi chờ xử lý")) }
            @if overview.parked.is_empty() {
                p { (tr("None. Every delivery is on its way.", "Không có. Mọi lượt gửi đang được phát.")) }
            } @else {
                p {
                    (tr(
                        "Out of attempts; each waits for an operator, or expires:",
                        "Đã hết số lần thử; chờ người vận hành quyết định, nếu không sẽ quá hạn:",
                    ))
                    " " code { "axis-hub parked requeue" } " / " code { "axis-hub parked return" }
                }
                div.scroll role="region" aria-labelledby="parked" tabindex="0" {
                    table {
                        thead {
                            tr {
                                th scope="col" { (tr("Delivery", "Mã lượt gửi")) }
                                th scope="col" { (tr("Recipient", "Nơi nhận")) }
                                th scope="col" { (tr("System", "Hệ thống")) }
                                th scope="col" { (tr("Sender", "Nơi gửi")) }
                                th scope="col" { (tr("Envelope", "Gói tin")) }
                                th.number scope="col" { (tr("Attempts", "Số lần thử")) }
                                th.number scope="col" { (tr("Parked for", "Đã chờ")) }
                                th.number scope="col" { (tr("Expires", "Hết hạn lúc")) }
                            }
                        }
                        tbody {
                            @for delivery in &overview.parked { (parked_row(language, overview.now_ms, delivery)) }
                        }
                    }
                }
                @if overview.parked_more {
                    p { (tr("There are more; all of them:", "Còn nữa; xem tất cả bằng lệnh")) " " code { "axis-hub parked list" } }
                }
            }
        }
    }
}

fn parked_row(language: Language, now_ms: u64, delivery: &ParkedDelivery) -> Markup {
    let envelope =
        EnvelopeId::from_slice(&delivery.envelope_id).map_or_else(|_| "–".to_owned(), |id| id.to_string());
    html! {
        tr {
            th scope="row" { (delivery.delivery_id) }
            td { (delivery.agency) }
            td { (delivery.system) }
            td { (delivery.sender) }
            td { (envelope) }
            td.number { (delivery.attempts) }
            td.number { (age_of(language, delivery.since_unix_ms, now_ms)) }
            td.number { (moment(delivery.expires_unix_ms)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use axis_proto::admin::v1::GetStatusResponse;

    use super::*;
    use crate::observe::Readiness;

    fn overview() -> Overview {
        let queue = Queue {
            system: "vpcp".into(),
            waiting: 1_204,
            lanes: vec![1_200, 0, 0, 4, 0],
            parked: 2,
            oldest_unix_ms: 1_000,
            state: SystemState::Suspended.into(),
            ..Queue::default()
        };
        let parked =
            ParkedDelivery { delivery_id: "12-0".into(), agency: "H53".into(), ..ParkedDelivery::default() };
        Overview {
            now_ms: 7_201_000,
            health: ready(),
            status: GetStatusResponse {
                hub_id: "truc.vn".into(),
                clock_trusted: true,
                ..GetStatusResponse::default()
            },
            names: [("vpcp".to_owned(), "<script>alert('xin chào')</script>".to_owned())].into(),
            queues: vec![queue],
            parked: vec![parked],
            parked_more: true,
        }
    }

    fn ready() -> Health {
        let readiness = Readiness::new();
        let writer = readiness.writer_runs();
        let health = readiness.health();
        drop(writer);
        health
    }

    fn render(language: Language, refresh: bool, overview: &Overview) -> String {
        page(View { language, refresh }, overview).into_string()
    }

    #[test]
    fn names_are_escaped() {
        let text = render(Language::Vi, true, &overview());
        assert!(text.contains("&lt;script&gt;alert("));
        assert!(!text.contains("<script"));
    }

    #[test]
    fn both_languages_say_the_same() {
        let vi = render(Language::Vi, true, &overview());
        for words in [
            "lang=\"vi\"",
            "Sẵn sàng",
            "Hàng đợi theo hệ thống",
            "1.204",
            "Hỏa tốc",
            "2 giờ",
            "tạm ngừng",
            "?lang=en",
        ] {
            assert!(vi.contains(words), "{words}");
        }
        let en = render(Language::En, true, &overview());
        for words in [
            "lang=\"en\"",
            "Ready",
            "What waits, by system",
            "1,204",
            "Express",
            "2 h",
            "suspended",
            "?lang=vi",
        ] {
            assert!(en.contains(words), "{words}");
        }
    }

    #[test]
    fn the_refresh_can_be_stopped() {
        assert!(render(Language::Vi, true, &overview()).contains("http-equiv=\"refresh\""));
        let still = render(Language::Vi, false, &overview());
        assert!(!still.contains("http-equiv") && still.contains("/?lang=en&amp;refresh=off"));
    }

    #[test]
    fn trouble_is_told_in_words() {
        let mut overview = overview();
        let readiness = Readiness::new();
        readiness.failed("the writer has stopped");
        overview.health = readiness.health();
        overview.status.clock_trusted = false;
        let text = render(Language::Vi, true, &overview);
        for words in ["Chưa sẵn sàng", "the writer has stopped", "axis-hub clock confirm", "chưa tin cậy"]
        {
            assert!(text.contains(words), "{words}");
        }
        overview.queues.clear();
        overview.parked.clear();
        let text = render(Language::En, true, &overview);
        assert!(text.contains("No system yet") && text.contains("None. Every delivery"));
    }
}
