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
use crate::awaitable::{self, FreeList, Recycled};
use crate::gil::GilCell;
use crate::hub::{Hub, Origin};
use crate::op::Op;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Woken,
    Cancelled,
}

/// See the module's documentation.
#[pyclass(module = "loopwright._loopwright", name = "_Fut", frozen)]
pub struct Fut {
    hub: Py<Hub>,
    inner: GilCell<Inner>,
}

struct Inner {
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
        awaitable::new_recycled(
            hub.py(),
            Self {
                hub: hub.clone().unbind(),
                inner: GilCell::new(Inner {
                    op: Some(op.clone().unbind()),
                    callback: None,
                    more: Vec::new(),
                    message: None,
                    state: State::Pending,
                    blocking: true,
                }),
            },
        )
    }

    /// The hub of the loop whose task waits.
    pub fn hub(&self) -> &Py<Hub> {
        &self.hub
    }

    /// Whether nobody woke or cancelled it yet.
    pub fn is_pending(&self, py: Python<'_>) -> bool {
        self.inner.borrow(py).state == State::Pending
    }

    /// Ends the wait. The second and later times have no effect.
    ///
    /// # Errors
    /// What `call_soon` raises: the loop is closed.
    pub fn wake(slf: &Bound<'_, Self>, origin: Origin) -> PyResult<()> {
        let (op, is_awaited) = {
            let mut fut = slf.get().inner.borrow(slf.py());
            if fut.state != State::Pending {
                return Ok(());
            }
            fut.state = State::Woken;
            (fut.op.take(), fut.callback.is_some())
        };
        // Operation and future no longer hold each other: one that nobody awaits any more ends here, and hands on what
        // it was granted.
        drop(op);
        if is_awaited { Self::schedule(slf, origin) } else { Ok(()) }
    }

    fn schedule(slf: &Bound<'_, Self>, origin: Origin) -> PyResult<()> {
        Hub::wake(slf.get().hub.bind(slf.py()), slf.clone().unbind(), origin)
    }

    /// Takes the callbacks, in the order in which they were added.
    pub fn take_callbacks(slf: &Bound<'_, Self>) -> impl Iterator<Item = (Py<PyAny>, Py<PyAny>)> + use<> {
        let mut fut = slf.get().inner.borrow(slf.py());
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
            report.set_item("exception", error.into_value(py))?;
            report.set_item("future", slf)?;
            let event_loop = slf.get().hub.get().event_loop(py)?;
            event_loop.call_method1(intern!(py, "call_exception_handler"), (report,))?;
        }
        Ok(())
    }
}

impl Recycled for Fut {
    fn free_list() -> &'static FreeList {
        static LIST: FreeList = FreeList::new();
        &LIST
    }
}

#[pymethods]
impl Fut {
    #[getter]
    fn _asyncio_future_blocking(&self, py: Python<'_>) -> bool {
        self.inner.borrow(py).blocking
    }

    #[setter(_asyncio_future_blocking)]
    fn set_asyncio_future_blocking(&self, py: Python<'_>, blocking: bool) {
        self.inner.borrow(py).blocking = blocking;
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
            let mut fut = slf.get().inner.borrow(slf.py());
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
        let mut fut = slf.get().inner.borrow(slf.py());
        fut.callback = kept.next();
        fut.more = kept.collect();
        Ok(removed)
    }

    #[pyo3(signature = (msg = None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        let op = {
            let mut fut = slf.get().inner.borrow(slf.py());
            if fut.state != State::Pending {
                return Ok(false);
            }
            fut.state = State::Cancelled;
            fut.message = msg;
            fut.op.take()
        };
        if let Some(op) = op {
            op.get().leave(slf.py())?;
        }
        let watched = slf.get().inner.borrow(slf.py()).callback.is_some();
        if watched {
            Self::schedule(slf, Origin::Loop)?;
        }
        Ok(true)
    }

    fn get_loop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.hub.get().event_loop(py)
    }

    fn result(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.inner.borrow(py);
        match inner.state {
            State::Woken => Ok(()),
            State::Pending => Err(aio::invalid_state(py, "Result is not ready.")),
            State::Cancelled => {
                let message = inner.message.as_ref().map(|message| message.clone_ref(py));
                drop(inner);
                let kind = aio::cancelled_error(py)?;
                let error = match message {
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

    fn done(&self, py: Python<'_>) -> bool {
        self.inner.borrow(py).state != State::Pending
    }

    fn cancelled(&self, py: Python<'_>) -> bool {
        self.inner.borrow(py).state == State::Cancelled
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let inner = self.inner.borrow(py);
        let state = match inner.state {
            State::Pending => "pending",
            State::Woken => "woken",
            State::Cancelled => "cancelled",
        };
        let what = inner.op.as_ref().map_or("nothing", |op| op.get().name(py));
        format!("<wait of {what} {state}>")
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.hub)?;
        self.inner.traverse(&visit, |inner| {
            if let Some(op) = &inner.op {
                visit.call(op)?;
            }
            if let Some(message) = &inner.message {
                visit.call(message)?;
            }
            inner.callback.iter().chain(&inner.more).try_for_each(|(callback, context)| {
                visit.call(callback)?;
                visit.call(context)
            })
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = {
            let mut inner = self.inner.borrow(py);
            (inner.op.take(), inner.message.take(), inner.callback.take(), std::mem::take(&mut inner.more))
        };
        drop(cleared);
    }
}
