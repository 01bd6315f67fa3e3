//! The judge of a finished session.

use super::{Ending, GOODBYE, Leaving, Over, REASON, Report, Session};
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
    /// Sessions that the proxy has ended, and of these those whose client has read all of it.
    pub dismissed: usize,
    pub told: usize,
}

impl fmt::Display for Sessions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whole, cut, left, refused, reports, drained, let_go, dismissed, told } = self;
        write!(
            out,
            "sessions: {whole} whole, {cut} cut, {left} left by their client, {refused} refused; {reports} reports, \
             {drained} of them read on, {let_go} let go before their commit; {dismissed} dismissed, {told} of them told"
        )
    }
}

impl Sessions {
    pub fn counts(&self) -> [usize; 9] {
        let Self { whole, cut, left, refused, reports, drained, let_go, dismissed, told } = *self;
        [whole, cut, left, refused, reports, drained, let_go, dismissed, told]
    }

    pub fn add(&mut self, other: &Self) {
        let Self { whole, cut, left, refused, reports, drained, let_go, dismissed, told } = self;
        let sums = [whole, cut, left, refused, reports, drained, let_go, dismissed, told];
        for (sum, count) in sums.into_iter().zip(other.counts()) {
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
    /// More clients come than there may be: idle ones make room.
    pub full: bool,
    /// Sockets take all that they are given.
    pub roomy: bool,
}

/// Judges one session by its records, in their order.
pub fn judge(session: &Session, records: &[&Record], run: Run) -> Sessions {
    let user = &session.user;
    let is_part = |record: &&&Record| matches!(record.endpoint, Endpoint::Realtime | Endpoint::RealtimeTranscription);
    let parts: Vec<&Record> = records.iter().filter(is_part).copied().collect();
    let whole: Vec<&Record> = records.iter().filter(|record| !is_part(record)).copied().collect();

    let (got, dismissed) = session.of_server(&session.got);
    let told = dismissed && judge_goodbye(session, got);
    assert!(dismissed || got == session.got.len(), "{user}: the client got other bytes than were sent");
    judge_heard(session);
    assert!(session.seen <= 1 || !session.switched, "{user}: the handshake was sent again");
    assert!(whole.len() <= 1, "{user} has {} records", whole.len());
    assert!(session.seen == 0 || whole.len() == 1, "{user} reached an upstream and has no record");

    // Exactly one record for each report that passed, in their order.
    let until = |bytes: usize| session.reports.iter().take_while(|report| report.ends_at <= bytes).count();
    let passed = until(got)..=until(session.sent);
    assert!(passed.contains(&parts.len()), "{user}: {passed:?} reports passed, {} are recorded", parts.len());
    for (report, part) in session.reports.iter().zip(&parts) {
        assert_eq!(part.usage.input_tokens, report.tokens, "{user}: a report is recorded as another");
        let sources = [UsageSource::Reported, UsageSource::Drained];
        assert!(sources.contains(&part.usage_source), "{user}: {:?}", part.usage_source);
    }
    let drained = parts.iter().filter(|part| part.usage_source == UsageSource::Drained).count();
    assert!(drained == 0 || session.over == Some(Over::Left), "{user}: read on although the client is there");
    if dismissed {
        let completed = whole.iter().all(|record| (record.outcome, record.status) == (Outcome::Completed, 101));
        assert!(completed, "{user} was ended, and its record says otherwise");
    } else {
        assert!(!session.ended_early, "{user} ended before its record was committed");
        judge_end(session, &parts, &whole, run);
    }
    let over = |over: Over| usize::from(session.over == Some(over));
    Sessions {
        whole: over(Over::Ended),
        cut: over(Over::Cut),
        left: over(Over::Left),
        refused: over(Over::Refused),
        reports: parts.len(),
        drained,
        let_go: session.reports.iter().filter(|report: &&Report| report.let_go).count(),
        dismissed: usize::from(dismissed),
        told: usize::from(told),
    }
}

/// Behind `got` bytes of the server's stands a goodbye, as far as the client has read it; true where that is all of it.
fn judge_goodbye(session: &Session, got: usize) -> bool {
    let user = &session.user;
    let goodbye = &session.got[got..];
    let event = match goodbye {
        [0x81, 126, high, low, rest @ ..] => rest.split_at_checked(u16::from_be_bytes([*high, *low]).into()),
        _ => None,
    };
    let Some((event, close)) = event else {
        assert!(session.over != Some(Over::Ended), "{user}: half a goodbye");
        return false;
    };
    let event: serde_json::Value = serde_json::from_slice(event).expect("the event is JSON");
    assert_eq!(event["error"]["code"].as_str().map(str::as_bytes), Some(REASON), "{user}");
    let whole = [&[0x88, 2 + REASON.len() as u8, 0x03, 0xf0], REASON].concat();
    assert!(whole.starts_with(close), "{user}: {}", close.escape_ascii());
    assert!(close == whole || session.over != Some(Over::Ended), "{user}: half a goodbye");
    close == whole
}

/// The server heard what was said, to a border of the client's frames where the proxy has said goodbye to it, as far as
/// it has read that.
fn judge_heard(session: &Session) {
    let (user, says, heard) = (&session.user, &session.says, &session.heard);
    let same = heard.iter().zip(says).take_while(|(heard, said)| heard == said).count();
    let goodbye = &heard[same..];
    if goodbye.is_empty() {
        return;
    }
    assert!(session.limited, "{user}: the server heard other bytes than were said");
    let mut border = 0;
    while border < same {
        let length = match says[border + 1] & 0x7f {
            126 => 4 + usize::from(u16::from_be_bytes([says[border + 2], says[border + 3]])),
            127 => 10 + u64::from_be_bytes(*says[border + 2..].first_chunk().expect("a length")) as usize,
            length => 2 + usize::from(length),
        };
        border += length + 4;
    }
    assert_eq!(border, same, "{user}: within a frame of the client's");
    let mask: Vec<u8> = goodbye.iter().skip(2).take(4).copied().collect();
    let payload = [&[0x03, 0xf0], REASON].concat();
    let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let whole: Vec<u8> = [0x88, 0x80 | payload.len() as u8].into_iter().chain(mask.clone()).chain(masked).collect();
    assert!(whole.starts_with(goodbye), "{user}: {}", goodbye.escape_ascii());
}

/// Nothing is lost that came before an orderly end, and nothing else looks like one.
fn judge_end(session: &Session, parts: &[&Record], whole: &[&Record], run: Run) {
    let user = &session.user;
    // A reset takes with it what has not been read.
    let is_lost = session.refused || matches!(session.ending, Ending::Reset(_));
    // Under a budget it is refused while nobody knows what is spent.
    // Nor does a client without a whole head keep its place where others find none.
    let could_open = !(run.faults || run.stopped_early || run.crowded || run.full || is_lost || session.limited);
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
            // A dismissed one waits for the rest of a response, and its server perhaps for its client.
            let is_excused = run.stopped_early || session.limited;
            assert!(!ended_well || is_excused, "{user} was cut although its server ended it");
            let arrives = run.roomy && !run.stopped_early;
            assert!(!arrives || session.got.len() >= session.taken, "{user} lost what had come before it broke off");
        }
        // What was said before leaving arrives, as far as the sockets take it.
        Over::Left
            if run.roomy && session.switched && !(run.stopped_early || session.leaves_by_reset || session.limited) =>
        {
            if matches!(session.ending, Ending::Silence(_)) {
                assert_eq!(session.heard.len(), session.said, "{user}: last words are lost");
            }
        }
        Over::Left | Over::Cut | Over::Refused => {}
    }
}
