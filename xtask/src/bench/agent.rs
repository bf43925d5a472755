//! What the agent costs a host: one that is idle, one that switches much, one that serves pages, and one of many services.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::bpf_objects::programs;
use super::figures::{Bar, Figures, table};
use super::latency::{agent_program, is_always_on, written};
use super::load::Idle;
use super::report::Section;
use super::rounds::Contestant;
use super::setting::Setting;
use super::turns::{Turns, lost_percent};
use super::waits::{Turn, Waits};
use super::watchers::{Watcher, Watching};
use super::{Plan, in_kernel, tools, web, workloads};
use crate::failure::{Failure, Result};
use crate::workspace;

/// Processes that sleep, as promised for memory.
const IDLE: usize = 500;

/// How long the idle host is watched: the agent has at most 90 ms of CPU time in it.
const IDLE_SECONDS: u64 = 30;

/// Switches a second of the host that switches much, and how long the agent and then its programs are looked at there.
const SWITCHES: u32 = 50_000;
const SWITCHING: Duration = Duration::from_secs(10);
const COUNTED: Duration = Duration::from_secs(3);

/// Programs of different names, each of them a service.
const SERVICES: usize = 200;
const SCRAPES: u32 = 20;

/// Watched turns of nginx for every round that is asked for. Each consists of slices, so that what disturbs some of them
/// does not count.
const TURNS_A_ROUND: u32 = 15;
const SLICES: u32 = 10;
const SLICE: Duration = Duration::from_millis(100);

/// Promised: CPU time of an idle agent in per cent of a CPU, all its cost at [`SWITCHES`] in per cent of the host, resident
/// memory, requests that nginx loses in per cent, and the time of a scrape.
const IDLE_PERCENT: f64 = 0.3;
const SWITCHING_PERCENT: f64 = 1.0;
const RESIDENT_MEGABYTES: f64 = 40.0;
const LOST_PERCENT: f64 = 2.0;
const SCRAPE_MS: f64 = 20.0;

/// Until a new agent has seen everybody and what it needed for its start is given back.
const WARM: Duration = Duration::from_secs(5);

/// What the measurements have in common.
struct Bench {
    watcher: Watcher,
    waits: Waits,
    folder: PathBuf,
}

/// What one of them has found: a table of its own or lines of the common one, and promises.
struct Outcome {
    text: String,
    rows: Vec<Vec<String>>,
    bars: Vec<Bar>,
}

/// Measures all of it; what fails is named.
pub(crate) fn measure(all: &[Contestant], folder: &Path, plan: &Plan) -> Result<Section> {
    let folder = folder.join("agent");
    tools::fresh_folder(&folder)?;
    let waits = Waits::compile(&folder)?;
    let bench = Bench { watcher: Watcher::AlwaysOn(agent_program(all)?), waits, folder };
    let mut rows =
        vec![["hostscope agent", "median (smallest–largest)", "error"].map(str::to_owned).to_vec()];
    let mut section = Section { text: String::new(), bars: Vec::new(), measured: true };
    for (what, measure) in [
        ("idle", Bench::idle as fn(&Bench, u32) -> Result<Outcome>),
        ("switching", Bench::switching),
        ("services", Bench::services),
        ("serving", Bench::serving),
    ] {
        eprintln!("the agent, {what}");
        match measure(&bench, plan.rounds) {
            Ok(outcome) => {
                rows.extend(outcome.rows);
                section.text.push_str(&outcome.text);
                section.bars.extend(outcome.bars);
            }
            Err(failure) => {
                section.measured = false;
                // Writing to a String cannot fail.
                let _ = writeln!(section.text, "not measured: the agent, {what}: {failure}");
            }
        }
    }
    section.text.insert_str(0, &(table(&rows) + "\n"));
    Ok(section)
}

impl Bench {
    /// Many processes that sleep.
    fn idle(&self, rounds: u32) -> Result<Outcome> {
        let _idle = Idle::start(IDLE)?;
        let [mut cpu, mut resident, mut peak, mut switches] =
            [const { Vec::new() }; 4].map(Figures::from_iter);
        for _ in 0..rounds {
            let agent = self.warm()?;
            let moment = Moment::now(&agent)?;
            thread::sleep(Duration::from_secs(IDLE_SECONDS));
            let since = moment.until_now(&agent)?;
            cpu.push(100.0 * since.cpu_share);
            switches.push(since.switches_a_second);
            resident.push(megabytes(agent.pid(), "VmRSS:")?);
            peak.push(megabytes(agent.pid(), "VmHWM:")?);
        }
        Ok(Outcome {
            text: String::new(),
            rows: vec![
                row(
                    format!("{IDLE} idle processes, {IDLE_SECONDS} s: switches a second of the host"),
                    &switches,
                    0,
                ),
                row("  own CPU, % of a CPU", &cpu, 3),
                row("  resident memory, MB", &resident, 1),
                row("  peak of it, MB", &peak, 1),
            ],
            bars: vec![
                Bar::at_most("agent, idle host, own CPU, % of a CPU", &cpu, IDLE_PERCENT, 2),
                Bar::at_most(
                    format!("agent, {IDLE} processes, resident memory, MB"),
                    &resident,
                    RESIDENT_MEGABYTES,
                    1,
                ),
            ],
        })
    }

    /// Its own time, and that of its programs, which the kernel counts in turns of their own since counting costs time.
    fn switching(&self, rounds: u32) -> Result<Outcome> {
        let _load = self.waits.paced(SWITCHES)?;
        let host = 100.0 / thread::available_parallelism().map_or(1.0, |cpus| cpus.get() as f64);
        let [mut switches, mut own, mut kernel, mut total] =
            [const { Vec::new() }; 4].map(Figures::from_iter);
        for _ in 0..rounds {
            let before = programs()?;
            let agent = self.warm()?;
            let moment = Moment::now(&agent)?;
            thread::sleep(SWITCHING);
            let since = moment.until_now(&agent)?;
            let programs_share = run_share(|id| !before.contains_key(&id))?;
            switches.push(since.switches_a_second);
            own.push(host * since.cpu_share);
            kernel.push(host * programs_share);
            total.push(host * (since.cpu_share + programs_share));
        }
        Ok(Outcome {
            text: String::new(),
            rows: vec![
                row("a host that switches much: switches a second", &switches, 0),
                row("  own CPU, % of the host", &own, 3),
                row("  its programs in the kernel, % of the host", &kernel, 3),
            ],
            bars: vec![Bar::at_most(
                format!("agent, {SWITCHES} switches a second, all its cost, % of the host"),
                &total,
                SWITCHING_PERCENT,
                2,
            )],
        })
    }

    /// Scrapes of a host of many services.
    fn services(&self, rounds: u32) -> Result<Outcome> {
        let _services = self.waits.services(&self.folder, SERVICES)?;
        let agent = self.warm()?;
        let [mut took, mut samples, mut kilobytes] = [const { Vec::new() }; 3].map(Figures::from_iter);
        for _ in 0..rounds * SCRAPES {
            let answer = web::get(agent.port, "/metrics")?;
            if answer.status != 200 {
                let what = format!("/metrics answers {}", answer.status);
                return Err(Failure::new(what, "see agent.txt in target/bench/agent"));
            }
            took.push(answer.milliseconds);
            samples.push(answer.text.lines().filter(|line| line.starts_with("hostscope_")).count() as f64);
            kilobytes.push(answer.text.len() as f64 / 1000.0);
            // Not all at the same time of the agent's interval.
            thread::sleep(Duration::from_millis(170));
        }
        let what = format!("agent, a scrape with {SERVICES} services, ms");
        let mut bar = Bar::at_most(what, &took, SCRAPE_MS, 1);
        if samples.median() < SERVICES as f64 {
            bar.met = None;
            bar.measured.push_str(", but it does not tell of every service");
        }
        Ok(Outcome {
            text: String::new(),
            rows: vec![
                row(format!("{SERVICES} services that wait: samples in a scrape"), &samples, 0),
                row("  its size, kB", &kilobytes, 0),
                row("  its time, ms", &took, 1),
            ],
            bars: vec![bar],
        })
    }

    /// nginx under wrk, which never stop, with the agent and without in turns.
    fn serving(&self, rounds: u32) -> Result<Outcome> {
        let (mut server, port) = workloads::web_server()?;
        thread::sleep(Duration::from_secs(1));
        let turns = Turns::take(vec![self.watcher.clone()], rounds * TURNS_A_ROUND, &self.folder, || {
            server.check()?;
            serving_turn(port)
        })?;
        let Some(watched) = turns.of(is_always_on) else {
            let failure = turns.watched.into_iter().find_map(|one| one.failure);
            return Err(failure.unwrap_or_else(|| Failure::new("there was no turn", "run it again")));
        };
        let lost = lost_percent(&watched.pairs, |turn| turn.least_ns);
        let text = written("ns a request, nginx under wrk", &turns, is_always_on);
        let bars =
            vec![Bar::at_most_beyond_noise("agent, requests that nginx loses, %", &lost, LOST_PERCENT, 1)];
        Ok(Outcome { text, rows: Vec::new(), bars })
    }

    fn warm(&self) -> Result<Watching> {
        let agent = self.watcher.start(&self.folder)?;
        thread::sleep(WARM);
        Ok(agent)
    }
}

fn row(what: impl Into<String>, figures: &Figures, decimals: usize) -> Vec<String> {
    vec![what.into(), figures.shown(decimals), figures.shown_error(decimals)]
}

/// A beginning.
struct Moment {
    at: Instant,
    cpu_seconds: f64,
    switches: u64,
}

/// What has happened since.
struct Since {
    /// The agent's CPU time, as a share of one CPU.
    cpu_share: f64,
    /// Of the whole host.
    switches_a_second: f64,
}

impl Moment {
    fn now(agent: &Watching) -> Result<Self> {
        Ok(Self { at: Instant::now(), cpu_seconds: cpu_seconds(agent.pid())?, switches: switches()? })
    }

    fn until_now(&self, agent: &Watching) -> Result<Since> {
        let now = Self::now(agent)?;
        let seconds = (now.at - self.at).as_secs_f64();
        Ok(Since {
            cpu_share: (now.cpu_seconds - self.cpu_seconds) / seconds,
            switches_a_second: (now.switches - self.switches) as f64 / seconds,
        })
    }
}

/// CPU time that a process has had, to the nanosecond and with that of threads that have ended: 30 s of an idle agent are a
/// few ticks of `/proc/PID/stat`.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls fill the live values that they are given pointers to.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    if failed {
        return Err(Failure::new("the agent has ended", "see agent.txt in target/bench/agent"));
    }
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// Context switches of the host since it was booted.
fn switches() -> Result<u64> {
    field(Path::new("/proc/stat"), "ctxt")
}

fn megabytes(pid: u32, name: &str) -> Result<f64> {
    let kibibytes = field(Path::new(&format!("/proc/{pid}/status")), name)?;
    Ok(kibibytes as f64 * 1024.0 / 1e6)
}

/// The number behind `name` at the beginning of a line.
fn field(path: &Path, name: &str) -> Result<u64> {
    let text = workspace::read(path)?;
    number_of(&text, name)
        .ok_or_else(|| Failure::new(format!("{} does not tell {name}", path.display()), "run it on Linux"))
}

fn number_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The time in which programs run, of all CPUs, as a share of one.
fn run_share(of: impl Fn(u32) -> bool) -> Result<f64> {
    let _counting = Setting::set(in_kernel::SWITCH, "1")?;
    let run_time = || -> Result<u64> {
        Ok(programs()?.into_iter().filter(|(id, _)| of(*id)).map(|(_, program)| program.run_time_ns).sum())
    };
    let (began, before) = (Instant::now(), run_time()?);
    thread::sleep(COUNTED);
    Ok((run_time()? - before) as f64 / 1e9 / began.elapsed().as_secs_f64())
}

/// What a request takes, by nginx's own count.
fn serving_turn(port: u16) -> Result<Turn> {
    let served = || -> Result<(Instant, u64)> {
        let answer = web::get(port, "/status")?;
        // The third number of the line below "server accepts handled requests".
        let counts = answer.text.lines().skip_while(|line| !line.starts_with("server accepts")).nth(1);
        let count = counts.and_then(|line| line.split_whitespace().nth(2)?.parse().ok());
        let count = count.ok_or_else(|| Failure::new("nginx does not count", "apt-get install nginx"))?;
        Ok((Instant::now(), count))
    };
    let (mut took, mut before) = (Figures::default(), served()?);
    for _ in 0..SLICES {
        thread::sleep(SLICE);
        let now = served()?;
        took.push((now.0 - before.0).as_nanos() as f64 / now.1.saturating_sub(before.1) as f64);
        before = now;
    }
    Ok(Turn { median_ns: took.median(), least_ns: took.smallest() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_number_by_name() {
        let text = "intr 1 2\nctxt 987\nVmRSS:\t   1234 kB\n";
        assert_eq!((number_of(text, "ctxt"), number_of(text, "VmRSS:")), (Some(987), Some(1234)));
        assert_eq!(number_of(text, "btime"), None);
    }
}
