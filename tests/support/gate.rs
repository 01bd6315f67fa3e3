//! A gate in a mock upstream: requests wait there until a test opens it, so that counts do not depend on who is fast.

use super::DEADLINE;
use super::proxy::Proxy;
use super::script::Reply;
use super::upstream::Upstream;
use serde_json::json;
use std::sync::{Arc, Condvar, Mutex};

/// What a held target reports of each request: 10 tokens.
pub const USAGE: &str = r#"{"prompt_tokens":4,"completion_tokens":6,"total_tokens":10}"#;

/// The gate, shut at first.
#[derive(Default)]
pub struct Gate {
    /// Open, and how many requests have come.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    /// Waits here until it is open.
    pub fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_timeout_while(state, DEADLINE, |state| !state.0).unwrap());
    }

    /// Opens or shuts it.
    pub fn set(&self, open: bool) {
        self.state.lock().unwrap().0 = open;
        self.changed.notify_all();
    }

    /// How many have come.
    pub fn count(&self) -> usize {
        self.state.lock().unwrap().1
    }

    /// Waits until so many have come.
    pub fn wait_for(&self, count: usize) {
        let state = self.state.lock().unwrap();
        let (state, _) = self.changed.wait_timeout_while(state, DEADLINE, |state| state.1 < count).unwrap();
        assert_eq!(state.1, count, "requests that reached the target");
    }
}

/// A target that holds its answers back until its gate is opened.
pub struct Held {
    pub upstream: Upstream,
    pub gate: Arc<Gate>,
}

impl Held {
    pub fn new() -> Self {
        let gate = Arc::new(Gate::default());
        let at_gate = Arc::clone(&gate);
        let upstream = Upstream::plain(move |request| {
            at_gate.pass();
            if request.json()["stream"] == json!(true) {
                let delta = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";
                return Reply::sse(format!("{delta}data: {{\"choices\":[],\"usage\":{USAGE}}}\n\n")).steps();
            }
            Reply::json(format!(r#"{{"model":"gpt-4o-mini","usage":{USAGE}}}"#)).steps()
        });
        Self { upstream, gate }
    }

    /// A proxy before it whose users have no limits but those that are given.
    pub fn proxy(&self, vars: &[(&str, &str)]) -> Proxy {
        Proxy::before(&self.upstream, &[&[("RATE_LIMIT_RPM", "0")], vars].concat())
    }
}
