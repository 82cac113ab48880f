//! Benchmark questions, each with a category.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use crate::{
    data::{Row, Rows},
    error::Error,
    generate::{
        chat_text,
        common::Common,
        exact::PromptCounter,
        rows::{KeptRow, LeftOut},
        writer::PromptLen,
    },
    record::{Object, SampleRequest},
};

/// Why a row of another category is not used.
pub const OTHER_CATEGORY: LeftOut = LeftOut("another category");

/// The requested category, and the other categories in the file.
pub struct CategoryFilter {
    wanted: Option<String>,
    others: Mutex<(usize, BTreeSet<String>)>,
}

impl CategoryFilter {
    pub fn new(wanted: Option<String>) -> Self {
        CategoryFilter { wanted, others: Mutex::default() }
    }

    /// Whether rows of this category are used.
    pub fn accepts_category(&self, category: &str) -> bool {
        /// Enough for an error message.
        const MAX_CATEGORIES: usize = 100;
        if self.wanted.as_ref().is_none_or(|wanted| wanted == category) {
            return true;
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.0 += 1;
        if others.1.len() < MAX_CATEGORIES {
            others.1.insert(category.to_owned());
        }
        false
    }

    /// Replaces the result by an error if all rows have other categories.
    pub fn check_result(self, done: Result<(), Error>, rows: &Rows) -> Result<(), Error> {
        let (count, others) = self.others.into_inner().unwrap_or_else(PoisonError::into_inner);
        match self.wanted {
            Some(wanted) if count > 0 && count == rows.count() => {
                let others: Vec<String> = others.into_iter().collect();
                Err(Error::Input(format!(
                    "no row has the category `{wanted}`; the categories are {}",
                    others.join(", ")
                )))
            }
            _ => done,
        }
    }
}

/// Makes a request from a benchmark question, with its category as a tag.
pub fn question_request(
    common: &Common,
    counter: PromptCounter,
    row: &Row,
    question: Option<String>,
    category: String,
) -> Result<KeptRow, Error> {
    let text = question.filter(|text| !text.trim().is_empty());
    let text = text.ok_or_else(|| row.wrong("the first turn, which is the question, has no text"))?;
    let (request, len) = chat_text::request_from_text(text, common.apply_chat_template, counter)?;
    let request = SampleRequest {
        expected_output_len: Some(common.output_tokens()),
        tags: Some(Object::from_iter([("category".to_owned(), category.into())])),
        ..request
    };
    Ok(Ok((request, PromptLen::exact(len))))
}
