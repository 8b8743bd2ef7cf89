//! Fut: what a blocked operation yields to its task. It speaks asyncio's future protocol and nothing more.
//!
//! One `Fut` is one wait: made when an operation blocks, woken once (by the hub) or cancelled once. Cancelling it takes
//! the operation out of its line *at once*, not when the task gets to run: the next in line is served in the same turn.

use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::aio;
use crate::awaitable;
use crate::hub::{Hub, Origin};
use crate::op::Op;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Woken,
    Cancelled,
}

/// See the module's documentation.
#[pyclass(module = "loopwright._loopwright", name = "_Fut", freelist = 256)]
pub struct Fut {
    hub: Py<Hub>,
    op: Option<Py<Op>>,
    /// The task's wake-up and the context to run it in; a future rarely has a second callback.
    callback: Option<(Py<PyAny>, Py<PyAny>)>,
    more: Vec<(Py<PyAny>, Py<PyAny>)>,
    message: Option<Py<PyAny>>,
    state: State,
    blocking: bool,
}

impl Fut {
    /// A pending future of `op`.
    pub fn new<'py>(hub: &Bound<'py, Hub>, op: &Bound<'py, Op>) -> PyResult<Bound<'py, Self>> {
        let fut = Bound::new(
            hub.py(),
            Self {
                hub: hub.clone().unbind(),
                op: Some(op.clone().unbind()),
                callback: None,
                more: Vec::new(),
                message: None,
                state: State::Pending,
                blocking: true,
            },
        )?;
        awaitable::track(&fut);
        Ok(fut)
    }

    /// Whether nobody woke or cancelled it yet.
    pub fn is_pending(&self) -> bool {
        self.state == State::Pending
    }

    /// Ends the wait. The second and later times have no effect.
    ///
    /// # Errors
    /// What `call_soon` raises: the loop is closed.
    pub fn wake(slf: &Bound<'_, Self>, origin: Origin) -> PyResult<()> {
        {
            let mut fut = slf.borrow_mut();
            if fut.state != State::Pending {
                return Ok(());
            }
            fut.state = State::Woken;
            if fut.callback.is_none() {
                return Ok(());
            }
        }
        Self::schedule(slf, origin)
    }

    fn schedule(slf: &Bound<'_, Self>, origin: Origin) -> PyResult<()> {
        let hub = slf.borrow().hub.clone_ref(slf.py());
        Hub::wake(hub.bind(slf.py()), slf.clone().unbind(), origin)
    }

    /// Takes the callbacks, in the order in which they were added.
    pub fn take_callbacks(slf: &Bound<'_, Self>) -> impl Iterator<Item = (Py<PyAny>, Py<PyAny>)> + use<> {
        let mut fut = slf.borrow_mut();
        let first = fut.callback.take();
        first.into_iter().chain(std::mem::take(&mut fut.more))
    }

    /// Runs the callbacks, each in its context.
    ///
    /// # Errors
    /// `KeyboardInterrupt` and the like; an ordinary exception goes to the loop's exception handler.
    pub fn run_callbacks(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        for (callback, context) in Self::take_callbacks(slf) {
            let called = awaitable::call_in_context(context.bind(py), callback.bind(py), slf.as_any());
            let Err(error) = called else { continue };
            if !error.is_instance_of::<pyo3::exceptions::PyException>(py) {
                return Err(error);
            }
            let report = PyDict::new(py);
            report.set_item("message", format!("Exception in callback {}", callback.bind(py).repr()?))?;
            report.set_item("exception", error.value(py))?;
            report.set_item("future", slf)?;
            let event_loop = slf.borrow().hub.borrow(py).event_loop(py)?;
            event_loop.call_method1(intern!(py, "call_exception_handler"), (report,))?;
        }
        Ok(())
    }
}

#[pymethods]
impl Fut {
    #[getter]
    fn _asyncio_future_blocking(&self) -> bool {
        self.blocking
    }

    #[setter(_asyncio_future_blocking)]
    fn set_asyncio_future_blocking(&mut self, blocking: bool) {
        self.blocking = blocking;
    }

    #[pyo3(signature = (callback, *, context = None))]
    fn add_done_callback(
        slf: &Bound<'_, Self>,
        callback: Py<PyAny>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let context = match context {
            Some(context) => context,
            None => slf.py().import("contextvars")?.call_method0("copy_context")?,
        };
        let entry = (callback, context.unbind());
        let late = {
            let mut fut = slf.borrow_mut();
            if fut.callback.is_none() && fut.more.is_empty() {
                fut.callback = Some(entry);
            } else {
                fut.more.push(entry);
            }
            fut.state != State::Pending
        };
        if late { Self::schedule(slf, Origin::Loop) } else { Ok(()) }
    }

    fn remove_done_callback(slf: &Bound<'_, Self>, callback: &Bound<'_, PyAny>) -> PyResult<usize> {
        let entries: Vec<_> = Self::take_callbacks(slf).collect();
        let before = entries.len();
        let mut kept = Vec::with_capacity(before);
        for entry in entries {
            if !entry.0.bind(slf.py()).eq(callback)? {
                kept.push(entry);
            }
        }
        let removed = before - kept.len();
        let mut kept = kept.into_iter();
        let mut fut = slf.borrow_mut();
        fut.callback = kept.next();
        fut.more = kept.collect();
        Ok(removed)
    }

    #[pyo3(signature = (msg = None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        let op = {
            let mut fut = slf.borrow_mut();
            if fut.state != State::Pending {
                return Ok(false);
            }
            fut.state = State::Cancelled;
            fut.message = msg;
            fut.op.take()
        };
        if let Some(op) = op {
            Op::leave(op.bind(slf.py()))?;
        }
        if slf.borrow().callback.is_some() {
            Self::schedule(slf, Origin::Loop)?;
        }
        Ok(true)
    }

    fn get_loop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.hub.borrow(py).event_loop(py)
    }

    fn result(&self, py: Python<'_>) -> PyResult<()> {
        match self.state {
            State::Woken => Ok(()),
            State::Pending => Err(aio::invalid_state(py, "Result is not ready.")),
            State::Cancelled => {
                let kind = aio::cancelled_error(py)?;
                let error = match &self.message {
                    Some(message) => kind.call1((message,))?,
                    None => kind.call0()?,
                };
                Err(PyErr::from_value(error))
            }
        }
    }

    fn exception(&self, py: Python<'_>) -> PyResult<()> {
        self.result(py)
    }

    fn done(&self) -> bool {
        self.state != State::Pending
    }

    fn cancelled(&self) -> bool {
        self.state == State::Cancelled
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let state = match self.state {
            State::Pending => "pending",
            State::Woken => "woken",
            State::Cancelled => "cancelled",
        };
        let what = self.op.as_ref().and_then(|op| op.try_borrow(py).ok().map(|op| op.name())).unwrap_or("nothing");
        format!("<wait of {what} {state}>")
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.hub)?;
        if let Some(op) = &self.op {
            visit.call(op)?;
        }
        if let Some(message) = &self.message {
            visit.call(message)?;
        }
        for (callback, context) in self.callback.iter().chain(&self.more) {
            visit.call(callback)?;
            visit.call(context)?;
        }
        Ok(())
    }

    fn __clear__(&mut self) {
        self.op = None;
        self.message = None;
        self.callback = None;
        self.more.clear();
    }
}
