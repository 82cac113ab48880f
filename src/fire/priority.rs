//! Which thread goes first where they share a core: reading, then sending, then preparing requests, then writing outputs.
//!
//! A chunk that is read late loses its stamp. A request that is sent late shows the delay as such. The other work only has to be done in
//! time on average. So threads give way to those before them, by the system's priorities.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::cli;

/// Work that gives way to reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Sends what is due.
    Send,
    /// Reads requests ahead of need: it has to be done before a slot frees.
    Prepare,
    /// Judges and writes outputs, for which nothing waits.
    Write,
}

impl Work {
    /// How much is added to the niceness of the process. Next to another program on the same core, 5 leaves a quarter of the core,
    /// 8 a seventh and 12 a fifteenth; more could starve the thread.
    fn niceness(self) -> i32 {
        match self {
            Work::Send => 5,
            Work::Prepare => 8,
            Work::Write => 12,
        }
    }

    /// Gives the calling thread this priority, and those that it starts later. If the system refuses, that is reported once.
    pub fn apply_to_thread(self) {
        static REPORTED: AtomicBool = AtomicBool::new(false);
        if let Err(e) = os::lower_priority(self.niceness())
            && !REPORTED.swap(true, Relaxed)
        {
            let lost = "where threads share a core, reading responses does not come first, and they may be read later";
            cli::print_warning("vb-fire", format_args!("cannot lower the priority of a thread ({e}): {lost}"));
        }
    }
}

#[cfg(target_os = "linux")]
mod os {
    use rustix::{
        io,
        process::{getpriority_process, setpriority_process},
        thread::gettid,
    };

    /// The lowest priority that there is.
    const MAX_NICENESS: i32 = 19;

    /// Linux has a priority for each thread, and its calls take the id of a thread where others take a process.
    pub fn lower_priority(by: i32) -> io::Result<()> {
        let now = getpriority_process(None)?;
        setpriority_process(Some(gettid()), (now + by).min(MAX_NICENESS))
    }
}

#[cfg(not(target_os = "linux"))]
mod os {
    /// Other systems have one priority for all threads of a process.
    #[allow(clippy::unnecessary_wraps, reason = "as on Linux")]
    pub fn lower_priority(_: i32) -> rustix::io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::thread;

    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn a_thread_that_gives_way_is_nicer_than_the_others() {
        let own = getpriority_process(None).unwrap();
        let lowered = |work: Work| {
            let lowered = move || {
                work.apply_to_thread();
                getpriority_process(None).unwrap()
            };
            thread::spawn(lowered).join().unwrap()
        };
        let [send, prepare, write] = [Work::Send, Work::Prepare, Work::Write].map(lowered);
        assert!(own < send && send < prepare && prepare < write || own > 0, "{own} {send} {prepare} {write}");
        assert_eq!(getpriority_process(None).unwrap(), own, "of that thread only");
    }
}
