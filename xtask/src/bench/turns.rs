//! The same quantity without and with a watcher, in many short turns: nobody, the first watcher, nobody, the second, …
//!
//! A machine may change its speed by a fifth from one second to the next, so a watched turn is compared with the two
//! unwatched ones around it only. The unwatched ones are compared with those around them in the same way: what comes of
//! that is noise, and a difference within it is none.

use std::path::Path;

use super::figures::Figures;
use super::watchers::Watcher;
use crate::failure::{Failure, Result};

/// What was measured in a watched turn and in the two around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pair<T> {
    pub(crate) around: [T; 2],
    pub(crate) turn: T,
}

/// One watcher's turns.
pub(crate) struct Watched<T> {
    pub(crate) watcher: Watcher,
    pub(crate) pairs: Vec<Pair<T>>,
    /// Why it does not take part any more.
    pub(crate) failure: Option<Failure>,
}

/// Everybody's turns.
pub(crate) struct Turns<T> {
    pub(crate) watched: Vec<Watched<T>>,
    unwatched: Vec<T>,
}

impl<T: Copy> Turns<T> {
    /// `rounds` times each of the watchers in turn.
    pub(crate) fn take(
        watchers: Vec<Watcher>,
        rounds: u32,
        folder: &Path,
        mut measure: impl FnMut() -> Result<T>,
    ) -> Result<Self> {
        let new = |watcher| Watched { watcher, pairs: Vec::new(), failure: None };
        let mut all = Self { watched: watchers.into_iter().map(new).collect(), unwatched: vec![measure()?] };
        for _ in 0..rounds {
            for one in all.watched.iter_mut().filter(|one| one.failure.is_none()) {
                let turn = match one.watcher.start(folder) {
                    Ok(_watching) => measure()?,
                    Err(failure) => {
                        one.failure = Some(failure);
                        continue;
                    }
                };
                let after = measure()?;
                let before = all.unwatched.last().copied().unwrap_or(after);
                one.pairs.push(Pair { around: [before, after], turn });
                all.unwatched.push(after);
            }
        }
        Ok(all)
    }

    /// The turns of nobody.
    pub(crate) fn unwatched(&self, quantity: impl Fn(T) -> f64) -> Figures {
        self.unwatched.iter().map(|&turn| quantity(turn)).collect()
    }

    /// Those turns as pairs.
    pub(crate) fn noise(&self) -> Vec<Pair<T>> {
        let pair = |three: &[T]| Pair { around: [three[0], three[2]], turn: three[1] };
        self.unwatched.windows(3).map(pair).collect()
    }

    pub(crate) fn of(&self, which: impl Fn(&Watcher) -> bool) -> Option<&Watched<T>> {
        self.watched.iter().find(|one| which(&one.watcher) && !one.pairs.is_empty())
    }
}

impl<T: Copy> Pair<T> {
    /// How much more the turn was than those around it.
    pub(crate) fn added(&self, quantity: impl Fn(T) -> f64) -> f64 {
        quantity(self.turn) - self.expected(&quantity)
    }

    /// What those around it make one expect of the turn.
    fn expected(&self, quantity: &impl Fn(T) -> f64) -> f64 {
        f64::midpoint(quantity(self.around[0]), quantity(self.around[1]))
    }
}

/// How much more each turn was than those around it.
pub(crate) fn added<T: Copy>(pairs: &[Pair<T>], quantity: impl Fn(T) -> f64) -> Figures {
    pairs.iter().map(|pair| pair.added(&quantity)).collect()
}

/// How much less was done in a turn than in those around it, in per cent, where `quantity` is the time that it took.
pub(crate) fn lost_percent<T: Copy>(pairs: &[Pair<T>], quantity: impl Fn(T) -> f64) -> Figures {
    pairs.iter().map(|pair| 100.0 * (1.0 - pair.expected(&quantity) / quantity(pair.turn))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_compared_with_those_around_it() {
        // The machine grows slower all the time, and the watcher adds 5.
        let turns = Turns { watched: Vec::new(), unwatched: vec![100.0, 120.0, 140.0, 160.0] };
        let watched =
            [Pair { around: [100.0, 120.0], turn: 115.0 }, Pair { around: [120.0, 140.0], turn: 135.0 }];
        assert_eq!(added(&watched, |turn| turn).shown(0), "5 (5–5)");
        assert_eq!(added(&turns.noise(), |turn| turn).shown(0), "0 (0–0)");
        assert_eq!(turns.unwatched(|turn| turn).shown(0), "130 (100–160)");
        let lost = lost_percent(&[Pair { around: [90.0, 110.0], turn: 125.0 }], |turn| turn);
        assert_eq!(lost.shown(1), "20.0 (20.0–20.0)");
    }
}
