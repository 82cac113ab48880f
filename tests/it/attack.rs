//! Servers and files that attack: endless responses, control characters, keys that come back, any numbers.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use serde_json::{Value, json};

use crate::{
    source::{SourceParts, files_below},
    tool::{self, Done, command, folder, root, run},
};

/// A server that answers each request with what a function makes of it, on a free port.
struct Attacker {
    url: String,
    /// The bytes that it could send.
    sent: Arc<AtomicU64>,
}

/// A response: bytes, and a block that follows them until the client closes the connection.
struct Reply(Vec<u8>, Option<Vec<u8>>);

impl Attacker {
    fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sent, reply) = (Arc::new(AtomicU64::new(0)), Arc::new(reply));
        let counter = Arc::clone(&sent);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (counter, reply) = (Arc::clone(&counter), Arc::clone(&reply));
                thread::spawn(move || answer(stream, &counter, &*reply));
            }
        });
        Attacker { url, sent }
    }
}

fn answer(mut stream: TcpStream, sent: &AtomicU64, reply: &dyn Fn(&str) -> Reply) {
    let Some(request) = read_request(&mut stream) else { return };
    let Reply(bytes, block) = reply(&request);
    if stream.write_all(&bytes).is_ok() {
        while let Some(block) = &block {
            if stream.write_all(block).is_err() {
                return;
            }
            sent.fetch_add(block.len() as u64, Relaxed);
        }
    }
}

/// The head and the body of a request.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let (mut bytes, mut block) = (Vec::new(), vec![0; 65536]);
    loop {
        let n = stream.read(&mut block).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&block[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(text);
        }
    }
}

fn response(status: &str, headers: &str, body: &str) -> Reply {
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    Reply((head + body).into_bytes(), None)
}

fn chat_response(text: &str) -> Reply {
    let chunk = json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]});
    response("200 OK", "content-type: text/event-stream\r\n", &format!("data: {chunk}\n\ndata: [DONE]\n\n"))
}

const REQUEST: &str = "{\"prompt\":\"hi\",\"prompt_len\":1,\"expected_output_len\":2}\n";

/// Everything is written to standard error in one place, after it was cleaned.
#[test]
fn one_place_writes_to_standard_error() {
    for path in files_below(&root().join("src"), &["rs"]) {
        let code = SourceParts::from_rust(&fs::read_to_string(&path).unwrap()).code;
        let questions = [
            "stderr().is_terminal()",
            "applies_to_stderr()",
            "use_stderr()",
            "on_stderr()",
            "on_stream(&io::stderr())",
            "terminal_size_of(io::stderr())",
        ];
        let code = questions.iter().fold(code, |code, question| code.replace(question, ""));
        for way in ["eprint", "dbg!", "stderr()", "/dev/stderr"] {
            let allowed = path.ends_with("src/cli/progress.rs") && way == "stderr()";
            assert!(allowed || !code.contains(way), "{}: {way}", path.display());
        }
    }
}

/// An endless list of models, of tokens or of metrics, or an endless head, costs a bounded number of bytes.
#[test]
fn a_response_that_is_not_measured_is_read_up_to_a_limit() {
    let ok = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
    for (start, block) in [
        (format!("{ok}{{\"data\":[{{\"id\":\"m\"}}"), ",{\"id\":\"m\"}"),
        (format!("{ok}[1"), ",1"),
        (format!("{ok}{}", "["), "["),
        (ok.to_owned(), " "),
        (format!("{ok}vllm:a 1\n"), "vllm:a{b=\"c\"} 1\n"),
        ("HTTP/1.1 200 OK\r\n".to_owned(), "x: y\r\n"),
        ("HTTP/1.1 200 OK\r\nx: ".to_owned(), "y"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;".to_owned(), "x"),
        ("HTTP/1.1 500 Oops\r\n\r\n".to_owned(), "no "),
    ] {
        let block = block.repeat(65536 / block.len());
        let whole = Attacker::start(move |_| Reply(start.clone().into_bytes(), Some(block.clone().into_bytes())));
        let url = &whole.url;
        let fire = run("vb-fire", &["--base-url", url, "--timeout-connect", "20s"], REQUEST);
        let transport = ["--base-url", url, "--transport", "portable", "--timeout-connect", "20s", "--scrape"];
        let portable = run("vb-fire", &transport, REQUEST);
        let tokens = run("vb-gen", &["--tokenizer", "server", "--base-url", url, "--num-prompts", "1"], "");
        for done in [fire, portable, tokens] {
            assert!(done.code != 0 && done.code != 101 && done.stderr.lines().count() <= 4, "{}", done.stderr);
        }
        let megabytes = whole.sent.load(Relaxed) >> 20;
        assert!(megabytes < 400, "{megabytes} MB were read");
    }
}

/// What a terminal acts on, in every place where a server or a file can write: names, headers, errors, metrics.
const ESCAPES: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{2066}\u{7f}";

/// Panics if a terminal would act on the text.
fn assert_clean(what: &str, text: &str) {
    let found = text.chars().find(|c| *c != '\n' && (c.is_control() || ESCAPES.contains(*c) && *c as u32 > 0x7e));
    assert!(found.is_none(), "{what}: {found:?} in {text:?}");
}

#[test]
fn a_server_cannot_control_the_terminal() {
    let name = format!("m{ESCAPES}");
    for kind in 0..7 {
        let name = name.clone();
        let server = Attacker::start(move |request| {
            let models = json!({"data": [{"id": name}]}).to_string();
            if request.starts_with("GET /v1/models") {
                return response("200 OK", "", &models);
            }
            if request.starts_with("GET /metrics") {
                return response("200 OK", "", &format!("{name} 1\n"));
            }
            match kind {
                0 => response("302 Found", &format!("location: /{name}\r\n"), ""),
                1 => response("200 OK", &format!("content-encoding: {name}\r\n"), "x"),
                2 => response("404 Not Found", "", &json!({"error": {"message": name, "code": name}}).to_string()),
                3 => response(&format!("599 {name}"), "", &name),
                4 => response("200 OK", &format!("content-type: {name}\r\n"), &name),
                5 => response("200 OK", "", &format!("data: {{\"choices\":\"{name}\"}}\n\n")),
                _ => chat_response(&name),
            }
        });
        for transport in ["stamped", "portable"] {
            let flags = ["--base-url", &server.url, "--backend", "openai-chat", "--transport", transport, "--scrape"];
            let done = run("vb-fire", &flags, REQUEST);
            assert_clean(&format!("vb-fire {kind} {transport}"), &done.stderr);
            assert!(kind < 6 || done.code == 0, "{}", done.stderr);
            let outputs: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(outputs[0]["model"], format!("m{ESCAPES}"), "records are faithful");
        }
        let done = run("vb-gen", &["--tokenizer", "server", "--base-url", &server.url, "--num-prompts", "1"], "");
        assert_clean("vb-gen", &done.stderr);
    }
}

/// The same through files: configs, requests, outputs, results, templates.
#[test]
fn a_file_cannot_control_the_terminal() {
    let home = folder("attack-files");
    let file = |name: &str, text: &str| -> PathBuf {
        fs::write(home.join(name), text).unwrap();
        home.join(name)
    };
    let name = format!("m{ESCAPES}\nvb-fire: all is well");
    let escaped = json!(name).to_string();
    let output = |extra: &str| {
        format!(
            "{{\"type\":\"run\",\"run_id\":{escaped},\"model\":{escaped},\"backend\":{escaped},\"host\":{escaped},\"clock\":{{\"start\":1}}}}\n\
             {{\"type\":\"output\",\"success\":true,\"prompt_len\":1,\"output_tokens\":2,\"ttft\":0.1,\"latency\":0.2,\"itl\":[0.1],\
             \"start_time\":1.0,\"tags\":{{\"t\":{escaped}}},\"finish_reason\":{escaped}{extra}}}\n\
             {{\"type\":\"output\",\"success\":false,\"error\":{escaped},\"error_kind\":\"protocol\",\"latency\":0.2,\"start_time\":1.0}}\n\
             {{\"type\":\"end\",\"duration\":1,\"offered\":2,\"verdict\":\"suspect\",\"reasons\":[{escaped}]}}\n"
        )
    };
    let (good, bad) = (file("good.ndjson", &output("")), file("bad.ndjson", &output(",\"turn\":\"\u{9b}\u{202e}\"")));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (good, bad) = (path(&good), path(&bad));
    let stats = run("vb-stats", &[&good, "--by", "tag:t", "--metadata", &format!("k={name}"), "--table", "full"], "");
    assert_clean("the table of vb-stats", &stats.stderr);
    let result: Value = serde_json::from_str(&stats.stdout).unwrap();
    assert_eq!((&result["model_id"], &result["k"]), (&json!(name), &json!(name)), "records are faithful");
    let config = |key: &str| path(&file("config.yaml", key));
    let template = path(&file("t.yaml", &format!("endpoint: /x\nbody: '{{}}'\nstream: \"\\e[2J{}\"\n", "\\u202e")));
    let result_text = stats.stdout.clone();
    for (what, done) in [
        ("vb-stats", run("vb-stats", &[&bad], "")),
        ("vb-stats --lenient", run("vb-stats", &["--lenient", "--table", "full", &bad], "")),
        ("vb-agg", run("vb-agg", &["--table", "always", "--header", "both"], &result_text)),
        ("vb-agg --repeats", run("vb-agg", &["--repeats", "long"], format!("{result_text}{result_text}"))),
        ("vb-agg, broken", run("vb-agg", &[], format!("{{\"completed\": \"{ESCAPES}\"}}\n{{\"duration\":{escaped}\n"))),
        ("vb-diff", run("vb-diff", &[&good, &good, "--format", "table"], "")),
        ("vb-diff, Markdown", run("vb-diff", &[&good, &good, "--format", "markdown"], "")),
        ("a key", run("vb-gen", &["--config", &config("\"\\e[2J\\u202e\": 1\n"), "--num-prompts", "1"], "")),
        ("a value", run("vb-gen", &["--config", &config("num_prompts: \"\\e[2J\\u202e\"\n")], "")),
        ("a flag", run("vb-gen", &["--num-prompts", ESCAPES], "")),
        ("an unknown flag", run("vb-gen", &[&format!("--{name}")], "")),
        ("a template", run("vb-fire", &["--backend", "template", "--template", &template], REQUEST)),
        ("a request", run("vb-fire", &["--base-url", "http://127.0.0.1:9"], format!("{{{escaped}:1}}\n"))),
        ("a dataset", run("vb-gen", &["--dataset-name", "custom", "--dataset-path", &bad, "--num-prompts", "1"], "")),
        ("a path", run("vb-stats", &[&name], "")),
    ] {
        assert_clean(what, &done.stderr);
        assert!(done.code != 101, "{what}: {}", done.stderr);
        let message = !done.stderr.contains("\nvb-fire: all is well");
        assert!(message, "{what}: a file wrote a whole line: {}", done.stderr);
        let text = !done.stdout.starts_with('{');
        if text {
            assert_clean(what, &done.stdout);
        }
    }
}

/// The keys of this test, each in another place.
const PLANTED: [&str; 16] = [
    "sk-env-Plant/ed+01",
    "sk-hdr-Planted02",
    "s3ssion-Planted03",
    "cs-rf-Planted04",
    "dXNlcjpwYXNzUGxhbnRlZDA1",
    "passPlanted05",
    "sk-body-Planted06",
    "sk-list-Planted07",
    "sk-deep-Planted08",
    "sk-request-Planted09",
    "sk-nested-Planted10",
    "sk-template-Planted11",
    "sk-query-Planted12",
    "sk-fragment-Planted13",
    "sk-json-Planted14",
    "sk-tag-Planted15",
];

fn to_hex(text: &str) -> String {
    text.bytes().flat_map(|byte| [byte >> 4, byte & 0xf]).map(|digit| format!("{digit:x}")).collect::<Vec<_>>().concat()
}

/// Panics if a key, or most of it, is in the text in any encoding that a server may use.
fn assert_no_secret(what: &str, text: &str) {
    let lower = text.to_ascii_lowercase();
    for key in PLANTED {
        let key = key.to_ascii_lowercase();
        let hex = to_hex(&key);
        let url: String = key
            .bytes()
            .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02x}") })
            .collect();
        for form in [key.as_str(), &key[..key.len() - 4], &key[key.len() - 9..], &hex, &url] {
            assert!(!lower.contains(form), "{what}: {form} in {text}");
        }
    }
}

fn with_key(mut command: Command, stdin: &str) -> Done {
    let mut child = command
        .env("OPENAI_API_KEY", PLANTED[0])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that finds a mistake in its flags does not read.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    tool::done(child.wait_with_output().unwrap())
}

/// A server repeats the whole request in everything that it sends, in each of several encodings.
#[test]
fn a_key_that_comes_back_is_shown_nowhere() {
    let home = folder("attack-secrets");
    let template = home.join("t.yaml");
    fs::write(&template, format!("endpoint: /x?key={}#token={}\nbody: '{{\"api_key\": \"{}\", \"prompt\": {{{{ prompt | tojson }}}}}}'\nstream: events\ntext: /t\n", PLANTED[12], PLANTED[13], PLANTED[11])).unwrap();
    let body = json!({"api_key": PLANTED[6], "token": [PLANTED[7]], "auth": {"password": {"v": [PLANTED[8]]}},
        "metadata": json!({"secret": PLANTED[14]}).to_string()});
    let own = json!({"prompt": "hi", "prompt_len": 1, "expected_output_len": 2, "tags": {"api_key": PLANTED[15]},
        "body": {"access_token": PLANTED[9], "x": {"y": [{"client_secret": PLANTED[10]}]}}});
    let input = format!("{own}\n");
    let authorization = format!("Authorization=Basic {}", PLANTED[4]);
    let cookie = format!("Cookie=theme=d; session={}; csrf={}", PLANTED[2], PLANTED[3]);
    let api_key = format!("X-Api-Key={}", PLANTED[1]);
    let encodings: [fn(&str) -> String; 6] = [
        str::to_owned,
        |text| json!({"error": {"message": text}}).to_string(),
        |text| json!({"error": json!({"detail": text}).to_string()}).to_string(),
        to_hex,
        |text| {
            text.bytes()
                .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
                .collect()
        },
        |text| text.replace('&', "&amp;").replace('/', "&#x2F;").replace('"', "&quot;"),
    ];
    for (at, encode) in encodings.into_iter().enumerate() {
        for status in ["401 Unauthorized", "404 Not Found", "302 Found", "200 OK"] {
            let server = Attacker::start(move |request| {
                let shown: String = request.split("\r\n").collect::<Vec<_>>().join(" | ");
                // A long error is cut, so the end is sent too.
                let lines = shown.split(" | ").map(str::to_owned).collect::<Vec<_>>();
                let text = encode(&lines.into_iter().rev().collect::<Vec<_>>().join(" "));
                if request.starts_with("GET") && status == "200 OK" {
                    let models = json!({"data": [{"id": text}]}).to_string();
                    return response("200 OK", "", &models);
                }
                let location = format!("location: /x?{}\r\n", text.replace(['\r', '\n'], " "));
                response(status, if status.starts_with('3') { &location } else { "" }, &text)
            });
            let flags = [
                "--base-url",
                &server.url,
                "--header",
                &authorization,
                &cookie,
                &api_key,
                "--extra-body",
                &body.to_string(),
            ]
            .map(str::to_owned);
            for more in [
                vec!["--backend", "openai-chat"],
                vec!["--backend", "openai", "--model", "m", "--num-warmups", "1", "--scrape"],
                vec!["--backend", "openai", "--model", "m", "--transport", "portable", "--no-stream"],
                vec!["--backend", "template", "--template", template.to_str().unwrap(), "--model", "m"],
            ] {
                let mut fire = command("vb-fire");
                fire.args(&flags).args(&more);
                let done = with_key(fire, &input);
                assert_no_secret(&format!("{at} {status} {more:?}, stderr"), &done.stderr);
                assert_no_secret(&format!("{at} {status} {more:?}, stdout"), &done.stdout);
            }
            let mut generate = command("vb-gen");
            generate.args(["--tokenizer", "server", "--base-url", &server.url, "--num-prompts", "1", "--model", "m"]);
            let done = with_key(generate, "");
            assert!(done.code != 0, "{}", done.stdout);
            assert_no_secret("vb-gen", &(done.stderr + &done.stdout));
        }
    }
}

/// Flags and configs that cannot be parsed are not repeated.
#[test]
fn a_wrong_flag_does_not_show_its_key() {
    let home = folder("attack-flags");
    let key = PLANTED[1];
    let config = |text: String| {
        let path = home.join("config.yaml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for flags in [
        vec!["--extra-body".to_owned(), format!("{{\"api_key\": \"{key}\"")],
        vec!["--extra-body".to_owned(), format!("\"{key}\"")],
        vec![format!("--extra-body=[\"{key}\"]")],
        vec!["--extra_body".to_owned(), format!("{{api_key: {key}}}")],
        vec!["--header".to_owned(), format!("Authorization: Bearer {key}")],
        vec!["--header".to_owned(), format!("Author ization=Bearer {key}")],
        vec!["--header".to_owned(), format!("Bearer {key}==")],
        vec!["--base-url".to_owned(), format!("http://me:{key}@127.0.0.1:9")],
        vec!["--scrape".to_owned(), format!("http://127.0.0.1:9/?token={key}")],
        vec!["--endpoint".to_owned(), format!("/x?key={key} ^`")],
        vec!["--config".to_owned(), config(format!("{key}\n"))],
    ] {
        let done = run("vb-fire", &flags.iter().map(String::as_str).collect::<Vec<_>>(), REQUEST);
        assert!(done.code != 0 && !done.stderr.is_empty(), "{flags:?}");
        assert_no_secret(&format!("{flags:?}"), &done.stderr);
    }
    for text in [
        format!("extra_body: '{{\"api_key\": \"{key}\"'\n"),
        format!("extra_body: [\"{key}\"]\n"),
        format!("header: {{Authorization: Bearer {key}=}}\n"),
        format!("header: [\"Authorization: Bearer {key}\"]\n"),
    ] {
        let done = run("vb-fire", &["--config", &config(text.clone())], REQUEST);
        assert!(done.code == 2, "{text}: {}", done.stderr);
        assert_no_secret(&text, &done.stderr);
    }
}

/// Any number may be in a file, and no program ends with a panic.
#[test]
fn any_number_in_a_file_is_survived() {
    let numbers =
        ["18446744073709551615", "9007199254740993", "-1", "1e308", "-1e308", "1e-320", "0", "null", "\"x\"", "[]"];
    let lines = fs::read_to_string(tool::data("stats-run.ndjson")).unwrap();
    let lines: Vec<Value> =
        lines.lines().take(6).chain(lines.lines().last()).map(|line| serde_json::from_str(line).unwrap()).collect();
    let text_of = |lines: &[Value]| lines.iter().map(|line| format!("{line}\n")).collect::<Vec<_>>().concat();
    let result = run("vb-stats", &["--histograms", "--by", "turn"], text_of(&lines)).stdout;
    let result: Value = serde_json::from_str(&result).unwrap();
    for number in numbers {
        let number: Value = serde_json::from_str(number).unwrap();
        // All numbers at once, and then each second one.
        for step in [1, 2] {
            let changed: Vec<Value> =
                lines.iter().map(|line| with_numbers(line.clone(), &number, &mut 0, step)).collect();
            for args in [&["--table", "full", "--slice", "1s"][..], &["--lenient", "--exact", "2", "--histograms"]] {
                let done = run("vb-stats", args, text_of(&changed));
                assert!(matches!(done.code, 0..=4), "vb-stats, {number}: {}", done.stderr);
            }
            let pooled = with_numbers(result.clone(), &number, &mut 0, step);
            for args in [&["--pool"][..], &["--table", "always"], &["--repeats", "long"]] {
                let done = run("vb-agg", args, format!("{result}\n{pooled}\n"));
                assert!(matches!(done.code, 0..=4), "vb-agg {args:?}, {number}: {}", done.stderr);
            }
        }
    }
}

/// The value with `number` in place of each number, or of each second one.
fn with_numbers(value: Value, number: &Value, seen: &mut usize, step: usize) -> Value {
    match value {
        Value::Number(_) => {
            *seen += 1;
            if (*seen).is_multiple_of(step) { number.clone() } else { value }
        }
        Value::Array(list) => list.into_iter().map(|item| with_numbers(item, number, seen, step)).collect(),
        Value::Object(map) => {
            map.into_iter().map(|(key, item)| (key, with_numbers(item, number, seen, step))).collect()
        }
        other => other,
    }
}

/// A table of every key in every row would need gigabytes.
#[test]
fn results_with_any_number_of_keys_are_refused() {
    let results: String =
        (0..5000).map(|i| format!("{{\"completed\":1,\"duration\":1,\"k{i}\":1}}\n")).collect::<Vec<_>>().concat();
    let done = run("vb-agg", &[], results);
    assert!(done.code == 3 && done.stderr.contains("5002 different keys"), "{}", done.stderr);
}
