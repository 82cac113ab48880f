//! `--dataset-name spec_bench`: the questions of Spec-Bench, for speculative decoding.

use serde::Deserialize;

use super::{
    Plan,
    fit::Framed,
    rows::{self, Kept},
    writer::{Fitted, Writer},
};
use crate::{
    data::{Row, Rows},
    error::Error,
    record::{Object, Prompt, SampleRequest},
};

/// The flags of `spec_bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct SpecArgs {
    /// Take the questions of this category only, as `writing` or `qa`.
    #[arg(long, help_heading = "Dataset spec_bench", value_name = "NAME")]
    spec_bench_category: Option<String>,
}

/// What is read of a question.
#[derive(Deserialize)]
struct Question {
    turns: Vec<String>,
    category: String,
}

/// Writes `--num-prompts` questions.
pub fn run(plan: &Plan, writer: &mut Writer) -> Result<(), Error> {
    let args = plan.flags.spec()?;
    let framed = plan.framed()?;
    rows::run(plan, &Rows::of_lines(plan.file()?)?, writer, |row| {
        let question: Question = serde_json::from_slice(&row.json).map_err(|e| row.bad_json(&e))?;
        if args.spec_bench_category.as_ref().is_some_and(|wanted| *wanted != question.category) {
            return Ok(None);
        }
        asked(plan, framed, row, question.turns.into_iter().next(), question.category)
    })
}

/// A question of a benchmark, with its category as a tag.
pub fn asked(
    plan: &Plan,
    framed: Framed,
    row: &Row,
    question: Option<String>,
    category: String,
) -> Result<Kept, Error> {
    let text = question.ok_or_else(|| row.wrong("no first turn, which is the question"))?;
    let fitted = Fitted::as_is(framed.count(&text)?);
    let request = SampleRequest {
        prompt: Some(Prompt::Text(text)),
        expected_output_len: Some(plan.output_tokens()),
        tags: Some(Object::from_iter([("category".to_owned(), category.into())])),
        ..SampleRequest::default()
    };
    Ok(Some((request, fitted)))
}
