//! The numbers that came on one stream, held as ranges: mostly few, for
//! numbers come mostly in order.

use std::collections::BTreeMap;

/// Most ranges that are remembered; beyond it the lowest are forgotten, and
/// their numbers are told of once more when they are gone.
const RANGES_MAX: usize = 4_096;

/// A set of numbers.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a number.
    pub(super) fn insert(&mut self, number: u64) {
        if self.contains(number) {
            return;
        }
        let end = self.0.remove(&(number + 1)).unwrap_or(number);
        match self.0.range_mut(..number).next_back() {
            Some((_, last)) if *last + 1 == number => *last = end,
            _ => {
                self.0.insert(number, end);
            }
        }
        if self.0.len() > RANGES_MAX {
            self.0.pop_first();
        }
    }

    /// Whether a number was added.
    pub(super) fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// Forgets the numbers up to this one.
    pub(super) fn forget_to(&mut self, number: u64) {
        while let Some(first) = self.0.first_entry() {
            let (start, last) = (*first.key(), *first.get());
            if start > number {
                break;
            }
            first.remove();
            if last > number {
                self.0.insert(number + 1, last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_any_order_become_few_ranges() {
        let mut ranges = Ranges::default();
        for number in [5, 1, 3, 2, 9, 4, 5] {
            ranges.insert(number);
        }
        assert_eq!(ranges.0, BTreeMap::from([(1, 5), (9, 9)]));
        assert!(ranges.contains(1) && ranges.contains(5) && ranges.contains(9));
        assert!(!ranges.contains(0) && !ranges.contains(6) && !ranges.contains(10));
        ranges.forget_to(3);
        assert_eq!(ranges.0, BTreeMap::from([(4, 5), (9, 9)]));
        ranges.forget_to(9);
        assert!(ranges.0.is_empty());
    }

    #[test]
    fn scattered_numbers_stay_bounded() {
        let mut ranges = Ranges::default();
        (0..20_000).for_each(|number| ranges.insert(2 * number));
        assert_eq!(ranges.0.len(), RANGES_MAX);
        assert!(ranges.contains(39_998) && !ranges.contains(0));
    }
}
