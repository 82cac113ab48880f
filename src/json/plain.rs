//! A quick parser for the JSON that our own tools write: outputs are mostly decimal numbers.
//!
//! It gives the values that `serde_json` gives, or gives up: on everything that is not JSON, on a value of the wrong type, and on
//! what is rare. It has no messages; who needs one parses again with `serde_json`.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
    forward_to_deserialize_any,
};
use serde_json::value::RawValue;

/// The deepest nesting that is parsed.
const MAX_DEPTH: u32 = 100;

/// The types that are read from the text of a value: they are given all of it as a string.
const READ_AS_TEXT: [&str; 2] = [RawText::NAME, "UnixNanos"];

/// The powers of ten that doubles represent exactly.
const POWERS_OF_TEN: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The powers of ten up to 10^16.
const POWERS_OF_TEN_U64: [u64; 17] = {
    let mut powers = [1; 17];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = powers[n - 1] * 10;
        n += 1;
    }
    powers
};

/// Parses one JSON value: quickly if it is plain.
pub fn parse<'de, T: Deserialize<'de>>(text: &'de [u8]) -> serde_json::Result<T> {
    parse_plain(text).map_or_else(|| serde_json::from_slice(text), Ok)
}

/// Parses one JSON value; `None`: `serde_json` may parse it, or says what is wrong.
#[must_use]
pub fn parse_plain<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Option<T> {
    let mut scanner = Scanner { text, at: 0, depth: 0 };
    let value = T::deserialize(&mut scanner).ok()?;
    scanner.skip_space();
    (scanner.at == text.len()).then_some(value)
}

/// The text of a value, as it is in the input.
#[derive(Debug, Clone, Copy)]
pub struct RawText<'a>(pub &'a str);

impl RawText<'_> {
    const NAME: &'static str = "RawText";
}

impl<'de: 'a, 'a> Deserialize<'de> for RawText<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextVisitor<'a>(PhantomData<&'a str>);
        impl<'de: 'a, 'a> Visitor<'de> for TextVisitor<'a> {
            type Value = RawText<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<RawText<'a>, E> {
                Ok(RawText(text))
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<RawText<'a>, D::Error> {
                Ok(RawText(<&'a RawValue>::deserialize(from)?.get()))
            }
        }
        from.deserialize_newtype_struct(RawText::NAME, TextVisitor(PhantomData))
    }
}

/// This text is for `serde_json`.
#[derive(Debug)]
struct GiveUp;

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not plain JSON")
    }
}

impl std::error::Error for GiveUp {}

impl de::Error for GiveUp {
    fn custom<T: fmt::Display>(_: T) -> Self {
        GiveUp
    }
}

type Scan<T> = Result<T, GiveUp>;

/// A place in a text.
struct Scanner<'de> {
    text: &'de [u8],
    at: usize,
    depth: u32,
}

/// A number: `digits` · 10^`exponent`.
struct Number<'de> {
    text: &'de [u8],
    is_negative: bool,
    digits: u64,
    exponent: i32,
    /// Whether it has neither a decimal point nor an exponent.
    is_integer: bool,
    /// Whether all its digits are in `digits`.
    is_exact: bool,
}

impl Number<'_> {
    /// The nearest double.
    fn to_f64(&self) -> Scan<f64> {
        let power = POWERS_OF_TEN.get(self.exponent.unsigned_abs() as usize);
        // Both are exact, so that the one operation rounds correctly (Clinger's fast path).
        if let Some(power) = power.filter(|_| self.is_exact && self.digits <= 1 << 53) {
            let digits = self.digits as f64;
            let number = if self.exponent < 0 { digits / power } else { digits * power };
            return Ok(if self.is_negative { -number } else { number });
        }
        let number: f64 = std::str::from_utf8(self.text).ok().and_then(|text| text.parse().ok()).ok_or(GiveUp)?;
        if number.is_finite() { Ok(number) } else { Err(GiveUp) }
    }
}

impl<'de> Scanner<'de> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// The first byte after white space.
    #[inline]
    fn next_value(&mut self) -> Scan<u8> {
        match self.peek() {
            Some(byte) if byte > b' ' => Ok(byte),
            _ => {
                self.skip_space();
                self.peek().ok_or(GiveUp)
            }
        }
    }

    /// Skips `byte` if it is the next one.
    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, word: &[u8]) -> Scan<()> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(());
        }
        Err(GiveUp)
    }

    /// Reads digits, appends them to `number`, and returns how many they are.
    #[inline]
    fn take_digits(&mut self, number: &mut u64) -> usize {
        let from = self.at;
        while let Some(eight) = self.text.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
            let (value, n) = leading_digits(*eight);
            *number = number.wrapping_mul(POWERS_OF_TEN_U64[n]).wrapping_add(value);
            self.at += n;
            if n < 8 {
                return self.at - from;
            }
        }
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            *number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        self.at - from
    }

    #[inline]
    fn scan_number(&mut self) -> Scan<Number<'de>> {
        let from = self.at;
        let is_negative = self.take(b'-');
        let (mut digits, mut is_integer) = (0, true);
        let mut count = if self.take(b'0') {
            1
        } else {
            match self.take_digits(&mut digits) {
                0 => return Err(GiveUp),
                n => n,
            }
        };
        let mut exponent = 0;
        if self.take(b'.') {
            let decimals = self.take_digits(&mut digits);
            if decimals == 0 {
                return Err(GiveUp);
            }
            count += decimals;
            exponent = -i32::try_from(decimals).map_err(|_| GiveUp)?;
            is_integer = false;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            let is_small = match self.peek() {
                Some(sign @ (b'+' | b'-')) => {
                    self.at += 1;
                    sign == b'-'
                }
                _ => false,
            };
            let mut power = 0;
            if !(1..=4).contains(&self.take_digits(&mut power)) {
                return Err(GiveUp);
            }
            let power = i32::try_from(power).map_err(|_| GiveUp)?;
            exponent += if is_small { -power } else { power };
            is_integer = false;
        }
        let text = &self.text[from..self.at];
        // A digit after `0` does not belong to it: what comes after the number finds it.
        Ok(Number { text, is_negative, digits, exponent, is_integer, is_exact: count <= 19 })
    }

    /// Reads a number like `0.002012345`, which most are: one digit, a point, and up to 15 decimals.
    #[inline]
    fn take_decimal(&mut self) -> Option<f64> {
        let bytes: &[u8; 24] = self.text.get(self.at..)?.first_chunk()?;
        let [whole @ b'0'..=b'9', b'.', decimals @ ..] = bytes else { return None };
        let (first, rest) = decimals.split_first_chunk::<8>()?;
        let (mut digits, mut n) = leading_digits(*first);
        if n == 8 {
            let (more, m) = leading_digits(*rest.first_chunk::<8>()?);
            (digits, n) = (digits * POWERS_OF_TEN_U64[m] + more, 8 + m);
        }
        digits += u64::from(whole - b'0') * POWERS_OF_TEN_U64[n];
        let is_whole_number = !matches!(bytes[2 + n], b'e' | b'E' | b'0'..=b'9');
        if n == 0 || digits > 1 << 53 || !is_whole_number {
            return None;
        }
        self.at += 2 + n;
        Some(digits as f64 / POWERS_OF_TEN[n])
    }

    /// Reads a string: what is between its quotes, and whether that has escapes.
    fn scan_string(&mut self) -> Scan<(&'de [u8], bool)> {
        let inside = self.text.get(self.at + 1..).ok_or(GiveUp)?;
        let (mut len, mut has_escapes) = (0, false);
        loop {
            len += memchr::memchr2(b'"', b'\\', &inside[len..]).ok_or(GiveUp)?;
            if inside[len] == b'"' {
                break;
            }
            has_escapes = true;
            len += match inside.get(len + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                Some(b'u') if inside.get(len + 2..len + 6).is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit)) => 6,
                _ => return Err(GiveUp),
            };
        }
        let inside = &inside[..len];
        if inside.iter().map(|byte| u8::from(*byte < 0x20)).fold(0, u8::max) > 0 {
            return Err(GiveUp);
        }
        self.at += len + 2;
        Ok((inside, has_escapes))
    }

    fn skip_value(&mut self) -> Scan<()> {
        match self.next_value()? {
            b'"' => self.scan_string().map(drop),
            b'{' => self.skip_list(b'}', |scanner| {
                if scanner.next_value()? != b'"' {
                    return Err(GiveUp);
                }
                scanner.scan_string()?;
                scanner.expect_colon()?;
                scanner.skip_value()
            }),
            b'[' => self.skip_list(b']', Scanner::skip_value),
            b't' => self.expect(b"true"),
            b'f' => self.expect(b"false"),
            b'n' => self.expect(b"null"),
            _ => self.scan_number().map(drop),
        }
    }

    fn skip_list(&mut self, end: u8, mut skip_entry: impl FnMut(&mut Self) -> Scan<()>) -> Scan<()> {
        let mut list = List::begin(self, end)?;
        while list.has_next()? {
            skip_entry(list.scanner)?;
        }
        Ok(())
    }

    fn expect_colon(&mut self) -> Scan<()> {
        if self.next_value()? == b':' {
            self.at += 1;
            return Ok(());
        }
        Err(GiveUp)
    }

    /// The text of the next value.
    fn raw_text(&mut self) -> Scan<&'de str> {
        self.skip_space();
        let from = self.at;
        self.skip_value()?;
        std::str::from_utf8(&self.text[from..self.at]).map_err(|_| GiveUp)
    }

    /// About how many entries the list that begins here has, from its commas; exact for numbers.
    fn estimate_entries(&self) -> usize {
        let rest = &self.text[self.at..];
        let end = memchr::memchr(b']', rest).unwrap_or(rest.len());
        memchr::memchr_iter(b',', &rest[..end]).count() + 1
    }
}

/// The number that the first bytes are digits of, and how many digits it has.
#[inline(always)]
#[allow(clippy::inline_always, reason = "once or twice for each number")]
fn leading_digits(bytes: [u8; 8]) -> (u64, usize) {
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    let word = u64::from_le_bytes(bytes) ^ ZEROS;
    // The highest bit of each byte that is above 9. A carry reaches only the bytes after the first of them.
    let others = (word.wrapping_add(0x7676_7676_7676_7676) | word) & 0x8080_8080_8080_8080;
    let n = others.trailing_zeros() as usize / 8;
    if n == 0 {
        return (0, 0);
    }
    // Zeros before the digits make them eight; then pairs, fours and the whole are added up in parallel.
    let word = word << (64 - 8 * n);
    let pairs = word.wrapping_mul(10).wrapping_add(word >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let high = (pairs >> 16 & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    (low.wrapping_add(high) >> 32 & 0xffff_ffff, n)
}

/// The entries of an array or an object.
struct List<'s, 'de> {
    scanner: &'s mut Scanner<'de>,
    end: u8,
    is_first: bool,
    /// An estimate of the entries left.
    left: usize,
}

impl<'s, 'de> List<'s, 'de> {
    fn begin(scanner: &'s mut Scanner<'de>, end: u8) -> Scan<Self> {
        scanner.at += 1;
        scanner.depth += 1;
        if scanner.depth > MAX_DEPTH {
            return Err(GiveUp);
        }
        Ok(List { scanner, end, is_first: true, left: 0 })
    }

    /// Goes to the next entry; false after the last one.
    #[inline]
    fn has_next(&mut self) -> Scan<bool> {
        let scanner = &mut *self.scanner;
        // Nearly always, a comma and a number follow.
        if !self.is_first && matches!(scanner.text.get(scanner.at..scanner.at + 2), Some([b',', b'0'..=b'9'])) {
            scanner.at += 1;
            return Ok(true);
        }
        let byte = scanner.next_value()?;
        if byte == self.end {
            scanner.at += 1;
            scanner.depth -= 1;
            return Ok(false);
        }
        if std::mem::take(&mut self.is_first) {
            return Ok(true);
        }
        if byte != b',' {
            return Err(GiveUp);
        }
        scanner.at += 1;
        // Not the end after a comma.
        if scanner.next_value()? == self.end { Err(GiveUp) } else { Ok(true) }
    }
}

impl<'de> SeqAccess<'de> for List<'_, 'de> {
    type Error = GiveUp;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Scan<Option<T::Value>> {
        if !self.has_next()? {
            return Ok(None);
        }
        self.left = self.left.saturating_sub(1);
        seed.deserialize(&mut *self.scanner).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for List<'_, 'de> {
    type Error = GiveUp;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Scan<Option<K::Value>> {
        if !self.has_next()? {
            return Ok(None);
        }
        if self.scanner.peek() != Some(b'"') {
            return Err(GiveUp);
        }
        let key = seed.deserialize(&mut *self.scanner)?;
        self.scanner.expect_colon()?;
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Scan<V::Value> {
        seed.deserialize(&mut *self.scanner)
    }
}

impl<'de> Deserializer<'de> for &mut Scanner<'de> {
    type Error = GiveUp;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Scan<V::Value> {
        match self.next_value()? {
            b'"' => {
                let from = self.at;
                let (inside, has_escapes) = self.scan_string()?;
                if has_escapes {
                    let text: String = serde_json::from_slice(&self.text[from..self.at]).map_err(|_| GiveUp)?;
                    return visitor.visit_string(text);
                }
                visitor.visit_borrowed_str(std::str::from_utf8(inside).map_err(|_| GiveUp)?)
            }
            b'{' => visitor.visit_map(List::begin(self, b'}')?),
            b'[' => {
                let left = self.estimate_entries();
                let mut list = List::begin(self, b']')?;
                list.left = left;
                visitor.visit_seq(list)
            }
            b't' => self.expect(b"true").and_then(|()| visitor.visit_bool(true)),
            b'f' => self.expect(b"false").and_then(|()| visitor.visit_bool(false)),
            b'n' => self.expect(b"null").and_then(|()| visitor.visit_unit()),
            _ => {
                let number = self.scan_number()?;
                match i64::try_from(number.digits) {
                    _ if !number.is_integer => visitor.visit_f64(number.to_f64()?),
                    _ if !number.is_exact => Err(GiveUp),
                    _ if !number.is_negative => visitor.visit_u64(number.digits),
                    Ok(digits) if digits > 0 => visitor.visit_i64(-digits),
                    _ => visitor.visit_f64(number.to_f64()?),
                }
            }
        }
    }

    #[inline]
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Scan<V::Value> {
        self.next_value()?;
        if let Some(number) = self.take_decimal() {
            return visitor.visit_f64(number);
        }
        visitor.visit_f64(self.scan_number()?.to_f64()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Scan<V::Value> {
        if self.next_value()? == b'n' {
            return self.expect(b"null").and_then(|()| visitor.visit_none());
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Scan<V::Value> {
        if READ_AS_TEXT.contains(&name) {
            return visitor.visit_borrowed_str(self.raw_text()?);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Scan<V::Value> {
        self.skip_value()?;
        visitor.visit_unit()
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], _: V) -> Scan<V::Value> {
        Err(GiveUp)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::units::UnixNanos;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Record {
        a: Option<f64>,
        b: Vec<f64>,
        c: Option<u32>,
        d: Option<String>,
        e: bool,
        f: Option<Box<Record>>,
        time: Option<UnixNanos>,
    }

    /// The value as `serde_json` gives it, or nothing.
    fn check<T: for<'de> Deserialize<'de> + PartialEq + fmt::Debug>(text: &[u8]) -> bool {
        let plain: Option<T> = parse_plain(text);
        if let Some(plain) = &plain {
            let want = serde_json::from_slice::<T>(text);
            assert_eq!(Some(plain), want.ok().as_ref(), "{}", String::from_utf8_lossy(text));
        }
        plain.is_some()
    }

    fn number_bits(text: &str) -> Option<u64> {
        parse_plain::<f64>(text.as_bytes()).map(f64::to_bits)
    }

    #[test]
    fn what_our_tools_write_is_plain() {
        for text in [
            r#"{"a":0.001012345,"b":[0.5,1,12.25e-7,0.000000001],"c":4294967295,"d":"x \" é","e":true,"f":{"c":null}}"#,
            r#" { "b" : [ ] , "time" : 1796104910.573516319 , "other" : {"a":[1,"]\u00e9",{}],"b":-1.5E+3} } "#,
            "{}",
        ] {
            assert!(check::<Record>(text.as_bytes()) && check::<Value>(text.as_bytes()), "{text}");
        }
        let RawText(raw) = parse_plain(b" {\"a\": [1 , 2]} ").unwrap();
        assert_eq!(raw, "{\"a\": [1 , 2]}");
        assert_eq!(serde_json::from_str::<RawText>(" [1 , 2] ").unwrap().0, "[1 , 2]");
    }

    #[test]
    fn what_is_not_json_or_has_the_wrong_type_is_left_to_serde() {
        for text in [
            "",
            "{",
            "}",
            "[",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{\"a\":1 \"c\":2}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":.5}",
            "{\"a\":+1}",
            "{\"a\":1e}",
            "{\"a\":-}",
            "{\"a\":NaN}",
            "{\"a\":1e999}",
            "{\"b\":[1,]}",
            "{\"b\":[,1]}",
            "{\"b\":[1 2]}",
            "{\"b\":[1}",
            "{\"d\":\"\u{1}\"}",
            "{\"d\":\"\\x\"}",
            "{\"d\":\"\\ud800\"}",
            "{\"d\":\"}",
            "{} {}",
            "{\"a\":tru}",
            "{\"c\":-1}",
            "{\"c\":4294967296}",
            "{\"c\":1.0}",
            "{\"a\":\"1\"}",
            "{\"e\":1}",
            "{\"a\":1,\"a\":2}",
            "{\"time\":\"1\"}",
            "{\"z\":01}",
            "{z:1}",
        ] {
            assert!(parse_plain::<Record>(text.as_bytes()).is_none(), "{text}");
            assert!(!check::<Value>(text.as_bytes()) || serde_json::from_str::<Value>(text).is_ok(), "{text}");
        }
        assert!(parse_plain::<Record>(b"{\"d\":\"\xff\"}").is_none());
        assert!(parse_plain::<Value>("[".repeat(1000).as_bytes()).is_none());
    }

    #[test]
    fn numbers_of_many_digits_are_exact() {
        for text in [
            "0.1",
            "-0",
            "-0.0",
            "0.30000000000000004",
            "9007199254740993",
            "9007199254740992.5",
            "123456789012345678901234567890",
            "1e22",
            "1e23",
            "1e-22",
            "1e-23",
            "4.9e-324",
            "2.2250738585072011e-308",
            "0.000000000000000000000000000000000000123456789",
            "5e-7",
            "1.2E-5",
        ] {
            assert_eq!(number_bits(text), Some(serde_json::from_str::<f64>(text).unwrap().to_bits()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_number_is_the_nearest_double(whole in 0_u64.., decimals in "[0-9]{0,25}", power in -40..40_i32) {
            for text in [format!("{whole}"), format!("{whole}.{decimals}0"), format!("{whole}{decimals}e{power}"), format!("0.{decimals}7")] {
                if let Ok(want) = serde_json::from_str::<f64>(&text) {
                    prop_assert_eq!(number_bits(&text), Some(want.to_bits()), "{}", text);
                }
            }
        }

        #[test]
        fn serde_gives_the_same_values(
            text in r#"\{("[abcdefz]"|:|,|[0-9.e+-]{1,12}|"[a\\u"é\n0-9]{0,6}"|null|true|\[|\]|[ {}]){0,16}\}"#,
            bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            for text in [text.as_bytes(), &bytes] {
                check::<Record>(text);
                check::<Value>(text);
            }
        }
    }
}
