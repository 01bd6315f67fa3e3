//! What a purse says to the engine, and what it makes of the answers.

use super::{ANSWER_MAX, AVERAGE_PARTS, Asked, BEAT, IDLE, Purse, REFUSED_MS_MAX, Refused, UNCERTAIN_MS, Wish};
use crate::base::clock::{MILLISECOND, Now, SECOND};
use crate::limit::lease::{Answer, Ask, Kind};
use std::sync::Arc;

impl Purse {
    /// The message that is due: somebody waits, or `is_look` and it is time. `seq` is higher than all before it. `None`
    /// while another is not answered, or there is nothing to say.
    pub fn ask(&mut self, account: &Arc<str>, seq: i64, is_look: bool, now: Now) -> Option<Ask> {
        if self.asked.is_some_and(|asked| now.mono < asked.at.mono + ANSWER_MAX) {
            return None;
        }
        self.give_up_void(now);
        let want = self.want(now);
        let closes = self.is_open && want == 0 && self.is_unwanted(now) && self.held == 0;
        if self.wish.need == 0 && !(is_look && self.is_due(want, closes, now)) {
            return None;
        }
        if self.lease == 0 {
            self.lease = seq;
            (self.granted, self.returned, self.counted) = (0, 0, 0);
            self.return_uncounted();
        }
        self.returned += (self.free() - want.max(self.wish.need)).max(0);
        self.counted = self.counted.min(self.free()).max(0);
        self.told = (self.spent, self.returned);
        (self.is_recalled, self.is_last) = (false, false);
        let Wish { need, least, .. } = self.wish;
        self.asked = Some(Asked { seq, need, closes, at: now });
        Some(Ask {
            account: Arc::clone(account),
            terms: self.terms,
            lease: self.lease,
            opens: !self.is_open,
            seq,
            spent: self.spent,
            returned: self.returned,
            held: self.held,
            want,
            need,
            least,
            closes,
        })
    }

    /// What should be free here: what waits, or what a second takes.
    fn want(&self, now: Now) -> i64 {
        if self.wish.need == 0 && self.is_unwanted(now) {
            return 0;
        }
        let usual = match self.terms.kind {
            Kind::Requests | Kind::Tokens => self.average.saturating_mul((SECOND / BEAT).cast_signed()) / AVERAGE_PARTS,
            Kind::Slots | Kind::Budget => self.average / AVERAGE_PARTS - self.held,
        };
        self.wish.total.max(usual).clamp(0, self.terms.cap)
    }

    /// Nobody uses it, or others need it more.
    fn is_unwanted(&self, now: Now) -> bool {
        self.is_recalled || now.mono >= self.used_at + IDLE
    }

    /// Whether it is time for a message that nobody waits for.
    fn is_due(&self, want: i64, closes: bool, now: Now) -> bool {
        if !self.is_open {
            return self.spent != 0; // a debt, or what a ledger has spent, that the engine has not heard of
        }
        let free = self.free();
        let is_in_use = free > 0 || self.terms.kind == Kind::Slots && self.spent > 0;
        let is_aging = self.terms.kind.expires() && is_in_use && now.mono >= self.renew_at;
        let ends = closes && (self.terms.kind.expires() || self.told != (self.spent, self.returned));
        let runs_low = want > 0 && free < want / 2;
        ends || is_aging || runs_low || free < 0 || free > want || self.returned > self.told.1
    }

    /// The engine's answer to the message with this number; `lasts` is a lease's time, nanoseconds.
    pub fn answered(&mut self, seq: i64, answer: Answer, lasts: u64, now: Now) {
        let Some(asked) = self.asked.take_if(|asked| asked.seq == seq) else { return };
        (self.wish, self.share) = (Wish::default(), None);
        (self.available, self.others) = (answer.available, answer.others);
        let Some(granted) = answer.granted else { return self.forgotten() };
        if asked.closes && self.terms.kind.expires() {
            return self.closed();
        }
        (self.is_open, self.granted) = (true, granted);
        self.counted = granted - self.told.0 - self.told.1;
        self.return_uncounted(); // it paid for a debt that requests have given back since
        let [valid, fresh] = [lasts - lasts / 500, lasts * 3 / 5];
        self.void_at = Now { mono: asked.at.mono + valid, unix: asked.at.unix.saturating_add(valid) };
        self.renew_at = asked.at.mono + fresh;
        self.give_up_void(now);
        let lack = asked.need - self.free();
        self.is_last = lack > 0 && answer.wait_ms == 0;
        self.refused = None;
        if answer.wait_ms != 0 {
            let wait = if answer.wait_ms > 0 { answer.wait_ms.min(REFUSED_MS_MAX) } else { UNCERTAIN_MS };
            self.refused = Some(Refused { lack, until: now.mono + wait.unsigned_abs() * MILLISECOND });
        }
    }

    /// No answer comes to the message with this number; true where one was awaited. Who waits is asked for again at the
    /// next look.
    pub fn unanswered(&mut self, seq: i64) -> bool {
        self.asked.take_if(|asked| asked.seq == seq).is_some()
    }

    /// Another node needs what is free here.
    pub fn recall(&mut self) {
        self.is_recalled = true;
    }

    /// The engine does not know the lease: it is another engine, or has lost some of its memory. What was spent is a
    /// debt of the next one; of what decays, no more than can be out at once.
    fn forgotten(&mut self) {
        if self.terms.kind.decays() {
            self.spent = self.spent.clamp(0, self.terms.cap);
        }
        self.end_lease();
    }

    fn closed(&mut self) {
        if self.terms.kind.decays() {
            // What requests have given back since is flowing back at the engine: it is not spent again.
            self.spent = (self.spent - self.told.0).max(0);
        }
        self.end_lease();
    }

    fn end_lease(&mut self) {
        (self.granted, self.returned, self.counted) = (0, 0, 0);
        (self.lease, self.is_open) = (0, false);
        self.return_uncounted();
        (self.void_at, self.refused) = (Now::default(), None);
    }
}
