//! Writes the records of a run that there are many of: the same text as serde's, without a number or a text in between.

use serde_json::{Map, Value};

use super::{ErrorKind, Stamp, TokenSource};
use crate::units::{Nanos, UnixNanos, push_decimal};

/// A value that is written as JSON.
pub trait WriteJson {
    /// Appends its JSON, the same text as [`serde::Serialize`] gives.
    fn write_json(&self, out: &mut Vec<u8>);
}

/// An object that is being written.
pub struct ObjectWriter<'o> {
    out: &'o mut Vec<u8>,
    /// Comes before the next key.
    separator: u8,
}

impl<'o> ObjectWriter<'o> {
    /// Begins an object at the end of `out`.
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        ObjectWriter { out, separator: b'{' }
    }

    /// Writes a key that needs no escapes, and its value.
    #[inline]
    pub fn field(&mut self, key: &str, value: &(impl WriteJson + ?Sized)) {
        self.out.extend_from_slice(&[self.separator, b'"']);
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.separator = b',';
        value.write_json(self.out);
    }

    /// Writes a field that is absent without a value.
    #[inline]
    pub fn optional_field(&mut self, key: &str, value: Option<&(impl WriteJson + ?Sized)>) {
        if let Some(value) = value {
            self.field(key, value);
        }
    }

    /// Ends an object that has a field.
    pub fn end(self) {
        self.out.push(b'}');
    }
}

impl WriteJson for bool {
    #[inline]
    fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
}

impl WriteJson for u16 {
    #[inline]
    fn write_json(&self, out: &mut Vec<u8>) {
        push_decimal(out, u64::from(*self));
    }
}

impl WriteJson for u32 {
    #[inline]
    fn write_json(&self, out: &mut Vec<u8>) {
        push_decimal(out, u64::from(*self));
    }
}

impl WriteJson for Nanos {
    #[inline]
    fn write_json(&self, out: &mut Vec<u8>) {
        self.push_seconds(out);
    }
}

impl WriteJson for UnixNanos {
    #[inline]
    fn write_json(&self, out: &mut Vec<u8>) {
        self.push_seconds(out);
    }
}

impl<T: WriteJson> WriteJson for Option<T> {
    #[inline]
    fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.write_json(out),
            None => out.extend_from_slice(b"null"),
        }
    }
}

impl<T: WriteJson> WriteJson for Vec<T> {
    fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (at, value) in self.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            value.write_json(out);
        }
        out.push(b']');
    }
}

impl<A: WriteJson, B: WriteJson> WriteJson for (A, B) {
    fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        self.0.write_json(out);
        out.push(b',');
        self.1.write_json(out);
        out.push(b']');
    }
}

impl WriteJson for ErrorKind {
    fn write_json(&self, out: &mut Vec<u8>) {
        self.name().write_json(out);
    }
}

impl WriteJson for TokenSource {
    fn write_json(&self, out: &mut Vec<u8>) {
        self.name().write_json(out);
    }
}

impl WriteJson for Stamp {
    fn write_json(&self, out: &mut Vec<u8>) {
        self.name().write_json(out);
    }
}

impl WriteJson for Map<String, Value> {
    fn write_json(&self, out: &mut Vec<u8>) {
        // It fails only if a key is not a text.
        let _ = serde_json::to_writer(out, self);
    }
}

impl WriteJson for String {
    #[inline]
    fn write_json(&self, out: &mut Vec<u8>) {
        self.as_str().write_json(out);
    }
}

impl WriteJson for str {
    fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        // Most texts have few escapes or none: whole pieces are copied as they are.
        for piece in self.as_bytes().chunks(PIECE) {
            // Counted rather than searched for: without an early end, many bytes are compared at once.
            if piece.iter().filter(|byte| needs_escape(**byte)).count() > 0 {
                for byte in piece {
                    push_escaped(out, *byte);
                }
            } else {
                out.extend_from_slice(piece);
            }
        }
        out.push(b'"');
    }
}

/// How many bytes of a text are checked at once.
const PIECE: usize = 32;

#[inline]
fn needs_escape(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

fn push_escaped(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        0..b' ' => {
            let digit = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
            return out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 0xf)]);
        }
        _ => return out.push(byte),
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(value: &(impl WriteJson + ?Sized)) -> String {
        let mut out = Vec::new();
        value.write_json(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn texts_are_escaped_as_serde_does(text in prop_oneof![any::<String>(), "[a\"\\\\\u{0}-\u{1f}\u{7f}é😀]{0,80}"]) {
            prop_assert_eq!(written(&text), serde_json::to_string(&text).unwrap());
        }

        #[test]
        fn lists_and_numbers_are_written_as_serde_does(list in prop::collection::vec(any::<u32>(), 0..9), n in any::<u16>()) {
            prop_assert_eq!(written(&list), serde_json::to_string(&list).unwrap());
            prop_assert_eq!(written(&Some(n)), n.to_string());
        }
    }
}
