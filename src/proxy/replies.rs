//! Answers of our own on a client's connection: to local requests, and errors.
//!
//! A refused request leaves the connection usable where its end can be told; where it cannot, the connection closes
//! once the answer is read. An error for an exchange that has a record waits for its commit like any other response.
//!
//! An answer from the ledger is whole in memory: it may not be read out of the database as its client takes it, for a
//! read transaction that lasts keeps the log from starting over. Each is bounded (see `reporting`), the questions
//! under way are, and so are all answers together that wait for their clients: [`ANSWER_BYTES_MAX`].

use super::downstream::{DISCARD_BYTES_MAX, Phase, Sink};
use super::exchange::{Progress, Stage};
use super::{Action, Conn, DownKey, ExchangeKey, HIGH_WATERMARK, Proxy};
use crate::base::clock::Now;
use crate::http::body::BodyReader;
use crate::http::framing::Framing;
use crate::http::head::RequestHead;
use crate::http::reply::{Fault, Reply, error_body};
use crate::local::Answer;
use crate::usage::record::Outcome;

/// Bytes of all large answers together that may wait for clients who take their time; beyond, a question is refused.
/// Those of up to [`HIGH_WATERMARK`] are not counted: there are as many as connections.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// An error of ours.
pub(super) struct Refusal<'a> {
    pub fault: Fault,
    pub message: &'a str,
    /// Further header lines, each ended by CRLF.
    pub extra: &'a [u8],
    pub to_head: bool,
    pub close: bool,
}

impl Proxy {
    /// Puts out an answer to a local request.
    pub(super) fn local_answer(&mut self, now: Now, key: DownKey, answer: &Answer) {
        let Some(down) = self.downs.get_mut(key) else { return };
        let Some(to_head) = down.asked.take() else { return };
        let counted = if to_head || answer.body.len() <= HIGH_WATERMARK { 0 } else { answer.body.len() };
        let refusal = overloaded("too many large answers wait for their readers; ask again in a moment");
        let answer = if self.answer_bytes + counted > ANSWER_BYTES_MAX {
            &refusal
        } else {
            self.answer_bytes += counted;
            down.answer_bytes += counted;
            answer
        };
        let close = !down.keep_alive || self.draining;
        self.put_reply(
            key,
            Reply {
                status: answer.status,
                content_type: answer.content_type,
                body: &answer.body,
                error_code: None,
                extra: format!("cache-control: no-store\r\n{}", answer.headers).as_bytes(),
                to_head,
                unix: now.unix,
            },
            close,
        );
        self.next_request(now, key);
        self.retime_down(now, key, false);
    }

    /// Refuses a request whose end can be told. A small body is read and dropped, to keep the connection.
    pub(super) fn refuse(
        &mut self,
        now: Now,
        key: DownKey,
        head: &RequestHead<'_, '_>,
        fault: Fault,
        message: &str,
        extra: &[u8],
    ) {
        let short = match head.framing {
            Framing::Length(length) => length <= u64::from(DISCARD_BYTES_MAX),
            Framing::None | Framing::Chunked => true,
            Framing::Close => false,
        };
        // A client that waits for 100 Continue sends its body only if it likes: nobody can tell what comes next.
        let close = !short || head.expects_continue;
        self.metrics.refused(fault.code());
        self.note_refusal(fault);
        self.write_error(now, key, &Refusal { fault, message, extra, to_head: head.method == "HEAD", close });
        let Some(down) = self.downs.get_mut(key) else { return };
        if close {
            self.close_when_sent(now, key);
        } else if head.framing == Framing::None {
            self.next_request(now, key);
        } else {
            let sink = Sink::Discard(DISCARD_BYTES_MAX);
            down.phase = Phase::Body { reader: BodyReader::new(head.framing), sink };
            self.actions.push_back(Action::Flush(Conn::Down(key)));
        }
    }

    /// Refuses a request whose end cannot be told, or is not worth waiting for, and closes.
    pub(super) fn refuse_and_close(&mut self, now: Now, key: DownKey, fault: Fault, message: &str) {
        let mut to_head = false;
        if let Some(exchange) = self.downs.get(key).and_then(|down| down.exchange) {
            match self.exchanges.get(exchange) {
                Some(found) if matches!(found.stage, Stage::Receiving | Stage::Journaling) => {
                    to_head = found.request.to_head;
                    self.withdraw(now, exchange);
                }
                Some(found) if found.response.progress == Progress::Awaited => {
                    return self.give_up(now, exchange, fault, message);
                }
                _ => return self.drop_down(now, key),
            }
        }
        self.metrics.refused(fault.code());
        self.note_refusal(fault);
        self.write_error(now, key, &Refusal { fault, message, extra: &[], to_head, close: true });
        self.close_when_sent(now, key);
    }

    /// The target has part of a request whose rest makes no sense, or does not come.
    fn give_up(&mut self, now: Now, key: ExchangeKey, fault: Fault, message: &str) {
        let Some(down) = self.exchanges.get(key).map(|exchange| exchange.down) else { return };
        self.write_exchange_error(now, key, fault, message);
        if let Some(down) = self.downs.get_mut(down) {
            down.phase = Phase::Deaf;
        }
        self.settle(now, key, Outcome::ClientAborted);
        self.hold_or_release(now, key);
    }

    /// The error for an exchange that ends without a response: with its state of its limits, and for its record.
    pub(super) fn write_exchange_error(&mut self, now: Now, key: ExchangeKey, fault: Fault, message: &str) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.draft.status = fault.status();
        let (down, to_head, close) = (exchange.down, exchange.request.to_head, !exchange.request.complete);
        let mut extra = Vec::new();
        exchange.limit_status.write(&mut extra);
        self.write_error(now, down, &Refusal { fault, message, extra: &extra, to_head, close });
    }

    pub(super) fn write_error(&mut self, now: Now, key: DownKey, refusal: &Refusal<'_>) {
        let Some(down) = self.downs.get_mut(key) else { return };
        let close = refusal.close || !down.keep_alive || self.draining;
        down.keep_alive = !close;
        let code = refusal.fault.code();
        self.put_reply(
            key,
            Reply {
                status: refusal.fault.status(),
                content_type: "application/json",
                body: &error_body(code, refusal.message),
                error_code: Some(code),
                extra: refusal.extra,
                to_head: refusal.to_head,
                unix: now.unix,
            },
            close,
        );
    }

    fn put_reply(&mut self, key: DownKey, reply: Reply<'_>, close: bool) {
        let Some(down) = self.downs.get_mut(key) else { return };
        self.replies += 1;
        // Differs between replies and between processes; marks the answer as ours.
        let request_id = format!("proxy-{:x}-{:x}", self.boot_id, self.replies);
        let connection = down.connection_header(close);
        reply.write(down.out.tail(), &request_id, connection);
    }

    /// What `GET /readyz` says.
    pub(super) fn readiness(&self) -> Answer {
        if self.draining {
            text(503, "draining\n")
        } else if let Some(trouble) = &self.ledger_trouble {
            text(503, &format!("the ledger cannot commit: {trouble}\n"))
        } else if self.places_left() <= u64::from(self.settings.journaled) {
            text(503, "the ledger cannot take more records at the moment\n")
        } else if self.addresses.is_empty() {
            text(503, "the target's address is not known\n")
        } else {
            text(200, "ready\n")
        }
    }
}

/// The answer to a question that cannot be taken now.
pub fn overloaded(message: &str) -> Answer {
    let (status, body) = (Fault::Overloaded.status(), error_body(Fault::Overloaded.code(), message));
    Answer::new(status, "application/json", body)
}

/// An answer in words.
pub fn text(status: u16, body: &str) -> Answer {
    Answer::new(status, "text/plain; charset=utf-8", body)
}

#[cfg(test)]
mod tests;
