//! Conversations: which turn may go, and what its users have heard so far. It knows no time and sends nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::units::Nanos;

/// Sessions that rest, whose last turn that is known is over, of which so many are remembered: more turns may come.
const RESTING: usize = 4096;

/// Turns that wait for the one before them, of all sessions together: beyond, no more input is read.
pub const MOST_PARKED: usize = 16_384;

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
    live: usize,
}

#[derive(Debug)]
struct Session<R> {
    /// A turn is in flight, or on its way to be.
    busy: bool,
    parked: VecDeque<R>,
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

/// Whether a turn may go.
#[derive(Debug, PartialEq, Eq)]
pub enum Gate<R> {
    /// It is the first of its session.
    First(R),
    /// The turn before it was over at that time.
    Next(R, Nanos),
    /// It waits.
    Parked,
    /// A turn before it has failed.
    Lost(R),
}

impl<R> Default for Sessions<R> {
    fn default() -> Self {
        Sessions { known: HashMap::new(), resting: BTreeMap::new(), rests: 0, latest: None, parked: 0, live: 0 }
    }
}

impl<R> Sessions<R> {
    /// A turn of session `id` was read.
    pub fn arrive(&mut self, id: &str, turn: R) -> Gate<R> {
        self.moved_on(Some(id));
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
            return Gate::First(turn);
        };
        if session.failed {
            return Gate::Lost(turn);
        }
        if session.busy || !session.begun {
            session.parked.push_back(turn);
            self.parked += 1;
            return Gate::Parked;
        }
        session.busy = true;
        if let Some(place) = session.resting.take() {
            self.resting.remove(&place);
        }
        self.live += usize::from(!std::mem::replace(&mut session.live, true));
        Gate::Next(turn, session.ended)
    }

    /// The first turn of session `id` starts: it is one of the users from now on.
    pub fn begin(&mut self, id: &str) {
        if let Some(session) = self.known.get_mut(id) {
            (session.busy, session.begun) = (true, true);
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
        if session.failed {
            let lost: Vec<R> = session.parked.drain(..).collect();
            self.parked -= lost.len();
            self.rest(id);
            return (None, lost);
        }
        let next = session.parked.pop_front();
        session.busy = next.is_some();
        self.parked -= usize::from(next.is_some());
        if next.is_none() {
            self.rest(id);
        }
        (next, vec![])
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
            && let Some(forgotten) = self.known.remove(&oldest)
        {
            self.live -= usize::from(forgotten.live);
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

    /// Takes all turns that wait.
    pub fn drain(&mut self) -> Vec<R> {
        self.parked = 0;
        self.known.values_mut().flat_map(|session| session.parked.drain(..)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_turn_at_a_time_in_the_order_of_lines() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.arrive("a", 0), Gate::First(0));
        assert_eq!(sessions.arrive("a", 1), Gate::Parked, "the first has not begun");
        sessions.begin("a");
        assert_eq!(sessions.arrive("b", 10), Gate::First(10));
        assert_eq!((sessions.parked(), sessions.live()), (1, 1));
        assert_eq!(sessions.ended("a", Nanos(7), Some("x".into())), (Some(1), vec![]));
        assert_eq!(sessions.arrive("a", 2), Gate::Parked);
        assert_eq!(sessions.ended("a", Nanos(9), Some("y".into())), (Some(2), vec![]));
        assert_eq!(sessions.replies("a"), ["x", "y"]);
        assert_eq!(sessions.ended("a", Nanos(11), Some("z".into())), (None, vec![]));
        assert_eq!(sessions.live(), 1, "its lines may go on");
        assert_eq!(sessions.arrive("a", 3), Gate::Next(3, Nanos(11)));
        sessions.ended("a", Nanos(12), Some("!".into()));
        sessions.moved_on(None);
        assert_eq!(sessions.live(), 0);
    }

    #[test]
    fn after_a_failure_nothing_of_the_session_goes() {
        let mut sessions = Sessions::default();
        sessions.arrive("a", 0);
        sessions.begin("a");
        sessions.arrive("a", 1);
        sessions.arrive("a", 2);
        assert_eq!(sessions.ended("a", Nanos(1), None), (None, vec![1, 2]));
        assert_eq!((sessions.arrive("a", 3), sessions.parked()), (Gate::Lost(3), 0));
    }

    #[test]
    fn a_session_that_rests_again_and_again_is_not_forgotten() {
        let mut sessions = Sessions::default();
        for turn in 0..200 {
            for id in (0..50).map(|i| format!("s{i}")) {
                match sessions.arrive(&id, turn) {
                    Gate::First(0) => sessions.begin(&id),
                    gate => assert_eq!(gate, Gate::Next(turn, Nanos(turn - 1)), "{id}"),
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
            sessions.arrive(&id, i);
            sessions.begin(&id);
            sessions.ended(&id, Nanos(0), Some(String::new()));
        }
        assert!(sessions.known.len() <= RESTING + 1 && sessions.live() == 1, "{}", sessions.known.len());
        assert_eq!(sessions.arrive("s0", 0), Gate::First(0));
    }
}
