//! Puts results together: the parts of one run that was too long to be kept, the hosts of one load, or runs in turn.
//!
//! Percentiles come from the histograms of all together, and are never averaged.

use std::{collections::HashMap, iter::once};

use super::{
    arrivals,
    client::Client,
    fluidity::Fluidity,
    goodput::{Good, Goodput},
    group::{Group, Slice},
    part::Numbers,
    rate::Rate,
    result::{self, RunResult},
    vb::{self, Failure, Latencies, Shortfall, Vb},
};
use crate::record::{Object, Verdict};
use crate::{
    recording::metric::Metric,
    statistics::{Distribution, Summary, Together, Unit, histogram, numpy},
};

/// Why results cannot be put together.
const NO_HISTOGRAMS: &str = "a result without histograms cannot be pooled: make it with vb-stats --histograms";

/// The results of hosts and of repeats together. Those whose runs overlap in time are hosts of one load; the others ran in
/// turn. An error says why they cannot be put together.
pub fn runs(results: Vec<RunResult>) -> Result<RunResult, String> {
    let how = |together| How { together, histograms: true };
    let mut results = results;
    results.sort_by_key(|result| result.vb.start_time);
    let mut loads: Vec<Vec<RunResult>> = Vec::new();
    for result in results {
        let overlaps = |load: &Vec<RunResult>| load.iter().any(|other| overlap(&other.vb, &result.vb));
        match loads.last_mut() {
            Some(load) if overlaps(load) => load.push(result),
            _ => loads.push(vec![result]),
        }
    }
    let loads: Result<Vec<RunResult>, String> = loads.iter().map(|load| pooled(load, how(Together::AtOnce))).collect();
    pooled(&loads?, how(Together::InTurn))
}

fn overlap(a: &Vb, b: &Vb) -> bool {
    let spans = a.start_time.zip(a.end_time).zip(b.start_time.zip(b.end_time));
    spans.is_some_and(|((from, to), (start, end))| from < end && start < to)
}

/// The earlier parts of a run with its last one, which knows what concerns the whole; with or without histograms.
pub fn parts(earlier: RunResult, last: RunResult, histograms: bool) -> Result<RunResult, String> {
    let (header, duration, about) = (last.header.clone(), last.duration, last.vb.clone());
    // Results are large: on the heap.
    let both: Vec<RunResult> = once(earlier).chain(once(last)).collect();
    let mut all = pooled(&both, How { together: Together::InTurn, histograms })?;
    (all.header, all.duration) = (header, duration);
    all.set_rates();
    let rate = |per_s| Rate { per_s, interval: None };
    all.vb = Vb {
        complete: about.complete,
        open_loop: about.open_loop,
        start_time: about.start_time,
        end_time: about.end_time,
        steady: about.steady,
        requests_per_s: rate(all.request_throughput),
        output_tokens_per_s: rate(all.output_throughput),
        ..all.vb
    };
    Ok(all)
}

/// How results are put together.
#[derive(Debug, Clone, Copy)]
struct How {
    together: Together,
    /// Whether the result has histograms too.
    histograms: bool,
}

fn pooled(results: &[RunResult], how: How) -> Result<RunResult, String> {
    let [first, others @ ..] = results else { return Err("there is nothing to pool".into()) };
    if others.is_empty() {
        return Ok(first.clone());
    }
    let sum = |of: fn(&RunResult) -> u64| results.iter().map(of).sum::<u64>();
    let peak = |of: fn(&RunResult) -> f64| {
        let each = results.iter().map(of);
        match how.together {
            Together::AtOnce => each.sum(),
            Together::InTurn => each.fold(0.0, f64::max),
        }
    };
    let duration = duration(results, how.together);
    let vb = vb(results, how, duration).ok_or(NO_HISTOGRAMS)?;
    let mut all = RunResult {
        header: header(results, how.together),
        duration,
        completed: sum(|r| r.completed),
        failed: sum(|r| r.failed),
        total_input_tokens: sum(|r| r.total_input_tokens),
        total_output_tokens: sum(|r| r.total_output_tokens),
        max_output_tokens_per_s: peak(|r| r.max_output_tokens_per_s),
        max_concurrent_requests: numpy::whole(peak(|r| r.max_concurrent_requests as f64)) as u64,
        rtfx: 0.0,
        metrics: metrics(results, how).ok_or(NO_HISTOGRAMS)?,
        vb,
        ..RunResult::default()
    };
    all.set_rates();
    Ok(all)
}

fn duration(results: &[RunResult], together: Together) -> f64 {
    let spans: Option<Vec<_>> = results.iter().map(|r| r.vb.start_time.zip(r.vb.end_time)).collect();
    let bounds = spans
        .as_ref()
        .and_then(|spans| spans.iter().map(|(start, _)| *start).min().zip(spans.iter().map(|(_, end)| *end).max()));
    match (together, bounds) {
        (Together::AtOnce, Some((start, end))) => end.since(start).as_secs_f64(),
        _ => results.iter().map(|r| r.duration).sum(),
    }
}

/// That of the first; hosts share the load, so their limits add up.
fn header(results: &[RunResult], together: Together) -> Object {
    let mut header = results[0].header.clone();
    let mut add = |key: &str| {
        let numbers: Option<Vec<f64>> = results.iter().map(|r| r.header.get(key)?.as_f64()).collect();
        let Some(sum) = numbers.map(|numbers| numbers.iter().sum::<f64>()) else { return };
        let whole = serde_json::Value::from(numpy::whole(sum));
        let value = if sum.fract() == 0.0 { whole } else { sum.into() };
        header.insert(key.to_owned(), value);
    };
    add("num_prompts");
    if together == Together::AtOnce {
        add("request_rate");
        add("max_concurrency");
    }
    header
}

/// vLLM's keys of the metrics that the first result has.
fn metrics(results: &[RunResult], how: How) -> Option<Object> {
    let shown = |metric: &Metric| results[0].metrics.contains_key(&format!("mean_{}_ms", metric.name()));
    let told = Metric::ALL.into_iter().filter(shown).map(|metric| {
        let summaries: Vec<&Summary> = results.iter().map(|r| r.vb.latency(metric)).collect();
        Some((metric, Summary::pooled(&summaries, Unit::Seconds, how.together, false)?))
    });
    let told: Vec<(Metric, Distribution)> = told.collect::<Option<_>>()?;
    Some(result::metrics(Object::new(), &told))
}

/// Several of a kind, and how they belong together.
struct Pool<'a, T> {
    all: Vec<&'a T>,
    how: How,
}

impl<'a, T> Pool<'a, T> {
    fn each<U>(&self, of: impl Fn(&'a T) -> &'a U) -> Pool<'a, U> {
        Pool { all: self.all.iter().map(|one| of(one)).collect(), how: self.how }
    }

    fn summary(&self, unit: Unit, of: impl Fn(&'a T) -> &'a Summary) -> Option<Summary> {
        let told = Summary::pooled(&self.each(of).all, unit, self.how.together, self.how.histograms)?;
        Some(Summary::of(&told))
    }

    fn ms(&self, of: impl Fn(&'a T) -> &'a Summary) -> Option<Summary> {
        self.summary(Unit::Seconds, of)
    }

    fn sum(&self, of: impl Fn(&'a T) -> u64) -> u64 {
        self.all.iter().map(|one| of(one)).sum()
    }

    /// Of what not every one tells.
    fn known(&self, of: impl Fn(&'a T) -> Option<u64>) -> Option<u64> {
        self.all.iter().filter_map(|one| of(one)).reduce(|a, b| a + b)
    }

    /// What does not add up over time, but does over hosts.
    fn peak(&self, of: impl Fn(&'a T) -> u64) -> u64 {
        match self.how.together {
            Together::AtOnce => self.sum(of),
            Together::InTurn => self.all.iter().map(|one| of(one)).max().unwrap_or_default(),
        }
    }

    /// A mean weighed with something; `None` without any value.
    fn mean(&self, of: impl Fn(&'a T) -> (f64, Option<f64>)) -> Option<f64> {
        let told = self.all.iter().filter_map(|one| Some((of(one).0, of(one).1?)));
        let (weights, sum) =
            told.fold((0.0, 0.0), |(weights, sum), (weight, value)| (weights + weight, sum + weight * value));
        (weights > 0.0).then(|| sum / weights)
    }
}

fn vb(results: &[RunResult], how: How, duration: f64) -> Option<Vb> {
    let all = Pool { all: results.iter().map(|r| &r.vb).collect(), how };
    let first = all.all[0];
    let seconds: Vec<f64> = results.iter().map(|r| r.duration).collect();
    let per_s = |of: fn(&RunResult) -> u64| {
        let sum = results.iter().map(of).sum::<u64>() as f64;
        if duration > 0.0 { sum / duration } else { 0.0 }
    };
    let (verdict, reasons) = verdict(&all);
    let length = |of: fn(&Vb) -> Option<u64>| {
        let mean = all.mean(|vb| (vb.offered as f64, of(vb).map(|n| n as f64)));
        mean.map(|mean| numpy::whole(mean.round()) as u64)
    };
    let latencies = |of: fn(&Vb) -> &Latencies| {
        let both = all.each(of);
        Some(Latencies { ttft_ms: both.ms(|l| &l.ttft_ms)?, e2el_ms: both.ms(|l| &l.e2el_ms)? })
    };
    Some(Vb {
        format: first.format,
        tool: first.tool.clone(),
        run_ids: union(&all, |vb| &vb.run_ids),
        hosts: union(&all, |vb| &vb.hosts),
        selftest: all.all.iter().find_map(|vb| vb.selftest.clone()),
        complete: all.all.iter().all(|vb| vb.complete),
        interrupted: all.all.iter().any(|vb| vb.interrupted),
        open_loop: all.all.iter().filter_map(|vb| vb.open_loop).reduce(|a, b| a || b),
        verdict,
        reasons,
        client: all.all.iter().filter_map(|vb| vb.client.clone()).reduce(Client::and),
        arrivals: all.all.iter().filter_map(|vb| vb.arrivals).reduce(arrivals::both),
        skipped_lines: all.sum(|vb| vb.skipped_lines),
        bad_lines: all.sum(|vb| vb.bad_lines),
        offered: all.sum(|vb| vb.offered),
        not_sent: all.sum(|vb| vb.not_sent),
        outcomes: counts(&all, |vb| &vb.outcomes),
        errors: errors(&all),
        input_len: length(|vb| vb.input_len),
        output_len: length(|vb| vb.output_len),
        start_time: all.all.iter().filter_map(|vb| vb.start_time).min(),
        end_time: all.all.iter().filter_map(|vb| vb.end_time).max(),
        percentile_error: histogram::ERROR,
        requests_per_s: rate(&all.each(|vb| &vb.requests_per_s), &seconds, per_s(|r| r.completed)),
        output_tokens_per_s: rate(&all.each(|vb| &vb.output_tokens_per_s), &seconds, per_s(|r| r.total_output_tokens)),
        steady: None,
        from_start: latencies(|vb| &vb.from_start)?,
        from_schedule: latencies(|vb| &vb.from_schedule)?,
        tpot_ms: all.ms(|vb| &vb.tpot_ms)?,
        itl_per_chunk_ms: all.ms(|vb| &vb.itl_per_chunk_ms)?,
        itl_per_token_ms: all.ms(|vb| &vb.itl_per_token_ms)?,
        longest_stall_ms: all.ms(|vb| &vb.longest_stall_ms)?,
        itl_per_token_estimated: all.all.iter().any(|vb| vb.itl_per_token_estimated),
        client_queue_time_ms: all.ms(|vb| &vb.client_queue_time_ms)?,
        ttft_answer_ms: all.ms(|vb| &vb.ttft_answer_ms)?,
        schedule_lag_ms: all.ms(|vb| &vb.schedule_lag_ms)?,
        read_lag_ms: all.ms(|vb| &vb.read_lag_ms)?,
        server_queue_ms: all.ms(|vb| &vb.server_queue_ms)?,
        server_ttft_ms: all.ms(|vb| &vb.server_ttft_ms)?,
        peak_concurrency: all.peak(|vb| vb.peak_concurrency),
        peak_tokens_per_s: all.peak(|vb| vb.peak_tokens_per_s),
        prompt_len: all.summary(Unit::Tokens, |vb| &vb.prompt_len)?,
        output_tokens: all.summary(Unit::Tokens, |vb| &vb.output_tokens)?,
        cached_tokens: all.known(|vb| vb.cached_tokens),
        reasoning_tokens: all.known(|vb| vb.reasoning_tokens),
        token_sources: counts(&all, |vb| &vb.token_sources),
        shortfall: Shortfall {
            compared: all.sum(|vb| vb.shortfall.compared),
            short: all.sum(|vb| vb.shortfall.short),
            long: all.sum(|vb| vb.shortfall.long),
            missing_tokens: all.sum(|vb| vb.shortfall.missing_tokens),
        },
        goodput: goodput(&all),
        // What servers count is told of the stream that their pages are in.
        cache: None,
        server: None,
        groups: groups(&all)?,
        slices: slices(&all)?,
    })
}

fn union(all: &Pool<Vb>, of: fn(&Vb) -> &Vec<String>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in all.all.iter().flat_map(|vb| of(vb)) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// The worst verdict, and the reasons of all, those of the worst first.
fn verdict(all: &Pool<Vb>) -> (Option<Verdict>, Vec<String>) {
    let mut judged = all.all.clone();
    judged.sort_by_key(|vb| std::cmp::Reverse(vb.verdict));
    let sorted = Pool { all: judged, how: all.how };
    (sorted.all.first().and_then(|vb| vb.verdict), union(&sorted, |vb| &vb.reasons))
}

fn counts(all: &Pool<Vb>, of: fn(&Vb) -> &Object) -> Object {
    let mut counts = Object::new();
    for (key, n) in all.all.iter().flat_map(|vb| of(vb)) {
        let before = counts.get(key).and_then(serde_json::Value::as_u64).unwrap_or_default();
        counts.insert(key.clone(), (before + n.as_u64().unwrap_or_default()).into());
    }
    counts
}

fn errors(all: &Pool<Vb>) -> Vec<Failure> {
    let mut counts: HashMap<_, u64> = HashMap::new();
    for failure in all.all.iter().flat_map(|vb| &vb.errors) {
        *counts.entry((failure.kind, failure.message.clone())).or_default() += failure.count;
    }
    vb::most_frequent(counts.iter())
}

/// The rate `per_s` of all, as uncertain as their own rates. Hosts add up, and share the server's fortunes, so that what one is off by all are. Runs in turn weigh by their time.
fn rate(all: &Pool<Rate>, seconds: &[f64], per_s: f64) -> Rate {
    let total: f64 = seconds.iter().sum();
    let weight = |i: usize| match all.how.together {
        Together::AtOnce => 1.0,
        Together::InTurn => seconds[i] / total,
    };
    let weighed = |of: &dyn Fn(&Rate) -> Option<f64>| -> Option<Vec<f64>> {
        all.all.iter().enumerate().map(|(i, rate)| Some(weight(i) * of(rate)?)).collect()
    };
    // Hosts that begin and end apart have less together than their rates add up to.
    let together = per_s / weighed(&|rate| Some(rate.per_s)).unwrap_or_default().iter().sum::<f64>();
    let half =
        weighed(&|rate| rate.interval.map(|[low, high]| (high - low) / 2.0)).map(|halves| match all.how.together {
            Together::AtOnce => halves.iter().sum(),
            Together::InTurn => halves.iter().map(|half| half * half).sum::<f64>().sqrt(),
        });
    let interval = half.map(|half: f64| half * together).filter(|half| half.is_finite());
    Rate { per_s, interval: interval.map(|half| [(per_s - half).max(0.0), per_s + half]) }
}

/// Without its rates, which [`RunResult::set_rates`] adds. `None`: they have none, or not for the same limits.
fn goodput(all: &Pool<Vb>) -> Option<Goodput> {
    let goodputs: Vec<&Goodput> = all.all.iter().map(|vb| vb.goodput.as_ref()).collect::<Option<_>>()?;
    let slos_ms = goodputs[0].slos_ms.clone();
    if goodputs.iter().any(|goodput| goodput.slos_ms != slos_ms) {
        return None;
    }
    let offered: Vec<f64> = all.all.iter().map(|vb| vb.offered as f64).collect();
    let good = |of: fn(&Goodput) -> &Good| {
        let share = |of_one: &dyn Fn(&Good) -> Option<f64>| {
            let kept: f64 = goodputs.iter().zip(&offered).filter_map(|(g, n)| Some(of_one(of(g))? * n)).sum();
            let offered: f64 = offered.iter().sum();
            (offered > 0.0).then(|| kept / offered)
        };
        let requests: u64 = goodputs.iter().map(|g| of(g).requests).sum();
        let tokens: u64 = goodputs.iter().map(|g| of(g).tokens).sum();
        let alone = |name: &String| (name.clone(), share(&|good| good.attainment_of.get(name)?.as_f64()).into());
        Good {
            requests,
            attainment: share(&|good| good.attainment),
            attainment_of: slos_ms.keys().map(alone).collect(),
            tokens,
            ..Good::default()
        }
    };
    let fluid: Option<Vec<&Fluidity>> = goodputs.iter().map(|goodput| goodput.fluidity.as_ref()).collect();
    let fluidity = fluid.and_then(|fluid| {
        let fluid = Pool { all: fluid, how: all.how };
        let (met, offered) = (fluid.sum(|f| f.fluid), offered.iter().sum::<f64>());
        let attainment = (offered > 0.0).then(|| met as f64 / offered);
        Some(Fluidity { index: fluid.summary(Unit::Share, |f| &f.index)?, fluid: met, attainment })
    });
    Some(Goodput {
        from_start: good(|goodput| &goodput.from_start),
        from_schedule: good(|goodput| &goodput.from_schedule),
        slos_ms: slos_ms.clone(),
        fluidity,
    })
}

fn numbers(all: &Pool<Numbers>) -> Option<Numbers> {
    let limits = all.all.first().map(|n| n.attainment_of.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let alone = |name: String| {
        let share = all.mean(|n| (n.offered as f64, n.attainment_of.get(&name).and_then(serde_json::Value::as_f64)));
        (name, share.into())
    };
    Some(Numbers {
        offered: all.sum(|n| n.offered),
        completed: all.sum(|n| n.completed),
        failed: all.sum(|n| n.failed),
        input_tokens: all.sum(|n| n.input_tokens),
        output_tokens: all.sum(|n| n.output_tokens),
        ttft_ms: all.ms(|n| &n.ttft_ms)?,
        tpot_ms: all.ms(|n| &n.tpot_ms)?,
        itl_ms: all.ms(|n| &n.itl_ms)?,
        e2el_ms: all.ms(|n| &n.e2el_ms)?,
        attainment: all.mean(|n| (n.offered as f64, n.attainment)),
        attainment_of: limits.into_iter().map(alone).collect(),
        good_tokens: all.known(|n| n.good_tokens),
    })
}

/// The groups of all, in the order of their appearance.
fn groups(all: &Pool<Vb>) -> Option<Vec<Group>> {
    let mut found: Vec<Vec<&Group>> = Vec::new();
    for group in all.all.iter().flat_map(|vb| &vb.groups) {
        match found.iter_mut().find(|same| same[0].by == group.by && same[0].key == group.key) {
            Some(same) => same.push(group),
            None => found.push(vec![group]),
        }
    }
    let group = |same: Vec<&Group>| {
        let first = same[0];
        let pool = Pool { all: same, how: all.how };
        Some(Group { by: first.by.clone(), key: first.key.clone(), numbers: numbers(&pool.each(|g| &g.numbers))? })
    };
    found.into_iter().map(group).collect()
}

/// Slices of parts or hosts of one run have the same beginnings; those of runs in turn have nothing in common.
fn slices(all: &Pool<Vb>) -> Option<Vec<Slice>> {
    let mut found: Vec<Vec<&Slice>> = Vec::new();
    for slice in all.all.iter().flat_map(|vb| &vb.slices) {
        match found.iter_mut().find(|same| same[0].from_s.total_cmp(&slice.from_s).is_eq()) {
            Some(same) => same.push(slice),
            None => found.push(vec![slice]),
        }
    }
    found.sort_by(|a, b| a[0].from_s.total_cmp(&b[0].from_s));
    let slice = |same: Vec<&Slice>| {
        let (from_s, to_s) = (same[0].from_s, same[0].to_s);
        let pool = Pool { all: same, how: all.how };
        Some(Slice { from_s, to_s, numbers: numbers(&pool.each(|s| &s.numbers))? })
    };
    found.into_iter().map(slice).collect()
}
