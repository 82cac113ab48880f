//! The columns of the CSV: vLLM's keys in vLLM's order, numbers from `vb`, and other keys at their position in the result.

use std::collections::HashSet;

use serde_json::Value;

use super::run::ResultRow;
use crate::{record::Object, recording::metric::Metric, stats::compact};

/// The scalar keys of a result in the order in which `vllm bench serve` writes them, with their Chinese names.
/// The metrics follow them.
const KEYS: [(&str, &str); 54] = [
    ("date", "日期"),
    ("endpoint_type", "端点类型"),
    ("backend", "后端"),
    ("label", "标签"),
    ("model_id", "模型"),
    ("tokenizer_id", "分词器"),
    ("max_model_len", "模型最大长度"),
    ("num_prompts", "请求数"),
    ("request_rate", "请求速率 (req/s)"),
    ("burstiness", "突发度"),
    ("max_concurrency", "最大并发数"),
    ("ramp_up_strategy", "升速策略"),
    ("ramp_up_start_rps", "升速起始速率 (req/s)"),
    ("ramp_up_end_rps", "升速结束速率 (req/s)"),
    ("duration", "测试时长 (s)"),
    ("completed", "成功请求数"),
    ("failed", "失败请求数"),
    ("total_input_tokens", "输入 Token 总数"),
    ("total_input_sequences", "输入序列总数"),
    ("total_output_tokens", "输出 Token 总数"),
    ("request_throughput", "请求吞吐量 (req/s)"),
    ("input_sequence_throughput", "输入序列吞吐量 (seq/s)"),
    ("request_goodput", "有效请求吞吐量 (req/s)"),
    ("input_throughput", "输入 Token 吞吐量 (tok/s)"),
    ("output_throughput", "输出 Token 吞吐量 (tok/s)"),
    ("total_token_throughput", "总 Token 吞吐量 (tok/s)"),
    ("max_output_tokens_per_s", "输出 Token 峰值吞吐量 (tok/s)"),
    ("max_concurrent_requests", "峰值并发请求数"),
    ("rtfx", "音频实时率 (RTFx)"),
    ("probe_completed", "探测请求成功数"),
    ("probe_failed", "探测请求失败数"),
    ("probe_median_e2el_ms", "探测请求端到端延迟中位数 (ms)"),
    ("probe_p99_e2el_ms", "探测请求端到端延迟 P99 (ms)"),
    ("probe_max_e2el_ms", "探测请求端到端延迟最大值 (ms)"),
    ("spec_decode_acceptance_rate", "投机解码接受率 (%)"),
    ("spec_decode_acceptance_length", "投机解码平均接受长度"),
    ("spec_decode_num_drafts", "投机解码草稿次数"),
    ("spec_decode_draft_tokens", "投机解码草稿 Token 数"),
    ("spec_decode_accepted_tokens", "投机解码接受 Token 数"),
    ("diffusion_committed_throughput", "扩散解码提交吞吐量 (tok/s)"),
    ("diffusion_steps_per_canvas", "扩散解码每画布去噪步数"),
    ("diffusion_committed_per_step", "扩散解码每步提交 Token 数"),
    ("diffusion_committed_tokens", "扩散解码提交 Token 数"),
    ("diffusion_denoising_steps", "扩散解码去噪步数"),
    ("diffusion_canvas_positions", "扩散解码画布位置数"),
    ("mode", "模式"),
    ("num_conversations", "会话数"),
    ("turns_per_conversation", "每会话轮数"),
    ("multi_turn_concurrency", "会话并发数"),
    ("inter_turn_delay_ms", "轮间间隔 (ms)"),
    ("conversations_completed", "成功会话数"),
    ("conversations_failed", "失败会话数"),
    ("avg_turns_completed", "平均完成轮数"),
    ("avg_conversation_duration_ms", "平均会话时长 (ms)"),
];

/// The columns from `vb`, which follow the metrics: their names, where their values are, and their Chinese names.
const VB_COLUMNS: [(&str, &str, &str); 12] = [
    ("tokens_per_s_per_user", "tokens_per_s_per_user.mean", "每用户输出速度均值 (tok/s)"),
    ("request_throughput_per_gpu", "per_gpu.request_throughput", "每 GPU 请求吞吐量 (req/s)"),
    ("output_throughput_per_gpu", "per_gpu.output_throughput", "每 GPU 输出 Token 吞吐量 (tok/s)"),
    ("total_token_throughput_per_gpu", "per_gpu.total_token_throughput", "每 GPU 总 Token 吞吐量 (tok/s)"),
    ("uncached_prompt_tokens_per_s", "uncached_prompt_tokens_per_s", "未命中缓存的输入 Token 吞吐量 (tok/s)"),
    ("mean_concurrency", "mean_concurrency", "平均并发数"),
    ("peak_concurrency", "peak_concurrency", "瞬时峰值并发数"),
    ("mean_ttft_from_schedule_ms", "from_schedule.ttft_ms.mean", "首 Token 延迟均值（自计划时刻）(ms)"),
    ("mean_e2el_from_schedule_ms", "from_schedule.e2el_ms.mean", "端到端延迟均值（自计划时刻）(ms)"),
    ("mean_itl_per_token_ms", "itl_per_token_ms.mean", "逐 Token 间延迟均值 (ms)"),
    ("attainment", "goodput.from_start.attainment", "达标率"),
    ("attainment_from_schedule", "goodput.from_schedule.attainment", "达标率（自计划时刻）"),
];

/// The columns that a result's `vb` has numbers for. A part that is left out because it is equal to another one has that one's.
#[must_use]
pub fn read_vb_columns(vb: &Value) -> Object {
    let number = |path| compact::read_part(vb, path).filter(|value| value.is_number()).cloned();
    VB_COLUMNS.into_iter().filter_map(|(name, path, _)| Some((name.to_owned(), number(path)?))).collect()
}

/// The columns after the keys.
pub const LAST_COLUMNS: [(&str, &str); 6] = [
    ("input_len", "输入长度"),
    ("output_len", "输出长度"),
    ("complete", "完整"),
    ("interrupted", "中断"),
    ("verdict", "结论"),
    ("filename", "文件名"),
];

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
        for key in run.scalars.keys().filter(|key| !LAST_COLUMNS.iter().any(|(name, _)| name == key)) {
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
    let first = KEYS.iter().position(|(known, _)| *known == "duration");
    key_rank(key).is_none_or(|(at, ..)| Some(at) < first)
}

/// The position of a key in a result; `None` if neither vLLM nor `vb` has it.
fn key_rank(key: &str) -> Option<(usize, usize, u64)> {
    if let Some(at) = KEYS.iter().position(|(known, _)| *known == key) {
        return Some((at, 0, 0));
    }
    if let Some(at) = VB_COLUMNS.iter().position(|(known, ..)| *known == key) {
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

/// The Chinese name of a column; the key itself if vLLM does not write it.
#[must_use]
pub fn chinese_name(key: &str) -> String {
    if let Some((_, name)) = KEYS.iter().chain(&LAST_COLUMNS).find(|(known, _)| *known == key) {
        return (*name).to_owned();
    }
    if let Some((.., name)) = VB_COLUMNS.iter().find(|(known, ..)| *known == key) {
        return (*name).to_owned();
    }
    let Some((statistic, metric)) = Metric::parse_key(key) else { return key.to_owned() };
    let metric = match metric {
        Metric::Ttft => "首 Token 延迟",
        Metric::Tpot => "每输出 Token 耗时",
        Metric::Itl => "Token 间延迟",
        Metric::E2el => "端到端延迟",
        Metric::ClientQueueTime => "客户端排队时间",
        Metric::E2elIncludingClientQueue => "端到端延迟（含客户端排队）",
    };
    let statistic = match statistic {
        "mean" => "均值".to_owned(),
        "median" => "中位数".to_owned(),
        "std" => "标准差".to_owned(),
        percentile => format!(" {}", percentile.to_uppercase()),
    };
    format!("{metric}{statistic} (ms)")
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
