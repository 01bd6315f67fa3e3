//! The requests of a run and their right answers.

use super::{Fault, Planned, SHARED};
use crate::rng::Rng;

/// All requests. Where there is a limit, a few users share them, and each of these has one more at the end.
pub fn all(rng: &mut Rng, count: usize, limited: bool, faults: bool, fine: bool) -> Vec<Planned> {
    let users = if limited { 1 + rng.below(3) } else { 0 };
    let user_of = |id: usize, rng: &mut Rng| match id.checked_sub(count) {
        Some(last) => format!("{SHARED}{last}"),
        None if limited => format!("{SHARED}{}", rng.below(users)),
        None => format!("user-{id}"),
    };
    let mut requests = Vec::new();
    for id in 0..count + users {
        let user = user_of(id, rng);
        let name = if limited { format!("model-{id}") } else { user.clone() };
        requests.push(planned(rng, id, user, name, faults, fine));
    }
    requests
}

/// Some responses that end with their connection are cut where they end.
pub fn truncate_some(rng: &mut Rng, requests: &mut [Planned]) {
    for request in requests.iter_mut().filter(|request| request.fault == Some(Fault::CloseDelimited)) {
        if rng.below(3) == 0 {
            request.fault = Some(Fault::Truncated);
        }
    }
}

/// Kinds of answers that a target gives.
fn planned(rng: &mut Rng, id: usize, user: String, name: String, faults: bool, fine: bool) -> Planned {
    let tokens = rng.next() % 1000 + 1;
    let usage = format!("{{\"prompt_tokens\":{tokens},\"completion_tokens\":1,\"total_tokens\":{}}}", tokens + 1);
    let pad = "x".repeat(if fine { [0, 10, 100, 1_000] } else { [0, 1_000, 30_000, 200_000] }[rng.below(4)]);
    let mut request = blank(user, name);
    match rng.below(8) {
        0 => local(&mut request, rng),
        1 => stream(&mut request, rng, id, &usage, tokens),
        2 => bodiless(&mut request, rng, id),
        3 | 4 => upload(&mut request, rng, id, &pad, faults),
        _ => chat(&mut request, rng, id, &usage, tokens, &pad),
    }
    if faults && !request.local && rng.below(3) == 0 && request.fault.is_none() {
        let at = rng.below(request.response.len());
        let at = if rng.coin() { at } else { at.min(rng.below(200)) };
        // What may be sent again is sent again only where nothing came back.
        let (at, kinds) = if request.repeatable && rng.coin() { (0, 2) } else { (at, 5) };
        request.fault =
            Some([Fault::Reset(at), Fault::End(at), Fault::Silence, Fault::Garbage, Fault::Junk][rng.below(kinds)]);
    }
    request
}

/// A request of which nothing is decided.
pub fn blank(user: String, name: String) -> Planned {
    Planned {
        user,
        name,
        pipe: None,
        asked_at: 0,
        answered_at: 0,
        wire: Vec::new(),
        upstream_body: Vec::new(),
        response: Vec::new(),
        right_body: Vec::new(),
        right_status: 200,
        tokens: 0,
        fault: None,
        to_head: false,
        early: false,
        local: false,
        repeatable: false,
        again: None,
        seen: 0,
        got: None,
        saw_end_at: false,
        left: false,
    }
}

fn head(request: &Planned, id: usize, method: &str, path: &str, more: &str) -> Vec<u8> {
    // Where the target names a model, the record does too.
    let root = if request.name == request.user { "/v1".to_owned() } else { format!("/deployments/{}", request.name) };
    let line = format!("{method} {root}{path}");
    format!("{line} HTTP/1.1\r\nHost: proxy\r\nX-User-ID: {}\r\nx-sim: {id}\r\n{more}\r\n", request.user).into_bytes()
}

fn local(request: &mut Planned, rng: &mut Rng) {
    let path = ["/usage", "/metrics", "/healthz"][rng.below(3)];
    request.wire = format!("GET {path} HTTP/1.1\r\nHost: proxy\r\n\r\n").into_bytes();
    request.local = true;
}

fn chat(request: &mut Planned, rng: &mut Rng, id: usize, usage: &str, tokens: u64, pad: &str) {
    let body = format!("{{\"model\":\"{}\",\"messages\":[\"{pad}\"]}}", request.name);
    request.upstream_body = body.clone().into_bytes();
    request.wire =
        head(request, id, "POST", "/chat/completions", &framing(rng, &body, "Content-Type: application/json\r\n"));
    request.wire.extend(framed(rng, &request.wire, body.as_bytes()));
    request.tokens = tokens;
    request.right_body = format!("{{\"model\":\"m-1\",\"choices\":[\"{pad}\"],\"usage\":{usage}}}").into_bytes();
    let interim = ["", "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"][rng.below(2)];
    request.response = interim.as_bytes().to_vec();
    respond(request, rng, "application/json");
}

fn stream(request: &mut Planned, rng: &mut Rng, id: usize, usage: &str, tokens: u64) {
    let body = "{\"stream\":true}";
    request.upstream_body = b"{\"stream_options\":{\"include_usage\":true},\"stream\":true}".to_vec();
    request.wire =
        head(request, id, "POST", "/chat/completions", &framing(rng, body, "Content-Type: application/json\r\n"));
    request.wire.extend(framed(rng, &request.wire, body.as_bytes()));
    request.tokens = tokens;
    let (mut with, mut without) = (String::new(), String::new());
    for n in 0..rng.below(30) {
        with += &format!("data: {{\"choices\":[{{\"n\":{n}}}],\"usage\":null}}\n\n");
        without += &format!("data: {{\"choices\":[{{\"n\":{n}}}]}}\n\n");
    }
    with += &format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\ndata: [DONE]\n\n");
    without += "data: [DONE]\n\n";
    request.right_body = with.into_bytes();
    respond(request, rng, "text/event-stream");
    request.right_body = without.into_bytes();
}

fn bodiless(request: &mut Planned, rng: &mut Rng, id: usize) {
    request.repeatable = true;
    if rng.coin() {
        request.to_head = true;
        request.wire = head(request, id, "HEAD", "/models", "");
        request.response = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n".to_vec();
    } else {
        request.wire = head(request, id, "GET", "/models", "");
        request.right_status = 204;
        request.response = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
    }
}

fn upload(request: &mut Planned, rng: &mut Rng, id: usize, pad: &str, faults: bool) {
    request.upstream_body = pad.as_bytes().to_vec();
    request.wire = head(request, id, "POST", "/files", &framing(rng, pad, "Content-Type: multipart/form-data\r\n"));
    request.wire.extend(framed(rng, &request.wire, pad.as_bytes()));
    request.early = faults && rng.below(4) == 0;
    request.right_body = pad.as_bytes().to_vec();
    respond(request, rng, "application/octet-stream");
}

/// Header lines for a body by length or in chunks.
pub fn framing(rng: &mut Rng, body: &str, more: &str) -> String {
    let length = format!("Content-Length: {}\r\n", body.len());
    format!("{more}{}", if rng.coin() { &length } else { "Transfer-Encoding: chunked\r\n" })
}

/// The body as the head before it says.
pub fn framed(rng: &mut Rng, head: &[u8], body: &[u8]) -> Vec<u8> {
    if !head.windows(7).any(|window| window == b"chunked") {
        return body.to_vec();
    }
    let mut out = Vec::new();
    for part in rng.cut(body, 4) {
        out.extend(format!("{:x}\r\n", part.len()).into_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

fn respond(request: &mut Planned, rng: &mut Rng, content_type: &str) {
    let body = request.right_body.clone();
    let framing = match rng.below(3) {
        0 => format!("content-length: {}\r\n", body.len()),
        1 => "transfer-encoding: chunked\r\n".to_owned(),
        _ => {
            request.fault = Some(Fault::CloseDelimited);
            String::new()
        }
    };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{framing}\r\n");
    request.response.extend_from_slice(head.as_bytes());
    request.response.extend(framed(rng, head.as_bytes(), &body));
}
