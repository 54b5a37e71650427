//! A whole run.

use serde::{Deserialize, Serialize};

use super::{machine::Machine, row::Row};

/// A whole run, as `--json` writes it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    pub machine: Machine,
    pub rounds: usize,
    pub rows: Vec<Row>,
}

impl Report {
    /// The median of one row.
    pub fn median(&self, section: &str, measure: &str, system: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.section == section && row.measure == measure && row.system == system);
        row?.median
    }

    /// Measures of a section, in the order in which they were made.
    pub fn measures(&self, section: &str) -> Vec<&str> {
        let mut measures: Vec<&str> = Vec::new();
        for row in self.rows.iter().filter(|row| row.section == section) {
            if !measures.contains(&row.measure.as_str()) {
                measures.push(&row.measure);
            }
        }
        measures
    }

    /// Rows of one measure of a section.
    pub fn rows_of(&self, section: &str, measure: &str) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.section == section && row.measure == measure)
    }
}
