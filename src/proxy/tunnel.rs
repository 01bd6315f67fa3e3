//! WebSockets: after the handshake the bytes of both sides pass as they are, and what the target says is read along.
//!
//! A tunnel is an exchange whose request and response end with their connections. It has a record of its own like any
//! other, and one for each message of the target that reports usage. The place for the next of those is reserved before
//! the next byte of the target is taken up:
//!
//! ```text
//!   reading ──message reports usage──▶ its record is on its way to the ledger: the message's last byte waits for it,
//!      ▲                               and what follows waits in `Upstream::input`
//!      │                                 │ committed (or `LEDGER_WAIT` is over)
//!      └───────── next place ◀───────────┘
//! ```

use super::downstream::{Phase, Sink};
use super::exchange::{Progress, Stage};
use super::response::{Next, request_id};
use super::{Action, Conn, DownKey, ExchangeKey, Proxy, UpKey, forward};
use crate::base::clock::{MICROSECOND, Now};
use crate::http::HttpError;
use crate::http::body::{BodyReader, BodyWriter};
use crate::http::head::ResponseHead;
use crate::usage::capture::Reported;
use crate::usage::record::{Endpoint, Outcome, Record, UsageSource};
use crate::usage::session::{Report, Session};
use std::io::ErrorKind;

/// What must still be known of a tunnel that is read along.
pub struct Tunnel {
    session: Session,
    pause: Pause,
    /// When the response that the target is at work on began.
    response_began: Option<Now>,
}

/// Why the target's bytes are not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// They are.
    None,
    /// The last part's record is on its way to the ledger.
    Commit,
    /// No place for a record is left.
    Place,
}

impl Tunnel {
    /// True while the target's bytes must wait.
    pub fn is_paused(&self) -> bool {
        self.pause != Pause::None
    }

    /// True while a record must be committed first.
    pub fn awaits_commit(&self) -> bool {
        self.pause == Pause::Commit
    }

    /// True while the target is at work on a response.
    pub fn is_responding(&self) -> bool {
        self.session.is_responding()
    }

    /// Completes the record of the whole from what its session says in the end, which is returned. `unread` says that
    /// bytes of the target had to wait and will not be read any more.
    pub fn conclude(self, record: &mut Record, unread: bool) -> Reported {
        let ended = self.session.finish();
        // A goodbye is the end that both sides wanted; without one, the target has broken off.
        record.outcome = match record.outcome {
            _ if ended.closed => Outcome::Completed,
            Outcome::Completed => Outcome::UpstreamError,
            other => other,
        };
        record.usage_source = match ended.reported.usage {
            _ if ended.unreported || unread => UsageSource::Unknown,
            Some(_) => UsageSource::Reported,
            None => UsageSource::None,
        };
        record.usage = ended.reported.usage.unwrap_or_default();
        record.model.clone_from(&ended.reported.model);
        record.response_id.clone_from(&ended.reported.id);
        ended.reported
    }
}

impl Proxy {
    /// The target takes up the WebSocket: from here on there are no messages of HTTP any more.
    pub(super) fn switch(&mut self, key: ExchangeKey, head: &ResponseHead<'_, '_>) -> Result<(), HttpError> {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Ok(()) };
        if !(exchange.request.websocket && head.is_websocket()) {
            return Err(HttpError::Malformed("a switch of protocols that nobody asked for"));
        }
        let endpoint = exchange.draft.endpoint;
        if endpoint.is_session() {
            let session = Session::new(endpoint);
            exchange.tunnel = Some(Box::new(Tunnel { session, pause: Pause::None, response_began: None }));
        }
        exchange.request.complete = false;
        exchange.request.outgoing.forget_sent();
        exchange.draft.status = head.status;
        exchange.draft.upstream_request_id = request_id(head);
        exchange.draft.stream = true;
        let response = &mut exchange.response;
        (response.progress, response.streamed, response.reusable) = (Progress::Body, true, false);
        (response.reader, response.writer) = (BodyReader::Close, BodyWriter::Bytes);
        let Some(down) = self.downs.get_mut(exchange.down) else { return Ok(()) };
        response.starts_at = down.sent + down.out.len() as u64;
        (down.keep_alive, down.until_close) = (false, true);
        down.phase = Phase::Body { reader: BodyReader::Close, sink: Sink::Stream };
        forward::write_switch(down.out.tail(), head, &exchange.limit_status);
        self.actions.push_back(Action::Flush(Conn::Down(exchange.down)));
        self.actions.push_back(Action::Read(Conn::Down(exchange.down)));
        Ok(())
    }

    /// Bytes of the target's side: relays them up to the end of the first message that reports usage.
    pub(super) fn tunnel_piece(&mut self, now: Now, key: ExchangeKey, bytes: &[u8]) -> Next {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Next::Wait };
        let Some(tunnel) = exchange.tunnel.as_mut() else { return Next::Wait };
        if tunnel.is_paused() {
            return Next::Later;
        }
        let (used, report) = tunnel.session.feed(bytes);
        let began = tunnel.response_began.take_if(|_| !tunnel.session.is_responding());
        if tunnel.session.is_responding() {
            tunnel.response_began.get_or_insert(now);
        }
        exchange.draft.first_byte_us.get_or_insert((now.mono - exchange.started) / MICROSECOND);
        exchange.draft.response_bytes += used as u64;
        if let Some(down) = self.downs.get_mut(exchange.down) {
            down.out.append(&bytes[..used]);
            self.actions.push_back(Action::Flush(Conn::Down(exchange.down)));
        }
        let is_over = exchange.abandoned && !tunnel.session.is_responding();
        if let Some(report) = report {
            self.settle_part(now, key, report, began.unwrap_or(now));
        }
        if is_over {
            self.end_abandoned(now, key);
            return Next::Wait;
        }
        Next::Bytes(used)
    }

    /// A record for a part of a tunnel; what follows it waits.
    fn settle_part(&mut self, now: Now, key: ExchangeKey, report: Report, began: Now) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Report { endpoint, reported } = report;
        let whole = &exchange.draft;
        let record = Record {
            started_at: began.unix,
            user: whole.user.clone(),
            key_id: whole.key_id,
            endpoint,
            // What the session's model transcribes is another one's doing.
            model_requested: whole.model_requested.clone().filter(|_| endpoint != Endpoint::RealtimeTranscription),
            model: reported.model.clone(),
            stream: true,
            status: whole.status,
            usage_source: if exchange.abandoned { UsageSource::Drained } else { UsageSource::Reported },
            usage: reported.usage.unwrap_or_default(),
            duration_us: (now.mono - began.mono) / MICROSECOND,
            response_id: reported.id.clone(),
            upstream_request_id: whole.upstream_request_id.clone(),
            ..Record::default()
        };
        let deployed = exchange.request.deployed;
        let before = self.settled_seq;
        let seq = self.push_records(now, record, &reported, deployed);
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.places -= seq - before;
        self.places_reserved -= seq - before;
        let Some(tunnel) = exchange.tunnel.as_mut() else { return };
        tunnel.pause = Pause::Commit;
        let Some(down) = self.downs.get_mut(exchange.down).filter(|_| self.settings.settled) else {
            return self.next_part(now, key);
        };
        down.held_back = 1;
        self.uncommitted.push_back((seq, key));
        let (down, up) = (exchange.down, exchange.up);
        self.retime_tunnel(now, down, up);
    }

    /// The last part's record is committed, or no longer waited for: goes on as soon as there is a place for the next.
    pub(super) fn next_part(&mut self, now: Now, key: ExchangeKey) {
        let left = self.places_left();
        let Some(exchange) = self.exchanges.get_mut(key).filter(|exchange| exchange.stage == Stage::Forwarding) else {
            return;
        };
        let Some(tunnel) = exchange.tunnel.as_mut() else { return };
        if let Some(down) = self.downs.get_mut(exchange.down) {
            down.held_back = 0;
            self.actions.push_back(Action::Flush(Conn::Down(exchange.down)));
        }
        let wanted = exchange.draft.endpoint.records_max() - exchange.places;
        if wanted <= left {
            tunnel.pause = Pause::None;
            exchange.places += wanted;
            self.places_reserved += wanted;
            self.actions.extend(exchange.up.map(|up| Action::Read(Conn::Up(up))));
        } else {
            tunnel.pause = Pause::Place;
            self.placeless.push_back(key);
        }
        let (down, up) = (exchange.down, exchange.up);
        self.retime_tunnel(now, down, up);
    }

    /// A pause has begun or ended: both sides are waited for otherwise.
    fn retime_tunnel(&mut self, now: Now, down: DownKey, up: Option<UpKey>) {
        self.retime_down(now, down, false);
        if let Some(up) = up {
            self.retime_up(now, up, false);
        }
    }

    /// Places have become free: whoever waits for one goes on, in order.
    pub(super) fn places_freed(&mut self, now: Now) {
        for _ in 0..self.placeless.len() {
            let Some(key) = self.placeless.pop_front() else { return };
            self.next_part(now, key);
            if self.placeless.back() == Some(&key) {
                self.placeless.rotate_right(1); // still the first to wait
                return;
            }
        }
    }

    /// Goes on with what the target sent while it had to wait, and with its end if that has come meanwhile.
    pub(super) fn advance_upstream(&mut self, now: Now, key: UpKey) {
        let Some((false, up)) = self.tunnel_of(key).map(Tunnel::is_paused).zip(self.ups.get_mut(key)) else { return };
        let input = std::mem::take(&mut up.input);
        self.upstream_plain(now, key, input.as_slice());
        let Some(up) = self.ups.get(key).filter(|up| up.input.is_empty()) else { return };
        match up.ended {
            Some(Ok(())) => self.upstream_ended(now, key),
            Some(Err(why)) => self.upstream_broke(now, key, why),
            None => {}
        }
    }

    /// Puts the end of the target's side off, where bytes that came before it are still to be relayed. Of several, the
    /// first counts: where it has ended in good order, writing to it breaks later.
    pub(super) fn puts_end_off(&mut self, key: UpKey, end: Result<(), ErrorKind>) -> bool {
        let Some(paused) = self.tunnel_of(key).map(Tunnel::is_paused) else { return false };
        let Some(up) = self.ups.get_mut(key) else { return false };
        let waits = paused || !up.input.is_empty();
        if waits {
            up.ended.get_or_insert(end);
        }
        waits
    }

    /// The tunnel that a connection carries.
    pub(super) fn tunnel_of(&self, key: UpKey) -> Option<&Tunnel> {
        self.exchanges.get(self.ups.get(key)?.exchange?)?.tunnel.as_deref()
    }
}
