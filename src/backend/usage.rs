//! The token counts that servers report, under the names of all APIs.

use serde::de::{IgnoredAny, MapAccess};

use super::{
    Usage,
    lenient::{AnyValue, Count, Text},
};

/// The counts of a `usage` object, or of an object that holds one, under the names of all APIs. Anything but an object has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageFields {
    /// `prompt_tokens`, `input_tokens`.
    pub prompt: Option<u32>,
    /// `completion_tokens`, `output_tokens`.
    pub completion: Option<u32>,
    /// `total_tokens`.
    pub total: Option<u32>,
    /// `cached_tokens`, in details or next to the others, and the names of other vendors.
    pub cached: Option<u32>,
    /// `cache_creation_input_tokens`.
    pub cache_written: Option<u32>,
    /// `reasoning_tokens`, in details or next to the others.
    pub reasoning: Option<u32>,
}

impl UsageFields {
    fn field_mut(&mut self, name: &str) -> Option<&mut Option<u32>> {
        Some(match name {
            "prompt_tokens" | "input_tokens" | "num_input_tokens" => &mut self.prompt,
            "completion_tokens" | "output_tokens" | "num_output_tokens" | "predicted_n" => &mut self.completion,
            "total_tokens" => &mut self.total,
            "cached_tokens" | "prompt_cache_hit_tokens" | "cache_read_input_tokens" | "cache_n" => &mut self.cached,
            "cache_creation_input_tokens" => &mut self.cache_written,
            "reasoning_tokens" => &mut self.reasoning,
            _ => return None,
        })
    }

    fn or_others(self, others: UsageFields) -> Self {
        UsageFields {
            prompt: known_or(self.prompt, others.prompt),
            completion: known_or(self.completion, others.completion),
            total: known_or(self.total, others.total),
            cached: known_or(self.cached, others.cached),
            cache_written: known_or(self.cache_written, others.cache_written),
            reasoning: known_or(self.reasoning, others.reasoning),
        }
    }
}

/// A number that is known and not zero, else the other one.
#[must_use]
pub fn known_or(count: Option<u32>, other: Option<u32>) -> Option<u32> {
    count.filter(|n| *n > 0).or(other).or(count)
}

/// In OpenAI's APIs the prompt includes what was cached.
impl From<UsageFields> for Usage {
    fn from(fields: UsageFields) -> Self {
        Usage {
            prompt_tokens: fields.prompt,
            completion_tokens: fields.completion,
            total_tokens: fields.total,
            cached_tokens: fields.cached,
            reasoning_tokens: fields.reasoning,
        }
    }
}

impl<'de> AnyValue<'de> for UsageFields {
    fn from_object<A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut fields = UsageFields::default();
        while let Some(name) = map.next_key::<Text>()? {
            if let Some(field) = fields.field_mut(name.as_str()) {
                let Count(count) = map.next_value()?;
                // Some servers fill only one of two names.
                *field = known_or(count, *field);
            } else if name.as_str().ends_with("_tokens_details") {
                let details: UsageFields = map.next_value()?;
                fields.cached = known_or(fields.cached, details.cached);
                fields.reasoning = known_or(fields.reasoning, details.reasoning);
            } else if name.as_str() == "usage" {
                fields = fields.or_others(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(json: &str) -> Usage {
        serde_json::from_str::<UsageFields>(json).unwrap().into()
    }

    #[test]
    fn counts_have_many_names() {
        let openai = usage(
            r#"{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14,"prompt_tokens_details":{"cached_tokens":4},
                "completion_tokens_details":{"reasoning_tokens":3}}"#,
        );
        let want = Usage {
            prompt_tokens: Some(9),
            completion_tokens: Some(5),
            total_tokens: Some(14),
            cached_tokens: Some(4),
            reasoning_tokens: Some(3),
        };
        assert_eq!(openai, want);
        let responses = r#"{"input_tokens":9,"output_tokens":5,"total_tokens":14,"input_tokens_details":{"cached_tokens":4},
            "output_tokens_details":{"reasoning_tokens":3}}"#;
        assert_eq!(usage(responses), want);
        let flat = r#"{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14,"reasoning_tokens":3,"CACHED":4}"#;
        for name in ["cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"] {
            assert_eq!(usage(&flat.replace("CACHED", name)), want, "{name}");
        }
        assert_eq!(usage(r#"{"prompt_tokens":9,"input_tokens":0}"#).prompt_tokens, Some(9), "either name");
        assert_eq!(usage(r#"{"input_tokens":0,"prompt_tokens":9}"#).prompt_tokens, Some(9));
        assert_eq!(usage(r#"{"prompt_tokens_details":{"cached_tokens":0}}"#).cached_tokens, Some(0), "a miss");
    }

    #[test]
    fn what_is_not_a_count_is_unknown() {
        for (value, want) in [
            ("2", Some(2)),
            ("2.0", Some(2)),
            ("\"2\"", Some(2)),
            ("0", Some(0)),
            ("-1", None),
            ("2.5", None),
            ("1e300", None),
            ("5000000000", None),
            ("\"\"", None),
            ("null", None),
            ("false", None),
            ("[2]", None),
            ("{\"a\":[2]}", None),
        ] {
            assert_eq!(usage(&format!(r#"{{"completion_tokens":{value},"x":[]}}"#)).completion_tokens, want, "{value}");
        }
        for value in ["null", "false", "\"\"", "[]", "[{}]", "0", "-1", "1.5", "{}", r#"{"prompt_tokens_details":[]}"#]
        {
            assert_eq!(usage(value), Usage::default(), "{value}");
        }
        let twice = r#"{"completion_tokens":1,"completion_tokens":2}"#;
        assert_eq!(usage(twice).completion_tokens, Some(2), "the last one");
    }
}
