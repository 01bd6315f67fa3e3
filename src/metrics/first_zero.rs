//! A counter begins at 0 also for those who scrape it: `increase()` and `rate()` of Prometheus see a difference between
//! two samples, so the value at which a series is first seen counts as nothing.
//!
//! In: what is counted, with the instant; who scrapes, and when. Out: the values that a scrape shows. Never: a value
//! that goes down, or one that depends on who asks: whatever two scrapers are taken for, each sees every series rise.
//!
//! A series reads 0 until every scraper that is about has been shown it twice: twice, as two servers behind one address
//! (a pair for availability) look like one that scrapes twice as often, and as a scrape may be lost on its way. From
//! then on all see its value. So a new series comes two scrapes late, and its first value counts. What is not held: who
//! scrapes less often than [`HOLD`] sees a series for the first time when it has a value already, and of three servers
//! or more that look like one, some may.

use crate::base::clock::{MILLISECOND, SECOND};

/// How long a series reads 0 at most, and how long ago a scraper was last there that is waited for. Prometheus itself
/// takes a series without a sample in five minutes for gone, so nobody scrapes less often.
const HOLD: u32 = Moment::of(5 * 60 * SECOND).0;
/// Scrapers that are waited for. It bounds what those who may read the metrics can make us remember.
const SCRAPERS_MAX: usize = 16;

/// When something was, in tenths of a second since the process started, from 1 on, which is enough for 13 years. The
/// default is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u32);

impl Moment {
    /// After all that was: a scrape up to here shows every value.
    pub const END: Self = Self(u32::MAX);

    /// `mono_ns`: monotonic nanoseconds since the process started.
    pub const fn of(mono_ns: u64) -> Self {
        let tenths = mono_ns / (100 * MILLISECOND);
        Self(if tenths < Self::END.0 as u64 - 1 { tenths as u32 + 1 } else { Self::END.0 - 1 })
    }
}

/// Counters that belong together, each with the moment since which it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters<const N: usize> {
    values: [u64; N],
    since: [Moment; N],
}

// There is no derive for arrays of any length.
impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Self { values: [0; N], since: [Moment::default(); N] }
    }
}

impl<const N: usize> Counters<N> {
    /// Counts, which also with 0 makes the counter be there. Saturates.
    pub fn add(&mut self, place: usize, more: u64, now: Moment) {
        self.values[place] = self.values[place].saturating_add(more);
        if self.since[place] == Moment::default() {
            self.since[place] = now;
        }
    }

    /// The value, 0 where it is not there yet.
    pub fn value(&self, place: usize) -> u64 {
        self.values[place]
    }

    /// What a scrape shows that has the values of series from before `upto`; `None` where it is not there yet.
    pub fn shown(&self, place: usize, upto: Moment) -> Option<u64> {
        let since = self.since[place];
        (since != Moment::default()).then(|| if since < upto { self.values[place] } else { 0 })
    }
}

/// Who scrapes, as far as they are waited for.
#[derive(Debug, Default)]
pub struct Scrapers {
    about: Vec<Scraper>,
    /// Series from before have been shown to all of them.
    shown: Moment,
}

/// One that has a name of its own.
#[derive(Debug)]
struct Scraper {
    name: String,
    last: Moment,
    /// The scrape before the last; never, where there was none.
    before: Moment,
}

impl Scrapers {
    /// Notes a scrape, and says of series from before when it shows the values. Never less than it said before.
    pub fn scraped(&mut self, name: &str, now: Moment) -> Moment {
        let held = Moment(now.0.saturating_sub(HOLD));
        self.about.retain(|scraper| scraper.last >= held);
        let all = self.about.iter().map(|scraper| scraper.before).min().unwrap_or_default();
        self.shown = self.shown.max(all).max(held);
        let has_room = self.about.len() < SCRAPERS_MAX;
        match self.about.iter_mut().find(|scraper| scraper.name == name) {
            Some(scraper) => (scraper.before, scraper.last) = (scraper.last, now),
            None if has_room => {
                self.about.push(Scraper { name: name.to_owned(), last: now, before: Moment::default() });
            }
            None => {}
        }
        self.shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Moment {
        Moment::of(seconds * SECOND)
    }

    /// What each of these scrapes shows of a series that counts 7 at once, `born` seconds after the start.
    fn shown(born: u64, scrapes: &[(u64, &str)]) -> Vec<u64> {
        let mut counters = Counters::<1>::default();
        counters.add(0, 7, at(born));
        let mut scrapers = Scrapers::default();
        let show = |&(seconds, name): &(u64, &str)| counters.shown(0, scrapers.scraped(name, at(seconds))).unwrap();
        scrapes.iter().map(show).collect()
    }

    #[test]
    fn a_series_is_shown_twice_at_0_and_then_at_its_value() {
        assert_eq!(shown(10, &[(15, "a"), (30, "a"), (45, "a"), (60, "a")]), [0, 0, 7, 7]);
        // The same at the pace at which Prometheus scrapes by default.
        assert_eq!(shown(1000, &[(1015, "a"), (1075, "a"), (1135, "a")]), [0, 0, 7]);
    }

    #[test]
    fn of_two_scrapers_none_takes_the_others_zero() {
        let scrapes = [(0, "a"), (7, "b"), (15, "a"), (22, "b"), (30, "a"), (37, "b")];
        assert_eq!(shown(1, &scrapes), [0, 0, 0, 0, 0, 7]);
        // A slow one sees its 0 as well, and holds the others up.
        let scrapes = [(0, "a"), (2, "slow"), (30, "a"), (60, "a"), (62, "slow"), (90, "a"), (122, "slow"), (123, "a")];
        assert_eq!(shown(3, &scrapes), [0, 0, 0, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn two_that_look_like_one_have_a_zero_each() {
        let scrapes = [(0, "pair"), (7, "pair"), (15, "pair"), (22, "pair"), (30, "pair")];
        assert_eq!(shown(8, &scrapes), [0, 0, 0, 0, 7]);
    }

    #[test]
    fn nobody_is_waited_for_for_ever() {
        // Who does not come again.
        let scrapes = [(0, "a"), (1, "once"), (200, "a"), (299, "a"), (302, "a"), (303, "a")];
        assert_eq!(shown(2, &scrapes), [0, 0, 0, 0, 7, 7]);
        // Who comes when all has been there for long.
        assert_eq!(shown(10, &[(311, "late"), (326, "late")]), [7, 7]);
    }

    proptest! {
        /// No series goes down, whoever is taken for whom, and nobody makes us remember more than so many.
        #[test]
        fn what_is_shown_never_goes_down(
            scrapes in prop::collection::vec((0..200u64, 0..40u8), 1..200),
            born in 0..20_000u64,
        ) {
            let (mut scrapers, mut now) = (Scrapers::default(), born);
            let mut counters = Counters::<1>::default();
            counters.add(0, 7, at(born));
            let mut before = 0;
            for (pause, name) in scrapes {
                now += pause;
                let value = counters.shown(0, scrapers.scraped(&name.to_string(), at(now))).unwrap();
                prop_assert!(value >= before);
                prop_assert!(now - born <= 300 || value == 7);
                prop_assert!(scrapers.about.len() <= SCRAPERS_MAX);
                before = value;
            }
        }
    }
}
