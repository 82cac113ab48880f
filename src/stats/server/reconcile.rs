//! Compares the client's means with the server's: where the time went, and what contradicts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ServerMetrics, Times};
use crate::units::{Nanos, SECOND, UnixNanos};

/// A difference below this, or below this share of the latency, needs no explanation.
const MAX_OUTSIDE_MS: f64 = 5.0;
const MAX_OUTSIDE_SHARE: f64 = 0.05;

/// The server's mean may exceed the client's by this much: their clocks and their rounding differ.
const SLACK_MS: f64 = 1.0;
const SLACK_SHARE: f64 = 0.01;

const ITL: &str = "ITL";

/// What the clients of a run measured.
#[derive(Debug, Clone, Default)]
pub struct ClientView {
    /// Requests that may have reached the server.
    pub sent: u64,
    /// Requests that succeeded.
    pub completed: u64,
    /// Mean TTFT over successes, in milliseconds; `None` without values.
    pub ttft_ms: Option<f64>,
    /// Mean gap between chunks.
    pub itl_per_chunk_ms: Option<f64>,
    /// Mean gap between tokens.
    pub itl_per_token_ms: Option<f64>,
    /// Mean time from start to the last token.
    pub e2el_ms: Option<f64>,
    /// Whether the kernel stamped the chunks, and late reads distorted none of the stamps: the client's own lag is not part of
    /// its times.
    pub true_stamps: bool,
    /// The first and the last instant of any request.
    pub span: Option<(UnixNanos, UnixNanos)>,
}

/// Means of the client and of the server, over the same requests if nothing else used the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(clippy::struct_field_names, reason = "they have their unit, as all keys of the result")]
pub struct Reconciled {
    /// Time to first token.
    pub ttft_ms: Option<Parts>,
    /// Inter-token latency.
    pub itl_ms: Option<Parts>,
    /// End-to-end latency.
    pub e2el_ms: Option<Parts>,
}

/// A mean latency of the client and its parts, in milliseconds: `client` = `queue` + `prefill` + `decode` + `frontend` +
/// `outside`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Parts {
    /// As the client measured it.
    pub client: f64,
    /// As the server measured it.
    pub server: f64,
    /// Time in the engine's queue; `null` if not part of this latency, or not reported.
    pub queue: Option<f64>,
    /// First scheduled → first token.
    pub prefill: Option<f64>,
    /// First token → last token.
    pub decode: Option<f64>,
    /// The remainder of `server`: between its API and its engine.
    pub frontend: Option<f64>,
    /// `client` − `server`: the network, the server's HTTP layer, and the client.
    pub outside: f64,
}

impl Reconciled {
    /// Compares all latencies that both sides have.
    #[must_use]
    pub fn compare_means(server: &ServerMetrics, client: &ClientView) -> Self {
        let mean = |times: Option<Times>| times.map(|times| times.mean);
        let (queue, prefill, decode) = (mean(server.queue_ms), mean(server.prefill_ms), mean(server.decode_ms));
        let parts = |client: Option<f64>, server: Option<Times>, parts: [Option<f64>; 3]| {
            let (client, server) = client.zip(mean(server))?;
            let known: f64 = parts.iter().flatten().sum();
            let [queue, prefill, decode] = parts;
            let frontend = queue.and(prefill).map(|_| server - known);
            Some(Parts { client, server, queue, prefill, decode, frontend, outside: client - server })
        };
        // vLLM counts one gap per step of a request, and speculative decoding gives several tokens per step.
        let steps = server.spec_decode.as_ref().is_some_and(|spec| spec.drafts > 0);
        let itl = if steps { client.itl_per_chunk_ms } else { client.itl_per_token_ms };
        Reconciled {
            ttft_ms: parts(client.ttft_ms, server.ttft_ms, [queue, prefill, None]),
            itl_ms: parts(itl, server.itl_ms, [None; 3]),
            e2el_ms: parts(client.e2el_ms, server.e2el_ms, [queue, prefill, decode]),
        }
    }

    /// The known latencies by name.
    pub fn known_latencies(&self) -> impl Iterator<Item = (&'static str, Parts)> {
        let all = [("TTFT", self.ttft_ms), (ITL, self.itl_ms), ("E2EL", self.e2el_ms)];
        all.into_iter().filter_map(|(name, parts)| Some((name, parts?)))
    }
}

/// Contradictions, the most serious first.
pub fn find_mismatches(
    server: &ServerMetrics,
    pages: Option<(UnixNanos, UnixNanos)>,
    client: &ClientView,
) -> Vec<String> {
    let mut notes = Vec::new();
    if server.resets > 0 {
        let times = if server.resets == 1 { "once".to_owned() } else { format!("{} times", server.resets) };
        notes.push(format!(
            "the server reset its counters {times}: it was restarted, or several servers share one address; what it had \
             counted since the page before is lost"
        ));
    }
    let uncovered = pages.zip(client.span).and_then(|(pages, load)| uncovered_load(pages, load));
    let covered = uncovered.is_none();
    notes.extend(uncovered);
    if covered {
        notes.extend(load_of_others(server, client));
    }
    for (name, parts) in server.reconciled.known_latencies() {
        notes.extend(unexplained_time(name, parts, client.true_stamps));
    }
    notes
}

/// Pages that do not cover the load: a truncated run, or a server that did not respond.
fn uncovered_load(pages: (UnixNanos, UnixNanos), load: (UnixNanos, UnixNanos)) -> Option<String> {
    let (late, early) = (pages.0.since(load.0), load.1.since(pages.1));
    // Each host of a run has its own clock.
    (late.max(early) > Nanos(SECOND / 10)).then(|| {
        format!(
            "the pages do not span the load: the first was read {late} after its start, the last {early} before its end"
        )
    })
}

fn load_of_others(server: &ServerMetrics, client: &ClientView) -> Option<String> {
    let finished = server.count_finished()?;
    if finished > client.sent && client.sent > 1 && finished.is_multiple_of(client.sent) {
        return Some(format!(
            "the server finished {finished} requests, exactly {} for each of the {} that the clients here sent: it makes \
             several engine requests of one (choices, or prefill and decode apart), so its numbers are per engine request",
            finished / client.sent,
            client.sent
        ));
    }
    if finished > client.sent {
        return Some(format!(
            "the server finished {finished} requests and the clients here sent {}: others used it too (or requests ask \
             for several choices), so its numbers are not only of this load",
            client.sent
        ));
    }
    (finished < client.completed).then(|| {
        format!(
            "the server finished {finished} requests and the clients here got {} responses: it is not the only server at this \
             address",
            client.completed
        )
    })
}

fn unexplained_time(name: &str, parts: Parts, true_stamps: bool) -> Option<String> {
    let Parts { client, server, outside, .. } = parts;
    // Gaps may be shorter at the client: the server holds back the bytes of an incomplete character, and sends them with the
    // next token.
    if name != ITL && -outside > SLACK_MS.max(client * SLACK_SHARE) {
        return Some(format!(
            "the mean {name} is {client:.2} ms here and {server:.2} ms at the server, which cannot be longer: the server also \
             counts other requests"
        ));
    }
    (outside > MAX_OUTSIDE_MS.max(client * MAX_OUTSIDE_SHARE)).then(|| {
        let whose = if true_stamps {
            "chunks are stamped by the kernel, so it is the network or the server's HTTP layer"
        } else {
            "it is the network, the server's HTTP layer, or this client's own lag"
        };
        format!("{outside:.2} ms of the mean {name} of {client:.2} ms are outside of the server's own count: {whose}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn times(mean: f64) -> Times {
        Times { n: 10, mean, p50: None, p90: None, p99: None }
    }

    /// A server with these means in milliseconds, and a client that sent ten requests.
    fn both(client_ttft: f64, server_ttft: f64, finished: u64) -> (ServerMetrics, ClientView) {
        let client = ClientView {
            sent: 10,
            completed: 10,
            ttft_ms: Some(client_ttft),
            true_stamps: true,
            ..ClientView::default()
        };
        let mut server = ServerMetrics {
            ttft_ms: Some(times(server_ttft)),
            finished: json!({"length": finished}).as_object().cloned(),
            ..ServerMetrics::default()
        };
        server.reconciled = Reconciled::compare_means(&server, &client);
        (server, client)
    }

    fn notes_for(client_ttft: f64, server_ttft: f64, finished: u64) -> String {
        let (server, client) = both(client_ttft, server_ttft, finished);
        find_mismatches(&server, None, &client).join("; ")
    }

    #[test]
    fn time_outside_is_noted_if_it_is_large_in_both_measures() {
        assert_eq!(notes_for(104.9, 100.0, 10), "", "below 5 ms");
        assert_eq!(notes_for(210.0, 200.0, 10), "", "below 5 %");
        let note = notes_for(110.0, 100.0, 10);
        assert!(note.starts_with("10.00 ms of the mean TTFT of 110.00 ms") && note.contains("by the kernel"), "{note}");
        let (server, client) = both(110.0, 100.0, 10);
        let user = find_mismatches(&server, None, &ClientView { true_stamps: false, ..client }).join("");
        assert!(user.ends_with("or this client's own lag"), "{user}");
    }

    #[test]
    fn a_server_that_is_slower_than_its_client_counts_others() {
        assert_eq!((notes_for(99.1, 100.0, 10), notes_for(990.5, 1000.0, 10)), (String::new(), String::new()));
        assert!(notes_for(98.0, 100.0, 10).contains("which cannot be longer"));
        let parts = Parts { client: 90.0, server: 100.0, outside: -10.0, ..Parts::default() };
        assert_eq!(unexplained_time(ITL, parts, true), None, "text that is held back makes gaps shorter");
    }

    #[test]
    fn requests_of_others_show_in_the_count() {
        let twice = notes_for(1.0, 1.0, 20);
        assert!(twice.contains("exactly 2 for each of the 10") && !twice.contains("others used it"), "{twice}");
        assert!(notes_for(1.0, 1.0, 11).starts_with("the server finished 11 requests and the clients here sent 10"));
        assert!(
            notes_for(1.0, 1.0, 9).starts_with("the server finished 9 requests and the clients here got 10 responses")
        );
        let (server, client) = both(1.0, 1.0, 11);
        // Three more were sent and failed here; the server may have finished them.
        assert!(find_mismatches(&server, None, &ClientView { sent: 13, ..client }).is_empty());
    }

    #[test]
    fn unknown_parts_leave_the_frontend_unknown() {
        let (mut server, client) = both(30.0, 25.0, 10);
        server.queue_ms = Some(times(2.0));
        let parts = Reconciled::compare_means(&server, &client).ttft_ms.unwrap();
        assert_eq!((parts.queue, parts.frontend, parts.outside), (Some(2.0), None, 5.0));
        server.prefill_ms = Some(times(20.0));
        let parts = Reconciled::compare_means(&server, &client).ttft_ms.unwrap();
        assert_eq!((parts.prefill, parts.frontend), (Some(20.0), Some(3.0)));
    }

    #[test]
    fn the_clocks_of_hosts_may_differ_a_little() {
        let at = |ms: u64| UnixNanos(SECOND * 1000 + ms * 1_000_000);
        assert_eq!(uncovered_load((at(50), at(900)), (at(0), at(950))), None);
        assert!(
            uncovered_load((at(200), at(900)), (at(0), at(950))).unwrap().contains("the first was read 200.0 ms after")
        );
    }
}
