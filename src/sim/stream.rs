//! The body of a streaming answer: plays a script on the connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use super::{
    driver::Tickets,
    script::{Piece, Script},
    wire::SharedTap,
};

/// What hyper gets from a body.
type NextFrame = Option<Result<Frame<Bytes>, io::Error>>;

/// The body of a streaming answer.
pub struct EventStream {
    script: Script,
    /// None, where the script needs no tokens.
    tickets: Tickets,
    tap: SharedTap,
    hangs: bool,
}

impl EventStream {
    /// Plays `script` with the tokens of `tickets`, and notes on `tap` what leaves.
    pub fn new(script: Script, tickets: Tickets, tap: SharedTap) -> Self {
        EventStream { script, tickets, tap, hangs: false }
    }

    /// Takes the tokens that are there of every answer; says whether there were any.
    fn take_tokens(&mut self, cx: &mut Context<'_>) -> bool {
        let mut took = false;
        for which in 0..self.tickets.each.len() {
            if self.script.finished(which) || self.script.ended() {
                continue;
            }
            if let Poll::Ready((tokens, finished)) = self.tickets.each[which].poll_tokens(cx) {
                self.script.set_cached_tokens(self.tickets.cached_tokens());
                self.script.advance(which, tokens, finished);
                took = true;
            }
        }
        took
    }

    /// Does what comes next; `None`: nothing does before more tokens come.
    fn play(&mut self, cx: &Context<'_>) -> Option<Poll<NextFrame>> {
        while let Some(piece) = self.script.next_piece() {
            match piece {
                Piece::Data(bytes) => return Some(Poll::Ready(Some(Ok(Frame::data(bytes))))),
                Piece::Tokens(tokens) => self.tap.borrow_mut().queue(tokens),
                Piece::Corrupt => self.tap.borrow_mut().corrupt(),
                Piece::Reset => self.tap.borrow_mut().reset(),
                Piece::Pause => {
                    // hyper writes what it has before it asks again.
                    cx.waker().wake_by_ref();
                    return Some(Poll::Pending);
                }
                Piece::Hang => {
                    self.hangs = true;
                    return Some(Poll::Pending);
                }
                Piece::Break => return Some(Poll::Ready(Some(Err(io::Error::other("a fault ends the connection"))))),
                Piece::End => return Some(Poll::Ready(None)),
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
            if let Some(done) = this.play(cx) {
                return done;
            }
            if this.script.ended() {
                return Poll::Ready(None);
            }
            if !this.take_tokens(cx) {
                return Poll::Pending;
            }
        }
    }
}

/// What the truth log says of the engine's part is known by now, however the stream ended.
impl Drop for EventStream {
    fn drop(&mut self) {
        let mut tap = self.tap.borrow_mut();
        if !self.tickets.each.is_empty() {
            tap.note(|truth| self.tickets.tell(truth));
        }
        tap.complete();
    }
}
