//! What `check` finds, and how it is told: a line each for people, or one JSON document.

use serde_json::json;

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok,
    /// It works, and is probably not meant so.
    Warn,
    Fail,
}

/// One thing: how it is, what was found or why not, and what can be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    status: Status,
    detail: String,
    remedy: Option<String>,
}

impl Finding {
    pub fn ok(detail: impl Into<String>) -> Self {
        Self { status: Status::Ok, detail: detail.into(), remedy: None }
    }

    pub fn warn(detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Warn, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    pub fn fail(detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Fail, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

/// All that is found, told to `print`.
pub struct Findings<'p> {
    print: &'p mut dyn FnMut(&str),
    /// What the document holds so far, where one is asked for.
    document: Option<Vec<serde_json::Value>>,
    failed: bool,
}

impl<'p> Findings<'p> {
    /// As one JSON document, or as lines, each as soon as it is known.
    pub fn new(json: bool, print: &'p mut dyn FnMut(&str)) -> Self {
        Self { print, document: json.then(Vec::new), failed: false }
    }

    /// One more.
    pub fn add(&mut self, name: &str, finding: Finding) {
        let Finding { status, detail, remedy } = finding;
        self.failed |= status == Status::Fail;
        if let Some(checks) = &mut self.document {
            let status = match status {
                Status::Ok => "ok",
                Status::Warn => "warn",
                Status::Fail => "fail",
            };
            return checks.push(json!({ "name": name, "status": status, "detail": detail, "remedy": remedy }));
        }
        let word = match status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        let remedy = remedy.map(|remedy| format!("{:22}{remedy}\n", "")).unwrap_or_default();
        (self.print)(&format!("{word:6}{name:16}{detail}\n{remedy}"));
    }

    /// Ends the document; true where nothing has failed.
    pub fn end(self) -> bool {
        if let Some(checks) = self.document {
            (self.print)(&format!("{:#}\n", json!({ "ok": !self.failed, "checks": checks })));
        }
        !self.failed
    }
}
