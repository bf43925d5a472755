//! The harness of the end-to-end tests: what they run, whom they watch, and how they read what came out.
//!
//! # Layout
//! `host`: one test at a time, and only where it can run. `program`: hostscope itself, run as a user runs it.
//! `workload`: the programs in `tests/workloads`, whose split of CPU time and callers are known by construction. `stacks`:
//! what a profile says of them. `chains`: the callers that a test demands. `snapshot`: a thread stopped
//! at some instant, for walks without the kernel. `records`: what the kernel side tells, counted, without the program
//! around it. `rows`: likewise what it measures. `latency`: what `hostscope latency` says. `cgroup`: cgroups to put
//! workloads into.
//!
//! A test that cannot run fails and names the mend, or says by [`skip!`] what the environment truly lacks; none passes
//! silently.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]

pub mod cgroup;
pub mod chains;
pub mod host;
pub mod latency;
pub mod program;
pub mod records;
pub mod rows;
pub mod snapshot;
pub mod stacks;
pub mod workload;
