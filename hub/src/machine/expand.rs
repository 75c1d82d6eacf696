//! Whom an envelope goes to: groups expanded, each agency once. A broadcast
//! looks at the whole directory, so it is looked up in parts, each a short
//! hold of the state, before the writer decides; what was found holds for as
//! long as the directory is what it was.

use std::{collections::BTreeMap, sync::Arc};

use axis_proto::{
    envelope::v1::RecipientKind,
    hub::v1::Reason,
    id::AgencyCode,
    record::v1::{Agency, AgencyState, LeafList, RecipientLeaf},
};
use bytes::Bytes;
use prost::Message as _;

use super::{
    command::{Content, Submit},
    query,
};
use crate::{
    error::Refusal,
    limits::{self, Millis},
    state::Read,
};

/// Agencies, each once, in order of code.
pub type Recipients = Vec<(AgencyCode, RecipientKind)>;

/// Whether looking up an envelope's recipients takes long.
pub fn is_wide(submit: &Submit) -> bool {
    !submit.envelope.groups.is_empty() || submit.envelope.recipients.len() > limits::WIDE_RECIPIENTS as usize
}

/// An envelope's recipients, while they are looked up.
#[derive(Debug)]
pub struct Expanding {
    now_ms: Millis,
    /// That of the first look.
    directory_version: Option<u64>,
    /// When what was found may be otherwise though nothing changes.
    until_ms: Millis,
    recipients: BTreeMap<AgencyCode, RecipientKind>,
    refusal: Refusal,
    /// The next named recipient, and then the next group.
    named: usize,
    group: usize,
    /// The agency of that group that was looked at last, and whether there is
    /// any that can be reached.
    after: String,
    reached: bool,
    /// Systems are few and agencies many: each system is looked up once.
    active: BTreeMap<String, bool>,
}

impl Expanding {
    /// Begins at a moment of the clock.
    pub fn new(now_ms: Millis) -> Self {
        Self {
            now_ms,
            directory_version: None,
            until_ms: Millis::MAX,
            recipients: BTreeMap::new(),
            refusal: Refusal::new(Reason::RecipientsRefused),
            named: 0,
            group: 0,
            after: String::new(),
            reached: false,
            active: BTreeMap::new(),
        }
    }

    /// Looks at up to `max` more agencies. Returns whether that was all; what
    /// was found is kept only while the directory does not change.
    pub fn step(&mut self, read: &dyn Read, submit: &Submit, max: usize) -> bool {
        let directory_version = Some(query::directory_version(read));
        if self.directory_version != directory_version {
            *self = Self { directory_version, ..Self::new(self.now_ms) };
        }
        let envelope = &submit.envelope;
        let before = self.named;
        let named = envelope.recipients.iter().enumerate().skip(before).take(max);
        for (place, recipient) in named {
            self.named = place + 1;
            self.name(read, place, &recipient.agency, recipient.kind());
        }
        let left = max.saturating_sub(self.named - before).max(1);
        if self.named < envelope.recipients.len() {
            return false;
        }
        // a group may be the whole directory: not looked up for what is refused anyway
        let group =
            envelope.groups.get(self.group).filter(|_| self.refusal.violations.is_empty() || self.group > 0);
        let Some(group) = group else { return true };
        match self.members(read, group, &envelope.sender, left) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(reason) => self.refuse(format!("envelope.groups[{}]", self.group), reason, group),
        }
        (self.group, self.after, self.reached) = (self.group + 1, String::new(), false);
        self.group == envelope.groups.len()
    }

    /// All of them, once all were looked at.
    ///
    /// # Errors
    /// The refusal, with every bad recipient named.
    pub fn finish(self) -> Result<Recipients, Refusal> {
        if !self.refusal.violations.is_empty() {
            return Err(self.refusal);
        }
        let refuse =
            |reason, count: usize| Err(Refusal::new(reason).at("envelope.recipients", reason, count));
        match self.recipients.len() {
            0 => refuse(Reason::RecipientsEmpty, 0),
            count if count > limits::RECIPIENTS_MAX => refuse(Reason::TooLarge, count),
            _ => Ok(self.recipients.into_iter().collect()),
        }
    }

    /// As [`Self::finish`], with all that accepting the envelope needs of it,
    /// under a fresh secret.
    ///
    /// # Errors
    /// As there.
    pub fn ahead(self, secret: Bytes) -> Result<Ahead, Refusal> {
        let (directory_version, from_ms, until_ms) = (self.directory_version, self.now_ms, self.until_ms);
        let recipients = self.finish()?;
        let list = LeafList { secret, leaves: leaves(&recipients) };
        let root = axis_proto::leaves::root(&list);
        let encoded = Content::of(list.encode_to_vec());
        let list = Listed { list: Arc::new(list), root, encoded };
        Ok(Ahead { directory_version, from_ms, until_ms, recipients: Arc::new(recipients), list })
    }

    fn name(&mut self, read: &dyn Read, place: usize, code: &str, kind: RecipientKind) {
        let field = format!("envelope.recipients[{place}].agency");
        match (code.parse::<AgencyCode>(), self.fault(read, code)) {
            (Ok(code), None) => {
                let kind = match kind {
                    RecipientKind::Unspecified | RecipientKind::To => RecipientKind::To,
                    RecipientKind::Cc => RecipientKind::Cc,
                };
                self.recipients.insert(code, kind);
            }
            (_, Some((reason, detail))) => self.refuse(field, reason, &detail),
            (Err(_), None) => self.refuse(field, Reason::RecipientUnknown, code),
        }
    }

    fn refuse(&mut self, field: String, reason: Reason, detail: &str) {
        let refusal = std::mem::replace(&mut self.refusal, Refusal::new(Reason::RecipientsRefused));
        self.refusal = refusal.at(field, reason, detail);
    }

    fn fault(&mut self, read: &dyn Read, code: &str) -> Option<(Reason, String)> {
        let Some(agency) = query::agency(read, code) else {
            let known_as = query::agency_or_alias(read, code).map(|agency| format!(" (now {})", agency.code));
            return Some((Reason::RecipientUnknown, format!("{code}{}", known_as.unwrap_or_default())));
        };
        self.hold_for(&agency);
        let over = agency.valid_until_unix_ms != 0 && self.now_ms >= agency.valid_until_unix_ms;
        if agency.state() == AgencyState::Closed || over {
            return Some((Reason::RecipientClosed, closed_detail(&agency)));
        }
        if agency.system.is_empty() || self.now_ms < agency.valid_from_unix_ms {
            return Some((Reason::RecipientNotConnected, code.to_owned()));
        }
        let reachable = query::is_reachable(read, &agency, self.now_ms);
        if reachable { None } else { Some((Reason::RecipientSuspended, code.to_owned())) }
    }

    /// The members of a group that can be reached, without the sender. Returns
    /// whether all were looked at.
    fn members(&mut self, read: &dyn Read, group: &str, sender: &str, max: usize) -> Result<bool, Reason> {
        let group = query::group(read, group).filter(|group| !group.closed).ok_or(Reason::GroupUnknown)?;
        if !group.senders_allowed.is_empty() && !group.senders_allowed.iter().any(|code| code == sender) {
            return Err(Reason::RecipientNotAllowed);
        }
        let (agencies, next) = if group.everyone {
            query::agencies(read, &self.after, max, "")
        } else {
            let codes = query::members(read, &group.group_id, &self.after, max);
            let next =
                if codes.len() == max { codes.last().cloned().unwrap_or_default() } else { String::new() };
            (codes.iter().filter_map(|code| query::agency(read, code)).collect(), next)
        };
        for agency in agencies {
            self.hold_for(&agency);
            let connected = match self.active.get(&agency.system) {
                Some(active) => *active,
                None => {
                    let active = query::is_system_active(read, &agency.system);
                    self.active.insert(agency.system.clone(), active);
                    active
                }
            };
            if agency.code == sender || !connected || !query::is_in_force(&agency, self.now_ms) {
                continue;
            }
            if let Ok(code) = agency.code.parse() {
                self.reached = true;
                self.recipients.entry(code).or_insert(RecipientKind::To);
            }
        }
        let more = !next.is_empty() && self.recipients.len() <= limits::RECIPIENTS_MAX;
        self.after = next;
        if more || self.reached { Ok(!more) } else { Err(Reason::GroupUnknown) }
    }

    /// An agency's validity begins and ends without any change.
    fn hold_for(&mut self, agency: &Agency) {
        for turn in [agency.valid_from_unix_ms, agency.valid_until_unix_ms] {
            if turn > self.now_ms {
                self.until_ms = self.until_ms.min(turn);
            }
        }
    }
}

/// A list of recipients as the Accepted record of an envelope that is consigned
/// later binds it.
#[derive(Debug, Clone)]
pub struct Listed {
    pub(super) list: Arc<LeafList>,
    pub(super) root: [u8; 32],
    pub(super) encoded: Content,
}

/// Recipients that were looked up before the envelope is decided on.
#[derive(Debug, Clone)]
pub struct Ahead {
    directory_version: Option<u64>,
    from_ms: Millis,
    until_ms: Millis,
    pub(super) recipients: Arc<Recipients>,
    pub(super) list: Listed,
}

impl Ahead {
    /// Whether looking them up now would find the same.
    pub(super) fn holds(&self, read: &dyn Read, now_ms: Millis) -> bool {
        (self.from_ms..self.until_ms).contains(&now_ms)
            && Some(query::directory_version(read)) == self.directory_version
    }
}

/// The leaves of a list of recipients.
pub(super) fn leaves(recipients: &Recipients) -> Vec<Bytes> {
    let leaf = |((code, kind), place): (&(AgencyCode, RecipientKind), u32)| {
        let leaf = RecipientLeaf { recipient_index: place, agency: code.to_string(), kind: (*kind).into() };
        Bytes::from(leaf.encode_to_vec())
    };
    recipients.iter().zip(0..).map(leaf).collect()
}

fn closed_detail(agency: &Agency) -> String {
    match agency.successors.as_slice() {
        [] => agency.code.clone(),
        successors => format!("{} (successors: {})", agency.code, successors.join(", ")),
    }
}
