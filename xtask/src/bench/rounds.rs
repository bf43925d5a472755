//! Runs the tools in turn and collects what each cost and when it sampled first.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::figures::Figures;
use super::load::{self, Busy};
use super::measure::{self, Cost};
use super::names::{self, Nameless};
use super::setting::Setting;
use super::tools::{self, Job, Purpose, Tool};
use crate::failure::{Failure, Result};
use crate::workspace;

/// How long past its sampling a tool may take before it counts as hung.
const PATIENCE: Duration = Duration::from_mins(1);

/// A tool and everything measured of it.
pub(crate) struct Contestant {
    pub(crate) tool: &'static Tool,
    pub(crate) program: PathBuf,
    pub(crate) version: String,
    pub(crate) costs: Costs,
    /// Its after-work alone.
    pub(crate) after: Costs,
    /// From the outside: from just before it was started to its first sample.
    pub(crate) first_sample_ms: Figures,
    /// hostscope's own word for the same.
    pub(crate) own_first_sample_ms: Figures,
    /// hostscope's own word for the time from the end of sampling to the finished profile.
    pub(crate) own_finish_ms: Figures,
    pub(crate) nameless: Nameless,
    /// Why it does not take part, or no longer.
    pub(crate) failure: Option<Failure>,
}

/// What the runs of one program came to.
#[derive(Default)]
pub(crate) struct Costs {
    pub(crate) cpu_seconds: Figures,
    pub(crate) user_seconds: Figures,
    pub(crate) system_seconds: Figures,
    pub(crate) peak_megabytes: Figures,
    /// From the end of sampling to its exit, every file written.
    pub(crate) finish_ms: Figures,
}

impl Costs {
    fn push(&mut self, cost: &Cost, finish_ms: f64) {
        self.cpu_seconds.push(cost.cpu_seconds());
        self.user_seconds.push(cost.user_seconds);
        self.system_seconds.push(cost.system_seconds);
        self.peak_megabytes.push(cost.peak_megabytes);
        self.finish_ms.push(finish_ms);
    }
}

/// What all runs have in common.
pub(crate) struct Course<'a> {
    pub(crate) busy: &'a Busy,
    pub(crate) folder: PathBuf,
    pub(crate) seconds: u32,
    pub(crate) hertz: u32,
}

impl Contestant {
    pub(crate) fn new(tool: &'static Tool, located: Result<PathBuf>) -> Self {
        let (program, failure) = match located {
            Ok(program) => (program, None),
            Err(failure) => (PathBuf::new(), Some(failure)),
        };
        let version = if failure.is_none() { tools::version(&program) } else { String::new() };
        Self {
            tool,
            program,
            version,
            costs: Costs::default(),
            after: Costs::default(),
            first_sample_ms: Figures::default(),
            own_first_sample_ms: Figures::default(),
            own_finish_ms: Figures::default(),
            nameless: Nameless::default(),
            failure,
        }
    }

    pub(crate) fn takes_part(&self) -> bool {
        self.failure.is_none()
    }

    /// One short run in which the busy functions are named by the time: when was the first sample taken?
    pub(crate) fn clock_run(&mut self, course: &Course) {
        if self.takes_part()
            && let Err(failure) = self.try_clock_run(course)
        {
            self.failure = Some(failure);
        }
    }

    /// One run at full length: what does it cost?
    pub(crate) fn cost_run(&mut self, course: &Course) {
        if self.takes_part()
            && let Err(failure) = self.try_cost_run(course)
        {
            self.failure = Some(failure);
        }
    }

    fn try_clock_run(&mut self, course: &Course) -> Result<()> {
        let folder = course.folder.join(self.tool.name);
        let job = self.job(course, &folder, Purpose::Clock, 1);
        tools::fresh_folder(&folder)?;
        course.busy.start_clock()?;
        let ran = self.run_once(&job);
        let stopped = course.busy.stop_clock();
        ran.and(stopped)?;
        let text = Tool::text(&job)?;
        let Some((first, _)) = load::slots_in(&text) else {
            return Err(Failure::new(
                format!("{} has no sample that tells its time", self.tool.title()),
                format!("look at its output in {}", folder.display()),
            ));
        };
        self.first_sample_ms.push(first);
        if self.tool.is_hostscope() {
            self.read_own_timing(&folder)?;
            self.nameless.add(&names::nameless(&workspace::read(&folder.join("profile.json"))?)?);
        }
        Ok(())
    }

    fn try_cost_run(&mut self, course: &Course) -> Result<()> {
        let folder = course.folder.join(self.tool.name);
        let job = self.job(course, &folder, Purpose::Cost, course.seconds);
        tools::fresh_folder(&folder)?;
        let (cost, after) = self.run_once(&job)?;
        let startup_ms = if self.tool.is_hostscope() {
            self.read_own_timing(&folder)?
        } else if self.tool.ends_by_timeout() {
            0.0
        } else {
            self.first_sample_ms.median()
        };
        let finish_ms = (cost.wall_seconds - f64::from(course.seconds)) * 1000.0 - startup_ms;
        self.costs.push(&cost, finish_ms);
        if let Some(after) = after {
            self.after.push(&after, after.wall_seconds * 1000.0);
        }
        Ok(())
    }

    /// The tool and its after-work.
    pub(crate) fn run_once(&self, job: &Job) -> Result<(Cost, Option<Cost>)> {
        let setting = self.tool.setting();
        let _setting = setting.map(|(file, value)| Setting::set(file, value)).transpose()?;
        let limit = Duration::from_secs(u64::from(job.seconds)) + PATIENCE;
        let cost = measure::run(
            &mut self.tool.command(job),
            &job.folder.join("stdout.txt"),
            &job.folder.join("stderr.txt"),
            limit,
        )?;
        let after = self.tool.after(job).map(|mut after| {
            let (stdout, stderr) = (job.folder.join("after.txt"), job.folder.join("after-stderr.txt"));
            measure::run(&mut after, &stdout, &stderr, limit)
        });
        Ok((cost, after.transpose()?))
    }

    /// The line that `hostscope -v` ends with; returns the milliseconds until it sampled.
    fn read_own_timing(&mut self, folder: &Path) -> Result<f64> {
        let said = workspace::read(&folder.join("stderr.txt"))?;
        let timing = Timing::read(&said).ok_or_else(|| {
            Failure::new(
                "hostscope -v said nothing of its timing",
                "see report() in userspace/src/cli/record.rs",
            )
        })?;
        self.own_finish_ms.push(timing.finish);
        if let Some(first_sample) = timing.first_sample {
            self.own_first_sample_ms.push(timing.startup + first_sample);
        }
        Ok(timing.startup)
    }

    /// Runs it once while `observe` looks at it, from its start on.
    pub(crate) fn observed<T: Send>(
        &self,
        job: &Job,
        observe: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        thread::scope(|scope| {
            let observer = scope.spawn(observe);
            let ran = self.run_once(job);
            let seen =
                observer.join().unwrap_or_else(|_| Err(Failure::new("the reading died", "run it again")));
            ran.and(seen)
        })
    }

    fn job<'a>(&'a self, course: &Course, folder: &'a Path, purpose: Purpose, seconds: u32) -> Job<'a> {
        let (hertz, pid) = (course.hertz, course.busy.pid());
        Job { program: &self.program, folder, purpose, seconds, hertz, pid, alone: false }
    }
}

/// hostscope's own word on its timing, in milliseconds.
#[derive(Debug, PartialEq)]
struct Timing {
    startup: f64,
    first_sample: Option<f64>,
    finish: f64,
}

impl Timing {
    fn read(stderr: &str) -> Option<Self> {
        let line = stderr.lines().rev().find(|line| line.contains("startup_ms="))?;
        let field = |name: &str| tools::number_after(line, name);
        let first_sample = field("first_sample_ms=");
        Some(Self { startup: field("startup_ms=")?, first_sample, finish: field("finish_ms=")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_timing_line() {
        let line = "note: x\n INFO timing startup_ms=52.25 first_sample_ms=9.5 finish_ms=20\n";
        assert_eq!(
            Timing::read(line),
            Some(Timing { startup: 52.25, first_sample: Some(9.5), finish: 20.0 })
        );
        assert_eq!(
            Timing::read("timing startup_ms=1 finish_ms=2"),
            Some(Timing { startup: 1.0, first_sample: None, finish: 2.0 })
        );
        assert_eq!(Timing::read("nothing"), None);
    }
}
