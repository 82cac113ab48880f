//! Faults on demand: what the server does wrong, and for which requests.
//!
//! A table in `docs/SIM.md` says what each fault does and what a correct client must conclude.

use std::{fmt, str::FromStr};

use super::blocks::chain_hash;
use crate::rng;

/// A fault and its parameter, as in `stall@3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// The parameter: a number of tokens, milliseconds, bytes or events, depending on the kind.
    pub n: u32,
}

/// A fault for a share of the requests, as in `stall:0.1@3`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultRule {
    /// The fault.
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

            /// The parameter if none is given; 0: the fault takes no parameter.
            #[must_use]
            pub fn default_n(self) -> u32 {
                match self { $(FaultKind::$kind => $default),* }
            }
        }
    };
}

fault_kinds! {
    /// The connection is closed instead of a response.
    CloseBeforeHeaders = "close_before_headers", 0;
    /// The connection is reset instead of a response.
    ResetBeforeHeaders = "reset_before_headers", 0;
    /// The connection stays open without a response.
    NeverAnswer = "never_answer", 0;
    /// The response starts N milliseconds late.
    SlowHeaders = "slow_headers", 200;
    /// An error response with status 400.
    Status400 = "status_400", 0;
    /// An error response with status 401.
    Status401 = "status_401", 0;
    /// An error response with status 404.
    Status404 = "status_404", 0;
    /// An error response with status 429 and `retry-after`.
    Status429 = "status_429", 0;
    /// An error response with status 500.
    Status500 = "status_500", 0;
    /// An error response with status 503 and `retry-after`.
    Status503 = "status_503", 0;
    /// An HTML page with status 500, as from a proxy.
    Html500 = "html_500", 0;
    /// An HTML page with status 200.
    Html200 = "html_200", 0;
    /// The stream stops after N tokens, and the connection stays open.
    Stall = "stall", 3;
    /// The connection is reset after N tokens.
    Reset = "reset", 3;
    /// The connection is closed after N tokens, in the middle of the body.
    Cut = "cut", 3;
    /// The body ends regularly after N tokens, without finish reason and `[DONE]`.
    EndEarly = "end_early", 3;
    /// After N tokens, an error object is sent, then `[DONE]`.
    ErrorInStream = "error_in_stream", 3;
    /// The engine aborts the request after N tokens: the finish reason is `abort`, and the stream ends regularly.
    Abort = "abort", 3;
    /// After N tokens, one event contains truncated JSON; the stream continues.
    BadJson = "bad_json", 3;
    /// After N tokens, the size of an HTTP chunk is not a number.
    BadChunking = "bad_chunking", 3;
    /// Events with CRLF, comments, `event:`, `id:`, `data:` without a space, and data over two lines.
    Crlf = "crlf", 0;
    /// Every event is split into writes of at most N bytes, also inside characters.
    Split = "split", 11;
    /// N events share each write.
    Coalesce = "coalesce", 4;
    /// N tokens share each chunk after the first.
    MultiToken = "multi_token", 4;
    /// An event without text is sent before each token.
    EmptyChunks = "empty_chunks", 0;
    /// The finish reason is sent in a separate event with empty text.
    FinishEmpty = "finish_empty", 0;
    /// The usage is not sent although the client asked for it.
    NoUsage = "no_usage", 0;
    /// The usage is sent twice.
    DoubleUsage = "double_usage", 0;
    /// The usage is sent with the last token.
    UsageInChoices = "usage_in_choices", 0;
    /// The finish reason is sent, `[DONE]` is not.
    NoDone = "no_done", 0;
    /// `[DONE]` is sent, the finish reason is not.
    DoneOnly = "done_only", 0;
    /// The response is complete and has no tokens.
    Empty = "empty", 0;
    /// The event with the role is sent as soon as the request is accepted (chat).
    RoleEarly = "role_early", 0;
    /// The first half of the tokens is `reasoning`, and the usage counts them (chat).
    Reasoning = "reasoning", 0;
    /// The first half of the tokens is `reasoning_content` (chat).
    ReasoningContent = "reasoning_content", 0;
    /// The tokens are the arguments of a tool call (chat).
    ToolCalls = "tool_calls", 0;
}

impl FaultKind {
    /// The HTTP status and vLLM's name for it, for faults that send an error response.
    #[must_use]
    pub fn error_status(self) -> Option<(u16, &'static str)> {
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
            return Err(format!("the share in `{text}` is not a number from 0 to 1: write it as in stall:0.1@3"));
        }
        Ok(FaultRule { fault: format!("{name}{n}").parse()?, probability })
    }
}

/// Chooses the fault of a request, if any: the same for the same seed and request id.
#[must_use]
pub fn choose_fault(rules: &[FaultRule], seed: u64, request_id: &str) -> Option<Fault> {
    let id: Vec<u32> = request_id.bytes().map(u32::from).collect();
    let draw = rng::sample_unit(&mut rng::random_stream(seed, "fault", chain_hash(0, &id)));
    let mut cumulative = 0.0;
    rules.iter().find_map(|rule| {
        cumulative += rule.probability;
        (draw < cumulative).then_some(rule.fault)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_parsed_with_its_share_and_parameter() {
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
    fn every_fault_is_parsed_from_its_text() {
        for kind in FaultKind::ALL {
            let fault = Fault { kind: *kind, n: kind.default_n() };
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
    }

    #[test]
    fn faults_hit_their_share_and_always_the_same_requests() {
        let rules = ["stall:0.2".parse().unwrap(), "reset:0.3".parse().unwrap()];
        let chosen = |seed| (0..2000).map(|i| choose_fault(&rules, seed, &format!("r{i}"))).collect::<Vec<_>>();
        let first = chosen(1);
        let share = |kind| first.iter().flatten().filter(|f| f.kind == kind).count();
        assert!((300..500).contains(&share(FaultKind::Stall)), "{}", share(FaultKind::Stall));
        assert!((500..700).contains(&share(FaultKind::Reset)), "{}", share(FaultKind::Reset));
        assert_eq!(first, chosen(1));
        assert_ne!(first, chosen(2));
        assert_eq!(choose_fault(&[], 1, "r"), None);
    }
}
