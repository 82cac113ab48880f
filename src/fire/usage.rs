//! The client's use of its machine: CPU time, waiting for a core, and how late it wakes.

use std::{
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use tokio::{runtime::Handle, task::JoinHandle};

use super::histogram::{histogram_percentiles, new_histogram};
use crate::{
    clock::{Clock, suspended_time},
    error::Error,
    record::{ClientUse, Percentiles},
    units::{Nanos, SECOND},
};

/// Interval between two timers: short enough for a p99 of a run of seconds, long enough to cost nothing.
pub const TIMER_INTERVAL: Nanos = Nanos(10_000_000);

/// A thread that did not run for longer than this, while a timer was due, was away.
const MIN_PAUSE: Nanos = Nanos(30_000_000);

/// CPU time used so far by the process or the calling thread.
fn cpu_time(clock: ClockId) -> Nanos {
    let time = clock_gettime(clock);
    let part = |part: i64| u64::try_from(part).unwrap_or_default();
    Nanos(part(time.tv_sec) * SECOND + part(time.tv_nsec))
}

/// CPU time used so far by the calling thread.
pub fn thread_cpu_time() -> Nanos {
    cpu_time(ClockId::ThreadCPUTime)
}

/// How long the calling thread has waited for a core while it was ready to run; `None` if the system does not report it.
///
/// Linux's `schedstat`: time on the CPU, time in the run queue, turns, in nanoseconds. It counts waiting for other
/// programs on the core and for a CPU quota (cgroup), but neither a stopped process nor a virtual machine without a core.
fn run_queue_time() -> Option<Nanos> {
    parse_run_queue(&fs::read_to_string(SCHEDSTAT).ok()?)
}

/// The calling thread's line of numbers about its scheduling.
pub const SCHEDSTAT: &str = "/proc/thread-self/schedstat";

/// The time in the run queue in the text of [`SCHEDSTAT`].
pub fn parse_run_queue(text: &str) -> Option<Nanos> {
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Nanos)
}

/// Measures the client from the start of a run to its end. Both must be called on the thread that sends.
#[derive(Debug)]
pub struct UsageMonitor {
    process: Nanos,
    sender: ThreadProbe,
    readers: Vec<(Handle, ThreadProbe)>,
    wake_lag: WakeLagMonitor,
    timers: Vec<JoinHandle<()>>,
    absences: Vec<Arc<Absence>>,
    clock: Clock,
    suspended: Nanos,
}

impl UsageMonitor {
    /// Starts measuring. `readers` are the event loops, each on its own thread.
    pub async fn start(readers: impl Iterator<Item = &Handle>, clock: Clock) -> Result<Self, Error> {
        let (wake_lag, mut probes) = (WakeLagMonitor::new()?, Vec::new());
        for reader in readers {
            // A thread that has ended cannot be measured.
            if let Ok(probe) = reader.spawn(async { ThreadProbe::start() }).await {
                probes.push((reader.clone(), probe));
            }
        }
        let absences: Vec<Arc<Absence>> = probes.iter().map(|_| Arc::default()).collect();
        let readers = probes.iter().zip(&absences);
        let timers = readers
            .map(|((reader, _), absence)| reader.spawn(wake_lag.clone().run_timers(clock, Arc::clone(absence))))
            .collect();
        let (process, suspended) = (cpu_time(ClockId::ProcessCPUTime), suspended_time());
        Ok(UsageMonitor {
            process,
            sender: ThreadProbe::start(),
            readers: probes,
            wake_lag,
            timers,
            absences,
            clock,
            suspended,
        })
    }

    /// Returns the use since the start, in a run of this duration.
    pub async fn finish(self, duration: Nanos) -> ClientUse {
        let sender = self.sender.measure();
        let process = cpu_time(ClockId::ProcessCPUTime).since(self.process);
        let suspended = suspended_time().since(self.suspended);
        self.timers.iter().for_each(JoinHandle::abort);
        let (clock, mut readers, mut away) = (self.clock, Vec::new(), None);
        for ((reader, probe), absence) in self.readers.into_iter().zip(self.absences) {
            let measured = reader.spawn(async move {
                absence.count_timer(clock.now(), cpu_time(ClockId::ThreadCPUTime));
                (probe.measure(), absence.total())
            });
            if let Ok((used, absent)) = measured.await {
                readers.push(used);
                away = away.max(Some(absent));
            }
        }
        let away = away.map(|away| share_of_run(away, suspended, duration));
        let wake_lag = self.wake_lag.lag_percentiles();
        ClientUse { away, wake_lag, ..combine_threads(duration, process, &readers, sender) }
    }
}

/// Measures one thread. All methods must be called on that thread.
#[derive(Debug)]
pub struct ThreadProbe(ThreadUse);

/// The use of a thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadUse {
    /// CPU time.
    pub cpu: Nanos,
    /// Time in which it was ready to run, but had no core; `None`: the system does not report it.
    pub run_queue: Option<Nanos>,
}

impl ThreadUse {
    fn current_thread() -> Self {
        ThreadUse { cpu: cpu_time(ClockId::ThreadCPUTime), run_queue: run_queue_time() }
    }
}

impl ThreadProbe {
    /// Starts measuring.
    #[must_use]
    pub fn start() -> Self {
        ThreadProbe(ThreadUse::current_thread())
    }

    /// Returns the use of this thread since the start.
    #[must_use]
    pub fn measure(&self) -> ThreadUse {
        let (now, then) = (ThreadUse::current_thread(), self.0);
        ThreadUse {
            cpu: now.cpu.since(then.cpu),
            run_queue: now.run_queue.zip(then.run_queue).map(|(now, then)| now.since(then)),
        }
    }
}

/// Combines the use of the process, of the threads that read responses, and of the thread that sends on time.
fn combine_threads(duration: Nanos, process: Nanos, readers: &[ThreadUse], sender: ThreadUse) -> ClientUse {
    let share_of_run = |time: Nanos| time.as_secs_f64() / duration.as_secs_f64().max(1e-9);
    let busiest = readers.iter().map(|thread| thread.cpu).max().unwrap_or_default();
    let waited = readers.iter().chain([&sender]).filter_map(|thread| thread.run_queue).max();
    ClientUse {
        cpu: share_of_run(process),
        busiest_thread: share_of_run(busiest),
        run_queue: waited.map(share_of_run),
        ..ClientUse::default()
    }
}

/// The share of a run in which a thread was `away` or the system `suspended`; the duration leaves the latter out.
fn share_of_run(away: Nanos, suspended: Nanos, duration: Nanos) -> f64 {
    let whole = (duration + suspended).as_secs_f64().max(1e-9);
    ((away + suspended).as_secs_f64() / whole).min(1.0)
}

/// How long a thread has not run although a timer was due, in pauses of at least [`MIN_PAUSE`].
#[derive(Debug, Default)]
struct Absence {
    /// When its next timer fires, and its CPU time when that was set.
    due: AtomicU64,
    cpu: AtomicU64,
    total: AtomicU64,
}

impl Absence {
    /// Sets the time of the next timer. `cpu` is the CPU time of the thread.
    fn expect_timer(&self, due: Nanos, cpu: Nanos) {
        self.due.store(due.0, Relaxed);
        self.cpu.store(cpu.0, Relaxed);
    }

    /// Counts the delay of the timer that has fired or is overdue, without the time in which the thread worked.
    fn count_timer(&self, now: Nanos, cpu: Nanos) {
        let worked = cpu.since(Nanos(self.cpu.load(Relaxed)));
        let paused = now.since(Nanos(self.due.load(Relaxed))).since(worked);
        if paused >= MIN_PAUSE {
            self.total.fetch_add(paused.0, Relaxed);
        }
    }

    fn total(&self) -> Nanos {
        Nanos(self.total.load(Relaxed))
    }
}

/// Sets timers on the threads that read responses and records how late they fire: a read that was due then would be as late.
///
/// This shows everything that keeps a thread from running, on any system: its own work, other programs, quotas, stops.
#[derive(Debug, Clone)]
pub struct WakeLagMonitor(Arc<Mutex<Histogram<u64>>>);

impl WakeLagMonitor {
    /// A monitor without any measurement.
    pub fn new() -> Result<Self, Error> {
        Ok(WakeLagMonitor(Arc::new(Mutex::new(new_histogram()?))))
    }

    /// Sets timers on the current runtime, forever, and counts long delays in `absence`.
    async fn run_timers(self, clock: Clock, absence: Arc<Absence>) {
        let mut due = clock.now() + TIMER_INTERVAL;
        loop {
            absence.expect_timer(due, cpu_time(ClockId::ThreadCPUTime));
            tokio::time::sleep(due.since(clock.now()).to_duration()).await;
            let now = clock.now();
            absence.count_timer(now, cpu_time(ClockId::ThreadCPUTime));
            let mut lags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Each missed timer counts with its own lateness, so that a pause has a weight in proportion to its length.
            while due <= now {
                // The histogram grows as needed; it rejects only values beyond 2⁶³ ns.
                let _ = lags.record(now.since(due).0);
                due = due + TIMER_INTERVAL;
            }
        }
    }

    /// How late the timers were; `None` without any.
    #[must_use]
    pub fn lag_percentiles(&self) -> Option<Percentiles> {
        let lags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histogram_percentiles(&lags)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::reader::ReaderThreads, *};

    #[test]
    fn a_thread_that_works_uses_cpu_and_one_that_sleeps_does_not() {
        let probe = ThreadProbe::start();
        while probe.measure().cpu < Nanos(5_000_000) {}
        let busy = probe.measure();
        let idle = std::thread::spawn(|| {
            let probe = ThreadProbe::start();
            std::thread::sleep(Duration::from_millis(20));
            probe.measure()
        });
        let idle = idle.join().unwrap();
        assert!(idle.cpu < busy.cpu, "{idle:?} {busy:?}");
        assert_eq!(busy.run_queue.is_some(), cfg!(target_os = "linux"));
    }

    #[test]
    fn the_worst_thread_counts() {
        let thread = |cpu, wait| ThreadUse { cpu: Nanos(cpu), run_queue: Some(Nanos(wait)) };
        let client = combine_threads(Nanos(100), Nanos(150), &[thread(10, 1), thread(40, 2)], thread(90, 30));
        assert_eq!((client.cpu, client.busiest_thread, client.run_queue), (1.5, 0.4, Some(0.3)));
        let unknown = ThreadUse::default();
        assert_eq!(combine_threads(Nanos(100), Nanos(0), &[unknown], unknown).run_queue, None);
    }

    #[tokio::test]
    async fn a_run_is_watched_on_its_own_threads() {
        let readers = ReaderThreads::start(2).unwrap();
        let clock = Clock::start();
        let usage = UsageMonitor::start(readers.handles(), clock).await.unwrap();
        let work = readers.handle(1).spawn(async {
            let probe = ThreadProbe::start();
            while probe.measure().cpu < Nanos(20_000_000) {}
        });
        work.await.unwrap();
        // A duration of 20 ms, independent of the clock.
        let client = usage.finish(Nanos(20_000_000)).await;
        assert!(client.busiest_thread >= 1.0 && client.cpu >= client.busiest_thread * 0.99, "{client:?}");
        assert_eq!(client.run_queue.is_some(), cfg!(target_os = "linux"));
        readers.stop_all();
    }

    #[tokio::test]
    async fn a_thread_that_was_blocked_wakes_late_and_the_whole_pause_counts() {
        let monitor = WakeLagMonitor::new().unwrap();
        assert_eq!(monitor.lag_percentiles(), None);
        let (clock, absence) = (Clock::start(), Arc::<Absence>::default());
        let task = tokio::spawn(monitor.clone().run_timers(clock, Arc::clone(&absence)));
        tokio::task::yield_now().await;
        // This blocks the only thread of the runtime.
        std::thread::sleep(Duration::from_millis(100));
        while monitor.lag_percentiles().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        task.abort();
        let lags = monitor.lag_percentiles().unwrap();
        assert!(lags.max >= Nanos(30_000_000) && lags.p50 >= Nanos(10_000_000), "{lags:?}");
        assert!(absence.total() >= Nanos(80_000_000), "{}", absence.total());
    }

    #[test]
    fn a_thread_that_works_is_not_away_and_a_suspended_system_is() {
        let (ms, absence) = (|n: u64| Nanos(n * 1_000_000), Absence::default());
        let wait = |due, now, worked| {
            absence.expect_timer(ms(due), ms(due));
            absence.count_timer(ms(now), ms(due + worked));
            absence.total()
        };
        assert_eq!(wait(10, 39, 0), ms(0));
        assert_eq!(wait(40, 540, 0), ms(500));
        assert_eq!(wait(550, 950, 380), ms(500), "it worked");
        assert_eq!(wait(960, 1160, 100), ms(600));
        assert!((share_of_run(ms(500), ms(0), ms(1000)) - 0.5).abs() < 1e-9);
        assert!((share_of_run(ms(0), ms(3000), ms(1000)) - 0.75).abs() < 1e-9);
    }
}
