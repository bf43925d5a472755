//! Telling systemd how the agent is, as `sd_notify(3)` describes.
//!
//! Not by the crate sd-notify: std can send to abstract sockets itself, and what is left is these lines.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Whom to tell; nobody where the agent was not started by a manager that asks for it.
#[derive(Debug)]
pub struct Notifier {
    target: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// What `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say.
    pub fn from_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| for_us);
        Self::new(std::env::var_os("NOTIFY_SOCKET"), watchdog)
    }

    fn new(socket: Option<OsString>, watchdog_us: Option<u64>) -> Self {
        let target = socket.filter(|name| !name.is_empty()).and_then(|name| match open(&name) {
            Ok(target) => Some(target),
            Err(error) => {
                tracing::warn!("cannot tell systemd anything through {}: {error}", name.display());
                None
            }
        });
        // Half of it is the time between two signs of life; a watchdog of no time asks for none.
        let watchdog = watchdog_us.filter(|microseconds| *microseconds > 1).map(Duration::from_micros);
        Self { watchdog: watchdog.filter(|_| target.is_some()).map(|time| time / 2), target }
    }

    /// How often `WATCHDOG=1` is wanted; `None` where it is not.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Tells `state`. A manager that cannot be reached is no reason to stop measuring.
    pub fn tell(&self, state: &str) {
        let Some((socket, address)) = &self.target else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::debug!("cannot tell systemd {state:?}: {error}");
        }
    }

    /// Tells that the settings are being read again; `READY=1` has to follow. `Type=notify-reload` wants the time.
    pub fn tell_reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }
}

/// `/a/path`, or `@name` in the abstract namespace.
fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "only unix sockets can be written to")),
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold the agent up.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 200];
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        let length = socket.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..length].to_vec()).expect("text")
    }

    #[test]
    fn paths_and_abstract_names_are_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("a socket");
        let notifier = Notifier::new(Some(path.into()), Some(3_000_000));
        assert_eq!(notifier.watchdog(), Some(Duration::from_millis(1500)));
        notifier.tell("READY=1");
        assert_eq!(received(&by_path), "READY=1");

        let name = format!("hostscope-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let by_name = UnixDatagram::bind_addr(&address).expect("a socket");
        let notifier = Notifier::new(Some(format!("@{name}").into()), None);
        notifier.tell_reloading();
        let text = received(&by_name);
        let time =
            text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|time| time.parse::<u64>().ok());
        assert!(time.is_some_and(|time| time > 0), "{text:?}");
    }

    #[test]
    fn what_is_odd_tells_nobody() {
        for name in ["", "relative", "vsock:2:1", "/nowhere/at/all"] {
            let notifier = Notifier::new(Some(name.into()), None);
            notifier.tell("READY=1");
            assert_eq!(notifier.watchdog(), None);
        }
        assert_eq!(Notifier::new(None, Some(5)).watchdog(), None);
    }
}
