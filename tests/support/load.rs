//! Mixed traffic that keeps account of itself: every request has a number, a user and an answer of its own, so that
//! what the ledger holds can be held against what the upstream saw and what each client received.

use super::client::{Client, Response, response_framing};
use super::rng::Rng;
use super::script::{Reply, Step, chunk};
use super::upstream::{Options, SeenRequest, Upstream};
use super::websocket::{self, Frame, HANDSHAKE, Side, Socket};
use super::wire::Cut;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What a client received whole: a response, or one response of a WebSocket session.
#[derive(Clone, Debug)]
pub struct Received {
    /// The request's number.
    pub n: u64,
    /// `None` where the answer has none: an error.
    pub response_id: Option<String>,
    pub status: u16,
    /// What it says that it took; null where it says nothing.
    pub usage: Value,
    /// Which client received it. A client's requests come one after the other.
    pub client: usize,
    pub at: Instant,
}

/// The account of all clients and of the upstream.
#[derive(Default)]
pub struct Account {
    next: AtomicU64,
    stop: AtomicBool,
    asked: Mutex<BTreeMap<u64, SocketAddr>>,
    seen: Mutex<BTreeSet<u64>>,
    received: Mutex<Vec<Received>>,
    refused: Mutex<Vec<(u64, String)>>,
    sessions: Mutex<BTreeSet<u64>>,
}

impl Account {
    /// Requests made so far.
    pub fn requests(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// Begins a request of the proxy at this address; its number.
    fn begin(&self, proxy: SocketAddr) -> u64 {
        let n = self.next.fetch_add(1, Ordering::SeqCst);
        self.asked.lock().unwrap().insert(n, proxy);
        n
    }

    /// Whether this request was made of the proxy at this address.
    pub fn was_asked_of(&self, n: u64, proxy: SocketAddr) -> bool {
        self.asked.lock().unwrap().get(&n) == Some(&proxy)
    }

    /// The numbers of the requests whose head has reached the upstream.
    pub fn seen(&self) -> BTreeSet<u64> {
        self.seen.lock().unwrap().clone()
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Requests that the proxy refused itself, and the codes that it gave.
    pub fn refused(&self) -> Vec<(u64, String)> {
        self.refused.lock().unwrap().clone()
    }

    /// Requests for a WebSocket: they have a row of their own and one for each response.
    pub fn sessions(&self) -> BTreeSet<u64> {
        self.sessions.lock().unwrap().clone()
    }

    fn note(&self, n: u64, client: usize, response_id: Option<String>, status: u16, usage: Value) {
        let received = Received { n, response_id, status, usage, client, at: Instant::now() };
        self.received.lock().unwrap().push(received);
    }
}

/// The user of a request: its own alone.
pub fn user(n: u64) -> String {
    format!("user-{n}")
}

/// The number of a user's request.
pub fn number(user: &str) -> Option<u64> {
    user.strip_prefix("user-")?.parse().ok()
}

/// An upstream, and clients that ask it through one proxy or several.
pub struct Load {
    pub upstream: Upstream,
    pub account: Arc<Account>,
}

impl Default for Load {
    fn default() -> Self {
        let account = Arc::new(Account::default());
        let for_upstream = account.clone();
        let early = move |request: &SeenRequest| {
            for_upstream.seen.lock().unwrap().extend(number_of(request));
            None
        };
        let upstream = Upstream::start(Options { early: Some(Box::new(early)), ..Options::default() }, answer);
        Self { upstream, account }
    }
}

impl Load {
    /// So many clients begin to ask the proxy at this address, until they are stopped or it is gone.
    pub fn start(&self, addr: SocketAddr, clients: usize, seed: u64) -> Running {
        self.account.stop.store(false, Ordering::SeqCst);
        let client = |index: usize| {
            let account = self.account.clone();
            let rng = Rng::new(seed ^ (index as u64 + 1) << 40);
            thread::spawn(move || Asker { addr, index, rng, account, client: None }.run())
        };
        Running { account: self.account.clone(), threads: (0..clients).map(client).collect() }
    }

    /// One client opens a WebSocket session, has so many responses in it, and ends it.
    pub fn converse(&self, addr: SocketAddr, responses: usize) -> Running {
        let account = self.account.clone();
        let mut asker = Asker { addr, index: usize::MAX, rng: Rng::new(1), account, client: None };
        let thread = thread::spawn(move || {
            let n = asker.account.begin(addr);
            asker.converse(Client::connect(addr), n, responses);
        });
        Running { account: self.account.clone(), threads: vec![thread] }
    }

    /// One plain request, on a connection of its own.
    pub fn ask(&self, addr: SocketAddr) -> Response {
        let n = self.account.begin(addr);
        let mut client = Client::connect(addr);
        client.send(request(n, PLAIN));
        let response = client.response("POST");
        let (account, rng) = (self.account.clone(), Rng::new(1));
        Asker { addr, index: usize::MAX, rng, account, client: None }.note(n, &response);
        response
    }

    /// A stream of which one event comes and no end; its number, and the client, which has received the event.
    pub fn hang(&self, addr: SocketAddr) -> (u64, Client) {
        let n = self.account.begin(addr);
        let mut client = Client::connect(addr);
        client.send(request(n, HANGING));
        let head = client.head().unwrap().expect("a head");
        let mut framing = response_framing("POST", &head).unwrap();
        assert!(client.body_piece(&mut framing).unwrap().is_some());
        (n, client)
    }
}

/// Clients at work.
pub struct Running {
    account: Arc<Account>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Lets each client bring its request to an end, and waits for that.
    pub fn stop(self) {
        self.account.stop.store(true, Ordering::SeqCst);
        self.join();
    }

    /// Waits until every client has found its proxy gone.
    pub fn join(self) {
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

// ------------------------------------------------------------------------------------------------ the clients

struct Asker {
    addr: SocketAddr,
    index: usize,
    rng: Rng,
    account: Arc<Account>,
    client: Option<Client>,
}

impl Asker {
    fn run(mut self) {
        while !self.account.stop.load(Ordering::SeqCst) {
            if self.client.is_none() {
                self.client = Client::try_connect(self.addr);
            }
            let Some(client) = self.client.take() else { return };
            let n = self.account.begin(self.addr);
            match self.rng.below(32) {
                0 => {
                    let responses = 1 + self.rng.below(3);
                    self.converse(client, n, responses);
                }
                1 => self.leave(client, n),
                kind => self.ask(client, n, kind),
            }
        }
    }

    /// A request whose answer is read to its end.
    fn ask(&mut self, mut client: Client, n: u64, kind: usize) {
        let bytes = request(n, kind);
        let response = if client.try_send(bytes) { client.try_response("POST") } else { Err(Cut::Closed) };
        match response {
            Ok(response) if response.cut.is_none() => {
                self.note(n, &response);
                let closes = response.head.get("connection").is_some_and(|value| value == "close");
                self.client = Some(client).filter(|_| !closes);
            }
            Err(Cut::Malformed(why)) => panic!("request {n}: {why}"),
            _ => {}
        }
    }

    fn note(&self, n: u64, response: &Response) {
        let status = response.status;
        if let Some(code) = response.head.get("x-proxy-error").filter(|_| status == 503) {
            self.account.refused.lock().unwrap().push((n, code.to_owned()));
            // Nobody asks again at once.
            return thread::sleep(Duration::from_millis(2));
        }
        let (id, usage) = if status == 200 { (Some(response_id(n, 0)), usage(n)) } else { (None, Value::Null) };
        self.account.note(n, self.index, id, status, usage);
    }

    /// A stream that is left in its middle.
    fn leave(&mut self, mut client: Client, n: u64) {
        if client.try_send(request(n, STREAM)) && client.head().is_ok() && self.rng.coin() {
            client.reset();
        }
    }

    /// A WebSocket session of so many responses.
    fn converse(&mut self, mut client: Client, n: u64, responses: usize) {
        self.account.sessions.lock().unwrap().insert(n);
        let user = user(n);
        let fields: Vec<_> = HANDSHAKE.iter().copied().chain([("x-user-id", user.as_str())]).collect();
        let target = format!("/v1/realtime?model=gpt-realtime&n={n}");
        if !client.try_send(super::client::request("GET", &target, &fields, b"")) {
            return;
        }
        let Ok(response) = client.try_response("GET") else { return };
        if response.status != 101 {
            return self.note(n, &response);
        }
        let mut socket = Socket::new(client.into_wire(), Side::Client(self.rng.clone()));
        for part in 0..responses {
            let asked = socket.send_json(&json!({"type": "response.create", "part": part}));
            let Ok(Some(message)) = asked.and_then(|()| socket.message()) else { return };
            let event: Value = serde_json::from_slice(&message.payload).unwrap();
            let (id, usage) = (event["response"]["id"].as_str().unwrap(), event["response"]["usage"].clone());
            self.account.note(n, self.index, Some(id.to_owned()), 101, usage);
        }
        // Its end is nothing that is received whole: a proxy that is killed ends the connection too.
        if socket.send(&Frame::close(1000, "")).is_ok() {
            let _ = socket.message();
        }
    }
}

/// Kinds of requests beside sessions and those that are left; the rest are plain.
const STREAM: usize = 2;
const STREAM_EDITED: usize = 3;
const FAILING: usize = 4;
const CUT: usize = 5;
const PLAIN: usize = 6;
const HANGING: usize = 100;

fn request(n: u64, kind: usize) -> Vec<u8> {
    let mut body = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "part": kind});
    match kind {
        STREAM | CUT => body["stream_options"] = json!({"include_usage": true}),
        _ => {}
    }
    // Half of what is left over streams as well, most of it as SDKs ask for it.
    let streams = matches!(kind, STREAM | STREAM_EDITED | CUT) || kind >= 20;
    body["stream"] = json!(streams);
    let user = user(n);
    let fields = [("content-type", "application/json"), ("x-user-id", user.as_str())];
    super::client::request("POST", &format!("/v1/chat/completions?n={n}"), &fields, body.to_string().as_bytes())
}

// ------------------------------------------------------------------------------------------------ the upstream

fn number_of(request: &SeenRequest) -> Option<u64> {
    let (_, query) = request.target.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix("n="))?.parse().ok()
}

fn response_id(n: u64, part: u64) -> String {
    format!("resp-{n}-{part}")
}

/// What the answer to a request reports: hardly two report the same.
fn usage(n: u64) -> Value {
    let (input, output) = (100 + n % 1009, 1 + n % 331);
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
        "prompt_tokens_details": {"cached_tokens": n % 97}, "completion_tokens_details": {"reasoning_tokens": n % 2}})
}

fn answer(request: &SeenRequest) -> Vec<Step> {
    let n = number_of(request).expect("a number");
    if request.head.get("upgrade").is_some() {
        return websocket::accept(request, move |tunnel| {
            let mut socket = Socket::new(tunnel, Side::Server);
            for part in 0.. {
                match socket.message()? {
                    Some(message) if message.opcode == websocket::CLOSE => return socket.send(&message),
                    Some(_) => socket.send_json(&done(n, part))?,
                    None => return Ok(()),
                }
            }
            Ok(())
        });
    }
    let body = request.json();
    let kind = body["part"].as_u64().unwrap() as usize;
    if kind == FAILING {
        let mut reply = Reply::json(r#"{"error":{"message":"No.","type":"invalid_request_error","code":null}}"#);
        reply.status = if n.is_multiple_of(2) { 400 } else { 500 };
        return reply.steps();
    }
    let (id, model) = (response_id(n, 0), "gpt-4o-mini-2024-07-18");
    if body["stream"] == false {
        let choices = json!([{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]);
        return Reply::json(json!({"id": id, "model": model, "choices": choices, "usage": usage(n)}).to_string())
            .steps();
    }
    let event = |choices: Value, usage: Value| {
        let event = json!({"id": id, "object": "chat.completion.chunk", "model": model, "choices": choices,
            "usage": usage});
        chunk(format!("data: {event}\n\n").as_bytes())
    };
    let word = || event(json!([{"index": 0, "delta": {"content": "Hi"}, "finish_reason": null}]), Value::Null);
    let first = [Reply::sse("").head(), word()].concat();
    let last = [event(json!([]), usage(n)), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat();
    match kind {
        CUT => vec![Step::Send(first), Step::Cut],
        HANGING => vec![Step::Send(first), Step::AwaitClose],
        _ => vec![Step::Send(first), Step::Send(word()), Step::Send(last)],
    }
}

fn done(n: u64, part: u64) -> Value {
    let (input, output) = (10 + n % 211 + part, 1 + n % 17);
    json!({"type": "response.done", "response": {"object": "realtime.response", "id": response_id(n, part),
        "status": "completed", "output": [], "usage": {"total_tokens": input + output, "input_tokens": input,
            "output_tokens": output, "input_token_details": {"text_tokens": input, "cached_tokens": part},
            "output_token_details": {"text_tokens": output, "audio_tokens": 0}}}})
}
