//! Conversations: which turn may go, and what its users have heard so far. It knows no time and sends nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::units::Nanos;

/// Sessions that rest, whose last turn that is known is over, of which so many are remembered: more turns may come.
const RESTING: usize = 4096;

/// The sessions of a run that are not forgotten yet. `R` is a turn.
#[derive(Debug)]
pub struct Sessions<R> {
    known: HashMap<String, Session<R>>,
    /// Those that rest, the longest resting first.
    resting: BTreeMap<u64, String>,
    /// How often any has come to rest.
    rests: u64,
    /// Whose line was read last: more of its lines may follow.
    latest: Option<String>,
    parked: usize,
    /// What those that wait take of the memory, in bytes.
    weight: u64,
    live: usize,
    /// Turns that would have to wait are counted and not kept, since nothing is sent any more.
    closed: bool,
}

#[derive(Debug)]
struct Session<R> {
    /// A turn is in flight, or on its way to be.
    busy: bool,
    parked: VecDeque<Turn<R>>,
    replies: Vec<String>,
    /// When its last turn was over.
    ended: Nanos,
    failed: bool,
    begun: bool,
    /// Its place among those that rest.
    resting: Option<u64>,
    /// It counts as one of the users at once.
    live: bool,
}

/// A turn as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn<R> {
    /// It.
    pub request: R,
    /// What it takes of the memory, in bytes.
    pub weight: u64,
    /// It begins a conversation, perhaps one with a name that was used before.
    pub begins: bool,
}

/// Whether a turn may go.
#[derive(Debug, PartialEq, Eq)]
pub enum Gate<R> {
    /// It is the first of its session.
    First(R),
    /// The turn before it was over at that time.
    Next(R, Nanos),
    /// So it was, but its session counts as one of the users no more: it comes back by [`Sessions::resume`].
    Returns(R, Nanos),
    /// It waits.
    Parked,
    /// A turn before it has failed.
    Lost(R),
}

impl<R> Default for Sessions<R> {
    fn default() -> Self {
        Sessions {
            known: HashMap::new(),
            resting: BTreeMap::new(),
            rests: 0,
            latest: None,
            parked: 0,
            weight: 0,
            live: 0,
            closed: false,
        }
    }
}

impl<R> Sessions<R> {
    /// A turn of session `id` was read.
    pub fn arrive(&mut self, id: &str, turn: Turn<R>) -> Gate<R> {
        self.moved_on(Some(id));
        if turn.begins && self.known.get(id).is_some_and(|session| !session.busy && session.begun) {
            self.forget(id);
        }
        let Some(session) = self.known.get_mut(id) else {
            let session = Session {
                busy: false,
                parked: VecDeque::new(),
                replies: vec![],
                ended: Nanos(0),
                failed: false,
                begun: false,
                resting: None,
                live: false,
            };
            self.known.insert(id.to_owned(), session);
            return Gate::First(turn.request);
        };
        if session.busy || !session.begun {
            self.parked += 1;
            if !self.closed {
                self.weight += turn.weight;
                session.parked.push_back(turn);
            }
            return Gate::Parked;
        }
        if session.failed {
            return Gate::Lost(turn.request);
        }
        session.busy = true;
        if let Some(place) = session.resting.take() {
            self.resting.remove(&place);
        }
        if session.live { Gate::Next(turn.request, session.ended) } else { Gate::Returns(turn.request, session.ended) }
    }

    /// The first turn of session `id` starts: it is one of the users from now on.
    pub fn begin(&mut self, id: &str) {
        if let Some(session) = self.known.get_mut(id) {
            (session.busy, session.begun) = (true, true);
        }
        self.resume(id);
    }

    /// Session `id` is one of the users again.
    pub fn resume(&mut self, id: &str) {
        if let Some(session) = self.known.get_mut(id) {
            self.live += usize::from(!std::mem::replace(&mut session.live, true));
        }
    }

    /// Its turn is over, with this reply if all went well: gives the turn that may follow, or those that never will.
    pub fn ended(&mut self, id: &str, at: Nanos, reply: Option<String>) -> (Option<R>, Vec<R>) {
        let Some(session) = self.known.get_mut(id) else { return (None, vec![]) };
        session.ended = at;
        session.failed |= reply.is_none();
        session.replies.extend(reply);
        session.busy = false;
        // After a failure nothing goes but a conversation that begins anew.
        let failed = session.failed;
        let lost_to = session.parked.iter().position(|turn| !failed || turn.begins).unwrap_or(session.parked.len());
        let lost: Vec<Turn<R>> = session.parked.drain(..lost_to).collect();
        let next = session.parked.pop_front();
        if next.as_ref().is_some_and(|turn| turn.begins) {
            (session.failed, session.replies) = (false, vec![]);
        }
        session.busy = next.is_some();
        self.parked -= lost.len() + usize::from(next.is_some());
        self.weight -= lost.iter().chain(&next).map(|turn| turn.weight).sum::<u64>();
        if next.is_none() {
            self.rest(id);
        }
        (next.map(|turn| turn.request), lost.into_iter().map(|turn| turn.request).collect())
    }

    /// What the server has answered to the turns of session `id` so far.
    pub fn replies(&self, id: &str) -> Vec<String> {
        self.known.get(id).map_or_else(Vec::new, |session| session.replies.clone())
    }

    /// Users at once: sessions that have begun and are not over.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Whether there is any conversation whose lines may still come.
    pub fn any(&self) -> bool {
        !self.known.is_empty()
    }

    /// Turns that wait for the one before them.
    pub fn parked(&self) -> usize {
        self.parked
    }

    /// What those take of the memory, in bytes.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// The last line read is of session `id`, or of none.
    pub fn moved_on(&mut self, id: Option<&str>) {
        if self.latest.as_deref() != id {
            let before = std::mem::replace(&mut self.latest, id.map(str::to_owned));
            if let Some(before) = before {
                self.leave(&before);
            }
        }
    }

    /// Nothing is known to come for session `id`. It may be forgotten when many more have come to this.
    fn rest(&mut self, id: &str) {
        self.leave(id);
        let Some(session) = self.known.get_mut(id) else { return };
        self.rests += 1;
        if let Some(place) = session.resting.replace(self.rests) {
            self.resting.remove(&place);
        }
        self.resting.insert(self.rests, id.to_owned());
        if self.resting.len() > RESTING
            && let Some((_, oldest)) = self.resting.pop_first()
        {
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, id: &str) {
        let Some(forgotten) = self.known.remove(id) else { return };
        self.live -= usize::from(forgotten.live);
        if let Some(place) = forgotten.resting {
            self.resting.remove(&place);
        }
    }

    /// A session that rests is over once the input is at another.
    fn leave(&mut self, id: &str) {
        if self.latest.as_deref() == Some(id) {
            return;
        }
        if let Some(session) = self.known.get_mut(id).filter(|s| !s.busy && s.parked.is_empty()) {
            self.live -= usize::from(std::mem::take(&mut session.live));
        }
    }

    /// Nothing is sent any more: no turn that waits is kept, and those still to come are only counted among [`Self::parked`].
    pub fn close(&mut self) {
        self.closed = true;
        self.known.values_mut().for_each(|session| session.parked.clear());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn<R>(request: R) -> Turn<R> {
        Turn { request, weight: 3, begins: false }
    }

    #[test]
    fn one_turn_at_a_time_in_the_order_of_lines() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.arrive("a", turn(0)), Gate::First(0));
        assert_eq!(sessions.arrive("a", turn(1)), Gate::Parked, "the first has not begun");
        sessions.begin("a");
        assert_eq!(sessions.arrive("b", turn(10)), Gate::First(10));
        assert_eq!((sessions.parked(), sessions.live()), (1, 1));
        assert_eq!(sessions.ended("a", Nanos(7), Some("x".into())), (Some(1), vec![]));
        assert_eq!(sessions.arrive("a", turn(2)), Gate::Parked);
        assert_eq!(sessions.ended("a", Nanos(9), Some("y".into())), (Some(2), vec![]));
        assert_eq!(sessions.replies("a"), ["x", "y"]);
        assert_eq!(sessions.ended("a", Nanos(11), Some("z".into())), (None, vec![]));
        assert_eq!(sessions.live(), 1, "its lines may go on");
        assert_eq!(sessions.arrive("a", turn(3)), Gate::Next(3, Nanos(11)));
        sessions.ended("a", Nanos(12), Some("!".into()));
        sessions.moved_on(None);
        assert_eq!((sessions.live(), sessions.weight()), (0, 0));
        assert_eq!(sessions.arrive("a", turn(4)), Gate::Returns(4, Nanos(12)), "others may have its place");
        sessions.resume("a");
        assert_eq!(sessions.live(), 1);
    }

    #[test]
    fn a_name_that_is_used_again_is_another_conversation() {
        let begins = |request| Turn { begins: true, ..turn(request) };
        let mut sessions = Sessions::default();
        assert_eq!(sessions.arrive("a", begins(0)), Gate::First(0));
        sessions.begin("a");
        assert_eq!(sessions.arrive("a", turn(1)), Gate::Parked);
        assert_eq!(sessions.arrive("a", begins(10)), Gate::Parked, "one at a time");
        assert_eq!(sessions.arrive("a", turn(11)), Gate::Parked);
        assert_eq!(sessions.ended("a", Nanos(1), None), (Some(10), vec![1]));
        assert_eq!(sessions.replies("a"), [""; 0]);
        assert_eq!(sessions.ended("a", Nanos(2), Some("x".into())), (Some(11), vec![]));
        assert_eq!(sessions.replies("a"), ["x"]);
        assert_eq!(sessions.ended("a", Nanos(3), None), (None, vec![]));
        assert_eq!(sessions.arrive("a", begins(20)), Gate::First(20));
        assert_eq!((sessions.parked(), sessions.weight(), sessions.live()), (0, 0, 0));
    }

    #[test]
    fn at_the_end_turns_are_counted_and_not_kept() {
        let mut sessions = Sessions::default();
        sessions.arrive("a", turn(0));
        sessions.arrive("a", turn(1));
        sessions.close();
        sessions.arrive("a", turn(2));
        assert_eq!(sessions.parked(), 2);
        assert!(sessions.known["a"].parked.is_empty());
    }

    #[test]
    fn after_a_failure_nothing_of_the_session_goes() {
        let mut sessions = Sessions::default();
        sessions.arrive("a", turn(0));
        sessions.begin("a");
        sessions.arrive("a", turn(1));
        sessions.arrive("a", turn(2));
        assert_eq!(sessions.ended("a", Nanos(1), None), (None, vec![1, 2]));
        assert_eq!((sessions.arrive("a", turn(3)), sessions.parked()), (Gate::Lost(3), 0));
    }

    #[test]
    fn a_session_that_rests_again_and_again_is_not_forgotten() {
        let mut sessions = Sessions::default();
        for turn in 0..200 {
            for id in (0..50).map(|i| format!("s{i}")) {
                match sessions.arrive(&id, self::turn(turn)) {
                    Gate::First(0) => sessions.begin(&id),
                    gate => assert_eq!(gate, Gate::Returns(turn, Nanos(turn - 1)), "{id}"),
                }
                assert_eq!(sessions.ended(&id, Nanos(turn), Some(String::new())), (None, vec![]));
            }
        }
        assert_eq!(sessions.resting.len(), 50);
    }

    #[test]
    fn of_sessions_that_rest_only_so_many_are_remembered() {
        let mut sessions = Sessions::default();
        for i in 0..RESTING + 10 {
            let id = format!("s{i}");
            sessions.arrive(&id, turn(i));
            sessions.begin(&id);
            sessions.ended(&id, Nanos(0), Some(String::new()));
        }
        assert!(sessions.known.len() <= RESTING + 1 && sessions.live() == 1, "{}", sessions.known.len());
        assert_eq!(sessions.arrive("s0", turn(0)), Gate::First(0));
    }
}
