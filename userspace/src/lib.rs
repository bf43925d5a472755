//! hostscope: a profiler of Linux hosts that needs nothing from the programs it watches.

pub mod config;
pub mod error;

pub mod targets;

pub mod symbolize;

pub mod profile;
