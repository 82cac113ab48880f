//! One line of the input: the type of its record, and the fields of an output that statistics need.

use std::{borrow::Cow, num::NonZeroU32};

use serde::{
    Deserialize,
    de::{Error, IgnoredAny},
};
use serde_json::Value;

use super::{ChunkTokens, RecordedRequest, Recording};
use crate::{
    json::plain::{self, RawText},
    record::{ErrorKind, TokenSource},
    units::{Nanos, UnixNanos},
};

/// The type of record on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// An output, with or without its `type`.
    Output,
    /// The first line of a run.
    Run,
    /// The last line of a run.
    End,
    /// A scrape of the server's metrics.
    Scrape,
    /// A result of vLLM with its requests.
    Vllm,
    /// A result without its requests.
    Bare,
    /// A record for another tool.
    Other,
}

impl RecordKind {
    /// Looks at the `type` of a line, or at its keys if it has no `type`.
    pub fn from_line(line: &[u8]) -> Result<RecordKind, serde_json::Error> {
        // Our own tools write it first.
        if let Some(rest) = line.strip_prefix(b"{\"type\":\"")
            && let Some(end) = rest.iter().position(|b| *b == b'"')
        {
            return Ok(RecordKind::from_type(&rest[..end]));
        }
        let keys: Keys = plain::parse(line)?;
        Ok(match keys.r#type {
            Some(name) => RecordKind::from_type(name.as_str().unwrap_or_default().as_bytes()),
            None if keys.ttfts.is_some() && keys.itls.is_some() => RecordKind::Vllm,
            None if keys.completed.is_some() => RecordKind::Bare,
            None if keys.success.is_some() || keys.latency.is_some() => RecordKind::Output,
            None => RecordKind::Other,
        })
    }

    fn from_type(name: &[u8]) -> RecordKind {
        match name {
            b"output" => RecordKind::Output,
            b"run" => RecordKind::Run,
            b"end" => RecordKind::End,
            b"scrape" => RecordKind::Scrape,
            _ => RecordKind::Other,
        }
    }
}

/// The keys that identify a record without a `type`.
#[derive(Default, Deserialize)]
#[serde(default, expecting = "a record, which is a JSON object")]
struct Keys {
    r#type: Option<Value>,
    success: Option<IgnoredAny>,
    latency: Option<IgnoredAny>,
    ttfts: Option<IgnoredAny>,
    itls: Option<IgnoredAny>,
    completed: Option<IgnoredAny>,
}

/// The fields of an output that statistics need, borrowed from the line. [`crate::record::RequestFuncOutput`] documents them.
#[derive(Default, Deserialize)]
#[serde(default, expecting = "an output, which is a JSON object")]
pub struct OutputLine<'a> {
    #[serde(borrow)]
    run_id: Option<JsonText<'a>>,
    success: bool,
    #[serde(borrow)]
    error: Option<JsonText<'a>>,
    #[serde(borrow)]
    error_kind: Option<JsonText<'a>>,
    prompt_len: Option<u32>,
    expected_prompt_len: Option<u32>,
    output_tokens: Option<u32>,
    hidden_tokens: Option<u32>,
    expected_output_len: Option<u32>,
    choices: Option<u32>,
    expected_cached_len: Option<u32>,
    cached_tokens: Option<u32>,
    reasoning_tokens: Option<u32>,
    #[serde(borrow)]
    token_source: Option<JsonText<'a>>,
    chunk_tokens: Option<Vec<u32>>,
    scheduled_time: Option<UnixNanos>,
    start_time: Option<UnixNanos>,
    queue_time: Option<f64>,
    ttft: Option<f64>,
    latency: Option<f64>,
    itl: Option<Vec<f64>>,
    ttft_answer: Option<f64>,
    phases: Option<PhasesLine>,
    read_lag_max: Option<f64>,
    stamp_error: Option<Vec<(u32, f64)>>,
    server: Option<ServerLine>,
    #[serde(borrow)]
    generated_text: Option<RawText<'a>>,
    turn: Option<u32>,
    #[serde(borrow)]
    tags: Option<RawText<'a>>,
}

/// Text that may be `null`, borrowed if possible.
#[derive(Deserialize)]
struct JsonText<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Default, Deserialize)]
#[serde(default)]
struct PhasesLine {
    done: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServerLine {
    queue_time: Option<f64>,
    ttft: Option<f64>,
}

impl JsonText<'_> {
    fn as_text<'t>(text: Option<&'t JsonText>) -> &'t str {
        text.map_or("", |text| &text.0)
    }
}

impl<'a> OutputLine<'a> {
    /// Parses a line, if it is an output in plain JSON.
    pub fn parse_plain(line: &'a [u8]) -> Option<Self> {
        let is_output = RecordKind::from_line(line).is_ok_and(|kind| kind == RecordKind::Output);
        plain::parse_plain(line).filter(|output: &Self| is_output && output.check_times().is_ok())
    }

    /// Parses an output.
    pub fn parse(line: &'a [u8]) -> Result<Self, serde_json::Error> {
        let output: Self = plain::parse(line)?;
        output.check_times().map(|()| output)
    }

    /// The run that it belongs to; empty if unknown.
    pub fn run_id(&self) -> &str {
        JsonText::as_text(self.run_id.as_ref())
    }

    /// Adds the request to the recording; with its text and its error if `detailed`.
    pub fn add_to(self, recording: &mut Recording, detailed: bool) -> Result<(), serde_json::Error> {
        let error = JsonText::as_text(self.error.as_ref());
        // Before anything is added: the caller may repair the line and try again.
        let tags = self.tags.filter(|_| recording.labels.is_needed());
        let tags = tags.map_or(Ok(None), |raw| serde_json::from_str(raw.0))?;
        if detailed {
            let text = self.generated_text.map_or(Ok(None), |raw| serde_json::from_str(raw.0))?;
            recording.texts.push(text.unwrap_or_default());
            recording.errors.push(error.to_owned());
        }
        recording.add_run_id(self.run_id());
        if recording.labels.is_needed() {
            recording.labels.push(&tags.unwrap_or_default(), self.turn);
        }
        let request = self.build_request(recording, detailed);
        if request.success {
            self.count_tokens(recording);
            if let Some(server) = &self.server {
                recording.server_times.0.extend(server.queue_time);
                recording.server_times.1.extend(server.ttft);
            }
        } else {
            recording.count_failure(error_kind_from_name(JsonText::as_text(self.error_kind.as_ref())), error);
        }
        recording.read_lags.extend(self.read_lag_max);
        recording.requests.push(request);
        Ok(())
    }

    fn check_times(&self) -> Result<(), serde_json::Error> {
        let times = [self.queue_time, self.ttft, self.latency, self.ttft_answer, self.end_offset(), self.read_lag_max];
        let reported = self.server.as_ref().map(|server| [server.queue_time, server.ttft]);
        let errors = self.stamp_error.iter().flatten().map(|(_, error)| Some(*error));
        let times = times.into_iter().chain(errors).chain(reported.into_iter().flatten());
        let negative = times.flatten().find(|time| *time < 0.0);
        // All at once, since there are hardly ever any.
        let in_gaps = self.itl_gaps().iter().map(|gap| u8::from(*gap < 0.0)).fold(0, u8::max) > 0;
        match negative.or_else(|| self.itl_gaps().iter().copied().find(|gap| in_gaps && *gap < 0.0)) {
            Some(time) => Err(Error::custom(format!("{time} is not a time in seconds (0 or more)"))),
            None => Ok(()),
        }
    }

    fn itl_gaps(&self) -> &[f64] {
        self.itl.as_deref().unwrap_or_default()
    }

    fn end_offset(&self) -> Option<f64> {
        self.phases.as_ref()?.done
    }

    fn build_request(&self, recording: &mut Recording, detailed: bool) -> RecordedRequest {
        let latency = self.latency.or_else(|| Some(self.ttft? + self.itl_gaps().iter().sum::<f64>()));
        self.stretch_span(recording, latency);
        let scheduled = self.scheduled_time.zip(self.start_time);
        let chunks = self.ttft.map_or(0, |_| self.itl_gaps().len() + 1);
        let kept = if self.success { &mut recording.gaps } else { &mut recording.failed_gaps };
        let first = kept.len();
        if self.success || detailed {
            kept.extend_from_slice(self.itl_gaps());
        }
        RecordedRequest {
            success: self.success,
            abandoned: error_kind_from_name(JsonText::as_text(self.error_kind.as_ref())) == Some(ErrorKind::Abandoned),
            prompt_len: self.prompt_len.unwrap_or_default(),
            output_tokens: self.output_tokens.unwrap_or_else(|| u32::try_from(chunks).unwrap_or(u32::MAX)),
            hidden_tokens: self.hidden_tokens.unwrap_or_default(),
            is_uncounted: self.is_uncounted(),
            is_one_chunk: chunks == 1,
            expected_output_len: self.expected_output_len,
            choices: self.choices.unwrap_or_default().max(1),
            gaps: first..kept.len(),
            start: self.start_time.map(|time| recording.offset_from_base(time)),
            queue_time: self.queue_time.or_else(|| scheduled.map(|(due, sent)| sent.since(due).as_secs_f64())),
            ttft: self.ttft,
            ttft_answer: self.ttft_answer,
            latency: latency.filter(|_| self.success),
            done: self.end_offset().or(latency),
            chunks: self.store_chunk_tokens(recording, chunks),
            stamp_errors: self.store_stamp_errors(recording),
        }
    }

    fn store_stamp_errors(&self, recording: &mut Recording) -> Option<NonZeroU32> {
        let mut errors = self.stamp_error.clone().filter(|errors| self.success && !errors.is_empty())?;
        errors.sort_by_key(|(chunk, _)| *chunk);
        recording.stamp_errors.push(errors);
        NonZeroU32::new(u32::try_from(recording.stamp_errors.len()).ok()?)
    }

    fn stretch_span(&self, recording: &mut Recording, latency: Option<f64>) {
        for time in self.scheduled_time.iter().chain(&self.start_time) {
            recording.extend_span(*time);
        }
        if let (Some(from), Some(end)) = (self.start_time.or(self.scheduled_time), self.end_offset().or(latency)) {
            recording.extend_span(from + Nanos::from_secs_f64(end));
        }
    }

    fn store_chunk_tokens(&self, recording: &mut Recording, chunks: usize) -> ChunkTokens {
        match &self.chunk_tokens {
            None => ChunkTokens::Single,
            Some(tokens) if tokens.len() == chunks => {
                let first = recording.chunk_tokens.len();
                recording.chunk_tokens.extend_from_slice(tokens);
                ChunkTokens::Known(first..recording.chunk_tokens.len())
            }
            Some(_) => ChunkTokens::Unknown,
        }
    }

    fn count_tokens(&self, recording: &mut Recording) {
        if let Some(n) = self.cached_tokens {
            *recording.cached_tokens.get_or_insert(0) += u64::from(n);
        }
        if let Some(expected) = self.expected_cached_len {
            recording.expected_cache.add(expected, self.prompt_len.unwrap_or_default(), self.cached_tokens);
        }
        if let Some(n) = self.reasoning_tokens {
            *recording.reasoning_tokens.get_or_insert(0) += u64::from(n);
        }
        recording.hidden_tokens += u64::from(self.hidden_tokens.unwrap_or_default());
        if let Some((asked, counted)) = self.expected_prompt_len.zip(self.prompt_len) {
            recording.prompt_lengths.add(asked, counted);
        }
        if let Some(source) = self.token_source() {
            recording.token_sources[source as usize] += 1;
        } else if self.is_uncounted() {
            recording.uncounted += 1;
        }
    }

    fn token_source(&self) -> Option<TokenSource> {
        token_source_from_name(JsonText::as_text(self.token_source.as_ref()))
    }

    /// Whether its tokens were not counted; its chunks may have been.
    fn is_uncounted(&self) -> bool {
        match self.token_source() {
            Some(source) => source == TokenSource::Chunks,
            None => self.output_tokens == Some(0) && self.chunk_tokens.is_some(),
        }
    }
}

fn error_kind_from_name(name: &str) -> Option<ErrorKind> {
    ErrorKind::ALL.into_iter().find(|kind| kind.name() == name)
}

fn token_source_from_name(name: &str) -> Option<TokenSource> {
    TokenSource::ALL.into_iter().find(|source| source.name() == name)
}
