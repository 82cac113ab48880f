//! One run: the simulated server and the client side by side, and what each of them saw.

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
    errors::pace,
    plan::Plan,
    record::ServerPace,
    search::Point,
};
use crate::{
    clock::unix_now,
    error::Error,
    ndjson::{self, LineReader},
    record::{EndRecord, RequestFuncOutput, RunRecord, SampleRequest, Truth},
    units::{Nanos, SECOND},
};

/// How long the server may take to end.
const STOP: Nanos = Nanos(5 * SECOND);

/// What is needed for runs.
#[derive(Debug)]
pub struct Bench {
    programs: Programs,
    scratch: Scratch,
    client_flags: Vec<String>,
}

/// A folder for the truth log, which goes when this is dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the system, whose folder it is in.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What both sides saw of a run.
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

/// The key by which a line is known.
#[derive(Deserialize)]
struct Kind {
    r#type: String,
}

impl Bench {
    /// Sets it up; `client_flags` go to `vb-fire` in every run.
    pub fn new(client_flags: Vec<String>) -> Result<Self, Error> {
        let name = format!("vb-selftest-{:x}-{:x}", std::process::id(), unix_now().0);
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).map_err(|e| Error::write(&folder, e))?;
        Ok(Bench { programs: Programs::beside()?, scratch: Scratch(folder), client_flags })
    }

    /// Runs `plan` once, against a server of its own.
    pub fn run(&self, plan: &Plan) -> Result<Trial, Error> {
        let log = self.scratch.0.join("truth.ndjson");
        let mut server = self.programs.start("vb-sim", plan.server_args(&log))?;
        let url = server.first_line()?;
        let mut args = plan.client_args(&url);
        args.extend(self.client_flags.iter().map(Into::into));
        let mut client = self.programs.start("vb-fire", args)?;
        let records = records(&mut client, plan)?;
        server.stop(STOP)?;
        let file = File::open(&log).map_err(|e| Error::read(&log, e))?;
        let mut trial = read(&records)?;
        let mut lines = LineReader::new(BufReader::new(file), log.display().to_string());
        while let Some(truth) = lines.next_record()? {
            trial.truths.push(truth);
        }
        Ok(trial)
    }
}

/// What the client wrote, once it has ended.
fn records(client: &mut Program, plan: &Plan) -> Result<Vec<u8>, Error> {
    let feeder = client.stdin().map(|stdin| feed(stdin, plan.lines()));
    // Nothing is parsed while the clock of the client runs: this machine is the one that is measured.
    let collector = client.stdout().map(|mut stdout| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).map(|_| bytes)
        })
    });
    let status = client.wait(plan.longest() + Nanos(5 * SECOND))?;
    if !status.success() {
        return Err(client.failed(&format!("failed ({status})")));
    }
    // It ended well, so that it had all it wanted to read.
    drop(feeder.map(JoinHandle::join));
    match collector.map(JoinHandle::join) {
        Some(Ok(Ok(bytes))) => Ok(bytes),
        Some(Ok(Err(source))) => Err(Error::Read { from: "the records of vb-fire".into(), source }),
        _ => Err(client.failed("gave no records")),
    }
}

/// Writes the requests, and then closes the pipe. The client says itself what it misses.
fn feed(stdin: ChildStdin, lines: impl Iterator<Item = SampleRequest> + Send + 'static) -> JoinHandle<()> {
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

/// The records of the client.
fn read(records: &[u8]) -> Result<Trial, Error> {
    let mut trial = Trial::default();
    let mut ended = false;
    let mut lines = LineReader::new(records, "vb-fire");
    while let Some(line) = lines.next_line()? {
        let taken = take(line, &mut trial, &mut ended);
        taken.map_err(|e| lines.bad_json(&e))?;
    }
    if !ended || trial.outputs.is_empty() {
        return Err(Error::Setup("vb-fire wrote no whole run: are it and vb-selftest of one version?".into()));
    }
    Ok(trial)
}

fn take(line: &[u8], trial: &mut Trial, ended: &mut bool) -> Result<(), serde_json::Error> {
    let kind: Kind = serde_json::from_slice(line)?;
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
    pub fn chunks(&self) -> u64 {
        let chunks = |output: &RequestFuncOutput| output.ttft.map_or(0, |_| output.itl.len() as u64 + 1);
        self.outputs.iter().map(chunks).sum()
    }

    /// Those by the duration of the run.
    #[must_use]
    pub fn chunks_per_s(&self) -> f64 {
        self.chunks() as f64 / self.end.duration.as_secs_f64().max(1e-9)
    }

    /// Whether the server kept its step.
    #[must_use]
    pub fn pace(&self, plan: &Plan) -> ServerPace {
        pace(&self.truths, plan.step)
    }

    /// As a run of a search.
    #[must_use]
    pub fn point(&self, plan: &Plan) -> Point {
        Point {
            streams: plan.streams(),
            step: plan.step,
            chunks_per_s: self.chunks_per_s(),
            verdict: self.end.verdict,
            server_kept: self.pace(plan).kept,
            reasons: self.end.reasons.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_without_its_end_is_no_run() {
        let output = r#"{"type":"output","request_id":"a","ttft":0.5,"itl":[0.5]}"#;
        assert_eq!(read(output.as_bytes()).unwrap_err().exit_code(), 4);
        let whole = format!("{output}\n{{\"type\":\"of tomorrow\"}}\n{{\"type\":\"end\",\"duration\":2}}");
        let trial = read(whole.as_bytes()).unwrap();
        assert_eq!((trial.chunks(), trial.chunks_per_s().to_bits()), (2, 1.0_f64.to_bits()));
        assert!(read(b"{\"type\":\"output\",\"ttft\":-1}").unwrap_err().to_string().starts_with("vb-fire:1:"));
    }
}
