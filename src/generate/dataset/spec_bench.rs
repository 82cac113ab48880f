//! `--dataset-name spec_bench`: the questions of Spec-Bench, for speculative decoding.

use clap::Args as _;
use serde::Deserialize;

use super::{
    Apis, Dataset, OutputTokens, OwnFlags, Reads,
    benchmark::{CategoryFilter, OTHER_CATEGORY, question_request},
};
use crate::{
    data::Rows,
    error::Error,
    generate::{common::Common, print_warning, rows, writer::RequestWriter},
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
    let (rows, cut) = Rows::from_json(common.require_file()?, common.lenient)?;
    cut.into_iter().for_each(print_warning);
    let categories = CategoryFilter::new(args.spec_bench_category);
    let done = rows::write_requests(common, &rows, writer, |row| {
        let question: SpecBenchRow = row.parse()?;
        if !categories.accepts_category(&question.category) {
            return Ok(Err(OTHER_CATEGORY));
        }
        question_request(common, counter, row, question.turns.into_iter().next(), question.category)
    });
    categories.check_result(done, &rows)
}
