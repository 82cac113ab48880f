//! Conversations: what a user says, turn by turn, becomes one request a turn, each with all that was said before.

use clap::ArgAction;
use serde_json::{Value, json};

use super::{
    DatasetName, Plan, chat_text,
    fit::Framed,
    writer::{Fitted, Writer},
};
use crate::{
    backend::Backend,
    error::Error,
    load::ThinkTime,
    record::{Object, SampleRequest},
    rng,
    tokens::Chat,
    units::{MOST_TOKENS, parse_count, parse_count_u32, parse_tokens},
};

/// The requests of a conversation in their order, with the lengths of their prompts.
pub type Turns = Vec<(SampleRequest, Fitted)>;

/// The flags of conversations.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Conversations")]
pub struct SessionArgs {
    /// Send whole conversations turn by turn (sharegpt and hf; multi-turn always does).
    #[arg(long, action = ArgAction::SetTrue)]
    pub multi_turn: bool,
    /// How many conversations to write; the limit of --num-prompts, which counts turns, then holds only if it is given too.
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub num_conversations: Option<u64>,
    /// Whose replies the next turn carries: those of the server, which vb-fire puts there, or those of the dataset
    /// [default: server].
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub replies: Option<Replies>,
    /// How long users think between a reply and their next turn: 2s, or exp:2s for exponential draws with this mean
    /// [default: not at all].
    #[arg(long, value_name = "TIME")]
    pub think_time: Option<ThinkTime>,
    /// A conversation ends before the turn whose prompt and reply would be longer [default: 8192; multi-turn: no limit]; of other
    /// requests, those that are longer are counted.
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    pub max_model_len: Option<u32>,
    /// The most turns of a conversation: longer ones are cut (sharegpt and hf), or the upper end of what is drawn
    /// (multi-turn, with --min-turns).
    #[arg(long, value_name = "N", alias = "multi-turn-max-turns", value_parser = parse_count_u32)]
    pub max_turns: Option<u32>,
    /// The least turns of a conversation, up to --max-turns (multi-turn).
    #[arg(long, value_name = "N", alias = "multi-turn-min-turns", value_parser = parse_count_u32)]
    pub min_turns: Option<u32>,
    /// Turns of every conversation (multi-turn) [default: 3].
    #[arg(long, value_name = "N", alias = "multi-turn-num-turns", value_parser = parse_count_u32)]
    pub num_turns: Option<u32>,
    /// Tokens that the user says in each turn after the first, where it is --input-len (multi-turn) [default: --input-len].
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    pub per_turn_input_len: Option<u32>,
    /// Tokens in front of a conversation that are its own, as a document that it is about; behind --prefix-len, which all
    /// conversations share (multi-turn) [default: 0].
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    pub conversation_prefix_len: Option<u32>,
}

impl SessionArgs {
    /// Checks them against each other, the dataset and the backend.
    pub fn check(&self, dataset: DatasetName, backend: Backend) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Usage(what.into()));
        let made_up = dataset == DatasetName::MultiTurn;
        if self.multi_turn && !made_up && !matches!(dataset, DatasetName::Sharegpt | DatasetName::Hf) {
            return wrong("--multi-turn works with --dataset-name sharegpt, hf and multi-turn only");
        }
        for (flag, given) in [
            ("--num-turns", self.num_turns.is_some()),
            ("--min-turns", self.min_turns.is_some()),
            ("--per-turn-input-len", self.per_turn_input_len.is_some()),
            ("--conversation-prefix-len", self.conversation_prefix_len.is_some()),
        ] {
            if given && !made_up {
                return wrong(&format!("{flag} works with --dataset-name multi-turn only"));
            }
        }
        if !made_up && !self.multi_turn {
            for (flag, given) in [
                ("--num-conversations", self.num_conversations.is_some()),
                ("--replies", self.replies.is_some()),
                ("--think-time", self.think_time.is_some()),
                ("--max-turns", self.max_turns.is_some()),
            ] {
                if given {
                    return wrong(&format!(
                        "{flag} is for conversations: --dataset-name multi-turn, or --multi-turn with sharegpt and hf"
                    ));
                }
            }
            return Ok(());
        }
        if [self.num_turns, self.max_turns, self.min_turns].contains(&Some(0)) {
            return wrong("a conversation has at least 1 turn");
        }
        if made_up && self.min_turns.is_some() != self.max_turns.is_some() {
            return wrong("--min-turns and --max-turns are the two ends of what is drawn: give both, or --num-turns");
        }
        if made_up && self.num_turns.is_some() && self.min_turns.is_some() {
            return wrong("give --num-turns, or --min-turns and --max-turns, not both");
        }
        if self.min_turns > self.max_turns && made_up {
            return wrong("--min-turns is more than --max-turns");
        }
        if !backend.is_chat() && self.replies.unwrap_or_default() == Replies::Server {
            return wrong(
                "--backend openai sends text, which has no place for replies that are not known yet: \
                 give --backend openai-chat, or --replies dataset",
            );
        }
        Ok(())
    }
}

/// Whose replies a later turn carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Replies {
    /// What the server really answered: `vb-fire` puts it in the place that is left for it.
    #[default]
    Server,
    /// Those of the dataset, whatever the server answers; random words with multi-turn.
    Dataset,
}

/// What the user says in a turn, and what is known of the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The user's own text.
    pub user: String,
    /// The dataset's reply.
    pub reply: String,
    /// Tokens to generate.
    pub reply_len: u32,
}

/// How conversations become requests.
#[derive(Debug, Clone, Copy)]
pub struct SessionPlan {
    pub replies: Replies,
    pub think_time: Option<ThinkTime>,
    pub max_model_len: u32,
    pub max_turns: Option<u32>,
    /// `None`: as many as there are, within `--num-prompts`.
    pub num_conversations: Option<u64>,
}

impl SessionPlan {
    /// With the defaults.
    pub fn of(args: &SessionArgs) -> Self {
        SessionPlan {
            replies: args.replies.unwrap_or_default(),
            think_time: args.think_time,
            max_model_len: args.max_model_len.unwrap_or(if args.multi_turn { 8192 } else { MOST_TOKENS }),
            max_turns: args.max_turns,
            num_conversations: args.num_conversations,
        }
    }
}

impl Plan {
    /// Whether no more is to be written.
    pub fn has_enough(&self, writer: &Writer) -> bool {
        (self.num_prompts > 0 && writer.written() >= self.num_prompts)
            || self.sessions.num_conversations.is_some_and(|most| writer.sessions() >= most)
    }

    /// How many requests, or conversations, are missing; `None`: none.
    pub fn missing(&self, writer: &Writer) -> Option<u64> {
        let missing = match self.sessions.num_conversations {
            Some(most) => most.saturating_sub(writer.sessions()),
            None => self.num_prompts.saturating_sub(writer.written()),
        };
        Some(missing).filter(|n| *n > 0 && !self.has_enough(writer))
    }

    /// Writes a conversation, or as much of it as `--num-prompts` leaves room for.
    pub fn write_session(&self, mut turns: Turns, writer: &mut Writer) -> Result<(), Error> {
        if self.num_prompts > 0 {
            let room = self.num_prompts.saturating_sub(writer.written());
            turns.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        }
        let think = self.sessions.think_time;
        let mut rng = rng::stream(self.seed, "think", writer.sessions());
        for (request, _) in turns.iter_mut().skip(1) {
            request.think_time = think.map(|think| think.draw(&mut rng));
        }
        writer.write_session(turns)
    }
}

/// One request for each exchange, up to the first that is too long for the model.
///
/// `prompt_len` counts the chat as the server will, with `reply_len` tokens for each reply that is not known yet. `cached` is
/// what the first turn finds in the server's prefix cache; each later one finds the turn before it there, reply included if
/// it is the server's own.
pub fn turns(
    plan: &Plan,
    framed: Framed,
    system: Option<&str>,
    exchanges: &[Exchange],
    cached: u32,
    body: Option<&Object>,
) -> Result<Vec<(SampleRequest, usize)>, Error> {
    let SessionPlan { replies, max_model_len, max_turns, .. } = plan.sessions;
    let mut messages: Vec<Value> = system.map(|text| json!({"role": "system", "content": text})).into_iter().collect();
    // What the template counts: as the messages, with nothing where a reply is not known, whose tokens are added up instead.
    let mut known = messages.clone();
    let (mut unknown_len, mut cached) = (0, cached);
    let mut turns = Vec::new();
    for exchange in exchanges.iter().take(max_turns.map_or(usize::MAX, |n| n as usize)) {
        for list in [&mut messages, &mut known] {
            list.push(json!({"role": "user", "content": exchange.user}));
        }
        let request = SampleRequest {
            messages: Some(messages.clone()),
            expected_output_len: Some(exchange.reply_len),
            expected_cached_len: Some(cached),
            body: body.cloned(),
            ..SampleRequest::default()
        };
        let (request, len) = if plan.chat {
            (request, framed.tokenizer.count_chat_with(Chat { messages: &known, body })? + unknown_len as usize)
        } else {
            chat_text::flattened(request, framed)?
        };
        let prompt_len = u32::try_from(len).unwrap_or(u32::MAX);
        if prompt_len.saturating_add(exchange.reply_len) > max_model_len {
            break;
        }
        turns.push((request, len));
        cached = prompt_len;
        if replies == Replies::Server {
            cached += exchange.reply_len;
            unknown_len += exchange.reply_len;
        }
        let said = |text: Value| json!({"role": "assistant", "content": text});
        let (sent, counted) = match replies {
            Replies::Server => (Value::Null, Value::from("")),
            Replies::Dataset => (exchange.reply.as_str().into(), exchange.reply.as_str().into()),
        };
        messages.push(said(sent));
        known.push(said(counted));
    }
    Ok(turns)
}
