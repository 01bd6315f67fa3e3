//! What a record counts in sums: its own numbers, less what a correction takes back.

use super::record::{Record, Usage};

impl Record {
    /// What it counts of a number: less than nothing where a correction takes back.
    pub fn counted(&self, number: impl Fn(&Usage) -> u64) -> i128 {
        let less = self.correction.as_ref().map_or(0, |correction| number(&correction.less));
        i128::from(number(&self.usage)) - i128::from(less)
    }

    /// The same of its cost, nano-dollars; `None` where that is not known or, of a correction, does not change.
    pub fn counted_nano_usd(&self) -> Option<i128> {
        let less = self.correction.as_ref().map_or(0, |correction| correction.less_nano_usd);
        self.cost_nano_usd.map(|nano_usd| i128::from(nano_usd) - i128::from(less))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::record::Correction;

    #[test]
    fn a_correction_may_be_less_than_nothing() {
        let usage = |input_tokens, output_tokens| Usage { input_tokens, output_tokens, ..Usage::default() };
        let mut record = Record { usage: usage(0, 10), cost_nano_usd: Some(u64::MAX), ..Record::default() };
        assert_eq!(record.counted_nano_usd(), Some(u64::MAX.into()));
        record.cost_nano_usd = Some(0);
        record.correction = Some(Box::new(Correction { less: usage(210, 0), less_nano_usd: 7, gives_price: false }));
        assert_eq!(
            (record.counted(|usage| usage.input_tokens), record.counted(|usage| usage.output_tokens)),
            (-210, 10)
        );
        assert_eq!(record.counted_nano_usd(), Some(-7));
        record.cost_nano_usd = None;
        assert_eq!(record.counted_nano_usd(), None, "the price of the truth is not known: that of the estimate stays");
    }
}
