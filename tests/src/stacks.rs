//! What a profile says: its stacks with names, and shares of them.

use hostscope::profile::{FrameKind, Profile};

/// One thread in one stack.
#[derive(Debug, Clone)]
pub struct Stack<'a> {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub process: &'a str,
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub thread: &'a str,
    /// Function names, the leaf first, inlined functions before those they are inlined into.
    pub frames: Vec<Frame<'a>>,
    /// Why the walk of its user stack ended.
    pub end: &'a str,
    /// Samples.
    pub count: u64,
}

/// One function in a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its name as shown.
    pub name: &'a str,
    /// What sort of code it is.
    pub kind: FrameKind,
    /// The file that it is mapped from; empty where there is none.
    pub file: &'a str,
}

impl<'a> Stack<'a> {
    /// Names of the frames outside the kernel, leaf first.
    #[must_use]
    pub fn user(&self) -> Vec<&'a str> {
        self.frames.iter().filter(|frame| frame.kind != FrameKind::Kernel).map(|frame| frame.name).collect()
    }

    /// Names of the frames in the kernel, leaf first.
    #[must_use]
    pub fn kernel(&self) -> Vec<&'a str> {
        self.frames.iter().filter(|frame| frame.kind == FrameKind::Kernel).map(|frame| frame.name).collect()
    }

    /// Whether a function of this name is in it.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.frames.iter().any(|frame| frame.name == name)
    }
}

/// Every stack of a profile, with names.
#[must_use]
pub fn stacks(profile: &Profile) -> Vec<Stack<'_>> {
    let samples = profile.samples.iter().map(|sample| {
        let process = &profile.processes[sample.process as usize];
        let stack = &profile.stacks[sample.stack as usize];
        let frames = stack.locations.iter().flat_map(|&location| {
            let location = &profile.locations[location as usize];
            let file = location.mapping.map_or("", |mapping| &profile.mappings[mapping as usize].file);
            location.lines.iter().map(move |line| Frame {
                name: &profile.functions[line.function as usize].name,
                kind: location.kind,
                file,
            })
        });
        Stack {
            pid: process.pid,
            process: &process.name,
            tid: sample.thread_id,
            thread: &sample.thread_name,
            frames: frames.collect(),
            end: &stack.end,
            count: sample.values[0],
        }
    });
    samples.collect()
}

/// The stacks of one process.
#[must_use]
pub fn of_process(profile: &Profile, pid: u32) -> Vec<Stack<'_>> {
    let mut stacks = stacks(profile);
    stacks.retain(|stack| stack.pid == pid);
    stacks
}

/// How many samples these stacks have.
#[must_use]
pub fn total(stacks: &[Stack<'_>]) -> u64 {
    stacks.iter().map(|stack| stack.count).sum()
}

/// The samples for which `is_one` holds.
#[must_use]
pub fn count(stacks: &[Stack<'_>], is_one: impl Fn(&Stack<'_>) -> bool) -> u64 {
    stacks.iter().filter(|stack| is_one(stack)).map(|stack| stack.count).sum()
}

/// The share, in percent, of the samples for which `is_one` holds.
#[must_use]
pub fn percent(stacks: &[Stack<'_>], is_one: impl Fn(&Stack<'_>) -> bool) -> f64 {
    let total = total(stacks);
    assert!(total > 0, "there is no sample to take a share of");
    100.0 * count(stacks, is_one) as f64 / total as f64
}

/// Asserts that a share is within `points` of `expected`, both in percent.
#[track_caller]
pub fn assert_percent(stacks: &[Stack<'_>], what: &str, expected: f64, points: f64, is_one: impl Fn(&Stack<'_>) -> bool) {
    let actual = percent(stacks, is_one);
    assert!(
        (actual - expected).abs() <= points,
        "{what}: {actual:.1}% of {} samples, where {expected}% ± {points} are right\n{}",
        total(stacks),
        text(stacks)
    );
}

/// The heaviest stacks as text, for messages.
#[must_use]
pub fn text(stacks: &[Stack<'_>]) -> String {
    let mut lines: Vec<(u64, String)> = stacks
        .iter()
        .map(|stack| {
            let names: Vec<&str> = stack.frames.iter().map(|frame| frame.name).collect();
            let Stack { pid, process, tid, thread, end, count, .. } = stack;
            (*count, format!("{count:5}  {process} ({pid}) {thread} ({tid}): {} | {end}", names.join(" < ")))
        })
        .collect();
    lines.sort_unstable_by_key(|(count, _)| std::cmp::Reverse(*count));
    lines.iter().take(25).map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
}
