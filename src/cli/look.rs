//! `--color` and `--lang`: how text for people looks.

use std::{
    ffi::OsString,
    io,
    sync::{PoisonError, RwLock},
};

use anstream::{ColorChoice, stream::RawStream};
use clap::ValueEnum;

use crate::{lang::Language, printout::Look};

/// The flags of all programs about text for people.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct LookFlags {
    /// Colours in tables and help; auto: on a terminal, unless the environment has `NO_COLOR`.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = ColorWhen::Auto, global = true)]
    color: ColorWhen,

    /// Language of tables, messages and `-h`; without it, `LC_ALL`, `LC_MESSAGES` or `LANG` decides. Records, JSON and CSV do not depend
    /// on it.
    #[arg(long, value_enum, global = true)]
    lang: Option<Language>,
}

/// When to use colours: `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ColorWhen {
    /// On a terminal.
    Auto,
    /// In files too.
    Always,
    /// Not even on a terminal.
    Never,
}

/// How messages look in this process.
static MESSAGES: RwLock<LookFlags> = RwLock::new(LookFlags { color: ColorWhen::Auto, lang: None });

impl LookFlags {
    /// The flags among these words of a command line, for `-h` and for errors in other flags: neither waits until all flags are parsed.
    #[must_use]
    pub fn from_words(words: &[OsString]) -> Self {
        LookFlags { color: last_value("--color", words).unwrap_or(ColorWhen::Auto), lang: last_value("--lang", words) }
    }

    /// Makes the messages that follow look like this.
    pub fn use_for_messages(self) {
        *MESSAGES.write().unwrap_or_else(PoisonError::into_inner) = self;
    }

    /// How messages look.
    #[must_use]
    pub fn of_messages() -> Self {
        *MESSAGES.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The language.
    #[must_use]
    pub fn language(self) -> Language {
        self.lang.unwrap_or_else(Language::from_environment)
    }

    /// On standard error.
    #[must_use]
    pub fn on_stderr(self) -> Look {
        self.on_stream(&io::stderr())
    }

    /// On standard output.
    #[must_use]
    pub fn on_stdout(self) -> Look {
        self.on_stream(&io::stdout())
    }

    fn on_stream(self, stream: &impl RawStream) -> Look {
        let colored = match self.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => anstream::AutoStream::choice(stream) != ColorChoice::Never,
        };
        let width = stream.is_terminal().then(terminal_width).flatten();
        Look { language: self.language(), colored, width }
    }
}

/// The value of a flag, as `--lang zh` or `--lang=zh`.
fn last_value<T: ValueEnum>(flag: &str, words: &[OsString]) -> Option<T> {
    let mut value = None;
    for (i, word) in words.iter().enumerate() {
        let word = word.to_str().and_then(|word| word.strip_prefix(flag));
        let text = match word {
            Some("") => words.get(i + 1).and_then(|next| next.to_str()),
            Some(inline) => inline.strip_prefix('='),
            None => None,
        };
        value = text.and_then(|text| T::from_str(text, false).ok()).or(value);
    }
    value
}

/// The width of the terminal: of any of the three standard streams, which share it.
fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_known_before_flags_are_parsed() {
        for (line, language) in [
            ("--lang zh -h", Some(Language::Zh)),
            ("-h --lang=zh", Some(Language::Zh)),
            ("--lang zh --lang en", Some(Language::En)),
            ("--lang", None),
            ("--lang de --language zh", None),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(LookFlags::from_words(&words).lang, language, "{line}");
        }
    }
}
