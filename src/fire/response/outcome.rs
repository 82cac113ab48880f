//! How a response ended, and what its output says of it.

use super::ReceivedResponse;
use crate::{
    fire::token_count::ResponseFacts,
    http::exchange::RequestFailure,
    record::{ErrorKind, RequestFuncOutput, ServerTimes, Stamp},
    units::Nanos,
};

impl ReceivedResponse {
    /// The text so far; `None`: it has failed.
    pub fn partial_text(&self) -> Option<String> {
        self.failure.is_none().then(|| self.transcript.text().to_owned())
    }

    /// The text of a complete response, and when its last token arrived; `None`: it has failed. `broken` is as for
    /// [`Self::finish`].
    pub fn complete_text(&mut self, broken: Option<&RequestFailure>) -> Option<(String, Option<Nanos>)> {
        self.parse_remaining(broken.is_none());
        let succeeded = self.find_failure(broken.cloned()).is_none();
        succeeded.then(|| (self.transcript.text().to_owned(), self.last))
    }

    /// Writes the response into `output`, with times counted from `start`.
    ///
    /// `broken` is why reading ended early. `count_tokens` counts the tokens of a text if the server does not.
    pub fn finish(
        mut self,
        start: Nanos,
        broken: Option<RequestFailure>,
        count_tokens: impl Fn(&str) -> Option<u32>,
        output: &mut RequestFuncOutput,
    ) {
        self.parse_remaining(broken.is_none());
        match self.find_failure(broken) {
            None => output.success = true,
            Some(failure) => {
                output.error = failure.message;
                output.error_kind = Some(failure.kind);
            }
        }
        self.write_token_counts(start, count_tokens, output);
        let since = |time: Option<Nanos>| time.map(|t| t.since(start));
        output.ttft = since(self.first);
        output.ttft_answer = since(self.first_answer);
        output.latency = since(self.last);
        // Of what chunks showed: a response that came in one chunk has no pace.
        output.tpot = match (output.ttft, output.latency, output.output_tokens - output.hidden_tokens) {
            (Some(ttft), Some(latency), tokens @ 2..) if !self.itl.is_empty() => {
                Some(Nanos::from_secs_f64(latency.since(ttft).as_secs_f64() / f64::from(tokens - 1)))
            }
            _ => None,
        };
        output.itl = self.itl;
        let by_kernel = self.stamps.chunks > self.stamps.user;
        let by_packets = self.stamps.packets > 0 && self.stamps.packets == self.stamps.chunks;
        output.stamp = match (by_packets, by_kernel) {
            (true, _) => Stamp::Packet,
            (false, true) => Stamp::Kernel,
            (false, false) => Stamp::User,
        };
        output.read_lag_max = self.read_lag.iter().max().copied().filter(|_| by_kernel);
        output.coalesced = u32::try_from(self.stamps.coalesced).unwrap_or(u32::MAX);
        output.read_lag = Some(self.read_lag);
        output.stamp_error = Some(self.stamp_error).filter(|errors| !errors.is_empty());
        output.finish_reason = self.finish_reason;
        output.server = self.metrics.map(|m| {
            let time = |ms: Option<f64>| ms.map(|ms| Nanos::from_secs_f64(ms / 1e3));
            ServerTimes { queue_time: time(m.queue_time_ms), ttft: time(m.time_to_first_token_ms) }
        });
        output.generated_text = Some(self.transcript.into_text());
    }

    /// Takes the empty chunks as tokens if no other chunk bears one. A response may end within a character, and a server that holds
    /// incomplete characters back then sends no text at all. If it still counts tokens, the empty chunks must have borne them.
    pub(super) fn use_empty_chunks(&mut self) {
        let counted = self.tokens.has_usage();
        if let Some((first, last)) = self.empty_chunks.filter(|_| counted && !self.has_token()) {
            self.first = Some(first);
            self.first_answer = Some(first);
            self.last = Some(last);
            self.read_lag = vec![Nanos(0)];
            if last > first {
                self.itl = vec![last.since(first)];
                self.read_lag.push(Nanos(0));
            }
            self.tokens.set_unknown_chunks(self.read_lag.len());
        }
    }

    /// The failure, if there is one. An error in the stream itself comes first, then how the connection ended.
    fn find_failure(&self, broken: Option<RequestFailure>) -> Option<RequestFailure> {
        if let Some(failure) = &self.failure {
            return Some(failure.clone());
        }
        // After `[DONE]` nothing is missing, however the connection ended.
        if let Some(failure) = broken.filter(|_| !self.done) {
            return Some(failure);
        }
        let truncated = |message: &str| Some(RequestFailure::new(ErrorKind::Truncated, message));
        let count = self.tokens.chunk_count();
        if self.cut && !self.done {
            return truncated(&format!("the stream ended after {count} chunks, within another"));
        }
        let has_token = self.has_token() || self.untimed_tokens;
        let odd_chunk = self.odd_chunk.as_ref().filter(|_| !has_token);
        let ended_by_http =
            !self.protocol.api.marks_end() && (self.tokens.chunk_count() > 0 || self.empty_chunks.is_some());
        if !self.done && !ended_by_http && (self.finished == 0 || self.begun != self.finished) {
            return odd_chunk.cloned().or_else(|| {
                truncated(&format!("the stream ended after {count} chunks, before [DONE] or a finish reason"))
            });
        }
        if !self.done && ended_by_http && self.finished == 0 && self.unframed {
            return truncated("the connection was closed without the end of the response: nothing marks it");
        }
        let empty = self.protocol.api.generates_tokens() && !has_token;
        empty.then(|| {
            odd_chunk
                .cloned()
                .unwrap_or_else(|| RequestFailure::new(ErrorKind::Empty, "a complete response without a token"))
        })
    }

    fn write_token_counts(
        &self,
        start: Nanos,
        count_tokens: impl Fn(&str) -> Option<u32>,
        output: &mut RequestFuncOutput,
    ) {
        let facts = ResponseFacts {
            answer: self.transcript.text(),
            asked: output.expected_output_len,
            seconds: self.arrival.time.since(start).as_secs_f64(),
            streamed: !self.untimed_tokens,
        };
        let count = self.tokens.count(facts, count_tokens);
        output.choices = self.begun.count_ones();
        output.prompt_len = count.prompt.unwrap_or(output.prompt_len);
        output.cached_tokens = count.cached;
        output.reasoning_tokens = count.reasoning;
        output.output_tokens = count.tokens;
        output.hidden_tokens = count.hidden;
        output.token_source = count.source;
        output.chunk_tokens = count.per_chunk;
    }
}
