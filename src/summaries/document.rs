//! The parts of a JSON document that tables name. All else is skipped while it is read, since a file may hold every request of a run.

use std::{collections::BTreeMap, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::record::Object;

/// What separates the keys of a path. Keys may have dots, as in `p99.9`.
pub const SEPARATOR: char = '/';

/// The keys to keep of an object, and of the objects below them.
#[derive(Debug, Default)]
pub struct WantedKeys {
    below: BTreeMap<String, WantedKeys>,
}

impl WantedKeys {
    /// Adds the path of a value. After a list, the path goes on in each element.
    pub fn add(&mut self, path: &str) {
        let mut node = self;
        for key in path.split(SEPARATOR) {
            node = node.below.entry(key.to_owned()).or_default();
        }
    }

    /// Reads an object: the values at the paths, and all single values at its top.
    ///
    /// # Errors
    /// It is not JSON, or not an object.
    pub fn read(&self, json: &[u8]) -> serde_json::Result<Value> {
        let mut from = serde_json::Deserializer::from_slice(json);
        let document = PartSeed { wanted: Some(self), is_top: true }.deserialize(&mut from)?;
        from.end()?;
        document.filter(Value::is_object).ok_or_else(|| serde_json::Error::custom("not a JSON object"))
    }
}

/// The value at a path; of a list on the way, in its first element.
#[must_use]
pub fn value_at<'v>(document: &'v Value, path: &str) -> Option<&'v Value> {
    path.split(SEPARATOR).try_fold(document, |value, key| match value {
        Value::Array(list) => list.first()?.get(key),
        other => other.get(key),
    })
}

/// Reads a value: a single one whole, and of an object or a list only what is wanted.
#[derive(Debug, Clone, Copy)]
pub struct PartSeed<'w> {
    wanted: Option<&'w WantedKeys>,
    is_top: bool,
}

impl PartSeed<'_> {
    /// Reads a single value; objects and lists are skipped and become `None`.
    #[must_use]
    pub fn single() -> Self {
        PartSeed { wanted: None, is_top: false }
    }
}

impl<'de> DeserializeSeed<'de> for PartSeed<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Option<Value>, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PartSeed<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Option<Value>, E> {
        Ok(Some(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Option<Value>, E> {
        Ok(Some(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Option<Value>, A::Error> {
        let Some(wanted) = self.wanted.filter(|wanted| !wanted.below.is_empty()) else {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(self.wanted.map(|_| Value::Array(Vec::new())));
        };
        let mut kept = Vec::new();
        while let Some(part) = list.next_element_seed(PartSeed { wanted: Some(wanted), is_top: false })? {
            kept.extend(part);
        }
        Ok(Some(Value::Array(kept)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Value>, A::Error> {
        let Some(wanted) = self.wanted else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(None);
        };
        let mut kept = Object::new();
        while let Some(key) = map.next_key::<String>()? {
            let below = wanted.below.get(&key);
            if below.is_none() && !self.is_top {
                map.next_value::<IgnoredAny>()?;
            } else if let Some(value) = map.next_value_seed(PartSeed { wanted: below, is_top: false })? {
                kept.insert(key, value);
            }
        }
        Ok(Some(Value::Object(kept)))
    }
}
