//! Rounds over running systems: in each round, every system is measured once, so that noise hits all alike.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{
    plan::Plan,
    row::{Row, quantile},
    system::{Doing, Measure, System},
};

/// One measurement of one system in one round may take this long.
const LONGEST: Duration = Duration::from_secs(60);
/// With fewer, 99 of 100 says nothing.
const ENOUGH_FOR_P99: usize = 100;

/// A system's part in a measure.
struct Entrant {
    system: usize,
    /// How often in each round.
    count: usize,
    medians: Vec<f64>,
    p99: Vec<f64>,
    failure: Option<String>,
}

/// Measure everything that the plan wants of systems that run already.
pub(super) fn rounds<'a>(section: &'a str, systems: &'a mut [Box<dyn System>], plan: &'a Plan) -> Doing<'a, Vec<Row>> {
    Box::pin(async move {
        let mut rows = Vec::new();
        for measure in Measure::all() {
            let began = Instant::now();
            let can = |system: &dyn System| {
                system.measures().contains(&measure) && plan.wants(section, &measure.name(), &system.name())
            };
            let able = (0..systems.len()).filter(|index| can(&*systems[*index]));
            let mut entrants: Vec<Entrant> = able
                .map(|system| Entrant { system, count: 1, medians: Vec::new(), p99: Vec::new(), failure: None })
                .collect();
            for entrant in &mut entrants {
                entrant.warm_up(measure, systems, plan).await;
            }
            for round in 0..plan.rounds {
                // Who comes first is another one in each round.
                let count = entrants.len();
                for offset in 0..count {
                    entrants[(round + offset) % count].go(measure, systems, plan).await;
                }
            }
            if !entrants.is_empty() {
                eprintln!("{section}: {}: {} systems, {:.0?}", measure.name(), entrants.len(), began.elapsed());
            }
            rows.extend(entrants.into_iter().map(|entrant| entrant.row(section, measure, systems)));
        }
        Ok(rows)
    })
}

impl Entrant {
    /// Also finds out how often fits into the time of a round.
    async fn warm_up(&mut self, measure: Measure, systems: &mut [Box<dyn System>], plan: &Plan) {
        // What is imported or compiled when it is first used is no part of it.
        if let Err(error) = self.measure(measure, systems).await {
            self.failure = Some(error);
            return;
        }
        let began = Instant::now();
        let mut each = f64::INFINITY;
        // Twice as many each time, until a quarter of a round's time is over.
        while began.elapsed() < plan.round / 4 {
            match self.measure(measure, systems).await {
                Ok(times) => each = each.min(quantile(&times, 0.5).unwrap_or(each)),
                Err(error) => {
                    self.failure = Some(error);
                    return;
                }
            }
            self.count *= 2;
        }
        self.fit(each, measure, plan);
    }

    /// So many calls as fit into the time of a round, at that many microseconds for one.
    fn fit(&mut self, each: f64, measure: Measure, plan: &Plan) {
        let fits = plan.round.as_secs_f64() * 1e6 / each.max(0.01);
        self.count = (fits as usize).clamp(1, plan.most);
        if measure == Measure::IdleEvent {
            self.count = self.count.min(plan.idle);
        }
    }

    async fn go(&mut self, measure: Measure, systems: &mut [Box<dyn System>], plan: &Plan) {
        if self.failure.is_some() {
            return;
        }
        match self.measure(measure, systems).await {
            Ok(times) => {
                if let Some(median) = quantile(&times, 0.5) {
                    self.medians.push(median);
                    // What is compiled only after some calls is quicker than it was while warming up.
                    self.fit(median, measure, plan);
                }
                if times.len() >= ENOUGH_FOR_P99 {
                    self.p99.extend(quantile(&times, 0.99));
                }
            }
            Err(error) => self.failure = Some(error),
        }
    }

    async fn measure(&self, measure: Measure, systems: &mut [Box<dyn System>]) -> Result<Vec<f64>, String> {
        match timeout(LONGEST, systems[self.system].run(measure, self.count)).await {
            Ok(Ok(times)) => Ok(times),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_) => Err(format!("not done in {LONGEST:?}")),
        }
    }

    fn row(self, section: &str, measure: Measure, systems: &[Box<dyn System>]) -> Row {
        let (name, system) = (measure.name(), systems[self.system].name());
        if let Some(failure) = self.failure {
            eprintln!("{section}: {name}: {system}: {failure}");
            return Row::failed(section, name, system, measure.unit(), &failure);
        }
        let told: Vec<f64> = self.medians.iter().map(|micros| measure.told(*micros)).collect();
        let p99 = quantile(&self.p99, 0.5).filter(|_| measure.told(1.0) == 1.0);
        Row { p99, ..Row::new(section, name, system, measure.unit(), &told) }
    }
}
