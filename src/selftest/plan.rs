//! The load of one run, and the timing of the simulated server.

use std::{ffi::OsString, path::Path};

use crate::{
    record::{Object, Prompt, SampleRequest},
    units::{Nanos, SECOND},
};

/// Tokens of a prompt. The simulated server needs no time for them, since only the client is tested.
const PROMPT_LEN: u32 = 8;

/// The most requests that the server runs at once without a limit.
const MAX_SERVER_SEQS: u32 = 16_384;

/// The shortest step of a search; higher rates of chunks need more streams.
const MIN_STEP: Nanos = Nanos(SECOND / 200);

/// How long a run of a search starts new requests.
const SEARCH_SECONDS: Nanos = Nanos(3 * SECOND / 2);
/// The longest response in a run of a search.
const MAX_SEARCH_RESPONSE: Nanos = Nanos(7 * SECOND / 10);

/// The name under which the server serves the model.
const MODEL: &str = "selftest";

/// A load with known timing.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadPlan {
    /// The most requests in flight; `None`: no limit.
    pub max_concurrency: Option<u32>,
    /// Requests per second; `None`: a request starts when another one ends.
    pub request_rate: Option<f64>,
    /// The time between two tokens of a stream.
    pub step: Nanos,
    /// Tokens in each response, one per chunk.
    pub output_len: u32,
    /// How long new requests are started.
    pub seconds: Nanos,
}

impl LoadPlan {
    /// The duration of a response: a step for each token, and one until the server's next step begins.
    fn response_time(&self) -> Nanos {
        Nanos(self.step.0 * (u64::from(self.output_len) + 1))
    }

    /// Streams that are open at once: the limit, or the mean number for the rate if that is lower.
    #[must_use]
    pub fn stream_count(&self) -> u32 {
        let needed = self.request_rate.map_or(f64::INFINITY, |rate| rate * self.response_time().as_secs_f64());
        nearest_count(needed.min(self.max_concurrency.map_or(f64::INFINITY, f64::from))).max(1)
    }

    /// The number of requests.
    #[must_use]
    pub fn request_count(&self) -> u32 {
        if let Some(rate) = self.request_rate {
            return nearest_count(rate * self.seconds.as_secs_f64()).max(2);
        }
        let rounds = (self.seconds.0 / self.response_time().0.max(1)).max(1);
        u32::try_from(u64::from(self.stream_count()) * rounds).unwrap_or(u32::MAX)
    }

    /// Chunks per second while all streams are open.
    #[must_use]
    pub fn chunks_per_s(&self) -> f64 {
        let open = f64::from(self.stream_count()) / self.step.as_secs_f64();
        self.request_rate.map_or(open, |rate| open.min(rate * f64::from(self.output_len)))
    }

    /// After this time no new requests are started, even if the machine is late.
    fn max_seconds(&self) -> Nanos {
        // Random arrivals may take much longer than their mean, and the start takes time too.
        Nanos(self.seconds.0 / 4 * 5 + SECOND)
    }

    /// How long responses may continue after that.
    fn grace_time(&self) -> Nanos {
        Nanos(2 * self.response_time().0 + SECOND / 2)
    }

    /// The longest that a run takes, including the start and end of the programs.
    #[must_use]
    pub fn max_duration(&self) -> Nanos {
        self.max_seconds() + self.grace_time() + Nanos(SECOND / 2)
    }

    /// The same kind of load at another rate of chunks, for a search: first with a shorter step, down to [`MIN_STEP`], and
    /// then with more streams.
    #[must_use]
    pub fn at_rate(&self, chunks_per_s: f64) -> LoadPlan {
        let streams = f64::from(self.stream_count());
        let shortest = MIN_STEP.min(self.step);
        let step = Nanos::from_secs_f64(streams / chunks_per_s).clamp(shortest, self.step);
        let fitting = u32::try_from(MAX_SEARCH_RESPONSE.0 / step.0).unwrap_or(u32::MAX);
        LoadPlan {
            max_concurrency: Some(nearest_count(chunks_per_s * step.as_secs_f64()).max(1)),
            request_rate: None,
            step,
            output_len: self.output_len.min(fitting).max(2),
            seconds: SEARCH_SECONDS.min(self.seconds),
        }
    }

    /// The command line of `vb-sim`: all requests run at once, and each step takes the same time.
    #[must_use]
    pub fn server_args(&self, truth_log: &Path) -> Vec<OsString> {
        let max_seqs = self.max_concurrency.unwrap_or_else(|| self.request_count().min(MAX_SERVER_SEQS));
        let length = PROMPT_LEN + self.output_len + 1;
        let flags = [
            ("--port", "0".to_owned()),
            ("--served-model-name", MODEL.to_owned()),
            ("--step-base", format_nanos(self.step)),
            ("--step-per-prefill-token", "0".to_owned()),
            ("--step-per-context-token", "0".to_owned()),
            ("--max-num-seqs", max_seqs.to_string()),
            ("--max-num-batched-tokens", max_seqs.saturating_mul(PROMPT_LEN + 1).to_string()),
            ("--max-model-len", length.to_string()),
            ("--block-size", "16".to_owned()),
            ("--num-gpu-blocks", max_seqs.saturating_mul(length.div_ceil(16) + 1).to_string()),
        ];
        let mut args: Vec<OsString> = flags.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]).collect();
        args.extend(["--no-enable-prefix-caching".into(), "--truth-log".into(), truth_log.into()]);
        args
    }

    /// The command line of `vb-fire` for the server at `url`.
    #[must_use]
    pub fn client_args(&self, url: &str) -> Vec<OsString> {
        let mut args: Vec<String> =
            ["--base-url", url, "--model", MODEL, "--no-text", "--read-lags", "--fail-above", "1"]
                .map(str::to_owned)
                .into();
        let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
        flag("--max-seconds", format_nanos(self.max_seconds()));
        flag("--grace", format_nanos(self.grace_time()));
        self.max_concurrency.into_iter().for_each(|n| flag("--max-concurrency", n.to_string()));
        self.request_rate.into_iter().for_each(|rate| flag("--request-rate", rate.to_string()));
        args.into_iter().map(Into::into).collect()
    }

    /// The requests for `vb-fire`.
    pub fn sample_requests(&self) -> impl Iterator<Item = SampleRequest> + use<> {
        let output_len = self.output_len;
        (0..self.request_count()).map(move |i| SampleRequest {
            request_id: Some(format!("selftest-{i}")),
            prompt: Some(Prompt::Ids((0..PROMPT_LEN).map(|k| 1000 + (i + k) % 1000).collect())),
            prompt_len: Some(PROMPT_LEN),
            expected_output_len: Some(output_len),
            body: Some(Object::from_iter([("ignore_eos".to_owned(), true.into())])),
            ..SampleRequest::default()
        })
    }
}

/// Rounds to the nearest whole number.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates
fn nearest_count(x: f64) -> u32 {
    x.round() as u32
}

/// Formats a time for a flag.
fn format_nanos(time: Nanos) -> String {
    format!("{}ns", time.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> LoadPlan {
        LoadPlan {
            max_concurrency: Some(64),
            request_rate: None,
            step: Nanos(SECOND / 50),
            output_len: 64,
            seconds: Nanos(8 * SECOND),
        }
    }

    #[test]
    fn a_closed_loop_has_complete_rounds_that_fit() {
        let plan = closed();
        assert_eq!((plan.stream_count(), plan.request_count()), (64, 64 * 6));
        assert!((plan.chunks_per_s() - 3200.0).abs() < 1e-6);
        assert_eq!(plan.sample_requests().count(), 64 * 6);
        let short = LoadPlan { seconds: Nanos(1), ..plan };
        assert_eq!(short.request_count(), 64);
    }

    #[test]
    fn a_rate_opens_as_many_streams_as_it_needs() {
        let plan = LoadPlan { max_concurrency: None, request_rate: Some(10.0), ..closed() };
        assert_eq!((plan.stream_count(), plan.request_count()), (13, 80));
        assert!((plan.chunks_per_s() - 640.0).abs() < 1e-6);
        let limited = LoadPlan { max_concurrency: Some(4), ..plan };
        assert_eq!(limited.stream_count(), 4);
    }

    #[test]
    fn a_search_shortens_the_step_and_then_adds_streams() {
        let plan = closed();
        for (rate, streams, step_ms) in
            [(1600.0, 32, 20), (3200.0, 64, 20), (6400.0, 64, 10), (12_800.0, 64, 5), (25_600.0, 128, 5), (25.0, 1, 20)]
        {
            let other = plan.at_rate(rate);
            assert_eq!((other.stream_count(), other.step), (streams, Nanos(step_ms * SECOND / 1000)), "{rate}");
            assert!(other.response_time() <= Nanos(SECOND), "{rate}");
        }
    }

    #[test]
    fn a_run_has_an_end() {
        let plan = closed();
        assert!(plan.max_duration() < Nanos(15 * SECOND));
        assert!(plan.at_rate(6400.0).max_duration() < Nanos(6 * SECOND));
    }
}
