//! The datasets: one file each, with one [`Dataset`] that describes it.
//!
//! To add one, write a file with a `pub const DATASET`, and add it to the two lists below. `--dataset-name`, `--help`,
//! `--list-datasets`, the checks of [`Dataset::check_flags`] and the table in `docs/DATASETS.md` follow from it.

mod benchmark;
mod custom;
mod generated_shared_prefix;
mod hf;
mod multi_turn;
mod prefix_repetition;
mod random;
mod random_mm;
mod random_rerank;
mod replay;
mod sharegpt;
mod sonnet;
mod spec_bench;
mod speed_bench;
mod trace;

use std::{collections::BTreeSet, iter};

use clap::{
    ArgMatches, Command,
    builder::{PossibleValue, Resettable},
    parser::ValueSource,
};

use super::{args::Args, common::Common, writer::RequestWriter};
use crate::{backend::Backend, error::Error};

/// All datasets, in the order of `--help`.
pub static DATASETS: &[&Dataset] = &[
    &random::DATASET,
    &sharegpt::DATASET,
    &random_mm::DATASET,
    &random_rerank::DATASET,
    &prefix_repetition::DATASET,
    &generated_shared_prefix::DATASET,
    &spec_bench::DATASET,
    &speed_bench::DATASET,
    &multi_turn::DATASET,
    &hf::DATASET,
    &sonnet::DATASET,
    &custom::DATASET,
    &replay::DATASET,
    &trace::mooncake::DATASET,
    &trace::qwen::DATASET,
    &trace::azure::DATASET,
    &trace::burstgpt::DATASET,
];

/// A source of requests.
#[derive(Debug)]
pub struct Dataset {
    /// The value of `--dataset-name`.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// One line for people, without a full stop.
    pub about: &'static str,
    /// Whether it reads `--dataset-path`.
    pub reads: Reads,
    /// Where its prompt lengths come from. Completes the error about a length flag that it does not take.
    pub lengths: &'static str,
    /// How many tokens a request asks for.
    pub output: OutputTokens,
    /// The APIs that its requests can be sent to.
    pub apis: Apis,
    /// The common flags that this dataset takes and others do not, such as `input_len`.
    pub takes: &'static [&'static str],
    /// Groups of flags that only this dataset, or only a few datasets, have: `augment_args` of each.
    pub flags: &'static [FlagGroup],
    /// Checks what this table does not express, before any file or tokenizer is opened.
    pub check: Option<FlagCheck>,
    /// Writes its requests.
    pub run: fn(&Common, &OwnFlags, &mut RequestWriter) -> Result<(), Error>,
}

/// A check of the command line.
pub type FlagCheck = fn(&Args) -> Result<(), Error>;

/// `augment_args` of a `clap::Args`.
pub type FlagGroup = fn(Command) -> Command;

/// Whether a dataset reads `--dataset-path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Its requests are generated.
    Nothing,
    /// Its requests are generated, from the text of the file if there is one.
    OptionalFile,
    /// Its requests are the rows of the file.
    File,
}

/// How many tokens a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputTokens {
    /// `--output-len`, with this default.
    Default(u32),
    /// The same; `--output-len -1` is each row's own number.
    DefaultOrRow(u32),
    /// `--output-len`, by default the length of the real answer.
    Answer,
    /// The recorded number; `--output-len` is rejected. The file is a load, so all of it is sent unless `--num-prompts`
    /// is given.
    Recorded,
    /// Nothing is generated.
    Nothing,
}

/// The APIs that a dataset's requests can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apis {
    /// APIs that take text.
    Text,
    /// All APIs: its rows may have images and audio.
    Media,
    /// Chat APIs, because its requests have images.
    Chat,
    /// APIs that take a list of texts.
    TextList,
}

/// Flags whose rejection is explained by [`Dataset::lengths`].
const LENGTH_FLAGS: [&str; 3] = ["input_len", "prefix_len", "range_ratio"];

impl Dataset {
    /// Rejects flags that this dataset does not take. `is_given` returns whether a flag was given.
    pub fn check_flags(&self, is_given: impl Fn(&str) -> bool) -> Result<(), Error> {
        let restricted = restricted_flags();
        match restricted.iter().find(|flag| is_given(flag) && !self.takes_flag(flag)) {
            Some(flag) => Err(Error::Usage(format!(
                "--dataset-name {} does not take --{}: {}",
                self.name,
                flag_name(flag),
                self.explain_refusal(flag)
            ))),
            None if self.reads == Reads::File && !is_given("dataset_path") => {
                Err(Error::Usage(format!("--dataset-name {} needs a file: add --dataset-path FILE", self.name)))
            }
            None => Ok(()),
        }
    }

    fn takes_flag(&self, flag: &str) -> bool {
        match flag {
            "dataset_path" => self.reads != Reads::Nothing,
            "output_len" => self.output != OutputTokens::Recorded,
            "no_ignore_eos" => self.output != OutputTokens::Nothing,
            flag => self.takes.contains(&flag) || self.own_flags().any(|own| own == flag),
        }
    }

    /// Why a flag is rejected, and what to do instead.
    fn explain_refusal(&self, flag: &str) -> String {
        match flag {
            "dataset_path" => {
                "it does not read files; leave it out, or select the file's dataset with --dataset-name".into()
            }
            "output_len" => "the file has the length of each response".into(),
            "no_ignore_eos" => "nothing is generated".into(),
            flag if LENGTH_FLAGS.contains(&flag) => self.lengths.into(),
            flag => {
                let takers: Vec<&str> = DATASETS.iter().filter(|d| d.takes_flag(flag)).map(|d| d.name).collect();
                format!("use it with --dataset-name {}", join_names(&takers))
            }
        }
    }

    /// Ids of the flags in its groups.
    fn own_flags(&self) -> impl Iterator<Item = String> {
        self.flags.iter().flat_map(|group| flags_of(*group))
    }

    /// Rejects an API that its requests cannot be sent to.
    pub fn check_backend(&self, backend: &Backend) -> Result<(), Error> {
        let name = self.name;
        let what = match self.apis {
            Apis::Chat if !backend.is_chat() => {
                format!("--dataset-name {name} has images, which need a chat: use --backend openai-chat")
            }
            Apis::TextList if backend.is_chat() || backend.needs_media() => {
                format!("--dataset-name {name} is not a chat: use --backend vllm-rerank")
            }
            Apis::Text if backend.needs_media() => format!(
                "--backend {} sends audio, which --dataset-name {name} does not have: use --dataset-name custom or hf",
                backend.name
            ),
            _ => return Ok(()),
        };
        Err(Error::Usage(what))
    }

    /// Whether its requests are generated, not read from a file.
    pub fn is_made_up(&self) -> bool {
        self.reads != Reads::File
    }

    /// Whether its requests may have images or audio.
    pub fn has_media(&self) -> bool {
        matches!(self.apis, Apis::Media | Apis::Chat)
    }

    /// Tokens to generate, unless `--output-len` or the row sets them.
    pub fn default_output_len(&self) -> u32 {
        match self.output {
            OutputTokens::Default(n) | OutputTokens::DefaultOrRow(n) => n,
            OutputTokens::Answer | OutputTokens::Recorded | OutputTokens::Nothing => 128,
        }
    }

    /// Its row in the table of `--list-datasets`.
    fn table_row(&self) -> [String; 3] {
        let name = match self.aliases {
            [] => self.name.to_owned(),
            aliases => format!("{} ({})", self.name, aliases.join(", ")),
        };
        [name, self.about.to_owned(), self.needs().to_owned()]
    }

    /// What must be given with it.
    fn needs(&self) -> &'static str {
        match (self.reads, self.apis) {
            (Reads::File, _) => "--dataset-path FILE",
            (_, Apis::Chat) => "--backend openai-chat, or another chat",
            (_, Apis::TextList) => "--backend vllm-rerank",
            (Reads::OptionalFile, _) => "nothing, or --dataset-path FILE",
            (Reads::Nothing, _) => "nothing",
        }
    }
}

/// Ids of the flags that not every dataset takes, sorted.
fn restricted_flags() -> BTreeSet<String> {
    let own = DATASETS.iter().flat_map(|dataset| dataset.own_flags());
    let takes = DATASETS.iter().flat_map(|dataset| dataset.takes).map(|flag| (*flag).to_owned());
    let by_kind = ["dataset_path", "output_len", "no_ignore_eos"].map(str::to_owned);
    own.chain(takes).chain(by_kind).collect()
}

/// Ids of the flags in a group.
fn flags_of(group: FlagGroup) -> Vec<String> {
    group(Command::new("vb-gen")).get_arguments().map(|arg| arg.get_id().to_string()).collect()
}

/// Name of a flag on the command line: `laps` is `--loop`.
fn flag_name(id: &str) -> String {
    let command = DATASETS.iter().flat_map(|dataset| dataset.flags).copied().fold(Command::new("vb-gen"), add_group);
    let long = command.get_arguments().find(|arg| arg.get_id() == id).and_then(clap::Arg::get_long);
    long.map_or_else(|| id.replace('_', "-"), str::to_owned)
}

/// Joins names as in `a, b or c`.
fn join_names(names: &[&str]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => names.concat(),
    }
}

/// Adds a group of flags, unless another dataset that shares it has added it already.
fn add_group(command: Command, group: FlagGroup) -> Command {
    let new = flags_of(group);
    if command.get_arguments().any(|arg| new.iter().any(|id| arg.get_id() == id.as_str())) {
        return command;
    }
    // A group would replace the program's description by its own.
    let about = Resettable::from(command.get_about().cloned());
    let long_about = Resettable::from(command.get_long_about().cloned());
    group(command).about(about).long_about(long_about)
}

/// Adds the flags of all datasets.
pub fn add_flags(command: Command) -> Command {
    DATASETS.iter().flat_map(|dataset| dataset.flags).copied().fold(command, add_group)
}

impl clap::ValueEnum for &'static Dataset {
    fn value_variants<'a>() -> &'a [Self] {
        DATASETS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name).aliases(self.aliases).help(self.about))
    }
}

/// All datasets with what they need, as aligned text.
pub fn list_datasets() -> String {
    let header = ["DATASET", "WHAT IT IS", "NEEDS"].map(str::to_owned);
    let rows: Vec<[String; 3]> = iter::once(header).chain(DATASETS.iter().map(|dataset| dataset.table_row())).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let [name, about] = [0, 1].map(width);
    let lines: Vec<String> = rows.iter().map(|[a, b, c]| format!("{a:name$}  {b:about$}  {c}\n")).collect();
    lines.concat()
}

/// The command line, from which each dataset reads its own flags.
#[derive(Debug)]
pub struct OwnFlags(ArgMatches);

impl OwnFlags {
    /// Reads from these matches.
    pub fn new(matches: &ArgMatches) -> Self {
        OwnFlags(matches.clone())
    }

    /// Reads a group of flags, with their defaults.
    pub fn read_group<G: clap::Args>(&self) -> Result<G, Error> {
        G::from_arg_matches(&self.0).map_err(|e| Error::Usage(e.to_string()))
    }

    /// Reads a group of flags, if one of them was given.
    pub fn read_given<G: clap::Args>(&self) -> Result<Option<G>, Error> {
        let given = flags_of(G::augment_args).iter().any(|flag| self.is_given(flag));
        given.then(|| self.read_group()).transpose()
    }

    /// Whether a flag was given, on the command line or in a config.
    pub fn is_given(&self, id: &str) -> bool {
        self.0.value_source(id) == Some(ValueSource::CommandLine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_flags_exist() {
        let names = || DATASETS.iter().flat_map(|d| [d.name].into_iter().chain(d.aliases.iter().copied()));
        assert_eq!(names().collect::<BTreeSet<_>>().len(), names().count());
        let command = <Args as clap::CommandFactory>::command();
        for flag in restricted_flags() {
            assert!(command.get_arguments().any(|arg| arg.get_id() == flag.as_str()), "{flag}");
        }
    }

    #[test]
    fn lists_of_names_read_well() {
        assert_eq!([join_names(&["a"]), join_names(&["a", "b", "c"])], ["a", "a, b or c"]);
    }
}
