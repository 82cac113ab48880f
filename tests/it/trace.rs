//! Traces through the binary of `vb-gen`.

use std::fs;

use serde_json::{Value, json};
use vb::tokens::Tokenizer;

use crate::tool::{data, folder, golden, run};

/// The path of a file in `tests/data`.
fn path(name: &str) -> String {
    data(name).to_str().unwrap().to_owned()
}

/// Runs `vb-gen` over a trace, which must succeed: its requests, and its standard error.
fn generate(form: &str, file: &str, args: &[&str]) -> (Vec<Value>, String) {
    let done = run("vb-gen", &[&["--dataset-name", form, "--dataset-path", file], args].concat(), "");
    assert_eq!(done.code, 0, "{}", done.stderr);
    (done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), done.stderr)
}

fn rows(file: &str) -> Vec<Value> {
    fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn times(requests: &[Value]) -> Vec<f64> {
    requests.iter().map(|r| r["timestamp"].as_f64().unwrap()).collect()
}

/// The prompt's tokens as a server would count them.
fn tokens(request: &Value, tokenizer: &Tokenizer) -> Vec<u32> {
    match &request["prompt"] {
        Value::String(text) => tokenizer.encode(text, true).unwrap(),
        ids => serde_json::from_value(ids.clone()).unwrap(),
    }
}

#[test]
fn lengths_times_and_shared_blocks_match_the_trace() {
    let file = path("trace-mooncake.jsonl");
    let (rows, tokenizer) = (rows(&file), Tokenizer::builtin().unwrap());
    for kind in [&["--prompt-token-ids"][..], &[]] {
        let (requests, stderr) = generate("mooncake", &file, kind);
        assert_eq!((requests.len(), stderr.as_str()), (rows.len(), ""));
        let prompts: Vec<Vec<u32>> = requests.iter().map(|r| tokens(r, &tokenizer)).collect();
        let first = rows[0]["timestamp"].as_u64().unwrap();
        for ((row, request), prompt) in rows.iter().zip(&requests).zip(&prompts) {
            assert_eq!(json!(prompt.len()), row["input_length"]);
            assert_eq!(request["prompt_len"], row["input_length"]);
            assert_eq!(request["expected_output_len"], row["output_length"]);
            let due = (row["timestamp"].as_u64().unwrap() - first) as f64 / 1e3;
            assert_eq!(request["timestamp"].as_f64(), Some(due));
            assert_eq!(request["body"]["ignore_eos"], true);
        }
        // Two prompts agree exactly as far as their leading blocks do.
        let blocks = |row: &Value| -> Vec<u64> { serde_json::from_value(row["hash_ids"].clone()).unwrap() };
        for (i, a) in prompts.iter().enumerate() {
            for (j, b) in prompts.iter().enumerate().skip(i + 1) {
                let shared = blocks(&rows[i]).iter().zip(blocks(&rows[j])).take_while(|(x, y)| **x == *y).count();
                let alike = a.iter().zip(b).take_while(|(x, y)| x == y).count();
                assert!(alike >= shared * 512 && alike <= shared * 512 + 1, "{i} {j}: {alike} tokens, {shared} blocks");
            }
        }
        let cached: Vec<u64> = requests.iter().map(|r| r["expected_cached_len"].as_u64().unwrap()).collect();
        assert!(cached[0] == 0 && cached[1..].iter().all(|n| n % 512 == 0) && cached[1] == 512, "{cached:?}");
    }
}

#[test]
fn chats_are_as_long_as_the_trace_says_with_their_template() {
    let folder = folder("trace-chat");
    fs::write(folder.join("tokenizer.json"), vb::tokens::BUILTIN).unwrap();
    let template = r#"{"chat_template":"<{{ messages[0].content }}> and answer:"}"#;
    fs::write(folder.join("tokenizer_config.json"), template).unwrap();
    let args = ["--backend", "openai-chat", "--tokenizer", folder.to_str().unwrap()];
    let (requests, stderr) = generate("qwen", &path("trace-qwen.jsonl"), &args);
    let lengths: Vec<&Value> = requests.iter().map(|r| &r["prompt_len"]).collect();
    assert_eq!(lengths, [40, 20, 72]);
    assert!(!stderr.contains("exactly"), "{stderr}");
}

/// A model whose template adds tokens before and after a text, and a function that returns the tokens of a chat.
fn model_with_both_ends(name: &str) -> (String, impl Fn(&Value) -> Vec<u32>) {
    let folder = folder(name);
    fs::write(folder.join("tokenizer.json"), vb::tokens::BUILTIN).unwrap();
    let template =
        "<|endoftext|>{{ 'you are a bot ' * 4 }}<|endoftext|>{{ messages[0].content }}<|endoftext|> and now:";
    fs::write(folder.join("chat_template.jinja"), template).unwrap();
    let name = folder.to_str().unwrap().to_owned();
    let tokenizer = Tokenizer::open(&name).unwrap();
    let chat =
        move |request: &Value| tokenizer.encode_chat(&[json!({"role": "user", "content": request["prompt"]})]).unwrap();
    (name, chat)
}

/// What a server's cache of blocks of 16 tokens finds of each prompt.
fn found(prompts: &[Vec<u32>]) -> Vec<u64> {
    let mut known = std::collections::HashSet::new();
    let mut found = Vec::new();
    for prompt in prompts {
        let prefixes = (1..=prompt.len() / 16).map(|n| &prompt[..16 * n]);
        let hits = prefixes.clone().take_while(|prefix| known.contains(prefix)).count();
        found.push((hits.min((prompt.len() - 1) / 16) * 16) as u64);
        known.extend(prefixes);
    }
    found
}

#[test]
fn blocks_of_chats_begin_where_the_trace_has_them() {
    let (model, chat) = model_with_both_ends("trace-chat-blocks");
    let file = folder("trace-chat-blocks-rows").join("trace");
    let row = |(input, blocks): &(u32, Vec<u32>)| {
        json!({"timestamp": 0, "input_length": input, "output_length": 1, "hash_ids": blocks}).to_string() + "\n"
    };
    let trace = [
        (98, vec![0, 1, 2, 3, 4, 5, 6]),
        (90, vec![10, 11, 12, 13, 14, 15]),
        // Where the first prompt has the template's end, this one has its own tokens.
        (128, vec![0, 1, 2, 3, 4, 5, 7, 8]),
        (98, vec![0, 1, 2, 3, 4, 5, 6]),
        (130, vec![0, 1, 2, 3, 4, 5, 7, 8, 9]),
        (128, vec![0, 1, 2, 20, 21, 22, 23, 24]),
    ];
    fs::write(&file, trace.iter().map(row).collect::<String>()).unwrap();
    let args = ["--backend", "openai-chat", "--tokenizer", &model];
    let (requests, stderr) = generate("qwen", file.to_str().unwrap(), &args);
    assert_eq!(stderr, "");
    let prompts: Vec<Vec<u32>> = requests.iter().map(chat).collect();
    let meant: Vec<u64> = requests.iter().map(|r| r["expected_cached_len"].as_u64().unwrap()).collect();
    let blocks: Vec<u64> = meant.iter().map(|tokens| tokens / 16 * 16).collect();
    assert_eq!(blocks, found(&prompts), "{meant:?}");
    assert!(meant[2] == 80 && meant[3] == 97 && meant[5] == 48, "{meant:?}");
    for ((input, _), prompt) in trace.iter().zip(&prompts) {
        assert_eq!(prompt.len(), *input as usize);
    }
}

#[test]
fn what_chats_share_ends_with_their_prefix() {
    let (model, chat) = model_with_both_ends("trace-chat-prefix");
    let args = ["--backend", "openai-chat", "--tokenizer", &model, "--num-prompts", "4", "--input-len", "60"];
    for more in [
        &["--prefix-len", "20"][..],
        &["--dataset-name", "prefix_repetition", "--prefix-repetition-num-prefixes", "1"],
        &["--dataset-name", "sonnet", "--input-len", "300"],
    ] {
        let base = if more[0] == "--dataset-name" { &args[..6] } else { &args[..] };
        let done = run("vb-gen", &[base, more].concat(), "");
        assert_eq!(done.code, 0, "{}", done.stderr);
        let requests: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let prompts: Vec<Vec<u32>> = requests.iter().map(&chat).collect();
        for (request, prompt) in requests.iter().zip(&prompts).skip(1) {
            let shared = prompts[0].iter().zip(prompt).take_while(|(a, b)| a == b).count();
            assert_eq!(request["expected_cached_len"], shared, "{more:?}");
        }
    }
}

#[test]
fn rows_of_every_form_are_read() {
    let (requests, stderr) = generate("qwen", &path("trace-qwen.jsonl"), &["--prompt-token-ids"]);
    assert_eq!(times(&requests), [0.0, 0.25, 14.864]);
    assert_eq!(requests[2]["tags"], json!({"chat_id": 3, "parent_chat_id": 1, "turn": 2, "type": "text"}));
    assert_eq!(requests[2]["expected_cached_len"], 32);
    assert_eq!(requests[1]["expected_output_len"], 1);
    assert!(stderr.contains("1 rows have no response in the trace"), "{stderr}");

    let (requests, _) = generate("azure", &path("trace-azure.csv"), &["--num-prompts", "3", "--prompt-token-ids"]);
    assert_eq!(times(&requests), [0.0, 4.314_579, 4.541_877]);
    assert_eq!((&requests[0]["prompt_len"], &requests[0]["expected_output_len"]), (&json!(374), &json!(44)));

    let (requests, stderr) = generate("burstgpt", &path("trace-burstgpt.csv"), &["--prompt-token-ids"]);
    assert_eq!(times(&requests), [0.0, 94.5]);
    assert_eq!(requests[1]["tags"], json!({"model": "GPT-4", "log_type": "API log"}));
    assert!(stderr.contains("skipped rows of the trace: 1 rows of models other than GPT-4"), "{stderr}");
    assert!(stderr.contains("1 failures, which have no response"), "{stderr}");
    let (all, _) = generate("burstgpt", &path("trace-burstgpt.csv"), &["--burstgpt-model", "all"]);
    assert_eq!(times(&all), [0.0, 40.5, 135.0]);
}

#[test]
fn a_window_of_a_trace_is_sent_from_its_own_beginning_at_any_speed() {
    let file = path("trace-mooncake.jsonl");
    let (whole, _) = generate("mooncake", &file, &["--prompt-token-ids"]);
    let whole = times(&whole);
    let (some, _) = generate("mooncake", &file, &["--prompt-token-ids", "--from", "5s", "--to", "20s", "--speed", "2"]);
    let want: Vec<f64> = whole.iter().copied().filter(|t| (5.0..20.0).contains(t)).collect();
    let want: Vec<f64> = want.iter().map(|t| (t - want[0]) / 2.0).collect();
    assert!(want.len() > 3 && want.len() < whole.len());
    assert_eq!(times(&some), want);
}

#[test]
fn laps_follow_each_other_with_new_prompts() {
    let file = path("trace-qwen.jsonl");
    let (requests, _) = generate("qwen", &file, &["--prompt-token-ids", "--loop", "2"]);
    // A span of 14.864 s with two gaps: the next lap begins one mean gap after it.
    assert_eq!(times(&requests), [0.0, 0.25, 14.864, 22.296, 22.546, 37.16]);
    assert_ne!(requests[0]["prompt"], requests[3]["prompt"]);
    assert_eq!(requests[3]["expected_cached_len"], 0);
    let ids: Vec<u32> = serde_json::from_value(requests[3]["prompt"].clone()).unwrap();
    let later: Vec<u32> = serde_json::from_value(requests[5]["prompt"].clone()).unwrap();
    assert_eq!(ids[..32], later[..32], "blocks are shared within a lap");
    let (endless, _) = generate("qwen", &file, &["--prompt-token-ids", "--loop", "--num-prompts", "10"]);
    assert_eq!(endless.len(), 10);
}

#[test]
fn the_same_seed_gives_the_same_bytes_of_a_trace() {
    let args = ["--dataset-name", "qwen", "--dataset-path", &path("trace-qwen.jsonl"), "--seed", "3"];
    golden("gen-trace.ndjson", &run("vb-gen", &args, "").stdout);
}

#[test]
fn errors_in_a_trace_have_their_place() {
    let folder = folder("trace-wrong");
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,9,9\n";
    let mooncake = r#"{"timestamp":9,"input_length":9,"output_length":9,"hash_ids":[0]}"#;
    let burst = "--burstgpt-model";
    for (form, content, args, code, want) in [
        ("azure", format!("{azure}later,9,9\n"), &[][..], 3, ":3: invalid value `later` in column `TIMESTAMP`"),
        ("azure", format!("{azure}2023-11-16 18:15:45,9,9\n"), &[], 3, ":3: this row is earlier than the previous one"),
        ("azure", "a,b\n1,2\n".into(), &[], 3, ":1: no column `TIMESTAMP`; the columns are a, b"),
        ("mooncake", format!("{mooncake}\n{{\"timestamp\":10}}\n"), &[], 3, ":2:16: missing field `input_length`"),
        ("mooncake", mooncake.into(), &["--from", "5s"], 3, "has no rows in the requested window"),
        ("qwen", mooncake.replace("\"timestamp\":9", "\"timestamp\":-0.5"), &[], 3, ":1:17: -0.5 is not a time"),
        ("mooncake", mooncake.replace("\"timestamp\":9", "\"timestamp\":-1"), &[], 3, ":1:15: -1 is not a time"),
        ("mooncake", mooncake.replace("h\":9,", "h\":4294967295,"), &[], 3, ":1: more than 16777216 tokens"),
        ("mooncake", mooncake.into(), &["--loop"], 2, "add --num-prompts"),
        ("mooncake", mooncake.into(), &["--loop", "3"], 2, "a lap has no length"),
        ("mooncake", mooncake.into(), &["--from", "2s", "--to", "1s"], 2, "--from is not before --to"),
        ("mooncake", String::new(), &[], 3, "has no rows"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n".into(), &[], 3, "has no rows"),
        ("azure", String::new(), &[], 3, "is empty"),
        (
            "burstgpt",
            "Timestamp,Model,Request tokens,Response tokens\n1,x,2,3\n".into(),
            &[],
            3,
            "has no rows except skipped ones",
        ),
        (
            "azure",
            format!("{azure}\"2023,9,9\n{}", "2023,9,9\n".repeat(99_999)),
            &[],
            3,
            ":3: a row of more than 64 KiB",
        ),
        ("azure", format!("{azure}\"2023,9,9\n{}", "2023,9,9\n".repeat(99)), &[], 3, "2023,9,9 2023,9,9"),
        ("mooncake", mooncake.into(), &[burst, "all"], 2, "use it with --dataset-name burstgpt"),
        ("mooncake", mooncake.into(), &["--prefix-len", "9"], 2, "its prompts have the lengths of the trace"),
        ("mooncake", mooncake.into(), &["--input-len", "9"], 2, "its prompts have the lengths of the trace"),
        ("mooncake", mooncake.into(), &["--output-len", "9"], 2, "does not take --output-len"),
        (
            "custom",
            "{\"prompt\":\"hi\"}".into(),
            &["--speed", "2"],
            2,
            "does not take --speed: use it with --dataset-name mooncake, qwen, azure or burstgpt",
        ),
    ] {
        let file = folder.join("trace");
        fs::write(&file, content).unwrap();
        let all = [&["--dataset-name", form, "--dataset-path", file.to_str().unwrap()], args].concat();
        let done = run("vb-gen", &all, "");
        assert!(done.code == code && done.stderr.contains(want), "{form} {args:?}: {done:?}");
        assert!(done.stderr.len() < 600, "{form} {args:?}: {done:?}");
    }
}

#[test]
fn a_prompt_shorter_than_what_the_server_adds_is_counted_as_a_misfit() {
    let folder = folder("trace-short");
    let file = folder.join("trace");
    fs::write(&file, r#"{"timestamp":0,"input_length":0,"output_length":2,"hash_ids":[]}"#).unwrap();
    let (requests, stderr) = generate("mooncake", file.to_str().unwrap(), &[]);
    assert_eq!(requests[0]["prompt_len"], 1);
    assert!(stderr.contains("1 of 1 prompts could not be made exactly as long"), "{stderr}");
}
