//! Uploads begun, written, cut, resumed and finished in any order, over
//! power cuts: what is in the vault is what was declared.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use axis_hub::{
    disk::MemoryDisk,
    error::Error,
    vault::{Upload, Vault},
};
use axis_proto::{
    hub::v1::Reason,
    id::{Digest, SystemId},
};

const SIZES: [usize; 4] = [0, 1, 700, 5_000];

/// Each step is three bytes: what, of which document and system, how much.
pub fn run(input: &[u8]) {
    let disk = MemoryDisk::default();
    let mut vault = Vault::open(Arc::new(disk.clone()), Path::new("/vault")).expect("opens");
    let documents = SIZES.map(|size| (0..size).map(|at| (at * 7 + size) as u8).collect::<Vec<u8>>());
    let systems: [SystemId; 2] = ["vpcp", "byt"].map(|id| id.parse().expect("a constant that is an id"));
    let mut live: BTreeMap<(usize, usize), Upload> = BTreeMap::new();
    // finished and therefore durable; what was said to be there after a sync
    let mut finished: Vec<usize> = Vec::new();
    // what was begun before the power was lost: whose fault other bytes are is
    // not known then
    let (mut begun, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for (step, bytes) in input.chunks_exact(3).take(80).enumerate() {
        let (document, system) = (usize::from(bytes[1]) % 4, usize::from(bytes[1] >> 2) % 2);
        let content = &documents[document];
        let (sha256, size) = (Digest::of(content), content.len() as u64);
        let key = (document, system);
        match bytes[0] % 9 {
            0 | 1 => {
                let declared = if bytes[0] & 0x80 == 0 { size } else { size + u64::from(bytes[2]) };
                match vault.begin(&systems[system], &sha256, declared) {
                    Ok(upload) => {
                        assert!(!live.contains_key(&key), "two writers");
                        assert!(upload.committed() <= declared && upload.size() == declared);
                        if upload.committed() == 0 {
                            unknown.remove(&key);
                        }
                        begun.insert(key);
                        live.insert(key, upload);
                    }
                    Err(error) => {
                        assert!(live.contains_key(&key) && reason(&error) == Reason::Busy, "{error}")
                    }
                }
            }
            2..=4 => {
                let Some(upload) = live.get_mut(&key) else { continue };
                let at = upload.committed();
                let wrong = bytes[0] & 0x80 != 0;
                let length = usize::from(bytes[2]) * 8;
                let chunk: Vec<u8> = (at as usize..at as usize + length)
                    .map(|at| content.get(at).copied().unwrap_or(9) ^ u8::from(wrong))
                    .collect();
                match upload.append(&chunk) {
                    Ok(()) => assert_eq!(upload.committed(), at + length as u64),
                    Err(error) => {
                        assert!(at + length as u64 > upload.size(), "{error}");
                        assert_eq!((reason(&error), upload.committed()), (Reason::SizeMismatch, at));
                    }
                }
                assert!(upload.committed() <= upload.size());
            }
            5 => {
                if let Some(upload) = live.get_mut(&key) {
                    upload.sync().expect("the disk is well");
                }
            }
            6 => {
                let Some(upload) = live.remove(&key) else { continue };
                let whole = upload.committed() == upload.size();
                match upload.finish() {
                    Ok(_brought) => {
                        assert!(whole);
                        finished.push(document);
                    }
                    Err(error) => {
                        let expected = match (whole, unknown.contains(&key)) {
                            (false, _) => Reason::SizeMismatch,
                            (true, false) => Reason::DigestMismatch,
                            (true, true) => Reason::OffsetMismatch,
                        };
                        assert_eq!(reason(&error), expected);
                    }
                }
            }
            7 => drop(live.remove(&key)),
            _ => {
                // power is lost and comes back
                live.clear();
                unknown.append(&mut begun);
                drop(vault);
                let mut chance = u64::from(bytes[2]) + step as u64;
                disk.crash(|below| {
                    chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (chance >> 33) as usize % below
                });
                vault = Vault::open(Arc::new(disk.clone()), Path::new("/vault")).expect("opens again");
            }
        }
        let told = vault.committed(&systems[system], &sha256, size).expect("looked");
        assert!(told <= size);
    }
    // whatever is there is whole, and what was finished is there
    for (document, content) in documents.iter().enumerate() {
        let sha256 = Digest::of(content);
        if vault.has(&sha256).expect("looked") {
            let held = vault.open_document(&sha256).expect("opens");
            held.verify().expect("a document that is not what its name says");
            assert_eq!(held.size(), content.len() as u64);
        } else {
            assert!(!finished.contains(&document), "a finished document is gone");
        }
    }
}

fn reason(error: &Error) -> Reason {
    match error {
        Error::Refused(refusal) => refusal.reason,
        Error::Fault(fault) => panic!("a fault: {}", fault.chain()),
    }
}
