//! `--dataset-name random-rerank`: a random query and documents to rank in one request.

use clap::Args as _;

use super::{
    Apis, Dataset, OutputTokens, OwnFlags, Reads,
    random::batches::{BatchFlags, HEADING},
};
use crate::{
    error::Error,
    generate::{
        common::Common,
        exact::{self, LengthRange, PromptCounter, RandomPrompts},
        writer::{PromptLen, RequestWriter},
    },
    record::{Prompt, SampleRequest},
    rng,
};

/// The flag that only random-rerank has.
#[derive(Debug, Clone, clap::Args)]
struct RerankFlags {
    /// For a model that embeds the query and each document separately, instead of reading them in pairs
    /// (random-rerank).
    #[arg(long, help_heading = HEADING)]
    no_reranker: bool,
}

pub const DATASET: Dataset = Dataset {
    name: "random-rerank",
    aliases: &[],
    about: "A random query and documents to rank",
    reads: Reads::Nothing,
    lengths: "use --input-len and --range-ratio; a query and its documents share no prefix",
    output: OutputTokens::Nothing,
    apis: Apis::TextList,
    takes: &["input_len", "range_ratio"],
    flags: &[BatchFlags::augment_args, RerankFlags::augment_args],
    check: None,
    run,
};

/// Makes a query and documents to rank, as the prompt `[query, document, …]`.
struct RerankPrompts<'a> {
    texts: RandomPrompts<'a>,
    seed: u64,
    documents: u64,
    /// Own tokens of the query.
    query: usize,
    document: LengthRange,
    /// Tokens that the server adds to each pair, or to each separate text.
    added: usize,
    /// Whether the server reads the query and each document separately, and so the query once.
    alone: bool,
}

impl<'a> RerankPrompts<'a> {
    fn new(common: &'a Common, documents: u32, alone: bool) -> Result<Self, Error> {
        let ranking = |texts, query: u32, document, added| RerankPrompts {
            texts,
            seed: common.seed,
            documents: u64::from(documents),
            query: query as usize,
            document: LengthRange::from_ratio(document, common.range_ratio.input),
            added,
            alone,
        };
        if alone {
            let texts = RandomPrompts::from_words(common.prompt_counter()?, common.seed, 0)?;
            let own = exact::input_len_without(common.input_tokens(), texts.added_tokens(), "the special tokens")?;
            let added = texts.added_tokens();
            return Ok(ranking(texts, own, own, added));
        }
        let pair = common.tokenizer.special_tokens_added_to_pair()?;
        let texts =
            RandomPrompts::from_words(PromptCounter::without_special_tokens(&common.tokenizer), common.seed, 0)?;
        let own = exact::input_len_without(
            common.input_tokens(),
            pair + 1,
            "a query, a document and the special tokens of a pair",
        )?;
        let own = own + 1;
        Ok(ranking(texts, own / 2, own - own / 2, pair))
    }

    /// Makes request `item`. Its length is the sum over all pairs, or over all texts.
    fn make_request(&self, item: u64) -> Result<(SampleRequest, PromptLen), Error> {
        // Each text has its own number, which makes it different from all others.
        let first = item * (self.documents + 1);
        let (query, got) = self.make_text(first, self.query)?;
        let mut texts = vec![query];
        let mut fitted = if self.alone {
            PromptLen { want: self.query + self.added, got: got + self.added }
        } else {
            PromptLen { want: 0, got: 0 }
        };
        let with_each = |query: usize| if self.alone { 0 } else { query };
        for number in first + 1..=first + self.documents {
            let own = self.document.draw_length(&mut rng::random_stream(self.seed, "lengths", number)) as usize;
            let (document, len) = self.make_text(number, own)?;
            fitted.want += with_each(self.query) + own + self.added;
            fitted.got += with_each(got) + len + self.added;
            texts.push(document);
        }
        Ok((SampleRequest { prompt: Some(Prompt::Texts(texts)), ..SampleRequest::default() }, fitted))
    }

    /// Makes text `number`, and returns its own tokens.
    fn make_text(&self, number: u64, own: usize) -> Result<(String, usize), Error> {
        let (prompt, fitted) = self.texts.make_prompt(number, own)?;
        let Prompt::Text(text) = prompt else {
            return Err(Error::Usage("a query and its documents are texts: leave out --prompt-token-ids".into()));
        };
        Ok((text, fitted.got.saturating_sub(self.texts.added_tokens())))
    }
}

/// Writes `--num-prompts` requests to rank documents.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let documents = flags.read_group::<BatchFlags>()?.random_batch_size;
    if documents == 0 {
        return Err(Error::Usage("--random-batch-size must be at least 1".into()));
    }
    let ranking = RerankPrompts::new(common, documents, flags.read_group::<RerankFlags>()?.no_reranker)?;
    writer.write_numbered(common.num_prompts, |item| ranking.make_request(item))
}
