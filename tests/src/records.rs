//! What the kernel side tells of one process and its children, counted, without the program around it.

use std::collections::HashMap;

use hostscope::collect::{Collector, Event, MappingEvent, RingRecord};
use hostscope::load::preflight::State;
use hostscope::load::{Filter, Kernel, LoadSettings};
use hostscope_wire::loss::Loss;
use hostscope_wire::stack::CountKey;

/// The programs, loaded for one process and what it forks.
pub struct Watch {
    /// The kernel side.
    pub kernel: Kernel,
    collector: Collector,
    pid: u32,
}

/// How many records of each kind there were.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// Births of children.
    pub forks: u64,
    /// Programs started.
    pub execs: u64,
    /// Ends.
    pub exits: u64,
    /// Distinct stacks.
    pub stacks: u64,
    /// New executable mappings of the process itself, by path.
    pub mappings: HashMap<String, u64>,
}

impl Watch {
    /// Loads everything; takes no sample before `kernel.follow_cpus`. Every probe must be on.
    #[must_use]
    pub fn new(pid: u32, frequency_hertz: u32) -> Self {
        let settings = LoadSettings {
            filter: Filter::Processes,
            include_idle: false,
            frequency_hertz,
            drain_interval_ms: 1000,
        };
        let mut kernel = Kernel::load(&settings).unwrap_or_else(|error| panic!("{error}"));
        for probe in &kernel.probes {
            assert_eq!(probe.state, State::On, "{}: {}", probe.spec.name, probe.reason);
        }
        kernel.targets.insert(pid).unwrap_or_else(|error| panic!("{error}"));
        Self { kernel, collector: Collector::default(), pid }
    }

    /// Everything told since the last call.
    #[must_use]
    pub fn drain(&mut self) -> Records {
        let mut records = Records::default();
        let pid = self.pid;
        self.collector.drain(&mut self.kernel, |event| match event {
            Event::Ring(RingRecord::Fork(record)) => {
                assert_eq!(record.parent_tgid, pid, "a birth elsewhere: the filter let it through");
                records.forks += 1;
            }
            Event::Ring(RingRecord::Exec(_)) => records.execs += 1,
            Event::Ring(RingRecord::Exit(_)) => records.exits += 1,
            Event::Ring(RingRecord::Stack(..)) => records.stacks += 1,
            Event::Mapping(MappingEvent::New(mapping)) if mapping.pid == pid => {
                *records.mappings.entry(String::from_utf8_lossy(mapping.path).into_owned()).or_default() += 1;
            }
            Event::Mapping(_) => {}
        });
        assert_eq!(self.collector.malformed, 0);
        records
    }

    /// Counted samples by stack and thread, after sampling has stopped.
    #[must_use]
    pub fn counts(&mut self) -> HashMap<CountKey, u64> {
        let mut counts: HashMap<CountKey, u64> = HashMap::new();
        let outcome = self.kernel.counts.finish(|key, count| *counts.entry(*key).or_default() += count);
        outcome.expect("the maps of counts");
        counts
    }

    /// How much was lost for this reason since load.
    #[must_use]
    pub fn lost(&self, reason: Loss) -> u64 {
        self.kernel.losses.read().iter().filter(|(lost, _)| *lost == reason).map(|(_, count)| count).sum()
    }
}
