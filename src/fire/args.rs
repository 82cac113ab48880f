//! The flags of `vb-fire`.

use std::{
    fs,
    io::{self, IsTerminal},
    path::PathBuf,
};

use clap::ArgAction;
use hyper::header::HeaderName;
use reqwest::Url;
use serde_json::{Value, json};

use super::{attempt::TimeLimits, balance::Balance, lora::LoraAssignment, slots::RequestSlots};
use crate::{
    backend::{Backend, Protocol},
    cli::look::LookFlags,
    config::ConfigFlag,
    error::Error,
    http::{
        body::BodyFormat,
        connection::{parse_base_url, parse_url, server_root},
    },
    json,
    load::{self, RequestRate, ThinkTime},
    record::Object,
    units::{self, Nanos},
};

const EXAMPLES: &str = "\
Examples:
  vb-gen --input-len 256 --output-len 128 --num-prompts 100 \\
    | vb-fire --base-url http://127.0.0.1:8000 --max-concurrency 16 | vb-stats
  vb-fire --base-url http://127.0.0.1:8000 --request-rate 4 < requests.ndjson \\
    | tee -i outputs.ndjson | vb-stats
  vb-fire --request-rate 5:30s,5-50:1m,50 --max-concurrency 256 \\
    < requests.ndjson | vb-stats
  vb-fire --backend anthropic --max-sessions 64 --session-header X-Session-ID \\
    < talks.ndjson | vb-stats --by turn
  echo '{\"prompt\":\"hi\"}' | vb-fire | jq 'select(.type == \"output\") | .ttft'

Exit codes: 0 success; 1 too many requests failed (--fail-above); 2 wrong usage;
3 invalid input; 4 no server, or the records cannot be written; 5 the client set
some of the numbers (--strict); 130 interrupted.";

// The headings of `--help`.
const SERVER: &str = "Server";
const LOAD: &str = "Load";
const LIMITS: &str = "Time limits of a request";
const SAMPLING: &str = "Sampling (the server's defaults unless given)";
const SCRAPE: &str = "Server metrics";
const OUTPUT: &str = "Output";

/// Sends requests to an LLM server and records when each token arrives.
///
/// Reads requests (lines of `SampleRequest`) from standard input. Writes a `run` record, a `RequestFuncOutput` for each request,
/// and an `end` record. By default all requests are sent at once. --max-concurrency keeps that many in flight (closed loop),
/// --request-rate sends on a schedule (open loop), and both together follow the schedule as long as slots are free. A TIME is
/// written as 200ms, 5s, 2m or 1h; a number without a unit is in seconds.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "vb-fire",
    version,
    after_help = EXAMPLES
)]
pub struct Args {
    /// URL of the server, or of several servers that share the load.
    #[arg(
        long,
        help_heading = SERVER,
        value_name = "URL",
        num_args = 1..,
        action = ArgAction::Append,
        default_value = "http://127.0.0.1:8000"
    )]
    pub base_url: Vec<String>,
    /// How to distribute requests among several servers. A session stays with its server.
    #[arg(long, help_heading = SERVER, value_enum, default_value = "round-robin")]
    pub balance: Balance,
    /// The API of the server.
    #[arg(long, help_heading = SERVER, value_enum, default_value = "openai")]
    pub backend: &'static Backend,
    /// Disable streaming. TTFT, TPOT and ITL are then null.
    #[arg(long, help_heading = SERVER)]
    pub no_stream: bool,
    /// File that describes the API of --backend template.
    #[arg(long, help_heading = SERVER, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// Path of the endpoint [default: the usual one of the backend].
    #[arg(long, help_heading = SERVER, value_name = "PATH")]
    pub endpoint: Option<String>,
    /// Name of the model at the server [default: the first model that the server lists].
    #[arg(long, help_heading = SERVER, value_name = "NAME")]
    pub model: Option<String>,
    /// Headers for every request. `OPENAI_API_KEY`, if set, is sent automatically.
    #[arg(long, help_heading = SERVER, value_name = "NAME=VALUE", num_args = 1.., action = ArgAction::Append)]
    pub header: Vec<String>,
    /// Open a new connection for each request instead of reusing connections.
    #[arg(long, help_heading = SERVER)]
    pub no_keep_alive: bool,
    /// How to send requests: `stamped` is HTTP/1.1 with kernel timestamps (on Linux); `portable` supports HTTP/2 and proxies, with
    /// timestamps from its event loop.
    #[arg(long, help_heading = SERVER, value_enum, default_value = "auto")]
    pub transport: TransportKind,
    /// What stamps the chunks: `kernel` is the socket's stamp of each read (on Linux); `packets` captures the packets, so that a chunk
    /// that the client reads late keeps its own arrival (Linux, with the right to capture); `auto` is `packets` where that is possible.
    #[arg(long, help_heading = SERVER, value_enum, default_value = "kernel")]
    pub stamps: StampSource,
    /// Connections to open before the clock starts [default: --max-concurrency; 0 without it].
    #[arg(long, help_heading = SERVER, value_name = "N", value_parser = units::parse_count_u32)]
    pub preconnect: Option<u32>,
    /// Threads that read responses.
    #[arg(long, help_heading = SERVER, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Accept any TLS certificate.
    #[arg(long, help_heading = SERVER)]
    pub insecure: bool,
    /// Time to wait for the server to be ready; 0 does not wait.
    #[arg(
        long,
        help_heading = SERVER,
        alias = "ready-check-timeout-sec",
        value_name = "TIME",
        default_value = "0",
        value_parser = units::parse_duration
    )]
    pub ready_check: Nanos,

    /// Maximum number of requests in flight [default: no limit].
    #[arg(long, help_heading = LOAD, value_name = "N", value_parser = units::parse_count_u32)]
    pub max_concurrency: Option<u32>,
    /// Requests per second; `inf` sends as fast as slots are free. A rate that changes over time is written as 5:30s,5-50:1m,50
    /// (5~50 grows by the same factor each second), or @FILE, a table of seconds and rates [default: the requests' timestamps].
    #[arg(long, help_heading = LOAD, value_name = "RATE")]
    pub request_rate: Option<RequestRate>,
    /// vLLM's ramp: the rate changes from --ramp-up-start-rps to --ramp-up-end-rps within --ramp-up-time.
    #[arg(long, help_heading = LOAD, value_enum, value_name = "HOW")]
    pub ramp_up_strategy: Option<RampStrategy>,
    /// Requests per second at the start of the ramp.
    #[arg(long, help_heading = LOAD, value_name = "RATE")]
    pub ramp_up_start_rps: Option<f64>,
    /// Requests per second at the end of the ramp and after it.
    #[arg(long, help_heading = LOAD, value_name = "RATE")]
    pub ramp_up_end_rps: Option<f64>,
    /// Duration of the ramp.
    #[arg(long, help_heading = LOAD, value_name = "TIME", value_parser = units::parse_duration)]
    pub ramp_up_time: Option<Nanos>,
    /// Send requests in bursts of this size; --request-rate remains the mean rate.
    #[arg(long, help_heading = LOAD, value_name = "N", default_value = "1", value_parser = units::parse_count_u32)]
    pub burst_size: u32,
    /// Shape of the gaps at --request-rate: 1 is Poisson, smaller is burstier, `inf` is even spacing.
    #[arg(long, help_heading = LOAD, value_name = "SHAPE", default_value = "1", value_parser = load::parse_burstiness)]
    pub burstiness: f64,
    /// Seed of the gaps and other random choices.
    #[arg(long, help_heading = LOAD, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Requests to send before the clock starts, with different prompts. Their outputs are not recorded.
    #[arg(long, help_heading = LOAD, value_name = "N", default_value_t = 0)]
    pub num_warmups: u32,
    /// Maximum number of requests in flight without a first token [default: no limit].
    #[arg(long, help_heading = LOAD, value_name = "N", value_parser = units::parse_count_u32)]
    pub max_prefill_concurrency: Option<u32>,
    /// Think time after a response: 2s, or exp:2s (exponential, mean 2 s). The slot stays taken; in a session it is the default
    /// for turns without a think time.
    #[arg(long, help_heading = LOAD, value_name = "TIME", default_value = "0")]
    pub think_time: ThinkTime,
    /// Maximum number of active sessions, from first to last turn, including think times [default: no limit].
    #[arg(long, help_heading = LOAD, value_name = "N", value_parser = units::parse_count_u32)]
    pub max_sessions: Option<u32>,
    /// Header for the session id of a request, such as X-Session-ID.
    #[arg(long, help_heading = LOAD, value_name = "NAME")]
    pub session_header: Option<String>,
    /// LoRA adapters for requests that do not name one. The tag `lora` records the choice.
    #[arg(long, help_heading = LOAD, value_name = "NAME", num_args = 1.., action = ArgAction::Append)]
    pub lora_modules: Vec<String>,
    /// How to assign the adapters. A session keeps its adapter.
    #[arg(long, help_heading = LOAD, value_enum, default_value = "random")]
    pub lora_assignment: LoraAssignment,
    /// With zipf, the k-th adapter is used in proportion to 1/k^ALPHA.
    #[arg(long, help_heading = LOAD, value_name = "ALPHA", default_value = "1", value_parser = units::parse_alpha)]
    pub lora_zipf_alpha: f64,
    /// Share of the requests to cancel on purpose.
    #[arg(long, help_heading = LOAD, value_name = "SHARE", value_parser = units::parse_share)]
    pub cancel_rate: Option<f64>,
    /// When to cancel them, counted from their start.
    #[arg(long, help_heading = LOAD, value_name = "TIME", default_value = "500ms", value_parser = units::parse_duration)]
    pub cancel_after: Nanos,
    /// Send no new requests after this time [default: send all of the input].
    #[arg(long, help_heading = LOAD, value_name = "TIME", value_parser = units::parse_duration)]
    pub max_seconds: Option<Nanos>,
    /// How long requests in flight may go on after --max-seconds or Ctrl-C.
    #[arg(long, help_heading = LOAD, value_name = "TIME", default_value = "30s", value_parser = units::parse_duration)]
    pub grace: Nanos,

    /// Limit for opening a connection, including TLS.
    #[arg(
        long,
        help_heading = LIMITS,
        value_name = "TIME",
        default_value = "10s",
        value_parser = units::parse_duration
    )]
    pub timeout_connect: Nanos,
    /// Limit for the first token.
    #[arg(
        long,
        help_heading = LIMITS,
        value_name = "TIME",
        default_value = "10m",
        value_parser = units::parse_duration
    )]
    pub timeout_first_token: Nanos,
    /// Limit between two arrivals of bytes, after the first token.
    #[arg(long, help_heading = LIMITS, value_name = "TIME", default_value = "5m", value_parser = units::parse_duration)]
    pub timeout_stall: Nanos,
    /// Limit for the whole request.
    #[arg(long, help_heading = LIMITS, value_name = "TIME", default_value = "6h", value_parser = units::parse_duration)]
    pub timeout_total: Nanos,

    /// Generate to the full length, even if the model ends earlier (vLLM and SGLang).
    #[arg(long, help_heading = SAMPLING)]
    pub ignore_eos: bool,
    /// Limit outputs by `max_tokens` instead of `max_completion_tokens`, which some servers ignore (openai-chat).
    #[arg(long, help_heading = SAMPLING)]
    pub send_max_tokens: bool,
    /// Sampling temperature.
    #[arg(long, help_heading = SAMPLING, value_name = "X", allow_negative_numbers = true, value_parser = units::parse_finite)]
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    #[arg(long, help_heading = SAMPLING, value_name = "X", allow_negative_numbers = true, value_parser = units::parse_finite)]
    pub top_p: Option<f64>,
    /// Number of most likely tokens to sample from.
    #[arg(long, help_heading = SAMPLING, value_name = "N", allow_negative_numbers = true)]
    pub top_k: Option<i64>,
    /// Minimum probability of a token, relative to the most likely one.
    #[arg(long, help_heading = SAMPLING, value_name = "X", allow_negative_numbers = true, value_parser = units::parse_finite)]
    pub min_p: Option<f64>,
    /// Penalty for tokens by their number of occurrences.
    #[arg(long, help_heading = SAMPLING, value_name = "X", allow_negative_numbers = true, value_parser = units::parse_finite)]
    pub frequency_penalty: Option<f64>,
    /// Penalty for tokens that have occurred.
    #[arg(long, help_heading = SAMPLING, value_name = "X", allow_negative_numbers = true, value_parser = units::parse_finite)]
    pub presence_penalty: Option<f64>,
    /// Penalty for repetition (vLLM).
    #[arg(long, help_heading = SAMPLING, value_name = "X", allow_negative_numbers = true, value_parser = units::parse_finite)]
    pub repetition_penalty: Option<f64>,
    /// Number of log probabilities to return per token.
    #[arg(long, help_heading = SAMPLING, value_name = "N")]
    pub logprobs: Option<u32>,
    /// More keys for the body of every request; they override the flags above, and a null leaves its key out.
    #[arg(long, help_heading = SAMPLING, value_name = "JSON", value_parser = parse_object)]
    pub extra_body: Option<Object>,

    /// Write the server's metrics before, during and after the load as `scrape` records [URL: /metrics of --base-url].
    #[arg(long, help_heading = SCRAPE, value_name = "URL", num_args = 0..=1, default_missing_value = "true")]
    pub scrape: Option<String>,
    /// Time between two scrapes.
    #[arg(long, help_heading = SCRAPE, value_name = "TIME", default_value = "1s", value_parser = units::parse_duration)]
    pub scrape_interval: Nanos,
    /// Prefixes of the metrics to keep.
    #[arg(
        long,
        help_heading = SCRAPE,
        value_name = "PREFIX",
        num_args = 1..,
        action = ArgAction::Append,
        default_values = ["vllm:", "process_start_time_seconds"]
    )]
    pub scrape_match: Vec<String>,

    /// Name of the run in every record [default: from the time and the process id].
    #[arg(long, help_heading = OUTPUT, value_name = "NAME")]
    pub run_id: Option<String>,
    /// Leave the generated text out of the records.
    #[arg(long, help_heading = OUTPUT)]
    pub no_text: bool,
    /// Write the read lag of each chunk.
    #[arg(long, help_heading = OUTPUT)]
    pub read_lags: bool,
    /// Show no progress on standard error. Warnings and errors remain.
    #[arg(long, short, help_heading = OUTPUT)]
    pub quiet: bool,
    /// Memory for outputs that wait for a slow reader; the run stops if they need more.
    #[arg(long, help_heading = OUTPUT, value_name = "BYTES", default_value = "1G", value_parser = units::parse_count)]
    pub max_buffer: u64,
    /// Name of the tokenizer, for the results. `builtin` or a local one also counts tokens if the server does not.
    #[arg(long, help_heading = OUTPUT, value_name = "NAME")]
    pub tokenizer: Option<String>,
    /// Output of `vb-selftest` on this machine, to include in the run record.
    #[arg(long, help_heading = OUTPUT, value_name = "FILE")]
    pub attach_selftest: Option<PathBuf>,
    /// Exit with 1 if more than this share of the requests failed.
    #[arg(long, help_heading = OUTPUT, value_name = "SHARE", default_value = "0.01", value_parser = units::parse_share)]
    pub fail_above: f64,
    /// Exit with 5 if the verdict is `client_bound`: the client, not the server, set some of the numbers.
    #[arg(long, help_heading = OUTPUT)]
    pub strict: bool,
    /// Print the JSON Schema of the records and exit.
    #[arg(long, help_heading = OUTPUT)]
    pub schema: bool,
    /// Print the table of backends and exit.
    #[arg(long, help_heading = OUTPUT)]
    pub list_backends: bool,

    #[command(flatten)]
    look: LookFlags,

    #[command(flatten)]
    config: ConfigFlag,
}

/// `--ramp-up-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RampStrategy {
    /// By the same amount each second.
    Linear,
    /// By the same factor each second.
    Exponential,
}

/// `--transport`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TransportKind {
    /// Same as `stamped`.
    Auto,
    /// HTTP/1.1 with kernel timestamps, where the system supports them.
    Stamped,
    /// The reqwest crate: HTTP/2 and proxies, with timestamps from its event loop.
    Portable,
}

/// `--stamps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StampSource {
    /// The kernel's stamps of the sockets; without them, the times of the reads.
    Kernel,
    /// The packets of each connection.
    Packets,
    /// The packets where the system and the transport allow it, else the kernel.
    Auto,
}

/// Headers that cannot hold a session id.
const RESERVED_HEADERS: [&str; 8] = [
    "accept",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "x-request-id",
];

impl TransportKind {
    /// The name of the transport in use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TransportKind::Auto | TransportKind::Stamped => "stamped",
            TransportKind::Portable => "portable",
        }
    }
}

impl Args {
    /// The URLs of the servers. Also checks the flags that clap cannot check.
    pub fn base_urls(&self) -> Result<Vec<Url>, Error> {
        if self.max_concurrency == Some(0) {
            return Err(Error::Usage("--max-concurrency 0 would send nothing; leave it out for no limit".into()));
        }
        if self.max_seconds == Some(Nanos(0)) {
            return Err(Error::Usage("--max-seconds 0 would send nothing; leave it out for no limit".into()));
        }
        if self.scrape.is_some() && self.scrape_interval == Nanos(0) {
            return Err(Error::Usage("--scrape-interval 0 would scrape without a pause: use a time such as 1s".into()));
        }
        for (flag, count) in
            [("--max-prefill-concurrency", self.max_prefill_concurrency), ("--max-sessions", self.max_sessions)]
        {
            if count == Some(0) {
                return Err(Error::Usage(format!("{flag} 0 would send nothing; leave it out for no limit")));
            }
        }
        let urls = self.base_url.iter().map(|url| parse_base_url(url)).collect::<Result<Vec<Url>, Error>>()?;
        if urls.len() > 1 && self.scrape.as_deref() == Some("true") {
            return Err(Error::Usage(
                "--scrape reads the metrics of one server: with several --base-url, use --scrape URL".into(),
            ));
        }
        // An invalid --scrape is reported before any query is sent.
        urls.first().map(|url| self.scrape_url(url)).transpose()?;
        Ok(urls)
    }

    /// The header of `--session-header`.
    pub fn session_header(&self) -> Result<Option<HeaderName>, Error> {
        let parse = |name: &String| {
            let header: HeaderName = name
                .parse()
                .map_err(|_| Error::Usage(format!("--session-header {name}: this is not a valid header name")))?;
            if RESERVED_HEADERS.contains(&header.as_str()) {
                return Err(Error::Usage(format!("--session-header {name}: this header already has a meaning")));
            }
            Ok(header)
        };
        self.session_header.as_ref().map(parse).transpose()
    }

    /// The URL to scrape, if any. Without a URL in `--scrape`, it is `/metrics` of `base`.
    pub fn scrape_url(&self, base: &Url) -> Result<Option<Url>, Error> {
        let mut url = match self.scrape.as_deref() {
            // `scrape: false` in a config file.
            None | Some("false") => return Ok(None),
            Some("true") => parse_url("--scrape", &format!("{}/metrics", server_root(base)))?,
            Some(text) => parse_url("--scrape", text)?,
        };
        if url.query().is_some() {
            return Err(Error::Usage(
                "--scrape takes a URL without a query, such as http://127.0.0.1:8000/metrics".into(),
            ));
        }
        url.set_fragment(None);
        if url.path() == "/" {
            url.set_path("/metrics");
        }
        Ok(Some(url))
    }

    /// The rate of `--request-rate` or of the ramp; `None`: the requests' timestamps decide.
    pub fn load_rate(&self) -> Result<Option<RequestRate>, Error> {
        let wrong = |what: &str| Err(Error::Usage(what.into()));
        let ramp = (self.ramp_up_strategy, self.ramp_up_start_rps, self.ramp_up_end_rps, self.ramp_up_time);
        let rate = match ramp {
            (None, None, None, None) => self.request_rate.clone(),
            _ if self.request_rate.is_some() => {
                return wrong(
                    "--request-rate and --ramp-up-… exclude each other: use one, such as --request-rate 1-9:60s,9",
                );
            }
            (Some(how), Some(start), Some(end), Some(time)) => {
                Some(RequestRate::from_ramp(start, end, time, how == RampStrategy::Exponential).map_err(Error::Usage)?)
            }
            (_, _, _, None) => {
                return wrong(
                    "a ramp needs --ramp-up-time: it follows the time, since the number of requests in a stream is not known",
                );
            }
            _ => {
                return wrong(
                    "a ramp needs --ramp-up-strategy, --ramp-up-start-rps, --ramp-up-end-rps and --ramp-up-time",
                );
            }
        };
        if self.burst_size == 0 {
            return wrong("--burst-size 0 would send nothing: 1 sends requests one by one");
        }
        if self.burst_size > 1 && rate.as_ref().is_none_or(RequestRate::is_free) {
            return wrong("--burst-size needs a --request-rate, which sets how often bursts are sent");
        }
        Ok(rate)
    }

    /// The API, and whether responses are streamed.
    pub fn resolve_protocol(&self) -> Result<Protocol, Error> {
        let api = if self.send_max_tokens {
            self.backend.max_tokens_api()?
        } else {
            self.backend.open_api(self.template.as_deref())?
        };
        if let Some(key) = self.sampling_keys().keys().find(|key| !api.sampling_keys().supports_param(key)) {
            let (flag, backend) = (key.replace('_', "-"), self.backend.name);
            let why = if api.generates_tokens() { "whose API does not have it" } else { "which generates no output" };
            return Err(Error::Usage(format!("--{flag} does not work with --backend {backend}, {why}: leave it out")));
        }
        let protocol = Protocol { api, stream: !self.no_stream };
        if self.max_prefill_concurrency.is_some() && protocol.body_format() == BodyFormat::Json {
            return Err(Error::Usage(
                "--max-prefill-concurrency needs streaming: a non-streaming response has no visible first token".into(),
            ));
        }
        Ok(protocol)
    }

    /// Whether to show progress: not if it would be mixed with records on the same terminal.
    #[must_use]
    pub fn shows_progress(&self) -> bool {
        !self.quiet && !io::stdout().is_terminal()
    }

    /// The path of the endpoint.
    #[must_use]
    pub fn endpoint_path(&self, protocol: Protocol) -> &str {
        self.endpoint.as_deref().unwrap_or(protocol.endpoint_path())
    }

    /// The slots for requests in flight.
    #[must_use]
    pub fn request_slots(&self) -> RequestSlots {
        RequestSlots::new(self.max_concurrency, self.max_prefill_concurrency)
    }

    /// The number of connections to open before the clock starts, at most `allowed`.
    #[must_use]
    pub fn preconnect_count(&self, allowed: usize) -> usize {
        (self.preconnect.or(self.max_concurrency).unwrap_or(0) as usize).min(allowed)
    }

    /// The record of `--attach-selftest`.
    pub fn read_selftest(&self) -> Result<Option<Object>, Error> {
        let Some(path) = &self.attach_selftest else { return Ok(None) };
        let wrong = |what: &dyn std::fmt::Display| {
            let cure = "it must be the output of `vb-selftest`, one JSON object";
            Error::Usage(format!("--attach-selftest {}: {what}; {cure}", path.display()))
        };
        let text = fs::read_to_string(path).map_err(|e| wrong(&format!("cannot read it: {e}")))?;
        let record: Object = serde_json::from_str(&text).map_err(|e| wrong(&e))?;
        if record.get("type").and_then(Value::as_str) != Some("selftest") {
            return Err(wrong(&"its `type` is not `selftest`"));
        }
        Ok(Some(record))
    }

    /// How long a request may take. The first token of a non-streaming response is not visible, so it has no limit.
    #[must_use]
    pub fn time_limits(&self, protocol: Protocol) -> TimeLimits {
        let not_streamed = protocol.body_format() == BodyFormat::Json;
        let first_token = if not_streamed { self.timeout_total } else { self.timeout_first_token };
        TimeLimits { first_token, stall: self.timeout_stall, total: self.timeout_total }
    }

    /// The sampling flags as keys of a request body.
    #[must_use]
    pub fn sampling_keys(&self) -> Object {
        let number = |x: Option<f64>| x.map(|x| json!(x));
        let given: [(&str, Option<Value>); 9] = [
            ("temperature", number(self.temperature)),
            ("top_p", number(self.top_p)),
            ("top_k", self.top_k.map(|k| json!(k))),
            ("min_p", number(self.min_p)),
            ("frequency_penalty", number(self.frequency_penalty)),
            ("presence_penalty", number(self.presence_penalty)),
            ("repetition_penalty", number(self.repetition_penalty)),
            ("logprobs", self.logprobs.map(|n| json!(n))),
            ("ignore_eos", self.ignore_eos.then(|| json!(true))),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

fn parse_object(text: &str) -> Result<Object, String> {
    json::parse_object(text).map_err(|e| format!("this is not a JSON object: {e}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn a_sampling_value_may_be_negative() {
        let flags =
            ["temperature", "top-p", "top-k", "min-p", "frequency-penalty", "presence-penalty", "repetition-penalty"];
        for flag in flags {
            let args = Args::try_parse_from(["vb-fire", &format!("--{flag}"), "-1"]).unwrap();
            assert_eq!(args.sampling_keys()[&flag.replace('-', "_")].as_f64(), Some(-1.0), "{flag}");
        }
        let args = Args::try_parse_from(["vb-fire", "--presence-penalty", "-0.5"]).unwrap();
        assert_eq!(args.presence_penalty, Some(-0.5));
    }

    #[test]
    fn the_page_to_scrape_is_next_to_the_api() {
        let url = |argv: &[&str]| {
            let args = Args::parse_from([&["vb-fire"], argv].concat());
            args.scrape_url(&args.base_urls()?[0]).map(|url| url.map(|url| url.to_string()))
        };
        for (argv, want) in [
            (&[][..], None),
            (&["--scrape=false"], None),
            (&["--scrape"], Some("http://127.0.0.1:8000/metrics")),
            (&["--scrape", "--base-url", "http://h/v1"], Some("http://h/metrics")),
            (&["--scrape", "--base-url", "http://h/llm/v1/"], Some("http://h/llm/metrics")),
            (&["--scrape", "http://h:9"], Some("http://h:9/metrics")),
            (&["--scrape", "https://h/a/b#c"], Some("https://h/a/b")),
        ] {
            assert_eq!(url(argv).unwrap().as_deref(), want, "{argv:?}");
        }
        for bad in ["h:9", "http://user:secret@h/", "http://h/metrics?token=secret", "ftp://h/"] {
            let error = url(&["--scrape", bad]).unwrap_err().to_string();
            assert!(error.starts_with("--scrape ") && !error.contains("secret"), "{error}");
        }
        assert!(url(&["--scrape", "--scrape-interval", "0"]).is_err());
    }
}
