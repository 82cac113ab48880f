//! Datasets as people publish them, through `vb-gen`'s binary.

use std::fs;

use serde_json::{Value, json};
use vb::tokens::Tokenizer;

use crate::tool::{Done, folder, run};

/// Writes a file with these bytes, and runs `--dataset-name hf` on it.
fn hf(name: &str, ending: &str, content: impl AsRef<[u8]>, more: &[&str]) -> Done {
    let path = folder(&format!("tables-{name}")).join(format!("d.{ending}"));
    fs::write(&path, content).unwrap();
    let args =
        ["--dataset-name", "hf", "--dataset-path", path.to_str().unwrap(), "--num-prompts", "0", "--disable-shuffle"];
    run("vb-gen", &[&args[..], more].concat(), "")
}

fn lines(done: &Done) -> Vec<Value> {
    assert_eq!(done.code, 0, "{}", done.stderr);
    done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const CSV: &str =
    "id,question,answer\n1,\"Shall I, compare\nthee\",to a summers day\n2,,empty\n3,And now,\n4,\"a \"\"b\"\"\",c\n";

#[test]
fn the_same_rows_give_the_same_requests_in_every_format() {
    let rows = [("Shall I, compare\nthee", "to a summers day"), ("", "empty"), ("And now", ""), ("a \"b\"", "c")];
    let objects: Vec<Value> = rows.iter().map(|(q, a)| json!({"question": q, "answer": a})).collect();
    let json_lines: String = objects.iter().map(|row| row.to_string() + "\n").collect();
    let csv = hf("csv", "csv", CSV, &[]);
    assert!(csv.stderr.contains("columns: prompts in `question`, real answers in `answer`"), "{}", csv.stderr);
    let requests = lines(&csv);
    assert_eq!(requests.len(), 3, "an empty question is skipped");
    assert_eq!(requests[0]["prompt"], "Shall I, compare\nthee");
    let count = |text: &str| Tokenizer::builtin().unwrap().count(text).unwrap();
    assert_eq!(requests[0]["expected_output_len"], count("to a summers day"));
    assert_eq!(requests[1]["expected_output_len"], 1, "an answer has a token at least");
    for done in [
        hf("lines", "jsonl", &json_lines, &[]),
        hf("json-lines", "json", format!("\u{feff}{json_lines}"), &[]),
        hf("json-list", "json", serde_json::to_string_pretty(&objects).unwrap(), &[]),
        hf("tsv", "TSV", CSV.replace(',', "\t").replace("I\t", "I,"), &[]),
    ] {
        assert_eq!(done.stdout, csv.stdout);
    }
}

#[test]
fn columns_and_lengths_can_be_named() {
    let rows = "{\"a\":\"one\",\"b\":\"two\",\"c\":\"three four five\"}\n";
    let named = lines(&hf("named", "jsonl", rows, &["--hf-column", "prompt=b", "output=c"]));
    let count = Tokenizer::builtin().unwrap().count("three four five").unwrap();
    assert_eq!((&named[0]["prompt"], &named[0]["expected_output_len"]), (&json!("two"), &json!(count)));
    let text = lines(&hf("text", "jsonl", rows, &["--hf-text-column", "a", "--hf-output-len", "9"]));
    assert_eq!((&text[0]["prompt"], &text[0]["expected_output_len"]), (&json!("one"), &json!(9)));
    let default = lines(&hf("default", "jsonl", rows, &["--hf-text-column", "a"]));
    assert_eq!(default[0]["expected_output_len"], 256);
    let unknown = hf("unknown", "jsonl", rows, &["--hf-column", "picture=a"]);
    assert!(
        unknown.code == 2 && unknown.stderr.contains("use prompt, messages, output, image or audio"),
        "{unknown:?}"
    );
    let none = hf("none", "jsonl", rows, &[]);
    assert!(none.code == 2 && none.stderr.contains("its columns: a, b, c"), "{none:?}");
}

#[test]
fn conversations_open_a_chat_or_go_on_turn_by_turn() {
    let row = json!({"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two three"}, {"role": "user", "content": "four"},
        {"role": "assistant", "content": "five"}]});
    let chat = ["--backend", "openai-chat"];
    let opening = lines(&hf("opening", "jsonl", row.to_string(), &chat));
    assert_eq!(
        opening[0]["messages"],
        json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "one"}])
    );
    let turns = lines(&hf("turns", "jsonl", row.to_string(), &[&chat[..], &["--multi-turn"]].concat()));
    assert_eq!((turns.len(), &turns[1]["messages"][2]), (2, &json!({"role": "assistant", "content": null})));
    let text = hf("text-turns", "jsonl", "{\"prompt\":\"a\"}", &[&chat[..], &["--multi-turn"]].concat());
    assert!(text.code == 3 && text.stderr.contains(":1: --multi-turn needs a column of conversations"), "{text:?}");
}

#[test]
fn a_column_may_be_missing_in_the_first_rows() {
    let rows = "{\"id\":1}\n{\"id\":2,\"prompt\":\"Shall I\"}\n{\"prompt\":\"compare\",\"answer\":\"thee\"}\n";
    let done = hf("late", "jsonl", rows, &[]);
    assert!(done.stderr.contains("prompts in `prompt`, real answers in `answer`"), "{}", done.stderr);
    assert_eq!(lines(&done).len(), 2);
    let missing = hf("late-output", "jsonl", rows, &["--hf-column", "output=said"]);
    assert!(missing.code == 2 && missing.stderr.contains("its columns: id, prompt, answer"), "{missing:?}");
    assert!(missing.stderr.contains("--hf-column output=NAME"), "{missing:?}");
}

#[test]
fn real_answers_of_any_type_are_read() {
    let count = |text: &str| Tokenizer::builtin().unwrap().count(text).unwrap();
    let chat = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "to a summers day"}]);
    for (name, answer, want) in [
        ("number", json!(42), count("42")),
        ("truth", json!(true), count("true")),
        ("texts", json!(["more lovely", "and more temperate"]), count("more lovely")),
        ("chat", chat, count("to a summers day")),
        ("nothing", json!(null), 256),
        ("no-texts", json!([]), 256),
    ] {
        let row = json!({"prompt": "a", "chosen": answer}).to_string();
        assert_eq!(lines(&hf(name, "jsonl", row, &[]))[0]["expected_output_len"], want, "{name}");
    }
    let row = json!({"prompt": "a", "chosen": {"a": 1}}).to_string();
    let odd = hf("odd-answer", "jsonl", &row, &[]);
    assert!(odd.code == 3 && odd.stderr.contains("d.jsonl:1: `chosen` is not an answer"), "{odd:?}");
    assert_eq!(lines(&hf("no-answer", "jsonl", &row, &["--output-len", "7"]))[0]["expected_output_len"], 7);
}

#[test]
fn prompts_are_read_as_known_datasets_have_them() {
    let turns = json!({"question_id": 81, "turns": ["Shall I", "compare thee"]}).to_string();
    assert_eq!(lines(&hf("turns-list", "jsonl", turns, &[]))[0]["prompt"], "Shall I");
    let alpaca = json!({"instruction": "Sum up.", "input": "Thou art", "output": "more"}).to_string();
    let alpaca = alpaca + "\n" + &json!({"instruction": "Rhyme.", "input": "", "output": "more"}).to_string();
    let done = hf("alpaca", "jsonl", &alpaca, &[]);
    assert!(done.stderr.contains("context in `input`"), "{}", done.stderr);
    let requests = lines(&done);
    assert_eq!((&requests[0]["prompt"], &requests[1]["prompt"]), (&json!("Sum up.\n\nThou art"), &json!("Rhyme.")));
    let named = lines(&hf("alpaca-named", "jsonl", &alpaca, &["--hf-column", "prompt=instruction"]));
    assert_eq!(named[0]["prompt"], "Sum up.");
    let part = |text: &str| json!({"type": "text", "text": text});
    let parts =
        json!({"messages": [{"role": "user", "content": [part("Shall"), {"type": "image", "text": null}, part("I")]}]});
    let made = lines(&hf("parts", "jsonl", parts.to_string(), &["--backend", "openai-chat"]));
    assert_eq!(made[0]["messages"], json!([{"role": "user", "content": "Shall\nI"}]));
    let own = json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]});
    let own = hf("own-image", "jsonl", own.to_string(), &["--backend", "openai-chat"]);
    assert!(own.code == 3 && own.stderr.contains(":1: ") && own.stderr.contains("--dataset-name custom"), "{own:?}");
}

#[test]
fn a_quote_that_is_never_closed_does_not_swallow_the_rest() {
    let cut = "question,answer\na,b\n\"c,d\ne,f\n";
    let strict = hf("unclosed", "csv", cut, &[]);
    assert!(strict.code == 3 && strict.stderr.contains("d.csv:3: a quote opened in this row"), "{strict:?}");
    // The swallowed rows make a row with the right number of fields too.
    let even = hf("unclosed-even", "csv", "question,answer\na,\"b\nc,d\n", &[]);
    assert!(even.code == 3 && even.stderr.contains("d.csv:2: a quote opened in this row"), "{even:?}");
    let lenient = hf("unclosed-lenient", "csv", cut, &["--lenient"]);
    assert_eq!(lines(&lenient).len(), 1);
    assert!(lenient.stderr.contains("d.csv:3: ") && lenient.stderr.contains("left out"), "{}", lenient.stderr);
}

/// One pixel.
const GIF: &str = "R0lGODlhAQABAAAAACwAAAAAAQABAAA=";

#[test]
fn images_and_sound_are_sent_if_their_columns_are_named() {
    let home = folder("hf-media");
    fs::write(home.join("dot.gif"), b"GIF89a.").unwrap();
    fs::write(home.join("a.wav"), b"RIFF....WAVEfmt ").unwrap();
    let long = GIF.repeat(3);
    let rows = [
        json!({"question": "one", "image": "dot.gif", "audio": {"path": "a.wav"}, "text": "said"}),
        json!({"question": "two", "image": [{"bytes": GIF, "path": null}, "https://h/b.png"], "audio": null}),
        json!({"question": "three", "image": long.replace('=', "A"), "audio": null}),
    ];
    let rows: String = rows.iter().map(|row| row.to_string() + "\n").collect();
    let path = home.join("d.jsonl");
    fs::write(&path, &rows).unwrap();
    let base =
        ["--dataset-name", "hf", "--dataset-path", path.to_str().unwrap(), "--num-prompts", "0", "--disable-shuffle"];
    let generate = |more: &[&str]| run("vb-gen", &[&base[..], more].concat(), "");

    let without = generate(&["--backend", "openai-chat"]);
    assert!(
        without.stderr.contains("`image` is not sent: use --hf-column image=image to send it"),
        "{}",
        without.stderr
    );
    assert!(lines(&without).iter().all(|request| request["multi_modal_data"].is_null()));

    let made = lines(&generate(&["--backend", "openai-chat", "--hf-column", "image=image", "audio=audio"]));
    let gif = |text: &str| json!({"type": "image_url", "image_url": {"url": format!("data:image/gif;base64,{text}")}});
    let sound = json!({"type": "input_audio", "input_audio": {"data": "UklGRi4uLi5XQVZFZm10IA==", "format": "wav"}});
    assert_eq!(made[0]["multi_modal_data"], json!([gif("R0lGODlhLg=="), sound]));
    let address = json!({"type": "image_url", "image_url": {"url": "https://h/b.png"}});
    assert_eq!(made[1]["multi_modal_data"], json!([gif(GIF), address]));
    assert_eq!(made[2]["multi_modal_data"].as_array().unwrap().len(), 1);
    assert_eq!((&made[0]["prompt"], &made[0]["prompt_len"]), (&json!("one"), &json!(1)));

    // Audio alone, for transcription; its transcript is the answer and not a prompt.
    let columns = ["--hf-column", "audio=audio", "output=text", "prompt=none"];
    assert!(generate(&columns).stderr.contains("no column `none`"));
    let alone = home.join("alone.jsonl");
    fs::write(&alone, rows.replace("\"question\"", "\"id\"")).unwrap();
    let args =
        ["--dataset-name", "hf", "--dataset-path", alone.to_str().unwrap(), "--num-prompts", "1", "--disable-shuffle"];
    let words = ["--backend", "openai-audio", "--hf-column", "audio=audio", "output=text"];
    let made = lines(&run("vb-gen", &[&args[..], &words].concat(), ""));
    assert_eq!((&made[0]["prompt"], &made[0]["multi_modal_data"]), (&Value::Null, &json!([sound])));

    for backend in ["openai", "openai-embeddings", "tgi"] {
        let done = generate(&["--backend", backend, "--hf-column", "image=image"]);
        assert!(done.code == 3 && done.stderr.contains(":1: images and audio need an API that takes"), "{done:?}");
    }
    fs::write(home.join("dot.gif"), b"no image").unwrap();
    let done = generate(&["--backend", "openai-chat", "--hf-column", "image=image"]);
    assert!(done.code == 3 && done.stderr.contains("dot.gif is not a JPEG"), "{done:?}");
}

#[test]
fn a_bad_row_is_reported_with_its_place_or_left_out() {
    for (name, ending, content, place) in [
        ("bad-csv", "csv", "prompt,x\na,b\nc\nd,e\n", "d.csv:3: 1 fields, but the first line has 2"),
        ("bad-utf8", "csv", "prompt,x\na,b\n\u{e9},c\nd,e\n", "d.csv:3: "),
        (
            "bad-lines",
            "jsonl",
            "{\"prompt\":\"a\"}\n{\"prompt\":7}\n{\"prompt\":\"d\"}\n",
            "d.jsonl:2: `prompt` is neither text",
        ),
    ] {
        let latin: Vec<u8> = content.chars().map(|c| u8::try_from(c).unwrap()).collect();
        let strict = hf(name, ending, &latin, &[]);
        assert!(strict.code == 3 && strict.stderr.contains(place), "{strict:?}");
        let lenient = hf(name, ending, &latin, &["--lenient"]);
        assert_eq!(lines(&lenient).len(), 2, "{}", lenient.stderr);
        assert!(["left out", "skipped"].iter().any(|word| lenient.stderr.contains(word)), "{}", lenient.stderr);
    }
}

#[test]
fn an_unknown_table_is_rejected_with_the_known_formats() {
    let done = hf("odd", "xlsx", "", &[]);
    assert!(done.code == 2 && done.stderr.contains(".parquet, .json, .jsonl, .csv"), "{done:?}");
    for (name, ending) in [("empty-lines", "jsonl"), ("empty-csv", "csv"), ("empty-json", "json")] {
        let done = hf(name, ending, "", &[]);
        assert!(done.code > 1 && done.stderr.starts_with("vb-gen: "), "{done:?}");
    }
    let folder = folder("tables-no-shards");
    let done = run("vb-gen", &["--dataset-name", "hf", "--dataset-path", folder.to_str().unwrap()], "");
    assert!(done.code == 2 && done.stderr.contains("no .parquet file in it"), "{done:?}");
}

#[cfg(not(feature = "parquet"))]
#[test]
fn without_the_feature_parquet_is_refused_with_the_cure() {
    let done = hf("parquet", "parquet", "PAR1", &[]);
    assert!(done.code == 2 && done.stderr.contains("--features parquet"), "{done:?}");
}

#[cfg(feature = "parquet")]
mod parquet {
    use serde_json::json;

    use super::{hf, lines};
    use crate::tool::{data, folder, run};

    fn generate(name: &str, more: &[&str]) -> Vec<serde_json::Value> {
        let path = data(name);
        let args = [
            "--dataset-name",
            "hf",
            "--dataset-path",
            path.to_str().unwrap(),
            "--num-prompts",
            "0",
            "--disable-shuffle",
        ];
        lines(&run("vb-gen", &[&args[..], more].concat(), ""))
    }

    #[test]
    fn text_and_its_answers_are_read() {
        let requests = generate("hf-questions.parquet", &[]);
        let lens: Vec<_> = requests.iter().map(|r| r["expected_output_len"].as_u64().unwrap()).collect();
        assert_eq!(lens, [4, 5, 6, 256, 8], "no answer: the default; no question: no request");
        assert_eq!(requests[2]["prompt"], "How far is it to number 2, by “foot”?");
    }

    #[test]
    fn the_shards_of_a_folder_are_one_dataset() {
        let turns = generate("hf-shards", &["--backend", "openai-chat", "--multi-turn"]);
        assert_eq!(turns.len(), 6);
        assert_eq!(turns[4]["messages"], json!([{"role": "user", "content": "question 2 first"}]));
    }

    #[test]
    fn images_and_sound_are_read_as_the_hub_keeps_them() {
        let columns = ["--backend", "openai-chat", "--hf-column", "image=images", "audio=audio"];
        let made = generate("hf-media.parquet", &columns);
        let kinds = |i: usize| -> Vec<String> {
            let parts = made[i]["multi_modal_data"].as_array().unwrap().iter();
            parts.map(|part| part["type"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(kinds(0), ["image_url", "input_audio"]);
        assert_eq!(kinds(1), ["image_url", "image_url", "input_audio"]);
        let url = made[0].pointer("/multi_modal_data/0/image_url/url").unwrap().as_str().unwrap();
        assert!(url.starts_with("data:image/png;base64,iVBORw0KGgo"), "{url}");
        assert_eq!(made[1].pointer("/multi_modal_data/2/input_audio/format").unwrap(), "wav");
        assert_eq!(made[0]["messages"], json!([{"role": "user", "content": "What is red?"}]));
    }

    #[test]
    fn a_file_that_is_not_parquet_is_an_error() {
        let done = hf("no-parquet", "parquet", "this is not parquet", &[]);
        assert!(done.code == 3 && done.stderr.contains("d.parquet: "), "{done:?}");
    }

    #[test]
    fn a_shard_without_the_column_is_an_error() {
        let folder = folder("tables-odd-shards");
        std::fs::copy(data("hf-questions.parquet"), folder.join("a.parquet")).unwrap();
        std::fs::copy(data("hf-shards").join("train-00000-of-00002.parquet"), folder.join("b.parquet")).unwrap();
        let done = run("vb-gen", &["--dataset-name", "hf", "--dataset-path", folder.to_str().unwrap()], "");
        assert!(done.code == 3 && done.stderr.contains("b.parquet: no column `"), "{done:?}");
    }
}
