//! Conversations: which turn may be sent, and the responses so far. Knows no time and sends nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::scheduled::Scheduled;
use crate::units::Nanos;

/// How many idle sessions are remembered. The last known turn of an idle session has ended, but more turns may follow.
const MAX_IDLE_SESSIONS: usize = 4096;

/// The sessions of a run that are not forgotten yet. `R` is a turn.
#[derive(Debug)]
pub struct SessionTable<R> {
    known: HashMap<String, SessionState<R>>,
    /// Idle sessions by `idle_rank`: the one that has been idle longest comes first.
    idle: BTreeMap<u64, String>,
    /// How often any session has become idle; the rank of the next.
    idle_count: u64,
    /// The session of the line read last: more of its lines may follow.
    latest: Option<String>,
    parked: usize,
    /// Size of the parked turns in memory, in bytes.
    weight: u64,
    active: usize,
    /// Parked turns are counted and not kept, since nothing is sent any more.
    closed: bool,
}

#[derive(Debug)]
struct SessionState<R> {
    /// A turn is in flight or about to be sent.
    busy: bool,
    parked: VecDeque<R>,
    responses: Vec<String>,
    /// When its last turn ended.
    ended: Nanos,
    failed: bool,
    begun: bool,
    /// Its key in `idle`.
    idle_rank: Option<u64>,
    /// Counts towards `--max-sessions`.
    active: bool,
}

/// Whether a turn may be sent.
#[derive(Debug, PartialEq, Eq)]
pub enum TurnAdmission<R> {
    /// It is the first of its session.
    First(R),
    /// The turn before it ended at that time.
    Next(R, Nanos),
    /// The turn before it ended at that time, but its session is not active any more:
    /// it must wait for a place and [`SessionTable::resume_session`].
    Returns(R, Nanos),
    /// It waits for the turn before it.
    Parked,
    /// A turn before it has failed.
    Lost(R),
}

impl<R> Default for SessionTable<R> {
    fn default() -> Self {
        SessionTable {
            known: HashMap::new(),
            idle: BTreeMap::new(),
            idle_count: 0,
            latest: None,
            parked: 0,
            weight: 0,
            active: 0,
            closed: false,
        }
    }
}

impl<R: Scheduled> SessionTable<R> {
    /// Takes a turn of session `id` in the order of the input.
    pub fn admit_turn(&mut self, id: &str, turn: R) -> TurnAdmission<R> {
        self.set_latest(Some(id));
        if turn.begins_conversation() && self.known.get(id).is_some_and(|session| !session.busy && session.begun) {
            self.forget_session(id);
        }
        let Some(session) = self.known.get_mut(id) else {
            let session = SessionState {
                busy: false,
                parked: VecDeque::new(),
                responses: vec![],
                ended: Nanos(0),
                failed: false,
                begun: false,
                idle_rank: None,
                active: false,
            };
            self.known.insert(id.to_owned(), session);
            return TurnAdmission::First(turn);
        };
        if session.busy || !session.begun {
            self.parked += 1;
            if !self.closed {
                self.weight += turn.weight();
                session.parked.push_back(turn);
            }
            return TurnAdmission::Parked;
        }
        if session.failed {
            return TurnAdmission::Lost(turn);
        }
        session.busy = true;
        if let Some(rank) = session.idle_rank.take() {
            self.idle.remove(&rank);
        }
        if session.active {
            TurnAdmission::Next(turn, session.ended)
        } else {
            TurnAdmission::Returns(turn, session.ended)
        }
    }

    /// Marks session `id` as begun and active: its first turn is about to be sent.
    pub fn begin_session(&mut self, id: &str) {
        if let Some(session) = self.known.get_mut(id) {
            (session.busy, session.begun) = (true, true);
        }
        self.resume_session(id);
    }

    /// Makes session `id` active again.
    pub fn resume_session(&mut self, id: &str) {
        if let Some(session) = self.known.get_mut(id) {
            self.active += usize::from(!std::mem::replace(&mut session.active, true));
        }
    }

    /// Ends the turn in flight; `response` is `None` if it failed. Returns the turn that may follow, and those that never will.
    pub fn end_turn(&mut self, id: &str, at: Nanos, response: Option<String>) -> (Option<R>, Vec<R>) {
        let Some(session) = self.known.get_mut(id) else { return (None, vec![]) };
        session.ended = at;
        session.failed |= response.is_none();
        session.responses.extend(response);
        session.busy = false;
        // After a failure only a turn that begins a new conversation may be sent.
        let failed = session.failed;
        let lost_to = session
            .parked
            .iter()
            .position(|turn| !failed || turn.begins_conversation())
            .unwrap_or(session.parked.len());
        let lost: Vec<R> = session.parked.drain(..lost_to).collect();
        let next = session.parked.pop_front();
        if next.as_ref().is_some_and(Scheduled::begins_conversation) {
            (session.failed, session.responses) = (false, vec![]);
        }
        session.busy = next.is_some();
        self.parked -= lost.len() + usize::from(next.is_some());
        self.weight -= lost.iter().chain(&next).map(Scheduled::weight).sum::<u64>();
        if next.is_none() {
            self.mark_idle(id);
        }
        (next, lost)
    }
}

impl<R> SessionTable<R> {
    /// The responses to the turns of session `id` so far.
    pub fn responses_so_far(&self, id: &str) -> Vec<String> {
        self.known.get(id).map_or_else(Vec::new, |session| session.responses.clone())
    }

    /// The number of active sessions: begun and not ended.
    pub fn active_count(&self) -> usize {
        self.active
    }

    /// Whether no session is known for which more lines may come.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The number of turns that wait for the one before them.
    pub fn parked_count(&self) -> usize {
        self.parked
    }

    /// Size of the parked turns in memory, in bytes.
    pub fn parked_weight(&self) -> u64 {
        self.weight
    }

    /// Notes that the line read last belongs to session `id`, or to none.
    pub fn set_latest(&mut self, id: Option<&str>) {
        if self.latest.as_deref() != id {
            let before = std::mem::replace(&mut self.latest, id.map(str::to_owned));
            if let Some(before) = before {
                self.deactivate_idle(&before);
            }
        }
    }

    /// Marks session `id` as idle: none of its turns waits. It may be forgotten once many others have become idle.
    fn mark_idle(&mut self, id: &str) {
        self.deactivate_idle(id);
        let Some(session) = self.known.get_mut(id) else { return };
        self.idle_count += 1;
        if let Some(rank) = session.idle_rank.replace(self.idle_count) {
            self.idle.remove(&rank);
        }
        self.idle.insert(self.idle_count, id.to_owned());
        if self.idle.len() > MAX_IDLE_SESSIONS
            && let Some((_, oldest)) = self.idle.pop_first()
        {
            self.forget_session(&oldest);
        }
    }

    fn forget_session(&mut self, id: &str) {
        let Some(forgotten) = self.known.remove(id) else { return };
        self.active -= usize::from(forgotten.active);
        if let Some(rank) = forgotten.idle_rank {
            self.idle.remove(&rank);
        }
    }

    /// Ends an idle session once the input has moved to another one.
    fn deactivate_idle(&mut self, id: &str) {
        if self.latest.as_deref() == Some(id) {
            return;
        }
        if let Some(session) = self.known.get_mut(id).filter(|s| !s.busy && s.parked.is_empty()) {
            self.active -= usize::from(std::mem::take(&mut session.active));
        }
    }

    /// Drops the parked turns, since nothing is sent any more; later ones are only counted in [`Self::parked_count`].
    pub fn stop_parking(&mut self) {
        self.closed = true;
        self.known.values_mut().for_each(|session| session.parked.clear());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A turn with a number.
    #[derive(Debug, PartialEq, Eq)]
    struct Numbered {
        number: u64,
        begins: bool,
    }

    impl Scheduled for Numbered {
        fn timestamp(&self) -> Option<Nanos> {
            None
        }
        fn session(&self) -> Option<&str> {
            None
        }
        fn begins_conversation(&self) -> bool {
            self.begins
        }
        fn needs_responses(&self) -> bool {
            false
        }
        fn read_at(&self) -> Nanos {
            Nanos(0)
        }
        fn think_time(&self) -> Option<Nanos> {
            None
        }
        fn weight(&self) -> u64 {
            3
        }
    }

    fn turn(number: u64) -> Numbered {
        Numbered { number, begins: false }
    }

    #[test]
    fn one_turn_at_a_time_in_the_order_of_lines() {
        let mut sessions = SessionTable::default();
        assert_eq!(sessions.admit_turn("a", turn(0)), TurnAdmission::First(turn(0)));
        assert_eq!(sessions.admit_turn("a", turn(1)), TurnAdmission::Parked, "the first has not begun");
        sessions.begin_session("a");
        assert_eq!(sessions.admit_turn("b", turn(10)), TurnAdmission::First(turn(10)));
        assert_eq!((sessions.parked_count(), sessions.active_count()), (1, 1));
        assert_eq!(sessions.end_turn("a", Nanos(7), Some("x".into())), (Some(turn(1)), vec![]));
        assert_eq!(sessions.admit_turn("a", turn(2)), TurnAdmission::Parked);
        assert_eq!(sessions.end_turn("a", Nanos(9), Some("y".into())), (Some(turn(2)), vec![]));
        assert_eq!(sessions.responses_so_far("a"), ["x", "y"]);
        assert_eq!(sessions.end_turn("a", Nanos(11), Some("z".into())), (None, vec![]));
        assert_eq!(sessions.active_count(), 1, "its lines may go on");
        assert_eq!(sessions.admit_turn("a", turn(3)), TurnAdmission::Next(turn(3), Nanos(11)));
        sessions.end_turn("a", Nanos(12), Some("!".into()));
        sessions.set_latest(None);
        assert_eq!((sessions.active_count(), sessions.parked_weight()), (0, 0));
        assert_eq!(
            sessions.admit_turn("a", turn(4)),
            TurnAdmission::Returns(turn(4), Nanos(12)),
            "others may have its place"
        );
        sessions.resume_session("a");
        assert_eq!(sessions.active_count(), 1);
    }

    #[test]
    fn a_name_that_is_used_again_is_another_conversation() {
        let begins = |number| Numbered { number, begins: true };
        let mut sessions = SessionTable::default();
        assert_eq!(sessions.admit_turn("a", begins(0)), TurnAdmission::First(begins(0)));
        sessions.begin_session("a");
        assert_eq!(sessions.admit_turn("a", turn(1)), TurnAdmission::Parked);
        assert_eq!(sessions.admit_turn("a", begins(10)), TurnAdmission::Parked, "one at a time");
        assert_eq!(sessions.admit_turn("a", turn(11)), TurnAdmission::Parked);
        assert_eq!(sessions.end_turn("a", Nanos(1), None), (Some(begins(10)), vec![turn(1)]));
        assert_eq!(sessions.responses_so_far("a"), [""; 0]);
        assert_eq!(sessions.end_turn("a", Nanos(2), Some("x".into())), (Some(turn(11)), vec![]));
        assert_eq!(sessions.responses_so_far("a"), ["x"]);
        assert_eq!(sessions.end_turn("a", Nanos(3), None), (None, vec![]));
        assert_eq!(sessions.admit_turn("a", begins(20)), TurnAdmission::First(begins(20)));
        assert_eq!((sessions.parked_count(), sessions.parked_weight(), sessions.active_count()), (0, 0, 0));
    }

    #[test]
    fn at_the_end_turns_are_counted_and_not_kept() {
        let mut sessions = SessionTable::default();
        sessions.admit_turn("a", turn(0));
        sessions.admit_turn("a", turn(1));
        sessions.stop_parking();
        sessions.admit_turn("a", turn(2));
        assert_eq!(sessions.parked_count(), 2);
        assert!(sessions.known["a"].parked.is_empty());
    }

    #[test]
    fn after_a_failure_nothing_of_the_session_goes() {
        let mut sessions = SessionTable::default();
        sessions.admit_turn("a", turn(0));
        sessions.begin_session("a");
        sessions.admit_turn("a", turn(1));
        sessions.admit_turn("a", turn(2));
        assert_eq!(sessions.end_turn("a", Nanos(1), None), (None, vec![turn(1), turn(2)]));
        assert_eq!((sessions.admit_turn("a", turn(3)), sessions.parked_count()), (TurnAdmission::Lost(turn(3)), 0));
    }

    #[test]
    fn a_session_that_becomes_idle_again_and_again_is_not_forgotten() {
        let mut sessions = SessionTable::default();
        for turn in 0..200 {
            for id in (0..50).map(|i| format!("s{i}")) {
                match sessions.admit_turn(&id, self::turn(turn)) {
                    TurnAdmission::First(_) if turn == 0 => sessions.begin_session(&id),
                    gate => assert_eq!(gate, TurnAdmission::Returns(self::turn(turn), Nanos(turn - 1)), "{id}"),
                }
                assert_eq!(sessions.end_turn(&id, Nanos(turn), Some(String::new())), (None, vec![]));
            }
        }
        assert_eq!(sessions.idle.len(), 50);
    }

    #[test]
    fn only_a_limited_number_of_idle_sessions_is_remembered() {
        let mut sessions = SessionTable::default();
        for i in 0..MAX_IDLE_SESSIONS as u64 + 10 {
            let id = format!("s{i}");
            sessions.admit_turn(&id, turn(i));
            sessions.begin_session(&id);
            sessions.end_turn(&id, Nanos(0), Some(String::new()));
        }
        assert!(
            sessions.known.len() <= MAX_IDLE_SESSIONS + 1 && sessions.active_count() == 1,
            "{}",
            sessions.known.len()
        );
        assert_eq!(sessions.admit_turn("s0", turn(0)), TurnAdmission::First(turn(0)));
    }
}
