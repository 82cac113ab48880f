//! `vb-gen mix`: merges saved requests from several sources, by weight or by time.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::parser::ValueSource;
use serde_json::Value;

use crate::{
    cli,
    error::Error,
    generate::{print_warning, writer::RequestWriter},
    ndjson::NdjsonReader,
    record::SampleRequest,
    rng::{self, WeightedIndex},
    units::Nanos,
};

/// Mix saved requests from several files: by weight (0.7=chat.ndjson 0.3=code.ndjson), or by timestamp (a.ndjson
/// b.ndjson).
///
/// Each request gets the tag `mix` with the name of its source, and its ids begin with that name. The name comes from
/// the file, unless it is given: chat:0.7=FILE, or chat:=FILE without a weight. A source is a file, a pipe such as
/// <(vb-gen ...), or `-` for standard input. Each is read once, line by line.
#[derive(Debug, Clone, clap::Args)]
pub struct MixArgs {
    /// Sources, either all with a weight or all without.
    #[arg(value_name = "[[NAME:]WEIGHT=]FILE", num_args(1..), value_parser = parse_source)]
    sources: Vec<MixSource>,
}

/// A source on the command line.
#[derive(Debug, Clone, Default, PartialEq)]
struct MixSource {
    name: Option<String>,
    weight: Option<f64>,
    path: PathBuf,
}

/// The flags that apply to a mix.
const FLAGS: [&str; 4] = ["seed", "num_prompts", "tag", "config"];

/// Rejects flags that were typed and have no effect here. A config may contain flags of other tools.
pub fn check_flags(tool: &clap::Command, typed: Vec<OsString>) -> Result<(), Error> {
    let matches = tool.clone().try_get_matches_from(typed).map_err(|e| Error::Usage(e.to_string()))?;
    let is_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let mut flags = tool.get_arguments().filter(|arg| !FLAGS.contains(&arg.get_id().as_str()));
    match flags.find(|arg| is_typed(arg.get_id().as_str())).and_then(clap::Arg::get_long) {
        Some(flag) => Err(Error::Usage(format!(
            "--{flag} has no effect with mix, which does not change requests: give it to the vb-gen that makes them; mix takes \
             --seed, --num-prompts, --tag and --config"
        ))),
        None => Ok(()),
    }
}

/// Characters allowed in the name of a source. `/`, which separates name and id, is not among them.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

fn parse_source(text: &str) -> Result<MixSource, String> {
    // The name of a file may contain `=` or `:`.
    let whole = || Ok(MixSource { path: text.into(), ..MixSource::default() });
    let Some((front, path)) = text.split_once('=') else { return whole() };
    let (name, weight) = front.rsplit_once(':').map_or((None, front), |(name, weight)| (Some(name), weight));
    let weight = match (weight.trim(), name) {
        ("", Some(_)) => None,
        (weight, _) => match weight.parse::<f64>() {
            Ok(weight) if weight > 0.0 && weight.is_finite() => Some(weight),
            Ok(_) => return Err(format!("the weight of `{text}` is not greater than 0: leave the source out instead")),
            Err(_) => return whole(),
        },
    };
    if name.is_some_and(|name| name.is_empty() || !name.chars().all(is_plain)) {
        return Err(format!("the name of `{text}` may only contain English letters, digits, `.`, `_` and `-`"));
    }
    Ok(MixSource { name: name.map(str::to_owned), weight, path: path.into() })
}

/// An open source.
struct MixStream {
    name: String,
    lines: NdjsonReader<Box<dyn std::io::BufRead + Send>>,
    /// Timestamp of the previous request.
    latest: Nanos,
}

impl MixStream {
    fn open(path: &Path, name: String) -> Result<Self, Error> {
        let (input, place) = cli::open_input(path)?;
        Ok(MixStream { name, lines: NdjsonReader::new(input, place), latest: Nanos(0) })
    }

    /// Reads the next request, and adds the source's name to its ids and tags.
    fn next_request(&mut self) -> Result<Option<SampleRequest>, Error> {
        let Some(mut request) = self.lines.next_request()? else { return Ok(None) };
        if request.prompt.is_none() && request.messages.is_none() {
            return Err(self.lines.error_at(0, "not a request: it has neither `prompt` nor `messages`"));
        }
        // Names have no `/`, so ids of two sources never collide.
        let own = |id: String| format!("{}/{id}", self.name);
        request.request_id = Some(match request.request_id {
            Some(id) => own(id),
            None => own(format!("line{}", self.lines.line_number())),
        });
        request.session_id = request.session_id.map(own);
        let tags = request.tags.get_or_insert_default();
        // A request that was mixed before keeps both names.
        let name = tags.get("mix").and_then(Value::as_str).map_or(self.name.clone(), |inner| own(inner.to_owned()));
        tags.insert("mix".to_owned(), name.into());
        Ok(Some(request))
    }

    /// Reads the next request, which must not have a timestamp.
    fn next_untimed(&mut self) -> Result<Option<SampleRequest>, Error> {
        let request = self.next_request()?;
        if request.as_ref().is_some_and(|request| request.timestamp.is_some()) {
            return Err(self.lines.error_at(
                0,
                "it has a `timestamp`, and weights would change the request rate: mix such sources without \
                 weights, or drop the times (jq -c 'del(.timestamp)')",
            ));
        }
        Ok(request)
    }

    /// Reads the next request and its timestamp, which must not be earlier than the previous one.
    fn next_timed(&mut self) -> Result<Option<(Nanos, SampleRequest)>, Error> {
        let Some(request) = self.next_request()? else { return Ok(None) };
        let Some(due) = request.timestamp else {
            return Err(self
                .lines
                .error_at(0, "it has no `timestamp` to mix by: give each source a weight, as in 0.5=FILE"));
        };
        if due < self.latest {
            let what = "its `timestamp` is earlier than on the previous line: sort the file first (jq -s -c 'sort_by(.timestamp)[]')";
            return Err(self.lines.error_at(0, what));
        }
        self.latest = due;
        Ok(Some((due, request)))
    }
}

/// Writes the requests of all sources, at most `most` (0: all).
pub fn run(args: &MixArgs, seed: u64, most: u64, writer: &mut RequestWriter) -> Result<(), Error> {
    if args.sources.is_empty() {
        return Err(Error::Usage("name the sources: vb-gen mix 0.7=a.ndjson 0.3=b.ndjson".into()));
    }
    let weights: Vec<f64> = args.sources.iter().filter_map(|source| source.weight).collect();
    if !weights.iter().sum::<f64>().is_finite() {
        return Err(Error::Usage("the sum of the weights is too large: only their proportions matter".into()));
    }
    let twice = args.sources.iter().filter(|source| source.path == Path::new("-")).count() > 1;
    if twice {
        return Err(Error::Usage("only one source can be standard input (`-`)".into()));
    }
    let names = source_names(&args.sources);
    let streams = args.sources.iter().zip(names).map(|(source, name)| MixStream::open(&source.path, name));
    let streams = streams.collect::<Result<Vec<MixStream>, Error>>()?;
    let most = if most == 0 { u64::MAX } else { most };
    match weights.len() {
        0 => by_time(streams, most, writer),
        n if n == args.sources.len() => by_weight(streams, &weights, seed, most, writer),
        _ => Err(Error::Usage("give all sources a weight, as in 0.7=FILE, or give none".into())),
    }
}

/// Draws a source for each request, until there are enough or the drawn source has no more.
fn by_weight(
    mut streams: Vec<MixStream>,
    weights: &[f64],
    seed: u64,
    most: u64,
    writer: &mut RequestWriter,
) -> Result<(), Error> {
    let weighted = WeightedIndex::new(weights.iter().copied());
    for item in 0..most {
        let stream = &mut streams[weighted.draw_index(&mut rng::random_stream(seed, "mix", item))];
        let Some(request) = stream.next_untimed()? else {
            print_warning(format!(
                "{} has no more requests: ended after {item}, because continuing would change the weights",
                stream.name
            ));
            break;
        };
        writer.write(request)?;
    }
    Ok(())
}

/// Takes the earliest request; of several at the same time, the one whose source was given first.
fn by_time(mut streams: Vec<MixStream>, most: u64, writer: &mut RequestWriter) -> Result<(), Error> {
    let mut heads = streams.iter_mut().map(MixStream::next_timed).collect::<Result<Vec<_>, Error>>()?;
    while writer.requests_written() < most {
        let due = heads.iter().enumerate().filter_map(|(i, head)| Some((head.as_ref()?.0, i))).min();
        let Some((_, first)) = due else { break };
        if let Some((_, request)) = heads[first].take() {
            writer.write(request)?;
        }
        if writer.requests_written() < most {
            heads[first] = streams[first].next_timed()?;
        }
    }
    if most < u64::MAX && writer.requests_written() < most {
        print_warning(format!("the sources have only {} requests: wrote all of them", writer.requests_written()));
    }
    Ok(())
}

/// Names of the sources: as given, or the file name without its extension, in characters that a header may contain. A
/// number makes duplicates unique.
fn source_names(sources: &[MixSource]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for source in sources {
        let stem = source.path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let plain = |c: char| if is_plain(c) { c } else { '_' };
        let stem = match &source.name {
            Some(name) => name.clone(),
            None if stem == "-" => "stdin".to_owned(),
            None => stem.chars().map(plain).collect(),
        };
        let mut name = stem.clone();
        let mut number = 2;
        while names.contains(&name) {
            name = format!("{stem}.{number}");
            number += 1;
        }
        names.push(name);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_before_the_file() {
        let source = |weight, path: &str| MixSource { name: None, weight, path: path.into() };
        assert_eq!(parse_source("0.7=a.ndjson"), Ok(source(Some(0.7), "a.ndjson")));
        assert_eq!(parse_source("x=1.ndjson"), Ok(source(None, "x=1.ndjson")));
        assert!(parse_source("0=a").is_err() && parse_source("-1=a").is_err() && parse_source("inf=a").is_err());
        let named = |weight| MixSource { name: Some("chat".into()), ..source(weight, "/dev/fd/63") };
        assert_eq!(parse_source("chat:0.7=/dev/fd/63"), Ok(named(Some(0.7))));
        assert_eq!(parse_source("chat:=/dev/fd/63"), Ok(named(None)));
        assert_eq!(parse_source("x:y=1.ndjson"), Ok(source(None, "x:y=1.ndjson")));
        assert!(parse_source("a/b:1=c").is_err() && parse_source(":1=c").is_err());
    }

    #[test]
    fn no_two_sources_are_called_the_same() {
        let sources = ["x/a.ndjson", "y/a.ndjson", "-", "/dev/fd/63", "naïve chat.ndjson"]
            .map(|path| MixSource { path: path.into(), ..MixSource::default() });
        assert_eq!(source_names(&sources), ["a", "a.2", "stdin", "63", "na_ve_chat"]);
    }
}
