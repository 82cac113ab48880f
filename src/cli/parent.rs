//! Ends this program with the one that started it, even if that one was killed and had no time to end it.

use std::{thread, time::Duration};

use rustix::process::{Pid, Signal, getpid, getppid, kill_process, test_kill_process};

/// The environment variable with the id of the process to end with. Scripts and `vb-selftest` set it for what they start.
pub const VARIABLE: &str = "VB_END_WITH";

/// Time between two looks at the process. Every system has a way to look, and each its own to be notified.
const INTERVAL: Duration = Duration::from_millis(250);

/// How long the program may take after each of two SIGTERM. After the second, `vb-fire` writes what it has.
const TIME_TO_END: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// Watches the process that [`VARIABLE`] names, on a thread.
pub fn end_with_parent() {
    let named = std::env::var(VARIABLE).ok().and_then(|id| Pid::from_raw(id.parse().ok()?));
    let Some(starter) = named else { return };
    // A child sees the end of its parent at once, and cannot confuse it with a later process of the same id.
    let is_child = getppid() == Some(starter);
    let watch = move || {
        while if is_child { getppid() == Some(starter) } else { test_kill_process(starter).is_ok() } {
            thread::sleep(INTERVAL);
        }
        for time in TIME_TO_END {
            let _ = kill_process(getpid(), Signal::TERM);
            thread::sleep(time);
        }
        let _ = kill_process(getpid(), Signal::KILL);
    };
    // Without the thread the program still ends as usual.
    let _ = thread::Builder::new().name("parent".into()).spawn(watch);
}
