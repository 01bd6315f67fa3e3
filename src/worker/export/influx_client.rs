//! The InfluxDB server: one write request, and what its answer means for the lines in it.
//!
//! In: where to write, and lines. Out: a [`Verdict`]. Never: a wait without an end; a credential in a reason.

use crate::config::{Egress, Influx, Secret};
use crate::worker::outbound::{self, Agents, Trouble, retry_after};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Uri;
use std::io::Write as _;
use std::time::Duration;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

/// Connecting, TLS included, to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole request and its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How much of an answer is reported, in bytes.
const REASON_BYTES_MAX: usize = 300;

/// What a request came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server has the lines.
    Taken,
    /// It cannot read or store at least one of them. `is_final`: because it is too old for the server's retention, so
    /// that no other setting of ours would change it.
    Refused { why: String, is_final: bool },
    /// It may take them at another time, or under other settings.
    Trouble(Trouble),
}

/// A client of one server, with its connection.
pub struct Server {
    agents: Agents,
    target: Influx,
}

impl Server {
    /// Connects to nothing yet.
    pub fn new(target: Influx, egress: &Egress) -> Self {
        let url: Uri = target.shown.parse().expect("checked by `config`");
        let times = [CONNECT_TIMEOUT, REQUEST_TIMEOUT];
        Self { agents: Agents::new(target.ca.as_deref(), egress.way_to(&url), times), target }
    }

    /// Whether writes are let in: sends a comment, which is no point.
    ///
    /// # Errors
    /// Why they are not, as the server or the network says it.
    pub fn check(&self) -> Result<(), String> {
        match self.post(b"# nothing\n") {
            // InfluxDB 2 has let it in when it misses them.
            Verdict::Refused { why, .. } if !why.contains("requires points") => Err(why),
            Verdict::Trouble(trouble) => Err(trouble.why),
            _ => Ok(()),
        }
    }

    /// Sends these lines in one request.
    pub fn post(&self, lines: &[u8]) -> Verdict {
        let body = compressed(lines);
        match self.agents.send(|agent| self.send_by(agent, &body)) {
            Ok(mut response) => {
                let authorization = self.target.authorization.as_ref().map_or("", Secret::expose);
                let said = outbound::said(&mut response, authorization.rsplit(' ').next().unwrap_or_default());
                verdict(response.status(), &said, retry_after(&response))
            }
            Err(error) => Verdict::Trouble(Trouble::new(outbound::words(&error))),
        }
    }

    fn send_by(&self, agent: &Agent, body: &[u8]) -> Result<Response<Body>, ureq::Error> {
        let mut request = agent
            .post(self.target.url.expose())
            .header("content-type", "text/plain; charset=utf-8")
            .header("content-encoding", "gzip");
        if let Some(authorization) = &self.target.authorization {
            request = request.header("authorization", authorization.expose());
        }
        request.send(body)
    }
}

fn compressed(lines: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(lines).and_then(|()| encoder.finish()).expect("compressing into memory cannot fail")
}

/// What an answer means. Only what is said of the lines is a refusal: with wrong credentials (401, 403), an unknown
/// database or path (404), or too much at once (429), the same lines may be taken later.
fn verdict(status: StatusCode, answer: &str, retry_after: Option<Duration>) -> Verdict {
    let why = reason(status, answer);
    match status.as_u16() {
        200..=299 => Verdict::Taken,
        // InfluxDB 2 says 500 where it has written some of the points only.
        status if matches!(status, 400 | 413 | 422) || status >= 400 && answer.contains("partial write") => {
            Verdict::Refused { why, is_final: answer.contains("beyond retention policy") }
        }
        _ => Verdict::Trouble(Trouble { why, retry_after }),
    }
}

/// The status and the beginning of what the server says.
fn reason(status: StatusCode, answer: &str) -> String {
    let answer = answer.trim();
    let shown = &answer[..answer.floor_char_boundary(REASON_BYTES_MAX)];
    format!("{} {shown}", status.as_u16()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(status: u16, answer: &str) -> Verdict {
        verdict(StatusCode::from_u16(status).unwrap(), answer, Some(Duration::from_secs(7)))
    }

    #[test]
    fn only_what_is_said_of_the_lines_is_a_refusal() {
        for status in [200, 204] {
            assert_eq!(judge(status, ""), Verdict::Taken);
        }
        for status in [400, 413, 422] {
            let refused = Verdict::Refused { why: format!("{status} no"), is_final: false };
            assert_eq!(judge(status, " no\n"), refused);
        }
        for status in [301, 401, 403, 404, 405, 408, 429, 500, 503] {
            let trouble = Trouble { why: status.to_string(), retry_after: Some(Duration::from_secs(7)) };
            assert_eq!(judge(status, ""), Verdict::Trouble(trouble));
        }
        let old = r#"{"error":"partial write: points beyond retention policy dropped=2"}"#;
        assert!(matches!(judge(400, old), Verdict::Refused { is_final: true, .. }));
        let some = r#"{"code":"internal error","message":"unexpected error writing points to database: partial write: points beyond retention policy dropped=1"}"#;
        assert!(matches!(judge(500, some), Verdict::Refused { is_final: true, .. }));
        let conflict = "partial write: field type conflict: input field \"requests\" is type float dropped=1";
        assert!(matches!(judge(500, conflict), Verdict::Refused { is_final: false, .. }));
        assert!(matches!(judge(301, conflict), Verdict::Trouble(_)));
    }

    #[test]
    fn a_reason_is_short_and_whole() {
        let said = format!("a{}", "é".repeat(1000));
        let reason = reason(StatusCode::BAD_REQUEST, &said);
        assert_eq!(reason, format!("400 a{}", "é".repeat(149)));
    }
}
