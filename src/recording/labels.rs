//! The tags and turns of requests, by which they can be grouped.

use std::{collections::HashMap, fmt};

use serde_json::Value;

use crate::record::Object;

/// Groups that are told apart, so that a tag which is another one for each request cannot fill the memory.
const MOST: usize = 1000;

/// The group of those that have no such tag or turn, and of those beyond [`MOST`].
pub const NONE: &str = "(none)";
const OTHERS: &str = "(others)";

/// What requests are grouped by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupBy {
    /// The value of a tag.
    Tag(String),
    /// The turn of a conversation.
    Turn,
    /// The prompt length, in buckets from each power of two to the next.
    InputLen,
    /// The generated tokens likewise; of a failure what was asked for.
    OutputLen,
}

impl GroupBy {
    /// Reads `turn`, `input_len`, `output_len` or `tag:NAME`.
    pub fn parse(text: &str) -> Result<GroupBy, String> {
        match text.trim() {
            "turn" => Ok(GroupBy::Turn),
            "input_len" => Ok(GroupBy::InputLen),
            "output_len" => Ok(GroupBy::OutputLen),
            text => match text.split_once(':') {
                Some(("tag", name)) if !name.is_empty() => Ok(GroupBy::Tag(name.to_owned())),
                _ => Err(format!("`{text}` is nothing to group by: write tag:NAME, turn, input_len or output_len")),
            },
        }
    }

    /// Its text of a request whose line says this; `None`: it is not in the line, or not text.
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

/// The labels of all requests, for what their rows do not have.
#[derive(Debug, Default)]
pub struct Labels {
    by: Vec<GroupBy>,
    names: Vec<String>,
    places: HashMap<String, u32>,
    /// For each request one of each `by` in turn: where its name is.
    of: Vec<u32>,
}

impl Labels {
    /// For these, as far as they need labels.
    #[must_use]
    pub fn new(by: &[GroupBy]) -> Self {
        let by = by.iter().filter(|by| matches!(by, GroupBy::Tag(_) | GroupBy::Turn)).cloned().collect();
        Labels { by, ..Labels::default() }
    }

    /// Whether there is anything to note.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        !self.by.is_empty()
    }

    /// Notes the labels of the next request.
    pub fn push(&mut self, tags: &Object, turn: Option<u32>) {
        for i in 0..self.by.len() {
            let label = self.by[i].label_for(tags, turn).unwrap_or_default();
            let label = if self.names.len() < MOST || self.places.contains_key(&label) { label } else { OTHERS.into() };
            let next = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
            let place = *self.places.entry(label.clone()).or_insert(next);
            if place == next {
                self.names.push(label);
            }
            self.of.push(place);
        }
    }

    /// Gives all labels away, and is ready for the next request.
    pub fn take_labels(&mut self) -> Self {
        let by = self.by.clone();
        std::mem::replace(self, Labels { by, ..Labels::default() })
    }

    /// The labels of the request at a place.
    pub fn request_label(&self, by: &GroupBy, request: usize) -> Option<&str> {
        let at = self.by.iter().position(|known| known == by)?;
        let place = self.of.get(request * self.by.len() + at)?;
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
    fn a_tag_of_its_own_for_each_request_does_not_fill_the_memory() {
        let mut labels = Labels::new(&[GroupBy::Tag("id".into()), GroupBy::InputLen]);
        for id in 0..2 * MOST {
            labels.push(&Object::from_iter([("id".to_owned(), id.into())]), None);
        }
        labels.push(&Object::new(), None);
        assert_eq!(labels.names.len(), MOST + 1);
        assert_eq!(labels.request_label(&GroupBy::Tag("id".into()), 7), Some("7"));
        assert_eq!(labels.request_label(&GroupBy::Tag("id".into()), 2 * MOST - 1), Some(OTHERS));
        assert_eq!(labels.request_label(&GroupBy::InputLen, 7), None);
    }
}
