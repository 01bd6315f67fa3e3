//! The upstream of a run: a TLS server that answers every POST as the chat completions endpoint would.
//!
//! In: `CERTIFICATE KEY`, two PEM files. Out: its port on stdout, then answers until stdin closes (that is, until the
//! benchmark is gone). A body with `"stream":true` gets 20 content chunks, each an event, a chunk, a TLS record and a
//! write of its own, then the usage chunk and `[DONE]`. Never: a request body without a length, a delay.

use memchr::memmem;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

const LISTENER: Token = Token(0);
/// How much of a body is looked at for `"stream":true`.
const LOOK_BYTES: usize = 1024;
const CONTENT_CHUNKS: usize = 20;

/// The JSON answer's body.
pub const COMPLETION: &str = concat!(
    r#"{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion","created":1741569952,"#,
    r#""model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"The quick brown fox jumps "#,
    r#"over the lazy dog near the river bank while the morning sun rises slowly above the hills.","refusal":null},"#,
    r#""logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":32,"total_tokens":51,"#,
    r#""prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}},"#,
    r#""service_tier":"default","system_fingerprint":"fp_abc123"}"#
);
/// How a streamed answer's body ends.
pub const STREAM_END: &[u8] = b"data: [DONE]\n\n";

/// Serves until stdin closes.
pub fn run(args: &[String]) -> io::Result<()> {
    let [certificate, key] = args else { return Err(io::Error::other("expects CERTIFICATE KEY")) };
    let config = server_config(certificate, key).map_err(io::Error::other)?;
    let mut listener = TcpListener::bind("127.0.0.1:0".parse().expect("an address"))?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("{}", listener.local_addr()?.port());
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink()); // either way: the benchmark is gone
        std::process::exit(0);
    });
    let (answers, mut peers, mut next) = (Answers::new(), BTreeMap::new(), 1);
    let (mut events, mut scratch) = (Events::with_capacity(256), vec![0; 64 * 1024]);
    loop {
        match poll.poll(&mut events, None) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((socket, _)) = listener.accept() {
                    peers.insert(Token(next), Peer::accept(socket, Token(next), &poll, &config)?);
                    next += 1;
                }
            } else if let Some(peer) = peers.get_mut(&event.token())
                && peer.turn(event, &answers, &mut scratch).is_err()
            {
                peers.remove(&event.token());
            }
        }
    }
}

fn server_config(certificate: &str, key: &str) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error + Send + Sync>> {
    let chain = vec![CertificateDer::from_pem_file(certificate)?];
    let key = PrivateKeyDer::from_pem_file(key)?;
    Ok(Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?))
}

/// The bytes of both answers, made once.
struct Answers {
    json: Vec<u8>,
    /// Head and first chunk together, every other chunk alone, the end together: one write each.
    stream: Vec<Vec<u8>>,
}

impl Answers {
    fn new() -> Self {
        let json = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_0123456789abcdef\r\n\
             Content-Length: {}\r\n\r\n{COMPLETION}",
            COMPLETION.len()
        );
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
                    x-request-id: req_0123456789abcdef\r\nTransfer-Encoding: chunked\r\n\r\n";
        let token = r#"[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}],"usage":null"#;
        let stop = r#"[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null"#;
        let usage = r#"[],"usage":{"prompt_tokens":19,"completion_tokens":20,"total_tokens":39}"#;
        let mut stream = vec![chunk(&event(token)); CONTENT_CHUNKS];
        stream[0] = [head.as_bytes(), &stream[0]].concat();
        let end = chunk(std::str::from_utf8(STREAM_END).expect("ASCII"));
        stream.push([chunk(&event(stop)), chunk(&event(usage)), end, b"0\r\n\r\n".to_vec()].concat());
        Self { json: json.into_bytes(), stream }
    }
}

fn event(choices: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion.chunk\",\
         \"created\":1741569952,\"model\":\"gpt-4o-mini\",\"system_fingerprint\":\"fp_abc123\",\"choices\":{choices}}}\n\n"
    )
}

fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}

/// One connection of the target.
struct Peer {
    socket: TcpStream,
    tls: ServerConnection,
    /// Head, then the start of the body, of the request being read.
    request: Vec<u8>,
    /// Length of the head, once known, and body bytes that are still to come.
    body: Option<(usize, usize)>,
}

impl Peer {
    fn accept(mut socket: TcpStream, token: Token, poll: &Poll, config: &Arc<ServerConfig>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        poll.registry().register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let mut tls = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        tls.set_buffer_limit(None);
        Ok(Self { socket, tls, request: Vec::new(), body: None })
    }

    /// `Err` when the connection is over, for whatever reason.
    fn turn(&mut self, event: &Event, answers: &Answers, scratch: &mut [u8]) -> io::Result<()> {
        self.flush()?;
        if !event.is_readable() {
            return Ok(());
        }
        let mut plain = Vec::new();
        loop {
            let mut wire = match self.socket.read(scratch) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => &scratch[..n],
                Err(e) if e.kind() == ErrorKind::WouldBlock => return self.flush(),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            while !wire.is_empty() {
                self.tls.read_tls(&mut wire)?;
                let state = self.tls.process_new_packets().map_err(io::Error::other)?;
                plain.resize(state.plaintext_bytes_to_read(), 0);
                self.tls.reader().read_exact(&mut plain)?;
                self.take(&plain, answers)?;
            }
        }
    }

    /// Plaintext of requests: answers each that it completes.
    fn take(&mut self, mut plain: &[u8], answers: &Answers) -> io::Result<()> {
        loop {
            if self.body.is_none() {
                let before = self.request.len();
                self.request.extend_from_slice(plain);
                let Some(end) = memmem::find(&self.request, b"\r\n\r\n").map(|at| at + 4) else { return Ok(()) };
                self.request.truncate(end);
                self.body = Some((end, content_length(&self.request)?));
                plain = &plain[end - before..];
            }
            let Some((head, left)) = self.body else { return Ok(()) };
            let taken = left.min(plain.len());
            let looked = (head + LOOK_BYTES).saturating_sub(self.request.len()).min(taken);
            self.request.extend_from_slice(&plain[..looked]);
            plain = &plain[taken..];
            self.body = Some((head, left - taken));
            if taken < left {
                return Ok(());
            }
            self.answer(head, answers)?;
        }
    }

    fn answer(&mut self, head: usize, answers: &Answers) -> io::Result<()> {
        let stream = memmem::find(&self.request[head..], b"\"stream\":true").is_some();
        self.request.clear();
        self.body = None;
        let writes = if stream { answers.stream.as_slice() } else { std::slice::from_ref(&answers.json) };
        for bytes in writes {
            self.tls.writer().write_all(bytes)?;
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => drop(other?),
            }
        }
        Ok(())
    }
}

fn content_length(head: &[u8]) -> io::Result<usize> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(head).map_err(io::Error::other)?;
    let length = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|h| std::str::from_utf8(h.value).ok()?.parse().ok());
    length.ok_or_else(|| io::Error::other("a request without a length"))
}
