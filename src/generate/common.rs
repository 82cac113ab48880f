//! What every dataset gets: the common flags with their defaults, and the tokenizer.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    args::Args,
    dataset::OutputTokens,
    exact::{OutputLen, PromptCounter, RangeRatio},
    print_warning,
    session::SessionRules,
};
use crate::{error::Error, record::Object, tokens::Tokenizer};

/// Settings that every dataset gets.
#[derive(Debug)]
pub struct Common {
    pub tokenizer: Tokenizer,
    /// Whether the server applies a chat template.
    pub chat: bool,
    /// Whether the API takes images or audio.
    pub takes_media: bool,
    /// Whether the server generates tokens for these requests.
    pub generates: bool,
    pub seed: u64,
    /// Number of requests; 0: all rows.
    pub num_prompts: u64,
    pub dataset_path: Option<PathBuf>,
    /// `--input-len`, if given.
    pub input_len: Option<u32>,
    /// `--prefix-len`, if given.
    pub prefix_len: Option<u32>,
    pub output_len: Option<OutputLen>,
    default_output_len: u32,
    pub range_ratio: RangeRatio,
    pub prompt_token_ids: bool,
    no_ignore_eos: bool,
    pub shuffle: bool,
    pub oversample: bool,
    pub lenient: bool,
    pub apply_chat_template: bool,
    pub sessions: SessionRules,
}

impl Common {
    /// Opens the tokenizer. The flags must have been checked.
    pub fn from_args(args: &Args) -> Result<Self, Error> {
        let flags = &args.common;
        let dataset = flags.dataset_name;
        let tokenizer = flags.open_tokenizer()?;
        let chat = flags.backend.is_chat();
        if chat && !tokenizer.knows_chats() && !flags.is_fallback(&tokenizer) {
            print_warning(format!(
                "the tokenizer {} has no chat template: prompt_len counts only the text, and the server will count more; \
                 --tokenizer server asks the server",
                tokenizer.name()
            ));
        }
        // A recorded load is sent completely, and a given number of conversations is not truncated.
        let all = dataset.output == OutputTokens::Recorded || flags.sessions.num_conversations.is_some();
        Ok(Common {
            tokenizer,
            chat,
            takes_media: flags.backend.takes_media(),
            generates: flags.generates_tokens(),
            seed: flags.seed,
            num_prompts: flags.num_prompts.unwrap_or(if all { 0 } else { 1000 }),
            dataset_path: flags.dataset_path.clone(),
            input_len: flags.input_len,
            prefix_len: flags.prefix_len,
            output_len: flags.output_len,
            default_output_len: dataset.default_output_len(),
            range_ratio: flags.range_ratio,
            prompt_token_ids: flags.prompt_token_ids,
            no_ignore_eos: flags.no_ignore_eos,
            shuffle: !flags.disable_shuffle,
            oversample: !flags.no_oversample,
            lenient: flags.lenient,
            apply_chat_template: flags.apply_chat_template,
            sessions: SessionRules::from_flags(&flags.sessions, flags.max_model_len),
        })
    }

    /// Counts prompt tokens as the server does.
    pub fn prompt_counter(&self) -> Result<PromptCounter<'_>, Error> {
        PromptCounter::new(&self.tokenizer, self.chat)
    }

    /// The path of the dataset's file.
    pub fn require_file(&self) -> Result<&Path, Error> {
        self.dataset_path
            .as_deref()
            .ok_or_else(|| Error::Usage("this dataset needs a file: add --dataset-path FILE".into()))
    }

    /// Prompt tokens as the server counts them, without the shared prefix.
    pub fn input_tokens(&self) -> u32 {
        self.input_len.unwrap_or(1024)
    }

    /// Tokens of the shared prefix.
    pub fn prefix_tokens(&self) -> u32 {
        self.prefix_len.unwrap_or(0)
    }

    /// Tokens to generate, if all requests ask for the same number.
    pub fn output_tokens(&self) -> u32 {
        match self.output_len {
            Some(OutputLen::Tokens(n)) => n,
            _ => self.default_output_len,
        }
    }

    /// A body that makes the server generate as many tokens as requested.
    pub fn ignore_eos(&self) -> Option<Object> {
        (!self.no_ignore_eos).then(|| Object::from_iter([("ignore_eos".to_owned(), Value::Bool(true))]))
    }
}
