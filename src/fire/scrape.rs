//! `--scrape`: the server's own numbers, sampled by a thread that has nothing to do with the load.
//!
//! ```text
//! the run:     warm-up ── begin ── the load … its last outcome ── end ── the end record
//! the thread:             first page  │ a page each interval │      last page
//!                                     └──────────────▶ sink ◀─────────┘
//! ```
//!
//! Nothing waits for a page but the moments before and behind the load.

use std::{
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT},
};
use tokio::{
    runtime::Builder,
    sync::oneshot,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{Args, args::TransportKind, backlog::Backlog, headers::Headers, sink::Entry};
use crate::{
    cli,
    clock::Clock,
    error::Error,
    http::{client, exchange::status_line, prometheus},
    record::{Object, ScrapeRecord},
    units::Nanos,
};

/// The longest wait for a page.
const PATIENCE: Nanos = Nanos(5_000_000_000);

/// The longest page that is read.
const LONGEST_PAGE: usize = 16 << 20;

/// A server may count the end of an answer a moment after it has sent it.
const SETTLING: Duration = Duration::from_millis(300);

/// The pages of a run, as far as the run has to do with them.
#[derive(Debug)]
pub struct Scraper {
    outlet: oneshot::Sender<Outlet>,
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

/// Where the pages of a run go.
#[derive(Debug)]
pub struct Outlet {
    /// The run they belong to.
    pub run_id: String,
    /// To the sink.
    pub entries: std_mpsc::Sender<Entry>,
    /// What waits there.
    pub backlog: Arc<Backlog>,
}

impl Scraper {
    /// Reads the first page, as near to the start of the load as can be; `None` without `--scrape`.
    pub async fn begin(args: &Args, base: &Url, headers: &Headers) -> Result<Option<Self>, Error> {
        let Some(url) = args.scrape_url(base)? else { return Ok(None) };
        if args.num_warmups > 0 {
            sleep(SETTLING).await;
        }
        let proxies = args.transport == TransportKind::Portable;
        let client = client::async_client(&url, headers_for(&url, base, headers), args.insecure, PATIENCE, proxies)?;
        let reader = Reader {
            client,
            clock: Clock::start(),
            url,
            families: args.scrape_match.clone(),
            scrub: headers.clone(),
            whole_before: false,
            warned: false,
        };
        Scraper::start(reader, args.scrape_interval.to_duration()).await.map(Some)
    }

    /// Starts the thread, and waits for its first page.
    async fn start(reader: Reader, pause: Duration) -> Result<Self, Error> {
        let (begun, first) = oneshot::channel();
        let (outlet, outlets) = oneshot::channel();
        let (end, ends) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let failed = |e| Error::Setup(format!("cannot start the thread that reads --scrape: {e}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let life = move || {
            runtime.block_on(follow(reader, pause, begun, outlets, ends));
            let _ = done.send(());
        };
        thread::Builder::new().name("scrape".into()).spawn(life).map_err(failed)?;
        // A thread that is gone has said why.
        let _ = first.await;
        Ok(Scraper { outlet, end, ended })
    }

    /// Writes the first page, and from now on one each interval; gives what ends that.
    pub fn follow(self, outlet: Outlet) -> Ending {
        let _ = self.outlet.send(outlet);
        Ending { end: self.end, ended: self.ended }
    }
}

/// The end of the pages, which is to be asked for. Dropped, it ends them without a last one.
#[derive(Debug)]
pub struct Ending {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Ending {
    /// Reads the last page.
    pub async fn end(self) {
        if self.end.send(()).is_ok() {
            let _ = self.ended.await;
        }
    }
}

/// The headers of the requests go to the server that they are for, and to no other: a key may be among them.
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

/// The life of the thread.
async fn follow(
    mut reader: Reader,
    pause: Duration,
    begun: oneshot::Sender<()>,
    outlets: oneshot::Receiver<Outlet>,
    mut end: oneshot::Receiver<()>,
) {
    let first = reader.read(true).await;
    let _ = begun.send(());
    let Ok(outlet) = outlets.await else { return };
    outlet.write(first);
    let mut ticks = interval(pause);
    // One that comes late is not made up for: a server under load need not be asked twice in a row.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks.tick().await;
    let ended = loop {
        let page = async {
            ticks.tick().await;
            reader.read(false).await
        };
        tokio::select! {
            biased;
            ended = &mut end => break ended,
            page = page => outlet.write(page),
        }
    };
    if ended.is_ok() {
        sleep(SETTLING).await;
        outlet.write(reader.read(true).await);
    }
}

impl Outlet {
    fn write(&self, page: ScrapeRecord) {
        let record = ScrapeRecord { run_id: self.run_id.clone(), ..page };
        // Names, with about so much around each.
        let size = record.metrics.keys().map(|key| key.len() as u64 + 100).sum();
        self.backlog.more(size);
        // The sink is there until the last sender is gone.
        let _ = self.entries.send(Entry::Scrape { record, size });
    }
}

/// Reads pages.
struct Reader {
    client: Client,
    clock: Clock,
    url: Url,
    /// What the names of samples that are kept begin with.
    families: Vec<String>,
    scrub: Headers,
    /// Whether a page with all its samples has been read.
    whole_before: bool,
    warned: bool,
}

impl Reader {
    /// Reads a page; `last`, or as long as there was none, with all its samples.
    async fn read(&mut self, last: bool) -> ScrapeRecord {
        let asked = self.clock.now();
        let page = self.page().await;
        let took = self.clock.now().since(asked);
        let whole = last || !self.whole_before;
        let read = page.and_then(|page| {
            let metrics = self.metrics(&page, whole);
            let none = || format!("no sample there begins with {}", self.families.join(" or "));
            (!metrics.is_empty()).then_some(metrics).ok_or_else(none)
        });
        let (metrics, error) = match read {
            Ok(metrics) => (metrics, None),
            Err(error) => (Object::new(), Some(self.scrub.scrub(error))),
        };
        self.whole_before |= error.is_none() && whole;
        if let Some(error) = error.as_ref().filter(|_| !self.warned) {
            self.warned = true;
            let cure = "the load goes on; is the URL of --scrape right?";
            cli::print_warning("vb-fire", format_args!("{} cannot be read: {error}; {cure}", self.url));
        }
        ScrapeRecord {
            time: self.clock.to_unix(asked),
            url: self.url.to_string(),
            took,
            error,
            metrics,
            ..ScrapeRecord::default()
        }
    }

    async fn page(&self) -> Result<String, String> {
        let answer = self.client.get(self.url.clone()).send().await.map_err(|e| why(&e))?;
        if answer.status() != StatusCode::OK {
            return Err(format!("the answer is HTTP {}", status_line(answer.status())));
        }
        text(answer).await
    }

    fn metrics(&self, page: &str, whole: bool) -> Object {
        let wanted = |key: &str| {
            let name = prometheus::sample_name(key);
            let rare = name.ends_with("_bucket") || name.ends_with("_info");
            self.families.iter().any(|family| name.starts_with(family))
                && !name.ends_with("_created")
                && (whole || !rare)
        };
        // What is no finite number is none in JSON either.
        let number = |value| serde_json::Number::from_f64(value).map(Into::into);
        let samples = prometheus::parse_samples(page).filter(|sample| wanted(sample.key));
        samples.filter_map(|sample| Some((sample.key.to_owned(), number(sample.value)?))).collect()
    }
}

async fn text(mut answer: Response) -> Result<String, String> {
    let mut page = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|e| why(&e))? {
        if page.len() + piece.len() > LONGEST_PAGE {
            return Err(format!("the page is longer than {} MiB", LONGEST_PAGE >> 20));
        }
        page.extend_from_slice(&piece);
    }
    String::from_utf8(page).map_err(|_| "the page is not UTF-8".into())
}

fn why(e: &reqwest::Error) -> String {
    if e.is_timeout() { format!("no answer within {PATIENCE}") } else { client::failure_reason(e) }
}

#[cfg(test)]
mod tests {
    use reqwest::header::AUTHORIZATION;

    use super::*;
    use crate::backend::Protocol;

    fn reader(families: &[&str]) -> Reader {
        let url: Url = "http://h:1/metrics".parse().unwrap();
        Reader {
            client: client::async_client(&url, HeaderMap::new(), false, PATIENCE, false).unwrap(),
            clock: Clock::start(),
            url,
            families: families.iter().map(ToString::to_string).collect(),
            scrub: Headers::default(),
            whole_before: false,
            warned: true,
        }
    }

    #[test]
    fn a_page_of_the_middle_has_no_buckets() {
        let page = include_str!("../../tests/data/metrics-vllm.txt");
        let reader = reader(&["vllm:", "process_start_time_seconds"]);
        let (whole, short) = (reader.metrics(page, true), reader.metrics(page, false));
        let rare = |key: &str| key.contains("_bucket{") || key.contains("_info{");
        assert!(whole.keys().any(|k| k.contains("_bucket{")) && whole.keys().any(|k| k.contains("_info{")));
        assert!(short.keys().all(|k| !rare(k)) && whole.keys().all(|k| !k.contains("_created")));
        assert_eq!(whole.keys().filter(|k| !rare(k)).count(), short.len());
        assert_eq!(short["vllm:prompt_tokens_total{engine=\"0\",model_name=\"tiny\"}"], 123_609.0);
        assert_eq!(short["process_start_time_seconds"], 1_795_485_284.16);
        assert!(self::reader(&["sglang:"]).metrics(page, true).is_empty());
        assert!(reader.metrics("vllm:a NaN\nvllm:b +Inf\n", true).is_empty());
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
