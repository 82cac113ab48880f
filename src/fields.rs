//! Counts and names as others write them: 128 is also `128.0` and `"128"`, and an id may be a number.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

/// A number of tokens in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WholeCount(pub u32);

impl WholeCount {
    /// Parses a whole number, with or without a decimal point.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        text.parse().ok().or_else(|| whole_number(text.parse().ok()?)).map(WholeCount)
    }
}

/// The whole number that a double is; `None` if it is not one of 0 or more that fits.
#[must_use]
pub fn whole_number(number: f64) -> Option<u32> {
    let whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked above
    whole.then_some(number as u32)
}

impl<'de> Deserialize<'de> for WholeCount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct CountVisitor;
        impl Visitor<'_> for CountVisitor {
            type Value = WholeCount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of 0 or more, at most 4294967295")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<WholeCount, E> {
                let count =
                    u32::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))?;
                Ok(WholeCount(count))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<WholeCount, E> {
                let count =
                    u32::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))?;
                Ok(WholeCount(count))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<WholeCount, E> {
                whole_number(number)
                    .map(WholeCount)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<WholeCount, E> {
                WholeCount::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_any(CountVisitor)
    }
}

/// Reads a count that nothing depends on: all other values are `None`.
pub fn deserialize_count_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(value.as_u64().and_then(|count| u32::try_from(count).ok()))
}

/// Reads a count that may be null, for serde.
///
/// # Errors
/// It is not a whole number.
pub fn deserialize_count<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    Ok(Option::<WholeCount>::deserialize(from)?.map(|count| count.0))
}

/// Reads a name that may be null or a number, for serde.
///
/// # Errors
/// It is neither.
pub fn deserialize_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    struct Name(String);
    impl<'de> Deserialize<'de> for Name {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct NameVisitor;
            impl Visitor<'_> for NameVisitor {
                type Value = Name;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a name: text or a number")
                }
                fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                    Ok(Name(text.to_owned()))
                }
                fn visit_u64<E>(self, number: u64) -> Result<Name, E> {
                    Ok(Name(number.to_string()))
                }
                fn visit_i64<E>(self, number: i64) -> Result<Name, E> {
                    Ok(Name(number.to_string()))
                }
                fn visit_f64<E>(self, number: f64) -> Result<Name, E> {
                    Ok(Name(number.to_string()))
                }
            }
            from.deserialize_any(NameVisitor)
        }
    }
    Ok(Option::<Name>::deserialize(from)?.map(|name| name.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_a_whole_number_however_it_is_written() {
        let read = |json: &str| serde_json::from_str::<WholeCount>(json).map(|count| count.0).ok();
        for same in ["128", "128.0", "\"128\"", "\" 128.0 \"", "1.28e2"] {
            assert_eq!(read(same), Some(128), "{same}");
        }
        for wrong in ["128.5", "-1", "\"many\"", "\"\"", "true", "[128]", "5000000000", "1e30"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(read("4294967295.0"), Some(u32::MAX));
    }

    #[test]
    fn a_name_may_be_a_number() {
        let read = |json: &str| deserialize_name(&mut serde_json::Deserializer::from_str(json)).ok();
        assert_eq!(read("7"), Some(Some("7".into())));
        assert_eq!(read("7.5"), Some(Some("7.5".into())));
        assert_eq!(read("\"a\""), Some(Some("a".into())));
        assert_eq!(read("null"), Some(None));
        assert_eq!(read("[7]"), None);
    }
}
