//! Conversations and chat templates through `vb-gen`'s binary.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};
use vb::tokens::{BUILTIN, Tokenizer};

use crate::tool::{data, folder, golden, run};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs `vb-gen`, which must succeed.
fn generate(args: &[&str], stdin: &str) -> Vec<Value> {
    let done = run("vb-gen", args, stdin);
    assert_eq!(done.code, 0, "{}", done.stderr);
    lines(&done.stdout)
}

/// The error of `vb-gen` for these flags.
fn refusal(args: &[&str]) -> String {
    let done = run("vb-gen", args, "");
    assert_eq!(done.code, 2, "{done:?}");
    done.stderr
}

/// A folder with the built-in tokenizer and this chat template.
fn model(name: &str, template: &str) -> String {
    let folder = folder(name);
    fs::write(folder.join("tokenizer.json"), BUILTIN).unwrap();
    fs::write(folder.join("chat_template.jinja"), template).unwrap();
    fs::write(folder.join("tokenizer_config.json"), r#"{"bos_token":"<BOS>","eos_token":"<EOS>"}"#).unwrap();
    folder.to_str().unwrap().to_owned()
}

const PLAIN: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]";

/// Replaces today's date, which some templates write, by `DATE`.
fn undated(text: &str) -> String {
    let Some((before, after)) = text.split_once("Current date: ") else { return text.to_owned() };
    format!("{before}Current date: DATE{}", &after["2000-01-01".len()..])
}

/// Random conversations have every requested turn; if a limit removes some, a warning says so.
#[test]
fn random_conversations_are_not_shortened_without_a_warning() {
    let model = model("conv-uncut", PLAIN);
    let chat = ["--dataset-name", "multi-turn", "--backend", "openai-chat", "--tokenizer", &model];
    let long = [&chat[..], &["--num-conversations", "1", "--num-turns", "12", "--per-turn-input-len", "1024"]].concat();
    let whole = run("vb-gen", &long, "");
    assert_eq!((whole.stdout.lines().count(), whole.stderr.as_str()), (12, ""));
    let cut = run("vb-gen", &[&long[..], &["--max-model-len", "8192"]].concat(), "");
    assert!((1..12).contains(&cut.stdout.lines().count()));
    assert!(cut.stderr.contains("1 conversations have fewer turns than requested"), "{}", cut.stderr);
}

#[test]
fn real_templates_give_the_texts_that_transformers_gives() {
    let read = |name: &str| fs::read_to_string(data("templates").join(name)).unwrap();
    let chats: Vec<Value> = serde_json::from_str(&read("chats.json")).unwrap();
    let golden: BTreeMap<String, BTreeMap<String, Option<String>>> =
        serde_json::from_str(&read("golden.json")).unwrap();
    assert!(golden.len() >= 5);
    let flags = ["--dataset-name", "custom", "--dataset-path", "-", "--num-prompts", "0", "--tokenizer"];
    for (name, texts) in &golden {
        let model = model(&format!("template-{name}"), &read(&format!("{name}.jinja")));
        let args = [&flags[..], &[&model]].concat();
        let row = |chat: &Value| {
            let mut body = chat.clone();
            body.as_object_mut().unwrap().retain(|key, _| ["tools", "chat_template_kwargs"].contains(&key.as_str()));
            json!({"messages": chat["messages"], "body": body}).to_string() + "\n"
        };
        let text = |chat: &Value| &texts[chat["name"].as_str().unwrap()];
        let (fine, refused): (Vec<&Value>, Vec<&Value>) = chats.iter().partition(|chat| text(chat).is_some());
        let made = generate(&args, &fine.iter().map(|chat| row(chat)).collect::<String>());
        assert_eq!(made.len(), fine.len());
        for (chat, request) in fine.iter().zip(&made) {
            let prompt = undated(request["prompt"].as_str().unwrap());
            assert_eq!(Some(&prompt), text(chat).as_ref(), "{name}: {}", chat["name"]);
            assert_eq!(request["body"], Value::Null, "the template has used it up");
        }
        for chat in refused {
            let done = run("vb-gen", &args, row(chat));
            assert!(done.code == 2 && done.stderr.contains("cannot apply the chat template"), "{name}: {done:?}");
        }
    }
}

#[test]
fn a_text_becomes_a_chat_of_one_message_if_asked() {
    let model = model("conversations-apply", PLAIN);
    let flags = ["--dataset-name", "custom", "--dataset-path", "-", "--num-prompts", "0", "--tokenizer", &model];
    let row = "{\"prompt\":\"Shall I\"}\n";
    assert_eq!(generate(&flags, row)[0]["prompt"], "Shall I");
    let applied = &generate(&[&flags[..], &["--apply-chat-template"]].concat(), row)[0];
    assert_eq!(applied["prompt"], "[user]Shall I\n[assistant]");
    let count = Tokenizer::builtin().unwrap().count("[user]Shall I\n[assistant]").unwrap();
    assert_eq!(applied["prompt_len"], count);
    let error = refusal(&[&flags[..], &["--apply-chat-template", "--backend", "openai-chat"]].concat());
    assert!(error.contains("whose server applies the template itself"), "{error}");
}

#[test]
fn texts_of_every_dataset_take_the_template() {
    let model = model("conversations-datasets", PLAIN);
    let folder = folder("conversations-datasets-files");
    let long = "Shall I compare thee to a summers day";
    for (dataset, row) in [
        ("spec_bench", json!({"category": "a", "turns": [long]})),
        ("speed_bench", json!({"category": "a", "messages": [{"content": long}]})),
        ("sharegpt", json!([{"conversations": [{"value": long}, {"value": long}]}])),
        ("custom", json!({"content": [{"type": "text", "text": long}]})),
    ] {
        let path = folder.join(dataset);
        fs::write(&path, row.to_string()).unwrap();
        let flags = ["--dataset-name", dataset, "--dataset-path", path.to_str().unwrap(), "--num-prompts", "1"];
        let made = generate(&[&flags[..], &["--tokenizer", &model, "--apply-chat-template"]].concat(), "");
        let text = format!("[user]{long}\n[assistant]");
        assert_eq!(made[0]["prompt"], text, "{dataset}");
        assert_eq!(made[0]["prompt_len"], Tokenizer::builtin().unwrap().count(&text).unwrap(), "{dataset}");
    }
}

#[test]
fn images_in_messages_are_refused_where_they_would_be_dropped() {
    let model = model("conversations-images", PLAIN);
    let flags = ["--dataset-name", "custom", "--dataset-path", "-", "--num-prompts", "0"];
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlh"}});
    let content = json!([{"type": "text", "text": "what is it"}, image]);
    for row in [json!({"messages": [{"role": "user", "content": content}]}), json!({"content": content})] {
        for more in [&["--tokenizer", &model][..], &["--tokenizer", &model, "--apply-chat-template"], &[]] {
            let done = run("vb-gen", &[&flags[..], more].concat(), format!("\n{row}\n"));
            assert!(
                done.code == 3 && done.stderr.contains("stdin:2: a message has a part of type `image_url`"),
                "{done:?}"
            );
        }
        let chat =
            generate(&[&flags[..], &["--backend", "openai-chat", "--tokenizer", &model]].concat(), &row.to_string());
        assert_eq!(chat[0]["messages"][0]["content"], content);
    }
}

#[test]
fn special_tokens_are_not_written_twice() {
    let model = model("conversations-bos", PLAIN);
    let mut json: Value = serde_json::from_str(BUILTIN).unwrap();
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    });
    fs::write(Path::new(&model).join("tokenizer.json"), json.to_string()).unwrap();
    let flags = ["--dataset-name", "custom", "--dataset-path", "-", "--num-prompts", "0", "--tokenizer", &model];
    let request = &generate(&flags, "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}\n")[0];
    assert_eq!(request["body"], json!({"add_special_tokens": false}));
    assert_eq!(request["prompt_len"], Tokenizer::builtin().unwrap().count("[user]hi\n[assistant]").unwrap());
}

const MADE_UP: &[&str] = &[
    "--dataset-name",
    "multi-turn",
    "--input-len",
    "9",
    "--per-turn-input-len",
    "4",
    "--output-len",
    "5",
    "--prefix-len",
    "6",
    "--conversation-prefix-len",
    "3",
    "--seed",
    "7",
];

#[test]
fn made_up_conversations_are_exact_and_the_same_on_every_machine() {
    let model = model("conversations-made-up", PLAIN);
    let chat = ["--backend", "openai-chat", "--tokenizer", &model];
    let args = [MADE_UP, &chat, &["--num-conversations", "40", "--think-time", "exp:2s"]].concat();
    let requests = generate(&args, "");
    golden("gen-multi-turn.ndjson", &requests[..6].iter().map(|r| r.to_string() + "\n").collect::<String>());
    assert_eq!(requests.len(), 40 * 3);
    let tokenizer = Tokenizer::builtin().unwrap();
    let count = |text: &Value| tokenizer.count(text.as_str().unwrap()).unwrap();
    let mut before = Value::Null;
    for (i, request) in requests.iter().enumerate() {
        let (session, turn) = (i / 3, i % 3);
        assert_eq!(request["session_id"], format!("vb-7-session-{session}"));
        assert_eq!(request["turn"], turn);
        let messages = request["messages"].as_array().unwrap();
        assert_eq!(messages.len(), 2 + 2 * turn);
        assert_eq!(count(&messages[0]["content"]), 6 + 3);
        assert_eq!(count(&messages[1]["content"]), 9);
        for asked in messages.iter().skip(3).step_by(2) {
            assert_eq!((count(&asked["content"]), &asked["role"]), (4, &json!("user")));
        }
        assert!(messages[2..].iter().step_by(2).all(|m| *m == json!({"role": "assistant", "content": null})));
        assert_eq!(request["think_time"].is_null(), turn == 0);
        // From the turn before: its prompt, and its response at full length.
        let cached = match (session, turn) {
            (0, 0) => json!(0),
            (_, 0) => json!(6),
            _ => json!(before["prompt_len"].as_u64().unwrap() + 5),
        };
        assert_eq!(request["expected_cached_len"], cached);
        assert!(request["prompt_len"].as_u64() > cached.as_u64());
        before = request.clone();
    }
    let mean = requests.iter().filter_map(|r| r["think_time"].as_f64()).sum::<f64>() / 80.0;
    assert!((1.4..2.6).contains(&mean), "{mean}");
}

#[test]
fn made_up_replies_make_every_length_known() {
    let model = model("conversations-known", PLAIN);
    let args = [MADE_UP, &["--replies", "dataset", "--num-conversations", "5", "--tokenizer", &model]].concat();
    let tokenizer = Tokenizer::builtin().unwrap();
    for request in generate(&args, "") {
        let prompt = request["prompt"].as_str().unwrap();
        assert_eq!(request["prompt_len"], tokenizer.count(prompt).unwrap());
        assert_eq!(prompt.matches("[assistant]").count() as u64, request["turn"].as_u64().unwrap() + 1);
    }
}

#[test]
fn num_prompts_counts_turns_and_num_conversations_conversations() {
    let base = [MADE_UP, &["--backend", "openai-chat"]].concat();
    let with = |more: &[&str]| generate(&[&base, more].concat(), "").len();
    assert_eq!(with(&["--num-prompts", "7"]), 7);
    assert_eq!(with(&["--num-conversations", "4"]), 12);
    assert_eq!(with(&["--num-conversations", "4", "--num-prompts", "100"]), 12);
    assert_eq!(with(&["--num-conversations", "4", "--num-prompts", "8"]), 8);
    let drawn =
        generate(&[&base[..], &["--num-conversations", "60", "--min-turns", "2", "--max-turns", "4"]].concat(), "");
    let mut turns: BTreeMap<String, u64> = BTreeMap::new();
    for request in &drawn {
        *turns.entry(request["session_id"].to_string()).or_default() += 1;
    }
    let found: Vec<u64> = (1..6).filter(|n| turns.values().any(|have| have == n)).collect();
    assert_eq!(found, [2, 3, 4]);
}

/// Only the turns that are written are generated, so a long conversation costs only the used part.
#[test]
fn turns_that_are_not_written_are_not_made() {
    let model = model("conv-endless", PLAIN);
    for tokenizer in ["builtin", &model] {
        let long =
            ["--dataset-name", "multi-turn", "--backend", "openai-chat", "--num-turns", "1m", "--num-prompts", "3"];
        let requests = generate(&[&long[..], &["--tokenizer", tokenizer, "--input-len", "20"]].concat(), "");
        assert_eq!(requests.iter().map(|r| r["turn"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    }
}

/// Counting all turns of a conversation takes about as long as counting the last one, which contains them all.
#[test]
fn a_long_conversation_is_counted_once() {
    let args =
        ["--dataset-name", "multi-turn", "--backend", "openai-chat", "--num-turns", "400", "--num-conversations", "1"];
    let requests = generate(&[&args[..], &["--input-len", "50", "--output-len", "7"]].concat(), "");
    for (turn, request) in requests.iter().enumerate() {
        assert_eq!(request["prompt_len"], 50 * (turn + 1) + 7 * turn);
        assert_eq!(request["messages"].as_array().unwrap().len(), 2 * turn + 1);
    }
}

fn say(who: &str, text: &str) -> Value {
    json!({"from": who, "value": text})
}

fn sharegpt(name: &str) -> String {
    let rows = json!([
        {"id": "a", "conversations": [say("human", "one two"), say("gpt", "three four five"), say("human", "six"),
            say("gpt", "seven eight"), say("human", "nine"), say("gpt", "ten")]},
        {"id": "b", "conversations": [say("gpt", "the middle of"), say("human", "eleven"), say("gpt", "twelve"), say("human", "?")]},
        {"id": "c", "conversations": [say("human", "no answer")]},
    ]);
    let path = folder(name).join("s.json");
    fs::write(&path, rows.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn real_conversations_are_sent_turn_by_turn() {
    let path = sharegpt("conversations-sharegpt");
    let args = [
        "--dataset-name",
        "sharegpt",
        "--dataset-path",
        &path,
        "--multi-turn",
        "--disable-shuffle",
        "--num-prompts",
        "0",
    ];
    let chat = [&args[..], &["--backend", "openai-chat"]].concat();
    let requests = generate(&chat, "");
    let contents = |request: &Value| -> Vec<Value> {
        request["messages"].as_array().unwrap().iter().map(|m| m["content"].clone()).collect()
    };
    assert_eq!(
        requests.iter().map(contents).collect::<Vec<_>>(),
        [
            vec![json!("one two")],
            vec![json!("one two"), Value::Null, json!("six")],
            vec![json!("one two"), Value::Null, json!("six"), Value::Null, json!("nine")],
            vec![json!("eleven")]
        ]
    );
    let tokenizer = Tokenizer::builtin().unwrap();
    for (request, answer) in requests.iter().zip(["three four five", "seven eight", "ten", "twelve"]) {
        assert_eq!(request["expected_output_len"], tokenizer.count(answer).unwrap());
        assert_eq!(request["body"], Value::Null);
    }
    assert_eq!(requests[3]["session_id"], "vb-0-session-1");

    let kept = generate(&[&chat[..], &["--replies", "dataset", "--max-turns", "2"]].concat(), "");
    assert_eq!(contents(&kept[1]), [json!("one two"), json!("three four five"), json!("six")]);
    assert_eq!(kept.len(), 3);

    let model = model("conversations-sharegpt-model", PLAIN);
    let text = generate(&[&args[..], &["--replies", "dataset", "--tokenizer", &model]].concat(), "");
    assert_eq!(text[1]["prompt"], "[user]one two\n[assistant]three four five\n[user]six\n[assistant]");
}

#[test]
fn a_conversation_ends_before_it_is_too_long_for_the_model() {
    let path = sharegpt("conversations-limit");
    let args = [
        "--dataset-name",
        "sharegpt",
        "--dataset-path",
        &path,
        "--multi-turn",
        "--disable-shuffle",
        "--num-prompts",
        "0",
    ];
    let chat = [&args[..], &["--backend", "openai-chat"]].concat();
    let all = generate(&chat, "");
    let whole = |r: &Value| r["prompt_len"].as_u64().unwrap() + r["expected_output_len"].as_u64().unwrap();
    let limit = whole(&all[1]);
    assert!(whole(&all[2]) > limit && whole(&all[3]) <= limit);
    let kept = generate(&[&chat[..], &["--max-model-len", &limit.to_string()]].concat(), "");
    assert_eq!(kept.len(), 3);
}

#[test]
fn too_few_conversations_are_sent_again_as_new_sessions() {
    let path = sharegpt("conversations-again");
    let args = ["--dataset-name", "sharegpt", "--dataset-path", &path, "--multi-turn", "--backend", "openai-chat"];
    let done = run("vb-gen", &[&args[..], &["--num-conversations", "5"]].concat(), "");
    assert!(done.stderr.contains("3 requests repeat a row"), "{}", done.stderr);
    let last = lines(&done.stdout).pop().unwrap();
    assert_eq!(last["session_id"], "vb-0-session-4");
}

#[test]
fn flags_that_do_not_fit_are_refused_with_the_cure() {
    let made_up = ["--dataset-name", "multi-turn"];
    let chat = ["--dataset-name", "multi-turn", "--backend", "openai-chat"];
    for (args, word) in [
        (&made_up[..], "--replies dataset"),
        (&["--multi-turn"], "use it with --dataset-name sharegpt, multi-turn or hf"),
        (&["--think-time", "1s"], "does not take --think-time: use it with --dataset-name sharegpt, multi-turn or hf"),
        (&["--num-turns", "3"], "use it with --dataset-name multi-turn"),
        (&["--hf-column", "prompt=a"], "use it with --dataset-name hf"),
        (&["--apply-chat-template"], "use it with --dataset-name sharegpt, spec_bench, speed_bench, hf or custom"),
        (&[&chat[..], &["--min-turns", "3"]].concat(), "give both"),
        (&[&chat[..], &["--num-turns", "0"]].concat(), "at least 1 turn"),
        (&[&chat[..], &["--num-conversations", "0"]].concat(), "--num-conversations must be at least 1"),
        (&[&chat[..], &["--min-turns", "3", "--max-turns", "2"]].concat(), "is greater than"),
        (&[&chat[..], &["--max-model-len", "100", "--num-prompts", "1"]].concat(), "--max-model-len 100"),
        (&[&chat[..], &["--num-prompts", "0"]].concat(), "give a number"),
        (&[&chat[..], &["--think-time", "log:2s"]].concat(), "exp:2s"),
        (&[&made_up[..], &["--replies", "dataset", "--num-prompts", "1"]].concat(), "has no chat template"),
    ] {
        let error = refusal(args);
        assert!(error.contains(word), "{args:?}: {error}");
    }
}
