//! What `/proc` and cgroups tell of the host as a whole: pressure, TCP sockets, throttling by CPU quotas.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::proc_fs::ProcReader;
use super::services::Services;
use crate::error::{Error, Result};

/// Resources that have a file below `/proc/pressure`: `irq` since Linux 6.1 and where it is configured, the others since 4.20.
const RESOURCES: [&str; 4] = ["cpu", "io", "memory", "irq"];

/// Reads the host's accounts.
pub struct Host {
    proc: PathBuf,
    reader: ProcReader,
    /// Where the unified hierarchy and that of the controller `cpu` are mounted.
    unified: Option<PathBuf>,
    cpu: Option<PathBuf>,
    /// What each cgroup was throttled for when it was last read, in nanoseconds.
    throttled: HashMap<PathBuf, u64>,
    is_first: bool,
}

impl Host {
    /// Reads below `proc`, which is `/proc` outside of tests.
    #[must_use]
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        let (proc, mut reader) = (proc.into(), ProcReader::new());
        let mounts = reader.read(&proc.join("self/mounts")).unwrap_or_default();
        let (unified, cpu) = cgroup_mounts(&String::from_utf8_lossy(mounts));
        Self { proc, reader, unified, cpu, throttled: HashMap::new(), is_first: true }
    }

    /// Hands `each` resource, kind (`some` or `full`) and the seconds stalled since boot.
    ///
    /// # Errors
    /// The kernel keeps no account of pressure.
    pub fn pressure(&mut self, mut each: impl FnMut(&'static str, &'static str, f64)) -> Result<()> {
        let mut reason = None;
        let mut found = false;
        for resource in RESOURCES {
            let path = self.proc.join("pressure").join(resource);
            match self.reader.read(&path) {
                Ok(text) => {
                    parse_pressure(&String::from_utf8_lossy(text), |kind, seconds| {
                        found = true;
                        each(resource, kind, seconds);
                    });
                }
                Err(error) if reason.is_none() => reason = Some(format!("{}: {error}", path.display())),
                Err(_) => {}
            }
        }
        if found {
            return Ok(());
        }
        Err(Error::kernel(
            format!("pressure is not known: {}", reason.unwrap_or_else(|| "the files are empty".into())),
            "boot a kernel with CONFIG_PSI=y, with psi=1 on its command line",
        ))
    }

    /// Hands `each` the number of TCP sockets by state, of hostscope's own network namespace.
    ///
    /// From the kernel's own counters, in three small files whatever the number of sockets: `/proc/net/tcp` and `sock_diag`
    /// both walk every socket. They tell four states apart: `established` (with those that the
    /// peer has closed), `time_wait`, `orphan` (no process holds it any more), `other` (listening, connecting, closing).
    pub fn tcp_sockets(&mut self, mut each: impl FnMut(&'static str, u64)) {
        let mut read = |name: &str| {
            let text = self.reader.read(&self.proc.join("net").join(name)).unwrap_or_default();
            String::from_utf8_lossy(text).into_owned()
        };
        let (snmp, sockstat, sockstat6) = (read("snmp"), read("sockstat"), read("sockstat6"));
        let of = |text: &str, line: &str, word: &str| sockstat_value(text, line, word);
        let (Some(established), Some(in_use)) = (established(&snmp), of(&sockstat, "TCP:", "inuse")) else {
            return;
        };
        let in_use = in_use.saturating_add(of(&sockstat6, "TCP6:", "inuse").unwrap_or(0));
        each("established", established);
        each("time_wait", of(&sockstat, "TCP:", "tw").unwrap_or(0));
        each("orphan", of(&sockstat, "TCP:", "orphan").unwrap_or(0));
        each("other", in_use.saturating_sub(established));
    }

    /// Hands `each` service the nanoseconds that the CPU quota of one of its cgroups has held it back since the last
    /// reading: one small file a cgroup.
    pub fn throttled(&mut self, services: &Services, mut each: impl FnMut(&Arc<str>, u64)) {
        let mut now = HashMap::with_capacity(self.throttled.len());
        for cgroup in services.cgroups() {
            let place =
                |mount: &Option<PathBuf>, path: &Option<PathBuf>| Some(mount.as_ref()?.join(path.as_ref()?));
            let places = [place(&self.unified, &cgroup.unified_path), place(&self.cpu, &cgroup.cpu_path)];
            for folder in places.into_iter().flatten() {
                let Some(throttled_ns) = self.throttled_ns(&folder) else { continue };
                // A cgroup that is new since counting began has been throttled for nothing before.
                let before = if self.is_first { throttled_ns } else { 0 };
                let last = self.throttled.get(&folder).copied().unwrap_or(before);
                // One that was made anew under the same name begins at zero.
                let added = throttled_ns.checked_sub(last).unwrap_or(throttled_ns);
                now.insert(folder, throttled_ns);
                if added != 0 {
                    each(&cgroup.service, added);
                }
            }
        }
        self.throttled = now;
        self.is_first = false;
    }

    fn throttled_ns(&mut self, folder: &Path) -> Option<u64> {
        parse_throttled(&String::from_utf8_lossy(self.reader.read(&folder.join("cpu.stat")).ok()?))
    }
}

/// Where `/proc/self/mounts` says that the unified hierarchy is, and version 1's with the controller `cpu`.
fn cgroup_mounts(mounts: &str) -> (Option<PathBuf>, Option<PathBuf>) {
    let (mut unified, mut cpu) = (None, None);
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(folder), Some(kind), Some(options)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        match kind {
            "cgroup2" => unified = unified.or(Some(folder.into())),
            "cgroup" if options.split(',').any(|option| option == "cpu") => cpu = cpu.or(Some(folder.into())),
            _ => {}
        }
    }
    (unified, cpu)
}

/// Lines such as `some avg10=0.00 avg60=0.00 avg300=0.00 total=31630523`, in microseconds.
fn parse_pressure(text: &str, mut each: impl FnMut(&'static str, f64)) {
    for line in text.lines() {
        let kind = match line.split(' ').next() {
            Some("some") => "some",
            Some("full") => "full",
            _ => continue,
        };
        let total = line.split(' ').find_map(|word| word.strip_prefix("total="));
        if let Some(microseconds) = total.and_then(|total| total.parse::<u64>().ok()) {
            each(kind, microseconds as f64 / 1e6);
        }
    }
}

/// `CurrEstab` of `/proc/net/snmp`, which names its columns in one line and fills them in the next.
fn established(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let column = names.split(' ').position(|name| name == "CurrEstab")?;
    values.split(' ').nth(column)?.parse().ok()
}

/// The number after `word` in the line that begins with `line`.
fn sockstat_value(text: &str, line: &str, word: &str) -> Option<u64> {
    let mut words = text.lines().find(|text| text.starts_with(line))?.split(' ');
    words.find(|&found| found == word)?;
    words.next()?.parse().ok()
}

/// `throttled_usec` of version 2 or `throttled_time`, in nanoseconds, of version 1.
fn parse_throttled(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        let unit_ns = match name {
            "throttled_usec" => 1_000,
            "throttled_time" => 1,
            _ => return None,
        };
        value.trim().parse::<u64>().ok()?.checked_mul(unit_ns)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::containers::Containers;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            std::fs::write(path, text).expect("a file");
        }
        root
    }

    #[test]
    fn pressure_is_read_or_its_absence_explained() {
        let root = folder(&[
            ("pressure/cpu", "some avg10=0.02 avg60=0.19 avg300=0.91 total=31630523\nfull avg10=0 total=x\n"),
            ("pressure/io", "full avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n"),
        ]);
        let mut all = Vec::new();
        let each = |resource, kind, seconds: f64| all.push((resource, kind, (seconds * 1e6).round() as u64));
        Host::new(root.path()).pressure(each).expect("pressure");
        assert_eq!(all, [("cpu", "some", 31_630_523), ("io", "full", 1_000_000)]);
        let error = Host::new("/no/such/folder").pressure(|_, _, _| {}).expect_err("none");
        assert!(
            error.what.contains("/no/such/folder/pressure/cpu") && error.mend.contains("psi=1"),
            "{error}"
        );
    }

    #[test]
    fn sockets_are_counted_by_state() {
        let root = folder(&[
            ("net/snmp", "Ip: A\nIp: 1\nTcp: RtoMin CurrEstab InSegs\nTcp: 200 7 9\n"),
            ("net/sockstat", "sockets: used 11\nTCP: inuse 10 orphan 2 tw 3 alloc 12 mem 1\n"),
            ("net/sockstat6", "TCP6: inuse 4\n"),
        ]);
        let mut all = Vec::new();
        Host::new(root.path()).tcp_sockets(|state, count| all.push((state, count)));
        assert_eq!(all, [("established", 7), ("time_wait", 3), ("orphan", 2), ("other", 7)]);
        Host::new("/no/such/folder").tcp_sockets(|state, _| panic!("{state}"));
        let mut states = 0;
        Host::new("/proc").tcp_sockets(|_, _| states += 1);
        assert_eq!(states, 4);
    }

    #[test]
    fn throttling_counts_for_the_service() {
        let root = folder(&[
            ("7/stat", "7 (a) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0"),
            ("7/cgroup", "1:cpu,cpuacct:/system.slice/a.service/x\n0::/\n"),
            ("cpu/system.slice/a.service/cpu.stat", "nr_throttled 1\nthrottled_time 500\n"),
        ]);
        let mounts = format!("cgroup {}/cpu cgroup rw,cpu,cpuacct 0 0\n", root.path().display());
        std::fs::create_dir(root.path().join("self")).expect("a folder");
        std::fs::write(root.path().join("self/mounts"), mounts).expect("mounts");
        let mut services = Services::new(root.path(), Containers::new(root.path()));
        services.scan(0).expect("a folder");
        let mut host = Host::new(root.path());
        let added = |host: &mut Host, throttled_ns: u64| {
            let text = format!("throttled_time {throttled_ns}\n");
            std::fs::write(root.path().join("cpu/system.slice/a.service/cpu.stat"), text).expect("cpu.stat");
            let mut all = Vec::new();
            host.throttled(&services, |service, added_ns| all.push((service.to_string(), added_ns)));
            all
        };
        assert_eq!(added(&mut host, 500), []);
        assert_eq!(added(&mut host, 800), [("a.service".to_owned(), 300)]);
        assert_eq!(added(&mut host, 50), [("a.service".to_owned(), 50)]);
        assert_eq!(parse_throttled("nr_periods 1\nthrottled_usec 7\n"), Some(7_000));
        assert_eq!((parse_throttled("throttled_usec x\n"), parse_throttled("")), (None, None));
    }
}
