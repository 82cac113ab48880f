//! The flags of `vb-gen`, and the checks that concern several of them.

use std::path::PathBuf;

use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches};

use super::{
    dataset::{self, Dataset, OutputTokens, OwnFlags},
    exact::{OutputLen, RangeRatio},
    grid::GridFormat,
    mix::MixArgs,
    ordered::{AHEAD, FEW},
    print_warning,
    session::SessionFlags,
};
use crate::{
    backend::Backend,
    cli::{self, look::LookFlags},
    config::ConfigFlag,
    error::Error,
    http::headers::flags_or_key,
    tokens::{Tokenizer, TokenizerServer},
    units::{parse_count, parse_tokens},
};

/// Headings of `--help` that datasets also use.
pub const DATASET: &str = "Dataset";
pub const LENGTHS: &str = "Lengths";
pub const CONVERSATIONS: &str = "Conversations";
/// The value of `--tokenizer` that asks the server, if one is named.
const AUTO: &str = "auto";
const COUNTING: &str = "Counting tokens";
const OUTPUT: &str = "Output";

/// The command line: the common flags, and the datasets' own flags, which each dataset reads itself.
#[derive(Debug)]
pub struct Args {
    pub(super) common: CommonFlags,
    pub(super) own: OwnFlags,
}

impl CommandFactory for Args {
    fn command() -> clap::Command {
        dataset::add_flags(CommonFlags::command())
    }

    fn command_for_update() -> clap::Command {
        dataset::add_flags(CommonFlags::command_for_update())
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Args { common: CommonFlags::from_arg_matches(matches)?, own: OwnFlags::new(matches) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Writes requests for `vb-fire` to standard output, one JSON object per line.
///
/// Prompts have exactly the requested length in tokens, as the server counts them, and each one is checked. The same
/// seed gives the same bytes on every machine.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-gen", version, after_help = EXAMPLES, disable_help_subcommand = true, subcommand_precedence_over_arg = true)]
pub struct CommonFlags {
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Where prompts come from.
    #[arg(long, help_heading = DATASET, value_enum, value_name = "NAME", default_value = "random")]
    pub dataset_name: &'static Dataset,
    /// The dataset's file; `-` is standard input (custom, replay and traces). sonnet reads its lines from it.
    #[arg(long, help_heading = DATASET, value_name = "FILE")]
    pub dataset_path: Option<PathBuf>,
    /// Number of requests; 0 is all rows of the file [default: 1000; all for replay, traces and mix].
    #[arg(long, help_heading = DATASET, value_name = "N", value_parser = parse_count, global = true)]
    pub num_prompts: Option<u64>,
    /// Seed of all random draws. Another seed gives other prompts, which the server's prefix cache does not have.
    #[arg(long, help_heading = DATASET, value_name = "N", default_value_t = 0, global = true)]
    pub seed: u64,
    /// Keep the order of the file, or write prefix after prefix.
    #[arg(long, help_heading = DATASET)]
    pub disable_shuffle: bool,
    /// Stop when the file has no more rows, instead of repeating some.
    #[arg(long, help_heading = DATASET)]
    pub no_oversample: bool,
    /// Skip bad rows, and use the complete part of a truncated file.
    #[arg(long, help_heading = DATASET)]
    pub lenient: bool,
    #[command(flatten)]
    pub sessions: SessionFlags,
    /// Longest prompt and response together: a conversation ends before the turn that would exceed it [default: 8192;
    /// multi-turn: no limit]. Other requests that exceed it are counted on standard error.
    #[arg(long, help_heading = CONVERSATIONS, value_name = "TOKENS", value_parser = parse_tokens)]
    pub max_model_len: Option<u32>,

    /// Prompt tokens as the server counts them, without the shared prefix [default: 1024; sonnet: 550 including the
    /// prefix].
    #[arg(
        long,
        help_heading = LENGTHS,
        value_name = "TOKENS",
        aliases = ["random-input-len", "sonnet-input-len"],
        value_parser = parse_tokens
    )]
    pub input_len: Option<u32>,
    /// Tokens to generate. -1 (custom) uses each row's `output_tokens`; 0 is for APIs that generate nothing [default:
    /// 128; sonnet: 150; custom, hf, `spec_bench` and generated-shared-prefix: 256; `speed_bench`: 4096; sharegpt: the
    /// length of the real answer].
    #[arg(
        long,
        help_heading = LENGTHS,
        value_name = "TOKENS",
        aliases = ["random-output-len", "sharegpt-output-len", "custom-output-len", "sonnet-output-len", "prefix-repetition-output-len", "gsp-output-len", "spec-bench-output-len", "speed-bench-output-len", "hf-output-len"],
        allow_hyphen_values = true
    )]
    pub output_len: Option<OutputLen>,
    /// Vary lengths by up to this ratio in both directions: 0.1, or {"input":0.1,"output":0.5} (random).
    #[arg(long, help_heading = LENGTHS, value_name = "RATIO", alias = "random-range-ratio", default_value = "0")]
    pub range_ratio: RangeRatio,
    /// Tokens of a prefix that all prompts share, in addition to --input-len; for sonnet part of it [default: 0;
    /// sonnet: 200].
    #[arg(
        long,
        help_heading = LENGTHS,
        value_name = "TOKENS",
        aliases = ["random-prefix-len", "sonnet-prefix-len"],
        value_parser = parse_tokens
    )]
    pub prefix_len: Option<u32>,
    /// Send token ids instead of text (random, `prefix_repetition`, generated-shared-prefix, replay and traces).
    #[arg(long, help_heading = LENGTHS)]
    pub prompt_token_ids: bool,
    /// Let the model stop early: do not add `ignore_eos` to random requests.
    #[arg(long, help_heading = LENGTHS)]
    pub no_ignore_eos: bool,

    /// Apply the model's chat template to each text, for --backend openai, which sends text unchanged (custom, hf,
    /// sharegpt, `spec_bench` and `speed_bench`).
    #[arg(long, help_heading = COUNTING)]
    pub apply_chat_template: bool,
    /// `builtin`, a tokenizer.json or its folder, a model id on the Hugging Face hub, or `server` (asks --base-url). `auto`
    /// asks the server if --base-url is given and has /tokenize, and is `builtin` otherwise.
    #[arg(long, help_heading = COUNTING, value_name = "NAME", default_value = AUTO)]
    pub tokenizer: String,
    /// The API that the requests are for. With a chat API, lengths include the chat template.
    #[arg(long, help_heading = COUNTING, value_enum, default_value = "openai")]
    pub backend: &'static Backend,
    /// URL of the server that counts tokens [default: <http://127.0.0.1:8000> with --tokenizer server]. `OPENAI_API_KEY`, if
    /// set, is sent automatically.
    #[arg(long, help_heading = COUNTING, value_name = "URL")]
    pub base_url: Option<String>,
    /// Headers for the server that counts tokens.
    #[arg(long, help_heading = COUNTING, value_name = "NAME=VALUE", num_args = 1.., action = ArgAction::Append)]
    pub header: Vec<String>,
    /// Accept any TLS certificate of the server that counts tokens.
    #[arg(long, help_heading = COUNTING)]
    pub insecure: bool,
    /// Model name for --tokenizer server.
    #[arg(long, help_heading = COUNTING, value_name = "NAME")]
    pub model: Option<String>,

    /// Prefix of request ids; a number follows [default: vb-SEED-].
    #[arg(long, help_heading = OUTPUT, value_name = "TEXT")]
    pub request_id_prefix: Option<String>,
    /// Add this to the `tags` of every request; can be repeated.
    #[arg(
        long,
        help_heading = OUTPUT,
        value_name = "KEY=VALUE",
        value_parser = cli::parse_key_value,
        action = ArgAction::Append,
        global = true
    )]
    pub tag: Vec<(String, String)>,
    /// Write the cells of the config's grid instead of requests [default format: json].
    #[arg(
        long,
        help_heading = OUTPUT,
        value_enum,
        value_name = "FORMAT",
        num_args(0..=1),
        default_missing_value = "json"
    )]
    pub grid: Option<GridFormat>,
    /// Print the datasets with what they are and what they need, and exit.
    #[arg(long, help_heading = DATASET)]
    pub list_datasets: bool,
    /// Print the JSON Schema of a request and exit.
    #[arg(long, help_heading = OUTPUT)]
    pub schema: bool,

    #[command(flatten, next_help_heading = OUTPUT)]
    look: LookFlags,

    #[command(flatten, next_help_heading = OUTPUT)]
    pub config: ConfigFlag,
}

const EXAMPLES: &str = "\
Examples:
  vb-gen --input-len 256 --output-len 128 --num-prompts 100 \\
    | vb-fire --base-url http://127.0.0.1:8000 --max-concurrency 16 | vb-stats
  vb-gen --dataset-name sharegpt --dataset-path sharegpt.json \\
    --tokenizer Qwen/Qwen2.5-7B-Instruct | tee requests.ndjson | vb-fire ...
  jq -c '{prompt: .question}' mine.jsonl \\
    | vb-gen --dataset-name custom --dataset-path - | vb-fire ...
  vb-gen --dataset-name multi-turn --backend openai-chat --num-turns 5 \\
    --think-time exp:2s | vb-fire --backend openai-chat ...
  vb-gen --dataset-name replay --dataset-path outputs.ndjson | vb-fire ...
  vb-gen --dataset-name mooncake --dataset-path conversation_trace.jsonl \\
    --to 10m --speed 2 | vb-fire ...
  vb-gen mix 0.7=chat.ndjson 0.3=code.ndjson | vb-fire ...
  vb-gen --grid tsv --config config.yaml \\
    | while IFS=$'\\t' read -r in out mc np seed name; do ...; done";

/// Subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Mix(MixArgs),
}

impl CommonFlags {
    /// Whether the server generates tokens for these requests.
    pub fn generates_tokens(&self) -> bool {
        self.dataset_name.output != OutputTokens::Nothing && self.backend.generates_tokens()
    }

    /// How many finished requests may wait per thread.
    pub fn read_ahead(&self) -> usize {
        let media = self.backend.takes_media() && self.dataset_name.has_media();
        if media || self.sessions.multi_turn { FEW } else { AHEAD }
    }

    /// Opens the tokenizer of `--tokenizer`.
    pub fn open_tokenizer(&self) -> Result<Tokenizer, Error> {
        match (self.tokenizer.as_str(), &self.base_url) {
            ("server", url) => self.server_tokenizer(url.as_deref().unwrap_or("http://127.0.0.1:8000")),
            // No server has an endpoint for pairs of texts.
            (AUTO, Some(url)) if url != "sim" && self.backend.name != "vllm-rerank" => match self.probe_server(url) {
                Ok(tokenizer) => Ok(tokenizer),
                Err(e) => {
                    print_warning(format!(
                        "{e}; prompts are counted by the built-in tokenizer, so the server will count other lengths"
                    ));
                    Tokenizer::builtin()
                }
            },
            (AUTO, _) => Tokenizer::builtin(),
            (name, _) => Tokenizer::open(name),
        }
    }

    /// Whether the built-in tokenizer was chosen because the server does not count tokens.
    pub fn is_fallback(&self, tokenizer: &Tokenizer) -> bool {
        self.tokenizer == AUTO && self.base_url.is_some() && !tokenizer.is_remote()
    }

    fn server_tokenizer(&self, url: &str) -> Result<Tokenizer, Error> {
        let headers = flags_or_key(&self.header, cli::api_key())?;
        TokenizerServer::new(url, self.model.clone(), &headers, self.insecure).map(Tokenizer::from_server)
    }

    /// The server's tokenizer, if it works.
    fn probe_server(&self, url: &str) -> Result<Tokenizer, Error> {
        let tokenizer = self.server_tokenizer(url)?;
        tokenizer.encode("a", false)?;
        Ok(tokenizer)
    }
}

impl Args {
    /// Checks the flags that depend on each other.
    pub(super) fn check_flags(&self) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::Usage(what));
        let CommonFlags { dataset_name: dataset, backend, .. } = self.common;
        // A range ratio of 0 means no variation, so a config may set it for every dataset.
        dataset.check_flags(|flag| match flag {
            "range_ratio" => self.common.range_ratio != RangeRatio::default(),
            flag => self.own.is_given(flag),
        })?;
        dataset.check_backend(backend)?;
        if self.common.prompt_token_ids && !backend.takes_ids() {
            let backend = backend.name;
            return wrong(format!(
                "--prompt-token-ids does not work with --backend {backend}, which takes text: use --backend openai"
            ));
        }
        if self.common.apply_chat_template && backend.is_chat() {
            let backend = backend.name;
            return wrong(format!(
                "--apply-chat-template does not work with --backend {backend}, whose server applies the template itself: \
                 use --backend openai"
            ));
        }
        match (self.common.generates_tokens(), self.common.output_len) {
            (true, Some(OutputLen::Tokens(0))) => {
                return wrong("--output-len 0: a response has at least 1 token (-1: each row's own length)".into());
            }
            (false, Some(len)) if len != OutputLen::Tokens(0) => {
                return wrong("nothing is generated: leave out --output-len, or set it to 0".into());
            }
            _ => {}
        }
        let per_row = matches!(dataset.output, OutputTokens::DefaultOrRow(_));
        if self.common.output_len == Some(OutputLen::PerRow) && !per_row {
            return wrong("--output-len -1 uses each row's own length, which only --dataset-name custom has".into());
        }
        if self.common.num_prompts == Some(0) && dataset.is_made_up() {
            return wrong(format!(
                "--num-prompts 0 means all rows of a file, and --dataset-name {} has none: give a number",
                dataset.name
            ));
        }
        dataset.check.map_or(Ok(()), |check| check(self))
    }
}
