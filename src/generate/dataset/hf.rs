//! `--dataset-name hf`: a Hugging Face dataset in a local file, with any column names.

use std::path::Path;

use clap::{ArgAction, Args as _};
use serde_json::Value;

use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads};
use crate::{
    cli,
    data::{Row, table},
    error::Error,
    generate::{
        args::{Args, DATASET as HEADING},
        chat_text,
        common::Common,
        conversation::{ChatMessage, Conversation, read_messages},
        exact::{OutputLen, PromptCounter},
        media, print_warning,
        rows::{self, KeptRow, LeftOut},
        session::{SessionFlags, SessionRequests, check_optional_turns},
        writer::{PromptLen, RequestWriter},
    },
    record::{Prompt, SampleRequest},
    tokens::ChatInput,
};

/// Flags of hf.
#[derive(Debug, clap::Args)]
struct HfFlags {
    /// What columns contain, as in prompt=question: `prompt` (text), `messages` (a conversation), `output` (the real
    /// answer) [default: the first column with a usual name, printed on standard error]; `image` and `audio`, which are
    /// only sent if they are given here (hf).
    #[arg(
        long,
        help_heading = HEADING,
        value_name = "WHAT=COLUMN",
        value_parser = cli::parse_key_value,
        action = ArgAction::Append,
        num_args(1..)
    )]
    hf_column: Vec<(String, String)>,
    /// Column of the prompt, like --hf-column prompt=COLUMN (hf).
    #[arg(long, help_heading = HEADING, value_name = "COLUMN")]
    hf_text_column: Option<String>,
}

pub const DATASET: Dataset = Dataset {
    name: "hf",
    aliases: &[],
    about: "A Hugging Face dataset from a local file: parquet, JSON, JSONL or CSV",
    reads: Reads::File,
    lengths: "its prompts have their own lengths",
    // If a row has no answer.
    output: OutputTokens::Default(256),
    apis: Apis::Media,
    takes: &["apply_chat_template"],
    flags: &[SessionFlags::augment_args, HfFlags::augment_args],
    check: Some(check_own_flags),
    run,
};

fn check_own_flags(args: &Args) -> Result<(), Error> {
    let flags: HfFlags = args.own.read_group()?;
    if let Some((what, _)) = flags.hf_column.iter().find(|(what, _)| !WHAT.contains(&what.as_str())) {
        return Err(Error::Usage(format!(
            "--hf-column {what}: use prompt, messages, output, image or audio, as in --hf-column prompt=question"
        )));
    }
    check_optional_turns(args)
}

impl HfFlags {
    fn named_column(&self, what: &str) -> Option<&str> {
        let column = self.hf_column.iter().find(|(key, _)| key == what).map(|(_, column)| column.as_str());
        column.or_else(|| self.hf_text_column.as_deref().filter(|_| what == "prompt"))
    }
}

/// Kinds of columns.
const WHAT: [&str; 5] = ["prompt", "messages", "output", "image", "audio"];

/// Usual names of columns, most specific first.
const PROMPTS: &[&str] =
    &["prompt", "question", "instruction", "problem", "query", "text", "input", "content", "turns"];
const MESSAGES: &[&str] = &["messages", "conversations", "conversation"];
const OUTPUTS: &[&str] = &["output", "response", "answer", "completion", "solution", "chosen"];

/// Usual names of media columns. They are reported, because they are not sent unless they are given.
const MEDIA: &[&str] = &["image", "images", "audio"];

/// Which columns are used for what.
#[derive(Debug, Default, PartialEq, Eq)]
struct HfColumns {
    /// The prompt or the conversation; `None` if there are only images or audio.
    input: Option<String>,
    /// Context of an instruction, which Alpaca has; it follows the prompt.
    context: Option<String>,
    output: Option<String>,
    image: Option<String>,
    audio: Option<String>,
    /// A column that looks like images or audio and was not given.
    unsent: Option<String>,
}

impl HfColumns {
    /// Uses the columns of the flags, or else those with usual names.
    fn from_flags(args: &HfFlags, names: &[String], path: &str) -> Result<Self, Error> {
        let there = |column: &str| names.iter().any(|name| name == column);
        let missing = |what: &str, kind: &str| {
            Error::Usage(format!(
                "{path} has {what}; its columns: {}; select one with --hf-column {kind}=NAME",
                names.join(", ")
            ))
        };
        let asked = |what: &str| match args.named_column(what) {
            Some(column) if !there(column) => Err(missing(&format!("no column `{column}`"), what)),
            column => Ok(column),
        };
        // A column that was given is not used for anything else.
        let free = |name: &str| !args.hf_column.iter().any(|(_, column)| column == name);
        let usual = |list: &[&'static str]| list.iter().copied().find(|name| there(name) && free(name));
        let (prompt, messages) = (asked("prompt")?, asked("messages")?);
        if prompt.is_some() && messages.is_some() {
            return Err(Error::Usage("--hf-column names both a prompt and messages: give only one of them".into()));
        }
        let input = prompt.or(messages).or_else(|| usual(MESSAGES)).or_else(|| usual(PROMPTS));
        let (output, image, audio) = (asked("output")?, asked("image")?, asked("audio")?);
        if input.is_none() && image.is_none() && audio.is_none() {
            return Err(missing("no column with a usual name", "prompt"));
        }
        let answers = || OUTPUTS.iter().copied().find(|name| there(name) && free(name) && Some(*name) != input);
        let output = output.filter(|column| Some(*column) != input).or_else(answers);
        let context = (prompt.is_none() && input == Some("instruction")).then(|| usual(&["input"])).flatten();
        let unsent = usual(MEDIA).filter(|column| ![input, output].contains(&Some(*column)));
        let [input, context, output, image, audio, unsent] =
            [input, context, output, image, audio, unsent].map(|column| column.map(str::to_owned));
        Ok(HfColumns { input, context, output, image, audio, unsent })
    }

    fn column_names(&self) -> Vec<String> {
        let all = [&self.input, &self.context, &self.output, &self.image, &self.audio];
        all.into_iter().flatten().cloned().collect()
    }

    fn describe_columns(&self) -> String {
        let of = |what: &str, column: &Option<String>| column.as_ref().map(|column| format!("{what} in `{column}`"));
        let used = [
            of("prompts", &self.input),
            of("context", &self.context),
            of("real answers", &self.output),
            of("images", &self.image),
            of("audio", &self.audio),
        ];
        let unsent = self.unsent.as_ref().map_or_else(String::new, |column| {
            let what = if column == "audio" { "audio" } else { "image" };
            format!("; `{column}` is not sent: use --hf-column {what}={column} to send it")
        });
        format!("columns: {}{unsent}", used.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// Writes `--num-prompts` rows, or all.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let args: HfFlags = flags.read_group()?;
    let path = common.require_file()?;
    let mut columns = HfColumns::default();
    let (rows, note) = table::open_table(path, common.lenient, &mut |names| {
        columns = HfColumns::from_flags(&args, names, &path.display().to_string())?;
        Ok(columns.column_names())
    })?;
    note.into_iter().for_each(print_warning);
    print_warning(columns.describe_columns());
    let counter = common.prompt_counter()?;
    if common.sessions.multi_turn {
        return rows::write_sessions(common, &rows, writer, |row| row_session(row, &columns, common, counter));
    }
    rows::write_requests(common, &rows, writer, |row| row_request(row, &columns, common, counter))
}

/// Prompt of a row.
enum HfPrompt {
    Text(String),
    Chat(Vec<ChatMessage>),
}

/// Cells of a row, by kind.
struct HfCells {
    input: Option<HfPrompt>,
    /// The real answer, unparsed.
    output: Value,
    /// Content parts of images and audio.
    media: Vec<Value>,
}

fn read_cells(row: &Row, columns: &HfColumns, common: &Common) -> Result<HfCells, Error> {
    let mut cells = row.parse_columns()?;
    let mut take =
        |column: &Option<String>| column.as_ref().and_then(|column| cells.remove(column)).unwrap_or_default();
    let name = columns.input.as_deref().unwrap_or_default();
    let input = match take(&columns.input) {
        Value::Null => None,
        Value::String(text) => match take(&columns.context) {
            Value::String(context) if !context.trim().is_empty() => {
                Some(HfPrompt::Text(format!("{text}\n\n{context}")))
            }
            _ => Some(HfPrompt::Text(text)),
        },
        // A list of questions, as in MT-Bench: the later ones refer to answers that do not exist.
        Value::Array(list) if list.first().is_some_and(Value::is_string) => {
            list[0].as_str().map(|text| HfPrompt::Text(text.to_owned()))
        }
        list @ Value::Array(_) => {
            let chat = read_messages(list);
            Some(HfPrompt::Chat(chat.map_err(|e| row.wrong(&format!("`{name}` is not a list of messages: {e}")))?))
        }
        _ => return Err(row.wrong(&format!("`{name}` is neither text nor a list of messages"))),
    };
    let output = take(&columns.output);
    let folder = common.require_file()?.parent().unwrap_or(Path::new(""));
    let mut media = media::read_images(row, folder, &take(&columns.image))?;
    media.extend(media::read_sounds(row, folder, &take(&columns.audio))?);
    Ok(HfCells { input, output, media })
}

/// The real answer in a cell: text or a number, the first of several texts, or the last message of the model in a
/// conversation.
fn real_answer(row: &Row, columns: &HfColumns, cell: Value) -> Result<Option<String>, Error> {
    let wrong = || {
        let name = columns.output.as_deref().unwrap_or_default();
        row.wrong(&format!(
            "`{name}` is not an answer: expected text, a number, or a list of texts or messages; --hf-column output=NAME selects \
             another column, and --output-len makes it unnecessary"
        ))
    };
    match cell {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Bool(_) | Value::Number(_) => Ok(Some(cell.to_string())),
        Value::Array(list) if list.iter().all(Value::is_string) => {
            Ok(list.first().and_then(Value::as_str).map(str::to_owned))
        }
        list @ Value::Array(_) => read_messages(list).map(Conversation::last_answer).map_err(|_| wrong()),
        Value::Object(_) => Err(wrong()),
    }
}

fn row_session(
    row: &Row,
    columns: &HfColumns,
    common: &Common,
    counter: PromptCounter,
) -> Result<Result<SessionRequests, LeftOut>, Error> {
    let cells = read_cells(row, columns, common)?;
    if !cells.media.is_empty() {
        return Err(row.wrong("--multi-turn does not send images or audio: leave out --hf-column image and audio"));
    }
    match cells.input {
        Some(HfPrompt::Chat(messages)) => Conversation::from_messages(messages).into_session(common, counter),
        Some(HfPrompt::Text(_)) => Err(row.wrong(&format!(
            "--multi-turn needs a column of conversations, and `{}` is text: select one with --hf-column messages=NAME",
            columns.input.as_deref().unwrap_or_default()
        ))),
        None => Ok(Err(LeftOut("no conversation"))),
    }
}

/// Makes a request from the prompt, or from a conversation up to its first answer.
fn row_request(row: &Row, columns: &HfColumns, common: &Common, counter: PromptCounter) -> Result<KeptRow, Error> {
    let HfCells { input, output, media } = read_cells(row, columns, common)?;
    let (request, answer) = match input {
        Some(HfPrompt::Text(text)) if !text.trim().is_empty() => {
            (SampleRequest { prompt: Some(Prompt::Text(text)), ..SampleRequest::default() }, None)
        }
        Some(HfPrompt::Chat(messages)) => {
            let (messages, answer) = Conversation::opening_messages(messages);
            if messages.is_empty() {
                return Ok(Err(LeftOut("no user message at its start")));
            }
            (SampleRequest { messages: Some(messages), ..SampleRequest::default() }, answer)
        }
        None if columns.input.is_none() && !media.is_empty() => (SampleRequest::default(), None),
        _ => return Ok(Err(LeftOut("no prompt"))),
    };
    let (mut request, known_len) = chat_text::prepare_request(row, request, common, counter)?;
    request.expected_output_len = match common.output_len {
        Some(OutputLen::Tokens(n)) => Some(n),
        _ if !common.generates => None,
        _ => match answer.map_or_else(|| real_answer(row, columns, output), |answer| Ok(Some(answer)))? {
            Some(answer) => u32::try_from(counter.tokenizer.count(&answer)?.max(1)).ok(),
            None => Some(common.output_tokens()),
        },
    };
    let len = match (known_len, &request.messages, &request.prompt) {
        (Some(len), ..) => len,
        (None, Some(messages), _) => counter.tokenizer.count_chat_with(ChatInput::from(&messages[..]))?,
        (None, None, Some(Prompt::Text(text))) => counter.count(text)?,
        (None, None, _) => 0,
    };
    media::attach_parts(row, &mut request, media, common)?;
    Ok(Ok((request, PromptLen::exact(len))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(flags: &[(&str, &str)], names: &[&str]) -> Result<(Option<String>, Option<String>), String> {
        let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        let args = HfFlags { hf_column: flags.iter().map(pair).collect(), hf_text_column: None };
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let columns = HfColumns::from_flags(&args, &names, "f").map_err(|e| e.to_string())?;
        Ok((columns.input, columns.output))
    }

    #[test]
    fn columns_are_found_by_their_usual_names() {
        let some = |a: &str, b: &str| Ok((Some(a.to_owned()), Some(b.to_owned())));
        assert_eq!(columns(&[], &["answer", "question"]), some("question", "answer"));
        assert_eq!(columns(&[], &["prompt", "messages", "output"]), some("messages", "output"));
        assert_eq!(columns(&[("prompt", "q")], &["q", "messages"]), Ok((Some("q".into()), None)));
        // A column that was given is not used as the prompt too.
        assert_eq!(
            columns(&[("audio", "sound"), ("output", "text")], &["sound", "text"]),
            Ok((None, Some("text".into())))
        );
        assert_eq!(columns(&[("output", "o"), ("messages", "m")], &["o", "m"]), some("m", "o"));
        // The prompt column is not the answer, but another column may be.
        assert_eq!(columns(&[("prompt", "output")], &["output", "answer"]), some("output", "answer"));
    }

    #[test]
    fn a_missing_column_is_reported_with_the_existing_ones() {
        for (flags, cure) in [
            (&[][..], "--hf-column prompt=NAME"),
            (&[("prompt", "c")], "--hf-column prompt=NAME"),
            (&[("output", "c")], "--hf-column output=NAME"),
        ] {
            let error = columns(flags, &["a", "b"]).unwrap_err();
            assert!(error.contains("its columns: a, b") && error.contains(cure), "{error}");
        }
    }
}
