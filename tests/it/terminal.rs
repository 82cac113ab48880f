//! A terminal for programs that behave differently on one.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    thread::{self, JoinHandle},
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// A terminal that keeps what it is given.
pub struct Terminal {
    /// For the program; give it clones.
    pub end: OwnedFd,
    reader: JoinHandle<Vec<u8>>,
}

impl Terminal {
    /// Opens one with this number of columns.
    pub fn open(columns: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let end = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let reader = thread::spawn(move || {
            let (mut master, mut all, mut buffer) = (File::from(master), Vec::new(), [0; 4096]);
            // Ends with an error when the last program has closed the terminal.
            while let Ok(read) = master.read(&mut buffer) {
                all.extend_from_slice(&buffer[..read]);
            }
            all
        });
        Terminal { end, reader }
    }

    /// What the programs wrote, once all of them have ended.
    pub fn text(self) -> String {
        drop(self.end);
        String::from_utf8(self.reader.join().unwrap()).unwrap().replace("\r\n", "\n")
    }

    /// The same by lines: each line, and each state of a line that was written over.
    pub fn lines(self) -> Vec<String> {
        let all = self.text();
        let lines = all.split(['\r', '\n']).map(|line| line.replace("\x1b[2K", ""));
        lines.filter(|line| !line.is_empty()).collect()
    }
}
