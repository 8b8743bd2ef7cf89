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
}

/// See the module's documentation. Times are seconds since the loop was made.
#[derive(Debug, Default)]
pub struct Clock {
    now: f64,
}

impl Clock {
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
            (Some(next), true) if next.is_finite() => Idle::Jump(next),
            (_, true) => Idle::Deadlock,
            (Some(next), false) if next.is_finite() => Idle::Wait(Some(next - self.now)),
            (_, false) => Idle::Wait(None),
        }
    }

    /// Time jumps to `to`; it never goes back.
    pub fn jump(&mut self, to: f64) {
        self.now = self.now.max(to);
    }

    /// So many real seconds have passed while the loop waited; `next` as for [`Clock::idle`]. Time does not pass the
    /// next timer: the loop gets to run it at its own moment.
    pub fn waited(&mut self, seconds: f64, next: Option<f64>) {
        let then = self.now + seconds.max(0.0);
        self.now = next.map_or(then, |next| then.min(next.max(self.now)));
    }
}
