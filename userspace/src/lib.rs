//! hostscope: a profiler of Linux hosts that sees everything from the kernel and needs nothing from the programs it
//! watches.
//!
//! # Layout
//! The modules stand in the order in which data flows; a module uses those before it, never one after it.
//!
//! One thing flows back: what the kernel side needs for walking stacks. `targets` knows what is mapped; `targets::unwind`
//! compiles a file's call frame information into a table (its format is `hostscope_wire::unwind`), `targets::tables` keeps
//! a thread that does so and a number for each file, and both tables and mappings go to the kernel through the handles in
//! `load::unwind`. The walk itself is `ebpf/programs/unwind`, which the tests also run on the host.
//!
//! Beside profiles, which are samples, there is latency, which is counts. The kernel side adds up what it measures in rows, one
//! for each process and what else tells it apart (`hostscope_wire::row`); `load::rows` maps them into memory, `collect::rows` tells
//! what was added since the last look, and `aggregate::latency` folds that into services and statistics, named by
//! `targets::services`. `measure` joins these stages for everybody: `measure::run` is one measurement of a target, which the command
//! line prints (`cli::latency`), and `agent` takes a turn of one each second and gives what it knows to `serve`, within its budget.

pub mod config;
pub mod error;
pub mod metrics;
pub mod load;
pub mod collect;
pub mod targets;
pub mod aggregate;
pub mod symbolize;
pub mod profile;
pub mod outputs;
pub mod capture;
pub mod measure;
pub mod serve;
pub mod agent;
pub mod cli;
