//! Succession: the operator's signed word that a log, opened when a backup was
//! restored, goes on where another one was last known. A C2SP signed note.
//! Never decides whether to believe a note that the previous log did not sign.
//!
//! ```text
//! axis.succession/v1
//! <origin of the previous log>
//! <its size, decimal>
//! <its root, base64>
//! <origin of the new log>
//! <verifier key of the new log>
//!
//! — <origin of the previous log> <signature, if its key is still there>
//! — <origin of the new log> <signature>
//! ```

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::{
    id::decimal,
    note::{CheckpointSigner, CheckpointVerifier, NoteError, is_name, split},
    tree::Hash,
};

/// The note's first line.
const FIRST_LINE: &str = "axis.succession/v1";

/// A log goes on where another one was last known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Succession {
    /// Origin of the previous log.
    pub previous_origin: String,
    /// Its records that the new log holds too; the new log's first record has
    /// this sequence.
    pub previous_size: u64,
    /// Its root at that size, which is also the new log's.
    pub previous_root: Hash,
    /// Verifies the new log's checkpoints, and names its origin.
    pub log: CheckpointVerifier,
}

/// Why a succession note is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuccessionError {
    /// The text is no signed note.
    #[error("not a signed note")]
    Note,
    /// The note's text is no succession.
    #[error("not a succession of logs")]
    Succession,
    /// It continues another log than the one that is known here.
    #[error("it continues another log")]
    OtherOrigin,
    /// The new log did not sign it.
    #[error("the new log's signature is missing")]
    Unsigned,
    /// The log that it continues did not sign it: its key was lost, or the
    /// note is a stranger's.
    #[error("the signature of the log that it continues is missing")]
    UnsignedByPrevious,
    /// A signature is wrong.
    #[error("a signature does not verify")]
    Signature,
}

impl SuccessionError {
    /// The name that the test vectors use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "NOTE",
            Self::Succession => "SUCCESSION",
            Self::OtherOrigin => "OTHER_ORIGIN",
            Self::Unsigned => "UNSIGNED",
            Self::UnsignedByPrevious => "UNSIGNED_BY_PREVIOUS",
            Self::Signature => "SIGNATURE",
        }
    }
}

impl Succession {
    /// The signed note, by the new log and, if its key is still there, by the
    /// previous one. `None` if the keys are not of these logs, or the text
    /// cannot be one.
    pub fn sign(&self, new: &CheckpointSigner, previous: Option<&CheckpointSigner>) -> Option<String> {
        let text = self.text();
        let fits = parse(&text).is_ok_and(|read| read == *self)
            && new.verifier() == self.log
            && previous.is_none_or(|previous| previous.origin() == self.previous_origin);
        let previous = previous.map(|previous| previous.signature_line(&text)).unwrap_or_default();
        fits.then(|| format!("{text}\n{previous}{}", new.signature_line(&text)))
    }

    fn text(&self) -> String {
        format!(
            "{FIRST_LINE}\n{}\n{}\n{}\n{}\n{}\n",
            self.previous_origin,
            self.previous_size,
            BASE64.encode(self.previous_root),
            self.log.origin(),
            self.log.verifier_key()
        )
    }
}

/// Reads a note that the new log signed. That alone says nothing to somebody
/// who knows the previous log: see [`verify`].
pub fn read(note: &str) -> Result<Succession, SuccessionError> {
    let (text, _) = split(note).map_err(|_| SuccessionError::Note)?;
    let succession = parse(text)?;
    signed(note, &succession.log, SuccessionError::Unsigned)?;
    Ok(succession)
}

/// Verifies a note that both logs signed, for somebody who knows the previous
/// one.
pub fn verify(note: &str, previous: &CheckpointVerifier) -> Result<Succession, SuccessionError> {
    let succession = read(note)?;
    if succession.previous_origin != previous.origin() {
        return Err(SuccessionError::OtherOrigin);
    }
    signed(note, previous, SuccessionError::UnsignedByPrevious)?;
    Ok(succession)
}

fn signed(note: &str, log: &CheckpointVerifier, unsigned: SuccessionError) -> Result<(), SuccessionError> {
    match log.verify_note(note) {
        Ok(_) => Ok(()),
        Err(NoteError::Unsigned) => Err(unsigned),
        Err(NoteError::Signature) => Err(SuccessionError::Signature),
        Err(_) => Err(SuccessionError::Note),
    }
}

fn parse(text: &str) -> Result<Succession, SuccessionError> {
    let wrong = SuccessionError::Succession;
    let lines: Vec<_> = text.strip_suffix('\n').ok_or(wrong)?.split('\n').collect();
    let [FIRST_LINE, previous_origin, size, root, origin, verifier_key] = lines[..] else {
        return Err(wrong);
    };
    let previous_size = decimal(size).filter(|size| *size > 0).ok_or(wrong)?;
    let root = BASE64.decode(root).map_err(|_| wrong)?;
    let log = CheckpointVerifier::parse(verifier_key).map_err(|_| wrong)?;
    if !is_name(previous_origin) || log.origin() != origin || origin == previous_origin {
        return Err(wrong);
    }
    Ok(Succession {
        previous_origin: previous_origin.to_owned(),
        previous_size,
        previous_root: root.try_into().map_err(|_| wrong)?,
        log,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SigningKey;

    fn signer(origin: &str, seed: u8) -> CheckpointSigner {
        CheckpointSigner::new(origin, SigningKey::from_seed(&[seed; 32])).unwrap()
    }

    fn succession(new: &CheckpointSigner) -> Succession {
        Succession {
            previous_origin: "hub/log/1".into(),
            previous_size: 7,
            previous_root: [3; 32],
            log: new.verifier(),
        }
    }

    #[test]
    fn both_logs_sign() {
        let (old, new) = (signer("hub/log/1", 1), signer("hub/log/2", 1));
        let made = succession(&new);
        let note = made.sign(&new, Some(&old)).unwrap();
        assert_eq!(verify(&note, &old.verifier()), Ok(made.clone()));
        assert_eq!(read(&note), Ok(made.clone()));
        assert_eq!(verify(&note, &new.verifier()), Err(SuccessionError::OtherOrigin));
        assert_eq!(
            verify(&note, &signer("hub/log/1", 9).verifier()),
            Err(SuccessionError::UnsignedByPrevious)
        );
        assert!(old.verifier().verify(&note).is_err(), "never taken for a checkpoint");
        let alone = made.sign(&new, None).unwrap();
        assert_eq!(read(&alone), Ok(made.clone()));
        assert_eq!(verify(&alone, &old.verifier()), Err(SuccessionError::UnsignedByPrevious));
        assert_eq!(made.sign(&old, None), None, "the new log's key is asked for");
        assert_eq!(made.sign(&new, Some(&new)), None, "a log does not continue itself");
        let unsigned_by_new = note.lines().take(8).fold(String::new(), |text, line| text + line + "\n");
        assert_eq!(verify(&unsigned_by_new, &old.verifier()), Err(SuccessionError::Unsigned));
    }

    #[test]
    fn what_is_no_succession() {
        let (old, new) = (signer("hub/log/1", 1), signer("hub/log/2", 2));
        let note = succession(&new).sign(&new, Some(&old)).unwrap();
        let check = |note: &str, error| assert_eq!(verify(note, &old.verifier()), Err(error), "{note}");
        check("", SuccessionError::Note);
        check(&note.replacen("/v1", "/v2", 1), SuccessionError::Succession);
        check(&note.replacen("\n7\n", "\n07\n", 1), SuccessionError::Succession);
        check(&note.replacen("\n7\n", "\n0\n", 1), SuccessionError::Succession);
        check(&note.replacen("\n7\n", "\n8\n", 1), SuccessionError::Signature);
        check(&note.replacen("\n7\n", "\n7\n\n", 1), SuccessionError::Succession);
        check(&old.sign(7, &[3; 32]), SuccessionError::Succession);
        check(&note.replacen("\nhub/log/2\n", "\nhub/log/3\n", 1), SuccessionError::Succession);
    }
}
