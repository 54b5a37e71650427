//! What was measured, as rows.

use serde::{Deserialize, Serialize};

use super::system::Unit;

/// One measurement of one system.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row {
    /// `pinned`, `unpinned`, `start`, `crowd`, `scale`.
    pub section: String,
    /// What was measured.
    pub measure: String,
    /// Of what.
    pub system: String,
    pub unit: Unit,
    /// The median over rounds of each round's median; `None` when it failed.
    pub median: Option<f64>,
    /// Smallest and largest of the rounds' medians.
    pub range: Option<(f64, f64)>,
    /// The median over rounds of what 99 of 100 stayed below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// Why there is no number, or what it is worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Row {
    /// Of a number for each round.
    pub fn new(
        section: &str,
        measure: impl Into<String>,
        system: impl Into<String>,
        unit: Unit,
        rounds: &[f64],
    ) -> Self {
        let least = rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let most = rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self {
            section: section.into(),
            measure: measure.into(),
            system: system.into(),
            unit,
            median: quantile(rounds, 0.5),
            range: (!rounds.is_empty()).then_some((least, most)),
            p99: None,
            note: None,
        }
    }

    /// It could not be measured.
    pub fn failed(section: &str, measure: impl Into<String>, system: impl Into<String>, unit: Unit, why: &str) -> Self {
        let why = why.lines().next().unwrap_or_default();
        Self { note: Some(format!("failed: {why:.160}")), ..Self::new(section, measure, system, unit, &[]) }
    }
}

/// The smallest value that this part of all does not exceed.
pub(super) fn quantile(values: &[f64], part: f64) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let index = ((values.len() as f64 * part).ceil() as usize).saturating_sub(1);
    values.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_there() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), Some(2.0));
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.99), Some(99.0));
        assert_eq!(quantile(&hundred, 1.0), Some(100.0));
    }
}
