//! The official Python client's own tests, against the mock server that their repository names: directly, and through
//! the proxy to the same one. Each test must end as it does directly, for the same reason: some do not fit OpenAI's
//! description of the API of another day, and fail either way.
//!
//! Takes minutes, and what `clients/install` brings from the registries: run where `CLIENT_SUITES=1`.

use crate::support::proxy::Proxy;
use crate::support::{DEADLINE, client, free_port, say};
use serde_json::{Map, Value};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Instant;

/// What of the suite is run: the endpoints that cost something, and those beside them.
const TESTS: [&str; 16] = [
    "audio",
    "chat",
    "conversations",
    "fine_tuning",
    "responses",
    "uploads",
    "vector_stores",
    "test_batches.py",
    "test_completions.py",
    "test_embeddings.py",
    "test_files.py",
    "test_images.py",
    "test_models.py",
    "test_moderations.py",
    "test_responses.py",
    "test_videos.py",
];

/// The folder of all that is installed, which is made where it is missing; `None`, said aloud, where it is not asked for.
pub fn installed() -> Option<&'static Path> {
    static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(install);
    FOLDER.as_deref()
}

fn install() -> Option<PathBuf> {
    if std::env::var_os("CLIENT_SUITES").is_none_or(|value| value != "1") {
        say("SKIPPED: the official suites and codex run where CLIENT_SUITES=1");
        return None;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("suites-2");
    let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/install");
    assert!(Command::new(install).arg(&folder).status().unwrap().success(), "not all can be installed");
    Some(folder)
}

/// A server that ends with its value.
struct Mock {
    child: Child,
    addr: SocketAddr,
}

impl Mock {
    fn start(folder: &Path) -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(folder.join("steady"));
        command.args(["--host", "127.0.0.1", "-p", &addr.port().to_string()]);
        for what in ["query-array", "form-array", "query-object", "form-object"] {
            command.arg(format!("--validator-{what}-format=brackets"));
        }
        let child =
            command.arg(folder.join("openapi.yml")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mock = Self { child, addr };
        let start = Instant::now();
        while std::net::TcpStream::connect(addr).is_err() {
            assert!(start.elapsed() < DEADLINE, "the mock does not listen");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        client::get(addr, "/_x-steady/health").expect(200);
        mock
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the suite against one server: how each test has ended.
fn run(folder: &Path, server: &str) -> Map<String, Value> {
    let results = tempfile::NamedTempFile::new().unwrap();
    let mut pytest = Command::new(folder.join("venv/bin/python"));
    pytest.current_dir(folder).args(["-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "-o", "addopts="]);
    pytest.args(["-p", "pytest_results"]).args(TESTS.map(|test| format!("tests/api_resources/{test}")));
    pytest.env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients"));
    pytest.env("PYTHONDONTWRITEBYTECODE", "1").env("RESULTS", results.path()).env("TEST_API_BASE_URL", server);
    let output = pytest.output().unwrap();
    // 0 and 1: all were run, and none failed, or some.
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
    serde_json::from_slice(&std::fs::read(results.path()).unwrap()).unwrap()
}

#[test]
fn the_official_python_suite_ends_the_same() {
    let Some(folder) = installed() else { return };
    let mock = Mock::start(folder);
    let target = format!("http://{}", mock.addr);
    let proxy = Proxy::start(&[("PROXY_TARGET", &target), ("RATE_LIMIT_RPM", "0")]);
    let (direct, through) = (run(folder, &target), run(folder, &proxy.url()));
    let passed =
        direct.values().filter(|result| result.as_str().is_some_and(|text| text.starts_with("passed"))).count();
    let others: Vec<_> = direct.iter().filter(|(name, result)| through.get(*name) != Some(result)).collect();
    let same = direct.len() - others.len();
    say(&format!("the official Python suite: {} tests, {same} the same ({passed} of them pass)", direct.len()));
    for (name, result) in &others {
        say(&format!("{name}\n  directly: {result}\n  through:  {:?}", through.get(*name)));
    }
    assert!(passed > 1000 && others.is_empty() && through.len() == direct.len(), "{} differ", others.len());
    let counted = proxy.usage("user_id=anonymous")["totals"]["requests"].as_u64().unwrap();
    assert!(counted as usize > passed / 2, "{counted} requests were counted");
}
