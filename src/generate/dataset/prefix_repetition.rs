//! `--dataset-name prefix_repetition`: random prompts that begin with one of several prefixes.

use clap::Args as _;

use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads};
use crate::{
    error::Error,
    generate::{
        common::Common,
        exact::{self, PrefixSchedule, PrefixedPrompts, RandomPrompts},
        writer::RequestWriter,
    },
    rng,
    units::{parse_count_u32, parse_tokens},
};

const HEADING: &str = "Dataset prefix_repetition";

/// Flags of `prefix_repetition`.
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_field_names)] // fields have the names of their flags
pub struct PrefixRepetitionFlags {
    /// Tokens per prefix.
    #[arg(
        long,
        help_heading = HEADING,
        value_name = "TOKENS",
        default_value = "256",
        value_parser = parse_tokens
    )]
    prefix_repetition_prefix_len: u32,
    /// Tokens per prompt after its prefix, including those that the server adds.
    #[arg(
        long,
        help_heading = HEADING,
        value_name = "TOKENS",
        default_value = "256",
        value_parser = parse_tokens
    )]
    prefix_repetition_suffix_len: u32,
    /// Number of prefixes.
    #[arg(
        long,
        help_heading = HEADING,
        value_name = "N",
        default_value = "10",
        value_parser = parse_count_u32
    )]
    prefix_repetition_num_prefixes: u32,
}

pub const DATASET: Dataset = Dataset {
    name: "prefix_repetition",
    aliases: &["prefix-repetition"],
    about: "Random text after a few prefixes that repeat",
    reads: Reads::Nothing,
    lengths: "use --prefix-repetition-prefix-len and --prefix-repetition-suffix-len",
    output: OutputTokens::Default(128),
    apis: Apis::Text,
    takes: &["prompt_token_ids"],
    flags: &[PrefixRepetitionFlags::augment_args],
    check: None,
    run,
};

/// Writes `--num-prompts` requests, each with one of the prefixes.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let args: PrefixRepetitionFlags = flags.read_group()?;
    if args.prefix_repetition_num_prefixes == 0 {
        return Err(Error::Usage("--prefix-repetition-num-prefixes must be at least 1".into()));
    }
    let random = RandomPrompts::from_common(common)?;
    let what = "what the server adds to a prompt";
    let suffix = exact::subtract_overhead(
        "--prefix-repetition-suffix-len",
        args.prefix_repetition_suffix_len,
        random.added_tokens(),
        what,
    )?;
    PrefixSchedule::check_memory(common.num_prompts, 4, args.prefix_repetition_num_prefixes)?;
    let mut order = PrefixSchedule::spread_evenly(common.num_prompts, args.prefix_repetition_num_prefixes);
    if common.shuffle {
        rng::shuffle_list(&mut order, &mut rng::random_stream(common.seed, "prefixes", 0));
    } else {
        order.sort_unstable();
    }
    let prefixed = PrefixedPrompts { random, uses: PrefixSchedule::new(order), tag: "prefix" };
    let lengths = (args.prefix_repetition_prefix_len as usize, suffix as usize, common.output_tokens());
    writer.write_numbered(common.num_prompts, |item| prefixed.make_request(common, item, lengths))
}
