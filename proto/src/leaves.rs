//! Lists of salted leaves (`axis.record.v1.LeafList`): opened one by one, so
//! that a recipient proves its own place and learns nobody else's.

use bytes::Bytes;

use crate::{
    record::v1::{LeafList, LeafOpening},
    sha256,
    tree::{self, Hash},
};

/// Salt of leaf `i`, from the list's secret.
pub fn salt_of(secret: &[u8], i: u32) -> [u8; 16] {
    let digest = sha256::of(&[b"axis leaf salt v1", secret, &i.to_be_bytes()]);
    let mut salt = [0; 16];
    salt.copy_from_slice(&digest[..16]);
    salt
}

/// Hash of a leaf with its salt.
pub fn hash_of(salt: &[u8; 16], leaf: &[u8]) -> Hash {
    sha256::of(&[&[0], salt, leaf])
}

/// Root over the list.
pub fn root(list: &LeafList) -> Hash {
    tree::root_of(&hashes(list))
}

/// One leaf with what is needed to find the root; `None` beyond the list.
pub fn open(list: &LeafList, position: u32) -> Option<LeafOpening> {
    let place = usize::try_from(position).ok()?;
    let leaf = list.leaves.get(place)?.clone();
    let path = tree::inclusion_of(&hashes(list), place);
    Some(LeafOpening {
        leaf,
        salt: Bytes::copy_from_slice(&salt_of(&list.secret, position)),
        position,
        size: u32::try_from(list.leaves.len()).ok()?,
        path: path.iter().map(|hash| Bytes::copy_from_slice(hash)).collect(),
    })
}

/// Whether an opening leads to this root.
pub fn verify_opening(opening: &LeafOpening, root: &Hash) -> bool {
    let Ok(salt) = <&[u8; 16]>::try_from(opening.salt.as_ref()) else { return false };
    let path: Option<Vec<Hash>> = opening.path.iter().map(|hash| hash.as_ref().try_into().ok()).collect();
    path.is_some_and(|path| {
        let leaf = hash_of(salt, &opening.leaf);
        tree::verify_inclusion(opening.position.into(), opening.size.into(), &leaf, &path, root)
    })
}

fn hashes(list: &LeafList) -> Vec<Hash> {
    (0..).zip(&list.leaves).map(|(i, leaf)| hash_of(&salt_of(&list.secret, i), leaf)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(size: u8) -> LeafList {
        LeafList {
            secret: Bytes::from_static(&[5; 32]),
            leaves: (0..size).map(|leaf| Bytes::copy_from_slice(&[leaf; 3])).collect(),
        }
    }

    #[test]
    fn each_leaf_opens_alone() {
        for size in 1..20 {
            let (list, root) = (list(size), root(&list(size)));
            for position in 0..u32::from(size) {
                let opening = open(&list, position).unwrap();
                assert!(verify_opening(&opening, &root));
                assert!(!verify_opening(&LeafOpening { leaf: "other".into(), ..opening.clone() }, &root));
                assert!(!verify_opening(&LeafOpening { salt: vec![0; 16].into(), ..opening.clone() }, &root));
                assert!(!verify_opening(&LeafOpening { salt: Bytes::new(), ..opening.clone() }, &root));
                assert!(!verify_opening(&LeafOpening { path: vec!["short".into()], ..opening }, &root));
            }
            assert_eq!(open(&list, size.into()), None);
        }
        assert_eq!(root(&list(0)), tree::empty_root());
    }

    #[test]
    fn salts_differ() {
        assert_ne!(salt_of(&[5; 32], 0), salt_of(&[5; 32], 1));
        assert_ne!(salt_of(&[5; 32], 0), salt_of(&[6; 32], 0));
    }
}
