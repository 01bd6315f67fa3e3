//! The proxy itself: connections and exchanges as state machines. Bytes, events and the turn's instant in; bytes and
//! [`Action`]s out. Never a socket, a clock or a thread: the same code runs over real sockets and in the simulation.
//!
//! ```text
//!   client ──▶ Downstream ──▶ Exchange ──▶ Upstream ──▶ target
//!               (a slot)       (a slot)     (a slot)
//! ```
//!
//! A connection from a client, a connection to the target and the exchange between them are three slots that know each
//! other by generational keys: a link to what is gone finds nothing. One exchange at a time belongs to a connection.
//!
//! An exchange's life, and where each step is decided:
//!
//! ```text
//!   head ─▶ admitted ─▶ dispatched ─▶ connected ─▶ request sent ─▶ response relayed ─▶ settled ─▶ finished
//!     route,  request_estimate,  dialer    upstream       response, tunnel    settlement   permits
//!     identity  held_bodies
//! ```
//!
//! [`Proxy`] only joins: its methods stand here, in `downstream_side` (the clients) and in `upstream_side` (the
//! target). What is decided is decided by the parts beside them, each of which owns its state and is tested alone. From
//! dispatch on, every way out leads through [`settlement`], once: one record, one release of its permits.

mod actions;
mod addresses;
mod allowed_models;
pub mod api_paths;
mod bodies_away;
mod channel;
mod client_limit;
pub mod content_coding;
mod crowding;
pub mod dialer;
pub mod downstream;
mod downstream_side;
pub mod egress_tunnel;
pub mod exchange;
mod failure;
#[cfg(test)]
mod fixture;
pub mod forward;
mod group_commit;
mod held_bodies;
pub mod identity;
pub mod invariants;
mod key_guesses;
pub mod local_answers;
mod local_limit;
mod local_request;
mod log_notes;
pub mod model_in_path;
mod open_sessions;
mod outgoing;
mod parked;
pub mod path;
mod permits;
mod refusal;
pub mod request_body;
pub mod request_estimate;
pub mod response;
mod retrieved_id;
pub mod route;
pub mod settings;
pub mod settlement;
mod slow_holders;
pub mod timing;
mod tls_scratch;
pub mod tunnel;
pub mod upstream;
pub mod upstream_side;
mod usage_asking;
mod written;

use crate::access::Access;
use crate::base::buffer::{Buffer, Spares};
use crate::base::clock::{MICROSECOND, Now};
use crate::base::deadlines::Deadlines;
use crate::base::log::{Level, Note, Notes};
use crate::base::slab::Slab;
use crate::limit::budget::{Cost, Period, SpendSums};
use crate::limit::lease::Ask;
use crate::limit::levels::{Levels, LimitLevel, Payer};
use crate::limit::limiter::Limiter;
use crate::limit::purse::OnOutage;
use crate::limit::status::LimitUse;
use crate::metrics::{Gauges, Metrics};
use crate::policy::{AllowedPaths, Change, Models, Policy, ReadOn};
use crate::price::{PriceSource, PriceTable};
use crate::tls::Acceptor;
use crate::usage::record::{Outcome, Record};
pub use actions::{Action, Conn, DownKey, ExchangeKey, HIGH_WATERMARK, LOW_WATERMARK, Question, UpKey};
use addresses::Addresses;
use bodies_away::BodiesAway;
use client_limit::ClientLimit;
use crowding::CrowdTold;
use dialer::Dialer;
use downstream::{AfterReply, Downstream};
use exchange::{Exchange, Progress, Stage};
use held_bodies::HeldBodies;
use invariants::Audit;
use key_guesses::KeyGuesses;
use local_answers::LocalAnswers;
use local_limit::LocalLimit;
use open_sessions::OpenSessions;
use parked::Parked;
use permits::Permits;
pub use settings::{Settings, Timeouts};
use settlement::End;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::io::ErrorKind;
use timing::Class;
use tls_scratch::TlsScratch;
use upstream::{Link, Upstream};
use usage_asking::UsageAsking;
pub use written::Written;

/// Teams whose budgets a scrape tells of, at most.
const BUDGETS_OF_TEAMS_MAX: usize = 1_000;
/// Budgets that the page shows of all, those that are nearest to their end.
const BUDGETS_SHOWN_MAX: usize = 20;

/// All connections and exchanges of a process.
pub struct Proxy {
    settings: Settings,
    downs: Slab<Downstream>,
    ups: Slab<Upstream>,
    exchanges: Slab<Exchange>,
    limiter: Limiter,
    access: Access,
    /// What may be asked for, where that is not what the settings say.
    own_paths: Levels<AllowedPaths>,
    /// The models that may be asked for, where not all may.
    models: Levels<Models>,
    metrics: Metrics,
    prices: PriceTable,
    permits: Permits,
    held_bodies: HeldBodies,
    bodies_away: BodiesAway,
    /// Connections whose compressed answers go on in a later turn, one in each.
    postponed: VecDeque<UpKey>,
    usage_asking: UsageAsking,
    local_answers: LocalAnswers,
    local_limit: LocalLimit,
    parked: Parked,
    client_limit: ClientLimit,
    addresses: Addresses,
    key_guesses: KeyGuesses,
    crowd_told: CrowdTold,
    open_sessions: OpenSessions,
    deadlines: Deadlines<Conn>,
    actions: VecDeque<Action>,
    dialer: Dialer,
    /// Behind the target every model's name is that of a deployment.
    deploys: bool,
    /// Exchanges whose request was completed in this turn, for their overhead.
    dispatched: Vec<ExchangeKey>,
    ledger_trouble: Option<String>,
    /// The fleet is out of reach.
    fleet_away: bool,
    /// From then on nobody knows whether keys and limits are still the fleet's, nanoseconds since the Unix epoch.
    policy_holds_until: u64,
    /// That the target refuses the key it is sent was told since the key was set.
    key_refusal_told: bool,
    /// Differs between processes, for the `x-request-id` of our own replies.
    boot: u64,
    replies: u64,
    /// For the log.
    notes: Notes,
    /// It stops soon: nobody should come any more.
    leaving: bool,
    draining: bool,
    tls: TlsScratch,
    /// Memory that waits for a buffer to need it.
    spares: Spares,
    /// A piece of an edited stream on its way, loop-wide too.
    edited: Vec<u8>,
}

impl Proxy {
    /// `started` gives request ids that differ between processes.
    pub fn new(settings: Settings, prices: PriceTable, metrics: Metrics, started: Now) -> Self {
        Self {
            limiter: Limiter::new(settings.limits, settings.total_limits),
            access: Access::new(settings.keys_only, settings.admin, settings.is_open),
            deadlines: Deadlines::new(&timing::durations(&settings.timeouts)),
            deploys: model_in_path::is_of_deployments(&settings.authority, &settings.prefix),
            dialer: Dialer::new(settings.connections_max),
            permits: Permits::new(settings.ledger_places),
            held_bodies: HeldBodies::new(settings.buffered_bytes_max, settings.timeouts.header),
            client_limit: ClientLimit::new(settings.connections_max, settings.timeouts.overload),
            addresses: Addresses::new(settings.connections_of_address_max),
            key_guesses: KeyGuesses::default(),
            own_paths: Levels::default(),
            models: Levels::default(),
            bodies_away: BodiesAway::default(),
            postponed: VecDeque::new(),
            crowd_told: CrowdTold::default(),
            boot: started.unix,
            replies: 0,
            settings,
            prices,
            metrics,
            downs: Slab::default(),
            ups: Slab::default(),
            exchanges: Slab::default(),
            local_answers: LocalAnswers::default(),
            local_limit: LocalLimit::default(),
            parked: Parked::default(),
            usage_asking: UsageAsking::default(),
            open_sessions: OpenSessions::default(),
            actions: VecDeque::new(),
            dispatched: Vec::new(),
            ledger_trouble: None,
            fleet_away: false,
            policy_holds_until: u64::MAX,
            key_refusal_told: false,
            notes: Notes::default(),
            leaving: false,
            draining: false,
            tls: TlsScratch::default(),
            spares: Spares::default(),
            edited: Vec::new(),
        }
    }

    /// True where more bytes of this connection are wanted now. When it turns true again, [`Action::Read`] says so.
    pub fn wants_read(&self, conn: Conn) -> bool {
        match conn {
            Conn::Down(key) => self.wants_client_bytes(key),
            Conn::Up(key) => self.wants_upstream_bytes(key),
        }
    }

    /// Reading goes on: first with what was read before and had to wait.
    pub fn resumed(&mut self, now: Now, conn: Conn) {
        match conn {
            Conn::Down(key) => self.advance_client(now, key),
            Conn::Up(key) => self.advance_upstream(now, key),
        }
    }

    /// Bytes were read. They may be decrypted in place.
    pub fn received(&mut self, now: Now, conn: Conn, bytes: &mut [u8]) {
        match conn {
            Conn::Down(key) => self.client_bytes(now, key, bytes),
            Conn::Up(key) => self.upstream_bytes(now, key, bytes),
        }
    }

    /// The peer has shut its sending side down.
    pub fn ended(&mut self, now: Now, conn: Conn) {
        match conn {
            Conn::Down(key) => self.client_ended(now, key),
            Conn::Up(key) => self.upstream_ended(now, key),
        }
    }

    /// The connection is broken, or could not be opened.
    pub fn failed(&mut self, now: Now, conn: Conn, why: ErrorKind) {
        match conn {
            Conn::Down(key) => self.drop_down(now, key),
            Conn::Up(key) => self.upstream_broke(now, key, why),
        }
    }

    /// Hands out what may be written now, piece by piece, until `write` takes less than it is given.
    pub fn flush(&mut self, now: Now, conn: Conn, write: &mut dyn FnMut(&[u8]) -> Written) {
        match conn {
            Conn::Down(key) => self.flush_down(now, key, write),
            Conn::Up(key) => self.flush_up(now, key, write),
        }
    }

    /// The next thing to do, in order.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The records that go to the ledger now, in order; none is lost between here and its commit. Some may wait for
    /// others to share a commit, until [`Proxy::next_deadline`] at the latest.
    pub fn take_records(&mut self, now: Now) -> Vec<Record> {
        let may_gather = self.settings.settled && !self.draining;
        self.permits.take_outgoing(now, may_gather, self.exchanges.len())
    }

    /// What has happened since this was last called, for the log, in order.
    pub fn take_notes(&mut self) -> Vec<Note> {
        self.notes.take()
    }

    /// The turn is over, what could be written is written: the time that the proxy added to the requests that went out.
    pub fn turn_ended(&mut self, now: Now) {
        for key in self.dispatched.drain(..) {
            if let Some(exchange) = self.exchanges.get_mut(key) {
                exchange.draft.proxy_us = now.mono.saturating_sub(exchange.ready) / MICROSECOND;
            }
        }
    }

    /// When [`Proxy::expire`] must be called next, monotonic nanoseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        let due = [
            self.deadlines.next_due(),
            self.limiter.sweep_due(),
            self.permits.due(),
            self.open_sessions.due(),
            self.held_bodies.look_due(),
            self.postponed.front().map(|_| 0),
            self.parked.due(),
            self.limiter.beat_due(),
        ];
        due.into_iter().flatten().min()
    }

    /// Acts on every deadline that has passed.
    pub fn expire(&mut self, now: Now) {
        self.read_postponed(now);
        while let Some((conn, class)) = self.deadlines.expired(now.mono) {
            match conn {
                Conn::Down(key) => self.expire_down(now, key, Class::from_index(class)),
                Conn::Up(key) => self.expire_up(now, key, Class::from_index(class)),
            }
        }
        self.expire_parked(now);
        if self.limiter.beat_due().is_some_and(|due| due <= now.mono) {
            self.limiter.beat(now);
        }
        if self.limiter.sweep_due().is_some_and(|due| due <= now.mono) {
            self.limiter.sweep(now.mono);
        }
        if self.open_sessions.are_due(now) {
            self.check_sessions(now);
        }
        if self.held_bodies.look_due().is_some_and(|due| due <= now.mono) {
            self.look_at_holders(now);
        }
    }

    /// A stop is announced: `/readyz` says so, and all else goes on.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Stop taking work: idle connections close, exchanges run to their end, nothing is kept alive.
    pub fn drain(&mut self, now: Now) {
        self.draining = true;
        let idle: Vec<_> =
            self.downs.keys().filter(|&key| self.downs.linked(key).is_some_and(Downstream::is_idle)).collect();
        for key in idle {
            self.drop_down(now, key);
        }
        while let Some(key) = self.dialer.pool.take() {
            self.close_up(key);
        }
    }

    /// True where no connection and no exchange is left and every record is committed.
    pub fn is_drained(&self) -> bool {
        self.is_quiet() && self.permits.under_way() == 0
    }

    /// True where no client's connection and no exchange is left.
    pub fn is_quiet(&self) -> bool {
        self.downs.is_empty() && self.exchanges.is_empty()
    }

    /// Ends everything now: what was in flight is recorded as interrupted.
    pub fn abort(&mut self, now: Now) {
        for key in self.exchanges.keys().collect::<Vec<_>>() {
            self.interrupt(now, key);
        }
        for key in self.downs.keys().collect::<Vec<_>>() {
            self.drop_down(now, key);
        }
        for key in self.ups.keys().collect::<Vec<_>>() {
            self.close_up(key);
        }
        for away in self.bodies_away.take_all() {
            self.held_bodies.change(&away.user, away.bytes, 0);
        }
    }

    /// The ledger began to fail, or works again; where it will not take records any more, new requests are refused.
    pub fn ledger_state(&mut self, now: Now, trouble: Option<String>, takes_records: bool) {
        self.permits.set_closed(!takes_records);
        if trouble.is_some() {
            self.metrics.ledger_failed();
        }
        self.ledger_trouble = trouble;
        self.permits_freed(now);
    }

    /// The fleet began to be out of reach, or is reached.
    pub fn fleet_state(&mut self, away: bool) {
        self.fleet_away = away;
    }

    /// From here on the limits are those of a fleet: a lease lasts so long, and a request waits for an answer so long
    /// at most, nanoseconds.
    pub fn join_fleet(&mut self, lasts: u64, wait: u64, policy: OnOutage) {
        self.limiter.join_fleet(lasts, wait, policy);
        self.parked = Parked::new(wait);
    }

    /// Messages to the fleet that this turn gave rise to; `None` where there is nothing to send.
    pub fn take_asks(&mut self, now: Now) -> Option<Vec<Ask>> {
        self.limiter.take_asks(now)
    }

    /// The last messages to the fleet: all that is held goes back.
    pub fn farewell(&mut self, now: Now) -> Option<Vec<Ask>> {
        self.limiter.return_all(now);
        self.limiter.take_asks(now)
    }

    /// What the loop knows at this instant, for a scrape.
    fn gauges(&self, now: Now) -> Gauges {
        Gauges {
            requests_in_flight: self.exchanges.len() as u64,
            downstream_connections: self.downs.len() as u64,
            upstream_connections: self.ups.len() as u64,
            ledger_up: self.ledger_trouble.is_none(),
            ledger_queue_records: self.permits.under_way(),
            buffered_bytes: self.held_bodies.bytes() as u64,
            leases: self.limiter.is_in_fleet().then(|| [self.parked.len() as u64, self.limiter.purses() as u64]),
            prices: self.prices.dates(),
            certificate_expires_at: self.settings.acceptor.as_ref().map(Acceptor::expires_at),
            budgets: self.budgets(now),
        }
    }

    /// What is spent of the budgets of everybody, of teams, and of users who have a label in the metrics.
    fn budgets(&self, now: Now) -> Vec<LimitUse> {
        let users = self.metrics.payers().map(|payer| (LimitLevel::User, payer));
        let teams = self.limiter.teams().map(|team| (LimitLevel::Team, Payer { user: "", team: Some(team) }));
        let all =
            [(LimitLevel::Total, Payer::from(""))].into_iter().chain(teams.take(BUDGETS_OF_TEAMS_MAX)).chain(users);
        let uses = all.flat_map(|(level, payer)| self.limiter.uses(level, payer, now));
        let mut budgets: Vec<LimitUse> = uses.filter(|of| of.limit.is_budget()).collect();
        // A user with two teams has two labels.
        let key = |of: &LimitUse| (of.level, of.name.clone(), of.limit.period());
        budgets.sort_by_cached_key(key);
        budgets.dedup_by_key(|of| key(of));
        budgets
    }

    /// How much of their limits is used: of one user with what is above them, of a team, or of everybody together, and
    /// of the budgets that are nearest to their end.
    fn limit_uses(&mut self, now: Now, user: Option<&str>, team: Option<&str>) -> Vec<LimitUse> {
        self.limiter.wants_spending(now); // the day may be over
        if let Some(user) = user {
            let payer = Payer { user, team: self.access.team_of(user).map(|team| &**team) };
            return LimitLevel::ALL.into_iter().flat_map(|level| self.limiter.uses(level, payer, now)).collect();
        }
        if team.is_some() {
            return self.limiter.uses(LimitLevel::Team, Payer { user: "", team }, now);
        }
        let mut nearest = self.budgets(now);
        nearest.retain(|of| of.level != LimitLevel::Total && of.used > 0);
        nearest.sort_by_key(|of| Reverse(of.thousandths()));
        nearest.truncate(BUDGETS_SHOWN_MAX);
        let mut uses = self.limiter.uses(LimitLevel::Total, Payer::from(""), now);
        uses.append(&mut nearest);
        uses
    }

    // What an operator changes while the proxy runs. Requests in flight keep the limits that they came in under; but
    // WebSockets, which have no end of their own, do not.

    /// Keys, teams and limits, in place of all that were.
    pub fn set_policy(&mut self, now: Now, policy: Policy) {
        self.access.set_keys(policy.keys);
        self.access.set_members(policy.members);
        self.limiter.set_overrides(policy.rules.filter_map(|rule| Some(rule.limits)));
        self.own_paths = policy.rules.filter_map(|rule| rule.paths.clone());
        self.models = policy.rules.filter_map(|rule| rule.models.clone());
        self.check_sessions(now);
    }

    /// Keys and limits hold until then, nanoseconds since the Unix epoch: nobody is let in by older ones.
    pub fn policy_holds(&mut self, until: u64) {
        self.policy_holds_until = until;
    }

    /// The period of which [`Proxy::set_spend_sums`] must tell what was spent: somebody has a budget, and that is not
    /// known.
    pub fn wants_spend_sums(&mut self, now: Now) -> Option<Period> {
        self.limiter.wants_spending(now)
    }

    /// What was spent in a period, as the ledger has it.
    pub fn set_spend_sums(&mut self, now: Now, spend_sums: SpendSums) {
        self.limiter.load(spend_sums, now);
        self.check_sessions(now);
    }

    /// Settings that were read anew.
    pub fn reconfigure(&mut self, now: Now, change: Change) {
        self.limiter.set_limits(change.limits, change.total_limits);
        self.access.set_admin(change.admin);
        self.key_refusal_told &= self.settings.authorization == change.authorization;
        self.settings.authorization = change.authorization;
        self.settings.model_name = change.model_name;
        let fetched = self.prices.part(PriceSource::Url);
        self.prices = change.prices;
        fetched.into_iter().for_each(|fetched| self.prices.merge(fetched));
        self.log_up_to(change.log);
        self.check_sessions(now);
    }

    /// The certificate was renewed: for those who connect from here on.
    pub fn set_acceptor(&mut self, acceptor: Acceptor) {
        self.settings.acceptor = Some(acceptor);
    }

    /// Prices that were fetched, in place of those that were before. Requests in flight are priced by them.
    pub fn set_fetched_prices(&mut self, fetched: PriceTable) {
        self.prices.merge(fetched);
    }

    /// What holds between any two turns, for tests.
    pub fn audit(&self) -> Audit<'_> {
        Audit(self)
    }

    /// From here on, notes up to this level are taken. Until it is called, only errors are.
    pub fn log_up_to(&mut self, level: Level) {
        self.notes.set_level(level);
    }
}

// ---------------------------------------------------------------------------------------------- the end of an exchange

impl Proxy {
    /// Writes the exchange's record, with the status that the client was sent until now. An exchange that is settled
    /// already stays so.
    fn settle(&mut self, now: Now, key: ExchangeKey, outcome: Outcome) {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return };
        if exchange.stage != Stage::Forwarding {
            return debug_assert!(
                matches!(exchange.stage, Stage::Settled { .. }),
                "only what was forwarded is settled"
            );
        }
        if let Some(seq) = exchange.awaited_seq() {
            self.permits.stop_waiting(seq); // a part of a tunnel goes out with the end of the whole
        }
        let (up_key, is_tunnel) = (exchange.up.take(), exchange.tunnel.is_some());
        if is_tunnel {
            self.open_sessions.remove(&exchange.draft.user, key);
        }
        let up = up_key.and_then(|up| self.ups.linked(up));
        let (written, unread) = up.map_or((false, false), |up| (up.has_written(), !up.input.is_empty()));
        let duration_us = (now.mono - exchange.started) / MICROSECOND;
        let settlement = settlement::settle(exchange, End { outcome, duration_us, written, unread }, &self.prices);
        let reservation = std::mem::take(&mut exchange.reservation);
        let (user, team) = (settlement.records.0.user.clone(), settlement.records.0.team.clone());
        let last_words = if is_tunnel { exchange.request.outgoing.take_stream() } else { Buffer::new() };
        exchange.request.outgoing.forget_held();
        let permits = std::mem::take(&mut exchange.permits);
        let down = exchange.down;
        if let Some(up) = up_key {
            if let Some(found) = self.ups.get_mut(up).filter(|found| is_tunnel && found.link == Link::Ready) {
                found.say_last(last_words.as_slice());
            }
            self.close_up(up);
        }
        if is_tunnel {
            self.actions.push_back(Action::Read(Conn::Down(down))); // its client waits for the target no longer
        }
        let record = request_estimate::cost(&settlement.records.0);
        let seq = self.submit(now, settlement.records);
        let payer = Payer { user: &user, team: team.as_deref() };
        if settlement.forfeits {
            self.limiter.forfeit(payer, reservation, Cost { seq, ..record }, now);
        } else {
            self.limiter.release(payer, reservation, now);
        }
        if let Some(exchange) = self.exchanges.linked_mut(key) {
            exchange.stage = Stage::Settled { seq };
        }
        self.permits.release(permits);
        self.recount(key);
        self.permits_freed(now);
    }

    /// Sends priced records on their way to the ledger, which take over permits; the last one's `seq`.
    fn submit(&mut self, now: Now, (record, images): (Record, Option<Box<Record>>)) -> u64 {
        let seq = self.submit_one(now, record);
        images.map_or(seq, |images| self.submit_one(now, *images))
    }

    fn submit_one(&mut self, now: Now, mut record: Record) -> u64 {
        record.seq = self.permits.next_seq();
        if !record.may_repeat() {
            self.count(now, &record);
        }
        self.permits.submit(record)
    }

    /// A record counts: in the metrics, and in its user's limits, which may end their sessions.
    fn count(&mut self, now: Now, record: &Record) {
        self.metrics.record(record, now.mono);
        if !self.models.is_empty() && allowed_models::is_evaded(&self.models, record) {
            log_notes::other_model(&mut self.notes, record);
        }
        self.limiter.charge(record.payer(), request_estimate::used(record), now);
        if let Some(cost) = request_estimate::cost_at_most(record) {
            self.limiter.charge_at_most(record.payer(), cost, now);
        }
        self.check_sessions_of(now, record.payer());
    }

    /// A settled exchange's reply goes out when its record is committed, or at once where that is not promised.
    fn hold_or_release(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.linked(key) else { return };
        let Stage::Settled { seq } = exchange.stage else { return debug_assert!(false, "it is not settled") };
        if !self.settings.settled {
            return self.release(now, key);
        }
        let key_of_down = exchange.down;
        if let Some(down) = self.downs.linked_mut(key_of_down)
            && down.held_back == 0
            && exchange.response.progress == Progress::Awaited
        {
            down.held_back = down.out.len(); // an error of ours
        }
        self.permits.await_commit(seq, key);
        self.retime_down(now, key_of_down, false);
    }

    /// Every record up to this one is in the ledger; of those that may repeat others, `retrieved` says how they count.
    pub fn committed(&mut self, now: Now, upto: u64, retrieved: &[Record]) {
        for record in retrieved {
            let at_most_nano_usd = settlement::at_most_again(record, &self.prices);
            self.count(now, &Record { at_most_nano_usd, ..record.clone() });
        }
        self.limiter.committed(upto);
        let records = self.permits.committed(upto);
        self.metrics.ledger_committed(records);
        while let Some(key) = self.permits.next_committed() {
            self.commit_over(now, key);
        }
        self.permits_freed(now);
    }

    /// What an exchange held back for a commit may go out: the end of its reply, or of a part of a tunnel.
    fn commit_over(&mut self, now: Now, key: ExchangeKey) {
        match self.exchanges.linked(key).map(|exchange| exchange.stage) {
            Some(Stage::Settled { .. }) => self.release(now, key),
            Some(Stage::Journaling { .. }) => self.forward(now, key),
            _ => self.next_part(now, key),
        }
    }

    /// The reply's end may go out; the exchange is over.
    fn release(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.remove(key) else { return };
        self.uncount(key, &exchange);
        let Some(down) = self.downs.linked_mut(exchange.down) else { return };
        down.exchange = None;
        down.held_back = 0;
        self.next_request(now, exchange.down);
        self.retime_down(now, exchange.down, false);
    }

    /// The stream broke after its head: settles, and closes the client's connection without the stream's end, so that
    /// nobody takes it for complete.
    fn cut(&mut self, now: Now, key: ExchangeKey) {
        let Some(down) = self.exchanges.linked(key).map(|exchange| exchange.down) else { return };
        self.settle(now, key, Outcome::UpstreamError);
        self.remove_exchange(now, key);
        let Some(found) = self.downs.linked_mut(down) else { return };
        found.close_after_reply();
        match found.after_reply {
            AfterReply::EndsReply => self.drop_down(now, down),
            _ => self.close_when_sent(now, down),
        }
    }

    /// The client is gone.
    fn client_gone(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.linked(key) else { return };
        match exchange.stage {
            Stage::Receiving | Stage::Journaling { .. } => self.withdraw(now, key),
            Stage::Forwarding if self.has_all(exchange) => {
                if let Some(tunnel) = self.exchanges.linked_mut(key).and_then(|exchange| exchange.tunnel.as_mut()) {
                    tunnel.client_has_left();
                }
                self.settle(now, key, Outcome::Completed);
                self.remove_exchange(now, key);
            }
            Stage::Forwarding if self.reads_on(exchange) => self.abandon(now, key),
            Stage::Forwarding => self.end_abandoned(now, key),
            Stage::Settled { .. } => self.remove_exchange(now, key),
        }
    }

    /// True where the client has had the last event of its stream, or all that it asked for in its session: many close
    /// then, and wait for no end.
    fn has_all(&self, exchange: &Exchange) -> bool {
        let has_ended = match &exchange.tunnel {
            Some(tunnel) => tunnel.is_done(),
            None => exchange.response.usage_reader.has_ended(),
        };
        has_ended && self.downs.get(exchange.down).is_some_and(|down| down.out.is_empty())
    }

    /// True where the target is at work on the whole request, and will say what it took.
    fn reads_on(&self, exchange: &Exchange) -> bool {
        let begun = exchange.up.and_then(|up| self.ups.linked(up)).is_some_and(Upstream::has_begun);
        if exchange.tunnel.as_ref().is_some_and(|tunnel| tunnel.is_leaving()) {
            return true; // the target is told of the end, and has its time to take it
        }
        let will_report = match &exchange.tunnel {
            Some(tunnel) => tunnel.is_responding(),
            None => exchange.request.complete && exchange.draft.endpoint.is_metered(),
        };
        let reads_on = match self.settings.read_on {
            ReadOn::Nobodys => false,
            ReadOn::LimitedUsers => self.limiter.measures(exchange.draft.payer()).tokens,
            ReadOn::Everybodys => true,
        };
        reads_on && begun && will_report
    }

    /// Lets the response come to its end, or to the end of its time, without a client.
    fn abandon(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return };
        exchange.abandoned = true;
        if let Some(up) = exchange.up {
            self.retime_up(now, up, false);
            self.actions.push_back(Action::Read(Conn::Up(up)));
        }
    }

    /// An exchange without a client is over: by its response's end, or otherwise.
    fn end_abandoned(&mut self, now: Now, key: ExchangeKey) {
        self.settle(now, key, Outcome::ClientAborted);
        self.remove_exchange(now, key);
    }

    /// The process stops with the exchange in flight.
    fn interrupt(&mut self, now: Now, key: ExchangeKey) {
        match self.exchanges.linked(key).map(|exchange| exchange.stage) {
            Some(Stage::Receiving | Stage::Journaling { .. }) => self.withdraw(now, key),
            _ => {
                self.settle(now, key, Outcome::Interrupted);
                self.remove_exchange(now, key);
            }
        }
    }

    /// Frees the slot; the reply's client, where it is still there, has no exchange any more, and does not get what was
    /// held back for it.
    fn remove_exchange(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.remove(key) else { return };
        self.uncount(key, &exchange);
        self.permits.release(exchange.permits);
        if let Some(down) = self.downs.get_mut(exchange.down) {
            down.exchange = None;
            down.drop_held();
        }
        if let Some(seq) = exchange.awaited_seq() {
            self.permits.stop_waiting(seq);
        }
        self.permits_freed(now);
    }
}
