//! `config.yaml`: the grid of a sweep, and values for the flags of all tools.
//!
//! Two keys belong to the config itself: the pairs of the grid. Every other key is the name of a flag with underscores
//! (`request_rate: 4` is `--request-rate 4`). Each tool takes the keys that it has flags for; the command line wins.
//! Flags are defined only once, by the tools, so the config cannot fall out of date.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use serde::Deserialize;
use serde_yaml::Value;

use crate::{
    error::{Error, strip_location},
    secrets::{self, HIDDEN, Secrets},
};

/// The flag that every tool has.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigFlag {
    /// Take values from this file; flags win over it.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

/// The flags of all tools.
#[derive(Debug, Clone, Copy)]
pub struct FlagTable {
    /// A text with a line for each flag and each alias of one: its name with underscores and the tools that have it.
    pub keys: &'static str,
    /// What to say about a flag of another program that people use for the same work, if it is known.
    pub explain_foreign: fn(&str) -> Option<String>,
}

impl FlagTable {
    /// The names.
    pub fn keys(self) -> impl Iterator<Item = &'static str> {
        self.entries().map(|(key, _)| key)
    }

    /// The names, each with its tools.
    fn entries(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.keys.lines().map(|line| line.split_once(' ').unwrap_or((line, "")))
    }

    /// What is wrong with a flag that `tool` does not have, and what was probably meant.
    fn explain_unknown(self, tool: &Command, flag: &str) -> String {
        let name = flag.trim_start_matches('-').split('=').next().unwrap_or_default();
        let key = name.replace('-', "_");
        let this = tool.get_name();
        // The tools of the pipeline before those that only imitate it.
        let piped = |tools: &str| {
            let piped = tools.split(' ').filter(|tool| !["vb-sim", "vb-selftest"].contains(tool));
            piped.collect::<Vec<&str>>().join(" and of ")
        };
        let of = |tools: &str| Some(piped(tools)).filter(|of| !of.is_empty()).unwrap_or(tools.replace(' ', " and of "));
        let owners = self.entries().find(|(known, _)| *known == key).map(|(_, tools)| tools);
        if owners.is_none_or(|tools| piped(tools).is_empty())
            && let Some(why) = (self.explain_foreign)(name)
        {
            return format!("no flag --{name}: {why}");
        }
        if owners.is_some_and(|tools| tools.split(' ').any(|tool| tool == this)) {
            return format!("--{name} has no effect with this subcommand");
        }
        if let Some(tools) = owners {
            return format!("--{name} is a flag of {}, not of {this}", of(tools));
        }
        let own: Vec<&str> = tool.get_arguments().filter_map(Arg::get_long).collect();
        if let Some(near) = nearest_flag(name, &own) {
            return format!("no flag --{name}; did you mean --{near}?");
        }
        let all: Vec<&str> = self.keys().collect();
        let near = nearest_flag(&key, &all).and_then(|near| self.entries().find(|(known, _)| *known == near));
        match near {
            Some((near, tools)) => {
                format!("no flag --{name}; did you mean --{} of {}?", near.replace('_', "-"), of(tools))
            }
            None => format!("no flag --{name}; `{this} --help` lists the flags"),
        }
    }
}

/// The name of a flag and its aliases.
pub fn names_of_flag(arg: &Arg) -> impl Iterator<Item = &str> {
    arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default())
}

/// The keys that describe a sweep: the two pairs, and three flags that the script of a sweep needs.
#[derive(Debug, Clone, Deserialize)]
pub struct Grid {
    /// The name under which the server serves the model.
    pub model: Option<String>,
    /// The server, or `sim` for the simulated one.
    pub base_url: Option<String>,
    /// Where prompts come from.
    pub dataset_name: Option<String>,
    /// Pairs of input and output length in tokens (output 0: nothing is generated). Empty: the dataset sets the lengths.
    #[serde(default)]
    pub input_output: Vec<(u32, u32)>,
    /// Pairs of concurrency and number of prompts.
    #[serde(default)]
    pub concurrency_prompts: Vec<(u32, u32)>,
}

/// The keys of [`Grid`] that are not also flags.
const GRID_KEYS: [&str; 2] = ["input_output", "concurrency_prompts"];

/// A config file, parsed as far as its top-level keys.
struct ConfigFile {
    name: String,
    text: String,
    entries: Vec<(String, Value)>,
}

impl ConfigFile {
    fn read(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let mut text =
            std::fs::read_to_string(path).map_err(|e| Error::Usage(format!("cannot read the config {name}: {e}")))?;
        if text.starts_with('\u{feff}') {
            text.remove(0);
        }
        let mapping = match serde_yaml::from_str(&text).map_err(|e| yaml_error(&name, &e))? {
            // An empty file: a config without keys.
            Value::Null => serde_yaml::Mapping::new(),
            Value::Mapping(mapping) => mapping,
            // The message does not quote it: it may be a file with a key.
            _ => return Err(Error::Usage(format!("{name}: a config has lines of `key: value`, as `request_rate: 4`"))),
        };
        Ok(ConfigFile {
            entries: mapping
                .into_iter()
                .map(|(key, value)| (key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned), value))
                .collect(),
            name,
            text,
        })
    }

    /// Fails on the first key that is neither a grid key nor one of `keys`.
    fn check_keys<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Result<(), Error> {
        let known: Vec<&str> = GRID_KEYS.into_iter().chain(keys).collect();
        for (key, _) in &self.entries {
            if !known.contains(&key.as_str()) {
                let cure = match nearest_key(key, &known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => {
                        "see `vb-gen --help`, `vb-fire --help`, …: a key is the name of a flag with underscores".into()
                    }
                };
                return Err(self.key_error(key, &format!("no tool knows the key `{key}`; {cure}")));
            }
        }
        Ok(())
    }

    /// An error at the line of `key`: `config.yaml:4: what`.
    fn key_error(&self, key: &str, what: &str) -> Error {
        // All keys are at the top level, so each starts its line.
        let at = |line: &str| {
            line.trim_start_matches(['"', '\''])
                .strip_prefix(key)
                .is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ']).starts_with(':'))
        };
        let place = self.text.lines().position(at).map_or_else(String::new, |i| format!(":{}", i + 1));
        Error::Usage(format!("{}{place}: {what}", self.name))
    }
}

/// Reads the grid of a config whose keys [`parse_with_config`] has checked.
pub fn read_grid(path: &Path) -> Result<Grid, Error> {
    let file = ConfigFile::read(path)?;
    for (key, value) in file.entries.iter().filter(|(key, _)| GRID_KEYS.contains(&key.as_str())) {
        check_pairs(key, value).map_err(|what| file.key_error(key, &what))?;
    }
    let grid: Grid = serde_yaml::from_str(&file.text).map_err(|e| yaml_error(&file.name, &e))?;
    for (key, pairs) in [("input_output", &grid.input_output), ("concurrency_prompts", &grid.concurrency_prompts)] {
        let lengths = key == "input_output";
        if pairs.is_empty() && !(lengths && grid.dataset_name.is_some()) {
            let or = if lengths { ", or `dataset_name` a dataset that sets the lengths" } else { "" };
            return Err(
                file.key_error(key, &format!("`{key}` needs at least one pair, as in `{key}: [[128, 64]]`{or}"))
            );
        }
        // An output length may be 0: some APIs generate nothing.
        if let Some((a, b)) = pairs.iter().find(|(a, b)| *a == 0 || (*b == 0 && !lengths)) {
            return Err(file.key_error(key, &format!("`{key}`: [{a}, {b}] has a zero")));
        }
    }
    Ok(grid)
}

/// Fails unless the value is a list of pairs. What is in a pair is checked with the rest of the grid.
fn check_pairs(key: &str, value: &Value) -> Result<(), String> {
    let is_pair = |value: &Value| value.as_sequence().is_some_and(|pair| pair.len() == 2);
    if value.is_null() || value.as_sequence().is_some_and(|list| list.iter().all(is_pair)) {
        return Ok(());
    }
    Err(match key {
        "input_output" => {
            "`input_output` is a list of pairs, each an input and an output length: `[[128, 64], [1024, 128]]`".into()
        }
        _ => format!("`{key}` is a list of pairs, each a concurrency and a number of prompts: `[[1, 10], [8, 80]]`"),
    })
}

/// The config as YAML without the values of secrets, for a copy that is kept with results.
pub fn config_without_secrets(path: &Path) -> Result<String, Error> {
    let ConfigFile { name, entries, .. } = ConfigFile::read(path)?;
    let failed = |e: &dyn std::fmt::Display| Error::Usage(format!("{name}: it cannot be copied: {e}"));
    let (mut secrets, mut kept) = (Secrets::default(), serde_json::Map::new());
    for (key, value) in entries {
        let flags = flags_from_value(&key, &value, &ArgAction::Append).unwrap_or_default();
        secrets.add_all(&Secrets::from_command_line(flags.iter().map(|flag| flag.to_string_lossy().into_owned())));
        let mut value = serde_json::to_value(value).map_err(|e| failed(&e))?;
        hide_config_value(&key, &mut value);
        kept.insert(key, value);
    }
    let mut kept = serde_json::Value::Object(kept);
    // A secret may be in another value too.
    secrets.hide_in(&mut kept);
    serde_yaml::to_string(&kept).map_err(|e| failed(&e))
}

/// Hides the secrets in a value of a config.
fn hide_config_value(key: &str, value: &mut serde_json::Value) {
    use serde_json::Value as Json;
    match value {
        Json::Array(list) => list.iter_mut().for_each(|item| hide_config_value(key, item)),
        Json::Object(map) if key == "header" => map.values_mut().for_each(|value| *value = HIDDEN.into()),
        Json::String(text) => match key {
            "header" => *text = format!("{}={HIDDEN}", text.split('=').next().unwrap_or_default()),
            "extra_body" => *text = hide_json_text(text),
            "endpoint" | "base_url" | "scrape" => *text = secrets::without_keys(text),
            "api_key" => *text = HIDDEN.into(),
            _ => {}
        },
        Json::Object(_) => secrets::hide_values(value, secrets::is_secret),
        _ => {}
    }
}

/// JSON without secrets; nothing of a text that is not JSON.
fn hide_json_text(text: &str) -> String {
    let Ok(mut value) = serde_json::from_str(text) else { return HIDDEN.into() };
    secrets::hide_values(&mut value, secrets::is_secret);
    value.to_string()
}

fn yaml_error(name: &str, e: &serde_yaml::Error) -> Error {
    Error::Usage(match e.location() {
        Some(at) => format!("{name}:{}:{}: {}", at.line(), at.column(), strip_location(e)),
        None => format!("{name}: {e}"),
    })
}

/// Parses `argv` for `tool`. Flags that `argv` does not set take their values from the file that `--config` names.
///
/// `flags` has the flags of all tools. The secrets in the command line are remembered.
pub fn parse_with_config(tool: Command, argv: Vec<OsString>, flags: FlagTable) -> Result<ArgMatches, ConfigError> {
    let text = |args: &[OsString]| args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>();
    secrets::remember(&Secrets::from_command_line(text(&argv)));
    let matches = parse_flags(tool.clone(), argv.clone()).map_err(|e| match e.get(ContextKind::InvalidArg) {
        Some(flag) if e.kind() == ErrorKind::UnknownArgument && flag.to_string().starts_with("--") => {
            ConfigError::Config(Error::Usage(flags.explain_unknown(&tool, &flag.to_string())))
        }
        _ => e.into(),
    })?;
    let path = matches.try_get_one::<PathBuf>("config").ok().flatten();
    let Some(path) = path else { return Ok(matches) };
    let file = ConfigFile::read(path)?;
    file.check_keys(flags.keys())?;

    let mut from_config: Vec<OsString> = Vec::new();
    for (key, value) in file.entries.iter().filter(|(key, _)| !is_foreign(&tool, key)) {
        let has_key = |arg: &&Arg| names_of_flag(arg).any(|name| name.replace('-', "_") == *key);
        let Some(arg) = tool.get_arguments().find(has_key) else { continue };
        if matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        let flags = flags_from_value(key, value, arg.get_action()).map_err(|what| file.key_error(key, &what))?;
        secrets::remember(&Secrets::from_command_line(text(&flags)));
        // Parse this flag alone first, so that the error for an invalid value has the line of its key.
        let alone = std::iter::once(OsString::from("config")).chain(flags.iter().cloned());
        if let Err(e) = parse_flags(tool.clone(), alone)
            && matches!(e.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue | ErrorKind::WrongNumberOfValues)
        {
            let text = e.to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").replace("--", "");
            let choices = text
                .lines()
                .find(|l| l.contains("possible values"))
                .map_or_else(String::new, |l| format!(" {}", l.trim()));
            return Err(file.key_error(key, &format!("{first}{choices}")).into());
        }
        from_config.extend(flags);
    }
    let mut all = argv;
    let typed = all.split_off(all.len().min(1));
    all.extend(from_config);
    all.extend(typed);
    Ok(parse_flags(tool, all)?)
}

/// Why there are no flags.
#[derive(Debug)]
pub enum ConfigError {
    /// `--help`, or an error in the flags.
    Flags(Box<clap::Error>),
    /// The config cannot be read, or a value in it is invalid.
    Config(Error),
}

impl From<Error> for ConfigError {
    fn from(e: Error) -> Self {
        ConfigError::Config(e)
    }
}

impl From<clap::Error> for ConfigError {
    fn from(e: clap::Error) -> Self {
        ConfigError::Flags(Box::new(e))
    }
}

/// Flags with values that may be secrets, so that no error repeats them.
const SECRET_FLAGS: [&str; 6] = ["--header", "--extra-body", "--endpoint", "--base-url", "--scrape", "--api-key"];

/// Parses flags. The error for a value that may be a secret does not repeat it.
fn parse_flags(tool: Command, argv: impl IntoIterator<Item = OsString>) -> Result<ArgMatches, clap::Error> {
    tool.try_get_matches_from(argv).map_err(|mut e| {
        let flag = e.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
        let name = flag.split([' ', '=']).next().unwrap_or_default();
        if SECRET_FLAGS.contains(&name) && e.get(ContextKind::InvalidValue).is_some() {
            e.insert(ContextKind::InvalidValue, ContextValue::String(HIDDEN.into()));
        }
        e
    })
}

/// Whether `key` means the flag of another tool with the same name.
///
/// `header` in a config is an HTTP header of `vb-fire`; `--header` of `vb-agg` is the language of its CSV. `output_len` is
/// for `vb-gen`, which also accepts values that are not numbers. `label` is the label of a result; `vb-diff` has a label for each side.
fn is_foreign(tool: &Command, key: &str) -> bool {
    matches!((tool.get_name(), key), ("vb-agg", "header") | ("vb-selftest", "output_len") | ("vb-diff", "label"))
}

/// Turns a key and its value into flags: `request_rate: 4` → `--request-rate=4`. Lists repeat the flag, maps become JSON,
/// and `true` becomes the flag without a value.
fn flags_from_value(key: &str, value: &Value, action: &ArgAction) -> Result<Vec<OsString>, String> {
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
        (_, ArgAction::SetTrue) => Err(format!("`{key}` must be true or false")),
        (Value::Sequence(list), ArgAction::Append) => list.iter().map(one).collect(),
        // `metric_percentiles: [50, 99]` is `--metric-percentiles 50,99`.
        (Value::Sequence(list), _) => {
            let items: Vec<String> = list.iter().map(scalar).collect::<Result<_, _>>()?;
            Ok(vec![format!("{name}={}", items.join(",")).into()])
        }
        _ => Ok(vec![one(value)?]),
    }
}

/// The known key with the smallest edit distance to `name`, if it is close enough to be a typing error.
fn nearest_key<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| (strsim::levenshtein(name, k), *k))
        .min()
        .filter(|(distance, k)| *distance <= 1 + k.len() / 3)
        .map(|(_, k)| k)
}

/// The known flag that begins with `name`, whose last words are `name`, or that differs from it by a typing error.
#[must_use]
pub fn nearest_flag<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let find = |is_meant: &dyn Fn(&str) -> bool| known.iter().copied().find(|flag| name.len() > 2 && is_meant(flag));
    let has_last_words = |flag: &str| flag.strip_suffix(name).is_some_and(|first| first.ends_with(['-', '_']));
    let close = |flag: &&str| strsim::levenshtein(name, flag) <= (name.len() / 3).max(2);
    find(&|flag| flag.starts_with(name))
        .or_else(|| find(&has_last_words))
        .or_else(|| nearest_key(name, known).filter(close))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_a_config_has_no_secrets() {
        let path = std::env::temp_dir().join(format!("vb-config-{}.yaml", std::process::id()));
        let text = "# key: sk-planted0\nmodel: m\nheader:\n- Authorization=Bearer sk-planted1\n- x-team=red\n\
                    extra_body: {api_key: [sk-planted2], seed: 1}\nendpoint: /x?key=sk-planted3#token=p4\n\
                    api_key: sk-planted5\nlabel: sk-planted1\ninput_output: [[1, 2]]\nrandom_input_len: 5\n";
        std::fs::write(&path, text).unwrap();
        let copy = config_without_secrets(&path).unwrap();
        std::fs::write(&path, &copy).unwrap();
        let again = config_without_secrets(&path);
        std::fs::remove_file(&path).unwrap();
        assert!(!copy.contains("planted") && !copy.contains("p4"), "{copy}");
        for kept in ["model: m\n", "Authorization=***", "x-team=***", "seed: 1", "input_output:", "random_input_len: 5"]
        {
            assert!(copy.contains(kept), "{kept}: {copy}");
        }
        assert_eq!(again.unwrap(), copy, "a copy of a copy is the same");
    }

    #[test]
    fn a_near_miss_is_recognised() {
        let known = ["base_url", "model", "concurrency_prompts"];
        assert_eq!(nearest_key("base_ulr", &known), Some("base_url"));
        assert_eq!(nearest_key("concurency_prompt", &known), Some("concurrency_prompts"));
        assert_eq!(nearest_key("temperature_of_the_room", &known), None);
        let flags = ["grace", "ramp-up-time", "max-concurrency", "request-rate"];
        for (name, near) in
            [("rate", "request-rate"), ("concurrency", "max-concurrency"), ("ramp", "ramp-up-time"), ("grcae", "grace")]
        {
            assert_eq!(nearest_flag(name, &flags), Some(near));
        }
    }

    #[test]
    fn a_flag_of_another_tool_is_known() {
        let table = FlagTable {
            keys: "dataset_name vb-gen\nendpoint vb-fire\ngoodput vb-stats vb-diff\nlenient vb-gen vb-stats\nport vb-sim",
            explain_foreign: |name| (name == "save-result").then(|| "use `> FILE`".into()),
        };
        let tool = Command::new("vb-fire").arg(clap::Arg::new("endpoint").long("endpoint"));
        for (flag, want) in [
            ("--dataset-name", "--dataset-name is a flag of vb-gen, not of vb-fire"),
            ("--goodput=ttft:1s", "--goodput is a flag of vb-stats and of vb-diff, not of vb-fire"),
            ("--port", "--port is a flag of vb-sim, not of vb-fire"),
            ("--save-result=x", "no flag --save-result: use `> FILE`"),
            ("--endpiont", "no flag --endpiont; did you mean --endpoint?"),
            ("--end", "no flag --end; did you mean --endpoint?"),
            ("--good", "no flag --good; did you mean --goodput of vb-stats and of vb-diff?"),
            ("--pointed", "no flag --pointed; `vb-fire --help` lists the flags"),
            ("--datset-name", "no flag --datset-name; did you mean --dataset-name of vb-gen?"),
            ("--temperature-of-the-room", "no flag --temperature-of-the-room; `vb-fire --help` lists the flags"),
        ] {
            assert_eq!(table.explain_unknown(&tool, flag), want);
        }
    }

    #[test]
    fn values_become_flags() {
        let value = |text: &str| serde_yaml::from_str::<Value>(text).unwrap();
        let set = |key: &str, text: &str| flags_from_value(key, &value(text), &ArgAction::Set);
        assert_eq!(set("request_rate", "4").unwrap(), ["--request-rate=4"]);
        assert_eq!(set("metric_percentiles", "[50, 99.9]").unwrap(), ["--metric-percentiles=50,99.9"]);
        let append = flags_from_value("goodput", &value("[a, b]"), &ArgAction::Append).unwrap();
        assert_eq!(append, ["--goodput=a", "--goodput=b"]);
        assert_eq!(set("extra_body", "{a: 1}").unwrap(), [r#"--extra-body={"a":1}"#]);
        assert_eq!(flags_from_value("no_text", &value("true"), &ArgAction::SetTrue).unwrap(), ["--no-text"]);
        assert!(flags_from_value("no_text", &value("false"), &ArgAction::SetTrue).unwrap().is_empty());
        assert!(flags_from_value("no_text", &value("3"), &ArgAction::SetTrue).is_err());
    }
}
