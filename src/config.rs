//! `config.yaml`: the grid of a sweep, and a value for any flag of any tool.
//!
//! Two keys are the config's own: the pairs of the grid. Every other key is the name of a flag with underscores
//! (`request_rate: 4` is `--request-rate 4`), and each tool takes those it knows; what is typed on the command line
//! wins. So a flag has one home, and the config cannot fall behind.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{ArgAction, ArgMatches, Command, CommandFactory, error::ErrorKind, parser::ValueSource};
use serde::Deserialize;
use serde_yaml::Value;

use crate::error::{Error, without_place};

/// The flag every tool has.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigFlag {
    /// Take values from this file; flags win over it.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

/// The keys that describe a sweep: two of its own, and three flags that a script needs to know.
#[derive(Debug, Clone, Deserialize)]
pub struct Grid {
    /// The model's name at the server.
    pub model: Option<String>,
    /// The server, or `sim` for the simulated one.
    pub base_url: Option<String>,
    /// Where prompts come from.
    pub dataset_name: Option<String>,
    /// Pairs of input and output length (0: nothing is generated), in tokens; none: the lengths are those of the dataset.
    #[serde(default)]
    pub input_output: Vec<(u32, u32)>,
    /// Pairs of concurrency and number of prompts.
    #[serde(default)]
    pub concurrency_prompts: Vec<(u32, u32)>,
}

/// The keys of [`Grid`] that are not flags as well.
const GRID_KEYS: [&str; 2] = ["input_output", "concurrency_prompts"];

/// All tools, whose flags are the keys a config may have.
fn tools() -> Vec<Command> {
    vec![
        crate::generate::Args::command(),
        crate::fire::Args::command(),
        crate::stats::Args::command(),
        crate::diff::Args::command(),
        crate::agg::Args::command(),
        crate::sim::Args::command(),
        crate::selftest::Args::command(),
    ]
}

/// A config that was read and whose keys are all known.
struct File {
    name: String,
    text: String,
    entries: Vec<(String, Value)>,
}

impl File {
    fn read(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let mut text =
            std::fs::read_to_string(path).map_err(|e| Error::Usage(format!("cannot read the config {name}: {e}")))?;
        if text.starts_with('\u{feff}') {
            text.remove(0);
        }
        // `null` is an empty file: a config without a key.
        let mapping: Option<serde_yaml::Mapping> = serde_yaml::from_str(&text).map_err(|e| yaml_error(&name, &e))?;
        let file = File {
            entries: mapping
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned), value))
                .collect(),
            name,
            text,
        };
        file.check_keys()?;
        Ok(file)
    }

    fn check_keys(&self) -> Result<(), Error> {
        let mut known: Vec<String> = GRID_KEYS.iter().map(ToString::to_string).collect();
        for tool in tools() {
            let flags = tool.get_arguments().filter_map(clap::Arg::get_long);
            known.extend(
                flags.filter(|f| !matches!(*f, "config" | "help" | "version" | "schema")).map(|f| f.replace('-', "_")),
            );
        }
        for (key, _) in &self.entries {
            if !known.contains(key) {
                let cure = match nearest(key, &known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => {
                        "see `vb-gen --help`, `vb-fire --help`, …: a key is the name of a flag with underscores".into()
                    }
                };
                return Err(self.wrong(key, &format!("no tool knows the key `{key}`; {cure}")));
            }
        }
        Ok(())
    }

    /// The error for `key`: `config.yaml:4: what`.
    fn wrong(&self, key: &str, what: &str) -> Error {
        // Only keys at the top level are looked for, and those start their line.
        let at = |line: &str| {
            line.trim_start_matches(['"', '\''])
                .strip_prefix(key)
                .is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ']).starts_with(':'))
        };
        let place = self.text.lines().position(at).map_or_else(String::new, |i| format!(":{}", i + 1));
        Error::Usage(format!("{}{place}: {what}", self.name))
    }
}

/// Reads the grid of a config.
pub fn grid(path: &Path) -> Result<Grid, Error> {
    let file = File::read(path)?;
    let grid: Grid = serde_yaml::from_str(&file.text).map_err(|e| yaml_error(&file.name, &e))?;
    for (key, pairs) in [("input_output", &grid.input_output), ("concurrency_prompts", &grid.concurrency_prompts)] {
        let lengths = key == "input_output";
        if pairs.is_empty() && !(lengths && grid.dataset_name.is_some()) {
            let or = if lengths { ", or `dataset_name` a dataset with lengths of its own" } else { "" };
            return Err(file.wrong(key, &format!("`{key}` needs at least one pair, as in `{key}: [[128, 64]]`{or}")));
        }
        // An output length may be 0: some APIs generate nothing.
        if let Some((a, b)) = pairs.iter().find(|(a, b)| *a == 0 || (*b == 0 && !lengths)) {
            return Err(file.wrong(key, &format!("`{key}`: [{a}, {b}] has a zero")));
        }
    }
    Ok(grid)
}

fn yaml_error(name: &str, e: &serde_yaml::Error) -> Error {
    Error::Usage(match e.location() {
        Some(at) => format!("{name}:{}:{}: {}", at.line(), at.column(), without_place(e)),
        None => format!("{name}: {e}"),
    })
}

/// Parses `argv` for `tool`, with the values of the file named by `--config` under what was typed.
///
/// On `--help`, `--version` and a wrong flag this prints and leaves by clap's own exit, with 0 or 2.
pub fn under(tool: Command, argv: Vec<OsString>) -> Result<ArgMatches, Error> {
    let matches = tool.clone().get_matches_from(argv.clone());
    let path = matches.try_get_one::<PathBuf>("config").ok().flatten();
    let Some(path) = path else { return Ok(matches) };
    let file = File::read(path)?;

    let mut from_config: Vec<OsString> = Vec::new();
    for (key, value) in file.entries.iter().filter(|(key, _)| !is_foreign(&tool, key)) {
        let Some(arg) = tool.get_arguments().find(|a| a.get_long().is_some_and(|l| l.replace('-', "_") == *key)) else {
            continue;
        };
        if matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        let flags = flags(key, value, arg.get_action()).map_err(|what| file.wrong(key, &what))?;
        // Alone first, so that a wrong value is told with its line.
        let alone = std::iter::once(OsString::from("config")).chain(flags.iter().cloned());
        if let Err(e) = tool.clone().try_get_matches_from(alone)
            && matches!(e.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue | ErrorKind::WrongNumberOfValues)
        {
            let text = e.to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").replace("--", "");
            let choices = text
                .lines()
                .find(|l| l.contains("possible values"))
                .map_or_else(String::new, |l| format!(" {}", l.trim()));
            return Err(file.wrong(key, &format!("{first}{choices}")));
        }
        from_config.extend(flags);
    }
    let mut all = argv;
    let typed = all.split_off(all.len().min(1));
    all.extend(from_config);
    all.extend(typed);
    Ok(tool.get_matches_from(all))
}

/// `header` in a config is an HTTP header for `vb-fire`; the flag of that name that `vb-agg` has is the language of its CSV.
/// And `output_len` is the length that `vb-gen` asks for, which need not be a number.
fn is_foreign(tool: &Command, key: &str) -> bool {
    matches!((tool.get_name(), key), ("vb-agg", "header") | ("vb-selftest", "output_len"))
}

/// `request_rate: 4` → `--request-rate=4`; lists repeat the flag, maps become JSON, `true` is the bare flag.
fn flags(key: &str, value: &Value, action: &ArgAction) -> Result<Vec<OsString>, String> {
    let name = format!("--{}", key.replace('_', "-"));
    let scalar = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(n) => Ok(n.to_string()),
        Value::Bool(b) => Ok(b.to_string()),
        other => serde_json::to_string(other).map_err(|e| format!("`{key}` cannot be written as JSON: {e}")),
    };
    let one = |value: &Value| Ok(format!("{name}={}", scalar(value)?).into());
    match (value, action) {
        (Value::Null | Value::Bool(false), ArgAction::SetTrue) | (Value::Null, _) => Ok(vec![]),
        (Value::Bool(true), ArgAction::SetTrue) => Ok(vec![name.into()]),
        (_, ArgAction::SetTrue) => Err(format!("`{key}` is true or false")),
        (Value::Sequence(list), ArgAction::Append) => list.iter().map(one).collect(),
        // `metric_percentiles: [50, 99]` is `--metric-percentiles 50,99`.
        (Value::Sequence(list), _) => {
            let items: Vec<String> = list.iter().map(scalar).collect::<Result<_, _>>()?;
            Ok(vec![format!("{name}={}", items.join(",")).into()])
        }
        _ => Ok(vec![one(value)?]),
    }
}

/// The known name that is the fewest edits away, if it is near at all.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| (edits(name, k), k.as_str()))
        .min()
        .filter(|(distance, k)| *distance <= 1 + k.len() / 3)
        .map(|(_, k)| k)
}

/// The Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_is_recognised() {
        let known = ["base_url", "model", "concurrency_prompts"].map(String::from);
        assert_eq!(nearest("base_ulr", &known), Some("base_url"));
        assert_eq!(nearest("concurency_prompt", &known), Some("concurrency_prompts"));
        assert_eq!(nearest("temperature_of_the_room", &known), None);
    }

    #[test]
    fn values_become_flags() {
        let value = |text: &str| serde_yaml::from_str::<Value>(text).unwrap();
        let set = |key: &str, text: &str| flags(key, &value(text), &ArgAction::Set);
        assert_eq!(set("request_rate", "4").unwrap(), ["--request-rate=4"]);
        assert_eq!(set("metric_percentiles", "[50, 99.9]").unwrap(), ["--metric-percentiles=50,99.9"]);
        let append = flags("goodput", &value("[a, b]"), &ArgAction::Append).unwrap();
        assert_eq!(append, ["--goodput=a", "--goodput=b"]);
        assert_eq!(set("extra_body", "{a: 1}").unwrap(), [r#"--extra-body={"a":1}"#]);
        assert_eq!(flags("no_text", &value("true"), &ArgAction::SetTrue).unwrap(), ["--no-text"]);
        assert!(flags("no_text", &value("false"), &ArgAction::SetTrue).unwrap().is_empty());
        assert!(flags("no_text", &value("3"), &ArgAction::SetTrue).is_err());
    }
}
