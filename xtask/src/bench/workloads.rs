//! What stacks are taken of to see whether they are complete: from optimized C to a database under load.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{load, web};
use crate::failure::{Failure, Result};
use crate::{process, workspace};

/// One of them.
pub(crate) struct Workload {
    /// As `--workload` takes it.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    start: fn(&mut Running) -> Result<()>,
}

/// Every workload.
pub(crate) const WORKLOADS: &[Workload] = &[
    Workload { name: "c", title: "C -O2 -fomit-frame-pointer", start: c },
    Workload { name: "cpp", title: "C++ -O2, exceptions", start: cpp },
    Workload { name: "rust", title: "Rust -O", start: rust },
    Workload { name: "go", title: "Go", start: go },
    Workload { name: "python", title: "Debian's python3", start: python },
    Workload { name: "node", title: "node", start: node },
    Workload { name: "nginx", title: "nginx and ab", start: nginx },
    Workload { name: "postgres", title: "postgres and pgbench", start: postgres },
    Workload { name: "redis", title: "redis and redis-benchmark", start: redis },
];

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the processes may take to end when asked to.
const GRACE: Duration = Duration::from_secs(3);

/// More work than can be done meanwhile, for clients that want a number of seconds or of requests.
const SECONDS: &str = "3600";
const REQUESTS: &str = "10000000";

/// A workload's processes; they end, and their folder goes, when this is dropped.
pub(crate) struct Running {
    children: Vec<Child>,
    folder: PathBuf,
}

impl Workload {
    /// Builds what is to be built and starts it; it is at work when this returns.
    pub(crate) fn start(&self) -> Result<Running> {
        let mut running = Running::new(self.name)?;
        (self.start)(&mut running)?;
        Ok(running)
    }
}

impl Running {
    /// Nothing yet.
    fn new(name: &str) -> Result<Self> {
        // Not below target: a server that gives up root's rights could not get there.
        let folder = std::env::temp_dir().join(format!("hostscope-bench-{name}-{}", std::process::id()));
        workspace::remove_folder(&folder)?;
        workspace::make_folder(&folder)?;
        Ok(Self { children: Vec::new(), folder })
    }

    /// Its processes and all that they have started.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.children.iter().map(Child::id).collect();
        let mut at = 0;
        while let Some(pid) = pids.get(at) {
            pids.extend(children_of(*pid));
            at += 1;
        }
        pids
    }

    fn spawn(&mut self, command: &mut Command) -> Result<()> {
        let log = |name: &str| {
            let path = self.folder.join(name);
            fs::File::options()
                .create(true)
                .append(true)
                .open(&path)
                .map_err(|error| Failure::file("create", &path, &error))
        };
        command.stdin(Stdio::null()).stdout(log("stdout.txt")?).stderr(log("stderr.txt")?);
        load::ends_with_parent(command, libc::SIGTERM);
        self.children.push(command.spawn().map_err(|error| process::cannot_start(command, &error))?);
        Ok(())
    }

    /// Compiles one of the sources beside this file by `compiler`, whose last argument is to name the output, and runs it.
    fn compiled(&mut self, compiler: &[&str], source: &str) -> Result<()> {
        let program = self.folder.join("program");
        let Some((name, arguments)) = compiler.split_first() else { return Ok(()) };
        let mut command = Command::new(name);
        command.args(arguments).args(["-o".as_ref(), program.as_os_str()]).arg(source_file(source));
        process::run(&mut command, "mend what the compiler says above, or install it")?;
        self.spawn(&mut Command::new(program))
    }

    /// A failure where one of the processes that never end by themselves has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        if !self.children.iter_mut().any(|child| matches!(child.try_wait(), Ok(Some(_)))) {
            return Ok(());
        }
        let said = workspace::read_bytes(&self.folder.join("stderr.txt")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        Err(Failure::new(format!("a process has ended; it said: {said}"), "see xtask/src/bench/workloads.rs"))
    }

    /// Waits until `answers`, unless a process ends before.
    fn wait_until(&mut self, answers: impl Fn() -> bool) -> Result<()> {
        let began = Instant::now();
        while !answers() {
            self.check()?;
            if began.elapsed() > PATIENCE {
                return Err(Failure::new(
                    format!("no answer within {PATIENCE:?}"),
                    "see xtask/src/bench/workloads.rs",
                ));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let all = self.pids();
        // Clients last started end first; a server that is asked ends its workers itself.
        for child in self.children.iter().rev() {
            signal(child.id(), libc::SIGTERM);
        }
        let began = Instant::now();
        let all_ended = |children: &mut Vec<Child>| {
            children.iter_mut().all(|child| !matches!(child.try_wait(), Ok(None)))
        };
        while !all_ended(&mut self.children) && began.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(10));
        }
        if !all_ended(&mut self.children) {
            for pid in all {
                signal(pid, libc::SIGKILL);
            }
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
        let _ = workspace::remove_folder(&self.folder);
    }
}

fn signal(pid: u32, signal: libc::c_int) {
    // SAFETY: takes numbers only; the process is our child or descends from one that has not been waited for.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// What the threads of a process have started.
fn children_of(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// A file of `bench/workloads`.
pub(crate) fn source_file(name: &str) -> PathBuf {
    workspace::root().join("xtask/src/bench/workloads").join(name)
}

fn c(running: &mut Running) -> Result<()> {
    running.compiled(&["gcc", "-O2", "-fomit-frame-pointer"], "calls.c")
}

fn cpp(running: &mut Running) -> Result<()> {
    running.compiled(&["g++", "-O2", "-fomit-frame-pointer", "-pthread"], "throws.cpp")
}

fn rust(running: &mut Running) -> Result<()> {
    running.compiled(&["rustc", "-O", "--edition=2024"], "collections.rs")
}

fn go(running: &mut Running) -> Result<()> {
    running.compiled(&["go", "build"], "goroutines.go")
}

fn python(running: &mut Running) -> Result<()> {
    // Not from PATH: others keep frame pointers, Debian's does not.
    running.spawn(Command::new("/usr/bin/python3").arg(source_file("load.py")))
}

fn node(running: &mut Running) -> Result<()> {
    running.spawn(Command::new("node").arg(source_file("load.js")))
}

fn nginx(running: &mut Running) -> Result<()> {
    let port = serve_page(running, "worker_processes 2;")?;
    let url = format!("http://127.0.0.1:{port}/page.html");
    running.spawn(Command::new("ab").args(["-q", "-k", "-c", "8", "-t", SECONDS, "-n", REQUESTS, &url]))
}

/// nginx under wrk, each on a CPU of its own as far as there are two; the port where `/status` counts requests.
pub(crate) fn web_server() -> Result<(Running, u16)> {
    let mut running = Running::new("web")?;
    let port = serve_page(&mut running, "worker_processes 1; worker_cpu_affinity 01;")?;
    let last = thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1).to_string();
    let url = format!("http://127.0.0.1:{port}/page.html");
    running.spawn(Command::new("taskset").args([
        "--cpu-list",
        &last,
        "wrk",
        "-t",
        "1",
        "-c",
        "8",
        "-d",
        SECONDS,
        &url,
    ]))?;
    Ok((running, port))
}

fn serve_page(running: &mut Running, workers: &str) -> Result<u16> {
    let port = web::free_port()?;
    let folder = running.folder.display().to_string();
    let settings = format!(
        "daemon off; {workers} pid {folder}/pid; error_log stderr error;
        events {{}}
        http {{
            access_log {folder}/access.log;
            server {{
                listen 127.0.0.1:{port};
                location / {{ root {folder}; }}
                location /status {{ stub_status; }}
            }}
        }}"
    );
    let settings_file = running.folder.join("nginx.conf");
    workspace::write(&settings_file, settings)?;
    workspace::write(&running.folder.join("page.html"), "words ".repeat(2000))?;
    running.spawn(
        Command::new("/usr/sbin/nginx").args(["-e", "stderr", "-p", &folder, "-c"]).arg(settings_file),
    )?;
    running.wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok())?;
    Ok(port)
}

fn postgres(running: &mut Running) -> Result<()> {
    const NOBODY_HAS: &str = "apt-get install postgresql";
    let programs = postgres_programs().ok_or_else(|| Failure::new("there is no postgres", NOBODY_HAS))?;
    // It refuses to run as root.
    let user = |flag: &str| -> Result<u32> {
        let id = process::capture(Command::new("id").args([flag, "postgres"]), NOBODY_HAS)?;
        id.trim().parse().map_err(|error| Failure::new(format!("id says {id}: {error}"), NOBODY_HAS))
    };
    let (user, group) = (user("-u")?, user("-g")?);
    let folder = running.folder.clone();
    std::os::unix::fs::chown(&folder, Some(user), Some(group))
        .map_err(|error| Failure::file("give away", &folder, &error))?;
    let as_user = |program: &str| {
        let mut command = Command::new(programs.join(program));
        command.current_dir(&folder).uid(user).gid(group).env("PGHOST", &folder).env("PGUSER", "postgres");
        command
    };
    let mend = "try it by hand, as the user postgres";
    process::capture(
        as_user("initdb").args(["-A", "trust", "-U", "postgres", "--no-sync", "-D", "data"]),
        mend,
    )?;
    let mut server = as_user("postgres");
    server.args(["-D", "data", "-h", "", "-c", "fsync=off", "-k"]).arg(&folder);
    running.spawn(&mut server)?;
    running.wait_until(|| {
        process::output(&mut as_user("pg_isready")).is_ok_and(|output| output.status.success())
    })?;
    process::capture(as_user("pgbench").args(["-i", "-q", "-s", "2", "postgres"]), mend)?;
    running.spawn(as_user("pgbench").args(["-n", "-c", "4", "-j", "2", "-T", SECONDS, "postgres"]))
}

/// Debian keeps them by version, out of PATH; the newest.
pub(crate) fn postgres_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let folders =
        versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("postgres").is_file());
    folders.max()
}

fn redis(running: &mut Running) -> Result<()> {
    let socket = running.folder.join("socket");
    let mut server = Command::new("redis-server");
    server.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&socket);
    running.spawn(server.current_dir(&running.folder))?;
    running.wait_until(|| std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
    let mut client = Command::new("redis-benchmark");
    client.arg("-s").arg(&socket).args(["-q", "-l", "-c", "8", "-r", "100000"]);
    running.spawn(client.args(["-t", "set,get,lpush,lpop,zadd,zpopmin,lrange_100"]))
}
