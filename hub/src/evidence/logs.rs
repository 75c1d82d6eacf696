//! Which keys verify the checkpoints of a journal that was restored: each log
//! that it holds has its own origin and key. Never takes a key from a record
//! that does not fit the one before and the one after.

use axis_proto::{
    note::{CheckpointSigner, CheckpointVerifier},
    succession,
};

use crate::{identity::Identity, journal::Log};

/// The signer of the last log, whose key the hub must have.
///
/// # Errors
/// If the hub's key is another one.
pub fn signer(logs: &[Log], identity: &Identity) -> Result<CheckpointSigner, String> {
    let last = &logs.last().ok_or("the journal is empty; `axis-hub init` makes a hub")?.opened;
    let key = identity.checkpoint_key.clone();
    let signer = CheckpointSigner::new(&last.origin, key).map_err(|error| error.to_string())?;
    if !last.log_verifier_key.is_empty() && last.log_verifier_key != signer.verifier_key() {
        return Err("keys/checkpoint.pem is not this log's key".to_owned());
    }
    Ok(signer)
}

/// The verifiers of all logs, the oldest first; `last` is the last one's,
/// which somebody knows.
///
/// # Errors
/// If a log does not fit the one before it.
pub fn verifiers(logs: &[Log], last: &CheckpointVerifier) -> Result<Vec<CheckpointVerifier>, String> {
    let mut verifiers = vec![last.clone()];
    let mut newer = last.clone();
    for (at, log) in logs.iter().enumerate().rev() {
        let wrong = |what: &str| Err(format!("record {}: {what}", log.first_sequence));
        let opened = &log.opened;
        if opened.origin != newer.origin()
            || (!opened.log_verifier_key.is_empty() && opened.log_verifier_key != newer.verifier_key())
        {
            return wrong("a log opens under another name or key than is known of it");
        }
        if at == 0 {
            continue;
        }
        let Ok(previous) = CheckpointVerifier::parse(&opened.previous_log_verifier_key) else {
            return wrong("a log opens without the key of the one that it continues");
        };
        let note = log.succession.as_deref().and_then(|note| succession::read(note).ok());
        let noted = note.is_some_and(|note| {
            note.previous_origin == opened.previous_origin
                && previous.origin() == opened.previous_origin
                && note.previous_size == opened.previous_size
                && note.previous_root[..] == opened.previous_root
                && note.log == newer
        });
        if !noted {
            return wrong("a log opens without the signed word that it continues the one before it");
        }
        verifiers.push(previous.clone());
        newer = previous;
    }
    verifiers.reverse();
    Ok(verifiers)
}
