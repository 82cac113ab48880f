//! `--scrape`: the server's metrics, read by a thread that does not take part in the load.
//!
//! ```text
//! the run:     warm-up ── start ──── the load … its last outcome ── end ──── the end record
//! the thread:             first scrape │ a scrape each interval │   last scrape
//!                                      └───────────▶ sink ◀──────────────┘
//! ```
//!
//! Only the moments before and after the load wait for a scrape.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use reqwest::{
    Client, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT},
};
use tokio::{
    runtime::Builder,
    sync::oneshot,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{Args, args::TransportKind, backlog::Backlog, headers::Headers, sink::SinkEntry};
use crate::{
    cli,
    clock::Clock,
    error::Error,
    http::{
        client::{self, BodyError},
        exchange::status_line,
        prometheus,
    },
    record::{Object, ScrapeRecord},
    units::Nanos,
};

/// The longest wait for a scrape.
const SCRAPE_TIMEOUT: Nanos = Nanos(5_000_000_000);

/// The largest metrics page that is read.
const MAX_PAGE: usize = 16 << 20;

/// A server may count the end of a response a moment after it has sent it.
const SETTLE_TIME: Duration = Duration::from_millis(300);

/// A thread that reads metrics and waits to be connected to the sink.
#[derive(Debug)]
pub struct Scraper {
    output: oneshot::Sender<ScrapeOutput>,
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

/// Where the scrapes of a run go.
#[derive(Debug)]
pub struct ScrapeOutput {
    /// The run that they belong to.
    pub run_id: String,
    /// To the sink.
    pub entries: std_mpsc::Sender<SinkEntry>,
    /// Bytes that wait there.
    pub backlog: Arc<Backlog>,
}

impl Scraper {
    /// Reads the first scrape, as close to the start of the load as possible; `None` without `--scrape`.
    pub async fn start_if_asked(args: &Args, base: &Url, headers: &Headers) -> Result<Option<Self>, Error> {
        let Some(url) = args.scrape_url(base)? else { return Ok(None) };
        if args.num_warmups > 0 {
            sleep(SETTLE_TIME).await;
        }
        let proxies = args.transport == TransportKind::Portable;
        let client =
            client::async_client(&url, &headers_for(&url, base, headers), args.insecure, SCRAPE_TIMEOUT, proxies)?;
        let reader = MetricsReader {
            client,
            clock: Clock::start(),
            url,
            families: args.scrape_match.clone(),
            headers: headers.clone(),
            has_full_scrape: false,
            warned: false,
        };
        Scraper::start(reader, args.scrape_interval.to_duration()).await.map(Some)
    }

    /// Starts the thread and waits for its first scrape.
    async fn start(reader: MetricsReader, pause: Duration) -> Result<Self, Error> {
        let (first_read, first) = oneshot::channel();
        let (output, outputs) = oneshot::channel();
        let (end, ends) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let failed = |e| Error::Setup(format!("cannot start the thread that reads --scrape: {e}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let thread_main = move || {
            runtime.block_on(run_scrapes(reader, pause, first_read, outputs, ends));
            let _ = done.send(());
        };
        thread::Builder::new().name("scrape".into()).spawn(thread_main).map_err(failed)?;
        // A thread that panicked has printed why.
        let _ = first.await;
        Ok(Scraper { output, end, ended })
    }

    /// Writes the first scrape, and then one each interval.
    pub fn start_writing(self, output: ScrapeOutput) -> RunningScraper {
        let _ = self.output.send(output);
        RunningScraper { end: self.end, ended: self.ended }
    }
}

/// A thread that writes scrapes. If this is dropped, they end without a last one.
#[derive(Debug)]
pub struct RunningScraper {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl RunningScraper {
    /// Reads the last scrape and ends the thread.
    pub async fn finish(self) {
        if self.end.send(()).is_ok() {
            let _ = self.ended.await;
        }
    }
}

/// The headers for scrapes. The headers of the requests may hold a key, so only the server of the requests receives them.
fn headers_for(url: &Url, base: &Url, headers: &Headers) -> HeaderMap {
    let mut own = if url.origin() == base.origin() {
        headers.map.clone()
    } else {
        headers.map.get(USER_AGENT).map(|agent| (USER_AGENT, agent.clone())).into_iter().collect()
    };
    own.remove(CONTENT_TYPE);
    own.insert(ACCEPT, HeaderValue::from_static("text/plain"));
    own
}

/// What the thread runs.
async fn run_scrapes(
    mut reader: MetricsReader,
    pause: Duration,
    first_read: oneshot::Sender<()>,
    outputs: oneshot::Receiver<ScrapeOutput>,
    mut end: oneshot::Receiver<()>,
) {
    let first = reader.read_metrics(true).await;
    let _ = first_read.send(());
    let Ok(output) = outputs.await else { return };
    output.send_scrape(first);
    let mut ticks = interval(pause);
    // A late scrape is not followed by another at once: that would only add to the load.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks.tick().await;
    let ended = loop {
        let page = async {
            ticks.tick().await;
            reader.read_metrics(false).await
        };
        tokio::select! {
            biased;
            ended = &mut end => break ended,
            page = page => output.send_scrape(page),
        }
    };
    if ended.is_ok() {
        sleep(SETTLE_TIME).await;
        output.send_scrape(reader.read_metrics(true).await);
    }
}

impl ScrapeOutput {
    fn send_scrape(&self, scrape: ScrapeRecord) {
        let record = ScrapeRecord { run_id: self.run_id.clone(), ..scrape };
        // The names, and about 100 bytes for the rest of each sample.
        let size = record.metrics.keys().map(|key| key.len() as u64 + 100).sum();
        self.backlog.add_bytes(size);
        // The sink runs until the last sender is dropped.
        let _ = self.entries.send(SinkEntry::Scrape { record, size });
    }
}

/// Reads metrics pages.
struct MetricsReader {
    client: Client,
    clock: Clock,
    url: Url,
    /// Prefixes of the names of samples to keep.
    families: Vec<String>,
    headers: Headers,
    /// Whether a scrape with all samples has been read.
    has_full_scrape: bool,
    warned: bool,
}

impl MetricsReader {
    /// Reads the metrics. The first and the `last` scrape keep all samples.
    async fn read_metrics(&mut self, last: bool) -> ScrapeRecord {
        let sent = self.clock.now();
        let page = self.fetch_page().await;
        let took = self.clock.now().since(sent);
        let full = last || !self.has_full_scrape;
        let fetched = page.is_ok();
        let read = page.and_then(|page| {
            let mut metrics = self.select_samples(&page, full);
            // Every engine has metrics of its process. Without others they say nothing about it.
            if self.families.len() > 1 && metrics.keys().all(|key| key.starts_with(PROCESS_PREFIX)) {
                metrics.clear();
            }
            let none = || no_sample_text(&self.families, &page);
            (!metrics.is_empty()).then_some(metrics).ok_or_else(none)
        });
        let (metrics, error) = match read {
            Ok(metrics) => (metrics, None),
            Err(error) => (Object::new(), Some(self.headers.scrub_text(&error))),
        };
        self.has_full_scrape |= error.is_none() && full;
        if let Some(error) = error.as_ref().filter(|_| !self.warned) {
            self.warned = true;
            let (what, cure) =
                if fetched { ("is of no use", "") } else { ("cannot be read", "; is the URL of --scrape right?") };
            cli::print_warning("vb-fire", format_args!("{} {what}: {error}; the load goes on{cure}", self.url));
        }
        ScrapeRecord {
            time: self.clock.to_unix(sent),
            url: self.url.to_string(),
            took,
            error,
            metrics,
            ..ScrapeRecord::default()
        }
    }

    async fn fetch_page(&self) -> Result<String, String> {
        let response = self.client.get(self.url.clone()).send().await.map_err(|e| error_text(&e))?;
        if response.status() != StatusCode::OK {
            return Err(format!("the response is HTTP {}", status_line(response.status())));
        }
        let page = client::read_body(response, MAX_PAGE).await.map_err(|e| match e {
            BodyError::TimedOut => no_response_text(),
            other => other.to_string(),
        })?;
        String::from_utf8(page).map_err(|_| "the page is not UTF-8".into())
    }

    fn select_samples(&self, page: &str, full: bool) -> Object {
        let wanted = |key: &str| {
            let name = prometheus::sample_name(key);
            let rare = name.ends_with("_bucket") || name.ends_with("_info");
            self.families.iter().any(|family| name.starts_with(family))
                && !name.ends_with("_created")
                && (full || !rare)
        };
        // JSON has only finite numbers.
        let number = |value| serde_json::Number::from_f64(value).map(Into::into);
        let samples = prometheus::parse_samples(page).filter(|sample| wanted(sample.key));
        let hidden = |key: &str| self.headers.secrets.hide_whole(key).into_owned();
        samples.filter_map(|sample| Some((hidden(sample.key), number(sample.value)?))).collect()
    }
}

/// The metrics of the process of a server, as of any program.
const PROCESS_PREFIX: &str = "process_";

/// The most prefixes that a message names.
const MAX_PREFIXES: usize = 5;

/// Says that no sample of a page is wanted, and what the page has instead.
fn no_sample_text(families: &[String], page: &str) -> String {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for sample in prometheus::parse_samples(page) {
        *found.entry(name_prefix(prometheus::sample_name(sample.key))).or_default() += 1;
    }
    found.remove(PROCESS_PREFIX);
    let mut found: Vec<(&str, usize)> = found.into_iter().collect();
    found.sort_by_key(|(prefix, count)| (Reverse(*count), *prefix));
    let names: Vec<&str> = found.iter().take(MAX_PREFIXES).map(|(prefix, _)| *prefix).collect();
    let what = format!("no sample begins with {}", families.join(" or "));
    match names.as_slice() {
        [] => format!("{what}: the page has no samples"),
        names => format!("{what}; the page has {} (--scrape-match keeps them)", names.join(", ")),
    }
}

/// The part of a name that its engine or library shares: `sglang:` or `nv_`.
fn name_prefix(name: &str) -> &str {
    let end = name.find(':').or_else(|| name.find('_')).map_or(name.len(), |at| at + 1);
    &name[..end]
}

fn error_text(e: &reqwest::Error) -> String {
    if e.is_timeout() { no_response_text() } else { client::failure_reason(e) }
}

fn no_response_text() -> String {
    format!("no response within {SCRAPE_TIMEOUT}")
}

#[cfg(test)]
mod tests {
    use reqwest::header::AUTHORIZATION;

    use super::*;
    use crate::backend::Protocol;

    fn reader(families: &[&str]) -> MetricsReader {
        let url: Url = "http://h:1/metrics".parse().unwrap();
        MetricsReader {
            client: client::async_client(&url, &HeaderMap::new(), false, SCRAPE_TIMEOUT, false).unwrap(),
            clock: Clock::start(),
            url,
            families: families.iter().map(ToString::to_string).collect(),
            headers: Headers::default(),
            has_full_scrape: false,
            warned: true,
        }
    }

    #[test]
    fn a_page_of_the_middle_has_no_buckets() {
        let page = include_str!("../../tests/data/metrics-vllm.txt");
        let reader = reader(&["vllm:", "process_start_time_seconds"]);
        let (full, short) = (reader.select_samples(page, true), reader.select_samples(page, false));
        let rare = |key: &str| key.contains("_bucket{") || key.contains("_info{");
        assert!(full.keys().any(|k| k.contains("_bucket{")) && full.keys().any(|k| k.contains("_info{")));
        assert!(short.keys().all(|k| !rare(k)) && full.keys().all(|k| !k.contains("_created")));
        assert_eq!(full.keys().filter(|k| !rare(k)).count(), short.len());
        assert_eq!(short["vllm:prompt_tokens_total{engine=\"0\",model_name=\"tiny\"}"], 123_609.0);
        assert_eq!(short["process_start_time_seconds"], 1_795_485_284.16);
        assert!(self::reader(&["sglang:"]).select_samples(page, true).is_empty());
        assert!(reader.select_samples("vllm:a NaN\nvllm:b +Inf\n", true).is_empty());
    }

    #[test]
    fn a_page_of_another_engine_is_described() {
        let families = ["vllm:".to_owned()];
        let page = "process_start_time_seconds 5\nsglang:a 1\nsglang:b{x=\"1\"} 2\nnv_gpu 3\nup 1\n";
        assert_eq!(
            no_sample_text(&families, page),
            "no sample begins with vllm:; the page has sglang:, nv_, up (--scrape-match keeps them)"
        );
        assert!(no_sample_text(&families, "<html>").ends_with("no samples"));
    }

    #[test]
    fn the_key_goes_to_its_server_only() {
        let headers =
            Headers::new(&["x-team=red".to_owned()], Some("sk-12345678".into()), Protocol::default(), &[]).unwrap();
        let base: Url = "http://h:8000/v1".parse().unwrap();
        let own = headers_for(&"http://h:8000/metrics".parse().unwrap(), &base, &headers);
        assert_eq!(
            (&own[AUTHORIZATION], &own["x-team"]),
            (&"Bearer sk-12345678".parse().unwrap(), &"red".parse().unwrap())
        );
        for other in ["http://h:8001/metrics", "https://h:8000/metrics", "http://g:8000/metrics"] {
            let other = headers_for(&other.parse().unwrap(), &base, &headers);
            assert_eq!((other.get(AUTHORIZATION), other.get("x-team"), other.len()), (None, None, 2));
        }
    }
}
