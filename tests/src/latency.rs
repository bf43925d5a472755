//! `hostscope latency --json` under way, and what it says.

use std::ffi::OsStr;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::host::wait_for;
use crate::program::{Ended, Running, hostscope};

/// Until it measures: the kernel side is loaded in well under a second, a busy host takes longer.
const LIMIT: Duration = Duration::from_secs(30);

/// A `hostscope latency --json` under way.
pub struct Measuring(Running);

impl Measuring {
    /// Starts `hostscope latency --json ARGUMENTS`.
    #[must_use]
    pub fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let mut command = hostscope(["latency", "--json", "-v"]);
        Self(Running::start(command.args(arguments)))
    }

    /// Starts, and waits until it measures: from then on nothing of its targets is missed.
    #[must_use]
    pub fn begin<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let mut measuring = Self::start(arguments);
        wait_for("the measurement", LIMIT, || {
            assert!(!measuring.0.has_ended(), "it has ended:\n{}", measuring.0.stderr());
            measuring.0.stderr().contains("measuring").then_some(())
        });
        measuring
    }

    /// Ends it as Ctrl-C does.
    #[must_use]
    pub fn stop(self) -> Measured {
        self.0.signal(Signal::INT);
        self.end()
    }

    /// Waits for its end.
    #[must_use]
    pub fn end(self) -> Measured {
        let ended = self.0.end();
        // A command's own output comes first.
        let json = ended.stdout.find("{\n").map_or("", |at| &ended.stdout[at..]);
        let json = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        Measured { json, ended }
    }
}

/// A finished one.
pub struct Measured {
    /// What it printed.
    pub json: Value,
    /// How it ended.
    pub ended: Ended,
}

impl Measured {
    /// The series of a family that have all of these labels.
    #[must_use]
    pub fn series(&self, family: &str, labels: &[(&str, &str)]) -> Vec<&Value> {
        let families = self.json["families"].as_array().expect("families");
        let all =
            families.iter().filter(|it| it["family"] == family).filter_map(|it| it["series"].as_array());
        all.flatten()
            .filter(|series| labels.iter().all(|(name, value)| series["labels"][name] == *value))
            .collect()
    }

    /// The one series that has these labels.
    #[must_use]
    #[track_caller]
    pub fn one(&self, family: &str, labels: &[(&str, &str)]) -> &Value {
        let found = self.series(family, labels);
        assert_eq!(found.len(), 1, "{family} {labels:?}: {}", self.json);
        found[0]
    }

    /// The sum of a member of the totals of such series: `count`, `errors`.
    #[must_use]
    pub fn sum(&self, family: &str, labels: &[(&str, &str)], member: &str) -> u64 {
        self.series(family, labels).iter().filter_map(|series| series["total"][member].as_u64()).sum()
    }

    /// The sum of such series in seconds.
    #[must_use]
    pub fn seconds(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(family, labels).iter().filter_map(|series| series["total"]["sum_seconds"].as_f64()).sum()
    }

    /// The processes of this name.
    #[must_use]
    pub fn processes(&self, name: &str) -> Vec<&Value> {
        let all = self.json["processes"]["processes"].as_array().expect("processes");
        all.iter().filter(|process| process["name"] == name).collect()
    }
}
