//! The flags of `vb-fire`.

use std::{fs, path::PathBuf};

use clap::ArgAction;
use hyper::header::HeaderName;
use reqwest::Url;
use serde_json::{Value, json};

use super::{attempt::Limits, balance::Balance, lora::Assignment, slots::Slots};
use crate::{
    backend::{Backend, Protocol},
    config::ConfigFlag,
    error::Error,
    http::{
        connection::{parse_base_url, parse_url, server_root},
        exchange::BodyFormat,
    },
    load::{self, RequestRate, ThinkTime},
    record::Object,
    units::{self, Nanos},
};

const EXAMPLES: &str = "\
Examples:
  vb-gen --input-len 256 --output-len 128 --num-prompts 100 \\
    | vb-fire --base-url http://127.0.0.1:8000 --max-concurrency 16 | vb-stats
  vb-fire --base-url http://127.0.0.1:8000 --request-rate 4 < requests.ndjson | tee -i outputs.ndjson | vb-stats
  vb-fire --request-rate 5:30s,5-50:1m,50 --max-concurrency 256 < requests.ndjson | vb-stats
  vb-fire --backend anthropic --max-sessions 64 --session-header X-Session-ID < talks.ndjson | vb-stats --by turn
  echo '{\"prompt\":\"hi\"}' | vb-fire | jq 'select(.type == \"output\") | .ttft'

Exit codes: 0 done; 1 too many requests failed (--fail-above); 2 wrong usage; 3 a bad line in the input;
4 no server, or nobody takes the records; 5 the client set some of the numbers (--strict); 130 interrupted.";

// The headings of `--help`.
const SERVER: &str = "Server";
const LOAD: &str = "Load";
const LIMITS: &str = "Time limits of a request";
const SAMPLING: &str = "Sampling (what is not given is the server's choice)";
const SCRAPE: &str = "The server's own numbers";
const OUTPUT: &str = "Output";

/// Sends requests to a server and records when each token came back.
///
/// Reads requests (lines of `SampleRequest`) from standard input; writes a `run` record, a `RequestFuncOutput` for each
/// request, and an `end` record. Without limits everything is sent at once; --max-concurrency keeps that many in flight
/// (closed loop), --request-rate sends on a schedule (open loop), and both together keep the schedule as far as there
/// is room. A TIME is written as 200ms, 5s, 2m or 1h; a bare number is seconds.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "vb-fire",
    version,
    after_help = EXAMPLES
)]
pub struct Args {
    /// The server, or several that share the load.
    #[arg(
        long,
        help_heading = SERVER,
        value_name = "URL",
        num_args = 1..,
        action = ArgAction::Append,
        default_value = "http://127.0.0.1:8000"
    )]
    pub base_url: Vec<String>,
    /// Which of several servers a request goes to. A session stays with its own.
    #[arg(long, help_heading = SERVER, value_enum, default_value = "round-robin")]
    pub balance: Balance,
    /// The API to speak.
    #[arg(long, help_heading = SERVER, value_enum, default_value = "openai")]
    pub backend: &'static Backend,
    /// Ask for replies in one piece: then nobody sees a first token, and TTFT, TPOT and ITL are null.
    #[arg(long, help_heading = SERVER)]
    pub no_stream: bool,
    /// The file that describes the API of --backend template.
    #[arg(long, help_heading = SERVER, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// The path of the endpoint [default: the backend's usual one].
    #[arg(long, help_heading = SERVER, value_name = "PATH")]
    pub endpoint: Option<String>,
    /// The model's name at the server [default: the first that the server names].
    #[arg(long, help_heading = SERVER, value_name = "NAME")]
    pub model: Option<String>,
    /// Headers for every request. The key in the environment's `OPENAI_API_KEY` is sent by itself.
    #[arg(long, help_heading = SERVER, value_name = "NAME=VALUE", num_args = 1.., action = ArgAction::Append)]
    pub header: Vec<String>,
    /// Open a connection for each request, instead of using one again.
    #[arg(long, help_heading = SERVER)]
    pub no_keep_alive: bool,
    /// How bytes are carried: `stamped` is HTTP/1.1 with the kernel's receive stamps (on Linux), `portable` is for HTTP/2
    /// and proxies, with stamps of its own event loop.
    #[arg(long, help_heading = SERVER, value_enum, default_value = "auto")]
    pub transport: TransportKind,
    /// Connections to open before the clock starts [default: --max-concurrency; 0 without it].
    #[arg(long, help_heading = SERVER, value_name = "N", value_parser = units::parse_count_u32)]
    pub preconnect: Option<u32>,
    /// Threads that read answers.
    #[arg(long, help_heading = SERVER, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Accept any TLS certificate.
    #[arg(long, help_heading = SERVER)]
    pub insecure: bool,
    /// Wait this long for the server to be ready; 0 does not wait.
    #[arg(
        long,
        help_heading = SERVER,
        alias = "ready-check-timeout-sec",
        value_name = "TIME",
        default_value = "0",
        value_parser = units::parse_duration
    )]
    pub ready_check: Nanos,

    /// The most requests in flight [default: no limit].
    #[arg(long, help_heading = LOAD, value_name = "N", value_parser = units::parse_count_u32)]
    pub max_concurrency: Option<u32>,
    /// Requests per second; `inf` sends as fast as there is room. A rate over time is written as 5:30s,5-50:1m,50 (5~50: by
    /// the same factor each second), or @FILE, a table of seconds and rates. Without it the requests' own timestamps are obeyed.
    #[arg(long, help_heading = LOAD, value_name = "RATE")]
    pub request_rate: Option<RequestRate>,
    /// vLLM's ramp: a rate that grows from --ramp-up-start-rps to --ramp-up-end-rps within --ramp-up-time.
    #[arg(long, help_heading = LOAD, value_enum, value_name = "HOW")]
    pub ramp_up_strategy: Option<Growth>,
    /// Requests per second where the ramp begins.
    #[arg(long, help_heading = LOAD, value_name = "RATE")]
    pub ramp_up_start_rps: Option<f64>,
    /// Requests per second where it ends, and from there on.
    #[arg(long, help_heading = LOAD, value_name = "RATE")]
    pub ramp_up_end_rps: Option<f64>,
    /// How long it takes.
    #[arg(long, help_heading = LOAD, value_name = "TIME", value_parser = units::parse_duration)]
    pub ramp_up_time: Option<Nanos>,
    /// So many requests at one instant, one burst after the other at --request-rate all together.
    #[arg(long, help_heading = LOAD, value_name = "N", default_value = "1", value_parser = units::parse_count_u32)]
    pub burst_size: u32,
    /// The shape of the gaps at --request-rate: 1 is Poisson, smaller is burstier, `inf` is even.
    #[arg(long, help_heading = LOAD, value_name = "SHAPE", default_value = "1", value_parser = load::parse_burstiness)]
    pub burstiness: f64,
    /// The seed of the gaps.
    #[arg(long, help_heading = LOAD, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Requests to send before the clock starts, with prompts of their own; their outcomes are not recorded.
    #[arg(long, help_heading = LOAD, value_name = "N", default_value_t = 0)]
    pub num_warmups: u32,
    /// The most requests that wait for their first token, of those in flight [default: no limit].
    #[arg(long, help_heading = LOAD, value_name = "N", value_parser = units::parse_count_u32)]
    pub max_prefill_concurrency: Option<u32>,
    /// How long a user thinks after an answer: 2s, or exp:2s for exponential times of that mean. It keeps the slot; in a
    /// session it is the default for turns that do not say.
    #[arg(long, help_heading = LOAD, value_name = "TIME", default_value = "0")]
    pub think_time: ThinkTime,
    /// The most sessions at once, each from its first turn to its last, think times included [default: no limit].
    #[arg(long, help_heading = LOAD, value_name = "N", value_parser = units::parse_count_u32)]
    pub max_sessions: Option<u32>,
    /// The header that names a request's session, as X-Session-ID.
    #[arg(long, help_heading = LOAD, value_name = "NAME")]
    pub session_header: Option<String>,
    /// Adapters for requests that name none; the tag `lora` says which.
    #[arg(long, help_heading = LOAD, value_name = "NAME", num_args = 1.., action = ArgAction::Append)]
    pub lora_modules: Vec<String>,
    /// How they are given out. A session keeps its own.
    #[arg(long, help_heading = LOAD, value_enum, default_value = "random")]
    pub lora_assignment: Assignment,
    /// With zipf, the k-th is asked for in proportion to 1/k^ALPHA.
    #[arg(long, help_heading = LOAD, value_name = "ALPHA", default_value = "1", value_parser = units::parse_alpha)]
    pub lora_zipf_alpha: f64,
    /// The share of the requests that the client leaves before their end, on purpose.
    #[arg(long, help_heading = LOAD, value_name = "SHARE", value_parser = units::parse_share)]
    pub cancel_rate: Option<f64>,
    /// How long after their start.
    #[arg(long, help_heading = LOAD, value_name = "TIME", default_value = "500ms", value_parser = units::parse_duration)]
    pub cancel_after: Nanos,
    /// Start nothing new after this time [default: go on to the end of the input].
    #[arg(long, help_heading = LOAD, value_name = "TIME", value_parser = units::parse_duration)]
    pub max_seconds: Option<Nanos>,
    /// After --max-seconds or Ctrl-C, let what is in flight go on for this long.
    #[arg(long, help_heading = LOAD, value_name = "TIME", default_value = "30s", value_parser = units::parse_duration)]
    pub grace: Nanos,

    /// The longest wait for a connection, TLS included.
    #[arg(
        long,
        help_heading = LIMITS,
        value_name = "TIME",
        default_value = "10s",
        value_parser = units::parse_duration
    )]
    pub timeout_connect: Nanos,
    /// The longest wait for the first token.
    #[arg(
        long,
        help_heading = LIMITS,
        value_name = "TIME",
        default_value = "10m",
        value_parser = units::parse_duration
    )]
    pub timeout_first_token: Nanos,
    /// The longest silence once tokens flow.
    #[arg(long, help_heading = LIMITS, value_name = "TIME", default_value = "5m", value_parser = units::parse_duration)]
    pub timeout_stall: Nanos,
    /// The longest time for a whole request.
    #[arg(long, help_heading = LIMITS, value_name = "TIME", default_value = "6h", value_parser = units::parse_duration)]
    pub timeout_total: Nanos,

    /// Generate to the full length, whatever the model says (vLLM and SGLang).
    #[arg(long, help_heading = SAMPLING)]
    pub ignore_eos: bool,
    /// Sampling temperature.
    #[arg(long, help_heading = SAMPLING, value_name = "X", allow_negative_numbers = true, value_parser = units::parse_finite)]
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    #[arg(long, help_heading = SAMPLING, value_name = "X", allow_negative_numbers = true, value_parser = units::parse_finite)]
    pub top_p: Option<f64>,
    /// The number of tokens to sample from.
    #[arg(long, help_heading = SAMPLING, value_name = "N", allow_negative_numbers = true)]
    pub top_k: Option<i64>,
    /// The least probability of a token, against the likeliest.
    #[arg(long, help_heading = SAMPLING, value_name = "X", allow_negative_numbers = true, value_parser = units::parse_finite)]
    pub min_p: Option<f64>,
    /// Penalty for tokens by how often they occurred.
    #[arg(long, help_heading = SAMPLING, value_name = "X", allow_negative_numbers = true, value_parser = units::parse_finite)]
    pub frequency_penalty: Option<f64>,
    /// Penalty for tokens that occurred at all.
    #[arg(long, help_heading = SAMPLING, value_name = "X", allow_negative_numbers = true, value_parser = units::parse_finite)]
    pub presence_penalty: Option<f64>,
    /// Penalty for repetition (vLLM).
    #[arg(long, help_heading = SAMPLING, value_name = "X", allow_negative_numbers = true, value_parser = units::parse_finite)]
    pub repetition_penalty: Option<f64>,
    /// Log probabilities to return for each token.
    #[arg(long, help_heading = SAMPLING, value_name = "N")]
    pub logprobs: Option<u32>,
    /// More keys for the body of every request; they win over the flags above.
    #[arg(long, help_heading = SAMPLING, value_name = "JSON", value_parser = parse_object)]
    pub extra_body: Option<Object>,

    /// Read the server's metrics before, during and after the load, into `scrape` records [URL: /metrics of --base-url].
    #[arg(long, help_heading = SCRAPE, value_name = "URL", num_args = 0..=1, default_missing_value = "true")]
    pub scrape: Option<String>,
    /// The time between two of them.
    #[arg(long, help_heading = SCRAPE, value_name = "TIME", default_value = "1s", value_parser = units::parse_duration)]
    pub scrape_interval: Nanos,
    /// What the names of the metrics that are kept begin with.
    #[arg(
        long,
        help_heading = SCRAPE,
        value_name = "PREFIX",
        num_args = 1..,
        action = ArgAction::Append,
        default_values = ["vllm:", "process_start_time_seconds"]
    )]
    pub scrape_match: Vec<String>,

    /// Names the run in every record [default: from the time and the process].
    #[arg(long, help_heading = OUTPUT, value_name = "NAME")]
    pub run_id: Option<String>,
    /// Leave the generated text out of the records.
    #[arg(long, help_heading = OUTPUT)]
    pub no_text: bool,
    /// Write how late each chunk was read, behind the kernel's stamp.
    #[arg(long, help_heading = OUTPUT)]
    pub read_lags: bool,
    /// Outcomes that wait for a slow reader of the records may fill so much memory; beyond, the run is stopped.
    #[arg(long, help_heading = OUTPUT, value_name = "BYTES", default_value = "1G", value_parser = units::parse_count)]
    pub max_buffer: u64,
    /// The tokenizer's name, for the results. `builtin` or a local one also counts tokens where the server does not.
    #[arg(long, help_heading = OUTPUT, value_name = "NAME")]
    pub tokenizer: Option<String>,
    /// What `vb-selftest` wrote on this machine; it travels in the run record.
    #[arg(long, help_heading = OUTPUT, value_name = "FILE")]
    pub attach_selftest: Option<PathBuf>,
    /// Exit with 1 when more than this share of the requests failed.
    #[arg(long, help_heading = OUTPUT, value_name = "SHARE", default_value = "0.01", value_parser = units::parse_share)]
    pub fail_above: f64,
    /// Exit with 5 when the verdict is `client_bound`: the client, and not the server, set some of the numbers.
    #[arg(long, help_heading = OUTPUT)]
    pub strict: bool,
    /// Print the JSON Schema of the records and leave.
    #[arg(long, help_heading = OUTPUT)]
    pub schema: bool,
    /// Print the table of backends and exit.
    #[arg(long, help_heading = OUTPUT)]
    pub list_backends: bool,

    #[command(flatten)]
    config: ConfigFlag,
}

/// `--ramp-up-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Growth {
    /// By the same amount each second.
    Linear,
    /// By the same factor each second.
    Exponential,
}

/// `--transport`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TransportKind {
    /// The stamped one.
    Auto,
    /// HTTP/1.1, with the kernel's receive stamps where the system gives any.
    Stamped,
    /// By the reqwest crate: HTTP/2 and proxies; stamps of its event loop.
    Portable,
}

/// Headers that a session's name would break.
const OWN_HEADERS: [&str; 8] = [
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
    /// The name of the one that is used.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TransportKind::Auto | TransportKind::Stamped => "stamped",
            TransportKind::Portable => "portable",
        }
    }
}

impl Args {
    /// The servers' URLs, checked together with the numbers that clap cannot check.
    pub fn urls(&self) -> Result<Vec<Url>, Error> {
        if self.max_concurrency == Some(0) {
            return Err(Error::Usage("--max-concurrency 0 would send nothing; leave it out for no limit".into()));
        }
        if self.max_seconds == Some(Nanos(0)) {
            return Err(Error::Usage("--max-seconds 0 would send nothing; leave it out for no limit".into()));
        }
        if self.scrape.is_some() && self.scrape_interval == Nanos(0) {
            return Err(Error::Usage("--scrape-interval 0 would ask without a pause: give a time, as 1s".into()));
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
                "--scrape reads one page: with several --base-url say which, as --scrape URL".into(),
            ));
        }
        // What is wrong with the other is better told before anybody is asked anything.
        urls.first().map(|url| self.scrape_url(url)).transpose()?;
        Ok(urls)
    }

    /// The header of --session-header.
    pub fn session_header(&self) -> Result<Option<HeaderName>, Error> {
        let parse = |name: &String| {
            let header: HeaderName = name
                .parse()
                .map_err(|_| Error::Usage(format!("--session-header {name}: this is no name of a header")))?;
            if OWN_HEADERS.contains(&header.as_str()) {
                return Err(Error::Usage(format!("--session-header {name}: this header has a meaning of its own")));
            }
            Ok(header)
        };
        self.session_header.as_ref().map(parse).transpose()
    }

    /// The page of `--scrape`, if one is to be read: by itself, the one beside the API of `base`.
    pub fn scrape_url(&self, base: &Url) -> Result<Option<Url>, Error> {
        let mut url = match self.scrape.as_deref() {
            // As a config says it.
            None | Some("false") => return Ok(None),
            Some("true") => parse_url("--scrape", &format!("{}/metrics", server_root(base)))?,
            Some(text) => parse_url("--scrape", text)?,
        };
        if url.query().is_some() {
            return Err(Error::Usage("--scrape takes a URL without a query, as http://127.0.0.1:8000/metrics".into()));
        }
        url.set_fragment(None);
        if url.path() == "/" {
            url.set_path("/metrics");
        }
        Ok(Some(url))
    }

    /// The rate of --request-rate, or of the ramp; `None`: the requests' own timestamps.
    pub fn rate(&self) -> Result<Option<RequestRate>, Error> {
        let wrong = |what: &str| Err(Error::Usage(what.into()));
        let ramp = (self.ramp_up_strategy, self.ramp_up_start_rps, self.ramp_up_end_rps, self.ramp_up_time);
        let rate = match ramp {
            (None, None, None, None) => self.request_rate.clone(),
            _ if self.request_rate.is_some() => {
                return wrong("--request-rate and --ramp-up-… are two rates: give one (as 1-9:60s,9, say)");
            }
            (Some(how), Some(start), Some(end), Some(time)) => {
                Some(RequestRate::from_ramp(start, end, time, how == Growth::Exponential).map_err(Error::Usage)?)
            }
            (_, _, _, None) => {
                return wrong(
                    "a ramp needs --ramp-up-time: it goes by time here, not by the number of requests, which a stream does not tell",
                );
            }
            _ => {
                return wrong(
                    "a ramp needs --ramp-up-strategy, --ramp-up-start-rps, --ramp-up-end-rps and --ramp-up-time",
                );
            }
        };
        if self.burst_size == 0 {
            return wrong("--burst-size 0 would send nothing: 1 is no burst");
        }
        if self.burst_size > 1 && rate.as_ref().is_none_or(RequestRate::is_free) {
            return wrong("--burst-size needs a --request-rate, which says how often bursts come");
        }
        Ok(rate)
    }

    /// The API, and how it replies.
    pub fn protocol(&self) -> Result<Protocol, Error> {
        let api = self.backend.open_api(self.template.as_deref())?;
        if let Some(key) = self.sampling().keys().find(|key| !api.sampling_keys().has(key)) {
            let (flag, backend) = (key.replace('_', "-"), self.backend.name);
            let why = if api.generates_tokens() { "whose API has no such thing" } else { "which generates nothing" };
            return Err(Error::Usage(format!("--{flag} has no use with --backend {backend}, {why}: leave it out")));
        }
        let protocol = Protocol { api, stream: !self.no_stream };
        if self.max_prefill_concurrency.is_some() && protocol.response_framing() == BodyFormat::Json {
            return Err(Error::Usage(
                "replies must be streamed for --max-prefill-concurrency: nobody sees the first token of one that comes in one piece"
                    .into(),
            ));
        }
        Ok(protocol)
    }

    /// The path of the endpoint.
    #[must_use]
    pub fn endpoint(&self, protocol: Protocol) -> &str {
        self.endpoint.as_deref().unwrap_or(protocol.endpoint_path())
    }

    /// A place for each request that may be in flight.
    #[must_use]
    pub fn slots(&self) -> Slots {
        Slots::new(self.max_concurrency, self.max_prefill_concurrency)
    }

    /// Connections to open before the clock starts, of which the system allows `most`.
    #[must_use]
    pub fn connections_ahead(&self, most: usize) -> usize {
        (self.preconnect.or(self.max_concurrency).unwrap_or(0) as usize).min(most)
    }

    /// The record of `--attach-selftest`.
    pub fn selftest(&self) -> Result<Option<Object>, Error> {
        let Some(path) = &self.attach_selftest else { return Ok(None) };
        let wrong = |what: &dyn std::fmt::Display| {
            let cure = "it must be what `vb-selftest` writes, one JSON object";
            Error::Usage(format!("--attach-selftest {}: {what}; {cure}", path.display()))
        };
        let text = fs::read_to_string(path).map_err(|e| wrong(&format!("cannot read it: {e}")))?;
        let record: Object = serde_json::from_str(&text).map_err(|e| wrong(&e))?;
        if record.get("type").and_then(Value::as_str) != Some("selftest") {
            return Err(wrong(&"its `type` is not `selftest`"));
        }
        Ok(Some(record))
    }

    /// How long a request may take. Before a reply in one piece there is nothing to be seen of its first token.
    #[must_use]
    pub fn limits(&self, protocol: Protocol) -> Limits {
        let whole = protocol.response_framing() == BodyFormat::Json;
        let first_token = if whole { self.timeout_total } else { self.timeout_first_token };
        Limits { first_token, stall: self.timeout_stall, total: self.timeout_total }
    }

    /// The sampling flags as parts of a request body.
    #[must_use]
    pub fn sampling(&self) -> Object {
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
    serde_json::from_str(text).map_err(|e| format!("this is not a JSON object: {e}"))
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
            assert_eq!(args.sampling()[&flag.replace('-', "_")].as_f64(), Some(-1.0), "{flag}");
        }
        let args = Args::try_parse_from(["vb-fire", "--presence-penalty", "-0.5"]).unwrap();
        assert_eq!(args.presence_penalty, Some(-0.5));
    }

    #[test]
    fn the_page_to_scrape_is_beside_the_api() {
        let url = |argv: &[&str]| {
            let args = Args::parse_from([&["vb-fire"], argv].concat());
            args.scrape_url(&args.urls()?[0]).map(|url| url.map(|url| url.to_string()))
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
