//! The hub: one per event loop, made on first use. What all waiters of one loop share.
//!
//! Woken futures of one turn are gathered here, and ONE `call_soon` runs their callbacks, each in its own context, in
//! the order of the wakes, and those of some that these wake in turn ([`EXTRA_WAKES`]). In debug mode every wake gets a
//! `call_soon` of its own: asyncio's slow-callback log then names the task that was slow and not the hub. So it does on a
//! simulated loop, which decides about each.

use std::collections::VecDeque;

use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;

use crate::aio;
use crate::awaitable;
use crate::fut::Fut;
use crate::gil::{GilCell, GilRef};
use crate::sim::SimCore;
use crate::timers::Timers;

/// From where a wake comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The loop's own thread.
    Loop,
    /// Any thread: the loop has to be woken from its `select`.
    Thread,
}

/// See the module's documentation.
#[pyclass(module = "loopwright._loopwright", name = "_Hub", frozen, weakref)]
pub struct Hub(GilCell<State>, GilCell<Timers>);

struct State {
    event_loop: Option<Py<PyAny>>,
    call_soon: Option<Py<PyAny>>,
    /// `self.drain`, bound once.
    drain: Option<Py<PyAny>>,
    context: Py<PyAny>,
    ready: VecDeque<Py<Fut>>,
    /// The emptied deque of the last drain, kept for its memory.
    spare: VecDeque<Py<Fut>>,
    scheduled: bool,
    /// What `get_debug()` said, and for how many more turns that is believed.
    debug: bool,
    debug_age: u32,
    simulated: bool,
}

/// `set_debug(True)` on a running loop shows after so many turns; `asyncio.run(debug=True)` at once.
const DEBUG_ASKED_EVERY: u32 = 128;

/// How many futures one drain runs beyond those it was scheduled for: futures that these woke in their turn.
///
/// Two tasks that hand items to each other wake each other, and the turn of the loop in between costs several times what
/// they do. With this a turn is good for a number of hand-overs. The loop's other callbacks, timers and I/O wait for so
/// many steps more at most; order among our waiters stays that of their wakes.
const EXTRA_WAKES: usize = 32;

/// Under which name a loop keeps its hub.
const ATTRIBUTE: &str = "_loopwright_hub";

impl Hub {
    fn state<'a>(slf: &'a Bound<'_, Self>) -> GilRef<'a, State> {
        slf.get().0.borrow(slf.py())
    }

    /// The hub of a loop.
    ///
    /// # Errors
    /// Whatever the loop raises when an attribute is set on it.
    pub fn of(event_loop: &Bound<'_, PyAny>) -> PyResult<Py<Self>> {
        let py = event_loop.py();
        let name = intern!(py, ATTRIBUTE);
        if let Some(hub) = Self::existing(event_loop)? {
            return Ok(hub);
        }
        let hub = Bound::new(
            py,
            Self(
                GilCell::new(State {
                    event_loop: Some(event_loop.clone().unbind()),
                    call_soon: Some(event_loop.getattr(intern!(py, "call_soon"))?.unbind()),
                    drain: None,
                    context: py.import("contextvars")?.getattr("Context")?.call0()?.unbind(),
                    ready: VecDeque::new(),
                    spare: VecDeque::new(),
                    scheduled: false,
                    debug: false,
                    debug_age: 0,
                    simulated: event_loop.cast::<SimCore>().is_ok(),
                }),
                GilCell::new(Timers::of(event_loop)?),
            ),
        )?;
        let drain = hub.getattr(intern!(py, "drain"))?.unbind();
        hub.get().0.borrow(py).drain = Some(drain);
        event_loop.setattr(name, &hub)?;
        Ok(hub.unbind())
    }

    /// The hub of a loop that has one already.
    ///
    /// # Errors
    /// Whatever the loop raises when an attribute is read.
    pub fn existing(event_loop: &Bound<'_, PyAny>) -> PyResult<Option<Py<Self>>> {
        let hub = event_loop.getattr_opt(intern!(event_loop.py(), ATTRIBUTE))?;
        hub.map(|hub| Ok(hub.cast_into::<Self>()?.unbind())).transpose()
    }

    /// The loop this hub belongs to.
    ///
    /// # Errors
    /// `RuntimeError` when the loop has been garbage collected.
    pub fn event_loop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match &self.0.borrow(py).event_loop {
            Some(event_loop) => Ok(event_loop.bind(py).clone()),
            None => Err(pyo3::exceptions::PyRuntimeError::new_err("the event loop is gone")),
        }
    }

    /// The deadlines of this loop, for as long as no Python code runs.
    #[inline]
    pub fn timers<'a>(&'a self, py: Python<'a>) -> GilRef<'a, Timers> {
        self.1.borrow(py)
    }

    /// Callbacks of ours run in one empty context, instead of copying the waker's. It is the loop's own: two threads
    /// cannot be in one context at a time.
    pub fn context<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.0.borrow(py).context.bind(py).clone()
    }

    /// Runs a future's callbacks in the next turn of the loop.
    ///
    /// # Errors
    /// What `call_soon` raises: the loop is closed.
    pub fn wake(slf: &Bound<'_, Self>, fut: Py<Fut>, origin: Origin) -> PyResult<()> {
        let py = slf.py();
        if slf.get().0.borrow(py).simulated {
            return Self::schedule_alone(slf, fut.bind(py), origin);
        }
        {
            let mut hub = slf.get().0.borrow(slf.py());
            hub.ready.push_back(fut);
            if hub.scheduled {
                return Ok(());
            }
            hub.scheduled = true;
        }
        let scheduled = if origin == Origin::Loop && Self::is_debugged(slf)? {
            let fut = {
                let mut hub = slf.get().0.borrow(slf.py());
                hub.scheduled = false;
                hub.ready.pop_back()
            };
            return fut.map_or(Ok(()), |fut| Self::schedule_alone(slf, fut.bind(py), origin));
        } else {
            Self::schedule_drain(slf, origin)
        };
        if scheduled.is_err() {
            let lost = {
                let mut hub = slf.get().0.borrow(slf.py());
                hub.scheduled = false;
                std::mem::take(&mut hub.ready)
            };
            drop(lost);
        }
        scheduled
    }

    /// Whether the loop simulates time and order: then it asks for the earliest deadline itself, and every wake is an
    /// entry of its own in its ready queue.
    pub fn is_simulated(&self, py: Python<'_>) -> bool {
        self.0.borrow(py).simulated
    }

    /// Whether the loop is in debug mode, asked anew every [`DEBUG_ASKED_EVERY`] turns.
    fn is_debugged(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        {
            let mut hub = slf.get().0.borrow(py);
            if hub.debug_age > 0 {
                hub.debug_age -= 1;
                return Ok(hub.debug);
            }
        }
        let debug = slf.get().event_loop(py)?.call_method0(intern!(py, "get_debug"))?.is_truthy()?;
        let mut hub = slf.get().0.borrow(py);
        hub.debug = debug;
        hub.debug_age = if debug { 0 } else { DEBUG_ASKED_EVERY };
        Ok(debug)
    }

    fn schedule_alone(slf: &Bound<'_, Self>, fut: &Bound<'_, Fut>, origin: Origin) -> PyResult<()> {
        let py = slf.py();
        let Some(call_soon) = Self::call_soon(slf, origin)? else { return Ok(()) };
        for (callback, context) in Fut::take_callbacks(fut) {
            let arguments = [callback.bind(py), fut.as_any()];
            awaitable::call_with_context(&call_soon, arguments, context.bind(py))?;
        }
        Ok(())
    }

    /// The loop's `call_soon`, or `call_soon_threadsafe`; None when the loop is gone.
    fn call_soon<'py>(slf: &Bound<'py, Self>, origin: Origin) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        let call_soon = slf.get().0.borrow(py).call_soon.as_ref().map(|call_soon| call_soon.clone_ref(py));
        let Some(call_soon) = call_soon else { return Ok(None) };
        Ok(Some(match origin {
            Origin::Loop => call_soon.into_bound(py),
            Origin::Thread => slf.get().event_loop(py)?.getattr(intern!(py, "call_soon_threadsafe"))?,
        }))
    }

    fn schedule_drain(slf: &Bound<'_, Self>, origin: Origin) -> PyResult<()> {
        let py = slf.py();
        let drain = slf.get().0.borrow(py).drain.as_ref().map(|drain| drain.clone_ref(py));
        let (Some(call_soon), Some(drain)) = (Self::call_soon(slf, origin)?, drain) else { return Ok(()) };
        awaitable::call_with_context(&call_soon, [drain.bind(py)], &slf.get().context(py))?;
        Ok(())
    }
}

#[pymethods]
impl Hub {
    /// Runs the callbacks of every future woken since the last turn, and of some that these wake in turn.
    fn drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let mut spare = std::mem::take(&mut Self::state(slf).spare);
        let mut extra = EXTRA_WAKES;
        loop {
            // Still marked as scheduled: what is woken meanwhile queues up here.
            let mut batch = std::mem::replace(&mut Self::state(slf).ready, spare);
            while let Some(fut) = batch.pop_front() {
                let Err(error) = Fut::run_callbacks(fut.bind(py)) else { continue };
                // KeyboardInterrupt, SystemExit: the rest keeps its turn, in front of what was woken meanwhile.
                let again = {
                    let mut hub = Self::state(slf);
                    batch.append(&mut hub.ready);
                    hub.ready = batch;
                    hub.scheduled = !hub.ready.is_empty();
                    hub.scheduled
                };
                if again {
                    Self::schedule_drain(slf, Origin::Loop)?;
                }
                return Err(error);
            }
            spare = batch;
            let woken = {
                let mut hub = Self::state(slf);
                hub.scheduled = !hub.ready.is_empty();
                hub.ready.len()
            };
            if woken == 0 {
                break;
            }
            if woken > extra {
                Self::schedule_drain(slf, Origin::Loop)?;
                break;
            }
            extra -= woken;
        }
        Self::state(slf).spare = spare;
        Ok(())
    }

    /// The loop's one timer calls this.
    fn on_timer(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::go_off(slf)
    }

    /// Live deadlines, and the earliest of them: for tests, and for loops that simulate time.
    fn deadlines(&self, py: Python<'_>) -> (usize, Option<f64>) {
        let timers = self.timers(py);
        (timers.len(), timers.earliest())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |hub| {
            for object in [&hub.event_loop, &hub.call_soon, &hub.drain].into_iter().flatten() {
                visit.call(object)?;
            }
            visit.call(&hub.context)?;
            hub.ready.iter().try_for_each(|fut| visit.call(fut))
        })?;
        self.1.traverse(&visit, |timers| timers.traverse(&visit))
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = {
            let mut hub = self.0.borrow(py);
            (hub.event_loop.take(), hub.call_soon.take(), hub.drain.take(), std::mem::take(&mut hub.ready))
        };
        drop(cleared);
        let cleared = self.timers(py).clear();
        drop(cleared);
    }
}

/// Which loop an object with waiters belongs to, while it has any (DESIGN section 3, rule 6).
#[derive(Default)]
pub struct Binding(Option<Py<Hub>>);

impl Binding {
    /// Claims an object for the hub of a new waiter.
    ///
    /// # Errors
    /// `LoopMismatch` when waiters of another loop still stand in line.
    pub fn claim(&mut self, hub: &Bound<'_, Hub>, waiting: usize, what: &str) -> PyResult<()> {
        match &self.0 {
            Some(bound) if bound.is(hub) => Ok(()),
            Some(_) if waiting > 0 => Err(aio::loopwright_error(
                hub.py(),
                "LoopMismatch",
                format!(
                    "{what} is bound to a different event loop: {waiting} waiter(s) of that loop still wait; \
                     use one object per loop, or wait until the other loop's waiters have finished"
                ),
            )),
            _ => {
                self.0 = Some(hub.clone().unbind());
                Ok(())
            }
        }
    }

    /// Lets go of the loop once nobody waits any more. Drop the result when no borrow is held.
    #[must_use]
    pub fn release(&mut self, waiting: usize) -> Option<Py<Hub>> {
        if waiting == 0 { self.0.take() } else { None }
    }

    /// For `__traverse__`.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.as_ref().map_or(Ok(()), |hub| visit.call(hub))
    }
}
