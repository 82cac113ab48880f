//! Fluidity: whether the tokens of a response arrive at the pace at which they are read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{part::RunPart, pooling::Pooling, tokens};
use crate::{
    recording::{RecordedRequest, Recording, population::Population},
    statistics::{Summary, SummaryOptions, Unit},
};

/// The share of deadlines that a fluid response meets.
const FLUID_SHARE: f64 = 0.9;

/// The fluidity of the responses of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Fluidity {
    /// The share of deadlines that each success met.
    pub index: Summary,
    /// Requests that met nine out of ten.
    pub fluid: u64,
    /// `fluid` out of the requests that count, as for `attainment` of the limits; `null` if none counts, and if there are successes
    /// and none has a token with a time.
    pub attainment: Option<f64>,
}

impl Fluidity {
    /// Measures with limits on TTFT and TPOT, in seconds.
    #[must_use]
    pub fn measure(recording: &Recording, part: &RunPart, ttft: f64, tpot: f64, wanted: &SummaryOptions) -> Self {
        let index = |request: &RecordedRequest| fluidity_index(recording, request, ttft, tpot);
        let fluid = part.successes().filter_map(index).filter(|index| *index >= FLUID_SHARE).count() as u64;
        let index = Summary::from_stats(&part.sample_values(&index, Unit::Share, wanted));
        let known = index.n > 0 || part.population.succeeded == 0;
        Fluidity { index, fluid, attainment: part.population.share(fluid).filter(|_| known) }
    }
}

/// The share of deadlines that a response met: the fluidity index of Etalon. `None` without a token.
///
/// The first token is due after `ttft`, each further one `tpot` after the previous one; an early token leaves slack for later
/// ones. A late token misses a deadline for each `tpot` of delay, and the deadlines restart from it.
fn fluidity_index(recording: &Recording, request: &RecordedRequest, ttft: f64, tpot: f64) -> Option<f64> {
    let first = request.ttft?;
    let (mut slack, mut met, mut missed) = (0.0, 0.0, 0.0);
    let mut token = |waited: f64, due: f64| {
        slack += due - waited;
        if slack >= 0.0 {
            met += 1.0;
        } else {
            missed += (-slack / tpot).floor() + 1.0;
            slack = 0.0;
        }
    };
    let gaps = std::iter::once(first).chain(recording.gaps_of(request).iter().copied());
    let (mut waited, mut due) = (0.0, ttft);
    for (gap, tokens) in gaps.zip(tokens::tokens_per_chunk(recording, request).iter()) {
        waited += gap;
        // The tokens of a chunk arrive together.
        for _ in 0..*tokens {
            token(waited, due);
            (waited, due) = (0.0, tpot);
        }
    }
    (met + missed > 0.0).then(|| met / (met + missed))
}

impl Fluidity {
    /// Pools the fluidity of several runs with these requests each.
    #[must_use]
    pub fn pool_runs(all: &Pooling<Self>, populations: &[Population]) -> Option<Self> {
        let known = all.all.iter().any(|fluidity| fluidity.attainment.is_some());
        let fluid = all.sum(|fluidity| fluidity.fluid);
        let attainment = populations.iter().copied().sum::<Population>().share(fluid).filter(|_| known);
        Some(Fluidity { index: all.pool_summary(Unit::Share, |fluidity| &fluidity.index)?, fluid, attainment })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::ChunkTokens;

    fn index(ttft: f64, gaps: &[f64], chunk_tokens: Option<&[u32]>) -> f64 {
        let request = RecordedRequest {
            success: true,
            ttft: Some(ttft),
            gaps: 0..gaps.len(),
            chunks: chunk_tokens.map_or(ChunkTokens::Single, |tokens| ChunkTokens::Known(0..tokens.len())),
            ..RecordedRequest::default()
        };
        let recording = Recording {
            gaps: gaps.to_vec(),
            chunk_tokens: chunk_tokens.unwrap_or_default().to_vec(),
            ..Recording::default()
        };
        fluidity_index(&recording, &request, 1.0, 0.125).unwrap()
    }

    #[test]
    fn slack_is_carried_forward_and_a_stall_misses_many_deadlines() {
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} and not {want}");
        close(index(1.0, &[0.125, 0.125], None), 1.0);
        // Half a second early: a stall of 0.625 is 0.5 + 0.125.
        close(index(0.5, &[0.625, 0.125], None), 1.0);
        // Without slack it misses at 0.125, 0.25, 0.375 and 0.5 s, and again at its own end.
        close(index(1.0, &[0.625, 0.125], None), 2.0 / 7.0);
        // A first token that is late by 0.25 s.
        close(index(1.25, &[], None), 0.0);
        // Four tokens at once are read for half a second.
        close(index(1.0, &[0.125, 0.5], Some(&[1, 4, 1])), 1.0);
        close(index(1.0, &[0.125, 0.75], Some(&[1, 4, 1])), 5.0 / 8.0);
    }
}
