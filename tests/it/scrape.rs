//! The server's own view, from `/metrics` to the table, through the real programs.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::mpsc,
    thread,
};

use serde_json::Value;

use crate::{
    fire::{FULL, fire, requests},
    tool::{Done, Sim, command, done, run},
};

fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn scrapes(stdout: &str) -> Vec<Value> {
    lines(stdout).into_iter().filter(|line| line["type"] == "scrape").collect()
}

/// The result of a stream, and the standard error of `vb-stats`.
fn stats(stream: &str) -> (Value, String) {
    let done = run("vb-stats", &[], stream);
    assert_eq!(done.code, 0, "{}", done.stderr);
    (serde_json::from_str(&done.stdout).unwrap(), done.stderr)
}

fn notes(result: &Value) -> Vec<&str> {
    result["vb"]["server"]["notes"].as_array().into_iter().flatten().map(|note| note.as_str().unwrap()).collect()
}

/// A `vb-fire` that gets its requests one by one.
struct Slow {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    read: String,
}

impl Slow {
    fn start(args: &[&str]) -> Slow {
        let mut child = command("vb-fire")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Slow { child, stdin, stdout, read: String::new() }
    }

    /// Sends requests, and waits for the same number of outputs.
    fn send(&mut self, requests: &str) {
        self.stdin.write_all(requests.as_bytes()).unwrap();
        let mut left = requests.lines().count();
        while left > 0 {
            let from = self.read.len();
            assert!(self.stdout.read_line(&mut self.read).unwrap() > 0, "the stream has ended: {}", self.read);
            left -= usize::from(self.read[from..].contains("\"type\":\"output\""));
        }
    }

    fn end(mut self) -> Done {
        drop(self.stdin);
        self.stdout.read_to_string(&mut self.read).unwrap();
        let rest = done(self.child.wait_with_output().unwrap());
        Done { stdout: self.read, ..rest }
    }
}

#[test]
fn what_the_server_counted_is_what_the_clients_got() {
    let sim = Sim::start(&[]);
    let args = ["--max-concurrency", "4", "--num-warmups", "3", "--scrape", "--scrape-interval", "20ms"];
    let done = fire(&sim.url, &args, &requests(40, FULL));
    assert_eq!(done.code, 0, "{}", done.stderr);
    let all = lines(&done.stdout);
    let types: Vec<&str> = all.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!((&types[..2], &types[types.len() - 2..]), (&["run", "scrape"][..], &["scrape", "end"][..]));
    let pages = scrapes(&done.stdout);
    assert!(pages.len() > 2 && pages.iter().all(|page| page["run_id"] == all[0]["run_id"]));
    assert!(pages.windows(2).all(|pair| pair[0]["time"].as_f64() < pair[1]["time"].as_f64()));
    let has_buckets = |page: &Value| page["metrics"].as_object().unwrap().keys().any(|key| key.contains("_bucket{"));
    let with: Vec<usize> = (0..pages.len()).filter(|at| has_buckets(&pages[*at])).collect();
    assert_eq!(with, [0, pages.len() - 1]);

    let (result, _) = stats(&done.stdout);
    let server = &result["vb"]["server"];
    assert_eq!(
        (&server["scrapes"], &server["failed_scrapes"], &server["resets"]),
        (&pages.len().into(), &0.into(), &0.into())
    );
    assert_eq!((&server["finished"]["length"], &server["finished"]["abort"]), (&40.into(), &0.into()), "no warm-up");
    assert_eq!(server["prompt_tokens"], result["total_input_tokens"]);
    assert_eq!(server["generation_tokens"], result["total_output_tokens"]);
    assert_eq!((&server["ttft_ms"]["n"], &server["itl_ms"]["n"]), (&40.into(), &(40 * 7).into()));
    assert!(server["ttft_ms"]["p99"]["upto"].is_number(), "{server}");
    assert!(server["running"]["max"].as_f64().unwrap() <= 4.0);
    for latency in ["ttft_ms", "e2el_ms"] {
        let parts = &server["reconciled"][latency];
        let ms = |part: &str| parts[part].as_f64().unwrap_or_default();
        let sum: f64 = ["queue", "prefill", "decode", "frontend", "outside"].map(ms).iter().sum();
        assert!((ms("client") - sum).abs() < 1e-9 && ms("frontend").abs() < 1e-3 && ms("outside") > -1.0, "{parts}");
    }
    // The machine may be busy, which gives a note about the time outside the server.
    assert!(notes(&result).iter().all(|note| note.contains("outside of the server's own count")), "{server}");
}

#[test]
fn other_load_on_the_server_is_noted() {
    let sim = Sim::start(&[]);
    let mut ours = Slow::start(&["--base-url", &sim.url, "--scrape", "--scrape-interval", "1h"]);
    ours.send(&requests(3, FULL));
    assert_eq!(fire(&sim.url, &[], &requests(5, FULL)).code, 0);
    let done = ours.end();
    assert_eq!(scrapes(&done.stdout).len(), 2);
    let (result, stderr) = stats(&done.stdout);
    assert_eq!(result["vb"]["server"]["finished"]["length"], 8);
    let first = notes(&result)[0];
    assert!(first.starts_with("the server finished 8 requests and the clients here sent 3: others used it"), "{first}");
    assert!(stderr.contains(first), "without a table it is a warning: {stderr}");
}

#[test]
fn a_server_that_was_restarted_is_noted() {
    let first = Sim::start(&[]);
    let url = first.url.clone();
    let mut fire = Slow::start(&["--base-url", &url, "--scrape", "--scrape-interval", "1h", "--no-keep-alive"]);
    fire.send(&requests(3, FULL));
    first.stop();
    let _second = Sim::start_at(url.rsplit_once(':').unwrap().1.parse().unwrap(), &[]);
    fire.send(&requests(4, FULL));
    let (result, _) = stats(&fire.end().stdout);
    let server = &result["vb"]["server"];
    assert_eq!(
        (&server["resets"], &server["finished"]["length"]),
        (&1.into(), &4.into()),
        "the value after the restart"
    );
    let notes = notes(&result);
    assert!(notes[0].starts_with("the server reset its counters once"), "{notes:?}");
    assert!(notes[1].starts_with("the server finished 4 requests and the clients here got 7 responses"), "{notes:?}");
    assert_eq!((&server["ttft_ms"]["n"], server["ttft_ms"]["p50"].is_object()), (&4.into(), true));
}

#[test]
fn a_warm_cache_is_noted_and_a_shared_prefix_is_expected() {
    let sim = Sim::start(&[]);
    let gen_args = |extra: &[&'static str]| {
        let args = ["--input-len", "64", "--output-len", "4", "--num-prompts", "40"];
        run("vb-gen", &[&args[..], extra].concat(), "").stdout
    };
    let cache = |requests: &str, scrape: &[&str]| {
        let args = [&["--max-concurrency", "2"][..], scrape].concat();
        let (result, stderr) = stats(&fire(&sim.url, &args, requests).stdout);
        let cache = result["vb"]["cache"].clone();
        assert_eq!(
            (&cache["requests"], cache["note"].is_string()),
            (&40.into(), stderr.contains("--seed")),
            "{stderr}"
        );
        cache
    };
    let random = gen_args(&[]);
    assert!(random.lines().all(|line| line.contains("\"expected_cached_len\":0,")), "{random}");
    let cold = cache(&random, &["--scrape"]);
    assert_eq!((&cold["note"], &cold["meant_share"], &cold["cached_share"]), (&Value::Null, &0.0.into(), &0.0.into()));
    let warm = cache(&random, &[]);
    assert_eq!((&warm["source"], &warm["meant_share"]), (&"usage".into(), &0.0.into()));
    assert!(warm["note"].as_str().unwrap().starts_with("75.0 % of the prompt tokens came from"), "{warm}");

    let shared = gen_args(&["--prefix-len", "100", "--seed", "1"]);
    let (first, others) = shared.split_once('\n').unwrap();
    assert!(first.contains("\"expected_cached_len\":0,"), "{first}");
    assert!(others.lines().all(|line| line.contains("\"expected_cached_len\":100,")));
    let shared = cache(&shared, &[]);
    assert_eq!(shared["note"], Value::Null, "{shared}");
}

#[test]
fn a_page_that_cannot_be_read_is_only_a_warning() {
    let sim = Sim::start(&[]);
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for (url, why) in [
        (format!("{}/nothing", sim.url), "HTTP 404"),
        (closed, "refused"),
        (format!("{}/health", sim.url), "the page has no samples"),
    ] {
        let args = ["--scrape", &url, "--scrape-interval", "5ms", "--max-concurrency", "2"];
        let done = fire(&sim.url, &args, &requests(10, FULL));
        assert_eq!(done.code, 0, "{}", done.stderr);
        let warnings: Vec<&str> = done.stderr.lines().filter(|line| line.contains("the load goes on")).collect();
        assert!(warnings.len() == 1 && warnings[0].contains(why), "{warnings:?}");
        let pages = scrapes(&done.stdout);
        assert!(
            pages.len() >= 2
                && pages.iter().all(|page| page["error"].is_string() && page["metrics"] == serde_json::json!({}))
        );
        let (result, _) = stats(&done.stdout);
        assert_eq!((&result["completed"], &result["vb"]["complete"]), (&10.into(), &true.into()));
        let server = &result["vb"]["server"];
        assert_eq!((&server["scrapes"], &server["failed_scrapes"]), (&0.into(), &pages.len().into()));
        assert_eq!((&server["finished"], &server["ttft_ms"]), (&Value::Null, &Value::Null));
        assert!(notes(&result).iter().any(|note| note.contains("fewer than two pages")), "{server}");
    }
    let none = stats(&fire(&sim.url, &[], &requests(3, FULL)).stdout).0;
    assert_eq!((&none["vb"]["server"], &none["vb"]["cache"]), (&Value::Null, &Value::Null), "nothing was requested");
}

/// Reads the head of a request.
fn head(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
    head
}

fn respond(mut stream: &TcpStream, page: &str) {
    let length = page.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all((head + page).as_bytes()).unwrap();
}

#[test]
fn a_slow_page_delays_no_request() {
    let sim = Sim::start(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    let (asked, second) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().map(Result::unwrap).enumerate() {
            head(&stream);
            if number == 1 {
                asked.send(()).unwrap();
                released.recv().unwrap();
            }
            respond(&stream, "vllm:num_requests_running 1\n");
        }
    });
    let mut fire = Slow::start(&["--base-url", &sim.url, "--scrape", &url, "--scrape-interval", "1ms"]);
    fire.send(&requests(1, FULL));
    second.recv().unwrap();
    // The page hangs, and requests continue.
    fire.send(&requests(20, FULL));
    let pages = |read: &str| read.lines().filter(|line| line.contains("\"type\":\"scrape\"")).count();
    assert_eq!(pages(&fire.read), 1);
    release.send(()).unwrap();
    let done = fire.end();
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(pages(&done.stdout) >= 2 && scrapes(&done.stdout).iter().all(|page| page["error"].is_null()));
}

#[test]
fn buckets_are_in_the_first_page_that_could_be_read() {
    let sim = Sim::start(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for (number, stream) in listener.incoming().map(Result::unwrap).enumerate() {
            head(&stream);
            let page = if number < 2 { "" } else { "vllm:a_bucket{le=\"1\"} 1\nvllm:b_total 2\n" };
            respond(&stream, page);
        }
    });
    let mut fire = Slow::start(&["--base-url", &sim.url, "--scrape", &url, "--scrape-interval", "1ms"]);
    while fire.read.matches("\"type\":\"scrape\"").count() < 5 {
        fire.send(&requests(1, FULL));
    }
    let pages = scrapes(&fire.end().stdout);
    let sizes: Vec<usize> = pages.iter().map(|page| page["metrics"].as_object().unwrap().len()).collect();
    assert_eq!((&sizes[..5], sizes.last()), (&[0, 0, 2, 1, 1][..], Some(&2)));
    assert!(pages[0]["error"].as_str().unwrap().starts_with("no sample begins with vllm:"), "{}", pages[0]);
}

#[test]
fn a_key_is_in_no_record_and_goes_to_no_other_server() {
    let key = "sk-very-secret-key";
    let sim = Sim::start(&["--api-key", key]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = format!("http://{}", listener.local_addr().unwrap());
    let heads = thread::spawn(move || {
        [(); 2].map(|()| {
            let (stream, _) = listener.accept().unwrap();
            let head = head(&stream);
            respond(&stream, "vllm:num_requests_running 1\nnot_wanted 2\n");
            head
        })
    });
    let header = format!("Authorization=Bearer {key}");
    for scrape in [sim.url.as_str(), &other] {
        let args = ["--header", &header, "--scrape", scrape, "--scrape-interval", "1h"];
        let done = fire(&sim.url, &args, &requests(3, FULL));
        assert_eq!(done.code, 0, "{}", done.stderr);
        assert!(!done.stdout.contains(key) && !done.stderr.contains(key));
        let pages = scrapes(&done.stdout);
        assert!(pages.len() == 2 && pages.iter().all(|page| page["error"].is_null()), "{pages:?}");
        assert_eq!(pages[0]["url"], format!("{scrape}/metrics"));
    }
    for head in heads.join().unwrap() {
        assert!(
            head.starts_with("GET /metrics HTTP/1.1") && !head.contains(key) && !head.to_lowercase().contains("auth")
        );
    }
    let done = fire(&sim.url, &["--scrape", "http://me:sk-very-secret-key@h/"], "");
    assert!(done.code == 2 && !done.stderr.contains(key), "{}", done.stderr);
}

#[test]
fn only_the_requested_families_are_kept() {
    let sim = Sim::start(&[]);
    let args = ["--scrape", "--scrape-match", "vb_sim:", "vllm:num_", "--max-concurrency", "1"];
    let done = fire(&sim.url, &args, &requests(2, FULL));
    for page in scrapes(&done.stdout) {
        let names: Vec<&String> = page["metrics"].as_object().unwrap().keys().collect();
        assert!(names.iter().all(|name| name.starts_with("vb_sim:") || name.starts_with("vllm:num_")), "{names:?}");
        assert!(names.len() > 4);
    }
}

#[test]
fn an_interrupted_run_still_has_its_last_page() {
    let sim = Sim::start(&[]);
    let mut fire = Slow::start(&["--base-url", &sim.url, "--scrape", "--scrape-interval", "1h"]);
    fire.send(&requests(2, FULL));
    rustix::process::kill_process(rustix::process::Pid::from_child(&fire.child), rustix::process::Signal::INT).unwrap();
    // Its input stays open, so that only the signal ends it.
    fire.stdout.read_to_string(&mut fire.read).unwrap();
    let done = fire.end();
    assert_eq!(done.code, 130, "{}", done.stderr);
    assert_eq!(scrapes(&done.stdout).len(), 2);
    assert_eq!(lines(&done.stdout).last().unwrap()["type"], "end");
}

/// Engines other than vLLM have other metrics.
#[test]
fn the_pages_of_another_engine_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let page = "process_start_time_seconds 5\nsglang:num_running_reqs 1\nsglang:token_usage 0.5\n";
            let length = page.len();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{page}");
        }
    });
    let sim = Sim::start(&[]);
    let done = fire(&sim.url, &["--scrape", &url], &requests(3, FULL));
    assert_eq!(done.code, 0);
    let why =
        "no sample begins with vllm: or process_start_time_seconds; the page has sglang: (--scrape-match keeps them)";
    assert!(done.stderr.contains(why) && !done.stderr.contains("URL of --scrape right"), "{}", done.stderr);
    // The section says that it has nothing.
    let done = fire(&sim.url, &["--scrape", &url, "--scrape-match", "sglang:"], &requests(3, FULL));
    let table = run("vb-stats", &["--table", "full"], &done.stdout).stderr;
    assert!(table.contains("Nothing is known: see the notes below."), "{table}");
    assert!(table.contains("server: nothing is known about the server: its pages have none"), "{table}");
}
