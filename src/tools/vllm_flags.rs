//! The flags of `vllm bench serve`, and what each is here: for `vb bench`, for messages, and for `docs/FROM-VLLM-BENCH.md`.

use self::{
    Here::{Bench, Ignored, Missing, Renamed, Same},
    Value::{Many, Nothing, One},
};

/// A flag of `vllm bench serve`.
#[derive(Debug, Clone, Copy)]
pub struct VllmFlag {
    /// Its name, without `--`.
    pub name: &'static str,
    /// What follows it.
    pub value: Value,
    /// What it is here.
    pub here: Here,
    /// One phrase for people: what differs, the reason, or the equivalent. Empty if there is nothing to add.
    pub note: &'static str,
}

/// What follows a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Nothing,
    /// One word.
    One,
    /// One word or more.
    Many,
}

/// What a flag of `vllm bench serve` is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    /// A flag of the same name of the programs that have it.
    Same,
    /// This flag of the programs that have it.
    Renamed(&'static str),
    /// `vb bench` does it, with what the note says.
    Bench,
    /// Accepted without an effect, for the reason of the note.
    Ignored,
    /// Refused, with the note.
    Missing,
}

/// The group of a flag in vLLM's reference.
#[derive(Debug, Clone, Copy)]
pub struct VllmGroup {
    /// Its heading.
    pub title: &'static str,
    /// Its flags.
    pub flags: &'static [VllmFlag],
}

const fn same(name: &'static str, value: Value) -> VllmFlag {
    VllmFlag { name, value, here: Same, note: "" }
}

const fn flag(name: &'static str, value: Value, here: Here, note: &'static str) -> VllmFlag {
    VllmFlag { name, value, here, note }
}

const LOCAL_FILE: &str = "datasets are local files: download it, and use --dataset-path FILE";
const CONVERT: &str = "convert the trace's keys with jq to timestamp, input_length, output_length and hash_ids";
const PLOT: &str = "no plots; `vb stats --save-detailed` has every gap, for pandas or DuckDB (docs/COOKBOOK.md)";
const SWEEP: &str = "`vb sweep CONFIG` runs a grid of lengths and concurrencies";
const STEADY: &str = "vb-stats always tests for a steady state";
const PROFILE: &str = "run `curl -X POST URL/start_profile` before and `curl -X POST URL/stop_profile` after";
const REQUEST_TABLE: &str = "write requests from the dataset's rows, for --dataset-name custom";

/// The flags of `vllm bench serve` 0.32, as its client in Python has them.
pub const GROUPS: &[VllmGroup] = &[
    VllmGroup {
        title: "Server and model",
        flags: &[
            flag("backend", One, Same, "for vb-gen too, which counts a chat's template"),
            flag("base-url", One, Same, "for vb-gen too, which asks the server to count tokens"),
            flag("host", One, Bench, "A part of --base-url http://HOST:PORT"),
            flag("port", One, Bench, "A part of --base-url http://HOST:PORT"),
            same("endpoint", One),
            flag(
                "header",
                Many,
                Same,
                "for vb-gen too; a header that may hold a key reaches them in their environment",
            ),
            same("insecure", Nothing),
            same("model", One),
            flag("served-model-name", One, Bench, "Becomes --model; --model then names the tokenizer"),
            flag("tokenizer", One, Same, "the default asks the server"),
            flag("tokenizer-mode", One, Ignored, "a tokenizer is a tokenizer.json, or the server's"),
            flag("trust-remote-code", Nothing, Ignored, "no code of a model's repository is run"),
            flag("skip-tokenizer-init", Nothing, Ignored, "the server counts tokens, so no latency is left out"),
            flag(
                "chat-template-kwargs",
                One,
                Missing,
                r#"use a chat backend with --extra-body '{"chat_template_kwargs":{…}}': the server renders the template"#,
            ),
            flag(
                "ready-check-timeout-sec",
                One,
                Renamed("ready-check"),
                "asks for the list of models, and costs no generation",
            ),
        ],
    },
    VllmGroup {
        title: "Load",
        flags: &[
            same("num-prompts", One),
            same("request-rate", One),
            same("burstiness", One),
            same("max-concurrency", One),
            flag(
                "ramp-up-strategy",
                One,
                Same,
                "needs --ramp-up-time: the rate follows the time, not the number of requests",
            ),
            same("ramp-up-start-rps", One),
            same("ramp-up-end-rps", One),
            flag("num-warmups", One, Same, "with prompts that the measured requests do not have"),
            flag("probe-request-rate", One, Missing, "run a second vb-fire with few short requests next to the load"),
            flag(
                "self-timed",
                Nothing,
                Ignored,
                "requests with timestamps are sent at them unless --request-rate is given",
            ),
            flag("no-self-timed", Nothing, Ignored, "give --request-rate, and timestamps are not used"),
            flag("profile", Nothing, Missing, PROFILE),
            same("lora-modules", Many),
            same("lora-assignment", One),
            flag("seed", One, Same, "the same seed gives the same prompts on every machine, but not vLLM's prompts"),
        ],
    },
    VllmGroup {
        title: "Sampling and body",
        flags: &[
            same("top-p", One),
            same("top-k", One),
            same("min-p", One),
            same("temperature", One),
            same("frequency-penalty", One),
            same("presence-penalty", One),
            same("repetition-penalty", One),
            same("logprobs", One),
            flag("ignore-eos", Nothing, Same, "random requests have it already"),
            flag("use-beam-search", Nothing, Ignored, "vLLM does not use it either"),
            same("extra-body", One),
            same("request-id-prefix", One),
        ],
    },
    VllmGroup {
        title: "Output",
        flags: &[
            same("label", One),
            flag("save-result", Nothing, Bench, "Writes vb-stats' output to a file with vLLM's name: `> FILE`"),
            flag("save-detailed", Nothing, Same, "with the keys of vLLM"),
            flag("append-result", Nothing, Bench, "Appends to the file: `>> FILE`"),
            flag("result-dir", One, Bench, "The folder of the file"),
            flag("result-filename", One, Bench, "The name of the file"),
            same("metadata", Many),
            flag("percentile-metrics", One, Same, "the default has e2el too"),
            flag("metric-percentiles", One, Same, "the default is 50,90,99"),
            flag("goodput", Many, Same, "with units too: ttft:200ms"),
            flag("disable-tqdm", Nothing, Renamed("quiet"), "progress is only shown on a terminal"),
            flag("plot-timeline", Nothing, Missing, PLOT),
            flag("timeline-itl-thresholds", One, Missing, PLOT),
            flag("plot-dataset-stats", Nothing, Missing, PLOT),
        ],
    },
    VllmGroup {
        title: "Datasets",
        flags: &[
            flag("dataset-name", One, Same, "`vb gen --list-datasets`; timed_trace is mooncake or qwen here"),
            flag("dataset-path", One, Same, "a local file"),
            same("input-len", One),
            same("output-len", One),
            same("no-oversample", Nothing),
            same("disable-shuffle", Nothing),
            flag(
                "no-stream",
                Nothing,
                Missing,
                "in vLLM it is about loading a dataset, and has no use here; for responses that are not streamed run \
                 vb-fire --no-stream in the pipe that `vb bench --print` shows",
            ),
            flag(
                "skip-chat-template",
                Nothing,
                Bench,
                "Leaves out vb-gen's --apply-chat-template, which `vb bench` adds for custom, hf, spec_bench and speed_bench",
            ),
            flag("enable-multimodal-chat", Nothing, Ignored, "a chat backend sends images with the text"),
        ],
    },
    VllmGroup {
        title: "random and random-mm",
        flags: &[
            flag("random-input-len", One, Renamed("input-len"), ""),
            flag("random-output-len", One, Renamed("output-len"), ""),
            flag("random-range-ratio", One, Renamed("range-ratio"), ""),
            flag("random-prefix-len", One, Renamed("prefix-len"), ""),
            same("random-batch-size", One),
            same("no-reranker", Nothing),
            same("random-mm-base-items-per-request", One),
            same("random-mm-num-mm-items-range-ratio", One),
            same("random-mm-limit-mm-per-prompt", One),
            flag("random-mm-bucket-config", One, Same, "images only, no video"),
        ],
    },
    VllmGroup {
        title: "Other datasets",
        flags: &[
            flag("sharegpt-output-len", One, Renamed("output-len"), ""),
            flag("custom-output-len", One, Renamed("output-len"), ""),
            flag("custom-ensure-client-side-data", Nothing, Ignored, "image and audio files are always sent as data"),
            flag("hf-subset", One, Missing, LOCAL_FILE),
            flag("hf-split", One, Missing, LOCAL_FILE),
            flag("hf-output-len", One, Renamed("output-len"), ""),
            flag("hf-name", One, Missing, LOCAL_FILE),
            same("prefix-repetition-prefix-len", One),
            same("prefix-repetition-suffix-len", One),
            same("prefix-repetition-num-prefixes", One),
            flag("prefix-repetition-output-len", One, Renamed("output-len"), ""),
            flag("spec-bench-output-len", One, Renamed("output-len"), ""),
            same("spec-bench-category", One),
            same("speed-bench-dataset-subset", One),
            flag("speed-bench-output-len", One, Renamed("output-len"), ""),
            same("speed-bench-category", One),
            flag(
                "timed-trace-chunk-hash-size",
                One,
                Missing,
                "--dataset-name qwen has blocks of 16 tokens, and mooncake of 512",
            ),
            flag("timed-trace-sec-multiplier", One, Missing, "use --speed, which is its inverse"),
            flag("timed-trace-label-timestamp", One, Missing, CONVERT),
            flag("timed-trace-label-input-length", One, Missing, CONVERT),
            flag("timed-trace-label-output-length", One, Missing, CONVERT),
            flag("timed-trace-label-hash-ids", One, Missing, CONVERT),
            flag("blazedit-min-distance", One, Missing, REQUEST_TABLE),
            flag("blazedit-max-distance", One, Missing, REQUEST_TABLE),
            flag("asr-min-audio-len-sec", One, Missing, REQUEST_TABLE),
            flag("asr-max-audio-len-sec", One, Missing, REQUEST_TABLE),
            flag("bfcl-categories", Many, Missing, "use --dataset-name custom: a row may have `messages` and `tools`"),
        ],
    },
];

/// The further flags of vLLM's client in Rust.
pub const RUST_CLIENT: &[VllmFlag] = &[
    same("prompt-token-ids", Nothing),
    flag("max-model-len", One, Same, "requests that exceed it are sent, and counted on standard error"),
    flag("dry-run", Nothing, Bench, "As --print: the pipe is printed, and not run"),
    flag("random-cache-hit-fraction", One, Renamed("cache-hit-fraction"), "needs --cache-hit-ratio"),
    flag(
        "random-cache-ratio",
        One,
        Missing,
        "use --cache-hit-ratio, the share of all prompt tokens: this one times --random-cache-hit-fraction",
    ),
    same("hf-text-column", One),
    flag("speed-bench-config", One, Renamed("speed-bench-dataset-subset"), ""),
    flag(
        "speed-bench-max-input-len",
        One,
        Missing,
        "no prompt is cut: select those that fit with jq, as `jq -c 'select(.prompt_len <= 10240)'`",
    ),
    same("multi-turn", Nothing),
    same("per-turn-input-len", One),
    flag("multi-turn-num-turns", One, Renamed("num-turns"), ""),
    flag("multi-turn-min-turns", One, Renamed("min-turns"), ""),
    flag("multi-turn-max-turns", One, Renamed("max-turns"), ""),
    flag("multi-turn-concurrency", One, Renamed("max-sessions"), ""),
    flag("multi-turn-delay-ms", One, Missing, "use --think-time, as --think-time 500ms"),
    flag("multi-turn-prefix-global-ratio", One, Missing, "use --prefix-len, in tokens"),
    flag("multi-turn-prefix-conversation-ratio", One, Missing, "use --conversation-prefix-len, in tokens"),
    flag("sweep-max-concurrency", One, Missing, SWEEP),
    flag("sweep-request-rate", One, Missing, SWEEP),
    flag("sweep-num-prompts-factor", One, Missing, SWEEP),
    flag("sweep-summary-percentiles", One, Missing, SWEEP),
    flag(
        "reset-prefix-cache",
        Nothing,
        Missing,
        "use another --seed, or run `curl -X POST URL/reset_prefix_cache` before",
    ),
    flag("num-runs", One, Missing, "run it several times; `vb agg --repeats` has the intervals over the runs"),
    flag("compare", Many, Missing, "`vb diff A B` compares two runs"),
    flag("steady-state-threshold", One, Ignored, STEADY),
    flag("steady-state-min-window", One, Ignored, STEADY),
    flag("no-steady-state", Nothing, Ignored, STEADY),
    flag("profile-batch-threshold", One, Missing, PROFILE),
    flag("profile-duration", One, Missing, PROFILE),
];

/// All flags of both clients.
pub fn all_flags() -> impl Iterator<Item = &'static VllmFlag> {
    GROUPS.iter().flat_map(|group| group.flags).chain(RUST_CLIENT)
}

/// The flag of this name, without `--` and with hyphens.
#[must_use]
pub fn find_flag(name: &str) -> Option<&'static VllmFlag> {
    all_flags().find(|flag| flag.name == name)
}

/// What a program that lacks `name` says about it, if it is a flag of vLLM that no program has under this name.
#[must_use]
pub fn explain_flag(name: &str) -> Option<String> {
    let VllmFlag { here, note, .. } = find_flag(name)?;
    Some(match here {
        Same => return None,
        Renamed(name) => format!("it is --{name} here"),
        // The file is the shell's here.
        Bench if matches!(name, "save-result" | "result-dir" | "result-filename") => {
            format!("use `> FILE` on vb-stats; `vb bench` takes --{name}")
        }
        Bench => format!("`vb bench` takes it. {note}"),
        Ignored => format!("not needed: {note}"),
        Missing => (*note).to_owned(),
    })
}
