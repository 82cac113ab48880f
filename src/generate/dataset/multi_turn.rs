//! `--dataset-name multi-turn`: conversations of random words, with an exact number of tokens per turn.

use clap::Args as _;
use rand::Rng;

use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads};
use crate::{
    error::Error,
    generate::{
        args::{Args, CONVERSATIONS},
        common::Common,
        exact::{LengthRange, PromptCounter, TextDraft, WordList},
        ordered::{Demand, FEW, NextItem, make_in_order},
        print_warning,
        session::{ResponseSource, ScriptedTurn, SessionFlags, SessionRequests, build_session, check_turns},
        writer::{PromptLen, RequestWriter},
    },
    rng,
    units::{parse_count_u32, parse_tokens},
};

/// Flags that only multi-turn has.
#[derive(Debug, clap::Args)]
struct TurnFlags {
    /// Fewest turns of a conversation, with --max-turns (multi-turn).
    #[arg(long, help_heading = CONVERSATIONS, value_name = "N", alias = "multi-turn-min-turns", value_parser = parse_count_u32)]
    min_turns: Option<u32>,
    /// Turns of each conversation (multi-turn) [default: 3].
    #[arg(long, help_heading = CONVERSATIONS, value_name = "N", alias = "multi-turn-num-turns", value_parser = parse_count_u32)]
    num_turns: Option<u32>,
    /// Tokens of each user message after the first, which has --input-len tokens (multi-turn) [default: --input-len].
    #[arg(long, help_heading = CONVERSATIONS, value_name = "TOKENS", value_parser = parse_tokens)]
    per_turn_input_len: Option<u32>,
    /// Tokens of a prefix for each conversation, such as a document; it follows the shared --prefix-len (multi-turn)
    /// [default: 0].
    #[arg(long, help_heading = CONVERSATIONS, value_name = "TOKENS", value_parser = parse_tokens)]
    conversation_prefix_len: Option<u32>,
}

pub const DATASET: Dataset = Dataset {
    name: "multi-turn",
    aliases: &[],
    about: "Conversations of random words of exact length",
    reads: Reads::Nothing,
    lengths: "use --input-len, --prefix-len and --range-ratio",
    output: OutputTokens::Default(128),
    apis: Apis::Text,
    takes: &["input_len", "prefix_len", "range_ratio"],
    flags: &[SessionFlags::augment_args, TurnFlags::augment_args],
    check: Some(check_own_flags),
    run,
};

fn check_own_flags(args: &Args) -> Result<(), Error> {
    let wrong = |what: &str| Err(Error::Usage(what.into()));
    let turns: TurnFlags = args.own.read_group()?;
    let max_turns = args.common.sessions.max_turns;
    if [turns.num_turns, turns.min_turns].contains(&Some(0)) {
        return wrong("a conversation needs at least 1 turn");
    }
    if turns.min_turns.is_some() != max_turns.is_some() {
        return wrong("--min-turns and --max-turns are the two ends of a range: give both, or --num-turns");
    }
    if turns.num_turns.is_some() && turns.min_turns.is_some() {
        return wrong("give --num-turns, or --min-turns and --max-turns, not both");
    }
    if turns.min_turns > max_turns {
        return wrong("--min-turns is greater than --max-turns");
    }
    check_turns(args)
}

/// Lengths of conversations.
#[derive(Debug, Clone, Copy)]
struct TurnLengths {
    /// Fewest and most turns.
    turns: (u64, u64),
    /// Tokens of user messages after the first; `None`: the same as the first.
    later_input_len: Option<u32>,
    /// Tokens of the conversation's own prefix.
    own_prefix_len: u32,
}

impl TurnLengths {
    /// Applies the defaults.
    fn from_flags(args: &TurnFlags, max_turns: Option<u32>) -> Self {
        let always = args.num_turns.unwrap_or(3);
        let turns = (args.min_turns.unwrap_or(always).into(), max_turns.unwrap_or(always).into());
        TurnLengths {
            turns,
            later_input_len: args.per_turn_input_len,
            own_prefix_len: args.conversation_prefix_len.unwrap_or(0),
        }
    }
}

/// Writes `--num-conversations` conversations, or `--num-prompts` turns.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let shape = TurnLengths::from_flags(&flags.read_group()?, common.sessions.max_turns);
    let maker = ConversationMaker::new(common, shape)?;
    let mut cut = 0;
    // Each conversation has at least one turn, so no more conversations are started than turns are needed.
    let turns = Some(common.num_prompts).filter(|n| *n > 0);
    let most = common.sessions.num_conversations.into_iter().chain(turns).min().unwrap_or(u64::MAX);
    make_in_order(
        FEW,
        |item| (item < most).then(|| maker.make_conversation(item)),
        |turn| {
            match turn {
                NextItem::Wait => writer.flush()?,
                NextItem::Item(made) => {
                    let session = made?;
                    cut += u64::from(session.is_cut());
                    common.write_session(&session, writer)?;
                }
            }
            Ok(if common.is_complete(writer) { Demand::No } else { Demand::Yes })
        },
    )?;
    if cut > 0 {
        print_warning(format!(
            "{cut} conversations have fewer turns than requested: the next turn would exceed --max-model-len {}",
            common.sessions.max_model_len
        ));
    }
    Ok(())
}

/// Makes each conversation from its number alone.
struct ConversationMaker<'a> {
    common: &'a Common,
    shape: TurnLengths,
    counter: PromptCounter<'a>,
    words: WordList,
    /// The prefix of all conversations.
    prefix: String,
}

impl<'a> ConversationMaker<'a> {
    fn new(common: &'a Common, shape: TurnLengths) -> Result<Self, Error> {
        let counter = common.prompt_counter()?;
        let words = WordList::from_tokenizer(&common.tokenizer, common.seed)?;
        let mut maker = ConversationMaker { common, shape, counter, words, prefix: String::new() };
        let mut rng = rng::random_stream(common.seed, "prefix", 0);
        let head = rng.next_u64();
        maker.prefix = maker.make_text("", common.prefix_tokens(), Some(head), &mut rng)?.0;
        Ok(maker)
    }

    /// Extends `fixed` with random words to `len` tokens, and returns the text and its actual length. `head` selects
    /// the first word.
    fn make_text(
        &self,
        fixed: &str,
        len: u32,
        head: Option<u64>,
        rng: &mut impl Rng,
    ) -> Result<(String, usize), Error> {
        let count = |text: &str| self.counter.tokenizer.count(text);
        let mut draft = TextDraft::starting_with(fixed);
        let mut missing = (len as usize).saturating_sub(count(fixed)?);
        if missing > 0 && (fixed.is_empty() || head.is_some()) {
            draft.push(self.words.head_word(head.unwrap_or_else(|| rng.next_u64()), fixed.is_empty()));
            missing -= 1;
        }
        (0..missing).for_each(|_| draft.push(self.words.draw_word(rng)));
        draft.fit_tokens(len as usize, count, || self.words.draw_word(rng))
    }

    /// Makes conversation `item`.
    fn make_conversation(&self, item: u64) -> Result<SessionRequests, Error> {
        let Common { seed, range_ratio, .. } = *self.common;
        let (shape, prefix_len) = (self.shape, self.common.prefix_tokens());
        let mut lengths = rng::random_stream(seed, "lengths", item);
        let mut rng = rng::random_stream(seed, "prompt", item);
        let first_len = self.common.input_tokens();
        let [first, later] = [first_len, shape.later_input_len.unwrap_or(first_len)];
        let [first, later] = [first, later].map(|len| LengthRange::from_ratio(len, range_ratio.input));
        let output = LengthRange::from_ratio(self.common.output_tokens(), range_ratio.output);

        // The first text that is not shared begins with a word that distinguishes the conversation from all others.
        let own_prefix = shape.own_prefix_len > 0;
        let system_len = prefix_len + shape.own_prefix_len;
        let (system, _) = self.make_text(&self.prefix, system_len, own_prefix.then_some(item), &mut rng)?;
        let turn_count = rng::sample_between(&mut lengths, shape.turns.0, shape.turns.1);
        let turns = (0..turn_count).map(|turn| {
            let len = if turn == 0 { first } else { later }.draw_length(&mut lengths);
            let response_len = output.draw_length(&mut lengths);
            let head = (turn == 0 && !own_prefix).then_some(item);
            let (user, got) = self.make_text("", len, head, &mut rng)?;
            let response = match self.common.sessions.replies {
                ResponseSource::Server => String::new(),
                ResponseSource::Dataset => self.make_text("", response_len, None, &mut rng)?.0,
            };
            Ok(ScriptedTurn { user, response, response_len, asked: PromptLen { want: len as usize, got } })
        });
        let cached = if item == 0 { 0 } else { prefix_len };
        let system = Some(system.as_str()).filter(|text| !text.is_empty());
        let made = build_session(self.common, self.counter, system, turns, cached, self.common.ignore_eos())?;
        if made.is_empty() {
            return Err(Error::Usage(format!(
                "a first turn of {} tokens and its response exceed --max-model-len {}: increase that, or make the turn \
                 smaller",
                system_len + first_len,
                self.common.sessions.max_model_len
            )));
        }
        Ok(made)
    }
}
