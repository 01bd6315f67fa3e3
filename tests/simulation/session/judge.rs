//! The judge of a finished session.

use super::{Ending, GOODBYE, Leaving, Over, Report, Session};
use openai_api_proxy::usage::record::{Endpoint, Outcome, Record, UsageSource};
use std::fmt;

/// What was seen of sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    pub whole: usize,
    pub cut: usize,
    pub left: usize,
    pub refused: usize,
    /// Reports that have a record, and of these those that were read on without a client.
    pub reports: usize,
    pub drained: usize,
    /// Reports whose last byte left before its commit, because it had waited long enough.
    pub let_go: usize,
}

impl fmt::Display for Sessions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whole, cut, left, refused, reports, drained, let_go } = self;
        write!(
            out,
            "sessions: {whole} whole, {cut} cut, {left} left by their client, {refused} refused; {reports} reports, \
             {drained} of them read on, {let_go} let go before their commit"
        )
    }
}

impl Sessions {
    pub fn counts(&self) -> [usize; 7] {
        [self.whole, self.cut, self.left, self.refused, self.reports, self.drained, self.let_go]
    }

    pub fn add(&mut self, other: &Self) {
        let Self { whole, cut, left, refused, reports, drained, let_go } = self;
        for (sum, count) in [whole, cut, left, refused, reports, drained, let_go].into_iter().zip(other.counts()) {
            *sum += count;
        }
    }
}

/// What may have kept sessions from coming to what they were to be.
#[derive(Clone, Copy)]
pub struct Run {
    /// Connecting may have failed.
    pub faults: bool,
    /// It was stopped before its clients were done.
    pub stopped_early: bool,
    /// There may have been no place for a record.
    pub crowded: bool,
    /// Time jumps.
    pub jumps: bool,
    /// Sockets take all that they are given.
    pub roomy: bool,
}

/// Judges one session by its records, in their order.
pub fn judge(session: &Session, records: &[&Record], run: Run) -> Sessions {
    let user = &session.user;
    let is_part = |record: &&&Record| matches!(record.endpoint, Endpoint::Realtime | Endpoint::RealtimeTranscription);
    let parts: Vec<&Record> = records.iter().filter(is_part).copied().collect();
    let whole: Vec<&Record> = records.iter().filter(|record| !is_part(record)).copied().collect();

    assert!(session.answer.starts_with(&session.got), "{user}: the client got other bytes than were sent");
    assert!(session.says.starts_with(&session.heard), "{user}: the server heard other bytes than were said");
    assert!(session.seen <= 1 || !session.switched, "{user}: the handshake was sent again");
    assert!(whole.len() <= 1, "{user} has {} records", whole.len());
    assert!(session.seen == 0 || whole.len() == 1, "{user} reached an upstream and has no record");

    // Exactly one record for each report that passed, in their order.
    let until = |bytes: usize| session.reports.iter().take_while(|report| report.ends_at <= bytes).count();
    let passed = until(session.got.len())..=until(session.sent);
    assert!(passed.contains(&parts.len()), "{user}: {passed:?} reports passed, {} are recorded", parts.len());
    for (report, part) in session.reports.iter().zip(&parts) {
        assert_eq!(part.usage.input_tokens, report.tokens, "{user}: a report is recorded as another");
        let sources = [UsageSource::Reported, UsageSource::Drained];
        assert!(sources.contains(&part.usage_source), "{user}: {:?}", part.usage_source);
    }
    let drained = parts.iter().filter(|part| part.usage_source == UsageSource::Drained).count();
    assert!(drained == 0 || session.over == Some(Over::Left), "{user}: read on although the client is there");
    assert!(!session.ended_early, "{user} ended before its record was committed");
    judge_end(session, &parts, &whole, run);
    let over = |over: Over| usize::from(session.over == Some(over));
    Sessions {
        whole: over(Over::Ended),
        cut: over(Over::Cut),
        left: over(Over::Left),
        refused: over(Over::Refused),
        reports: parts.len(),
        drained,
        let_go: session.reports.iter().filter(|report: &&Report| report.let_go).count(),
    }
}

/// Nothing is lost that came before an orderly end, and nothing else looks like one.
fn judge_end(session: &Session, parts: &[&Record], whole: &[&Record], run: Run) {
    let user = &session.user;
    // A reset takes with it what has not been read.
    let is_lost = session.refused || matches!(session.ending, Ending::Reset(_));
    let could_open = !(run.faults || run.stopped_early || run.crowded || is_lost);
    if could_open && session.leaving != Some(Leaving::AtOnce) {
        assert!(session.switched, "{user} was not taken up: {:?}, {:?}", session.over, session.refusal);
    }
    let Some(over) = session.over else {
        return assert!(run.stopped_early || run.faults, "{user} is not over");
    };
    // A close frame that has begun is one.
    let said_goodbye = session.answer.strip_suffix(&GOODBYE[2..]).is_some_and(|begun| session.sent >= begun.len());
    match over {
        Over::Ended => {
            assert!(matches!(session.ending, Ending::End(_)), "{user} ended, but its server did not end it");
            assert_eq!(session.got.len(), session.ending.at(), "{user} lost bytes before its end");
            let reports = session.reports.iter().filter(|report| report.ends_at <= session.got.len()).count();
            assert_eq!(parts.len(), reports, "{user} lost a report before its end");
            let [record] = whole else { panic!("{user} has no record of its own") };
            let completed = !session.metered || said_goodbye;
            let outcome = if completed { Outcome::Completed } else { Outcome::UpstreamError };
            assert_eq!((record.outcome, record.status), (outcome, 101), "{user}");
        }
        Over::Cut if session.switched => {
            let ended_well = matches!(session.ending, Ending::End(_));
            assert!(!ended_well || run.stopped_early, "{user} was cut although its server ended it");
            let arrives = run.roomy && !run.stopped_early;
            assert!(!arrives || session.got.len() >= session.taken, "{user} lost what had come before it broke off");
        }
        // What was said before leaving arrives, as far as the sockets take it.
        Over::Left if run.roomy && session.switched && !run.stopped_early && !session.leaves_by_reset => {
            if matches!(session.ending, Ending::Silence(_)) {
                assert_eq!(session.heard.len(), session.said, "{user}: last words are lost");
            }
        }
        Over::Left | Over::Cut | Over::Refused => {}
    }
}
