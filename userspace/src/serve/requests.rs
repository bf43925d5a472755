//! How many requests were answered, by route and status.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;

use super::ROUTES;
use crate::aggregate::snapshot::{FamilySeries, Series, Value};
use crate::metrics::AGENT_HTTP_REQUESTS;

/// Every status that is answered with; the last stands for all others.
const CODES: [(u16, &str); 8] = [
    (200, "200"),
    (400, "400"),
    (404, "404"),
    (405, "405"),
    (413, "413"),
    (429, "429"),
    (503, "503"),
    (0, "other"),
];

/// Counts; one line a route, the last for paths that are no route: what clients make up shall not become series.
#[derive(Default)]
pub struct Requests {
    counts: [[AtomicU64; CODES.len()]; ROUTES.len() + 1],
}

impl Requests {
    /// Counts one, to a route by its place in [`ROUTES`].
    pub fn count(&self, route: Option<usize>, status: StatusCode) {
        let code = CODES.iter().position(|(code, _)| *code == status.as_u16()).unwrap_or(CODES.len() - 1);
        self.counts[route.unwrap_or(ROUTES.len()).min(ROUTES.len())][code].fetch_add(1, Ordering::Relaxed);
    }

    /// As series; those that are 0 are left out.
    pub fn families(&self) -> Vec<FamilySeries> {
        let mut series = Vec::new();
        let routes = ROUTES.iter().map(|(route, _)| *route).chain(["other"]);
        for (route, counts) in routes.zip(&self.counts) {
            for ((_, code), count) in CODES.iter().zip(counts) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = vec![Arc::from(route), Arc::from(*code)];
                    series.push(Series { labels, value: Value::Number(count as f64) });
                }
            }
        }
        vec![FamilySeries {
            metric: &AGENT_HTTP_REQUESTS,
            label_names: AGENT_HTTP_REQUESTS.labels.to_vec(),
            series,
        }]
    }
}
