//! Files as people have them: other forms of JSON, other encodings, columns and times that mean something else.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
};

use serde_json::{Value, json};
use vb::{record::SampleRequest, tokens::BUILTIN};

use crate::tool::{Done, Sim, command, done, folder, run};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The requests that a dataset makes of a file with this content, in the order of the file.
fn generate(dataset: &str, file: &Path, content: impl AsRef<[u8]>, args: &[&str]) -> (Done, Vec<Value>) {
    fs::write(file, content).unwrap();
    let own = ["--dataset-name", dataset, "--dataset-path", file.to_str().unwrap(), "--num-prompts", "0"];
    let order = if dataset == "mooncake" || dataset == "replay" { &[][..] } else { &["--disable-shuffle"] };
    let done = run("vb-gen", &[&own[..], order, args].concat(), "");
    let requests = lines(&done.stdout);
    (done, requests)
}

fn utf16(text: &str) -> Vec<u8> {
    format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The same rows in every form of JSON file, for a dataset of conversations, of prompts, of columns and of times.
#[test]
fn rows_are_read_in_every_form_of_json() {
    let folder = folder("files-forms");
    let turns = |i: usize| {
        json!([{"from": "human", "value": format!("{i} love love love love")},
            {"from": "gpt", "value": "one two three four five"}])
    };
    let sharegpt: Vec<Value> = (0..3).map(|i| json!({"id": i, "conversations": turns(i)})).collect();
    let prompts: Vec<Value> = (0..3).map(|i| json!({"prompt": format!("{i} love")})).collect();
    let columns: Vec<Value> = (0..3).map(|i| json!({"question": format!("{i} love"), "answer": "x y"})).collect();
    let trace: Vec<Value> =
        (0..3).map(|i| json!({"timestamp": i * 1000, "input_length": 9, "output_length": 3})).collect();
    for (dataset, rows) in
        [("sharegpt", sharegpt), ("custom", prompts.clone()), ("hf", columns), ("mooncake", trace), ("replay", prompts)]
    {
        let ndjson: String = rows.iter().map(|row| format!("{row}\n")).collect::<Vec<_>>().concat();
        let pretty: String = rows.iter().map(|row| format!("{row:#}\n")).collect::<Vec<_>>().concat();
        let list = Value::from(rows);
        let file = folder.join(format!("{dataset}.json"));
        let (plain, want) = generate(dataset, &file, &ndjson, &[]);
        assert_eq!((plain.code, want.len()), (0, 3), "{dataset}: {}", plain.stderr);
        let wrapped = json!({"version": "1.0", "data": list});
        for content in [
            ndjson.replace('\n', "\r\n").into_bytes(),
            pretty.into_bytes(),
            list.to_string().into_bytes(),
            format!("{list:#}").into_bytes(),
            wrapped.to_string().into_bytes(),
            format!("{wrapped:#}").into_bytes(),
            utf16(&list.to_string()),
            utf16(&ndjson),
            list.to_string().replacen('[', "[null, NaN, ", 1).into_bytes(),
        ] {
            let (done, got) = generate(dataset, &file, &content, &[]);
            let shown = String::from_utf8_lossy(&content);
            assert!(done.code == 0 && got == want, "{dataset}: {shown}: {}", done.stderr);
        }
    }
    // One object is one row, and a list of lists is a list of conversations.
    let file = folder.join("one.json");
    let one = json!({"conversations": turns(7)});
    assert_eq!(generate("sharegpt", &file, format!("{one:#}"), &[]).1.len(), 1);
    let lists = json!([turns(0), turns(1)]);
    for dataset in ["sharegpt", "hf"] {
        let got = generate(dataset, &file, lists.to_string(), &["--backend", "openai-chat"]).1;
        assert_eq!(got.len(), 2, "{dataset}");
    }
}

#[test]
fn rows_that_are_not_used_are_counted_by_their_reasons() {
    let folder = folder("files-reasons");
    let short = json!({"conversations": [{"value": "a"}, {"value": "b"}]});
    let long = json!({"conversations": [{"value": "love ".repeat(2000)}, {"value": "one two three four five"}]});
    let good = json!({"conversations": [{"value": "a b c d e f"}, {"value": "one two three four five"}]});
    let rows = json!([{"x": 1}, {"x": 2}, {"x": 3}, short, long, null, {"conversations": null}, long]);
    let file = folder.join("s.json");
    let reasons = "3 rows: no key `conversations`, `conversation` or `messages`; \
                   2 rows: the prompt has more than 1024 tokens; 1 row: null; 1 row: the conversation is null; \
                   1 row: the prompt has fewer than 4 tokens";
    for args in [&[][..], &["--lenient"]] {
        let (done, _) = generate("sharegpt", &file, rows.to_string(), args);
        let want = format!("vb-gen: none of the 8 rows is usable: {reasons}\n");
        assert_eq!((done.code, done.stderr), (3, want), "{args:?}");
    }
    let mut more = rows.as_array().unwrap().clone();
    more.push(good);
    fs::write(&file, Value::from(more).to_string()).unwrap();
    let args = ["--dataset-name", "sharegpt", "--dataset-path", file.to_str().unwrap(), "--num-prompts", "2"];
    let done = run("vb-gen", &args, "");
    assert!(
        done.code == 0 && done.stderr.contains(&format!("only 1 of the 9 rows can be used ({reasons})")),
        "{done:?}"
    );
    // Bad rows are counted in the same way, without their values.
    let bad = "{\"prompt\":7}\n{\"prompt\":8}\n{\"prompt\":{}}\n{\"prompt\":\"a\"}\n";
    for (input, path) in [("", file.to_str().unwrap()), (bad, "-")] {
        fs::write(&file, bad).unwrap();
        let args = ["--dataset-name", "custom", "--dataset-path", path, "--num-prompts", "0", "--lenient"];
        let done = run("vb-gen", &args, input);
        assert_eq!((done.code, lines(&done.stdout).len()), (0, 1), "{done:?}");
        assert!(done.stderr.contains("skipped 3 bad rows (3 rows: `prompt`: expected a prompt: text"), "{done:?}");
    }
}

#[test]
fn an_encoding_that_is_not_read_is_named_with_the_cure() {
    let folder = folder("files-encodings");
    // "你好" in GBK.
    let gbk = b"[{\"conversations\":[{\"value\":\"\xc4\xe3\xba\xc3\"},{\"value\":\"\xc4\xe3\xba\xc3\"}]}]".to_vec();
    let line = b"{\"prompt\":\"\xc4\xe3\xba\xc3\"}\n".to_vec();
    for (dataset, content, cure) in [
        ("sharegpt", gbk, "iconv -f GB18030"),
        ("custom", line.clone(), "iconv -f GB18030"),
        ("replay", line.clone(), "iconv -f GB18030"),
        ("sonnet", line.clone(), "iconv -f GB18030"),
        ("sharegpt", b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), "gunzip"),
        ("hf", b"PK\x03\x04........".to_vec(), "save the table as CSV"),
        ("mooncake", b"\x28\xb5\x2f\xfd....".to_vec(), "unzstd"),
    ] {
        let file = folder.join(format!("{dataset}.json"));
        fs::write(&file, content).unwrap();
        let done = run("vb-gen", &["--dataset-name", dataset, "--dataset-path", file.to_str().unwrap()], "");
        assert!(done.code == 3 && done.stderr.contains(cure), "{dataset}: {done:?}");
        assert!(!done.stderr.contains("--lenient") && done.stderr.lines().count() == 1, "{dataset}: {done:?}");
    }
    let sim = Sim::start(&[]);
    let done = run("vb-fire", &["--base-url", &sim.url], line);
    assert!(done.code == 3 && done.stderr.contains("stdin:1:12: this is not UTF-8"), "{done:?}");
    let done = run("vb-fire", &["--base-url", &sim.url], utf16("{\"prompt\":\"a\",\"expected_output_len\":\"2\"}\n"));
    assert!(done.code == 0 && lines(&done.stdout)[1]["expected_output_len"] == 2, "{done:?}");
}

#[test]
fn columns_that_collide_with_keys_of_a_request_become_tags() {
    let folder = folder("files-columns");
    let rows = [
        json!({"prompt": "a", "tags": ["x", "y"], "body": "Dear Sir", "timestamp": "yesterday", "turn": 3}),
        json!({"prompt": "b", "request_id": 17, "tags": {"kind": "k"}, "lora": ["no"], "think_time": "long"}),
        json!({"prompt": "c", "expected_output_len": "128", "turn": "last"}),
        json!({"prompt": "d", "expected_output_len": 128.0, "body": {"top_k": 1}}),
    ];
    let content: String = rows.iter().map(|row| format!("{row}\n")).collect::<Vec<_>>().concat();
    let (done, got) = generate("custom", &folder.join("c.jsonl"), content + "{\"prompt\":\"e\",\"body\":NaN}\n", &[]);
    assert_eq!((done.code, got.len()), (0, 5), "{done:?}");
    assert_eq!(got[0]["tags"], json!({"tags": ["x", "y"], "body": "Dear Sir", "timestamp": "yesterday", "turn": 3}));
    assert_eq!(got[1]["tags"], json!({"lora": ["no"], "think_time": "long", "kind": "k"}));
    assert_eq!((&got[1]["request_id"], &got[2]["tags"]), (&json!("17"), &json!({"turn": "last"})));
    assert_eq!((&got[2]["expected_output_len"], &got[3]["expected_output_len"]), (&json!(128), &json!(128)));
    assert_eq!((&got[3]["body"], got[4].get("body"), got[4].get("tags")), (&json!({"top_k": 1}), None, None));
    assert!(done.stderr.contains("`tags`, `body`, `timestamp` is not what a request has"), "{done:?}");
    for (row, what) in [
        (r#"{"prompt":"a","expected_output_len":"many"}"#, ":1:42: `expected_output_len`: invalid value"),
        (r#"{"prompt":"a","prompt_len":1.5}"#, ":1:30: `prompt_len`: invalid value"),
        (r#"{"conversations":[]}"#, "it has `conversations`: use --dataset-name sharegpt"),
        (r#"{"question":"a"}"#, "its keys are question; --dataset-name hf"),
        ("7", "should be an object `{ … }`, and is a number"),
    ] {
        let (done, _) = generate("custom", &folder.join("c.jsonl"), format!("{row}\n{row}\n"), &[]);
        assert!(done.code == 3 && done.stderr.contains(what), "{row}: {done:?}");
    }
    // Where a column cannot become a tag, it is refused by its name.
    let sim = Sim::start(&[]);
    for key in ["tags", "body", "timestamp", "session_id"] {
        let line = format!("{}\n", json!({"prompt": "a", key: ["x"]}));
        let done = run("vb-fire", &["--base-url", &sim.url], line);
        assert!(done.code == 3 && done.stderr.contains(&format!(": `{key}`: ")), "{key}: {done:?}");
    }
}

/// Times as logs and traces have them, through each program that reads them.
#[test]
fn times_of_any_kind_count_from_the_first_or_are_refused() {
    let folder = folder("files-times");
    let sim = Sim::start(&[]);
    let times = |values: &[Value], dataset: &str| -> (Done, Vec<f64>) {
        let row = |time: &Value| match dataset {
            "mooncake" | "qwen" => json!({"timestamp": time, "input_length": "9.0", "output_length": 2.0}),
            _ => json!({"prompt": "a", "timestamp": time, "expected_output_len": 2}),
        };
        let text: String = values.iter().map(|time| format!("{}\n", row(time))).collect::<Vec<_>>().concat();
        let done = if dataset == "vb-fire" {
            run("vb-fire", &["--base-url", &sim.url], text)
        } else {
            generate(dataset, &folder.join("t.jsonl"), text, &[]).0
        };
        let found = lines(&done.stdout).into_iter().filter(|line| line["type"] != "run" && line["type"] != "end");
        let starts = found.filter_map(|line| line["timestamp"].as_f64().or(line["scheduled_time"].as_f64()));
        let starts: Vec<f64> = starts.collect();
        let first = starts.first().copied().unwrap_or_default();
        let rounded = starts.iter().map(|start| ((start - first) * 1e3).round() / 1e3).collect();
        (done, rounded)
    };
    let unix = [
        [json!(1_700_000_000), json!(1_700_000_000.25)],
        [json!(1_700_000_000_000_u64), json!(1_700_000_000_250_u64)],
        [json!(1_700_000_000_000_000_u64), json!(1_700_000_000_250_000_u64)],
        [json!("2023-11-14T22:13:20Z"), json!("2023-11-14T22:13:20.250Z")],
        [json!("2023-11-14 22:13:20"), json!("2023-11-14 22:13:20.25")],
        [json!("1700000000"), json!("1700000000.25")],
    ];
    for dataset in ["custom", "replay", "mooncake", "qwen", "vb-fire"] {
        for pair in &unix {
            let (done, starts) = times(pair, dataset);
            assert_eq!((done.code, starts), (0, vec![0.0, 0.25]), "{dataset} {pair:?}: {}", done.stderr);
        }
        for (wrong, what) in [
            ([json!(0), json!(1_700_000_000_000_000_u64)], "year|Unix time|unit"),
            ([json!(1_700_000_000), json!(1_600_000_000)], "earlier"),
            ([json!(0), json!("2023-11-14T22:13:20Z")], "year|Unix time"),
            ([json!(-1), json!(0)], "-1 is not a time|kept as a tag"),
        ] {
            let (done, _) = times(&wrong, dataset);
            assert!(what.split('|').any(|what| done.stderr.contains(what)), "{dataset} {wrong:?}: {done:?}");
        }
    }
    let csv = "TIMESTAMP,ContextTokens,GeneratedTokens\n1700000000000,9.0,2\n1700000000250,\"9\",2.0\n";
    let file = folder.join("t.csv");
    fs::write(&file, csv).unwrap();
    let done = run("vb-gen", &["--dataset-name", "azure", "--dataset-path", file.to_str().unwrap()], "");
    assert_eq!(lines(&done.stdout)[1]["timestamp"], 0.25, "{done:?}");
}

/// The order of such rows means something, so it is kept without a flag.
#[test]
fn rows_with_times_or_conversations_keep_their_order() {
    let folder = folder("files-order");
    let file = folder.join("c.jsonl");
    for key in ["timestamp", "session_id"] {
        let text: String =
            (0..50).map(|i| format!("{}\n", json!({"prompt": format!("{i}"), key: i}))).collect::<Vec<_>>().concat();
        fs::write(&file, text).unwrap();
        let args = ["--dataset-name", "custom", "--dataset-path", file.to_str().unwrap(), "--num-prompts", "60"];
        let done = run("vb-gen", &args, "");
        let prompts: Vec<String> = lines(&done.stdout).iter().map(|r| r["prompt"].as_str().unwrap().into()).collect();
        assert_eq!(prompts, (0..50).map(|i| i.to_string()).collect::<Vec<_>>(), "{}", done.stderr);
        assert!(done.stderr.contains(&format!("the rows have `{key}`: their order is kept")), "{}", done.stderr);
    }
}

/// A hub that announces more than any tokenizer has, and then says nothing.
#[test]
fn a_download_has_a_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n{");
            std::mem::forget(stream);
        }
    });
    let home = folder("files-hub");
    let mut command = command("vb-gen");
    command.args(["--num-prompts", "1", "--tokenizer", "org/name"]).env("HF_ENDPOINT", &base);
    command.env_remove("HF_HUB_OFFLINE").env("HF_HOME", &home).env("XDG_CACHE_HOME", &home).env_remove("HF_HUB_CACHE");
    let done = done(command.output().unwrap());
    assert!(done.code == 4 && done.stderr.contains("longer than 262144 KiB"), "{done:?}");
}

/// As a download that broke off leaves it.
#[test]
fn a_tokenizer_that_is_cut_off_is_an_error() {
    let folder = folder("files-tokenizer");
    for end in [0, 1, 100, 3000, BUILTIN.len() / 2, BUILTIN.len() - 3] {
        fs::write(folder.join("tokenizer.json"), &BUILTIN[..BUILTIN.floor_char_boundary(end)]).unwrap();
        let done = run("vb-gen", &["--num-prompts", "1", "--tokenizer", folder.to_str().unwrap()], "");
        assert!(done.code == 2 && done.stderr.contains("is not a tokenizer.json"), "{end}: {done:?}");
        assert!(!done.stderr.contains("panicked"), "{end}: {done:?}");
    }
}

/// vLLM and pandas write NaN and Infinity, and cut strings in the middle of a character.
#[test]
fn json_of_other_programs_is_read_everywhere() {
    let folder = folder("files-nan");
    let row = r#"{"prompt":"a \ud83d b","score":NaN,"expected_output_len":2,"tags":{"x":-Infinity}}"#;
    let (done, got) = generate("custom", &folder.join("c.jsonl"), row, &[]);
    assert!(done.code == 0 && got[0]["prompt"] == "a \u{fffd} b" && got[0]["tags"]["x"].is_null(), "{done:?}");
    let sim = Sim::start(&[]);
    let done = run("vb-fire", &["--base-url", &sim.url], row);
    assert_eq!(done.code, 0, "{done:?}");
    let outputs = done.stdout.replace("\"cached_tokens\":null", "\"cached_tokens\":NaN");
    assert!(outputs.contains("NaN"));
    let stats = run("vb-stats", &["--table", "never"], outputs);
    assert_eq!((stats.code, lines(&stats.stdout)[0]["completed"].as_u64()), (0, Some(1)), "{stats:?}");
    let vllm = r#"{"date":"x","duration":2.5,"completed":2,"total_input_tokens":9,"mean_ttft_ms":NaN,"std_ttft_ms":Infinity,
        "p99_ttft_ms":3.5,"input_lens":[4.0,4],"output_lens":[3,3],"ttfts":[0.5,NaN],"itls":[[0.1,0.1],[NaN]],
        "start_times":[1.0,2.0],"generated_texts":["a",null],"errors":["",""]}"#;
    let agg = run("vb-agg", &["-"], format!("{vllm}\n{vllm}\n"));
    assert_eq!((agg.code, agg.stdout.lines().count(), agg.stderr.as_str()), (0, 3, ""), "{agg:?}");
    let agg = run("vb-agg", &["-"], format!("[{vllm},\n{vllm}]"));
    assert_eq!((agg.code, agg.stdout.lines().count()), (0, 3), "{agg:?}");
    let stats = run("vb-stats", &["--table", "never"], vllm.replace('\n', " "));
    let result: Value = serde_json::from_str(&stats.stdout).unwrap();
    assert!(stats.code == 0 && result["completed"] == 2, "{stats:?}");
    let request: SampleRequest = serde_json::from_value(got[0].clone()).unwrap();
    assert_eq!(request.expected_output_len, Some(2));
}
