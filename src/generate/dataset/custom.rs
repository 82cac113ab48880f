//! `--dataset-name custom`: the user's own prompts, one JSON object per line.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads};
use crate::{
    cli,
    data::{Row, Rows},
    error::Error,
    generate::{
        chat_text,
        common::Common,
        exact::{OutputLen, PromptCounter},
        media::{self, RowMedia},
        print_warning,
        rows::{self, KeptRow},
        writer::{PromptLen, RequestWriter},
    },
    ndjson::NdjsonReader,
    record::{Prompt, SampleRequest},
    tokens::ChatInput,
};

pub const DATASET: Dataset = Dataset {
    name: "custom",
    aliases: &["custom_image", "custom_audio", "custom_mm"],
    about: "Your own prompts: lines with `prompt` or `messages`, with images and audio if any",
    reads: Reads::File,
    lengths: "its prompts have their own lengths",
    output: OutputTokens::DefaultOrRow(256),
    apis: Apis::Media,
    takes: &["apply_chat_template"],
    flags: &[],
    check: None,
    run,
};

/// A key of a row that requests do not have.
#[derive(Deserialize)]
struct OutputTokensKey {
    output_tokens: Option<u32>,
}

/// Writes `--num-prompts` rows, or all.
fn run(common: &Common, _: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let path = common.require_file()?;
    let counter = common.prompt_counter()?;
    if path.is_file() {
        return rows::write_requests(common, &Rows::from_lines(path)?, writer, |row| row_request(row, common, counter));
    }
    write_from_pipe(common, counter, path, writer)
}

/// Reads a pipe in order: shuffling it would mean keeping it in memory.
fn write_from_pipe(
    common: &Common,
    counter: PromptCounter,
    path: &Path,
    writer: &mut RequestWriter,
) -> Result<(), Error> {
    let (input, name) = cli::open_input(path)?;
    let mut lines = NdjsonReader::new(input, name.clone());
    let mut bad = 0_u64;
    while common.num_prompts == 0 || writer.requests_written() < common.num_prompts {
        let Some(json) = lines.next_line()?.map(<[u8]>::to_vec) else { break };
        let row = Row { json, place: format!("{name}:{}", lines.line_number()) };
        match row_request(&row, common, counter) {
            Ok(made) => made.map_or(Ok(()), |(request, fitted)| writer.write_measured(request, fitted))?,
            Err(e @ Error::Input(_)) if common.lenient => {
                bad += 1;
                // As for a file: show the first, count the others.
                if bad == 1 {
                    print_warning(format!("{e}; skipped"));
                }
            }
            Err(e) => return Err(e),
        }
        // A program that writes the pipe line by line may wait for the output.
        writer.flush()?;
    }
    if bad > 1 {
        print_warning(format!("skipped {bad} bad rows"));
    }
    if writer.requests_written() == 0 {
        return Err(Error::Input(format!("{name} has no usable row")));
    }
    if writer.requests_written() < common.num_prompts {
        print_warning(format!(
            "{name} has only {} usable rows: wrote only those, because a pipe cannot be read again",
            writer.requests_written()
        ));
    }
    Ok(())
}

fn row_request(row: &Row, common: &Common, counter: PromptCounter) -> Result<KeptRow, Error> {
    let mut request: SampleRequest = serde_json::from_slice(&row.json).map_err(|e| row.bad_json(&e))?;
    request.expected_output_len = Some(match common.output_len {
        Some(OutputLen::Tokens(n)) => n,
        Some(OutputLen::PerRow) => {
            let OutputTokensKey { output_tokens } = serde_json::from_slice(&row.json).map_err(|e| row.bad_json(&e))?;
            output_tokens.or(request.expected_output_len).ok_or_else(|| {
                row.wrong("no `output_tokens`, which --output-len -1 reads from each row; give a number instead")
            })?
        }
        None => request.expected_output_len.unwrap_or(common.output_tokens()),
    });
    if common.generates && request.expected_output_len == Some(0) {
        return Err(row.wrong("0 tokens to generate, which servers reject: a response has at least 1"));
    }
    let media: RowMedia = serde_json::from_slice(&row.json).map_err(|e| row.bad_json(&e))?;
    let folder = common.require_file()?.parent().unwrap_or(Path::new(""));
    let parts = media.read_parts(row, folder)?;
    let content = media.read_content(row, folder)?.filter(|_| request.prompt.is_none() && request.messages.is_none());
    if let Some(content) = &content {
        request.messages = Some(vec![json!({"role": "user", "content": content})]);
    }
    // The template makes a text even without messages.
    let (mut request, known_len) = chat_text::prepare_request(row, request, common, counter)?;
    if parts.is_empty() && request.multi_modal_data.is_none() && (is_empty_prompt(&request) || content == Some(vec![]))
    {
        return Err(row.wrong("the prompt is empty, which servers reject"));
    }
    let known_len = match (known_len, &content) {
        (Some(known_len), _) => Some(known_len),
        (None, Some(content)) => Some(counter.count(&media::join_texts(content))?),
        (None, None) => None,
    };
    let measured = match (request.prompt_len, known_len) {
        (Some(len), _) => len as usize,
        (None, Some(known_len)) => known_len,
        (None, None) => count_prompt(row, &request, counter, !parts.is_empty())?,
    };
    media::attach_parts(row, &mut request, parts, common)?;
    Ok(Some((request, PromptLen::exact(measured))))
}

/// Whether the prompt is empty.
fn is_empty_prompt(request: &SampleRequest) -> bool {
    match (&request.prompt, &request.messages) {
        (Some(Prompt::Text(text)), _) => text.is_empty(),
        (Some(Prompt::Ids(ids)), _) => ids.is_empty(),
        (Some(Prompt::Texts(texts)), _) => texts.iter().any(String::is_empty),
        (Some(Prompt::IdLists(lists)), _) => lists.iter().any(Vec::is_empty),
        (None, Some(messages)) => messages.is_empty(),
        (None, None) => false,
    }
}

/// Counts the prompt tokens that the server will report, except for images and audio, whose tokens depend on the model.
fn count_prompt(row: &Row, request: &SampleRequest, counter: PromptCounter, has_media: bool) -> Result<usize, Error> {
    match (&request.prompt, &request.messages) {
        (Some(Prompt::Text(text)), _) => counter.count(text),
        (Some(Prompt::Ids(ids)), _) => Ok(ids.len()),
        (Some(Prompt::Texts(texts)), _) => texts.iter().map(|text| counter.count(text)).sum(),
        (Some(Prompt::IdLists(lists)), _) => Ok(lists.iter().map(Vec::len).sum()),
        (None, Some(messages)) => {
            counter.tokenizer.count_chat_with(ChatInput { messages, body: request.body.as_ref() })
        }
        (None, None) if has_media => Ok(0),
        (None, None) => Err(row.wrong("no `prompt`, `messages` or list `content`: a request needs one of them")),
    }
}
