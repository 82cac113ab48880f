//! `--dataset-name random-rerank`, and `--random-batch-size` with random: several random texts in one request.

use super::{
    Plan,
    draws::Draws,
    fit::Framed,
    length::{self, Range},
    random::{self, Random},
    writer::{Fitted, Writer},
};
use crate::{
    error::Error,
    record::{Prompt, SampleRequest},
    rng,
    units::parse_count_u32,
};

const HEADING: &str = "Embeddings and reranking (random, random-rerank)";

/// The flags of requests with several texts.
#[derive(Debug, Clone, clap::Args)]
pub struct BatchArgs {
    /// Texts in each request: those to embed, or the documents to rank.
    #[arg(long, help_heading = HEADING, value_name = "N", default_value = "1", value_parser = parse_count_u32)]
    pub random_batch_size: u32,
    /// The model embeds query and documents each alone, instead of reading them in pairs (random-rerank).
    #[arg(long, help_heading = HEADING)]
    pub no_reranker: bool,
}

/// A query and documents to rank, as the prompt `[query, document, …]`.
struct Ranking<'a> {
    texts: Random<'a>,
    seed: u64,
    documents: u64,
    /// Tokens of each query and document of its own.
    query: usize,
    document: Range,
    /// Tokens that the server adds to a pair, or to each text that it reads alone.
    added: usize,
    /// It reads the query and each document alone, and so the query once.
    alone: bool,
}

impl<'a> Ranking<'a> {
    fn new(plan: &'a Plan, args: &BatchArgs) -> Result<Self, Error> {
        let ranking = |texts, query: u32, document, added| Ranking {
            texts,
            seed: plan.seed,
            documents: u64::from(args.random_batch_size),
            query: query as usize,
            document: Range::around(document, plan.range_ratio.input),
            added,
            alone: args.no_reranker,
        };
        if args.no_reranker {
            let texts = Random::text(plan.framed()?, plan.seed, 0)?;
            let own = length::without(plan.input_len, texts.overhead(), "the special tokens")?;
            let added = texts.overhead();
            return Ok(ranking(texts, own, own, added));
        }
        let pair = plan.tokenizer.special_tokens_added_to_pair()?;
        let texts = Random::text(Framed::bare(&plan.tokenizer), plan.seed, 0)?;
        let own = length::without(plan.input_len, pair + 1, "a query, a document and the special tokens of a pair")?;
        let own = own + 1;
        Ok(ranking(texts, own / 2, own - own / 2, pair))
    }

    /// Request `item`, whose length is that of all its pairs, or of all its texts.
    fn request(&self, item: u64) -> Result<(SampleRequest, Fitted), Error> {
        // Numbers of texts, which tell them apart.
        let first = item * (self.documents + 1);
        let (query, got) = self.text(first, self.query)?;
        let mut texts = vec![query];
        let mut fitted = if self.alone {
            Fitted { want: self.query + self.added, got: got + self.added }
        } else {
            Fitted { want: 0, got: 0 }
        };
        let with_each = |query: usize| if self.alone { 0 } else { query };
        for number in first + 1..=first + self.documents {
            let own = self.document.draw(&mut rng::random_stream(self.seed, "lengths", number)) as usize;
            let (document, len) = self.text(number, own)?;
            fitted.want += with_each(self.query) + own + self.added;
            fitted.got += with_each(got) + len + self.added;
            texts.push(document);
        }
        Ok((SampleRequest { prompt: Some(Prompt::Texts(texts)), ..SampleRequest::default() }, fitted))
    }

    /// Text `number`, and its own tokens.
    fn text(&self, number: u64, own: usize) -> Result<(String, usize), Error> {
        let (prompt, fitted) = self.texts.prompt(number, own)?;
        let Prompt::Text(text) = prompt else {
            return Err(Error::Usage("a query and its documents are texts: leave out --prompt-token-ids".into()));
        };
        Ok((text, fitted.got.saturating_sub(self.texts.overhead())))
    }
}

/// Writes `--num-prompts` requests to rank documents.
pub fn run(plan: &Plan, writer: &mut Writer) -> Result<(), Error> {
    let args = plan.flags.batch()?;
    if args.random_batch_size == 0 {
        return Err(Error::Usage("--random-batch-size is 1 or more".into()));
    }
    let ranking = Ranking::new(plan, &args)?;
    writer.write_numbered(plan.num_prompts, |item| ranking.request(item))
}

/// Writes `--num-prompts` requests of several random prompts each, for embeddings.
pub fn batches(plan: &Plan, args: &BatchArgs, writer: &mut Writer) -> Result<(), Error> {
    if args.no_reranker {
        return Err(Error::Usage("--no-reranker works with --dataset-name random-rerank only".into()));
    }
    if args.random_batch_size == 0 {
        return Err(Error::Usage("--random-batch-size is 1 or more".into()));
    }
    let random = Random::of(plan)?;
    let lengths = random::draws(plan, &random)?;
    if matches!(lengths, Draws::Scenarios(_)) {
        return Err(Error::Usage(
            "--scenario is drawn for a request, and --random-batch-size puts several texts into each: say their lengths with \
             --input-dist"
                .into(),
        ));
    }
    let size = u64::from(args.random_batch_size);
    writer.write_numbered(plan.num_prompts, |item| {
        let (mut texts, mut lists) = (Vec::new(), Vec::new());
        let mut fitted = Fitted { want: 0, got: 0 };
        for number in item * size..(item + 1) * size {
            let drawn = lengths.draw(plan.seed, number);
            // As of single texts, of which what the server adds is a part.
            let input = drawn.input as usize;
            let (prompt, one) = random.prompt(number, input.saturating_sub(random.overhead()).max(1))?;
            let want = input + random.shared() - random.overhead();
            fitted = Fitted { want: fitted.want + want, got: fitted.got + one.got };
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
