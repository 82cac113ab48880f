//! `--dataset-name random`: random prompts, optionally with cache hits or several texts a request.

pub mod batches;
mod cache_hit;

use clap::Args as _;

use self::{batches::BatchArgs, cache_hit::CacheArgs};
use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads};
use crate::{
    error::Error,
    generate::{
        args::Args,
        common::Common,
        exact::{self, Draws, LengthArgs, Lengths, Random, Range},
        writer::{Fitted, RequestWriter},
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
    flags: &[LengthArgs::augment_args, CacheArgs::augment_args, BatchArgs::augment_args],
    check,
    run,
};

fn check(args: &Args) -> Result<(), Error> {
    check_lengths(args)?;
    if args.own.read_group::<BatchArgs>()?.random_batch_size > 1 && !args.common.backend.takes_lists() {
        return Err(Error::Usage(
            "--random-batch-size is for APIs that take a list of texts: use --backend openai-embeddings or vllm-pooling"
                .into(),
        ));
    }
    Ok(())
}

/// Refuses lengths that are given in two ways.
pub fn check_lengths(args: &Args) -> Result<(), Error> {
    let lengths: LengthArgs = args.own.read_group()?;
    lengths.check()?;
    let common = &args.common;
    if lengths.input() && (common.input_len.is_some() || common.range_ratio.input > 0.0) {
        return Err(Error::Usage("prompt lengths are given twice: leave out --input-len and --range-ratio".into()));
    }
    if lengths.output() && (common.output_len.is_some() || common.range_ratio.output > 0.0) {
        return Err(Error::Usage("output lengths are given twice: leave out --output-len and --range-ratio".into()));
    }
    Ok(())
}

/// Writes `--num-prompts` random requests.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let batch: BatchArgs = flags.read_group()?;
    let lengths: LengthArgs = flags.read_group()?;
    if let Some(cache) = flags.read_given::<CacheArgs>()? {
        if lengths.input() || lengths.output() {
            return Err(Error::Usage(
                "--cache-hit-ratio works with --input-len, --output-len and --range-ratio only".into(),
            ));
        }
        if batch.random_batch_size != 1 {
            return Err(Error::Usage(
                "--cache-hit-ratio counts one text a request: leave out --random-batch-size".into(),
            ));
        }
        return cache_hit::run(common, &cache, writer);
    }
    if batch.random_batch_size != 1 {
        return batches::run(common, &lengths, &batch, writer);
    }
    write_random(common, &lengths, writer, |_, _| Ok(()))
}

/// Writes `--num-prompts` random requests, to each of which `add` may add something.
pub fn write_random(
    common: &Common,
    lengths: &LengthArgs,
    writer: &mut RequestWriter,
    add: impl Fn(u64, &mut SampleRequest) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let random = Random::of(common)?;
    let lengths = draws(common, lengths, &random)?;
    writer.write_numbered(common.num_prompts, |item| {
        let drawn = lengths.draw(common.seed, item);
        let input = drawn.input as usize;
        // A pair of a file may be shorter than what the server adds: the writer counts it as a misfit.
        let own = input.saturating_sub(random.overhead()).max(1);
        let (prompt, fitted) = random.prompt(item, own)?;
        let mut request = SampleRequest {
            prompt: Some(prompt),
            expected_output_len: Some(drawn.output),
            expected_cached_len: random.meant_cached(item),
            body: common.ignore_eos(),
            tags: drawn.scenario.map(|name| Object::from_iter([("scenario".to_owned(), name.into())])),
            ..SampleRequest::default()
        };
        add(item, &mut request)?;
        Ok((request, Fitted { want: input + random.shared() - random.overhead(), ..fitted }))
    })
}

/// The common's range of lengths: of what prompts have beside that which they share, and of answers.
pub fn lengths(common: &Common, args: &LengthArgs, random: &Random) -> Result<Lengths, Error> {
    let what = if common.chat { "the chat template" } else { "the special tokens" };
    // Not where nobody asked for this length.
    let input = if args.input() { 1 } else { exact::without(common.input_tokens(), random.overhead(), what)? };
    Ok(Lengths {
        input: Range::around(input, common.range_ratio.input),
        output: Range::around(common.output_tokens(), common.range_ratio.output),
    })
}

/// The common's lengths, wherever they come from.
pub fn draws(common: &Common, args: &LengthArgs, random: &Random) -> Result<Draws, Error> {
    let overhead = u32::try_from(random.overhead()).unwrap_or(u32::MAX - 1);
    Draws::of(args, lengths(common, args, random)?, overhead, !common.shuffle, common.generates)
}
