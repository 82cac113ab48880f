//! `vb bench`: the flags of `vllm bench serve`, given to the programs of a pipe.
//!
//! It composes and measures nothing: [`GROUPS`] has what a flag is here, and the programs' own
//! definitions have who owns it.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};

use super::{
    pipe::{ResultFile, Stage},
    programs::NamedTool,
    vllm_flags::{GROUPS, Here, RUST_CLIENT, Value, VllmGroup, find_flag},
};
use crate::{backend::Backend, config::nearest_flag, error::Error};

/// The programs of the pipe.
const PIPE: [&str; 3] = ["gen", "fire", "stats"];

/// Flags that one program of the pipe has for another use than the others.
const NOT_FOR: [(&str, &str); 2] = [
    // It names the tokenizer of a run that has none.
    ("stats", "tokenizer"),
    ("stats", "lenient"),
];

/// The datasets whose texts vLLM's client puts into the model's chat template, unless a flag says not to.
const TEMPLATED: [&str; 4] = ["custom", "hf", "spec_bench", "speed_bench"];

/// The flag of vb-gen that does the same.
const TEMPLATE: &str = "apply-chat-template";

/// The server if none is named, as for vLLM and for `vb-fire`.
const DEFAULT_URL: &str = "http://127.0.0.1:8000";

/// What a command line asks for.
#[derive(Debug)]
pub struct Bench {
    /// The programs, with their flags.
    pub stages: Vec<Stage>,
    /// Where the result goes; `None`: standard output.
    pub target: Option<ResultFile>,
    /// Only print the pipe.
    pub print_only: bool,
    /// What to say about flags without an effect, in one line each.
    pub notes: Vec<String>,
}

/// A flag of the command line: its name with hyphens, and its values.
#[derive(Debug)]
struct Given {
    name: String,
    values: Vec<String>,
}

/// The flags that `vb bench` reads itself.
#[derive(Debug, Default)]
struct OwnFlags {
    host: Option<String>,
    port: Option<String>,
    served_model_name: Option<String>,
    save_result: bool,
    append_result: bool,
    skip_chat_template: bool,
    result_dir: Option<String>,
    result_filename: Option<String>,
    print: bool,
}

/// The flags of the programs of the pipe.
struct Owners(Vec<(&'static str, Command)>);

impl Owners {
    fn new() -> Self {
        let programs = PIPE.iter().filter_map(|name| NamedTool::find(name));
        Owners(programs.map(|program| (program.name, (program.command)())).collect())
    }

    /// The programs that have a flag of this name, with its definition.
    fn find(&self, name: &str) -> Vec<(&'static str, &Arg)> {
        let has = |arg: &&Arg| {
            arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
        };
        let owned = self.0.iter().filter_map(|(tool, command)| Some((*tool, command.get_arguments().find(has)?)));
        owned.filter(|(tool, _)| !NOT_FOR.contains(&(tool, name))).collect()
    }

    /// What follows the flag.
    fn value(&self, name: &str) -> Option<Value> {
        let (_, arg) = *self.find(name).first()?;
        let most = arg.get_num_args().map_or(1, |range| range.max_values());
        let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        Some(match most {
            _ if !takes => Value::Nothing,
            0 => Value::Nothing,
            1 => Value::One,
            _ => Value::Many,
        })
    }

    /// Whether the flag may come without its value.
    fn value_is_optional(&self, name: &str) -> bool {
        let owners = self.find(name);
        owners.first().and_then(|(_, arg)| arg.get_num_args()).is_some_and(|range| range.min_values() == 0)
    }

    /// What it is for: what the program says that sends the requests, except where the one that makes them says more.
    fn describe(&self, name: &str) -> String {
        let found = self.find(name);
        let sender = found.iter().find(|(tool, _)| *tool == "fire" && !["tokenizer", "seed"].contains(&name));
        let about = sender.or(found.first()).and_then(|(_, arg)| arg.get_help());
        about.map(ToString::to_string).unwrap_or_default()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|(_, command)| command.get_arguments().filter_map(Arg::get_long))
    }
}

/// Reads the command line after `vb bench`, with hyphens in its flags.
pub fn parse(words: &[String], date: &str) -> Result<Bench, Error> {
    let owners = Owners::new();
    let mut own = OwnFlags::default();
    let mut notes = Vec::new();
    let mut given: Vec<Given> = Vec::new();
    for flag in split_flags(words, &owners)? {
        let known = find_flag(&flag.name);
        match known.map(|known| known.here) {
            Some(Here::Missing) => {
                let note = known.map(|known| known.note).unwrap_or_default();
                return Err(Error::Usage(format!("no flag --{}: {note}", flag.name)));
            }
            Some(Here::Ignored) => {
                let note = known.map(|known| known.note).unwrap_or_default();
                notes.push(format!("--{} has no effect: {note}", flag.name));
            }
            Some(Here::Bench) => own.set(flag),
            Some(Here::Renamed(name)) => given.push(Given { name: name.into(), values: flag.values }),
            _ if flag.name == "print" => own.print = true,
            _ => given.push(flag),
        }
    }
    // vLLM prints its table wherever it runs, and the result that is saved is not printed.
    if own.saves_result() && !given.iter().any(|flag| flag.name == "table") {
        given.push(Given { name: "table".into(), values: vec!["short".into()] });
    }
    // vLLM names the file for --model, also if the server has another name for it.
    let target = own.saves_result().then(|| own.target(&given, date));
    add_server(&mut given, &own)?;
    check_dataset(&given)?;
    if !own.skip_chat_template && needs_template(&given) {
        given.push(Given { name: TEMPLATE.into(), values: Vec::new() });
    }
    let stages = PIPE.map(|program| Stage { program, flags: Vec::new() });
    let mut stages = Vec::from(stages);
    for flag in &given {
        for (owner, _) in owners.find(&flag.name) {
            let words = std::iter::once(format!("--{}", flag.name)).chain(flag.values.iter().cloned());
            stages
                .iter_mut()
                .filter(|stage| stage.program == owner)
                .for_each(|stage| stage.flags.push(words.clone().collect()));
        }
    }
    if target.is_none() && (own.result_dir.is_some() || own.result_filename.is_some()) {
        notes.push("--result-dir and --result-filename have no effect without --save-result".into());
    }
    Ok(Bench { stages, target, print_only: own.print, notes })
}

/// Splits the words into flags with their values.
fn split_flags(words: &[String], owners: &Owners) -> Result<Vec<Given>, Error> {
    let mut flags = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let Some(text) = word.strip_prefix("--").filter(|text| !text.is_empty()) else {
            return Err(Error::Usage(format!("`{word}` belongs to no flag; see `vb bench --help`")));
        };
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (text.to_owned(), None),
        };
        let known = find_flag(&name);
        let target = match known.map(|known| known.here) {
            Some(Here::Renamed(target)) => target,
            _ => &name,
        };
        let value = match owners.value(target).or(known.map(|known| known.value)) {
            Some(value) => value,
            None if name == "print" => Value::Nothing,
            None => return Err(Error::Usage(explain_unknown(&name, owners))),
        };
        let mut values: Vec<String> = inline.into_iter().collect();
        let is_value = |word: &&String| !word.starts_with("--");
        match value {
            Value::Nothing if values.is_empty() => {}
            Value::Nothing => return Err(Error::Usage(format!("--{name} takes no value"))),
            Value::One if !values.is_empty() => {}
            Value::One if owners.value_is_optional(target) => {
                values.extend(words.next_if(|word| is_value(word)).cloned());
            }
            Value::One => values.extend(words.next().cloned()),
            Value::Many => {
                while let Some(value) = words.next_if(|word| is_value(word)) {
                    values.push(value.clone());
                }
            }
        }
        if values.is_empty() && value != Value::Nothing && !owners.value_is_optional(target) {
            return Err(Error::Usage(format!("--{name} needs a value")));
        }
        flags.push(Given { name, values });
    }
    Ok(flags)
}

/// What is wrong with a flag that neither vLLM nor the programs have.
fn explain_unknown(name: &str, owners: &Owners) -> String {
    let ours: Vec<&str> = owners.names().chain(super::vllm_flags::all_flags().map(|flag| flag.name)).collect();
    match nearest_flag(name, &ours) {
        Some(near) => format!("no flag --{name}; did you mean --{near}?"),
        None => format!("no flag --{name}; see `vb bench --help`"),
    }
}

impl OwnFlags {
    fn set(&mut self, flag: Given) {
        let value = flag.values.into_iter().next();
        match flag.name.as_str() {
            "host" => self.host = value,
            "port" => self.port = value,
            "served-model-name" => self.served_model_name = value,
            "save-result" => self.save_result = true,
            "append-result" => self.append_result = true,
            "skip-chat-template" => self.skip_chat_template = true,
            "result-dir" => self.result_dir = value,
            "result-filename" => self.result_filename = value,
            "dry-run" => self.print = true,
            _ => {}
        }
    }

    fn saves_result(&self) -> bool {
        self.save_result || self.append_result
    }

    /// The file of the result, with the name that vLLM gives it.
    fn target(&self, given: &[Given], date: &str) -> ResultFile {
        let value = |name: &str| given.iter().rev().find(|flag| flag.name == name)?.values.first().map(String::as_str);
        let name = self.result_filename.clone().unwrap_or_else(|| {
            let label = value("label").or_else(|| value("backend")).unwrap_or("openai");
            let rate = match (value("ramp-up-strategy"), value("ramp-up-start-rps"), value("ramp-up-end-rps")) {
                (Some(how), Some(start), Some(end)) => format!("ramp-up-{how}-{start}qps-{end}qps"),
                _ => format!("{}qps", python_float(value("request-rate").unwrap_or("inf"))),
            };
            let limit = value("max-concurrency").map(|limit| format!("-concurrency{limit}")).unwrap_or_default();
            let model = value("model").and_then(|model| model.rsplit('/').find(|part| !part.is_empty()));
            let model = model.map(|model| format!("-{model}")).unwrap_or_default();
            format!("{label}-{rate}{limit}{model}-{date}.json").replace(|c: char| c == '/' || c.is_whitespace(), "_")
        });
        let folder = PathBuf::from(self.result_dir.as_deref().unwrap_or_default());
        ResultFile { path: folder.join(name), append: self.append_result }
    }
}

/// A rate as Python prints it, since it is a part of vLLM's file names: `4` is `4.0`.
fn python_float(rate: &str) -> String {
    match rate.parse::<f64>() {
        Ok(rate) if rate.is_finite() => format!("{rate:?}"),
        Ok(_) => "inf".into(),
        // A rate that changes: not vLLM's.
        Err(_) => rate.into(),
    }
}

/// Adds the flags that both sides of the pipe need: the server, and the model's name there.
fn add_server(given: &mut Vec<Given>, own: &OwnFlags) -> Result<(), Error> {
    let has = |given: &[Given], name: &str| given.iter().any(|flag| flag.name == name);
    let has_address = own.host.is_some() || own.port.is_some();
    if has(given, "base-url") && has_address {
        return Err(Error::Usage("use --base-url, or --host and --port".into()));
    }
    if let Some(name) = &own.served_model_name {
        let model = given.iter().position(|flag| flag.name == "model").map(|at| given.remove(at));
        if let Some(model) = model.filter(|_| !has(given, "tokenizer")) {
            given.insert(0, Given { name: "tokenizer".into(), values: model.values });
        }
        given.insert(0, Given { name: "model".into(), values: vec![name.clone()] });
    }
    // A config may name the server.
    if has_address || !(has(given, "base-url") || has(given, "config")) {
        let host = own.host.as_deref().unwrap_or("127.0.0.1");
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        let url = match own.port.as_deref() {
            _ if !has_address => DEFAULT_URL.to_owned(),
            port => format!("http://{host}:{}", port.unwrap_or("8000")),
        };
        given.insert(0, Given { name: "base-url".into(), values: vec![url] });
    }
    Ok(())
}

/// Whether texts need the model's chat template: some datasets have such texts, and the API does not apply it.
fn needs_template(given: &[Given]) -> bool {
    let value = |name: &str| given.iter().rev().find(|flag| flag.name == name)?.values.first();
    let backend = value("backend").and_then(|name| Backend::from_name(name));
    let takes_text =
        backend.is_none_or(|backend| backend.generates_tokens() && !backend.is_chat() && !backend.needs_media());
    let is_templated = value("dataset-name").is_some_and(|name| TEMPLATED.contains(&name.as_str()));
    is_templated && takes_text && !given.iter().any(|flag| flag.name == TEMPLATE)
}

/// Names the traces that vLLM reads as one dataset.
fn check_dataset(given: &[Given]) -> Result<(), Error> {
    let timed = |flag: &Given| flag.name == "dataset-name" && flag.values.iter().any(|value| value == "timed_trace");
    if given.iter().any(timed) {
        return Err(Error::Usage(
            "--dataset-name timed_trace: use `qwen` for blocks of 16 tokens, vLLM's default, or `mooncake` for 512"
                .into(),
        ));
    }
    Ok(())
}

/// The flags with one line each, for `--help`, the man page and completions.
#[must_use]
pub fn command() -> Command {
    let owners = Owners::new();
    let mut command = Command::new("bench")
        .about("Runs the pipe gen | fire | stats with the flags of `vllm bench serve`")
        .long_about(
            "Runs `vb-gen | vb-fire | vb-stats` with the flags of `vllm bench serve`, and prints that pipe.\n\n\
             Each flag goes to the program that has it; `--backend`, `--tokenizer`, `--model` and `--base-url` go to both sides. \
             Names may have underscores. Every other flag of the three programs can be used too.",
        )
        .arg(
            Arg::new("print")
                .long("print")
                .action(ArgAction::SetTrue)
                .help("Print the pipe without running it")
                .help_heading("vb bench"),
        )
        .after_help(EXAMPLES);
    let rust = VllmGroup { title: "vLLM's client in Rust", flags: RUST_CLIENT };
    for group in GROUPS.iter().chain([&rust]) {
        for flag in group.flags.iter().filter(|flag| flag.here != Here::Missing) {
            let name = if let Here::Renamed(name) = flag.here { name } else { flag.name };
            let about = match flag.here {
                Here::Ignored => format!("No effect: {}", flag.note),
                Here::Bench => flag.note.to_owned(),
                _ => owners.describe(name),
            };
            let arg = Arg::new(flag.name).long(flag.name).help(about).help_heading(group.title);
            command = command.arg(match flag.value {
                Value::Nothing => arg.action(ArgAction::SetTrue),
                Value::One => arg.action(ArgAction::Set).value_name("VALUE"),
                Value::Many => arg.action(ArgAction::Append).num_args(1..).value_name("VALUE"),
            });
        }
    }
    command
}

/// The examples of `--help`.
const EXAMPLES: &str = "\
Examples:
  vb bench --model Qwen/Qwen3-8B --num-prompts 200 --max-concurrency 16
  vb bench --backend openai-chat --host 10.0.0.5 --port 8000 \\
    --dataset-name sharegpt --dataset-path sharegpt.json \\
    --request-rate 4 --save-result --result-dir results
  vb bench --random-input-len 512 --random-output-len 128 --print

The exit code is the one of the first program of the pipe that failed.";

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(line: &str) -> Result<Bench, Error> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words, "20261201-141500")
    }

    /// The flags of a stage in a row.
    fn words(bench: &Bench, program: &str) -> String {
        let stage = bench.stages.iter().find(|stage| stage.program == program).unwrap();
        stage.words().map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_flag_goes_to_its_owner() {
        let line = "--backend openai-chat --model org/m --tokenizer t --host ::1 --port 81 --random-input-len=8 \
                    --request-rate 4 --goodput ttft:100 tpot:20 --header a=b c=d --seed 7 --custom-output-len -1";
        let bench = bench(line).unwrap();
        assert_eq!(
            words(&bench, "gen"),
            "--base-url http://[::1]:81 --backend openai-chat --model org/m --tokenizer t --input-len 8 --header a=b c=d \
             --seed 7 --output-len -1"
        );
        assert_eq!(
            words(&bench, "fire"),
            "--base-url http://[::1]:81 --backend openai-chat --model org/m --tokenizer t --request-rate 4 \
             --header a=b c=d --seed 7"
        );
        assert_eq!(words(&bench, "stats"), "--goodput ttft:100 tpot:20");
        assert!(bench.target.is_none() && bench.notes.is_empty());
    }

    #[test]
    fn a_result_has_the_name_that_vllm_gives_it() {
        let name = |line: &str| bench(&format!("--save-result {line}")).unwrap().target.unwrap().path;
        for (line, want) in [
            ("--model org/m", "openai-infqps-m-20261201-141500.json"),
            (
                "--model m --label x --request-rate 4 --max-concurrency 8 --result-dir d",
                "d/x-4.0qps-concurrency8-m-20261201-141500.json",
            ),
            ("--result-filename a.json", "a.json"),
            ("--model org/m --served-model-name s", "openai-infqps-m-20261201-141500.json"),
            (
                "--model m --ramp-up-strategy linear --ramp-up-start-rps 1 --ramp-up-end-rps 9",
                "openai-ramp-up-linear-1qps-9qps-m-20261201-141500.json",
            ),
        ] {
            assert_eq!(name(line), PathBuf::from(want));
        }
        assert!(bench("--append-result --result-filename a").unwrap().target.unwrap().append);
    }

    #[test]
    fn texts_get_the_template_where_vllm_applies_it() {
        let has = |line: &str| words(&bench(line).unwrap(), "gen").contains("--apply-chat-template");
        assert!(has("--dataset-name custom") && has("--dataset-name hf --backend vllm"));
        assert!(
            !has("--dataset-name custom --skip-chat-template") && !has("--dataset-name custom --backend openai-chat")
        );
        assert!(!has("--dataset-name sharegpt") && !has("--dataset-name custom --backend openai-embeddings"));
    }

    #[test]
    fn a_served_name_replaces_the_model_and_leaves_it_the_tokenizer() {
        let served = bench("--model org/m --served-model-name s").unwrap();
        assert_eq!(words(&served, "gen"), "--base-url http://127.0.0.1:8000 --model s --tokenizer org/m");
        let both = bench("--model org/m --served-model-name s --tokenizer t").unwrap();
        assert_eq!(words(&both, "fire"), "--base-url http://127.0.0.1:8000 --model s --tokenizer t");
    }

    #[test]
    fn a_flag_that_is_not_taken_says_why() {
        for (line, want) in [
            ("--profile", "no flag --profile: run `curl"),
            ("--hf-split train", "no flag --hf-split: datasets are local files"),
            ("--no-stream", "no flag --no-stream: in vLLM"),
            ("--max-concurency 3", "did you mean --max-concurrency?"),
            ("--max-concurrency", "--max-concurrency needs a value"),
            ("--ignore-eos=1", "--ignore-eos takes no value"),
            ("stray", "`stray` belongs to no flag"),
            ("--base-url u --port 3", "use --base-url, or --host and --port"),
            ("--dataset-name timed_trace", "use `qwen`"),
        ] {
            let e = bench(line).unwrap_err().to_string();
            assert!(e.contains(want), "{line}: {e}");
        }
        let bench = bench("--trust-remote-code --tokenizer-mode slow --use-beam-search").unwrap();
        assert_eq!(bench.notes.len(), 3, "{:?}", bench.notes);
    }

    /// The owner of every flag is the one in the table, with the same number of values.
    #[test]
    fn the_table_agrees_with_the_programs() {
        let owners = Owners::new();
        for flag in super::super::vllm_flags::all_flags() {
            let name = if let Here::Renamed(name) = flag.here { name } else { flag.name };
            if matches!(flag.here, Here::Same | Here::Renamed(_)) {
                assert!(!owners.find(name).is_empty(), "no program has --{name}");
                let optional = owners.value_is_optional(name);
                assert!(
                    owners.value(name) == Some(flag.value) || optional,
                    "--{}: {:?}",
                    flag.name,
                    owners.value(name)
                );
            } else {
                assert!(!flag.note.is_empty(), "--{} needs a note", flag.name);
            }
        }
        let python: usize = GROUPS.iter().map(|group| group.flags.len()).sum();
        assert_eq!(python, 101 + 1, "101 flags; `--no-self-timed` is a form of `--self-timed`");
        command().debug_assert();
    }
}
