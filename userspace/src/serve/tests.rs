//! The routes, their errors and the limits, through real connections.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value as Json;

use super::*;
use crate::aggregate::snapshot::{Series, Value};
use crate::metrics::SYSCALL_BLOCKED;

/// A server with what it serves, until this is dropped.
struct Server {
    address: SocketAddr,
    publisher: watch::Sender<Arc<Published>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        let (publisher, published) = watch::channel(Arc::new(Published::nothing(Duration::from_secs(1))));
        let (stop, stopped) = watch::channel(false);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                run(listener, router(Shared::new(published).expect("a registry")), limits, stopped).await;
            });
        });
        Self { address, publisher, stop, thread: Some(thread) }
    }

    fn publish(&self, families: Vec<FamilySeries>) {
        let nothing = Published::nothing(Duration::from_secs(1));
        let statistics = Box::new(Three(families));
        let health = vec![Check { name: "probes", ok: false, detail: "one is off".into() }];
        self.publisher.send_replace(Arc::new(Published { statistics, health, turns: 1, ..nothing }));
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    }

    /// Sends `head`, without its empty line, and returns what comes until the end.
    fn send(&self, head: &str) -> Answer {
        let mut stream = self.connect();
        write!(stream, "{head}\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a request");
        Answer::read(&mut stream)
    }

    fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}

/// Three services with one process each.
struct Three(Vec<FamilySeries>);

impl Statistics for Three {
    fn series(&self) -> Vec<FamilySeries> {
        self.0.clone()
    }

    fn families(&self) -> Vec<&'static str> {
        vec!["run_queue", "syscall"]
    }

    fn duration(&self, span: TimeSpan) -> Duration {
        Duration::from_secs(if span == TimeSpan::Window { 60 } else { 600 })
    }

    fn services(&self, _: TimeSpan) -> Vec<Subject> {
        let one = |(name, p99, has_syscall): (&str, f64, bool)| {
            let run_queue =
                FamilyStatistics { family: "run_queue", p99: Some(p99), ..FamilyStatistics::default() };
            let labels = vec![("syscall", Arc::from("read"))];
            let syscall =
                FamilyStatistics { family: "syscall", labels, count: Some(3), ..FamilyStatistics::default() };
            let families = std::iter::once(run_queue).chain(has_syscall.then_some(syscall)).collect();
            Subject { service: name.into(), process: None, families }
        };
        [("b", 0.5, true), ("c", 2.0, false), ("a", 1.0, false)].map(one).to_vec()
    }

    fn processes(&self, span: TimeSpan) -> Vec<Subject> {
        let mut subjects = self.services(span);
        for (pid, subject) in (1..).zip(&mut subjects) {
            subject.process = Some(ProcessName {
                pid,
                start_time_seconds: 0.07,
                name: "p".into(),
                cpu_seconds: 1.5,
                cpu_ratio: 0.5,
                resident_memory_bytes: 4096,
            });
        }
        subjects
    }
}

fn numbers(count: usize) -> Vec<FamilySeries> {
    let one = |number| {
        let mut buckets = [0; hostscope_wire::histogram::BUCKETS];
        buckets[0] = 1;
        let histogram = crate::aggregate::snapshot::Histogram { buckets, sum_ns: 1, max_ns: 1 };
        Series { labels: vec![format!("{number:06}").into()], value: Value::Histogram(Box::new(histogram)) }
    };
    let series = (0..count).map(one).collect();
    vec![FamilySeries { metric: &SYSCALL_BLOCKED, label_names: vec!["syscall"], series }]
}

#[test]
fn metrics_are_text_and_gzip_where_it_is_asked_for() {
    let server = Server::start(Limits::default());
    server.publish(numbers(3));
    let plain = server.get("/metrics");
    assert_eq!(plain.status, 200);
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4"), "{}", plain.head);
    assert!(plain.text().starts_with("# HELP hostscope_syscall_blocked_seconds "), "{}", plain.text());
    let gzip = server.send("GET /metrics HTTP/1.1\r\nAccept-Encoding: gzip");
    assert!(gzip.head.contains("content-encoding: gzip"), "{}", gzip.head);
    let mut text = String::new();
    flate2::read::GzDecoder::new(&gzip.body[..]).read_to_string(&mut text).expect("gzip");
    let counted = "hostscope_agent_http_requests_total{route=\"/metrics\",code=\"200\"} 1";
    assert!(text.contains(counted) && text.ends_with(plain.text()), "{text}");
    let head = server.send("HEAD /metrics HTTP/1.1");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(server.get("/").text().contains("<a href=\"/metrics\">"));
}

#[test]
fn health_goes_by_the_collection() {
    let server = Server::start(Limits::default());
    let starting = server.get("/health/ready");
    assert_eq!((starting.status, starting.json()["status"].as_str()), (503, Some("starting")));
    assert_eq!(server.get("/health/live").status, 200);
    server.publish(Vec::new());
    let ready = server.get("/health/ready");
    assert_eq!((ready.status, ready.json()["status"].as_str()), (200, Some("ready")));
    assert_eq!(ready.json()["checks"][1]["detail"], "one is off");
    let mut stuck = Published::nothing(Duration::from_millis(100));
    stuck.taken -= Duration::from_millis(5400);
    server.publisher.send_replace(Arc::new(stuck));
    let stuck = server.get("/health/live");
    assert_eq!((stuck.status, stuck.json()["checks"][0]["ok"].as_bool()), (503, Some(false)));
}

#[test]
fn statistics_are_sorted_chosen_and_limited() {
    let server = Server::start(Limits::default());
    server.publish(Vec::new());
    for (query, expected, found) in [
        ("", "abc", 3),
        ("?order=desc", "cba", 3),
        ("?sort=run_queue.p99", "cab", 3),
        ("?sort=run_queue.p99&order=asc&limit=2", "ba", 3),
        ("?sort=syscall.count", "bac", 3),
        ("?family=syscall", "b", 1),
        ("?service=a", "a", 1),
        ("?service=none", "", 0),
    ] {
        for (route, list) in [("latency", "services"), ("processes", "processes")] {
            let answer = server.get(&format!("/api/v1/{route}{query}"));
            let json = answer.json();
            let names = json[list].as_array().expect("a list").iter().map(|one| one["service"].as_str());
            assert_eq!(names.collect::<Option<String>>().as_deref(), Some(expected), "{query}");
            assert_eq!(json["found"], found, "{query}");
        }
    }
    let one = server.get("/api/v1/processes?family=syscall&span=total").json();
    assert_eq!((&one["span_seconds"], &one["span"]), (&Json::from(600.0), &Json::from("total")));
    let expected = serde_json::json!({
        "service": "b", "pid": 1, "start_time_seconds": 0.07, "name": "p",
        "cpu_seconds": 1.5, "cpu_ratio": 0.5, "resident_memory_bytes": 4096,
        "families": [{ "family": "syscall", "labels": { "syscall": "read" }, "count": 3, "rate_per_second": 0.0,
            "errors": 0 }],
    });
    assert_eq!(one["processes"][0], expected);
}

#[test]
fn errors_are_problems_that_name_the_mend() {
    let server = Server::start(Limits::default());
    server.publish(Vec::new());
    for (head, status, detail) in [
        ("GET /none HTTP/1.1", 404, "there is no /none: GET / lists"),
        ("POST /metrics HTTP/1.1", 405, "use GET"),
        ("DELETE / HTTP/1.1", 405, "use GET"),
        ("GET /metrics HTTP/1.1\r\nContent-Length: 5", 413, "send none"),
        (
            "GET /api/v1/latency?limit=0 HTTP/1.1",
            400,
            "limit cannot be \"0\": it takes a number from 1 to 10000",
        ),
        ("GET /api/v1/latency?limit=10001 HTTP/1.1", 400, "from 1 to 10000"),
        ("GET /api/v1/latency?order=up HTTP/1.1", 400, "asc or desc"),
        ("GET /api/v1/latency?sort=run_queue HTTP/1.1", 400, "FAMILY.STAT with a STAT of count, rate"),
        ("GET /api/v1/latency?sort=none.p99 HTTP/1.1", 400, "there are run_queue, syscall"),
        ("GET /api/v1/latency?family=none HTTP/1.1", 400, "there are run_queue, syscall"),
        ("GET /api/v1/processes?span=x HTTP/1.1", 400, "window or total"),
        ("GET /api/v1/processes?x=%ff%00 HTTP/1.1", 400, "there is no parameter \"x\""),
    ] {
        let answer = server.send(head);
        assert_eq!(answer.status, status, "{head}");
        assert!(answer.head.contains("content-type: application/problem+json"), "{}", answer.head);
        let json = answer.json();
        assert!(json["detail"].as_str().is_some_and(|text| text.contains(detail)), "{head}: {json}");
        assert_eq!(json["status"], status);
        assert!(status != 405 || answer.head.contains("allow: get,head"), "{}", answer.head);
    }
    let long = server.get(&format!("/{}", "x".repeat(9000)));
    assert!(long.status == 404 && long.body.len() < 400, "{long:?}");
}

#[test]
fn a_head_without_end_is_refused() {
    let server = Server::start(Limits::default());
    let mut stream = server.connect();
    write!(stream, "GET / HTTP/1.1\r\nx: ").expect("a head");
    // The server may close before all is written.
    let _ = stream.write_all(&vec![b'x'; 17 << 10]);
    let answer = Answer::read(&mut stream);
    assert_eq!(answer.status, 431, "{answer:?}");
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn slow_clients_are_let_go() {
    let limits = Limits { head_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start(limits);
    let mut stream = server.connect();
    let began = Instant::now();
    let mut bytes = Vec::new();
    // One byte now and then does not help.
    while began.elapsed() < Duration::from_secs(5) && stream.write_all(b"G").is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = stream.read_to_end(&mut bytes);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn a_response_that_nobody_reads_is_given_up() {
    let limits = Limits { connections: 1, response_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(limits);
    // More than the buffers of both ends take.
    server.publish(numbers(10_000));
    let mut idle = server.connect();
    write!(idle, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
    let began = Instant::now();
    while server.get("/").status == 429 {
        assert!(began.elapsed() < Duration::from_secs(20), "the connection is still held");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn connections_are_limited_and_those_beyond_told() {
    let server = Server::start(Limits { connections: 2, ..Limits::default() });
    let held = [server.connect(), server.connect()];
    // They are accepted in order, so the third finds no room.
    let answer = server.get("/metrics");
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(
        answer.head.contains("retry-after: 1") && answer.head.contains("connection: close"),
        "{}",
        answer.head
    );
    assert!(answer.json()["detail"].as_str().is_some_and(|text| text.starts_with("2 connections are open")));
    drop(held);
    let began = Instant::now();
    while server.get("/").status != 200 {
        assert!(began.elapsed() < Duration::from_secs(10), "there is still no room");
    }
}

#[test]
fn the_end_is_not_held_up_by_idle_connections() {
    let server = Server::start(Limits::default());
    let _idle = server.connect();
    assert_eq!(server.get("/").status, 200);
    let began = Instant::now();
    drop(server);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}
