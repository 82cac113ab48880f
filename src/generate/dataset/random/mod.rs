//! `--dataset-name random`: random prompts, optionally with cache hits or several texts per request.

pub mod batches;
mod cache_hit;

use clap::Args as _;

use self::{batches::BatchFlags, cache_hit::CacheHitFlags};
use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads};
use crate::{
    error::Error,
    generate::{
        args::Args,
        common::Common,
        exact::{self, LengthFlags, LengthRange, LengthRanges, LengthSource, RandomPrompts},
        writer::{PromptLen, RequestWriter},
    },
    record::{Object, SampleRequest},
};

pub const DATASET: Dataset = Dataset {
    name: "random",
    aliases: &[],
    about: "Random words or token ids of exact length",
    reads: Reads::Nothing,
    lengths: "use --input-len, --prefix-len and --range-ratio",
    output: OutputTokens::Default(128),
    apis: Apis::Text,
    takes: &["input_len", "prefix_len", "range_ratio", "prompt_token_ids"],
    flags: &[LengthFlags::augment_args, CacheHitFlags::augment_args, BatchFlags::augment_args],
    check: Some(check_own_flags),
    run,
};

fn check_own_flags(args: &Args) -> Result<(), Error> {
    check_lengths(args)?;
    if args.own.read_group::<BatchFlags>()?.random_batch_size > 1 && !args.common.backend.takes_lists() {
        return Err(Error::Usage(
            "--random-batch-size is for APIs that take a list of texts: use --backend openai-embeddings or vllm-pooling"
                .into(),
        ));
    }
    Ok(())
}

/// Rejects lengths that are set in two ways.
pub fn check_lengths(args: &Args) -> Result<(), Error> {
    let lengths: LengthFlags = args.own.read_group()?;
    lengths.check_exclusive()?;
    let common = &args.common;
    if lengths.sets_input() && (common.input_len.is_some() || common.range_ratio.input > 0.0) {
        return Err(Error::Usage("prompt lengths are given twice: leave out --input-len and --range-ratio".into()));
    }
    if lengths.sets_output() && (common.output_len.is_some() || common.range_ratio.output > 0.0) {
        return Err(Error::Usage("output lengths are given twice: leave out --output-len and --range-ratio".into()));
    }
    Ok(())
}

/// Writes `--num-prompts` random requests.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let batch: BatchFlags = flags.read_group()?;
    let lengths: LengthFlags = flags.read_group()?;
    if let Some(cache) = flags.read_given::<CacheHitFlags>()? {
        if lengths.sets_input() || lengths.sets_output() {
            return Err(Error::Usage(
                "--cache-hit-ratio only works with --input-len, --output-len and --range-ratio".into(),
            ));
        }
        if batch.random_batch_size != 1 {
            return Err(Error::Usage(
                "--cache-hit-ratio needs one text per request: leave out --random-batch-size".into(),
            ));
        }
        return cache_hit::run(common, &cache, writer);
    }
    if batch.random_batch_size != 1 {
        return batches::run(common, &lengths, &batch, writer);
    }
    write_random(common, &lengths, writer, |_, _| Ok(()))
}

/// Writes `--num-prompts` random requests, each completed by `add`.
pub fn write_random(
    common: &Common,
    lengths: &LengthFlags,
    writer: &mut RequestWriter,
    add: impl Fn(u64, &mut SampleRequest) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let random = RandomPrompts::from_common(common)?;
    let lengths = length_source(common, lengths, &random)?;
    writer.write_numbered(common.num_prompts, |item| {
        let drawn = lengths.draw_lengths(common.seed, item);
        let input = drawn.input as usize;
        // A pair of lengths in a file may be shorter than what the server adds: the writer counts that as a wrong
        // length.
        let own = input.saturating_sub(random.added_tokens()).max(1);
        let (prompt, fitted) = random.make_prompt(item, own)?;
        let mut request = SampleRequest {
            prompt: Some(prompt),
            expected_output_len: Some(drawn.output),
            expected_cached_len: random.expected_cached(item),
            body: common.ignore_eos(),
            tags: drawn.scenario.map(|name| Object::from_iter([("scenario".to_owned(), name.into())])),
            ..SampleRequest::default()
        };
        add(item, &mut request)?;
        Ok((request, PromptLen { want: input + random.shared_tokens() - random.added_tokens(), ..fitted }))
    })
}

/// The ranges of the prompt's own tokens and of the output tokens.
pub fn length_ranges(common: &Common, args: &LengthFlags, random: &RandomPrompts) -> Result<LengthRanges, Error> {
    let what = if common.chat { "the chat template" } else { "the special tokens" };
    // Only check a length that the user set.
    let input = if args.sets_input() {
        1
    } else {
        exact::input_len_without(common.input_tokens(), random.added_tokens(), what)?
    };
    Ok(LengthRanges {
        input: LengthRange::from_ratio(input, common.range_ratio.input),
        output: LengthRange::from_ratio(common.output_tokens(), common.range_ratio.output),
    })
}

/// The lengths that the flags request.
pub fn length_source(common: &Common, args: &LengthFlags, random: &RandomPrompts) -> Result<LengthSource, Error> {
    let overhead = u32::try_from(random.added_tokens()).unwrap_or(u32::MAX - 1);
    LengthSource::from_flags(args, length_ranges(common, args, random)?, overhead, !common.shuffle, common.generates)
}
