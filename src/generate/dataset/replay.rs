//! `--dataset-name replay`: saved requests, or random requests with the times and lengths of saved outputs.

use serde::Deserialize;

use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads};
use crate::{
    data::Row,
    error::Error,
    generate::{common::Common, exact::RandomPrompts, print_warning, row_stream::RowStream, writer::RequestWriter},
    record::{RequestFuncOutput, RunRecord, SampleRequest},
    units::UnixNanos,
};

pub const DATASET: Dataset = Dataset {
    name: "replay",
    aliases: &[],
    about: "Saved requests, or random prompts in the shape of saved outputs",
    reads: Reads::File,
    lengths: "its prompts have the recorded lengths",
    output: OutputTokens::Recorded,
    apis: Apis::Media,
    takes: &["prefix_len", "prompt_token_ids"],
    flags: &[],
    check: None,
    run,
};

/// The key that identifies a line.
#[derive(Deserialize)]
struct LineKind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Writes the saved requests again.
fn run(common: &Common, _: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let mut rows = RowStream::open(common.require_file()?, common.lenient)?;
    let name = rows.name().to_owned();
    let mut outcomes = OutputReplay { common, random: None, start: None };
    while common.num_prompts == 0 || writer.requests_written() < common.num_prompts {
        let Some(row) = rows.next_row()? else { break };
        let kind: LineKind = row.parse()?;
        match kind.kind.as_deref() {
            None => writer.write(parse_saved(&row)?)?,
            Some("output") => {
                let outcome = row.parse()?;
                writer.write(outcomes.make_request(&row, outcome, writer.requests_written())?)?;
            }
            Some("run") => {
                let run: RunRecord = row.parse()?;
                outcomes.start = Some(run.clock.start);
            }
            // The end record, and records of other versions.
            Some(_) => {}
        }
    }
    if writer.requests_written() == 0 {
        return Err(Error::Input(format!("{name} has no requests to replay")));
    }
    if writer.requests_written() < common.num_prompts {
        print_warning(format!("{name} has only {} requests: wrote only those", writer.requests_written()));
    }
    Ok(())
}

/// Parses a saved request.
fn parse_saved(row: &Row) -> Result<SampleRequest, Error> {
    let request = SampleRequest::parse(&row.json).map_err(|(column, what)| row.wrong_at(column, &what))?;
    if request.prompt.is_none() && request.messages.is_none() {
        return Err(row.wrong("neither a request (`prompt` or `messages`) nor an output (`\"type\":\"output\"`)"));
    }
    Ok(request)
}

/// Makes requests from outputs, which have the length of a prompt but not its text.
struct OutputReplay<'a> {
    common: &'a Common,
    /// Made for the first output; saved requests do not need it.
    random: Option<RandomPrompts<'a>>,
    /// The time that the requests' timestamps are relative to.
    start: Option<UnixNanos>,
}

impl OutputReplay<'_> {
    /// Makes a random prompt with the same length, time and output length as the output.
    fn make_request(&mut self, row: &Row, outcome: RequestFuncOutput, item: u64) -> Result<SampleRequest, Error> {
        let due = outcome.scheduled_time;
        let start = *self.start.get_or_insert(due);
        if due < start {
            return Err(row.wrong(
                "scheduled before the first line, which times are relative to, because a run writes outputs in the order in which they end: \
                 keep its `run` line, or sort them by `scheduled_time` first",
            ));
        }
        let random = match &mut self.random {
            Some(random) => random,
            none => none.insert(RandomPrompts::from_common(self.common)?),
        };
        let Some(own) = (outcome.prompt_len as usize).checked_sub(random.shared_tokens()).filter(|own| *own > 0) else {
            return Err(row.wrong(&format!(
                "`prompt_len` is {}, but the tokens that all prompts share are already {}; \
                 remove such outputs, as with jq -c 'select(.success != false)'",
                outcome.prompt_len,
                random.shared_tokens()
            )));
        };
        let (prompt, fitted) = random.make_prompt(item, own)?;
        let generated = Some(outcome.output_tokens).filter(|n| *n > 0);
        Ok(SampleRequest {
            request_id: Some(outcome.request_id).filter(|id| !id.is_empty()),
            prompt: Some(prompt),
            prompt_len: u32::try_from(fitted.got).ok(),
            expected_output_len: generated.or(outcome.expected_output_len),
            expected_cached_len: random.expected_cached(item),
            timestamp: Some(due.since(start)),
            session_id: outcome.session_id,
            turn: outcome.turn,
            body: self.common.ignore_eos(),
            tags: outcome.tags,
            ..SampleRequest::default()
        })
    }
}
