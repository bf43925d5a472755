//! The agent's budget: what it gives up, in which order, when it costs more than it may, and when it takes that back.
//!
//! The order: the timing of every system call; then the probes, the dearest by measurement first, down to that of the scheduler;
//! then it reads four times less often. One step an evaluation, so that each step's effect is seen before the next.
//! What was given up comes back one step at a time, the last one first, after a time of patience at half the budget, which doubles with each
//! time that a step had to be taken again.

/// Evaluations in a row over the budget before a step is taken: one alone may be a scrape of everything.
const OVER_BEFORE_STEP: u32 = 2;

/// Evaluations in a row below half of the budget before a step is taken back, at first and at most (with one each 10 s: 2
/// minutes, 2 hours).
const PATIENCE: u32 = 12;
const MOST_PATIENCE: u32 = 720;

/// How much less often it reads at the last step.
pub const SLOWER: u32 = 4;

/// Something given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Only blocked time is measured of system calls.
    SystemCalls,
    /// This group of probes is detached.
    Probe(&'static str),
    /// The kernel's figures are read [`SLOWER`] times less often.
    Interval,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Give this up.
    GiveUp(Step),
    /// Take this back.
    TakeBack(Step),
}

/// What could be given up, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// What.
    pub step: Step,
    /// CPU seconds a second.
    pub cost: f64,
}

/// Keeps the budget.
#[derive(Debug)]
pub struct Budget {
    /// What has been given up, in that order.
    given_up: Vec<Step>,
    over: u32,
    under: u32,
    patience: u32,
    took_back_last: bool,
}

impl Budget {
    /// Nothing is given up yet.
    #[must_use]
    pub fn new() -> Self {
        Self { given_up: Vec::new(), over: 0, under: 0, patience: PATIENCE, took_back_last: false }
    }

    /// What is given up at present.
    #[must_use]
    pub fn given_up(&self) -> &[Step] {
        &self.given_up
    }

    /// Judges the use since the last evaluation: `ratio` is what is used of what is allowed. `candidates` are those of the
    /// first two kinds that are on at present.
    pub fn evaluate(&mut self, ratio: f64, candidates: &[Candidate]) -> Option<Change> {
        self.over = if ratio > 1.0 { self.over + 1 } else { 0 };
        self.under = if ratio < 0.5 { self.under + 1 } else { 0 };
        if self.over >= OVER_BEFORE_STEP {
            self.over = 0;
            let step = self.next_step(candidates)?;
            if self.took_back_last {
                self.patience = (self.patience * 2).min(MOST_PATIENCE);
            }
            self.took_back_last = false;
            self.given_up.push(step);
            return Some(Change::GiveUp(step));
        }
        if self.under >= self.patience {
            self.under = 0;
            let step = self.given_up.pop()?;
            self.took_back_last = true;
            return Some(Change::TakeBack(step));
        }
        None
    }

    fn next_step(&self, candidates: &[Candidate]) -> Option<Step> {
        let calls = candidates.iter().find(|candidate| candidate.step == Step::SystemCalls);
        let dearest = candidates.iter().max_by(|a, b| a.cost.total_cmp(&b.cost));
        let next = calls.or(dearest).map_or(Step::Interval, |candidate| candidate.step);
        (!self.given_up.contains(&next)).then_some(next)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

impl Step {
    /// In words, for the log.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::SystemCalls => "the timing of every system call".into(),
            Self::Probe(name) => format!("the probes of {name}"),
            Self::Interval => format!("reading at every interval ({SLOWER} times less often)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Candidate; 3] = [
        Candidate { step: Step::Probe("sched_switch"), cost: 0.002 },
        Candidate { step: Step::Probe("softirq_exit"), cost: 0.004 },
        Candidate { step: Step::SystemCalls, cost: 0.001 },
    ];

    fn over(budget: &mut Budget, candidates: &[Candidate]) -> Option<Change> {
        assert_eq!(budget.evaluate(1.1, candidates), None, "once may be by chance");
        budget.evaluate(1.1, candidates)
    }

    #[test]
    fn gives_up_calls_then_the_dearest_then_reads_less_often() {
        let mut budget = Budget::new();
        assert_eq!(over(&mut budget, &ALL), Some(Change::GiveUp(Step::SystemCalls)));
        assert_eq!(over(&mut budget, &ALL[..2]), Some(Change::GiveUp(Step::Probe("softirq_exit"))));
        assert_eq!(over(&mut budget, &ALL[..1]), Some(Change::GiveUp(Step::Probe("sched_switch"))));
        assert_eq!(over(&mut budget, &[]), Some(Change::GiveUp(Step::Interval)));
        assert_eq!(over(&mut budget, &[]), None, "nothing is left to be given up");
        assert_eq!(budget.given_up().len(), 4);
    }

    #[test]
    fn takes_back_the_last_step_first_and_with_more_patience_each_time() {
        let mut budget = Budget::new();
        let quiet = |budget: &mut Budget| {
            (1..).find_map(|turn| budget.evaluate(0.1, &[]).map(|change| (turn, change)))
        };
        over(&mut budget, &ALL);
        over(&mut budget, &ALL[..1]);
        let probe = Step::Probe("sched_switch");
        assert_eq!(quiet(&mut budget), Some((PATIENCE, Change::TakeBack(probe))));
        assert_eq!(over(&mut budget, &ALL[..1]), Some(Change::GiveUp(probe)));
        assert_eq!(quiet(&mut budget), Some((2 * PATIENCE, Change::TakeBack(probe))));
        assert_eq!(quiet(&mut budget), Some((2 * PATIENCE, Change::TakeBack(Step::SystemCalls))));
        assert!((0..10_000).all(|_| budget.evaluate(0.1, &[]).is_none()));
    }

    #[test]
    fn stays_as_it_is_between_half_and_all_of_the_budget() {
        let mut budget = Budget::new();
        over(&mut budget, &ALL);
        assert!((0..1000).all(|_| budget.evaluate(0.7, &ALL).is_none()));
        assert!((0..1000).all(|turn| budget.evaluate(if turn % 2 == 0 { 1.5 } else { 0.7 }, &ALL).is_none()));
    }
}
