//! Records in a file that may end anywhere: each with its length and a checksum, so that what was only half written, or
//! decayed on the disk, is told from what is whole. Nothing here does I/O.
//!
//! A frame is `length: u32, checksum: u32, record`, little endian. The checksum covers length and record and starts from
//! the seed of the file, so that a record that happens to contain a frame is not taken for one.

use std::ops::Range;

/// Bytes of a frame beside its record.
pub const OVERHEAD: usize = 8;
/// No record is longer. What claims to be is no frame.
pub const LONGEST: usize = 4 << 20;

/// What a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Records that are whole, one after the other.
    pub records: Vec<u8>,
    pub count: usize,
    /// What was a record once, or several. It is to be kept for somebody to look at.
    pub damaged: Vec<Range<usize>>,
    /// A record at the end that was never written to its end. Nobody was told that it is safe.
    pub torn: Option<Range<usize>>,
}

/// The seed of a file, from its name.
pub fn seed(name: &str) -> u32 {
    crc32fast::hash(name.as_bytes())
}

/// Appends a frame with `record` in it, which is not empty and not longer than [`LONGEST`].
pub fn push(seed: u32, record: &[u8], into: &mut Vec<u8>) {
    let length = u32::try_from(record.len()).expect("no record is so long").to_le_bytes();
    into.extend_from_slice(&length);
    into.extend_from_slice(&checksum(seed, length, record).to_le_bytes());
    into.extend_from_slice(record);
}

/// Finds every record that is whole, also behind one that is not.
pub fn scan(seed: u32, file: &[u8]) -> Scan {
    let mut scan = Scan { records: Vec::with_capacity(file.len()), ..Scan::default() };
    let mut at = 0;
    while at < file.len() {
        if let Some(record) = record_at(seed, file, at) {
            scan.records.extend_from_slice(record);
            scan.count += 1;
            at += OVERHEAD + record.len();
            continue;
        }
        match (at + 1..file.len()).find(|next| record_at(seed, file, *next).is_some()) {
            Some(next) => {
                scan.damaged.push(at..next);
                at = next;
            }
            None => {
                let rest = at..file.len();
                if is_torn(&file[rest.clone()]) {
                    scan.torn = Some(rest);
                } else {
                    scan.damaged.push(rest);
                }
                break;
            }
        }
    }
    scan
}

fn record_at(seed: u32, file: &[u8], at: usize) -> Option<&[u8]> {
    let (length, rest) = file[at..].split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let record = rest.get(..length_of(*length)?)?;
    (u32::from_le_bytes(*sum) == checksum(seed, *length, record)).then_some(record)
}

fn length_of(bytes: [u8; 4]) -> Option<usize> {
    let length = usize::try_from(u32::from_le_bytes(bytes)).ok()?;
    (1..=LONGEST).contains(&length).then_some(length)
}

fn checksum(seed: u32, length: [u8; 4], record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&length);
    hasher.update(record);
    hasher.finalize()
}

/// Whether the rest of a file is the beginning of a frame, or space that was made for one and never filled.
fn is_torn(rest: &[u8]) -> bool {
    let unfinished = match rest.first_chunk::<4>() {
        Some(length) => length_of(*length).is_some_and(|length| rest.len() < OVERHEAD + length),
        None => true,
    };
    unfinished || rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED: u32 = 7;

    fn file(records: &[Vec<u8>]) -> Vec<u8> {
        let mut file = Vec::new();
        for record in records {
            push(SEED, record, &mut file);
        }
        file
    }

    fn records() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..20)
    }

    proptest! {
        #[test]
        fn what_was_written_is_found(records in records()) {
            let scan = scan(SEED, &file(&records));
            prop_assert_eq!(scan.count, records.len());
            prop_assert_eq!(scan.records, records.concat());
            prop_assert!(scan.damaged.is_empty() && scan.torn.is_none());
        }

        #[test]
        fn a_file_cut_anywhere_has_every_record_before_the_cut(records in records(), cut in any::<prop::sample::Index>()) {
            let whole = file(&records);
            let cut = cut.index(whole.len() + 1);
            let mut end = 0;
            let kept: Vec<_> = records.iter().take_while(|record| { end += OVERHEAD + record.len(); end <= cut }).cloned().collect();
            let scan = scan(SEED, &whole[..cut]);
            prop_assert_eq!(&scan.records, &kept.concat());
            prop_assert!(scan.damaged.is_empty());
            prop_assert_eq!(scan.torn.map_or(cut, |torn| torn.start), file(&kept).len());
        }

        #[test]
        fn space_that_was_never_filled_is_no_record(records in records(), zeros in 1_usize..5_000) {
            let mut file = file(&records);
            let end = file.len();
            file.resize(end + zeros, 0);
            let scan = scan(SEED, &file);
            prop_assert_eq!(scan.count, records.len());
            prop_assert_eq!(scan.torn, Some(end..end + zeros));
        }

        #[test]
        fn a_damaged_byte_costs_one_record_and_leaves_it_to_be_looked_at(
            records in records(), place in any::<prop::sample::Index>(), change in 1_u8..,
        ) {
            prop_assume!(!records.is_empty());
            let mut file = file(&records);
            let place = place.index(file.len());
            file[place] ^= change;
            let mut start = 0;
            let hit = records.iter().position(|record| { start += OVERHEAD + record.len(); place < start }).unwrap();
            let others: Vec<_> = records.iter().enumerate().filter(|(index, _)| *index != hit).map(|(_, record)| record.clone()).collect();
            let scan = scan(SEED, &file);
            prop_assert_eq!(scan.records, others.concat());
            let lost: Vec<_> = scan.damaged.into_iter().chain(scan.torn).collect();
            prop_assert_eq!(lost.len(), 1);
            prop_assert!(lost[0].contains(&place));
            prop_assert_eq!(lost[0].len(), OVERHEAD + records[hit].len());
        }

        #[test]
        fn garbage_is_never_a_record(bytes in prop::collection::vec(any::<u8>(), 0..5_000)) {
            prop_assert_eq!(scan(SEED, &bytes).count, 0);
        }
    }

    #[test]
    fn a_frame_of_another_file_is_none_of_this_one() {
        let other = file(&[b"forged".to_vec()]);
        let mut mine = Vec::new();
        push(SEED + 1, &other, &mut mine);
        mine[5] ^= 1;
        let scan = scan(SEED + 1, &mine);
        assert_eq!((scan.count, scan.damaged.len()), (0, 1));
    }
}
