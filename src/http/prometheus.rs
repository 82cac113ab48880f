//! Parses `/metrics` pages: samples in Prometheus' text exposition format, version 0.0.4, and their names and labels.

/// One sample of a page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'a> {
    /// Its name with its labels, as the server wrote them: `vllm:prompt_tokens_total{engine="0"}`.
    pub key: &'a str,
    /// Its value; may be infinite or NaN.
    pub value: f64,
}

/// The samples of a page, in its order. Comments and lines that are not samples are skipped: a later version of the format must
/// not hide what can be read today.
pub fn parse_samples(page: &str) -> impl Iterator<Item = Sample<'_>> {
    page.lines().filter_map(parse_sample)
}

/// Parses `name{label="value"} 1.5`, with or without a timestamp at the end.
fn parse_sample(line: &str) -> Option<Sample<'_>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let name = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
    // White space is allowed between the name and its labels.
    let labels = line[name..].trim_start();
    let key = if labels.starts_with('{') {
        let start = line.len() - labels.len();
        start + labels_end(labels)?
    } else {
        name
    };
    let value = line[key..].split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { key: &line[..key], value })
}

/// The offset after the closing brace of `labels`, which begin with the opening brace.
fn labels_end(labels: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in labels.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The name of a sample, without its labels.
#[must_use]
pub fn sample_name(key: &str) -> &str {
    key.split('{').next().unwrap_or_default().trim_end()
}

/// The value of a label of a sample.
#[must_use]
pub fn label_value(key: &str, wanted: &str) -> Option<String> {
    let (_, mut rest) = key.split_once('{')?;
    loop {
        let (name, value) = rest.split_once('"')?;
        let mut text = String::new();
        let mut chars = value.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => match chars.next()? {
                    'n' => text.push('\n'),
                    other => text.push(other),
                },
                other => text.push(other),
            }
        }
        if name.trim_matches([',', ' ', '=']) == wanted {
            return Some(text);
        }
        rest = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn samples_are_read_as_prometheus_writes_them() {
        let page = "# HELP a_total Things \\n done.\n# TYPE a_total counter\n\na_total 3\n  b{x=\"1\"} +Inf \r\n\
            c{x=\"a b\",y=\"}\\\"\\\\\",} 1.5e-3 1700000000000\nd {x=\"1\"}\tNaN\ne{} -2\nf{x=\"open} 1\ng\nh one\n";
        let got: Vec<(&str, f64)> = parse_samples(page).map(|s| (s.key, s.value)).collect();
        assert_eq!(got[..2], [("a_total", 3.0), ("b{x=\"1\"}", f64::INFINITY)]);
        assert_eq!(got[2], ("c{x=\"a b\",y=\"}\\\"\\\\\",}", 1.5e-3));
        assert!(got[3].0 == "d {x=\"1\"}" && got[3].1.is_nan());
        assert_eq!(got[4..], [("e{}", -2.0)]);
    }

    #[test]
    fn labels_are_found_with_any_text_in_them() {
        let key = r#"n:a{x="1,y=\"2\"",  y="a\\b\nc}" , z=""}"#;
        assert_eq!(sample_name(key), "n:a");
        for (wanted, value) in [("x", Some("1,y=\"2\"")), ("y", Some("a\\b\nc}")), ("z", Some("")), ("w", None)] {
            assert_eq!(label_value(key, wanted).as_deref(), value, "{wanted}");
        }
        assert_eq!((sample_name("plain"), label_value("plain", "x")), ("plain", None));
    }

    #[test]
    fn the_page_of_a_real_vllm_is_read() {
        let page = include_str!("../../tests/data/metrics-vllm.txt");
        let lines = page.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(parse_samples(page).count(), lines);
        let tokens = parse_samples(page).find(|s| sample_name(s.key) == "vllm:prompt_tokens_total").unwrap();
        assert_eq!((tokens.value, label_value(tokens.key, "model_name").as_deref()), (123_609.0, Some("tiny")));
        let config = parse_samples(page).find(|s| sample_name(s.key) == "vllm:cache_config_info").unwrap();
        assert_eq!(label_value(config.key, "block_size").as_deref(), Some("128"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), spiced in "[a{}\"\\\\,= \n1#é]{0,60}") {
            for text in [&text, &spiced] {
                for key in parse_samples(text).map(|sample| sample.key).chain([text.as_str()]) {
                    prop_assert!(sample_name(key).len() <= key.len());
                    prop_assert!(label_value(key, "a").is_none_or(|value| value.len() <= key.len()));
                }
            }
        }

        #[test]
        fn what_is_escaped_comes_back(value in "[ -~\n]{0,20}", number in any::<f64>()) {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let line = format!("m{{a=\"x\",b=\"{escaped}\"}} {number:?}");
            let got: Vec<_> = parse_samples(&line).collect();
            prop_assert_eq!(got.len(), 1);
            prop_assert_eq!(label_value(got[0].key, "b"), Some(value));
            prop_assert!(got[0].value.to_bits() == number.to_bits() || number.is_nan());
        }
    }
}
