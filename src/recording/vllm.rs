//! vLLM's own result with its requests (`--save-detailed`), from its Python or its Rust client.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use super::{ChunkTokens, RecordedRequest, Recording, VllmHeader, metric::Metric};
use crate::fields::WholeCount;

/// One result. Its lists have an entry per request; the Rust client omits some of them.
#[derive(Default)]
pub struct VllmResult {
    header: VllmHeader,
    input_lens: Vec<Option<WholeCount>>,
    output_lens: Vec<Option<WholeCount>>,
    ttfts: Vec<Option<f64>>,
    itls: Vec<Option<Vec<Option<f64>>>>,
    latencies: Vec<Option<f64>>,
    start_times: Vec<Option<f64>>,
    queue_times: Vec<Option<f64>>,
    generated_texts: Vec<Option<String>>,
    errors: Vec<Option<String>>,
}

impl<'de> Deserialize<'de> for VllmResult {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ResultVisitor;
        impl<'de> Visitor<'de> for ResultVisitor {
            type Value = VllmResult;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a result of `vllm bench serve`")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VllmResult, A::Error> {
                let mut result = VllmResult::default();
                while let Some(key) = map.next_key::<String>()? {
                    result.read_key(&key, &mut map)?;
                }
                Ok(result)
            }
        }
        from.deserialize_map(ResultVisitor)
    }
}

impl VllmResult {
    fn read_key<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "duration" => self.header.duration = map.next_value()?,
            "rtfx" => self.header.rtfx = map.next_value()?,
            "input_lens" => self.input_lens = map.next_value()?,
            "output_lens" => self.output_lens = map.next_value()?,
            "ttfts" => self.ttfts = map.next_value()?,
            "itls" => self.itls = map.next_value()?,
            "latencies" => self.latencies = map.next_value()?,
            "start_times" => self.start_times = map.next_value()?,
            "queue_times" => self.queue_times = map.next_value()?,
            "generated_texts" => self.generated_texts = map.next_value()?,
            "errors" => self.errors = map.next_value()?,
            _ if is_computed(key) => drop(map.next_value::<IgnoredAny>()?),
            _ => {
                let header = &mut self.header;
                let kept = if header.duration.is_none() { &mut header.before } else { &mut header.after };
                kept.insert(key.to_owned(), map.next_value::<Value>()?);
            }
        }
        Ok(())
    }

    /// Adds its requests to the recording; with texts and errors if `detailed`.
    pub fn add_to(self, recording: &mut Recording, detailed: bool) {
        for i in 0..self.ttfts.len().min(self.itls.len()) {
            let request = self.build_request(i, recording, detailed);
            if !request.success {
                recording.count_failure(None, self.request_error(i));
            }
            recording.requests.push(request);
        }
        if detailed {
            let n = recording.requests.len();
            recording.errors = (0..n).map(|i| self.request_error(i).to_owned()).collect();
            recording.texts = self.generated_texts.into_iter().map(Option::unwrap_or_default).collect();
            recording.texts.resize(n, String::new());
        }
        recording.vllm = Some(self.header);
    }

    fn request_error(&self, i: usize) -> &str {
        self.errors.get(i).and_then(Option::as_deref).unwrap_or_default()
    }

    fn build_request(&self, i: usize, recording: &mut Recording, detailed: bool) -> RecordedRequest {
        // A NaN is unknown.
        let (ttft, itl) = (self.ttfts[i], self.itls[i].iter().flatten().flatten().copied().collect::<Vec<f64>>());
        let count = |lens: &[Option<WholeCount>]| lens.get(i).copied().flatten().unwrap_or_default().0;
        let number = |list: &[Option<f64>]| list.get(i).copied().flatten();
        let output_tokens = count(&self.output_lens);
        // vLLM gives a failed request 0 tokens and an error, which may be empty.
        let success = self.request_error(i).is_empty() && output_tokens > 0;
        let latency = number(&self.latencies).or_else(|| Some(ttft? + itl.iter().sum::<f64>()));
        let kept = if success { &mut recording.gaps } else { &mut recording.failed_gaps };
        let first = kept.len();
        if success || detailed {
            kept.extend_from_slice(&itl);
        }
        RecordedRequest {
            success,
            abandoned: false,
            is_one_chunk: itl.is_empty(),
            prompt_len: count(&self.input_lens),
            output_tokens,
            // A request that was never sent has a start of 0.
            start: number(&self.start_times).filter(|start| success || *start > 0.0),
            queue_time: number(&self.queue_times),
            ttft,
            latency: latency.filter(|_| success),
            done: latency,
            gaps: first..kept.len(),
            chunks: if output_tokens as usize == itl.len() + 1 { ChunkTokens::Single } else { ChunkTokens::Unknown },
            ..RecordedRequest::default()
        }
    }
}

/// Whether a key is recomputed from the requests.
fn is_computed(key: &str) -> bool {
    const KEYS: [&str; 11] = [
        "vb",
        "completed",
        "failed",
        "total_input_tokens",
        "total_output_tokens",
        "request_throughput",
        "request_goodput",
        "output_throughput",
        "total_token_throughput",
        "max_output_tokens_per_s",
        "max_concurrent_requests",
    ];
    KEYS.contains(&key) || Metric::parse_key(key).is_some()
}
