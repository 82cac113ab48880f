//! Pools what vLLM does not have: one `vb` for several results.

use std::{cmp::Reverse, collections::HashMap};

use super::{
    goodput::Goodput,
    pooling::{Pooled, Pooling},
    rate::MeasuredRate,
    share::{PartShare, pool_share_intervals},
    slowest::{Slowest, SlowestShare},
    throughput::UserSpeed,
    vb::{FailureCount, Latencies, Shortfall, VbMetrics, most_frequent},
};
use crate::{
    record::{Object, PromptLengths, Verdict},
    recording::population::Population,
    statistics::{Summary, Unit, histogram, numpy},
};

/// Pools everything but the rates and the mean concurrency, which depend on the durations of the results.
impl Pooled for VbMetrics {
    fn pool(all: &Pooling<Self>) -> Option<Self> {
        let first = all.all[0];
        let (verdict, reasons) = pool_verdicts(all);
        let length = |field: fn(&VbMetrics) -> Option<u64>| {
            let mean = all.weighted_mean(|vb| (vb.offered as f64, field(vb).map(|n| n as f64)));
            mean.map(|mean| numpy::truncate_to_usize(mean.round()) as u64)
        };
        let tpot_ms = all.pool_times(|vb| &vb.tpot_ms)?;
        let speed = pool_speeds(all, &tpot_ms);
        let pooled = VbMetrics {
            format: first.format,
            tool: first.tool.clone(),
            run_ids: all.collect_names(|vb| &vb.run_ids),
            hosts: all.collect_names(|vb| &vb.hosts),
            selftest: all.all.iter().find_map(|vb| vb.selftest.clone()),
            complete: all.all.iter().all(|vb| vb.complete),
            interrupted: all.all.iter().any(|vb| vb.interrupted),
            open_loop: all.all.iter().filter_map(|vb| vb.open_loop).reduce(|a, b| a || b),
            verdict,
            reasons,
            client: all.pool_known(|vb| vb.client.as_ref()),
            arrivals: all.pool_known(|vb| vb.arrivals.as_ref()),
            skipped_lines: all.sum(|vb| vb.skipped_lines),
            bad_lines: all.sum(|vb| vb.bad_lines),
            offered: all.sum(|vb| vb.offered),
            not_sent: all.sum(|vb| vb.not_sent),
            success_interval: pool_success_intervals(all),
            outcomes: all.sum_counts(|vb| &vb.outcomes),
            errors: all.pool_field(|vb| &vb.errors)?,
            input_len: length(|vb| vb.input_len),
            output_len: length(|vb| vb.output_len),
            start_time: all.all.iter().filter_map(|vb| vb.start_time).min(),
            end_time: all.all.iter().filter_map(|vb| vb.end_time).max(),
            percentile_error: histogram::MAX_RELATIVE_ERROR,
            requests_per_s: MeasuredRate::default(),
            output_tokens_per_s: MeasuredRate::default(),
            steady: None,
            run_length: None,
            from_start: all.pool_field(|vb| &vb.from_start)?,
            from_schedule: all.pool_field(|vb| &vb.from_schedule)?,
            tpot_ms,
            itl_per_chunk_ms: all.pool_times(|vb| &vb.itl_per_chunk_ms)?,
            itl_per_token_ms: all.pool_times(|vb| &vb.itl_per_token_ms)?,
            longest_stall_ms: all.pool_times(|vb| &vb.longest_stall_ms)?,
            itl_per_token_estimated: all.all.iter().any(|vb| vb.itl_per_token_estimated),
            client_queue_time_ms: all.pool_times(|vb| &vb.client_queue_time_ms)?,
            ttft_answer_ms: all.pool_times(|vb| &vb.ttft_answer_ms)?,
            schedule_lag_ms: all.pool_times(|vb| &vb.schedule_lag_ms)?,
            read_lag_ms: all.pool_times(|vb| &vb.read_lag_ms)?,
            server_queue_ms: all.pool_times(|vb| &vb.server_queue_ms)?,
            server_ttft_ms: all.pool_times(|vb| &vb.server_ttft_ms)?,
            tokens_per_s_per_user: speed,
            per_gpu: None,
            uncached_prompt_tokens_per_s: None,
            slowest_1_percent: pool_slowest(all),
            mean_concurrency: None,
            peak_concurrency: all.pool_peak(|vb| vb.peak_concurrency),
            peak_tokens_per_s: all.pool_peak(|vb| vb.peak_tokens_per_s),
            prompt_len: all.pool_summary(Unit::Tokens, |vb| &vb.prompt_len)?,
            output_tokens: all.pool_summary(Unit::Tokens, |vb| &vb.output_tokens)?,
            cached_tokens: all.sum_known(|vb| vb.cached_tokens),
            reasoning_tokens: all.sum_known(|vb| vb.reasoning_tokens),
            hidden_tokens: all.sum(|vb| vb.hidden_tokens),
            token_sources: all.sum_counts(|vb| &vb.token_sources),
            shortfall: all.pool_field(|vb| &vb.shortfall)?,
            prompt_lengths: all.all.iter().filter_map(|vb| vb.prompt_lengths).reduce(PromptLengths::merge_with),
            goodput: pool_goodputs(all),
            // The server's counters belong to the stream that has its pages.
            cache: None,
            server: None,
            groups: all.pool_field(|vb| &vb.groups)?,
            slices: all.pool_field(|vb| &vb.slices)?,
            same: Object::new(),
        };
        Some(pooled.with_run_length())
    }
}

impl Pooled for Latencies {
    fn pool(all: &Pooling<Self>) -> Option<Self> {
        Some(Latencies { ttft_ms: all.pool_times(|l| &l.ttft_ms)?, e2el_ms: all.pool_times(|l| &l.e2el_ms)? })
    }
}

impl Pooled for Shortfall {
    fn pool(all: &Pooling<Self>) -> Option<Self> {
        Some(Shortfall {
            compared: all.sum(|shortfall| shortfall.compared),
            short: all.sum(|shortfall| shortfall.short),
            long: all.sum(|shortfall| shortfall.long),
            missing_tokens: all.sum(|shortfall| shortfall.missing_tokens),
            extra_tokens: all.sum(|shortfall| shortfall.extra_tokens),
        })
    }
}

impl Pooled for Vec<FailureCount> {
    fn pool(all: &Pooling<Self>) -> Option<Self> {
        let mut counts: HashMap<_, u64> = HashMap::new();
        for failure in all.all.iter().copied().flatten() {
            *counts.entry((failure.kind, failure.message.clone())).or_default() += failure.count;
        }
        Some(most_frequent(counts.iter()))
    }
}

/// The worst verdict, and the reasons of all results, worst verdict first.
fn pool_verdicts(all: &Pooling<VbMetrics>) -> (Option<Verdict>, Vec<String>) {
    let mut judged = all.all.clone();
    judged.sort_by_key(|vb| Reverse(vb.verdict));
    let sorted = Pooling { all: judged, options: all.options };
    (sorted.all.first().and_then(|vb| vb.verdict), sorted.collect_names(|vb| &vb.reasons))
}

fn pool_success_intervals(all: &Pooling<VbMetrics>) -> Option<[f64; 2]> {
    let part = |vb: &&VbMetrics| {
        let population = vb.population();
        PartShare { population, share: population.success_share(), interval: vb.success_interval }
    };
    let parts: Vec<PartShare> = all.all.iter().map(part).collect();
    let share = parts.iter().map(|part| part.population).sum::<Population>().success_share();
    pool_share_intervals(share, &parts, all.options.together)
}

fn pool_speeds(all: &Pooling<VbMetrics>, tpot: &Summary) -> Option<UserSpeed> {
    let speeds: Vec<&UserSpeed> = all.all.iter().filter_map(|vb| vb.tokens_per_s_per_user.as_ref()).collect();
    (!speeds.is_empty()).then(|| UserSpeed::pool_with(&Pooling { all: speeds, options: all.options }, tpot))
}

fn pool_slowest(all: &Pooling<VbMetrics>) -> Option<Slowest> {
    let share = |field: fn(&VbMetrics) -> &Summary| SlowestShare::pool_summaries(&all.map_fields(field).all);
    let slowest = Slowest { ttft: share(|vb| &vb.from_start.ttft_ms), e2el: share(|vb| &vb.from_start.e2el_ms) };
    Some(slowest).filter(|slowest| *slowest != Slowest::default())
}

/// `None` unless every result has a goodput.
fn pool_goodputs(all: &Pooling<VbMetrics>) -> Option<Goodput> {
    let goodputs: Vec<&Goodput> = all.all.iter().map(|vb| vb.goodput.as_ref()).collect::<Option<_>>()?;
    let populations: Vec<Population> = all.all.iter().map(|vb| vb.population()).collect();
    Goodput::pool_runs(&Pooling { all: goodputs, options: all.options }, &populations)
}
