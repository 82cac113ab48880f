//! The columns of the CSV: vLLM's keys in vLLM's order, numbers from `vb`, and other keys at their position in the result.

use std::{borrow::Cow, collections::HashSet};

use serde_json::Value;

use super::run::ResultRow;
use crate::{lang::Language, record::Object, recording::metric::Metric, stats::compact};

/// What the names of columns begin with in the table of translations, since a word of a table may have another translation.
const COLUMN: &str = "column:";

/// The scalar keys of a result in the order in which `vllm bench serve` writes them. The metrics follow them. Their Chinese names are
/// in the table of translations.
const KEYS: [&str; 54] = [
    "date",
    "endpoint_type",
    "backend",
    "label",
    "model_id",
    "tokenizer_id",
    "max_model_len",
    "num_prompts",
    "request_rate",
    "burstiness",
    "max_concurrency",
    "ramp_up_strategy",
    "ramp_up_start_rps",
    "ramp_up_end_rps",
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_input_sequences",
    "total_output_tokens",
    "request_throughput",
    "input_sequence_throughput",
    "request_goodput",
    "input_throughput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    "rtfx",
    "probe_completed",
    "probe_failed",
    "probe_median_e2el_ms",
    "probe_p99_e2el_ms",
    "probe_max_e2el_ms",
    "spec_decode_acceptance_rate",
    "spec_decode_acceptance_length",
    "spec_decode_num_drafts",
    "spec_decode_draft_tokens",
    "spec_decode_accepted_tokens",
    "diffusion_committed_throughput",
    "diffusion_steps_per_canvas",
    "diffusion_committed_per_step",
    "diffusion_committed_tokens",
    "diffusion_denoising_steps",
    "diffusion_canvas_positions",
    "mode",
    "num_conversations",
    "turns_per_conversation",
    "multi_turn_concurrency",
    "inter_turn_delay_ms",
    "conversations_completed",
    "conversations_failed",
    "avg_turns_completed",
    "avg_conversation_duration_ms",
];

/// The columns from `vb`, which follow the metrics: their names, and where their values are.
const VB_COLUMNS: [(&str, &str); 13] = [
    ("tokens_per_s_per_user", "tokens_per_s_per_user.mean"),
    ("gpus", "per_gpu.gpus"),
    ("request_throughput_per_gpu", "per_gpu.request_throughput"),
    ("output_throughput_per_gpu", "per_gpu.output_throughput"),
    ("total_token_throughput_per_gpu", "per_gpu.total_token_throughput"),
    ("uncached_prompt_tokens_per_s", "uncached_prompt_tokens_per_s"),
    ("mean_concurrency", "mean_concurrency"),
    ("peak_concurrency", "peak_concurrency"),
    ("mean_ttft_from_schedule_ms", "from_schedule.ttft_ms.mean"),
    ("mean_e2el_from_schedule_ms", "from_schedule.e2el_ms.mean"),
    ("mean_itl_per_token_ms", "itl_per_token_ms.mean"),
    ("attainment", "goodput.from_start.attainment"),
    ("attainment_from_schedule", "goodput.from_schedule.attainment"),
];

/// The columns that a result's `vb` has numbers for. A part that is left out because it is equal to another one has that one's.
#[must_use]
pub fn read_vb_columns(vb: &Value) -> Object {
    let number = |path| compact::read_part(vb, path).filter(|value| value.is_number()).cloned();
    VB_COLUMNS.into_iter().filter_map(|(name, path)| Some((name.to_owned(), number(path)?))).collect()
}

/// The columns after the keys.
pub const LAST_COLUMNS: [&str; 6] = ["input_len", "output_len", "complete", "interrupted", "verdict", "filename"];

/// The most columns of a CSV. A result has about a hundred keys, and any number of metadata.
const MAX_COLUMNS: usize = 2000;

/// The union of the keys of all runs, in order.
///
/// # Errors
/// There are more keys than any results have.
pub fn column_keys(runs: &[ResultRow]) -> Result<Vec<String>, String> {
    let keys: HashSet<&String> = runs.iter().flat_map(|run| run.scalars.keys()).collect();
    if keys.len() > MAX_COLUMNS {
        return Err(format!("the input has {} different keys, more than any results of runs", keys.len()));
    }
    let mut columns: Vec<String> = Vec::new();
    for key in runs.iter().flat_map(|run| run.scalars.keys()) {
        if key_rank(key).is_some() && !columns.contains(key) {
            columns.push(key.clone());
        }
    }
    columns.sort_by_key(|key| key_rank(key));
    for run in runs {
        let mut place = 0;
        for key in run.scalars.keys().filter(|key| !LAST_COLUMNS.contains(&key.as_str())) {
            let at = columns.iter().position(|column| column == key);
            if at.is_none() {
                columns.insert(place, key.clone());
            }
            place = at.unwrap_or(place) + 1;
        }
    }
    Ok(columns)
}

/// Whether a key is a setting of a run and not a measurement: the keys before `duration`, and keys that vLLM does not write.
#[must_use]
pub fn is_setting(key: &str) -> bool {
    let first = KEYS.iter().position(|known| *known == "duration");
    key_rank(key).is_none_or(|(at, ..)| Some(at) < first)
}

/// The position of a key in a result; `None` if neither vLLM nor `vb` has it.
fn key_rank(key: &str) -> Option<(usize, usize, u64)> {
    if let Some(at) = KEYS.iter().position(|known| *known == key) {
        return Some((at, 0, 0));
    }
    if let Some(at) = VB_COLUMNS.iter().position(|(known, _)| *known == key) {
        return Some((KEYS.len() + Metric::ALL.len() + at, 0, 0));
    }
    let (statistic, metric) = Metric::parse_key(key)?;
    let metric = KEYS.len() + Metric::ALL.iter().position(|m| *m == metric)?;
    let (statistic, percentile) = match statistic {
        "mean" => (0, 0.0),
        "median" => (1, 0.0),
        "std" => (2, 0.0),
        percentile => (3, percentile.strip_prefix('p')?.parse::<f64>().ok()?),
    };
    // The bits of non-negative doubles sort like their values.
    Some((metric, statistic, percentile.abs().to_bits()))
}

/// A column's key and its Chinese name.
#[must_use]
pub fn column_name(key: &str) -> (String, String) {
    (key.to_owned(), chinese_name(key))
}

/// The Chinese name of a column; the key itself if it is not one of ours or vLLM's.
#[must_use]
pub fn chinese_name(key: &str) -> String {
    let english = match Metric::parse_key(key) {
        Some((statistic, metric)) => format!("{COLUMN}{statistic} of {COLUMN}{}", metric.name()),
        None => format!("{COLUMN}{key}"),
    };
    match Language::Zh.translate(&english) {
        Cow::Owned(name) => name,
        Cow::Borrowed(_) => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(keys: &[&str]) -> ResultRow {
        let scalars = keys.iter().map(|key| ((*key).to_owned(), serde_json::Value::from(1))).collect();
        ResultRow { scalars, ..ResultRow::default() }
    }

    #[test]
    fn the_union_of_columns_is_in_vllms_order() {
        let old = run(&["date", "gpu", "tp", "duration", "p99_itl_ms", "mean_itl_ms"]);
        let new = run(&[
            "date",
            "num_prompts",
            "gpu",
            "request_rate",
            "duration",
            "p99.9_itl_ms",
            "p90_itl_ms",
            "mean_ttft_ms",
        ]);
        let got = column_keys(&[old, new]).unwrap();
        let want = [
            "date",
            "gpu",
            "tp",
            "num_prompts",
            "request_rate",
            "duration",
            "mean_ttft_ms",
            "mean_itl_ms",
            "p90_itl_ms",
            "p99_itl_ms",
            "p99.9_itl_ms",
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn a_part_that_was_left_out_has_the_number_of_the_equal_one() {
        let vb = serde_json::json!({
            "from_start": {"ttft_ms": {"mean": 5.0}}, "itl_per_chunk_ms": {"mean": 2.0},
            "goodput": {"from_start": {"attainment": 0.5}}, "tokens_per_s_per_user": {"mean": "fast"},
            "same": {"from_schedule": "from_start", "itl_per_token_ms": "itl_per_chunk_ms", "goodput.from_schedule": "goodput.from_start"},
        });
        let want = serde_json::json!({
            "mean_ttft_from_schedule_ms": 5.0, "mean_itl_per_token_ms": 2.0, "attainment": 0.5, "attainment_from_schedule": 0.5,
        });
        assert_eq!(Value::Object(read_vb_columns(&vb)), want);
        assert!(read_vb_columns(&Value::Null).is_empty());
        assert!(!is_setting("attainment") && is_setting("my_gpu"));
    }

    #[test]
    fn every_key_of_vllm_has_a_chinese_name() {
        for (key, name) in [
            ("mean_ttft_ms", "首 Token 延迟均值 (ms)"),
            ("p99.9_e2el_ms", "端到端延迟 P99.9 (ms)"),
            ("failed", "失败请求数"),
            ("input_len", "输入长度"),
            ("my_gpu", "my_gpu"),
        ] {
            assert_eq!(chinese_name(key), name);
        }
    }
}
