//! `--dataset-name custom`: the user's own prompts, one JSON object per line.

use std::{path::Path, sync::Once};

use serde::Deserialize;
use serde_json::json;

use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads};
use crate::{
    data::{Row, Rows},
    error::{Error, truncate_quote},
    fields::WholeCount,
    generate::{
        chat_text,
        common::Common,
        conversation::CONVERSATION_KEYS,
        exact::{OutputLen, PromptCounter},
        media::{self, RowMedia},
        print_warning,
        row_stream::RowStream,
        rows::{self, BadRows},
        writer::{PromptLen, RequestWriter},
    },
    record::{Object, Prompt, SampleRequest},
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
    output_tokens: Option<WholeCount>,
}

/// Keys of a request that a row may use for something else. A value of another type is kept as a tag; under any other key it is
/// an error.
const TAKEN_KEYS: [&str; 9] =
    ["tags", "body", "timestamp", "request_id", "session_id", "turn", "think_time", "lora", "multi_modal_data"];

/// Writes `--num-prompts` rows, or all.
fn run(common: &Common, _: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let path = common.require_file()?;
    let counter = common.prompt_counter()?;
    if !path.is_file() {
        return write_from_pipe(common, counter, path, writer);
    }
    let (rows, cut) = Rows::from_json(path, common.lenient)?;
    cut.into_iter().for_each(print_warning);
    let make = |row: &Row| row_request(row, common, counter).map(Ok);
    match ordering_key(&rows)? {
        Some(key) => {
            if common.shuffle {
                print_warning(format!("the rows have `{key}`: their order is kept, and each is written at most once"));
            }
            rows::write_in_order(common, &rows, writer, make)
        }
        None => rows::write_requests(common, &rows, writer, make),
    }
}

/// The key of the first row that makes its place in the file matter.
fn ordering_key(rows: &Rows) -> Result<Option<&'static str>, Error> {
    let Some(Ok(request)) = rows.read(0)?.map(|row| read_columns(&row)) else { return Ok(None) };
    let timed = request.timestamp.map(|_| "timestamp");
    Ok(timed.or(request.session_id.map(|_| "session_id")))
}

/// Reads a pipe in order: shuffling it would mean keeping it in memory.
fn write_from_pipe(
    common: &Common,
    counter: PromptCounter,
    path: &Path,
    writer: &mut RequestWriter,
) -> Result<(), Error> {
    let mut rows = RowStream::open(path, common.lenient)?;
    let mut bad = BadRows::default();
    while common.num_prompts == 0 || writer.requests_written() < common.num_prompts {
        let Some(row) = rows.next_row()? else { break };
        match row_request(&row, common, counter) {
            Ok((request, fitted)) => writer.write_measured(request, fitted)?,
            Err(e @ Error::Input(_)) if common.lenient => bad.add(&e, &row.place),
            Err(e) => return Err(e),
        }
        // A program that writes the pipe line by line may wait for the output.
        writer.flush()?;
    }
    bad.report();
    if writer.requests_written() == 0 {
        return Err(Error::Input(format!("{} has no usable row", rows.name())));
    }
    if writer.requests_written() < common.num_prompts {
        print_warning(format!(
            "{} has only {} usable rows: wrote only those, because a pipe cannot be read again",
            rows.name(),
            writer.requests_written()
        ));
    }
    Ok(())
}

/// Reads the keys of a request. Columns that have the name of a key, but not its type, become tags.
fn read_columns(row: &Row) -> Result<SampleRequest, Error> {
    let mut request = match SampleRequest::parse(&row.json) {
        Ok(request) => request,
        Err((column, what)) => match move_to_tags(row) {
            Some(request) => request,
            None => return Err(row.parse_columns().err().unwrap_or_else(|| row.wrong_at(column, &what))),
        },
    };
    // The place in a conversation means nothing without the conversation.
    if request.session_id.is_none()
        && let Some(turn) = request.turn.take()
    {
        request.tags.get_or_insert_default().entry("turn").or_insert(turn.into());
    }
    Ok(request)
}

/// The request of a row whose columns collide with keys of a request; `None` if that is not what is wrong with it.
fn move_to_tags(row: &Row) -> Option<SampleRequest> {
    static WARNED: Once = Once::new();
    let mut columns = row.parse_columns().ok()?;
    let mut moved = Object::new();
    for key in TAKEN_KEYS {
        if columns.get(key).is_some_and(|value| !SampleRequest::takes_value(key, value)) {
            moved.extend(columns.shift_remove(key).map(|value| (key.to_owned(), value)));
        }
    }
    let mut request: SampleRequest = serde_json::from_value(columns.into()).ok()?;
    WARNED.call_once(|| {
        let names: Vec<String> = moved.keys().map(|key| format!("`{key}`")).collect();
        print_warning(format!(
            "{}: {} is not what a request has under this name (docs/FORMAT.md): kept as a tag",
            row.place,
            names.join(", ")
        ));
    });
    if !moved.is_empty() {
        let own = request.tags.take().unwrap_or_default();
        request.tags = Some(moved.into_iter().chain(own).collect());
    }
    Some(request)
}

fn row_request(row: &Row, common: &Common, counter: PromptCounter) -> Result<(SampleRequest, PromptLen), Error> {
    let mut request = read_columns(row)?;
    request.expected_output_len = Some(match common.output_len {
        Some(OutputLen::Tokens(n)) => n,
        Some(OutputLen::PerRow) => {
            let OutputTokensKey { output_tokens } =
                row.parse().map_err(|e| Error::Input(format!("{e} (`output_tokens`)")))?;
            output_tokens.map(|count| count.0).or(request.expected_output_len).ok_or_else(|| {
                row.wrong("no `output_tokens`, which --output-len -1 reads from each row; give a number instead")
            })?
        }
        None => request.expected_output_len.unwrap_or(common.output_tokens()),
    });
    if common.generates && request.expected_output_len == Some(0) {
        return Err(row.wrong("0 tokens to generate, which servers reject: a response has at least 1"));
    }
    let media: RowMedia = row.parse()?;
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
    Ok((request, PromptLen::exact(measured)))
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
        (None, None) => {
            let columns = row.parse_columns()?;
            let cure = if let Some(key) = CONVERSATION_KEYS.iter().find(|key| columns.contains_key(**key)) {
                format!("it has `{key}`: use --dataset-name sharegpt, or hf for the whole conversation")
            } else {
                let names: Vec<&str> = columns.keys().map(String::as_str).collect();
                format!("its keys are {}; --dataset-name hf reads other names", truncate_quote(&names.join(", ")))
            };
            Err(row
                .wrong(&format!("no `prompt`, `messages` or list `content`, and a request needs one of them: {cure}")))
        }
    }
}
