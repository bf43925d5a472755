//! The agent's HTTP side: metrics, health and statistics of what was published last, to whoever asks.
//!
//! Nothing here measures or waits for a measurement: a request takes the last [`Published`], which is immutable, and answers
//! from it.

mod exposition;
mod health;
mod listen;
mod patience;
mod problem;
mod published;
mod query;
mod reply;
mod requests;
mod statistics;

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Body;
use tokio::sync::watch;

use crate::aggregate::snapshot::FamilySeries;
use crate::error::Result;
pub use exposition::{Exposition, Source};
pub use health::is_live;
pub use listen::{Limits, run};
use problem::Problem;
pub use published::{
    Check, FamilyStatistics, NoStatistics, ProcessName, Published, Statistics, Subject, TimeSpan,
};
use reply::Reply;
pub use reply::compress;
use requests::Requests;

/// What is served, in the order of the index: route, and what it gives.
const ROUTES: &[(&str, &str)] = &[
    ("/", "this page"),
    ("/metrics", "metrics in Prometheus' text format"),
    ("/health/live", "whether the agent still measures: 200 or 503"),
    ("/health/ready", "whether it has measured: 200 or 503"),
    ("/api/v1/latency", "statistics of services, as JSON"),
    ("/api/v1/processes", "statistics of processes, as JSON"),
];

/// What every request can see.
#[derive(Clone)]
pub struct Shared {
    published: watch::Receiver<Arc<Published>>,
    requests: Arc<Requests>,
    exposition: Arc<Exposition>,
}

impl Shared {
    /// Answers from what `published` holds at the time of each request.
    ///
    /// # Errors
    /// Never, as far as is known: see [`Exposition::new`].
    pub fn new(published: watch::Receiver<Arc<Published>>) -> Result<Self> {
        let requests = Arc::new(Requests::default());
        let (latest, own) = (published.clone(), requests.clone());
        let exposition = Exposition::new(move |each: &mut dyn FnMut(&FamilySeries)| {
            let latest = latest.borrow().clone();
            latest.statistics.series().iter().chain(&own.families()).for_each(each);
        })?;
        Ok(Self { published, requests, exposition: Arc::new(exposition) })
    }

    fn latest(&self) -> Arc<Published> {
        self.published.borrow().clone()
    }
}

/// Every route.
pub fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/api/v1/latency", get(latency))
        .route("/api/v1/processes", get(processes))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(shared.clone(), watch_over))
        .with_state(shared)
}

/// Refuses bodies and counts requests.
async fn watch_over(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let route = ROUTES.iter().position(|(route, _)| *route == request.uri().path());
    let response = if request.body().is_end_stream() {
        next.run(request).await
    } else {
        // Without reading it, so the connection cannot go on.
        let mut response =
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "a request may have no body here: send none".into())
                .into_response();
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        response
    };
    shared.requests.count(route, response.status());
    response
}

async fn index(headers: HeaderMap) -> Response {
    let mut page = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><title>hostscope</title><h1>hostscope</h1><ul>",
    );
    for (route, gives) in ROUTES {
        // Writing to a string cannot fail.
        let _ = write!(page, "<li><a href=\"{route}\">{route}</a>: {gives}");
    }
    page.push_str("</ul>\n");
    Reply::new("text/html; charset=utf-8", &headers).send(page.as_bytes())
}

async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    Reply::new(exposition::CONTENT_TYPE, &headers).write(|out| shared.exposition.write(out))
}

async fn live(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    health::live(&shared.latest(), Instant::now(), &headers)
}

async fn ready(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    health::ready(&shared.latest(), &headers)
}

async fn latency(State(shared): State<Shared>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    statistics::reply(&shared.latest(), statistics::Kind::Services, query.as_deref(), &headers)
}

async fn processes(State(shared): State<Shared>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    statistics::reply(&shared.latest(), statistics::Kind::Processes, query.as_deref(), &headers)
}

async fn unknown(uri: Uri) -> Problem {
    // A path of the length of the header limit would be sent back whole.
    let path: String = uri.path().chars().take(100).collect();
    Problem::new(StatusCode::NOT_FOUND, format!("there is no {path}: GET / lists what there is"))
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are understood here: use GET".into())
}

#[cfg(test)]
mod tests;
