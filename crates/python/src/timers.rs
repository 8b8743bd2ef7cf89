//! Timers: every deadline of one loop behind one `call_at`. Part of the loop's [`Hub`]; the decisions are
//! `loopwright_core::deadlines`.
//!
//! Lives here: the loop's clock, the one timer, and what happens when it goes off. Does not live here: what a deadline
//! means, see [`Timeout::expire`] and [`Fut::wake`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use loopwright_core::deadlines::{Alarm, Arm, Deadlines, Key};
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat};

use crate::aio;
use crate::awaitable;
use crate::clocks;
use crate::fut::Fut;
use crate::hub::{Hub, Origin};
use crate::pool::Pool;
use crate::rate_limiter::RateLimiter;
use crate::timeout::Timeout;

/// Whom a deadline concerns.
pub enum Deadline {
    /// The first in line of this limiter.
    Limiter(Py<RateLimiter>),
    /// The task of this `async with timeout(...)`.
    Timeout(Py<Timeout>),
    /// The operation that waits with this future.
    Wake(Py<Fut>),
    /// The books of this pool.
    Pool(Py<Pool>),
}

/// How the time of a loop is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    /// By asking the loop.
    Loop,
    /// By asking the system: the loop's `time` is asyncio's own, which is `time.monotonic`.
    Monotonic,
}

/// The part of a [`Hub`] that knows the time.
pub struct Timers {
    deadlines: Deadlines<Deadline>,
    alarm: Alarm,
    /// What `call_at` or `call_soon` gave.
    handle: Option<Py<PyAny>>,
    clock: Clock,
    /// The number of this loop, if its time is not the system's.
    own_time: Option<u64>,
    /// The innermost timeout of each task that is inside of any, by the task's address (the timeout holds the task).
    innermost: HashMap<usize, Py<Timeout>, BuildHasherDefault<Address>>,
}

/// For maps by an object's address: it is spread well enough by dropping the bits that alignment makes equal.
#[derive(Default)]
pub struct Address(u64);

impl Hasher for Address {
    fn finish(&self) -> u64 {
        // hashbrown takes the bucket from the low bits and a tag from the high ones.
        (self.0 >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = (self.0 << 8) | u64::from(byte));
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = address as u64;
    }
}

impl Timers {
    /// The timers of a loop that has none yet.
    ///
    /// # Errors
    /// What looking at the loop's `time` raises.
    pub fn of(event_loop: &Bound<'_, PyAny>) -> PyResult<Self> {
        let clock = Clock::of(event_loop)?;
        Ok(Self {
            deadlines: Deadlines::default(),
            alarm: Alarm::default(),
            handle: None,
            clock,
            own_time: if clock == Clock::Loop { clocks::own_time(event_loop)? } else { None },
            innermost: HashMap::default(),
        })
    }

    /// Makes `timeout` the innermost of a task. Gives back the one that was.
    #[must_use = "it is the one around it now"]
    pub fn nest(&mut self, task: &Bound<'_, PyAny>, timeout: Py<Timeout>) -> Option<Py<Timeout>> {
        self.innermost.insert(task.as_ptr() as usize, timeout)
    }

    /// `timeout` ends: if it is the innermost of a task, the one around it becomes that.
    ///
    /// # Errors
    /// Gives `outer` back when `timeout` is not the innermost.
    pub fn unnest(
        &mut self,
        task: &Bound<'_, PyAny>,
        timeout: &Bound<'_, Timeout>,
        outer: Option<Py<Timeout>>,
    ) -> Result<Py<Timeout>, Option<Py<Timeout>>> {
        match self.innermost.entry(task.as_ptr() as usize) {
            Entry::Occupied(mut innermost) if innermost.get().is(timeout) => Ok(match outer {
                Some(outer) => innermost.insert(outer),
                None => innermost.remove(),
            }),
            _ => Err(outer),
        }
    }

    /// The innermost timeout of a task.
    pub fn innermost(&self, task: &Bound<'_, PyAny>) -> Option<Py<Timeout>> {
        self.innermost.get(&(task.as_ptr() as usize)).map(|timeout| timeout.clone_ref(task.py()))
    }

    /// The number of this loop, if its time is not the system's.
    pub fn own_time(&self) -> Option<u64> {
        self.own_time
    }

    /// Live deadlines.
    pub fn len(&self) -> usize {
        self.deadlines.len()
    }

    /// The earliest live deadline.
    pub fn earliest(&self) -> Option<f64> {
        self.deadlines.earliest()
    }

    /// For `__traverse__`.
    ///
    /// # Errors
    /// The visitor's.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for deadline in self.deadlines.wakers() {
            match deadline {
                Deadline::Limiter(limiter) => visit.call(limiter)?,
                Deadline::Timeout(timeout) => visit.call(timeout)?,
                Deadline::Wake(fut) => visit.call(fut)?,
                Deadline::Pool(pool) => visit.call(pool)?,
            }
        }
        for timeout in self.innermost.values() {
            visit.call(timeout)?;
        }
        self.handle.as_ref().map_or(Ok(()), |handle| visit.call(handle))
    }

    /// For `__clear__`: takes out all that refers to other objects, to be dropped when no borrow is held.
    pub fn clear(&mut self) -> impl Sized + use<> {
        self.alarm.disarmed();
        (self.deadlines.clear(), std::mem::take(&mut self.innermost), self.handle.take())
    }
}

impl Clock {
    fn of(event_loop: &Bound<'_, PyAny>) -> PyResult<Self> {
        if !cfg!(target_os = "linux") {
            return Ok(Self::Loop); // elsewhere time.monotonic() may be another clock than CLOCK_MONOTONIC
        }
        let py = event_loop.py();
        let own = py.import("asyncio.base_events")?.getattr("BaseEventLoop")?.getattr("time")?;
        // Looked up on the instance: tests give single loops a clock of their own.
        let time = event_loop.getattr(intern!(py, "time"))?;
        let function = time.getattr_opt(intern!(py, "__func__"))?;
        Ok(if function.is_some_and(|function| function.is(&own)) { Self::Monotonic } else { Self::Loop })
    }
}

/// `time.monotonic()`, to the last bit.
#[inline]
pub fn monotonic() -> f64 {
    seconds(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic))
}

#[inline]
fn seconds(now: rustix::time::Timespec) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "what time.monotonic() does")]
    let nanoseconds = (now.tv_sec * 1_000_000_000 + now.tv_nsec) as f64;
    nanoseconds / 1e9
}

/// [`monotonic`], behind by a few milliseconds at most, for a fifth of the price.
#[inline]
pub fn coarse() -> f64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::MonotonicCoarse;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    seconds(rustix::time::clock_gettime(clock))
}

impl Hub {
    /// `loop.time()`.
    ///
    /// # Errors
    /// What the loop raises.
    #[inline]
    pub fn now(slf: &Bound<'_, Self>) -> PyResult<f64> {
        let clock = slf.get().timers(slf.py()).clock;
        match clock {
            Clock::Monotonic => Ok(monotonic()),
            Clock::Loop => Self::loop_time(slf),
        }
    }

    /// The same where that runs no Python code.
    #[inline]
    pub fn now_at_once(&self, py: Python<'_>) -> Option<f64> {
        (self.timers(py).clock == Clock::Monotonic).then(monotonic)
    }

    /// Where a time of the [system's clock](monotonic) is on the loop's: the same for asyncio's own loops. uvloop rounds
    /// to milliseconds, either way; what must not come early is told half of one more.
    ///
    /// # Errors
    /// What the loop raises.
    pub fn from_system(slf: &Bound<'_, Self>, when: f64) -> PyResult<f64> {
        const HALF_A_MILLISECOND: f64 = 0.0005;
        let clock = slf.get().timers(slf.py()).clock;
        match clock {
            Clock::Monotonic => Ok(when),
            Clock::Loop => Ok(Self::loop_time(slf)? + (when - monotonic()).max(0.0) + HALF_A_MILLISECOND),
        }
    }

    fn loop_time(slf: &Bound<'_, Self>) -> PyResult<f64> {
        let py = slf.py();
        let event_loop = slf.get().event_loop(py)?;
        event_loop.call_method0(intern!(py, "time"))?.extract()
    }

    /// Adds a deadline; the loop's timer is set only if it would go off too late. `now` may lie in the past a little.
    ///
    /// # Errors
    /// What `call_at` raises; the deadline has not been added then.
    #[inline]
    pub fn add_deadline(slf: &Bound<'_, Self>, when: f64, now: f64, deadline: Deadline) -> PyResult<Key> {
        let (key, arm) = {
            let mut timers = slf.get().timers(slf.py());
            (timers.deadlines.insert(when, deadline), timers.alarm.cover(when, now))
        };
        if let Some(arm) = arm
            && let Err(error) = Self::arm(slf, arm)
        {
            drop(Self::remove_deadline(slf, key));
            return Err(error);
        }
        Ok(key)
    }

    /// Takes a deadline out. Never a call into the loop.
    #[inline]
    pub fn remove_deadline(slf: &Bound<'_, Self>, key: Key) -> Option<Deadline> {
        slf.get().timers(slf.py()).deadlines.remove(key)
    }

    /// Moves a live deadline.
    ///
    /// # Errors
    /// What `call_at` raises; the deadline is then moved, but nothing sees to it before the next one is added.
    pub fn move_deadline(slf: &Bound<'_, Self>, key: Key, when: f64, now: f64) -> PyResult<()> {
        let arm = {
            let mut timers = slf.get().timers(slf.py());
            if timers.deadlines.reschedule(key, when) { timers.alarm.cover(when, now) } else { None }
        };
        arm.map_or(Ok(()), |arm| Self::arm(slf, arm))
    }

    /// Sets the loop's timer, in place of the one that is set.
    #[cold]
    fn arm(slf: &Bound<'_, Self>, arm: Arm) -> PyResult<()> {
        let armed = Self::try_arm(slf, arm);
        if armed.is_err() {
            slf.get().timers(slf.py()).alarm.disarmed();
        }
        armed
    }

    fn try_arm(slf: &Bound<'_, Self>, arm: Arm) -> PyResult<()> {
        let py = slf.py();
        if slf.get().is_simulated(py) {
            return Ok(()); // it asks for the earliest deadline itself: a timer that is stale must not move its clock
        }
        let event_loop = slf.get().event_loop(py)?;
        let old = slf.get().timers(py).handle.take();
        if let Some(old) = old {
            old.bind(py).call_method0(intern!(py, "cancel"))?;
        }
        // A loop whose clock was replaced since: seen here at the latest.
        let clock = Clock::of(&event_loop)?;
        let go_off = slf.getattr(intern!(py, "on_timer"))?;
        let context = &slf.get().context(py);
        let handle = match arm {
            Arm::At(when) => {
                let call_at = event_loop.getattr(intern!(py, "call_at"))?;
                awaitable::call_with_context(&call_at, [PyFloat::new(py, when).as_any(), &go_off], context)?
            }
            Arm::Soon => {
                awaitable::call_with_context(&event_loop.getattr(intern!(py, "call_soon"))?, [&go_off], context)?
            }
        };
        let mut timers = slf.get().timers(py);
        timers.clock = clock;
        timers.handle = Some(handle.unbind());
        Ok(())
    }

    /// The loop's timer went off: serves what is due, then sets the timer for the rest.
    ///
    /// # Errors
    /// `KeyboardInterrupt` and the like, or `call_at`'s; an ordinary exception goes to the loop's exception handler.
    pub fn go_off(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        // Without a clock: what the timer was set for is due.
        let (now, mut outcome) = match Self::now(slf) {
            Ok(now) => (now, Ok(())),
            Err(error) => (f64::NEG_INFINITY, Err(error)),
        };
        let (due, spent) = {
            let mut timers = slf.get().timers(slf.py());
            let until = timers.alarm.fired(now);
            (timers.deadlines.due(until), timers.handle.take())
        };
        drop(spent);
        loop {
            let Some((_, deadline)) = slf.get().timers(slf.py()).deadlines.pop_due(due) else { break };
            let served = match &deadline {
                Deadline::Limiter(limiter) => RateLimiter::go_off(limiter.bind(py)),
                Deadline::Timeout(timeout) => Timeout::expire(timeout.bind(py)),
                Deadline::Wake(fut) => Fut::wake(fut.bind(py), Origin::Loop),
                Deadline::Pool(pool) => Pool::go_off(pool.bind(py)),
            };
            let Err(error) = served else { continue };
            if !error.is_instance_of::<PyException>(py) {
                outcome = Err(error);
                break;
            }
            let report = PyDict::new(py);
            report.set_item("message", "Exception while a deadline was served")?;
            report.set_item("exception", error.into_value(py))?;
            let event_loop = slf.get().event_loop(py)?;
            if let Err(error) = event_loop.call_method1(intern!(py, "call_exception_handler"), (report,)) {
                outcome = Err(error);
                break;
            }
        }
        let arm = {
            let mut timers = slf.get().timers(slf.py());
            timers.deadlines.earliest().and_then(|earliest| timers.alarm.cover(earliest, now))
        };
        match arm {
            Some(arm) => outcome.and(Self::arm(slf, arm)),
            None => outcome,
        }
    }

    /// The task that is running, which an `async with timeout(...)` is about.
    ///
    /// # Errors
    /// `RuntimeError` outside of a task.
    pub fn current_task<'py>(slf: &Bound<'py, Self>, what: &str) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let event_loop = slf.get().event_loop(py)?;
        aio::current_task(&event_loop)?.ok_or_else(|| {
            pyo3::exceptions::PyRuntimeError::new_err(format!(
                "{what} should be used inside a task: enter it from a coroutine that the event loop runs"
            ))
        })
    }
}
