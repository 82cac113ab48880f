//! `--dataset-name custom`: the user's own prompts, one JSON object a line.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads, no_check};
use crate::{
    cli,
    data::{Row, Rows},
    error::Error,
    generate::{
        chat_text,
        common::Common,
        exact::{Framed, OutputLen},
        media::{self, Media},
        rows::{self, Kept},
        warn,
        writer::{Fitted, RequestWriter},
    },
    ndjson::NdjsonReader,
    record::{Prompt, SampleRequest},
    tokens::ChatInput,
};

pub const DATASET: Dataset = Dataset {
    name: "custom",
    aliases: &["custom_image", "custom_audio", "custom_mm"],
    about: "Your own prompts: lines with `prompt` or `messages`, and images and sound",
    reads: Reads::File,
    lengths: "its prompts have their own lengths",
    output: OutputTokens::DefaultOrRow(256),
    apis: Apis::Media,
    takes: &["apply_chat_template"],
    flags: &[],
    check: no_check,
    run,
};

/// What a row has beside the keys of a request.
#[derive(Deserialize)]
struct Extra {
    output_tokens: Option<u32>,
}

/// Writes `--num-prompts` rows, or all.
fn run(common: &Common, _: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let path = common.file()?;
    let framed = common.framed()?;
    if path.is_file() {
        return rows::run(common, &Rows::from_lines(path)?, writer, |row| request(row, common, framed));
    }
    stream(common, framed, path, writer)
}

/// A pipe, in its own order: to shuffle it, all of it would have to be held.
fn stream(common: &Common, framed: Framed, path: &Path, writer: &mut RequestWriter) -> Result<(), Error> {
    let (input, name) = cli::open_input(path)?;
    let mut lines = NdjsonReader::new(input, name.clone());
    let mut bad = 0_u64;
    while common.num_prompts == 0 || writer.written() < common.num_prompts {
        let Some(json) = lines.next_line()?.map(<[u8]>::to_vec) else { break };
        let row = Row { json, place: format!("{name}:{}", lines.line_number()) };
        match request(&row, common, framed) {
            Ok(made) => made.map_or(Ok(()), |(request, fitted)| writer.write_fitted(request, fitted))?,
            Err(e @ Error::Input(_)) if common.lenient => {
                bad += 1;
                // As of a file, one is shown and the rest are counted.
                if bad == 1 {
                    warn(format!("{e}; left out"));
                }
            }
            Err(e) => return Err(e),
        }
        // Whoever feeds the pipe line by line may wait for what comes out.
        writer.flush()?;
    }
    if bad > 1 {
        warn(format!("{bad} bad rows were left out"));
    }
    if writer.written() == 0 {
        return Err(Error::Input(format!("{name} has no usable row")));
    }
    if writer.written() < common.num_prompts {
        warn(format!("{name} had {} usable rows: wrote those, since a pipe cannot be read again", writer.written()));
    }
    Ok(())
}

fn request(row: &Row, common: &Common, framed: Framed) -> Result<Kept, Error> {
    let mut request: SampleRequest = serde_json::from_slice(&row.json).map_err(|e| row.bad_json(&e))?;
    request.expected_output_len = Some(match common.output_len {
        Some(OutputLen::Tokens(n)) => n,
        Some(OutputLen::PerRow) => {
            let Extra { output_tokens } = serde_json::from_slice(&row.json).map_err(|e| row.bad_json(&e))?;
            output_tokens.or(request.expected_output_len).ok_or_else(|| {
                row.wrong("no `output_tokens`, which --output-len -1 takes from each row; give a number instead")
            })?
        }
        None => request.expected_output_len.unwrap_or(common.output_tokens()),
    });
    if common.generates && request.expected_output_len == Some(0) {
        return Err(row.wrong("0 tokens to generate, which servers refuse: an answer has 1 at the least"));
    }
    let media: Media = serde_json::from_slice(&row.json).map_err(|e| row.bad_json(&e))?;
    let folder = common.file()?.parent().unwrap_or(Path::new(""));
    let parts = media.parts(row, folder)?;
    let content = media.content(row, folder)?.filter(|_| request.prompt.is_none() && request.messages.is_none());
    if let Some(content) = &content {
        request.messages = Some(vec![json!({"role": "user", "content": content})]);
    }
    // A template makes a text of no message too.
    let (mut request, counted) = chat_text::ready(row, request, common, framed)?;
    if parts.is_empty() && request.multi_modal_data.is_none() && (asks_nothing(&request) || content == Some(vec![])) {
        return Err(row.wrong("the prompt is empty, which servers refuse"));
    }
    let counted = match (counted, &content) {
        (Some(counted), _) => Some(counted),
        (None, Some(content)) => Some(framed.count(&media::text(content))?),
        (None, None) => None,
    };
    let measured = match (request.prompt_len, counted) {
        (Some(len), _) => len as usize,
        (None, Some(counted)) => counted,
        (None, None) => measure(row, &request, framed, !parts.is_empty())?,
    };
    media::attach(row, &mut request, parts, common)?;
    Ok(Some((request, Fitted::as_is(measured))))
}

/// Whether there is a prompt without anything in it.
fn asks_nothing(request: &SampleRequest) -> bool {
    match (&request.prompt, &request.messages) {
        (Some(Prompt::Text(text)), _) => text.is_empty(),
        (Some(Prompt::Ids(ids)), _) => ids.is_empty(),
        (Some(Prompt::Texts(texts)), _) => texts.iter().any(String::is_empty),
        (Some(Prompt::IdLists(lists)), _) => lists.iter().any(Vec::is_empty),
        (None, Some(messages)) => messages.is_empty(),
        (None, None) => false,
    }
}

/// The number of prompt tokens that the server will report. What images and sound become is the model's affair.
fn measure(row: &Row, request: &SampleRequest, framed: Framed, has_media: bool) -> Result<usize, Error> {
    match (&request.prompt, &request.messages) {
        (Some(Prompt::Text(text)), _) => framed.count(text),
        (Some(Prompt::Ids(ids)), _) => Ok(ids.len()),
        (Some(Prompt::Texts(texts)), _) => texts.iter().map(|text| framed.count(text)).sum(),
        (Some(Prompt::IdLists(lists)), _) => Ok(lists.iter().map(Vec::len).sum()),
        (None, Some(messages)) => framed.tokenizer.count_chat_with(ChatInput { messages, body: request.body.as_ref() }),
        (None, None) if has_media => Ok(0),
        (None, None) => {
            Err(row.wrong("neither `prompt` nor `messages`, nor a list `content`: a request needs one of them"))
        }
    }
}
