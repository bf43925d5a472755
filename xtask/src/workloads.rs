//! Builds the programs that the tests watch: each `tests/workloads/*.c`, `.cpp`, `.rs` and `.go` into an executable of
//! its name.
//!
//! A comment `// flags: …` among the first lines of a file gives compiler flags of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Result;
use crate::{process, workspace};

/// How the executables find their libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linking {
    /// As usual: for the host's tests.
    Dynamic,
    /// Everything inside: a virtual machine has no libraries.
    Static,
}

/// How many lines at the head of a file may hold the flags.
const HEAD_LINES: usize = 10;

/// Builds every workload into `folder`; returns the executables.
pub(crate) fn build(linking: Linking, folder: &Path) -> Result<Vec<PathBuf>> {
    workspace::make_folder(folder)?;
    let sources = workspace::root().join("tests/workloads");
    let files = if sources.is_dir() { workspace::files(&sources)? } else { Vec::new() };
    let mut built = Vec::new();
    for source in files.iter().filter(|file| file.parent() == Some(&sources)) {
        let Some((mut compiler, static_flag)) = compiler(source) else { continue };
        let executable = folder.join(source.file_stem().unwrap_or_default());
        let text = workspace::read(source)?;
        // Without a dynamic loader nothing could load a library.
        if linking == Linking::Static && flags(&text).any(|flag| flag == "-shared") {
            continue;
        }
        // Some are static anyhow, in a way of their own.
        if linking == Linking::Static && !flags(&text).any(|flag| flag.starts_with("-static")) {
            compiler.args(static_flag);
        }
        compiler.args(flags(&text)).arg("-o").arg(&executable).arg(source);
        process::run(&mut compiler, &format!("mend {}", workspace::relative(source)))?;
        built.push(executable);
    }
    Ok(built)
}

/// The compiler for a source file and its flag for static executables, or nothing where the file is not one.
fn compiler(source: &Path) -> Option<(Command, Option<&'static str>)> {
    let (program, flags, static_flag): (_, &[&str], _) = match source.extension()?.to_str()? {
        "c" => ("gcc", &["-g", "-pthread"], Some("-static")),
        "cpp" => ("g++", &["-g", "-pthread"], Some("-static")),
        "rs" => ("rustc", &["--edition=2024", "-g"], Some("-Ctarget-feature=+crt-static")),
        // Without C, they are static by themselves.
        "go" => ("go", &["build"], None),
        _ => return None,
    };
    let mut command = Command::new(program);
    command.args(flags);
    Some((command, static_flag))
}

fn flags(text: &str) -> impl Iterator<Item = &str> {
    let line = text.lines().take(HEAD_LINES).find_map(|line| line.strip_prefix("// flags:"));
    line.unwrap_or_default().split_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_flags_from_the_head_only() {
        assert_eq!(
            flags("// flags: -O2 -fno-omit-frame-pointer\nint main;").collect::<Vec<_>>(),
            ["-O2", "-fno-omit-frame-pointer"]
        );
        assert_eq!(flags("//! Words.\n// flags: -O1\n").collect::<Vec<_>>(), ["-O1"]);
        assert_eq!(flags(&format!("{}// flags: -O1", "\n".repeat(HEAD_LINES))).count(), 0);
    }
}
