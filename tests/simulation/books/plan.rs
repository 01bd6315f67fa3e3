//! What is asked under a budget, and what the target truly does for it, whatever it says of that and whatever becomes of
//! the answer.

use super::{Books, Truth};
use crate::rng::Rng;
use crate::scenario::requests::{blank, framed, framing};
use crate::scenario::{Fault, Planned, SHARED};
use crate::session::{Ending, GOODBYE, Leaving, Report, Session, frame, put};

/// Models of the built-in table: their prices in and out, nano-dollars a token, and the most that they put out.
const MODELS: [(&str, u64, u64, u64); 3] =
    [("gpt-4", 30_000, 60_000, 4_096), ("gpt-4-turbo", 10_000, 30_000, 4_096), ("gpt-4o", 2_500, 10_000, 16_384)];
const SPOKEN: (&str, u64, u64) = ("gpt-realtime", 4_000, 16_000);

/// Kinds of requests, by what the target says of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Json,
    Stream,
    /// A stream that never reports; its text is all that was put out.
    SilentStream,
    /// A document that does not report.
    SilentJson,
    /// It is answered before it is worked on.
    Background,
    /// A look at the last one of these.
    Again,
}

const KINDS: [Kind; 6] =
    [Kind::Json, Kind::Stream, Kind::SilentStream, Kind::SilentJson, Kind::Background, Kind::Again];

/// The requests, with the truth of each.
pub fn requests(rng: &mut Rng, users: usize, fine: bool) -> (Vec<Planned>, Vec<Truth>) {
    // Some runs are of few kinds, so that one way out is tried again and again.
    let kinds: Vec<Kind> = if rng.coin() { KINDS.into() } else { (0..2).map(|_| KINDS[rng.below(6)]).collect() };
    let with_faults = rng.coin();
    let (mut requests, mut truths) = (Vec::new(), Vec::new());
    let mut begun = None;
    for id in 0..4 + rng.below(20) {
        let kind = match (kinds[rng.below(kinds.len())], begun) {
            (Kind::Again, None) => Kind::Background,
            (kind, _) => kind,
        };
        let user = format!("{SHARED}{}", rng.below(users));
        let (request, truth) = match (kind, begun) {
            (Kind::Again, Some(begun)) => again(rng, id, user, begun, &truths),
            _ => asked(rng, id, user, kind, (with_faults, fine)),
        };
        begun = if kind == Kind::Background { Some(id) } else { begun };
        requests.push(request);
        truths.push(truth);
    }
    (requests, truths)
}

/// A name that the table does not have itself, and that no other request has: a snapshot of the model.
fn snapshot(model: &str, id: usize) -> String {
    format!("{model}-2031-{:02}-{:02}", 1 + id / 28, 1 + id % 28)
}

/// A request that costs.
fn asked(rng: &mut Rng, id: usize, user: String, kind: Kind, (with_faults, fine): (bool, bool)) -> (Planned, Truth) {
    let (model, price_in, price_out, largest) = MODELS[rng.below(3)];
    let mut request = blank(user, snapshot(model, id));
    let prompt = "words ".repeat([0, 10, if fine { 30 } else { 500 }][rng.below(3)]);
    // As many as the proxy takes its text for, or fewer.
    let input = 1 + rng.below(prompt.len() / 4) as u64;
    let stated = rng.coin().then(|| [1, 50, 1_000, 4_096][rng.below(4)]);
    let is_document = matches!(kind, Kind::Json | Kind::SilentJson);
    let answers = if is_document { [1, 1, 2, 8][rng.below(4)] } else { 1 };
    let most = stated.unwrap_or(largest) * answers;
    let output = match rng.below(3) {
        0 => most,
        1 => 1 + rng.next() % most,
        _ => 1 + rng.next() % most.min(100),
    };
    let is_stream = matches!(kind, Kind::Stream | Kind::SilentStream);
    let output = if fine && is_stream { output.min(100) } else { output };
    let mut truth = Truth { kind, input, output, price_in, price_out, ..Truth::default() };
    request.tokens = input;
    let mut body = format!("{{\"model\":\"{}\",\"messages\":[\"{prompt}\"]", request.name);
    let mut path = "/v1/chat/completions";
    let mut maximum = "max_tokens";
    if is_stream {
        body += ",\"stream\":true,\"stream_options\":{\"include_usage\":true}";
    }
    if kind == Kind::Background {
        (path, maximum) = ("/v1/responses", "max_output_tokens");
        body += ",\"background\":true";
    }
    if let Some(stated) = stated {
        body += &format!(",\"{maximum}\":{stated}");
    }
    if answers > 1 {
        body += &format!(",\"n\":{answers}");
    }
    body += "}";
    request.upstream_body = body.clone().into_bytes();
    let head = head(&request, id, "POST", path, &framing(rng, &body, "Content-Type: application/json\r\n"));
    request.wire = head;
    request.wire.extend(framed(rng, &request.wire, body.as_bytes()));
    answer(rng, id, &mut request, &mut truth, with_faults);
    (request, truth)
}

/// A request that looks at what another has begun: it is done, or not yet.
fn again(rng: &mut Rng, id: usize, user: String, begun: usize, truths: &[Truth]) -> (Planned, Truth) {
    let mut request = blank(user, String::new());
    request.repeatable = true;
    request.again = Some(begun);
    request.wire = head(&request, id, "GET", &format!("/v1/responses/resp_{begun}"), "");
    let truth = &truths[begun];
    let usage = if rng.below(4) > 0 { usage("input", "output", truth) } else { "null".to_owned() };
    let body = format!("{{\"id\":\"resp_{begun}\",\"model\":\"{}\",\"usage\":{usage}}}", truth.model);
    request.response = respond(rng, &mut request.fault, "application/json", body.as_bytes());
    (request, Truth { kind: Kind::Again, ..Truth::default() })
}

fn head(request: &Planned, id: usize, method: &str, path: &str, more: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: proxy\r\nX-User-ID: {}\r\nx-sim: {id}\r\n{more}\r\n", request.user)
        .into_bytes()
}

fn usage(input: &str, output: &str, truth: &Truth) -> String {
    let Truth { input: of_input, output: of_output, .. } = truth;
    let total = of_input + of_output;
    format!("{{\"{input}_tokens\":{of_input},\"{output}_tokens\":{of_output},\"total_tokens\":{total}}}")
}

fn answer(rng: &mut Rng, id: usize, request: &mut Planned, truth: &mut Truth, with_faults: bool) {
    truth.model.clone_from(&request.name);
    let model = format!("\"model\":\"{}\"", truth.model);
    let reported = usage("prompt", "completion", truth);
    let cuts = with_faults && rng.below(4) == 0;
    let (content_type, body) = match truth.kind {
        Kind::Stream | Kind::SilentStream => {
            let body = stream(rng, truth, &model, &reported, &mut request.fault, cuts);
            ("text/event-stream", body)
        }
        Kind::Background => {
            ("application/json", format!("{{\"id\":\"resp_{id}\",{model},\"status\":\"queued\",\"usage\":null}}"))
        }
        Kind::SilentJson => ("application/json", format!("{{{model},\"choices\":[\"{}\"]}}", "x".repeat(100))),
        Kind::Json | Kind::Again => {
            let pad = "x".repeat(rng.below(500));
            ("application/json", format!("{{{model},\"choices\":[\"{pad}\"],\"usage\":{reported}}}"))
        }
    };
    let is_stream = content_type == "text/event-stream";
    request.response = match request.fault {
        // What is cut has a length, which it does not come to.
        Some(Fault::End(at)) => {
            let response = respond_by_length(content_type, body.as_bytes());
            request.fault = Some(Fault::End(response.len() - body.len() + at));
            response
        }
        _ => respond(rng, &mut request.fault, content_type, body.as_bytes()),
    };
    if cuts && !is_stream && truth.kind != Kind::Background {
        let at = rng.below(request.response.len());
        request.fault = Some([Fault::End(at), Fault::Reset(at), Fault::Silence][rng.below(3)]);
    }
}

/// The events of a stream. One that never reports puts out what its text says, four bytes a token. One that the target
/// cuts costs what went out whole: it does not bill what it has broken off itself.
fn stream(
    rng: &mut Rng,
    truth: &mut Truth,
    model: &str,
    reported: &str,
    fault: &mut Option<Fault>,
    cuts: bool,
) -> String {
    let count = 1 + rng.below(truth.output.min(12) as usize) as u64;
    let cut_at = cuts.then(|| rng.next() % (count + 1));
    let each = |n: u64| truth.output / count + u64::from(n < truth.output % count);
    let mut body = String::new();
    let mut sent = 0;
    for n in 0..count {
        if cut_at == Some(n) {
            *fault = Some(Fault::End(body.len() + rng.below(10)));
            truth.cut = true;
        }
        let word = "word".repeat(if truth.kind == Kind::SilentStream || cuts { each(n) as usize } else { 1 });
        body += &format!("data: {{{model},\"choices\":[{{\"delta\":{{\"content\":\"{word}\"}}}}],\"usage\":null}}\n\n");
        sent += if truth.cut { 0 } else { each(n) };
    }
    if cut_at == Some(count) {
        *fault = Some(Fault::End(body.len()));
        truth.cut = true;
    }
    truth.output = sent;
    if truth.kind == Kind::Stream {
        body += &format!("data: {{{model},\"choices\":[],\"usage\":{reported}}}\n\n");
    }
    body + "data: [DONE]\n\n"
}

fn respond_by_length(content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn respond(rng: &mut Rng, fault: &mut Option<Fault>, content_type: &str, body: &[u8]) -> Vec<u8> {
    let framing = match rng.below(3) {
        0 => return respond_by_length(content_type, body),
        1 => "transfer-encoding: chunked\r\n",
        _ => {
            *fault = Some(Fault::CloseDelimited);
            ""
        }
    };
    let mut response = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{framing}\r\n").into_bytes();
    response.extend(framed(rng, &response, body));
    response
}

/// A WebSocket of a user: its responses come one after another, each when the client has the one before it, and each
/// costs once the proxy can know of it. The last one may not report.
pub fn session(rng: &mut Rng, number: usize, fine: bool, users: usize) -> (Session, Vec<Books>) {
    let mut session = Session::new(rng, number, fine);
    let (model, price_in, price_out) = SPOKEN;
    let (named, user) = (snapshot(model, number), format!("{SHARED}{}", rng.below(users)));
    let handshake = String::from_utf8(session.handshake).expect("it is text");
    let path = if session.metered { "/v1/realtime?model=m" } else { "/v1/socket" };
    let handshake = handshake.replace(path, &format!("/v1/realtime?model={named}"));
    session.handshake = handshake.replace(&session.user, &user).into_bytes();
    (session.metered, session.user, session.model) = (true, user, Some(named));
    let mut out = Vec::new();
    (session.reports, session.rests, session.turns) = (Vec::new(), vec![0], Vec::new());
    (session.says, session.early, session.limited) = (Vec::new(), 0, true);
    put(
        rng,
        &mut out,
        &format!("{{\"type\":\"session.created\",\"session\":{{\"id\":\"sess_1\",\"model\":\"{model}\"}}}}"),
    );
    let mut books = Vec::new();
    let count = rng.below(8);
    for n in 0..count {
        session.rests.push(out.len());
        frame(&mut session.says, 0x81, b"{\"type\":\"response.create\"}", true);
        session.asks.push((out.len(), session.says.len()));
        let (input, output) = (1 + rng.next() % 20_000, 1 + rng.next() % 4_096);
        let truth = Truth { kind: Kind::Json, input, output, price_in, price_out, ..Truth::default() };
        put(rng, &mut out, "{\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\"}}");
        let begun_at = out.len();
        let delta = "x".repeat(rng.below(200));
        put(rng, &mut out, &format!("{{\"type\":\"response.delta\",\"delta\":\"{delta}\"}}"));
        let is_silent = n + 1 == count && rng.below(4) == 0;
        let usage = if is_silent { "null".to_owned() } else { usage("input", "output", &truth) };
        let done = format!("{{\"type\":\"response.done\",\"response\":{{\"id\":\"resp_1\",\"usage\":{usage}}}}}");
        put(rng, &mut out, &done);
        if !is_silent {
            session.reports.push(Report { ends_at: out.len(), tokens: input, sent_at: None, let_go: false });
        }
        books.push(Books { cost: truth.cost(), begun_at, ..Books::default() });
    }
    session.rests.push(out.len());
    out.extend(GOODBYE);
    session.turns.clone_from(&session.asks);
    let moved = |at: usize| if at >= session.answer.len() { out.len() } else { at.min(out.len()) };
    session.ending = match session.ending {
        Ending::End(at) => Ending::End(moved(at)),
        Ending::Reset(at) => Ending::Reset(moved(at)),
        Ending::Silence(at) => Ending::Silence(moved(at)),
    };
    session.leaving = session.leaving.map(|leaving| match leaving {
        Leaving::Got(count) => Leaving::Got(moved(count)),
        other => other,
    });
    session.answer = out;
    (session, books)
}
