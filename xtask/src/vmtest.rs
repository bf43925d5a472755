//! `cargo xtask vmtest`: runs the kernel tests under the kernels that users have, each in a virtual machine.

mod initramfs;
mod kernel;
mod machine;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::needs::{self, For, Install};
use crate::outcome::Outcome;
use crate::workloads::{self, Linking};
use crate::{ebpf, process, workspace};
use kernel::Kernel;

/// The only triple there is: the kernels are Debian's for amd64.
const TARGET: &str = "x86_64-unknown-linux-gnu";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A kernel to boot instead of all, 5.10, 6.1 and 6.12 (may be repeated)
    #[arg(long = "kernel")]
    kernels: Vec<String>,
    /// How long one kernel may take, in seconds
    #[arg(long, default_value_t = 240)]
    seconds: u64,
    /// Name missing Debian packages instead of installing them
    #[arg(long)]
    no_install: bool,
    /// Run only the tests whose name contains this
    filter: Option<String>,
}

pub(crate) fn main(arguments: &Arguments) -> Result<ExitCode> {
    let kernels = kernel::chosen(&arguments.kernels)?;
    let limit = Duration::from_secs(arguments.seconds);
    let install = Install::unless(arguments.no_install);
    Ok(run(&kernels, limit, install, arguments.filter.as_deref())?.report())
}

/// Runs the kernel tests on every kernel that is tested by default.
pub(crate) fn all(install: Install) -> Result<Outcome> {
    run(&kernel::chosen(&[])?, Duration::from_mins(4), install, None)
}

fn run(kernels: &[&Kernel], limit: Duration, install: Install, filter: Option<&str>) -> Result<Outcome> {
    needs::ensure(&[For::Tests, For::VirtualMachines], install)?;
    let folder = workspace::target().join("vmtest");
    let initramfs = initramfs::build(&programs(install)?, &folder)?;
    let mut sum = Outcome::default();
    let row = |cells: [&str; 5]| {
        format!("{:<8} {:>6} {:>6} {:>7} {:>7}", cells[0], cells[1], cells[2], cells[3], cells[4])
    };
    let mut table = vec![row(["kernel", "passed", "failed", "skipped", "seconds"])];
    for kernel in kernels {
        let started = Instant::now();
        let image = kernel.image()?;
        println!("\nbooting {} ({})", kernel.name, image.release);
        let log = folder.join(format!("console-{}.log", kernel.name));
        let outcome = machine::boot(&machine::Boot {
            kernel: kernel.name,
            image,
            initramfs: &initramfs,
            log,
            limit,
            filter,
        })?;
        let skipped = outcome.skipped.len() as u64;
        let counts = [outcome.passed, outcome.failed, skipped, started.elapsed().as_secs()];
        let [passed, failed, skipped, seconds] = &counts.map(|count| count.to_string());
        table.push(row([kernel.name, passed, failed, skipped, seconds]));
        sum.add(outcome, &format!("{}: ", kernel.name));
    }
    println!("\n{}", table.join("\n"));
    Ok(sum)
}

/// Everything that goes into the machine, static since there are no libraries in it.
fn programs(install: Install) -> Result<initramfs::Programs> {
    let object = ebpf::fresh_object(install)?;
    let folder = workspace::target().join("static");
    let mend = "mend what the compiler says above";
    let cargo = |arguments: &[&str]| {
        let mut command = process::cargo();
        command.current_dir(workspace::root()).args(arguments).args(["--release", "--target", TARGET]);
        command.arg("--target-dir").arg(&folder);
        command.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
        command
    };
    process::run(&mut cargo(&["build", "--package", "hostscope"]), mend)?;
    let mut build = cargo(&["test", "--no-run", "--package", "hostscope-tests", "--test", "vm"]);
    let test = process::build(&mut build)?.pop();
    let test =
        test.ok_or_else(|| Failure::new("cargo has built no test program `vm`", "see tests/Cargo.toml"))?;
    let workloads = workloads::build(Linking::Static, &workspace::target().join("vmtest/workloads"))?;
    Ok(initramfs::Programs {
        hostscope: folder.join(TARGET).join("release/hostscope"),
        object,
        test,
        workloads,
    })
}
