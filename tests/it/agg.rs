//! `vb-agg` through its binary.

use std::{fs, path::PathBuf};

use crate::tool::{data, folder, golden, run};

const RUN: &str = include_str!("../data/stats-run.ndjson");
const VLLM: &str = include_str!("../data/stats-vllm-detailed.json");

/// A folder with results of our own, of vLLM, and of an old version, and a broken file.
fn results(name: &str) -> PathBuf {
    let folder = folder(name);
    let ours = |metadata: &str| run("vb-stats", &["--metadata", metadata], RUN).stdout;
    fs::write(folder.join("bench_io32x8_mc10_np9.json"), ours("gpu=H100, 80 GB")).unwrap();
    fs::write(folder.join("bench_io32x8_mc2_np9.json"), ours("gpu=\"A100\"")).unwrap();
    fs::write(folder.join("vllm.json"), VLLM).unwrap();
    let old = r#"{"date":"20240101-000000","backend":"vllm","model_id":"m","num_prompts":3,"request_rate":2.5,
        "max_concurrency":1,"duration":1.5,"completed":3,"mean_ttft_ms":10.0,"p99_ttft_ms":1e-05,"extra_list":[1]}"#;
    fs::write(folder.join("old_io1024x128.json"), old).unwrap();
    // Other files that a folder of results contains.
    fs::write(folder.join("summary.json"), format!("[{old},{old}]")).unwrap();
    fs::write(folder.join("x.outputs.ndjson"), RUN).unwrap();
    folder
}

#[test]
fn a_folder_becomes_this_csv() {
    let folder = results("agg-folder");
    let done = run("vb-agg", &["--header", "both", folder.to_str().unwrap()], "");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    golden("agg-folder.csv", &done.stdout);
    let chinese = run("vb-agg", &["--header", "zh", folder.to_str().unwrap()], "").stdout;
    assert!(chinese.starts_with("日期,"));
    assert_eq!(chinese.lines().count(), 5);
}

#[test]
fn a_folder_becomes_this_table() {
    let folder = results("agg-table");
    let done = run("vb-agg", &["--table", "always", folder.to_str().unwrap()], "");
    golden("agg-table.txt", &done.stderr);
}

#[test]
fn every_row_has_every_column_and_the_values_of_its_file() {
    let folder = results("agg-columns");
    let csv = run("vb-agg", &[folder.to_str().unwrap()], "").stdout;
    let mut table = csv::Reader::from_reader(csv.as_bytes());
    let header = table.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|h| h == name).unwrap();
    let rows: Vec<csv::StringRecord> = table.records().collect::<Result<_, _>>().unwrap();
    let want: serde_json::Value = serde_json::from_str(VLLM).unwrap();
    let vllm = rows.iter().find(|row| &row[column("filename")] == "vllm.json").unwrap();
    for (key, value) in want.as_object().unwrap() {
        match value {
            serde_json::Value::Number(n) => assert_eq!(vllm[column(key)].parse::<f64>().ok(), n.as_f64(), "{key}"),
            serde_json::Value::String(text) => assert_eq!(&vllm[column(key)], text, "{key}"),
            serde_json::Value::Null => assert_eq!(&vllm[column(key)], "", "{key}"),
            _ => assert!(header.iter().all(|h| h != key), "{key}"),
        }
    }
    let lengths: Vec<(&str, &str)> =
        rows.iter().map(|row| (&row[column("input_len")], &row[column("output_len")])).collect();
    assert_eq!(lengths, [("32", "8"), ("32", "8"), ("64", "32"), ("1024", "128")]);
    assert_eq!(&rows[0][column("gpu")], "\"A100\"");
    assert_eq!(&rows[1][column("gpu")], "H100, 80 GB");
}

#[test]
fn a_broken_file_is_reported_and_the_others_are_written() {
    let folder = results("agg-broken");
    fs::write(folder.join("broken.json"), "{\"duration\": 1,\n").unwrap();
    fs::write(folder.join("config.json"), "{\"tp\": 1}").unwrap();
    let done = run("vb-agg", &[folder.to_str().unwrap()], "");
    assert_eq!(done.code, 3);
    assert_eq!(done.stdout.lines().count(), 5);
    assert!(done.stderr.contains("broken.json:2: EOF while parsing"), "{}", done.stderr);
    assert!(done.stderr.contains("config.json: not the result of a run"), "{}", done.stderr);
}

#[test]
fn an_empty_file_is_reported() {
    let folder = results("agg-empty");
    fs::write(folder.join("cut.json"), "").unwrap();
    let done = run("vb-agg", &[folder.to_str().unwrap()], "");
    assert_eq!((done.code, done.stdout.lines().count()), (3, 5));
    assert!(done.stderr.contains("cut.json: the file is empty"), "{}", done.stderr);
}

#[test]
fn a_stream_keeps_its_order_and_outlives_a_broken_result() {
    let ours = run("vb-stats", &[], RUN).stdout;
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(VLLM).unwrap()).unwrap();
    let stream = format!("{pretty}\n{{\"duration\":}}\n{ours}");
    let done = run("vb-agg", &[], &stream);
    assert_eq!(done.code, 3);
    let line = pretty.lines().count() + 1;
    assert!(done.stderr.contains(&format!("stdin:{line}: expected value")), "{}", done.stderr);
    let models: Vec<&str> = done.stdout.lines().skip(1).map(|row| row.split(',').nth(4).unwrap()).collect();
    assert_eq!(models, ["tiny", "Qwen3-8B"]);
}

#[test]
fn files_of_the_same_name_keep_their_folders() {
    let (a, b) = (results("agg-same-a"), results("agg-same-b"));
    let (a, b) = (a.join("vllm.json"), b.join("vllm.json"));
    let csv = run("vb-agg", &[a.to_str().unwrap(), b.to_str().unwrap()], "").stdout;
    let files: Vec<&str> = csv.lines().skip(1).map(|row| row.rsplit(',').next().unwrap()).collect();
    assert_eq!(files, [a.to_str().unwrap(), b.to_str().unwrap()]);
}

#[test]
fn the_list_of_a_vllm_sweep_is_read_when_named() {
    let path = results("agg-summary").join("summary.json");
    assert_eq!(run("vb-agg", &[path.to_str().unwrap()], "").stdout.lines().count(), 3);
}

/// The CSV and the list have the same columns and values; what is empty in the one is null in the other.
#[test]
fn a_list_of_runs_has_the_columns_of_the_csv() {
    let folder = results("agg-json");
    let folder = folder.to_str().unwrap();
    let rows = run("vb-agg", &[folder], "").stdout;
    let mut csv = csv::Reader::from_reader(rows.as_bytes());
    let headers = csv.headers().unwrap().clone();
    let done = run("vb-agg", &["--format", "json", folder], "");
    let list: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(&done.stdout).unwrap();
    let rows: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    assert_eq!((rows.len(), done.stdout.lines().count()), (list.len(), list.len() + 2));
    for (row, object) in rows.iter().zip(&list) {
        assert!(object.keys().eq(headers.iter()), "{object:?}");
        for (cell, value) in row.iter().zip(object.values()) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert_eq!(cell, if value.is_null() { "" } else { &text }, "{object:?}");
        }
    }
    let wrong = run("vb-agg", &["--format", "json", "--repeats", "long", folder], "");
    assert!(wrong.code == 2 && wrong.stderr.contains("leave out --pool, --repeats and --header"), "{}", wrong.stderr);
}

#[test]
fn nothing_to_aggregate_is_an_error() {
    let empty = folder("agg-empty");
    for (args, stdin) in [(vec![], ""), (vec![empty.to_str().unwrap()], ""), (vec![], "[]")] {
        let done = run("vb-agg", &args, stdin);
        assert_eq!((done.code, done.stdout.as_str()), (3, ""));
        assert!(done.stderr.contains("no results in the input"), "{}", done.stderr);
    }
    assert_eq!(run("vb-agg", &["/nonexistent/x.json"], "").code, 4);
}

#[test]
fn output_of_vb_fire_is_reported_once() {
    let stream = fs::read(data("stats-run.ndjson")).unwrap();
    let done = run("vb-agg", &[], stream);
    assert_eq!((done.code, done.stderr.matches("vb-fire").count()), (3, 1), "{}", done.stderr);
    assert!(done.stderr.contains("pass it to vb-stats"), "{}", done.stderr);
}

/// Three repeats of one cell, and one of another.
fn repeats(name: &str) -> PathBuf {
    let folder = folder(name);
    let result = |concurrency: u64, throughput: f64, file: &str| {
        let (complete, verdict) = if file == "b.json" { (false, "suspect") } else { (true, "clean") };
        let text = format!(
            r#"{{"date":"{file}","backend":"openai","model_id":"m","num_prompts":9,"max_concurrency":{concurrency},"duration":2.0,
               "completed":9,"request_throughput":{throughput},"gpu":"H100","vb":{{"input_len":128,"output_len":64,
               "complete":{complete},"interrupted":false,"verdict":"{verdict}"}}}}"#
        );
        fs::write(folder.join(file), text).unwrap();
    };
    result(4, 10.0, "a.json");
    result(4, 12.0, "b.json");
    result(4, 14.0, "c.json");
    result(8, 20.0, "d.json");
    folder
}

#[test]
fn repeats_become_a_mean_with_its_interval() {
    let folder = repeats("agg-repeats");
    let long = run("vb-agg", &["--repeats", "long", folder.to_str().unwrap()], "");
    assert_eq!(long.code, 0, "{}", long.stderr);
    let lines: Vec<&str> = long.stdout.lines().collect();
    assert_eq!(
        lines[0],
        "backend,model_id,num_prompts,max_concurrency,gpu,input_len,output_len,runs,complete,interrupted,verdict,metric,mean,low,high,cv"
    );
    // Student's t of two degrees of freedom is 4.3027; the standard deviation is 2, and its root of three is 1.1547.
    let row = lines.iter().find(|l| l.contains(",request_throughput,12,")).unwrap();
    let cells: Vec<&str> = row.split(',').collect();
    let settings = ["openai", "m", "9", "4", "H100", "128", "64", "3"];
    let worst = ["false", "false", "suspect"];
    assert_eq!(cells[..13], [&settings[..], &worst, &["request_throughput", "12"]].concat());
    let number = |at: usize| cells[at + 3].parse::<f64>().unwrap();
    assert!((number(10) - 7.0317).abs() < 1e-3 && (number(11) - 16.9683).abs() < 1e-3, "{row}");
    assert!((number(12) - 2.0 / 12.0).abs() < 1e-9, "{row}");
    // A single run has a mean but no spread.
    assert!(
        lines.iter().any(|l| l.ends_with("8,H100,128,64,1,true,false,clean,request_throughput,20,,,")),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 1 + 2 * 3);
}

#[test]
fn repeats_may_be_wide_and_in_chinese() {
    let folder = repeats("agg-repeats-wide");
    let wide = run("vb-agg", &["--repeats", "wide", "--header", "both", folder.to_str().unwrap()], "").stdout;
    let lines: Vec<&str> = wide.lines().collect();
    assert_eq!(lines.len(), 2 + 2);
    assert!(
        lines[0].ends_with("request_throughput,request_throughput_low,request_throughput_high,request_throughput_cv")
    );
    assert!(lines[1].contains("请求吞吐量 (req/s) 下限") && lines[1].contains("运行次数"), "{}", lines[1]);
    let columns = lines[0].split(',').count();
    assert!(lines.iter().all(|line| line.split(',').count() == columns), "{wide}");
}

#[test]
fn a_repeat_that_is_given_twice_is_an_error() {
    let folder = repeats("agg-repeats-twice");
    fs::copy(folder.join("a.json"), folder.join("e.json")).unwrap();
    let done = run("vb-agg", &["--repeats", "long", folder.to_str().unwrap()], "");
    assert_eq!((done.code, done.stdout.as_str()), (3, ""));
    assert!(done.stderr.contains("a.json and e.json have the same run"), "{}", done.stderr);
}

/// A last line without its newline, and one message however many lines are wrong.
#[test]
fn broken_input_ends_and_is_reported_once() {
    let result = r#"{"duration":1.0,"completed":1}"#;
    for (input, code, why) in [
        ("{\"completed\":1}\n{\"completed\":".to_owned(), 3, "stdin:2: EOF while parsing a value; skipped"),
        (format!("{result}\n{{\"completed\":"), 3, "stdin:2: EOF while parsing"),
        (format!("{result}\n[{{"), 3, "stdin:2: EOF while parsing"),
        ("{\"a\":}\n".repeat(300), 3, "stdin:1: expected value, and 299 more like it; skipped"),
        ("{\"a\":1}\n".repeat(300), 3, "stdin: 300 objects, each not the result of a run"),
    ] {
        let done = run("vb-agg", &[], &input);
        assert_eq!(done.code, code, "{}", done.stderr);
        assert!(done.stderr.contains(why) && done.stderr.lines().count() <= 3, "{}", done.stderr);
    }
    let requests = run("vb-gen", &["--num-prompts", "300", "--input-len", "8"], "").stdout;
    let done = run("vb-agg", &[], &requests);
    assert!(done.stderr.contains("stdin: requests, not results: vb-fire sends them"), "{}", done.stderr);
    assert_eq!((done.code, done.stderr.lines().count()), (3, 2), "{}", done.stderr);
}
