//! What has to be true between any two events. What can be said without counting is asserted after every event in debug
//! builds; [`Ledger::audit`] counts everything, for tests.

use super::conns::Tally;
use super::line::{Outcome, Wait};
use super::supply::Pick;
use super::{Ledger, State};

impl<W, E: Clone> Ledger<W, E> {
    pub(super) fn debug_check(&self) {
        debug_assert_eq!(
            self.totals.opened - self.totals.closed - self.totals.abandoned,
            (self.tally.held() - self.tally.of(State::Opening)) as u64,
            "opened - closed - abandoned is what is open"
        );
        debug_assert_eq!(self.blocked.is_empty(), self.wanted == 0);
        debug_assert!(self.blocked.is_empty() || self.tally.held() >= self.config.cap(), "a key sleeps beside room");
        debug_assert!(self.wanted <= self.coming() || self.idle_by_age.is_empty(), "a key sleeps beside an idle one");
        debug_assert_eq!(self.idle_by_age.len(), self.tally.of(State::Idle));
    }

    /// Recounts everything, and looks for anybody who sleeps beside something that is theirs.
    ///
    /// # Panics
    /// If anything is wrong.
    pub fn audit(&self, now: f64) {
        self.debug_check();
        self.audit_conns();
        let mut waiting = 0;
        let mut wanted = 0;
        for index in self.keys.indices() {
            waiting += self.keys[index].line.waiting();
            wanted += self.keys[index].need;
            self.audit_key(index, now);
        }
        assert_eq!(waiting, self.waiting, "the lines together are all who wait");
        assert_eq!(wanted, self.wanted);
        assert_eq!(self.blocked.walk(&self.keys, false).count(), self.blocked.len());
        let granted = self.waits.iter().filter(|wait| matches!(wait.outcome, Outcome::Granted(_))).count();
        let users: usize = self.conns.iter().map(|entry| entry.users as usize).sum();
        assert!(granted <= users, "what is granted is in use");
    }

    fn audit_conns(&self) {
        let mut tally = Tally::default();
        for index in self.conns.indices() {
            let entry = &self.conns[index];
            tally.add(entry.state);
            assert_eq!(entry.users > 0, entry.state == State::InUse, "who is in use has users, and nobody else");
            assert!(entry.users <= self.config.max_shares, "above max_shares");
            let place_left = entry.users > 0
                && self.config.shared()
                && entry.users < self.config.max_shares
                && entry.doomed.is_none();
            assert_eq!(entry.place.is_linked(), entry.state == State::Idle || place_left, "{entry:?}");
            let limit = match entry.state {
                State::Idle if entry.hook.is_some() => self.config.max_idle,
                State::Opening => self.config.connect_timeout,
                State::Checking | State::Resetting | State::Closing => self.config.hook_timeout,
                State::Idle | State::InUse => f64::INFINITY,
            };
            assert_eq!(entry.hook.is_some(), limit.is_finite(), "every hook that runs is limited, and no other");
        }
        assert_eq!(tally, self.tally, "the books are right");
    }

    fn audit_key(&self, index: u32, now: f64) {
        let key = &self.keys[index];
        let mut tally = Tally::default();
        self.conns.iter().filter(|entry| entry.key == index).for_each(|entry| tally.add(entry.state));
        assert_eq!(tally, key.tally, "the books of the key are right");
        assert!(tally.held() <= self.config.max_per_key, "above max_per_key");
        assert_eq!(key.blocked.is_linked(), key.need > 0);
        assert_eq!(key.failures > 0, key.retry.is_some(), "failures are remembered for a while, not for ever");
        let granted = |wait: &&Wait<W, E>| wait.key == index && matches!(wait.outcome, Outcome::Granted(_));
        assert_eq!(self.waits.iter().filter(granted).count(), key.line.granted(), "no reservation is forgotten");
        let waiting = key.line.waiting();
        if waiting == 0 {
            assert_eq!(key.need, 0);
            return;
        }
        assert!(!matches!(self.pick(index, now), Pick::Fresh(_)), "somebody sleeps beside an idle connection");
        if self.pick(index, now) == Pick::Nothing {
            assert_eq!(key.need, self.connects_for(index, waiting, now), "the need is known");
        }
        let hope = tally.held() > 0 || key.need > 0 || (key.holds_back(now) && key.retry.is_some());
        assert!(hope || self.config.max_per_key == 0, "somebody sleeps, and nothing will come");
    }
}
