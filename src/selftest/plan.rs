//! What one run sends, and at what pace the simulated server answers.

use std::{ffi::OsString, path::Path};

use crate::{
    record::{Object, Prompt, SampleRequest},
    units::{Nanos, SECOND},
};

/// Tokens of a prompt. They cost the server nothing here: what is tested is the client.
const PROMPT_LEN: u32 = 8;

/// Requests that the server takes at once where no limit is set.
const MOST_SEATS: u32 = 16_384;

/// The shortest step that a search goes down to before it adds streams.
const SHORTEST_STEP: Nanos = Nanos(SECOND / 200);

/// How long a run of a search takes, and the longest answer in it.
const SEARCH_SECONDS: Nanos = Nanos(3 * SECOND / 2);
const SEARCH_ANSWER: Nanos = Nanos(7 * SECOND / 10);

/// The model's name at the server.
const MODEL: &str = "selftest";

/// A load whose timing is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The most requests in flight; `None`: no limit.
    pub max_concurrency: Option<u32>,
    /// Requests per second; `None`: a request starts when another one ends.
    pub request_rate: Option<f64>,
    /// The time between two tokens of a stream.
    pub step: Nanos,
    /// Tokens in each answer, each in a chunk of its own.
    pub output_len: u32,
    /// How long requests are started.
    pub seconds: Nanos,
}

impl Plan {
    /// How long an answer takes, with a step for the first token and one to wait for its beginning.
    fn answer(&self) -> Nanos {
        Nanos(self.step.0 * (u64::from(self.output_len) + 1))
    }

    /// Streams that are open at once: the limit, or where a rate needs fewer the mean of those.
    #[must_use]
    pub fn streams(&self) -> u32 {
        let needed = self.request_rate.map_or(f64::INFINITY, |rate| rate * self.answer().as_secs_f64());
        count(needed.min(self.max_concurrency.map_or(f64::INFINITY, f64::from))).max(1)
    }

    /// How many requests there are.
    #[must_use]
    pub fn requests(&self) -> u32 {
        if let Some(rate) = self.request_rate {
            return count(rate * self.seconds.as_secs_f64()).max(2);
        }
        let rounds = (self.seconds.0 / self.answer().0.max(1)).max(1);
        u32::try_from(u64::from(self.streams()) * rounds).unwrap_or(u32::MAX)
    }

    /// Chunks per second while all streams are open.
    #[must_use]
    pub fn chunks_per_s(&self) -> f64 {
        let open = f64::from(self.streams()) / self.step.as_secs_f64();
        self.request_rate.map_or(open, |rate| open.min(rate * f64::from(self.output_len)))
    }

    /// After this time nothing new is started, even if the machine is behind.
    fn max_seconds(&self) -> Nanos {
        // Arrivals at random may come a good deal later than their mean says, and a start takes its time.
        Nanos(self.seconds.0 / 4 * 5 + SECOND)
    }

    /// How long answers may go on after that.
    fn grace(&self) -> Nanos {
        Nanos(2 * self.answer().0 + SECOND / 2)
    }

    /// The longest that a run of it takes, with its programs' start and end.
    #[must_use]
    pub fn longest(&self) -> Nanos {
        self.max_seconds() + self.grace() + Nanos(SECOND / 2)
    }

    /// The same kind of load at another rate of chunks, for a search: the step becomes shorter first, as far as
    /// [`SHORTEST_STEP`], and then there are more streams.
    #[must_use]
    pub fn at_rate(&self, chunks_per_s: f64) -> Plan {
        let streams = f64::from(self.streams());
        let shortest = SHORTEST_STEP.min(self.step);
        let step = Nanos::from_secs_f64(streams / chunks_per_s).clamp(shortest, self.step);
        let fitting = u32::try_from(SEARCH_ANSWER.0 / step.0).unwrap_or(u32::MAX);
        Plan {
            max_concurrency: Some(count(chunks_per_s * step.as_secs_f64()).max(1)),
            request_rate: None,
            step,
            output_len: self.output_len.min(fitting).max(2),
            seconds: SEARCH_SECONDS.min(self.seconds),
        }
    }

    /// The command line of `vb-sim`: a server with room for all, where each step takes the same time.
    #[must_use]
    pub fn server_args(&self, truth_log: &Path) -> Vec<OsString> {
        let seats = self.max_concurrency.unwrap_or_else(|| self.requests().min(MOST_SEATS));
        let length = PROMPT_LEN + self.output_len + 1;
        let flags = [
            ("--port", "0".to_owned()),
            ("--served-model-name", MODEL.to_owned()),
            ("--step-base", nanos(self.step)),
            ("--step-per-prefill-token", "0".to_owned()),
            ("--step-per-context-token", "0".to_owned()),
            ("--max-num-seqs", seats.to_string()),
            ("--max-num-batched-tokens", seats.saturating_mul(PROMPT_LEN + 1).to_string()),
            ("--max-model-len", length.to_string()),
            ("--block-size", "16".to_owned()),
            ("--num-gpu-blocks", seats.saturating_mul(length.div_ceil(16) + 1).to_string()),
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
        flag("--max-seconds", nanos(self.max_seconds()));
        flag("--grace", nanos(self.grace()));
        self.max_concurrency.into_iter().for_each(|n| flag("--max-concurrency", n.to_string()));
        self.request_rate.into_iter().for_each(|rate| flag("--request-rate", rate.to_string()));
        args.into_iter().map(Into::into).collect()
    }

    /// The lines for `vb-fire`.
    pub fn lines(&self) -> impl Iterator<Item = SampleRequest> + use<> {
        let output_len = self.output_len;
        (0..self.requests()).map(move |i| SampleRequest {
            request_id: Some(format!("selftest-{i}")),
            prompt: Some(Prompt::Ids((0..PROMPT_LEN).map(|k| 1000 + (i + k) % 1000).collect())),
            prompt_len: Some(PROMPT_LEN),
            expected_output_len: Some(output_len),
            body: Some(Object::from_iter([("ignore_eos".to_owned(), true.into())])),
            ..SampleRequest::default()
        })
    }
}

/// The whole number nearest to it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates
fn count(x: f64) -> u32 {
    x.round() as u32
}

/// As a flag takes it.
fn nanos(time: Nanos) -> String {
    format!("{}ns", time.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> Plan {
        Plan {
            max_concurrency: Some(64),
            request_rate: None,
            step: Nanos(SECOND / 50),
            output_len: 64,
            seconds: Nanos(8 * SECOND),
        }
    }

    #[test]
    fn a_closed_loop_has_whole_rounds_that_fit() {
        let plan = closed();
        assert_eq!((plan.streams(), plan.requests()), (64, 64 * 6));
        assert!((plan.chunks_per_s() - 3200.0).abs() < 1e-6);
        assert_eq!(plan.lines().count(), 64 * 6);
        let short = Plan { seconds: Nanos(1), ..plan };
        assert_eq!(short.requests(), 64);
    }

    #[test]
    fn a_rate_opens_as_many_streams_as_it_needs() {
        let plan = Plan { max_concurrency: None, request_rate: Some(10.0), ..closed() };
        assert_eq!((plan.streams(), plan.requests()), (13, 80));
        assert!((plan.chunks_per_s() - 640.0).abs() < 1e-6);
        let limited = Plan { max_concurrency: Some(4), ..plan };
        assert_eq!(limited.streams(), 4);
    }

    #[test]
    fn a_search_shortens_the_step_and_then_adds_streams() {
        let plan = closed();
        for (rate, streams, step_ms) in
            [(1600.0, 32, 20), (3200.0, 64, 20), (6400.0, 64, 10), (12_800.0, 64, 5), (25_600.0, 128, 5), (25.0, 1, 20)]
        {
            let other = plan.at_rate(rate);
            assert_eq!((other.streams(), other.step), (streams, Nanos(step_ms * SECOND / 1000)), "{rate}");
            assert!(other.answer() <= Nanos(SECOND), "{rate}");
        }
    }

    #[test]
    fn a_run_has_an_end() {
        let plan = closed();
        assert!(plan.longest() < Nanos(15 * SECOND));
        assert!(plan.at_rate(6400.0).longest() < Nanos(6 * SECOND));
    }
}
