//! `vb-gen mix`, through its binary.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use crate::tool::{Done, folder, run, search_path};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn file(folder: &Path, name: &str, requests: impl IntoIterator<Item = Value>) -> String {
    let path = folder.join(name);
    let text: String = requests.into_iter().map(|request| request.to_string() + "\n").collect();
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn numbered(n: usize) -> impl Iterator<Item = Value> {
    (0..n).map(|i| json!({"request_id": format!("vb-0-{i}"), "prompt": "hi", "session_id": "s", "turn": i}))
}

fn mix(args: &[&str]) -> Done {
    run("vb-gen", &[&["mix"], args].concat(), "")
}

#[test]
fn sources_are_drawn_by_weight_with_the_seed_and_tagged() {
    let folder = folder("mix-weight");
    let (a, b) = (file(&folder, "chat.ndjson", numbered(1000)), file(&folder, "code.ndjson", numbered(1000)));
    let (a, b) = (format!("0.75={a}"), format!("0.25={b}"));
    let done = mix(&[&a, &b, "--num-prompts", "1000"]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let requests = lines(&done.stdout);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for request in &requests {
        let name = request["tags"]["mix"].as_str().unwrap();
        // Each source keeps its order, and its sessions and ids are its own.
        let turn = counts.entry(name).or_default();
        assert_eq!((&request["turn"], &request["session_id"]), (&json!(*turn), &json!(format!("{name}/s"))));
        assert_eq!(request["request_id"], format!("{name}/vb-0-{turn}"));
        *turn += 1;
    }
    assert!((700..800).contains(&counts["chat"]) && counts["chat"] + counts["code"] == 1000, "{counts:?}");
    assert_eq!(mix(&[&a, &b, "--num-prompts", "1000", "--seed", "0"]).stdout, done.stdout);
    let flags_first = run("vb-gen", &["--seed", "3", "--num-prompts", "9", "mix", &a, &b], "").stdout;
    assert_eq!(flags_first, mix(&[&a, &b, "--num-prompts", "9", "--seed", "3"]).stdout);
    assert_ne!(flags_first, mix(&[&a, &b, "--num-prompts", "9"]).stdout);
}

#[test]
fn it_ends_where_the_source_that_was_drawn_has_no_more() {
    let folder = folder("mix-end");
    let (a, b) = (file(&folder, "a.ndjson", numbered(5)), file(&folder, "b.ndjson", numbered(1000)));
    let done = mix(&[&format!("1={a}"), &format!("1={b}")]);
    let taken = lines(&done.stdout).iter().filter(|r| r["tags"]["mix"] == "a").count();
    assert_eq!((done.code, taken), (0, 5));
    let want = format!("a has no more requests: ended after {}", done.stdout.lines().count());
    assert!(done.stderr.contains(&want), "{}", done.stderr);
}

#[test]
fn sources_with_times_are_merged_by_them() {
    let folder = folder("mix-time");
    let timed = |times: &'static [f64]| times.iter().map(|t| json!({"prompt": "hi", "timestamp": t}));
    let (a, b) = (file(&folder, "a.ndjson", timed(&[0.0, 2.0, 2.5])), file(&folder, "b.ndjson", timed(&[1.0, 2.0])));
    let requests = lines(&mix(&[&a, &b]).stdout);
    let got: Vec<(f64, &str)> =
        requests.iter().map(|r| (r["timestamp"].as_f64().unwrap(), r["request_id"].as_str().unwrap())).collect();
    let want = [(0.0, "a/line1"), (1.0, "b/line1"), (2.0, "a/line2"), (2.0, "b/line2"), (2.5, "a/line3")];
    assert_eq!(got, want);
}

#[test]
fn what_cannot_be_mixed_is_refused_with_the_cure() {
    let folder = folder("mix-refused");
    let timed =
        file(&folder, "t.ndjson", [json!({"prompt": "hi", "timestamp": 1}), json!({"prompt": "hi", "timestamp": 0})]);
    let plain = file(&folder, "p.ndjson", numbered(3));
    let other = file(&folder, "o.ndjson", [json!({"type": "output"})]);
    for (args, code, want) in [
        (vec![format!("1={timed}")], 3, "t.ndjson:1: it has a `timestamp`"),
        (vec![timed.clone()], 3, "t.ndjson:2: its `timestamp` is earlier than on the previous line"),
        (vec![plain.clone()], 3, "p.ndjson:1: it has no `timestamp`"),
        (vec![format!("1={other}")], 3, "o.ndjson:1: not a request"),
        (vec![format!("1={plain}"), plain.clone()], 2, "give all sources a weight"),
        (vec!["-".into(), "-".into()], 2, "only one source can be standard input"),
        (vec![format!("0={plain}")], 2, "is not greater than 0"),
        (vec![], 2, "name the sources"),
        (vec![format!("1e308={plain}"), format!("1e308={plain}")], 2, "sum of the weights is too large"),
        (vec![format!("a/b:1={plain}")], 2, "may only contain English letters"),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let done = mix(&args);
        assert!(done.code == code && done.stderr.contains(want), "{args:?}: {}", done.stderr);
    }
}

#[test]
fn flags_that_do_nothing_to_a_mix_are_refused() {
    let source = format!("1={}", file(&folder("mix-flags"), "a.ndjson", numbered(3)));
    for flag in
        [&["--speed", "2"][..], &["--input-len", "9"], &["--dataset-name", "random"], &["--lenient"], &["--grid"]]
    {
        let done = run("vb-gen", &[flag, &["mix", &source]].concat(), "");
        assert!(done.code == 2 && done.stdout.is_empty() && done.stderr.contains(flag[0]), "{flag:?}: {done:?}");
    }
    for flags in [
        &["--seed", "1", "--num-prompts", "2", "--tag", "x=1", "mix"][..],
        &["mix", "--num_prompts", "2", "--tag", "x=1"],
    ] {
        let done = run("vb-gen", &[flags, &[&source]].concat(), "");
        let tags: Vec<Value> = lines(&done.stdout).iter().map(|request| request["tags"].clone()).collect();
        assert_eq!(tags, vec![json!({"mix": "a", "x": "1"}); 2], "{}", done.stderr);
    }
}

#[test]
fn ids_are_unique_and_sources_have_the_names_they_are_given() {
    let folder = folder("mix-names");
    let one = |name, id: &str| file(&folder, name, [json!({"request_id": id, "prompt": "hi", "timestamp": 0})]);
    let (a, b) = (one("chat.ndjson", "vb-0-0"), one("chat-vb.ndjson", "0-0"));
    let both = mix(&[&a, &b]).stdout;
    let ids: Vec<Value> = lines(&both).iter().map(|request| request["request_id"].clone()).collect();
    assert_eq!(ids, ["chat/vb-0-0", "chat-vb/0-0"]);
    let inner = folder.join("inner.ndjson");
    std::fs::write(&inner, both).unwrap();
    let outer = lines(&mix(&[&format!("outer:={}", inner.display()), &a]).stdout);
    let tags: Vec<&str> = outer.iter().map(|request| request["tags"]["mix"].as_str().unwrap()).collect();
    assert_eq!(
        (tags, &outer[0]["request_id"]),
        (vec!["outer/chat", "outer/chat-vb", "chat"], &json!("outer/chat/vb-0-0"))
    );
}

#[test]
fn pipes_and_standard_input_are_sources_too() {
    let script = "vb-gen --num-prompts 30 --input-len 4 | vb-gen mix 1=- 1=<(vb-gen --num-prompts 30 --input-len 4 --seed 1) \
                  --num-prompts 20 --tag k=v";
    let output = crate::tool::plain_command("bash").args(["-c", script]).env("PATH", search_path()).output().unwrap();
    let requests = lines(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(requests.len(), 20, "{}", String::from_utf8_lossy(&output.stderr));
    let of_stdin = requests.iter().filter(|r| r["tags"]["mix"] == "stdin").count();
    assert!((1..20).contains(&of_stdin) && requests.iter().all(|r| r["tags"]["k"] == "v"));
}

#[test]
fn a_config_gives_its_seed_and_number_to_a_mix() {
    let folder = folder("mix-config");
    let source = format!("1={}", file(&folder, "a.ndjson", numbered(9)));
    let config = file(&folder, "config.yaml", []);
    std::fs::write(&config, "num_prompts: 4\nseed: 5\ninput_len: 7\n").unwrap();
    for args in [["--config", &config, "mix", &source], ["mix", &source, "--config", &config]] {
        let done = run("vb-gen", &args, "");
        assert_eq!((done.code, done.stdout.lines().count()), (0, 4), "{}", done.stderr);
    }
}
