//! Log lines to stderr: warnings by default, more by `-v` or `RUST_LOG`.

use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// Sets up logging; `RUST_LOG` (such as `hostscope::load=debug`) comes before the flags.
pub fn init(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, 2) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let targets = match std::env::var("RUST_LOG").map(|text| Targets::from_str(&text)) {
        Ok(Ok(targets)) => targets,
        // The programs' log lines and our own; what libraries say only as far as it is a warning.
        _ => Targets::new()
            .with_default(level.min(LevelFilter::WARN))
            .with_target("hostscope", level)
            .with_target("sample_cpu", level),
    };
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).without_time();
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
}
