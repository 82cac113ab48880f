//! `--dataset-name spec_bench`: the questions of Spec-Bench, for speculative decoding.

use clap::Args as _;
use serde::Deserialize;

use super::{
    Apis, Dataset, OutputTokens, OwnFlags, Reads,
    benchmark::{CategoryFilter, question_request},
};
use crate::{
    data::Rows,
    error::Error,
    generate::{common::Common, rows, writer::RequestWriter},
};

/// Flags of `spec_bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct SpecBenchFlags {
    /// Only use questions of this category, such as `writing` or `qa`.
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
    flags: &[SpecBenchFlags::augment_args],
    check: None,
    run,
};

/// The keys of a question that are used.
#[derive(Deserialize)]
struct SpecBenchRow {
    turns: Vec<String>,
    category: String,
}

/// Writes `--num-prompts` questions.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let args: SpecBenchFlags = flags.read_group()?;
    let counter = common.prompt_counter()?;
    let rows = Rows::from_lines(common.require_file()?)?;
    let categories = CategoryFilter::new(args.spec_bench_category);
    let done = rows::write_requests(common, &rows, writer, |row| {
        let question: SpecBenchRow = serde_json::from_slice(&row.json).map_err(|e| row.bad_json(&e))?;
        if !categories.accepts_category(&question.category) {
            return Ok(None);
        }
        question_request(common, counter, row, question.turns.into_iter().next(), question.category)
    });
    categories.check_result(done, &rows)
}
