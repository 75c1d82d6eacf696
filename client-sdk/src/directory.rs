//! The directory and tracking: who can be reached, and where an envelope is.

use axis_proto::{
    hub::v1::{
        GetAgencyRequest, GetSigningKeyRequest, ListAgenciesRequest, ListChangesRequest, ListGroupsRequest,
        Reason, TrackRequest, TrackResponse,
    },
    id::{AgencyCode, EnvelopeId, KeyId},
    record::v1::{Agency, DirectoryChanged, Group, SigningKey},
};
use bytes::Bytes;

use crate::{
    client::{Client, Inner},
    error::{Error, Result, Verification},
};

/// Look-ups in the hub's directory.
#[derive(Clone, Copy)]
pub struct Directory<'a> {
    inner: &'a Inner,
}

/// Entries of one answer.
const PAGE: u32 = 1_000;

impl Client {
    /// The hub's directory.
    pub fn directory(&self) -> Directory<'_> {
        Directory { inner: &self.inner }
    }

    /// Where an envelope is, per recipient, and since when. Its sender sees
    /// every recipient, others only their own.
    pub async fn track(&self, sender: &AgencyCode, envelope_id: &EnvelopeId) -> Result<TrackResponse> {
        let inner = &self.inner;
        let mut request = TrackRequest {
            sender: sender.to_string(),
            envelope_id: Bytes::copy_from_slice(envelope_id.as_ref()),
            first_recipient_index: 0,
            max_recipients: PAGE,
        };
        let mut all: Option<TrackResponse> = None;
        loop {
            let mut page = inner
                .retried(|| async { inner.timed(inner.track().track(inner.request(request.clone()))).await })
                .await?;
            let next = std::mem::take(&mut page.next_recipient_index);
            let all = match &mut all {
                None => all.insert(page),
                Some(all) => {
                    all.recipients.append(&mut page.recipients);
                    all
                }
            };
            if next == 0 {
                return Ok(std::mem::take(all));
            }
            if next <= request.first_recipient_index {
                return Err(Verification::new("hub", "its pages of recipients do not go forward").into());
            }
            request.first_recipient_index = next;
        }
    }
}

impl Directory<'_> {
    /// An agency by its code or an alias; nothing if there is none.
    pub async fn get(&self, code: &str) -> Result<Option<Agency>> {
        let answer = self
            .inner
            .retried(|| async {
                let request = GetAgencyRequest { code: code.to_owned() };
                self.inner.timed(self.inner.directory().get_agency(self.inner.request(request))).await
            })
            .await;
        absent(answer).map(|answer| answer.and_then(|answer| answer.agency))
    }

    /// Agencies whose code or name contains a text, in order of code; all if
    /// it is empty. At most `most`.
    pub async fn list(&self, containing: &str, most: usize) -> Result<Vec<Agency>> {
        let mut agencies = Vec::new();
        let mut after = String::new();
        loop {
            let wanted = u32::try_from(most - agencies.len()).unwrap_or(PAGE).min(PAGE);
            if wanted == 0 {
                return Ok(agencies);
            }
            let mut page = self
                .inner
                .retried(|| async {
                    let request = ListAgenciesRequest {
                        after: after.clone(),
                        max_agencies: wanted,
                        containing: containing.to_owned(),
                    };
                    self.inner.timed(self.inner.directory().list_agencies(self.inner.request(request))).await
                })
                .await?;
            agencies.append(&mut page.agencies);
            if page.next_after.is_empty() || page.next_after == after {
                return Ok(agencies);
            }
            after = page.next_after;
        }
    }

    /// What changed after a version, a version each, and the version that the
    /// directory has now. A page: call again with the last version until
    /// nothing comes.
    pub async fn changes(&self, since_version: u64) -> Result<(Vec<DirectoryChanged>, u64)> {
        let answer = self
            .inner
            .retried(|| async {
                let request = ListChangesRequest { since_version, max_changes: PAGE };
                self.inner.timed(self.inner.directory().list_changes(self.inner.request(request))).await
            })
            .await?;
        for (expected, change) in (since_version + 1..).zip(&answer.changes) {
            if change.directory_version != expected {
                let detail = format!("version {} came where {expected} was due", change.directory_version);
                return Err(Verification::new("hub", detail).into());
            }
        }
        Ok((answer.changes, answer.directory_version))
    }

    /// Groups in order of id.
    pub async fn groups(&self) -> Result<Vec<Group>> {
        let mut groups = Vec::new();
        let mut after = String::new();
        loop {
            let mut page = self
                .inner
                .retried(|| async {
                    let request = ListGroupsRequest { after: after.clone(), max_groups: PAGE };
                    self.inner.timed(self.inner.directory().list_groups(self.inner.request(request))).await
                })
                .await?;
            groups.append(&mut page.groups);
            if page.next_after.is_empty() || page.next_after == after {
                return Ok(groups);
            }
            after = page.next_after;
        }
    }

    /// A signing key by its id, and the sequence of the record that last
    /// changed it; nothing if there is none.
    pub async fn signing_key(&self, key_id: &KeyId) -> Result<Option<(SigningKey, u64)>> {
        let answer = self
            .inner
            .retried(|| async {
                let request = GetSigningKeyRequest { key_id: Bytes::copy_from_slice(key_id.as_ref()) };
                self.inner.timed(self.inner.directory().get_signing_key(self.inner.request(request))).await
            })
            .await;
        let answer = absent(answer)?;
        Ok(answer.and_then(|answer| Some((answer.signing_key?, answer.changed_sequence))))
    }
}

/// Turns "nothing like that" into nothing.
fn absent<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_absent(error: &Error) -> bool {
    error.reason() == Some(Reason::NotFound)
}
