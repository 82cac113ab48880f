//! The keys that `vb-fire` and `vb-gen` add to a request's body, and how to leave them out for a server that refuses them.

/// Keys that are added although a server may not know them, with what else leaves them out than `--extra-body`.
const ADDED_KEYS: [(&str, &str); 13] = [
    ("ignore_eos", ", and so does vb-gen --no-ignore-eos"),
    ("stream_options", ""),
    ("store", ""),
    ("max_completion_tokens", "; `max_tokens` is the older name of the limit"),
    ("max_output_tokens", ""),
    ("truncate", ""),
    ("details", ""),
    ("bad_words", ""),
    ("stop_words", ""),
    ("exclude_input_in_output", ""),
    ("min_tokens", ""),
    ("stream_include_usage", ""),
    ("stream_continuous_usage_stats", ""),
];

/// Words of a message about a key that the server does not know, in lower case.
const REFUSALS: [&str; 16] = [
    "unexpected",
    "unknown",
    "unrecognized",
    "unrecognised",
    "unsupported",
    "not support",
    "not permitted",
    "not allowed",
    "not recognized",
    "not expected",
    "not valid",
    "extra",
    "additional propert",
    "invalid",
    "no such",
    "cannot be",
];

/// How to leave out the key that the message of a refused request names; `None`: it names none that was added.
#[must_use]
pub fn added_key_cure(message: &str) -> Option<String> {
    let lower = message.to_lowercase();
    if !REFUSALS.iter().any(|word| lower.contains(word)) {
        return None;
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut words = message.split(|c| !is_part(c));
    let (key, more) = words.find_map(|word| ADDED_KEYS.iter().find(|(key, _)| *key == word))?;
    Some(format!("--extra-body '{{\"{key}\": null}}' leaves `{key}` out{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_a_server_refuses_can_be_left_out() {
        for (message, key) in [
            ("HTTP 422 Unprocessable Entity: Unexpected fields in the request: {'ignore_eos'}", Some("ignore_eos")),
            ("HTTP 400 Bad Request: Unknown parameter: 'stream_options'.", Some("stream_options")),
            ("HTTP 422: body.store: Extra inputs are not permitted", Some("store")),
            (
                "Unsupported parameter: 'max_completion_tokens' is not supported with this model. Use 'max_tokens' instead.",
                Some("max_completion_tokens"),
            ),
            ("'max_completion_tokens' is too large: 4096. This model's maximum context length is 2048 tokens", None),
            ("unexpected keyword argument 'restore'", None),
            ("Unknown model: m", None),
        ] {
            let cure = added_key_cure(message);
            assert_eq!(cure.is_some(), key.is_some(), "{message}: {cure:?}");
            if let (Some(cure), Some(key)) = (cure, key) {
                assert!(cure.contains(&format!("--extra-body '{{\"{key}\": null}}'")), "{cure}");
            }
        }
    }
}
