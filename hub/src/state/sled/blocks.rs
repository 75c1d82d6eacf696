//! Pairs in blocks: what is one key to sled is up to some dozens of ours, in
//! order. sled takes 25 µs and half a kilobyte of memory a key, whatever its
//! size. Pure: says how a block changes, and touches no store.
//!
//! ```text
//! name     the least key that belongs to it; it ends where the next one begins
//! block    key length u16 | value length u16 | key | value   …
//! ```
//!
//! A name's first byte is that of all keys in its block: tables do not share
//! blocks. A block never is empty.

use std::{cmp::Ordering, io};

use crate::state::pairs::damaged;

/// Bytes from which on a block is cut in parts. One that holds a single pair
/// may be longer.
pub(super) const BLOCK_BYTES: usize = if cfg!(test) { 300 } else { 2 * 1024 };
const LENGTHS_BYTES: usize = 4;

/// A key and what becomes of it: a new value, or nothing.
pub(super) type Change<'a> = (&'a [u8], Option<&'a [u8]>);

/// What is told of each changed key: what it was, and what it is now.
pub(super) type Seen<'a> = dyn FnMut(&[u8], Option<&[u8]>, Option<&[u8]>) + 'a;

/// What is told of each changed block: its name, and what it holds now.
pub(super) type Put<'a> = dyn FnMut(&[u8], Option<&[u8]>) -> io::Result<()> + 'a;

/// The pairs of a block; an error and nothing more if it is none.
#[derive(Debug, Clone)]
pub(super) struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    pub(super) fn of(block: &'a [u8]) -> Self {
        Self(block)
    }

    fn entry(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let (lengths, rest) = self.0.split_first_chunk::<LENGTHS_BYTES>()?;
        let [key, more, value, most] = *lengths;
        let (key, rest) = rest.split_at_checked(u16::from_le_bytes([key, more]).into())?;
        let (value, rest) = rest.split_at_checked(u16::from_le_bytes([value, most]).into())?;
        self.0 = rest;
        Some((key, value))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = io::Result<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.entry();
        if entry.is_none() {
            self.0 = &[];
        }
        Some(entry.ok_or_else(|| damaged("a block of the state that ends in a pair")))
    }
}

/// Where a key is in its block, or would be.
pub(super) struct Place<'a> {
    /// Its value, if it is there.
    pub(super) value: Option<&'a [u8]>,
    /// The key before it.
    pub(super) before: Option<&'a [u8]>,
    /// The key after it.
    pub(super) after: Option<&'a [u8]>,
}

/// The place of a key that belongs to a block. Of one that is there nothing is
/// said about the key after it.
pub(super) fn find<'a>(block: &'a [u8], key: &[u8]) -> io::Result<Place<'a>> {
    let mut before = None;
    for entry in Entries::of(block) {
        let (found, value) = entry?;
        match found.cmp(key) {
            Ordering::Less => before = Some(found),
            Ordering::Equal => return Ok(Place { value: Some(value), before, after: None }),
            Ordering::Greater => return Ok(Place { value: None, before, after: Some(found) }),
        }
    }
    Ok(Place { value: None, before, after: None })
}

/// A pair of a block as it will be.
struct Kept<'a> {
    key: &'a [u8],
    value: &'a [u8],
    is_new: bool,
}

impl Kept<'_> {
    fn bytes(&self) -> usize {
        LENGTHS_BYTES + self.key.len() + self.value.len()
    }
}

/// Applies changes, in order and at least one, to the block that they all
/// belong to; `None` if there is none yet. Tells of blocks from the last to
/// the first: who reads meanwhile finds a key twice, but never not at all.
pub(super) fn edit(
    block: Option<(&[u8], &[u8])>,
    changes: &[Change<'_>],
    seen: &mut Seen<'_>,
    put: &mut Put<'_>,
) -> io::Result<()> {
    // a block's own are some dozens
    let mut kept: Vec<Kept<'_>> = Vec::with_capacity(changes.len() + 64);
    let mut old = Entries::of(block.map_or(&[], |(_, bytes)| bytes)).peekable();
    let mut is_other = false;
    for (key, change) in changes {
        let mut was = None;
        while let Some(entry) = old.next_if(|entry| !matches!(entry, Ok((old, _)) if old > key)) {
            let (old, value) = entry?;
            if old == *key {
                was = Some(value);
                break;
            }
            kept.push(Kept { key: old, value, is_new: false });
        }
        if let Some(value) = change {
            kept.push(Kept { key, value, is_new: was.is_none() });
        }
        is_other |= was != *change;
        seen(key, was, *change);
    }
    for entry in old {
        let (key, value) = entry?;
        kept.push(Kept { key, value, is_new: false });
    }
    let Some(first) = kept.first() else {
        return block.map_or(Ok(()), |(name, _)| put(name, None));
    };
    if !is_other {
        return Ok(());
    }
    // the first part keeps the name, though its first key may be gone
    let name = block.map_or(first.key, |(name, _)| name);
    let mut end = kept.len();
    for begin in cuts(&kept).into_iter().rev() {
        let part = &kept[begin..end];
        put(if begin == 0 { name } else { part[0].key }, Some(&encode(part)?))?;
        end = begin;
    }
    Ok(())
}

/// Where the parts of a block begin. What comes in one after the other fills
/// them; what comes in here and there leaves room in each.
fn cuts(kept: &[Kept<'_>]) -> Vec<usize> {
    let all: usize = kept.iter().map(Kept::bytes).sum();
    if all <= BLOCK_BYTES {
        return vec![0];
    }
    let run = run_end(kept);
    let part_bytes = match run {
        Some(_) => BLOCK_BYTES,
        None => all.div_ceil(all.div_ceil(BLOCK_BYTES)),
    };
    let (mut cuts, mut bytes) = (vec![0], 0);
    for (index, pair) in kept.iter().enumerate() {
        if bytes > 0 && (bytes + pair.bytes() > part_bytes || run == Some(index)) {
            cuts.push(index);
            bytes = 0;
        }
        bytes += pair.bytes();
    }
    cuts
}

/// Where the new keys end, if nothing old is between them and they are at the
/// block's end, or many.
fn run_end(kept: &[Kept<'_>]) -> Option<usize> {
    let begin = kept.iter().position(|pair| pair.is_new)?;
    let length = kept[begin..].iter().take_while(|pair| pair.is_new).count();
    let (run, rest) = kept[begin..].split_at(length);
    let is_long = run.iter().map(Kept::bytes).sum::<usize>() >= BLOCK_BYTES / 4;
    (!rest.iter().any(|pair| pair.is_new) && (rest.is_empty() || is_long)).then_some(begin + length)
}

fn encode(part: &[Kept<'_>]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(part.iter().map(Kept::bytes).sum());
    for Kept { key, value, .. } in part {
        for length in [key.len(), value.len()] {
            let length = u16::try_from(length).map_err(|_| damaged("a pair that is too long for a block"))?;
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;
    type Blocks = BTreeMap<Vec<u8>, Vec<u8>>;

    fn pairs(blocks: &Blocks) -> Pairs {
        let entries = blocks.values().flat_map(|block| Entries::of(block));
        entries.map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
    }

    /// Brings changes into the blocks of one table, as a store does.
    fn write(blocks: &mut Blocks, changes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
        let mut changes: Vec<Change<'_>> =
            changes.iter().map(|(key, change)| (&key[..], change.as_deref())).collect();
        while let Some((first, _)) = changes.first() {
            let block = blocks.range(..=first.to_vec()).next_back();
            let block = block.map(|(name, bytes)| (name.clone(), bytes.clone()));
            let from = block.as_ref().map_or(first.to_vec(), |(name, _)| name.clone());
            let next = blocks.keys().find(|name| **name > from).cloned();
            let here = changes.partition_point(|(key, _)| next.as_ref().is_none_or(|next| *key < &next[..]));
            let before = blocks.clone();
            let mut last: Option<Vec<u8>> = None;
            let of = block.as_ref().map(|(name, bytes)| (&name[..], &bytes[..]));
            edit(
                of,
                &changes[..here],
                &mut |key, was, _| assert_eq!(was, pairs(&before).get(key).map(Vec::as_slice)),
                &mut |name, bytes| {
                    assert!(last.as_ref().is_none_or(|last| name < &last[..]), "from the last to the first");
                    last = Some(name.to_vec());
                    match bytes {
                        Some(bytes) => blocks.insert(name.to_vec(), bytes.to_vec()),
                        None => blocks.remove(name),
                    };
                    Ok(())
                },
            )
            .unwrap();
            changes.drain(..here);
        }
        let mut names = blocks.keys().skip(1);
        for (name, block) in &*blocks {
            let entries: Vec<_> = Entries::of(block).map(Result::unwrap).collect();
            let next = names.next();
            assert!(entries.is_sorted_by(|one, other| one.0 < other.0));
            assert!(entries.first().unwrap().0 >= &name[..]);
            assert!(next.is_none_or(|next| entries.last().unwrap().0 < &next[..]));
            assert!(block.len() <= BLOCK_BYTES || entries.len() == 1);
        }
    }

    #[test]
    fn blocks_hold_what_a_map_holds() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut blocks, mut map) = (Blocks::new(), Pairs::new());
        for _ in 0..400 {
            let mut changes = BTreeMap::new();
            let first = random.u32(0..1_000);
            for number in 0..random.u32(1..60) {
                let number = if random.bool() { first + number } else { random.u32(0..1_000) };
                let value = (random.u32(0..3) > 0).then(|| vec![random.u8(..); random.usize(0..100)]);
                changes.insert(format!("t{number:04}").into_bytes(), value);
            }
            if random.u32(0..20) == 0 {
                changes.extend(map.keys().map(|key| (key.clone(), None)));
            }
            write(&mut blocks, &changes);
            for (key, change) in changes {
                match change {
                    Some(value) => map.insert(key, value),
                    None => map.remove(&key),
                };
            }
            assert_eq!(pairs(&blocks), map);
            let key = format!("t{:04}", random.u32(0..1_000)).into_bytes();
            let block = blocks.range(..=key.clone()).next_back();
            let found = block.and_then(|(_, block)| find(block, &key).unwrap().value);
            assert_eq!(found, map.get(&key).map(Vec::as_slice));
        }
    }

    #[test]
    fn what_comes_one_after_the_other_fills_its_blocks() {
        let of = |table: &str, number: u32| (format!("{table}{number:08}").into_bytes(), Some(vec![7; 20]));
        let mut blocks = Blocks::new();
        // two rows of keys, each of which goes on in a place of its own
        for round in 0..100 {
            let some = round * 10..round * 10 + 10;
            write(&mut blocks, &some.flat_map(|number| [of("ta", number), of("tb", number)]).collect());
        }
        let bytes: usize = blocks.values().map(Vec::len).sum();
        assert!(bytes * 10 > blocks.len() * BLOCK_BYTES * 8, "{} blocks of {bytes} bytes", blocks.len());
    }

    #[test]
    fn nothing_is_told_of_what_does_not_change() {
        let mut blocks = Blocks::new();
        let changes = BTreeMap::from([(b"ta".to_vec(), Some(b"1".to_vec())), (b"tb".to_vec(), None)]);
        write(&mut blocks, &changes);
        let (name, block) = blocks.first_key_value().unwrap();
        let same: [Change<'_>; 2] = [(b"ta", Some(b"1")), (b"tb", None)];
        edit(Some((name, block)), &same, &mut |_, _, _| {}, &mut |_, _| panic!("told")).unwrap();
        edit(None, &same[1..], &mut |_, _, _| {}, &mut |_, _| panic!("told")).unwrap();
    }

    #[test]
    fn a_damaged_block_is_an_error_and_ends() {
        let mut blocks = Blocks::new();
        write(&mut blocks, &BTreeMap::from([(b"ta".to_vec(), Some(b"value".to_vec()))]));
        let block = blocks.into_values().next().unwrap();
        for length in 1..block.len() {
            let mut entries = Entries::of(&block[..length]);
            assert!(entries.next().unwrap().is_err());
            assert!(entries.next().is_none());
            assert!(find(&block[..length], b"ta").is_err());
            let told = edit(
                Some((b"ta", &block[..length])),
                &[(b"tb", None)],
                &mut |_, _, _| {},
                &mut |_, _| Ok(()),
            );
            assert!(told.is_err());
        }
    }
}
