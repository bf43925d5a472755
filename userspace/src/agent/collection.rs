//! The thread that collects: one turn of the pipeline an interval, each published whole.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::pipeline::{Pipeline, Turn};
use crate::config::agent::AgentSettings;
use crate::error::{Error, Result};
use crate::serve::Published;

/// The thread, as long as this is there.
pub struct Collection {
    settings: Sender<AgentSettings>,
}

impl Collection {
    /// Starts it; the first turn begins at once.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn start(
        pipeline: Pipeline,
        settings: &AgentSettings,
    ) -> Result<(Self, watch::Receiver<Arc<Published>>)> {
        let (sender, receiver) = mpsc::channel();
        let interval = settings.interval;
        let (publisher, published) = watch::channel(Arc::new(Published::nothing(interval)));
        let work = move || collect(pipeline, interval, &receiver, &publisher);
        thread::Builder::new().name("collect".into()).spawn(work).map_err(|error| {
            Error::failed(format!("cannot start a thread: {error}"), "raise the limit of threads (ulimit -u)")
        })?;
        Ok((Self { settings: sender }, published))
    }

    /// Goes on with these settings, from a turn that begins at once.
    pub fn apply(&self, settings: AgentSettings) {
        // Where the thread has ended, whoever waits for what it publishes learns it.
        let _ = self.settings.send(settings);
    }

    /// Lets it end after the turn under way, and the kernel side with it.
    pub fn stop(self) {
        drop(self);
    }
}

fn collect(
    mut pipeline: Pipeline,
    mut interval: Duration,
    orders: &Receiver<AgentSettings>,
    publisher: &watch::Sender<Arc<Published>>,
) {
    let mut next = Instant::now();
    let mut turns = 0;
    loop {
        let Turn { statistics, health, intervals } = pipeline.turn();
        turns += 1;
        publisher.send_replace(Arc::new(Published {
            statistics,
            health,
            turns,
            interval,
            taken: Instant::now(),
            taken_at: SystemTime::now(),
        }));
        // Turns that were missed are not made up for: what one reads is cumulative.
        next = (next + interval * intervals).max(Instant::now());
        match orders.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(settings) => {
                interval = settings.interval;
                pipeline.apply(&settings);
                next = Instant::now();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_turns_takes_settings_and_ends() {
        let mut settings = AgentSettings::defaults().expect("defaults");
        settings.interval = Duration::from_hours(1);
        let pipeline = Pipeline::begin(&settings).expect("nothing is needed");
        let (collection, mut published) = Collection::start(pipeline, &settings).expect("a thread");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            published.changed().await.expect("the first turn");
            assert_eq!(published.borrow_and_update().turns, 1);
            settings.interval = Duration::from_millis(1);
            collection.apply(settings.clone());
            published.wait_for(|published| published.turns > 3).await.expect("more turns");
            assert_eq!(published.borrow().interval, settings.interval);
            collection.stop();
            while published.changed().await.is_ok() {}
        });
    }
}
