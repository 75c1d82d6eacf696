//! The log's Merkle tree (RFC 6962, RFC 9162): hashes, roots and proofs over
//! lists that fit in memory, and the verification of any. Never stores one.

use crate::sha256;

/// A SHA-256 as the tree uses it.
pub type Hash = [u8; 32];

/// What separates a record's entry from any other use of SHA-256.
const ENTRY_LABEL: &[u8] = b"axis record v1";

/// Hash of a leaf that holds `entry`.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    sha256::of(&[&[0], entry])
}

/// Hash of an inner node.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256::of(&[&[1], left, right])
}

/// Root of the tree without leaves.
pub fn empty_root() -> Hash {
    sha256::of(&[])
}

/// The entry of a record: a commitment that shows nothing of it.
pub fn entry_hash(salt: &[u8; 16], record: &[u8]) -> Hash {
    sha256::of(&[ENTRY_LABEL, salt, record])
}

/// The leaf of a record: the hash of its entry.
pub fn record_leaf(salt: &[u8; 16], record: &[u8]) -> Hash {
    leaf_hash(&entry_hash(salt, record))
}

/// Root over leaf hashes.
pub fn root_of(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&root_of(left), &root_of(right))
        }
    }
}

/// Inclusion proof of one of the leaf hashes, its sibling first. Empty if
/// `index` is none of them.
pub fn inclusion_of(leaves: &[Hash], index: usize) -> Vec<Hash> {
    let (mut leaves, mut index) = (leaves, index);
    let mut path = Vec::new();
    if index >= leaves.len() {
        return path;
    }
    while leaves.len() > 1 {
        let (left, right) = leaves.split_at(split(leaves.len()));
        if index < left.len() {
            path.push(root_of(right));
            leaves = left;
        } else {
            path.push(root_of(left));
            index -= left.len();
            leaves = right;
        }
    }
    path.reverse();
    path
}

/// Proof that the first `old` leaf hashes are a prefix of all. Empty if there
/// is nothing to prove.
pub fn consistency_of(leaves: &[Hash], old: usize) -> Vec<Hash> {
    let (mut leaves, mut old) = (leaves, old);
    let mut path = Vec::new();
    if old == 0 || old >= leaves.len() {
        return path;
    }
    let mut whole = true; // the old tree is what the verifier starts from
    while old < leaves.len() {
        let (left, right) = leaves.split_at(split(leaves.len()));
        if old <= left.len() {
            path.push(root_of(right));
            leaves = left;
        } else {
            path.push(root_of(left));
            old -= left.len();
            leaves = right;
            whole = false;
        }
    }
    if !whole {
        path.push(root_of(leaves));
    }
    path.reverse();
    path
}

/// The largest power of two below `size`, which is at least 2.
fn split(size: usize) -> usize {
    1 << (size - 1).ilog2()
}

/// Whether `leaf` is at `index` in the tree of `size` leaves with this root
/// (RFC 9162 section 2.1.3.2).
pub fn verify_inclusion(index: u64, size: u64, leaf: &Hash, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut first, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if first & 1 == 1 || first == last {
            hash = node_hash(sibling, &hash);
            while first & 1 == 0 && first != 0 {
                first >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        first >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether the tree of `old` leaves is a prefix of that of `new` leaves
/// (RFC 9162 section 2.1.4.2). The empty tree is a prefix of all.
pub fn verify_consistency(old: u64, new: u64, old_root: &Hash, new_root: &Hash, path: &[Hash]) -> bool {
    if old > new {
        return false;
    }
    if old == new {
        return path.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return path.is_empty() && *old_root == empty_root();
    }
    // a whole subtree proves itself: its root is the first hash
    let (start, path) = if old.is_power_of_two() {
        (*old_root, path)
    } else {
        match path.split_first() {
            Some((start, rest)) => (*start, rest),
            None => return false,
        }
    };
    let (mut first, mut last) = (old - 1, new - 1);
    while first & 1 == 1 {
        first >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut new_hash) = (start, start);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if first & 1 == 1 || first == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while first & 1 == 0 && first != 0 {
                first >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        first >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn hashes(hex: &[&str]) -> Vec<Hash> {
        hex.iter().map(|text| hex::decode(text).unwrap().try_into().unwrap()).collect()
    }

    /// The eight leaves that every RFC 6962 implementation is tested with.
    pub(crate) fn rfc_leaves() -> Vec<Hash> {
        let leaves = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        leaves.iter().map(|leaf| leaf_hash(&hex::decode(leaf).unwrap())).collect()
    }

    #[test]
    fn rfc_roots() {
        let roots = hashes(&[
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ]);
        for (index, root) in roots.iter().enumerate() {
            assert_eq!(root_of(&rfc_leaves()[..=index]), *root);
        }
        assert_eq!(root_of(&[]), empty_root());
    }

    #[test]
    fn rfc_proofs() {
        let first = hashes(&[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ]);
        assert_eq!(inclusion_of(&rfc_leaves(), 0), first);
        assert_eq!(consistency_of(&rfc_leaves(), 1), first);
        let sixth = hashes(&[
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]);
        assert_eq!(inclusion_of(&rfc_leaves(), 5), sixth);
        let six_to_eight = hashes(&[
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]);
        assert_eq!(consistency_of(&rfc_leaves(), 6), six_to_eight);
        let two_to_five = hashes(&[
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ]);
        assert_eq!(consistency_of(&rfc_leaves()[..5], 2), two_to_five);
    }

    #[test]
    fn every_proof_of_small_trees_verifies_and_no_changed_one() {
        let leaves: Vec<Hash> = (0..70u8).map(|leaf| leaf_hash(&[leaf])).collect();
        for size in 0..=leaves.len() {
            let (leaves, root) = (&leaves[..size], root_of(&leaves[..size]));
            for index in 0..size {
                let (at, of, leaf) = (index as u64, size as u64, &leaves[index]);
                let path = inclusion_of(leaves, index);
                assert!(verify_inclusion(at, of, leaf, &path, &root), "{index} in {size}");
                assert!(!verify_inclusion(at, of, &[9; 32], &path, &root));
                assert!(!verify_inclusion(at, of, leaf, &path, &[9; 32]));
                assert!(!verify_inclusion(of, of, leaf, &path, &root));
                assert!(size == 1 || !verify_inclusion(at ^ 1, of, leaf, &path, &root));
                assert!(!verify_inclusion(at, of, leaf, &[path, vec![[0; 32]]].concat(), &root));
            }
            for old in 0..=size {
                let (from, to, old_root) = (old as u64, size as u64, root_of(&leaves[..old]));
                let path = consistency_of(leaves, old);
                assert!(verify_consistency(from, to, &old_root, &root, &path), "{old} to {size}");
                assert!(!verify_consistency(from, to, &[9; 32], &root, &path));
                assert!(from == 0 || !verify_consistency(from, to, &old_root, &[9; 32], &path));
                assert!(!verify_consistency(from, to, &old_root, &root, &[path, vec![[0; 32]]].concat()));
            }
        }
        assert!(!verify_consistency(2, 1, &[0; 32], &[0; 32], &[]));
        assert!(!verify_consistency(3, 5, &[0; 32], &[0; 32], &[]));
    }

    #[test]
    fn a_record_is_hidden_by_its_salt() {
        let by_hand = [b"axis record v1".as_slice(), &[1; 16], b"record"].concat();
        assert_eq!(entry_hash(&[1; 16], b"record"), sha256::of(&[&by_hand]));
        assert_ne!(record_leaf(&[1; 16], b"record"), record_leaf(&[2; 16], b"record"));
    }
}
