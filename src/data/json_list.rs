//! Finds the rows of a JSON file: where each begins and ends, without parsing any of it.

use std::io::{self, BufRead};

use super::span::Span;

/// Keys of an object that is one row, although it has a list.
const ROW_KEYS: [&str; 6] = ["conversations", "conversation", "messages", "prompt", "content", "turns"];

/// Keys of an object whose list holds the rows.
const LIST_KEYS: [&str; 12] = [
    "data",
    "rows",
    "train",
    "test",
    "validation",
    "examples",
    "items",
    "samples",
    "records",
    "dataset",
    "requests",
    "prompts",
];

/// The rows found in a file: the values in it, or the elements of its only list.
#[derive(Debug, Default)]
pub struct ListScan {
    /// The complete rows, in their order.
    pub spans: Vec<Span>,
    /// Why the file does not end properly; `None` if it does.
    pub broken: Option<ListError>,
}

/// Where and why a file is broken.
#[derive(Debug, PartialEq, Eq)]
pub struct ListError {
    /// Offset of the byte, counted from 0.
    pub byte: u64,
    pub what: &'static str,
}

/// Finds the rows. Only brackets and strings are examined; each row is parsed when it is needed.
pub fn scan_list(mut input: impl BufRead) -> io::Result<ListScan> {
    let mut scanner = RowScanner::default();
    let broken = 'scan: loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            break scanner.finish();
        }
        for &byte in bytes {
            if let Err(what) = scanner.step(byte) {
                break 'scan Some(what);
            }
            scanner.offset += 1;
        }
        let n = bytes.len();
        input.consume(n);
    };
    let broken = broken.map(|what| ListError { byte: scanner.offset, what });
    Ok(ListScan { spans: scanner.into_rows(), broken })
}

/// What the current byte is a part of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Token {
    #[default]
    None,
    Text {
        escaped: bool,
    },
    /// A number, `true`, `null`, …
    Word,
}

/// A list of rows: the file's own, or the value of a key of the file's only object.
#[derive(Debug, Default)]
struct FoundList {
    key: Vec<u8>,
    elements: Vec<Span>,
    /// First byte of its first element.
    first: u8,
}

#[derive(Debug, Default)]
struct RowScanner {
    offset: u64,
    /// The number of open brackets.
    depth: u32,
    token: Token,
    /// Where the value outside of everything begins, and where the element of the current list does.
    value_start: u64,
    value_line: u64,
    /// Line ends so far.
    line_ends: u64,
    element_start: u64,
    /// The values outside of everything.
    values: Vec<Span>,
    /// First byte of the first of them.
    first: u8,
    /// The lists in the first value that may hold rows; the elements of the last are `list_depth` deep.
    lists: Vec<FoundList>,
    list_depth: Option<u32>,
    /// The key of the first object that was read last.
    key: Vec<u8>,
    before_colon: bool,
    has_row_key: bool,
}

impl RowScanner {
    fn step(&mut self, byte: u8) -> Result<(), &'static str> {
        self.line_ends += u64::from(byte == b'\n');
        if let Token::Text { escaped } = self.token {
            self.step_text(byte, escaped);
            return Ok(());
        }
        let is_word = !matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':' | b'{' | b'}' | b'[' | b']' | b'"');
        if self.token == Token::Word && !is_word {
            self.token = Token::None;
            self.end_element(self.offset);
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b',' => self.before_colon = true,
            b':' => self.before_colon = false,
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => return self.close(),
            // A byte order mark.
            0xEF | 0xBB | 0xBF if self.depth == 0 && self.values.is_empty() => {}
            _ if self.depth == 0 && self.values.is_empty() => {
                return Err("a list `[ … ]` or an object `{ … }` should begin here");
            }
            _ if self.depth == 0 => return Err("the list or object has ended, but the file goes on"),
            _ => {
                if self.token == Token::None {
                    self.begin_element(byte);
                }
                self.token = if byte == b'"' { Token::Text { escaped: false } } else { Token::Word };
                if byte == b'"' && self.before_colon && self.is_in_first_object() {
                    self.key.clear();
                }
            }
        }
        Ok(())
    }

    fn step_text(&mut self, byte: u8, escaped: bool) {
        let is_key = self.before_colon && self.is_in_first_object();
        self.token = match byte {
            b'"' if !escaped => {
                if is_key {
                    self.has_row_key |= ROW_KEYS.iter().any(|key| key.as_bytes() == self.key);
                }
                Token::None
            }
            _ => Token::Text { escaped: !escaped && byte == b'\\' },
        };
        if self.token == Token::None {
            self.end_element(self.offset + 1);
        } else if is_key && self.key.len() < 64 {
            self.key.push(byte);
        }
    }

    fn is_in_first_object(&self) -> bool {
        self.depth == 1 && self.first == b'{' && self.values.is_empty()
    }

    fn open(&mut self, byte: u8) {
        self.begin_element(byte);
        let begins_list = match self.depth {
            0 => {
                (self.value_start, self.value_line) = (self.offset, self.line_ends + 1);
                if self.values.is_empty() {
                    self.first = byte;
                }
                self.before_colon = byte == b'{';
                self.values.is_empty() && byte == b'['
            }
            1 => byte == b'[' && self.is_in_first_object() && self.names_list(),
            _ => false,
        };
        self.depth += 1;
        if begins_list {
            self.list_depth = Some(self.depth);
            self.lists.push(FoundList { key: self.key.clone(), ..FoundList::default() });
        }
    }

    /// Whether a list under the last key may hold rows.
    fn names_list(&self) -> bool {
        LIST_KEYS.iter().chain(&ROW_KEYS).any(|key| key.as_bytes() == self.key)
    }

    fn close(&mut self) -> Result<(), &'static str> {
        if self.list_depth == Some(self.depth) {
            self.list_depth = None;
        }
        self.depth = self.depth.checked_sub(1).ok_or("a bracket is closed that was not opened")?;
        self.end_element(self.offset + 1);
        if self.depth == 0 {
            let len = self.offset + 1 - self.value_start;
            self.values.push(Span { offset: self.value_start, len, line: self.value_line });
        }
        Ok(())
    }

    fn begin_element(&mut self, byte: u8) {
        if self.list_depth == Some(self.depth) {
            self.element_start = self.offset;
            if let Some(list) = self.lists.last_mut().filter(|list| list.elements.is_empty()) {
                list.first = byte;
            }
        }
    }

    fn end_element(&mut self, end: u64) {
        if self.list_depth == Some(self.depth)
            && let Some(list) = self.lists.last_mut()
        {
            list.elements.push(Span { offset: self.element_start, len: end - self.element_start, line: 0 });
        }
    }

    fn finish(&self) -> Option<&'static str> {
        match (self.token, self.depth) {
            (Token::Text { .. }, _) => Some("the file ends in the middle of a string"),
            (_, 0) if self.values.is_empty() => Some("the file is empty"),
            (_, 0) => None,
            (_, depth) if self.list_depth == Some(depth) => Some("the file ends before its list does"),
            _ => Some("the file ends in the middle of an object"),
        }
    }

    /// Decides what the rows are.
    fn into_rows(mut self) -> Vec<Span> {
        let own_list = self.first == b'[';
        if own_list && self.values.len() < 2 {
            return self.lists.pop().map(|list| list.elements).unwrap_or_default();
        }
        if own_list || self.values.len() > 1 {
            return self.values;
        }
        let is_wrapped = |list: &FoundList| {
            let named = |keys: &[&str]| keys.iter().any(|key| key.as_bytes() == list.key);
            // `{"conversations": [[…], […]]}` holds several conversations.
            if named(&ROW_KEYS) { list.first == b'[' } else { !self.has_row_key && matches!(list.first, b'{' | b'[') }
        };
        match self.lists.iter().position(is_wrapped) {
            Some(at) => self.lists.swap_remove(at).elements,
            None => self.values,
        }
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
    fn rows_are_found_in_every_form_of_file() {
        for (text, rows) in [
            (
                r#"[{"a":1}, null, NaN, "x]", [1,[2]], 7]"#,
                &[r#"{"a":1}"#, "null", "NaN", r#""x]""#, "[1,[2]]", "7"][..],
            ),
            ("[[{}],[{},{}]]", &["[{}]", "[{},{}]"]),
            ("{\n\"a\": [{}]\n}", &["{\n\"a\": [{}]\n}"]),
            ("{\n\"a\": 1}\n{\"a\":\n2}", &["{\n\"a\": 1}", "{\"a\":\n2}"]),
            ("[{}]\n[{},{}]", &["[{}]", "[{},{}]"]),
            (r#"{"version":"data","data":[{"a":1},{"b":2}],"n":2}"#, &[r#"{"a":1}"#, r#"{"b":2}"#]),
            (r#"{"data":[]}"#, &[r#"{"data":[]}"#]),
            (r#"{"data":["a","b"],"prompt":"x"}"#, &[r#"{"data":["a","b"],"prompt":"x"}"#]),
            (r#"{"conversations":[{"value":"a"}],"data":[{}]}"#, &[r#"{"conversations":[{"value":"a"}],"data":[{}]}"#]),
            (r#"{"conversations":[[{}],[{}]]}"#, &["[{}]", "[{}]"]),
            (r#"{"other":[{"data":[{}]}]}"#, &[r#"{"other":[{"data":[{}]}]}"#]),
        ] {
            assert_eq!(elements(text), rows, "{text}");
            assert_eq!(scan_list(text.as_bytes()).unwrap().broken, None, "{text}");
        }
    }

    #[test]
    fn a_cut_is_an_error_with_its_byte() {
        for (text, byte, what) in [
            ("", 0, "the file is empty"),
            ("hello", 0, "a list `[ … ]` or an object `{ … }` should begin here"),
            (r#"[{},{"a":"b"#, 11, "the file ends in the middle of a string"),
            ("[{},{", 5, "the file ends in the middle of an object"),
            ("[{}", 3, "the file ends before its list does"),
            (r#"{"data":[{},{}"#, 14, "the file ends before its list does"),
            ("[{}]x", 4, "the list or object has ended, but the file goes on"),
            ("]", 0, "a bracket is closed that was not opened"),
        ] {
            assert_eq!(scan_list(text.as_bytes()).unwrap().broken, Some(ListError { byte, what }), "{text}");
        }
        assert_eq!(elements(r#"[{},{"a":"b"#), ["{}"]);
        assert_eq!(elements(r#"{"data":[{},{"a":"#), ["{}"]);
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
