//! What the programs say when something is wrong: the cause first, with its cure.

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
};

use crate::{
    fire::{FULL, fire, requests},
    tool::{self, Sim},
};

/// What people try first.
#[test]
fn input_and_addresses_of_another_form_are_named() {
    let sim = Sim::start(&["--served-model-name", "llama"]);
    let done = fire(&sim.url, &[], "hello\n");
    let why = "vb-fire: stdin:1: not a JSON object, which each line must be: hello";
    assert!(done.code == 3 && done.stderr.contains(why), "{}", done.stderr);
    let outputs = fire(&sim.url, &[], &requests(1, FULL)).stdout;
    let done = fire(&sim.url, &[], &outputs);
    assert!(done.code == 3 && done.stderr.contains("is this output of vb-fire?"), "{}", done.stderr);
    for path in ["/v1/chat/completions", "/v1/completions/", "/v1/models"] {
        let done = fire(&format!("{}{path}", sim.url), &[], &requests(1, FULL));
        let why = format!("--base-url ends with the path of an API: use {} (", sim.url);
        assert!(done.code == 2 && done.stderr.contains(&why), "{}", done.stderr);
    }
    // The server has the model, and not the API.
    let done = fire(&sim.url, &["--model", "llama", "--endpoint", "/v2/generate_text"], &requests(3, FULL));
    let why = "the server has the model llama: does it offer /v2/generate_text for it?";
    assert!(done.code == 1 && done.stderr.contains(why), "{}", done.stderr);
}

/// The turns that follow a failed one are not sent, and are more than the failed ones.
#[test]
fn the_cause_is_reported_and_not_its_consequences() {
    let sim = Sim::start(&["--served-model-name", "llama"]);
    let turn = |n: usize| format!("{{\"session_id\":\"s\",\"turn\":{n},\"prompt\":\"hi {n}\"}}\n");
    let done = fire(&sim.url, &["--model", "lama"], &(0..8).map(turn).collect::<String>());
    assert!(done.stderr.contains("8 of 8 requests failed; most often (1) http_status"), "{}", done.stderr);
    let result = tool::run("vb-stats", &[], &done.stdout);
    assert!(result.code == 1 && result.stderr.contains("most often (1) http_status"), "{}", result.stderr);
}

/// A server with these pages, each with a status line and a body; other paths are 404. Returns its URL.
fn scripted(pages: &'static [(&'static str, &'static str, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = vec![0; 1 << 16];
            let read = stream.read(&mut head).unwrap_or_default();
            let head = String::from_utf8_lossy(&head[..read]);
            let path = head.split(' ').nth(1).unwrap_or_default();
            let page = pages.iter().find(|(known, ..)| *known == path);
            let (_, status, body) = page.unwrap_or(&("", "404 Not Found", "{\"error\":\"no such page\"}"));
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            let _ = stream.write_all(head.as_bytes());
        }
    });
    url
}

const LOADING: &str = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;

#[test]
fn the_cure_fits_what_the_server_says() {
    let hi = requests(2, FULL);
    for (pages, args, code, want) in [
        // A router that does not know the models of its servers yet.
        (
            &[("/v1/models", "200 OK", r#"{"data":[{"id":"unknown"}]}"#)][..],
            &[][..],
            2,
            "lists a model named `unknown`",
        ),
        (
            &[("/v1/models", "503 Service Unavailable", LOADING)],
            &[],
            4,
            "Loading model; use --model, or if it is still starting, --ready-check 60s",
        ),
        (
            &[("/v1/completions", "503 Service Unavailable", LOADING)],
            &["--model", "m"],
            1,
            "--ready-check 60s waits for it",
        ),
        // llama.cpp lists its model before it has loaded it.
        (
            &[("/v1/models", "200 OK", r#"{"data":[{"id":"m"}]}"#), ("/health", "503 Service Unavailable", LOADING)],
            &["--ready-check", "600ms"],
            4,
            "/health responded with HTTP 503",
        ),
        (
            &[
                ("/v1/models", "200 OK", r#"{"data":[{"id":"m"}]}"#),
                (
                    "/v1/completions",
                    "400 Bad Request",
                    r#"{"error":{"message":"This model's maximum context length is 8"}}"#,
                ),
            ],
            &[],
            1,
            "the server rejects these requests: see its message",
        ),
        (
            &[("/v1/models", "200 OK", r#"{"data":[{"id":"m"}]}"#)],
            &[],
            1,
            "has the model m: does it offer /v1/completions for it?",
        ),
    ] {
        let done = fire(&scripted(pages), args, &hi);
        assert_eq!(done.code, code, "{want}: {}", done.stderr);
        assert!(done.stderr.contains(want), "{want}: {}", done.stderr);
    }
}
