//! The judge of a finished run.

use crate::budgets::{self, Budgets};
use crate::limits;
use crate::scenario::{Fault, Plan, Planned};
use crate::session::judge::{Run, Sessions, judge as judge_session};
use crate::upstream::EARLY_BODY;
use crate::world::World;
use openai_api_proxy::usage::record::{Outcome, Record, UsageSource};
use std::collections::BTreeMap;
use std::fmt;

/// What was seen in a run; two runs of a seed see the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub requests: usize,
    pub whole: usize,
    pub refused: usize,
    pub cut: usize,
    pub left: usize,
    pub records: usize,
    pub aborted: usize,
    pub drained: usize,
    pub retried: usize,
    /// Refused by their user's limit, and limit statuses that were right.
    pub limited: usize,
    pub statuses: usize,
    /// Refused because their user's budget was spent, and because it was not known what was spent of it.
    pub over_budget: usize,
    pub unknown_spend: usize,
    /// Requests that went over TLS, and those whose answer was cut without its goodbye.
    pub encrypted: usize,
    /// Requests that came over TLS, and those of them that went on so.
    pub came_encrypted: usize,
    pub encrypted_both: usize,
    pub truncated: usize,
    /// Connections to addresses that never answer.
    pub silent: usize,
    /// Tunnels that the proxy on the way out has opened, and has refused.
    pub tunnels: (usize, usize),
    pub sessions: Sessions,
    pub sleeps: u64,
    pub elapsed: u64,
}

/// Sums over all seeds.
#[derive(Debug, Default)]
pub struct Sums {
    requests: usize,
    whole: usize,
    refused: usize,
    cut: usize,
    left: usize,
    records: usize,
    aborted: usize,
    drained: usize,
    retried: usize,
    limited: usize,
    statuses: usize,
    over_budget: usize,
    unknown_spend: usize,
    encrypted: usize,
    came_encrypted: usize,
    encrypted_both: usize,
    truncated: usize,
    silent: usize,
    tunnels: (usize, usize),
    sessions: Sessions,
}

impl Sums {
    pub fn add(&mut self, seen: &Seen) {
        self.requests += seen.requests;
        self.whole += seen.whole;
        self.refused += seen.refused;
        self.cut += seen.cut;
        self.left += seen.left;
        self.records += seen.records;
        self.aborted += seen.aborted;
        self.drained += seen.drained;
        self.retried += seen.retried;
        self.limited += seen.limited;
        self.statuses += seen.statuses;
        self.over_budget += seen.over_budget;
        self.unknown_spend += seen.unknown_spend;
        self.encrypted += seen.encrypted;
        self.came_encrypted += seen.came_encrypted;
        self.encrypted_both += seen.encrypted_both;
        self.truncated += seen.truncated;
        self.silent += seen.silent;
        self.tunnels.0 += seen.tunnels.0;
        self.tunnels.1 += seen.tunnels.1;
        self.sessions.add(&seen.sessions);
    }

    /// A run of many seeds that never saw one of these has tested nothing there.
    pub fn assert_everything_happened(&self) {
        let Self { requests: _, whole, refused, cut, left, records, aborted, drained, retried, .. } = *self;
        let all = [
            whole,
            refused,
            cut,
            left,
            records,
            aborted,
            drained,
            retried,
            self.limited,
            self.statuses,
            self.over_budget,
            self.unknown_spend,
            self.encrypted,
            self.came_encrypted,
            self.encrypted_both,
            self.truncated,
            self.silent,
            self.tunnels.0,
            self.tunnels.1,
        ];
        let all = all.into_iter().chain(self.sessions.counts());
        assert!(all.into_iter().all(|count| count > 0), "some outcome never happened: {self}");
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            requests,
            whole,
            refused,
            cut,
            left,
            records,
            aborted,
            drained,
            retried,
            limited,
            statuses,
            over_budget,
            unknown_spend,
            encrypted,
            came_encrypted,
            encrypted_both,
            truncated,
            silent,
            tunnels: (opened, refused_tunnels),
            sessions,
        } = self;
        write!(
            out,
            "{requests} requests: {whole} whole, {refused} answered by an error of ours, {cut} cut, {left} left by \
             their client; {records} records, {aborted} of them aborted, {drained} read on; {retried} sent twice; \
             {limited} over their limit, {statuses} limit statuses right; {over_budget} over their budget, \
             {unknown_spend} before it was known what was spent; {encrypted} over TLS, \
             {truncated} of them truncated; {came_encrypted} came over TLS, {encrypted_both} of them went on so; {silent} connections to addresses that never answer; \
             {opened} tunnels through a proxy, {refused_tunnels} refused; {sessions}"
        )
    }
}

pub fn judge(
    plan: &Plan,
    records: &[Record],
    world: &World,
    ledger: &Budgets,
    slots: (usize, usize, usize),
    run: Run,
) -> Seen {
    let Run { faults, stopped_early, .. } = run;
    assert_eq!((slots.0, slots.2), (0, 0), "clients or exchanges are left in their slabs");
    assert_eq!(slots.1, 0, "upstream connections are left in their slab");
    for (number, pipe) in world.pipes.iter().enumerate() {
        let never_accepted = world.backlog.contains(&number);
        assert!(pipe.proxy_closed || never_accepted || stopped_early || faults, "socket {number} is left open");
    }
    for (id, request) in plan.requests.iter().enumerate() {
        let of_it: Vec<&Record> = records.iter().filter(|record| request.is_of(record)).collect();
        judge_request(id, request, &of_it, run, plan.rate.is_some() || plan.budget.is_some());
    }
    let (limited, statuses) = judge_limits(plan, records, world);
    let (over_budget, unknown_spend) = judge_budgets(plan, records, ledger);
    let of_sessions = |record: &Record| plan.sessions.iter().any(|session| *session.user == *record.user);
    let of_requests = |record: &Record| plan.requests.iter().any(|request| request.is_of(record));
    let stray = records.iter().find(|record| !of_sessions(record) && !of_requests(record));
    assert!(stray.is_none(), "a record of nothing that was asked: {stray:?}");
    let longest = records.iter().map(|record| record.duration_us).max().unwrap_or(0);
    assert!(longest <= world.mono / 1_000, "a record says that it took {longest} us, longer than the run");
    let mut sessions = Sessions::default();
    for session in &plan.sessions {
        let of_it: Vec<&Record> = records.iter().filter(|record| *record.user == *session.user).collect();
        sessions.add(&judge_session(session, &of_it, run));
    }
    let count = |test: fn(&Planned) -> bool| plan.requests.iter().filter(|request| test(request)).count();
    let seen = count(|request| request.seen > 0);
    Seen {
        requests: plan.requests.len(),
        whole: count(|request| request.got.as_ref().is_some_and(|got| got.whole && got.ours.is_none())),
        refused: count(|request| request.got.as_ref().is_some_and(|got| got.ours.is_some())),
        cut: count(|request| request.got.as_ref().is_some_and(|got| !got.whole)),
        left: count(|request| request.left && request.got.is_none()),
        records: records.len(),
        aborted: records.iter().filter(|record| record.outcome == Outcome::ClientAborted).count(),
        drained: records.iter().filter(|record| record.usage_source == UsageSource::Drained).count(),
        retried: count(|request| request.seen > 1),
        limited,
        statuses,
        over_budget,
        unknown_spend,
        encrypted: if plan.tls.is_some() { seen } else { 0 },
        came_encrypted: if plan.client_tls { seen } else { 0 },
        encrypted_both: if plan.client_tls && plan.tls.is_some() { seen } else { 0 },
        truncated: count(|request| request.seen > 0 && request.fault == Some(Fault::Truncated)),
        silent: world.judge_silent(),
        tunnels: plan.tunnels,
        sessions,
        sleeps: world.sleeps,
        elapsed: world.mono,
    }
}

/// Each user's requests.
fn by_user(plan: &Plan) -> BTreeMap<&str, Vec<&Planned>> {
    let mut of_users: BTreeMap<&str, Vec<&Planned>> = BTreeMap::new();
    for request in plan.requests.iter().filter(|request| !request.local) {
        of_users.entry(&request.user).or_default().push(request);
    }
    of_users
}

/// Each user's requests under the budget.
fn judge_budgets(plan: &Plan, records: &[Record], ledger: &Budgets) -> (usize, usize) {
    let Some(budget) = plan.budget else { return (0, 0) };
    let of_users = by_user(plan);
    let judged = of_users.iter().map(|(user, requests)| budgets::judge(user, requests, records, budget, ledger));
    judged.fold((0, 0), |sums, (over, unknown)| (sums.0 + over, sums.1 + unknown))
}

/// Each user's requests under the limit.
fn judge_limits(plan: &Plan, records: &[Record], world: &World) -> (usize, usize) {
    let Some(rate) = plan.rate else { return (0, 0) };
    let of_users = by_user(plan);
    let judged = of_users.iter().map(|(user, requests)| limits::judge(user, requests, records, rate, world));
    judged.fold((0, 0), |sums, (limited, checked)| (sums.0 + limited, sums.1 + checked))
}

fn judge_request(id: usize, request: &Planned, records: &[&Record], run: Run, limited: bool) {
    let (excused, crowded) = (run.faults || run.stopped_early, run.crowded);
    assert!(records.len() <= 1, "request {id} has {} records", records.len());
    if request.local {
        assert!(records.is_empty(), "a local request has a record");
    }
    if request.seen > 0 {
        assert_eq!(records.len(), 1, "request {id} reached an upstream and has no record");
    }
    for record in records.iter().filter(|record| record.usage_source == UsageSource::Drained) {
        assert_eq!(record.outcome, Outcome::ClientAborted, "request {id}");
        assert_eq!(record.usage.input_tokens, request.tokens, "request {id} was read on");
    }
    assert!(request.seen <= 1 || request.repeatable, "request {id} was sent twice");
    let Some(got) = &request.got else {
        // Where time jumps, or others find no place, an idle connection may be closed just as its next request comes.
        let unheard = (run.jumps || run.full) && request.seen == 0 && records.is_empty();
        assert!(excused || unheard, "request {id} got no answer");
        return;
    };
    if got.whole && !request.local {
        // Whatever a client takes for whole has its record, and had it committed before its end.
        let refused_unrecorded = got.ours.is_some() && records.is_empty();
        assert!(request.saw_end_at || refused_unrecorded, "request {id} ended before its record was committed");
    }
    let healthy = matches!(request.fault, None | Some(Fault::CloseDelimited | Fault::Junk)) && !request.early;
    if !excused && healthy {
        assert!(got.whole, "request {id} was cut: {got:?}");
        let no_place = crowded && got.ours.as_deref() == Some("ledger_unavailable") && records.is_empty();
        let by_limits = matches!(got.ours.as_deref(), Some("rate_limit_exceeded" | "insufficient_quota"));
        let is_limited = limited && by_limits && records.is_empty();
        assert!(got.ours.is_none() || no_place || is_limited, "request {id} was refused: {got:?}");
    }
    let truncated = request.fault == Some(Fault::Truncated) && got.ours.is_none() && got.status == request.right_status;
    assert!(!(truncated && got.whole), "request {id} was cut by somebody, and ended as if it were whole");
    let from_upstream = got.whole && got.ours.is_none() && !request.local && got.status != 413;
    if from_upstream {
        assert_eq!(got.status, request.right_status, "request {id}");
        assert!(got.body == request.right_body, "request {id} got another body: {}", got.body.escape_ascii());
        let [record] = records else { panic!("request {id} was answered and has no record") };
        assert_eq!((record.outcome, record.status), (Outcome::Completed, got.status), "request {id}");
        assert_eq!(record.usage.input_tokens, request.tokens, "request {id}");
        let source = if request.tokens > 0 { UsageSource::Reported } else { UsageSource::None };
        assert_eq!(record.usage_source, source, "request {id}");
    } else if !got.whole && got.ours.is_none() && !request.local {
        let right = if got.status == 413 { EARLY_BODY } else { &request.right_body };
        assert!(right.starts_with(&got.body) || got.status == 0, "request {id} was cut and changed: {got:?}");
    }
}
