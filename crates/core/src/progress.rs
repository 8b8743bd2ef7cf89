//! Progress: time for what belongs to no event loop. Whoever calls shows the clock that it has; only its progress counts.
//!
//! A clock that is replaced by another one (a loop that simulates time ends, the next one starts at zero) neither ages
//! nor rejuvenates anything, and one that two threads read out of order gives no second twice.

/// A clock that shows this much less than before is another clock; less than that is one read by two threads.
const ANOTHER_CLOCK: f64 = 1.0;

/// See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    shown: f64,
    passed: f64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { shown: f64::NEG_INFINITY, passed: 0.0 }
    }
}

impl Progress {
    /// The caller's clock shows `now`. Returns the seconds since the last time.
    #[inline]
    pub fn advance(&mut self, now: f64) -> f64 {
        if now > self.shown {
            let step = if self.shown.is_finite() { now - self.shown } else { 0.0 };
            self.shown = now;
            self.passed += step;
            return step;
        }
        if now < self.shown - ANOTHER_CLOCK {
            self.shown = now;
        }
        0.0
    }

    /// The caller reads another clock from here on, which shows `now`.
    pub fn change_clock(&mut self, now: f64) {
        self.shown = now;
    }

    /// Seconds since the beginning.
    #[inline]
    pub fn passed(&self) -> f64 {
        self.passed
    }
}
