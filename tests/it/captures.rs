//! What real servers sent (`tests/data/servers`), read by the `vb-fire` binary.

use std::{collections::BTreeSet, fs, io::Write, net::TcpListener, thread};

use crate::{
    backends::{AUDIO, HI, RANK, fire, output, read_request, summary},
    tool::{data, golden},
};

/// A request and the bytes of its response.
struct Capture {
    request: String,
    response: Vec<u8>,
}

impl Capture {
    fn read(name: &str) -> Self {
        let bytes = fs::read(data("servers").join(name)).unwrap();
        let start = bytes.windows(5).position(|window| window == b"HTTP/").unwrap();
        Self { request: String::from_utf8(bytes[..start].to_vec()).unwrap(), response: bytes[start..].to_vec() }
    }

    /// The backend that sends such a request.
    fn backend(&self) -> &'static str {
        let path = self.request.lines().next().unwrap();
        [
            ("/chat/completions", "openai-chat"),
            ("/v1/completions", "openai"),
            ("/responses", "openai-responses"),
            ("/messages", "anthropic"),
            ("/embeddings", "openai-embeddings"),
            ("/rerank", "vllm-rerank"),
            ("/audio/", "openai-audio"),
            ("/v2/models/", "tensorrt-llm"),
            ("/api/chat", "ollama"),
            ("/completion", "template"),
            ("/generate", "sglang"),
        ]
        .into_iter()
        .find_map(|(part, backend)| path.contains(part).then_some(backend))
        .unwrap()
    }

    fn streams(&self) -> bool {
        !["\"stream\":false", "\"stream\": false", "/embeddings", "/rerank"]
            .iter()
            .any(|part| self.request.contains(part))
            && (!self.request.contains("multipart") || self.request.contains("stream=true"))
    }

    /// Sends the response to one request, and closes the connection.
    fn replay(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                if !read_request(&mut stream).is_empty() {
                    let _ = stream.write_all(&self.response);
                }
            }
        });
        url
    }

    /// What `vb-fire` makes of it: the summary of a success, or the error.
    fn fire(self) -> String {
        let (backend, stream) = (self.backend(), self.streams());
        let line = match backend {
            "openai-audio" => AUDIO,
            "openai-embeddings" => "{\"prompt\":[\"hi\"]}\n",
            "vllm-rerank" => RANK,
            _ => HI,
        };
        let template = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/servers/llama.yaml");
        let mut args = if backend == "template" { vec!["--template", template] } else { Vec::new() };
        args.extend((!stream).then_some("--no-stream"));
        let output = output(&fire(&self.replay(), backend, &args, line));
        match output["error_kind"].as_str() {
            Some(kind) => format!("{kind}: {}", output["error"].as_str().unwrap()),
            None => summary(&output),
        }
    }
}

/// The values in the golden file were compared with what `scripts/servers/client.py` reads.
#[test]
fn captures_of_real_servers_are_read() {
    let names = fs::read_dir(data("servers")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = names.filter(|name| name != "README.md").collect();
    let read = names.iter().map(|name| format!("{name}\n  {}\n", Capture::read(name).fire()));
    golden("servers.txt", &read.collect::<String>());
}
