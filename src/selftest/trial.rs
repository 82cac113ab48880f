//! One run of the simulated server and the client, and the records of both.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Write},
    path::PathBuf,
    process::ChildStdin,
    thread::{self, JoinHandle},
};

use serde::Deserialize;

use super::{
    child::{Program, Programs},
    errors::server_pace,
    plan::LoadPlan,
    record::ServerPace,
    search::SearchRun,
};
use crate::{
    clock::unix_now,
    error::Error,
    ndjson::{self, NdjsonReader},
    record::{EndRecord, RequestFuncOutput, RunRecord, SampleRequest, Truth},
    units::{Nanos, SECOND},
};

/// The longest that the server may take to end.
const MAX_STOP_TIME: Nanos = Nanos(5 * SECOND);

/// Runs the programs with the same flags and scratch folder.
#[derive(Debug)]
pub struct TrialRunner {
    programs: Programs,
    scratch: ScratchFolder,
    client_flags: Vec<String>,
}

/// A folder for the truth log, removed on drop.
#[derive(Debug)]
struct ScratchFolder(PathBuf);

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        // It is in the system's temporary folder, so a failure to remove it does not matter.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The records of both sides of a run.
#[derive(Debug, Default)]
pub struct Trial {
    /// The client's first record.
    pub run: RunRecord,
    /// The client's requests.
    pub outputs: Vec<RequestFuncOutput>,
    /// The client's last record.
    pub end: EndRecord,
    /// The server's requests.
    pub truths: Vec<Truth>,
}

/// The key that identifies the type of a record.
#[derive(Deserialize)]
struct RecordType {
    r#type: String,
}

impl TrialRunner {
    /// Creates a runner that passes `client_flags` to `vb-fire` in every run.
    pub fn new(client_flags: Vec<String>) -> Result<Self, Error> {
        let name = format!("vb-selftest-{:x}-{:x}", std::process::id(), unix_now().0);
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).map_err(|e| Error::write(&folder, e))?;
        Ok(TrialRunner { programs: Programs::new()?, scratch: ScratchFolder(folder), client_flags })
    }

    /// Runs `plan` once, against a new server.
    pub fn run_plan(&self, plan: &LoadPlan) -> Result<Trial, Error> {
        let log = self.scratch.0.join("truth.ndjson");
        let mut server = self.programs.start("sim", plan.server_args(&log))?;
        let url = server.first_line()?;
        let mut args = plan.client_args(&url);
        args.extend(self.client_flags.iter().map(Into::into));
        let mut client = self.programs.start("fire", args)?;
        let records = collect_records(&mut client, plan)?;
        server.stop_within(MAX_STOP_TIME)?;
        let file = File::open(&log).map_err(|e| Error::read(&log, e))?;
        let mut trial = parse_records(&records)?;
        let mut lines = NdjsonReader::new(BufReader::new(file), log.display().to_string());
        while let Some(truth) = lines.next_record()? {
            trial.truths.push(truth);
        }
        Ok(trial)
    }
}

/// Feeds the client and waits for its end. Returns its standard output.
fn collect_records(client: &mut Program, plan: &LoadPlan) -> Result<Vec<u8>, Error> {
    let feeder = client.take_stdin().map(|stdin| spawn_feeder(stdin, plan.sample_requests()));
    // Nothing is parsed while the client measures, because it runs on this machine.
    let collector = client.take_stdout().map(|mut stdout| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).map(|_| bytes)
        })
    });
    let status = client.wait(plan.max_duration() + Nanos(5 * SECOND))?;
    if !status.success() {
        return Err(client.fail_with(&format!("failed ({status})")));
    }
    // The client succeeded, so it has read all of its input.
    drop(feeder.map(JoinHandle::join));
    match collector.map(JoinHandle::join) {
        Some(Ok(Ok(bytes))) => Ok(bytes),
        Some(Ok(Err(source))) => Err(Error::Read { from: "the records of vb-fire".into(), source }),
        _ => Err(client.fail_with("wrote no records")),
    }
}

/// Writes the requests in a thread, then closes the pipe. Write errors are ignored: the client reports missing input.
fn spawn_feeder(stdin: ChildStdin, lines: impl Iterator<Item = SampleRequest> + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut out = BufWriter::new(stdin);
        for line in lines {
            if ndjson::write_record(&mut out, &line).is_err() {
                return;
            }
        }
        let _ = out.flush();
    })
}

/// Parses the records of the client.
fn parse_records(records: &[u8]) -> Result<Trial, Error> {
    let mut trial = Trial::default();
    let mut ended = false;
    let mut lines = NdjsonReader::new(records, "vb-fire");
    while let Some(line) = lines.next_line()? {
        let added = add_record(line, &mut trial, &mut ended);
        added.map_err(|e| lines.bad_json(&e))?;
    }
    if !ended || trial.outputs.is_empty() {
        return Err(Error::Setup(
            "vb-fire wrote an incomplete run: are vb-fire and vb-selftest of the same version?".into(),
        ));
    }
    Ok(trial)
}

fn add_record(line: &[u8], trial: &mut Trial, ended: &mut bool) -> Result<(), serde_json::Error> {
    let kind: RecordType = serde_json::from_slice(line)?;
    match kind.r#type.as_str() {
        "run" => trial.run = serde_json::from_slice(line)?,
        "output" => trial.outputs.push(serde_json::from_slice(line)?),
        "end" => {
            trial.end = serde_json::from_slice(line)?;
            *ended = true;
        }
        _ => {}
    }
    Ok(())
}

impl Trial {
    /// Token-bearing chunks of all requests.
    #[must_use]
    pub fn chunk_count(&self) -> u64 {
        let chunks = |output: &RequestFuncOutput| output.ttft.map_or(0, |_| output.itl.len() as u64 + 1);
        self.outputs.iter().map(chunks).sum()
    }

    /// Token-bearing chunks per second of the run.
    #[must_use]
    pub fn chunks_per_s(&self) -> f64 {
        self.chunk_count() as f64 / self.end.duration.as_secs_f64().max(1e-9)
    }

    /// How well the server kept its step.
    #[must_use]
    pub fn server_pace(&self, plan: &LoadPlan) -> ServerPace {
        server_pace(&self.truths, plan.step)
    }

    /// Summarizes the run for a search.
    #[must_use]
    pub fn search_run(&self, plan: &LoadPlan) -> SearchRun {
        SearchRun {
            streams: plan.stream_count(),
            step: plan.step,
            chunks_per_s: self.chunks_per_s(),
            verdict: self.end.verdict,
            server_kept: self.server_pace(plan).kept,
            reasons: self.end.reasons.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_without_an_end_record_is_incomplete() {
        let output = r#"{"type":"output","request_id":"a","ttft":0.5,"itl":[0.5]}"#;
        assert_eq!(parse_records(output.as_bytes()).unwrap_err().exit_code(), 4);
        let whole = format!("{output}\n{{\"type\":\"future\"}}\n{{\"type\":\"end\",\"duration\":2}}");
        let trial = parse_records(whole.as_bytes()).unwrap();
        assert_eq!((trial.chunk_count(), trial.chunks_per_s().to_bits()), (2, 1.0_f64.to_bits()));
        assert!(parse_records(b"{\"type\":\"output\",\"ttft\":-1}").unwrap_err().to_string().starts_with("vb-fire:1:"));
    }
}
