//! A raw HTTP/1.1 client: sends the bytes that it is given, and reads responses strictly.

use super::DEADLINE;
use super::wire::{Cut, Framing, Head, Wire, framing};
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// A response, read to its end or to where it was cut.
#[derive(Clone, Debug)]
pub struct Response {
    /// Heads of 1xx responses that came before.
    pub interim: Vec<Head>,
    pub status: u16,
    pub head: Head,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Why it broke off; `None` for a complete response.
    pub cut: Option<Cut>,
}

impl Response {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Panics unless the response is complete and has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!((self.status, &self.cut), (status, &None), "{:?}: {}", self.head, self.text());
        self
    }

    /// Panics unless this is an error of the proxy's own: its code in the body and the field, in OpenAI's shape.
    #[track_caller]
    pub fn expect_proxy_error(self, status: u16, code: &str) -> Self {
        let response = self.expect(status);
        assert_eq!(response.head.get("x-proxy-error"), Some(code), "{:?}", response.head);
        assert!(response.head.get("x-request-id").is_some_and(|id| !id.is_empty()));
        let error = &response.json()["error"];
        assert_eq!((&error["type"], &error["code"]), (&"proxy_error".into(), &code.into()));
        let is_level = matches!(error["param"].as_str(), None | Some("user" | "team" | "total"));
        assert!(is_level && error["message"].as_str().is_some_and(|m| !m.is_empty()), "{error}");
        response
    }
}

/// One connection.
pub struct Client {
    wire: Wire<TcpStream>,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&addr, DEADLINE).unwrap())
    }

    /// The same to a peer that may be gone.
    pub fn try_connect(addr: SocketAddr) -> Option<Self> {
        TcpStream::connect_timeout(&addr, DEADLINE).ok().map(Self::over)
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { wire: Wire::new(stream) }
    }

    /// How long a read waits from now on.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.wire.stream.set_read_timeout(Some(deadline)).unwrap();
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends bytes to a peer that may refuse them.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends a request with a body by length (none where it is empty and the method needs none).
    pub fn send_request(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) {
        self.send(request(method, target, fields, body));
    }

    /// Sends a request and reads its response.
    pub fn request(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        self.send_request(method, target, fields, body);
        self.response(method)
    }

    /// The next head, 1xx heads included.
    pub fn head(&mut self) -> Result<Option<Head>, Cut> {
        let head = self.wire.head()?;
        if let Some(head) = &head {
            let ok = head.start.strip_prefix("HTTP/1.1 ").is_some_and(|s| s.len() > 3 && s.as_bytes()[3] == b' ');
            if !ok || !(100..600).contains(&head.status()) {
                return Err(Cut::Malformed(format!("not a status line: {:?}", head.start)));
            }
        }
        Ok(head)
    }

    /// The next piece of a body, as soon as any of it is there; `None` at its end.
    pub fn body_piece(&mut self, framing: &mut Framing) -> Result<Option<Vec<u8>>, Cut> {
        self.wire.body_piece(framing)
    }

    /// Reads one response to a request with this method, to its end or to where it is cut.
    #[track_caller]
    pub fn response(&mut self, method: &str) -> Response {
        self.try_response(method).unwrap_or_else(|cut| panic!("no response to {method}: {cut:?}"))
    }

    /// The same, or why not even a whole head came.
    pub fn try_response(&mut self, method: &str) -> Result<Response, Cut> {
        let mut interim = Vec::new();
        let head = loop {
            let head = self.head()?.ok_or(Cut::Closed)?;
            if head.status() >= 200 || head.status() == 101 {
                break head;
            }
            interim.push(head);
        };
        let status = head.status();
        let mut framing = response_framing(method, &head)?;
        let mut body = Vec::new();
        let cut = loop {
            match self.body_piece(&mut framing) {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break None,
                Err(cut) => break Some(cut),
            }
        };
        if let Some(Cut::Malformed(why)) = cut {
            return Err(Cut::Malformed(why));
        }
        Ok(Response { interim, status, head, body, cut })
    }

    /// Waits for the peer to close in good order, with nothing more sent.
    pub fn expect_end(&mut self) -> Result<(), Cut> {
        self.wire.expect_end()
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&mut self) {
        self.wire.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The connection itself, for what is not HTTP any more.
    pub fn into_wire(self) -> Wire<TcpStream> {
        self.wire
    }

    /// Leaves in the rudest way.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.wire.stream, Some(Duration::ZERO)).unwrap();
    }
}

/// The framing of a response's body.
pub fn response_framing(method: &str, head: &Head) -> Result<Framing, Cut> {
    let none = method == "HEAD" || matches!(head.status(), 100..200 | 204 | 304);
    framing(head, none, Framing::UntilClose)
}

/// A request's bytes.
pub fn request(method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    [head.as_bytes(), body].concat()
}

/// A GET on a connection of its own.
pub fn get(addr: SocketAddr, target: &str) -> Response {
    Client::connect(addr).request("GET", target, &[], b"")
}

/// A POST of JSON on a connection of its own.
pub fn post_json(addr: SocketAddr, target: &str, fields: &[(&str, &str)], body: &str) -> Response {
    let fields: Vec<_> = [("content-type", "application/json")].iter().chain(fields).copied().collect();
    Client::connect(addr).request("POST", target, &fields, body.as_bytes())
}
