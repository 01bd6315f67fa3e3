//! Every recorded session replayed over TLS as frames: messages in fragments, control frames between them, the bytes cut
//! anywhere, once in the recorded order and once with both sides talking at the same time.

use crate::support;
use crate::support::ca::{Ca, Server};
use crate::support::proxy::Proxy;
use crate::support::recordings::{self, Message, Session};
use crate::support::rng::Rng;
use crate::support::upstream::{SeenRequest, Upstream};
use crate::support::usage::columns;
use crate::support::websocket::{self, BINARY, Frame, Side, TEXT};
use crate::support::wire::Cut;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

/// What one side sends until it is the other's turn.
struct Run {
    from_client: bool,
    bytes: Vec<u8>,
}

/// One connection, ready to be replayed: both sides know every byte that either will send.
struct Script {
    target: String,
    runs: Vec<Run>,
    /// Both sides send all they have to say at once.
    at_once: bool,
    seed: u64,
}

/// By the name that the client's handshake gives.
type Scripts = Arc<BTreeMap<String, Script>>;

/// Where each provider has its sessions. Gemini's own protocol has another place; here it is told to the proxy as
/// OpenAI's, which it must not take it for.
fn target(provider: &str) -> &'static str {
    match provider {
        "openai" => "/v1/realtime?model=gpt-realtime",
        "azure" => "//openai/v1/realtime?model=gpt-realtime",
        "azure_voice_live" => "/voice-live/realtime?api-version=2026-04-10&model=gpt-realtime",
        "xai" => "/v1/realtime?model=grok-voice-agent",
        "gateway" => "/proxy/openai/v1/realtime?model=any",
        "google" => "/v1beta/realtime?key=none",
        other => panic!("{other} is new here"),
    }
}

/// The messages' text as recorded, indented, or with its members in the order of their names: a report is one wherever
/// its `type` stands.
fn text(message: &Message, rng: &mut Rng) -> Vec<u8> {
    let value = || serde_json::from_str::<Value>(&message.text).unwrap();
    match rng.below(4) {
        0 => serde_json::to_vec_pretty(&value()).unwrap(),
        1 => serde_json::to_vec(&value()).unwrap(),
        _ => message.text.clone().into_bytes(),
    }
}

impl Script {
    fn new(session: &Session, socket: &recordings::Socket, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let opcode = if session.provider == "google" { BINARY } else { TEXT };
        let mut sides = [Side::Server, Side::Client(Rng::new(rng.next()))];
        let mut runs: Vec<Run> = Vec::new();
        let mut say = |from_client: bool, bytes: Vec<u8>| match runs.last_mut() {
            Some(run) if run.from_client == from_client => run.bytes.extend(bytes),
            _ => runs.push(Run { from_client, bytes }),
        };
        for message in &socket.messages {
            let frame = Frame::new(opcode, text(message, &mut rng));
            let bytes = sides[usize::from(message.sent)].encode_in_fragments(&frame, &mut rng);
            say(message.sent, bytes);
        }
        let (code, reason) = socket.closed.clone().unwrap_or((1000, "bye".to_owned()));
        let client_first = socket.closed.is_none() && rng.coin();
        for from_client in [client_first, !client_first] {
            say(from_client, sides[usize::from(from_client)].encode(&Frame::close(code, &reason)));
        }
        Self { target: target(&session.provider).to_owned(), runs, at_once: rng.coin(), seed: rng.next() }
    }

    /// All that one side sends.
    fn all(&self, from_client: bool) -> Vec<u8> {
        let runs = self.runs.iter().filter(|run| run.from_client == from_client);
        runs.flat_map(|run| run.bytes.iter().copied()).collect()
    }

    /// Plays one side in turns: sends what is its own, and holds what comes against what the other is to send.
    fn play(&self, as_client: bool, stream: &mut (impl Read + Write)) -> Result<(), Cut> {
        let mut rng = Rng::new(self.seed ^ u64::from(as_client));
        for run in &self.runs {
            if run.from_client == as_client {
                send_cut(stream, &run.bytes, &mut rng)?;
            } else {
                expect(stream, &run.bytes)?;
            }
        }
        Ok(())
    }
}

fn send_cut(stream: &mut impl Write, bytes: &[u8], rng: &mut Rng) -> Result<(), Cut> {
    let pieces = 1 + rng.below(12);
    for piece in rng.cut(bytes, pieces) {
        stream.write_all(piece)?;
        stream.flush()?;
    }
    Ok(())
}

fn expect(stream: &mut impl Read, expected: &[u8]) -> Result<(), Cut> {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got)?;
    let same = got.iter().zip(expected).take_while(|(got, expected)| got == expected).count();
    if same < expected.len() { Err(Cut::Malformed(format!("byte {same} is another"))) } else { Ok(()) }
}

/// The server's side of the connection that `x-socket` names.
fn replay(scripts: &Scripts, request: &SeenRequest) -> Vec<support::script::Step> {
    let (scripts, name) = (scripts.clone(), request.head.get("x-socket").expect("x-socket passes").to_owned());
    assert_eq!(request.target, scripts[&name].target);
    websocket::accept(request, move |tunnel| {
        let script = &scripts[&name];
        if script.at_once {
            send_cut(tunnel, &script.all(false), &mut Rng::new(script.seed))?;
            expect(tunnel, &script.all(true))
        } else {
            script.play(false, tunnel)
        }
    })
}

/// The client's side of it. The end is the server's to make.
fn open(addr: SocketAddr, user: &str, name: &str, script: &Script) {
    let fields = [("x-user-id", user), ("x-socket", name)];
    let mut stream = websocket::connect(addr, &script.target, &fields).stream;
    let played = if script.at_once {
        let mut writer = stream.stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            let sent = scope.spawn(move || send_cut(&mut writer, &script.all(true), &mut Rng::new(script.seed)));
            expect(&mut stream, &script.all(false)).and(sent.join().unwrap())
        })
    } else {
        script.play(true, &mut stream)
    };
    assert_eq!(played.and_then(|()| stream.expect_end()), Ok(()), "{name}");
}

/// The sessions and the connections that they are made of; `None`, said aloud, where there are no recordings.
fn sessions(seed: u64) -> Option<(Vec<Session>, Scripts)> {
    let Some(sessions) = recordings::read_sessions("realtime.jsonl.gz") else {
        support::skip("no recorded sessions beside the project (shared/recorded/realtime.jsonl.gz)");
        return None;
    };
    assert!(sessions.len() >= 25, "only {} sessions were found", sessions.len());
    let mut scripts = BTreeMap::new();
    for session in &sessions {
        for (n, socket) in session.sockets.iter().enumerate() {
            let seed = seed ^ (session.line * 10 + n) as u64;
            scripts.insert(name(session, n), Script::new(session, socket, seed));
        }
    }
    Some((sessions, Arc::new(scripts)))
}

fn name(session: &Session, socket: usize) -> String {
    format!("{}-{socket}", session.line)
}

fn play_all(addr: SocketAddr, sessions: &[Session], scripts: &Scripts) {
    for session in sessions {
        for n in 0..session.sockets.len() {
            let name = name(session, n);
            open(addr, &format!("session-{}", session.line), &name, &scripts[&name]);
        }
    }
}

/// The server's events of a session.
fn events(session: &Session) -> Vec<Value> {
    let messages = session.sockets.iter().flat_map(|socket| &socket.messages).filter(|message| !message.sent);
    messages.map(|message| serde_json::from_str(&message.text).unwrap()).collect()
}

/// The usage that the ledger is to hold. In all of xAI's sessions the recording says `{}`, which stands in
/// `response.usage` of `response.done`, where OpenAI has it; the tokens are in `usage` of that same event, beside
/// `response`, so that is what was reported.
fn reported(session: &Session, (kind, id, usage): &(String, String, Value)) -> Value {
    assert_eq!(*usage == json!({}), session.provider == "xai", "session {}", session.line);
    if session.provider != "xai" {
        return usage.clone();
    }
    let events = events(session);
    let event = events.iter().find(|event| event["type"] == *kind && event["response"]["id"] == *id).unwrap();
    assert!(event["usage"]["total_tokens"].is_u64(), "{}", event["usage"]);
    event["usage"].clone()
}

/// Whether the ledger holds exactly the session's usages, in order, and a row for each of its sockets; the number of
/// usages that are equal, and what is wrong.
fn check(proxy: &Proxy, session: &Session) -> (usize, Vec<String>) {
    let rows = super::rows(proxy, &format!("session-{}", session.line), session.usages.len() + session.sockets.len());
    let (sockets, reports): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row["endpoint"] == "realtime/session");
    let mut wrong = Vec::new();
    // Gemini's own protocol reports nothing that is known here.
    let source = if session.usages.is_empty() { "unknown" } else { "none" };
    let whole = format!("realtime/session 101 completed {source}");
    for socket in super::summary(&sockets).iter().filter(|row| **row != whole) {
        wrong.push(format!("session {}: {socket}", session.line));
    }
    let mut equal = 0;
    for (expected, row) in session.usages.iter().zip(&reports) {
        let endpoint = if expected.0 == "response.done" { "realtime" } else { "realtime/transcription" };
        let mut differences = Vec::new();
        let columns = columns(&reported(session, expected)).into_iter().map(|(name, value)| (name, json!(value)));
        for (name, value) in
            [("endpoint", json!(endpoint)), ("usage_source", json!("reported"))].into_iter().chain(columns)
        {
            if row[name] != value {
                differences.push(format!("{name} is {}, not {value}", row[name]));
            }
        }
        if differences.is_empty() {
            equal += 1;
        } else {
            wrong.push(format!("session {}, {}: {}", session.line, expected.1, differences.join(", ")));
        }
    }
    if reports.len() != session.usages.len() {
        wrong.push(format!("session {}: {:?}", session.line, super::summary(&reports)));
    }
    (equal, wrong)
}

/// The replay without a proxy between, so that a difference found below is the proxy's doing.
#[test]
fn the_replay_alone_is_faithful() {
    let Some((sessions, scripts)) = sessions(Rng::from_env().next()) else { return };
    let for_upstream = scripts.clone();
    let upstream = Upstream::plain(move |request| replay(&for_upstream, request));
    play_all(upstream.addr(), &sessions, &scripts);
    assert_eq!(upstream.requests().len(), scripts.len());
}

#[test]
fn every_recorded_session_passes_unchanged_and_is_counted() {
    let Some((sessions, scripts)) = sessions(Rng::from_env().next()) else { return };
    let (ca, for_upstream) = (Ca::new(), scripts.clone());
    let config = ca.server(&["localhost", "127.0.0.1"], Server::Usual);
    let upstream = Upstream::tls(config, move |request| replay(&for_upstream, request));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    let target = upstream.url();
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", target.as_str()), ("TLS_CA_FILE", "ca.pem")]);

    play_all(proxy.addr(), &sessions, &scripts);
    assert_eq!(upstream.requests().len(), scripts.len(), "each handshake reaches the upstream once");

    let (equal, wrong): (Vec<_>, Vec<_>) = sessions.iter().map(|session| check(&proxy, session)).unzip();
    let usages: usize = sessions.iter().map(|session| session.usages.len()).sum();
    let equal: usize = equal.into_iter().sum();
    support::say(&format!("{} sessions, {usages} usages, {equal} equal", sessions.len()));
    let wrong = wrong.concat();
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(equal, usages);
    assert_eq!(proxy.usage("")["totals"]["requests"], json!(usages + scripts.len()), "nothing else is counted");
}
