//! What timing costs those who wait: a context switch and a system call without a watcher, with the agent, with bpftrace.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::Plan;
use super::figures::{Bar, Figures, table};
use super::report::Section;
use super::rounds::Contestant;
use super::tools;
use super::turns::{Turns, added};
use super::waits::{Turn, Waits};
use super::watchers::Watcher;
use crate::failure::{Failure, Result};

/// Turns of each watcher for every round that is asked for: they are short, and many make up for the noise.
const TURNS_A_ROUND: u32 = 10;

/// The peer's own way to a histogram of system calls, and to one of time off the CPU.
const CALLS_SCRIPT: &str = "tracepoint:raw_syscalls:sys_enter { @s[tid] = nsecs; } \
    tracepoint:raw_syscalls:sys_exit /@s[tid]/ { @h = hist(nsecs - @s[tid]); delete(@s[tid]); }";
const SWITCHES_SCRIPT: &str = "tracepoint:sched:sched_switch { @s[args->prev_pid] = nsecs; \
    $since = @s[args->next_pid]; \
    if ($since != 0) { @h = hist(nsecs - $since); delete(@s[args->next_pid]); } }";

/// Promised, in nanoseconds: what a switch costs that is always timed, a call that is not, and a call that is.
const SWITCH_NS: f64 = 300.0;
const UNTIMED_CALL_NS: f64 = 10.0;
const TIMED_CALL_NS: f64 = 280.0;
/// Promised: a timed call as a multiple of the peer's.
const OF_PEER: f64 = 0.35;

/// Less than this no timed call can cost, since two empty probes cost more: then nothing was attached.
const LEAST_TIMED_NS: f64 = 50.0;

/// Measures both.
pub(crate) fn measure(all: &[Contestant], folder: &Path, plan: &Plan) -> Result<Section> {
    let folder = folder.join("latency");
    let waits = Waits::compile(&folder)?;
    let ours = agent_program(all)?;
    let peer = all.iter().find(|one| one.tool.name == "bpftrace");
    let peer = |script| {
        peer.filter(|one| one.takes_part()).map(|one| Watcher::Bpftrace(one.program.clone(), script))
    };
    let rounds = plan.rounds * TURNS_A_ROUND;
    let take = |what: &str, watchers: Vec<Watcher>| {
        eprintln!("{what}: {rounds} turns of each");
        let mut meter = waits.meter(what)?;
        Turns::take(watchers, rounds, &folder, || meter.turn())
    };
    let on = Watcher::AlwaysOn(ours.clone());
    let switches = take("switches", [on.clone()].into_iter().chain(peer(SWITCHES_SCRIPT)).collect())?;
    let calls = take("calls", [on, Watcher::Full(ours)].into_iter().chain(peer(CALLS_SCRIPT)).collect())?;
    let mut text = format!(
        "turns of 0.25 s, {rounds} of each, a turn of nobody between; median (smallest–largest) of what a turn's\n\
         fastest batch, and its median one, took more than those of the turns around it\n\n"
    );
    text.push_str(&written("ns a context switch, 2 processes on 1 CPU", &switches));
    text.push('\n');
    text.push_str(&written("ns a system call, getppid", &calls));
    let measured = switches.of(is_always_on).is_some() && calls.of(is_full).is_some();
    Ok(Section { text, bars: bars(&switches, &calls), measured })
}

/// The program whose agent is measured.
pub(crate) fn agent_program(all: &[Contestant]) -> Result<PathBuf> {
    let ours = all.iter().find(|one| one.tool.name == tools::HOSTSCOPE);
    let ours = ours.ok_or_else(|| Failure::new("there is no hostscope", "see TOOLS"))?;
    Ok(ours.program.clone())
}

fn is_always_on(watcher: &Watcher) -> bool {
    matches!(watcher, Watcher::AlwaysOn(_))
}

fn is_full(watcher: &Watcher) -> bool {
    matches!(watcher, Watcher::Full(_))
}

fn is_peer(watcher: &Watcher) -> bool {
    matches!(watcher, Watcher::Bpftrace(..))
}

fn written(title: &str, turns: &Turns<Turn>) -> String {
    let least = |turn: Turn| turn.least_ns;
    let median = |turn: Turn| turn.median_ns;
    let heads = ["fastest", "median", "added, fastest", "added, median"];
    let mut rows = vec![std::iter::once(title).chain(heads).map(str::to_owned).collect::<Vec<_>>()];
    let noise = turns.noise();
    rows.push(vec![
        "nobody (added: noise)".to_owned(),
        turns.unwatched(least).shown(0),
        turns.unwatched(median).shown(0),
        added(&noise, least).shown(1),
        added(&noise, median).shown(1),
    ]);
    let mut failures = String::new();
    for one in &turns.watched {
        let of = |quantity: fn(Turn) -> f64| -> Figures {
            one.pairs.iter().map(|pair| quantity(pair.turn)).collect()
        };
        rows.push(vec![
            one.watcher.title().to_owned(),
            of(least).shown(0),
            of(median).shown(0),
            added(&one.pairs, least).shown(1),
            added(&one.pairs, median).shown(1),
        ]);
        if let Some(failure) = &one.failure {
            // Writing to a String cannot fail.
            let _ = writeln!(failures, "not measured: {}: {failure}", one.watcher.title());
        }
    }
    table(&rows) + &failures
}

/// Judged by the fastest batches, which what else the machine does disturbs least.
fn bars(switches: &Turns<Turn>, calls: &Turns<Turn>) -> Vec<Bar> {
    let of = |turns: &Turns<Turn>, which: fn(&Watcher) -> bool| {
        turns.of(which).map_or_else(Figures::default, |one| added(&one.pairs, |turn| turn.least_ns))
    };
    let full = of(calls, is_full);
    let ratio = full.median() / of(calls, is_peer).median();
    let ratio: Figures = [ratio].into_iter().filter(|ratio| ratio.is_finite()).collect();
    let mut bars = vec![
        Bar::at_most("always on, added to a context switch, ns", &of(switches, is_always_on), SWITCH_NS, 0),
        Bar::at_most("always on, added to a system call, ns", &of(calls, is_always_on), UNTIMED_CALL_NS, 1),
    ];
    for mut bar in [
        Bar::at_most("every call timed, added to a system call, ns", &full, TIMED_CALL_NS, 0),
        Bar::at_most("every call timed, as a multiple of bpftrace's histogram", &ratio, OF_PEER, 2),
    ] {
        if full.median() < LEAST_TIMED_NS {
            bar.met = None;
            bar.measured.push_str(", but no call was timed");
        }
        bars.push(bar);
    }
    bars
}
