//! The less common datasets of `vb-gen`, through its binary.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use vb::tokens::{BUILTIN, Tokenizer};

use crate::{
    fire::records,
    tool::{Sim, folder, golden, golden_section, run},
};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs `vb-gen` with these words, which must succeed.
fn generate(words: &str) -> Vec<Value> {
    let done = run("vb-gen", &words.split(' ').collect::<Vec<_>>(), "");
    assert_eq!(done.code, 0, "{words}: {}", done.stderr);
    lines(&done.stdout)
}

/// Runs `vb-gen`, which must refuse with this word.
fn refused(words: &str, code: i32, word: &str) {
    let done = run("vb-gen", &words.split(' ').collect::<Vec<_>>(), "");
    assert!(done.code == code && done.stderr.contains(word), "{words}: {done:?}");
    assert!(done.stdout.is_empty(), "{words}: {done:?}");
}

fn file(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

/// A tokenizer.json that adds `[CLS]`-like tokens before a text, and around the texts of a pair.
fn special_tokenizer(folder: &Path) -> String {
    let mut json: Value = serde_json::from_str(BUILTIN).unwrap();
    let special = json!({"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}});
    let text = |id| json!({"Sequence": {"id": id, "type_id": 0}});
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [special, text("A")],
        "pair": [special, text("A"), special, text("B"), special],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    });
    file(folder, "tokenizer.json", json.to_string())
}

#[test]
fn the_same_seed_gives_the_same_requests_of_every_dataset() {
    for (name, words) in [
        (
            "gen-prefixes",
            "--dataset-name prefix_repetition --prefix-repetition-prefix-len 5 --prefix-repetition-suffix-len 4 --prefix-repetition-num-prefixes 2 --num-prompts 3",
        ),
        (
            "gen-shared-prefix",
            "--dataset-name generated-shared-prefix --gsp-num-groups 2 --gsp-prompts-per-group 2 --gsp-system-prompt-len 6 --gsp-question-len 4 --gsp-range-ratio 0.5 --gsp-group-distribution zipf",
        ),
        ("gen-cache-hits", "--cache-hit-ratio 0.5 --cache-block-size 4 --input-len 16 --num-prompts 4"),
        (
            "gen-rerank",
            "--dataset-name random-rerank --random-batch-size 2 --input-len 9 --num-prompts 2 --range-ratio 0.3",
        ),
        (
            "gen-random-mm",
            "--dataset-name random-mm --backend openai-chat --input-len 4 --num-prompts 2 --random-mm-bucket-config {\"16x24\":1,\"8x8\":1}",
        ),
    ] {
        let done = run("vb-gen", &words.split(' ').collect::<Vec<_>>(), "");
        assert_eq!(done.code, 0, "{words}: {}", done.stderr);
        golden(&format!("{name}.ndjson"), &done.stdout);
    }
}

/// What a server with a prefix cache of single tokens would find, request by request.
fn found(requests: &[Value], tokenizer: &Tokenizer) -> Vec<usize> {
    let mut seen: Vec<Vec<u32>> = Vec::new();
    let mut found = Vec::new();
    for request in requests {
        let ids = tokenizer.encode(request["prompt"].as_str().unwrap(), true).unwrap();
        assert_eq!(request["prompt_len"], ids.len());
        let common = |other: &Vec<u32>| other.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        found.push(seen.iter().map(common).max().unwrap_or(0));
        seen.push(ids);
    }
    found
}

#[test]
fn repeated_prefixes_are_exact_and_are_found_as_often_as_expected() {
    let folder = folder("gen-repeat");
    let special = special_tokenizer(&folder);
    for tokenizer in ["builtin", &special] {
        let requests = generate(&format!(
            "--dataset-name prefix_repetition --prefix-repetition-prefix-len 30 --prefix-repetition-suffix-len 12 \
             --prefix-repetition-num-prefixes 4 --num-prompts 23 --tokenizer {tokenizer}"
        ));
        let found = found(&requests, &Tokenizer::open(tokenizer).unwrap());
        let mut uses: HashMap<u64, usize> = HashMap::new();
        for (request, found) in requests.iter().zip(found) {
            assert_eq!((&request["prompt_len"], &request["expected_output_len"]), (&json!(42), &json!(128)));
            assert_eq!(number(&request["expected_cached_len"]), found);
            *uses.entry(request["tags"]["prefix"].as_u64().unwrap()).or_default() += 1;
        }
        let mut uses: Vec<usize> = uses.into_values().collect();
        uses.sort_unstable();
        assert_eq!(uses, [5, 6, 6, 6], "the remainder is not dropped");
    }
}

#[test]
fn without_a_shuffle_prefix_comes_after_prefix() {
    let requests = generate(
        "--dataset-name prefix_repetition --prefix-repetition-num-prefixes 3 --num-prompts 7 --disable-shuffle",
    );
    let order: Vec<usize> = requests.iter().map(|r| number(&r["tags"]["prefix"])).collect();
    assert_eq!(order, [0, 0, 0, 1, 1, 2, 2]);
}

#[test]
fn groups_share_a_system_prompt_each() {
    let requests = generate(
        "--dataset-name gsp --gsp-num-groups 5 --gsp-prompts-per-group 6 --gsp-system-prompt-len 40 --gsp-question-len 10",
    );
    assert_eq!(requests.len(), 30);
    let tokenizer = Tokenizer::builtin().unwrap();
    for (request, found) in requests.iter().zip(found(&requests, &tokenizer)) {
        assert_eq!((&request["prompt_len"], &request["expected_output_len"]), (&json!(50), &json!(256)));
        assert_eq!(number(&request["expected_cached_len"]), found);
    }
    let ordered =
        generate("--dataset-name gsp --gsp-num-groups 5 --num-prompts 12 --gsp-ordered --gsp-system-prompt-len 3");
    let groups: Vec<usize> = ordered.iter().map(|r| number(&r["tags"]["group"])).collect();
    assert_eq!(groups, [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]);
}

#[test]
fn lengths_of_groups_vary_and_some_come_more_often() {
    let requests = generate(
        "--dataset-name gsp --gsp-num-groups 20 --num-prompts 600 --gsp-system-prompt-len 8 --gsp-question-len 6 \
         --gsp-output-len 10 --gsp-range-ratio 0.5 --gsp-group-distribution zipf --gsp-zipf-alpha 1.5",
    );
    let of = |key: &str| requests.iter().map(|r| number(&r[key])).collect::<HashSet<_>>();
    assert_eq!(of("expected_output_len"), (5..=10).collect());
    assert_eq!(of("prompt_len"), (7..=14).collect());
    let group = |n: usize| requests.iter().filter(|r| number(&r["tags"]["group"]) == n).count();
    // 48 % and 17 % of all by the weights.
    assert!((230..350).contains(&group(0)) && (60..150).contains(&group(1)) && group(15) < 20);
}

#[test]
fn the_cache_of_the_simulated_engine_finds_what_is_expected() {
    let sim = Sim::start(&["--step-base", "50us", "--step-per-prefill-token", "0s", "--step-per-context-token", "0s"]);
    for (ratio, words) in [
        (0.6, "--cache-hit-ratio 0.6 --num-prompts 120 --input-len 256 --range-ratio 0.4 --seed 1"),
        (0.3, "--cache-hit-ratio 0.3 --cache-hit-fraction 0.5 --num-prompts 120 --input-len 200 --seed 2"),
        (
            0.8,
            "--cache-hit-ratio 0.8 --cache-hit-prefixes 2 --num-prompts 60 --input-len 256 --prompt-token-ids --seed 3",
        ),
    ] {
        let words: Vec<&str> = words.split(' ').chain(["--output-len", "1"]).collect();
        let requests = run("vb-gen", &words, "");
        assert!(requests.stderr.contains("prompt tokens should be prefix cache hits"), "{}", requests.stderr);
        let outputs = run("vb-fire", &["--base-url", &sim.url, "--max-concurrency", "1"], &requests.stdout);
        assert_eq!(outputs.code, 0, "{}", outputs.stderr);
        let result: Value = serde_json::from_str(&run("vb-stats", &[], &outputs.stdout).stdout).unwrap();
        let cache = &result["vb"]["cache"];
        assert_eq!(cache["meant_share"], cache["cached_share"], "{words:?}");
        assert!((cache["cached_share"].as_f64().unwrap() - ratio).abs() < 0.002, "{words:?}: {cache}");
    }
}

#[test]
fn what_a_server_puts_in_front_is_part_of_the_first_block() {
    let folder = folder("gen-cache-bos");
    let special = special_tokenizer(&folder);
    let requests = generate(&format!("--cache-hit-ratio 0.5 --input-len 64 --num-prompts 40 --tokenizer {special}"));
    let found = found(&requests, &Tokenizer::open(&special).unwrap());
    for (request, found) in requests.iter().zip(found).skip(2) {
        assert_eq!(found / 16 * 16, number(&request["expected_cached_len"]), "{request}");
    }
}

#[test]
fn a_query_and_its_documents_are_as_long_as_a_cross_encoder_counts() {
    let folder = folder("gen-rerank");
    let special = special_tokenizer(&folder);
    let tokenizer = Tokenizer::open(&special).unwrap();
    let texts = |request: &Value| -> Vec<usize> {
        let texts = request["prompt"].as_array().unwrap();
        texts.iter().map(|text| tokenizer.count(text.as_str().unwrap()).unwrap()).collect()
    };
    let words = format!(
        "--dataset-name random-rerank --random-batch-size 3 --num-prompts 8 --input-len 23 --tokenizer {special}"
    );
    for request in generate(&words) {
        // Three special tokens for a pair.
        assert_eq!((texts(&request), &request["prompt_len"]), (vec![10, 10, 10, 10], &json!(3 * 23)));
        assert!(request.get("expected_output_len").is_none() && request.get("body").is_none());
    }
    // Texts that are embedded alone are counted once each.
    for request in generate(&format!("{words} --no-reranker")) {
        assert_eq!((texts(&request), &request["prompt_len"]), (vec![22; 4], &json!(4 * 23)));
    }
    for request in generate(&format!("{words} --range-ratio 0.5")) {
        let lens = texts(&request);
        let want: usize = lens[1..].iter().map(|len| lens[0] + len + 3).sum();
        assert!(
            number(&request["prompt_len"]) == want && lens[1..].iter().all(|len| (5..=15).contains(len)),
            "{lens:?}"
        );
    }
}

#[test]
fn batches_are_lists_of_texts_or_of_ids() {
    let tokenizer = Tokenizer::builtin().unwrap();
    let mut seen = HashSet::new();
    for request in generate("--backend openai-embeddings --random-batch-size 4 --num-prompts 10 --input-len 9") {
        for text in request["prompt"].as_array().unwrap() {
            assert_eq!(tokenizer.count(text.as_str().unwrap()).unwrap(), 9);
            assert!(seen.insert(text.clone()));
        }
        assert_eq!(request["prompt_len"], 36);
    }
    assert_eq!(seen.len(), 40);
    let ids = generate("--backend vllm-pooling --random-batch-size 2 --num-prompts 1 --input-len 9 --prompt-token-ids");
    assert_eq!(ids[0]["prompt"][1].as_array().unwrap().len(), 9);
}

/// Height and width, from the frame header of a JPEG.
fn jpeg_size(url: &str) -> (u16, u16) {
    let jpeg = STANDARD.decode(url.strip_prefix("data:image/jpeg;base64,").unwrap()).unwrap();
    assert!(jpeg.starts_with(&[0xFF, 0xD8]) && jpeg.ends_with(&[0xFF, 0xD9]));
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    let at = |i: usize| u16::from_be_bytes([jpeg[frame + i], jpeg[frame + i + 1]]);
    (at(5), at(7))
}

#[test]
fn images_have_the_sizes_that_were_asked_for() {
    let requests = generate(
        "--dataset-name random-mm --backend openai-chat --num-prompts 40 --input-len 7 --random-mm-base-items-per-request 3 \
         --random-mm-num-mm-items-range-ratio 0.5 --random-mm-limit-mm-per-prompt {\"image\":4,\"video\":0} \
         --random-mm-bucket-config {(24,32,1):0.5,(16,8,1):0.5,(16,8,4):0}",
    );
    let (mut counts, mut sizes, mut seen) = (HashSet::new(), HashSet::new(), HashSet::new());
    for request in &requests {
        assert_eq!((&request["prompt_len"], &request["body"]), (&json!(7), &json!({"ignore_eos": true})));
        let images = request["multi_modal_data"].as_array().unwrap();
        counts.insert(images.len());
        for image in images {
            assert_eq!(image["type"], "image_url");
            let url = image["image_url"]["url"].as_str().unwrap();
            sizes.insert(jpeg_size(url));
            assert!(seen.insert(url.to_owned()), "no image comes twice");
        }
    }
    // 3 ± 1.5, but 5 exceeds the limit.
    assert_eq!((counts, sizes), (HashSet::from([1, 2, 3, 4]), HashSet::from([(24, 32), (16, 8)])));
}

#[test]
fn questions_of_benchmarks_carry_their_category() {
    let folder = folder("gen-benchmarks");
    let spec = r#"{"question_id":81,"category":"writing","turns":["Shall I compare thee","Thou art"]}
{"question_id":82,"category":"qa","turns":["to a summers day"]}
{"question_id":83,"category":"qa","turns":["more lovely and more temperate"]}
"#;
    let path = file(&folder, "question.jsonl", spec);
    let requests =
        generate(&format!("--dataset-name spec_bench --dataset-path {path} --num-prompts 0 --disable-shuffle"));
    assert_eq!(
        requests[0],
        json!({"request_id": "vb-0-0", "prompt": "Shall I compare thee", "prompt_len": 4, "expected_output_len": 256,
               "tags": {"category": "writing"}})
    );
    let qa = format!("--dataset-name spec_bench --dataset-path {path} --num-prompts 0 --spec-bench-category qa");
    assert_eq!(generate(&qa).len(), 2);
    let orders: HashSet<String> =
        (0..8).map(|seed| generate(&format!("{qa} --seed {seed}"))[0]["prompt"].to_string()).collect();
    assert_eq!(orders.len(), 2, "the seed decides the order");
    refused(
        &format!("--dataset-name spec_bench --dataset-path {path} --spec-bench-category maths"),
        3,
        "no row has the category `maths`; the categories are qa, writing",
    );
    let empty = file(&folder, "empty.jsonl", "{\"category\":\"qa\",\"turns\":[\"\"]}\n");
    refused(
        &format!("--dataset-name spec_bench --dataset-path {empty}"),
        3,
        "empty.jsonl:1: the first turn, which is the question, has no text",
    );

    let speed = "{\"category\":\"coding\",\"messages\":[{\"role\":\"user\",\"content\":\"Thou art\"}]}\n";
    file(&folder, "throughput_1k.jsonl", speed);
    let whole = folder.to_str().unwrap();
    let words = format!("--dataset-name speed_bench --dataset-path {whole} --num-prompts 0");
    let request =
        &generate(&format!("{words} --speed-bench-dataset-subset throughput_1k --speed-bench-category coding"))[0];
    assert_eq!((&request["prompt"], &request["expected_output_len"]), (&json!("Thou art"), &json!(4096)));
    assert_eq!(request["tags"], json!({"category": "coding"}));
    let other = format!("{words} --speed-bench-dataset-subset throughput_1k --speed-bench-category law");
    refused(&other, 3, "the categories are coding");
    refused(&words, 4, "qualitative.jsonl");
    let one = folder.join("throughput_1k.jsonl");
    let one = format!("--dataset-name speed_bench --dataset-path {}", one.display());
    assert_eq!(generate(&format!("{one} --num-prompts 1 --speed-bench-output-len 7"))[0]["expected_output_len"], 7);
    refused(&format!("{one} --speed-bench-dataset-subset qualitative"), 2, "is already a file");
}

#[test]
fn files_of_custom_rows_are_sent_with_them() {
    let folder = folder("gen-media");
    fs::create_dir_all(folder.join("media")).unwrap();
    file(&folder, "media/a.png", b"\x89PNG\r\n\x1a\n");
    file(&folder, "media/b.wav", b"RIFF");
    file(&folder, "media/c.txt", b"no image");
    let rows = r#"{"prompt":"Thou art","image_files":["media/a.png","https://h/x.jpg"]}
{"prompt":"Thou art","audio":"media/b.wav","content":"a key of the user's own"}
{"content":[{"type":"text","text":"Thou"},{"type":"image","image":"media/a.png"},{"type":"text","text":"art"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]}
"#;
    let path = file(&folder, "rows.jsonl", rows);
    let words = format!("--dataset-name custom --dataset-path {path} --num-prompts 0 --disable-shuffle");
    let requests = generate(&format!("{words} --backend openai-chat"));
    let image = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let png = image("data:image/png;base64,iVBORw0KGgo=");
    assert_eq!(requests[0]["multi_modal_data"], json!([png, image("https://h/x.jpg")]));
    assert_eq!(
        requests[1]["multi_modal_data"],
        json!([{"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}])
    );
    let text = |text: &str| json!({"type": "text", "text": text});
    assert_eq!(
        requests[2]["messages"],
        json!([{"role": "user", "content": [text("Thou"), png, text("art"), image("data:image/png;base64,AA==")]}])
    );
    assert_eq!((&requests[0]["prompt_len"], &requests[2]["prompt_len"]), (&json!(2), &json!(3)));
    refused(&words, 3, "rows.jsonl:1: images and audio need an API that takes them");

    let path = file(&folder, "sound.jsonl", "{\"audio\":\"media/b.wav\"}\n");
    let words =
        format!("--dataset-name custom --dataset-path {path} --num-prompts 0 --backend openai-audio --output-len 3");
    let sound = &generate(&words)[0];
    assert_eq!((&sound["prompt"], &sound["prompt_len"]), (&Value::Null, &json!(0)));
    let sim = Sim::start(&[]);
    let done = run(
        "vb-fire",
        &["--base-url", &sim.url, "--backend", "openai-audio", "--extra-body", "{\"ignore_eos\":true}"],
        format!("{sound}\n"),
    );
    assert_eq!(records(&done.stdout).1[0]["output_tokens"], 3, "{done:?}");

    // The first bytes determine the format, or else the name.
    file(&folder, "media/lies.mp3", b"RIFF....WAVEfmt ");
    file(&folder, "media/d", b"what");
    for (audio, format) in [
        ("media/lies.mp3", "wav"),
        ("data:audio/mpeg;base64,UklGRi4uLi5XQVZFZm10IA==", "wav"),
        ("data:audio/x-m4a;base64,AAAA", "m4a"),
    ] {
        let path = file(&folder, "kinds.jsonl", json!({"prompt": "a", "audio": audio}).to_string());
        let made = generate(&format!(
            "--dataset-name custom_audio --dataset-path {path} --backend openai-chat --num-prompts 1"
        ));
        assert_eq!(made[0].pointer("/multi_modal_data/0/input_audio/format").unwrap(), format, "{audio}");
    }
    // What is not asked for is not read.
    let path = file(&folder, "tokens.jsonl", "{\"prompt\":\"a\",\"output_tokens\":\"many\"}");
    generate(&format!("--dataset-name custom --dataset-path {path} --num-prompts 1"));

    for (row, word) in [
        (r#"{"prompt":"a","image_files":["none.png"]}"#, "bad.jsonl:2: cannot read "),
        (r#"{"prompt":"a","image_files":["media/c.txt"]}"#, "bad.jsonl:2: media/c.txt is not a JPEG"),
        (r#"{"prompt":"a","image_files":7}"#, "bad.jsonl:2:29: invalid type: integer `7`"),
        (r#"{"prompt":"a","audio":"media"}"#, "bad.jsonl:2: cannot read "),
        (r#"{"prompt":"a","audio":"media/d"}"#, "bad.jsonl:2: media/d is not WAV"),
        (r#"{"prompt":"a","audio":"https://h/a.wav"}"#, "bad.jsonl:2: https://h/a.wav is a URL"),
        (r#"{"prompt":"a","audio":"data:audio/wav;base64,?"}"#, "is not base64-encoded audio"),
        (r#"{"prompt":"a","expected_output_len":0}"#, "bad.jsonl:2: 0 tokens to generate"),
        (r#"{"prompt":""}"#, "bad.jsonl:2: the prompt is empty"),
        (r#"{"prompt":[]}"#, "bad.jsonl:2: the prompt is empty"),
        (r#"{"messages":[]}"#, "bad.jsonl:2: the prompt is empty"),
        (r#"{"content":[]}"#, "bad.jsonl:2: the prompt is empty"),
        (
            r#"{"content":[{"type":"video","video":"a.mp4"}]}"#,
            "bad.jsonl:2: unknown type `video` of a part in `content`",
        ),
        (r#"{"content":[{"type":"image_url"}]}"#, "bad.jsonl:2: a part of type `image_url` has no file"),
        (r#"{"content":"text"}"#, "bad.jsonl:2: no `prompt`, `messages` or list `content`"),
    ] {
        let path = file(&folder, "bad.jsonl", format!("\n{row}\n"));
        refused(&format!("--dataset-name custom --dataset-path {path} --backend openai-chat --num-prompts 0"), 3, word);
    }
}

#[test]
fn flags_of_another_dataset_are_refused() {
    for (words, word) in [
        ("--prefix-repetition-num-prefixes 3", "use it with --dataset-name prefix_repetition"),
        ("--gsp-ordered", "use it with --dataset-name generated-shared-prefix"),
        ("--dataset-name sonnet --cache-hit-ratio 0.5", "use it with --dataset-name random"),
        ("--dataset-name sonnet --random-batch-size 2", "use it with --dataset-name random or random-rerank"),
        ("--random-mm-base-items-per-request 2", "use it with --dataset-name random-mm"),
        ("--spec-bench-category qa", "use it with --dataset-name spec_bench"),
        ("--speed-bench-category qa", "use it with --dataset-name speed_bench"),
        ("--no-reranker", "use it with --dataset-name random-rerank"),
        ("--dataset-name random-mm", "--backend openai-chat"),
        ("--dataset-name random-rerank --backend openai-chat", "is not a chat: use --backend vllm-rerank"),
        ("--dataset-name random-rerank --output-len 5", "nothing is generated"),
        ("--backend openai-embeddings --output-len 5", "nothing is generated"),
        ("--output-len 0", "at least 1 token"),
        ("--dataset-name random-rerank --input-len 1", "make it 2 or more"),
        ("--dataset-name random-rerank --random-batch-size 0", "must be at least 1"),
        ("--dataset-name random-rerank --tokenizer server", "use the model's own tokenizer"),
        ("--dataset-name prefix_repetition --input-len 5", "--prefix-repetition-suffix-len"),
        ("--dataset-name prefix_repetition --prefix-repetition-num-prefixes 0", "must be at least 1"),
        ("--dataset-name prefix_repetition --num-prompts 0", "give a number"),
        ("--dataset-name gsp --range-ratio 0.5", "--gsp-range-ratio"),
        ("--dataset-name gsp --num-prompts 5 --gsp-prompts-per-group 5", "give one"),
        ("--dataset-name gsp --gsp-zipf-alpha 2", "--gsp-group-distribution zipf"),
        ("--dataset-name spec_bench", "--dataset-path"),
        ("--dataset-name sharegpt --dataset-path x --input-len 5", "its prompts have their own lengths"),
        ("--dataset-name custom --dataset-path x --range-ratio 0.5", "its prompts have their own lengths"),
        (
            "--dataset-name replay --dataset-path x --output-len 5",
            "does not take --output-len: the file has the length of each response",
        ),
        ("--dataset-name sonnet --range-ratio 0.5", "whole lines"),
        ("--cache-hit-fraction 0.5", "need --cache-hit-ratio"),
        ("--cache-hit-ratio 0.5 --prefix-len 4", "leave out --prefix-len"),
        ("--cache-hit-ratio 0.5 --backend openai-chat", "only works with --backend openai"),
        ("--cache-hit-ratio 0.99 --input-len 64", "cannot be reached"),
        ("--cache-hit-ratio 0.5 --random-batch-size 2 --backend openai-embeddings", "one text per request"),
        ("--cache-hit-ratio 0.5 --num-prompts 1g", "20 bytes are kept per prompt"),
        ("--cache-hit-ratio 0.01 --input-len 64 --num-prompts 2", "cannot be reached"),
        ("--random-batch-size 2", "a list of texts"),
        ("--backend openai-audio", "which --dataset-name random does not have"),
        ("--dataset-path x", "does not read files"),
        ("--dataset-name gsp --dataset-path x", "does not read files"),
        ("--random-mm-base-items-per-request 1025", "1025"),
        ("--random-mm-bucket-config {\"60000x60000\":1}", "at most 67108864 pixels"),
    ] {
        let done = run("vb-gen", &words.split(' ').collect::<Vec<_>>(), "");
        assert!(done.code == 2 && done.stdout.is_empty() && done.stderr.contains(word), "{words}: {done:?}");
    }
    let done = run(
        "vb-gen",
        &["--dataset-name", "random-mm", "--backend", "openai-chat", "--random-mm-base-items-per-request", "300"],
        "",
    );
    assert!(done.code == 2 && done.stderr.contains("exceeds the limit of 255 images"), "{done:?}");
}

#[test]
fn images_that_sharegpt_does_not_send_are_reported_once() {
    let row = json!({"image": "a.png", "conversations": [{"value": "a b c d e"}, {"value": "f g h i j"}]}).to_string();
    let path = file(&folder("gen-sharegpt-image"), "s.json", format!("[{row},{row}]"));
    let done = run("vb-gen", &["--dataset-name", "sharegpt", "--dataset-path", &path, "--num-prompts", "0"], "");
    assert_eq!((done.code, done.stdout.lines().count()), (0, 2), "{done:?}");
    assert_eq!(done.stderr.matches("`image` is not sent: use --dataset-name hf").count(), 1, "{done:?}");
}

#[test]
fn a_sonnet_may_be_a_file_of_other_lines() {
    let folder = folder("gen-verse");
    let path = file(&folder, "verse.txt", "to be or not to be\n\nthat is the question\n");
    let words = "--dataset-name sonnet --input-len 60 --prefix-len 30 --num-prompts 4 --dataset-path";
    for request in generate(&format!("{words} {path}")) {
        let (_, verse) = request["prompt"].as_str().unwrap().split_once('\n').unwrap();
        assert!(verse.lines().all(|line| "to be or not to be that is the question".contains(line)), "{verse}");
        assert_eq!(request["prompt_len"], 60);
    }
    let empty = file(&folder, "empty.txt", "\n");
    refused(&format!("{words} {empty}"), 3, "empty.txt has no lines");
    let short = run("vb-gen", &["--dataset-name", "sonnet", "--num-prompts", "1", "--prefix-len", "5"], "");
    assert!(short.code == 0 && short.stderr.contains("all of them are shared"), "{short:?}");
}

#[test]
fn what_sonnets_share_is_what_they_report() {
    let requests = generate("--dataset-name sonnet --input-len 90 --prefix-len 40 --num-prompts 30");
    let tokenizer = Tokenizer::builtin().unwrap();
    let found = found(&requests, &tokenizer);
    assert_eq!((found[0], number(&requests[0]["expected_cached_len"])), (0, 0));
    // Lines may begin with the same word, but not all of them do.
    assert!(requests[1..].iter().all(|request| request["expected_cached_len"] == 40));
    assert_eq!(found[1..].iter().min(), Some(&40));
}

#[test]
fn the_flags_of_a_dataset_are_keys_of_the_config() {
    let folder = folder("gen-dataset-config");
    let config = "dataset_name: random-mm\nbackend: openai-chat\nnum_prompts: 1\ninput_len: 4\n\
                  random_mm_base_items_per_request: 2\nrandom_mm_bucket_config: {\"(8,8,1)\": 1}\n";
    let path = file(&folder, "config.yaml", config);
    let requests = generate(&format!("--config {path}"));
    assert_eq!(requests[0]["multi_modal_data"].as_array().unwrap().len(), 2);
}

/// The columns of `--list-datasets`: name and aliases, what it is, what it needs.
fn listed() -> Vec<Vec<String>> {
    let done = run("vb-gen", &["--list-datasets"], "");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let cells =
        |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect();
    done.stdout.lines().map(cells).collect()
}

#[test]
fn the_datasets_are_listed_with_what_they_need() {
    let rows = listed();
    assert_eq!(rows[0], ["DATASET", "WHAT IT IS", "NEEDS"]);
    assert!(rows.iter().all(|row| row.len() == 3), "{rows:?}");
    let help = run("vb-gen", &["--help"], "").stdout;
    assert!(help.starts_with("Writes requests for `vb-fire`"), "{help}");
    for row in &rows[1..] {
        let names: Vec<&str> = row[0].split(['(', ')', ',', ' ']).filter(|name| !name.is_empty()).collect();
        assert!(help.contains(&format!("- {}:", names[0])), "{row:?}");
        let reads_file = row[2] == "--dataset-path FILE";
        for name in names {
            let done = run("vb-gen", &["--dataset-name", name, "--num-prompts", "1"], "");
            assert_eq!(done.stderr.contains("add --dataset-path FILE"), reads_file, "{row:?}: {done:?}");
        }
    }
    let all = run("vb-gen", &["--list-datasets", "--dataset-name", "sharegpt", "--input-len", "5"], "");
    assert_eq!(all.code, 0);
}

#[test]
fn the_manual_lists_the_datasets() {
    let mut table = vec!["| `--dataset-name` | what it is | needs |\n|---|---|---|\n".to_owned()];
    for row in &listed()[1..] {
        let names = row[0].split(['(', ')', ',', ' ']).filter(|name| !name.is_empty());
        let names = names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let code = |needs: String, flag: &str| needs.replace(flag, &format!("`{flag}`"));
        let needs = ["--dataset-path FILE", "--backend openai-chat", "--backend vllm-rerank"].into_iter();
        let needs = needs.fold(row[2].clone(), code);
        table.push(format!("| {names} | {} | {needs} |\n", row[1]));
    }
    golden_section("docs/DATASETS.md", "datasets", &table.concat());
}
