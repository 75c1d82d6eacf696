//! What each command does, in the order of `axis --help`.

use std::{collections::BTreeMap, io::Read as _, path::Path, time::Duration};

use axis_client::{
    Client, ClientOptions, Deliveries, EnrolmentToken, Error, FeedOptions, KnownLogs, Outgoing,
    ReceiveOptions, Received, Renew, Sent, Task, VerifiedEvidence,
    proto::{
        envelope::v1::Signer,
        hub::v1::{DeliveryState, Reason, TrackResponse, TrackedRecipient},
        id::{AgencyCode, EnvelopeId},
        note::CheckpointVerifier,
        receipt::VerifiedReceipt,
        record::v1::{Agency, AgencyState, Receipt},
        signed::Signed,
    },
    receipt,
};
use serde_json::{Value, json};

use crate::{
    arguments::{self as arguments, Command},
    events,
    failure::{self, Failure, Status},
    output::{Output, bytes, table, time, time_json},
    words::Word,
};

pub type Done = Result<(), Failure>;

/// One command, in one home.
pub struct Session<'a> {
    pub home: &'a Path,
    pub output: &'a Output,
    pub options: ClientOptions,
}

/// How long before its end a certificate is worth a word.
const CERTIFICATE_WARNING_MS: u64 = 14 * 86_400_000;

impl Session<'_> {
    pub async fn run(&self, command: Command) -> Done {
        match command {
            Command::Enroll(arguments) => self.enroll(arguments).await,
            Command::Send(arguments) => self.send(*arguments).await,
            Command::Receive(arguments) => self.receive(arguments).await,
            Command::Track(arguments) => self.track(arguments).await,
            Command::Feed(arguments) => self.feed(arguments).await,
            Command::Agency(arguments::Agency::List(arguments)) => self.agency_list(arguments).await,
            Command::Agency(arguments::Agency::Show(arguments)) => self.agency_show(arguments).await,
            Command::Verify(arguments) => self.verify(&arguments),
            Command::Reconcile => self.reconcile().await,
            Command::Log(arguments::Log::Show) => self.log_show(),
            Command::Log(arguments::Log::Accept(arguments)) => self.log_accept(arguments).await,
        }
    }

    pub async fn client(&self) -> Result<Client, Failure> {
        self.client_that(false).await
    }

    /// A client; one that stays offers again by itself what a restored hub
    /// lacks, for others it is done at the end.
    async fn client_that(&self, stays: bool) -> Result<Client, Failure> {
        let mut options = self.options.clone();
        options.reconcile = stays;
        let client = Client::connect_with(self.home, options).await?;
        let now = jiff::Timestamp::now().as_millisecond();
        if let Some(until) = client.certificate_expires_unix_ms()
            && until < u64::try_from(now).unwrap_or_default() + CERTIFICATE_WARNING_MS
        {
            self.output.say(Word::CertificateEnds, &[("until", &time(until))]);
            self.output.hint(Word::HintRenew, &[]);
        }
        Ok(client)
    }

    // enroll

    async fn enroll(&self, arguments: arguments::Enroll) -> Done {
        if let Some(key_id) = &arguments.revoke_signing_key {
            let client = self.client().await?;
            client.revoke_signing_key(key_id).await?;
            self.output.result(
                || self.output.text(Word::KeyRevoked, &[("key", key_id)]),
                || json!({ "revoked": key_id.to_string() }),
            );
            return Ok(());
        }
        let Some(token) = arguments.token else { return self.renew(arguments.signing_key).await };
        let token = token_of(&token)?;
        let enrolled = if arguments.renew {
            Client::enrol_again(self.home, &token, &self.options).await?
        } else {
            Client::enrol_with(self.home, &token, &self.options).await?
        };
        let profile = &enrolled.profile;
        let agencies: Vec<&str> = profile.agencies.iter().map(AgencyCode::as_str).collect();
        let listed = match agencies.is_empty() {
            true => self.output.word(Word::NoAgencies).to_owned(),
            false => agencies.join(", "),
        };
        let facts: [(&str, &dyn std::fmt::Display); 3] =
            [("system", &profile.system_id), ("hub", &profile.hub_id), ("agencies", &listed)];
        self.output.result(
            || self.output.text(Word::Enrolled, &facts),
            || {
                json!({
                    "system": profile.system_id.as_str(),
                    "hub": profile.hub_id.as_str(),
                    "agencies": agencies,
                    "key_id": enrolled.key_id.to_string(),
                    "log_verifier_key": profile.log_verifier_key,
                })
            },
        );
        self.output.say(Word::KeysStay, &[("home", &self.home.display())]);
        self.output.hint(Word::HintAfterEnrol, &[]);
        Ok(())
    }

    async fn renew(&self, signing_key: bool) -> Done {
        let client = Client::connect_with(self.home, self.options.clone()).await?;
        let what = if signing_key { Renew::CertificateAndSigningKey } else { Renew::Certificate };
        let former = client.key_id();
        client.renew(what).await?;
        let until = client.certificate_expires_unix_ms().unwrap_or_default();
        self.output.result(
            || self.output.text(Word::Renewed, &[("until", &time(until))]),
            || {
                json!({
                    "system": client.system_id().as_str(),
                    "certificate_until": time_json(until),
                    "key_id": client.key_id().to_string(),
                    "former_key_id": signing_key.then(|| former.to_string()),
                })
            },
        );
        if signing_key {
            self.output.say(Word::FormerKey, &[("key", &former)]);
            self.output.hint(Word::HintRevokeKey, &[("key", &former)]);
        }
        Ok(())
    }

    // send

    async fn send(&self, arguments: arguments::Send) -> Done {
        let client = self.client().await?;
        if arguments.pending {
            return self.send_pending(&client).await;
        }
        let waiting = client.outbox()?.len();
        if waiting > 0 && arguments.id.is_none() {
            self.output.say(Word::OutboxWaits, &[("count", &waiting)]);
            self.output.hint(Word::HintPending, &[]);
        }
        let outgoing = outgoing(arguments)?;
        let sent = client.send(outgoing, &|progress| self.output.progress(progress)).await;
        self.reconcile_if_due(&client).await;
        match sent {
            Ok(sent) => {
                self.show_sent(&sent);
                self.output.hint(Word::HintTrack, &[("id", &sent.envelope_id)]);
                Ok(())
            }
            Err(error) => {
                failure::tell(&error, self.output, self.home);
                // this reason says so itself
                if matches!(&error, Error::Refused(refused) if refused.reason != Reason::RecipientsRefused) {
                    self.output.say(Word::NothingSent, &[]);
                }
                Err(Failure::Told(Failure::from(error).status()))
            }
        }
    }

    async fn send_pending(&self, client: &Client) -> Done {
        let outcomes = client.flush_outbox().await?;
        self.reconcile_if_due(client).await;
        if outcomes.is_empty() {
            self.output.say(Word::OutboxEmpty, &[]);
        }
        let mut worst: Option<Status> = None;
        for (_, outcome) in outcomes {
            match outcome {
                Ok(sent) => self.show_sent(&sent),
                Err(error) => {
                    failure::tell(&error, self.output, self.home);
                    worst = worst.max(Some(Failure::from(error).status()));
                }
            }
        }
        worst.map_or(Ok(()), |status| Err(Failure::Told(status)))
    }

    fn show_sent(&self, sent: &Sent) {
        let receipt = self
            .home
            .join("sent")
            .join(sent.envelope_id.to_string())
            .join(format!("{}.receipt.json", sent.sequence));
        let word = if sent.duplicate { Word::SentBefore } else { Word::Sent };
        self.output.say(word, &[("sequence", &sent.sequence)]);
        self.output.say(Word::ReceiptKept, &[("path", &receipt.display())]);
        self.output.result(
            || sent.envelope_id.to_string(),
            || {
                json!({
                    "envelope_id": sent.envelope_id.to_string(),
                    "sender": sent.sender.as_str(),
                    "envelope_digest": sent.envelope_digest.to_string(),
                    "sequence": sent.sequence,
                    "duplicate": sent.duplicate,
                    "receipt": receipt,
                })
            },
        );
    }

    // receive

    async fn receive(&self, arguments: arguments::Receive) -> Done {
        let client = self.client_that(arguments.follow).await?;
        // one at a time: the next is written when this one is safe
        let mut options = ReceiveOptions::default().held_max(4);
        options.follow = arguments.follow;
        options.deliveries_max = arguments.max;
        let deliveries = client.receive(options).await?;
        if arguments.follow {
            self.output.say(Word::Waiting, &[]);
        }
        let done = self.receive_all(deliveries, &arguments).await;
        // what was not looked at is given back before we leave
        client.drain(Duration::from_secs(2)).await;
        if client.answered_again() > 0 {
            self.output.say(Word::AnsweredAgain, &[("count", &client.answered_again())]);
        }
        if !arguments.follow {
            self.reconcile_if_due(&client).await;
        }
        done
    }

    async fn receive_all(&self, mut deliveries: Deliveries, arguments: &arguments::Receive) -> Done {
        let mut count = 0_u64;
        let mut worst: Option<Status> = None;
        let mut stopped = false;
        let stop = stop_signal();
        tokio::pin!(stop);
        loop {
            let next = tokio::select! {
                next = deliveries.next() => next,
                () = &mut stop => {
                    stopped = true;
                    break;
                }
            };
            match next {
                None => break,
                Some(Ok(received)) => {
                    // not cut short by a signal: what is being written is finished
                    self.keep(received, arguments).await?;
                    count += 1;
                }
                Some(Err(error)) => {
                    failure::tell(&error, self.output, self.home);
                    worst = worst.max(Some(Failure::from(error).status()));
                }
            }
        }
        match count {
            0 if stopped || worst.is_some() => {}
            0 if deliveries.unsettled() > 0 => {
                self.output.say(Word::NothingNow, &[("count", &deliveries.unsettled())]);
            }
            0 => self.output.say(Word::NothingWaits, &[]),
            _ => self.output.say(Word::Total, &[("count", &count)]),
        }
        worst.map_or(Ok(()), |status| Err(Failure::Told(status)))
    }

    /// Writes one delivery and answers for it.
    async fn keep(&self, received: Received, arguments: &arguments::Receive) -> Done {
        let (output, total) = (self.output, received.documents().iter().map(|it| it.size()).sum());
        output.say(
            Word::Received,
            &[
                ("subject", &received.metadata().subject),
                ("sender", received.sender()),
                ("recipient", received.recipient()),
                ("count", &received.documents().len()),
                ("bytes", &bytes(total)),
            ],
        );
        let saved = received.save(&arguments.into, &|progress| output.progress(progress)).await?;
        let mut result = json!({
            "folder": saved.folder,
            "files": saved.documents,
            "sender": received.sender().as_str(),
            "recipient": received.recipient().as_str(),
            "envelope_id": received.envelope_id().to_string(),
            "delivery_id": received.delivery_id().to_string(),
            "subject": received.metadata().subject,
            "acknowledged": Value::Null,
        });
        if arguments.no_ack {
            received.nack(None).await?;
            output.say(Word::NotAcknowledged, &[]);
        } else {
            let settled = received.ack("").await?;
            receipt::save(&settled.receipt, settled.sequence, &saved.folder)?;
            let word = if settled.late { Word::AcknowledgedLate } else { Word::Acknowledged };
            output.say(word, &[("sequence", &settled.sequence)]);
            result["acknowledged"] = json!(settled.sequence);
        }
        output.result(|| saved.folder.display().to_string(), || result);
        Ok(())
    }

    // track

    async fn track(&self, arguments: arguments::Track) -> Done {
        let client = self.client().await?;
        let id = &arguments.envelope_id;
        let sender = match arguments.sender {
            Some(sender) => sender,
            None => self.sender_of(&client, id)?,
        };
        let track = client.track(&sender, id).await?;
        let answers = if arguments.signed { self.answers(&client, &track).await? } else { Answers::new() };
        self.output.result(
            || self.tracked(&track, &answers, &sender, id),
            || tracked_json(&track, &answers, &sender, id),
        );
        if answers.values().any(Option::is_some) {
            let path = self.home.join("receipts");
            self.output.say(Word::SignedKept, &[("path", &path.display())]);
        }
        Ok(())
    }

    /// What recipients signed, one after the other.
    async fn answers(&self, client: &Client, track: &TrackResponse) -> Result<Answers, Failure> {
        let mut answers = Answers::new();
        for sequence in track.recipients.iter().filter_map(answer_of) {
            let evidence = client.evidence(sequence).await?;
            let known = client.known_logs();
            let signed = evidence.verify_with(|found| known.verify(found))?.signed;
            answers.insert(sequence, signed);
        }
        Ok(answers)
    }

    /// Who sent it: what this home remembers, or its only agency.
    fn sender_of(&self, client: &Client, id: &EnvelopeId) -> Result<AgencyCode, Failure> {
        if let Some(sent) = client.sent(id)? {
            return Ok(sent.sender);
        }
        match client.agencies().as_slice() {
            [only] => Ok(only.clone()),
            _ => Err(Failure::said(
                Status::Usage,
                Word::WhoSent,
                vec![("id", id.to_string())],
                Some(Word::HintSender),
            )),
        }
    }

    fn tracked(
        &self,
        track: &TrackResponse,
        answers: &Answers,
        sender: &AgencyCode,
        id: &EnvelopeId,
    ) -> String {
        let output = self.output;
        let mut lines = vec![output.text(
            Word::TrackHead,
            &[
                ("id", id),
                ("sender", sender),
                ("priority", &output.priority(track.priority())),
                ("accepted", &time(track.accepted_unix_ms)),
                ("expires", &time(track.expires_unix_ms)),
            ],
        )];
        if track.recipient_count > 0 {
            let facts: [(&str, &dyn std::fmt::Display); 2] =
                [("settled", &track.settled_count), ("count", &track.recipient_count)];
            lines.push(output.text(Word::TrackCount, &facts));
        }
        if track.erased_unix_ms > 0 {
            let (when, record) = (time(track.erased_unix_ms), track.erased_sequence);
            lines.push(output.text(Word::TrackErased, &[("when", &when), ("record", &record)]));
        }
        let head = [Word::Agency, Word::State, Word::Since, Word::Attempts, Word::System];
        let mut rows: Vec<Vec<String>> =
            vec![head.iter().map(|word| output.word(*word).to_owned()).collect()];
        for recipient in &track.recipients {
            let mut row = vec![
                recipient.agency.clone(),
                output.word(state(recipient.state())).to_owned(),
                time(recipient.since_unix_ms),
                recipient.attempts.to_string(),
                recipient.system.clone(),
            ];
            if recipient.late_accepted {
                row.push(output.word(Word::LateAccepted).to_owned());
            }
            match answer_of(recipient).and_then(|sequence| answers.get(&sequence)) {
                Some(Some(signed)) => row.push(output.text(Word::SignedBy, &facts_of(signed).each())),
                Some(None) => row.push(output.word(Word::SignedErased).to_owned()),
                None => {}
            }
            rows.push(row);
        }
        lines.push(table(&rows));
        lines.join("\n")
    }

    // feed

    async fn feed(&self, arguments: arguments::Feed) -> Done {
        let client = self.client_that(arguments.follow).await?;
        let options = FeedOptions { after: arguments.after, follow: arguments.follow };
        let mut feed = client.feed(options).await?;
        let mut any = false;
        let stop = stop_signal();
        tokio::pin!(stop);
        loop {
            let next = tokio::select! {
                next = feed.next() => next,
                () = &mut stop => return Ok(()),
            };
            let Some(item) = next else { break };
            let item = item?;
            any = true;
            let record = &item.record;
            self.output.result(
                || {
                    let at = time(record.recorded_unix_ms);
                    format!("{:>6}  {at}  {}", item.feed_sequence, events::line(record))
                },
                || {
                    let mut object = events::object(record);
                    object.insert("feed_sequence".to_owned(), json!(item.feed_sequence));
                    object.insert("sequence".to_owned(), json!(record.sequence));
                    object.insert("recorded".to_owned(), time_json(record.recorded_unix_ms));
                    Value::Object(object)
                },
            );
        }
        if !any {
            self.output.say(Word::FeedEmpty, &[]);
        }
        if !arguments.follow {
            self.reconcile_if_due(&client).await;
        }
        Ok(())
    }

    // agency

    async fn agency_list(&self, arguments: arguments::List) -> Done {
        let client = self.client().await?;
        let agencies = client.directory().list(&arguments.text, arguments.max).await?;
        if agencies.is_empty() {
            self.output.say(Word::NoAgencyFound, &[]);
            return Ok(());
        }
        if self.output.json {
            for agency in &agencies {
                self.output.result(String::new, || agency_json(agency));
            }
            return Ok(());
        }
        let head = [Word::Code, Word::Name, Word::State, Word::ServedBy];
        let mut rows: Vec<Vec<String>> =
            vec![head.iter().map(|word| self.output.word(*word).to_owned()).collect()];
        for agency in &agencies {
            rows.push(vec![
                agency.code.clone(),
                agency.name.clone(),
                self.output.word(agency_state(agency)).to_owned(),
                agency.system.clone(),
            ]);
        }
        self.output.result(|| table(&rows), || Value::Null);
        Ok(())
    }

    async fn agency_show(&self, arguments: arguments::Show) -> Done {
        let client = self.client().await?;
        let code = arguments.code;
        let Some(agency) = client.directory().get(&code).await? else {
            let facts = vec![("code", code.clone()), ("text", code)];
            return Err(Failure::said(Status::Refused, Word::AgencyUnknown, facts, Some(Word::HintList)));
        };
        let rows = [
            (Word::Code, agency.code.clone()),
            (Word::Name, agency.name.clone()),
            (Word::State, self.output.word(agency_state(&agency)).to_owned()),
            (Word::ServedBy, agency.system.clone()),
            (Word::Aliases, agency.aliases.join(", ")),
            (Word::Parent, agency.parent.clone()),
            (Word::Successors, agency.successors.join(", ")),
        ];
        let rows: Vec<Vec<String>> = rows
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(word, value)| vec![self.output.word(word).to_owned(), value])
            .collect();
        self.output.result(|| table(&rows), || agency_json(&agency));
        Ok(())
    }

    // verify

    /// Needs no hub: the receipts, and the key of its log.
    fn verify(&self, arguments: &arguments::Verify) -> Done {
        let keys = self.log_keys(arguments.key.as_deref())?;
        let mut good = true;
        for path in &arguments.receipts {
            let file = path.display();
            let checked = receipt::load_evidence(path)
                .and_then(|evidence| evidence.verify_with(|found| keys.verify(found)));
            match checked {
                Ok(VerifiedEvidence { receipt: verified, signed, .. }) => {
                    let (record, origin) = (&verified.record, &verified.checkpoint.origin);
                    let is_lost = keys.lacks(origin, record.sequence);
                    let at = time(record.recorded_unix_ms);
                    let opened = verified.opened.as_ref().map(events::opened);
                    self.output.result(
                        || {
                            let mut text = self.output.text(
                                Word::Verified,
                                &[
                                    ("file", &file),
                                    ("sequence", &record.sequence),
                                    ("log", &origin),
                                    ("time", &at),
                                    ("event", &events::line(record)),
                                ],
                            );
                            if let Some(opened) = &opened {
                                text.push('\n');
                                text.push_str(&self.output.text(Word::VerifiedOpening, &[("what", opened)]));
                            }
                            if let Some(signed) = &signed {
                                text.push('\n');
                                text.push_str(
                                    &self.output.text(Word::VerifiedSigned, &facts_of(signed).each()),
                                );
                            } else if let Some(agency) = events::answered_by(record) {
                                text.push('\n');
                                text.push_str(
                                    &self.output.text(Word::VerifiedUnsigned, &[("agency", &agency)]),
                                );
                            }
                            if is_lost {
                                text.push('\n');
                                text.push_str(self.output.word(Word::VerifiedLost));
                            }
                            text
                        },
                        || {
                            let mut object = events::object(record);
                            object.insert("file".to_owned(), json!(path));
                            object.insert("valid".to_owned(), json!(true));
                            object.insert("sequence".to_owned(), json!(record.sequence));
                            object.insert("recorded".to_owned(), time_json(record.recorded_unix_ms));
                            object.insert("log".to_owned(), json!(origin));
                            object.insert("log_size".to_owned(), json!(verified.checkpoint.size));
                            object.insert("opened".to_owned(), json!(opened));
                            object.insert(
                                "signed_by".to_owned(),
                                signed.as_ref().map_or(Value::Null, signed_json),
                            );
                            object.insert("lost_by_restore".to_owned(), json!(is_lost));
                            Value::Object(object)
                        },
                    );
                }
                Err(error) => {
                    good = false;
                    let why = failure::message(&error, self.output);
                    self.output.result(
                        || self.output.text(Word::NotVerified, &[("file", &file), ("why", &why)]),
                        || json!({ "file": path, "valid": false, "why": why }),
                    );
                }
            }
        }
        if good { Ok(()) } else { Err(Failure::Told(Status::Unverified)) }
    }

    fn log_keys(&self, key: Option<&str>) -> Result<Keys, Failure> {
        let Some(key) = key else {
            return KnownLogs::load(self.home)?.map(Keys::Home).ok_or_else(|| {
                let facts = vec![("home", self.home.display().to_string())];
                Failure::said(Status::Identity, Word::KeyNeeded, facts, Some(Word::HintKey))
            });
        };
        CheckpointVerifier::parse(key.trim()).map(Keys::One).map_err(|error| {
            let facts = vec![("why", error.to_string())];
            Failure::said(Status::Usage, Word::KeyBad, facts, Some(Word::HintKey))
        })
    }
}

/// What verifies receipts: the logs that the home knows, or one key.
enum Keys {
    Home(KnownLogs),
    One(CheckpointVerifier),
}

impl Keys {
    fn verify(&self, found: &Receipt) -> axis_client::Result<VerifiedReceipt> {
        match self {
            Self::Home(known) => known.verify(found),
            Self::One(key) => receipt::verify(found, key),
        }
    }

    /// Whether the hub was restored from a backup that lacks this record.
    fn lacks(&self, origin: &str, sequence: u64) -> bool {
        match self {
            Self::Home(known) => !known.holds(origin, sequence),
            Self::One(_) => false,
        }
    }
}

fn token_of(text: &str) -> Result<EnrolmentToken, Failure> {
    let mut text = text.to_owned();
    if text == "-" {
        text.clear();
        std::io::stdin().take(4_096).read_to_string(&mut text).map_err(|source| Error::Io {
            task: Task::Read,
            path: "-".to_owned(),
            source,
        })?;
    }
    if text.trim().is_empty() {
        return Err(Failure::said(Status::Usage, Word::TokenNeeded, Vec::new(), Some(Word::HintToken)));
    }
    text.trim().parse().map_err(|error: axis_client::proto::token::TokenError| {
        let facts = vec![("why", error.to_string())];
        Failure::said(Status::Usage, Word::TokenBad, facts, Some(Word::HintToken))
    })
}

fn outgoing(arguments: arguments::Send) -> Result<Outgoing, Failure> {
    // clap requires both unless --pending is given
    let (Some(from), Some(subject)) = (arguments.from, arguments.subject) else {
        return Err(Failure::Told(Status::Usage));
    };
    let mut outgoing = Outgoing::new(from, subject).priority(arguments.priority);
    outgoing.envelope_id = arguments.id;
    outgoing.to = arguments.to;
    outgoing.cc = arguments.cc;
    outgoing.groups = arguments.group;
    let metadata = &mut outgoing.metadata;
    metadata.code_number = arguments.number;
    metadata.code_notation = arguments.notation;
    metadata.document_type_name = arguments.kind;
    metadata.content = arguments.content;
    metadata.promulgation_place = arguments.place;
    metadata.promulgation_date = arguments.date;
    metadata.due_date = arguments.due;
    if !arguments.signer.is_empty() {
        let (full_name, position) = (arguments.signer, arguments.position);
        metadata.signer = Some(Signer { full_name, position, ..Default::default() });
    }
    if let Some(days) = arguments.expires_days {
        let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
        outgoing.expires_unix_ms = Some(now + u64::from(days) * 86_400_000);
    }
    if let Some(text) = arguments.reply_to {
        let reply = text.split_once('/').and_then(|(sender, id)| {
            Some((sender.parse::<AgencyCode>().ok()?, id.parse::<EnvelopeId>().ok()?))
        });
        let Some((sender, id)) = reply else {
            return Err(Failure::said(Status::Usage, Word::ReplyBad, vec![("text", text)], None));
        };
        outgoing = outgoing.in_reply_to(&sender, &id);
    }
    for path in arguments.files {
        outgoing = outgoing.file(path);
    }
    Ok(outgoing)
}

/// What recipients signed, by the record of each answer; none if it is erased.
type Answers = BTreeMap<u64, Option<Signed>>;

/// The record of a recipient's signed answer, if it gave one.
fn answer_of(recipient: &TrackedRecipient) -> Option<u64> {
    match recipient.state() {
        _ if recipient.late_sequence > 0 => Some(recipient.late_sequence),
        DeliveryState::Acknowledged | DeliveryState::Rejected => Some(recipient.since_sequence),
        _ => None,
    }
}

/// Who signed, in words.
struct SignedFacts {
    key: String,
    agency: String,
    system: String,
}

fn facts_of(signed: &Signed) -> SignedFacts {
    let keys: Vec<String> = signed.key_ids.iter().map(ToString::to_string).collect();
    SignedFacts { key: keys.join(", "), agency: signed.agency.clone(), system: signed.system.clone() }
}

impl SignedFacts {
    fn each(&self) -> [(&str, &dyn std::fmt::Display); 3] {
        [("key", &self.key), ("agency", &self.agency), ("system", &self.system)]
    }
}

fn signed_json(signed: &Signed) -> Value {
    let keys: Vec<String> = signed.key_ids.iter().map(ToString::to_string).collect();
    json!({ "agency": signed.agency, "system": signed.system, "key_ids": keys })
}

fn tracked_json(track: &TrackResponse, answers: &Answers, sender: &AgencyCode, id: &EnvelopeId) -> Value {
    let recipients: Vec<Value> = track
        .recipients
        .iter()
        .map(|it| {
            let answer = answer_of(it).and_then(|sequence| answers.get(&sequence)?.as_ref());
            json!({
                "signed_by": answer.map_or(Value::Null, signed_json),
                "late_sequence": it.late_sequence,
                "agency": it.agency,
                "delivery_id": it.delivery_id,
                "state": it.state().as_str_name().trim_start_matches("DELIVERY_STATE_").to_lowercase(),
                "since": time_json(it.since_unix_ms),
                "since_sequence": it.since_sequence,
                "attempts": it.attempts,
                "system": it.system,
                "due": time_json(it.due_unix_ms),
                "late_accepted": it.late_accepted,
            })
        })
        .collect();
    json!({
        "envelope_id": id.to_string(),
        "sender": sender.as_str(),
        "accepted_sequence": track.accepted_sequence,
        "log": track.log_origin,
        "accepted": time_json(track.accepted_unix_ms),
        "expires": time_json(track.expires_unix_ms),
        "recipient_count": track.recipient_count,
        "settled_count": track.settled_count,
        "erased": time_json(track.erased_unix_ms),
        "recipients": recipients,
    })
}

fn agency_json(agency: &Agency) -> Value {
    json!({
        "code": agency.code,
        "name": agency.name,
        "name_en": agency.name_en,
        "aliases": agency.aliases,
        "parent": agency.parent,
        "system": agency.system,
        "state": agency.state().as_str_name().trim_start_matches("AGENCY_STATE_").to_lowercase(),
        "successors": agency.successors,
    })
}

fn agency_state(agency: &Agency) -> Word {
    match agency.state() {
        AgencyState::Closed => Word::AgencyClosed,
        AgencyState::Suspended => Word::AgencySuspended,
        _ if agency.system.is_empty() => Word::NotConnected,
        _ => Word::AgencyActive,
    }
}

fn state(state: DeliveryState) -> Word {
    match state {
        DeliveryState::Accepted => Word::StateAccepted,
        DeliveryState::Waiting => Word::StateWaiting,
        DeliveryState::Leased => Word::StateLeased,
        DeliveryState::Parked => Word::StateParked,
        DeliveryState::Acknowledged => Word::StateAcknowledged,
        DeliveryState::Rejected => Word::StateRejected,
        DeliveryState::Expired => Word::StateExpired,
        DeliveryState::Withdrawn => Word::StateWithdrawn,
        DeliveryState::Returned => Word::StateReturned,
        DeliveryState::Unspecified => Word::StateUnknown,
    }
}

/// Ctrl-C or a polite kill.
async fn stop_signal() {
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = interrupted => {}
        () = terminated => {}
    }
}
