//! `vb-gen` through its binary.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};
use vb::tokens::{BUILTIN, Tokenizer};

use crate::tool::{Done, command, done, folder, golden, run};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs `vb-gen`, which must succeed.
fn generate(args: &[&str]) -> Vec<Value> {
    let done = run("vb-gen", args, "");
    assert_eq!(done.code, 0, "{}", done.stderr);
    lines(&done.stdout)
}

fn file(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

fn text(request: &Value) -> &str {
    request["prompt"].as_str().unwrap()
}

#[test]
fn a_dataset_without_a_row_is_an_error() {
    for dataset in ["custom", "replay"] {
        let done = run("vb-gen", &["--dataset-name", dataset, "--dataset-path", "-"], "\n");
        assert!(done.code == 3 && done.stderr.starts_with("vb-gen: stdin has no "), "{done:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_every_machine() {
    let args = ["--num-prompts", "4", "--input-len", "12", "--prefix-len", "3", "--range-ratio", "0.5", "--seed", "7"];
    golden("gen-random.ndjson", &run("vb-gen", &args, "").stdout);
    let ids = [&args[..], &["--prompt-token-ids"]].concat();
    golden("gen-random-ids.ndjson", &run("vb-gen", &ids, "").stdout);
    let sonnet = ["--dataset-name", "sonnet", "--num-prompts", "2", "--input-len", "90", "--prefix-len", "50"];
    golden("gen-sonnet.ndjson", &run("vb-gen", &sonnet, "").stdout);
}

#[test]
fn random_prompts_are_exact_and_begin_differently() {
    let tokenizer = Tokenizer::builtin().unwrap();
    let mut heads = HashSet::new();
    for request in
        generate(&["--num-prompts", "300", "--input-len", "64", "--range-ratio", "{\"input\":0.9,\"output\":0}"])
    {
        let ids = tokenizer.encode(text(&request), true).unwrap();
        assert_eq!(request["prompt_len"], ids.len());
        assert_eq!((&request["expected_output_len"], &request["body"]), (&json!(128), &json!({"ignore_eos": true})));
        assert!((6..=122).contains(&ids.len()) && heads.insert(ids[0]), "{ids:?}");
    }
}

#[test]
fn special_tokens_of_the_server_are_part_of_the_length() {
    let folder = folder("gen-bos");
    let mut json: Value = serde_json::from_str(BUILTIN).unwrap();
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    });
    let path = file(&folder, "tokenizer.json", json.to_string());
    let tokenizer = Tokenizer::open(folder.to_str().unwrap()).unwrap();
    for request in generate(&["--num-prompts", "20", "--input-len", "16", "--tokenizer", &path]) {
        assert_eq!(request["prompt_len"], 16);
        assert_eq!(tokenizer.encode(text(&request), true).unwrap().len(), 16);
        assert_eq!(tokenizer.count(text(&request)).unwrap(), 15);
    }
    let done = run("vb-gen", &["--input-len", "1", "--tokenizer", &path], "");
    assert!(done.code == 2 && done.stderr.contains("make it 2 or more"), "{done:?}");
}

/// A folder with the built-in tokenizer and a chat template that strips what it is given.
fn chat_model(name: &str) -> PathBuf {
    let folder = folder(name);
    fs::write(folder.join("tokenizer.json"), BUILTIN).unwrap();
    let template =
        "{{ bos_token }}{% for m in messages %}\n[{{ m['role'] }}] {{ m['content'] | trim }}\n{% endfor %}[answer]";
    let config = json!({"chat_template": template, "bos_token": {"content": "<|endoftext|>"}});
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn chats_are_as_long_as_the_server_will_count_them() {
    let model = chat_model("gen-chat");
    let tokenizer = Tokenizer::builtin().unwrap();
    for dataset in ["random", "sonnet"] {
        for request in generate(&[
            "--dataset-name",
            dataset,
            "--num-prompts",
            "20",
            "--input-len",
            "80",
            "--prefix-len",
            "25",
            "--backend",
            "openai-chat",
            "--tokenizer",
            model.to_str().unwrap(),
        ]) {
            let rendered = format!("<|endoftext|>[user] {}\n[answer]", text(&request).trim());
            let want = if dataset == "random" { 105 } else { 80 };
            assert_eq!((tokenizer.count(&rendered).unwrap(), &request["prompt_len"]), (want, &json!(want)));
        }
    }
    let done = run("vb-gen", &["--num-prompts", "1", "--backend", "openai-chat"], "");
    assert!(done.code == 0 && done.stderr.contains("no chat template"), "{done:?}");
}

/// Answers `POST /tokenize` as vLLM does, with the built-in tokenizer, and `GET`s with the files of a hub.
fn serve(listener: &TcpListener) {
    let tokenizer = Tokenizer::builtin().unwrap();
    for stream in listener.incoming().flatten() {
        let tokenizer = tokenizer.clone();
        std::thread::spawn(move || answer_all(stream, &tokenizer));
    }
}

fn answer_all(stream: TcpStream, tokenizer: &Tokenizer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let (mut first, mut length, mut authorized) = (String::new(), 0, false);
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(n) = line.strip_prefix("content-length: ") {
                length = n.parse().unwrap();
            }
            authorized |= line == "authorization: bearer sesame";
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let (status, body) = answer(&first, &body, authorized, tokenizer);
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    }
}

fn answer(first: &str, body: &[u8], authorized: bool, tokenizer: &Tokenizer) -> (&'static str, String) {
    if !authorized {
        return ("401 Unauthorized", json!({"error": {"message": "who are you?"}}).to_string());
    }
    if first.starts_with("GET /org/name/resolve/main/tokenizer.json ") {
        return ("200 OK", BUILTIN.to_owned());
    }
    if first.starts_with("GET /org/name/resolve/main/chat_template.json ") {
        let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
        return ("200 OK", json!({"chat_template": template}).to_string());
    }
    if !first.starts_with("POST /tokenize ") {
        return ("404 Not Found", String::new());
    }
    let question: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(question["model"], "tiny");
    let text = match question["messages"][0]["content"].as_str() {
        Some(content) => format!("user: {content}\nassistant:"),
        None => question["prompt"].as_str().unwrap().to_owned(),
    };
    let ids = tokenizer.encode(&text, true).unwrap();
    ("200 OK", json!({"count": ids.len(), "tokens": ids}).to_string())
}

fn with_server(args: &[&str], vars: &[(&str, &str)]) -> Done {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || serve(&listener));
    let mut command = command("vb-gen");
    command.args(args).args(["--base-url", &base]).env("HF_ENDPOINT", &base).env_remove("HF_HUB_OFFLINE");
    command.envs(vars.iter().copied());
    done(command.output().unwrap())
}

#[test]
fn a_named_server_counts_tokens_if_it_can() {
    let args = ["--num-prompts", "3", "--input-len", "30", "--model", "tiny"];
    let builtin = run("vb-gen", &args, "");
    assert_eq!((builtin.code, builtin.stderr.as_str()), (0, ""), "no server is named");
    for backend in ["openai", "openai-chat"] {
        let args = [&args[..], &["--backend", backend]].concat();
        let counted = with_server(&args, &[("OPENAI_API_KEY", "sesame")]);
        assert_eq!((counted.code, counted.stderr.as_str()), (0, ""), "{backend}");
        let refused = with_server(&args, &[("OPENAI_API_KEY", "other")]);
        assert_eq!((refused.code, refused.stderr.lines().count()), (0, 1), "{}", refused.stderr);
        let want = "prompts are counted by the built-in tokenizer";
        assert!(refused.stderr.contains("HTTP 401") && refused.stderr.contains(want), "{}", refused.stderr);
        assert_eq!(lines(&refused.stdout).len(), 3);
        // Only the server knows the chat template.
        let is_shorter = text(&lines(&counted.stdout)[0]).len() < text(&lines(&refused.stdout)[0]).len();
        assert!(backend == "openai" || is_shorter, "{}", counted.stdout);
    }
    let rerank = ["--dataset-name", "random-rerank", "--backend", "vllm-rerank", "--num-prompts", "1"];
    let done = with_server(&rerank, &[]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
}

#[test]
fn a_servers_own_tokenizer_decides_on_request() {
    let tokenizer = Tokenizer::builtin().unwrap();
    let key = [("OPENAI_API_KEY", "sesame")];
    let args = ["--num-prompts", "5", "--input-len", "30", "--tokenizer", "server", "--model", "tiny"];
    let done = with_server(&args, &key);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(lines(&done.stdout).iter().all(|r| tokenizer.count(text(r)).unwrap() == 30));

    let done = with_server(&[&args[..], &["--backend", "openai-chat"]].concat(), &key);
    let count = |r: &Value| tokenizer.count(&format!("user: {}\nassistant:", text(r))).unwrap();
    assert!(lines(&done.stdout).iter().all(|r| count(r) == 30 && r["prompt_len"] == 30), "{done:?}");

    // A header of the user counts more than the environment.
    let header = ["--header", "Authorization=Bearer sesame", "x-team=red"];
    let done = with_server(&[&args[..], &header].concat(), &[("OPENAI_API_KEY", "other")]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));

    let done = with_server(&args, &[("OPENAI_API_KEY", "wrong-secret")]);
    assert!(done.code == 4 && done.stderr.contains("HTTP 401 Unauthorized: who are you?"), "{done:?}");
    assert!(!done.stderr.contains("wrong-secret") && done.stderr.lines().count() == 1);
}

#[test]
fn a_tokenizer_of_the_hub_is_fetched_once() {
    let home = folder("gen-hub");
    let home = home.to_str().unwrap();
    let args = ["--num-prompts", "1", "--input-len", "8", "--tokenizer", "org/name"];
    let vars = [("XDG_CACHE_HOME", home), ("HF_HOME", home), ("HF_TOKEN", "sesame")];
    let offline = [&vars[..], &[("HF_HUB_OFFLINE", "1")]].concat();

    let before = with_server(&args, &offline);
    assert!(before.code == 4 && before.stderr.contains("HF_HUB_OFFLINE forbids"), "{before:?}");
    let refused = with_server(&args, &[("XDG_CACHE_HOME", home), ("HF_HOME", home), ("HF_TOKEN", "")]);
    assert!(refused.code == 4 && refused.stderr.contains("set HF_TOKEN"), "{refused:?}");
    let missing = with_server(&["--tokenizer", "org/other"], &vars);
    assert!(missing.code == 2 && missing.stderr.contains("no tokenizer.json"), "{missing:?}");

    let fetched = with_server(&args, &vars);
    assert_eq!((fetched.code, lines(&fetched.stdout).len()), (0, 1), "{}", fetched.stderr);
    assert_eq!(with_server(&args, &offline).stdout, fetched.stdout);
    // Its template came with it, from the last of the places where models have it.
    let chat = with_server(&[&args[..], &["--backend", "openai-chat"]].concat(), &offline);
    assert!(chat.code == 0 && !chat.stderr.contains("no chat template"), "{chat:?}");
}

#[test]
fn the_hub_cache_of_others_comes_first() {
    let home = folder("gen-hf-home");
    let model = home.join("hub/models--org--name");
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::create_dir_all(model.join("snapshots/abc")).unwrap();
    fs::write(model.join("refs/main"), "abc\n").unwrap();
    fs::write(model.join("snapshots/abc/tokenizer.json"), BUILTIN).unwrap();
    let mut command = command("vb-gen");
    command.args(["--num-prompts", "1", "--tokenizer", "org/name"]).env("HF_HOME", &home).env("HF_HUB_OFFLINE", "1");
    assert_eq!(done(command.env_remove("HF_HUB_CACHE").output().unwrap()).code, 0);
}

/// Conversations of these many words.
fn conversations(lengths: &[(usize, usize)]) -> String {
    let text = |n: usize, i: usize| format!("{i}{}", " love".repeat(n - 1));
    let all: Vec<Value> = (0..)
        .zip(lengths)
        .map(|(i, (a, b))| json!({"id": i, "conversations": [{"from": "human", "value": text(*a, i)}, {"from": "gpt", "value": text(*b, i)}]}))
        .collect();
    serde_json::to_string_pretty(&all).unwrap()
}

#[test]
fn sharegpt_takes_what_vllm_takes() {
    let folder = folder("gen-sharegpt");
    let path =
        file(&folder, "s.json", conversations(&[(5, 9), (3, 9), (9, 3), (8, 30), (1025, 9), (1000, 1049), (6, 7)]));
    let args = ["--dataset-name", "sharegpt", "--dataset-path", &path, "--num-prompts", "0"];
    let got = |extra: &[&str]| -> Vec<(u64, u64)> {
        let number = |v: &Value| v.as_u64().unwrap();
        let requests = generate(&[&args[..], extra].concat());
        requests.iter().map(|r| (number(&r["prompt_len"]), number(&r["expected_output_len"]))).collect()
    };
    assert_eq!(got(&["--disable-shuffle"]), [(5, 9), (8, 30), (6, 7)]);
    assert_eq!(got(&["--disable-shuffle", "--sharegpt-output-len", "2"]), [(5, 2), (9, 2), (8, 2), (1000, 2), (6, 2)]);
    let mut shuffled = got(&[]);
    shuffled.sort_unstable();
    assert_eq!(shuffled, [(5, 9), (6, 7), (8, 30)]);
}

#[test]
fn a_cut_sharegpt_file_needs_a_word() {
    let folder = folder("gen-cut");
    let whole = conversations(&[(5, 9), (8, 30), (6, 7)]);
    let cut = whole.rfind("love").unwrap();
    let path = file(&folder, "s.json", &whole[..cut]);
    let args = ["--dataset-name", "sharegpt", "--dataset-path", &path, "--num-prompts", "2"];
    let done = run("vb-gen", &args, "");
    let want = format!("vb-gen: {path}: byte {cut}: the file ends in the middle of a string (after 2 complete rows)");
    assert!(done.code == 3 && done.stdout.is_empty() && done.stderr.starts_with(&want), "{done:?}");
    assert!(done.stderr.contains("--lenient") && done.stderr.lines().count() == 1);

    let done = run("vb-gen", &[&args[..], &["--lenient"]].concat(), "");
    assert_eq!((done.code, lines(&done.stdout).len()), (0, 2), "{}", done.stderr);
    assert!(done.stderr.contains("using the 2 complete rows"), "{}", done.stderr);
}

#[test]
fn too_few_rows_are_drawn_again_with_a_warning() {
    let folder = folder("gen-few");
    let path = file(&folder, "s.json", conversations(&[(5, 9), (8, 30)]));
    let args = ["--dataset-name", "sharegpt", "--dataset-path", &path, "--num-prompts", "7"];
    let done = run("vb-gen", &args, "");
    let requests = lines(&done.stdout);
    let ids: HashSet<&str> = requests.iter().map(|r| r["request_id"].as_str().unwrap()).collect();
    let texts: HashSet<&str> = requests.iter().map(text).collect();
    assert_eq!((requests.len(), ids.len(), texts.len()), (7, 7, 2));
    assert!(done.stderr.contains("5 requests repeat a row") && done.stderr.contains("prefix cache"), "{}", done.stderr);

    let done = run("vb-gen", &[&args[..], &["--no-oversample"]].concat(), "");
    assert_eq!((done.code, lines(&done.stdout).len()), (0, 2));
}

const CUSTOM: &str = r#"{"prompt":"Shall I compare thee","output_tokens":5,"tags":{"kind":"a"},"body":{"top_k":3}}

{"messages":[{"role":"user","content":"Thou art"}],"output_tokens":6}
{"prompt":[1,2,3],"output_tokens":7,"request_id":"mine"}
"#;

#[test]
fn custom_rows_keep_their_keys() {
    let folder = folder("gen-custom");
    let path = file(&folder, "c.jsonl", CUSTOM);
    let args = ["--dataset-name", "custom", "--num-prompts", "0", "--custom-output-len", "-1", "--tag", "run=x"];
    let from_file = [&args[..], &["--disable-shuffle", "--dataset-path", &path]].concat();
    golden("gen-custom.ndjson", &run("vb-gen", &from_file, "").stdout);
    let piped = run("vb-gen", &[&args[..], &["--dataset-path", "-"]].concat(), CUSTOM);
    assert_eq!(piped.stdout, run("vb-gen", &from_file, "").stdout, "{}", piped.stderr);
    let shuffled = run("vb-gen", &[&args[..], &["--dataset-path", &path, "--seed", "3"]].concat(), "");
    assert_eq!(lines(&shuffled.stdout).len(), 3);
}

#[test]
fn a_bad_row_is_named_and_those_before_it_are_written() {
    let folder = folder("gen-bad");
    let rows = "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n{\"prompt\":7}\n{\"prompt\":\"d\"}\n";
    let path = file(&folder, "c.jsonl", rows);
    for (input, name) in [(path.as_str(), path.as_str()), ("-", "stdin")] {
        let args = ["--dataset-name", "custom", "--dataset-path", input, "--disable-shuffle", "--num-prompts", "0"];
        let done = run("vb-gen", &args, rows);
        assert_eq!((done.code, lines(&done.stdout).len()), (3, 2));
        let start = format!("vb-gen: {name}:3:11: `prompt`: invalid type: integer `7`, expected a prompt");
        assert!(done.stderr.starts_with(&start), "{}", done.stderr);
        let done = run("vb-gen", &[&args[..], &["--lenient"]].concat(), rows);
        assert_eq!((done.code, lines(&done.stdout).len()), (0, 3));
        let done = run("vb-gen", &[&args[..], &["--lenient"]].concat(), rows.repeat(3));
        if input == "-" {
            // One is shown, and the rest are counted.
            assert!(done.stderr.lines().count() == 2 && done.stderr.contains("skipped 3 bad rows"), "{done:?}");
        }
    }
    let done = run("vb-gen", &["--dataset-name", "custom", "--dataset-path", "-"], "{\"text\":\"a\"}");
    assert!(done.code == 3 && done.stderr.contains("stdin:1: no `prompt`, `messages` or list `content`"), "{done:?}");
}

#[test]
fn saved_requests_are_replayed_as_they_are() {
    let saved = run("vb-gen", &["--num-prompts", "5", "--input-len", "9", "--tag", "a=b"], "").stdout;
    let args = ["--dataset-name", "replay", "--dataset-path", "-"];
    assert_eq!(run("vb-gen", &args, &saved).stdout, saved);
    let bare = run("vb-gen", &[&args[..], &["--request-id-prefix", "r"]].concat(), r#"{"prompt":"hi"}"#);
    assert_eq!(bare.stdout, "{\"request_id\":\"r0\",\"prompt\":\"hi\"}\n");
    let bad = run("vb-gen", &args, "{\"prompt\":\"hi\"}\n{\"promt\":\"hi\"}");
    assert!(bad.code == 3 && bad.stderr.contains("stdin:2: neither a request"), "{bad:?}");
}

#[test]
fn saved_outputs_become_a_load_of_the_same_shape() {
    let saved = [
        json!({"type": "run", "clock": {"start": 1000.5}}),
        json!({"type": "output", "request_id": "a", "scheduled_time": 1001.75, "prompt_len": 40, "output_tokens": 9, "tags": {"t": 1}}),
        json!({"type": "output", "request_id": "b", "scheduled_time": 1000.5, "prompt_len": 20, "output_tokens": 0,
               "expected_output_len": 33, "session_id": "s", "turn": 2}),
        json!({"type": "end"}),
    ];
    let input = saved.map(|line| line.to_string()).join("\n");
    let done = run("vb-gen", &["--dataset-name", "replay", "--dataset-path", "-"], &input);
    let requests = lines(&done.stdout);
    let tokenizer = Tokenizer::builtin().unwrap();
    let shape = |r: &Value| {
        (r["request_id"].clone(), r["timestamp"].clone(), r["prompt_len"].clone(), r["expected_output_len"].clone())
    };
    assert_eq!(shape(&requests[0]), (json!("a"), json!(1.25), json!(40), json!(9)), "{}", done.stderr);
    assert_eq!(shape(&requests[1]), (json!("b"), json!(0.0), json!(20), json!(33)));
    assert_eq!(
        (&requests[0]["tags"], &requests[1]["session_id"], &requests[1]["turn"]),
        (&json!({"t": 1}), &json!("s"), &json!(2))
    );
    assert!(requests.iter().all(|r| tokenizer.count(text(r)).unwrap() as u64 == r["prompt_len"].as_u64().unwrap()));
}

/// Without the run's own line, times count from the first outcome; one that was due earlier must not become due with it.
#[test]
fn outcomes_out_of_their_order_need_the_start_of_their_run() {
    let saved =
        [3, 1].map(|at| json!({"type": "output", "scheduled_time": at, "prompt_len": 9}).to_string()).join("\n");
    let args = ["--dataset-name", "replay", "--dataset-path", "-"];
    let done = run("vb-gen", &args, &saved);
    assert!(done.code == 3 && done.stderr.contains("stdin:2: scheduled before the first line"), "{done:?}");
    let sorted: Vec<&str> = saved.lines().rev().collect();
    assert_eq!(run("vb-gen", &args, sorted.join("\n")).code, 0);
}

#[test]
fn the_grid_is_written_cell_by_cell() {
    let folder = folder("gen-grid");
    let config =
        "model: m\nnum_prompts: 5\ninput_output: [[128, 64], [256, 32]]\nconcurrency_prompts: [[1, 10], [8, 80]]\n";
    let path = file(&folder, "config.yaml", config);
    let json = run("vb-gen", &["--config", &path, "--seed", "1", "--grid"], "");
    golden("gen-grid.ndjson", &json.stdout);
    let tsv = run("vb-gen", &["--config", &path, "--seed", "1", "--grid", "tsv"], "");
    let first = &lines(&json.stdout)[0];
    assert_eq!(
        tsv.stdout.lines().next().unwrap(),
        format!("128\t64\t1\t10\t{}\tbench_io128x64_mc1_np10\t-\tm", first["seed"])
    );
    assert_eq!(run("vb-gen", &["--grid"], "").code, 2);
}

#[test]
fn the_config_gives_flags_and_the_command_line_wins() {
    let folder = folder("gen-config");
    let path =
        file(&folder, "c.yaml", "num_prompts: 3\ninput_len: 10\nrange_ratio: {input: 0, output: 0}\noutput_len: 4\n");
    let requests = generate(&["--config", &path, "--num_prompts", "2"]);
    assert_eq!(
        (requests.len(), &requests[0]["prompt_len"], &requests[0]["expected_output_len"]),
        (2, &json!(10), &json!(4))
    );
}

#[test]
fn a_reader_that_leaves_ends_it_silently() {
    let mut child = command("vb-gen")
        .args(["--num-prompts", "100m", "--input-len", "64"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    // Dropped after one line.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let left = done(child.wait_with_output().unwrap());
    assert_eq!((left.code, left.stderr.as_str()), (0, ""));
    assert!(first.contains("\"vb-0-0\""));
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    for (args, word) in [
        (
            &["--dataset-name", "sonnet", "--prompt-token-ids"][..],
            "does not take --prompt-token-ids: use it with --dataset-name random, prefix_repetition,",
        ),
        (&["--prompt-token-ids", "--backend", "openai-chat"], "which takes text"),
        (&["--output-len", "-1"], "only --dataset-name custom"),
        (&["--num-prompts", "0"], "give a number"),
        (&["--dataset-name", "custom"], "--dataset-path"),
        (&["--dataset-name", "sonnet", "--input-len", "100"], "make it 201 or more"),
        (&["--tokenizer", "./nothing/here"], "no tokenizer `./nothing/here`"),
        (&["--tokenizer", "server", "--base-url", "sim"], "--base-url `sim`"),
        (&["--tokenizer", "server", "--base-url", "nowhere"], "as in http://127.0.0.1:8000"),
        (&["--range-ratio", "1"], "each less than 1"),
    ] {
        let done = run("vb-gen", args, "");
        assert!(done.code == 2 && done.stdout.is_empty() && done.stderr.contains(word), "{args:?}: {done:?}");
    }
    for args in [
        &["--dataset-name", "prefix_repetition", "--num-prompts", "100000000000"][..],
        &["--dataset-name", "gsp", "--gsp-num-groups", "4g"],
    ] {
        let done = run("vb-gen", args, "");
        assert!(done.code == 2 && done.stderr.contains("are too many"), "{done:?}");
    }
    let long = run("vb-gen", &["--num-prompts", "3", "--max-model-len", "100"], "");
    assert!(long.code == 0 && long.stderr.contains("3 of 3 requests exceed --max-model-len 100"), "{long:?}");
    let done = run("vb-gen", &["--dataset-name", "sharegpt", "--dataset-path", "/no/such/file"], "");
    assert!(done.code == 4 && done.stderr.contains("/no/such/file"), "{done:?}");
}

#[test]
fn the_schema_describes_a_request() {
    let schema: Value = serde_json::from_str(&run("vb-gen", &["--schema"], "").stdout).unwrap();
    assert!(schema["properties"]["expected_output_len"].is_object());
}
