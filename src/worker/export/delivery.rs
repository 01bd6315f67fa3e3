//! One batch, as far as the server takes it: a refusal is halved until the lines that it is about are found.
//!
//! In: a number of lines, and what sends some of them. Out: how many are done with, which of them were refused, and
//! what is in the way of the rest. Never: a line given up that another setting or another day might save.
//!
//! A server says of a whole batch that it cannot read it. It is a line's own fault only if other lines are taken:
//! where none is, the address, a setting or something between is wrong, and nothing is set aside.

use super::influx_client::Verdict;
use crate::worker::outbound::Trouble;
use std::ops::Range;

/// A line that the server will never take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its place in the batch.
    pub line: usize,
    /// The server's words.
    pub why: String,
}

/// What came of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Lines from the first on that are done with: the server has them, or they are among `refused`.
    pub done: usize,
    /// Those of them that it refused, in order.
    pub refused: Vec<Refused>,
    /// It refused all lines, so that nothing is done with.
    pub refuses_all: bool,
    /// Why there are lines that are not done with.
    pub trouble: Option<Trouble>,
}

/// Sends `lines` lines, all together if the server takes them so. `post` sends a range of them.
pub fn deliver(lines: usize, post: &mut dyn FnMut(Range<usize>) -> Verdict) -> Delivery {
    let mut sending = Sending { post, first_taken: None, is_final: false, delivery: Delivery::default() };
    sending.delivery.trouble = sending.send(0..lines).err();
    if let Some(first_taken) = sending.first_taken {
        sending.ask_again(first_taken);
        return sending.delivery;
    }
    let Sending { is_final, mut delivery, .. } = sending;
    if is_final || delivery.refused.is_empty() {
        return delivery;
    }
    let why = delivery.refused.swap_remove(0).why;
    let refuses_all = delivery.trouble.is_none();
    let trouble = delivery.trouble.unwrap_or_else(|| Trouble::new(format!("it refuses every line: {why}")));
    Delivery { refuses_all, trouble: Some(trouble), ..Delivery::default() }
}

struct Sending<'a> {
    post: &'a mut dyn FnMut(Range<usize>) -> Verdict,
    /// The first line that the server took.
    first_taken: Option<usize>,
    /// The server said of a line by itself that it can never be stored.
    is_final: bool,
    delivery: Delivery,
}

impl Sending<'_> {
    /// In order, so that all before a failure is done with.
    fn send(&mut self, lines: Range<usize>) -> Result<(), Trouble> {
        match (self.post)(lines.clone()) {
            Verdict::Taken => _ = self.first_taken.get_or_insert(lines.start),
            Verdict::Trouble(trouble) => return Err(trouble),
            Verdict::Refused { .. } if lines.len() > 1 => {
                let middle = lines.start + lines.len() / 2;
                self.send(lines.start..middle)?;
                return self.send(middle..lines.end);
            }
            Verdict::Refused { why, is_final } => {
                self.is_final |= is_final;
                self.delivery.refused.push(Refused { line: lines.start, why });
            }
        }
        self.delivery.done = lines.end;
        Ok(())
    }

    /// Sends once more what was refused before the first line was taken: it may be that the server, or what was wrong
    /// about it, was put right only then.
    fn ask_again(&mut self, first_taken: usize) {
        for again in std::mem::take(&mut self.delivery.refused) {
            let verdict = if again.line < first_taken {
                (self.post)(again.line..again.line + 1)
            } else {
                Verdict::Refused { why: again.why, is_final: false }
            };
            match verdict {
                Verdict::Taken => {}
                Verdict::Refused { why, .. } => self.delivery.refused.push(Refused { line: again.line, why }),
                Verdict::Trouble(trouble) => {
                    self.delivery.done = again.line;
                    self.delivery.trouble = Some(trouble);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn refusal(is_final: bool) -> Verdict {
        Verdict::Refused { why: "bad".into(), is_final }
    }

    proptest! {
        /// Whatever lines are poison, and whenever the server fails: exactly the poison among what is done is set
        /// aside, all else of it was taken, and nothing of the rest is given up.
        #[test]
        fn exactly_the_poison_is_set_aside(
            lines in 1_usize..200,
            poison in prop::collection::btree_set(0_usize..200, 0..12),
            fails_at in prop::option::of(0_usize..60),
            is_final: bool,
        ) {
            let (mut taken, mut posts) = (BTreeSet::new(), 0);
            let delivery = deliver(lines, &mut |range| {
                posts += 1;
                if Some(posts - 1) == fails_at {
                    return Verdict::Trouble(Trouble::new("down".into()));
                }
                if poison.range(range.clone()).next().is_some() {
                    return refusal(is_final);
                }
                taken.extend(range);
                Verdict::Taken
            });
            let set_aside: BTreeSet<usize> = delivery.refused.iter().map(|refused| refused.line).collect();
            let expected: BTreeSet<usize> = poison.range(..delivery.done).copied().collect();
            prop_assert_eq!(&set_aside, &expected);
            prop_assert!((0..delivery.done).all(|line| set_aside.contains(&line) || taken.contains(&line)));
            prop_assert_eq!(delivery.trouble.is_none(), delivery.done == lines);
            if taken.is_empty() && !is_final {
                prop_assert_eq!(delivery.done, 0);
            }
            let halvings = usize::BITS - lines.leading_zeros() + 1;
            prop_assert!(posts <= 1 + (2 * halvings as usize + 1) * poison.len());
        }
    }

    /// As when a database is made while a batch is being halved.
    #[test]
    fn what_is_put_right_on_the_way_costs_no_line() {
        for wrong_for in 0..40 {
            let (mut posts, mut taken) = (0, BTreeSet::new());
            let delivery = deliver(16, &mut |range| {
                posts += 1;
                if posts <= wrong_for || range.contains(&9) {
                    return refusal(false);
                }
                taken.extend(range);
                Verdict::Taken
            });
            let all_but_one = (0..16).filter(|&line| line != 9).collect();
            let nothing = (0, BTreeSet::new(), 0);
            let found = (delivery.done, taken, delivery.refused.len());
            assert!(found == (16, all_but_one, 1) || found == nothing, "{wrong_for}: {found:?}");
            assert_eq!(found == nothing, delivery.refuses_all);
        }
    }

    #[test]
    fn a_server_that_refuses_everything_sets_nothing_aside() {
        for lines in [1, 2, 7] {
            let Delivery { done, refused, refuses_all, trouble } = deliver(lines, &mut |_| refusal(false));
            assert_eq!((done, refused, refuses_all), (0, Vec::new(), true));
            assert_eq!(trouble.unwrap().why, "it refuses every line: bad");
        }
        // Older than its retention: it will never take them, and says so.
        let Delivery { done, refused, refuses_all, trouble } = deliver(7, &mut |_| refusal(true));
        assert_eq!((done, refused.len(), refuses_all, trouble), (7, 7, false, None));
    }
}
