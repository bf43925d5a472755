//! Programs as distributions ship them, under load: nearly every stack reaches its entry.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hostscope_tests::chains::assert_end;
use hostscope_tests::host::{host, wait_for};
use hostscope_tests::program::{Recorded, record, run};
use hostscope_tests::skip;
use hostscope_tests::stacks::{count, percent, stacks, text};
use hostscope_tests::workload::{Workload, children};
use rustix::process::Signal;

/// A server with children, which outlive it where it is killed: it is asked to end when this is dropped.
struct Server(Workload);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.signal(Signal::INT);
        self.0.wait();
    }
}

/// A program with its children, and theirs.
fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while next < family.len() {
        family.extend(children(family[next]));
        next += 1;
    }
    family
}

fn record_family(program: &Workload, options: &[&str]) -> Recorded {
    let pids = family(program.pid()).into_iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]);
    record(options.iter().map(ToString::to_string).chain(pids).collect::<Vec<_>>())
}

/// Records a program and its children under load; nearly all of their stacks must be whole.
#[track_caller]
fn check(program: &Workload) {
    // Its first children must be there to be named, or have yet to be born.
    std::thread::sleep(Duration::from_millis(500));
    let recorded = record_family(program, &["-d", "4s", "-F", "499"]);
    let all = stacks(&recorded.profile);
    let samples = count(&all, |stack| !stack.user().is_empty());
    assert!(samples > 100, "{samples} samples:\n{}\n{}", text(&all), recorded.ended.stderr);
    // As deep as these programs call: a walk that ends early is not whole, whatever it says.
    let deep = percent(&all, |stack| stack.user().len() > 3);
    assert!(deep > 70.0, "{deep:.1}%:\n{}", text(&all));
    assert_end(&all, "complete", 99.0);
}

/// The first of these files that exists.
fn installed(paths: &[&str]) -> Option<PathBuf> {
    paths.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// A port on which nobody listens.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn wait_for_port(port: u16) {
    wait_for("a server", Duration::from_secs(20), || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
}

fn command(program: &Path, words: &str) -> Command {
    let mut command = Command::new(program);
    command.args(words.split_whitespace());
    command
}

/// Recursion, and library code in C that calls back.
const PYTHON: &str = "
import json, re, time
def walk(depth):
    return 1 if depth == 0 else walk(depth - 1) + sum(n * n for n in range(5))
rows = [{'id': n, 'name': 'row %d' % (n * 7919 % 1000), 'tags': ['a', 'b'] * 3} for n in range(300)]
end = time.monotonic() + 60
while time.monotonic() < end:
    walk(60)
    text = json.dumps(rows, indent=1)
    json.loads(text)
    re.sub(r'(\\w+) (\\d+)', lambda found: found[2] + found[1], text)
    sorted(rows, key=lambda row: row['name'][::-1])
";

#[test]
fn python() {
    let _host = host();
    // Not one that somebody has built: their flags differ.
    let Some(program) = installed(&["/usr/bin/python3"]) else {
        return skip!("there is no /usr/bin/python3");
    };
    check(&Workload::start_command(Command::new(program).args(["-c", PYTHON])));
}

/// Code in every tier of the compiler, regular expressions (which are compiled, too), and the runtime in C++.
const NODE: &str = "
const rows = Array.from({length: 300}, (_, n) => ({id: n, name: 'row ' + n * 7919 % 1000, tags: ['a', 'b']}));
const walk = depth => depth === 0 ? 1 : walk(depth - 1) + Math.sqrt(depth);
const end = Date.now() + 60000;
function turn() {
    for (let n = 0; n < 20; n++) {
        walk(60);
        const text = JSON.stringify(rows);
        JSON.parse(text);
        text.replace(/(\\w+) (\\d+)/g, (_, word, number) => number + word);
        rows.slice().sort((a, b) => a.name < b.name ? -1 : 1);
    }
    if (Date.now() < end) setImmediate(turn);
}
turn();
";

#[test]
fn node() {
    let _host = host();
    let Some(program) = installed(&["/usr/bin/node"]) else { return skip!("there is no /usr/bin/node") };
    let workload = Workload::start_command(Command::new(program).args(["-e", NODE]));
    std::thread::sleep(Duration::from_secs(1));
    check(&workload);
}

#[test]
fn nginx() {
    let _host = host();
    let found = (installed(&["/usr/sbin/nginx"]), installed(&["/usr/bin/ab"]));
    let (Some(program), Some(load)) = found else { return skip!("there is no nginx, or no ab to call it") };
    let folder = tempfile::tempdir().unwrap();
    let (place, port) = (folder.path().display(), free_port());
    fs::write(folder.path().join("page.html"), "word ".repeat(2000)).unwrap();
    let settings = format!(
        "daemon off; worker_processes 2; pid {place}/pid; error_log {place}/errors; user root;
        events {{ worker_connections 64; }}
        http {{ access_log {place}/accesses; gzip on; gzip_types *; root {place}; keepalive_requests 1000;
        client_body_temp_path {place}; proxy_temp_path {place}; fastcgi_temp_path {place};
        uwsgi_temp_path {place}; scgi_temp_path {place}; server {{ listen 127.0.0.1:{port}; }} }}"
    );
    fs::write(folder.path().join("settings"), settings).unwrap();
    let words = format!("-p {place} -c {place}/settings -e {place}/errors");
    let server = Server(Workload::start_command(&mut command(&program, &words)));
    wait_for_port(port);
    let words =
        format!("-q -k -c 4 -t 60 -n 100000000 -H Accept-Encoding:gzip http://127.0.0.1:{port}/page.html");
    let _load = Workload::start_command(&mut command(&load, &words));
    check(&server.0);
}

#[test]
fn redis() {
    let _host = host();
    let found = (installed(&["/usr/bin/redis-server"]), installed(&["/usr/bin/redis-benchmark"]));
    let (Some(program), Some(load)) = found else {
        return skip!("there is no redis-server with its benchmark");
    };
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let mut server =
        command(&program, &format!("--bind 127.0.0.1 --port {port} --dir {}", folder.path().display()));
    let server = Server(Workload::start_command(server.args(["--save", ""])));
    wait_for_port(port);
    let words = format!("-h 127.0.0.1 -p {port} -c 4 -l -q -r 1000 -t set,get,lpush,lrange_100,mset,zadd");
    let _load = Workload::start_command(&mut command(&load, &words));
    check(&server.0);
}

/// The programs of the newest database server that Debian has installed.
fn postgres_folder() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.map(|version| version.unwrap().path().join("bin"));
    folders.filter(|folder| folder.join("initdb").is_file() && folder.join("pgbench").is_file()).max()
}

#[test]
fn postgres() {
    let _host = host();
    let Some(programs) = postgres_folder() else { return skip!("there is no PostgreSQL with pgbench") };
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let place = folder.path().display().to_string();
    // It refuses to run as root.
    let user = fs::metadata("/var/lib/postgresql").unwrap();
    let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&user), std::os::unix::fs::MetadataExt::gid(&user));
    chown(folder.path(), Some(uid), Some(gid)).unwrap();
    let as_user = |program: &str, words: &str| {
        let mut all = Command::new("setpriv");
        all.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
        all.arg(programs.join(program)).args(words.split_whitespace());
        all
    };
    run(&mut as_user("initdb", &format!("-D {place}/data -U tester -A trust --no-sync"))).success();
    let words = format!("-D {place}/data -p {port} -h 127.0.0.1 -k {place} -F");
    let server = Server(Workload::start_command(&mut as_user("postgres", &words)));
    let there = format!("-h 127.0.0.1 -p {port} -U tester");
    wait_for("PostgreSQL", Duration::from_secs(20), || {
        run(&mut as_user("pgbench", &format!("-i -q -s 2 {there} postgres"))).status.success().then_some(())
    });
    let words = format!("{there} -c 2 -T 60 -b tpcb-like@1 -b select-only@3 postgres");
    let _load = Workload::start_command(&mut as_user("pgbench", &words));
    wait_for("its sessions", Duration::from_secs(20), || (family(server.0.pid()).len() >= 8).then_some(()));
    check(&server.0);
}

#[test]
fn the_c_plus_plus_compiler() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.cpp");
    fs::write(
        &source,
        "#include <map>\n#include <regex>\n#include <string>\nint main(int count, char **words) {\n\
         std::map<std::string, int> seen; std::regex word(\"(a|b)+\");\n\
         for (int i = 0; i < count; i++) if (std::regex_match(words[i], word)) seen[words[i]]++;\n\
         return seen.size(); }\n",
    )
    .unwrap();
    let mut compiler = Command::new("sh");
    compiler.args(["-c", "while :; do g++ -O2 -c -o /dev/null \"$0\"; done"]).arg(&source);
    check(&start_compiler(&mut compiler));
}

/// A compiler that is started again and again: those of its processes that are there already are named, too.
fn start_compiler(compiler: &mut Command) -> Workload {
    let compiler = Workload::start_command(compiler);
    wait_for("its children", Duration::from_secs(20), || (family(compiler.pid()).len() >= 2).then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    compiler
}

/// The Rust compiler at work, again and again, on a source in `folder`.
fn rust_compiler(folder: &Path) -> Command {
    let source = folder.join("source.rs");
    let function = |n: u32| {
        format!(
            "pub fn f{n}(words: &[&str]) -> std::collections::BTreeMap<String, usize> {{\n\
             words.iter().filter(|word| word.len() > {n}).map(|word| (word.repeat({n}), word.len())).collect() }}\n"
        )
    };
    fs::write(&source, (0..40).map(function).collect::<String>()).unwrap();
    let mut compiler = Command::new("sh");
    compiler.args(["-c", "while :; do rustc -O --crate-type=lib -o \"$0.rlib\" \"$0\"; done"]).arg(&source);
    compiler
}

#[test]
fn the_rust_compiler() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    check(&start_compiler(&mut rust_compiler(folder.path())));
}

#[test]
fn tables_stay_within_their_memory() {
    let _host = host();
    let folder = tempfile::tempdir().unwrap();
    let compiler = start_compiler(&mut rust_compiler(folder.path()));
    // Those of the compiler's two libraries are larger than that each.
    let recorded = record_family(&compiler, &["-v", "-d", "3s", "-F", "499", "--unwind-memory", "1"]);
    let all = stacks(&recorded.profile);
    assert!(percent(&all, |stack| stack.end == "no_table") > 50.0, "{}", text(&all));
    assert!(recorded.ended.stderr.contains("--unwind-memory"), "{}", recorded.ended.stderr);
}
