//! `vb-gen`: a dataset becomes requests.
//!
//! ```text
//! Args ─▶ Plan ─▶ a file for each dataset ─▶ fit (exact lengths) ─▶ writer ─▶ stdout
//! ```

mod cache_hit;
mod chat_text;
mod conversation;
mod custom;
mod distribution;
mod draws;
mod fit;
mod flags;
mod grid;
mod hf;
mod images;
mod length;
mod media;
mod mix;
mod multi_turn;
mod ordered;
mod prefixes;
mod random;
mod replay;
mod rerank;
mod rows;
mod session;
mod shared_prefix;
mod sharegpt;
mod sonnet;
mod spec_bench;
mod speed_bench;
mod table;
mod trace;
mod words;
mod writer;

use std::path::{Path, PathBuf};

use clap::{ArgAction, CommandFactory};
use serde_json::Value;

use self::{
    draws::LengthArgs,
    fit::Framed,
    flags::DatasetFlags,
    grid::GridFormat,
    hf::HfArgs,
    length::{OutputLen, RangeRatio},
    mix::MixArgs,
    multi_turn::Shape,
    ordered::{AHEAD, FEW},
    session::{SessionArgs, SessionPlan},
    trace::Form,
    writer::Writer,
};
use crate::{
    backend::Backend,
    cli,
    config::ConfigFlag,
    error::Error,
    record::{Object, SampleRequest},
    tokens::{Tokenizer, TokenizerServer},
    units::{parse_count, parse_tokens},
};

// The headings of `--help`.
const DATASET: &str = "Dataset";
const LENGTHS: &str = "Lengths";
const COUNTING: &str = "Counting tokens";
const OUTPUT: &str = "Output";

/// Writes requests for `vb-fire` to standard output, one JSON object a line.
///
/// Prompts are exactly as long as asked, counted as the server will count them, and each is checked. The same seed
/// gives the same bytes on any machine.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-gen", version, after_help = EXAMPLES, disable_help_subcommand = true, subcommand_precedence_over_arg = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// Where prompts come from.
    #[arg(long, help_heading = DATASET, value_enum, default_value_t = DatasetName::Random)]
    dataset_name: DatasetName,
    /// The dataset's file; `-` is standard input (custom, replay and traces). sonnet takes its lines from it.
    #[arg(long, help_heading = DATASET, value_name = "FILE")]
    dataset_path: Option<PathBuf>,
    /// How many requests to write; 0 is all rows of a file [default: 1000; all for replay, traces and mix].
    #[arg(long, help_heading = DATASET, value_name = "N", value_parser = parse_count, global = true)]
    num_prompts: Option<u64>,
    /// Another seed gives other prompts, which the server's prefix cache does not know; and other draws of mix.
    #[arg(long, help_heading = DATASET, value_name = "N", default_value_t = 0, global = true)]
    seed: u64,
    /// Keep the order of the file; of prefixes, one after the other.
    #[arg(long, help_heading = DATASET)]
    disable_shuffle: bool,
    /// Stop where the file has no more rows, instead of writing some of them twice.
    #[arg(long, help_heading = DATASET)]
    no_oversample: bool,
    /// Take what is whole of a file that was cut, and leave out bad rows.
    #[arg(long, help_heading = DATASET)]
    lenient: bool,
    #[command(flatten)]
    hf: HfArgs,
    #[command(flatten)]
    sessions: SessionArgs,

    /// Prompt tokens, as the server will count them, less the prefix [default: 1024; sonnet: 550, prefix included].
    #[arg(
        long,
        help_heading = LENGTHS,
        value_name = "TOKENS",
        aliases = ["random-input-len", "sonnet-input-len"],
        value_parser = parse_tokens
    )]
    input_len: Option<u32>,
    /// Tokens to generate; -1 with custom: each row's `output_tokens`; 0 for APIs that generate nothing [default: 128; sonnet: 150; custom, Spec-Bench
    /// and shared prefixes: 256; SPEED-Bench: 4096; sharegpt: the length of the real answer].
    #[arg(
        long,
        help_heading = LENGTHS,
        value_name = "TOKENS",
        aliases = ["random-output-len", "sharegpt-output-len", "custom-output-len", "sonnet-output-len", "prefix-repetition-output-len", "gsp-output-len", "spec-bench-output-len", "speed-bench-output-len", "hf-output-len"],
        allow_hyphen_values = true
    )]
    output_len: Option<OutputLen>,
    /// Vary lengths by up to this share either way, as 0.1 or {"input":0.1,"output":0.5} (random).
    #[arg(long, help_heading = LENGTHS, value_name = "RATIO", alias = "random-range-ratio", default_value = "0")]
    range_ratio: RangeRatio,
    /// Tokens that all prompts share in front, added to the input length; with sonnet part of it [default: 0;
    /// sonnet: 200].
    #[arg(
        long,
        help_heading = LENGTHS,
        value_name = "TOKENS",
        aliases = ["random-prefix-len", "sonnet-prefix-len"],
        value_parser = parse_tokens
    )]
    prefix_len: Option<u32>,
    /// Send token ids instead of text (random, prefixes, replay and traces).
    #[arg(long, help_heading = LENGTHS)]
    prompt_token_ids: bool,
    /// Let the model stop when it wants to: do not put `ignore_eos` into random requests.
    #[arg(long, help_heading = LENGTHS)]
    no_ignore_eos: bool,

    /// Put the model's chat template round each text: for --backend openai, which sends text as it is (custom, hf, sharegpt,
    /// Spec-Bench and SPEED-Bench).
    #[arg(long, help_heading = COUNTING)]
    apply_chat_template: bool,
    /// `builtin`, a tokenizer.json or its folder, an id on the Hugging Face hub, or `server` (asks --base-url).
    #[arg(long, help_heading = COUNTING, value_name = "NAME", default_value = "builtin")]
    tokenizer: String,
    /// The API that the requests are for: for those of chats, lengths are those of the whole rendered chat.
    #[arg(long, help_heading = COUNTING, value_enum, default_value = "openai")]
    backend: &'static Backend,
    /// The server, for --tokenizer server; the environment's `OPENAI_API_KEY` goes with each question.
    #[arg(long, help_heading = COUNTING, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    base_url: String,
    /// The model's name at the server, for --tokenizer server.
    #[arg(long, help_heading = COUNTING, value_name = "NAME")]
    model: Option<String>,

    /// What request ids begin with; a number follows [default: vb-SEED-].
    #[arg(long, help_heading = OUTPUT, value_name = "TEXT")]
    request_id_prefix: Option<String>,
    /// Put this into the `tags` of every request; may be given several times.
    #[arg(
        long,
        help_heading = OUTPUT,
        value_name = "KEY=VALUE",
        value_parser = cli::parse_key_value,
        action = ArgAction::Append,
        global = true
    )]
    tag: Vec<(String, String)>,
    /// Write the cells of the config's grid instead of requests [default format: json].
    #[arg(
        long,
        help_heading = OUTPUT,
        value_enum,
        value_name = "FORMAT",
        num_args(0..=1),
        default_missing_value = "json"
    )]
    grid: Option<GridFormat>,
    /// Print the JSON Schema of a request and leave.
    #[arg(long, help_heading = OUTPUT)]
    schema: bool,

    #[command(flatten)]
    lengths: LengthArgs,
    #[command(flatten)]
    trace: trace::Flags,
    #[command(flatten)]
    flags: DatasetFlags,
    #[command(flatten, next_help_heading = OUTPUT)]
    config: ConfigFlag,
}

const EXAMPLES: &str = "\
Examples:
  vb-gen --input-len 256 --output-len 128 --num-prompts 100 --tokenizer Qwen/Qwen2.5-7B-Instruct \\
    | vb-fire --base-url http://127.0.0.1:8000 --model M --max-concurrency 16 | vb-stats
  vb-gen --dataset-name sharegpt --dataset-path sharegpt.json --tokenizer ./model | tee requests.ndjson | vb-fire ...
  jq -c '{prompt: .question}' mine.jsonl | vb-gen --dataset-name custom --dataset-path - --num-prompts 0 | vb-fire ...
  vb-gen --dataset-name multi-turn --backend openai-chat --num-turns 5 --think-time exp:2s | vb-fire --backend openai-chat ...
  vb-gen --dataset-name replay --dataset-path outputs.ndjson | vb-fire ...
  vb-gen --dataset-name mooncake --dataset-path conversation_trace.jsonl --to 10m --speed 2 | vb-fire ...
  vb-gen mix 0.7=chat.ndjson 0.3=<(vb-gen --input-dist lognormal:2000,1500 --num-prompts 1000) | vb-fire ...
  vb-gen --grid tsv --config config.yaml | while IFS=$'\\t' read -r in out mc np seed name; do ...; done";

/// What else the tool does.
#[derive(Debug, clap::Subcommand)]
enum Command {
    Mix(MixArgs),
}

/// The datasets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DatasetName {
    /// Random words or token ids of exact length.
    Random,
    /// Real conversations: the first question, and the length of its answer.
    Sharegpt,
    /// Random text with images of noise, for chats.
    RandomMm,
    /// A random query and documents to rank.
    RandomRerank,
    /// Random text behind a few prefixes that repeat.
    #[value(name = "prefix_repetition", alias = "prefix-repetition")]
    PrefixRepetition,
    /// Groups of random questions, each behind a system prompt of its own.
    #[value(alias = "gsp")]
    GeneratedSharedPrefix,
    /// The questions of Spec-Bench.
    #[value(name = "spec_bench", alias = "spec-bench")]
    SpecBench,
    /// The prompts of SPEED-Bench.
    #[value(name = "speed_bench", alias = "speed-bench")]
    SpeedBench,
    /// Conversations of random words of exact length.
    MultiTurn,
    /// A Hugging Face dataset from a local file: parquet, JSON, JSONL or CSV.
    Hf,
    /// Lines of Shakespeare's sonnets, built in.
    Sonnet,
    /// Your own prompts: lines with `prompt` or `messages`, and images and sound.
    #[value(aliases = ["custom_image", "custom_audio", "custom_mm"])]
    Custom,
    /// Requests or outcomes that were saved.
    Replay,
    /// A trace of Mooncake's: times, lengths and shared blocks.
    Mooncake,
    /// A trace of Qwen's service (Bailian): times, lengths and shared blocks.
    #[value(alias = "bailian")]
    Qwen,
    /// A trace of Azure's, of 2023 or 2024: times and lengths.
    Azure,
    /// `BurstGPT`: times and lengths.
    Burstgpt,
}

impl DatasetName {
    /// Whether it is a trace, and of which form.
    fn trace(self) -> Option<Form> {
        match self {
            DatasetName::Mooncake => Some(Form::Mooncake),
            DatasetName::Qwen => Some(Form::Qwen),
            DatasetName::Azure => Some(Form::Azure),
            DatasetName::Burstgpt => Some(Form::Burstgpt),
            _ => None,
        }
    }

    /// Whether a load was saved in it, which is sent whole unless a number is asked for.
    fn is_saved(self) -> bool {
        self == DatasetName::Replay || self.trace().is_some()
    }

    /// Whether its requests are made up, and not the rows of a file.
    fn is_made_up(self) -> bool {
        use DatasetName::{GeneratedSharedPrefix, MultiTurn, PrefixRepetition, Random, RandomMm, RandomRerank, Sonnet};
        matches!(self, Random | RandomMm | RandomRerank | PrefixRepetition | GeneratedSharedPrefix | Sonnet | MultiTurn)
    }

    /// Where prompt lengths come from, unless from `--input-len`.
    fn own_lengths(self) -> Option<&'static str> {
        use DatasetName::{Custom, Hf, Replay, Sharegpt, SpecBench, SpeedBench};
        match self {
            DatasetName::PrefixRepetition => {
                Some("say --prefix-repetition-prefix-len and --prefix-repetition-suffix-len")
            }
            DatasetName::GeneratedSharedPrefix => {
                Some("say --gsp-system-prompt-len, --gsp-question-len and --gsp-range-ratio")
            }
            Sharegpt | Custom | Hf | Replay | SpecBench | SpeedBench => Some("its prompts are as long as they are"),
            _ if self.trace().is_some() => Some("its prompts are as long as the trace says"),
            _ => None,
        }
    }

    /// Tokens to generate, unless it is said.
    fn default_output_len(self) -> u32 {
        match self {
            DatasetName::Custom | DatasetName::Hf | DatasetName::GeneratedSharedPrefix | DatasetName::SpecBench => 256,
            DatasetName::SpeedBench => 4096,
            DatasetName::Sonnet => 150,
            _ => 128,
        }
    }
}

/// What was asked for, checked and with its defaults.
#[derive(Debug)]
struct Plan {
    tokenizer: Tokenizer,
    chat: bool,
    /// Whether images and sound may go with the text.
    takes_media: bool,
    /// Whether the server generates tokens for these requests.
    generates: bool,
    seed: u64,
    /// 0: all rows.
    num_prompts: u64,
    /// The number, if it was given.
    num_prompts_typed: Option<u64>,
    flags: DatasetFlags,
    dataset_path: Option<PathBuf>,
    input_len: u32,
    output_len: Option<OutputLen>,
    default_output_len: u32,
    range_ratio: RangeRatio,
    prefix_len: u32,
    prompt_token_ids: bool,
    no_ignore_eos: bool,
    shuffle: bool,
    oversample: bool,
    lenient: bool,
    lengths: LengthArgs,
    apply_chat_template: bool,
    multi_turn: bool,
    sessions: SessionPlan,
    shape: Shape,
    hf: HfArgs,
}

impl Plan {
    /// How a text reaches the model.
    fn framed(&self) -> Result<Framed<'_>, Error> {
        Framed::new(&self.tokenizer, self.chat)
    }

    /// The dataset's file.
    fn file(&self) -> Result<&Path, Error> {
        self.dataset_path
            .as_deref()
            .ok_or_else(|| Error::Usage("this dataset needs a file: --dataset-path FILE".into()))
    }

    /// Tokens to generate, where every request has the same.
    fn output_tokens(&self) -> u32 {
        match self.output_len {
            Some(OutputLen::Tokens(n)) => n,
            _ => self.default_output_len,
        }
    }

    /// The body that makes a server generate all tokens that were asked for.
    fn ignore_eos(&self) -> Option<Object> {
        (!self.no_ignore_eos).then(|| Object::from_iter([("ignore_eos".to_owned(), Value::Bool(true))]))
    }
}

impl Args {
    /// Checks what cannot be checked flag by flag.
    fn check(&self) -> Result<(), Error> {
        use DatasetName::{
            Custom, GeneratedSharedPrefix, PrefixRepetition, Random, RandomMm, RandomRerank, Replay, Sonnet,
        };
        let wrong = |what: &str| Err(Error::Usage(what.into()));
        let dataset = self.dataset_name;
        self.flags.check(dataset)?;
        self.lengths.check()?;
        if (self.lengths.input() || self.lengths.output()) && !matches!(dataset, Random | RandomMm) {
            return wrong(
                "--input-dist, --output-dist, --lengths and --scenario work with --dataset-name random and random-mm only",
            );
        }
        if self.lengths.input() && (self.input_len.is_some() || self.range_ratio.input > 0.0) {
            return wrong("prompt lengths are said twice: leave out --input-len and --range-ratio");
        }
        if self.lengths.output() && (self.output_len.is_some() || self.range_ratio.output > 0.0) {
            return wrong("answer lengths are said twice: leave out --output-len and --range-ratio");
        }
        let made_of_ids = matches!(dataset, Random | PrefixRepetition | GeneratedSharedPrefix) || dataset.is_saved();
        if self.prompt_token_ids && !made_of_ids {
            return wrong(
                "--prompt-token-ids works with --dataset-name random, prefix_repetition, generated-shared-prefix, \
                 replay and traces only",
            );
        }
        if self.prompt_token_ids && !self.backend.takes_ids() {
            let backend = self.backend.name;
            return wrong(&format!(
                "--prompt-token-ids does not work with --backend {backend}, which takes text: use openai"
            ));
        }
        match (self.generates(), self.output_len) {
            (true, Some(OutputLen::Tokens(0))) => {
                return wrong("--output-len 0: an answer has at least 1 token (-1: each row's own length)");
            }
            (false, Some(len)) if len != OutputLen::Tokens(0) => {
                return wrong("nothing is generated here: leave out --output-len, or make it 0");
            }
            _ => {}
        }
        if self.output_len == Some(OutputLen::PerRow) && dataset != Custom {
            return wrong("--output-len -1 takes each row's own length, which only --dataset-name custom has");
        }
        if let Some(flag) = self.trace.given().filter(|_| dataset.trace().is_none()) {
            return wrong(&format!(
                "{flag} works with the traces only: --dataset-name mooncake, qwen, azure or burstgpt"
            ));
        }
        if self.num_prompts == Some(0) && dataset.is_made_up() {
            return wrong("--num-prompts 0 is all rows of a file, and this dataset has none: give a number");
        }
        if !dataset.is_made_up() && self.dataset_path.is_none() {
            return wrong("this dataset needs a file: --dataset-path FILE");
        }
        if dataset.is_made_up() && dataset != Sonnet && self.dataset_path.is_some() {
            return wrong(
                "this dataset reads no file: leave out --dataset-path, or name the file's dataset with --dataset-name",
            );
        }
        // Outcomes that are replayed get random prompts, which may share a prefix.
        let prefix = self.prefix_len.is_some() && dataset != Replay;
        if let Some(cure) = dataset.own_lengths()
            && (self.input_len.is_some() || prefix || self.range_ratio != RangeRatio::default())
        {
            return Err(Error::Usage(format!(
                "this dataset takes no --input-len, --prefix-len or --range-ratio: {cure}"
            )));
        }
        if dataset.is_saved() && self.output_len.is_some() {
            return wrong("this dataset takes no --output-len: its answers are as long as it says");
        }
        if dataset == Sonnet && self.range_ratio != RangeRatio::default() {
            return wrong("sonnet takes no --range-ratio: its prompts are whole lines, up to --input-len tokens");
        }
        if dataset == RandomRerank && (self.prefix_len.is_some() || self.no_ignore_eos) {
            return wrong("random-rerank takes no --prefix-len or --no-ignore-eos: nothing is generated");
        }
        self.check_api()?;
        self.hf.check(dataset)?;
        self.sessions.check(dataset, self.backend)
    }

    /// Checks that the API takes what the dataset has.
    fn check_api(&self) -> Result<(), Error> {
        use DatasetName::{Custom, Hf, Random, RandomMm, RandomRerank, Replay, Sharegpt, SpecBench, SpeedBench};
        let wrong = |what: &str| Err(Error::Usage(what.into()));
        let dataset = self.dataset_name;
        if dataset == RandomRerank && self.backend.is_chat() {
            return wrong(
                "a query and documents are no chat: --dataset-name random-rerank is for --backend vllm-rerank",
            );
        }
        if dataset == RandomMm && !self.backend.is_chat() {
            return wrong("images need a chat: --dataset-name random-mm works with --backend openai-chat");
        }
        if self.backend.needs_media() && !matches!(dataset, Custom | Hf | Replay) {
            return wrong(
                "--backend openai-audio sends sound, of which this dataset has none: --dataset-name custom or hf",
            );
        }
        let takes_lists = self.backend.takes_lists();
        if dataset == Random && self.flags.batch()?.random_batch_size > 1 && !takes_lists {
            return wrong(
                "--random-batch-size is for APIs that take a list of texts: give --backend openai-embeddings or vllm-pooling",
            );
        }
        let of_texts = matches!(dataset, Custom | Hf | Sharegpt | SpecBench | SpeedBench);
        if self.apply_chat_template && (self.backend.is_chat() || !of_texts) {
            return wrong(
                "--apply-chat-template works with --backend openai and --dataset-name custom, hf, sharegpt, spec_bench or \
                 speed_bench only: the server of a chat applies it itself",
            );
        }
        Ok(())
    }

    /// Whether the server generates tokens for these requests. A template may.
    fn generates(&self) -> bool {
        self.dataset_name != DatasetName::RandomRerank && self.backend.generates_tokens()
    }

    /// How many requests may wait for each thread that makes them.
    fn ahead(&self) -> usize {
        use DatasetName::{Custom, Hf, RandomMm};
        let media = self.backend.takes_media() && matches!(self.dataset_name, RandomMm | Custom | Hf);
        if media || self.sessions.multi_turn { FEW } else { AHEAD }
    }

    fn tokenizer(&self) -> Result<Tokenizer, Error> {
        if self.tokenizer != "server" {
            return Tokenizer::open(&self.tokenizer);
        }
        TokenizerServer::new(&self.base_url, self.model.clone(), cli::api_key()).map(Tokenizer::from_server)
    }

    fn plan(self) -> Result<Plan, Error> {
        self.check()?;
        let tokenizer = self.tokenizer()?;
        let sonnet = self.dataset_name == DatasetName::Sonnet;
        let chat = self.backend.is_chat();
        if chat && !tokenizer.knows_chats() {
            warn(format!(
                "the tokenizer {} has no chat template: prompt_len counts the text alone, and the server will count more; \
                 --tokenizer server knows",
                tokenizer.name()
            ));
        }
        Ok(Plan {
            tokenizer,
            chat,
            takes_media: self.backend.takes_media(),
            generates: self.generates(),
            seed: self.seed,
            num_prompts: self.num_prompts.unwrap_or(
                // Conversations that are counted are not cut.
                if self.dataset_name.is_saved() || self.sessions.num_conversations.is_some() { 0 } else { 1000 },
            ),
            num_prompts_typed: self.num_prompts,
            flags: self.flags,
            dataset_path: self.dataset_path,
            input_len: self.input_len.unwrap_or(if sonnet { 550 } else { 1024 }),
            output_len: self.output_len,
            default_output_len: self.dataset_name.default_output_len(),
            range_ratio: self.range_ratio,
            prefix_len: self.prefix_len.unwrap_or(if sonnet { 200 } else { 0 }),
            prompt_token_ids: self.prompt_token_ids,
            no_ignore_eos: self.no_ignore_eos,
            shuffle: !self.disable_shuffle,
            oversample: !self.no_oversample,
            lenient: self.lenient,
            lengths: self.lengths,
            apply_chat_template: self.apply_chat_template,
            multi_turn: self.sessions.multi_turn,
            sessions: SessionPlan::of(&self.sessions),
            shape: Shape::of(&self.sessions),
            hf: self.hf,
        })
    }
}

/// One line on standard error.
fn warn(what: impl std::fmt::Display) {
    cli::print_warning("vb-gen", what);
}

/// Runs the tool.
pub fn run(args: Args) -> Result<(), Error> {
    if args.command.is_some() {
        mix::check_flags(&Args::command(), cli::hyphenated_args())?;
    }
    if args.schema {
        return cli::print_schema::<SampleRequest>();
    }
    if let Some(format) = args.grid {
        let config = args.config.config.as_deref();
        let config = config.ok_or_else(|| Error::Usage("--grid is in a config: --config config.yaml".into()))?;
        return grid::run(config, format, args.seed);
    }
    let prefix = args.request_id_prefix.clone().unwrap_or_else(|| format!("vb-{}-", args.seed));
    let tags: Object = args.tag.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    let tags = (!tags.is_empty()).then_some(tags);
    let mut writer = Writer::new(prefix, tags, args.generates(), args.ahead(), args.sessions.max_model_len);
    if let Some(Command::Mix(mix)) = &args.command {
        mix::run(mix, args.seed, args.num_prompts.unwrap_or(0), &mut writer)?;
        return writer.finish();
    }
    let (dataset, trace) = (args.dataset_name, args.trace.clone());
    let plan = args.plan()?;
    match dataset {
        DatasetName::Random => random::run(&plan, &mut writer)?,
        DatasetName::RandomMm => images::run(&plan, &mut writer)?,
        DatasetName::RandomRerank => rerank::run(&plan, &mut writer)?,
        DatasetName::PrefixRepetition => prefixes::run(&plan, &mut writer)?,
        DatasetName::GeneratedSharedPrefix => shared_prefix::run(&plan, &mut writer)?,
        DatasetName::SpecBench => spec_bench::run(&plan, &mut writer)?,
        DatasetName::SpeedBench => speed_bench::run(&plan, &mut writer)?,
        DatasetName::Sharegpt => sharegpt::run(&plan, &mut writer)?,
        DatasetName::MultiTurn => multi_turn::run(&plan, &mut writer)?,
        DatasetName::Hf => hf::run(&plan, &mut writer)?,
        DatasetName::Sonnet => sonnet::run(&plan, &mut writer)?,
        DatasetName::Custom => custom::run(&plan, &mut writer)?,
        DatasetName::Replay => replay::run(&plan, &mut writer)?,
        DatasetName::Mooncake => trace::run(Form::Mooncake, &plan, &trace, &mut writer)?,
        DatasetName::Qwen => trace::run(Form::Qwen, &plan, &trace, &mut writer)?,
        DatasetName::Azure => trace::run(Form::Azure, &plan, &trace, &mut writer)?,
        DatasetName::Burstgpt => trace::run(Form::Burstgpt, &plan, &trace, &mut writer)?,
    }
    writer.finish()
}
