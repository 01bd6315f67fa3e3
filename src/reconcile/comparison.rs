//! The judgement: our cells beside theirs, what differs by more than the tolerance, and why.
//!
//! In: cells of both sides. Out: sums over all cells that are judged, and a row for each quantity that does not agree.
//! Never: a judgement of a bucket that is still open, or of a number that one side does not have; a reason that is
//! guessed. Memory is bounded whatever the books hold: rows beyond a number are counted.

use super::cells::{Book, CellKey, Cells, OwnCell, TheirCell, Width};
use super::line_item::PriceDifference;
use super::quantity::Quantity;
use crate::price::PriceTable;
use std::collections::{BTreeMap, BTreeSet};

/// Rows that are kept, prices, and models of which it is told what was spent beside the proxy.
const ROWS_MAX: usize = 10_000;
const PRICES_MAX: usize = 1_000;
const BESIDE_MAX: usize = 1_000;
/// Their seconds are whole ones, for each request at worst.
const SECOND_US: u64 = 1_000_000;
const FEMTO_PER_NANO: u64 = 1_000_000;

/// What a quantity of a cell comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Differs,
    /// It cannot be known.
    Unknown,
    /// The books may still change.
    Open,
    Agrees,
}

/// Why a quantity does not agree, or is not judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The bucket is younger than the books' delay.
    Open,
    /// A batch counts here when it is looked at, there when it runs.
    BatchTime,
    NotKnownHere,
    NotKnownThere,
    /// All of it was spent beside the proxy.
    OnlyThere,
    /// So many requests more are there than here: spent beside the proxy.
    Beside(u64),
    /// Nothing of it is there.
    OnlyHere,
    /// So many requests fewer are there.
    Fewer(u64),
    /// So many of our requests are estimated, which explains so much of the difference, if that is known.
    Estimated(u64, Option<u64>),
    /// The usage of so many of our requests is not known.
    Unknown(u64),
    /// So many of our requests have no price.
    Unpriced(u64),
    /// The price of this line of the costs is another.
    Price(Box<str>),
    /// The usage that it is for differs already.
    Usage,
    NoneKnown,
}

/// One quantity of a cell that does not agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub key: CellKey,
    pub quantity: Quantity,
    /// `None` where it is not known.
    pub ours: Option<u64>,
    pub theirs: Option<u64>,
    pub verdict: Verdict,
    pub reasons: Vec<Reason>,
}

impl Row {
    /// How much more is there than here, as far as both are known.
    pub fn difference(&self) -> i128 {
        i128::from(self.theirs.unwrap_or(0)) - i128::from(self.ours.unwrap_or(0))
    }
}

/// Sums of a quantity over all cells that are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub ours: u64,
    pub theirs: u64,
    /// Of the differences, without their signs: what is too much in one cell does not make up for another's too little.
    pub gap: u64,
}

impl Total {
    /// The difference as a part of the whole.
    pub fn ratio(&self) -> f64 {
        let whole = self.ours.max(self.theirs);
        if whole == 0 { 0.0 } else { self.gap as f64 / whole as f64 }
    }

    /// Adds another sum.
    pub fn add(&mut self, other: &Self) {
        self.ours = self.ours.saturating_add(other.ours);
        self.theirs = self.theirs.saturating_add(other.theirs);
        self.gap = self.gap.saturating_add(other.gap);
    }
}

/// What was spent with the key beside the proxy on a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpentBeside {
    /// The first bucket with it, seconds since the Unix epoch.
    pub since: u64,
    /// So much more is there than here: requests, calls, or nano-dollars in the book of costs.
    pub amount: u64,
}

/// How cells are judged.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'p> {
    /// Millionths of an amount by which both may differ.
    pub tolerance_ppm: u64,
    /// A bucket is closed that has ended by then, seconds since the Unix epoch.
    pub closed_before: u64,
    pub width: Width,
    pub prices: &'p PriceTable,
}

/// What has been compared so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    pub totals: BTreeMap<Quantity, Total>,
    /// Quantities of cells, by what they came to.
    pub counts: BTreeMap<Verdict, u64>,
    pub rows: Vec<Row>,
    pub rows_left_out: u64,
    /// By the start of the day (seconds since the Unix epoch) and the name of the line.
    pub prices: BTreeMap<(u64, Box<str>), PriceDifference>,
    pub beside: BTreeMap<(Book, Box<str>), SpentBeside>,
}

/// One cell of both sides.
struct Pair<'c> {
    key: &'c CellKey,
    own: &'c OwnCell,
    theirs: &'c TheirCell,
    /// Which sides have it.
    is_here: bool,
    is_there: bool,
    /// The most that a call of a tool may cost, nano-dollars.
    fee: u64,
}

impl Pair<'_> {
    /// What of a quantity no other bucket, other key or rounding can account for: how much more there is there.
    fn gap(&self, quantity: Quantity) -> i128 {
        let known = |of: &super::Amounts| i128::from(of.at_least(quantity));
        let (ours, theirs) = (known(&self.own.amounts), known(&self.theirs.amounts));
        let requests =
            self.own.amounts.at_least(Quantity::Requests).max(self.theirs.amounts.at_least(Quantity::Requests));
        let rounding = match quantity {
            Quantity::Seconds => requests.saturating_mul(SECOND_US),
            Quantity::Cost => {
                let items = self.theirs.items.iter().map(super::line_item::LineItem::rounding);
                items.fold(requests, u64::saturating_add)
            }
            _ => 0,
        };
        let fees = |calls: u64| if quantity == Quantity::Cost { i128::from(calls) * i128::from(self.fee) } else { 0 };
        let (out, back) = (fees(self.own.fees_out), fees(self.own.fees_in));
        let least = ours - known(&self.own.leaving) - out - i128::from(rounding);
        let most = ours + known(&self.own.arriving) + known(&self.theirs.foreign) + back + i128::from(rounding);
        (theirs - most).max(0) + (theirs - least).min(0)
    }
}

impl Comparison {
    /// True where all that is judged agrees.
    pub fn agrees(&self) -> bool {
        self.counted(Verdict::Differs) == 0
    }

    /// How many quantities of cells came to this.
    pub fn counted(&self, verdict: Verdict) -> u64 {
        self.counts.get(&verdict).copied().unwrap_or(0)
    }

    /// Judges all cells of a range that no other call has.
    pub fn judge(&mut self, judge: &Judge<'_>, ours: &Cells<OwnCell>, theirs: &Cells<TheirCell>) {
        let keys: BTreeSet<&CellKey> =
            ours.iter().map(|(key, _)| key).chain(theirs.iter().map(|(key, _)| key)).collect();
        let (no_own, no_theirs) = (OwnCell::default(), TheirCell::default());
        let fee = judge.prices.dearest_fee().div_ceil(FEMTO_PER_NANO);
        let (mut differing, mut batches, mut costs) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for key in keys {
            let (own, their) = (ours.get(key), theirs.get(key));
            let pair = Pair {
                key,
                own: own.unwrap_or(&no_own),
                theirs: their.unwrap_or(&no_theirs),
                is_here: own.is_some_and(|own| own.amounts != super::Amounts::default()),
                is_there: their.is_some(),
                fee,
            };
            if key.book == Book::Costs {
                costs.push(pair);
                continue;
            }
            let of_day = (Width::Day.start(key.start), &*key.model);
            match self.usage(judge, &pair) {
                Verdict::Differs => drop(differing.insert(of_day)),
                Verdict::Unknown if key.book == Book::Batches => drop(batches.insert(of_day)),
                _ => {}
            }
        }
        for pair in costs {
            let of_day = (pair.key.start, &*pair.key.model);
            self.cost(judge, &pair, differing.contains(&of_day), batches.contains(&of_day));
        }
    }

    /// Judges a cell of usage: the worst that a quantity came to.
    fn usage(&mut self, judge: &Judge<'_>, pair: &Pair<'_>) -> Verdict {
        let requests_gap = pair.gap(Quantity::Requests);
        let first = pair.key.book.quantities()[0];
        let mut worst = Verdict::Agrees;
        for &quantity in pair.key.book.quantities() {
            let gap = pair.gap(quantity);
            let reasons = || {
                let mut reasons = Vec::new();
                let count = u64::try_from(requests_gap.unsigned_abs()).unwrap_or(u64::MAX);
                match gap > 0 {
                    true if !pair.is_here => reasons.push(Reason::OnlyThere),
                    true if requests_gap > 0 => reasons.push(Reason::Beside(count)),
                    false if !pair.is_there => reasons.push(Reason::OnlyHere),
                    false if requests_gap < 0 => reasons.push(Reason::Fewer(count)),
                    _ => {}
                }
                reasons.extend(uncertain(pair.own, quantity, gap));
                reasons
            };
            let is_batch = pair.key.book == Book::Batches;
            let verdict = self.settle(judge, pair, (quantity, gap, is_batch), reasons);
            worst = worst.min(verdict);
            if verdict == Verdict::Differs && quantity == first && gap > 0 {
                self.spent_beside(pair.key, gap);
            }
        }
        worst
    }

    fn cost(&mut self, judge: &Judge<'_>, pair: &Pair<'_>, has_other_usage: bool, has_batch: bool) {
        let gap = pair.gap(Quantity::Cost);
        let items = pair.theirs.items.iter();
        let differences: Vec<_> =
            items.filter_map(|item| item.price_difference(judge.prices, judge.tolerance_ppm)).collect();
        let reasons = || {
            let mut reasons: Vec<_> = differences.iter().map(|of| Reason::Price(of.item.clone())).collect();
            let explained: i128 = differences.iter().map(|of| of.explains).sum();
            let left = gap - explained;
            if !differences.is_empty() && left.unsigned_abs() <= allowance(judge, pair, Quantity::Cost) {
                return reasons;
            }
            let others = [
                has_other_usage.then_some(Reason::Usage),
                (gap > 0 && !pair.is_here && !has_other_usage).then_some(Reason::OnlyThere),
                (gap < 0 && !pair.is_there).then_some(Reason::OnlyHere),
                (gap > 0 && pair.own.unpriced > 0).then_some(Reason::Unpriced(pair.own.unpriced)),
            ];
            reasons.extend(others.into_iter().flatten());
            reasons.extend(uncertain(pair.own, Quantity::Cost, gap));
            reasons
        };
        let verdict = self.settle(judge, pair, (Quantity::Cost, gap, has_batch), reasons);
        if verdict == Verdict::Open {
            return;
        }
        if verdict == Verdict::Differs && gap > 0 && !pair.is_here {
            self.spent_beside(pair.key, gap);
        }
        for of in differences {
            let key = (pair.key.start, of.item.clone());
            if self.prices.len() < PRICES_MAX || self.prices.contains_key(&key) {
                self.prices.insert(key, of);
            }
        }
    }

    /// Adds a quantity of a cell, with a row where it does not agree. The day of a batch's usage is not known.
    fn settle(
        &mut self,
        judge: &Judge<'_>,
        pair: &Pair<'_>,
        (quantity, gap, is_batch): (Quantity, i128, bool),
        reasons: impl FnOnce() -> Vec<Reason>,
    ) -> Verdict {
        let (ours, theirs) = (pair.own.amounts.get(quantity), pair.theirs.amounts.get(quantity));
        let end = pair.key.start + pair.key.book.width(judge.width).seconds();
        let is_nothing = |amount: Option<u64>| amount == Some(0);
        let (verdict, reasons) = match (ours, theirs) {
            _ if end > judge.closed_before => (Verdict::Open, vec![Reason::Open]),
            // Nothing on one side is no difference from what the other cannot say.
            (None, other) | (other, None) if is_nothing(other) => return Verdict::Agrees,
            (None, _) => (Verdict::Unknown, vec![Reason::NotKnownHere]),
            (_, None) => (Verdict::Unknown, vec![Reason::NotKnownThere]),
            _ if gap.unsigned_abs() <= allowance(judge, pair, quantity) => (Verdict::Agrees, Vec::new()),
            _ if is_batch => (Verdict::Unknown, vec![Reason::BatchTime]),
            _ => (Verdict::Differs, reasons()),
        };
        if verdict == Verdict::Open && ours == theirs {
            return verdict;
        }
        *self.counts.entry(verdict).or_default() += 1;
        if matches!(verdict, Verdict::Agrees | Verdict::Differs) {
            let total = Total {
                ours: ours.unwrap_or(0),
                theirs: theirs.unwrap_or(0),
                gap: u64::try_from(gap.unsigned_abs()).unwrap_or(u64::MAX),
            };
            self.totals.entry(quantity).or_default().add(&total);
        }
        if verdict != Verdict::Agrees {
            let reasons = if reasons.is_empty() { vec![Reason::NoneKnown] } else { reasons };
            self.add_row(Row { key: pair.key.clone(), quantity, ours, theirs, verdict, reasons });
        }
        verdict
    }

    /// Of too many rows those stay that differ.
    fn add_row(&mut self, row: Row) {
        if self.rows.len() < ROWS_MAX {
            return self.rows.push(row);
        }
        self.rows_left_out += 1;
        if row.verdict == Verdict::Differs
            && let Some(place) = self.rows.iter().position(|other| other.verdict != Verdict::Differs)
        {
            self.rows[place] = row;
        }
    }

    fn spent_beside(&mut self, key: &CellKey, gap: i128) {
        let name = (key.book, key.model.clone());
        if self.beside.len() >= BESIDE_MAX && !self.beside.contains_key(&name) {
            return;
        }
        let of = self.beside.entry(name).or_insert(SpentBeside { since: key.start, amount: 0 });
        of.since = of.since.min(key.start);
        of.amount = of.amount.saturating_add(u64::try_from(gap).unwrap_or(u64::MAX));
    }
}

/// By how much an amount may differ.
fn allowance(judge: &Judge<'_>, pair: &Pair<'_>, quantity: Quantity) -> u128 {
    let larger = pair.own.amounts.at_least(quantity).max(pair.theirs.amounts.at_least(quantity));
    u128::from(larger) * u128::from(judge.tolerance_ppm) / 1_000_000
}

/// What of a difference our own uncertainty may explain.
fn uncertain(own: &OwnCell, quantity: Quantity, gap: i128) -> impl Iterator<Item = Reason> {
    let counts = quantity != Quantity::Requests;
    // What we took to be used may not have been; what was used may be more than that, nobody knows how much.
    let explains = (gap < 0).then(|| {
        let gap = u64::try_from(gap.unsigned_abs()).unwrap_or(u64::MAX);
        own.estimates.at_least(quantity).min(gap)
    });
    let estimated = (counts && own.estimated > 0).then_some(Reason::Estimated(own.estimated, explains));
    let unknown = (counts && own.unknown > 0).then_some(Reason::Unknown(own.unknown));
    [estimated, unknown].into_iter().flatten()
}
