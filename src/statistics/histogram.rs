//! Counts of values in buckets of 0.1 %, for samples that are too large to keep or that will be pooled.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram as Hdr,
    serialization::{Deserializer as HdrReader, Serializer as _, V2DeflateSerializer},
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

use super::numpy;

/// The largest relative error of a value from a histogram: half a bucket. There are at least 1024 buckets between two powers of
/// two.
pub const MAX_RELATIVE_ERROR: f64 = 1.0 / 2048.0;

const SIGNIFICANT_DIGITS: u8 = 3;

/// Larger values count as this one. In nanoseconds: 36 years.
const MAX_VALUE: u64 = 1 << 60;

/// An HDR histogram of integers.
#[derive(Debug, Clone, PartialEq)]
pub struct HdrHistogram(Hdr<u64>);

impl HdrHistogram {
    /// Counts the values multiplied by `scale` and rounded to integers.
    #[must_use]
    pub fn from_values(values: &[f64], scale: f64) -> Option<Self> {
        let mut counts = Hdr::new(SIGNIFICANT_DIGITS).ok()?;
        for value in values {
            counts.record(round_to_count(value * scale)).ok()?;
        }
        Some(HdrHistogram(counts))
    }

    /// The number of values.
    #[must_use]
    pub fn value_count(&self) -> u64 {
        self.0.len()
    }

    /// Adds the values of another histogram.
    #[must_use]
    pub fn merge_with(mut self, other: &HdrHistogram) -> Option<Self> {
        self.0.add(&other.0).ok()?;
        Some(self)
    }

    /// The value at a place of the sorted values, counted from 0; interpolated between two values. 0 for an empty histogram.
    #[must_use]
    pub fn value_at(&self, place: f64) -> f64 {
        let below = numpy::truncate_to_usize(place) as u64;
        let (a, b) = (self.value_at_rank(below), self.value_at_rank(below + 1));
        a + (b - a) * (place - below as f64)
    }

    /// The value of a rank, counted from 0: the middle of its bucket.
    fn value_at_rank(&self, rank: u64) -> f64 {
        let rank = rank.min(self.value_count().saturating_sub(1));
        let mut seen = 0;
        for bucket in self.0.iter_recorded() {
            seen += bucket.count_at_value();
            if seen > rank {
                let value = bucket.value_iterated_to();
                return f64::midpoint(self.0.lowest_equivalent(value) as f64, self.0.highest_equivalent(value) as f64);
            }
        }
        0.0
    }
}

fn round_to_count(value: f64) -> u64 {
    (numpy::truncate_to_usize(value.round()) as u64).min(MAX_VALUE)
}

/// The text form that HDR histograms exchange between languages: V2, deflated, base64.
impl Serialize for HdrHistogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.0, &mut bytes).map_err(S::Error::custom)?;
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for HdrHistogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.trim()).map_err(|e| D::Error::custom(format!("bad histogram: {e}")))?;
        let counts = HdrReader::new().deserialize(&mut bytes.as_slice());
        let mut counts: Hdr<u64> = counts.map_err(|e| D::Error::custom(format!("bad histogram: {e}")))?;
        counts.auto(true);
        Ok(HdrHistogram(counts))
    }
}

impl JsonSchema for HdrHistogram {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Histogram".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "description": "HDR histogram, V2, deflated, base64"})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_text_form_is_the_one_of_other_languages() {
        let text = serde_json::to_string(&HdrHistogram::from_values(&[0.001, 0.002], 1e9).unwrap()).unwrap();
        assert!(text.starts_with("\"HISTFAAA"), "{text}");
        for wrong in ["\"HISTFAAA\"", "\"nothing\"", "\"\"", "7"] {
            assert!(serde_json::from_str::<HdrHistogram>(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn values_at_places_are_within_the_error(
            mut values in prop::collection::vec(prop_oneof![0.0..10.0, 0.0..1e-3, 0.0..1e4], 1..300), share in 0.0..=1.0
        ) {
            let histogram = HdrHistogram::from_values(&values, 1e9).unwrap();
            values.sort_by(f64::total_cmp);
            let place = share * (values.len() - 1) as f64;
            let (got, want) = (histogram.value_at(place) / 1e9, numpy::value_at(&values, place));
            prop_assert!((got - want).abs() <= want * MAX_RELATIVE_ERROR + 1e-9, "{got} for {want}");
        }

        #[test]
        fn merging_and_the_text_form_keep_all_values(
            a in prop::collection::vec(0.0..1e3, 0..100), b in prop::collection::vec(0.0..1e6, 0..100)
        ) {
            let histogram = |values: &[f64]| HdrHistogram::from_values(values, 1e3).unwrap();
            let both = histogram(&a).merge_with(&histogram(&b)).unwrap();
            prop_assert_eq!(both.value_count(), (a.len() + b.len()) as u64);
            prop_assert!(both == histogram(&[a, b].concat()));
            let text = serde_json::to_string(&both).unwrap();
            prop_assert!(serde_json::from_str::<HdrHistogram>(&text).unwrap() == both);
        }
    }
}
