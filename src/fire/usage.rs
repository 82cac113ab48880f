//! What the client uses of its machine: CPU time, waiting for a core, and how late it wakes.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use tokio::{runtime::Handle, task::JoinHandle};

use super::tally::percentiles;
use crate::{
    clock::Clock,
    error::Error,
    record::{ClientUse, Percentiles},
    units::{Nanos, SECOND},
};

/// The gap between two beats of a heart: often enough for a p99 of a run of seconds, seldom enough to cost nothing.
const BEAT: Nanos = Nanos(10_000_000);

/// CPU time used so far, by the process or by the thread that asks.
fn cpu_time(of: ClockId) -> Nanos {
    let time = clock_gettime(of);
    let part = |part: i64| u64::try_from(part).unwrap_or_default();
    Nanos(part(time.tv_sec) * SECOND + part(time.tv_nsec))
}

/// How long the thread that asks has waited for a core while it was ready to run; `None` where the system does not tell.
///
/// Linux's `schedstat`: time on the CPU, time in the run queue, turns, in nanoseconds. It counts waiting for other
/// programs on the core and for a CPU quota (cgroup), but neither a stopped process nor a virtual machine without a core.
fn run_queue_time() -> Option<Nanos> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Nanos)
}

/// Measures the client, from the start of a run to its end, both on the thread that sends.
#[derive(Debug)]
pub struct Watch {
    process: Nanos,
    sender: Probe,
    readers: Vec<(Handle, Probe)>,
    heart: Heart,
    beating: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Counts from now on, with `readers` being the event loops, each on its own thread.
    pub async fn start(readers: impl Iterator<Item = &Handle>, clock: Clock) -> Result<Self, Error> {
        let (heart, mut probes) = (Heart::new()?, Vec::new());
        for reader in readers {
            // A thread that is gone has nothing to tell.
            if let Ok(probe) = reader.spawn(async { Probe::start() }).await {
                probes.push((reader.clone(), probe));
            }
        }
        let beating = probes.iter().map(|(reader, _)| reader.spawn(heart.clone().beat(clock))).collect();
        let process = cpu_time(ClockId::ProcessCPUTime);
        Ok(Watch { process, sender: Probe::start(), readers: probes, heart, beating })
    }

    /// What was used since, in a run of this duration.
    pub async fn end(self, duration: Nanos) -> ClientUse {
        let sender = self.sender.end();
        let process = cpu_time(ClockId::ProcessCPUTime).since(self.process);
        self.beating.iter().for_each(JoinHandle::abort);
        let mut readers = Vec::new();
        for (reader, probe) in self.readers {
            readers.extend(reader.spawn(async move { probe.end() }).await);
        }
        ClientUse { wake_lag: self.heart.lags(), ..folded(duration, process, &readers, sender) }
    }
}

/// Measures one thread, from its start to its end. Both must be asked for on that thread.
#[derive(Debug)]
pub struct Probe(ThreadUse);

/// What a thread used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadUse {
    /// CPU time.
    pub cpu: Nanos,
    /// Ready, but without a core; `None`: the system does not tell.
    pub run_queue: Option<Nanos>,
}

impl ThreadUse {
    fn so_far() -> Self {
        ThreadUse { cpu: cpu_time(ClockId::ThreadCPUTime), run_queue: run_queue_time() }
    }
}

impl Probe {
    /// Counts from now on.
    #[must_use]
    pub fn start() -> Self {
        Probe(ThreadUse::so_far())
    }

    /// What this thread has used since.
    #[must_use]
    pub fn end(&self) -> ThreadUse {
        let (now, then) = (ThreadUse::so_far(), self.0);
        ThreadUse {
            cpu: now.cpu.since(then.cpu),
            run_queue: now.run_queue.zip(then.run_queue).map(|(now, then)| now.since(then)),
        }
    }
}

/// Folds what the process and its threads on the clock used during a run: those that read answers, and the one that sends
/// on time.
fn folded(duration: Nanos, process: Nanos, readers: &[ThreadUse], sender: ThreadUse) -> ClientUse {
    let of_run = |time: Nanos| time.as_secs_f64() / duration.as_secs_f64().max(1e-9);
    let busiest = readers.iter().map(|thread| thread.cpu).max().unwrap_or_default();
    let waited = readers.iter().chain([&sender]).filter_map(|thread| thread.run_queue).max();
    ClientUse {
        cpu: of_run(process),
        busiest_thread: of_run(busiest),
        run_queue: waited.map(of_run),
        ..ClientUse::default()
    }
}

/// Sets timers on the threads that read answers and notes how late they ring: as late as a read that was due then.
///
/// It sees whatever keeps a thread from its work, on any system: its own work, other programs, quotas, stops.
#[derive(Debug, Clone)]
pub struct Heart(Arc<Mutex<Histogram<u64>>>);

impl Heart {
    /// Before its first beat.
    pub fn new() -> Result<Self, Error> {
        let lags = Histogram::new(3).map_err(|e| Error::Setup(format!("cannot make a histogram: {e}")))?;
        Ok(Heart(Arc::new(Mutex::new(lags))))
    }

    /// Beats on the runtime that this runs on, without an end.
    pub async fn beat(self, clock: Clock) {
        let mut due = clock.now() + BEAT;
        loop {
            tokio::time::sleep(due.since(clock.now()).to_duration()).await;
            let now = clock.now();
            let mut lags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Each beat that was missed counts with its own lateness: so a long pause weighs as long as it was.
            while due <= now {
                // It grows as it must; only a value beyond 2⁶³ ns could be refused.
                let _ = lags.record(now.since(due).0);
                due = due + BEAT;
            }
        }
    }

    /// How late the beats were; `None` without any.
    #[must_use]
    pub fn lags(&self) -> Option<Percentiles> {
        let lags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        percentiles(&lags)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::reader::Readers, *};

    #[test]
    fn a_thread_that_works_uses_cpu_and_one_that_sleeps_does_not() {
        let probe = Probe::start();
        while probe.end().cpu < Nanos(5_000_000) {}
        let busy = probe.end();
        let idle = std::thread::spawn(|| {
            let probe = Probe::start();
            std::thread::sleep(Duration::from_millis(20));
            probe.end()
        });
        let idle = idle.join().unwrap();
        assert!(idle.cpu < busy.cpu, "{idle:?} {busy:?}");
        assert_eq!(busy.run_queue.is_some(), cfg!(target_os = "linux"));
    }

    #[test]
    fn the_worst_thread_counts() {
        let thread = |cpu, wait| ThreadUse { cpu: Nanos(cpu), run_queue: Some(Nanos(wait)) };
        let client = folded(Nanos(100), Nanos(150), &[thread(10, 1), thread(40, 2)], thread(90, 30));
        assert_eq!((client.cpu, client.busiest_thread, client.run_queue), (1.5, 0.4, Some(0.3)));
        let untold = ThreadUse::default();
        assert_eq!(folded(Nanos(100), Nanos(0), &[untold], untold).run_queue, None);
    }

    #[tokio::test]
    async fn a_run_is_watched_on_its_own_threads() {
        let readers = Readers::start(2).unwrap();
        let clock = Clock::start();
        let watch = Watch::start(readers.handles(), clock).await.unwrap();
        let work = readers.handle(1).spawn(async {
            let probe = Probe::start();
            while probe.end().cpu < Nanos(20_000_000) {}
        });
        work.await.unwrap();
        // A duration of 20 ms, whatever the clock says.
        let client = watch.end(Nanos(20_000_000)).await;
        assert!(client.busiest_thread >= 1.0 && client.cpu >= client.busiest_thread * 0.99, "{client:?}");
        assert_eq!(client.run_queue.is_some(), cfg!(target_os = "linux"));
        readers.stop();
    }

    #[tokio::test]
    async fn a_thread_that_was_away_wakes_late_and_the_whole_pause_counts() {
        let heart = Heart::new().unwrap();
        assert_eq!(heart.lags(), None);
        let task = tokio::spawn(heart.clone().beat(Clock::start()));
        tokio::task::yield_now().await;
        // The only thread of this runtime is away.
        std::thread::sleep(Duration::from_millis(50));
        while heart.lags().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        task.abort();
        let lags = heart.lags().unwrap();
        assert!(lags.max >= Nanos(30_000_000) && lags.p50 >= Nanos(10_000_000), "{lags:?}");
    }
}
