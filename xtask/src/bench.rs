//! `cargo xtask bench`: hostscope and its peers side by side on the same load, with ratios and the promised bars.

mod load;
mod web;
mod workloads;
mod measure;
mod setting;
mod bpf_objects;
mod names;
mod stacks;
mod figures;
mod tools;
mod rounds;
mod report;
mod costs;
mod in_kernel;
mod completeness;
mod tables;
mod crowd;
mod watchers;
mod turns;
mod waits;
mod latency;
mod agent;

use std::process::ExitCode;

use crate::failure::{Failure, Result};
use crate::needs::{For, Install};
use crate::{needs, process, workspace};
use report::Section;
use rounds::Contestant;
use tools::TOOLS;
use workloads::WORKLOADS;

/// Processes that sleep beside the busy one, as promised for the usual run and for the large one.
const IDLE: usize = 200;
const MANY_IDLE: usize = 1000;

/// Samples a second and CPU.
const HERTZ: u32 = 99;

/// How deep the busy process calls.
const DEPTH: u32 = 12;

/// A part of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// CPU time, memory, first samples
    Costs,
    /// What a sample costs inside the kernel
    Kernel,
    /// How many stacks are complete, workload by workload
    Completeness,
    /// What unwind tables cost in kernel memory
    Tables,
    /// A host of many programs
    Crowd,
    /// What timing adds to a context switch and to a system call
    Latency,
    /// What the agent costs a host that is idle, one that switches much, and one that serves pages
    Agent,
}

/// What the parts have in common.
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    /// The priority that everything runs at.
    pub(crate) nice: i32,
    /// The names of the workloads that stacks are taken of.
    pub(crate) workloads: Vec<String>,
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this part; may be repeated
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Only this workload, where it is about complete stacks; may be repeated
    #[arg(long, value_name = "NAME", value_parser = workload_names())]
    workload: Vec<String>,
    /// How often each tool runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each run samples
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Only this peer; may be repeated
    #[arg(long, value_name = "NAME", value_parser = peer_names())]
    peer: Vec<String>,
    /// Name missing peers instead of installing them
    #[arg(long)]
    no_install: bool,
    /// Priority of everything that is started; -10 keeps other work on the machine from counting much
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-20..=19))]
    nice: i32,
    /// Run the benches of the single stages instead
    #[arg(long)]
    micro: bool,
    /// Everything is built and installed: how this command calls itself as root
    #[arg(long, hide = true)]
    ready: bool,
}

fn peer_names() -> clap::builder::PossibleValuesParser {
    TOOLS.iter().skip(1).map(|tool| tool.name).collect::<Vec<_>>().into()
}

fn workload_names() -> clap::builder::PossibleValuesParser {
    WORKLOADS.iter().map(|workload| workload.name).collect::<Vec<_>>().into()
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.micro {
        return micro();
    }
    if !arguments.ready {
        prepare(arguments)?;
        if !process::is_root() {
            return again_as_root();
        }
    }
    compare(arguments)
}

/// The benches of the single stages.
fn micro() -> Result<ExitCode> {
    let mut cargo = process::cargo();
    cargo.current_dir(workspace::root()).args(["bench", "--package", "hostscope", "--bench", "*"]);
    process::run(&mut cargo, "mend what cargo says above")?;
    Ok(ExitCode::SUCCESS)
}

/// Builds and installs, as the user who called.
fn prepare(arguments: &Arguments) -> Result<()> {
    let mut build = process::cargo();
    build.current_dir(workspace::root()).args(["build", "--release", "--package", "hostscope"]);
    process::run(&mut build, "mend what the compiler says above")?;
    let install = Install::unless(arguments.no_install);
    if let Err(failure) = needs::ensure(&[For::Benchmarks], install) {
        // The peers that are there can still be compared; the others are named in the table.
        eprintln!("note: {failure}");
    }
    let takes_samples = |part: &Part| !matches!(part, Part::Latency | Part::Agent);
    if !arguments.only.is_empty() && !arguments.only.iter().any(takes_samples) {
        return Ok(());
    }
    for tool in chosen(arguments) {
        // A failure comes again, and is shown, when the tool is looked for in `compare`.
        let _ = tool.locate(install);
    }
    Ok(())
}

fn again_as_root() -> Result<ExitCode> {
    let this = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find this program: {error}"), "run it as root"))?;
    let mut command = process::as_root(this)?;
    command.args(std::env::args_os().skip(1)).arg("--ready");
    let status = command.status().map_err(|error| process::cannot_start(&command, &error))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(arguments: &Arguments) -> impl Iterator<Item = &'static tools::Tool> {
    TOOLS.iter().enumerate().filter_map(|(index, tool)| {
        let named = arguments.peer.is_empty() || arguments.peer.iter().any(|name| name == tool.name);
        (index == 0 || named).then_some(tool)
    })
}

fn compare(arguments: &Arguments) -> Result<ExitCode> {
    let mut all: Vec<Contestant> =
        chosen(arguments).map(|tool| Contestant::new(tool, tool.locate(Install::Refused))).collect();
    let folder = workspace::target().join("bench");
    workspace::make_folder(&folder)?;
    let plan = Plan {
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        nice: arguments.nice,
        workloads: arguments.workload.clone(),
    };
    let _priority = setting::Priority::set(plan.nice);
    let quiet = report::Quiet::begin();
    let _tracefs = setting::Tracefs::mount();
    let mut sections: Vec<Section> = Vec::new();
    let parts = <Part as clap::ValueEnum>::value_variants();
    for part in parts.iter().filter(|part| arguments.only.is_empty() || arguments.only.contains(part)) {
        let section = match part {
            Part::Costs => costs::measure(&mut all, &folder, &plan),
            Part::Kernel => in_kernel::measure(&all, &folder),
            Part::Completeness => Ok(completeness::measure(&all, &folder, &plan)),
            Part::Tables => tables::measure(&all, &folder),
            Part::Crowd => crowd::measure(&all, &folder, &plan),
            Part::Latency => latency::measure(&all, &folder, &plan),
            Part::Agent => agent::measure(&all, &folder, &plan),
        };
        sections.push(section.unwrap_or_else(|failure| Section::failed(&format!("{part:?}"), &failure)));
    }
    report::print(&sections, &plan, &quiet);
    Ok(report::exit_code(&sections))
}
