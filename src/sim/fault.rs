//! Faults on demand: what a server may do wrong, and to which requests.
//!
//! `docs/SIM.md` has one table with what each does and what a right client must conclude.

use std::{fmt, str::FromStr};

use super::blocks::chain;
use crate::rng;

/// One fault with its number, as `stall@3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Where or how much: tokens, milliseconds or events, as the kind has it.
    pub n: u32,
}

/// A fault for a share of the requests, as `stall:0.1@3`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultRule {
    /// Which fault.
    pub fault: Fault,
    /// The share of the requests that get it, from 0 to 1.
    pub probability: f64,
}

macro_rules! fault_kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $default:literal;)*) => {
        /// What goes wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum FaultKind { $($(#[$doc])* $kind),* }

        impl FaultKind {
            /// Every fault, in the order of the documentation.
            pub const ALL: &[FaultKind] = &[$(FaultKind::$kind),*];

            /// The name in `--fault` and `vb_fault`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(FaultKind::$kind => $name),* }
            }

            /// The number where none is given.
            #[must_use]
            pub fn default_n(self) -> u32 {
                match self { $(FaultKind::$kind => $default),* }
            }
        }
    };
}

fault_kinds! {
    /// The connection is closed in place of an answer.
    CloseBeforeHeaders = "close_before_headers", 0;
    /// The connection is reset in place of an answer.
    ResetBeforeHeaders = "reset_before_headers", 0;
    /// The connection stays open without an answer.
    NeverAnswer = "never_answer", 0;
    /// The answer's head comes N milliseconds late, and all behind it.
    SlowHeaders = "slow_headers", 200;
    /// An error in place of an answer.
    Status400 = "status_400", 0;
    /// As above.
    Status401 = "status_401", 0;
    /// As above.
    Status404 = "status_404", 0;
    /// As above, with `retry-after`.
    Status429 = "status_429", 0;
    /// As above.
    Status500 = "status_500", 0;
    /// As above, with `retry-after`.
    Status503 = "status_503", 0;
    /// A proxy's page of HTML with status 500.
    Html500 = "html_500", 0;
    /// A page of HTML with status 200.
    Html200 = "html_200", 0;
    /// Nothing comes after N tokens, and the connection stays open.
    Stall = "stall", 3;
    /// The connection is reset after N tokens.
    Reset = "reset", 3;
    /// The connection is closed after N tokens, in the middle of the body.
    Cut = "cut", 3;
    /// The body ends properly after N tokens, without finish reason and `[DONE]`.
    EndEarly = "end_early", 3;
    /// An error object comes after N tokens, then `[DONE]`.
    ErrorInStream = "error_in_stream", 3;
    /// The engine gives the answer up after N tokens: the finish reason `abort`, and all that ends an answer.
    Abort = "abort", 3;
    /// One event after N tokens is cut JSON; the stream goes on.
    BadJson = "bad_json", 3;
    /// The size of a chunk after N tokens is no number.
    BadChunking = "bad_chunking", 3;
    /// CRLF, comments, `event:`, `id:`, `data:` without a space, data over two lines.
    Crlf = "crlf", 0;
    /// Every event in pieces of at most N bytes, cut within characters too, each written by itself.
    Split = "split", 11;
    /// N events in each write.
    Coalesce = "coalesce", 4;
    /// N tokens in each event after the first.
    MultiToken = "multi_token", 4;
    /// An event without text before each token.
    EmptyChunks = "empty_chunks", 0;
    /// The finish reason comes in an event of its own with empty text.
    FinishEmpty = "finish_empty", 0;
    /// No usage, although it was asked for.
    NoUsage = "no_usage", 0;
    /// The usage comes twice.
    DoubleUsage = "double_usage", 0;
    /// The usage comes with the last token.
    UsageInChoices = "usage_in_choices", 0;
    /// A finish reason, but no `[DONE]`.
    NoDone = "no_done", 0;
    /// `[DONE]`, but no finish reason.
    DoneOnly = "done_only", 0;
    /// A complete answer without a token.
    Empty = "empty", 0;
    /// The event with the role comes as soon as the request is accepted (chat).
    RoleEarly = "role_early", 0;
    /// The first half of the tokens is `reasoning`, and the usage counts them (chat).
    Reasoning = "reasoning", 0;
    /// The first half of the tokens is `reasoning_content` (chat).
    ReasoningContent = "reasoning_content", 0;
    /// The tokens are the arguments of a tool call (chat).
    ToolCalls = "tool_calls", 0;
}

impl FaultKind {
    /// The status and vLLM's name for it, for faults that answer with an error.
    #[must_use]
    pub fn status(self) -> Option<(u16, &'static str)> {
        match self {
            FaultKind::Status400 => Some((400, "BadRequestError")),
            FaultKind::Status401 => Some((401, "AuthenticationError")),
            FaultKind::Status404 => Some((404, "NotFoundError")),
            FaultKind::Status429 => Some((429, "RateLimitError")),
            FaultKind::Status500 => Some((500, "InternalServerError")),
            FaultKind::Status503 => Some((503, "ServiceUnavailableError")),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind.default_n() {
            0 => f.write_str(self.kind.name()),
            _ => write!(f, "{}@{}", self.kind.name(), self.n),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, n) = match text.split_once('@') {
            Some((name, n)) => (name, Some(n)),
            None => (text, None),
        };
        let kind = FaultKind::ALL.iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names: Vec<_> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
            format!("no fault is called `{name}`; there are {}", names.join(", "))
        })?;
        let n = match n {
            Some(n) => n.parse().map_err(|_| format!("`{n}` in `{text}` is not a whole number"))?,
            None => kind.default_n(),
        };
        Ok(Fault { kind: *kind, n })
    }
}

impl FromStr for FaultRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (head, n) = text.split_at(text.find('@').unwrap_or(text.len()));
        let (name, probability) = match head.split_once(':') {
            Some((name, probability)) => (name, probability.parse().unwrap_or(f64::NAN)),
            None => (head, 1.0),
        };
        if !(0.0..=1.0).contains(&probability) {
            return Err(format!("the share in `{text}` is not a number from 0 to 1: write it as stall:0.1@3"));
        }
        Ok(FaultRule { fault: format!("{name}{n}").parse()?, probability })
    }
}

/// The fault of a request, if any: the same for the same seed and request id.
#[must_use]
pub fn choose(rules: &[FaultRule], seed: u64, request_id: &str) -> Option<Fault> {
    let id: Vec<u32> = request_id.bytes().map(u32::from).collect();
    let drawn = rng::sample_unit(&mut rng::random_stream(seed, "fault", chain(0, &id)));
    let mut reach = 0.0;
    rules.iter().find_map(|rule| {
        reach += rule.probability;
        (drawn < reach).then_some(rule.fault)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_with_its_share_and_number() {
        for (text, kind, n, probability) in [
            ("stall", FaultKind::Stall, 3, 1.0),
            ("stall@0", FaultKind::Stall, 0, 1.0),
            ("slow_headers:0.25@50", FaultKind::SlowHeaders, 50, 0.25),
            ("status_429:0", FaultKind::Status429, 0, 0.0),
        ] {
            let rule: FaultRule = text.parse().unwrap();
            assert_eq!(rule, FaultRule { fault: Fault { kind, n }, probability }, "{text}");
        }
        for text in ["", "stal", "stall:2", "stall:x", "stall@x", "stall@-1"] {
            assert!(text.parse::<FaultRule>().is_err(), "{text}");
        }
        assert!("stal".parse::<Fault>().unwrap_err().contains("stall, reset"));
    }

    #[test]
    fn every_fault_comes_back_from_its_text() {
        for kind in FaultKind::ALL {
            let fault = Fault { kind: *kind, n: kind.default_n() };
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
    }

    #[test]
    fn faults_hit_their_share_and_the_same_requests_again() {
        let rules = ["stall:0.2".parse().unwrap(), "reset:0.3".parse().unwrap()];
        let chosen = |seed| (0..2000).map(|i| choose(&rules, seed, &format!("r{i}"))).collect::<Vec<_>>();
        let first = chosen(1);
        let share = |kind| first.iter().flatten().filter(|f| f.kind == kind).count();
        assert!((300..500).contains(&share(FaultKind::Stall)), "{}", share(FaultKind::Stall));
        assert!((500..700).contains(&share(FaultKind::Reset)), "{}", share(FaultKind::Reset));
        assert_eq!(first, chosen(1));
        assert_ne!(first, chosen(2));
        assert_eq!(choose(&[], 1, "r"), None);
    }
}
