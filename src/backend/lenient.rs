//! Fields of responses, read leniently: a field of an unexpected type is as if absent.
//!
//! Servers write null, `""`, `{}` or `[]` for nothing, numbers as strings or with a fraction, and some keys twice. None of this
//! bears a token, so none of it may cost a request. Only bytes that are not JSON are an error, and [`super::ReadError::Shape`] if
//! nothing of the API is there at all.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::usage::UsageFields;
use crate::fields::{WholeCount, whole_number};

/// An object whose fields are read in part; all have a default.
pub trait Fields<'de>: Default {
    /// Reads the value of `key`, or skips it. A key that occurs twice has its last value.
    fn read_field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

/// Declares a struct and how its [`Fields`] are read, by their names in JSON.
macro_rules! lenient_fields {
    ($(#[$doc:meta])* struct $name:ident $(<$life:lifetime>)? {
        $($(#[$field_doc:meta])* $($key:literal)|+ => $field:ident: $kind:ty,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        struct $name $(<$life>)? { $($(#[$field_doc])* $field: $kind,)* }

        impl<'de $(: $life, $life)?> $crate::backend::lenient::Fields<'de> for $name $(<$life>)? {
            fn read_field<A: serde::de::MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
                match key {
                    $($($key)|+ => self.$field = map.next_value()?,)*
                    _ => { map.next_value::<serde::de::IgnoredAny>()?; }
                }
                Ok(())
            }
        }
    };
}
pub(super) use lenient_fields;

/// The object, if there is one.
#[derive(Debug)]
pub struct Nested<T>(pub Option<T>);

/// The elements of a list that are objects; `None`: it is not a list.
#[derive(Debug)]
pub struct List<T>(pub Option<SmallVec<[T; 1]>>);

/// A text, if there is one.
#[derive(Debug, Default)]
pub struct Text<'a>(pub Option<Cow<'a, str>>);

/// The content of a message: a string, one part, or a list of parts.
#[derive(Debug, Default)]
pub struct Content<'a> {
    /// The text; `None`: it has no such part.
    pub answer: Option<Cow<'a, str>>,
    /// The reasoning, in parts of Mistral's models.
    pub reasoning: Option<Cow<'a, str>>,
}

/// Why an output ended: a word, or an object with the word as its `type`. An empty one and `"null"` are as if absent.
#[derive(Debug, Default)]
pub struct FinishReason<'a> {
    /// The word.
    pub kind: Option<Cow<'a, str>>,
    /// What the server adds to it.
    pub message: Option<Cow<'a, str>>,
}

/// Texts: one string, or a list of strings.
#[derive(Debug, Default)]
pub struct Texts<'a>(pub Option<SmallVec<[Cow<'a, str>; 1]>>);

/// A count: a whole number that is not negative, also as a string or with a fraction of 0.
#[derive(Debug, Default, Clone, Copy)]
pub struct Count(pub Option<u32>);

/// Counts: one, or a list of them.
#[derive(Debug, Default)]
pub struct Counts(pub SmallVec<[Option<u32>; 1]>);

/// A number, also as a string.
#[derive(Debug, Default, Clone, Copy)]
pub struct NumberValue(pub Option<f64>);

/// Whether it is true, `"true"`, or a number other than 0.
#[derive(Debug, Default, Clone, Copy)]
pub struct Flag(pub bool);

/// The number of elements of a list or an object that are not null; `None`: it is neither.
#[derive(Debug, Default, Clone, Copy)]
pub struct Size(pub Option<usize>);

/// The JSON of a value other than null.
#[derive(Debug, Default, Clone, Copy)]
pub struct Raw<'a>(pub Option<&'a RawValue>);

/// Whether it holds anything: not null, false, 0, an empty text, or only such values.
#[derive(Debug, Default, Clone, Copy)]
pub struct Filled(pub bool);

impl<T> Default for Nested<T> {
    fn default() -> Self {
        Nested(None)
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        List(None)
    }
}

impl<T> List<T> {
    /// The elements; none if it is not a list.
    pub fn into_elements(self) -> SmallVec<[T; 1]> {
        self.0.unwrap_or_default()
    }
}

impl Size {
    /// Whether there is an element.
    pub fn is_filled(self) -> bool {
        self.0.is_some_and(|count| count > 0)
    }
}

impl<'a> Text<'a> {
    /// The text; `None` if it is empty.
    pub fn filled(self) -> Option<Cow<'a, str>> {
        self.0.filter(|text| !text.is_empty())
    }

    /// The text as it is; empty if absent.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

/// Visits any value: each method that a type does not override skips what it gets and returns nothing.
pub trait AnyValue<'de>: Sized + Default {
    fn from_bool(_: bool) -> Self {
        Self::default()
    }
    fn from_number(_: f64) -> Self {
        Self::default()
    }
    fn from_text(_: Cow<'de, str>) -> Self {
        Self::default()
    }
    fn from_list<A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error> {
        count_elements(list).map(|_| Self::default())
    }
    fn from_object<A: MapAccess<'de>>(object: A) -> Result<Self, A::Error> {
        count_entries(object).map(|_| Self::default())
    }
}

/// The number of elements that are not null.
fn count_elements<'de, A: SeqAccess<'de>>(mut list: A) -> Result<usize, A::Error> {
    let mut count = 0;
    while let Some(element) = list.next_element::<Option<IgnoredAny>>()? {
        count += usize::from(element.is_some());
    }
    Ok(count)
}

/// The number of entries whose value is not null.
fn count_entries<'de, A: MapAccess<'de>>(mut object: A) -> Result<usize, A::Error> {
    let mut count = 0;
    while let Some((_, value)) = object.next_entry::<IgnoredAny, Option<IgnoredAny>>()? {
        count += usize::from(value.is_some());
    }
    Ok(count)
}

struct AnyVisitor<T>(PhantomData<T>);

impl<'de, T: AnyValue<'de>> Visitor<'de> for AnyVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }
    fn visit_bool<E>(self, value: bool) -> Result<T, E> {
        Ok(T::from_bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<T, E> {
        Ok(T::from_number(value as f64))
    }
    fn visit_u64<E>(self, value: u64) -> Result<T, E> {
        Ok(T::from_number(value as f64))
    }
    fn visit_f64<E>(self, value: f64) -> Result<T, E> {
        Ok(T::from_number(value))
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<T, E> {
        Ok(T::from_text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::from_text(Cow::Owned(text.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        T::from_list(list)
    }
    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<T, A::Error> {
        T::from_object(object)
    }
}

/// Implements `Deserialize` by [`AnyValue`].
macro_rules! deserialize_any_value {
    ($($name:ident $(<$life:lifetime>)?),*) => { $(
        impl<'de $(: $life, $life)?> Deserialize<'de> for $name $(<$life>)? {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(AnyVisitor(PhantomData))
            }
        }
    )* };
}
deserialize_any_value!(
    Text<'a>,
    Content<'a>,
    FinishReason<'a>,
    Texts<'a>,
    Count,
    Counts,
    NumberValue,
    Flag,
    Size,
    Filled,
    UsageFields
);

impl<'de: 'a, 'a> AnyValue<'de> for Text<'a> {
    fn from_text(text: Cow<'de, str>) -> Self {
        Text(Some(text))
    }
}

lenient_fields! {
    /// A part of a message.
    struct ContentPart<'a> {
        "text" => text: Content<'a>,
        "thinking" => thinking: Content<'a>,
    }
}

impl<'de: 'a, 'a> AnyValue<'de> for Content<'a> {
    fn from_text(text: Cow<'de, str>) -> Self {
        Content { answer: Some(text), reasoning: None }
    }
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let (mut answer, mut reasoning) = (String::new(), String::new());
        while let Some(part) = list.next_element::<Content>()? {
            answer.extend(part.answer);
            reasoning.extend(part.reasoning);
        }
        Ok(Content { answer: Some(answer.into()), reasoning: Some(reasoning.into()) })
    }
    fn from_object<A: MapAccess<'de>>(object: A) -> Result<Self, A::Error> {
        let part: ContentPart = Nested::from_object(object)?.0.unwrap_or_default();
        Ok(Content { answer: part.text.answer, reasoning: part.thinking.answer.or(part.thinking.reasoning) })
    }
}

lenient_fields! {
    /// SGLang's form of a finish reason.
    struct FinishObject<'a> {
        "type" => kind: Text<'a>,
        "message" => message: Text<'a>,
    }
}

impl<'de: 'a, 'a> AnyValue<'de> for FinishReason<'a> {
    fn from_text(text: Cow<'de, str>) -> Self {
        let kind = Some(text).filter(|text| !text.is_empty() && text != "null");
        FinishReason { kind, message: None }
    }
    fn from_object<A: MapAccess<'de>>(object: A) -> Result<Self, A::Error> {
        let finish: FinishObject = Nested::from_object(object)?.0.unwrap_or_default();
        Ok(FinishReason { kind: finish.kind.filled(), message: finish.message.filled() })
    }
}

impl<'de: 'a, 'a> AnyValue<'de> for Texts<'a> {
    fn from_text(text: Cow<'de, str>) -> Self {
        Texts(Some([text].into_iter().collect()))
    }
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut texts = SmallVec::new();
        while let Some(text) = list.next_element::<Text>()? {
            texts.push(text.0.unwrap_or_default());
        }
        Ok(Texts(Some(texts)))
    }
}

impl AnyValue<'_> for Count {
    fn from_number(number: f64) -> Self {
        Count(whole_number(number))
    }
    fn from_text(text: Cow<'_, str>) -> Self {
        Count(WholeCount::parse(&text).map(|count| count.0))
    }
}

impl<'de> AnyValue<'de> for Counts {
    fn from_number(number: f64) -> Self {
        Counts([whole_number(number)].into_iter().collect())
    }
    fn from_text(text: Cow<'de, str>) -> Self {
        Counts([Count::from_text(text).0].into_iter().collect())
    }
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut counts = SmallVec::new();
        while let Some(Count(count)) = list.next_element()? {
            counts.push(count);
        }
        Ok(Counts(counts))
    }
}

impl AnyValue<'_> for NumberValue {
    fn from_number(number: f64) -> Self {
        NumberValue(Some(number))
    }
    fn from_text(text: Cow<'_, str>) -> Self {
        NumberValue(text.trim().parse().ok().filter(|number: &f64| number.is_finite()))
    }
}

impl AnyValue<'_> for Flag {
    fn from_bool(value: bool) -> Self {
        Flag(value)
    }
    fn from_number(number: f64) -> Self {
        Flag(number != 0.0)
    }
    fn from_text(text: Cow<'_, str>) -> Self {
        Flag(text.eq_ignore_ascii_case("true"))
    }
}

impl<'de> AnyValue<'de> for Size {
    fn from_list<A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error> {
        count_elements(list).map(|count| Size(Some(count)))
    }
    fn from_object<A: MapAccess<'de>>(object: A) -> Result<Self, A::Error> {
        count_entries(object).map(|count| Size(Some(count)))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(from)?;
        Ok(Raw((raw.get() != "null").then_some(raw)))
    }
}

impl<'de> AnyValue<'de> for Filled {
    fn from_bool(value: bool) -> Self {
        Filled(value)
    }
    fn from_number(number: f64) -> Self {
        Filled(number != 0.0)
    }
    fn from_text(text: Cow<'_, str>) -> Self {
        let text = text.trim();
        Filled(!text.is_empty() && !["null", "none"].iter().any(|word| text.eq_ignore_ascii_case(word)))
    }
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut any = false;
        while let Some(Filled(filled)) = list.next_element()? {
            any |= filled;
        }
        Ok(Filled(any))
    }
    fn from_object<A: MapAccess<'de>>(mut object: A) -> Result<Self, A::Error> {
        let mut any = false;
        while let Some((IgnoredAny, Filled(filled))) = object.next_entry()? {
            any |= filled;
        }
        Ok(Filled(any))
    }
}

impl<'de, T: Fields<'de>> AnyValue<'de> for Nested<T> {
    fn from_object<A: MapAccess<'de>>(mut object: A) -> Result<Self, A::Error> {
        let mut fields = T::default();
        while let Some(key) = object.next_key::<Text>()? {
            fields.read_field(key.as_str(), &mut object)?;
        }
        Ok(Nested(Some(fields)))
    }
}

impl<'de, T: Fields<'de>> Deserialize<'de> for Nested<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyVisitor(PhantomData))
    }
}

impl<'de, T: Fields<'de>> AnyValue<'de> for List<T> {
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut elements = SmallVec::new();
        while let Some(Nested(element)) = list.next_element()? {
            elements.extend(element);
        }
        Ok(List(Some(elements)))
    }
}

impl<'de, T: Fields<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    lenient_fields! {
        /// One field of each type.
        struct Sample<'a> {
            "text" | "words" => text: Text<'a>,
            "content" => content: Content<'a>,
            "texts" => texts: Texts<'a>,
            "count" => count: Count,
            "counts" => counts: Counts,
            "number" => number: NumberValue,
            "flag" => flag: Flag,
            "size" => size: Size,
            "filled" => filled: Filled,
            "raw" => raw: Raw<'a>,
            "nested" => nested: Nested<Inner>,
            "list" => list: List<Inner>,
        }
    }

    lenient_fields! {
        /// An object within another.
        struct Inner {
            "n" => n: Count,
        }
    }

    fn read(json: &str) -> String {
        let sample: Nested<Sample> = serde_json::from_str(json).unwrap();
        format!("{:?}", sample.0)
    }

    #[test]
    fn a_field_of_an_unexpected_type_is_as_if_absent() {
        let absent = read("{}");
        let odd = |name: &str, values: &[&str]| {
            for value in values {
                let read = read(&format!(r#"{{"{name}":{value}}}"#));
                assert_eq!(read, absent, "{name}: {value}");
            }
        };
        odd("text", &["null", "false", "5", "1.5", "[]", "{}", "[\"a\"]", "{\"a\":[1]}"]);
        odd("content", &["null", "false", "5", "{}", "{\"text\":5}"]);
        odd("texts", &["null", "false", "5", "{}"]);
        odd("count", &["null", "true", "-1", "1.5", "5000000000", "1e300", "\"\"", "\"many\"", "\"-1\"", "[]", "{}"]);
        odd("counts", &["null", "false", "[]", "{}"]);
        odd("number", &["null", "true", "\"x\"", "\"NaN\"", "[]", "{}"]);
        odd("flag", &["null", "false", "0", "\"\"", "\"false\"", "[]", "{}", "[1]"]);
        odd("size", &["null", "true", "1", "\"\"", "\"abc\""]);
        assert_eq!(read("{\"size\":[null]}"), read("{\"size\":{\"a\":null}}"));
        odd(
            "filled",
            &["null", "false", "0", "\"\"", "\"null\"", "[]", "{}", "[[]]", "{\"code\":null,\"message\":\"\"}"],
        );
        odd("raw", &["null"]);
        odd("nested", &["null", "false", "0", "\"\"", "[]", "[1]"]);
        odd("list", &["null", "false", "0", "\"\"", "{}", "{\"n\":1}"]);
        odd("other", &["1", "[]", "{\"text\":\"a\"}"]);
        for scalar in ["null", "1", "\"x\"", "[]", "true"] {
            assert!(serde_json::from_str::<Nested<Sample>>(scalar).unwrap().0.is_none(), "{scalar}");
        }
    }

    #[test]
    fn numbers_may_be_written_as_strings_and_keys_twice() {
        for (json, same) in [
            (r#"{"count":"7"}"#, r#"{"count":7}"#),
            (r#"{"count":7.0}"#, r#"{"count":7}"#),
            (r#"{"count":" 7.0 "}"#, r#"{"count":7}"#),
            (r#"{"number":"1.5"}"#, r#"{"number":1.5}"#),
            (r#"{"counts":"7"}"#, r#"{"counts":[7]}"#),
            (r#"{"flag":"true"}"#, r#"{"flag":true}"#),
            (r#"{"flag":1}"#, r#"{"flag":true}"#),
            (r#"{"texts":"a"}"#, r#"{"texts":["a"]}"#),
            (r#"{"count":1,"count":2}"#, r#"{"count":2}"#),
            (r#"{"count":1,"count":null}"#, "{}"),
            (r#"{"text":"a","words":"b"}"#, r#"{"text":"b"}"#),
            (r#"{"list":[null,{"n":1},5,"x"]}"#, r#"{"list":[{"n":1}]}"#),
            (r#"{"content":{"text":"a"}}"#, r#"{"content":"a"}"#),
        ] {
            assert_eq!(read(json), read(same), "{json}");
        }
    }
}
