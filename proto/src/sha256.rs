//! SHA-256: aws-lc's, which TLS brings along anyway, and more than twice as
//! quick as others where processors have no instructions for it.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};

use crate::id::Digest;

/// Hashes bytes as they come.
#[derive(Clone)]
pub struct Hasher(Context);

impl Hasher {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that came.
    pub fn digest(self) -> Digest {
        Digest::new(taken(self.0.finish()))
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

fn taken(digest: aws_lc_rs::digest::Digest) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

/// Parts up to so many bytes together are joined before they are hashed.
const JOINED_BYTES: usize = 1024;

/// The hash of these bytes, one part after the other.
pub(crate) fn of(parts: &[&[u8]]) -> [u8; 32] {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    taken(match parts {
        [whole] => digest(&SHA256, whole),
        _ if bytes <= JOINED_BYTES => {
            let (mut joined, mut at) = ([0; JOINED_BYTES], 0);
            for part in parts {
                joined[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            digest(&SHA256, &joined[..bytes])
        }
        _ => {
            let mut context = Context::new(&SHA256);
            parts.iter().for_each(|part| context.update(part));
            context.finish()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_hashed_as_one() {
        // FIPS 180-2, B.1
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex::encode(of(&[b"abc"])), abc);
        assert_eq!(of(&[]), of(&[b""]));
        let bytes: Vec<u8> = (0..JOINED_BYTES + 9).map(|place| place as u8).collect();
        for len in [0, 3, 64, JOINED_BYTES - 1, JOINED_BYTES, JOINED_BYTES + 1, bytes.len()] {
            let (one, other) = bytes[..len].split_at(len / 3);
            assert_eq!(of(&[one, other]), of(&[&bytes[..len]]), "{len} bytes");
            let mut hasher = Hasher::new();
            hasher.update(one);
            let before = hasher.clone();
            hasher.update(other);
            assert_eq!(hasher.digest(), Digest::of(&bytes[..len]), "{len} bytes, as they come");
            assert_eq!(before.digest(), Digest::of(one), "a copy stays where it was");
        }
    }
}
