//! hostscope: a profiler of Linux hosts that sees everything from the kernel and needs nothing from the programs it
//! watches.
//!
//! # Layout
//! The modules stand in the order in which data flows; a module uses those before it, never one after it.

pub mod config;
pub mod error;
pub mod load;
pub mod collect;
pub mod targets;
pub mod aggregate;
pub mod symbolize;
pub mod profile;
pub mod outputs;
pub mod capture;
pub mod cli;
