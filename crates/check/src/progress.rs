//! How far an analysis is, for people who wait at a terminal.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Is told what goes on. Called from many threads.
pub trait Progress: Sync {
    /// A phase begins that has so many steps: "reading", "checking"; 0 when that is not known.
    fn begin(&self, phase: &'static str, steps: usize);
    /// One of them is done.
    fn step(&self);
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _phase: &'static str, _steps: usize) {}
    fn step(&self) {}
}

/// How often the bar is drawn at most, and how long nothing is: what is quick needs no bar.
const EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_millis(400);
/// Columns of the bar.
const WIDTH: usize = 24;

/// A bar on standard error.
pub struct Bar {
    state: Mutex<State>,
}

struct State {
    phase: &'static str,
    steps: usize,
    done: usize,
    begun: Instant,
    drawn: Option<Instant>,
}

impl Bar {
    /// A bar, if somebody sees it.
    pub fn for_terminal() -> Option<Self> {
        let state = State { phase: "", steps: 0, done: 0, begun: Instant::now(), drawn: None };
        stderr().is_terminal().then(|| Self { state: Mutex::new(state) })
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        // A thread that panicked while it held the bar has spoilt nothing of value.
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        change(&mut state);
        let now = Instant::now();
        if now - state.begun < PATIENCE || state.drawn.is_some_and(|drawn| now - drawn < EVERY) {
            return;
        }
        state.drawn = Some(now);
        // Nobody is told that the bar could not be drawn.
        let _ = write!(stderr(), "\r\x1b[2K{}", state.text());
    }
}

impl State {
    fn text(&self) -> String {
        if self.steps == 0 {
            return format!("{}...", self.phase);
        }
        let full = (self.done * WIDTH / self.steps).min(WIDTH);
        let (done, rest) = ("#".repeat(full), "-".repeat(WIDTH - full));
        format!("{:<10} [{done}{rest}] {}/{}", self.phase, self.done, self.steps)
    }
}

impl Progress for Bar {
    fn begin(&self, phase: &'static str, steps: usize) {
        self.update(|state| (state.phase, state.steps, state.done) = (phase, steps, 0));
    }

    fn step(&self) {
        self.update(|state| state.done += 1);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.drawn.is_some() {
            let _ = write!(stderr(), "\r\x1b[2K");
        }
    }
}
