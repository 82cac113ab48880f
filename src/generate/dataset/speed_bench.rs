//! `--dataset-name speed_bench`: the prompts of SPEED-Bench, one file per subset.

use std::path::PathBuf;

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

const HEADING: &str = "Dataset speed_bench";

/// Flags of `speed_bench`.
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_field_names)] // fields have the names of their flags
pub struct SpeedBenchFlags {
    /// The file to use if --dataset-path is a folder, such as `throughput_8k` [default: qualitative].
    #[arg(long, help_heading = HEADING, value_name = "NAME")]
    speed_bench_dataset_subset: Option<String>,
    /// Only use prompts of this category, such as `coding` or `low_entropy`.
    #[arg(long, help_heading = HEADING, value_name = "NAME")]
    speed_bench_category: Option<String>,
}

pub const DATASET: Dataset = Dataset {
    name: "speed_bench",
    aliases: &["speed-bench"],
    about: "The prompts of SPEED-Bench",
    reads: Reads::File,
    lengths: "its prompts have their own lengths",
    output: OutputTokens::Default(4096),
    apis: Apis::Text,
    takes: &["apply_chat_template"],
    flags: &[SpeedBenchFlags::augment_args],
    check: None,
    run,
};

/// The keys of a prompt that are used.
#[derive(Deserialize)]
struct SpeedBenchRow {
    messages: Vec<SpeedBenchMessage>,
    #[serde(default)]
    category: Option<String>,
}

#[derive(Deserialize)]
struct SpeedBenchMessage {
    content: String,
}

/// Writes `--num-prompts` prompts.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let args: SpeedBenchFlags = flags.read_group()?;
    let counter = common.prompt_counter()?;
    let (rows, cut) =
        Rows::from_json(&subset_file(common, args.speed_bench_dataset_subset.as_deref())?, common.lenient)?;
    cut.into_iter().for_each(print_warning);
    let categories = CategoryFilter::new(args.speed_bench_category);
    let done = rows::write_requests(common, &rows, writer, |row| {
        let chat: SpeedBenchRow = row.parse()?;
        let category = chat.category.unwrap_or_default();
        if !categories.accepts_category(&category) {
            return Ok(Err(OTHER_CATEGORY));
        }
        let question = chat.messages.into_iter().next().map(|message| message.content);
        question_request(common, counter, row, question, category)
    });
    categories.check_result(done, &rows)
}

/// The file itself, or the file of the subset in a folder.
fn subset_file(common: &Common, subset: Option<&str>) -> Result<PathBuf, Error> {
    let path = common.require_file()?;
    if path.is_dir() {
        return Ok(path.join(format!("{}.jsonl", subset.unwrap_or("qualitative"))));
    }
    if subset.is_some() {
        let what = "--speed-bench-dataset-subset selects a file in a folder, but --dataset-path is already a file";
        return Err(Error::Usage(what.into()));
    }
    Ok(path.to_path_buf())
}
