//! The body of a streamed response: runs a script on the connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use super::{
    driver::Tickets,
    script::{Script, StreamAction},
    wire::SharedTap,
};

/// What hyper takes from a body.
type NextFrame = Option<Result<Frame<Bytes>, io::Error>>;

/// The body of a streamed response.
pub struct EventStream {
    script: Script,
    /// Empty if the script needs no tokens.
    tickets: Tickets,
    tap: SharedTap,
    hangs: bool,
}

impl EventStream {
    /// Runs `script` with the tokens of `tickets`, and records on `tap` what is sent.
    pub fn new(script: Script, tickets: Tickets, tap: SharedTap) -> Self {
        EventStream { script, tickets, tap, hangs: false }
    }

    /// Passes the available tokens of every choice to the script; returns whether there were any.
    fn take_tokens(&mut self, cx: &mut Context<'_>) -> bool {
        let mut took = false;
        for choice in 0..self.tickets.all.len() {
            if self.script.is_choice_finished(choice) || self.script.has_ended() {
                continue;
            }
            if let Poll::Ready((tokens, finished)) = self.tickets.all[choice].poll_tokens(cx) {
                self.script.set_cached_tokens(self.tickets.cached_tokens());
                self.script.add_tokens(choice, tokens, finished);
                took = true;
            }
        }
        took
    }

    /// Runs the next actions of the script; `None`: it waits for tokens.
    fn run_actions(&mut self, cx: &Context<'_>) -> Option<Poll<NextFrame>> {
        while let Some(action) = self.script.next_action() {
            match action {
                StreamAction::Data(bytes) => return Some(Poll::Ready(Some(Ok(Frame::data(bytes))))),
                StreamAction::Tokens(tokens) => self.tap.borrow_mut().queue_chunk(tokens),
                StreamAction::Corrupt => self.tap.borrow_mut().corrupt_next_write(),
                StreamAction::Reset => self.tap.borrow_mut().reset_when_closed(),
                StreamAction::Pause => {
                    // hyper writes what it has before it polls again.
                    cx.waker().wake_by_ref();
                    return Some(Poll::Pending);
                }
                StreamAction::Hang => {
                    self.hangs = true;
                    return Some(Poll::Pending);
                }
                StreamAction::Break => {
                    return Some(Poll::Ready(Some(Err(io::Error::other("a fault ends the connection")))));
                }
                StreamAction::End => return Some(Poll::Ready(None)),
            }
        }
        None
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<NextFrame> {
        let this = self.get_mut();
        loop {
            if this.hangs {
                return Poll::Pending;
            }
            if let Some(done) = this.run_actions(cx) {
                return done;
            }
            if this.script.has_ended() {
                return Poll::Ready(None);
            }
            if !this.take_tokens(cx) {
                return Poll::Pending;
            }
        }
    }
}

/// Completes the truth log line, however the stream ended: the engine's part is known now.
impl Drop for EventStream {
    fn drop(&mut self) {
        let mut tap = self.tap.borrow_mut();
        if !self.tickets.all.is_empty() {
            tap.update_truth(|truth| self.tickets.fill_truth(truth));
        }
        tap.mark_complete();
    }
}
