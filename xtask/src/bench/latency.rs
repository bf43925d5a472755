//! What timing costs those who wait: a context switch and a system call without a watcher, with the agent, with bpftrace.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::Plan;
use super::figures::{Bar, Figures, table};
use super::report::Section;
use super::rounds::Contestant;
use super::tools;
use super::turns::{Turns, Watched, added};
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

/// A figure of a turn.
type Quantity = fn(Turn) -> f64;

/// Those shown.
const QUANTITIES: [(&str, Quantity); 2] =
    [("fastest", |turn| turn.least_ns), ("median", |turn| turn.median_ns)];

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
    text.push_str(&written("ns a context switch, 2 processes on 1 CPU", &switches, is_always_on));
    text.push('\n');
    text.push_str(&written("ns a system call, getppid", &calls, is_full));
    let measured = switches.of(is_always_on).is_some() && calls.of(is_full).is_some();
    Ok(Section { text, bars: bars(&switches, &calls), measured })
}

/// The program whose agent is measured.
pub(crate) fn agent_program(all: &[Contestant]) -> Result<PathBuf> {
    let ours = all.iter().find(|one| one.tool.name == tools::HOSTSCOPE);
    let ours = ours.ok_or_else(|| Failure::new("there is no hostscope", "see TOOLS"))?;
    Ok(ours.program.clone())
}

pub(crate) fn is_always_on(watcher: &Watcher) -> bool {
    matches!(watcher, Watcher::AlwaysOn(_))
}

fn is_full(watcher: &Watcher) -> bool {
    matches!(watcher, Watcher::Full(_))
}

fn is_peer(watcher: &Watcher) -> bool {
    matches!(watcher, Watcher::Bpftrace(..))
}

/// The table. `base` is whose additions are the others' measure.
pub(crate) fn written(title: &str, turns: &Turns<Turn>, base: fn(&Watcher) -> bool) -> String {
    let mut rows = vec![vec![title.to_owned()], vec!["nobody; added: noise".to_owned()]];
    rows.extend(turns.watched.iter().map(|one| vec![one.watcher.title().to_owned()]));
    let noise = turns.noise();
    for (name, quantity) in QUANTITIES {
        rows[0].extend([name, "added", "error", "×"].map(str::to_owned));
        rows[1].extend(cells(&turns.unwatched(quantity), &added(&noise, quantity), String::new()));
        let base = turns.of(base).map_or_else(Figures::default, |one| added(&one.pairs, quantity));
        for (one, row) in turns.watched.iter().zip(&mut rows[2..]) {
            let more = added(&one.pairs, quantity);
            let ratio = if more == base { String::new() } else { more.ratio_to(&base) };
            row.extend(cells(&one.pairs.iter().map(|pair| quantity(pair.turn)).collect(), &more, ratio));
        }
    }
    let mut text = table(&rows);
    for (one, failure) in turns.watched.iter().filter_map(|one| Some((one, one.failure.as_ref()?))) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "not measured: {}: {failure}", one.watcher.title());
    }
    text
}

fn cells(all: &Figures, added: &Figures, ratio: String) -> [String; 4] {
    [format!("{:.0}", all.median()), added.shown(0), added.shown_error(1), ratio]
}

/// Judged by the fastest batches, which what else the machine does disturbs least.
fn bars(switches: &Turns<Turn>, calls: &Turns<Turn>) -> Vec<Bar> {
    let of = |turns: &Turns<Turn>, which: fn(&Watcher) -> bool| {
        turns.of(which).map_or_else(Figures::default, |one| added(&one.pairs, |turn| turn.least_ns))
    };
    let (switch, untimed, timed) = (of(switches, is_always_on), of(calls, is_always_on), of(calls, is_full));
    let ratio = ratios(calls);
    let promises = [
        ("always on, added to a context switch, ns", switch, SWITCH_NS, 0),
        ("always on, added to a system call, ns", untimed, UNTIMED_CALL_NS, 1),
        ("every call timed, added to a system call, ns", timed.clone(), TIMED_CALL_NS, 0),
        ("every call timed, as a multiple of bpftrace's histogram", ratio, OF_PEER, 2),
    ];
    let mut bars: Vec<Bar> = promises
        .iter()
        .map(|(what, measured, limit, decimals)| {
            Bar::at_most_beyond_noise(*what, measured, *limit, *decimals)
        })
        .collect();
    if timed.median() < LEAST_TIMED_NS {
        for bar in &mut bars[2..] {
            bar.met = None;
            bar.measured.push_str(", but no call was timed");
        }
    }
    bars
}

/// What a timed call costs as a multiple of what it costs under the peer, round by round.
fn ratios(calls: &Turns<Turn>) -> Figures {
    let added = |watched: &Watched<Turn>| {
        watched.pairs.iter().map(|pair| pair.added(|turn| turn.least_ns)).collect::<Vec<_>>()
    };
    let (ours, peers) = (calls.of(is_full).map(added), calls.of(is_peer).map(added));
    let rounds = ours.into_iter().flatten().zip(peers.into_iter().flatten());
    rounds.map(|(ours, peers)| ours / peers).filter(|ratio| ratio.is_finite()).collect()
}
