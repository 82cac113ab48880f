//! `--dataset-name spec_bench`: the questions of Spec-Bench, for speculative decoding.

use clap::Args as _;
use serde::Deserialize;

use super::{
    Apis, Dataset, OutputTokens, OwnFlags, Reads,
    benchmark::{Categories, asked},
    no_check,
};
use crate::{
    data::Rows,
    error::Error,
    generate::{common::Common, rows, writer::RequestWriter},
};

/// The flags of `spec_bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct SpecArgs {
    /// Take the questions of this category only, as `writing` or `qa`.
    #[arg(long, help_heading = "Dataset spec_bench", value_name = "NAME")]
    spec_bench_category: Option<String>,
}

pub const DATASET: Dataset = Dataset {
    name: "spec_bench",
    aliases: &["spec-bench"],
    about: "The questions of Spec-Bench",
    reads: Reads::File,
    lengths: "its prompts have their own lengths",
    output: OutputTokens::Default(256),
    apis: Apis::Text,
    takes: &["apply_chat_template"],
    flags: &[SpecArgs::augment_args],
    check: no_check,
    run,
};

/// What is read of a question.
#[derive(Deserialize)]
struct Question {
    turns: Vec<String>,
    category: String,
}

/// Writes `--num-prompts` questions.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let args: SpecArgs = flags.read_group()?;
    let framed = common.framed()?;
    let rows = Rows::from_lines(common.file()?)?;
    let categories = Categories::of(args.spec_bench_category);
    let done = rows::run(common, &rows, writer, |row| {
        let question: Question = serde_json::from_slice(&row.json).map_err(|e| row.bad_json(&e))?;
        if !categories.takes(&question.category) {
            return Ok(None);
        }
        asked(common, framed, row, question.turns.into_iter().next(), question.category)
    });
    categories.told(done, &rows)
}
