//! Situations of documents: broken streams, restarts, lost power, damage,
//! liars, and two systems with the same bytes.

use std::{io, path::Path, sync::Arc};

use axis_proto::{
    hub::v1::Reason,
    id::{Digest, SystemId},
    limits::{DOCUMENT_BYTES_MAX, UPLOAD_CHUNK_BYTES_MAX},
};
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::disk::{MemoryDisk, RealDisk};

fn vault(disk: &MemoryDisk) -> Vault {
    Vault::open(Arc::new(disk.clone()), Path::new("/vault")).unwrap()
}

fn system(name: &str) -> SystemId {
    name.parse().unwrap()
}

fn bytes_of(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at % 251) as u8 | 1).collect()
}

/// Brings a document from where it stands, from its beginning if what was
/// there is damaged.
fn bring(vault: &Vault, system: &SystemId, bytes: &[u8], chunk: usize) -> Result<()> {
    let mut upload = vault.begin(system, &Digest::of(bytes), bytes.len() as u64)?;
    let resumed = upload.committed() > 0;
    for part in bytes[upload.committed() as usize..].chunks(chunk) {
        upload.append(part)?;
    }
    match upload.finish() {
        Err(Error::Refused(refusal)) if resumed && refusal.reason == Reason::OffsetMismatch => {
            bring(vault, system, bytes, chunk)
        }
        result => result.map(drop),
    }
}

fn reason(error: Error) -> Reason {
    match error {
        Error::Refused(refusal) => refusal.reason,
        Error::Fault(fault) => panic!("{}", fault.chain()),
    }
}

#[test]
fn what_is_brought_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let real = Vault::open(RealDisk::shared(), &dir.path().join("vault")).unwrap();
    for vault in [real, vault(&MemoryDisk::default())] {
        for bytes in [bytes_of(0), bytes_of(1), bytes_of(300_000)] {
            let sha256 = Digest::of(&bytes);
            assert!(!vault.has(&sha256).unwrap());
            assert_eq!(vault.open_document(&sha256).unwrap_err().kind(), io::ErrorKind::NotFound);
            bring(&vault, &system("moh"), &bytes, 100_000).unwrap();
            assert!(vault.has(&sha256).unwrap());
            let document = vault.open_document(&sha256).unwrap();
            assert_eq!(document.size(), bytes.len() as u64);
            document.verify().unwrap();
            let mut whole = Vec::new();
            let mut reader = document.reader();
            loop {
                match reader.next(70_000).unwrap() {
                    part if part.is_empty() => break,
                    part => whole.extend(part),
                }
            }
            assert_eq!(whole, bytes);
            let from = bytes.len().min(5);
            assert_eq!(document.read_at(from as u64, 10).unwrap(), bytes[from..bytes.len().min(15)]);
            assert!(document.read_at(bytes.len() as u64 + 9, 10).unwrap().is_empty());
        }
        let mut seen = Vec::new();
        let visit = &mut |digest| {
            seen.push(digest);
            Ok(())
        };
        vault.objects(visit).unwrap();
        assert_eq!(seen.len(), 3);
        assert!(seen.is_sorted());
        vault.lock(&seen[0]).unwrap().remove().unwrap();
        assert!(!vault.has(&seen[0]).unwrap());
    }
}

#[test]
fn what_arrived_stays_when_the_stream_breaks_and_when_the_hub_stops() {
    let disk = MemoryDisk::default();
    let (bytes, moh) = (bytes_of(50_000), system("moh"));
    let sha256 = Digest::of(&bytes);
    let mut upload = vault(&disk).begin(&moh, &sha256, 50_000).unwrap();
    upload.append(&bytes[..20_000]).unwrap();
    upload.append(&bytes[20_000..30_000]).unwrap();
    drop(upload);
    let vault = vault(&disk);
    assert_eq!(vault.committed(&moh, &sha256, 50_000).unwrap(), 30_000);
    assert_eq!(vault.committed(&moh, &sha256, 50_001).unwrap(), 0, "another size");
    assert_eq!(vault.committed(&system("moj"), &sha256, 50_000).unwrap(), 0, "another system");
    let mut upload = vault.begin(&moh, &sha256, 50_000).unwrap();
    assert_eq!((upload.committed(), upload.size()), (30_000, 50_000));
    upload.append(&bytes[30_000..]).unwrap();
    upload.finish().unwrap();
    vault.open_document(&sha256).unwrap().verify().unwrap();
}

#[test]
fn a_finished_upload_is_known_until_it_is_forgotten() {
    let disk = MemoryDisk::default();
    let (bytes, moh) = (bytes_of(5_000), system("moh"));
    let (vault, sha256) = (vault(&disk), Digest::of(&bytes));
    bring(&vault, &moh, &bytes, 1_000).unwrap();
    // the answer got lost: it need not be brought again
    assert_eq!(vault.committed(&moh, &sha256, 5_000).unwrap(), 5_000);
    let upload = vault.begin(&moh, &sha256, 5_000).unwrap();
    assert_eq!(upload.committed(), 5_000);
    upload.finish().unwrap();
    vault.forget(&moh, &sha256).unwrap();
    assert_eq!(vault.committed(&moh, &sha256, 5_000).unwrap(), 0);
    vault.open_document(&sha256).unwrap().verify().unwrap();
    // known, but the document was collected meanwhile
    bring(&vault, &moh, &bytes, 1_000).unwrap();
    vault.lock(&sha256).unwrap().remove().unwrap();
    assert_eq!(vault.committed(&moh, &sha256, 5_000).unwrap(), 0);
    bring(&vault, &moh, &bytes, 1_000).unwrap();
    vault.open_document(&sha256).unwrap().verify().unwrap();
}

#[test]
fn nobody_learns_what_others_have_brought() {
    let bytes = bytes_of(10_000);
    // once its directory is there, which it shares with a 256th of all others
    let prefix = |bytes: &[u8]| Digest::of(bytes).to_string()[..2].to_owned();
    let neighbour =
        (0..u32::MAX).map(u32::to_le_bytes).find(|other| prefix(other) == prefix(&bytes)).unwrap();
    let steps = |others_first: bool| {
        let disk = MemoryDisk::default();
        let vault = vault(&disk);
        bring(&vault, &system("moh"), &neighbour, 1_000).unwrap();
        if others_first {
            bring(&vault, &system("moh"), &bytes, 1_000).unwrap();
        }
        let before = disk.operations();
        let moj = system("moj");
        assert_eq!(vault.committed(&moj, &Digest::of(&bytes), 10_000).unwrap(), 0);
        let upload = vault.begin(&moj, &Digest::of(&bytes), 10_000).unwrap();
        assert_eq!(upload.committed(), 0);
        assert_eq!(reason(upload.finish().unwrap_err()), Reason::SizeMismatch);
        bring(&vault, &moj, &bytes, 1_000).unwrap();
        disk.operations() - before
    };
    assert_eq!(steps(false), steps(true));
}

#[test]
fn what_is_not_what_was_declared_is_refused() {
    let disk = MemoryDisk::default();
    let (vault, moh, bytes) = (vault(&disk), system("moh"), bytes_of(100));
    let sha256 = Digest::of(&bytes);
    let too_large = vault.begin(&moh, &sha256, DOCUMENT_BYTES_MAX + 1).unwrap_err();
    assert_eq!(reason(too_large), Reason::TooLarge);

    let mut upload = vault.begin(&moh, &sha256, 100).unwrap();
    let chunk = vec![0; UPLOAD_CHUNK_BYTES_MAX + 1];
    assert_eq!(reason(upload.append(&chunk).unwrap_err()), Reason::TooLarge);
    assert_eq!(reason(upload.append(&[0; 101]).unwrap_err()), Reason::SizeMismatch);
    upload.append(&[0; 100]).unwrap();
    assert_eq!(reason(upload.append(&[0]).unwrap_err()), Reason::SizeMismatch);
    assert_eq!(reason(upload.finish().unwrap_err()), Reason::DigestMismatch);
    assert_eq!(vault.committed(&moh, &sha256, 100).unwrap(), 0, "what arrived is gone");
    assert!(!vault.has(&sha256).unwrap());
    bring(&vault, &moh, &bytes, 100).unwrap();
}

#[test]
fn a_document_has_one_writer() {
    let disk = MemoryDisk::default();
    let (vault, moh, sha256) = (vault(&disk), system("moh"), Digest::of(b"abc"));
    let upload = vault.begin(&moh, &sha256, 3).unwrap();
    match vault.begin(&moh, &sha256, 3).unwrap_err() {
        Error::Refused(refusal) => {
            assert_eq!(refusal.reason, Reason::Busy);
            assert!(refusal.retry_after_ms > 0);
        }
        Error::Fault(fault) => panic!("{}", fault.chain()),
    }
    vault.begin(&system("moj"), &sha256, 3).unwrap();
    drop(upload);
    vault.begin(&moh, &sha256, 3).unwrap();
}

#[test]
fn unfinished_uploads_of_a_system_are_few() {
    let disk = MemoryDisk::default();
    let (vault, moh) = (vault(&disk), system("moh"));
    let digest = |number: u64| Digest::of(&number.to_be_bytes());
    let begin = |number| {
        let mut upload = vault.begin(&moh, &digest(number), 10).unwrap();
        upload.append(b"abc").unwrap();
        upload
    };
    let most = limits::UPLOADS_PER_SYSTEM_MAX as u64;
    let live: Vec<_> = (0..most).map(begin).collect();
    assert_eq!(reason(vault.begin(&moh, &digest(99), 10).unwrap_err()), Reason::Busy);
    vault.begin(&system("moj"), &digest(99), 10).unwrap();
    drop(live);
    // a finished one goes first, then the one that was longest not touched
    drop(begin(0));
    bring(&vault, &moh, b"0123456789", 10).unwrap();
    let committed = |number| vault.committed(&moh, &digest(number), 10).unwrap();
    assert_eq!((committed(0), committed(1), committed(2)), (6, 0, 3));
    drop(begin(50));
    assert_eq!((committed(0), committed(2), committed(50)), (6, 3, 3));
    drop(begin(51));
    assert_eq!((committed(0), committed(2), committed(50)), (6, 0, 3));
    let names = disk.list(Path::new("/vault/uploads/moh")).unwrap();
    assert_eq!(names.len() as u64, 2 * most);
    assert_eq!(vault.0.hashers.len() as u64, most + 1, "and one of moj");
}

#[test]
fn damage_in_the_vault_is_noticed_by_readers_and_healed_by_uploads() {
    let disk = MemoryDisk::default();
    let (vault, bytes) = (vault(&disk), bytes_of(5_000));
    let sha256 = Digest::of(&bytes);
    bring(&vault, &system("moh"), &bytes, 1_000).unwrap();
    let name = sha256.to_string();
    let path = Path::new("/vault/objects").join(&name[..2]).join(&name);
    for damage in [|bytes: &mut Vec<u8>| bytes[77] ^= 1, |bytes: &mut Vec<u8>| bytes.truncate(4_000)] {
        disk.damage(&path, damage).unwrap();
        let document = vault.open_document(&sha256).unwrap();
        let error = document.verify().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(&name), "{error}");
        let mut reader = document.reader();
        let given = std::iter::from_fn(|| reader.next(1_000).ok()).count();
        assert!((given as u64) < document.size().div_ceil(1_000), "never the last part");
        // who goes on from somewhere verifies the whole himself
        let rest = document.reader_from(3_000).next(1_000).unwrap();
        assert_eq!(rest, bytes[3_000..4_000]);
        bring(&vault, &system("moh"), &bytes, 1_000).unwrap();
        vault.open_document(&sha256).unwrap().verify().unwrap();
    }
}

#[test]
fn a_large_document_that_was_seen_whole_is_verified_without_hashing_it_and_damage_is_noticed() {
    let disk = MemoryDisk::default();
    let (first, other, bytes) = (vault(&disk), vault(&disk), bytes_of(700_000));
    let sha256 = Digest::of(&bytes);
    let read = |vault: &Vault| -> io::Result<Vec<u8>> {
        let (mut reader, mut came) = (vault.open_document(&sha256)?.reader(), Vec::new());
        loop {
            match reader.next(50_000) {
                Ok(part) if part.is_empty() => return Ok(came),
                Ok(part) => came.extend(part),
                Err(error) => {
                    assert!(reader.next(50_000).is_err(), "and again");
                    assert!(came.len() < bytes.len(), "never the last part");
                    return Err(error);
                }
            }
        }
    };
    bring(&first, &system("moh"), &bytes, 50_000).unwrap();
    let name = sha256.to_string();
    let path = Path::new("/vault/objects").join(&name[..2]).join(&name);
    for (vault, how) in
        [(&first, "as it came"), (&other, "when it was hashed"), (&other, "when it was summed")]
    {
        assert!(read(vault).unwrap() == bytes, "{how}");
        assert!(vault.0.sums.of(&sha256).is_some(), "{how}");
        disk.damage(&path, |bytes| bytes[300_000] ^= 1).unwrap();
        assert_eq!(read(vault).unwrap_err().kind(), io::ErrorKind::InvalidData, "{how}");
        vault.open_document(&sha256).unwrap().verify().unwrap_err();
        disk.damage(&path, |bytes| bytes[300_000] ^= 1).unwrap();
    }
}

fn part_of(vault: &Vault, system: &SystemId, bytes: &[u8]) -> std::path::PathBuf {
    vault.part(system, &Digest::of(bytes))
}

#[test]
fn going_on_reads_only_what_came_after_the_last_sync() {
    let disk = MemoryDisk::default();
    let (vault, moh, bytes) = (vault(&disk), system("moh"), bytes_of(300_000));
    let (sha256, size) = (Digest::of(&bytes), bytes.len() as u64);
    let mut upload = vault.begin(&moh, &sha256, size).unwrap();
    upload.append(&bytes[..100_001]).unwrap();
    upload.sync().unwrap();
    upload.append(&bytes[100_001..200_003]).unwrap();
    drop(upload);
    let part = part_of(&vault, &moh, &bytes);
    // not looked at again, however much it is
    disk.damage(&part, |bytes| bytes[5] ^= 1).unwrap();
    assert_eq!(vault.begin(&moh, &sha256, size).unwrap().committed(), 200_003);
    // looked at again
    disk.damage(&part, |bytes| bytes[150_000] ^= 1).unwrap();
    assert_eq!(vault.begin(&moh, &sha256, size).unwrap().committed(), 100_001);
    disk.damage(&part, |bytes| bytes[150_000] ^= 1).unwrap();
    // but the whole is, before it becomes a document
    let mut upload = vault.begin(&moh, &sha256, size).unwrap();
    let from = upload.committed() as usize;
    upload.append(&bytes[from..]).unwrap();
    match upload.finish().unwrap_err() {
        Error::Refused(refusal) => {
            assert_eq!(refusal.reason, Reason::OffsetMismatch);
            assert!(refusal.facts.iter().any(|(name, value)| *name == "committed_bytes" && value == "0"));
        }
        Error::Fault(fault) => panic!("{}", fault.chain()),
    }
    assert!(!vault.has(&sha256).unwrap());
    assert_eq!(vault.committed(&moh, &sha256, size).unwrap(), 0, "it begins again");
    bring(&vault, &moh, &bytes, 70_000).unwrap();
    vault.open_document(&sha256).unwrap().verify().unwrap();
}

/// Marks of version 2 for 100, 200 and 300 bytes of a document of 300, as it
/// wrote them, without the zeros at the end: with the hasher after those bytes.
const MARKS_V2: [&str; 3] = [
    "41584d32ece774d82c010000000000006400000000000000010000000000000022e27f9adb70cb8dfd8cc0b0\
     af3a9c195dc767daca47e789910f8c6081c88b77f5a5ff5d53b457786953de011f7f73b6474c1f385606b066\
     3e741b92ca411149010000000000000024494b4b4d4d4f5151535355555759595b5b5d5d5f61616363656567\
     69696b6b6d6d6f7171",
    "41584d32d2fad3c12c01000000000000c8000000000000000100000000000000e179baece4f35d38848b35d5\
     61c9cea6bf768e5e86eb67bf3832fc8535295f96f1f70e70edc0104e20f8f1c0a453c451b15151b54ac812f5\
     d4c7b94fb5b690de030000000000000008dbdddddfe1e1e3e3",
    "41584d324f8491fd2c010000000000002c010000000000000100000000000000e93e9b4d228aba241cd6779b\
     24ca8f5c757a6597e7788f311ae46cf08dfc44d8cd9f4c32fd1869d2dfebe66e4be6532dde8d54e46a8831c9\
     cd013ca22c96515704000000000000002c292b2b2d2f2f3131333335373739393b3b3d3f3f41414343454747\
     49494b4b4d4f4f5151535355575759595b",
];

fn mark_v2(of: usize) -> Vec<u8> {
    let mut mark = hex::decode(MARKS_V2[of]).unwrap();
    mark.resize(168, 0);
    mark
}

/// The same of version 1, which ends before the hasher.
fn mark_v1(of: usize) -> Vec<u8> {
    let mut mark = mark_v2(of)[..64].to_vec();
    mark[..4].copy_from_slice(b"AXM1");
    let crc = crc32fast::hash(&mark[8..]).to_le_bytes();
    mark[4..8].copy_from_slice(&crc);
    mark
}

#[test]
fn marks_of_older_versions_are_still_read() {
    let (moh, bytes) = (system("moh"), bytes_of(300));
    let sha256 = Digest::of(&bytes);
    for mark_of in [mark_v1, mark_v2] {
        // as a hub before this one left it
        let left = |latest: usize, synced: usize, part: Option<&[u8]>| {
            let disk = MemoryDisk::default();
            let vault = vault(&disk);
            disk.create_dir(&vault.uploads(&moh)).unwrap();
            let marks = disk.create(&vault.mark(&moh, &sha256)).unwrap();
            marks.write_at(0, &mark_of(latest)).unwrap();
            marks.write_at(512, &mark_of(synced)).unwrap();
            match part {
                Some(part) => {
                    disk.create(&vault.part(&moh, &sha256)).unwrap().write_at(0, part).unwrap();
                }
                None => {
                    let object = vault.object(&sha256);
                    disk.create_dir(crate::disk::parent_of(&object)).unwrap();
                    disk.create(&object).unwrap().write_at(0, &bytes).unwrap();
                }
            }
            vault
        };
        let stands = |vault: &Vault| {
            let said = vault.committed(&moh, &sha256, 300).unwrap();
            assert_eq!(vault.begin(&moh, &sha256, 300).unwrap().committed(), said);
            said
        };
        // what was synced, not what came after
        let vault = left(1, 0, Some(&bytes[..200]));
        assert_eq!(stands(&vault), 100);
        let mut upload = vault.begin(&moh, &sha256, 300).unwrap();
        upload.append(&bytes[100..250]).unwrap();
        drop(upload);
        assert_eq!(stands(&vault), 250, "from here on as today");
        bring(&vault, &moh, &bytes, 70).unwrap();
        vault.open_document(&sha256).unwrap().verify().unwrap();
        assert_eq!(stands(&left(1, 1, Some(&bytes[..200]))), 200);
        assert_eq!(stands(&left(1, 1, Some(&bytes[..199]))), 0, "less than it says");
        // all came, and was not synced
        for (part, is_right) in [(bytes.clone(), true), (vec![7; 300], false)] {
            let vault = left(2, 1, Some(&part));
            assert_eq!(stands(&vault), 300);
            let finished = vault.begin(&moh, &sha256, 300).unwrap().finish();
            match is_right {
                true => drop(finished.unwrap()),
                false => assert_eq!(reason(finished.unwrap_err()), Reason::OffsetMismatch),
            }
            bring(&vault, &moh, &bytes, 300).unwrap();
        }
        // it was finished
        let vault = left(2, 2, None);
        assert_eq!(stands(&vault), 300);
        bring(&vault, &moh, &bytes, 300).unwrap();
        vault.open_document(&sha256).unwrap().verify().unwrap();
    }
}

#[test]
fn whose_fault_other_bytes_are_is_known_as_long_as_the_hub_lives() {
    let (moh, bytes) = (system("moh"), bytes_of(3_000));
    let (sha256, other) = (Digest::of(&bytes), vec![7; 3_000]);
    for restarts in [false, true] {
        let disk = MemoryDisk::default();
        let first = vault(&disk);
        let mut upload = first.begin(&moh, &sha256, 3_000).unwrap();
        upload.append(&other[..1_000]).unwrap();
        drop(upload);
        // the stream broke
        let mut upload = first.begin(&moh, &sha256, 3_000).unwrap();
        upload.append(&other[1_000..2_000]).unwrap();
        drop(upload);
        let second = if restarts { vault(&disk) } else { first };
        assert_eq!(second.committed(&moh, &sha256, 3_000).unwrap(), 2_000);
        let mut upload = second.begin(&moh, &sha256, 3_000).unwrap();
        upload.append(&other[2_000..]).unwrap();
        let refused = match upload.finish().unwrap_err() {
            Error::Refused(refusal) => refusal,
            Error::Fault(fault) => panic!("{}", fault.chain()),
        };
        let expected = if restarts { Reason::OffsetMismatch } else { Reason::DigestMismatch };
        assert_eq!(refused.reason, expected);
        assert_eq!(second.committed(&moh, &sha256, 3_000).unwrap(), 0, "it begins again");
        // and then it is known
        assert_eq!(reason(again(&second, &moh, &sha256, &other).unwrap_err()), Reason::DigestMismatch);
        again(&second, &moh, &sha256, &bytes).unwrap();
        second.open_document(&sha256).unwrap().verify().unwrap();
        assert_eq!(second.0.hashers.len(), 0, "nothing is under way");
    }
}

/// Brings these bytes for that digest.
fn again(vault: &Vault, system: &SystemId, sha256: &Digest, bytes: &[u8]) -> Result<()> {
    let mut upload = vault.begin(system, sha256, bytes.len() as u64)?;
    assert_eq!(upload.committed(), 0);
    upload.append(bytes)?;
    upload.finish().map(drop)
}

#[test]
fn an_upload_that_goes_on_elsewhere_than_its_hasher_does_without() {
    let disk = MemoryDisk::default();
    let (vault, moh, bytes) = (vault(&disk), system("moh"), bytes_of(3_000));
    let sha256 = Digest::of(&bytes);
    let mut upload = vault.begin(&moh, &sha256, 3_000).unwrap();
    upload.append(&bytes[..1_000]).unwrap();
    upload.sync().unwrap();
    upload.append(&bytes[1_000..2_000]).unwrap();
    drop(upload);
    // what the disk lost comes again, and it is what was declared
    disk.damage(&vault.part(&moh, &sha256), |bytes| bytes[1_500] ^= 1).unwrap();
    let mut upload = vault.begin(&moh, &sha256, 3_000).unwrap();
    assert_eq!(upload.committed(), 1_000);
    upload.append(&bytes[1_000..]).unwrap();
    upload.finish().unwrap();
    vault.open_document(&sha256).unwrap().verify().unwrap();
}

#[test]
fn a_sync_that_is_noted_late_leaves_no_more_to_be_read_than_came_since() {
    const STEP: usize = 1024 * 1024;
    let disk = MemoryDisk::default();
    let (first, moh) = (vault(&disk), system("moh"));
    let bytes = bytes_of(3 * limits::UPLOAD_SYNC_BYTES as usize);
    let (sha256, size) = (Digest::of(&bytes), bytes.len() as u64);
    let mut upload = first.begin(&moh, &sha256, size).unwrap();
    let mut chunks = bytes.chunks(STEP);
    let mut next = |upload: &mut Upload| chunks.by_ref().find_map(|chunk| upload.add(&[chunk]).unwrap());
    // as the wire does: the first is noted when the second is due
    let one = next(&mut upload).unwrap().run();
    let two = next(&mut upload).unwrap();
    upload.synced(one).unwrap();
    drop((upload, two));
    // the hub starts again; the power stays
    let part = first.part(&moh, &sha256);
    let committed = || vault(&disk).begin(&moh, &sha256, size).unwrap().committed();
    let sync = limits::UPLOAD_SYNC_BYTES;
    assert_eq!(committed(), 2 * sync);
    disk.damage(&part, |bytes| bytes[2 * sync as usize - 1] ^= 1).unwrap();
    assert_eq!(committed(), sync);
    bring(&vault(&disk), &moh, &bytes, STEP).unwrap();
}

#[test]
fn hashing_that_a_broken_stream_left_behind_does_no_harm() {
    let disk = MemoryDisk::default();
    let (vault, moh, mut bytes) = (vault(&disk), system("moh"), bytes_of(1_000));
    for written in [true, false] {
        bytes[0] = u8::from(written);
        let sha256 = Digest::of(&bytes);
        let mut upload = vault.begin(&moh, &sha256, 1_000).unwrap();
        upload.append(&bytes[..300]).unwrap();
        let chunk = [Bytes::copy_from_slice(&bytes[300..600])];
        let late = upload.hashing(&chunk).unwrap();
        if written {
            upload.add(&chunk).unwrap();
        }
        drop(upload);
        let mut upload = vault.begin(&moh, &sha256, 1_000).unwrap();
        assert_eq!(upload.committed(), if written { 600 } else { 300 });
        late();
        upload.append(&bytes[upload.committed() as usize..]).unwrap();
        drop(upload.finish().unwrap());
        vault.open_document(&sha256).unwrap().verify().unwrap();
    }
}

#[test]
fn a_client_that_comes_back_is_let_in() {
    let disk = MemoryDisk::default();
    let (vault, moh, sha256) = (vault(&disk), system("moh"), Digest::of(b"abc"));
    assert!(vault.ask_for(&moh, &sha256).is_none(), "nobody has it");
    let upload = vault.begin(&moh, &sha256, 3).unwrap();
    assert!(!upload.wanted().is_cancelled());
    assert!(vault.ask_for(&system("moj"), &sha256).is_none(), "another's is another's");
    let given_up = vault.ask_for(&moh, &sha256).unwrap();
    assert!(upload.wanted().is_cancelled() && !given_up.is_cancelled());
    drop(upload);
    assert!(given_up.is_cancelled());
    assert!(!vault.begin(&moh, &sha256, 3).unwrap().wanted().is_cancelled());
}

#[test]
fn after_a_failed_sync_an_upload_begins_again() {
    let disk = MemoryDisk::default();
    let (vault, moh, bytes) = (vault(&disk), system("moh"), bytes_of(1_000));
    let sha256 = Digest::of(&bytes);
    let mut upload = vault.begin(&moh, &sha256, 1_000).unwrap();
    upload.append(&bytes).unwrap();
    disk.fail_after(0);
    assert!(matches!(upload.sync(), Err(Error::Fault(_))));
    assert!(matches!(upload.finish(), Err(Error::Fault(_))));
    disk.crash(|_| 0);
    bring(&vault, &moh, &bytes, 300).unwrap();
}

#[test]
fn a_sync_that_fails_when_its_caller_is_gone_begins_the_upload_again() {
    let disk = MemoryDisk::default();
    let (vault, moh) = (vault(&disk), system("moh"));
    let bytes = bytes_of(crate::limits::UPLOAD_SYNC_BYTES as usize + 1);
    let sha256 = Digest::of(&bytes);
    let mut upload = vault.begin(&moh, &sha256, bytes.len() as u64).unwrap();
    let due = bytes.chunks(500_000).find_map(|chunk| upload.add(&[chunk]).unwrap()).expect("many bytes");
    drop(upload);
    assert!(
        vault.begin(&moh, &sha256, bytes.len() as u64).is_err(),
        "held until it is known what came of it"
    );
    disk.fail_next_sync();
    drop(due.run());
    assert_eq!(vault.begin(&moh, &sha256, bytes.len() as u64).unwrap().committed(), 0);
}

#[test]
fn what_was_in_memory_alone_after_a_failed_sync_is_written_again() {
    let disk = MemoryDisk::default();
    let (failing, moh, bytes) = (vault(&disk), system("moh"), bytes_of(1_000));
    let sha256 = Digest::of(&bytes);
    let mut upload = failing.begin(&moh, &sha256, 1_000).unwrap();
    upload.append(&bytes).unwrap();
    disk.fail_next_sync();
    // the sync is the last that is done: what it was for cannot be removed
    disk.fail_after(1);
    assert!(matches!(upload.finish(), Err(Error::Fault(_))));
    disk.fail_after(u64::MAX);
    assert_eq!(failing.begin(&moh, &sha256, 1_000).unwrap().committed(), 1_000, "it can be read");
    bring(&failing, &moh, &bytes, 1_000).unwrap();
    disk.crash(|below| below - 1);
    vault(&disk).open_document(&sha256).unwrap().verify().unwrap();
}

#[test]
fn a_directory_that_a_failed_upload_left_is_as_durable_as_its_documents() {
    let (bytes, moh) = (bytes_of(3_000), system("moh"));
    let fails = |after| {
        let disk = MemoryDisk::default();
        let first = vault(&disk);
        disk.fail_after(after);
        let failed = bring(&first, &moh, &bytes, 1_000).is_err();
        // the hub starts again; the power stays
        disk.fail_after(u64::MAX);
        bring(&vault(&disk), &moh, &bytes, 1_000).unwrap();
        disk.crash(|_| 0);
        vault(&disk).open_document(&Digest::of(&bytes)).unwrap().verify().unwrap();
        failed
    };
    assert!((0..100).any(|after| !fails(after)), "each step failed once");
}

#[test]
fn an_upload_that_failed_to_begin_is_as_durable_as_another_when_it_goes_on() {
    let (bytes, moh) = (bytes_of(3_000), system("moh"));
    let sha256 = Digest::of(&bytes);
    let fails = |after| {
        let disk = MemoryDisk::default();
        let first = vault(&disk);
        disk.fail_after(after);
        let failed = first.begin(&moh, &sha256, 3_000).is_err();
        // the hub starts again; the power stays
        disk.fail_after(u64::MAX);
        let mut upload = vault(&disk).begin(&moh, &sha256, 3_000).unwrap();
        upload.append(&bytes[..1_000]).unwrap();
        upload.sync().unwrap();
        drop(upload);
        disk.crash(|_| 0);
        assert_eq!(vault(&disk).begin(&moh, &sha256, 3_000).unwrap().committed(), 1_000, "after {after}");
        failed
    };
    assert!((0..100).any(|after| !fails(after)), "each step failed once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever the power goes: what was finished is whole, and what was not
    /// can be brought from where it is said to stand.
    #[test]
    fn documents_survive_lost_power(
        lengths in prop::collection::vec(0..20_000usize, 1..6),
        chunk in 200..4_000usize,
        fail_after in 0..120u64,
        seed: u64,
    ) {
        let disk = MemoryDisk::default();
        let mut random = fastrand::Rng::with_seed(seed);
        let moh = system("moh");
        let documents: Vec<_> = lengths.iter().map(|len| bytes_of(*len)).collect();
        let mut finished = Vec::new();
        {
            let vault = vault(&disk);
            disk.fail_after(fail_after);
            for bytes in &documents {
                if bring(&vault, &moh, bytes, chunk).is_err() {
                    break;
                }
                finished.push(bytes);
            }
        }
        disk.crash(|below| random.usize(..below));
        let vault = vault(&disk);
        for bytes in finished {
            let document = vault.open_document(&Digest::of(bytes)).unwrap();
            prop_assert_eq!(document.size(), bytes.len() as u64);
            document.verify().unwrap();
        }
        for bytes in &documents {
            bring(&vault, &moh, bytes, chunk).unwrap();
            vault.open_document(&Digest::of(bytes)).unwrap().verify().unwrap();
        }
    }
}

#[test]
fn a_document_that_leaves_is_not_brought_meanwhile_nor_leaves_while_it_is() {
    let disk = MemoryDisk::default();
    let (bytes, moh) = (bytes_of(5_000), system("moh"));
    let (vault, sha256) = (vault(&disk), Digest::of(&bytes));
    let mut upload = vault.begin(&moh, &sha256, 5_000).unwrap();
    assert!(vault.lock(&sha256).is_none(), "it is being brought");
    upload.append(&bytes).unwrap();
    let brought = upload.finish().unwrap();
    assert!(vault.lock(&sha256).is_none(), "it is not recorded yet");
    drop(brought);
    let leaving = vault.lock(&sha256).unwrap();
    assert!(vault.lock(&sha256).is_none(), "once");
    assert_eq!(reason(vault.begin(&moh, &sha256, 5_000).unwrap_err()), Reason::Busy);
    leaving.remove().unwrap();
    leaving.remove().unwrap();
    drop(leaving);
    assert!(!vault.has(&sha256).unwrap());
    bring(&vault, &moh, &bytes, 1_000).unwrap();
    assert!(vault.has(&sha256).unwrap());
}

#[test]
fn a_removal_that_a_crash_stops_leaves_the_document_or_not() {
    let bytes = bytes_of(5_000);
    let sha256 = Digest::of(&bytes);
    let (mut kept, mut gone) = (0, 0);
    for operation in 0..4 {
        for seed in 0..20 {
            let disk = MemoryDisk::default();
            let held = vault(&disk);
            bring(&held, &system("moh"), &bytes, 1_000).unwrap();
            disk.fail_after(operation);
            let done = held.lock(&sha256).unwrap().remove().is_ok();
            let mut random = fastrand::Rng::with_seed(seed);
            disk.crash(|below| random.usize(..below));
            let held = vault(&disk);
            match held.has(&sha256).unwrap() {
                true => {
                    assert!(!done, "it was gone for good");
                    held.open_document(&sha256).unwrap().verify().unwrap();
                    kept += 1;
                }
                false => gone += 1,
            }
        }
    }
    assert!(kept > 0 && gone > 0, "{kept} and {gone}");
}

#[test]
fn a_removal_that_failed_is_durable_when_it_is_done_again() {
    let bytes = bytes_of(5_000);
    let sha256 = Digest::of(&bytes);
    let fails = |after| {
        let disk = MemoryDisk::default();
        let first = vault(&disk);
        bring(&first, &system("moh"), &bytes, 1_000).unwrap();
        disk.fail_after(after);
        let failed = first.lock(&sha256).unwrap().remove().is_err();
        // the hub starts again; the power stays
        disk.fail_after(u64::MAX);
        vault(&disk).lock(&sha256).unwrap().remove().unwrap();
        disk.crash(|_| 0);
        assert!(!vault(&disk).has(&sha256).unwrap(), "after {after}");
        failed
    };
    assert!((0..100).any(|after| !fails(after)), "each step failed once");
}

#[test]
fn unfinished_uploads_leave_when_nobody_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::open(RealDisk::shared(), &dir.path().join("vault")).unwrap();
    let (bytes, moh) = (bytes_of(5_000), system("moh"));
    let sha256 = Digest::of(&bytes);
    let mut upload = vault.begin(&moh, &sha256, 5_000).unwrap();
    upload.append(&bytes[..1_000]).unwrap();
    assert_eq!(vault.remove_idle_uploads(u64::MAX).unwrap(), 0, "somebody writes to it");
    drop(upload);
    assert_eq!(vault.remove_idle_uploads(1).unwrap(), 0, "lately");
    assert_eq!(vault.committed(&moh, &sha256, 5_000).unwrap(), 1_000);
    assert_eq!(vault.remove_idle_uploads(u64::MAX).unwrap(), 1);
    assert_eq!(vault.committed(&moh, &sha256, 5_000).unwrap(), 0);
    let mut upload = vault.begin(&moh, &sha256, 5_000).unwrap();
    upload.append(&bytes[..1_000]).unwrap();
    assert!(!vault.discard_uploads(&sha256).unwrap());
    drop(upload);
    assert!(vault.discard_uploads(&sha256).unwrap());
    assert_eq!(vault.committed(&moh, &sha256, 5_000).unwrap(), 0);
}

#[test]
fn one_systems_promises_leave_room_for_others() {
    const GIB: u64 = 1024 * 1024 * 1024;
    let disk = MemoryDisk::default();
    let (vault, moh, vpcp) = (vault(&disk), system("moh"), system("vpcp"));
    disk.set_free_bytes(20 * GIB + limits::DISK_LOW_BYTES);
    let ask = |system: &SystemId, name: &[u8], size| vault.has_room(system, &Digest::of(name), size);
    let begin = |system: &SystemId, name: &[u8], size| vault.begin(system, &Digest::of(name), size).map(drop);
    ask(&moh, b"one", 15 * GIB).unwrap();
    begin(&moh, b"one", 15 * GIB).unwrap();
    ask(&moh, b"one", 15 * GIB).unwrap();
    ask(&moh, b"small", limits::UPLOAD_SMALL_BYTES).unwrap();
    assert_eq!(reason(ask(&moh, b"two", 6 * GIB).unwrap_err()), Reason::DiskFull, "more than there is");
    assert_eq!(reason(ask(&moh, b"two", GIB).unwrap_err()), Reason::DiskFull, "more than half");
    ask(&vpcp, b"two", 15 * GIB).unwrap();
    vault.forget(&moh, &Digest::of(b"one")).unwrap();
    ask(&moh, b"two", 6 * GIB).unwrap();
    disk.set_free_bytes(limits::DISK_LOW_BYTES + 10);
    assert_eq!(reason(ask(&vpcp, b"two", 11).unwrap_err()), Reason::DiskFull);
    ask(&vpcp, b"two", 10).unwrap();
}
