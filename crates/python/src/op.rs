//! Op: one awaited operation (`acquire`, `put`, `get`, `wait`, ...), lazy and one-shot, like a coroutine.
//!
//! Nothing happens when the method is called; the effect starts at the first step. An `Op` that is dropped unstarted
//! warns `'Queue.put' was never awaited`. It has a coroutine's `send`, `throw` and `close`, so that `create_task`,
//! `wait_for` and `gather` take it, and no `_asyncio_future_blocking`, so that they do not take it for a future.
//!
//! Lives here: the life of an operation (unstarted -> waiting -> finished), the same for all of them, and so the place
//! where a thrown exception takes a waiter out of its line. Does not live here: what an operation does, see the
//! implementations of [`Operation`] beside each object.

use std::sync::Arc;

use loopwright_core::waiters::{Ticket, Wakes};
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::{PyRuntimeError, PyRuntimeWarning};
use pyo3::prelude::*;

use crate::aio;
use crate::awaitable::{self, Step, Stepped};
use crate::event::WaitEvent;
use crate::fut::Fut;
use crate::hub::{Hub, Origin};
use crate::permits::Acquire;
use crate::queue::{Get, Join, Put};

/// What an operation came to; `None` is Python's None.
pub type Value = Option<Py<PyAny>>;

/// What an operation's attempt to stand in line came to.
pub enum Enlisted {
    /// It stands in line.
    Waits(Ticket),
    /// The way was free after all.
    Done(Value),
}

/// What a woken operation found.
pub enum Resumed {
    /// The end of the wait.
    Done(Value),
    /// Nothing: stand in line again, with a new waker.
    Again,
}

/// What an exception thrown into a waiting operation does to it.
pub enum Thrown {
    /// It ends the wait; the operation has left its line.
    Raise,
    /// It is noted, the wait goes on (a group waits for its tasks whatever happens).
    WaitOn,
}

/// One kind of operation. Decisions are the core machine's; this carries them out.
pub trait Operation {
    /// For messages: `Queue.put`.
    fn name(&self) -> &'static str;

    /// Tries to finish without waiting.
    ///
    /// # Errors
    /// What the await raises.
    fn attempt(&mut self, py: Python<'_>) -> PyResult<Option<Value>>;

    /// Stands in line, unless the way has become free since [`attempt`](Self::attempt): making the waker allocates,
    /// and a garbage collection runs anything.
    ///
    /// # Errors
    /// What the await raises; `LoopMismatch`.
    fn enlist(&mut self, hub: &Bound<'_, Hub>, waker: Waker) -> PyResult<Enlisted>;

    /// Runs after the wake: this is the transfer.
    ///
    /// # Errors
    /// What the await raises.
    fn resume(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<Resumed>;

    /// Goes back into the line after [`Resumed::Again`]; the default is for operations that never say that.
    ///
    /// # Errors
    /// `RuntimeError`.
    fn enlist_again(&mut self, _hub: &Bound<'_, Hub>, _ticket: Ticket, _waker: Waker) -> PyResult<()> {
        Err(PyRuntimeError::new_err("this operation does not wait twice"))
    }

    /// Leaves the line, woken or not, and hands on what was reserved.
    ///
    /// # Errors
    /// What waking the next in line raises: the loop is closed.
    fn leave(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<()>;

    /// An exception arrives at the waiting operation. The default leaves the line.
    ///
    /// # Errors
    /// As [`leave`](Self::leave).
    fn thrown(&mut self, py: Python<'_>, ticket: Ticket, _error: &PyErr) -> PyResult<Thrown> {
        self.leave(py, ticket)?;
        Ok(Thrown::Raise)
    }

    /// Visits what the operation refers to.
    ///
    /// # Errors
    /// The visitor's.
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError>;
}

/// Every kind of operation. An enum and not a `Box<dyn Operation>`: an operation is made for each `put` and `get`.
pub enum Kind {
    /// `acquire` of everything that has permits.
    Acquire(Acquire),
    /// `Queue.get`, and `async for` over a queue
    Get(Get),
    /// `Queue.join`
    Join(Join),
    /// `Queue.put`
    Put(Put),
    /// `Event.wait`
    WaitEvent(WaitEvent),
}

macro_rules! each {
    ($kind:expr, $operation:ident => $body:expr) => {
        match $kind {
            Kind::Acquire($operation) => $body,
            Kind::Get($operation) => $body,
            Kind::Join($operation) => $body,
            Kind::Put($operation) => $body,
            Kind::WaitEvent($operation) => $body,
        }
    };
}

enum Stage {
    Unstarted,
    Waiting {
        ticket: Ticket,
        fut: Py<Fut>,
    },
    /// The future was cancelled and the operation has left its line; its task has not run yet.
    Left,
    Finished,
}

/// See the module's documentation.
#[pyclass(module = "loopwright._loopwright", name = "_Op", freelist = 256)]
pub struct Op {
    kind: Option<Kind>,
    stage: Stage,
}

impl Op {
    /// An operation that has not started.
    #[inline]
    pub fn new(py: Python<'_>, kind: Kind) -> PyResult<Py<Self>> {
        let op = Bound::new(py, Self { kind: Some(kind), stage: Stage::Unstarted })?;
        awaitable::track(&op);
        Ok(op.unbind())
    }

    /// For messages: `Queue.put`.
    pub fn name(&self) -> &'static str {
        self.kind.as_ref().map_or("operation", |kind| each!(kind, operation => operation.name()))
    }

    /// The future it waits for was cancelled: the line moves on at once.
    ///
    /// # Errors
    /// What waking the next in line raises.
    pub fn leave(slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut op = slf.borrow_mut();
        match std::mem::replace(&mut op.stage, Stage::Left) {
            Stage::Waiting { ticket, .. } => op.leave_line(slf.py(), ticket),
            other => {
                op.stage = other;
                Ok(())
            }
        }
    }

    fn leave_line(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<()> {
        match &mut self.kind {
            Some(kind) => each!(kind, operation => operation.leave(py, ticket)),
            None => Ok(()),
        }
    }

    fn finish(&mut self, value: Value) -> Step {
        self.stage = Stage::Finished;
        self.kind = None;
        Step::Return(value)
    }

    fn reused(&self) -> PyErr {
        PyRuntimeError::new_err("cannot reuse an operation that was awaited already: call the method again")
    }

    fn block(slf: &Bound<'_, Self>) -> PyResult<Step> {
        let py = slf.py();
        let hub = aio::hub(py)?;
        let hub = hub.bind(py);
        let fut = Fut::new(hub, slf)?;
        let mut op = slf.borrow_mut();
        let waker = Waker::Task(fut.clone().unbind());
        let Some(kind) = &mut op.kind else { return Err(op.reused()) };
        match each!(kind, operation => operation.enlist(hub, waker))? {
            Enlisted::Done(value) => Ok(op.finish(value)),
            Enlisted::Waits(ticket) => {
                op.stage = Stage::Waiting { ticket, fut: fut.clone().unbind() };
                Ok(Step::Yield(fut.into_any().unbind()))
            }
        }
    }

    fn block_again(slf: &Bound<'_, Self>, ticket: Ticket) -> PyResult<Step> {
        let py = slf.py();
        let hub = aio::hub(py)?;
        let fut = Fut::new(hub.bind(py), slf)?;
        let mut op = slf.borrow_mut();
        op.stage = Stage::Waiting { ticket, fut: fut.clone().unbind() };
        let waker = Waker::Task(fut.clone().unbind());
        if let Some(kind) = &mut op.kind {
            each!(kind, operation => operation.enlist_again(hub.bind(py), ticket, waker))?;
        }
        Ok(Step::Yield(fut.into_any().unbind()))
    }
}

impl Stepped for Op {
    fn step(slf: &Bound<'_, Self>) -> PyResult<Step> {
        let py = slf.py();
        let mut op = slf.borrow_mut();
        match &op.stage {
            Stage::Unstarted => {
                let Some(kind) = &mut op.kind else { return Err(op.reused()) };
                match each!(kind, operation => operation.attempt(py)) {
                    Ok(Some(value)) => Ok(op.finish(value)),
                    Ok(None) => {
                        drop(op);
                        Self::block(slf).inspect_err(|_| slf.borrow_mut().stage = Stage::Finished)
                    }
                    Err(error) => {
                        op.finish(None);
                        Err(error)
                    }
                }
            }
            Stage::Waiting { fut, .. } if fut.borrow(py).is_pending() => {
                Err(PyRuntimeError::new_err("await wasn't used with future: the operation still waits"))
            }
            Stage::Waiting { ticket, .. } => {
                let ticket = *ticket;
                let Some(kind) = &mut op.kind else { return Err(op.reused()) };
                match each!(kind, operation => operation.resume(py, ticket)) {
                    Ok(Resumed::Done(value)) => Ok(op.finish(value)),
                    Ok(Resumed::Again) => {
                        drop(op);
                        Self::block_again(slf, ticket)
                    }
                    Err(error) => {
                        op.finish(None);
                        Err(error)
                    }
                }
            }
            Stage::Left | Stage::Finished => Err(op.reused()),
        }
    }
}

#[pymethods]
impl Op {
    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        awaitable::answer(slf.py(), Self::step(slf)?)
    }

    fn send(slf: &Bound<'_, Self>, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        awaitable::answer_send(slf.py(), Self::step(slf)?)
    }

    #[pyo3(signature = (error, value = None, traceback = None))]
    fn throw(
        slf: &Bound<'_, Self>,
        error: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let error = aio::thrown(error, value, traceback);
        let mut op = slf.borrow_mut();
        match std::mem::replace(&mut op.stage, Stage::Finished) {
            Stage::Waiting { ticket, fut } => {
                let Some(kind) = &mut op.kind else { return Err(error) };
                match each!(kind, operation => operation.thrown(py, ticket, &error)) {
                    Ok(Thrown::WaitOn) if fut.borrow(py).is_pending() => {
                        op.stage = Stage::Waiting { ticket, fut: fut.clone_ref(py) };
                        Ok(fut.into_any())
                    }
                    Ok(Thrown::WaitOn) => {
                        op.stage = Stage::Waiting { ticket, fut };
                        drop(op);
                        let step = Self::step(slf)?;
                        awaitable::answer_send(py, step)
                    }
                    Ok(Thrown::Raise) => {
                        op.kind = None;
                        Err(error)
                    }
                    Err(trouble) => {
                        op.kind = None;
                        trouble.set_cause(py, Some(error));
                        Err(trouble)
                    }
                }
            }
            Stage::Unstarted | Stage::Left | Stage::Finished => {
                op.kind = None;
                Err(error)
            }
        }
    }

    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut op = slf.borrow_mut();
        let stage = std::mem::replace(&mut op.stage, Stage::Finished);
        let left = match stage {
            Stage::Waiting { ticket, .. } => op.leave_line(slf.py(), ticket),
            _ => Ok(()),
        };
        op.kind = None;
        left
    }

    #[getter]
    fn __name__(&self) -> &'static str {
        let name = self.name();
        name.rsplit_once('.').map_or(name, |(_, method)| method)
    }

    #[getter]
    fn __qualname__(&self) -> &'static str {
        self.name()
    }

    fn __repr__(&self) -> String {
        let stage = match self.stage {
            Stage::Unstarted => "not started",
            Stage::Waiting { .. } => "waiting",
            Stage::Left => "cancelled",
            Stage::Finished => "finished",
        };
        format!("<{} {stage}>", self.name())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Stage::Waiting { fut, .. } = &self.stage {
            visit.call(fut)?;
        }
        match &self.kind {
            Some(kind) => each!(kind, operation => operation.traverse(&visit)),
            None => Ok(()),
        }
    }

    fn __clear__(&mut self) {
        // The collector found the whole wait unreachable: nobody can wake it any more, nobody is served by leaving.
        self.stage = Stage::Finished;
        self.kind = None;
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Finished) {
            Stage::Finished | Stage::Left => {}
            Stage::Unstarted => Python::attach(|py| {
                let pending = PyErr::take(py);
                let message =
                    std::ffi::CString::new(format!("'{}' was never awaited", self.name())).unwrap_or_default();
                if let Err(error) = PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &message, 1) {
                    error.write_unraisable(py, None);
                }
                if let Some(pending) = pending {
                    pending.restore(py);
                }
            }),
            Stage::Waiting { ticket, .. } => Python::attach(|py| {
                let pending = PyErr::take(py);
                if let Err(error) = self.leave_line(py, ticket) {
                    error.write_unraisable(py, None);
                }
                if let Some(pending) = pending {
                    pending.restore(py);
                }
            }),
        }
    }
}

/// How a waiter is woken.
pub enum Waker {
    /// A task, through the future it waits for.
    Task(Py<Fut>),
    /// A thread that blocks outside the loop.
    Thread(Arc<ThreadWaker>),
}

/// A thread's place to sleep.
#[derive(Default)]
pub struct ThreadWaker {
    woken: std::sync::Mutex<bool>,
    bell: std::sync::Condvar,
}

impl ThreadWaker {
    /// Ends the wait.
    pub fn wake(&self) {
        *self.woken.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = true;
        self.bell.notify_one();
    }

    /// Sleeps until woken, or for this long; tells whether it was woken. Call it detached from the interpreter.
    pub fn wait(&self, timeout: std::time::Duration) -> bool {
        let woken = self.woken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let waited = self.bell.wait_timeout_while(woken, timeout, |woken| !*woken);
        *waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
    }
}

impl Waker {
    /// For `__traverse__`.
    ///
    /// # Errors
    /// The visitor's.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Task(fut) => visit.call(fut),
            Self::Thread(_) => Ok(()),
        }
    }
}

/// Runs the wakers an event set free, in order. Hold no borrow: the loop may run anything.
///
/// # Errors
/// What `call_soon` raises (the loop is closed), after every waker had its turn.
pub fn wake(py: Python<'_>, wakes: Wakes<Waker>, origin: Origin) -> PyResult<()> {
    let mut outcome = Ok(());
    for waker in wakes {
        match waker {
            Waker::Task(fut) => outcome = outcome.and(Fut::wake(fut.bind(py), origin)),
            Waker::Thread(thread) => thread.wake(),
        }
    }
    outcome
}
