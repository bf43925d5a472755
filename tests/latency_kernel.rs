//! The kernel side of latency proved by counts: 23 connects are 23, 40 syncs are 40, and every byte is there.
//!
//! The test's own process does what is measured, alone on the host as far as tests go, and reads its own rows.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hostscope_tests::host::{host, own_folder};
use hostscope_tests::rows::{Measured, Sum};
use hostscope_tests::skip;
use hostscope_wire::row::{CacheResult, Direction, Family, FileSystem, Operation, Role, Transport, Wait};

const CLIENT: u8 = Role::Client as u8;
const SERVER: u8 = Role::Server as u8;
const MILLISECOND: u64 = 1_000_000;

/// Begins to measure; leaves the test out where the kernel is too old for the probe.
macro_rules! measure {
    ($probe:literal) => {{
        let measured = Measured::begin();
        if let Some(reason) = measured.off($probe) {
            return skip!("{}: {reason}", $probe);
        }
        measured
    }};
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Accepts connections one after another and answers each message of 50 bytes with 200 after `delay`, until the client closes.
fn serve(listener: TcpListener, connections: usize, delay: Duration) -> JoinHandle<()> {
    thread::spawn(move || {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().unwrap();
            answer(&mut stream, delay);
        }
    })
}

fn answer(stream: &mut TcpStream, delay: Duration) {
    stream.set_nodelay(true).unwrap();
    let mut request = [0; 50];
    while stream.read_exact(&mut request).is_ok() {
        thread::sleep(delay);
        stream.write_all(&[1; 200]).unwrap();
    }
}

fn ask(stream: &mut TcpStream, times: usize) {
    let mut response = [0; 200];
    for _ in 0..times {
        stream.write_all(&[2; 50]).unwrap();
        stream.read_exact(&mut response).unwrap();
    }
}

#[test]
fn connects_and_lifetimes_are_counted() {
    let _host = host();
    let measured = measure!("tcp_state");
    // Younger than the probe: before 6.3 nothing else tells whose its connections are.
    let (listener, address) = listen();
    let server = serve(listener, 23, Duration::ZERO);
    for _ in 0..23 {
        let mut stream = TcpStream::connect(address).unwrap();
        ask(&mut stream, 1);
        thread::sleep(Duration::from_millis(10));
    }
    server.join().unwrap();
    let connects = measured.own(Family::TcpConnect, 0);
    assert_eq!(connects.count, 23);
    assert!(connects.max < 1000 * MILLISECOND, "{connects:?}");
    for role in [CLIENT, SERVER] {
        let lifetimes = measured.own(Family::TcpLifetime, role);
        assert_eq!(lifetimes.count, 23);
        assert!(lifetimes.median_is_near(10 * MILLISECOND), "{lifetimes:?}");
        assert!(measured.own(Family::TcpRtt, role).count >= 23);
    }
    assert_eq!(measured.losses(), []);
}

#[test]
fn refused_connects_have_their_error() {
    let _host = host();
    let (listener, address) = listen();
    drop(listener);
    let measured = measure!("tcp_state");
    for _ in 0..23 {
        TcpStream::connect(address).unwrap_err();
    }
    assert_eq!(measured.own(Family::TcpConnect, libc::ECONNREFUSED as u8).count, 23);
    assert_eq!(measured.own(Family::TcpConnect, 0).count, 0);
    assert_eq!(measured.own(Family::TcpResets, Direction::Received as u8).sum, 23);
    assert_eq!(measured.own(Family::TcpLifetime, CLIENT).count, 0);
}

#[test]
fn a_listener_that_is_full_makes_connects_slow() {
    let _host = host();
    let (listener, address) = listen();
    // SAFETY: a call with a descriptor that is open.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let _first = TcpStream::connect(address).unwrap();
    let measured = measure!("tcp_state");
    let second = thread::spawn(move || TcpStream::connect(address).unwrap());
    thread::sleep(Duration::from_millis(300));
    let _accepted = listener.accept().unwrap();
    second.join().unwrap();
    // The kernel asks again after a second (`TCP_TIMEOUT_INIT`).
    let connects = measured.own(Family::TcpConnect, 0);
    assert_eq!(connects.count, 1);
    assert!((900 * MILLISECOND..1900 * MILLISECOND).contains(&connects.max), "{connects:?}");
    assert_eq!(measured.own(Family::TcpRetransmits, 0).sum, 1);
}

#[test]
fn a_connect_given_up_by_its_owner_is_aborted() {
    let _host = host();
    let (listener, address) = listen();
    // SAFETY: a call with a descriptor that is open.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let _first = TcpStream::connect(address).unwrap();
    let measured = measure!("tcp_state");
    TcpStream::connect_timeout(&address, Duration::from_millis(50)).unwrap_err();
    let aborted = measured.own(Family::TcpConnect, libc::ECONNABORTED as u8);
    assert_eq!(aborted.count, 1);
    assert!(aborted.median_is_near(50 * MILLISECOND), "{aborted:?}");
}

#[test]
fn first_bytes_are_timed_at_both_ends() {
    let _host = host();
    let (listener, address) = listen();
    let port = address.port();
    let measured = Measured::begin();
    if let Some(reason) = measured.off("sock_receive") {
        return skip!("no messages of sockets here: {reason}");
    }
    let server = serve(listener, 1, Duration::from_millis(10));
    let mut stream = TcpStream::connect(address).unwrap();
    ask(&mut stream, 17);
    drop(stream);
    server.join().unwrap();
    for role in [CLIENT, SERVER] {
        let waits = measured.own_detail(Family::TcpFirstByte, role, port);
        assert_eq!(waits.count, 17);
        assert!(waits.median_is_near(10 * MILLISECOND), "{waits:?}");
    }
}

#[test]
fn connections_older_than_the_probes_have_their_roles() {
    let _host = host();
    let (listener, address) = listen();
    let mut stream = TcpStream::connect(address).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    let measured = Measured::begin();
    if let Some(reason) = measured.off("sock_receive") {
        return skip!("no messages of sockets here: {reason}");
    }
    let server = thread::spawn(move || answer(&mut accepted, Duration::from_millis(2)));
    ask(&mut stream, 17);
    drop(stream);
    server.join().unwrap();
    for role in [CLIENT, SERVER] {
        assert_eq!(measured.own_detail(Family::TcpFirstByte, role, address.port()).count, 17);
        assert_eq!(measured.own(Family::TcpLifetime, role).count, 0, "nobody knows since when");
    }
    assert_eq!(measured.own(Family::TcpAcceptQueue, 0).count, 0);
}

#[test]
fn the_wait_for_accept_is_the_servers_and_not_the_clients() {
    let _host = host();
    let (listener, address) = listen();
    let measured = Measured::begin();
    if let Some(reason) = measured.off("sock_receive") {
        return skip!("no messages of sockets here: {reason}");
    }
    // The server is late.
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&[2; 50]).unwrap();
    thread::sleep(Duration::from_millis(100));
    let server = serve(listener.try_clone().unwrap(), 1, Duration::ZERO);
    stream.read_exact(&mut [0; 200]).unwrap();
    drop(stream);
    server.join().unwrap();
    let late = measured.own_detail(Family::TcpAcceptQueue, 0, address.port());
    assert_eq!(late.count, 1);
    assert!((90 * MILLISECOND..400 * MILLISECOND).contains(&late.max), "{late:?}");
    // The client is.
    let server = serve(listener, 1, Duration::ZERO);
    let mut stream = TcpStream::connect(address).unwrap();
    thread::sleep(Duration::from_millis(300));
    ask(&mut stream, 1);
    drop(stream);
    server.join().unwrap();
    let both = measured.own_detail(Family::TcpAcceptQueue, 0, address.port());
    assert_eq!(both.count, 2);
    assert!(both.sum - late.sum < 100 * MILLISECOND, "{both:?}");
}

#[test]
fn clients_that_gave_up_have_waited_all_the_same() {
    let _host = host();
    let measured = Measured::begin();
    // Its process is known from its call of listen.
    let (listener, address) = listen();
    if let Some(reason) = measured.off("sock_receive") {
        return skip!("no messages of sockets here: {reason}");
    }
    // One asks and closes, one asks and resets, one is met only by the end of the listener.
    let mut streams = [(); 3].map(|()| TcpStream::connect(address).unwrap());
    streams[0].write_all(&[2; 50]).unwrap();
    let [closes, resets, stays] = streams;
    thread::sleep(Duration::from_millis(100));
    drop(closes);
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: an option of the size that its type has, on a descriptor that is open.
    let result = unsafe {
        let (value, bytes) = ((&raw const linger).cast(), size_of::<libc::linger>() as u32);
        libc::setsockopt(resets.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, bytes)
    };
    assert_eq!(result, 0);
    drop(resets);
    thread::sleep(Duration::from_millis(100));
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.read_exact(&mut [0; 50]).unwrap();
    drop(listener);
    drop(stays);
    let waits = measured.own_detail(Family::TcpAcceptQueue, 0, address.port());
    assert_eq!(waits.count, 3);
    let expected = (200 + 100 + 200) * MILLISECOND;
    assert!((expected - 20 * MILLISECOND..expected + 200 * MILLISECOND).contains(&waits.sum), "{waits:?}");
}

#[test]
fn every_byte_is_counted_once() {
    let _host = host();
    let (listener, address) = listen();
    let measured = Measured::begin();
    if let Some(reason) = measured.off("sock_receive") {
        return skip!("no messages of sockets here: {reason}");
    }
    let mut stream = TcpStream::connect(address).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    stream.write_all(&vec![3; 70_000]).unwrap();
    accepted.peek(&mut [0; 1000]).unwrap();
    accepted.read_exact(&mut vec![0; 70_000]).unwrap();
    let (first, second) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let (mut left, mut right) = UnixStream::pair().unwrap();
    for _ in 0..23 {
        first.send_to(&[4; 100], second.local_addr().unwrap()).unwrap();
        second.recv(&mut [0; 1000]).unwrap();
        left.write_all(&[5; 10]).unwrap();
        right.read_exact(&mut [0; 10]).unwrap();
    }
    let bytes = |direction: Direction, transport: Transport| {
        measured.own(Family::NetworkBytes, direction as u8 + 2 * transport as u8).sum
    };
    for (transport, expected) in [(Transport::Tcp, 70_000), (Transport::Udp, 2300), (Transport::Unix, 230)] {
        assert_eq!(bytes(Direction::Sent, transport), expected, "{transport:?}");
        assert_eq!(bytes(Direction::Received, transport), expected, "{transport:?}");
    }
}

/// A file of the test's own that goes with it, on the file system that the tests are built on.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(own_folder().join(format!(".{name}-{}", std::process::id())))
    }

    fn open(&self, flags: i32) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(flags)
            .open(&self.0)
            .unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn forty_syncs_are_forty() {
    let _host = host();
    let scratch = Scratch::new("syncs");
    let mut file = scratch.open(0);
    if rustix::fs::fstatfs(&file).unwrap().f_type != 0xef53 {
        return skip!("{} is not on ext4", scratch.0.display());
    }
    let measured = measure!("ext4_sync_exit");
    for _ in 0..40 {
        file.write_all(&[6; 4096]).unwrap();
        file.sync_all().unwrap();
    }
    let syncs = measured.own(Family::FileSync, FileSystem::Ext4 as u8);
    assert_eq!(syncs.count, 40);
    assert!(syncs.sum > 0 && syncs.max < 10_000 * MILLISECOND);
}

/// Completed requests and bytes of `reads` or writes, as the kernel counts them for the disk.
fn disk_statistics(disk: &str, operation: Operation) -> (u64, u64) {
    let text = fs::read_to_string(format!("/sys/block/{disk}/stat")).unwrap();
    let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let first = if operation as u8 == Operation::Read as u8 { 0 } else { 4 };
    (numbers[first], numbers[first + 2] * 512)
}

/// A loop device on a file: a disk that nobody else uses.
struct Loop {
    path: String,
}

impl Loop {
    fn new(file: &Scratch) -> Option<Self> {
        let output =
            Command::new("losetup").args(["--direct-io=on", "--show", "-f"]).arg(&file.0).output().ok()?;
        let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        output.status.success().then_some(Self { path })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.path]).status();
    }
}

#[test]
fn requests_of_a_disk_are_those_that_the_kernel_counts() {
    let _host = host();
    let scratch = Scratch::new("disk");
    scratch.open(0).set_len(1 << 20).unwrap();
    let Some(disk) = Loop::new(&scratch) else { return skip!("no loop device can be made") };
    let name = disk.path.trim_start_matches("/dev/");
    let number = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
    let (major, minor) = number.trim().split_once(':').unwrap();
    let device = major.parse::<u32>().unwrap() << 20 | minor.parse::<u32>().unwrap();
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&disk.path).unwrap();
    // What udev and the partition scan read is over.
    thread::sleep(Duration::from_millis(300));
    let measured = measure!("block_issue");
    let before = [Operation::Read, Operation::Write].map(|operation| disk_statistics(name, operation));
    let mut memory = vec![7; 8192];
    let start = memory.as_ptr().align_offset(4096);
    let block = &mut memory[start..start + 4096];
    for index in 0..32 {
        file.write_all_at(block, index * 4096).unwrap();
    }
    for index in 0..23 {
        file.read_exact_at(block, index * 4096).unwrap();
    }
    let sum = |family, operation: Operation| {
        measured.sum_where(family, |key| key.subject == device && key.label == operation as u8)
    };
    for (operation, (requests, bytes), own) in
        [(Operation::Read, before[0], 23), (Operation::Write, before[1], 32)]
    {
        let after = disk_statistics(name, operation);
        assert!(after.0 - requests >= own);
        assert_eq!(sum(Family::BlockIo, operation).count, after.0 - requests);
        assert_eq!(sum(Family::BlockQueue, operation).count, after.0 - requests);
        assert_eq!(sum(Family::BlockBytes, operation).sum, after.1 - bytes);
        assert_eq!(sum(Family::BlockErrors, operation), Sum::default());
    }
    // The file shrinks below the disk: what lies behind its end cannot be read.
    scratch.open(0).set_len(4096).unwrap();
    file.read_exact_at(block, 512 << 10).unwrap_err();
    assert_eq!(sum(Family::BlockErrors, Operation::Read).sum, 1);
}

#[test]
fn pages_of_a_file_are_missed_once_and_then_there() {
    let _host = host();
    let scratch = Scratch::new("pages");
    let mut file = scratch.open(0);
    file.write_all(&vec![8; 64 * 4096]).unwrap();
    file.sync_all().unwrap();
    if rustix::fs::fstatfs(&file).unwrap().f_type != 0xef53 {
        return skip!("{} is not on ext4: its pages cannot be dropped", scratch.0.display());
    }
    let measured = measure!("page_cache_add");
    let value = |result: CacheResult| measured.own(Family::PageCache, result as u8).sum;
    let (missed, hit) = (value(CacheResult::Miss), value(CacheResult::Hit));
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut content = vec![0; 64 * 4096];
    for _ in 0..10 {
        file.read_exact_at(&mut content, 0).unwrap();
    }
    // A thread of the test's harness may meet a page of the program meanwhile.
    let misses = value(CacheResult::Miss) - missed;
    assert!((64..70).contains(&misses), "{misses}");
    if let Some(reason) = measured.off("page_cache_read") {
        return skip!("no hits here: {reason}");
    }
    let hits = value(CacheResult::Hit) - hit;
    assert!((640..680).contains(&hits), "{hits}");
}

#[test]
fn waits_off_the_cpu_are_counted_by_call() {
    let _host = host();
    let measured = Measured::begin();
    let mut writer = Command::new("sh");
    writer.args([
        "-c",
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23; do sleep 0.01; echo; done",
    ]);
    let mut writer = writer.stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = writer.stdout.take().unwrap();
    for _ in 0..23 {
        pipe.read_exact(&mut [0]).unwrap();
    }
    writer.wait().unwrap();
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(10));
    }
    let waits =
        |call: libc::c_long| measured.own_detail(Family::OffCpu, Wait::Interruptible as u8, call as u16 + 1);
    let (reads, sleeps) = (waits(libc::SYS_read), waits(libc::SYS_clock_nanosleep));
    assert_eq!(reads.count, 23);
    assert!(reads.median_is_near(10 * MILLISECOND), "{reads:?}");
    assert_eq!(sleeps.count, 10);
    assert!(sleeps.median_is_near(10 * MILLISECOND), "{sleeps:?}");
}

#[test]
fn two_on_one_cpu_wait_for_each_other() {
    let _host = host();
    let measured = Measured::begin();
    let spin = || {
        let mut first = rustix::thread::CpuSet::new();
        first.set(0);
        rustix::thread::sched_setaffinity(None, &first).unwrap();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            std::hint::spin_loop();
        }
    };
    let began = Instant::now();
    let threads = [thread::spawn(spin), thread::spawn(spin)];
    for thread in threads {
        thread.join().unwrap();
    }
    let wall_ns = began.elapsed().as_nanos() as u64;
    // One of the two waits at any time, and others may make both wait.
    let waits = measured.own(Family::RunQueue, 0);
    assert!((wall_ns * 7 / 10..wall_ns * 2).contains(&waits.sum), "{waits:?} in {wall_ns}");
}

/// How often each soft interrupt was handled, by vector.
fn softirqs() -> Vec<u64> {
    let text = fs::read_to_string("/proc/softirqs").unwrap();
    let counts =
        |line: &str| line.split_whitespace().skip(1).map(|count| count.parse::<u64>().unwrap()).sum();
    text.lines().skip(1).map(counts).collect()
}

#[test]
fn soft_interrupts_are_those_that_the_kernel_counts() {
    let _host = host();
    let before = softirqs();
    let measured = Measured::begin();
    let attached = softirqs();
    thread::sleep(Duration::from_millis(500));
    let done = softirqs();
    for vector in 0..before.len() {
        let counted = measured.sum_where(Family::SoftIrq, |key| key.label == vector as u8).count;
        let after = softirqs()[vector];
        // One a CPU may be under way at each end.
        let slack = hostscope_tests::host::online_cpus() as u64;
        assert!(counted + slack >= done[vector] - attached[vector], "vector {vector}: {counted}");
        assert!(counted <= after - before[vector] + slack, "vector {vector}: {counted}");
    }
    // Timers.
    assert!(measured.sum_where(Family::SoftIrq, |key| key.label == 1).count > 0);
}

/// A cgroup with a limit of memory, by either version.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn new(limit_bytes: u64) -> Option<Self> {
        let places = [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
        let (root, limit) = places.into_iter().find(|(root, limit)| {
            let name = format!("hostscope-test-{}", std::process::id());
            let folder = std::path::Path::new(root).join(name);
            let made = fs::create_dir(&folder).is_ok();
            let fits = made && folder.join(limit).exists();
            if made && !fits {
                let _ = fs::remove_dir(&folder);
            }
            fits
        })?;
        let cgroup = Self(std::path::Path::new(root).join(format!("hostscope-test-{}", std::process::id())));
        fs::write(cgroup.0.join(limit), limit_bytes.to_string()).ok()?;
        Some(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_process_that_wants_too_much_is_killed_and_counted() {
    let _host = host();
    let Some(cgroup) = Cgroup::new(32 << 20) else { return skip!("no cgroup can limit memory here") };
    let measured = measure!("oom_kill");
    // It waits on its input until it is in the cgroup; then tail looks for the end of a line that has none, and keeps what it
    // reads. A limit of its own spares the host where the cgroup's does not hold.
    let mut child = Command::new("sh")
        .args(["-c", "read go; ulimit -v 500000; exec tail /dev/zero"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    fs::write(cgroup.0.join("cgroup.procs"), child.id().to_string()).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
    let of_child = |family| measured.sum_where(family, |key| key.subject == child.id());
    assert_eq!(of_child(Family::OomKills).sum, 1);
    let reclaim = of_child(Family::DirectReclaim);
    assert!(reclaim.count > 0 && reclaim.sum > 0, "{reclaim:?}");
}
