//! The life of one capture: what is watched, the loop that drains, and the end.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

use hostscope_wire::limits::SENT_ENTRIES;
use hostscope_wire::stack::{StackEnd, StackHeader};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use super::command::StoppedCommand;
use super::{Captured, Progress, Stop, Summary, assemble, cgroup};
use crate::aggregate::Window;
use crate::collect::{Collector, Event, MappingEvent, RingRecord, StackFrames};
use crate::config::{CaptureSettings, Target};
use crate::error::{Error, Result};
use crate::load::preflight::{self, State};
use crate::load::{Filter, Kernel, LoadSettings};
use crate::targets::tables::{TableFigures, Tables};
use crate::targets::{ProcessId, Processes};

/// How often counts are read. Longer saves little (a drain costs about 0.1 ms), shorter shows progress no better.
const DRAIN_INTERVAL: Duration = Duration::from_secs(1);

/// After a wake-up by new mappings, how long to wait for more of the same program's start: its file and its loader come
/// within 0.2 ms of the exec, and its first samples need them.
const SETTLE: Duration = Duration::from_micros(300);

/// The least time between two such readings: bounds the wake-ups of a host that starts programs all the time to 1,000 a
/// second, at some 20 µs each.
const LEAST_BETWEEN: Duration = Duration::from_millis(1);

/// How long sampling waits for the unwind tables of chosen processes: nothing is missed meanwhile that was asked for.
const TABLES_WAIT: Duration = Duration::from_secs(2);

/// A capture under way.
pub struct Session {
    kernel: Kernel,
    command: Option<StoppedCommand>,
    command_ended: bool,
    tracked: Tracked,
    collector: Collector,
    began: Instant,
    sampling: Option<Sampling>,
    duration: Option<Duration>,
    losses_before: u64,
}

/// What the records add up to.
struct Tracked {
    processes: Processes,
    tables: Tables,
    window: Window,
    /// The targets still alive, where there is a set of them.
    alive: Option<HashSet<u32>>,
    samples: u64,
    stacks_since_clear: u32,
    mappings_are_recorded: bool,
    /// Targets whose end was told in this interval, and in the one before: only then the kernel is done with them.
    ended: [Vec<u32>; 2],
    /// Mapping records that the kernel had no room for.
    mappings_lost: u64,
    first_stack_ns: Option<u64>,
}

/// When sampling began, in every clock that is needed.
#[derive(Clone, Copy)]
struct Sampling {
    instant: Instant,
    monotonic_ns: u64,
    unix_ns: u64,
    /// From the session's beginning.
    startup: Duration,
    ended: Option<Instant>,
}

impl Session {
    /// Loads what is needed for `settings` and learns the processes there are; samples nothing yet.
    ///
    /// # Errors
    /// The privilege or the kernel does not suffice, or a target does not exist.
    pub fn begin(settings: &CaptureSettings) -> Result<Self> {
        let began = Instant::now();
        let filter = match &settings.target {
            Target::Host => Filter::Host,
            Target::Cgroup(path) => cgroup::filter(path)?,
            Target::Pids(pids) => {
                pids.iter().try_for_each(|&pid| check_exists(pid))?;
                Filter::Processes
            }
            Target::Command(_) => Filter::Processes,
        };
        let mut kernel = Kernel::load(&LoadSettings {
            filter,
            include_idle: settings.include_idle,
            frequency_hertz: settings.frequency_hertz,
            drain_interval_ms: DRAIN_INTERVAL.as_millis() as u32,
        })?;
        tracing::debug!(elapsed = ?began.elapsed(), "loaded");
        let mut processes = Processes::new(filter != Filter::Processes);
        let tables = kernel.unwind_tables.take().ok_or_else(|| {
            Error::failed("the unwind tables are in use", "this is a fault of hostscope: report it")
        })?;
        let mut tables = Tables::new(tables, &settings.unwind, began);
        let mut command = None;
        let alive = match &settings.target {
            Target::Host | Target::Cgroup(_) => {
                let found = processes.scan_host().map_err(|error| {
                    Error::failed(
                        format!("cannot read /proc: {error}"),
                        "mount procfs: mount -t proc proc /proc",
                    )
                })?;
                tracing::debug!(elapsed = ?began.elapsed(), processes = found, "scanned");
                None
            }
            Target::Pids(pids) => Some(watch(pids, &mut kernel, &mut processes)?),
            Target::Command(words) => {
                let started = command.insert(StoppedCommand::start(words)?);
                Some(watch(&[started.pid], &mut kernel, &mut processes)?)
            }
        };
        tables.publish(&mut processes, &mut kernel.unwind_mappings);
        tables.wait(if filter == Filter::Processes { TABLES_WAIT } else { settings.unwind.wait_of_host });
        tracing::debug!(elapsed = ?began.elapsed(), "published");
        let mappings_are_recorded = !kernel.mapping_rings.is_empty();
        Ok(Self {
            kernel,
            command,
            command_ended: false,
            tracked: Tracked {
                processes,
                tables,
                window: Window::default(),
                alive,
                samples: 0,
                stacks_since_clear: 0,
                mappings_are_recorded,
                ended: [Vec::new(), Vec::new()],
                mappings_lost: 0,
                first_stack_ns: None,
            },
            collector: Collector::default(),
            began,
            sampling: None,
            duration: settings.duration,
            losses_before: 0,
        })
    }

    /// Samples until the duration is over, the targets have ended or `stop` says so.
    ///
    /// # Errors
    /// No CPU can be sampled, or the kernel refuses to give out what was counted.
    pub fn sample(&mut self, stop: &Stop, progress: &mut dyn FnMut(Progress)) -> Result<()> {
        // Only now, since the command must not inherit it.
        raise_priority();
        self.kernel.follow_cpus()?;
        let sampling = self.begin_sampling();
        if let Some(command) = &mut self.command {
            command.go();
        }
        let end = self.duration.map(|duration| sampling.instant + duration);
        let mut next_turn = sampling.instant + DRAIN_INTERVAL;
        let mut drained = sampling.instant;
        loop {
            let until = end.map_or(next_turn, |end| end.min(next_turn));
            let woken = self.wait(stop, until);
            self.command_ended |= woken.command_ended;
            if woken.stopped || woken.command_ended || end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
            if Instant::now() >= next_turn {
                next_turn += DRAIN_INTERVAL;
                self.turn()?;
                progress(Progress { elapsed: sampling.instant.elapsed(), samples: self.tracked.samples });
            } else {
                let now = Instant::now();
                let rest = LEAST_BETWEEN.saturating_sub(now - drained).max(SETTLE);
                let rest = rest.min(until.saturating_duration_since(now));
                std::thread::sleep(rest);
                self.drain();
                drained = Instant::now();
            }
            if self.targets_have_ended() {
                break;
            }
        }
        self.kernel.stop_sampling();
        if let Some(sampling) = &mut self.sampling {
            sampling.ended = Some(Instant::now());
        }
        self.drain();
        let (counts, tracked) = (&mut self.kernel.counts, &mut self.tracked);
        counts.finish(|key, &count| tracked.count(key, count)).map_err(|error| counts_unreadable(&error))
    }

    /// Names everything and makes the profile.
    ///
    /// # Errors
    /// The command could not be executed.
    pub fn finish(mut self, settings: &CaptureSettings) -> Result<Captured> {
        if self.command_ended
            && let Some(command) = &mut self.command
        {
            command.wait()?;
        }
        let sampling = self.sampling.unwrap_or_else(|| self.begin_sampling());
        let ended = sampling.ended.unwrap_or_else(Instant::now);
        let duration = ended - sampling.instant;
        let losses =
            assemble::losses(&self.kernel, &self.tracked.window, self.tracked.mappings_lost, &self.collector);
        let capture = assemble::Capture {
            settings,
            event: self.kernel.event,
            start_unix_ns: sampling.unix_ns,
            duration,
            losses,
        };
        let assembled = assemble::profile(&capture, &self.tracked.window, &self.tracked.processes);
        let mut summary = Summary {
            duration,
            startup: sampling.startup,
            first_sample: self
                .tracked
                .first_stack_ns
                .map(|first| Duration::from_nanos(first.saturating_sub(sampling.monotonic_ns))),
            finish: ended.elapsed(),
            tables: self.tracked.tables.figures(),
            ..assembled.summary
        };
        let namespace = preflight::pid_namespace_finding();
        if namespace.state != State::On {
            let finding = format!("{}: {}; {}", namespace.name, namespace.detail, namespace.mend);
            summary.findings.insert(0, finding);
        }
        summary.findings.extend(table_findings(&summary.tables, settings.unwind.memory_bytes));
        if self.kernel.unwind_mappings.full > 0 {
            summary.findings.push(format!(
                "{} changes of mappings found no room in the kernel: those processes have short stacks",
                self.kernel.unwind_mappings.full
            ));
        }
        let degraded = self.kernel.probes.iter().filter(|probe| probe.state != State::On);
        summary.findings.extend(degraded.map(|probe| format!("probe {}: {}", probe.spec.name, probe.reason)));
        Ok(Captured { profile: assembled.profile, summary, command: self.command.take() })
    }

    fn begin_sampling(&mut self) -> Sampling {
        let now = clock_gettime(ClockId::Monotonic);
        let sampling = Sampling {
            instant: Instant::now(),
            monotonic_ns: now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64,
            unix_ns: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_nanos() as u64),
            startup: self.began.elapsed(),
            ended: None,
        };
        self.sampling = Some(sampling);
        sampling
    }

    /// Waits until `until` or something happens.
    fn wait(&mut self, stop: &Stop, until: Instant) -> Woken {
        let mut fds = vec![PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN)];
        if let Some(command) = &self.command {
            fds.push(PollFd::from_borrowed_fd(command.ended(), PollFlags::IN));
        }
        fds.push(PollFd::from_borrowed_fd(self.kernel.events.as_fd(), PollFlags::IN));
        fds.extend(
            self.kernel
                .mapping_rings
                .iter()
                .map(|ring| PollFd::from_borrowed_fd(ring.as_fd(), PollFlags::IN)),
        );
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        // Interrupted by a signal: its handler has written to `stop`, which the next round sees.
        let _ = poll(&mut fds, Some(&timeout));
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Woken { stopped: ready(0), command_ended: self.command.is_some() && ready(1) }
    }

    /// Once an interval: counts, records, CPUs that came, and the kernel's memory of stacks.
    fn turn(&mut self) -> Result<()> {
        self.tracked.processes.begin_interval();
        self.kernel.unwind_mappings.begin_interval();
        self.drain();
        let (counts, tracked) = (&mut self.kernel.counts, &mut self.tracked);
        counts.turn(|key, &count| tracked.count(key, count)).map_err(|error| counts_unreadable(&error))?;
        self.tracked.tables.begin_interval(self.kernel.counts.interval());
        // At half, so that it does not fill up before the next turn.
        if self.tracked.stacks_since_clear > SENT_ENTRIES / 2 {
            self.tracked.stacks_since_clear = 0;
            self.kernel.sent.clear().map_err(|error| counts_unreadable(&error))?;
        }
        self.tracked.ended[1].drain(..).for_each(|pid| self.kernel.targets.remove(pid));
        self.tracked.ended.swap(0, 1);
        self.warn_of_losses();
        self.kernel.follow_cpus()
    }

    /// Everything that the rings hold.
    fn drain(&mut self) {
        let (kernel, tracked) = (&mut self.kernel, &mut self.tracked);
        self.collector.drain(kernel, |event| tracked.see(event));
        tracked.tables.publish(&mut tracked.processes, &mut kernel.unwind_mappings);
        kernel.flush_log();
    }

    fn targets_have_ended(&mut self) -> bool {
        let Some(alive) = &mut self.tracked.alive else { return false };
        if self.command.is_some() {
            return false; // its own end is what counts, and it is waited for
        }
        // The record of a target's end may be lost, or its probe off: ask.
        if !alive.is_empty() && alive.len() <= 64 {
            alive.retain(|&pid| rustix::process::Pid::from_raw(pid as i32).is_some_and(is_alive));
        }
        alive.is_empty()
    }

    fn warn_of_losses(&mut self) {
        let lost: u64 = self
            .kernel
            .losses
            .read()
            .iter()
            .filter(|(reason, _)| reason.loses_sample())
            .map(|(_, count)| count)
            .sum();
        if lost > self.losses_before {
            tracing::debug!(lost, "samples lost so far");
            self.losses_before = lost;
        }
    }
}

/// What ended a wait.
struct Woken {
    stopped: bool,
    command_ended: bool,
}

impl Tracked {
    fn count(&mut self, key: &hostscope_wire::stack::CountKey, count: u64) {
        self.samples += count;
        self.window.add_count(key, count);
    }

    /// The walk of this stack ended where a table is missing.
    fn tables_missed(&mut self, process: ProcessId, stack: &StackHeader, frames: StackFrames<'_>) {
        let Some(last) = frames.iter().last() else { return };
        let looked_up = if stack.user_frames > 1 { last.wrapping_sub(1) } else { last };
        if let Some(mapping) = self.processes.mapping_at(process, looked_up) {
            self.tables.missed(mapping.file, &self.processes.files);
        }
    }

    fn see(&mut self, event: Event<'_>) {
        match event {
            Event::Mapping(MappingEvent::New(mapping)) => self.processes.on_mapping(&mapping),
            Event::Mapping(MappingEvent::Exec { pid }) => self.processes.on_exec_begin(pid),
            Event::Mapping(MappingEvent::Lost(count)) => self.mappings_lost += count,
            Event::Ring(RingRecord::Fork(record)) => {
                self.processes.on_fork(&record);
                if let Some(alive) = &mut self.alive {
                    alive.insert(record.tgid);
                }
            }
            Event::Ring(RingRecord::Exec(record)) => {
                self.processes.on_exec(&record, self.mappings_are_recorded);
            }
            Event::Ring(RingRecord::Exit(record)) => {
                self.processes.on_exit(&record);
                if let Some(alive) = &mut self.alive {
                    alive.remove(&record.tgid);
                    self.ended[0].push(record.tgid);
                }
            }
            Event::Ring(RingRecord::Stack(stack, frames)) => {
                self.stacks_since_clear += 1;
                self.first_stack_ns.get_or_insert(stack.header.time_ns);
                let process = self.processes.of_sample(stack.tgid, stack.start_time_ns);
                let processes = &mut self.processes;
                self.window.add_stack(&stack, frames.iter(), process, |address| {
                    let mapping = processes.mapping_at(process, address);
                    if mapping.is_some_and(|mapping| processes.is_runtime_code(&mapping)) {
                        processes.hold_perf_map(process);
                    }
                    mapping
                });
                if stack.end == StackEnd::NoTable as u32 {
                    self.tables_missed(process, &stack, frames);
                }
            }
        }
    }
}

/// What a user may wonder about where stacks end early for want of a table.
fn table_findings(tables: &TableFigures, memory_bytes: u64) -> Vec<String> {
    let mut findings: Vec<String> =
        tables.unreadable.iter().map(|file| format!("no unwind table: {file}")).collect();
    if tables.given_up > 0 {
        findings.push(format!(
            "unwind tables found no room {} times in {} MB: give them more with --unwind-memory",
            tables.given_up,
            memory_bytes >> 20
        ));
    }
    findings
}

/// Puts `pids` under watch in the kernel and reads what they are.
fn watch(pids: &[u32], kernel: &mut Kernel, processes: &mut Processes) -> Result<HashSet<u32>> {
    for &pid in pids {
        kernel.targets.insert(pid)?;
        if processes.scan(pid).is_err() {
            check_exists(pid)?;
        }
    }
    Ok(pids.iter().copied().collect())
}

/// Whether `pid` is a process.
///
/// # Errors
/// It is a thread, or nothing.
pub fn check_exists(pid: u32) -> Result<()> {
    let task = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let group =
        task.lines().find_map(|line| line.strip_prefix("Tgid:")).and_then(|id| id.trim().parse::<u32>().ok());
    match group {
        Some(group) if group == pid => Ok(()),
        Some(group) => Err(Error::failed(
            format!("{pid} is a thread of process {group}, not a process"),
            format!("name the process: -p {group}"),
        )),
        None => Err(Error::failed(
            format!("there is no process {pid}"),
            "check the id (ps -e); a process in another pid namespace has another id inside it",
        )),
    }
}

fn is_alive(pid: rustix::process::Pid) -> bool {
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}

/// Puts this thread ahead of what it watches. A burst of 500 busy processes would leave it a five-hundredth of the CPUs
/// with hundreds of programs to read, and the kernel side would run out of room before its next turn. It needs little,
/// so nobody waits for it; without `CAP_SYS_NICE` it stays as it is.
fn raise_priority() {
    let _ = rustix::process::setpriority_process(None, -20);
}

fn counts_unreadable(error: &std::io::Error) -> Error {
    Error::kernel(format!("cannot read the sample counts: {error}"), "see hostscope doctor")
}
