//! Faults of the system: no descriptors left, a broken pipe on a connection and on stderr.

use super::support::client::{Client, get, response_framing};
use super::support::proxy::{Proxy, command, scripted};
use super::support::script::Reply;
use super::support::{DEADLINE, say};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Processor time used so far, clock ticks (a hundredth of a second).
#[cfg(target_os = "linux")]
fn ticks(proxy: &Proxy) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", proxy.pid())).unwrap();
    // The name before them is in parentheses and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// With no descriptor left nobody is accepted and the target cannot be reached; the loop does not spin meanwhile, and
/// everybody is served once there are some again.
#[cfg(target_os = "linux")]
#[test]
fn descriptors_that_run_out_cost_nothing_and_are_used_again() {
    use rustix::process::{Resource, Rlimit, prlimit};
    const CLIENTS: usize = 40;
    let (upstream, proxy) = scripted(&[], |_| Reply::new(200, "ok").steps());
    let mut kept = Client::connect(proxy.addr());
    kept.request("GET", "/healthz", &[], b"").expect(200);
    let open = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count() as u64;
    let pid = Pid::from_raw(proxy.pid() as i32);
    let set =
        |limit: u64| prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(4096) }).unwrap();
    set(open + 5);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(proxy.addr())).collect();
    let downstream = || std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count() as u64;
    let start = Instant::now();
    while downstream() < open + 4 {
        assert!(start.elapsed() < DEADLINE, "the descriptors do not run out");
    }
    // One that is there already is served, as far as that needs no descriptor.
    kept.request("GET", "/healthz", &[], b"").expect(200);
    kept.request("GET", "/v1/models", &[], b"").expect_proxy_error(502, "upstream_unreachable");
    let (before, start) = (ticks(&proxy), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let (used, elapsed) = (ticks(&proxy) - before, start.elapsed());
    say(&format!("without descriptors: {used} ticks in {elapsed:?}"));
    assert!(used < 40, "it spins: {used} hundredths of a second in {elapsed:?}");
    set(4096);
    for mut client in clients {
        client.request("GET", "/v1/models", &[], b"").expect(200);
    }
    kept.request("GET", "/v1/models", &[], b"").expect(200);
    assert_eq!(upstream.requests().len(), CLIENTS + 1);
}

/// Writing to a connection that the peer has reset raises SIGPIPE, which would end the process.
#[test]
fn a_client_that_resets_in_mid_answer_is_its_own_loss() {
    let (_upstream, proxy) = scripted(&[], |_| Reply::new(200, vec![b'x'; 4 << 20]).steps());
    for _ in 0..10 {
        let mut client = Client::connect(proxy.addr());
        client.send_request("GET", "/v1/files/1/content", &[], b"");
        let head = client.head().unwrap().unwrap();
        let mut framing = response_framing("GET", &head).unwrap();
        client.body_piece(&mut framing).unwrap();
        client.reset();
        get(proxy.addr(), "/healthz").expect(200);
    }
}

/// Whoever collects the log has gone: what is said is lost, and nothing else.
#[test]
fn a_closed_stderr_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut child =
        command(folder.path(), &[("PROXY_TARGET", "http://127.0.0.1:1")]).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("msg=listening") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it does not listen");
    }
    let addr = super::support::proxy::logfmt(&line)["addr"].parse().unwrap();
    drop(stderr);
    for _ in 0..3 {
        get(addr, "/v1/models").expect_proxy_error(502, "upstream_unreachable");
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < DEADLINE, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{status}");
}
