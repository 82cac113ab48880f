//! Counts of values in buckets of 0.1 %, for samples that are too large to keep or that will be pooled.

use std::io::Read;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::read::ZlibDecoder;
use hdrhistogram::{
    Histogram as Hdr,
    serialization::{Deserializer as HdrReader, Serializer as _, V2DeflateSerializer},
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::numpy;

/// The largest relative error of a value from a histogram: half a bucket. There are at least 1024 buckets between two powers of
/// two.
pub const MAX_RELATIVE_ERROR: f64 = 1.0 / 2048.0;

const SIGNIFICANT_DIGITS: u8 = 3;

/// Larger values count as this one. In nanoseconds: 36 years.
const MAX_VALUE: u64 = 1 << 60;

/// A histogram in the text form that HDR histograms exchange between languages: V2, deflated, base64.
///
/// It is decoded only while it is used: a text of 100 bytes may have half a megabyte of buckets, and a file may have any number
/// of texts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct HdrHistogram {
    text: String,
    #[serde(skip)]
    value_count: u64,
}

impl HdrHistogram {
    /// Counts the values of all slices, multiplied by `scale` and rounded to integers.
    #[must_use]
    pub fn from_values(slices: &[&[f64]], scale: f64) -> Option<Self> {
        let mut counts = Hdr::new(SIGNIFICANT_DIGITS).ok()?;
        for value in slices.iter().copied().flatten() {
            counts.record(round_to_count(value * scale)).ok()?;
        }
        ValueCounts(counts).encode()
    }

    /// The number of values.
    #[must_use]
    pub fn value_count(&self) -> u64 {
        self.value_count
    }
}

/// The counts of a histogram of integers.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueCounts(Hdr<u64>);

impl ValueCounts {
    /// All values of several histograms; `None` without a histogram.
    #[must_use]
    pub fn merge_all<'a>(histograms: impl IntoIterator<Item = &'a HdrHistogram>) -> Option<Self> {
        let mut all: Option<Hdr<u64>> = None;
        for histogram in histograms {
            let counts = decode_text(&histogram.text).ok()?.0;
            match &mut all {
                Some(all) => all.add(counts).ok()?,
                None => all = Some(counts),
            }
        }
        all.map(ValueCounts)
    }

    /// The text form.
    #[must_use]
    pub fn encode(&self) -> Option<HdrHistogram> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.0, &mut bytes).ok()?;
        Some(HdrHistogram { text: STANDARD.encode(bytes), value_count: self.0.len() })
    }

    /// The value at a place of the sorted values, counted from 0; interpolated between two values. 0 for an empty histogram.
    #[must_use]
    pub fn value_at(&self, place: f64) -> f64 {
        let below = numpy::truncate_to_usize(place) as u64;
        let (a, b) = (self.value_at_rank(below), self.value_at_rank(below.saturating_add(1)));
        a + (b - a) * (place - below as f64)
    }

    /// The sum of the `n` highest values as a share of the sum of all; `None` if that is 0.
    #[must_use]
    pub fn share_of_highest(&self, n: u64) -> Option<f64> {
        let mut lower = self.0.len().saturating_sub(n);
        let (mut sum, mut highest) = (0.0, 0.0);
        for bucket in self.0.iter_recorded() {
            let (count, value) = (bucket.count_at_value(), self.bucket_middle(bucket.value_iterated_to()));
            let high = count.saturating_sub(lower);
            lower = lower.saturating_sub(count);
            sum += count as f64 * value;
            highest += high as f64 * value;
        }
        (sum > 0.0).then(|| highest / sum)
    }

    fn bucket_middle(&self, value: u64) -> f64 {
        f64::midpoint(self.0.lowest_equivalent(value) as f64, self.0.highest_equivalent(value) as f64)
    }

    /// The value of a rank, counted from 0: the middle of its bucket.
    fn value_at_rank(&self, rank: u64) -> f64 {
        let rank = rank.min(self.0.len().saturating_sub(1));
        let mut seen = 0_u64;
        for bucket in self.0.iter_recorded() {
            seen = seen.saturating_add(bucket.count_at_value());
            if seen > rank {
                return self.bucket_middle(bucket.value_iterated_to());
            }
        }
        0.0
    }
}

fn round_to_count(value: f64) -> u64 {
    (numpy::truncate_to_usize(value.round()) as u64).min(MAX_VALUE)
}

/// The head of a histogram before it is deflated: a mark, the length of the counts, an offset, the significant digits, the
/// smallest and the largest value, and a factor.
const HEAD_LEN: usize = 40;

/// The longest counts: up to 9 bytes for each of the buckets up to the largest value that fits into 64 bits.
const MAX_COUNTS_LEN: usize = 9 * 1024 * 56;

/// Decodes the text form. What its head claims is checked first, since memory is allocated for it.
///
/// # Errors
/// It is not a histogram as this module writes it.
fn decode_text(text: &str) -> Result<ValueCounts, String> {
    let deflated = STANDARD.decode(text.trim()).map_err(|e| e.to_string())?;
    // The first 8 bytes are a mark and the length of the deflated bytes.
    let plain = deflated.get(8..).ok_or("it is too short")?;
    let mut bytes = Vec::new();
    let most = (HEAD_LEN + MAX_COUNTS_LEN) as u64;
    ZlibDecoder::new(plain).take(most).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let word = |at: usize| {
        let word = bytes.get(at..at + 4)?;
        Some(word.iter().fold(0_usize, |all, byte| all << 8 | usize::from(*byte)))
    };
    let (counts_len, digits) = word(4).zip(word(12)).ok_or("it is too short")?;
    if counts_len != bytes.len().saturating_sub(HEAD_LEN) || digits > usize::from(SIGNIFICANT_DIGITS) {
        return Err(format!("{counts_len} bytes of counts with {digits} significant digits"));
    }
    let counts = HdrReader::new().deserialize(&mut bytes.as_slice());
    let mut counts: Hdr<u64> = counts.map_err(|e| e.to_string())?;
    counts.auto(true);
    Ok(ValueCounts(counts))
}

impl<'de> Deserialize<'de> for HdrHistogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let counts = decode_text(&text).map_err(|e| D::Error::custom(format!("bad histogram: {e}")))?;
        Ok(HdrHistogram { text, value_count: counts.0.len() })
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
        let text = serde_json::to_string(&HdrHistogram::from_values(&[&[0.001, 0.002]], 1e9).unwrap()).unwrap();
        assert!(text.starts_with("\"HISTFAAA"), "{text}");
        for wrong in ["\"HISTFAAA\"", "\"nothing\"", "\"\"", "7"] {
            assert!(serde_json::from_str::<HdrHistogram>(wrong).is_err(), "{wrong}");
        }
    }

    /// The text form of a head and counts.
    fn text_of(counts_len: u32, digits: u32, counts: &[u8]) -> String {
        let mut plain = Vec::new();
        for word in [0x1c84_9313_u32, counts_len, 0, digits] {
            plain.extend(word.to_be_bytes());
        }
        plain.extend(1_u64.to_be_bytes());
        plain.extend((u64::MAX >> 1).to_be_bytes());
        plain.extend(1.0_f64.to_be_bytes());
        plain.extend(counts);
        let mut deflated = flate2::read::ZlibEncoder::new(plain.as_slice(), flate2::Compression::best());
        let mut bytes = vec![0x1c, 0x84, 0x93, 0x14];
        let mut body = Vec::new();
        deflated.read_to_end(&mut body).unwrap();
        bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        STANDARD.encode(bytes)
    }

    /// Their text is short, and decoding it would allocate gigabytes.
    #[test]
    fn a_crafted_histogram_is_refused_before_it_is_allocated() {
        assert_eq!(decode_text(&text_of(1, 3, &[2])).unwrap().0.len(), 1);
        for (counts_len, digits, counts) in [
            (u32::MAX, 3, vec![2]),
            (4 << 20, 3, vec![0; 4 << 20]),
            (64 << 20, 3, vec![2; 64 << 20]),
            (1, 5, vec![2]),
            (0, 3, vec![2]),
        ] {
            assert!(decode_text(&text_of(counts_len, digits, &counts)).is_err(), "{counts_len} {digits}");
        }
        assert!(decode_text("HISTFAAA").is_err() && decode_text("").is_err());
    }

    /// A thousand histograms of half a megabyte each need no more memory than their text.
    #[test]
    fn a_histogram_is_not_decoded_while_it_is_kept() {
        let text = text_of(3, 3, &[0xff, 0x3f, 2]);
        let many = serde_json::to_string(&vec![&text; 1000]).unwrap();
        let read: Vec<HdrHistogram> = serde_json::from_str(&many).unwrap();
        assert_eq!((read.len(), size_of::<HdrHistogram>()), (1000, 32));
        assert!(read.iter().all(|histogram| histogram.value_count() == 1 && histogram.text == text));
    }

    proptest! {
        #[test]
        fn values_at_places_are_within_the_error(
            mut values in prop::collection::vec(prop_oneof![0.0..10.0, 0.0..1e-3, 0.0..1e4], 1..300), share in 0.0..=1.0
        ) {
            let histogram = ValueCounts::merge_all([&HdrHistogram::from_values(&[&values], 1e9).unwrap()]).unwrap();
            values.sort_by(f64::total_cmp);
            let place = share * (values.len() - 1) as f64;
            let (got, want) = (histogram.value_at(place) / 1e9, numpy::value_at(&values, place));
            prop_assert!((got - want).abs() <= want * MAX_RELATIVE_ERROR + 1e-9, "{got} for {want}");
        }

        #[test]
        fn merging_and_the_text_form_keep_all_values(
            a in prop::collection::vec(0.0..1e3, 0..100), b in prop::collection::vec(0.0..1e6, 0..100)
        ) {
            let histogram = |values: &[f64]| HdrHistogram::from_values(&[values], 1e3).unwrap();
            let both = ValueCounts::merge_all([&histogram(&a), &histogram(&b)]).unwrap();
            let text = both.encode().unwrap();
            prop_assert_eq!(text.value_count(), (a.len() + b.len()) as u64);
            prop_assert!(both == ValueCounts::merge_all([&histogram(&[a, b].concat())]).unwrap());
            let read: HdrHistogram = serde_json::from_str(&serde_json::to_string(&text).unwrap()).unwrap();
            prop_assert!(ValueCounts::merge_all([&read]).unwrap() == both && read == text);
        }
    }
}
