//! Bounded tables behind the metrics: label values to small numbers, and label sets to cells.
//!
//! Whatever names peers invent, neither grows past its limit: what comes later is counted under [`OTHER`].
//!
//! A scrape takes a copy of a table without copying its cells: [`Cells`] shares the pieces that the table consists of,
//! and a piece is copied when a cell of it is next counted in.

use crate::base::table::Table;
use std::hash::Hash;
use std::sync::Arc;

/// The number of the label value `_other`, which stands for all that found no place.
pub const OTHER: u32 = 0;

/// Values of one label, numbered in the order of their first use.
#[derive(Debug)]
pub struct Labels {
    numbers: Table<Arc<str>, u32>,
    values: Vec<Arc<str>>,
    max: usize,
}

impl Labels {
    /// Room for `max` values beside `_other`.
    pub fn new(max: usize) -> Self {
        let mut labels = Self { numbers: Table::default(), values: Vec::new(), max };
        // Registered like any other, so that a user who is called `_other` does not make a second series of that name.
        labels.push("_other");
        labels
    }

    /// The number of a value, [`OTHER`] once the table is full. Allocates on a value's first use only.
    pub fn number(&mut self, value: &str) -> u32 {
        match self.numbers.get(value) {
            Some(&number) => number,
            None if self.values.len() <= self.max => self.push(value),
            None => OTHER,
        }
    }

    /// The number of a value, as long as half of the places are free.
    pub fn number_early(&mut self, value: &str) -> Option<u32> {
        match self.find(value) {
            None if self.values.len() <= self.max / 2 => Some(self.push(value)),
            number => number,
        }
    }

    /// The number of a value that has one.
    pub fn find(&self, value: &str) -> Option<u32> {
        self.numbers.get(value).copied()
    }

    /// True where a new value would find no place.
    pub fn is_full(&self) -> bool {
        self.values.len() > self.max
    }

    /// The values by number.
    pub fn values(&self) -> &[Arc<str>] {
        &self.values
    }

    fn push(&mut self, value: &str) -> u32 {
        let number = u32::try_from(self.values.len()).expect("a label has fewer than 2^32 values");
        let value: Arc<str> = value.into();
        self.values.push(Arc::clone(&value));
        self.numbers.insert(value, number);
        number
    }
}

/// Cells in one piece of a table: so many are copied at most for one that is counted in.
const PIECE: usize = 64;

/// A cell for each label set, in the order of their first use.
#[derive(Debug)]
pub struct Series<K: Eq + Hash, V> {
    places: Table<K, usize>,
    cells: Cells<K, V>,
    max: usize,
}

/// The cells of a table at one instant, in pieces of [`PIECE`], the last of which may be shorter.
#[derive(Clone, Debug)]
pub struct Cells<K, V>(Vec<Arc<Vec<(K, V)>>>);

impl<K, V> Cells<K, V> {
    pub fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.0.iter().flat_map(|piece| piece.iter())
    }
}

impl<K: Copy + Eq + Hash, V: Clone + Default> Series<K, V> {
    /// Room for `max` label sets, beside those of the overflow.
    pub fn new(max: usize) -> Self {
        Self { places: Table::default(), cells: Cells(Vec::new()), max }
    }

    /// The cell of `key`, or, when that would be one too many, of `overflow`. The caller's overflow keys are few.
    pub fn cell(&mut self, key: K, overflow: K) -> &mut V {
        let place = match self.places.get(&key) {
            Some(&place) => place,
            None => self.place_of_new(if self.places.len() < self.max { key } else { overflow }),
        };
        &mut Arc::make_mut(&mut self.cells.0[place / PIECE])[place % PIECE].1
    }

    /// The cell of `key`, as long as half of the places are free.
    pub fn cell_early(&mut self, key: K) -> Option<&mut V> {
        let has_place = self.places.get(&key).is_some() || self.places.len() < self.max / 2;
        has_place.then(|| self.cell(key, key))
    }

    /// Every label set with its cell, as they are now.
    pub fn cells(&self) -> Cells<K, V> {
        self.cells.clone()
    }

    fn place_of_new(&mut self, key: K) -> usize {
        if let Some(&place) = self.places.get(&key) {
            return place;
        }
        let place = self.places.len();
        if place.is_multiple_of(PIECE) {
            self.cells.0.push(Arc::default());
        }
        Arc::make_mut(&mut self.cells.0[place / PIECE]).push((key, V::default()));
        self.places.insert(key, place);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_numbers_and_then_run_out() {
        let mut labels = Labels::new(2);
        assert_eq!((labels.number("a"), labels.number("b"), labels.number("c")), (1, 2, OTHER));
        assert_eq!((labels.find("b"), labels.find("c"), labels.is_full()), (Some(2), None, true));
        assert_eq!((labels.number("b"), labels.number("_other"), labels.number("a")), (2, OTHER, 1));
        let mut labels = Labels::new(4);
        assert_eq!(["a", "b", "c", "b"].map(|value| labels.number_early(value)), [Some(1), Some(2), None, Some(2)]);
        assert_eq!(labels.values().iter().map(|value| &**value).collect::<Vec<_>>(), ["_other", "a", "b"]);
    }

    #[test]
    fn series_fold_what_comes_too_late() {
        let mut series: Series<u32, u64> = Series::new(2);
        for key in [7, 8, 9, 7, 10, 8] {
            *series.cell(key, OTHER) += 1;
        }
        let mut early: Series<u32, u64> = Series::new(4);
        assert_eq!([7, 8, 9, 8].map(|key| early.cell_early(key).is_some()), [true, true, false, true]);
        assert_eq!(series.cells().iter().copied().collect::<Vec<_>>(), [(7, 2), (8, 2), (OTHER, 2)]);
    }

    #[test]
    fn a_copy_stays_as_it_was_and_shares_what_is_not_counted_in() {
        let mut series: Series<usize, u64> = Series::new(10 * PIECE);
        (0..3 * PIECE + 1).for_each(|key| *series.cell(key, 0) += 1);
        let before = series.cells();
        *series.cell(PIECE, 0) += 1;
        *series.cell(3 * PIECE + 1, 0) += 1;
        assert_eq!(before.iter().map(|(_, count)| count).sum::<u64>(), 3 * PIECE as u64 + 1);
        let after = series.cells();
        assert!(after.iter().map(|(key, _)| *key).eq(0..3 * PIECE + 2));
        assert_eq!(after.iter().map(|(_, count)| count).sum::<u64>(), 3 * PIECE as u64 + 3);
        let shared: Vec<bool> = before.0.iter().zip(&after.0).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        assert_eq!(shared, [true, false, true, false]);
    }
}
