//! Tokens instead of chunks: a server may send several tokens in one chunk.

use std::borrow::Cow;

use crate::recording::{ChunkTokens, RecordedRequest, Recording};

/// The most gaps per chunk: a wrong count of the server must not fill the memory.
const MAX_CHUNK_TOKENS: u32 = 1 << 16;

/// The tokens in each chunk of a request. If the server did not report them, they are spread evenly, and the first chunks get
/// the remainder, so that the first has at least one.
pub fn tokens_per_chunk<'a>(recording: &'a Recording, request: &RecordedRequest) -> Cow<'a, [u32]> {
    let chunks = request.gaps.len() as u64 + 1;
    match &request.chunks {
        ChunkTokens::Single => vec![1; request.gaps.len() + 1].into(),
        ChunkTokens::Known(range) => recording.chunk_tokens[range.clone()].into(),
        ChunkTokens::Unknown => {
            let until = |chunk: u64| (chunk * u64::from(request.shown_tokens())).div_ceil(chunks);
            (0..chunks).map(|i| u32::try_from(until(i + 1) - until(i)).unwrap_or(u32::MAX)).collect()
        }
    }
}

/// The gaps between tokens. A chunk of k tokens that arrived g after the previous one has k gaps of g / k, because its tokens
/// were generated in that time. The first chunk has none: its tokens are part of the TTFT. A chunk without tokens lengthens the
/// gap of the next one.
///
/// `None` if every chunk has one token, so that these are the gaps between chunks.
#[must_use]
pub fn gaps_per_token(recording: &Recording) -> Option<Vec<f64>> {
    if recording.successes().all(|r| r.chunks == ChunkTokens::Single) {
        return None;
    }
    let mut all = Vec::with_capacity(recording.gaps.len());
    for request in recording.successes() {
        let gaps = recording.gaps_of(request);
        if request.chunks == ChunkTokens::Single {
            all.extend_from_slice(gaps);
            continue;
        }
        let mut waited = 0.0;
        let tokens = tokens_per_chunk(recording, request);
        for (gap, tokens) in gaps.iter().zip(tokens.iter().copied().skip(1)) {
            waited += gap;
            if tokens > 0 {
                all.extend(std::iter::repeat_n(waited / f64::from(tokens), tokens.min(MAX_CHUNK_TOKENS) as usize));
                waited = 0.0;
            }
        }
    }
    Some(all)
}

/// Whether the tokens of some chunks are an even spread instead of reported counts.
#[must_use]
pub fn has_estimates(recording: &Recording) -> bool {
    recording.successes().any(|r| r.chunks == ChunkTokens::Unknown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(output_tokens: u32, gaps: &[f64], chunk_tokens: Option<&[u32]>) -> Recording {
        let request = RecordedRequest {
            success: true,
            output_tokens,
            gaps: 0..gaps.len(),
            chunks: chunk_tokens.map_or(ChunkTokens::Unknown, |tokens| ChunkTokens::Known(0..tokens.len())),
            ..RecordedRequest::default()
        };
        Recording {
            requests: vec![request],
            gaps: gaps.to_vec(),
            chunk_tokens: chunk_tokens.unwrap_or_default().to_vec(),
            ..Recording::default()
        }
    }

    #[test]
    fn itl_per_token_divides_the_gap_of_a_chunk() {
        let got = gaps_per_token(&one(6, &[0.5, 0.25], Some(&[1, 4, 1]))).unwrap();
        assert_eq!(got, [0.125, 0.125, 0.125, 0.125, 0.25]);
        let empty_chunk = gaps_per_token(&one(2, &[0.5, 0.25], Some(&[1, 0, 1]))).unwrap();
        assert_eq!(empty_chunk, [0.75]);
    }

    #[test]
    fn itl_per_token_equals_itl_per_chunk_when_chunks_are_tokens() {
        let mut single = one(3, &[0.5, 0.25], None);
        single.requests[0].chunks = ChunkTokens::Single;
        assert_eq!(gaps_per_token(&single), None);
        assert!(!has_estimates(&single));
        assert!(has_estimates(&one(7, &[0.1], None)));
    }

    proptest! {
        #[test]
        fn an_even_spread_has_all_tokens(tokens in 1_u32..2000, chunks in 1_usize..300) {
            let gaps = vec![0.5; chunks - 1];
            let recording = one(tokens, &gaps, None);
            let spread = tokens_per_chunk(&recording, &recording.requests[0]);
            prop_assert_eq!(spread.len(), chunks);
            prop_assert_eq!(spread.iter().sum::<u32>(), tokens);
            prop_assert!(spread[0] >= 1);
            prop_assert!(spread.iter().max().unwrap() - spread.iter().min().unwrap() <= 1);
        }
    }
}
