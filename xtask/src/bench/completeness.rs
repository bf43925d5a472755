//! How many of the stacks of real programs are complete, hostscope's and the peers', taken at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::Plan;
use super::figures::{Bar, table};
use super::report::Section;
use super::rounds::Contestant;
use super::stacks::{self, UserStack};
use super::tools::{self, Job, Purpose};
use super::workloads::{Running, WORKLOADS, Workload};
use crate::failure::{Failure, Result};
use crate::workspace;

/// How long the tools sample a workload, and how often a second: not a divisor of any timer's rate.
const SECONDS: u32 = 5;
const HERTZ: u32 = 199;

/// What a workload does before: programs load their libraries, compilers at run time warm up.
const WARM_UP: Duration = Duration::from_millis(700);

/// The share of complete stacks that is promised, and how much it may lie below a peer's: about two deviations of the
/// share of 1,000 samples where 1 in 100 is incomplete.
const LEAST: f64 = 0.99;
const NOISE: f64 = 0.005;

/// Fewer samples tell no hundredths.
const SAMPLES_LEAST: u64 = 200;

/// The outermost frames that a line about incomplete stacks shows, and how many lines there are.
const SHOWN_FRAMES: usize = 4;
const SHOWN_STACKS: usize = 30;

/// What came of one tool's stacks of one workload.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Counted {
    samples: u64,
    complete: u64,
    /// Complete by the tool's own word.
    own_word: u64,
    /// Where the two do not agree.
    disagreed: u64,
}

impl Counted {
    fn of<'a>(stacks: impl Iterator<Item = &'a UserStack>) -> Self {
        let mut counted = Self { samples: 0, complete: 0, own_word: 0, disagreed: 0 };
        for stack in stacks {
            let complete = stack.is_complete();
            let own_word = stack.own_word.unwrap_or(complete);
            counted.samples += stack.count;
            counted.complete += stack.count * u64::from(complete);
            counted.own_word += stack.count * u64::from(own_word);
            counted.disagreed += stack.count * u64::from(complete != own_word);
        }
        counted
    }

    fn share(&self) -> f64 {
        self.complete as f64 / self.samples as f64
    }

    fn shown(&self) -> String {
        format!("{:.1}% of {}", self.share() * 100.0, self.samples)
    }
}

/// Runs the workloads one after the other, each watched by all tools that unwind at the same time.
pub(crate) fn measure(all: &[Contestant], folder: &Path, plan: &Plan) -> Section {
    let tools: Vec<&Contestant> = all.iter().filter(|one| one.tool.unwinds && one.takes_part()).collect();
    let mut rows = vec![vec!["complete stacks".to_owned()]];
    for tool in &tools {
        rows[0].push(tool.tool.title().to_owned());
        rows[0].push(if tool.tool.is_hostscope() { "its own word" } else { "×" }.to_owned());
    }
    let mut section = Section { text: String::new(), bars: Vec::new(), measured: true };
    let mut notes = String::new();
    // Whoever asks for a workload by name wants that one only.
    let wanted = |workload: &&Workload| {
        plan.workloads.is_empty() || plan.workloads.iter().any(|name| name == workload.name)
    };
    for workload in WORKLOADS.iter().filter(wanted) {
        eprintln!("complete stacks: {}", workload.title);
        let counted = watch(workload, &tools, folder);
        // Writing to a String cannot fail.
        match counted {
            Ok(counted) => {
                rows.push(row(workload, &tools, &counted, &mut notes));
                section.measured &= counted.first().is_some_and(Result::is_ok);
                section.bars.push(bar(workload, &tools, &counted));
            }
            Err(failure) => {
                section.measured = false;
                let _ = writeln!(notes, "not measured: {}: {failure}", workload.title);
            }
        }
    }
    section.text = format!("{SECONDS} s at {HERTZ} Hz, all tools at the same time\n{}{notes}", table(&rows));
    let _ = writeln!(
        section.text,
        "what the incomplete ones look like: {}",
        folder.join("completeness").display()
    );
    section
}

fn watch(workload: &Workload, tools: &[&Contestant], folder: &Path) -> Result<Vec<Result<Counted>>> {
    let mut running = workload.start()?;
    thread::sleep(WARM_UP);
    let mut pids: BTreeSet<u32> = running.pids().into_iter().collect();
    let folder = folder.join("completeness").join(workload.name);
    let ran: Vec<Result<Vec<UserStack>>> = thread::scope(|scope| {
        let threads: Vec<_> =
            tools.iter().map(|tool| scope.spawn(|| stacks_of(tool, &folder, &running))).collect();
        let died = |_| Err(Failure::new("the run died", "run it again"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(died)).collect()
    });
    pids.extend(running.pids());
    running.check()?;
    drop(running);
    let judge = |(tool, stacks): (&&Contestant, Result<Vec<UserStack>>)| {
        let mut stacks = stacks?;
        stacks.retain(|stack| pids.contains(&stack.pid));
        let counted = Counted::of(stacks.iter());
        workspace::write(&folder.join(format!("{}-incomplete.txt", tool.tool.name)), incomplete(&stacks))?;
        if counted.samples < SAMPLES_LEAST {
            let what = format!("{} samples only of {}", counted.samples, workload.title);
            return Err(Failure::new(what, format!("look at what it wrote in {}", folder.display())));
        }
        Ok(counted)
    };
    Ok(tools.iter().zip(ran).map(judge).collect())
}

fn stacks_of(contestant: &Contestant, folder: &Path, running: &Running) -> Result<Vec<UserStack>> {
    let folder = folder.join(contestant.tool.name);
    tools::fresh_folder(&folder)?;
    let pid = running.pids().first().copied().unwrap_or(0);
    let job = Job {
        program: &contestant.program,
        folder: &folder,
        purpose: Purpose::Stacks,
        seconds: SECONDS,
        hertz: HERTZ,
        pid,
        alone: false,
    };
    contestant.run_once(&job)?;
    stacks::read(contestant.tool, &folder)
}

/// How often which outermost frames stood where a beginning should.
fn incomplete(stacks: &[UserStack]) -> String {
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for stack in stacks.iter().filter(|stack| !stack.is_complete() || stack.own_word == Some(false)) {
        let outermost: Vec<&str> = stack.names.iter().take(SHOWN_FRAMES).map(String::as_str).collect();
        let end = if stack.own_word == Some(true) { " (complete by its own word)" } else { "" };
        *counted.entry(format!("{}{end}", outermost.join(" ; "))).or_default() += stack.count;
    }
    let mut counted: Vec<_> = counted.into_iter().collect();
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counted.iter().take(SHOWN_STACKS).fold(String::new(), |mut text, (outermost, count)| {
        let _ = writeln!(text, "{count:>6}  {outermost}");
        text
    })
}

fn row(
    workload: &Workload,
    tools: &[&Contestant],
    counted: &[Result<Counted>],
    notes: &mut String,
) -> Vec<String> {
    let mut row = vec![workload.title.to_owned()];
    let ours = tools.iter().zip(counted).find(|(tool, _)| tool.tool.is_hostscope());
    let own_share = ours.and_then(|(_, counted)| counted.as_ref().ok()).map_or(f64::NAN, Counted::share);
    for (tool, counted) in tools.iter().zip(counted) {
        let title = tool.tool.title();
        match counted {
            Ok(counted) if tool.tool.is_hostscope() => {
                row.push(counted.shown());
                row.push(format!("{:.1}%", counted.own_word as f64 / counted.samples as f64 * 100.0));
                if counted.disagreed > 0 {
                    let _ = writeln!(
                        notes,
                        "{}: of {} samples {} are complete by {title}'s word and not by the outermost name, or the other way round",
                        workload.title, counted.samples, counted.disagreed
                    );
                }
            }
            Ok(counted) => {
                row.push(counted.shown());
                let ratio = counted.share() / own_share;
                row.push(if ratio.is_finite() { format!("{ratio:.2}×") } else { String::new() });
            }
            Err(failure) => {
                row.extend(["–".to_owned(), String::new()]);
                let _ = writeln!(notes, "not measured: {}: {title}: {failure}", workload.title);
            }
        }
    }
    row
}

fn bar(workload: &Workload, tools: &[&Contestant], counted: &[Result<Counted>]) -> Bar {
    let shares: Vec<(&Contestant, Option<f64>)> = tools
        .iter()
        .zip(counted)
        .map(|(tool, counted)| (*tool, counted.as_ref().ok().map(Counted::share)))
        .collect();
    let percent =
        |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{:.1}", share * 100.0));
    let peers = shares.iter().filter(|(tool, _)| !tool.tool.is_hostscope());
    let best = peers.clone().filter_map(|(_, share)| *share).fold(0.0, f64::max);
    let ours = shares.iter().find(|(tool, _)| tool.tool.is_hostscope()).and_then(|(_, share)| *share);
    let beside: Vec<String> =
        peers.map(|(tool, share)| format!("{} {}", tool.tool.title(), percent(*share))).collect();
    Bar {
        what: format!("complete stacks of {}, at least 99% and the peers', %", workload.title),
        measured: format!("{}; {}", percent(ours), beside.join(", ")),
        met: ours.map(|share| share >= LEAST && share >= best - NOISE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str], count: u64, own_word: Option<bool>) -> UserStack {
        UserStack { pid: 1, count, names: names.iter().map(|&name| name.to_owned()).collect(), own_word }
    }

    #[test]
    fn counts_by_both_definitions() {
        let stacks = [
            stack(&["_start", "main"], 6, Some(true)),
            stack(&["main"], 3, Some(true)),
            stack(&["leaf"], 1, Some(false)),
        ];
        let counted = Counted::of(stacks.iter());
        assert_eq!(counted, Counted { samples: 10, complete: 6, own_word: 9, disagreed: 3 });
        assert_eq!(counted.shown(), "60.0% of 10");
        assert_eq!(incomplete(&stacks), "     3  main (complete by its own word)\n     1  leaf\n");
    }
}
