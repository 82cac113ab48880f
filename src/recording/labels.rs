//! The tags and turns of requests, which they can be grouped by.

use std::{collections::HashMap, fmt};

use serde_json::Value;

use crate::record::Object;

/// The most groups per kind, so that a tag with a different value for each request cannot fill the memory.
const MAX_GROUPS: usize = 1000;

/// The group of requests without the tag or turn.
pub const NONE: &str = "(none)";
/// The group of requests beyond [`MAX_GROUPS`].
const OTHERS: &str = "(others)";

/// A property that requests are grouped by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupBy {
    /// The value of a tag.
    Tag(String),
    /// The turn of a conversation.
    Turn,
    /// The prompt length, in buckets from each power of two to the next.
    InputLen,
    /// The generated tokens in the same buckets; for a failure, the requested tokens.
    OutputLen,
}

impl GroupBy {
    /// Parses `turn`, `input_len`, `output_len` or `tag:NAME`.
    pub fn parse(text: &str) -> Result<GroupBy, String> {
        match text.trim() {
            "turn" => Ok(GroupBy::Turn),
            "input_len" => Ok(GroupBy::InputLen),
            "output_len" => Ok(GroupBy::OutputLen),
            text => match text.split_once(':') {
                Some(("tag", name)) if !name.is_empty() => Ok(GroupBy::Tag(name.to_owned())),
                _ => {
                    Err(format!("`{text}` is not a property to group by: use tag:NAME, turn, input_len or output_len"))
                }
            },
        }
    }

    /// The label of a request with these tags and this turn; `None` for lengths, which its row has.
    fn label_for(&self, tags: &Object, turn: Option<u32>) -> Option<String> {
        match self {
            GroupBy::Tag(name) => Some(tags.get(name).map_or_else(|| NONE.to_owned(), value_as_text)),
            GroupBy::Turn => Some(turn.map_or_else(|| NONE.to_owned(), |turn| turn.to_string())),
            GroupBy::InputLen | GroupBy::OutputLen => None,
        }
    }
}

impl fmt::Display for GroupBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupBy::Tag(name) => write!(f, "tag:{name}"),
            GroupBy::Turn => f.write_str("turn"),
            GroupBy::InputLen => f.write_str("input_len"),
            GroupBy::OutputLen => f.write_str("output_len"),
        }
    }
}

fn value_as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The labels of all requests, for properties that their rows do not have.
#[derive(Debug, Default)]
pub struct Labels {
    by: Vec<GroupBy>,
    names: Vec<String>,
    places: HashMap<String, u32>,
    /// For each request, the index of its label in `names` for each of `by`.
    indices: Vec<u32>,
}

impl Labels {
    /// Labels for the properties that need them.
    #[must_use]
    pub fn new(by: &[GroupBy]) -> Self {
        let by = by.iter().filter(|by| matches!(by, GroupBy::Tag(_) | GroupBy::Turn)).cloned().collect();
        Labels { by, ..Labels::default() }
    }

    /// Whether there are labels to collect.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        !self.by.is_empty()
    }

    /// Adds the labels of the next request.
    pub fn push(&mut self, tags: &Object, turn: Option<u32>) {
        for i in 0..self.by.len() {
            let label = self.by[i].label_for(tags, turn).unwrap_or_default();
            let label =
                if self.names.len() < MAX_GROUPS || self.places.contains_key(&label) { label } else { OTHERS.into() };
            let next = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
            let place = *self.places.entry(label.clone()).or_insert(next);
            if place == next {
                self.names.push(label);
            }
            self.indices.push(place);
        }
    }

    /// Moves out all labels, and is ready for the next request.
    #[must_use]
    pub fn take_labels(&mut self) -> Self {
        let by = self.by.clone();
        std::mem::replace(self, Labels { by, ..Labels::default() })
    }

    /// The label of the request with this index.
    pub fn request_label(&self, by: &GroupBy, request: usize) -> Option<&str> {
        let at = self.by.iter().position(|known| known == by)?;
        let place = self.indices.get(request * self.by.len() + at)?;
        self.names.get(*place as usize).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_names() {
        for text in ["tag:tenant", "turn", "input_len", "output_len"] {
            assert_eq!(GroupBy::parse(text).unwrap().to_string(), text);
        }
        for text in ["tenant", "tag:", "tags:a", ""] {
            assert!(GroupBy::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_different_tag_for_each_request_does_not_fill_the_memory() {
        let mut labels = Labels::new(&[GroupBy::Tag("id".into()), GroupBy::InputLen]);
        for id in 0..2 * MAX_GROUPS {
            labels.push(&Object::from_iter([("id".to_owned(), id.into())]), None);
        }
        labels.push(&Object::new(), None);
        assert_eq!(labels.names.len(), MAX_GROUPS + 1);
        assert_eq!(labels.request_label(&GroupBy::Tag("id".into()), 7), Some("7"));
        assert_eq!(labels.request_label(&GroupBy::Tag("id".into()), 2 * MAX_GROUPS - 1), Some(OTHERS));
        assert_eq!(labels.request_label(&GroupBy::InputLen, 7), None);
    }
}
