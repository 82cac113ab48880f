//! Scrapes of the servers' metrics, and what counters gained from the first page of a run to the last.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::{
    http::prometheus::{label_value, sample_name},
    record::ScrapeRecord,
    units::UnixNanos,
};

/// Only samples of families with these prefixes are kept.
const KEPT_PREFIXES: [&str; 2] = ["vllm:", PROCESS_START];

/// When the server process started, in Unix seconds.
const PROCESS_START: &str = "process_start_time_seconds";

/// Its labels have the block size of the prefix cache.
const CACHE_CONFIG: &str = "vllm:cache_config_info";

/// The scrapes of all servers. Pages may arrive in any order, and twice.
#[derive(Debug, Default)]
pub struct MetricsPages {
    /// The index of each sample name.
    numbers: HashMap<String, u32>,
    /// Pages by URL.
    by_url: BTreeMap<String, Vec<MetricsPage>>,
    /// Scrapes that failed.
    pub failed: u64,
    /// The error of the first of them.
    pub error: Option<String>,
}

#[derive(Debug)]
struct MetricsPage {
    time: UnixNanos,
    values: Vec<(u32, f64)>,
}

/// The gains of the counters, and the means of the gauges, of all servers.
#[derive(Debug, Default)]
pub struct MetricGains {
    /// By the name of the sample with its labels.
    gained: BTreeMap<String, f64>,
    gauges: BTreeMap<String, Vec<Gauge>>,
    /// How often a server reset its counters.
    pub resets: u64,
    /// The times of the first and the last page of any server.
    pub span: Option<(UnixNanos, UnixNanos)>,
    /// The tokens per block of the prefix cache.
    pub block_size: Option<u32>,
}

/// A gauge of one server over the run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Gauge {
    /// Its time-weighted mean, interpolated linearly between pages.
    pub mean: f64,
    /// The largest value on a page.
    pub max: f64,
}

impl MetricsPages {
    /// Adds a page, or counts a failed scrape.
    pub fn add(&mut self, record: ScrapeRecord) {
        if let Some(error) = record.error {
            self.failed += 1;
            self.error.get_or_insert(error);
            return;
        }
        let kept =
            record.metrics.into_iter().filter(|(key, _)| KEPT_PREFIXES.iter().any(|family| key.starts_with(family)));
        let numbered = |(key, value): (String, Value)| {
            let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
            Some((*self.numbers.entry(key).or_insert(next), value.as_f64()?))
        };
        let values = kept.filter_map(numbered).collect();
        self.by_url.entry(record.url).or_default().push(MetricsPage { time: record.time, values });
    }

    /// Whether no page was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_url.is_empty() && self.failed == 0
    }

    /// The URLs of the pages.
    pub fn urls(&self) -> impl Iterator<Item = &String> {
        self.by_url.keys()
    }

    /// The number of pages, without repeats.
    #[must_use]
    pub fn count(&self) -> u64 {
        let times = |pages: &Vec<MetricsPage>| pages.iter().map(|page| page.time).collect::<BTreeSet<_>>().len();
        self.by_url.values().map(|pages| times(pages) as u64).sum()
    }

    /// Computes the gains between the first and the last page of each server; `None` if no server has two pages.
    #[must_use]
    pub fn compute_gains(self) -> Option<MetricGains> {
        let mut names: Vec<String> = vec![String::new(); self.numbers.len()];
        for (name, number) in self.numbers {
            names[number as usize] = name;
        }
        let mut gains = MetricGains::default();
        for mut pages in self.by_url.into_values() {
            pages.sort_by_key(|page| page.time);
            pages.dedup_by_key(|page| page.time);
            if pages.len() > 1 {
                gains.add(&names, &pages);
            }
        }
        gains.span.is_some().then_some(gains)
    }
}

impl MetricGains {
    /// Adds the pages of one server, in time order.
    fn add(&mut self, names: &[String], pages: &[MetricsPage]) {
        let (Some(first), Some(last)) = (pages.first(), pages.last()) else { return };
        let span = self.span.unwrap_or((first.time, last.time));
        self.span = Some((span.0.min(first.time), span.1.max(last.time)));
        let (gained, resets) = counter_gains(names, pages);
        self.resets += resets;
        for (number, gain) in gained {
            *self.gained.entry(names[number as usize].clone()).or_default() += gain;
        }
        let mut families: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (number, key) in (0..).zip(names) {
            if sample_name(key) == CACHE_CONFIG {
                self.block_size = self.block_size.or_else(|| label_value(key, "block_size")?.parse().ok());
            } else if !is_counter_name(sample_name(key)) {
                families.entry(sample_name(key)).or_default().push(number);
            }
        }
        for (family, numbers) in families {
            if let Some(gauge) = Gauge::measure(pages, &numbers, family.ends_with("_perc")) {
                self.gauges.entry(family.to_owned()).or_default().push(gauge);
            }
        }
    }

    /// The samples of a counter by their names with labels, with the gain of each.
    pub fn counter_samples<'a>(&'a self, counter: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        // Names of a family are adjacent.
        let from = self.gained.range(counter.to_owned()..).take_while(move |(key, _)| key.starts_with(counter));
        from.filter(move |(key, _)| sample_name(key) == counter).map(|(key, gain)| (key.as_str(), *gain))
    }

    /// The gain of a counter, summed over its labels; `None` for an unknown counter.
    #[must_use]
    pub fn counter_gain(&self, counter: &str) -> Option<f64> {
        self.counter_samples(counter).map(|(_, gain)| gain).reduce(|a, b| a + b)
    }

    /// The gauges with this name, one per server. The labels of a server are added up.
    #[must_use]
    pub fn family_gauges(&self, family: &str) -> &[Gauge] {
        self.gauges.get(family).map_or(&[], Vec::as_slice)
    }
}

/// Whether samples with this name only grow until the server restarts.
fn is_counter_name(name: &str) -> bool {
    ["_total", "_sum", "_count", "_bucket"].iter().any(|end| name.ends_with(end))
}

/// The gain of each counter, and the number of resets. After a reset, a counter has gained its whole value.
fn counter_gains(names: &[String], pages: &[MetricsPage]) -> (BTreeMap<u32, f64>, u64) {
    let counter: Vec<bool> = names.iter().map(|key| is_counter_name(sample_name(key))).collect();
    let bucket: Vec<bool> = names.iter().map(|key| sample_name(key).ends_with("_bucket")).collect();
    let is_counter = |(number, _): &(u32, f64)| counter[*number as usize];
    let started =
        |page: &MetricsPage| page.values.iter().find(|(n, _)| names[*n as usize] == PROCESS_START).map(|(_, v)| *v);
    let (first, others) = (&pages[0], &pages[1..]);
    let mut last: HashMap<u32, f64> = first.values.iter().copied().filter(is_counter).collect();
    let mut gained: BTreeMap<u32, f64> = last.keys().map(|number| (*number, 0.0)).collect();
    // A sample appears with its first value, so a new one has gained all of it. Buckets are different: pages in the middle of a
    // run omit them.
    let has_buckets = first.values.iter().any(|(number, _)| bucket[*number as usize]);
    let (mut start, mut resets) = (started(first), 0);
    for page in others {
        let now = started(page);
        // The same process never resets its counters. If one falls, the clocks of two hosts put their pages in the wrong order.
        let same = now.is_some() && now == start;
        let restarted = now.is_some() && start.is_some() && !same;
        start = now.or(start);
        let mut fell = false;
        for (number, value) in page.values.iter().copied().filter(is_counter) {
            let before = match last.get(&number).copied() {
                Some(_) if restarted => 0.0,
                Some(before) if value < before && same => continue,
                Some(before) if value < before => {
                    fell = true;
                    0.0
                }
                Some(before) => before,
                None if bucket[number as usize] && !has_buckets => value,
                None => 0.0,
            };
            *gained.entry(number).or_default() += value - before;
            last.insert(number, value);
        }
        resets += u64::from(restarted || fell);
    }
    (gained, resets)
}

impl Gauge {
    /// Measures a gauge of one server over time: the sum of its samples, or the mean for shares. `None` without samples.
    fn measure(pages: &[MetricsPage], samples: &[u32], shares: bool) -> Option<Self> {
        let mine = |page: &MetricsPage| {
            let values = page.values.iter().filter(|(number, _)| samples.contains(number));
            let (count, sum) = values.fold((0, 0.0), |(count, sum), (_, value)| (count + 1, sum + value));
            // Shares of the memory of each engine do not add up to a share of all memory.
            let sum = if shares { sum / f64::from(count.max(1)) } else { sum };
            (count > 0).then_some((page.time, sum))
        };
        let points: Vec<(UnixNanos, f64)> = pages.iter().filter_map(mine).collect();
        let (first, last) = points.first().zip(points.last())?;
        let max = points.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        let area =
            |pair: &[(UnixNanos, f64)]| pair[1].0.since(pair[0].0).as_secs_f64() * f64::midpoint(pair[0].1, pair[1].1);
        let time = last.0.since(first.0).as_secs_f64();
        let mean = if time > 0.0 { points.windows(2).map(area).sum::<f64>() / time } else { max };
        Some(Gauge { mean, max })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::units::SECOND;

    fn page(seconds: u64, metrics: &Value) -> ScrapeRecord {
        ScrapeRecord {
            time: UnixNanos(seconds * SECOND),
            url: "http://h/metrics".into(),
            metrics: metrics.as_object().unwrap().clone(),
            ..ScrapeRecord::default()
        }
    }

    fn gains(pages: &[(u64, Value)]) -> MetricGains {
        let mut all = MetricsPages::default();
        for (seconds, metrics) in pages {
            all.add(page(*seconds, metrics));
        }
        all.compute_gains().unwrap()
    }

    #[test]
    fn gains_are_added_over_labels() {
        let gains = gains(&[
            (
                10,
                json!({"vllm:a_total{engine=\"0\"}": 5, "vllm:a_total{engine=\"1\"}": 7, "vllm:ab_total": 1, "other_total": 1}),
            ),
            (
                20,
                json!({"vllm:a_total{engine=\"0\"}": 6, "vllm:a_total{engine=\"1\"}": 17, "vllm:a_total{engine=\"2\"}": 3, "vllm:ab_total": 9, "other_total": 2}),
            ),
        ]);
        assert_eq!(
            (
                gains.counter_gain("vllm:a_total"),
                gains.counter_gain("vllm:ab_total"),
                gains.counter_gain("other_total")
            ),
            (Some(14.0), Some(8.0), None)
        );
        assert_eq!((gains.counter_gain("vllm:a"), gains.resets), (None, 0));
    }

    #[test]
    fn after_a_restart_counters_have_gained_their_value() {
        let fell = gains(&[
            (0, json!({"vllm:a_total": 90, "vllm:b_total": 1})),
            (1, json!({"vllm:a_total": 100, "vllm:b_total": 2})),
            (2, json!({"vllm:a_total": 30, "vllm:b_total": 5})),
        ]);
        // A restart is invisible in the second counter, as with Prometheus.
        assert_eq!(
            (fell.counter_gain("vllm:a_total"), fell.counter_gain("vllm:b_total"), fell.resets),
            (Some(40.0), Some(4.0), 1)
        );
        let restarted = gains(&[
            (0, json!({"vllm:a_total": 5, PROCESS_START: 1.5})),
            (1, json!({"vllm:a_total": 9, PROCESS_START: 1.75})),
        ]);
        assert_eq!((restarted.counter_gain("vllm:a_total"), restarted.resets), (Some(9.0), 1));
    }

    /// Each host has its own clock.
    #[test]
    fn pages_in_the_wrong_order_are_not_a_restart() {
        let at = |n: u64, count: u64| (n, json!({"vllm:a_total": count, PROCESS_START: 1.5}));
        let gains = gains(&[at(0, 10), at(1, 30), at(2, 29), at(3, 40)]);
        assert_eq!((gains.counter_gain("vllm:a_total"), gains.resets), (Some(30.0), 0));
    }

    #[test]
    fn pages_count_once_and_in_the_order_of_time() {
        let line = |n: u64| (n, json!({"vllm:a_total": n * n, "vllm:g": n}));
        let want = gains(&[line(1), line(2), line(4)]);
        let got = gains(&[line(4), line(1), line(2), line(4), line(1)]);
        assert_eq!(
            (got.counter_gain("vllm:a_total"), got.resets, got.family_gauges("vllm:g")),
            (want.counter_gain("vllm:a_total"), 0, want.family_gauges("vllm:g"))
        );
        let mut pages = MetricsPages::default();
        for n in [4, 1, 4] {
            pages.add(page(n, &line(n).1));
        }
        assert_eq!((pages.count(), pages.is_empty()), (2, false));
    }

    #[test]
    fn gauges_are_weighed_by_time() {
        let at = |n: u64, a: f64, b: f64| {
            (
                n,
                json!({"vllm:run{e=\"0\"}": a, "vllm:run{e=\"1\"}": b, "vllm:use_perc{e=\"0\"}": a / 10.0, "vllm:use_perc{e=\"1\"}": b / 10.0}),
            )
        };
        let gains = gains(&[at(0, 0.0, 0.0), at(1, 4.0, 2.0), at(4, 4.0, 2.0)]);
        assert_eq!(gains.family_gauges("vllm:run"), [Gauge { mean: (3.0 + 18.0) / 4.0, max: 6.0 }]);
        assert!((gains.family_gauges("vllm:use_perc")[0].max - 0.3).abs() < 1e-12);
        assert_eq!(gains.family_gauges("vllm:none"), []);
    }

    #[test]
    fn buckets_that_the_first_page_lacks_gain_nothing() {
        let with = json!({"vllm:a_count": 5, "vllm:a_bucket{le=\"1\"}": 5});
        let gains = gains(&[(0, json!({"vllm:a_count": 3})), (1, with)]);
        assert_eq!((gains.counter_gain("vllm:a_bucket"), gains.counter_gain("vllm:a_count")), (Some(0.0), Some(2.0)));
    }

    #[test]
    fn one_page_gives_no_gains_and_a_failure_is_kept() {
        let mut pages = MetricsPages::default();
        pages.add(page(0, &json!({"vllm:a_total": 1})));
        pages.add(ScrapeRecord { error: Some("refused".into()), ..ScrapeRecord::default() });
        assert_eq!((pages.failed, pages.error.as_deref(), pages.count()), (1, Some("refused"), 1));
        assert!(pages.compute_gains().is_none());
    }

    proptest! {
        /// Prometheus sums all increases, and takes a decrease for an increase from 0.
        #[test]
        fn gains_match_prometheus(values in prop::collection::vec(0..1000_u32, 2..30)) {
            let pages: Vec<_> = (0..).zip(&values).map(|(i, v)| (i, json!({"vllm:a_total": v}))).collect();
            let got = gains(&pages);
            let pairs = || values.windows(2).map(|pair| (pair[0], pair[1]));
            let want: u32 = pairs().map(|(a, b)| if b < a { b } else { b - a }).sum();
            prop_assert_eq!(got.counter_gain("vllm:a_total"), Some(f64::from(want)));
            prop_assert_eq!(got.resets, pairs().filter(|(a, b)| b < a).count() as u64);
        }
    }
}
