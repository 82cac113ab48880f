//! `scripts/sweep.sh`: one command from a config to a table, which resumes after an interruption.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::{
    terminal::Terminal,
    tool::{self, Done, Sim, folder, root, wait_until},
};

const GRID: &str = "model: my/model\nbase_url: sim\ntokenizer: builtin\ninput_output: [[16, 4], [24, 40]]\nconcurrency_prompts: [[1, 2], [2, 8]]\n";

fn config(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("config.yaml");
    fs::write(&path, text).unwrap();
    path
}

fn script(config: &Path, args: &[&str]) -> Command {
    let mut command = tool::plain_command(root().join("scripts/sweep.sh"));
    let folder = config.parent().unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_vb-gen")).parent().unwrap();
    command.arg(config).args(args).arg("--results").arg(folder.join("results")).env("VB_BIN", bin);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn sweep(config: &Path, args: &[&str]) -> Done {
    tool::done(script(config, args).output().unwrap())
}

/// The folders of all sweeps so far, sorted by name.
fn sweeps(config: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(config.parent().unwrap().join("results")).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    folders
}

/// The first line of a file, once all of it is written.
fn first_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.split_once('\n')?.0.to_owned())
}

/// The results of the cells.
fn results(folder: &Path) -> Vec<(String, SystemTime)> {
    files(folder, ".json").into_iter().filter(|file| file.0 != "summary.json").collect()
}

/// The list that `vllm bench sweep plot` and `plot_pareto` read. Each run has the keys that they use unless others are named, and those
/// that their flags commonly name, with the numbers of the cell's result. Returns the names of the cells.
fn check_summary(folder: &Path) -> Vec<String> {
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap() };
    let summary = read("summary.json");
    let check = |run: &Value| {
        let name = run["filename"].as_str().unwrap().to_owned();
        let result = read(&name);
        for key in [
            "total_token_throughput",
            "median_ttft_ms",
            "output_throughput",
            "max_concurrency",
            "max_concurrent_requests",
            "request_throughput",
            "p99_itl_ms",
            "completed",
            "failed",
        ] {
            assert!(run[key].is_number() && run[key] == result[key], "{name}: {key}: {run}");
        }
        assert_eq!((&run["request_rate"], &run["model_id"]), (&"inf".into(), &result["model_id"]), "{name}");
        assert_eq!((&run["input_len"], &run["verdict"]), (&result["vb"]["input_len"], &result["vb"]["verdict"]));
        // A table of numbers and texts, for pandas.
        assert!(run.as_object().unwrap().values().all(|value| !value.is_array() && !value.is_object()), "{run}");
        name
    };
    summary.as_array().unwrap().iter().map(check).collect()
}

fn files(folder: &Path, end: &str) -> Vec<(String, SystemTime)> {
    let mut files: Vec<(String, SystemTime)> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.file_name().to_string_lossy().ends_with(end))
        .map(|e| (e.file_name().to_string_lossy().into_owned(), e.metadata().unwrap().modified().unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_sweep_writes_a_table_and_all_records() {
    let config = config(&folder("sweep-whole"), GRID);
    let done = sweep(&config, &[]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let folders = sweeps(&config);
    let [result] = &folders[..] else { panic!("{folders:?}") };
    assert!(result.file_name().unwrap().to_string_lossy().starts_with("my_model_20"));
    let names: Vec<String> = results(result).into_iter().map(|f| f.0).collect();
    assert_eq!(check_summary(result), names);
    assert_eq!(
        names,
        [
            "bench_io16x4_mc1_np2.json",
            "bench_io16x4_mc2_np8.json",
            "bench_io24x40_mc1_np2.json",
            "bench_io24x40_mc2_np8.json"
        ]
    );
    assert_eq!((files(result, ".requests.ndjson").len(), files(result, ".outputs.ndjson").len()), (4, 4));
    let csv = fs::read_to_string(result.join(&files(result, ".csv")[0].0)).unwrap();
    let mut table = csv::Reader::from_reader(csv.as_bytes());
    let headers = table.headers().unwrap().clone();
    let column = |name: &str| headers.iter().position(|h| h == name).unwrap();
    let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    let lengths: Vec<(&str, &str)> = rows.iter().map(|r| (&r[column("input_len")], &r[column("output_len")])).collect();
    assert_eq!(lengths, [("16", "4"), ("16", "4"), ("24", "40"), ("24", "40")]);
    assert!(rows.iter().all(|r| &r[column("failed")] == "0" && &r[column("model_id")] == "my/model"));
    assert!(done.stderr.contains("mean TTFT") && done.stderr.contains(".csv"), "{}", done.stderr);
    // A header, a line for each cell as it ends, the table and its note, and where it is.
    let lines: Vec<&str> = done.stderr.lines().collect();
    assert_eq!(lines.len(), 1 + 4 + 6 + 1, "{}", done.stderr);
    assert!(lines[1].starts_with("sweep: 1/4 io16x4_mc1_np2: ") && lines[1].ends_with(", 0 failed"), "{}", lines[1]);

    // The sweep is complete, so the same command starts a new one, with new prompts.
    let terminal = Terminal::open(200);
    let mut again = script(&config, &["--new"]);
    again.stdout(Stdio::null()).stderr(terminal.end.try_clone().unwrap());
    assert_eq!(tool::done(again.output().unwrap()).code, 0);
    drop(again);
    // A terminal shows how long the other cells will take.
    let lines = terminal.lines();
    let of_cell = |cell: &str| lines.iter().find(|line| line.starts_with(&format!("sweep: {cell} "))).unwrap();
    assert!(of_cell("1/4").contains(" 0 failed; about ") && of_cell("1/4").ends_with(" s left"), "{lines:?}");
    assert!(of_cell("4/4").ends_with(" 0 failed"), "{lines:?}");
    let folders = sweeps(&config);
    let prompts = |i: usize| fs::read_to_string(folders[i].join("bench_io16x4_mc1_np2.requests.ndjson")).unwrap();
    assert_eq!(folders.len(), 2);
    assert_ne!(prompts(0), prompts(1), "a server's prefix cache must not hold the last sweep's prompts");
}

#[test]
fn a_dataset_that_sets_the_lengths_needs_none_in_the_grid() {
    let home = folder("sweep-dataset");
    let turn = |from: &str, words: usize| format!(r#"{{"from":"{from}","value":"{}"}}"#, "a word ".repeat(words));
    let conversation =
        |id: usize| format!(r#"{{"id":"{id}","conversations":[{},{}]}}"#, turn("human", 9 + id), turn("gpt", 8));
    let conversations: Vec<String> = (0..6).map(conversation).collect();
    let file = home.join("sharegpt.json");
    fs::write(&file, format!("[{}]", conversations.join(","))).unwrap();
    let text = format!(
        "model: m\nbase_url: sim\ndataset_name: sharegpt\ndataset_path: {}\nconcurrency_prompts: [[1, 3], [2, 6]]\n",
        file.display()
    );
    let config = config(&home, &text);
    let done = sweep(&config, &[]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let result = &sweeps(&config)[0];
    let names: Vec<String> = results(result).into_iter().map(|f| f.0).collect();
    assert_eq!(names, ["bench_sharegpt_mc1_np3.json", "bench_sharegpt_mc2_np6.json"]);
    let requests = fs::read_to_string(result.join("bench_sharegpt_mc2_np6.requests.ndjson")).unwrap();
    let lengths: BTreeSet<u64> = requests
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["prompt_len"].as_u64().unwrap())
        .collect();
    assert!(lengths.len() == 6 && lengths.iter().all(|len| *len < 100), "{lengths:?}");

    let without = text.replace("dataset_name: sharegpt\n", "");
    fs::write(&config, without).unwrap();
    let done = sweep(&config, &["--new"]);
    assert!(done.code == 2 && done.stderr.contains("or `dataset_name` a dataset that"), "{}", done.stderr);
}

#[test]
fn an_interrupted_sweep_resumes_without_repeating_a_cell() {
    // The cell of 40 tokens takes long enough to interrupt it: 40 × 20 ms, twice.
    let text = format!("{GRID}step_base: 20ms\nseed: 3\n");
    let config = config(&folder("sweep-cut"), &text);
    let mut child = script(&config, &[]).process_group(0).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let reached = lines.by_ref().any(|l| l.unwrap().contains("2/4 io16x4_mc2_np8: "));
    assert!(reached);
    let outputs = sweeps(&config)[0].join("bench_io24x40_mc1_np2.outputs.ndjson");
    wait_until("the cell begins", || first_line(&outputs).is_some());
    // As a terminal does: to every program at once. Twice, so that no program waits for requests in flight.
    for _ in 0..2 {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let _ = kill_process_group(Pid::from_child(&child), Signal::INT);
    }
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|l| l.contains("run the same command again to resume")), "{rest:?}");
    let folders = sweeps(&config);
    let before = results(&folders[0]);
    assert_eq!((before.len(), check_summary(&folders[0]).len()), (2, 2));
    let cut = fs::read_to_string(folders[0].join("bench_io24x40_mc1_np2.outputs.ndjson")).unwrap();
    assert!(cut.lines().last().unwrap().contains("\"interrupted\":true"), "{cut}");

    let done = sweep(&config, &[]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stderr.contains("resuming") && done.stderr.contains("2/4 bench_io16x4_mc2_np8: already complete"),
        "{}",
        done.stderr
    );
    assert_eq!(sweeps(&config), folders);
    let after = results(&folders[0]);
    assert_eq!((after.len(), &after[..2]), (4, &before[..]));
    assert_eq!(check_summary(&folders[0]).len(), 4);
}

#[test]
fn a_cell_whose_requests_failed_is_retried() {
    let sim = Sim::start(&["--served-model-name", "my/model", "--fault", "status_500:0.5"]);
    let text = GRID.replace("sim", &sim.url).replace("[1, 2], [2, 8]", "[2, 40]");
    let config = config(&folder("sweep-failed"), &text);
    let first = sweep(&config, &[]);
    assert!(
        first.code == 1 && first.stderr.contains("run the same command again to retry these cells"),
        "{}",
        first.stderr
    );
    let folders = sweeps(&config);
    let done = sweep(&config, &[]);
    assert!(done.stderr.contains("resuming") && !done.stderr.contains("already complete"), "{}", done.stderr);
    assert_eq!((done.code, sweeps(&config)), (1, folders.clone()), "{}", done.stderr);
    assert_eq!(files(&folders[0], ".csv").len(), 1);
    assert_eq!(check_summary(&folders[0]).len(), 2);
}

#[test]
fn a_repeated_cell_is_another_run_of_the_summary() {
    let config = config(&folder("sweep-repeats"), &GRID.replace("[1, 2], [2, 8]", "[2, 8], [2, 8]"));
    let done = sweep(&config, &[]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let names = check_summary(&sweeps(&config)[0]);
    assert_eq!((names.len(), names[1].as_str()), (4, "bench_io16x4_mc2_np8_run2.json"));
}

#[test]
fn sweeps_of_the_same_second_have_different_folders() {
    let home = folder("sweep-second");
    let sim = Sim::start(&["--served-model-name", "m"]);
    let text = format!("model: m\nbase_url: {}\ninput_output: [[8, 1]]\nconcurrency_prompts: [[1, 1]]\n", sim.url);
    let config = config(&home, &text);
    for count in 1..=3 {
        let done = sweep(&config, &["--new"]);
        assert_eq!((done.code, sweeps(&config).len()), (0, count), "{}", done.stderr);
    }
}

/// They would overwrite each other's cells.
#[test]
fn two_sweeps_do_not_share_a_folder() {
    let config = config(&folder("sweep-two"), &format!("{GRID}step_base: 500ms\nseed: 3\n"));
    let mut first = script(&config, &[]).spawn().unwrap();
    let mut lines = BufReader::new(first.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("4 cells, in ")));
    let second = sweep(&config, &[]);
    assert!(second.code == 4 && second.stderr.contains("another sweep.sh still works in"), "{}", second.stderr);
    let outputs = sweeps(&config)[0].join("bench_io16x4_mc1_np2.outputs.ndjson");
    wait_until("the cell begins", || first_line(&outputs).is_some());

    // The programs of a killed script end, and then its folder is free.
    let run: serde_json::Value = serde_json::from_str(&first_line(&outputs).unwrap()).unwrap();
    let server = run["base_url"].as_str().unwrap().trim_start_matches("http://").to_owned();
    assert!(std::net::TcpStream::connect(&server).is_ok());
    first.kill().unwrap();
    first.wait().unwrap();
    wait_until("vb-sim ends", || std::net::TcpStream::connect(&server).is_err());
    wait_until("vb-fire ends as if interrupted", || {
        fs::read_to_string(&outputs).unwrap().lines().last().unwrap().contains("\"type\":\"end\"")
    });
    let quick = fs::read_to_string(&config).unwrap().replace("500ms", "1ms");
    fs::write(&config, quick).unwrap();
    let copy = sweeps(&config)[0].join("config.yaml");
    fs::write(&copy, fs::read_to_string(&copy).unwrap().replace("500ms", "1ms")).unwrap();
    let mut done = sweep(&config, &[]);
    wait_until("the folder is free", || {
        if done.code == 4 {
            done = sweep(&config, &[]);
        }
        done.code != 4
    });
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!((sweeps(&config).len(), results(&sweeps(&config)[0]).len()), (1, 4));
}

#[test]
fn a_folder_of_results_has_no_keys() {
    let sim = Sim::start(&["--served-model-name", "my/model", "--api-key", "sk-planted-1"]);
    let keys = "header: [Authorization=Bearer sk-planted-1]\nextra_body: {metadata: {api_key: [sk-planted-2]}}\n\
                endpoint: /v1/completions?key=sk-planted-3#token=sk-planted-4\n# sk-planted-5\n";
    let grid = GRID.replace("sim", &sim.url).replace("[1, 2], ", "");
    let config = config(&folder("sweep-keys"), &(grid + keys));
    let done = sweep(&config, &[]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(!format!("{}{}", done.stdout, done.stderr).contains("planted"), "{}", done.stderr);
    let results = &sweeps(&config)[0];
    for file in fs::read_dir(results).unwrap().map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("planted"), "{}: {text}", file.display());
    }
    assert!(fs::read_to_string(results.join("config.yaml")).unwrap().contains("Authorization=***"));
}

/// The output length in a pair of the grid may be 0.
#[test]
fn a_sweep_over_an_api_that_generates_nothing() {
    for (name, keys) in [
        ("sweep-rerank", "backend: vllm-rerank\ndataset_name: random-rerank\nrandom_batch_size: 2\n"),
        ("sweep-vectors", "backend: openai-embeddings\n"),
    ] {
        let grid = GRID.replace("[[16, 4], [24, 40]]", "[[16, 0]]").replace("[1, 2], ", "");
        let config = config(&folder(name), &(grid + keys));
        let done = sweep(&config, &[]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        let folders = sweeps(&config);
        let read = |end: &str| fs::read_to_string(folders[0].join(&files(&folders[0], end)[0].0)).unwrap();
        let requests = read(".requests.ndjson");
        assert!(!requests.contains("expected_output_len"), "{requests}");
        let result: serde_json::Value = serde_json::from_str(&read(".json")).unwrap();
        assert_eq!((&result["completed"], &result["failed"]), (&8.into(), &0.into()), "{result}");
    }
}

#[test]
fn a_dry_run_prints_pipelines_that_run() {
    let sim = Sim::start(&["--served-model-name", "my/model"]);
    let home = folder("sweep-dry");
    let config = config(&home, &GRID.replace("sim", &sim.url));
    let done = sweep(&config, &["--dry-run"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(!home.join("results").exists(), "nothing is written");
    assert_eq!(done.stdout.lines().count(), 4 * 3 + 2, "{}", done.stdout);
    let out = done.stdout.split(' ').find(|w| w.ends_with(".requests.ndjson")).unwrap();
    let mkdir = format!("mkdir -p {}\n", Path::new(out.trim()).parent().unwrap().display());
    let ran = tool::plain_command("bash")
        .args(["-euo", "pipefail", "-c", &(mkdir + &done.stdout)])
        .env("PATH", tool::search_path())
        .output()
        .unwrap();
    let ran = tool::done(ran);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(files(&sweeps(&config)[0], ".csv").len(), 1);
    assert_eq!(check_summary(&sweeps(&config)[0]).len(), 4);
}

#[test]
fn errors_of_a_sweep_are_one_line() {
    let home = folder("sweep-wrong");
    let typo = config(&home, "modle: m\n");
    let done = sweep(&typo, &[]);
    assert!(done.code == 2 && done.stderr.contains("did you mean `model`?"), "{}", done.stderr);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = config(&home, &GRID.replace("sim", &format!("http://{free}")));
    let done = sweep(&down, &[]);
    assert!(done.code == 4 && done.stderr.contains("is the server running"), "{}", done.stderr);
    // The other cells would fail as the first one did.
    let sim = Sim::start(&["--served-model-name", "my/model"]);
    let failing = config(&home, &GRID.replace("sim", &sim.url).replace("my/model", "my/typo"));
    let done = sweep(&failing, &[]);
    let why = "stopped at bench_io16x4_mc1_np2, in which every request failed";
    assert!(done.code == 1 && done.stderr.contains(why) && !done.stderr.contains("2/4"), "{}", done.stderr);
    assert_eq!(sweep(Path::new("/no/such/config.yaml"), &["--dry-run"]).code, 2);
    let mut bare = tool::plain_command(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/sweep.sh"));
    let done = tool::done(bare.arg("--results").output().unwrap());
    assert_eq!((done.code, done.stderr.as_str()), (2, "sweep: --results needs a folder\n"));
}
