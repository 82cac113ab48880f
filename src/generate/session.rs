//! Conversations as requests: one request per turn, each with all earlier messages.

use serde_json::{Value, json};

use crate::{
    error::Error,
    generate::{
        args::{Args, CONVERSATIONS},
        chat_text,
        common::Common,
        exact::PromptCounter,
        writer::{PromptLen, RequestWriter},
    },
    load::ThinkTime,
    record::{Object, SampleRequest},
    rng,
    tokens::{ChatCounter, ChatInput},
    units::{MAX_TOKENS, parse_count, parse_count_u32},
};

/// A conversation: its messages, stored once, and how many of them each turn sends.
#[derive(Debug, Default)]
pub struct SessionRequests {
    messages: Vec<Value>,
    turns: Vec<SessionTurn>,
    body: Option<Object>,
    /// Whether the next turn would be too long for the model.
    is_cut: bool,
}

/// A turn: the conversation up to a user message.
#[derive(Debug)]
struct SessionTurn {
    /// Number of messages that it sends.
    messages: usize,
    prompt: PromptLen,
    response_len: u32,
    cached: u32,
}

impl SessionRequests {
    /// Whether it has 0 turns.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether it ended before a turn that would be too long for the model.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }
}

/// Flags of conversations, which several datasets share.
#[derive(Debug, clap::Args)]
pub struct SessionFlags {
    /// Send whole conversations, one request per turn (sharegpt and hf; multi-turn always does).
    #[arg(long, help_heading = CONVERSATIONS)]
    pub multi_turn: bool,
    /// Number of conversations. --num-prompts, which counts turns, then only limits them if it is given too.
    #[arg(long, help_heading = CONVERSATIONS, value_name = "N", value_parser = parse_count)]
    pub num_conversations: Option<u64>,
    /// Where earlier responses in a conversation come from: `server` (vb-fire inserts what the server sent) or
    /// `dataset` [default: server].
    #[arg(long, help_heading = CONVERSATIONS, value_enum, value_name = "SOURCE")]
    pub replies: Option<ResponseSource>,
    /// Time between a response and the user's next turn: 2s, or exp:2s (exponential, mean 2 s) [default: 0].
    #[arg(long, help_heading = CONVERSATIONS, value_name = "TIME")]
    pub think_time: Option<ThinkTime>,
    /// Most turns of a conversation: longer ones are truncated (sharegpt and hf); or the upper end of a range
    /// (multi-turn, with --min-turns).
    #[arg(long, help_heading = CONVERSATIONS, value_name = "N", alias = "multi-turn-max-turns", value_parser = parse_count_u32)]
    pub max_turns: Option<u32>,
}

/// Checks the flags of conversations for a dataset that has them with `--multi-turn` only.
pub fn check_optional_turns(args: &Args) -> Result<(), Error> {
    if args.common.sessions.multi_turn {
        return check_turns(args);
    }
    let flags = ["num_conversations", "replies", "think_time", "max_turns"];
    match flags.into_iter().find(|flag| args.own.is_given(flag)) {
        Some(flag) => Err(Error::Usage(format!("--{} is for conversations: add --multi-turn", flag.replace('_', "-")))),
        None => Ok(()),
    }
}

/// Checks the flags of conversations against each other and the API.
pub fn check_turns(args: &Args) -> Result<(), Error> {
    let flags = &args.common.sessions;
    if flags.num_conversations == Some(0) {
        return Err(Error::Usage("--num-conversations must be at least 1".into()));
    }
    if flags.max_turns == Some(0) {
        return Err(Error::Usage("a conversation needs at least 1 turn".into()));
    }
    if !args.common.backend.is_chat() && flags.replies.unwrap_or_default() == ResponseSource::Server {
        return Err(Error::Usage(
            "--backend openai sends text, which cannot contain responses that are not known yet: \
             use --backend openai-chat, or --replies dataset"
                .into(),
        ));
    }
    Ok(())
}

/// Where earlier responses in a conversation come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ResponseSource {
    /// The server: `vb-fire` inserts its responses.
    #[default]
    Server,
    /// The dataset, regardless of what the server sends; random words with multi-turn.
    Dataset,
}

/// A user message, and the response that the dataset has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptedTurn {
    /// The user message.
    pub user: String,
    /// The dataset's response.
    pub response: String,
    /// Tokens to generate.
    pub response_len: u32,
    /// Requested and actual length of the user message.
    pub asked: PromptLen,
}

/// How conversations become requests.
#[derive(Debug, Clone, Copy)]
pub struct SessionRules {
    /// `--multi-turn`.
    pub multi_turn: bool,
    pub replies: ResponseSource,
    pub think_time: Option<ThinkTime>,
    pub max_model_len: u32,
    pub max_turns: Option<u32>,
    /// `None`: all, within `--num-prompts`.
    pub num_conversations: Option<u64>,
}

impl SessionRules {
    /// Applies the defaults.
    pub fn from_flags(args: &SessionFlags, max_model_len: Option<u32>) -> Self {
        SessionRules {
            multi_turn: args.multi_turn,
            replies: args.replies.unwrap_or_default(),
            think_time: args.think_time,
            max_model_len: max_model_len.unwrap_or(if args.multi_turn { 8192 } else { MAX_TOKENS }),
            max_turns: args.max_turns,
            num_conversations: args.num_conversations,
        }
    }
}

impl Common {
    /// Whether enough was written.
    pub fn is_complete(&self, writer: &RequestWriter) -> bool {
        (self.num_prompts > 0 && writer.requests_written() >= self.num_prompts)
            || self.sessions.num_conversations.is_some_and(|most| writer.sessions_written() >= most)
    }

    /// How many requests, or conversations, are still missing; `None` if enough were written.
    pub fn missing_count(&self, writer: &RequestWriter) -> Option<u64> {
        let missing = match self.sessions.num_conversations {
            Some(most) => most.saturating_sub(writer.sessions_written()),
            None => self.num_prompts.saturating_sub(writer.requests_written()),
        };
        Some(missing).filter(|n| *n > 0 && !self.is_complete(writer))
    }

    /// Most turns of any conversation: no more are made than can be written.
    pub fn max_turns_written(&self) -> usize {
        let written = usize::try_from(self.num_prompts).ok().filter(|n| *n > 0);
        let most = self.sessions.max_turns.map(|n| n as usize);
        written.into_iter().chain(most).min().unwrap_or(usize::MAX)
    }

    /// Writes a conversation, or as many of its turns as `--num-prompts` allows.
    pub fn write_session(&self, session: &SessionRequests, writer: &mut RequestWriter) -> Result<(), Error> {
        let room = match self.num_prompts {
            0 => usize::MAX,
            most => usize::try_from(most.saturating_sub(writer.requests_written())).unwrap_or(usize::MAX),
        };
        let think = self.sessions.think_time;
        let mut rng = rng::random_stream(self.seed, "think", writer.sessions_written());
        let counter = self.prompt_counter()?;
        let turns = session.turns.iter().take(room).enumerate().map(|(number, turn)| {
            let request = SampleRequest {
                messages: Some(session.messages[..turn.messages].to_vec()),
                expected_output_len: Some(turn.response_len),
                expected_cached_len: Some(turn.cached),
                think_time: think.filter(|_| number > 0).map(|think| think.draw_time(&mut rng)),
                body: session.body.clone(),
                ..SampleRequest::default()
            };
            let request = if self.chat { request } else { chat_text::render_messages(request, counter)? };
            Ok((request, turn.prompt))
        });
        writer.write_session(turns)
    }
}

/// Builds a conversation from scripted turns, up to the first that is too long for the model.
///
/// `prompt_len` counts the chat as the server will, plus `response_len` tokens for each response that is not known yet.
/// `cached` is the prefix cache hit of the first turn. Each later turn finds the previous turn in the cache, including
/// its response if that is the server's.
pub fn build_session(
    common: &Common,
    counter: PromptCounter,
    system: Option<&str>,
    turns: impl Iterator<Item = Result<ScriptedTurn, Error>>,
    mut cached: u32,
    body: Option<Object>,
) -> Result<SessionRequests, Error> {
    let SessionRules { replies, max_model_len, .. } = common.sessions;
    let system = system.map(|text| json!({"role": "system", "content": text}));
    let mut session =
        SessionRequests { messages: system.into_iter().collect(), turns: Vec::new(), body, is_cut: false };
    let mut count = ChatCounter::new(counter.tokenizer);
    let mut unknown_tokens = 0_u32;
    let mut unknown = Vec::new();
    for turn in turns.take(common.max_turns_written()) {
        let ScriptedTurn { user, response, response_len, asked } = turn?;
        session.messages.push(json!({"role": "user", "content": user}));
        let chat = ChatInput { messages: &session.messages, body: session.body.as_ref() };
        let known = if common.chat { count.count_chat(chat)? } else { count.count_rendered(chat)? };
        let len = known + unknown_tokens as usize;
        let prompt_len = u32::try_from(len).unwrap_or(u32::MAX);
        if prompt_len.saturating_add(response_len) > max_model_len {
            session.messages.pop();
            session.is_cut = true;
            break;
        }
        let prompt = PromptLen { want: (len + asked.want).saturating_sub(asked.got), got: len };
        session.turns.push(SessionTurn { messages: session.messages.len(), prompt, response_len, cached });
        cached = prompt_len;
        let content = match replies {
            ResponseSource::Dataset => response,
            ResponseSource::Server => {
                cached = cached.saturating_add(response_len);
                unknown_tokens = unknown_tokens.saturating_add(response_len);
                unknown.push(session.messages.len());
                // The template renders an empty response; its tokens are added separately.
                String::new()
            }
        };
        session.messages.push(json!({"role": "assistant", "content": content}));
    }
    for place in unknown {
        session.messages[place]["content"] = Value::Null;
    }
    Ok(session)
}
