//! Statistics of services and processes as JSON.

use std::time::UNIX_EPOCH;

use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::published::{Published, Subject, TimeSpan};
use super::query::Query;
use super::reply::Reply;

/// Whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One subject a service.
    Services,
    /// One subject a process.
    Processes,
}

#[derive(Serialize)]
struct Document {
    /// When the figures were read.
    taken_at_unix_seconds: f64,
    span: &'static str,
    /// How long the span is.
    span_seconds: f64,
    /// How many there are that the query chooses, before its limit.
    found: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    services: Option<Vec<Subject>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Vec<Subject>>,
}

/// Answers a query.
pub fn reply(published: &Published, kind: Kind, query: Option<&str>, headers: &HeaderMap) -> Response {
    let statistics = &*published.statistics;
    let query = match Query::parse(query, &statistics.families()) {
        Ok(query) => query,
        Err(problem) => return problem.into_response(),
    };
    let subjects = match kind {
        Kind::Services => statistics.services(query.span),
        Kind::Processes => statistics.processes(query.span),
    };
    let (subjects, found) = query.choose(subjects);
    let (services, processes) = match kind {
        Kind::Services => (Some(subjects), None),
        Kind::Processes => (None, Some(subjects)),
    };
    let document = Document {
        taken_at_unix_seconds: published
            .taken_at
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64(),
        span: if query.span == TimeSpan::Window { "window" } else { "total" },
        span_seconds: statistics.duration(query.span).as_secs_f64(),
        found,
        services,
        processes,
    };
    Reply::new("application/json", headers).write(|out| Ok(serde_json::to_writer(out, &document)?))
}
