//! `axis reconcile` and `axis log`: what a restore of the hub means here.

use axis_client::{Client, KnownLogs, Outcome, Reconciliation, proto::note::CheckpointVerifier};
use serde_json::{Value, json};

use crate::{
    arguments,
    commands::{Done, Session},
    failure::{Failure, Status},
    words::Word,
};

impl Session<'_> {
    pub async fn reconcile(&self) -> Done {
        let client = self.client().await?;
        match client.reconcile(&|progress| self.output.progress(progress)).await? {
            None => {
                self.output.say(Word::NotRestored, &[]);
                Ok(())
            }
            Some(report) => self.reconciled(&report),
        }
    }

    /// Offers again what a restored hub lacks, after a command that learnt of
    /// it. What it could not do is said; the command's own outcome stays.
    pub async fn reconcile_if_due(&self, client: &Client) {
        if !client.reconcile_due().unwrap_or(false) {
            return;
        }
        self.output.say(Word::WasRestored, &[]);
        match client.reconcile(&|progress| self.output.progress(progress)).await {
            Ok(Some(report)) if self.reconciled_words(&report) => {}
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => self.output.hint(Word::HintReconcile, &[]),
        }
    }

    fn reconciled(&self, report: &Reconciliation) -> Done {
        if self.output.json {
            self.output.result(String::new, || reconciled_json(report));
        }
        if self.reconciled_words(report) {
            return Ok(());
        }
        if !report.complete {
            self.output.hint(Word::HintReconcile, &[]);
        }
        let refused = |outcome: &Outcome| matches!(outcome, Outcome::Refused { .. });
        let status = match report.offered.iter().any(|offered| refused(&offered.outcome)) {
            true => Status::Refused,
            false => Status::Failed,
        };
        Err(Failure::Told(status))
    }

    /// Says what became of it; whether nothing is left to be done.
    fn reconciled_words(&self, report: &Reconciliation) -> bool {
        for offered in &report.offered {
            let (id, sender) = (&offered.envelope_id, &offered.sender);
            match &offered.outcome {
                Outcome::Accepted(sequence) => {
                    self.output.say(Word::OfferedAccepted, &[("id", id), ("sequence", sequence)]);
                }
                Outcome::Known(sequence) => {
                    self.output.say(Word::OfferedKnown, &[("id", id), ("sequence", sequence)]);
                }
                Outcome::Refused { message, .. } => {
                    let facts: [(&str, &dyn std::fmt::Display); 3] =
                        [("id", id), ("sender", sender), ("why", message)];
                    self.output.say(Word::OfferedRefused, &facts);
                }
                Outcome::FilesMissing(names) => {
                    let names = names.join(", ");
                    let facts: [(&str, &dyn std::fmt::Display); 3] =
                        [("id", id), ("sender", sender), ("names", &names)];
                    self.output.say(Word::OfferedFilesMissing, &facts);
                }
                Outcome::Failed(why) => {
                    self.output.say(Word::OfferedFailed, &[("id", id), ("why", why)]);
                }
                _ => {}
            }
        }
        let (accepted, known, failed) = (report.accepted, report.known, report.failed);
        self.output.say(
            Word::Reconciled,
            &[("log", &report.log), ("accepted", &accepted), ("known", &known), ("failed", &failed)],
        );
        if report.answered > 0 {
            self.output.say(Word::AnsweredAgain, &[("count", &report.answered)]);
        }
        if report.unanswered > 0 {
            self.output.say(Word::AnswersWait, &[("count", &report.unanswered)]);
            self.output.hint(Word::HintReceiveAgain, &[]);
        }
        report.complete && report.failed == 0
    }

    // log

    /// Needs no hub.
    pub fn log_show(&self) -> Done {
        let Some(known) = KnownLogs::load(self.home)? else {
            let facts = vec![("home", self.home.display().to_string())];
            return Err(Failure::said(
                Status::Identity,
                Word::NotEnrolled,
                facts,
                Some(Word::HintEnrolFirst),
            ));
        };
        self.show_logs(&known);
        match known.problem() {
            Some(problem) => Err(axis_client::Error::from(problem).into()),
            None => Ok(()),
        }
    }

    pub async fn log_accept(&self, arguments: arguments::Accept) -> Done {
        CheckpointVerifier::parse(arguments.key.trim()).map_err(|error| {
            let facts = vec![("why", error.to_string())];
            Failure::said(Status::Usage, Word::KeyBad, facts, Some(Word::HintKey))
        })?;
        let client = self.client().await?;
        let known = client.accept_log(&arguments.key).await?;
        self.show_logs(&known);
        self.reconcile_if_due(&client).await;
        Ok(())
    }

    fn show_logs(&self, known: &KnownLogs) {
        let logs: Vec<_> = known.logs().collect();
        for (index, log) in logs.iter().enumerate() {
            let is_current = index + 1 == logs.len();
            let size = log.head().map_or(0, |head| head.size);
            let (origin, key) = (log.origin(), log.verifier_key());
            self.output.result(
                || {
                    let word = if is_current { Word::LogCurrent } else { Word::LogFormer };
                    let mut text =
                        self.output.text(word, &[("log", &origin), ("size", &size), ("key", &key)]);
                    if let Some((previous, held)) = log.previous() {
                        text.push('\n');
                        let facts: [(&str, &dyn std::fmt::Display); 2] =
                            [("log", &previous), ("size", &held)];
                        text.push_str(&self.output.text(Word::LogContinues, &facts));
                    }
                    if log.by_person() {
                        text.push('\n');
                        text.push_str(self.output.word(Word::LogByPerson));
                    }
                    text
                },
                || {
                    json!({
                        "log": origin,
                        "verifier_key": key,
                        "current": is_current,
                        "size": log.head().map(|head| head.size),
                        "checkpoint": log.head().map(|head| head.note),
                        "continues": log.previous().map(|(log, size)| json!({ "log": log, "size": size })),
                        "accepted_by_person": log.by_person(),
                    })
                },
            );
        }
    }
}

fn reconciled_json(report: &Reconciliation) -> Value {
    serde_json::to_value(report).unwrap_or_default()
}
