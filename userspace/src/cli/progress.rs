//! The line that says how far a run is: on standard error, and only where that is a terminal.

use std::io::{IsTerminal, Write};
use std::time::Duration;

/// The line, and whether it stands there now.
pub struct ProgressLine {
    enabled: bool,
    shown: bool,
    duration: Option<Duration>,
}

impl ProgressLine {
    /// A line for a run of `duration`; for one that ends by Ctrl-C it begins with `hint`.
    pub fn new(quiet: bool, duration: Option<Duration>, hint: &str) -> Self {
        let line = Self { enabled: !quiet && std::io::stderr().is_terminal(), shown: false, duration };
        if line.enabled && duration.is_none() {
            eprintln!("hostscope: {hint}");
        }
        line
    }

    /// Says how long it has been, and more.
    pub fn show(&mut self, elapsed: Duration, more: &str) {
        if !self.enabled {
            return;
        }
        self.shown = true;
        let of =
            self.duration.map_or_else(String::new, |duration| format!(" of {:.0}", duration.as_secs_f64()));
        eprint!("\r\x1b[Khostscope: {:.0}{of} s{more}", elapsed.as_secs_f64());
        let _ = std::io::stderr().flush();
    }

    /// Takes it away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[K");
        }
    }
}
