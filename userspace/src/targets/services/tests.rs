//! Processes that live, end and give their ids away; names that are hostile.

use hostscope_wire::event::EventHeader;

use super::*;

/// A `/proc` of its own.
struct FakeProc(tempfile::TempDir);

impl FakeProc {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn services(&self) -> Services {
        Services::new(self.0.path(), Containers::new(self.0.path()))
    }

    fn add(&self, pid: u32, start_ticks: u64, cgroup: &str, exe: &str) {
        let folder = self.0.path().join(pid.to_string());
        self.remove(pid);
        std::fs::create_dir(&folder).expect("a folder");
        let stat = format!("{pid} (comm{pid}) S 1 1 1 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 {start_ticks} 0 0");
        std::fs::write(folder.join("stat"), stat).expect("stat");
        std::fs::write(folder.join("cgroup"), cgroup).expect("cgroup");
        std::os::unix::fs::symlink(exe, folder.join("exe")).expect("exe");
    }

    fn remove(&self, pid: u32) {
        let _ = std::fs::remove_dir_all(self.0.path().join(pid.to_string()));
    }
}

fn record(tgid: u32, parent_tgid: u32, start_ticks: u64, name: &str) -> ProcessRecord {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    let header = EventHeader { time_ns: 1_000, ..EventHeader::default() };
    ProcessRecord {
        header,
        start_time_ns: start_ticks * TICK_NS + 7,
        tgid,
        parent_tgid,
        comm,
        ..ProcessRecord::default()
    }
}

fn name(services: &mut Services, pid: u32, start_ticks: u64) -> String {
    services.service_of(pid, start_ticks * TICK_NS + 7).to_string()
}

#[test]
fn a_service_is_a_unit_else_a_container_else_a_program() {
    let proc = FakeProc::new();
    let id = "ab".repeat(32);
    proc.add(10, 5, "0::/system.slice/nginx.service\n", "/usr/sbin/nginx");
    proc.add(11, 5, &format!("0::/docker/{id}\n"), "/bin/x");
    proc.add(12, 5, "0::/user.slice/session-3.scope\n", "/usr/bin/python3.11 (deleted)");
    proc.add(13, 5, "", "none");
    std::fs::remove_file(proc.0.path().join("13/exe")).expect("a link");
    let mut services = proc.services();
    assert_eq!(services.scan(0).expect("a folder"), 4);
    let names = [10, 11, 12, 13, 0].map(|pid| name(&mut services, pid, 5));
    assert_eq!(names, ["nginx.service", "abababababab", "python3.11", "comm13", "kernel"]);
    let cgroup = services.cgroups().find(|cgroup| &*cgroup.service == "nginx.service").expect("a cgroup");
    assert_eq!(cgroup.unified_path.as_deref(), Some("system.slice/nginx.service".as_ref()));
    assert_eq!(services.overflow, 0);
}

#[test]
fn a_child_is_its_parents_until_it_runs_a_program() {
    let proc = FakeProc::new();
    proc.add(10, 5, "0::/system.slice/nginx.service\n", "/usr/sbin/nginx");
    proc.add(20, 5, "0::/\n", "/bin/bash");
    let mut services = proc.services();
    services.scan(0).expect("a folder");
    services.on_fork(&record(11, 10, 6, "nginx"));
    services.on_fork(&record(21, 20, 6, "bash"));
    assert_eq!(
        (name(&mut services, 11, 6), name(&mut services, 21, 6)),
        ("nginx.service".into(), "bash".into())
    );
    // Both ran a program and ended before anybody could look.
    services.on_exec(&record(11, 0, 6, "logrotate"));
    services.on_exec(&record(21, 0, 6, "ls"));
    assert_eq!(
        (name(&mut services, 11, 6), name(&mut services, 21, 6)),
        ("nginx.service".into(), "ls".into())
    );
}

#[test]
fn an_ended_process_is_found_for_a_grace_time_though_its_pid_is_taken() {
    let proc = FakeProc::new();
    let mut services = proc.services();
    services.on_fork(&record(10, 1, 5, "first"));
    services.on_exit(&record(10, 0, 5, "first"));
    services.on_fork(&record(10, 1, 9, "second"));
    assert_eq!((name(&mut services, 10, 5), name(&mut services, 10, 9)), ("first".into(), "second".into()));
    services.expire(1_000 + GRACE_NS - 1);
    assert_eq!(services.len(), 2);
    services.expire(1_000 + GRACE_NS);
    assert_eq!((services.len(), name(&mut services, 10, 9)), (1, "second".into()));
    // An end that was told late does not end the one that has the pid now.
    services.on_exit(&record(10, 0, 5, "first"));
    assert_eq!(services.living().count(), 1);
    // Nobody is left to tell of the first; and it is asked for once only.
    assert_eq!((name(&mut services, 10, 5), name(&mut services, 10, 5)), (OTHER.into(), OTHER.into()));
    assert_eq!(services.overflow, 1);
    assert_eq!(services.living().map(|(key, _)| key.start_ticks).collect::<Vec<_>>(), [9]);
}

#[test]
fn what_is_gone_from_proc_has_ended() {
    let proc = FakeProc::new();
    proc.add(10, 5, "0::/\n", "/bin/a");
    let mut services = proc.services();
    services.scan(0).expect("a folder");
    proc.add(10, 8, "0::/\n", "/bin/b");
    services.scan(1).expect("a folder");
    assert_eq!((name(&mut services, 10, 5), name(&mut services, 10, 8)), ("a".into(), "b".into()));
    proc.remove(10);
    services.scan(2).expect("a folder");
    assert_eq!(services.living().count(), 0);
    services.expire(GRACE_NS + 2);
    assert!(services.is_empty() && services.names.is_empty());
}

#[test]
fn tables_are_bounded() {
    let proc = FakeProc::new();
    let mut services = proc.services();
    for pid in 1..=MAX_PROCESSES as u32 + 100 {
        services.on_fork(&record(pid, 0, 5, &format!("n{pid}")));
    }
    assert_eq!((services.len(), services.names.len()), (MAX_PROCESSES, MAX_SERVICES));
    assert!(services.overflow > 100);
    assert_eq!(name(&mut services, MAX_SERVICES as u32 + 1, 5), OTHER);
    // Ended ones make room.
    services.on_exit(&record(1, 0, 5, "n1"));
    services.on_fork(&record(9_000_000, 2, 5, "late"));
    assert_eq!(name(&mut services, 9_000_000, 5), "n2");
}

#[test]
fn names_are_safe() {
    let safe = |name: &[u8]| safe_name(name);
    assert_eq!(safe(b"/usr/bin/a b").as_deref(), Some("a b"));
    assert_eq!(safe(b"~other").as_deref(), Some("_other"));
    assert_eq!(safe(b"a\nb\x1b[31m").as_deref(), Some("a_b_[31m"));
    assert_eq!((safe(b""), safe(b"/"), safe(b"  ")), (None, None, None));
    for hostile in ["é".repeat(300).into_bytes(), vec![0xff; 300], vec![b'x'; 300]] {
        let name = safe(&hostile).expect("a name");
        assert!(name.len() <= MAX_NAME_BYTES && !name.is_empty());
    }
}

#[test]
fn this_host_has_services() {
    let mut services = Services::default();
    assert!(services.scan(0).expect("proc") > 1);
    assert!(services.living().all(|(_, process)| !process.service.is_empty()));
}
