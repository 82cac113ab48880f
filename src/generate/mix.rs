//! `vb-gen mix`: saved requests of several sources as one stream, by weight or by time.

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

/// Mixes saved requests: by weight (0.7=chat.ndjson 0.3=code.ndjson), or by their timestamps (a.ndjson b.ndjson).
///
/// Each request is tagged `mix` with the name of its source, and its ids begin with it: the name of its file, or the one that
/// is given, as chat:0.7=FILE, or chat:=FILE without a weight. A source is a file, a pipe as <(vb-gen ...), or `-` for standard
/// input; each is read once, line by line.
#[derive(Debug, Clone, clap::Args)]
pub struct MixArgs {
    /// A source, with its weight or without; all of them in the same way.
    #[arg(value_name = "[[NAME:]WEIGHT=]FILE", num_args(1..), value_parser = parse_source)]
    sources: Vec<MixSource>,
}

/// A source as it is typed.
#[derive(Debug, Clone, Default, PartialEq)]
struct MixSource {
    name: Option<String>,
    weight: Option<f64>,
    path: PathBuf,
}

/// The flags that mean something to a mix.
const FLAGS: [&str; 4] = ["seed", "num_prompts", "tag", "config"];

/// Refuses flags of `tool` that were typed and that do nothing here. Those of a config are for other tools as well.
pub fn check_flags(tool: &clap::Command, typed: Vec<OsString>) -> Result<(), Error> {
    let matches = tool.clone().try_get_matches_from(typed).map_err(|e| Error::Usage(e.to_string()))?;
    let is_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let mut flags = tool.get_arguments().filter(|arg| !FLAGS.contains(&arg.get_id().as_str()));
    match flags.find(|arg| is_typed(arg.get_id().as_str())).and_then(clap::Arg::get_long) {
        Some(flag) => Err(Error::Usage(format!(
            "--{flag} does nothing with mix, which takes requests as they are: give it to the vb-gen that makes them; mix has \
             --seed, --num-prompts, --tag and --config"
        ))),
        None => Ok(()),
    }
}

/// Whether a name and an id may have this letter. None of them is the `/` that stands between both.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

fn parse_source(text: &str) -> Result<MixSource, String> {
    // A file may have a name with `=` or `:` in it.
    let whole = || Ok(MixSource { path: text.into(), ..MixSource::default() });
    let Some((front, path)) = text.split_once('=') else { return whole() };
    let (name, weight) = front.rsplit_once(':').map_or((None, front), |(name, weight)| (Some(name), weight));
    let weight = match (weight.trim(), name) {
        ("", Some(_)) => None,
        (weight, _) => match weight.parse::<f64>() {
            Ok(weight) if weight > 0.0 && weight.is_finite() => Some(weight),
            Ok(_) => return Err(format!("the weight of `{text}` is not above 0: leave the source out instead")),
            Err(_) => return whole(),
        },
    };
    if name.is_some_and(|name| name.is_empty() || !name.chars().all(is_plain)) {
        return Err(format!("the name of `{text}` is not made of English letters, digits, `.`, `_` and `-`"));
    }
    Ok(MixSource { name: name.map(str::to_owned), weight, path: path.into() })
}

/// A source that is being read.
struct MixStream {
    name: String,
    lines: NdjsonReader<Box<dyn std::io::BufRead + Send>>,
    /// Of the last line.
    latest: Nanos,
}

impl MixStream {
    fn open(path: &Path, name: String) -> Result<Self, Error> {
        let (input, place) = cli::open_input(path)?;
        Ok(MixStream { name, lines: NdjsonReader::new(input, place), latest: Nanos(0) })
    }

    /// The next request, with ids of its own and its tag.
    fn next_request(&mut self) -> Result<Option<SampleRequest>, Error> {
        let Some(mut request) = self.lines.next_record::<SampleRequest>()? else { return Ok(None) };
        if request.prompt.is_none() && request.messages.is_none() {
            return Err(self.lines.error_at(0, "not a request: it has neither `prompt` nor `messages`"));
        }
        // No name has a `/`, so that ids of two sources are never the same.
        let own = |id: String| format!("{}/{id}", self.name);
        request.request_id = Some(match request.request_id {
            Some(id) => own(id),
            None => own(format!("line{}", self.lines.line_number())),
        });
        request.session_id = request.session_id.map(own);
        let tags = request.tags.get_or_insert_default();
        // Of what was mixed before, both names.
        let name = tags.get("mix").and_then(Value::as_str).map_or(self.name.clone(), |inner| own(inner.to_owned()));
        tags.insert("mix".to_owned(), name.into());
        Ok(Some(request))
    }

    /// The next request, which must not ask to be sent at some time.
    fn next_untimed(&mut self) -> Result<Option<SampleRequest>, Error> {
        let request = self.next_request()?;
        if request.as_ref().is_some_and(|request| request.timestamp.is_some()) {
            return Err(self.lines.error_at(
                0,
                "it has a `timestamp`, and weights would change how many are sent a second: mix such sources without \
                 weights, or drop the times (jq -c 'del(.timestamp)')",
            ));
        }
        Ok(request)
    }

    /// The next request and when it is due, which must be no earlier than the one before.
    fn next_timed(&mut self) -> Result<Option<(Nanos, SampleRequest)>, Error> {
        let Some(request) = self.next_request()? else { return Ok(None) };
        let Some(due) = request.timestamp else {
            return Err(self
                .lines
                .error_at(0, "it has no `timestamp` to be mixed by: give each source a weight, as 0.5=FILE"));
        };
        if due < self.latest {
            let what = "its `timestamp` is before that of the line above: sort the file first (jq -s -c 'sort_by(.timestamp)[]')";
            return Err(self.lines.error_at(0, what));
        }
        self.latest = due;
        Ok(Some((due, request)))
    }
}

/// Writes the requests of all sources, at most `most` of them (0: as many as there are).
pub fn run(args: &MixArgs, seed: u64, most: u64, writer: &mut RequestWriter) -> Result<(), Error> {
    if args.sources.is_empty() {
        return Err(Error::Usage("name the sources: vb-gen mix 0.7=a.ndjson 0.3=b.ndjson".into()));
    }
    let weights: Vec<f64> = args.sources.iter().filter_map(|source| source.weight).collect();
    if !weights.iter().sum::<f64>().is_finite() {
        return Err(Error::Usage("the weights are too large to be added: only their proportions matter".into()));
    }
    let twice = args.sources.iter().filter(|source| source.path == Path::new("-")).count() > 1;
    if twice {
        return Err(Error::Usage("standard input (`-`) can be one source only".into()));
    }
    let names = source_names(&args.sources);
    let streams = args.sources.iter().zip(names).map(|(source, name)| MixStream::open(&source.path, name));
    let streams = streams.collect::<Result<Vec<MixStream>, Error>>()?;
    let most = if most == 0 { u64::MAX } else { most };
    match weights.len() {
        0 => by_time(streams, most, writer),
        n if n == args.sources.len() => by_weight(streams, &weights, seed, most, writer),
        _ => Err(Error::Usage("give all sources a weight, as 0.7=FILE, or none of them".into())),
    }
}

/// Draws a source for each request, until there are enough or the source that was drawn has no more.
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
                "{} has no more requests: ended after {item}, since going on would change the weights",
                stream.name
            ));
            break;
        };
        writer.write(request)?;
    }
    Ok(())
}

/// Takes what is due first, and of those due at once what was named first.
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
        print_warning(format!("the sources had {} requests: wrote those", writer.requests_written()));
    }
    Ok(())
}

/// What each source is called: as it says, or its file's name without the ending, in letters that a header may have; and a
/// number where two are alike.
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
    fn a_weight_stands_before_the_file() {
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
