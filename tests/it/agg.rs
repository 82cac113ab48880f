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
    // What a folder of results holds beside them.
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
fn a_broken_file_is_named_and_the_rest_is_written() {
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
fn an_empty_file_is_named_too() {
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

#[test]
fn nothing_to_aggregate_is_an_error() {
    let empty = folder("agg-empty");
    for (args, stdin) in [(vec![], ""), (vec![empty.to_str().unwrap()], ""), (vec![], "[]")] {
        let done = run("vb-agg", &args, stdin);
        assert_eq!((done.code, done.stdout.as_str()), (3, ""));
        assert!(done.stderr.contains("no result of any run"), "{}", done.stderr);
    }
    assert_eq!(run("vb-agg", &["/nonexistent/x.json"], "").code, 4);
}

#[test]
fn a_stream_of_vb_fire_is_told_once() {
    let stream = fs::read(data("stats-run.ndjson")).unwrap();
    let done = run("vb-agg", &[], stream);
    assert_eq!((done.code, done.stderr.matches("vb-fire").count()), (3, 1), "{}", done.stderr);
    assert!(done.stderr.contains("give it to vb-stats"), "{}", done.stderr);
}
