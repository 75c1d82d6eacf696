//! The arithmetic of an RFC 6962 tree whose complete subtrees are numbered:
//! hash `i` of level `l` covers leaves `i·2^l` to `(i+1)·2^l`. Proofs and
//! roots are found by asking for such hashes. Never stores any.

use std::io;

use axis_proto::tree::{Hash, empty_root, node_hash};

/// Where a complete subtree's hash is asked for: level, index.
pub type Find<'a> = dyn FnMut(u32, u64) -> io::Result<Hash> + 'a;

/// The right edge of a growing tree: all that is needed to add leaves and to
/// know the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// The last complete subtree of each level that is not part of a larger
    /// one; the others are stale.
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The edge of a tree whose hashes can be asked for.
    pub fn at(size: u64, find: &mut Find<'_>) -> io::Result<Self> {
        let levels = u64::BITS - size.leading_zeros();
        let mut peaks = vec![empty_root(); levels as usize];
        for level in (0..levels).filter(|level| size >> level & 1 == 1) {
            peaks[level as usize] = find(level, (size >> level) - 1)?;
        }
        Ok(Self { size, peaks })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf; `complete` is told every subtree that it completes, level
    /// by level, the leaf itself first.
    pub fn push(&mut self, leaf: Hash, mut complete: impl FnMut(u32, Hash)) {
        let (mut level, mut hash) = (0, leaf);
        complete(0, hash);
        while self.size >> level & 1 == 1 {
            hash = node_hash(&self.peaks[level], &hash);
            level += 1;
            complete(level as u32, hash);
        }
        if level == self.peaks.len() {
            self.peaks.push(hash);
        } else {
            self.peaks[level] = hash;
        }
        self.size += 1;
    }

    /// The root over all leaves.
    pub fn root(&self) -> Hash {
        let peaks = (0..).zip(&self.peaks).filter(|(level, _)| self.size >> level & 1 == 1);
        let root = peaks.map(|(_, peak)| *peak).reduce(|right, left| node_hash(&left, &right));
        root.unwrap_or_else(empty_root)
    }
}

/// How many complete subtrees a tree has on a level.
pub fn width(size: u64, level: u32) -> u64 {
    size.checked_shr(level).unwrap_or(0)
}

/// Root over the first `size` leaves.
pub fn root(size: u64, find: &mut Find<'_>) -> io::Result<Hash> {
    if size == 0 { Ok(empty_root()) } else { range_root(0, size, find) }
}

/// Inclusion proof of a leaf in the tree of `size` leaves, its sibling first.
pub fn inclusion(index: u64, size: u64, find: &mut Find<'_>) -> io::Result<Vec<Hash>> {
    let mut path = Vec::with_capacity((u64::BITS - size.leading_zeros()) as usize);
    let mut level = 0;
    while level < 64 && 1 << level < size {
        let sibling = index >> level ^ 1;
        if sibling < width(size, level) {
            path.push(find(level, sibling)?);
        } else if sibling << level < size {
            path.push(range_root(sibling << level, size, find)?);
        }
        level += 1;
    }
    Ok(path)
}

/// Proof that the tree of `old` leaves is a prefix of that of `new` leaves.
pub fn consistency(old: u64, new: u64, find: &mut Find<'_>) -> io::Result<Vec<Hash>> {
    let mut path = Vec::new();
    if old == 0 || old >= new {
        return Ok(path);
    }
    // RFC 9162 section 2.1.4.1, from the root down
    let (mut start, mut end, mut whole) = (0, new, true);
    while old < end {
        let middle = start + (1 << (end - start - 1).ilog2());
        if old <= middle {
            path.push(range_root(middle, end, find)?);
            end = middle;
        } else {
            path.push(range_root(start, middle, find)?);
            start = middle;
            whole = false;
        }
    }
    if !whole {
        path.push(range_root(start, end, find)?);
    }
    path.reverse();
    Ok(path)
}

/// Root over leaves `start` to `end`, at least one; `start` is a multiple of
/// the smallest power of two that is not below their number.
fn range_root(start: u64, end: u64, find: &mut Find<'_>) -> io::Result<Hash> {
    let count = end - start;
    let mut right: Option<Hash> = None;
    let mut at = end;
    for level in 0..64 {
        if count >> level & 1 == 1 {
            at -= 1 << level;
            let left = find(level, at >> level)?;
            right = Some(match right {
                Some(right) => node_hash(&left, &right),
                None => left,
            });
        }
    }
    Ok(right.unwrap_or_else(empty_root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axis_proto::tree::{consistency_of, inclusion_of, leaf_hash, root_of};

    #[test]
    fn agrees_with_the_definition() {
        let leaves: Vec<Hash> = (0..70u8).map(|leaf| leaf_hash(&[leaf])).collect();
        let mut levels: Vec<Vec<Hash>> = Vec::new();
        let mut frontier = Frontier::default();
        for leaf in &leaves {
            assert_eq!(frontier.root(), root_of(&leaves[..frontier.size() as usize]));
            frontier.push(*leaf, |level, hash| match levels.get_mut(level as usize) {
                Some(hashes) => hashes.push(hash),
                None => levels.push(vec![hash]),
            });
        }
        for size in 0..=leaves.len() {
            let mut find = |level: u32, index: u64| {
                assert!(index < width(size as u64, level), "asks only for what is complete");
                Ok(levels[level as usize][index as usize])
            };
            assert_eq!(root(size as u64, &mut find).unwrap(), root_of(&leaves[..size]));
            for other in 0..size {
                let path = inclusion(other as u64, size as u64, &mut find).unwrap();
                assert_eq!(path, inclusion_of(&leaves[..size], other), "{other} of {size}");
                let path = consistency(other as u64, size as u64, &mut find).unwrap();
                assert_eq!(path, consistency_of(&leaves[..size], other), "{other} to {size}");
            }
            assert!(consistency(size as u64, size as u64, &mut find).unwrap().is_empty());
        }
    }

    #[test]
    fn the_rfc_vectors() {
        let entries = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let mut levels: Vec<Vec<Hash>> = vec![Vec::new(); 4];
        let mut frontier = Frontier::default();
        for entry in entries {
            let leaf = leaf_hash(&hex::decode(entry).unwrap());
            frontier.push(leaf, |level, hash| levels[level as usize].push(hash));
        }
        let root = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328";
        assert_eq!(hex::encode(frontier.root()), root);
        let mut find = |level: u32, index: u64| Ok(levels[level as usize][index as usize]);
        let hexes = |path: Vec<Hash>| path.iter().map(hex::encode).collect::<Vec<_>>();
        assert_eq!(
            hexes(inclusion(5, 8, &mut find).unwrap()),
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
        assert_eq!(
            hexes(consistency(6, 8, &mut find).unwrap()),
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
        assert_eq!(
            hexes(consistency(2, 5, &mut find).unwrap()),
            [
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ]
        );
    }
}
