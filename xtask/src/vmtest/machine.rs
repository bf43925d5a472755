//! One run of qemu: boots a kernel, follows the tests' lines, ends within its time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::kernel::Image;
use crate::failure::{Failure, Result};
use crate::outcome::{Outcome, Reader};
use crate::{process, workspace};

/// Two, so that what is counted per CPU and what moves between CPUs is tested.
const CPUS: u32 = 2;

/// The unpacked file system lies in memory, twice while it is unpacked.
const MEMORY_MEGABYTES: u32 = 1024;

/// Everything that qemu can emulate, save one instruction: qemu 7.2 computes the flags of cmpxchg16b from stale state, and
/// a kernel that allocates with it (6.12) dies of wild flags in one boot of five. Without it, 45 boots of 45 came up.
const CPU: &str = "max,-cx16";

/// How many of the kernel's last lines are shown when something went wrong.
const TAIL_LINES: usize = 40;

/// What to boot.
pub(super) struct Boot<'a> {
    /// The kernel's name in our table.
    pub(super) kernel: &'a str,
    pub(super) image: Image,
    pub(super) initramfs: &'a Path,
    /// Where the kernel's messages go.
    pub(super) log: PathBuf,
    pub(super) limit: Duration,
    pub(super) filter: Option<&'a str>,
}

/// Boots, and returns what the tests came to; a panic or running out of time is a failure among them.
pub(super) fn boot(boot: &Boot<'_>) -> Result<Outcome> {
    let mut results = Results::default();
    workspace::write(&boot.log, "")?;
    let status = process::stream(&mut qemu(boot), |line| {
        let line = line.trim_end_matches('\r');
        println!("{line}");
        results.read_line(line);
    })?;
    // `timeout` ends with 124, or 137 where the program had to be killed.
    let ran_out = matches!(status.code(), Some(124 | 137));
    let done = results.done;
    let mut outcome = results.reader.finish();
    if ran_out {
        outcome.fail(format!("not done within {} s", boot.limit.as_secs()));
    } else if !done {
        outcome.fail(format!("the machine stopped before the tests were done (qemu: {status})"));
    }
    if !done {
        print_tail(&boot.log)?;
    }
    Ok(outcome)
}

fn qemu(boot: &Boot<'_>) -> Command {
    // `timeout` bounds the run even where this process is killed.
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after=5", &boot.limit.as_secs().to_string(), "qemu-system-x86_64"]);
    command.args(["-accel", "tcg,thread=single", "-cpu", CPU]);
    command.args(["-smp", &CPUS.to_string(), "-m", &MEMORY_MEGABYTES.to_string()]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-kernel").arg(&boot.image.file).arg("-initrd").arg(boot.initramfs);
    command.arg("-serial").arg(format!("file:{}", boot.log.display())).args(["-serial", "stdio"]);
    // An oops stops the machine at once instead of hanging it. What the kernel does not know of its command line becomes the environment of init.
    let (kernel, filter) = (boot.kernel, boot.filter.unwrap_or_default());
    command
        .arg("-append")
        .arg(format!("console=ttyS0 panic=-1 oops=panic HOSTSCOPE_VM={kernel} FILTER={filter}"));
    command
}

/// What the lines of the second serial port have told so far.
#[derive(Default)]
struct Results {
    reader: Reader,
    /// Whether init has come to its end.
    done: bool,
}

impl Results {
    fn read_line(&mut self, line: &str) {
        let Some(words) = line.strip_prefix("vm: ") else { return self.reader.read_line(line) };
        if words == "done" {
            self.done = true;
        } else if let Some(skipped) = words.strip_prefix("skipped ") {
            self.reader.read_skipped(skipped);
        } else if let Some((_, status)) = words.split_once(" ended with ") {
            self.reader.program_ended(status == "0", words);
        }
    }
}

fn print_tail(log: &Path) -> Result<()> {
    // The console may hold any bytes.
    let bytes = fs::read(log).map_err(|error| Failure::file("read", log, &error))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    println!("the end of the kernel's messages ({}):", log.display());
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        println!("  {line}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_tests_in_the_machine() {
        let mut results = Results::default();
        for line in [
            "test a ... ok",
            "test b ... ok",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "vm: /tests/vm ended with 0",
            "vm: skipped b: no task storage in tracing programs",
        ] {
            results.read_line(line);
        }
        assert!(!results.done);
        results.read_line("vm: done");
        assert!(results.done);
        assert_eq!(results.reader.finish().to_string(), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_dead_test_program_is_a_failure() {
        let mut results = Results::default();
        results.read_line("vm: /tests/vm ended with 139");
        assert_eq!(results.reader.finish().to_string(), "0 passed, 1 failed, 0 skipped");
    }
}
