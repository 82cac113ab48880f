//! `--random-batch-size` with random: several random texts in one request, for embeddings.

use crate::{
    error::Error,
    generate::{
        common::Common,
        exact::{LengthFlags, LengthSource, RandomPrompts},
        writer::{PromptLen, RequestWriter},
    },
    record::{Prompt, SampleRequest},
    units::parse_count_u32,
};

/// Heading of the flags for requests with several texts.
pub const HEADING: &str = "Embeddings and reranking (random, random-rerank)";

/// The flag for requests with several texts.
#[derive(Debug, Clone, clap::Args)]
pub struct BatchFlags {
    /// Texts per request: texts to embed, or documents to rank.
    #[arg(long, help_heading = HEADING, value_name = "N", default_value = "1", value_parser = parse_count_u32)]
    pub random_batch_size: u32,
}

/// Writes `--num-prompts` requests of several random texts each.
pub fn run(common: &Common, lengths: &LengthFlags, args: &BatchFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    if args.random_batch_size == 0 {
        return Err(Error::Usage("--random-batch-size must be at least 1".into()));
    }
    let random = RandomPrompts::from_common(common)?;
    let lengths = super::length_source(common, lengths, &random)?;
    if matches!(lengths, LengthSource::Scenarios(_)) {
        return Err(Error::Usage(
            "--scenario is drawn per request, but --random-batch-size puts several texts into each: set their lengths with \
             --input-dist"
                .into(),
        ));
    }
    let size = u64::from(args.random_batch_size);
    writer.write_numbered(common.num_prompts, |item| {
        let (mut texts, mut lists) = (Vec::new(), Vec::new());
        let mut fitted = PromptLen { want: 0, got: 0 };
        for number in item * size..(item + 1) * size {
            let drawn = lengths.draw_lengths(common.seed, number);
            // Each text is as long as a single prompt would be, including the tokens that the server adds.
            let input = drawn.input as usize;
            let (prompt, one) = random.make_prompt(number, input.saturating_sub(random.added_tokens()).max(1))?;
            let want = input + random.shared_tokens() - random.added_tokens();
            fitted = PromptLen { want: fitted.want + want, got: fitted.got + one.got };
            match prompt {
                Prompt::Text(text) => texts.push(text),
                Prompt::Ids(ids) => lists.push(ids),
                Prompt::Texts(_) | Prompt::IdLists(_) => {}
            }
        }
        let prompt = if lists.is_empty() { Prompt::Texts(texts) } else { Prompt::IdLists(lists) };
        Ok((SampleRequest { prompt: Some(prompt), ..SampleRequest::default() }, fitted))
    })
}
