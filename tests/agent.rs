//! The agent as its user lives it: start, scrape, reload, systemd, end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hostscope_tests::host::{host, wait_for};
use hostscope_tests::program::{Running, hostscope, run};
use hostscope_tests::skip;
use hostscope_tests::workload::Workload;
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(30);

/// An agent under way, at a port that the kernel has chosen.
struct Agent {
    running: Running,
    address: String,
}

impl Agent {
    fn start(prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = hostscope(["agent", "--listen", "127.0.0.1:0"]);
        prepare(&mut command);
        let mut running = Running::start(&mut command);
        let address = wait_for("the agent's address", LIMIT, || {
            assert!(!running.has_ended(), "it has ended:\n{}", running.stderr());
            let printed = running.stderr();
            let (address, _) = printed.split_once("http://")?.1.split_once("/metrics\n")?;
            Some(address.to_owned())
        });
        let agent = Self { running, address };
        wait_for("its first turn", LIMIT, || {
            agent.get("/health/ready").starts_with("HTTP/1.1 200").then_some(())
        });
        agent
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn body(&self, path: &str) -> String {
        self.get(path).split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn figure(&self, name: &str) -> f64 {
        let text = self.body("/metrics");
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.trim().parse().unwrap()
    }
}

#[test]
fn prometheus_reads_what_is_served() {
    let _host = host();
    let agent = Agent::start(|_| {});
    let metrics = agent.body("/metrics");
    assert!(metrics.contains("\nhostscope_agent_build_info{version=\"0.1.0\"} 1\n"), "{metrics}");
    let before = agent.figure("hostscope_agent_collections_total");
    wait_for("another turn", LIMIT, || {
        (agent.figure("hostscope_agent_collections_total") > before).then_some(())
    });
    let resident = agent.figure("hostscope_agent_resident_memory_bytes");
    println!("{:.1} MB resident", resident / 1e6);
    assert!(resident < 40e6, "{resident}");
    // What a quiet host does takes a few turns to show.
    for family in ["runqueue_latency_seconds", "offcpu_seconds", "syscall_blocked_seconds"] {
        wait_for(family, LIMIT, || {
            agent.body("/metrics").contains(&format!("\n# HELP hostscope_{family} ")).then_some(())
        });
    }
    let metrics = agent.body("/metrics");
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        return skip!("promtool is not installed: apt-get install prometheus");
    };
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let judged = promtool.wait_with_output().unwrap();
    assert!(judged.status.success(), "{}\n{metrics}", String::from_utf8_lossy(&judged.stderr));
}

#[test]
fn both_signals_end_it_within_its_time() {
    let _host = host();
    for signal in [Signal::TERM, Signal::INT] {
        let agent = Agent::start(|_| {});
        let _idle = TcpStream::connect(&agent.address).unwrap();
        let began = Instant::now();
        agent.running.signal(signal);
        let ended = agent.running.end();
        assert_eq!(ended.code(), 0, "{}", ended.stderr);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

/// The programs that are loaded, as `bpftool` names them.
fn programs() -> Vec<String> {
    let output = Command::new("bpftool").args(["--json", "prog", "show"]).output();
    let output = output.expect("bpftool: `cargo xtask test` installs it");
    let programs: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names = programs.as_array().unwrap().iter().filter_map(|program| program["name"].as_str());
    names.map(str::to_owned).collect()
}

#[test]
fn nothing_stays_in_the_kernel() {
    const OURS: [&str; 3] = ["sched_switch", "syscall_exit", "tcp_state"];
    let _host = host();
    let loaded = || programs().iter().filter(|program| OURS.contains(&program.as_str())).count();
    // Those of the test before may not be freed yet.
    wait_for("an empty kernel", LIMIT, || (loaded() == 0).then_some(()));
    for signal in [Signal::TERM, Signal::KILL] {
        let agent = Agent::start(|command| {
            command.args(["--full-syscalls", "on"]);
        });
        assert_eq!(loaded(), OURS.len(), "{:?}", programs());
        agent.running.signal(signal);
        let _ = agent.running.end();
        // The kernel frees programs after a grace period of RCU.
        wait_for("the programs' end", LIMIT, || (loaded() == 0).then_some(()));
    }
}

#[test]
fn what_costs_too_much_is_given_up_and_told() {
    let _host = host();
    let _load = Workload::start("syscalls", [""; 0]);
    let agent = Agent::start(|command| {
        command.args(["-v", "--full-syscalls", "auto", "--cpu-budget-percent", "0.1"]);
    });
    let state = |state: &str| {
        agent.figure(&format!("hostscope_agent_probe_state{{probe=\"syscall_exit\",state=\"{state}\"}}"))
    };
    assert!(state("on") > 0.5);
    wait_for("the first step", Duration::from_mins(1), || {
        (agent.figure("hostscope_agent_budget_level") > 0.5).then_some(())
    });
    assert!(agent.figure("hostscope_agent_budget_ratio") > 1.0);
    assert!(state("off") > 0.5);
    let log = agent.running.stderr();
    assert!(log.contains("gives up the timing of every system call"), "{log}");
    let before = agent.figure("hostscope_agent_collections_total");
    wait_for("what is left to go on", LIMIT, || {
        (agent.figure("hostscope_agent_collections_total") > before).then_some(())
    });
}

#[test]
fn sighup_applies_a_good_file_and_refuses_a_bad_one() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    fs::write(&file, "interval = \"2s\"\n").unwrap();
    let agent = Agent::start(|command| {
        command.args(["-v", "--config"]).arg(&file);
    });
    assert!(agent.body("/health/live").contains("every 2s"));
    let reload = |text: &str, wanted: &str| {
        fs::write(&file, text).unwrap();
        agent.running.signal(Signal::HUP);
        wait_for(wanted, LIMIT, || agent.running.stderr().contains(wanted).then_some(()));
    };
    reload("interval = \"500ms\"\nwindow = \"20s\"\n", "the settings were read again");
    wait_for("the new interval", LIMIT, || agent.body("/health/live").contains("every 500ms").then_some(()));
    reload("# no\ninterval = 5000\n", "agent.toml, line 2: interval cannot be 5000");
    let log = agent.running.stderr();
    assert!(log.contains("the settings stay as they were") && log.contains("from 100ms to 60s"), "{log}");
    assert!(agent.body("/health/live").contains("every 500ms"));
    fs::remove_file(&file).unwrap();
    agent.running.signal(Signal::HUP);
    wait_for("a word on the file", LIMIT, || agent.running.stderr().contains("No such file").then_some(()));
    assert!(agent.body("/health/live").contains("every 500ms"));
    agent.running.signal(Signal::TERM);
    assert_eq!(agent.running.end().code(), 0);
}

#[test]
fn what_cannot_change_is_told() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    fs::write(&file, "listen = \"127.0.0.1:0\"\n").unwrap();
    let mut command = hostscope(["agent", "--config"]);
    let running = Running::start(command.arg(&file));
    wait_for("the agent", LIMIT, || running.stderr().contains("metrics at").then_some(()));
    fs::write(&file, "listen = \"127.0.0.1:1\"\n").unwrap();
    running.signal(Signal::HUP);
    let wanted = "listen has changed, and will be heeded at the next start only";
    wait_for(wanted, LIMIT, || running.stderr().contains(wanted).then_some(()));
    running.signal(Signal::TERM);
    assert_eq!(running.end().code(), 0);
}

fn told(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 200];
    let length = socket.recv(&mut bytes).expect("systemd hears nothing");
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

#[test]
fn systemd_is_told() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let agent = Agent::start(|command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    });
    // The first sign of life may come before the first turn.
    let next = || loop {
        let state = told(&socket);
        if state != "WATCHDOG=1" {
            return state;
        }
    };
    assert_eq!(next(), "READY=1");
    while told(&socket) != "WATCHDOG=1" {}
    agent.running.signal(Signal::HUP);
    assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(next(), "READY=1");
    agent.running.signal(Signal::TERM);
    assert_eq!(next(), "STOPPING=1");
    assert_eq!(agent.running.end().code(), 0);
}

#[test]
fn what_cannot_be_says_so_and_how_to_mend_it() {
    let _host = host();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    fs::write(&file, "\nmax_series = \"many\"\n").unwrap();
    let file = file.to_str().unwrap();
    for (arguments, status, what, mend) in [
        (["--listen", &taken], 1, "another program does", "--listen 127.0.0.1:PORT"),
        (["--listen", "0.0.0.0:9464"], 2, "--listen cannot be \"0.0.0.0:9464\"", "a loopback address"),
        (
            ["--config", file],
            2,
            "agent.toml, line 2: max_series cannot be \"many\"",
            "a whole number from 3000",
        ),
        (["--config", "/none"], 2, "cannot read the settings in /none: No such file", "name a file"),
        (["--interval", "1d"], 2, "--interval cannot be \"1d\"", "a duration from 100ms to 60s"),
    ] {
        let ended = run(hostscope(["agent"]).args(arguments));
        assert_eq!(ended.code(), status, "{arguments:?}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(what) && ended.stderr.contains(mend),
            "{arguments:?}: {}",
            ended.stderr
        );
        assert_eq!(ended.stderr.lines().count(), 2, "{}", ended.stderr);
    }
    let ended = run(hostscope(["agent", "--listen", &taken]).env("HOSTSCOPE_WINDOW", "x"));
    assert!(ended.stderr.contains("HOSTSCOPE_WINDOW cannot be \"x\""), "{}", ended.stderr);
}
