//! One turn of what the agent measures, from the kernel's rows to what is published.

use super::own::OwnFigures;
use crate::aggregate::snapshot::FamilySeries;
use crate::config::agent::AgentSettings;
use crate::error::Result;
use crate::serve::{Check, NoStatistics, Statistics};

/// What one turn yields.
pub struct Turn {
    /// For `/metrics`.
    pub families: Vec<FamilySeries>,
    /// For the API.
    pub statistics: Box<dyn Statistics>,
    /// For the health routes.
    pub health: Vec<Check>,
}

/// Everything that measures. It lives on the collection's thread and may block there.
pub struct Pipeline {
    own: OwnFigures,
}

impl Pipeline {
    /// Begins to measure.
    ///
    /// # Errors
    /// The privilege or the kernel does not suffice for anything at all.
    pub fn begin(_settings: &AgentSettings) -> Result<Self> {
        Ok(Self { own: OwnFigures::new() })
    }

    /// Reads everything once.
    pub fn turn(&mut self) -> Turn {
        self.own.begin();
        let mut families = Vec::new();
        let own = self.own.read(&mut families);
        Turn { families, statistics: Box::new(NoStatistics), health: vec![own] }
    }

    /// Goes on with these settings.
    pub fn apply(&mut self, _settings: &AgentSettings) {}
}
