//! From a row of the kernel side to the series that it counts for.

use hostscope_wire::row::{CacheResult, Direction, Family, FileSystem, Operation, Role, Transport, Wait};

use super::series::{Delta, Labels, Symbol, Symbols};
use crate::collect::rows::RowDelta;
use crate::metrics::{self, Metric};
use crate::targets::devices::DeviceNames;
use crate::targets::syscalls::{self, SocketOperation, Waiting};

/// Turns rows into what they add to series; keeps the names that labels need.
#[derive(Default)]
pub struct Projector {
    /// Every label value.
    pub symbols: Symbols,
    devices: DeviceNames,
    /// Rows of a family that is not known: the kernel side is of another version.
    pub unknown: u64,
}

impl Projector {
    /// Hands `each` what the row adds to: metric, labels, delta. The first is the one that the row is named for; the
    /// others are other views of it.
    pub fn project(&mut self, row: &RowDelta, mut each: impl FnMut(&'static Metric, Labels, &Delta<'_>)) {
        let Some(family) = Family::from_number(row.key.family) else {
            self.unknown += 1;
            return;
        };
        let histogram = Delta { sum: row.sum, errors: 0, max_ns: row.max, buckets: Some(&row.buckets) };
        let counter = Delta::count(row.sum);
        let delta = if family.is_counter() { &counter } else { &histogram };
        let none = [Symbol::NONE; 2];
        match family {
            Family::OffCpu => self.off_cpu(row, &histogram, each),
            Family::RunQueue => each(&metrics::RUNQUEUE_LATENCY, none, delta),
            Family::Syscall => each(&metrics::SYSCALL_DURATION, self.syscall(row.key.detail), delta),
            Family::SyscallErrors => {
                let [call, _] = self.syscall(row.key.detail);
                each(&metrics::SYSCALL_ERRORS, [call, self.error(row.key.label)], delta);
                let errors = Delta { sum: 0, errors: row.sum, ..*delta };
                each(&metrics::SYSCALL_DURATION, [call, Symbol::NONE], &errors);
            }
            Family::TcpConnect => self.connect(row, &histogram, each),
            Family::TcpAcceptQueue => {
                each(&metrics::TCP_ACCEPT_QUEUE, [self.symbols.number(row.key.detail), Symbol::NONE], delta);
            }
            Family::TcpFirstByte => {
                let labels = [self.word(role(row.key.label)), self.symbols.number(row.key.detail)];
                each(&metrics::TCP_FIRST_BYTE, labels, delta);
            }
            Family::TcpRtt => each(&metrics::TCP_RTT, self.one(role(row.key.label)), delta),
            Family::TcpLifetime => each(&metrics::TCP_LIFETIME, self.one(role(row.key.label)), delta),
            Family::TcpRetransmits => each(&metrics::TCP_RETRANSMITS, none, delta),
            Family::TcpResets => each(&metrics::TCP_RESETS, self.one(direction(row.key.label)), delta),
            Family::NetworkBytes => {
                let labels = [direction(row.key.label & 1), transport(row.key.label >> 1)];
                each(&metrics::NETWORK_BYTES, labels.map(|label| self.word(label)), delta);
            }
            Family::BlockIo => each(&metrics::BLOCK_IO, self.device(row), delta),
            Family::BlockQueue => each(&metrics::BLOCK_IO_QUEUE, self.device(row), delta),
            Family::BlockErrors => {
                each(&metrics::BLOCK_IO_ERRORS, self.device(row), delta);
                let errors = Delta { sum: 0, errors: row.sum, ..*delta };
                each(&metrics::BLOCK_IO, self.device(row), &errors);
            }
            Family::BlockBytes => each(&metrics::BLOCK_IO_BYTES, self.device(row), delta),
            Family::FileSync => each(&metrics::FILE_SYNC, self.one(file_system(row.key.label)), delta),
            Family::PageCache => {
                each(&metrics::PAGE_CACHE_ACCESSES, self.one(cache_result(row.key.label)), delta);
            }
            Family::OomKills => each(&metrics::OOM_KILLS, none, delta),
            Family::DirectReclaim => each(&metrics::DIRECT_RECLAIM, none, delta),
            Family::SoftIrq => each(&metrics::SOFTIRQ, self.one(vector(row.key.label)), delta),
        }
    }

    /// Time off the CPU by reason; within a system call by call and by what it does with a socket; and how often.
    fn off_cpu(
        &mut self,
        row: &RowDelta,
        delta: &Delta<'_>,
        mut each: impl FnMut(&'static Metric, Labels, &Delta<'_>),
    ) {
        let is_preempted = row.key.label == Wait::Preempted as u8;
        let call = row.key.detail.checked_sub(1);
        each(&metrics::OFFCPU, self.one(reason(row.key.label, call)), delta);
        let kind = if is_preempted { "involuntary" } else { "voluntary" };
        each(&metrics::CONTEXT_SWITCHES, self.one(kind), &Delta::count(row.count()));
        let Some(call) = call.filter(|_| !is_preempted) else { return };
        each(&metrics::SYSCALL_BLOCKED, self.syscall(call), delta);
        if let Some(operation) = syscalls::socket_operation(call).map(SocketOperation::name) {
            each(&metrics::SOCKET_IO, self.one(operation), delta);
        }
    }

    fn connect(
        &mut self,
        row: &RowDelta,
        delta: &Delta<'_>,
        mut each: impl FnMut(&'static Metric, Labels, &Delta<'_>),
    ) {
        let errno = row.key.label;
        let count = row.count();
        let errors = if errno == 0 { 0 } else { count };
        each(&metrics::TCP_CONNECT, self.one(outcome(errno)), &Delta { errors, ..*delta });
        if errno != 0 {
            each(&metrics::TCP_CONNECT_FAILURES, [self.error(errno), Symbol::NONE], &Delta::count(count));
        }
    }

    fn word(&mut self, text: &str) -> Symbol {
        self.symbols.intern(text)
    }

    fn one(&mut self, text: &str) -> Labels {
        [self.word(text), Symbol::NONE]
    }

    /// A call that is newer than the table has its number for a name.
    fn syscall(&mut self, number: u16) -> Labels {
        let call = match syscalls::name(number) {
            Some(name) => self.word(name),
            None => self.symbols.number(number),
        };
        [call, Symbol::NONE]
    }

    fn error(&mut self, errno: u8) -> Symbol {
        match syscalls::error_name(errno.into()) {
            Some(name) => self.word(name),
            None => self.symbols.number(errno.into()),
        }
    }

    fn device(&mut self, row: &RowDelta) -> Labels {
        let device = self.devices.name(row.key.subject);
        [self.word(&device), self.word(operation(row.key.label))]
    }
}

/// Why a thread is off the CPU. The kernel's own account of waiting for a device goes before what the call says.
fn reason(wait: u8, call: Option<u16>) -> &'static str {
    const PREEMPTED: u8 = Wait::Preempted as u8;
    const IO_WAIT: u8 = Wait::IoWait as u8;
    match (wait, call.map(syscalls::waiting)) {
        (PREEMPTED, _) => "preempted",
        (IO_WAIT, _) | (_, Some(Waiting::Io)) => "io",
        (_, Some(Waiting::Lock)) => "lock",
        (_, Some(Waiting::Sleep)) => "sleep",
        (_, Some(Waiting::Other) | None) => "other",
    }
}

fn outcome(errno: u8) -> &'static str {
    match i32::from(errno) {
        0 => "established",
        libc::ECONNREFUSED => "refused",
        libc::ETIMEDOUT => "timeout",
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN => "unreachable",
        libc::ECONNRESET => "reset",
        _ => "other",
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $function:ident: $type:ident { $($variant:ident = $word:literal),* } else $other:literal) => {
        $(#[$doc])*
        fn $function(number: u8) -> &'static str {
            match number {
                $(number if number == $type::$variant as u8 => $word,)*
                _ => $other,
            }
        }
    };
}

words! { role: Role { Client = "client", Server = "server" } else "unknown" }
words! { direction: Direction { Sent = "sent", Received = "received" } else "unknown" }
words! { transport: Transport { Tcp = "tcp", Udp = "udp", Unix = "unix" } else "other" }
words! { operation: Operation { Read = "read", Write = "write", Flush = "flush", Discard = "discard" } else "other" }
words! { file_system: FileSystem { Ext4 = "ext4", F2fs = "f2fs" } else "other" }
words! { cache_result: CacheResult { Hit = "hit", Miss = "miss" } else "unknown" }

/// Names of soft interrupts as `/proc/softirqs` has them, in its order (`include/linux/interrupt.h`).
fn vector(number: u8) -> &'static str {
    const VECTORS: [&str; 10] =
        ["hi", "timer", "net_tx", "net_rx", "block", "irq_poll", "tasklet", "sched", "hrtimer", "rcu"];
    VECTORS.get(usize::from(number)).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use hostscope_wire::histogram::BUCKETS;
    use hostscope_wire::row::RowKey;

    use super::*;

    fn row(family: Family, label: u8, detail: u16) -> RowDelta {
        let mut buckets = [0; BUCKETS];
        if !family.is_counter() {
            buckets[3] = 4;
        }
        let key = RowKey { start_time_ns: 1, subject: 7, family: family as u8, label, detail };
        RowDelta { key, sum: 20_000, max: 9_000, buckets }
    }

    fn project(row: &RowDelta) -> Vec<String> {
        let mut projector = Projector::default();
        let mut found = Vec::new();
        projector.project(row, |metric, labels, delta| {
            let count = delta.buckets.map(|buckets| buckets.iter().sum::<u64>());
            found.push((metric, labels, count, delta.sum, delta.errors));
        });
        let text = |symbol| projector.symbols.text(symbol);
        let print = |(metric, labels, count, sum, errors): (&Metric, Labels, Option<u64>, u64, u64)| {
            let labels: Vec<_> = labels.map(text).iter().filter(|text| !text.is_empty()).cloned().collect();
            assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
            let count = count.map_or_else(|| sum.to_string(), |count| format!("{count}x"));
            format!("{}[{}] {count} !{errors}", metric.short_name(), labels.join(","))
        };
        found.into_iter().map(print).collect()
    }

    fn off_cpu(wait: Wait, call: Option<u32>) -> Vec<String> {
        project(&row(Family::OffCpu, wait as u8, call.map_or(0, |call| call as u16 + 1)))
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn time_off_the_cpu_has_its_reason() {
        let (receive, futex, openat) = (45, 202, 257);
        assert_eq!(
            off_cpu(Wait::Interruptible, Some(receive)),
            [
                "offcpu[io] 4x !0",
                "context_switches[voluntary] 4 !0",
                "syscall_blocked[recvfrom] 4x !0",
                "socket_io_duration[receive] 4x !0"
            ]
        );
        assert_eq!(
            off_cpu(Wait::Interruptible, Some(futex)),
            ["offcpu[lock] 4x !0", "context_switches[voluntary] 4 !0", "syscall_blocked[futex] 4x !0"]
        );
        assert_eq!(
            off_cpu(Wait::Preempted, Some(futex)),
            ["offcpu[preempted] 4x !0", "context_switches[involuntary] 4 !0"]
        );
        assert_eq!(off_cpu(Wait::IoWait, Some(openat))[0], "offcpu[io] 4x !0");
        // read is number 0, which as a detail is 1: not to be taken for no call.
        assert_eq!(off_cpu(Wait::Interruptible, Some(0))[2], "syscall_blocked[read] 4x !0");
        assert_eq!(
            off_cpu(Wait::Uninterruptible, None),
            ["offcpu[other] 4x !0", "context_switches[voluntary] 4 !0"]
        );
    }

    #[test]
    fn connects_are_told_by_outcome() {
        assert_eq!(project(&row(Family::TcpConnect, 0, 0)), ["tcp_connect_duration[established] 4x !0"]);
        assert_eq!(
            project(&row(Family::TcpConnect, libc::ECONNREFUSED as u8, 0)),
            ["tcp_connect_duration[refused] 4x !4", "tcp_connect_failures[ECONNREFUSED] 4 !0"]
        );
        assert_eq!(outcome(libc::ENETUNREACH as u8), "unreachable");
        assert_eq!((outcome(libc::ECONNRESET as u8), outcome(200)), ("reset", "other"));
    }

    #[test]
    fn every_family_has_series_whatever_its_labels_are() {
        for family in Family::ALL {
            for (label, detail) in [(0, 0), (1, 443), (255, u16::MAX)] {
                assert!(!project(&row(family, label, detail)).is_empty(), "{family:?}");
            }
        }
        let sent_by_unix = Direction::Sent as u8 + 2 * Transport::Unix as u8;
        assert_eq!(
            project(&row(Family::NetworkBytes, sent_by_unix, 0)),
            ["network_bytes[sent,unix] 20000 !0"]
        );
        assert_eq!(project(&row(Family::SoftIrq, 3, 0)), ["softirq_duration[net_rx] 4x !0"]);
        let unknown =
            RowDelta { key: RowKey { family: 99, ..RowKey::default() }, ..row(Family::SoftIrq, 0, 0) };
        assert!(project(&unknown).is_empty());
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn failed_calls_are_errors_of_their_call() {
        assert_eq!(
            project(&row(Family::SyscallErrors, libc::ENOENT as u8, 257)),
            ["syscall_errors[openat,ENOENT] 20000 !0", "syscall_duration[openat] 0 !20000"]
        );
    }
}
