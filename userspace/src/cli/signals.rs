//! How a run with a target ends: by signals, and with the status of the command that was its target.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::capture::{Stop, StoppedCommand};
use crate::error::{Error, Result};

/// The first Ctrl-C (or SIGTERM) ends what `stop` stops, the second the program. True where SIGTERM came.
pub fn end(stop: &Stop) -> Result<Arc<AtomicBool>> {
    let failed =
        |error: std::io::Error| Error::failed(format!("cannot handle signals: {error}"), "raise ulimit -n");
    let once = Arc::new(AtomicBool::new(false));
    let terminated = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the first signal finds `once` unset here and sets it below.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&once))
            .map_err(failed)?;
        signal_hook::flag::register(signal, Arc::clone(&once)).map_err(failed)?;
        signal_hook::low_level::pipe::register(signal, stop.handle()?).map_err(failed)?;
    }
    signal_hook::flag::register(SIGTERM, Arc::clone(&terminated)).map_err(failed)?;
    Ok(terminated)
}

/// The status to end with: of a command its own, once it has ended; SIGTERM is passed on to it.
pub fn status_of(command: Option<&mut StoppedCommand>, terminated: &AtomicBool) -> Result<ExitCode> {
    let Some(command) = command else { return Ok(ExitCode::SUCCESS) };
    if terminated.load(Ordering::Relaxed) {
        command.signal(rustix::process::Signal::TERM);
    }
    command.wait().map(own_status)
}

/// The command's own status as a shell would show it.
fn own_status(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(code as u8)
}
