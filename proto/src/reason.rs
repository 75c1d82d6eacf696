//! What belongs to a reason: remedy, messages, gRPC code. The table is made
//! from the options in `reason.proto`, so that no language has its own.

use crate::hub::v1::{Reason, Remedy};

include!(concat!(env!("OUT_DIR"), "/reasons.rs"));

/// A language in which messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Language {
    /// English.
    #[default]
    En,
    /// Vietnamese.
    Vi,
}

impl Language {
    /// The first language of an `accept-language` header or a locale that is
    /// known here; English if none is.
    pub fn preferred(text: &str) -> Self {
        for wish in text.split(',') {
            let tag = wish.trim().split(['-', '_', '.', ';']).next().unwrap_or_default();
            match tag.to_ascii_lowercase().as_str() {
                "vi" => return Self::Vi,
                "en" => return Self::En,
                _ => {}
            }
        }
        Self::En
    }

    /// Its tag.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Vi => "vi",
        }
    }
}

impl Reason {
    /// Every reason that can be given.
    pub const ALL: &[Self] = REASONS;

    /// What the caller can do.
    pub const fn remedy(self) -> Remedy {
        info(self).0
    }

    /// One sentence for people.
    pub const fn message(self, language: Language) -> &'static str {
        match language {
            Language::En => info(self).1,
            Language::Vi => info(self).2,
        }
    }

    /// The name without its prefix: `ENVELOPE_CONFLICT`.
    pub fn short_name(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix("REASON_").unwrap_or(name)
    }

    /// The reason of a short name.
    pub fn from_short_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.short_name() == name)
    }

    /// The gRPC status code of a refusal for this reason.
    pub fn grpc_code(self) -> tonic::Code {
        grpc_code(self)
    }
}

/// The gRPC status code of a refusal: it follows from the remedy.
pub fn grpc_code(reason: Reason) -> tonic::Code {
    use tonic::Code;
    match reason.remedy() {
        Remedy::FixRequest => Code::InvalidArgument,
        Remedy::RetryLater if reason == Reason::Stopping => Code::Unavailable,
        Remedy::RetryLater => Code::ResourceExhausted,
        Remedy::FixAccess => Code::PermissionDenied,
        Remedy::Enrol => Code::Unauthenticated,
        Remedy::CheckDirectory | Remedy::Upload | Remedy::MakeAnew | Remedy::Accept => {
            Code::FailedPrecondition
        }
        Remedy::LeaseAgain => Code::Aborted,
        Remedy::CorrectReference => Code::NotFound,
        Remedy::RestartFromFloor => Code::OutOfRange,
        Remedy::Report | Remedy::Unspecified => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_says_what_to_do_in_both_languages() {
        assert_eq!(Reason::ALL.len(), 47);
        for reason in Reason::ALL.iter().copied() {
            assert_ne!(reason.remedy(), Remedy::Unspecified, "{reason:?}");
            assert!(reason.message(Language::En).ends_with('.'), "{reason:?}");
            assert!(reason.message(Language::Vi).ends_with('.'), "{reason:?}");
            assert_ne!(reason.message(Language::En), reason.message(Language::Vi));
            assert_eq!(Reason::from_short_name(reason.short_name()), Some(reason));
        }
        assert_eq!(Reason::from_short_name("UNSPECIFIED"), None);
        assert_eq!(Reason::EnvelopeConflict.short_name(), "ENVELOPE_CONFLICT");
        assert_eq!(Reason::RecipientDuplicate.message(Language::Vi), "Có nơi nhận bị ghi trùng.");
    }

    #[test]
    fn codes() {
        assert_eq!(grpc_code(Reason::TooLarge), tonic::Code::InvalidArgument);
        assert_eq!(grpc_code(Reason::Busy), tonic::Code::ResourceExhausted);
        assert_eq!(grpc_code(Reason::Stopping), tonic::Code::Unavailable);
        assert_eq!(grpc_code(Reason::LeaseLost), tonic::Code::Aborted);
        assert_eq!(grpc_code(Reason::Unspecified), tonic::Code::Internal);
    }

    #[test]
    fn languages() {
        for (text, language) in [
            ("vi", Language::Vi),
            ("vi-VN,vi;q=0.9,en;q=0.8", Language::Vi),
            ("fr, vi;q=0.5", Language::Vi),
            ("vi_VN.UTF-8", Language::Vi),
            ("en-GB, vi", Language::En),
            ("C", Language::En),
            ("", Language::En),
        ] {
            assert_eq!(Language::preferred(text), language, "{text}");
        }
    }
}
