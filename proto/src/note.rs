//! Checkpoints: signed heads of the log, as C2SP signed notes. Never decides
//! which size may be signed.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::{
    id::decimal,
    key::{PublicKey, SigningKey},
    tree,
};

/// Most bytes of a note that are looked at: 100 cosignatures and more.
const NOTE_BYTES_MAX: usize = 64 * 1024;
/// Marks Ed25519 in a verifier key and in a key id.
const ED25519: u8 = 0x01;

/// The head of a log: so many leaves, and this root over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name, unique for ever.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root over them.
    pub root: [u8; 32],
}

/// Why a note, a checkpoint or a verifier key is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The origin cannot be a key's name.
    #[error("an origin is not empty and has neither spaces nor `+`")]
    Origin,
    /// The verifier key cannot be read, or its id does not fit it.
    #[error("not a verifier key: `<name>+<8 hex>+<base64>` of an Ed25519 key")]
    VerifierKey,
    /// The text is no signed note.
    #[error("not a signed note")]
    Note,
    /// The note's text is no checkpoint.
    #[error("not a checkpoint")]
    Checkpoint,
    /// The log did not sign it.
    #[error("the log's signature is missing")]
    Unsigned,
    /// The log's signature is wrong.
    #[error("the log's signature does not verify")]
    Signature,
    /// The checkpoint is another log's.
    #[error("the checkpoint is another log's")]
    OtherOrigin,
}

/// Signs the checkpoints of one log.
#[derive(Debug, Clone)]
pub struct CheckpointSigner {
    origin: String,
    key: SigningKey,
}

impl CheckpointSigner {
    /// A signer whose key has the log's origin as its name.
    pub fn new(origin: impl Into<String>, key: SigningKey) -> Result<Self, NoteError> {
        let origin = origin.into();
        if is_name(&origin) { Ok(Self { origin, key }) } else { Err(NoteError::Origin) }
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The signed note of this head. The caller answers for it: once a size
    /// is signed, every later one must extend it.
    pub fn sign(&self, size: u64, root: &[u8; 32]) -> String {
        let text = format!("{}\n{size}\n{}\n", self.origin, BASE64.encode(root));
        let signature = self.signature_line(&text);
        format!("{text}\n{signature}")
    }

    /// The line under a note of this text.
    pub(crate) fn signature_line(&self, text: &str) -> String {
        let mut signature = key_id(&self.origin, &self.key.public()).to_vec();
        signature.extend_from_slice(&self.key.sign(text.as_bytes()));
        format!("— {} {}\n", self.origin, BASE64.encode(signature))
    }

    /// What verifies the notes: `<name>+<8 hex>+<base64>`.
    pub fn verifier_key(&self) -> String {
        self.verifier().verifier_key()
    }

    /// The verifier of what this signs.
    pub fn verifier(&self) -> CheckpointVerifier {
        CheckpointVerifier { origin: self.origin.clone(), key: self.key.public() }
    }
}

/// Verifies the checkpoints of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointVerifier {
    origin: String,
    key: PublicKey,
}

impl CheckpointVerifier {
    /// Reads a verifier key.
    pub fn parse(verifier_key: &str) -> Result<Self, NoteError> {
        // base64 has `+` too: what follows the second one is all of it
        let mut parts = verifier_key.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::VerifierKey);
        };
        let key = BASE64.decode(key).map_err(|_| NoteError::VerifierKey)?;
        let key = match key.split_first() {
            Some((&ED25519, key)) => PublicKey::from_slice(key).ok_or(NoteError::VerifierKey)?,
            _ => return Err(NoteError::VerifierKey),
        };
        if !is_name(name) || id != hex::encode(key_id(name, &key)) || !key.is_valid() {
            return Err(NoteError::VerifierKey);
        }
        Ok(Self { origin: name.to_owned(), key })
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether it is this key that signs.
    pub fn is_key_of(&self, key: &PublicKey) -> bool {
        self.key == *key
    }

    /// The verifier key's text.
    pub fn verifier_key(&self) -> String {
        let id = hex::encode(key_id(&self.origin, &self.key));
        let key = [&[ED25519], self.key.as_bytes().as_slice()].concat();
        format!("{}+{id}+{}", self.origin, BASE64.encode(key))
    }

    /// Reads a checkpoint that this log signed. Other signatures, such as
    /// witnesses', are passed over.
    pub fn verify(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let checkpoint = parse_checkpoint(self.verify_note(note)?)?;
        if checkpoint.origin == self.origin { Ok(checkpoint) } else { Err(NoteError::OtherOrigin) }
    }

    /// The text of a note that this key signed.
    pub(crate) fn verify_note<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        let (text, signatures) = split(note)?;
        let own = key_id(&self.origin, &self.key);
        let mut signed = false;
        for line in signatures.split('\n') {
            let line = line.strip_prefix("— ").ok_or(NoteError::Note)?;
            let (name, signature) = line.split_once(' ').ok_or(NoteError::Note)?;
            let signature = BASE64.decode(signature).map_err(|_| NoteError::Note)?;
            let (id, signature) = signature.split_at_checked(4).ok_or(NoteError::Note)?;
            if !is_name(name) || signature.is_empty() {
                return Err(NoteError::Note);
            }
            if name == self.origin && id == own {
                if !self.key.verify_strict(text.as_bytes(), signature) {
                    return Err(NoteError::Signature);
                }
                signed = true;
            }
        }
        if signed { Ok(text) } else { Err(NoteError::Unsigned) }
    }
}

/// A note's text with its last line end, and its signatures without theirs.
pub(crate) fn split(note: &str) -> Result<(&str, &str), NoteError> {
    let strange = |character: char| character < ' ' && character != '\n';
    if note.len() > NOTE_BYTES_MAX || note.contains(strange) {
        return Err(NoteError::Note);
    }
    let end = note.rfind("\n\n").ok_or(NoteError::Note)?;
    let (text, signatures) = (&note[..=end], &note[end + 2..]);
    Ok((text, signatures.strip_suffix('\n').ok_or(NoteError::Note)?))
}

/// Reads a checkpoint's text. Extension lines are allowed and not used.
fn parse_checkpoint(text: &str) -> Result<Checkpoint, NoteError> {
    let mut lines = text.strip_suffix('\n').ok_or(NoteError::Checkpoint)?.split('\n');
    let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
        return Err(NoteError::Checkpoint);
    };
    let size = decimal(size).ok_or(NoteError::Checkpoint)?;
    let root = BASE64.decode(root).map_err(|_| NoteError::Checkpoint)?;
    let root = root.try_into().map_err(|_| NoteError::Checkpoint)?;
    if origin.is_empty() || lines.any(str::is_empty) || (size == 0 && root != tree::empty_root()) {
        return Err(NoteError::Checkpoint);
    }
    Ok(Checkpoint { origin: origin.to_owned(), size, root })
}

/// Whether a text can name a key.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(|character: char| character.is_whitespace() || character == '+')
        && !name.contains(char::is_control)
}

/// The four bytes that point to a key.
fn key_id(name: &str, key: &PublicKey) -> [u8; 4] {
    let digest = crate::sha256::of(&[name.as_bytes(), &[b'\n', ED25519], key.as_bytes()]);
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: &str = "hub.example/log1
8
XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=

— hub.example/log1 DzYCGFpW2+KWvZRrUviC4x9wcWzIBWx91LYUkNizsf43NHZxFaXYhtmxi9PuXAHOOyQn03hNrQZPgm9/5YldloYh7wI=
— witness.example/w1 3xwKNQAAAABlU/EAIL71ezIX3Q0bcRStDSefmyDshzpttqx+bRYEbbrYNrS9zJZtMol8Cs998uvrKhgTFUlbdaJeWTuPgg3ntCmbDg==
";

    fn signer() -> CheckpointSigner {
        CheckpointSigner::new("hub.example/log1", SigningKey::from_seed(&[1; 32])).unwrap()
    }

    #[test]
    fn c2sp_note() {
        let key = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
        let verifier = CheckpointVerifier::parse(key).unwrap();
        assert_eq!(verifier.verifier_key(), key);
        let note = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2O\
                    NncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
        assert_eq!(verifier.verify_note(note), Ok("This is an example message.\n"));
        assert_eq!(verifier.verify(note), Err(NoteError::Checkpoint));
    }

    #[test]
    fn the_reference_checkpoint() {
        let signer = signer();
        let key = "hub.example/log1+0f360218+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";
        assert_eq!(signer.verifier_key(), key);
        let checkpoint = CheckpointVerifier::parse(key).unwrap().verify(NOTE).unwrap();
        assert_eq!(checkpoint.size, 8);
        assert_eq!(checkpoint.root, tree::root_of(&tree::tests::rfc_leaves()));
        let ours: String = NOTE.split_inclusive('\n').take(5).collect();
        assert_eq!(signer.sign(8, &checkpoint.root), ours);
    }

    #[test]
    fn what_is_not_a_checkpoint_of_this_log() {
        let check = |note: &str, error| assert_eq!(signer().verifier().verify(note), Err(error), "{note}");
        check("", NoteError::Note);
        check("text\n", NoteError::Note);
        check(&NOTE.replacen("\n\n", "\n", 1), NoteError::Note);
        check(NOTE.trim_end(), NoteError::Note);
        check(&NOTE.replace('—', "-"), NoteError::Note);
        check(&NOTE.replacen("log1", "log1\r", 1), NoteError::Note);
        check(&NOTE.replacen('8', "9", 1), NoteError::Signature);
        check(&NOTE.replace("— hub.example/log1 DzY", "— hub.example/log1 EzY"), NoteError::Unsigned);
        check(&NOTE.replace("— hub.example/log1", "— hub.example/log2"), NoteError::Unsigned);
        check(&"x".repeat(NOTE_BYTES_MAX + 1), NoteError::Note);
        check(&signer().sign(0, &[0; 32]), NoteError::Checkpoint);
        assert!(signer().verifier().verify(&signer().sign(0, &tree::empty_root())).is_ok());
    }

    #[test]
    fn keys_and_names() {
        for name in ["", "a b", "a+b", "a\u{a0}b", "a\nb"] {
            assert!(CheckpointSigner::new(name, SigningKey::generate()).is_err(), "{name:?}");
        }
        let key = signer().verifier_key();
        for key in [
            "",
            "a",
            &key[1..],
            &key[..key.len() - 4],
            &key.replace("0f36", "0F36"),
            &key.replace("+AY", "+Ay"),
        ] {
            assert_eq!(CheckpointVerifier::parse(key), Err(NoteError::VerifierKey), "{key}");
        }
    }
}
