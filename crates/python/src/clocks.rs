//! Clocks: which time it is for objects that belong to no loop (limiters, breakers).
//!
//! They may be used in any thread and under any loop, so their time is the system's; except where a loop runs whose time
//! is not: one that simulates time, for which a limiter of five a second has to let five pass in each *simulated* second.
//! As long as there is no such loop in the process, nobody is asked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pyo3::intern;
use pyo3::prelude::*;

use crate::aio;
use crate::hub::Hub;
use crate::timers;

/// A loop whose time differs from the system's by more seconds than this has a clock of its own.
const ANOTHER_CLOCK: f64 = 1.0;

/// Whether there may be a loop with a time of its own.
static OWN_TIME: AtomicBool = AtomicBool::new(false);

/// What [`Reading::clock`] says of the system's clock; 0 is for "none so far".
const SYSTEM: u64 = 1;

/// From here on the running loop is asked.
pub fn expect_own_time() {
    OWN_TIME.store(true, Ordering::Relaxed);
}

/// The number of a loop if its time is its own. Ask only where its `time` is not asyncio's.
///
/// # Errors
/// What the loop's `time` raises.
pub fn own_time(event_loop: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
    static LAST: AtomicU64 = AtomicU64::new(SYSTEM);
    let now: f64 = event_loop.call_method0(intern!(event_loop.py(), "time"))?.extract()?;
    let simulated = event_loop.is_instance_of::<crate::sim::SimCore>();
    if !simulated && (now - timers::monotonic()).abs() <= ANOTHER_CLOCK {
        return Ok(None);
    }
    expect_own_time();
    Ok(Some(LAST.fetch_add(1, Ordering::Relaxed) + 1))
}

/// A look at a clock.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    now: f64,
    clock: u64,
}

impl Reading {
    /// The system's time, unless some loop may have another; asks nobody.
    #[inline]
    pub fn at_once() -> Option<Self> {
        (!OWN_TIME.load(Ordering::Relaxed)).then(Self::of_the_system)
    }

    #[inline]
    fn of_the_system() -> Self {
        Self { now: timers::monotonic(), clock: SYSTEM }
    }

    /// The time here. Hold no borrow: a loop's `time` can be Python code.
    #[inline]
    pub fn take(py: Python<'_>) -> Self {
        Self::at_once().unwrap_or_else(|| Self::ask(py))
    }

    #[cold]
    fn ask(py: Python<'_>) -> Self {
        // An error: no loop runs in this thread.
        let Ok(hub) = aio::hub(py) else { return Self::of_the_system() };
        let own = hub.get().timers(py).own_time();
        match own.map(|clock| Hub::now(hub.bind(py)).map(|now| Self { now, clock })) {
            Some(Ok(reading)) => reading,
            Some(Err(_)) | None => Self::of_the_system(),
        }
    }

    /// The time, and the number of its clock.
    #[inline]
    pub fn parts(self) -> (f64, u64) {
        (self.now, self.clock)
    }

    /// A time on this clock, on the clock of the loop that runs here.
    ///
    /// # Errors
    /// What the loop's `time` raises.
    pub fn on_loop(self, hub: &Bound<'_, Hub>, when: f64) -> PyResult<f64> {
        if self.clock == SYSTEM { Hub::from_system(hub, when) } else { Ok(when) }
    }
}

/// Which clock an object was shown last.
#[derive(Debug, Default)]
pub struct Shown(u64);

impl Shown {
    /// The time, for a machine that calls `change` first when it is another clock than the last one.
    #[inline]
    pub fn see(&mut self, reading: Reading, change: impl FnOnce(f64)) -> f64 {
        if self.0 != reading.clock {
            if self.0 != 0 {
                change(reading.now);
            }
            self.0 = reading.clock;
        }
        reading.now
    }
}
