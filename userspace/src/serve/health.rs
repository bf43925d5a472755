//! Whether the agent lives and is ready.

use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Serialize;

use super::published::{Check, Published};
use super::reply::Reply;

/// What a turn may be late beside three intervals: a host that swaps, or whose CPUs are all taken, delays the agent by
/// seconds, and to start it again would help nobody.
const LATENESS: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Report<'a> {
    status: &'static str,
    checks: Vec<&'a Check>,
}

/// Whether the collection has turned lately: only that decides, the other checks are told.
pub fn is_live(published: &Published, now: Instant) -> bool {
    now.saturating_duration_since(published.taken) <= published.interval * 3 + LATENESS
}

/// Answers whether the agent lives.
pub fn live(published: &Published, now: Instant, headers: &HeaderMap) -> Response {
    let age = now.saturating_duration_since(published.taken).as_secs_f64();
    let (turns, interval) = (published.turns, published.interval);
    let detail = format!("{turns} turns, the last {age:.1} s ago; every {interval:?} there should be one");
    answer(is_live(published, now), ["live", "stuck"], detail, published, headers)
}

/// Answers whether something has been collected.
pub fn ready(published: &Published, headers: &HeaderMap) -> Response {
    let ready = published.turns > 0;
    let detail = if ready { "the first is done" } else { "the first is under way: ask again" };
    answer(ready, ["ready", "starting"], detail.into(), published, headers)
}

fn answer(
    ok: bool,
    names: [&'static str; 2],
    detail: String,
    published: &Published,
    headers: &HeaderMap,
) -> Response {
    let (status, code) =
        if ok { (names[0], StatusCode::OK) } else { (names[1], StatusCode::SERVICE_UNAVAILABLE) };
    let collection = Check { name: "collection", ok, detail };
    let checks = std::iter::once(&collection).chain(&published.health).collect();
    let reply = Reply::new("application/json", headers).with_status(code);
    reply.write(|out| Ok(serde_json::to_writer(out, &Report { status, checks })?))
}
