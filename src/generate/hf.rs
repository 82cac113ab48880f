//! `--dataset-name hf`: a Hugging Face dataset from a local file, whatever its columns are called.

use clap::ArgAction;
use serde_json::{Map, Value};

use super::{
    DatasetName, Plan, chat_text,
    conversation::{Conversation, Message},
    fit::Framed,
    length::OutputLen,
    rows::{self, Kept},
    session::Turns,
    warn,
    writer::{Fitted, Writer},
};
use crate::{
    cli,
    data::{Row, table},
    error::Error,
    record::{Prompt, SampleRequest},
    tokens::Chat,
};

/// The flags of `--dataset-name hf`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Dataset")]
pub struct HfArgs {
    /// Which column is what, as prompt=question: `prompt` (text), `messages` (a conversation), `output` (the real answer)
    /// (hf) [default: the first that has a usual name, said on standard error].
    #[arg(
        long,
        value_name = "WHAT=COLUMN",
        value_parser = cli::parse_pair,
        action = ArgAction::Append,
        num_args(1..)
    )]
    pub hf_column: Vec<(String, String)>,
    /// The column of the prompt, as --hf-column prompt=COLUMN (hf).
    #[arg(long, value_name = "COLUMN")]
    pub hf_text_column: Option<String>,
}

impl HfArgs {
    /// Checks them against the dataset.
    pub fn check(&self, dataset: DatasetName) -> Result<(), Error> {
        let given = !self.hf_column.is_empty() || self.hf_text_column.is_some();
        if given && dataset != DatasetName::Hf {
            return Err(Error::Usage("--hf-column and --hf-text-column work with --dataset-name hf only".into()));
        }
        let unknown =
            self.hf_column.iter().find(|(what, _)| !["prompt", "messages", "output"].contains(&what.as_str()));
        match unknown {
            Some((what, _)) => Err(Error::Usage(format!(
                "--hf-column {what}: a column is a prompt, messages or output, as in --hf-column prompt=question"
            ))),
            None => Ok(()),
        }
    }

    fn named(&self, what: &str) -> Option<&str> {
        let column = self.hf_column.iter().find(|(key, _)| key == what).map(|(_, column)| column.as_str());
        column.or_else(|| self.hf_text_column.as_deref().filter(|_| what == "prompt"))
    }
}

/// What columns are called, the surest names first.
const PROMPTS: &[&str] = &["prompt", "question", "instruction", "problem", "query", "text", "input", "content"];
const MESSAGES: &[&str] = &["messages", "conversations", "conversation"];
const OUTPUTS: &[&str] = &["output", "response", "answer", "completion", "solution", "chosen"];

/// Where a row keeps what.
#[derive(Debug, Default, PartialEq, Eq)]
struct Columns {
    /// The prompt, or the conversation.
    input: String,
    output: Option<String>,
}

impl Columns {
    /// By the flags, else by their names.
    fn of(args: &HfArgs, names: &[String], path: &str) -> Result<Self, Error> {
        let there = |column: &str| names.iter().any(|name| name == column);
        let missing = |what: &str| {
            Error::Usage(format!(
                "{path} has {what}; its columns: {}; name one with --hf-column prompt=NAME",
                names.join(", ")
            ))
        };
        let asked = |what: &str| match args.named(what) {
            Some(column) if !there(column) => Err(missing(&format!("no column `{column}`"))),
            column => Ok(column),
        };
        let usual = |list: &[&'static str]| list.iter().copied().find(|name| there(name));
        let (prompt, messages) = (asked("prompt")?, asked("messages")?);
        if prompt.is_some() && messages.is_some() {
            return Err(Error::Usage("a prompt and messages: name the column of one of them, not of both".into()));
        }
        let input = prompt.or(messages).or_else(|| usual(MESSAGES)).or_else(|| usual(PROMPTS));
        let input = input.ok_or_else(|| missing("no column with a usual name"))?.to_owned();
        let output = asked("output")?.or_else(|| usual(OUTPUTS)).filter(|column| *column != input).map(str::to_owned);
        Ok(Columns { input, output })
    }

    fn names(&self) -> Vec<String> {
        [&self.input].into_iter().chain(&self.output).cloned().collect()
    }

    fn said(&self) -> String {
        match &self.output {
            Some(output) => format!("prompts are in the column `{}`, real answers in `{output}`", self.input),
            None => format!("prompts are in the column `{}`", self.input),
        }
    }
}

/// Writes `--num-prompts` rows, or all.
pub fn run(plan: &Plan, writer: &mut Writer) -> Result<(), Error> {
    let path = plan.file()?;
    let mut columns = Columns::default();
    let (rows, note) = table::open(path, plan.lenient, &mut |names| {
        columns = Columns::of(&plan.hf, names, &path.display().to_string())?;
        Ok(columns.names())
    })?;
    note.into_iter().for_each(warn);
    if plan.hf.hf_column.is_empty() {
        warn(columns.said());
    }
    let framed = plan.framed()?;
    if plan.multi_turn {
        return rows::run_sessions(plan, &rows, writer, |row| session(row, &columns, plan, framed));
    }
    rows::run(plan, &rows, writer, |row| request(row, &columns, plan, framed))
}

/// What a row says, taken apart.
enum Input {
    Text(String),
    Chat(Vec<Message>),
}

fn cells(row: &Row, columns: &Columns) -> Result<(Option<Input>, Option<String>), Error> {
    let mut cells: Map<String, Value> = serde_json::from_slice(&row.json).map_err(|e| row.bad_json(&e))?;
    let input = match cells.remove(&columns.input) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(Input::Text(text)),
        Some(list @ Value::Array(_)) => {
            let chat = serde_json::from_value(list);
            let wrong = |e| row.wrong(&format!("`{}` is not a list of messages: {e}", columns.input));
            Some(Input::Chat(chat.map_err(wrong)?))
        }
        Some(_) => return Err(row.wrong(&format!("`{}` is neither text nor a list of messages", columns.input))),
    };
    let output = columns.output.as_ref().and_then(|column| cells.remove(column)).and_then(|cell| match cell {
        Value::String(text) => Some(text),
        _ => None,
    });
    Ok((input, output))
}

fn session(row: &Row, columns: &Columns, plan: &Plan, framed: Framed) -> Result<Turns, Error> {
    match cells(row, columns)?.0 {
        Some(Input::Chat(messages)) => Conversation::of(messages).turns(plan, framed),
        Some(Input::Text(_)) => Err(row.wrong(&format!(
            "--multi-turn needs a column of conversations, and `{}` is text: name one with --hf-column messages=NAME",
            columns.input
        ))),
        None => Ok(Turns::new()),
    }
}

/// The prompt, or a conversation up to its first answer.
fn request(row: &Row, columns: &Columns, plan: &Plan, framed: Framed) -> Result<Kept, Error> {
    let (input, output) = cells(row, columns)?;
    let (request, output) = match input {
        Some(Input::Text(text)) if !text.trim().is_empty() => {
            (SampleRequest { prompt: Some(Prompt::Text(text)), ..SampleRequest::default() }, output)
        }
        Some(Input::Chat(messages)) => {
            let (messages, answer) = Conversation::opening(messages);
            if messages.is_empty() {
                return Ok(None);
            }
            (SampleRequest { messages: Some(messages), ..SampleRequest::default() }, answer.or(output))
        }
        _ => return Ok(None),
    };
    let (mut request, counted) = chat_text::ready(request, plan, framed)?;
    request.expected_output_len = match (plan.output_len, output) {
        (Some(OutputLen::Tokens(n)), _) => Some(n),
        (_, Some(answer)) => u32::try_from(framed.tokenizer.count(&answer)?.max(1)).ok(),
        _ => Some(plan.output_tokens()),
    };
    let len = match (counted, &request.messages, &request.prompt) {
        (Some(len), ..) => len,
        (None, Some(messages), _) => framed.tokenizer.count_chat_with(Chat::from(&messages[..]))?,
        (None, None, Some(Prompt::Text(text))) => framed.count(text)?,
        (None, None, _) => return Ok(None),
    };
    Ok(Some((request, Fitted::as_is(len))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(flags: &[(&str, &str)], names: &[&str]) -> Result<(String, Option<String>), String> {
        let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        let args = HfArgs { hf_column: flags.iter().map(pair).collect(), hf_text_column: None };
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let columns = Columns::of(&args, &names, "f").map_err(|e| e.to_string())?;
        Ok((columns.input, columns.output))
    }

    #[test]
    fn columns_are_found_by_their_usual_names() {
        let some = |a: &str, b: &str| Ok((a.to_owned(), Some(b.to_owned())));
        assert_eq!(columns(&[], &["answer", "question"]), some("question", "answer"));
        assert_eq!(columns(&[], &["prompt", "messages", "output"]), some("messages", "output"));
        assert_eq!(columns(&[("prompt", "q")], &["q", "messages"]), Ok(("q".into(), None)));
        assert_eq!(columns(&[("output", "o"), ("messages", "m")], &["o", "m"]), some("m", "o"));
    }

    #[test]
    fn a_column_that_is_not_there_is_refused_with_those_that_are() {
        for (flags, names) in [(&[][..], &["a", "b"][..]), (&[("prompt", "c")], &["a", "b"])] {
            let error = columns(flags, names).unwrap_err();
            assert!(error.contains("its columns: a, b") && error.contains("--hf-column prompt=NAME"), "{error}");
        }
    }
}
