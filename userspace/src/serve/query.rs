//! What a client of the statistics asks for: order, number and choice.

use std::borrow::Cow;

use axum::http::StatusCode;

use super::problem::Problem;
use super::published::{FamilyStatistics, Subject, TimeSpan};

/// The most subjects of an answer: some megabytes of JSON.
pub const MAX_LIMIT: usize = 10_000;
const DEFAULT_LIMIT: usize = 1000;

/// A figure of a family.
pub struct Stat {
    /// As queries and answers name it.
    pub name: &'static str,
    of: fn(&FamilyStatistics) -> f64,
}

/// Every figure that can be sorted by.
pub const STATS: &[Stat] = &[
    Stat { name: "count", of: |family| family.count.unwrap_or(0) as f64 },
    Stat { name: "rate", of: |family| family.rate },
    Stat { name: "errors", of: |family| family.errors as f64 },
    Stat { name: "sum", of: |family| family.sum.unwrap_or(0.0) },
    Stat { name: "p50", of: |family| family.p50.unwrap_or(0.0) },
    Stat { name: "p90", of: |family| family.p90.unwrap_or(0.0) },
    Stat { name: "p95", of: |family| family.p95.unwrap_or(0.0) },
    Stat { name: "p99", of: |family| family.p99.unwrap_or(0.0) },
    Stat { name: "max", of: |family| family.max.unwrap_or(0.0) },
];

enum Sort {
    Name,
    Figure { family: &'static str, stat: &'static Stat },
}

/// A query, understood.
pub struct Query {
    /// Which time is asked about.
    pub span: TimeSpan,
    sort: Sort,
    descending: Option<bool>,
    limit: usize,
    service: Option<String>,
    family: Option<&'static str>,
}

impl Query {
    /// Understands the part of a URL after `?`; `families` are those there are.
    ///
    /// # Errors
    /// A key or value is not among those there are.
    pub fn parse(text: Option<&str>, families: &[&'static str]) -> Result<Self, Problem> {
        let mut query = Self {
            span: TimeSpan::Window,
            sort: Sort::Name,
            descending: None,
            limit: DEFAULT_LIMIT,
            service: None,
            family: None,
        };
        for (key, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
            query.set(&key, value, families)?;
        }
        Ok(query)
    }

    fn set(&mut self, key: &str, value: Cow<'_, str>, families: &[&'static str]) -> Result<(), Problem> {
        let family = |name: &str| families.iter().copied().find(|family| *family == name);
        let there_are = || match families {
            [] => "there are none yet".into(),
            _ => format!("there are {}", families.join(", ")),
        };
        match key {
            "sort" => {
                let figure = || {
                    let (name, stat) = value.rsplit_once('.')?;
                    let stat = STATS.iter().find(|known| known.name == stat)?;
                    Some(Sort::Figure { family: family(name)?, stat })
                };
                let sort = if value == "name" { Some(Sort::Name) } else { figure() };
                self.sort = sort.ok_or_else(|| {
                    let stats: Vec<&str> = STATS.iter().map(|stat| stat.name).collect();
                    let stats = stats.join(", ");
                    wrong(
                        key,
                        &value,
                        &format!("name, or FAMILY.STAT with a STAT of {stats}; of families {}", there_are()),
                    )
                })?;
            }
            "order" => {
                self.descending = match &*value {
                    "asc" => Some(false),
                    "desc" => Some(true),
                    _ => return Err(wrong(key, &value, "asc or desc")),
                };
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                self.limit =
                    limit.ok_or_else(|| wrong(key, &value, &format!("a number from 1 to {MAX_LIMIT}")))?;
            }
            "service" => self.service = Some(value.into_owned()),
            "family" => {
                let found = family(&value);
                self.family =
                    Some(found.ok_or_else(|| {
                        wrong(key, &value, &format!("the name of a family; {}", there_are()))
                    })?);
            }
            "span" => {
                self.span = match &*value {
                    "window" => TimeSpan::Window,
                    "total" => TimeSpan::Total,
                    _ => return Err(wrong(key, &value, "window or total")),
                };
            }
            _ => {
                let detail = format!(
                    "there is no parameter {:?}: use sort, order, limit, service, family, span",
                    short(key)
                );
                return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
            }
        }
        Ok(())
    }

    /// What was asked for, and of how many.
    pub fn choose(&self, mut subjects: Vec<Subject>) -> (Vec<Subject>, usize) {
        if let Some(service) = &self.service {
            subjects.retain(|subject| *subject.service == **service);
        }
        if let Some(wanted) = self.family {
            for subject in &mut subjects {
                subject.families.retain(|family| family.family == wanted);
            }
            subjects.retain(|subject| !subject.families.is_empty());
        }
        let found = subjects.len();
        self.sort(&mut subjects);
        subjects.truncate(self.limit);
        (subjects, found)
    }

    /// Names go up and figures down where no order is asked for; what is equal goes by name.
    fn sort(&self, subjects: &mut [Subject]) {
        let name = |subject: &Subject| {
            let process = subject.process.as_ref();
            (subject.service.clone(), process.map(|process| (process.name.clone(), process.pid)))
        };
        subjects.sort_by_cached_key(name);
        match &self.sort {
            Sort::Name if self.descending == Some(true) => subjects.reverse(),
            Sort::Name => {}
            Sort::Figure { family, stat } => {
                // Of several sets of labels the largest counts.
                let figure = |subject: &Subject| {
                    let own = subject.families.iter().filter(|own| own.family == *family).map(stat.of);
                    own.fold(f64::NEG_INFINITY, f64::max)
                };
                let descending = self.descending.unwrap_or(true);
                subjects.sort_by(|a, b| {
                    let order = figure(a).total_cmp(&figure(b));
                    if descending { order.reverse() } else { order }
                });
            }
        }
    }
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

fn wrong(key: &str, value: &str, takes: &str) -> Problem {
    let detail = format!("{key} cannot be {:?}: it takes {takes}", short(value));
    Problem::new(StatusCode::BAD_REQUEST, detail)
}
