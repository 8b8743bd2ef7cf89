//! The clock: when a simulated loop that has nothing to run may move its time, and how far.
//!
//! Time stands still while anything is ready. It jumps when nothing outside of the loop can make anything ready before
//! the next timer (the binding proves that, and says `quiescent`), and runs at the real rate otherwise: a jump could
//! then let a timeout expire that in truth is not due.

/// What a loop that has nothing to run does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Idle {
    /// Time moves to this moment, at once.
    Jump(f64),
    /// Wait for the outside, for so many real seconds at most; then [`Clock::waited`].
    Wait(Option<f64>),
    /// Nothing will ever happen again.
    Deadlock,
    /// The time that the run may take is over.
    Over,
}

/// See the module's documentation. Times are seconds since the loop was made.
#[derive(Debug)]
pub struct Clock {
    now: f64,
    limit: f64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { now: 0.0, limit: f64::INFINITY }
    }
}

impl Clock {
    /// Time ends here: the loop is told when it would pass this moment. That is no timer, which would keep a program
    /// alive that is dead.
    pub fn limit(&mut self, to: f64) {
        self.limit = to;
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> f64 {
        self.now
    }

    /// Nothing is ready; `next` is the earliest live timer.
    #[must_use]
    pub fn idle(&self, next: Option<f64>, quiescent: bool) -> Idle {
        match (next, quiescent) {
            (Some(next), _) if next <= self.now => Idle::Jump(self.now),
            _ if self.now >= self.limit => Idle::Over,
            (Some(next), true) if next.is_finite() => Idle::Jump(next.min(self.limit)),
            (_, true) => Idle::Deadlock,
            (next, false) => {
                let until = next.map_or(self.limit, |next| next.min(self.limit));
                Idle::Wait(until.is_finite().then_some(until - self.now))
            }
        }
    }

    /// Time jumps to `to`; it never goes back.
    pub fn jump(&mut self, to: f64) {
        self.now = self.now.max(to);
    }

    /// So many real seconds have passed while the loop waited; `next` as for [`Clock::idle`]. Time does not pass the
    /// next timer, nor the limit: the loop gets to run it at its own moment.
    pub fn waited(&mut self, seconds: f64, next: Option<f64>) {
        let then = self.now + seconds.max(0.0);
        let until = next.map_or(self.limit, |next| next.min(self.limit));
        self.now = then.min(until.max(self.now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_ends_at_the_limit_and_not_before_what_is_due_then() {
        let mut clock = Clock::default();
        clock.limit(5.0);
        assert_eq!(clock.idle(Some(3.0), true), Idle::Jump(3.0));
        assert_eq!(clock.idle(Some(8.0), true), Idle::Jump(5.0));
        assert_eq!(clock.idle(Some(8.0), false), Idle::Wait(Some(5.0)));
        assert_eq!(clock.idle(None, false), Idle::Wait(Some(5.0)));
        clock.waited(60.0, None);
        assert_eq!(clock.idle(Some(5.0), true), Idle::Jump(5.0));
        assert_eq!(clock.idle(Some(8.0), true), Idle::Over);
        assert_eq!(clock.idle(None, true), Idle::Over);
    }

    #[test]
    fn a_limit_is_no_reason_to_go_on() {
        let mut clock = Clock::default();
        clock.limit(5.0);
        assert_eq!(clock.idle(None, true), Idle::Deadlock);
        assert_eq!(clock.idle(Some(f64::INFINITY), true), Idle::Deadlock);
    }

    #[test]
    fn without_a_limit_a_wait_has_no_end() {
        assert_eq!(Clock::default().idle(None, false), Idle::Wait(None));
        assert_eq!(Clock::default().idle(Some(f64::INFINITY), false), Idle::Wait(None));
    }
}
