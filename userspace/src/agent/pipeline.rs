//! One turn of what the agent measures, from the kernel's rows to what is published, within its budget.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hostscope_wire::PROBES;
use hostscope_wire::spec::Purpose;

use super::budget::{Budget, Candidate, Change, SLOWER, Step};
use super::own::{self, OwnFigures};
use crate::aggregate::exports;
use crate::aggregate::latency::{Aggregator, Settings};
use crate::config::agent::{AgentSettings, FullSyscalls};
use crate::error::Result;
use crate::load::latency::{ProbeRuns, SystemCalls, measure_runs};
use crate::load::preflight::State;
use crate::measure::{MeasureSettings, Measurement};
use crate::metrics;
use crate::serve::{Check, Statistics};

/// What one turn yields.
pub struct Turn {
    /// For `/metrics` and the API.
    pub statistics: Box<dyn Statistics>,
    /// For the health routes.
    pub health: Vec<Check>,
    /// How many intervals to wait before the next: more than one where the budget asks for it.
    pub intervals: u32,
}

/// How often the budget is looked at.
const EVALUATE_EVERY: Duration = Duration::from_secs(10);

/// How long the kernel measures its programs' run time each time: a fiftieth of the time, since measuring costs as well.
const MEASURE_FOR: Duration = Duration::from_millis(200);

/// Everything that measures. It lives on the collection's thread and may block there.
pub struct Pipeline {
    measurement: Measurement,
    own: OwnFigures,
    settings: AgentSettings,
    costs: Costs,
    budget: Budget,
}

/// What the agent used, at the last evaluation of the budget and since.
struct Costs {
    cpus: f64,
    evaluated: Instant,
    own_seconds: f64,
    /// CPU seconds a second of each probe, as last measured; and of each since the start.
    probes: Vec<ProbeCost>,
    /// Used of what is allowed.
    ratio: f64,
    /// Why the kernel does not measure run times; told once.
    unmeasured: bool,
}

struct ProbeCost {
    name: &'static str,
    load: f64,
    runs_per_second: f64,
    seconds: f64,
    runs: f64,
}

impl Pipeline {
    /// Begins to measure.
    ///
    /// # Errors
    /// The privilege or the kernel does not suffice for anything at all.
    pub fn begin(settings: &AgentSettings) -> Result<Self> {
        let measurement = Measurement::begin(MeasureSettings {
            series: series_settings(settings),
            disabled_probes: settings.disabled_probes.clone(),
            only: None,
            every_system_call: false,
        })?;
        let cpus = crate::load::online_cpus()?.len() as f64;
        let mut pipeline = Self {
            measurement,
            own: OwnFigures::default(),
            settings: settings.clone(),
            costs: Costs::new(cpus),
            budget: Budget::new(),
        };
        pipeline.choose_system_calls();
        Ok(pipeline)
    }

    /// Reads everything once.
    pub fn turn(&mut self) -> Turn {
        if self.costs.evaluated.elapsed() >= EVALUATE_EVERY {
            self.keep_budget();
        }
        self.own.begin();
        if !self.settings.full_services.is_empty() {
            // Their processes come and go.
            self.choose_system_calls();
        }
        let Self { measurement, own, costs, budget, .. } = self;
        let mut health = Vec::new();
        let level = budget.given_up().len();
        measurement.turn(|aggregator| {
            health.push(own.tell(aggregator));
            costs.tell(aggregator, level);
        });
        health.extend(probe_checks(measurement));
        health.push(budget_check(budget, costs));
        own.end();
        let intervals = if budget.given_up().contains(&Step::Interval) { SLOWER } else { 1 };
        Turn { statistics: Box::new(measurement.view()), health, intervals }
    }

    /// Goes on with these settings.
    pub fn apply(&mut self, settings: &AgentSettings) {
        self.measurement.apply(&series_settings(settings));
        for spec in PROBES {
            let is = |settings: &AgentSettings| settings.disabled_probes.iter().any(|name| name == spec.name);
            if is(settings) != is(&self.settings) {
                self.measurement.kernel.pause(spec.group(), is(settings));
            }
        }
        self.settings = settings.clone();
        self.choose_system_calls();
    }

    fn choose_system_calls(&mut self) {
        let given_up = self.budget.given_up().contains(&Step::SystemCalls);
        let chosen = match self.settings.full_syscalls {
            FullSyscalls::On => self.measurement.kernel.time_system_calls(&SystemCalls::All),
            FullSyscalls::Auto if !given_up => self.measurement.kernel.time_system_calls(&SystemCalls::All),
            FullSyscalls::Off | FullSyscalls::Auto
                if !self.settings.full_services.is_empty() && !given_up =>
            {
                self.measurement.time_system_calls_of(&self.settings.full_services)
            }
            FullSyscalls::Off | FullSyscalls::Auto => {
                self.measurement.kernel.time_system_calls(&SystemCalls::Off)
            }
        };
        if let Err(error) = chosen {
            tracing::warn!("{error}");
        }
    }

    /// Compares what was used with what is allowed, and takes one step where that is needed.
    fn keep_budget(&mut self) {
        self.costs.evaluate(&mut self.measurement, self.settings.cpu_budget_percent);
        let may_give_up_calls = self.settings.full_syscalls != FullSyscalls::On;
        let candidates = self.costs.candidates(&self.measurement, may_give_up_calls);
        let Some(change) = self.budget.evaluate(self.costs.ratio, &candidates) else { return };
        let (step, given_up) = match change {
            Change::GiveUp(step) => (step, true),
            Change::TakeBack(step) => (step, false),
        };
        let (percent, of) =
            (self.costs.ratio * self.settings.cpu_budget_percent, self.settings.cpu_budget_percent);
        let verb = if given_up { "gives up" } else { "takes back" };
        tracing::warn!(
            "at {percent:.2}% of the host's CPUs ({of}% allowed) the agent {verb} {}",
            step.describe()
        );
        match step {
            Step::Probe(name) => self.measurement.kernel.pause(name, given_up),
            Step::SystemCalls => self.choose_system_calls(),
            Step::Interval => {}
        }
    }
}

impl Costs {
    fn new(cpus: f64) -> Self {
        Self {
            cpus,
            evaluated: Instant::now(),
            own_seconds: own::cpu_seconds(),
            probes: Vec::new(),
            ratio: 0.0,
            unmeasured: false,
        }
    }

    fn evaluate(&mut self, measurement: &mut Measurement, allowed_percent: f64) {
        let elapsed = self.evaluated.elapsed().as_secs_f64();
        let own_seconds = own::cpu_seconds();
        let own = (own_seconds - self.own_seconds) / elapsed;
        self.measure_probes(measurement);
        for probe in &mut self.probes {
            probe.seconds += probe.load * elapsed;
            probe.runs += probe.runs_per_second * elapsed;
        }
        let in_kernel: f64 = self.probes.iter().map(|probe| probe.load).sum();
        self.ratio = (own + in_kernel) / (self.cpus * allowed_percent / 100.0);
        (self.evaluated, self.own_seconds) = (Instant::now(), own_seconds);
    }

    /// Lets the kernel measure for a moment, and takes that for the whole time since the last one.
    fn measure_probes(&mut self, measurement: &mut Measurement) {
        let before = measurement.kernel.runs();
        let began = Instant::now();
        match measure_runs() {
            Ok(_measuring) => std::thread::sleep(MEASURE_FOR),
            Err(error) => {
                if !std::mem::replace(&mut self.unmeasured, true) {
                    tracing::warn!("the budget knows nothing of the probes' cost: {error}");
                }
                return;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        for ProbeRuns { name, run_ns, runs } in measurement.kernel.runs() {
            let Some(then) = before.iter().find(|then| then.name == name) else { continue };
            let load = run_ns.saturating_sub(then.run_ns) as f64 / 1e9 / seconds;
            let runs_per_second = runs.saturating_sub(then.runs) as f64 / seconds;
            if let Some(known) = self.probes.iter_mut().find(|known| known.name == name) {
                (known.load, known.runs_per_second) = (load, runs_per_second);
            } else {
                self.probes.push(ProbeCost { name, load, runs_per_second, seconds: 0.0, runs: 0.0 });
            }
        }
    }

    /// What could be given up and is on.
    fn candidates(&self, measurement: &Measurement, may_give_up_calls: bool) -> Vec<Candidate> {
        let on = measurement.kernel.probes.iter().filter(|probe| probe.state == State::On);
        let mut groups: BTreeMap<&'static str, f64> = BTreeMap::new();
        for probe in on.filter(|probe| probe.spec.purpose == Purpose::Latency) {
            let known = self.probes.iter().find(|known| known.name == probe.spec.name);
            *groups.entry(probe.spec.group()).or_default() += known.map_or(0.0, |known| known.load);
        }
        // What costs nothing saves nothing.
        let dear = groups.into_iter().filter(|(_, cost)| *cost > 0.0);
        let mut candidates: Vec<Candidate> =
            dear.map(|(group, cost)| Candidate { step: Step::Probe(group), cost }).collect();
        if may_give_up_calls && measurement.kernel.times_system_calls() {
            candidates.push(Candidate { step: Step::SystemCalls, cost: 0.0 });
        }
        candidates
    }

    fn tell(&self, aggregator: &mut Aggregator, level: usize) {
        aggregator.set(&metrics::AGENT_BUDGET_RATIO, None, &[], self.ratio);
        aggregator.set(&metrics::AGENT_BUDGET_LEVEL, None, &[], level as f64);
        for probe in &self.probes {
            aggregator.set(&metrics::AGENT_PROBE_RUN_SECONDS, None, &[probe.name], probe.seconds);
            aggregator.set(&metrics::AGENT_PROBE_RUNS, None, &[probe.name], probe.runs.round());
        }
    }
}

fn series_settings(settings: &AgentSettings) -> Settings {
    Settings {
        budget: exports::Budget {
            max_series: settings.max_series as usize,
            max_series_per_family: settings.family_max_series as usize,
        },
        window_ns: settings.window.as_nanos() as u64,
        service_grace_ns: settings.service_grace.as_nanos() as u64,
        by_service: settings.by_service.iter().cloned().collect(),
    }
}

fn probe_checks(measurement: &Measurement) -> Vec<Check> {
    let check = |probe: &crate::load::ProbeState| Check {
        name: probe.spec.name,
        ok: probe.state != State::Off || probe.is_wanted_off(),
        detail: if probe.reason.is_empty() { probe.spec.yields.into() } else { probe.reason.clone() },
    };
    measurement.kernel.probes.iter().map(check).collect()
}

fn budget_check(budget: &Budget, costs: &Costs) -> Check {
    let given_up: Vec<String> = budget.given_up().iter().map(|step| step.describe()).collect();
    let given_up = if given_up.is_empty() { "nothing".into() } else { given_up.join(", ") };
    Check {
        name: "budget",
        ok: costs.ratio <= 1.0,
        detail: format!("{:.0}% of it used; given up: {given_up}", costs.ratio * 100.0),
    }
}
