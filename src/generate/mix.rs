//! `vb-gen mix`: saved requests of several sources as one stream, by weight or by time.

use std::path::{Path, PathBuf};

use super::{warn, writer::Writer};
use crate::{
    cli,
    error::Error,
    ndjson::Lines,
    record::SampleRequest,
    rng::{self, Weighted},
    units::Nanos,
};

/// Mixes saved requests: by weight (0.7=chat.ndjson 0.3=code.ndjson), or by their timestamps (a.ndjson b.ndjson).
///
/// Each request is tagged `mix` with the name of its source, and its ids begin with it. A source is a file, a pipe
/// as <(vb-gen ...), or `-` for standard input; each is read once, line by line.
#[derive(Debug, Clone, clap::Args)]
pub struct MixArgs {
    /// A source, with its weight or without; all of them in the same way.
    #[arg(value_name = "[WEIGHT=]FILE", num_args(1..), value_parser = parse_source)]
    sources: Vec<Source>,
}

/// A source as it is typed.
#[derive(Debug, Clone, PartialEq)]
struct Source {
    weight: Option<f64>,
    path: PathBuf,
}

fn parse_source(text: &str) -> Result<Source, String> {
    let whole = || Source { weight: None, path: text.into() };
    let Some((weight, path)) = text.split_once('=') else { return Ok(whole()) };
    match weight.trim().parse::<f64>() {
        Ok(weight) if weight > 0.0 && weight.is_finite() => Ok(Source { weight: Some(weight), path: path.into() }),
        Ok(_) => Err(format!("the weight of `{text}` is not above 0: leave the source out instead")),
        // A file may have such a name.
        Err(_) => Ok(whole()),
    }
}

/// A source that is being read.
struct Stream {
    name: String,
    lines: Lines<Box<dyn std::io::BufRead + Send>>,
    /// Of the last line.
    latest: Nanos,
}

impl Stream {
    fn open(path: &Path, name: String) -> Result<Self, Error> {
        let (input, place) = cli::open(path)?;
        Ok(Stream { name, lines: Lines::new(input, place), latest: Nanos(0) })
    }

    /// The next request, with ids of its own and its tag.
    fn next_request(&mut self) -> Result<Option<SampleRequest>, Error> {
        let Some(mut request) = self.lines.next_record::<SampleRequest>()? else { return Ok(None) };
        if request.prompt.is_none() && request.messages.is_none() {
            return Err(self.lines.wrong(0, "not a request: it has neither `prompt` nor `messages`"));
        }
        let own = |id: String| format!("{}-{id}", self.name);
        request.request_id = Some(match request.request_id {
            Some(id) => own(id),
            None => own(format!("line{}", self.lines.number())),
        });
        request.session_id = request.session_id.map(own);
        request.tags.get_or_insert_default().insert("mix".to_owned(), self.name.clone().into());
        Ok(Some(request))
    }

    /// The next request, which must not ask to be sent at some time.
    fn next_untimed(&mut self) -> Result<Option<SampleRequest>, Error> {
        let request = self.next_request()?;
        if request.as_ref().is_some_and(|request| request.timestamp.is_some()) {
            return Err(self.lines.wrong(
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
                .wrong(0, "it has no `timestamp` to be mixed by: give each source a weight, as 0.5=FILE"));
        };
        if due < self.latest {
            let what = "its `timestamp` is before that of the line above: sort the file first (jq -s -c 'sort_by(.timestamp)[]')";
            return Err(self.lines.wrong(0, what));
        }
        self.latest = due;
        Ok(Some((due, request)))
    }
}

/// Writes the requests of all sources, at most `most` of them (0: as many as there are).
pub fn run(args: &MixArgs, seed: u64, most: u64, writer: &mut Writer) -> Result<(), Error> {
    if args.sources.is_empty() {
        return Err(Error::Usage("name the sources: vb-gen mix 0.7=a.ndjson 0.3=b.ndjson".into()));
    }
    let weights: Vec<f64> = args.sources.iter().filter_map(|source| source.weight).collect();
    let twice = args.sources.iter().filter(|source| source.path == Path::new("-")).count() > 1;
    if twice {
        return Err(Error::Usage("standard input (`-`) can be one source only".into()));
    }
    let names = names(&args.sources);
    let streams = args.sources.iter().zip(names).map(|(source, name)| Stream::open(&source.path, name));
    let streams = streams.collect::<Result<Vec<Stream>, Error>>()?;
    let most = if most == 0 { u64::MAX } else { most };
    match weights.len() {
        0 => by_time(streams, most, writer),
        n if n == args.sources.len() => by_weight(streams, &weights, seed, most, writer),
        _ => Err(Error::Usage("give all sources a weight, as 0.7=FILE, or none of them".into())),
    }
}

/// Draws a source for each request, until there are enough or the source that was drawn has no more.
fn by_weight(
    mut streams: Vec<Stream>,
    weights: &[f64],
    seed: u64,
    most: u64,
    writer: &mut Writer,
) -> Result<(), Error> {
    let weighted = Weighted::new(weights.iter().copied());
    for item in 0..most {
        let stream = &mut streams[weighted.draw(&mut rng::stream(seed, "mix", item))];
        let Some(request) = stream.next_untimed()? else {
            warn(format!(
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
fn by_time(mut streams: Vec<Stream>, most: u64, writer: &mut Writer) -> Result<(), Error> {
    let mut heads = streams.iter_mut().map(Stream::next_timed).collect::<Result<Vec<_>, Error>>()?;
    while writer.written() < most {
        let due = heads.iter().enumerate().filter_map(|(i, head)| Some((head.as_ref()?.0, i))).min();
        let Some((_, first)) = due else { break };
        if let Some((_, request)) = heads[first].take() {
            writer.write(request)?;
        }
        if writer.written() < most {
            heads[first] = streams[first].next_timed()?;
        }
    }
    if most < u64::MAX && writer.written() < most {
        warn(format!("the sources had {} requests: wrote those", writer.written()));
    }
    Ok(())
}

/// What each source is called: its file's name without the ending, in letters that a header may have, and a number where
/// two are alike.
fn names(sources: &[Source]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for source in sources {
        let stem = source.path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let stem = if stem == "-" { "stdin".to_owned() } else { stem.chars().map(plain).collect() };
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
        let source = |weight, path: &str| Source { weight, path: path.into() };
        assert_eq!(parse_source("0.7=a.ndjson"), Ok(source(Some(0.7), "a.ndjson")));
        assert_eq!(parse_source("x=1.ndjson"), Ok(source(None, "x=1.ndjson")));
        assert!(parse_source("0=a").is_err() && parse_source("-1=a").is_err() && parse_source("inf=a").is_err());
    }

    #[test]
    fn no_two_sources_are_called_the_same() {
        let sources = ["x/a.ndjson", "y/a.ndjson", "-", "/dev/fd/63", "naïve chat.ndjson"]
            .map(|path| Source { weight: None, path: path.into() });
        assert_eq!(names(&sources), ["a", "a.2", "stdin", "63", "na_ve_chat"]);
    }
}
