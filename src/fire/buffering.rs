//! Whether a proxy held the chunks of responses back and passed them on in bursts: a pure function of when they arrived.
//!
//! A server that decodes several tokens per step, as with speculative decoding, also sends bursts. But its first token comes from the
//! prefill, one step before the others, so that a response begins with a single chunk. A buffer holds the first chunks back too.

use crate::{
    record::{Buffering, Stamps, Verdict},
    units::Nanos,
};

/// Chunks that arrive within this time of each other are one burst: no model decodes 10,000 tokens per second for one response.
const BURST_GAP: Nanos = Nanos(100_000);
/// A buffer holds more chunks than this in each burst, also in the first.
const MIN_BURST: usize = 3;
/// A response with fewer chunks does not show how it was sent: a short delay of the server joins them all.
const MIN_CHUNKS: usize = 8;
/// In a shorter response, a few delays of the machine look like bursts.
const MIN_LATENCY: Nanos = Nanos(20_000_000);

/// Proxies by a word in the `Server` or `Via` header of their responses, and how buffering is turned off in each.
const CURES: [(&str, &str); 6] = [
    ("nginx", NGINX),
    ("openresty", NGINX),
    ("tengine", NGINX),
    ("apache", "set `flushpackets=on` for its ProxyPass"),
    ("caddy", "set `flush_interval -1` for its reverse_proxy"),
    ("envoy", "remove its buffer filter"),
];
const NGINX: &str = "set `proxy_buffering off`, or let the server send `X-Accel-Buffering: no`";

/// Whether a response was held back, from its time to the first chunk and the gaps between its chunks; `None`: it does not show.
#[must_use]
pub fn is_held_back(ttft: Option<Nanos>, gaps: &[Nanos], stamps: Stamps) -> Option<bool> {
    let latency = gaps.iter().fold(ttft?, |sum, gap| sum + *gap);
    // Chunks that the client read late have lost their own times.
    let read_late = stamps.late_coalesced * 2 > stamps.chunks;
    if gaps.len() + 1 < MIN_CHUNKS || latency < MIN_LATENCY || read_late {
        return None;
    }
    let first = gaps.iter().take_while(|gap| **gap <= BURST_GAP).count() + 1;
    let bursts = gaps.iter().filter(|gap| **gap > BURST_GAP).count() + 1;
    Some(first >= MIN_BURST && gaps.len() + 1 >= MIN_BURST * bursts)
}

impl Buffering {
    /// Counts a response. `server` is what it calls its server.
    pub fn count_response(&mut self, held_back: bool, server: Option<&str>) {
        self.compared += 1;
        if held_back {
            self.buffered += 1;
            if self.server.is_none() {
                self.server = server.map(shorten_name);
            }
        }
    }
}

/// Printable characters only, since it comes from the server.
fn shorten_name(name: &str) -> String {
    const MAX_CHARS: usize = 60;
    name.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_CHARS).collect()
}

/// The reason for the verdict, with the proxy and the cure.
#[must_use]
pub fn check_buffering(buffering: &Buffering) -> Option<(Verdict, String)> {
    if !buffering.hides_latencies() {
        return None;
    }
    let Buffering { compared, buffered, server } = buffering;
    let named = server.as_deref().unwrap_or_default();
    let cure = CURES.iter().find(|(word, _)| named.to_ascii_lowercase().contains(word)).map(|(_, cure)| *cure);
    let cure = cure.unwrap_or("turn off the buffering of responses, or measure without the proxy");
    let from = if named.is_empty() { String::new() } else { format!(" (its responses name `{named}`)") };
    Some((
        Verdict::Suspect,
        format!(
            "{buffered} of {compared} streamed responses arrived at once or in bursts: a proxy{from} or the server holds chunks back, so \
             TTFT, TPOT and ITL are not the model's: {cure}"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn held_back(ttft: u64, gaps: impl IntoIterator<Item = u64>) -> Option<bool> {
        let gaps: Vec<Nanos> = gaps.into_iter().map(Nanos).collect();
        let stamps = Stamps { chunks: gaps.len() as u64 + 1, ..Stamps::default() };
        is_held_back(Some(Nanos(ttft)), &gaps, stamps)
    }

    /// Steps of `pause`, each with these numbers of chunks.
    fn steps(pause: u64, sizes: &[usize]) -> Vec<u64> {
        let step = |size: &usize| [pause].into_iter().chain(std::iter::repeat_n(1000, size - 1)).collect::<Vec<_>>();
        sizes.iter().flat_map(step).skip(1).collect()
    }

    #[test]
    fn a_response_at_once_or_in_bursts_was_held_back() {
        // As nginx 1.22 sends them with proxy_buffering on: 8 chunks at once, 64 in its buffers of 4 KB.
        assert_eq!(held_back(96 * MS, [0; 7]), Some(true));
        assert_eq!(held_back(199 * MS, steps(178 * MS, &[17, 18, 18, 11])), Some(true));
        // Large chunks, as with logprobs: four per buffer.
        assert_eq!(held_back(80 * MS, steps(40 * MS, &[4, 4, 4, 4, 1])), Some(true));
        // A whole response in the packets of a slow line.
        assert_eq!(held_back(900 * MS, std::iter::repeat_n(40_000, 100)), Some(true));
    }

    #[test]
    fn a_server_that_sends_several_tokens_per_step_does_not_hold_back() {
        for pause in [5 * MS, 30 * MS] {
            // Each token alone; speculative decoding with a chunk per token; all drafts accepted; multi-step scheduling.
            for sizes in [&[1; 40][..], &[1, 3, 5, 1, 4, 2, 5, 3], &[1, 17, 17, 17], &[1, 8, 8, 7]] {
                assert_eq!(held_back(200 * MS, steps(pause, sizes)), Some(false), "{sizes:?}");
            }
        }
        // Few tokens after a long prompt, and a very fast model.
        assert_eq!(held_back(9000 * MS, steps(4 * MS, &[1; 8])), Some(false));
        assert_eq!(held_back(200 * MS, std::iter::repeat_n(300_000, 500)), Some(false));
        // The server was busy for a moment.
        assert_eq!(held_back(200 * MS, steps(10 * MS, &[3, 1, 1, 1, 4, 1, 1, 1, 1, 1])), Some(false));
    }

    #[test]
    fn what_does_not_show_is_not_judged() {
        assert_eq!(held_back(96 * MS, [0; 6]), None, "few chunks");
        assert_eq!(held_back(MS, [0; 7]), None, "a fast mock");
        assert_eq!(is_held_back(None, &[Nanos(0); 7], Stamps::default()), None, "not streamed");
        let late = Stamps { chunks: 8, late: 8, coalesced: 7, late_coalesced: 7, ..Stamps::default() };
        assert_eq!(is_held_back(Some(Nanos(96 * MS)), &[Nanos(0); 7], late), None, "the client was late");
    }

    #[test]
    fn the_reason_names_the_proxy_and_its_cure() {
        let count = |buffered: u64, compared: u64, server: Option<&str>| {
            let mut buffering = Buffering::default();
            for n in 0..compared {
                buffering.count_response(n < buffered, server);
            }
            check_buffering(&buffering).map(|(verdict, reason)| {
                assert_eq!(verdict, Verdict::Suspect);
                reason
            })
        };
        let reason = count(40, 40, Some("nginx/1.22.1\u{1b}[2J")).unwrap();
        assert!(reason.contains("40 of 40") && reason.contains("`nginx/1.22.1[2J`"), "{reason}");
        assert!(reason.contains("proxy_buffering off"), "{reason}");
        assert!(count(1, 1, None).unwrap().contains("turn off the buffering"), "one request is enough");
        assert!(count(3, 10, Some("uvicorn")).unwrap().contains("`uvicorn`"));
        assert_eq!((count(2, 5, None), count(20, 100, None), count(0, 0, None)), (None, None, None));
    }
}
