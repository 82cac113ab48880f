//! `--dataset-name spec_bench`: the questions of Spec-Bench, for speculative decoding.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use serde::Deserialize;

use super::{
    Plan, chat_text,
    fit::Framed,
    rows::{self, Kept},
    writer::{Fitted, Writer},
};
use crate::{
    data::{Row, Rows},
    error::Error,
    record::{Object, SampleRequest},
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
    let rows = Rows::from_lines(plan.file()?)?;
    let categories = Categories::of(args.spec_bench_category);
    let done = rows::run(plan, &rows, writer, |row| {
        let question: Question = serde_json::from_slice(&row.json).map_err(|e| row.bad_json(&e))?;
        if !categories.takes(&question.category) {
            return Ok(None);
        }
        asked(plan, framed, row, question.turns.into_iter().next(), question.category)
    });
    categories.told(done, &rows)
}

/// The category that is wanted, and the others that there are.
pub struct Categories {
    wanted: Option<String>,
    others: Mutex<(usize, BTreeSet<String>)>,
}

impl Categories {
    pub fn of(wanted: Option<String>) -> Self {
        Categories { wanted, others: Mutex::default() }
    }

    /// Whether a row of this category is wanted.
    pub fn takes(&self, category: &str) -> bool {
        /// Enough for a message.
        const MOST: usize = 100;
        if self.wanted.as_ref().is_none_or(|wanted| wanted == category) {
            return true;
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.0 += 1;
        if others.1.len() < MOST {
            others.1.insert(category.to_owned());
        }
        false
    }

    /// What became of the rows, or that all of them are of other categories.
    pub fn told(self, done: Result<(), Error>, rows: &Rows) -> Result<(), Error> {
        let (count, others) = self.others.into_inner().unwrap_or_else(PoisonError::into_inner);
        match self.wanted {
            Some(wanted) if count > 0 && count == rows.count() => {
                let others: Vec<String> = others.into_iter().collect();
                Err(Error::Input(format!("no row is of the category `{wanted}`; there are {}", others.join(", "))))
            }
            _ => done,
        }
    }
}

/// A question of a benchmark, with its category as a tag.
pub fn asked(
    plan: &Plan,
    framed: Framed,
    row: &Row,
    question: Option<String>,
    category: String,
) -> Result<Kept, Error> {
    let text = question.filter(|text| !text.trim().is_empty());
    let text = text.ok_or_else(|| row.wrong("no first turn with a text, which is the question"))?;
    let (request, len) = chat_text::of_text(text, plan.apply_chat_template, framed)?;
    let request = SampleRequest {
        expected_output_len: Some(plan.output_tokens()),
        tags: Some(Object::from_iter([("category".to_owned(), category.into())])),
        ..request
    };
    Ok(Some((request, Fitted::as_is(len))))
}
