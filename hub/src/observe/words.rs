//! Words, ages and amounts as officials read them, in Vietnamese and
//! English. Never looks at the time; it is told.

use axis_proto::{
    hub::v1::DeliveryState,
    reason::Language,
    record::v1::{AgencyState, SystemState},
};
use jiff::{Timestamp, tz::TimeZone};

/// One of two.
pub fn pick<'a>(language: Language, en: &'a str, vi: &'a str) -> &'a str {
    match language {
        Language::En => en,
        Language::Vi => vi,
    }
}

/// The lanes' names, the lowest priority first.
pub fn lanes(language: Language) -> [&'static str; 5] {
    match language {
        Language::En => ["Normal", "Urgent", "Very urgent", "Express", "Express, timed"],
        Language::Vi => ["Thường", "Khẩn", "Thượng khẩn", "Hỏa tốc", "Hỏa tốc hẹn giờ"],
    }
}

/// Where a delivery is.
pub fn delivery_state(language: Language, state: DeliveryState) -> &'static str {
    let (en, vi) = match state {
        DeliveryState::Unspecified => ("unknown", "không rõ"),
        DeliveryState::Accepted => ("accepted", "trục đã nhận"),
        DeliveryState::Waiting => ("waiting", "đang chờ nơi nhận lấy"),
        DeliveryState::Leased => ("being taken", "nơi nhận đang lấy"),
        DeliveryState::Parked => ("parked", "chờ xử lý"),
        DeliveryState::Acknowledged => ("acknowledged", "nơi nhận đã xác nhận"),
        DeliveryState::Rejected => ("rejected", "nơi nhận từ chối"),
        DeliveryState::Expired => ("expired", "quá hạn"),
        DeliveryState::Withdrawn => ("withdrawn", "nơi gửi đã rút lại"),
        DeliveryState::Returned => ("returned", "đã trả lại nơi gửi"),
    };
    pick(language, en, vi)
}

/// Whether a system may act.
pub fn system_state(language: Language, state: SystemState) -> &'static str {
    match state {
        SystemState::Unspecified => pick(language, "unknown", "không rõ"),
        SystemState::Active => pick(language, "active", "hoạt động"),
        SystemState::Suspended => pick(language, "suspended", "tạm ngừng"),
    }
}

/// Whether an agency takes part.
pub fn agency_state(language: Language, state: AgencyState) -> &'static str {
    match state {
        AgencyState::Unspecified => pick(language, "unknown", "không rõ"),
        AgencyState::Active => pick(language, "active", "hoạt động"),
        AgencyState::Suspended => pick(language, "suspended", "tạm ngừng"),
        AgencyState::Closed => pick(language, "closed", "đã đóng"),
    }
}

/// How long something has lasted, in its largest unit.
pub fn age(language: Language, ms: u64) -> String {
    let seconds = ms / 1_000;
    let (amount, en, vi) = match seconds {
        0..60 => (seconds, "s", "giây"),
        60..3_600 => (seconds / 60, "min", "phút"),
        3_600..172_800 => (seconds / 3_600, "h", "giờ"),
        _ => (seconds / 86_400, "days", "ngày"),
    };
    format!("{amount} {}", pick(language, en, vi))
}

/// The age of a moment; a dash if there is none.
pub fn age_of(language: Language, since_ms: u64, now_ms: u64) -> String {
    match since_ms {
        0 => "–".to_owned(),
        since => age(language, now_ms.saturating_sub(since)),
    }
}

/// A moment in this machine's time zone, to the second; a dash if there is
/// none.
pub fn moment(unix_ms: u64) -> String {
    let timestamp = i64::try_from(unix_ms).ok().filter(|ms| *ms != 0);
    match timestamp.and_then(|ms| Timestamp::from_millisecond(ms).ok()) {
        Some(at) => at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        None => "–".to_owned(),
    }
}

/// A number of bytes with a decimal unit.
pub fn bytes(language: Language, bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1e3, 0);
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1e3;
        unit += 1;
    }
    decimal(language, format!("{value:.1} {}", units[unit]))
}

/// A number with its thousands apart.
pub fn count(language: Language, count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(match language {
                Language::En => ',',
                Language::Vi => '.',
            });
        }
        out.push(digit);
    }
    out
}

/// Microseconds as milliseconds.
pub fn milliseconds(language: Language, us: u64) -> String {
    decimal(language, format!("{:.1} ms", us as f64 / 1e3))
}

fn decimal(language: Language, number: String) -> String {
    match language {
        Language::En => number,
        Language::Vi => number.replace('.', ","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_the_reader_writes_them() {
        let (en, vi) = (Language::En, Language::Vi);
        assert_eq!(age(vi, 59_999), "59 giây");
        assert_eq!(age(en, 2 * 86_400_000), "2 days");
        assert_eq!(age_of(en, 0, 5), "–");
        assert_eq!(bytes(en, 999), "999 B");
        assert_eq!(bytes(vi, 26_214_400), "26,2 MB");
        assert_eq!(bytes(en, 999_999), "1.0 MB");
        assert_eq!(bytes(en, u64::MAX), "18446.7 PB");
        assert_eq!(count(vi, 1_234_567), "1.234.567");
        assert_eq!(count(en, 999), "999");
        assert_eq!(milliseconds(vi, 1_250), "1,2 ms");
    }
}
