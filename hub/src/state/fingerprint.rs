//! What a store on disk says about itself, so that opening it can find any
//! damage. Knows nothing of how it is stored.

use axis_proto::id::Hasher;
use twox_hash::{XxHash3_64, XxHash3_128};

/// The layout of our own files and of the marker; another one is rebuilt.
pub const FORMAT_VERSION: u32 = 3;

/// A hash of a set of pairs, whatever their order: the sum of their hashes.
/// It finds damage; it is not meant to withstand somebody who forges pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fingerprint {
    lanes: [u64; 2],
    /// Number of pairs.
    pub(super) keys: u64,
}

impl Fingerprint {
    /// Adds a pair that was not there.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        for (lane, part) in self.lanes.iter_mut().zip(lanes(key, value)) {
            *lane = lane.wrapping_add(part);
        }
        self.keys = self.keys.wrapping_add(1);
    }

    /// Adds another set, which has no pair in common.
    pub(super) fn join(&mut self, other: &Self) {
        for (lane, part) in self.lanes.iter_mut().zip(other.lanes) {
            *lane = lane.wrapping_add(part);
        }
        self.keys = self.keys.wrapping_add(other.keys);
    }

    /// Removes a pair that was there.
    pub(super) fn remove(&mut self, key: &[u8], value: &[u8]) {
        for (lane, part) in self.lanes.iter_mut().zip(lanes(key, value)) {
            *lane = lane.wrapping_sub(part);
        }
        self.keys = self.keys.wrapping_sub(1);
    }

    /// A key's value was this and is that.
    pub(super) fn change(&mut self, key: &[u8], was: Option<&[u8]>, is: Option<&[u8]>) {
        if was == is {
            return;
        }
        if let Some(was) = was {
            self.remove(key, was);
        }
        if let Some(is) = is {
            self.add(key, is);
        }
    }
}

/// A hash of the value under that of the key, so that no other pair is likely
/// to give the same.
fn lanes(key: &[u8], value: &[u8]) -> [u64; 2] {
    let hash = XxHash3_128::oneshot_with_seed(XxHash3_64::oneshot(key), value);
    [hash as u64, (hash >> 64) as u64]
}

/// Whose state it is and in which layout: SHA-256 of the log's origin, the
/// layout of the tables and our own format. A state with another owner is of
/// no use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner(pub(super) [u8; 32]);

impl Owner {
    pub(super) fn new(origin: &str, layout_version: u32) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(&FORMAT_VERSION.to_le_bytes());
        hasher.update(&layout_version.to_le_bytes());
        hasher.update(origin.as_bytes());
        Self(*hasher.digest().as_bytes())
    }
}

/// The store's word about itself, written after everything that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) owner: Owner,
    /// How many records the store contains.
    pub(super) applied: u64,
    pub(super) fingerprint: Fingerprint,
}

/// Bytes of an encoded marker.
pub(super) const MARKER_BYTES: usize = CHECKED_BYTES + 4;
/// Those that its checksum covers.
const CHECKED_BYTES: usize = 32 + 8 + 8 + 16;

impl Marker {
    pub(super) fn encode(&self) -> [u8; MARKER_BYTES] {
        let mut bytes = [0; MARKER_BYTES];
        bytes[..32].copy_from_slice(&self.owner.0);
        bytes[32..40].copy_from_slice(&self.applied.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.fingerprint.keys.to_le_bytes());
        for (place, lane) in bytes[48..CHECKED_BYTES].chunks_exact_mut(8).zip(self.fingerprint.lanes) {
            place.copy_from_slice(&lane.to_le_bytes());
        }
        let check = crc32fast::hash(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// `None` if the bytes are not a marker, whole and undamaged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; MARKER_BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
        if crc32fast::hash(&bytes[..CHECKED_BYTES]).to_le_bytes() != bytes[CHECKED_BYTES..] {
            return None;
        }
        Some(Self {
            owner: Owner(bytes[..32].try_into().ok()?),
            applied: word(32),
            fingerprint: Fingerprint { keys: word(40), lanes: [word(48), word(56)] },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_does_not_depend_on_order_and_tells_pairs_apart() {
        let (mut one, mut other) = (Fingerprint::default(), Fingerprint::default());
        one.add(b"a", b"1");
        one.add(b"b", b"2");
        other.add(b"b", b"2");
        let mut more = Fingerprint::default();
        more.add(b"x", b"y");
        more.add(b"a", b"1");
        other.join(&more);
        assert_ne!(one, other);
        other.remove(b"x", b"y");
        assert_eq!(one, other);
        let (mut left, mut right) = (Fingerprint::default(), Fingerprint::default());
        left.add(b"ab", b"c");
        right.add(b"a", b"bc");
        assert_ne!(left, right);
    }

    #[test]
    fn a_damaged_marker_is_none() {
        let mut fingerprint = Fingerprint::default();
        fingerprint.add(b"a", b"1");
        let marker = Marker { owner: Owner::new("hub", 1), applied: 77, fingerprint };
        let bytes = marker.encode();
        assert_eq!(Marker::decode(&bytes), Some(marker));
        for at in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert_eq!(Marker::decode(&damaged), None, "byte {at}");
        }
        assert_eq!(Marker::decode(&bytes[1..]), None);
        assert_ne!(Owner::new("hub", 1), Owner::new("hub", 2));
    }
}
