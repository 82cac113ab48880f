//! Runs that are summarized in parts, and pooled results: each compared with one exact result over all requests.

use std::fmt::Write;

use serde_json::Value;

use crate::tool::{folder, run, scramble};

/// A run at 50 requests per second, three tokens each, with latencies that oscillate, and alternating tags and turns.
fn stream(id: &str, from: u32, n: u32) -> String {
    let start = 1_795_485_600.0 + f64::from(from) / 50.0;
    let mut text = format!(
        "{{\"type\":\"run\",\"run_id\":\"{id}\",\"host\":\"{id}\",\"request_rate\":50,\"clock\":{{\"start\":{start}}}}}\n"
    );
    for i in from..from + n {
        let (due, swing) = (1_795_485_600.0 + f64::from(i) / 50.0, (scramble(u64::from(i)) % 1000) as f64 / 1000.0);
        let (ttft, gap, stall) = (0.05 + 0.05 * swing, 0.01 + 0.002 * swing, 0.02 * (1.0 - swing));
        let latency = ttft + gap + stall;
        let failed = i % 97 == 0;
        writeln!(
            text,
            "{{\"type\":\"output\",\"run_id\":\"{id}\",\"success\":{},\"error\":\"{}\",\"prompt_len\":{},\"output_tokens\":3,\
             \"token_source\":\"usage\",\"turn\":{},\"tags\":{{\"tenant\":\"{}\"}},\"scheduled_time\":{due},\"start_time\":{:.4},\
             \"queue_time\":0.001,\"ttft\":{ttft:.6},\"latency\":{latency:.6},\"itl\":[{gap:.6},{stall:.6}],\"phases\":{{\"done\":{latency:.6}}}}}",
            !failed,
            if failed { "broken" } else { "" },
            100 + i % 300,
            i % 2,
            ["a", "b", "c"][i as usize % 3],
            due + 0.001,
        )
        .unwrap();
    }
    let duration = f64::from(n) / 50.0 + 0.2;
    let end = format!(
        "{{\"type\":\"end\",\"run_id\":\"{id}\",\"duration\":{duration},\"offered\":{n},\"open_loop\":true}}\n"
    );
    text + &end
}

const FLAGS: [&str; 9] =
    ["--goodput", "ttft:90ms", "tpot:15ms", "--by", "tag:tenant", "input_len", "turn", "--slice", "10s"];

fn stats(more: &[&str], stdin: &str) -> Value {
    let done = run("vb-stats", &[&FLAGS[..], more].concat(), stdin);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    serde_json::from_str(&done.stdout).unwrap()
}

/// Asserts that all numbers are equal within the error of a histogram.
fn assert_close(got: &Value, want: &Value, path: &str, except: &[&str]) {
    let key = path.rsplit('/').next().unwrap_or_default();
    if except.contains(&key) {
        return;
    }
    match (got, want) {
        (Value::Object(got), Value::Object(want)) => {
            // Whether there are enough independent values for a percentile is an estimate too.
            let percentile = |key: &str| key.starts_with('p') && key[1..].parse::<f64>().is_ok();
            let keys = |of: &serde_json::Map<String, Value>| -> Vec<String> {
                of.keys().filter(|key| !except.contains(&key.as_str()) && !percentile(key)).cloned().collect()
            };
            assert_eq!(keys(got), keys(want), "{path}");
            want.iter().filter_map(|(key, want)| Some((key, got.get(key)?, want))).for_each(|(key, got, want)| {
                assert_close(got, want, &format!("{path}/{key}"), except);
            });
        }
        (Value::Array(got), Value::Array(want)) => {
            assert_eq!(got.len(), want.len(), "{path}");
            got.iter().zip(want).enumerate().for_each(|(i, (g, w))| assert_close(g, w, &format!("{path}/{i}"), except));
        }
        (Value::Number(got), Value::Number(want)) => {
            let (got, want) = (got.as_f64().unwrap(), want.as_f64().unwrap());
            assert!((got - want).abs() <= want.abs() * 5e-4 + 1e-6, "{path} is {got} and not {want}");
        }
        _ => assert_eq!(got, want, "{path}"),
    }
}

/// Keys that parts do not have, as the manual says, and estimates of uncertainty, which come from each part alone.
const OF_PARTS: [&str; 14] = [
    "success_interval",
    "attainment_interval",
    "percentile_error",
    "intervals",
    "n_effective",
    "upper_bounds",
    "doubt",
    "too_few",
    "run_length",
    "interval",
    "steady",
    "little",
    "histogram",
    "errors",
];

#[test]
fn a_run_summarized_in_parts_gives_the_same_numbers() {
    let run = stream("r", 0, 3000);
    let exact = stats(&[], &run);
    assert_eq!((&exact["vb"]["percentile_error"], &exact["vb"]["complete"]), (&Value::Null, &true.into()));
    // In about 3,000 × 27 / 10,000 parts.
    let in_parts = stats(&["--exact", "10k"], &run);
    let except = [
        &OF_PARTS[..],
        &["peak_concurrency", "peak_tokens_per_s", "max_output_tokens_per_s", "max_concurrent_requests"],
    ];
    assert_close(&in_parts, &exact, "", &except.concat());
    assert_eq!(in_parts["vb"]["percentile_error"], 1.0 / 2048.0);
    let (steady, whole) = (&in_parts["vb"]["steady"], &exact["vb"]["steady"]);
    assert_eq!((&steady["verdict"], &steady["from_s"]), (&"steady".into(), &whole["from_s"]));
    assert_eq!(steady["numbers"], Value::Null);
    assert!(whole["numbers"]["completed"].as_u64().unwrap() > 1000, "{whole}");
    assert_share_interval(&in_parts, 2000.0, 3000.5);
    for summary in [&in_parts["vb"]["from_start"]["ttft_ms"], &in_parts["vb"]["groups"][0]["tpot_ms"]] {
        assert!(summary.get("histogram").is_none() && summary["n_effective"].is_number(), "{summary}");
    }
}

/// Asserts that the intervals of both shares are Wilson's, for a number of independent requests between these.
fn assert_share_interval(result: &Value, least: f64, most: f64) {
    let vb = &result["vb"];
    let good = &vb["goodput"]["from_start"];
    let success = result["completed"].as_f64().unwrap() / result["num_prompts"].as_f64().unwrap();
    let shares =
        [(success, &vb["success_interval"]), (good["attainment"].as_f64().unwrap(), &good["attainment_interval"])];
    for (p, ends) in shares {
        let [low, high] = [0, 1].map(|end| ends[end].as_f64().unwrap_or_else(|| panic!("no interval: {ends}")));
        let n = 1.96_f64.powi(2) / (p * p / (low * high) - 1.0);
        assert!((least..=most).contains(&n) && low < p && p < high, "{p} in {ends}: {n}");
    }
}

/// Computes a result for each run, and pools the results.
fn pool_runs(name: &str, runs: &[String]) -> Value {
    let folder = folder(name);
    let mut paths = Vec::new();
    for (i, text) in runs.iter().enumerate() {
        let path = folder.join(format!("{i}.json"));
        std::fs::write(&path, stats(&["--histograms"], text).to_string()).unwrap();
        paths.push(path.to_str().unwrap().to_owned());
    }
    let args: Vec<&str> = std::iter::once("--pool").chain(paths.iter().map(String::as_str)).collect();
    let done = run("vb-agg", &args, "");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    serde_json::from_str(&done.stdout).unwrap()
}

#[test]
fn pooled_hosts_have_the_percentiles_of_one_stream() {
    // Three hosts of one load; the first request of each is due at the same time.
    let hosts = [stream("a", 0, 900), stream("b", 300, 900), stream("c", 500, 900)];
    let (pooled, one) = (pool_runs("pool-hosts", &hosts), stats(&[], &hosts.concat()));
    let except = [
        &OF_PARTS[..],
        &["peak_concurrency", "peak_tokens_per_s", "max_output_tokens_per_s", "max_concurrent_requests"],
    ];
    // The slices of each host start with the host.
    assert_close(&pooled, &one, "", &[&except.concat()[..], &["slices"]].concat());
    assert_eq!((&pooled["request_rate"], &pooled["num_prompts"]), (&150.into(), &2700.into()));
    assert_eq!(pooled["vb"]["hosts"], serde_json::json!(["a", "b", "c"]));
    assert_eq!(pooled["vb"]["errors"][0]["count"], one["vb"]["errors"][0]["count"]);
    assert_share_interval(&pooled, 400.0, 2700.5);
    let effective = |result: &Value| result["vb"]["from_start"]["ttft_ms"]["n_effective"].as_f64().unwrap();
    assert!(effective(&pooled) <= 900.0 * 2.0 + 1.0, "hosts share the server's load");
}

#[test]
fn pooled_repeats_count_no_time_between_them() {
    let repeats = [stream("a", 0, 900), stream("b", 5000, 900)];
    let pooled = pool_runs("pool-repeats", &repeats);
    let alone = stats(&[], &repeats[0]);
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap();
    assert!((number(&pooled, "duration") - 2.0 * number(&alone, "duration")).abs() < 1e-3, "{}", pooled["duration"]);
    assert!((number(&pooled, "request_throughput") / number(&alone, "request_throughput") - 1.0).abs() < 1e-3);
    assert_eq!(pooled["request_rate"], alone["request_rate"]);
    let [low, high] = [0, 1].map(|end| pooled["vb"]["requests_per_s"]["interval"][end].as_f64().unwrap());
    assert!(low < number(&pooled, "request_throughput") && number(&pooled, "request_throughput") < high);
}

#[test]
fn results_that_cannot_be_pooled_are_errors() {
    let without = stats(&[], &stream("a", 0, 100)).to_string();
    let both = format!("{without}\n{}", stats(&[], &stream("b", 5000, 100)));
    let whole = stats(&["--histograms"], &stream("a", 0, 100)).to_string();
    let twice = format!("{whole}\n{whole}");
    for (input, why) in [
        (twice.as_str(), "two results have the run a"),
        (both.as_str(), "write it with vb-stats --histograms"),
        ("{\"duration\":1}", "stdin: missing field"),
        ("", "nothing to pool"),
    ] {
        let done = run("vb-agg", &["--pool"], input);
        assert_eq!((done.code, done.stdout.as_str()), (3, ""), "{input}");
        assert!(done.stderr.contains(why), "{}", done.stderr);
    }
}

#[test]
fn invalid_groups_and_slices_are_errors() {
    for (flags, why) in [
        (["--by", "tenant"], "use tag:NAME, turn, input_len or output_len"),
        (["--slice", "0s"], "a slice must be longer than 0"),
        (["--exact", "0"], "must be at least 1"),
    ] {
        let done = run("vb-stats", &flags, "");
        assert_eq!(done.code, 2);
        assert!(done.stderr.contains(why), "{}", done.stderr);
    }
}

/// Rates per GPU are of the same GPUs, and means are not averages of means.
#[test]
fn pooled_rates_come_from_all_requests() {
    let home = folder("pool-rates");
    let texts = [stream("a", 0, 900), stream("b", 300, 600)];
    let pool = |gpus: [&str; 2]| {
        let paths: Vec<String> = (0..2)
            .map(|i| {
                let path = home.join(format!("{i}.json"));
                std::fs::write(&path, stats(&["--histograms", "--gpus", gpus[i]], &texts[i]).to_string()).unwrap();
                path.to_str().unwrap().to_owned()
            })
            .collect();
        let done = run("vb-agg", &["--pool", &paths[0], &paths[1]], "");
        serde_json::from_str::<Value>(&done.stdout).unwrap()
    };
    let (pooled, one) = (pool(["8", "8"]), stats(&["--gpus", "8"], &texts.concat()));
    for path in ["per_gpu", "mean_concurrency", "tokens_per_s_per_user", "slowest_1_percent"] {
        assert!(one["vb"][path].is_object() || one["vb"][path].is_number(), "{path}");
        assert_close(&pooled["vb"][path], &one["vb"][path], path, &[]);
    }
    assert_eq!(pooled["vb"]["per_gpu"]["gpus"], 8);
    assert_eq!(pool(["8", "4"])["vb"]["per_gpu"], Value::Null);
}
