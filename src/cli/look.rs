//! `--color` and `--lang`: how text for people looks.

use std::io;

use anstream::{ColorChoice, stream::RawStream};

use crate::{lang::Language, printout::Look};

/// The flags of all programs that print tables.
#[derive(Debug, Clone, clap::Args)]
pub struct LookFlags {
    /// Colours in tables; auto: on a terminal, unless the environment has `NO_COLOR`.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = ColorWhen::Auto)]
    color: ColorWhen,

    /// Language of tables, headlines and notes; without it, `LC_ALL`, `LC_MESSAGES` or `LANG` decides. JSON and CSV do not depend on it.
    #[arg(long, value_enum)]
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

impl LookFlags {
    /// On standard error.
    #[must_use]
    pub fn on_stderr(&self) -> Look {
        self.on_stream(&io::stderr())
    }

    /// On standard output.
    #[must_use]
    pub fn on_stdout(&self) -> Look {
        self.on_stream(&io::stdout())
    }

    fn on_stream(&self, stream: &impl RawStream) -> Look {
        let colored = match self.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => anstream::AutoStream::choice(stream) != ColorChoice::Never,
        };
        let width = stream.is_terminal().then(terminal_width).flatten();
        Look { language: self.lang.unwrap_or_else(Language::from_environment), colored, width }
    }
}

/// The width of the terminal: of any of the three standard streams, which share it.
fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
}
