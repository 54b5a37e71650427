//! What a run of the demo came to.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    cli::demo::TOPIC,
    host::{Event, News, PluginStats, Subscription},
};

/// How often something was seen, by its name.
pub type Counts = BTreeMap<String, u64>;

/// What a run of the demo came to.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Events that were read.
    pub events: u64,
    /// What the news told.
    #[serde(flatten)]
    pub tale: Tale,
    /// What quake-rate made of the magnitudes; null without it.
    pub fit: Option<Fit>,
    /// Events of each network, from the store; null without quake-tally.
    pub tally: Option<Counts>,
    /// The plugins that took part.
    pub plugins: Vec<Part>,
    /// Those that did not.
    pub left_out: Vec<Missing>,
    /// The frequency-magnitude plot.
    pub plots: Vec<PathBuf>,
    /// The shared state.
    pub database: PathBuf,
    /// All that plugins emitted and returned.
    pub results: PathBuf,
    /// Until all plugins were loaded.
    pub startup_seconds: f64,
    /// From the first event to the last handler's end.
    pub seconds: f64,
}

/// A plugin that took part.
#[derive(Debug, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its language.
    pub language: String,
    /// What ran it.
    pub interpreter: String,
    /// What it did.
    #[serde(flatten)]
    pub stats: PluginStats,
}

/// A plugin whose language is not installed.
#[derive(Debug, Clone, Serialize)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// Its language.
    pub language: String,
    /// The language's name for people.
    pub display_name: String,
    /// What is missing, in full.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
}

/// The law of Gutenberg and Richter, fitted.
#[derive(Debug, Serialize, Deserialize)]
pub struct Fit {
    /// Slope.
    pub b: f64,
    /// Standard error of the slope.
    pub error: f64,
    /// Intercept.
    pub a: f64,
    /// Magnitude of completeness.
    pub mc: f64,
    /// Earthquakes at least that strong.
    pub n: u64,
    /// Of so many.
    pub of: u64,
    /// The networks that saw them; empty for all.
    pub networks: Vec<String>,
}

/// What quake-alert emits.
#[derive(Debug, Serialize, Deserialize)]
pub struct Alert {
    /// The earthquake.
    pub id: String,
    /// Its magnitude.
    pub mag: f64,
    /// As USGS calls it.
    pub place: String,
    /// Time on the spot.
    pub local: String,
    /// The nearest city; null without quake-geo.
    pub city: Option<String>,
    /// How far away that is.
    pub km: Option<f64>,
    /// What quake-region says; null without it.
    pub rule: Option<Decision>,
    /// All of it, for people.
    pub text: String,
}

/// What quake-region says of an earthquake.
#[derive(Debug, Serialize, Deserialize)]
pub struct Decision {
    /// Where it was.
    pub region: String,
    /// What is done about it.
    pub rule: String,
}

/// What quake-dedup emits.
#[derive(Debug, Serialize, Deserialize)]
pub struct Duplicate {
    /// The report that was dropped.
    pub id: String,
    /// The one before it.
    pub of: String,
    /// The rule that applied.
    pub reason: String,
}

/// What the news told.
#[derive(Debug, Default, Serialize)]
pub struct Tale {
    /// Events that passed all filters.
    pub accepted: u64,
    /// Those that quake-clean dropped, by reason.
    pub rejected: Counts,
    /// Those that quake-dedup dropped.
    pub duplicates: Vec<Duplicate>,
    /// Those accepted, by quake-clean's class.
    pub classes: Counts,
    /// Those accepted, by quake-region's region.
    pub regions: Counts,
    /// Those accepted, by the rule that applies.
    pub rules: Counts,
    /// Alerts, the most severe first.
    pub alerts: Vec<Alert>,
}

#[derive(Deserialize)]
struct Rejected {
    reason: String,
}

#[derive(Deserialize)]
struct Quake {
    properties: Properties,
}

#[derive(Deserialize)]
struct Properties {
    class: Option<String>,
}

impl Tale {
    /// Listen until the host is shut down.
    pub async fn hear(mut news: Subscription) -> anyhow::Result<Self> {
        let mut tale = Self::default();
        while let Some(news) = news.next().await {
            match news {
                News::Emitted { event, .. } => tale.emitted(&event)?,
                News::Handled { plugin, result, .. } if &*plugin == "quake-region" => {
                    let Decision { region, rule } = serde_json::from_str(result.get())?;
                    count(&mut tale.regions, region);
                    count(&mut tale.rules, rule);
                }
                _ => {}
            }
        }
        // Stable: of two that are equally strong, the earlier one.
        tale.alerts.sort_by(|a, b| b.mag.total_cmp(&a.mag));
        Ok(tale)
    }

    fn emitted(&mut self, event: &Event) -> serde_json::Result<()> {
        match &*event.topic {
            TOPIC => {
                self.accepted += 1;
                if let Some(class) = data::<Quake>(event)?.properties.class {
                    count(&mut self.classes, class);
                }
            }
            "quake.rejected" => count(&mut self.rejected, data::<Rejected>(event)?.reason),
            "quake.duplicate" => self.duplicates.push(data(event)?),
            "alert.new" => self.alerts.push(data(event)?),
            _ => {}
        }
        Ok(())
    }
}

fn data<T: DeserializeOwned>(event: &Event) -> serde_json::Result<T> {
    serde_json::from_str(event.data.get())
}

fn count(counts: &mut Counts, name: String) {
    *counts.entry(name).or_default() += 1;
}
