//! Finds the elements of a long JSON list: where each begins and ends, without parsing any of it.

use std::io::{self, BufRead};

use super::span::Span;

/// The elements found in a file that should be a list of objects.
#[derive(Debug, Default)]
pub struct ListScan {
    /// The complete elements, in their order.
    pub spans: Vec<Span>,
    /// Why the list does not end properly; `None` if it does.
    pub broken: Option<ListError>,
}

/// Where and why a list is broken.
#[derive(Debug, PartialEq, Eq)]
pub struct ListError {
    /// Offset of the byte, counted from 0.
    pub byte: u64,
    pub what: &'static str,
}

/// The state of the scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScanState {
    Before,
    /// In the list, with the number of open brackets within the element; 0 is between elements.
    List {
        depth: u32,
    },
    /// In a string of an element at this depth.
    Text {
        depth: u32,
        escaped: bool,
    },
    After,
}

/// Finds the elements. Only brackets and strings are examined; each element is parsed when it is needed.
pub fn scan_list(mut input: impl BufRead) -> io::Result<ListScan> {
    let mut scan = ListScan::default();
    let mut state = ScanState::Before;
    let (mut offset, mut element) = (0_u64, 0_u64);
    let broken = 'scan: loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            break error_at_end(state);
        }
        for &byte in bytes {
            let before = state;
            state = match next_state(state, byte) {
                Ok(next) => next,
                Err(what) => break 'scan Some(what),
            };
            match (before, state) {
                (ScanState::List { depth: 0 }, ScanState::List { depth: 1 }) => element = offset,
                (ScanState::List { depth: 1 }, ScanState::List { depth: 0 }) => {
                    scan.spans.push(Span { offset: element, len: offset + 1 - element, line: 0 });
                }
                _ => {}
            }
            offset += 1;
        }
        let n = bytes.len();
        input.consume(n);
    };
    scan.broken = broken.map(|what| ListError { byte: offset, what });
    Ok(scan)
}

fn next_state(state: ScanState, byte: u8) -> Result<ScanState, &'static str> {
    Ok(match (state, byte) {
        (ScanState::Text { depth, escaped: false }, b'"') => ScanState::List { depth },
        (ScanState::Text { depth, escaped }, _) => ScanState::Text { depth, escaped: !escaped && byte == b'\\' },
        // White space, a byte order mark, and the comma between two elements.
        (_, b' ' | b'\t' | b'\r' | b'\n')
        | (ScanState::Before, 0xEF | 0xBB | 0xBF)
        | (ScanState::List { depth: 0 }, b',') => state,
        (ScanState::Before, b'[') => ScanState::List { depth: 0 },
        (ScanState::Before, _) => return Err("a list `[ … ]` of objects should begin here"),
        (ScanState::After, _) => return Err("the list has ended, but the file goes on"),
        (ScanState::List { depth: 0 }, b'{') => ScanState::List { depth: 1 },
        (ScanState::List { depth: 0 }, b']') => ScanState::After,
        (ScanState::List { depth: 0 }, _) => return Err("an object `{ … }` should begin here"),
        (ScanState::List { depth }, b'{' | b'[') => ScanState::List { depth: depth + 1 },
        (ScanState::List { depth }, b'}' | b']') => ScanState::List { depth: depth - 1 },
        (ScanState::List { depth }, b'"') => ScanState::Text { depth, escaped: false },
        (ScanState::List { .. }, _) => state,
    })
}

fn error_at_end(state: ScanState) -> Option<&'static str> {
    match state {
        ScanState::Before => Some("the file is empty"),
        ScanState::List { depth: 0 } => Some("the file ends before its list does"),
        ScanState::List { .. } => Some("the file ends in the middle of an object"),
        ScanState::Text { .. } => Some("the file ends in the middle of a string"),
        ScanState::After => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn elements(text: &str) -> Vec<&str> {
        let scan = scan_list(text.as_bytes()).unwrap();
        let part = |s: &Span| {
            let from = usize::try_from(s.offset).unwrap();
            &text[from..from + usize::try_from(s.len).unwrap()]
        };
        scan.spans.iter().map(part).collect()
    }

    #[test]
    fn brackets_and_quotes_in_strings_do_not_count() {
        let text = r#" [ {"a":"}]\"\\"}, {"b":[{"c":1}]} ,{}]
        "#;
        assert_eq!(elements(text), [r#"{"a":"}]\"\\"}"#, r#"{"b":[{"c":1}]}"#, "{}"]);
        assert_eq!(scan_list(text.as_bytes()).unwrap().broken, None);
        assert_eq!(elements("\u{feff}[{}]"), ["{}"]);
    }

    #[test]
    fn a_cut_is_an_error_with_its_byte() {
        for (text, byte, what) in [
            ("", 0, "the file is empty"),
            ("{}", 0, "a list `[ … ]` of objects should begin here"),
            ("[{},3]", 4, "an object `{ … }` should begin here"),
            (r#"[{},{"a":"b"#, 11, "the file ends in the middle of a string"),
            ("[{},{", 5, "the file ends in the middle of an object"),
            ("[{}", 3, "the file ends before its list does"),
            ("[{}]x", 4, "the list has ended, but the file goes on"),
        ] {
            assert_eq!(scan_list(text.as_bytes()).unwrap().broken, Some(ListError { byte, what }), "{text}");
        }
        assert_eq!(elements(r#"[{},{"a":"b"#), ["{}"]);
    }

    proptest! {
        #[test]
        fn every_list_of_objects_comes_apart_where_serde_says(
            texts in proptest::collection::vec(("[\\\\\"\\[\\]{},a\n]{0,12}", 0..3_usize), 0..6), pretty in any::<bool>(),
        ) {
            let list: Vec<Value> = texts.iter().map(|(t, n)| json!({"v": vec![t; *n], (t.clone()): {"x": t}})).collect();
            let text = if pretty { serde_json::to_string_pretty(&list) } else { serde_json::to_string(&list) }.unwrap();
            let got: Vec<Value> = elements(&text).iter().map(|e| serde_json::from_str(e).unwrap()).collect();
            prop_assert_eq!(got, list);
        }

        #[test]
        fn no_bytes_make_it_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            scan_list(&bytes[..]).unwrap();
        }
    }
}
