//! All samples of a run.

use std::collections::BTreeMap;

use crate::rows::{Figure, Line, Target};

/// What one measurement gave.
pub type Sample = BTreeMap<Figure, f64>;

/// Samples by row and proxy, in the order of the rounds, and what failed.
#[derive(Debug, Default)]
pub struct Results {
    /// In the order of the table's columns; the first is Weft.
    pub proxies: Vec<&'static str>,
    samples: BTreeMap<(&'static str, &'static str), Vec<Sample>>,
    failures: BTreeMap<(&'static str, &'static str), String>,
}

/// Middle and ends of the values of all rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

/// How Weft compares in one line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Weft's median over that of the best of the others.
    pub ratio: f64,
    /// Who that is, or the row of Weft's own that counts instead.
    pub best: &'static str,
}

// === impl Results ===

impl Results {
    /// Nothing yet, for these proxies.
    pub fn new(proxies: Vec<&'static str>) -> Self {
        Self { proxies, ..Self::default() }
    }

    /// Adds what a measurement gave, or why it gave nothing.
    pub fn add(&mut self, row: &'static str, proxy: &'static str, outcome: Result<Sample, String>) {
        match outcome {
            Ok(sample) => self.samples.entry((row, proxy)).or_default().push(sample),
            Err(reason) => {
                self.failures.insert((row, proxy), reason);
            }
        }
    }

    /// Over the rounds that succeeded.
    pub fn spread(&self, row: &str, proxy: &str, figure: Figure) -> Option<Spread> {
        let samples = self.samples.iter().find(|(key, _)| **key == (row, proxy))?.1;
        Spread::of(samples.iter().filter_map(|sample| sample.get(&figure).copied()).collect())
    }

    /// The last reason why a proxy failed in a row.
    pub fn failure(&self, row: &str, proxy: &str) -> Option<&str> {
        self.failures.iter().find(|(key, _)| **key == (row, proxy)).map(|(_, reason)| reason.as_str())
    }

    /// Everything that failed: row, proxy, reason.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.failures.iter().map(|((row, proxy), reason)| (*row, *proxy, reason.as_str()))
    }

    /// Weft beside the best of the others. Nothing where one of the two is not above zero: what is a difference of two
    /// measurements was then too small for them, and a share of it says nothing.
    pub fn comparison(&self, line: &Line) -> Option<Comparison> {
        let median = |proxy| Some(self.spread(line.row, proxy, line.figure)?.median);
        let share = |of: f64, best| {
            let weft = median(self.proxies.first()?)?;
            (weft > 0.0 && of > 0.0).then_some(Comparison { ratio: weft / of, best })
        };
        let (weft, others) = self.proxies.split_first()?;
        if let Some(Target::OfRow(row, _)) = line.target {
            return share(self.spread(row, weft, line.figure)?.median, row);
        }
        let (best, value) = others
            .iter()
            .filter(|proxy| !matches!(line.target, Some(Target::OfEnvoy(_))) || **proxy == "Envoy")
            .filter_map(|proxy| Some((*proxy, median(proxy)?)))
            .min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        share(value, best)
    }

    /// Whether Weft reaches a line's target; nothing without target, without values or without a comparison.
    pub fn met(&self, line: &Line) -> Option<bool> {
        match line.target? {
            Target::AtMost(most) => {
                let weft = self.proxies.first()?;
                Some(self.spread(line.row, weft, line.figure)?.median <= most)
            }
            Target::OfBest(share) | Target::OfEnvoy(share) | Target::OfRow(_, share) => {
                Some(self.comparison(line)?.ratio <= share)
            }
        }
    }
}

// === impl Spread ===

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, low, high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::LINES;

    fn results(values: &[(&'static str, &[f64])]) -> Results {
        let mut results = Results::new(values.iter().map(|(proxy, _)| *proxy).collect());
        for (proxy, values) in values {
            for value in *values {
                results.add("small-64", proxy, Ok(Sample::from([(Figure::Cpu, *value)])));
            }
        }
        results
    }

    fn small_64() -> &'static Line {
        LINES.iter().find(|line| line.row == "small-64").expect("a line")
    }

    #[test]
    fn a_line_compares_medians_with_the_best_of_the_others() {
        let results = results(&[("Weft", &[6.0, 99.0, 5.0]), ("Envoy", &[40.0]), ("HAProxy", &[12.0, 8.0])]);
        let comparison = results.comparison(small_64()).expect("values");
        assert_eq!(comparison, Comparison { ratio: 0.6, best: "HAProxy" });
        assert_eq!(results.met(small_64()), Some(true));
        assert_eq!(
            results.spread("small-64", "Weft", Figure::Cpu),
            Some(Spread { median: 6.0, low: 5.0, high: 99.0 })
        );
    }

    #[test]
    fn a_row_may_be_held_against_another_of_our_own() {
        let configured = LINES.iter().find(|line| line.row == "configured").expect("a line");
        let mut results = results(&[("Weft", &[10.0]), ("Envoy", &[5.0])]);
        results.add("configured", "Weft", Ok(Sample::from([(Figure::Cpu, 12.0)])));
        assert_eq!(results.comparison(configured), Some(Comparison { ratio: 1.2, best: "small-64" }));
        assert_eq!(results.met(configured), Some(true));
    }

    #[test]
    fn what_is_lost_in_the_noise_is_compared_with_nothing() {
        let results = results(&[("Weft", &[500.0]), ("nginx", &[-100.0])]);
        assert_eq!((results.comparison(small_64()), results.met(small_64())), (None, None));
    }

    #[test]
    fn without_values_nothing_is_met() {
        let mut results = results(&[("Weft", &[6.0])]);
        assert_eq!(results.met(small_64()), None);
        results.add("small-64", "Envoy", Err("it fell over".to_owned()));
        assert_eq!(results.met(small_64()), None);
        assert_eq!(results.failure("small-64", "Envoy"), Some("it fell over"));
    }
}
