//! Which request is sent next, and when: schedule, conversations, `--max-sessions`. Has no runtime and no clock: it is given `now`.
//!
//! ```text
//!                                        admit
//!         no session │       first turn │            │ later turn
//!                    │                  │            ▼
//!                    │                  │     parked (sessions) ── the turn before failed ──▶ abandoned
//!                    │                  │            │ the turn before ended
//!                    │                  │            ▼
//!                    │                  │     returning: waits for a place under --max-sessions,
//!                    │                  │            │   if its session gave up its own
//!                    │                  │            ▼
//!                    │                  │     being filled: waits for its body, ── too few ──▶ abandoned
//!                    │                  │            │   if that holds earlier responses
//!                    ▼                  ▼            ▼
//!                 singles          first_turns   later_turns
//!                    └──────────────────┴──────┬─────┘
//!                          due, and has a slot │                 the run is stopped
//!                                              ▼                         ▼
//!                                           started       due: abandoned; not due: counted
//! ```

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque, binary_heap::PeekMut},
};

use rand::rngs::ChaCha8Rng;

use super::{
    read_ahead,
    scheduled::Scheduled,
    session::{SessionTable, TurnAdmission},
    stop::StopReason,
    weighed::WeighedQueue,
};
use crate::{
    load::{Schedule, SendTimes, ThinkTime},
    units::Nanos,
};

/// Requests to read ahead although the next one is not due yet, to find later turns of active conversations. Reading ahead
/// ends when all that was found that way takes [`read_ahead::MAX_BYTES`].
const READ_AHEAD_REQUESTS: usize = 1024;

/// Memory for parked turns when the next request to send has not been read yet and follows them in the input.
pub const MAX_PARKED_BYTES: u64 = 1 << 30;

/// Draws the think times that requests do not give.
pub struct ThinkTimes {
    time: ThinkTime,
    rng: ChaCha8Rng,
}

impl ThinkTimes {
    /// Draws from `time` with `rng`.
    #[must_use]
    pub fn new(time: ThinkTime, rng: ChaCha8Rng) -> Self {
        ThinkTimes { time, rng }
    }

    fn draw_next(&mut self) -> Nanos {
        self.time.draw_time(&mut self.rng)
    }
}

/// The requests of a run that are read and not yet sent.
pub struct Queue<R> {
    schedule: Schedule,
    think_times: ThinkTimes,
    max_sessions: usize,
    /// How long the clock of the input had run at the start of the run.
    input_lead: Nanos,
    sessions: SessionTable<R>,
    /// Requests without a session, in the order of the input.
    singles: WeighedQueue<Queued<R>>,
    /// First turns, in the order of the input.
    first_turns: WeighedQueue<Queued<R>>,
    /// Later turns whose time is known, the earliest first.
    later_turns: BinaryHeap<Reverse<Queued<R>>>,
    /// Later turns whose session gave up its place under `max_sessions` and needs a new one: session, turn, end of the turn
    /// before.
    returning: VecDeque<(String, R, Nanos)>,
    /// The number of turns whose body is being filled.
    filling_count: u64,
    /// The number of requests that have got a place in the order.
    queued_count: u64,
    /// The latest scheduled time so far.
    latest_scheduled: Nanos,
    /// When a place under `max_sessions` last became free.
    session_freed: Nanos,
    input_ended: bool,
    /// Parked turns filled their memory, so that the input could not be read in time.
    input_blocked: bool,
    actions: VecDeque<Action<R>>,
}

/// A request that waits for its time and a slot only.
struct Queued<R> {
    request: R,
    /// Its time by the schedule; `None`: as soon as there is room.
    scheduled: Option<Nanos>,
    /// Since when it could be sent, apart from its time; 0 if it was available before the client asked for it.
    read: Nanos,
    /// Its place in the order. Of two later turns that are due at once, the one that was known first is sent first.
    number: u64,
}

impl<R> Queued<R> {
    fn rank(&self) -> (Nanos, u64) {
        (self.scheduled.unwrap_or_default(), self.number)
    }
}

impl<R> PartialEq for Queued<R> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<R> Eq for Queued<R> {}

impl<R> PartialOrd for Queued<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for Queued<R> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// What happened to a turn of a conversation.
#[derive(Debug)]
pub enum TurnEvent<R> {
    /// A turn ended.
    Ended {
        /// Its session.
        session: String,
        /// When its last token arrived, or when it failed.
        at: Nanos,
        /// When its response ended, which may be a while later.
        response_end: Nanos,
        /// The text of the response; `None`: the turn failed.
        response: Option<String>,
    },
    /// A turn has its body.
    Filled {
        /// The turn.
        request: R,
        /// When it is due.
        times: SendTimes,
    },
    /// The body of a turn could not be built from the responses before it.
    FillFailed {
        /// The turn, without its body.
        request: R,
        /// When it was due.
        times: SendTimes,
    },
}

/// What the queue wants done with a request at once.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<R> {
    /// Build its body from the responses before it. A [`TurnEvent`] says when that is done.
    Fill {
        /// The request.
        request: R,
        /// The responses to the earlier turns of its session.
        responses: Vec<String>,
        /// When it is due.
        times: SendTimes,
    },
    /// Record that it is never sent.
    Abandon {
        /// The request.
        request: R,
        /// When it was due.
        times: SendTimes,
        /// Why it is not sent.
        reason: StopReason,
    },
}

/// What to do next with a slot.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<R> {
    /// Send this request.
    Start {
        /// The request.
        request: R,
        /// What it waited for.
        times: SendTimes,
        /// How long its slot stays taken after its end.
        think_time: Nanos,
    },
    /// Wait until this time; without a time, until input or an event arrives.
    Wait(Option<Nanos>),
    /// All requests are sent.
    Finished,
}

/// Where the next request is.
enum NextInLine {
    Single,
    FirstTurn,
    LaterTurn,
}

impl<R: Scheduled> Queue<R> {
    /// An empty queue. `max_sessions` is the number of sessions that may be active at once; `None`: no limit. `input_lead` is how
    /// long the clock of the input had run at the start of the run.
    #[must_use]
    pub fn new(schedule: Schedule, think_times: ThinkTimes, max_sessions: Option<u32>, input_lead: Nanos) -> Self {
        Queue {
            schedule,
            think_times,
            max_sessions: max_sessions.map_or(usize::MAX, |max| max as usize),
            input_lead,
            sessions: SessionTable::default(),
            singles: WeighedQueue::new(),
            first_turns: WeighedQueue::new(),
            later_turns: BinaryHeap::new(),
            returning: VecDeque::new(),
            filling_count: 0,
            queued_count: 0,
            latest_scheduled: Nanos(0),
            session_freed: Nanos(0),
            input_ended: false,
            input_blocked: false,
            actions: VecDeque::new(),
        }
    }

    /// Takes a request in the order of the input.
    pub fn admit_request(&mut self, request: R, now: Nanos) {
        let Some(id) = request.session().map(str::to_owned) else {
            self.sessions.set_latest(None);
            let queued = self.schedule_request(request, now);
            let weight = queued.request.weight();
            self.singles.push_back(queued, weight);
            return;
        };
        match self.sessions.admit_turn(&id, request) {
            TurnAdmission::First(request) => {
                let queued = self.schedule_request(request, now);
                let weight = queued.request.weight();
                self.first_turns.push_back(queued, weight);
            }
            TurnAdmission::Next(request, ended) => self.schedule_turn(&id, request, ended, now),
            TurnAdmission::Returns(request, ended) => self.returning.push_back((id, request, ended)),
            TurnAdmission::Parked => {}
            TurnAdmission::Lost(request) => self.abandon_lost(vec![request], now),
        }
    }

    /// Notes the end of the input.
    pub fn end_input(&mut self) {
        self.input_ended = true;
        self.sessions.set_latest(None);
    }

    /// Takes the news about a turn.
    pub fn handle_event(&mut self, event: TurnEvent<R>) {
        match event {
            TurnEvent::Ended { session, at, response_end, response } => {
                let active = self.sessions.active_count();
                let (next, lost) = self.sessions.end_turn(&session, at, response);
                if self.sessions.active_count() < active {
                    self.session_freed = response_end;
                }
                if let Some(request) = next {
                    self.schedule_turn(&session, request, at, response_end);
                }
                self.abandon_lost(lost, at);
            }
            TurnEvent::Filled { request, times } => {
                self.filling_count -= 1;
                self.push_later_turn(request, times.scheduled, times.read);
            }
            TurnEvent::FillFailed { request, times } => {
                self.filling_count -= 1;
                let session = request.session().map(str::to_owned);
                self.actions.push_back(Action::Abandon { request, times, reason: StopReason::NoResponse });
                if let Some(session) = session {
                    let at = times.scheduled;
                    self.handle_event(TurnEvent::Ended { session, at, response_end: at, response: None });
                }
            }
        }
    }

    /// Lets sessions become active again that gave up their place, while there is room.
    pub fn resume_sessions(&mut self, now: Nanos) {
        while self.has_session_room()
            && let Some((id, request, ended)) = self.returning.pop_front()
        {
            self.sessions.resume_session(&id);
            // It had been read, but it had no place until now.
            self.schedule_turn(&id, request, ended, now);
        }
    }

    /// The next thing to do with a request, in order. To be called until it returns `None` after each change.
    pub fn next_action(&mut self) -> Option<Action<R>> {
        self.actions.pop_front()
    }

    /// Whether something is to be done with a request.
    pub fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// Gives a request from the input its time.
    fn schedule_request(&mut self, request: R, now: Nanos) -> Queued<R> {
        let scheduled = self.schedule.next_due(request.timestamp());
        // A line after one with a later time was hidden by it, and a line after too many parked turns by them: it was not
        // available until now.
        let hidden = self.input_blocked || scheduled.is_some_and(|time| time < self.latest_scheduled);
        let read = if hidden { now } else { request.read_at().since(self.input_lead) };
        self.latest_scheduled = self.latest_scheduled.max(scheduled.unwrap_or_default());
        self.queued_count += 1;
        Queued { request, scheduled, read, number: self.queued_count }
    }

    /// Gives a later turn its time: the turn before it ended at `ended`, and from `read` on it could be sent.
    fn schedule_turn(&mut self, id: &str, request: R, ended: Nanos, read: Nanos) {
        let think_time = request.think_time().unwrap_or_else(|| self.think_times.draw_next());
        let thought = ended + think_time;
        let own = request.timestamp().filter(|_| matches!(self.schedule, Schedule::Own));
        let scheduled = own.map_or(thought, |own| own.max(thought));
        if request.needs_responses() {
            self.filling_count += 1;
            let times = SendTimes { scheduled, read, follows_turn: true, ..SendTimes::default() };
            let responses = self.sessions.responses_so_far(id);
            self.actions.push_back(Action::Fill { request, responses, times });
        } else {
            self.push_later_turn(request, scheduled, read);
        }
    }

    fn push_later_turn(&mut self, request: R, scheduled: Nanos, read: Nanos) {
        self.queued_count += 1;
        let scheduled = Some(scheduled);
        self.later_turns.push(Reverse(Queued { request, scheduled, read, number: self.queued_count }));
    }

    /// Abandons turns of a conversation in which an earlier turn failed.
    fn abandon_lost(&mut self, turns: Vec<R>, at: Nanos) {
        let times = SendTimes { scheduled: at, follows_turn: true, ..SendTimes::default() };
        let abandon = |request| Action::Abandon { request, times, reason: StopReason::EarlierTurn };
        self.actions.extend(turns.into_iter().map(abandon));
    }

    /// What to do at `now` with a slot that is free from `slot_free` on.
    pub fn next_step(&mut self, now: Nanos, slot_free: Nanos) -> Step<R> {
        match self.choose_next(now) {
            // The last user of the slot still thinks, for a moment.
            Ok(_) if slot_free > now => Step::Wait(Some(slot_free)),
            Ok(choice) => self.take_chosen(&choice, slot_free).unwrap_or(Step::Finished),
            Err(None) if self.input_ended && self.ready_count() == 0 && self.unscheduled_count() == 0 => Step::Finished,
            Err(time) => Step::Wait(time),
        }
    }

    /// What can be sent at `now`, or the time of the next request, if it is known.
    fn choose_next(&self, now: Nanos) -> Result<NextInLine, Option<Nanos>> {
        let turn = self.later_turns.peek().map(|Reverse(turn)| turn.rank().0);
        let first = self.first_turns.front().filter(|_| self.has_session_room()).map(Queued::rank);
        let single = self.singles.front().map(Queued::rank);
        let from_input = match (first, single) {
            (Some(first), Some(single)) if first < single => NextInLine::FirstTurn,
            (Some(_), None) => NextInLine::FirstTurn,
            _ => NextInLine::Single,
        };
        let next = first.into_iter().chain(single).min().map(|(time, _)| time);
        match (turn, next) {
            // A conversation in progress goes on before anything new begins.
            (Some(turn), next) if turn <= now && next.is_none_or(|next| turn <= next || next == Nanos(0)) => {
                Ok(NextInLine::LaterTurn)
            }
            (_, Some(next)) if next <= now => Ok(from_input),
            (Some(turn), _) if turn <= now => Ok(NextInLine::LaterTurn),
            (turn, next) => Err(turn.into_iter().chain(next).min()),
        }
    }

    /// Takes the chosen request out.
    fn take_chosen(&mut self, choice: &NextInLine, slot_free: Nanos) -> Option<Step<R>> {
        let (queued, session_free) = match choice {
            NextInLine::LaterTurn => (self.later_turns.pop()?.0, Nanos(0)),
            NextInLine::Single => (self.singles.pop_front()?, Nanos(0)),
            NextInLine::FirstTurn => {
                let first = self.first_turns.pop_front()?;
                self.sessions.begin_session(first.request.session()?);
                let limited = self.max_sessions < usize::MAX;
                (first, if limited { self.session_freed } else { Nanos(0) })
            }
        };
        let Queued { request, scheduled, read, .. } = queued;
        let ready = slot_free.max(session_free).max(read).max(scheduled.unwrap_or_default());
        let follows_turn = matches!(choice, NextInLine::LaterTurn);
        let times = SendTimes { scheduled: scheduled.unwrap_or(ready), read, ready, follows_turn };
        // The user of a conversation thinks before the next turn, and others may take the slot in the meantime.
        let think_time = if matches!(choice, NextInLine::Single) { self.think_times.draw_next() } else { Nanos(0) };
        Some(Step::Start { request, times, think_time })
    }

    /// Abandons the later turns that were due by `end`. After this, nothing is sent and no turn is parked.
    pub fn stop_sending(&mut self, end: Nanos, reason: StopReason) {
        while let Some(turn) = self.later_turns.peek_mut()
            && turn.0.rank().0 <= end
        {
            let Queued { request, scheduled, read, .. } = PeekMut::pop(turn).0;
            let scheduled = scheduled.unwrap_or_default();
            let times = SendTimes { scheduled, read, follows_turn: true, ..SendTimes::default() };
            self.actions.push_back(Action::Abandon { request, times, reason });
        }
        self.sessions.stop_parking();
    }

    /// Abandons the requests from the input that the schedule had due by `end`.
    pub fn abandon_due(&mut self, end: Nanos, reason: StopReason) {
        while let Some(Queued { request, scheduled, .. }) = self.pop_due(end) {
            let times = SendTimes { scheduled: scheduled.unwrap_or_default(), ..SendTimes::default() };
            self.actions.push_back(Action::Abandon { request, times, reason });
        }
    }

    fn pop_due(&mut self, end: Nanos) -> Option<Queued<R>> {
        let rank = |waiting: &WeighedQueue<Queued<R>>| {
            let next = waiting.front().filter(|next| next.scheduled.is_some_and(|time| time <= end))?;
            Some(next.rank())
        };
        match (rank(&self.singles), rank(&self.first_turns)) {
            (single, Some(first)) if single.is_none_or(|single| first < single) => self.first_turns.pop_front(),
            (Some(_), _) => self.singles.pop_front(),
            _ => None,
        }
    }

    /// Whether to read on: to have something to send, and to find the next turns of conversations, which may follow requests
    /// that are not due yet.
    pub fn wants_input(&self) -> bool {
        let parked = self.sessions.parked_weight();
        let found = parked.saturating_add(self.singles.weight() + self.first_turns.weight());
        let read_ahead = !self.sessions.is_empty() && found < read_ahead::MAX_BYTES;
        let limit = if read_ahead { READ_AHEAD_REQUESTS } else { 1 };
        !self.input_ended && self.ready_count() < limit && parked < MAX_PARKED_BYTES
    }

    /// Whether another session may become active.
    fn has_session_room(&self) -> bool {
        self.sessions.active_count() < self.max_sessions
    }

    /// The number of requests from the input that wait for their time and a slot only.
    fn ready_count(&self) -> usize {
        self.singles.len() + self.first_turns.len()
    }

    /// The number of later turns whose time is not known yet.
    fn unscheduled_count(&self) -> u64 {
        self.filling_count + (self.sessions.parked_count() + self.returning.len()) as u64
    }

    /// The number of requests that are read and not sent.
    pub fn unsent_count(&self) -> u64 {
        self.ready_count() as u64 + self.later_turns.len() as u64 + self.unscheduled_count()
    }

    /// Whether all requests that were due are read: the next one is not due yet, or the input has ended.
    pub fn has_read_all_due(&self) -> bool {
        self.ready_count() > 0 || self.input_ended
    }

    /// Notes whether parked turns keep the client from reading what it could send.
    pub fn check_blocked(&mut self) {
        let full = self.sessions.parked_weight() >= MAX_PARKED_BYTES;
        self.input_blocked |= full && self.has_session_room() && !self.input_ended && self.ready_count() == 0;
    }

    /// Whether parked turns ever filled their memory, so that the input could not be read in time.
    pub fn was_blocked(&self) -> bool {
        self.input_blocked
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::scheduled::fake::{FakeRequest, SECOND},
        *,
    };
    use crate::rng;

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * SECOND)
    }

    fn queue(max_sessions: Option<u32>) -> Queue<FakeRequest> {
        let think_times = ThinkTimes::new(ThinkTime::Constant(at(3)), rng::random_stream(0, "test", 0));
        Queue::new(Schedule::Own, think_times, max_sessions, Nanos(0))
    }

    fn single(name: &'static str, time: Option<u64>) -> FakeRequest {
        FakeRequest { name, at: time, ..FakeRequest::default() }
    }

    fn turn(name: &'static str) -> FakeRequest {
        FakeRequest { name, session: Some(&name[..1]), ..FakeRequest::default() }
    }

    fn ended(session: &str, seconds: u64, response: Option<&str>) -> TurnEvent<FakeRequest> {
        let (session, response) = (session.to_owned(), response.map(str::to_owned));
        TurnEvent::Ended { session, at: at(seconds), response_end: at(seconds), response }
    }

    /// The name of the request that is sent at this time, and what it waited for.
    fn sent(queue: &mut Queue<FakeRequest>, seconds: u64) -> (&'static str, SendTimes) {
        match queue.next_step(at(seconds), Nanos(0)) {
            Step::Start { request, times, .. } => (request.name, times),
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn a_request_waits_for_its_time_and_its_slot() {
        let mut queue = queue(None);
        assert_eq!(queue.next_step(at(0), Nanos(0)), Step::Wait(None));
        queue.admit_request(single("a", Some(5)), at(0));
        assert_eq!(queue.next_step(at(4), Nanos(0)), Step::Wait(Some(at(5))));
        assert_eq!(queue.next_step(at(5), at(6)), Step::Wait(Some(at(6))), "the slot is free later");
        let times = SendTimes { scheduled: at(5), read: at(0), ready: at(6), follows_turn: false };
        let request = single("a", Some(5));
        assert_eq!(queue.next_step(at(7), at(6)), Step::Start { request, times, think_time: at(3) });
        queue.end_input();
        assert_eq!(queue.next_step(at(7), at(6)), Step::Finished);
    }

    #[test]
    fn a_line_after_one_with_a_later_time_was_not_available_before() {
        let mut queue = queue(None);
        queue.admit_request(single("late", Some(9)), at(0));
        queue.admit_request(single("early", Some(1)), at(4));
        assert_eq!(sent(&mut queue, 9).0, "late", "in the order of the input");
        let times = SendTimes { scheduled: at(1), read: at(4), ready: at(4), follows_turn: false };
        assert_eq!(sent(&mut queue, 9), ("early", times));
    }

    /// An active conversation makes the queue read ahead, but not more bytes than fit.
    #[test]
    fn reading_ahead_for_later_turns_ends_when_it_takes_too_many_bytes() {
        for (weight, fits) in [(1, 1024), (read_ahead::MAX_BYTES / 4, 4)] {
            let mut queue = queue(None);
            queue.admit_request(turn("a0"), at(0));
            assert_eq!(sent(&mut queue, 0).0, "a0");
            let mut read = 0;
            while queue.wants_input() {
                queue.admit_request(FakeRequest { weight, ..single("later", Some(100)) }, at(0));
                read += 1;
            }
            assert_eq!(read, fits, "{weight}");
        }
    }

    #[test]
    fn a_turn_with_placeholders_is_filled_before_it_is_sent() {
        let mut queue = queue(None);
        let open = FakeRequest { open: true, think: 2, ..turn("a1") };
        queue.admit_request(turn("a0"), at(0));
        queue.admit_request(open, at(0));
        queue.end_input();
        assert_eq!(sent(&mut queue, 0).0, "a0");
        assert_eq!(queue.next_step(at(1), Nanos(0)), Step::Wait(None), "it waits for the turn before it");
        queue.handle_event(ended("a", 4, Some("hello")));
        let times = SendTimes { scheduled: at(6), read: at(4), ready: Nanos(0), follows_turn: true };
        assert_eq!(queue.next_action(), Some(Action::Fill { request: open, responses: vec!["hello".into()], times }));
        assert_eq!((queue.next_action(), queue.unsent_count()), (None, 1));
        queue.handle_event(TurnEvent::Filled { request: open, times });
        assert_eq!(queue.next_step(at(5), Nanos(0)), Step::Wait(Some(at(6))));
        assert_eq!(sent(&mut queue, 6), ("a1", SendTimes { ready: at(6), ..times }));
        assert_eq!(queue.next_step(at(6), Nanos(0)), Step::Finished);
    }

    #[test]
    fn turns_after_a_failure_are_abandoned() {
        let mut queue = queue(None);
        for name in ["a0", "a1", "b0"] {
            queue.admit_request(turn(name), at(0));
        }
        assert_eq!((sent(&mut queue, 0).0, sent(&mut queue, 0).0), ("a0", "b0"));
        queue.handle_event(ended("a", 4, None));
        let times = SendTimes { scheduled: at(4), follows_turn: true, ..SendTimes::default() };
        let reason = StopReason::EarlierTurn;
        assert_eq!(queue.next_action(), Some(Action::Abandon { request: turn("a1"), times, reason }));
        queue.end_input();
        assert_eq!(queue.next_step(at(4), Nanos(0)), Step::Finished);
    }

    #[test]
    fn a_full_session_limit_holds_first_turns_back() {
        let mut queue = queue(Some(1));
        for name in ["a0", "b0"] {
            queue.admit_request(turn(name), at(0));
        }
        queue.end_input();
        assert_eq!(sent(&mut queue, 0).0, "a0");
        assert_eq!(queue.next_step(at(1), Nanos(0)), Step::Wait(None));
        queue.handle_event(ended("a", 4, Some("hello")));
        let times = SendTimes { scheduled: at(4), read: at(0), ready: at(4), follows_turn: false };
        assert_eq!(sent(&mut queue, 5), ("b0", times), "ready when the other session ended");
    }

    #[test]
    fn at_the_end_due_requests_are_abandoned_and_others_counted() {
        let mut queue = queue(None);
        for (name, time) in [("due", 3), ("later", 8)] {
            queue.admit_request(single(name, Some(time)), at(0));
        }
        queue.stop_sending(at(5), StopReason::MaxSeconds);
        queue.abandon_due(at(5), StopReason::MaxSeconds);
        let abandoned = std::iter::from_fn(|| queue.next_action()).map(|action| match action {
            Action::Abandon { request, .. } => request.name,
            action @ Action::Fill { .. } => panic!("{action:?}"),
        });
        assert_eq!(abandoned.collect::<Vec<_>>(), ["due"]);
        assert_eq!((queue.unsent_count(), queue.has_read_all_due()), (1, true));
    }
}
