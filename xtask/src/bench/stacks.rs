//! The user stacks that a tool has written, and whether each is complete: by one definition for all tools.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::tools::Tool;
use crate::failure::{Failure, Result};
use crate::workspace;

/// Where stacks begin: the function of the outermost frame of a complete stack, without its ending `.abi0`.
const ROOTS: &[&str] = &[
    // The entry of a program and of its loader.
    "_start",
    "_dl_start_user",
    // Where the kernel lets a thread begin (glibc names the same code in several ways).
    "clone",
    "__clone",
    "__GI___clone",
    "clone3",
    "__clone3",
    "__GI___clone3",
    // Go: a goroutine, a thread of its scheduler, and the switches to the stack of that thread, which begins there.
    "runtime.goexit",
    "runtime.mstart",
    "runtime.rt0_go",
    "runtime.mcall",
    "runtime.morestack",
    "_rt0_amd64_linux",
];

/// The only caller of this is `_start`, which has no name in a stripped program.
const CALLED_BY_START: &str = "__libc_start_main";

/// One user stack and how often it was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserStack {
    pub(crate) pid: u32,
    pub(crate) count: u64,
    /// Functions, the outermost first; the kernel's are left out. Empty where the walk found nothing.
    pub(crate) names: Vec<String>,
    /// The tool's own word, where it has one.
    pub(crate) own_word: Option<bool>,
}

impl UserStack {
    /// Whether it reaches the beginning of its thread. Nameless frames beyond a beginning are forgiven: one peer does
    /// not know where to stop.
    pub(crate) fn is_complete(&self) -> bool {
        let nameless = self.names.iter().take_while(|name| is_nameless(name)).count();
        self.names.get(nameless).is_some_and(|name| {
            let name = name.strip_suffix(".abi0").unwrap_or(name);
            ROOTS.contains(&name) || nameless > 0 && name.starts_with(CALLED_BY_START)
        })
    }
}

/// `[unknown]`, `[file+0xoffset]` and the like; `_start` of a stripped program is such a one.
fn is_nameless(name: &str) -> bool {
    name.starts_with('[') && name.ends_with(']')
}

/// Reads the stacks that a run for [`super::tools::Purpose::Stacks`] has left in `folder`.
pub(crate) fn read(tool: &Tool, folder: &Path) -> Result<Vec<UserStack>> {
    if tool.is_hostscope() {
        return hostscope(&workspace::read(&folder.join("profile.json"))?);
    }
    let text = |name: &str| -> Result<String> {
        Ok(String::from_utf8_lossy(&workspace::read_bytes(&folder.join(name))?).into_owned())
    };
    match tool.name {
        "perf-dwarf" => Ok(perf(&text("after.txt")?)),
        "profile-bee-dwarf" => Ok(profile_bee(&text("profile.folded")?)),
        name => {
            Err(Failure::new(format!("the stacks of {name} cannot be read"), "see xtask/src/bench/stacks.rs"))
        }
    }
}

/// The output of `perf script -F pid,ip,sym,dso`: a line with the process id, a line a frame (leaf first), an empty one.
pub(crate) fn perf(text: &str) -> Vec<UserStack> {
    let mut counted: HashMap<(u32, Vec<String>), u64> = HashMap::new();
    for sample in text.split("\n\n") {
        let mut lines = sample.lines().skip_while(|line| line.trim().is_empty());
        let Some(pid) = lines.next().and_then(|line| line.trim().parse().ok()) else { continue };
        let mut names: Vec<String> = lines.filter_map(perf_frame).map(str::to_owned).collect();
        names.reverse();
        *counted.entry((pid, names)).or_default() += 1;
    }
    counted.into_iter().map(|((pid, names), count)| UserStack { pid, count, names, own_word: None }).collect()
}

/// The function in `    7f01 function (file)`; nothing for the kernel's.
fn perf_frame(line: &str) -> Option<&str> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (name, file) = rest.rsplit_once(" (")?;
    let of_kernel = file.starts_with('[') && !["[unknown])", "[vdso])"].contains(&file);
    (!of_kernel).then(|| name.split_once("@@").map_or(name, |(name, _)| name))
}

/// Folded stacks of profile-bee with `--group-by-process`: `name (pid);comm;outermost;…;leaf count`. The kernel's
/// functions, at the leaf's end, have `_k` behind their names.
pub(crate) fn profile_bee(text: &str) -> Vec<UserStack> {
    text.lines()
        .filter_map(|line| {
            let (stack, count) = line.rsplit_once(' ')?;
            let (process, frames) = stack.split_once(';')?;
            let pid = process.rsplit_once('(')?.1.strip_suffix(')')?.parse().ok()?;
            let mut names: Vec<String> = frames.split(';').skip(1).map(str::to_owned).collect();
            while names.pop_if(|name| name.ends_with("_k")).is_some() {}
            Some(UserStack { pid, count: count.parse().ok()?, names, own_word: None })
        })
        .collect()
}

/// hostscope's `.json`.
pub(crate) fn hostscope(json: &str) -> Result<Vec<UserStack>> {
    let profile: Profile = serde_json::from_str(json).map_err(|error| {
        Failure::new(
            format!("hostscope's JSON is not what it was: {error}"),
            "mend xtask/src/bench/stacks.rs",
        )
    })?;
    let read = |sample: &Sample| {
        let stack = profile.stacks.get(sample.stack)?;
        let user = stack.locations.iter().rev().filter_map(|&index| profile.locations.get(index));
        let names = user
            .take_while(|location| location.kind != "kernel")
            .filter_map(|location| profile.functions.get(location.lines.last()?.function))
            .map(|function| function.name.clone())
            .collect();
        let pid = profile.processes.get(sample.process)?.pid;
        let own_word = Some(stack.end == "complete");
        Some(UserStack { pid, count: *sample.values.first()?, names, own_word })
    };
    Ok(profile.samples.iter().filter_map(read).collect())
}

/// The part of `.json` that is looked at here.
#[derive(Deserialize)]
struct Profile {
    functions: Vec<Function>,
    locations: Vec<Location>,
    stacks: Vec<Stack>,
    processes: Vec<Process>,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Function {
    name: String,
}

#[derive(Deserialize)]
struct Location {
    /// The innermost inlined function first.
    lines: Vec<Line>,
    kind: String,
}

#[derive(Deserialize)]
struct Line {
    function: usize,
}

#[derive(Deserialize)]
struct Stack {
    /// Leaf first, kernel before user.
    locations: Vec<usize>,
    end: String,
}

#[derive(Deserialize)]
struct Process {
    pid: u32,
}

#[derive(Deserialize)]
struct Sample {
    process: usize,
    stack: usize,
    values: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> UserStack {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        UserStack { pid: 1, count: 1, names, own_word: None }
    }

    #[test]
    fn a_complete_stack_begins_where_threads_begin() {
        assert!(stack(&["_start", "main"]).is_complete());
        assert!(stack(&["clone3", "start_thread"]).is_complete());
        assert!(stack(&["runtime.goexit.abi0", "main.main"]).is_complete());
        assert!(stack(&["[unknown]", "[unknown]", "_start", "main"]).is_complete());
        assert!(stack(&["[nginx+0x1e0]", "__libc_start_main_impl", "main"]).is_complete());
        assert!(!stack(&["__libc_start_main_impl", "main"]).is_complete());
        assert!(!stack(&["start_thread", "work"]).is_complete());
        assert!(!stack(&["[unknown]", "main"]).is_complete());
        assert!(!stack(&["main", "_start"]).is_complete());
        assert!(!stack(&["[unknown]"]).is_complete());
        assert!(!stack(&[]).is_complete());
    }

    #[test]
    fn reads_perf_script() {
        let text = "\
  42 
\tffffffff8101 entry_SYSCALL_64 ([kernel.kallsyms])
\t           89 operator new(unsigned long) (/usr/lib/libstdc++.so.6)
\t         2730 __libc_start_main@@GLIBC_2.34 (/usr/lib/libc.so.6)
\t            0 [unknown] (/usr/sbin/nginx)

  43 
\tffffffff8101 schedule ([kernel.kallsyms])

  43 
\tffffffff8102 schedule ([kernel.kallsyms])

";
        let mut stacks = perf(text);
        stacks.sort_by_key(|stack| stack.pid);
        let names = ["[unknown]", "__libc_start_main", "operator new(unsigned long)"];
        assert_eq!(stacks.len(), 2);
        assert_eq!(stacks[0], UserStack { pid: 42, ..stack(&names) });
        assert!(stacks[0].is_complete());
        assert_eq!(stacks[1], UserStack { pid: 43, count: 2, ..stack(&[]) });
    }

    #[test]
    fn reads_profile_bee() {
        let text = "\
a (b) (7);a;[unknown];_start;main;do_syscall_64_k;read_k 25
kthread (8);kthread;ret_from_fork_k 2
no process 3
";
        let main = UserStack { pid: 7, count: 25, ..stack(&["[unknown]", "_start", "main"]) };
        let kernel_only = UserStack { pid: 8, count: 2, ..stack(&[]) };
        assert_eq!(profile_bee(text), [main, kernel_only]);
    }

    #[test]
    fn reads_hostscope() {
        let json = r#"{
            "functions": [{"name": "read"}, {"name": "main"}, {"name": "_start"}, {"name": "inlined"}],
            "locations": [
                {"lines": [{"function": 0}], "kind": "kernel"},
                {"lines": [{"function": 3}, {"function": 1}], "kind": "native"},
                {"lines": [{"function": 2}], "kind": "native"}
            ],
            "stacks": [{"locations": [0, 1, 2], "end": "complete"}, {"locations": [0], "end": "no_user_stack"}],
            "processes": [{"pid": 7}],
            "samples": [{"process": 0, "stack": 0, "values": [9, 1]}, {"process": 0, "stack": 1, "values": [1, 1]}]
        }"#;
        let complete = UserStack { pid: 7, count: 9, own_word: Some(true), ..stack(&["_start", "main"]) };
        let empty = UserStack { pid: 7, own_word: Some(false), ..stack(&[]) };
        assert_eq!(hostscope(json).unwrap(), [complete, empty]);
        assert!(hostscope("{}").is_err());
    }
}
