//! The language of text for people. Every text is written in English where it is made; a table translates it where it is shown.
//!
//! The table is keyed by the English text, with `{}` where numbers and names are filled in. So it also translates what another
//! program wrote, as the reasons of a verdict in the records of `vb-fire`, and the records are in English on every machine.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

/// The texts: a line in English, then a line in Chinese; other lines are empty or comments (`#`).
const CHINESE: &str =
    concat!(include_str!("lang/zh.txt"), include_str!("lang/zh-help.txt"), include_str!("lang/zh-messages.txt"));

/// How deep translations are nested: a reason in a note in a line.
const MAX_DEPTH: usize = 6;

/// The longest text that is translated. Texts of the programs are shorter; text of servers and files may be longer.
const MAX_TEXT: usize = 2000;

/// A template with fewer letters joins words only.
const MIN_LETTERS: usize = 3;

/// The language of text for people. Records and JSON are always in English.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// English.
    #[default]
    En,
    /// Chinese.
    Zh,
}

impl Language {
    /// The language of the environment: the first of `LC_ALL`, `LC_MESSAGES` and `LANG` that is set.
    #[must_use]
    pub fn from_environment() -> Self {
        let set = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().filter_map(|name| std::env::var(name).ok());
        set.into_iter().find(|value| !value.is_empty()).map_or(Language::En, |value| Language::from_locale(&value))
    }

    fn from_locale(locale: &str) -> Self {
        if locale.to_ascii_lowercase().starts_with("zh") { Language::Zh } else { Language::En }
    }

    /// The text in this language; unchanged if the table does not have it.
    #[must_use]
    pub fn translate(self, english: &str) -> Cow<'_, str> {
        match self {
            Language::En => Cow::Borrowed(english),
            Language::Zh => TABLE.translate(english, 0).map_or(Cow::Borrowed(english), Cow::Owned),
        }
    }

    /// The text in this language, if it has no places and the table has it.
    #[must_use]
    pub fn find_text(self, english: &str) -> Option<&'static str> {
        match self {
            Language::En => None,
            Language::Zh => TABLE.fixed.get(english).copied(),
        }
    }
}

static TABLE: LazyLock<TextTable> = LazyLock::new(|| TextTable::parse(CHINESE));

/// The translations of texts.
struct TextTable {
    /// Texts without places to fill in.
    fixed: HashMap<&'static str, &'static str>,
    /// The others, those with the longest fixed parts first, because they are the most specific ones.
    templates: Vec<Template>,
}

/// A text with places to fill in: its fixed parts, and its translation.
struct Template {
    parts: Vec<&'static str>,
    translation: &'static str,
}

impl TextTable {
    fn parse(text: &'static str) -> Self {
        let mut table = TextTable { fixed: HashMap::new(), templates: Vec::new() };
        for (english, translation) in text_pairs(text) {
            if english.contains("{}") {
                table.templates.push(Template { parts: english.split("{}").collect(), translation });
            } else {
                table.fixed.insert(english, translation);
            }
        }
        table.templates.sort_by_key(|template| std::cmp::Reverse(template.rank()));
        table
    }

    fn translate(&self, english: &str, depth: usize) -> Option<String> {
        let text = english.trim();
        if text.is_empty() || text.len() > MAX_TEXT || !text.contains(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        let found = self.fixed.get(text).map(|found| (*found).to_owned()).or_else(|| {
            let fill = |template: &Template| self.fill(template, &template.match_text(text)?, depth);
            self.templates.iter().filter(|_| depth < MAX_DEPTH).find_map(fill)
        })?;
        // The space at both ends aligns columns.
        let start = english.len() - english.trim_start().len();
        Some(english[..start].to_owned() + &found + &english[start + text.len()..])
    }

    /// The translation of a template, with the translations of what fills it. A template of punctuation joins texts: `None` if none of
    /// them has a translation.
    fn fill(&self, template: &Template, values: &[&str], depth: usize) -> Option<String> {
        let mut filled = String::new();
        let mut is_translated = template.has_words();
        let mut next = 0;
        for (fixed, place) in translation_parts(template.translation) {
            filled.push_str(fixed);
            let Some(place) = place else { continue };
            let at = place.index.unwrap_or(next);
            next = at + 1;
            let value = values.get(at).copied().unwrap_or_default();
            let translated = (!place.is_name).then(|| self.translate(value, depth + 1)).flatten();
            is_translated |= translated.is_some();
            filled.push_str(translated.as_deref().unwrap_or(value));
        }
        is_translated.then_some(filled)
    }
}

impl Template {
    fn has_words(&self) -> bool {
        self.parts.iter().any(|part| part.contains(|c: char| c.is_ascii_alphabetic()))
    }

    fn letters(&self) -> usize {
        self.parts.iter().flat_map(|part| part.chars()).filter(char::is_ascii_alphabetic).count()
    }

    /// Which of several matching templates is taken: the one with the longest fixed parts. What joins texts comes before short words,
    /// which may be anywhere in the joined texts.
    fn rank(&self) -> usize {
        match self.parts.concat().as_str() {
            ": " => 14,
            "; " => 12,
            ", " | "], " => 10,
            // It has the joint itself: `cannot read {}: {}`.
            fixed if !self.parts[0].is_empty() && fixed.contains(": ") => fixed.len().max(15),
            fixed => fixed.len(),
        }
    }

    /// What fills the places, if the text is made from this template.
    fn match_text<'t>(&self, text: &'t str) -> Option<Vec<&'t str>> {
        let (first, others) = self.parts.split_first()?;
        let (last, middle) = others.split_last()?;
        let mut rest = text.strip_prefix(first)?;
        let mut values = Vec::with_capacity(others.len());
        for part in middle {
            let at = rest.find(part)?;
            values.push(&rest[..at]);
            rest = &rest[at + part.len()..];
        }
        values.push(rest.strip_suffix(last)?);
        // A short word may be anywhere in a text: `3 of 8`, but `a flag of vb-gen`.
        let is_word = |value: &&str| !value.contains(' ');
        if self.has_words() && self.letters() < MIN_LETTERS && !values.iter().all(is_word) {
            return None;
        }
        // Else a template would take the beginning of a longer text for its first value: `server: 5 requests`.
        let joined = first.is_empty() && self.has_words() && [": ", "; "].iter().any(|joint| values[0].contains(joint));
        (!joined).then_some(values)
    }
}

/// The pairs of a table.
fn text_pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    std::iter::from_fn(move || Some((lines.next()?, lines.next().unwrap_or_default())))
}

/// A place of a translation: `{}` is the next one, `{1}` the second. `{=}` and `{=1}` are names, which are the same in every language.
#[derive(Clone, Copy)]
struct Place {
    index: Option<usize>,
    is_name: bool,
}

/// Splits a translation at its places: the text before each, and the place. The last part has none.
fn translation_parts(text: &str) -> impl Iterator<Item = (&str, Option<Place>)> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let place = text.find('{').and_then(|start| Some((start, start + text[start..].find('}')?)));
        let Some((start, end)) = place else {
            rest = None;
            return Some((text, None));
        };
        rest = Some(&text[end + 1..]);
        let (index, is_name) = match text[start + 1..end].strip_prefix('=') {
            Some(index) => (index, true),
            None => (&text[start + 1..end], false),
        };
        Some((&text[..start], Some(Place { index: index.parse().ok(), is_name })))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_locale_decides() {
        for (locale, language) in [
            ("zh_CN.UTF-8", Language::Zh),
            ("zh", Language::Zh),
            ("ZH_TW", Language::Zh),
            ("C", Language::En),
            ("en_US.UTF-8", Language::En),
            ("", Language::En),
        ] {
            assert_eq!(Language::from_locale(locale), language, "{locale}");
        }
    }

    #[test]
    fn places_are_filled_with_translations() {
        let table = TextTable::parse(
            "# a comment\n{} of {} failed: {}\n{1} 个请求中 {0} 个失败：{2}\n\nlate\n迟到\n\n{} ms late\n迟 {} 毫秒\n\n\
             no {}\n没有 {=}\n",
        );
        let translate = |text| table.translate(text, 0);
        assert_eq!(translate("2 of 8 failed: late").as_deref(), Some("8 个请求中 2 个失败：迟到"));
        assert_eq!(translate("  2 of 8 failed: 5 ms late ").as_deref(), Some("  8 个请求中 2 个失败：迟 5 毫秒 "));
        assert_eq!(translate("no late").as_deref(), Some("没有 late"));
        assert_eq!(translate("x: 5 ms late"), None);
        assert_eq!((translate("3 of 4"), translate("12.5"), translate(&"late ".repeat(999))), (None, None, None));
    }

    #[test]
    fn every_text_has_one_translation_with_the_same_places() {
        let mut seen = HashSet::new();
        for (english, chinese) in text_pairs(CHINESE) {
            assert!(seen.insert(english), "twice: {english}");
            let places = english.matches("{}").count();
            let mut next = 0;
            let mut used: Vec<usize> = Vec::new();
            for place in translation_parts(chinese).filter_map(|(_, place)| place) {
                let at = place.index.unwrap_or(next);
                next = at + 1;
                used.push(at);
            }
            used.sort_unstable();
            assert_eq!(used, (0..places).collect::<Vec<_>>(), "{english}\n{chinese}");
            assert!(english.trim() == english && !chinese.is_empty(), "{english}");
        }
    }

    #[test]
    fn english_stays_as_it_is() {
        assert!(matches!(Language::En.translate("steady"), Cow::Borrowed("steady")));
        assert_eq!(Language::Zh.translate("steady"), "稳态");
        assert_eq!(Language::Zh.translate("Qwen3-8B"), "Qwen3-8B");
    }
}
