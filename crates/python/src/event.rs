//! Event: a superset of asyncio's. The machine is `loopwright_core::event`.

use loopwright_core::event::Event as Machine;
use loopwright_core::waiters::Ticket;
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::gil::GilCell;
use crate::hub::{Binding, Hub, Origin};
use crate::op::{self, Enlisted, Kind, Op, Operation, Resumed, Value, Waker};
use crate::semaphore;

/// A flag that lets every waiter pass once it is set. A superset of :class:`asyncio.Event`.
///
/// A waiter that was woken passes even when :meth:`clear` is called before it runs.
///
/// One object serves one event loop at a time: it belongs to a loop while it has waiters. Not thread-safe.
#[pyclass(module = "loopwright", name = "Event", frozen, subclass, weakref)]
pub struct Event(GilCell<State>);

#[derive(Default)]
struct State {
    machine: Machine<Waker>,
    binding: Binding,
}

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "()")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self(GilCell::new(State::default()))
    }

    fn __init__(&self, py: Python<'_>) {
        let old = std::mem::take(&mut *self.0.borrow(py));
        drop(old);
    }

    /// Whether the flag is set.
    fn is_set(&self, py: Python<'_>) -> bool {
        self.0.borrow(py).machine.is_set()
    }

    /// Waiters: those in line, and those woken that have not run yet.
    #[getter]
    fn waiting(&self, py: Python<'_>) -> usize {
        self.0.borrow(py).machine.waiting()
    }

    /// Whether it is as good as new: not set, and nobody waits. :class:`Keyed` gives up no other.
    fn is_quiescent(&self, py: Python<'_>) -> bool {
        let event = self.0.borrow(py);
        !event.machine.is_set() && event.machine.waiting() == 0
    }

    /// Sets the flag and wakes every waiter.
    fn set(slf: &Bound<'_, Self>) -> PyResult<()> {
        let wakes = slf.get().0.borrow(slf.py()).machine.set();
        op::wake(slf.py(), wakes, Origin::Loop)
    }

    /// Clears the flag: later waiters wait for the next :meth:`set`.
    fn clear(&self, py: Python<'_>) {
        self.0.borrow(py).machine.clear();
    }

    /// Waits until the flag is set.
    ///
    /// Returns:
    ///     An operation to await; it answers True.
    ///
    /// Raises:
    ///     CancelledError: the wait was cancelled.
    ///     LoopMismatch: waiters of another event loop stand in line.
    fn wait(slf: &Bound<'_, Self>) -> PyResult<Py<Op>> {
        Op::new(slf.py(), Kind::WaitEvent(WaitEvent(slf.clone().unbind())))
    }

    /// Returns:
    ///     A frozen :class:`EventStats` of this moment.
    fn stats<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        semaphore::stats(slf.as_any(), "EventStats")
    }

    fn _stats(&self, py: Python<'_>) -> (bool, usize) {
        let event = self.0.borrow(py);
        (event.machine.is_set(), event.machine.waiting())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (set, waiting) = slf.get()._stats(slf.py());
        let set = if set { "set" } else { "unset" };
        let waiters = if waiting > 0 { format!(", waiters:{waiting}") } else { String::new() };
        let class = slf.get_type().fully_qualified_name()?;
        Ok(format!("<{class} object at {:#x} [{set}{waiters}]>", slf.as_ptr() as usize))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |event| {
            event.machine.wakers().try_for_each(|waker| waker.traverse(&visit))?;
            event.binding.traverse(&visit)
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = std::mem::take(&mut *self.0.borrow(py));
        drop(cleared);
    }
}

/// `Event.wait()`.
pub struct WaitEvent(Py<Event>);

impl Operation for WaitEvent {
    fn object(&self) -> Option<&Py<PyAny>> {
        Some(self.0.as_any())
    }

    fn name(&self) -> &'static str {
        "Event.wait"
    }

    fn attempt(&mut self, py: Python<'_>) -> PyResult<Option<Value>> {
        Ok(self.0.get().0.borrow(py).machine.is_set().then(|| Some(op::yes(py))))
    }

    fn enlist(&mut self, hub: &Bound<'_, Hub>, waker: Waker) -> PyResult<Enlisted> {
        let py = hub.py();
        let mut event = self.0.get().0.borrow(py);
        if event.machine.is_set() {
            return Ok(Enlisted::Done(Some(op::yes(py))));
        }
        let event = &mut *event;
        event.binding.claim(hub, event.machine.waiting(), "Event")?;
        Ok(Enlisted::Waits(event.machine.wait(waker)))
    }

    fn resume(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<Resumed> {
        let mut event = self.0.get().0.borrow(py);
        if !event.machine.resume(ticket) {
            return Err(pyo3::exceptions::PyRuntimeError::new_err("Event.wait was resumed before the event was set"));
        }
        let waiting = event.machine.waiting();
        let unbound = event.binding.release(waiting);
        drop(event);
        drop(unbound);
        Ok(Resumed::Done(Some(op::yes(py))))
    }

    fn leave(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<()> {
        let unbound = {
            let mut event = self.0.get().0.borrow(py);
            event.machine.leave(ticket);
            let waiting = event.machine.waiting();
            event.binding.release(waiting)
        };
        drop(unbound);
        Ok(())
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}
