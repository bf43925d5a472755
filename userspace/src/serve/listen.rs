//! Accepting connections, and the limits on them.

use std::future::ready;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::patience::Patient;
use super::problem::Problem;

/// Bounds on what clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections that are served at a time.
    pub connections: u32,
    /// How long a client may take for the head of a request, and how long a connection may wait for its next.
    pub head_timeout: Duration,
    /// How long a client may take to read a response.
    pub response_timeout: Duration,
}

impl Default for Limits {
    /// 64 connections: a scraper and a few people need one each, and each may hold a response of some megabytes. 10 s for a
    /// request and 30 s for a response: Prometheus gives up a scrape after 10 s in all.
    fn default() -> Self {
        Self {
            connections: 64,
            head_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(30),
        }
    }
}

/// Connections beyond [`Limits::connections`] are told so, as many as this at a time; more are closed without a word.
const MAX_REFUSALS: usize = 16;

/// The head of a request. Prometheus sends 500 bytes; browsers with cookies of other programs on this host some thousands.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// How long responses under way are waited for at the end.
const GRACE: Duration = Duration::from_secs(2);

/// The pause after accepting failed: most likely no file descriptor is left, and at once there will be none either.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves until `stop` is true; then ends what is under way, within a limited time.
pub async fn run(listener: TcpListener, router: Router, limits: Limits, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(limits.connections as usize));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let refusing = Router::new().fallback(move || ready(full(limits.connections)));
    loop {
        let stream = tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    after_failed_accept(&error).await;
                    continue;
                }
            },
        };
        let (permit, router) = match room.clone().try_acquire_owned() {
            Ok(permit) => (permit, router.clone()),
            Err(_) => match refusals.clone().try_acquire_owned() {
                Ok(permit) => (permit, refusing.clone()),
                Err(_) => continue,
            },
        };
        let stop = stop.clone();
        tokio::spawn(async move {
            connection(stream, router, limits, stop).await;
            drop(permit);
        });
    }
    drop(listener);
    let _ = timeout(GRACE, room.acquire_many(limits.connections)).await;
}

/// Waits until `stop` is true, or nobody is left to say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn after_failed_accept(error: &io::Error) {
    // The peer has gone again; nothing is wrong here.
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    tracing::warn!("cannot accept a connection: {error}");
    sleep(ACCEPT_PAUSE).await;
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, mut stop: watch::Receiver<bool>) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout).max_buf_size(MAX_HEAD_BYTES);
    let service = TowerToHyperService::new(router);
    let mut connection =
        pin!(builder.serve_connection(Patient::new(stream, limits.response_timeout), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended early: {error}");
    }
}

fn full(connections: u32) -> impl IntoResponse {
    let detail = format!("{connections} connections are open, which is the most: close some, or ask again");
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail);
    ([("connection", "close"), ("retry-after", "1")], problem)
}
