//! `cargo xtask bench`: hostscope and its peers side by side on the same load, with ratios and the promised bars.

mod load;
mod measure;
mod setting;
mod names;
mod figures;
mod tools;
mod rounds;
mod in_kernel;
mod report;

use std::process::ExitCode;

use crate::failure::{Failure, Result};
use crate::needs::{For, Install};
use crate::{needs, process, workspace};
use load::{Busy, FramePointers, Idle};
use rounds::{Contestant, Course};
use tools::TOOLS;

/// Processes that sleep beside the busy one, as promised for the usual run and for the large one.
const IDLE: usize = 200;
const MANY_IDLE: usize = 1000;

/// Samples a second and CPU.
const HERTZ: u32 = 99;

/// How deep the busy process calls.
const DEPTH: u32 = 12;

#[derive(clap::Args)]
pub(crate) struct Arguments {
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
    let _priority = setting::Priority::set(arguments.nice);
    let mut idle = Idle::start(IDLE)?;
    let busy = Busy::start(&folder, FramePointers::Omitted, DEPTH)?;
    let course = Course { busy: &busy, folder: folder.clone(), seconds: arguments.seconds, hertz: HERTZ };
    let quiet = report::Quiet::begin();
    let _tracefs = setting::Tracefs::mount();

    eprintln!("first samples: {} rounds of 1 s", arguments.rounds);
    for _ in 0..arguments.rounds {
        for contestant in &mut all {
            contestant.clock_run(&course);
        }
    }
    eprintln!("costs: {} rounds of {} s", arguments.rounds, arguments.seconds);
    let share = in_turn(&mut all, arguments.rounds, &course);
    eprintln!("first samples with {MANY_IDLE} idle processes");
    idle.grow_to(MANY_IDLE)?;
    let Some(ours) = all.first() else { return Err(Failure::new("there is no tool", "see TOOLS")) };
    let mut crowded = Contestant::new(ours.tool, Ok(ours.program.clone()));
    for _ in 0..arguments.rounds {
        crowded.clock_run(&course);
    }
    drop(busy);
    drop(idle);
    eprintln!("inside the kernel");
    let in_kernel = in_kernel::measure(&all, &folder);

    let report = report::Report {
        all,
        crowded,
        in_kernel,
        seconds: arguments.seconds,
        rounds: arguments.rounds,
        nice: arguments.nice,
    };
    print!("{}", report.text(&quiet, share));
    Ok(report.exit_code())
}

/// hostscope, a peer, hostscope, the next peer, …: what else the machine does meets all alike. Returns what share of
/// its CPUs the busy process got.
fn in_turn(all: &mut [Contestant], rounds: u32, course: &Course) -> f64 {
    let (began, before) = (std::time::Instant::now(), course.busy.cpu_seconds());
    let Some((ours, peers)) = all.split_first_mut() else { return 1.0 };
    for round in 1..=rounds {
        if peers.is_empty() {
            ours.cost_run(course);
        }
        for peer in peers.iter_mut().filter(|peer| peer.takes_part()) {
            eprintln!("  round {round}: hostscope, {}", peer.tool.title());
            ours.cost_run(course);
            peer.cost_run(course);
        }
    }
    (course.busy.cpu_seconds() - before) / began.elapsed().as_secs_f64() / 2.0
}
