//! The long-running agent: the order of its start, its life among signals, and its end.
//!
//! A thread of its own collects (`collection`), so that what blocks there blocks no scrape, and publishes what it found;
//! this thread serves it. The two share nothing but the last [`Published`], in a `tokio::sync::watch`: its lock is held for
//! the copy of one pointer, and its waiters learn of each new one, as a stream of updates needs it.

mod budget;
mod collection;
mod notify;
mod own;
mod pipeline;
mod statistics;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, interval, timeout};

use crate::config::agent::{AgentSettings, Sources};
use crate::error::{Error, Result};
use crate::serve::{self, Limits, Published, Shared};
use collection::Collection;
use notify::Notifier;
pub use own::OwnFigures;
pub use pipeline::{Pipeline, Turn};

/// How long the end of the collection is waited for. What it holds in the kernel goes with the process in any case.
const COLLECTION_END: Duration = Duration::from_secs(2);

/// Runs the agent until SIGTERM or SIGINT; `listening` is told the address once it is bound.
///
/// # Errors
/// A setting is not allowed, the port is taken, the pipeline cannot begin, or the collection has ended by itself.
pub fn run(sources: &Sources, listening: impl FnOnce(SocketAddr)) -> Result<()> {
    let settings = sources.resolve()?;
    // Before the kernel side is loaded: a port that is taken should be told at once.
    let listener = bind(settings.listen)?;
    // One thread: requests are few, and each more costs memory. What takes long is on the collection's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| of_system("start the runtime", &error))?;
    runtime.block_on(async {
        // Before the pipeline begins, which may take a second: a signal then should end the agent as at any other time.
        let signals = Signals::new().map_err(|error| of_system("listen to signals", &error))?;
        let pipeline = Pipeline::begin(&settings)?;
        let listener = tokio::net::TcpListener::from_std(listener);
        let listener = listener.map_err(|error| of_system("use the listening socket", &error))?;
        listening(listener.local_addr().map_err(|error| of_system("ask for the own address", &error))?);
        let (collection, published) = Collection::start(pipeline, &settings)?;
        let (stop, stopped) = watch::channel(false);
        let shared = Shared::new(published.clone())?;
        let server = tokio::spawn(serve::run(listener, serve::router(shared), Limits::default(), stopped));
        let mut life =
            Life { sources, settings, collection, published, notifier: Notifier::from_environment() };
        let result = life.until_stopped(signals).await;
        life.notifier.tell("STOPPING=1");
        // The receiver is gone only where the server has ended before.
        let _ = stop.send(true);
        let _ = server.await;
        life.end().await;
        result
    })
}

fn of_system(what: &str, error: &io::Error) -> Error {
    Error::failed(format!("cannot {what}: {error}"), "see the limits of the process (ulimit -n -u)")
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| {
        let port = address.port();
        let mend = match error.kind() {
            io::ErrorKind::AddrInUse => {
                return Error::failed(
                    format!("cannot listen on {address}: another program does"),
                    format!(
                        "end it (ss -ltnp 'sport = {port}' names it) or choose another: --listen {}:PORT",
                        address.ip()
                    ),
                );
            }
            io::ErrorKind::PermissionDenied => "choose a port above 1023, or add CAP_NET_BIND_SERVICE",
            _ => "choose an address that this host has: --listen 127.0.0.1:9464",
        };
        Error::failed(format!("cannot listen on {address}: {error}"), mend)
    })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// The agent once everything has started.
struct Life<'a> {
    sources: &'a Sources,
    settings: AgentSettings,
    collection: Collection,
    published: watch::Receiver<Arc<Published>>,
    notifier: Notifier,
}

impl Life<'_> {
    async fn until_stopped(&mut self, mut signals: Signals) -> Result<()> {
        let mut is_ready = false;
        // Half of what systemd waits, as sd_watchdog_enabled(3) advises; without a watchdog it ticks for nobody.
        let mut tick = interval(self.notifier.watchdog().unwrap_or(Duration::from_hours(1)));
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
                _ = signals.hang_up.recv() => self.reload(),
                _ = tick.tick() => self.feed_watchdog(),
                changed = self.published.changed() => {
                    if changed.is_err() {
                        return Err(Error::failed(
                            "the collection has ended by itself",
                            "this is a fault of hostscope: report it with what the log says before",
                        ));
                    }
                    if !is_ready {
                        is_ready = true;
                        self.notifier.tell("READY=1");
                    }
                }
            }
        }
    }

    /// Only as long as something is measured: else systemd should start the agent again.
    fn feed_watchdog(&self) {
        if self.notifier.watchdog().is_some()
            && serve::is_live(&self.published.borrow(), Instant::now().into_std())
        {
            self.notifier.tell("WATCHDOG=1");
        }
    }

    fn reload(&mut self) {
        self.notifier.tell_reloading();
        match self.sources.resolve() {
            Err(error) => tracing::error!("the settings stay as they were: {error}"),
            Ok(mut settings) => {
                for key in settings.keep_what_stays(&self.settings) {
                    tracing::warn!("{key} has changed, and will be heeded at the next start only");
                }
                self.settings = settings;
                self.collection.apply(self.settings.clone());
                tracing::info!("the settings were read again");
            }
        }
        self.notifier.tell("READY=1");
    }

    async fn end(self) {
        let Self { collection, mut published, .. } = self;
        collection.stop();
        // It drops its end of the channel when it is done.
        let ended = timeout(COLLECTION_END, async { while published.changed().await.is_ok() {} }).await;
        if ended.is_err() {
            tracing::warn!("the collection did not end within {COLLECTION_END:?}; it ends with the process");
        }
    }
}
