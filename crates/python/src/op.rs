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
use pyo3::types::PyBool;

use crate::aio;
use crate::awaitable::{self, Kept, Reused, Step};
use crate::cancel_token::WaitToken;
use crate::event::WaitEvent;
use crate::fut::Fut;
use crate::gil::GilCell;
use crate::hub::{Hub, Origin};
use crate::lease::AcquireConnection;
use crate::offload::Offload;
use crate::permits::Acquire;
use crate::queue::{Get, Join, Put};
use crate::rate_limiter::AcquireRate;
use crate::task_group::{EnterGroup, LeaveGroup, Spawn};
use crate::waits;

/// What an operation came to; `None` is Python's None.
pub type Value = Option<Py<PyAny>>;

/// Python's True: what asyncio's `acquire` and `wait` answer.
pub fn yes(py: Python<'_>) -> Py<PyAny> {
    PyBool::new(py, true).to_owned().into_any().unbind()
}

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

    /// Whether the operation goes on after its future was cancelled, if [`thrown_after_leaving`] says so.
    ///
    /// [`thrown_after_leaving`]: Self::thrown_after_leaving
    fn outlives_cancel(&self) -> bool {
        false
    }

    /// An exception arrives after the future was cancelled and the operation has left its line. [`Thrown::WaitOn`]
    /// starts it anew.
    ///
    /// # Errors
    /// What carrying that out raises.
    fn thrown_after_leaving(&mut self, _py: Python<'_>, _error: &PyErr) -> PyResult<Thrown> {
        Ok(Thrown::Raise)
    }

    /// As [`attempt`](Self::attempt), where that ends the operation, raises nothing and runs no Python code; else None
    /// and no effect. Drops no reference.
    fn at_once(&mut self, _py: Python<'_>) -> Option<Value> {
        None
    }

    /// What it waits for, when that is worth telling those who trace waits: something that others hold or have to bring.
    fn object(&self) -> Option<&Py<PyAny>> {
        None
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
    /// `acquire` of a pool
    AcquireConnection(AcquireConnection),
    /// `RateLimiter.acquire`
    AcquireRate(AcquireRate),
    /// `TaskGroup.__aenter__`
    EnterGroup(EnterGroup),
    /// `Queue.get`, and `async for` over a queue
    Get(Get),
    /// `Queue.join`
    Join(Join),
    /// `TaskGroup.__aexit__`
    LeaveGroup(LeaveGroup),
    /// `offload`
    Offload(Offload),
    /// `Queue.put`
    Put(Put),
    /// `TaskGroup.spawn`
    Spawn(Spawn),
    /// `Event.wait`
    WaitEvent(WaitEvent),
    /// `CancelToken.sleep` and `CancelToken.wait`
    WaitToken(WaitToken),
}

macro_rules! each {
    ($kind:expr, $operation:ident => $body:expr) => {
        match $kind {
            Kind::Acquire($operation) => $body,
            Kind::AcquireConnection($operation) => $body,
            Kind::AcquireRate($operation) => $body,
            Kind::EnterGroup($operation) => $body,
            Kind::Get($operation) => $body,
            Kind::Join($operation) => $body,
            Kind::LeaveGroup($operation) => $body,
            Kind::Offload($operation) => $body,
            Kind::Put($operation) => $body,
            Kind::Spawn($operation) => $body,
            Kind::WaitEvent($operation) => $body,
            Kind::WaitToken($operation) => $body,
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
#[pyclass(module = "loopwright._loopwright", name = "_Op", frozen)]
pub struct Op(GilCell<State>);

struct State {
    kind: Option<Kind>,
    stage: Stage,
    /// When its wait began, if waits are traced.
    since: Option<f64>,
}

impl State {
    fn name(&self) -> &'static str {
        self.kind.as_ref().map_or("operation", |kind| each!(kind, operation => operation.name()))
    }
}

fn reused() -> PyErr {
    PyRuntimeError::new_err("cannot reuse an operation that was awaited already: call the method again")
}

/// What a step of an operation begins with. The kind is taken out of the cell while it works: it may run Python code.
enum Begun {
    Attempt(Kind),
    Resume(Kind, Ticket),
}

impl Op {
    /// An operation that has not started.
    #[inline]
    pub fn new(py: Python<'_>, kind: Kind) -> PyResult<Py<Self>> {
        if let Some(op) = awaitable::reuse::<Self>(py) {
            op.get().fill(py, kind);
            return Ok(op.unbind());
        }
        Py::new(py, Self(GilCell::new(State { kind: Some(kind), stage: Stage::Unstarted, since: None })))
    }

    /// The same from a spent operation, if there is one; `make` is called only then.
    #[inline]
    pub fn reused(py: Python<'_>, make: impl FnOnce() -> Kind) -> Option<Py<PyAny>> {
        let op = awaitable::reuse::<Self>(py)?;
        op.get().fill(py, make());
        Some(op.into_any().unbind())
    }

    #[inline]
    fn fill(&self, py: Python<'_>, kind: Kind) {
        let mut op = self.0.borrow(py);
        op.kind = Some(kind);
        op.stage = Stage::Unstarted;
        op.since = None;
    }

    /// For messages: `Queue.put`.
    pub fn name(&self, py: Python<'_>) -> &'static str {
        self.0.borrow(py).name()
    }

    /// The future it waits for was cancelled: the line moves on at once.
    ///
    /// # Errors
    /// What waking the next in line raises.
    pub fn leave(&self, py: Python<'_>) -> PyResult<()> {
        let (stage, kind, traced) = {
            let mut op = self.0.borrow(py);
            if !matches!(op.stage, Stage::Waiting { .. }) {
                return Ok(());
            }
            (std::mem::replace(&mut op.stage, Stage::Left), op.kind.take(), op.since.is_some())
        };
        match (stage, kind) {
            (Stage::Waiting { ticket, .. }, Some(mut kind)) => {
                let left = each!(&mut kind, operation => operation.leave(py, ticket));
                // One that is traced is told of when its task runs.
                if traced || each!(&kind, operation => operation.outlives_cancel()) {
                    self.0.borrow(py).kind = Some(kind);
                }
                left
            }
            _ => Ok(()),
        }
    }

    fn begin(&self, py: Python<'_>) -> PyResult<Begun> {
        let mut op = self.0.borrow(py);
        match &op.stage {
            Stage::Unstarted => op.kind.take().map(Begun::Attempt).ok_or_else(reused),
            Stage::Waiting { fut, .. } if fut.get().is_pending(py) => {
                Err(PyRuntimeError::new_err("await wasn't used with future: the operation still waits"))
            }
            Stage::Waiting { ticket, .. } => {
                let ticket = *ticket;
                op.kind.take().map(|kind| Begun::Resume(kind, ticket)).ok_or_else(reused)
            }
            Stage::Left | Stage::Finished => Err(reused()),
        }
    }

    /// The wait begins (or goes on): `kind` goes back into the cell and its future to the task.
    fn wait(&self, py: Python<'_>, kind: Kind, ticket: Ticket, fut: Bound<'_, Fut>) -> Step {
        let mut op = self.0.borrow(py);
        let before = std::mem::replace(&mut op.stage, Stage::Waiting { ticket, fut: fut.clone().unbind() });
        op.kind = Some(kind);
        if op.since.is_none() {
            op.since = waits::begun();
        }
        drop(op);
        drop(before);
        Step::Yield(fut.into_any().unbind())
    }

    /// Takes everything out: the operation is over.
    fn end(&self, py: Python<'_>) -> (Stage, Option<Kind>) {
        let mut op = self.0.borrow(py);
        (std::mem::replace(&mut op.stage, Stage::Finished), op.kind.take())
    }

    /// Its wait has ended: tells whoever traces waits.
    #[inline]
    fn tell(&self, py: Python<'_>, kind: &Kind, error: Option<&PyErr>) {
        let since = self.0.borrow(py).since.take();
        if let Some(since) = since
            && let Some(object) = each!(kind, operation => operation.object())
        {
            waits::ended(py, since, each!(kind, operation => operation.name()), object, error);
        }
    }

    fn finish(&self, py: Python<'_>) {
        let before = std::mem::replace(&mut self.0.borrow(py).stage, Stage::Finished);
        drop(before);
    }

    fn block(slf: &Bound<'_, Self>, mut kind: Kind) -> PyResult<Step> {
        let py = slf.py();
        let hub = aio::hub(py)?;
        let hub = hub.bind(py);
        let fut = Fut::new(hub, slf)?;
        let waker = Waker::Task(fut.clone().unbind());
        match each!(&mut kind, operation => operation.enlist(hub, waker))? {
            Enlisted::Done(value) => {
                slf.get().finish(py);
                Ok(Step::Return(value))
            }
            Enlisted::Waits(ticket) => Ok(slf.get().wait(py, kind, ticket, fut)),
        }
    }

    fn block_again(slf: &Bound<'_, Self>, mut kind: Kind, ticket: Ticket) -> PyResult<Step> {
        let py = slf.py();
        let hub = aio::hub(py)?;
        let fut = Fut::new(hub.bind(py), slf)?;
        let waker = Waker::Task(fut.clone().unbind());
        each!(&mut kind, operation => operation.enlist_again(hub.bind(py), ticket, waker))?;
        Ok(slf.get().wait(py, kind, ticket, fut))
    }
}

impl Reused for Op {
    fn kept() -> &'static Kept {
        static KEPT: Kept = Kept::new();
        &KEPT
    }

    #[inline]
    fn is_spent(&self, py: Python<'_>) -> bool {
        let op = self.0.borrow(py);
        op.kind.is_none() && matches!(op.stage, Stage::Finished)
    }

    #[inline]
    fn step_at_once(&self, py: Python<'_>) -> Option<Value> {
        let mut op = self.0.borrow(py);
        if !matches!(op.stage, Stage::Unstarted) {
            return None;
        }
        let value = match &mut op.kind {
            Some(Kind::Acquire(acquire)) => acquire.at_once(py),
            Some(Kind::AcquireRate(acquire)) => acquire.at_once(py),
            Some(Kind::Get(get)) => get.at_once(py),
            Some(Kind::Put(put)) => put.at_once(py),
            _ => None,
        }?;
        op.stage = Stage::Finished;
        let kind = op.kind.take();
        drop(op);
        match kind {
            Some(Kind::Acquire(acquire)) => acquire.give_up(py),
            Some(Kind::AcquireRate(acquire)) => acquire.give_up(py),
            Some(Kind::Get(get)) => get.give_up(py),
            Some(Kind::Put(put)) => put.give_up(py),
            _ => {}
        }
        Some(value)
    }
}

impl Op {
    /// Runs to the next wait.
    ///
    /// # Errors
    /// What the await raises.
    pub fn step(slf: &Bound<'_, Self>) -> PyResult<Step> {
        let py = slf.py();
        let step = match slf.get().begin(py)? {
            Begun::Attempt(mut kind) => match each!(&mut kind, operation => operation.attempt(py)) {
                Ok(None) => return Self::block(slf, kind).inspect_err(|_| slf.get().finish(py)),
                Ok(Some(value)) => Ok(Step::Return(value)),
                Err(error) => Err(error),
            },
            Begun::Resume(mut kind, ticket) => {
                let resumed = each!(&mut kind, operation => operation.resume(py, ticket));
                if !matches!(resumed, Ok(Resumed::Again)) {
                    slf.get().tell(py, &kind, resumed.as_ref().err());
                }
                match resumed {
                    Ok(Resumed::Again) => return Self::block_again(slf, kind, ticket),
                    Ok(Resumed::Done(value)) => Ok(Step::Return(value)),
                    Err(error) => Err(error),
                }
            }
        };
        slf.get().finish(py);
        step
    }

    /// An exception arrives at the operation.
    ///
    /// # Errors
    /// The exception, as a rule.
    pub fn throw_in(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<Step> {
        let py = slf.py();
        let (stage, kind) = slf.get().end(py);
        let (thrown, kind, waiting) = match (stage, kind) {
            (Stage::Waiting { ticket, fut }, Some(mut kind)) => {
                let thrown = each!(&mut kind, operation => operation.thrown(py, ticket, &error));
                (thrown, kind, Some((ticket, fut)))
            }
            (Stage::Left, Some(mut kind)) => {
                (each!(&mut kind, operation => operation.thrown_after_leaving(py, &error)), kind, None)
            }
            _ => return Err(error),
        };
        match (thrown, waiting) {
            (Ok(Thrown::Raise), _) => {
                slf.get().tell(py, &kind, Some(&error));
                Err(error)
            }
            (Ok(Thrown::WaitOn), Some((ticket, fut))) => {
                let pending = fut.get().is_pending(py);
                let step = slf.get().wait(py, kind, ticket, fut.into_bound(py));
                if pending { Ok(step) } else { Self::step(slf) }
            }
            (Ok(Thrown::WaitOn), None) => {
                {
                    let mut op = slf.get().0.borrow(py);
                    op.kind = Some(kind);
                    op.stage = Stage::Unstarted;
                }
                Self::step(slf)
            }
            (Err(trouble), _) => {
                trouble.set_cause(py, Some(error));
                Err(trouble)
            }
        }
    }

    /// It ends here, and leaves its line.
    ///
    /// # Errors
    /// What waking the next in line raises.
    pub fn end_early(&self, py: Python<'_>) -> PyResult<()> {
        match self.end(py) {
            (Stage::Waiting { ticket, .. }, Some(mut kind)) => {
                each!(&mut kind, operation => operation.leave(py, ticket))
            }
            _ => Ok(()),
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
        let value_wanted = awaitable::value_wanted();
        awaitable::answer(slf.py(), Self::step(slf)?, value_wanted)
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
        awaitable::answer_send(slf.py(), Self::throw_in(slf, aio::thrown(error, value, traceback))?)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.end_early(py)
    }

    #[getter]
    fn __name__(&self, py: Python<'_>) -> &'static str {
        let name = self.name(py);
        name.rsplit_once('.').map_or(name, |(_, method)| method)
    }

    #[getter]
    fn __qualname__(&self, py: Python<'_>) -> &'static str {
        self.name(py)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let op = self.0.borrow(py);
        let stage = match op.stage {
            Stage::Unstarted => "not started",
            Stage::Waiting { .. } => "waiting",
            Stage::Left => "cancelled",
            Stage::Finished => "finished",
        };
        format!("<{} {stage}>", op.name())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |op| {
            if let Stage::Waiting { fut, .. } = &op.stage {
                visit.call(fut)?;
            }
            match &op.kind {
                Some(kind) => each!(kind, operation => operation.traverse(&visit)),
                None => Ok(()),
            }
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        // Unreachable is this operation, not what it waits for: it may own something that others wait for. Dropped like
        // any other, it leaves its line.
        let (stage, kind) = self.end(py);
        drop(State { kind, stage, since: None });
    }
}

impl Drop for State {
    fn drop(&mut self) {
        match (std::mem::replace(&mut self.stage, Stage::Finished), self.kind.take()) {
            (Stage::Unstarted, Some(kind)) => Python::attach(|py| {
                let message = format!("'{}' was never awaited", each!(&kind, operation => operation.name()));
                keeping_error(py, || {
                    let message = std::ffi::CString::new(message).unwrap_or_default();
                    PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &message, 1)
                });
            }),
            (Stage::Waiting { ticket, .. }, Some(mut kind)) => Python::attach(|py| {
                keeping_error(py, || each!(&mut kind, operation => operation.leave(py, ticket)));
            }),
            _ => {}
        }
    }
}

/// Does something in a deallocation: whatever exception is on its way stays on its way.
pub fn keeping_error(py: Python<'_>, action: impl FnOnce() -> PyResult<()>) {
    let pending = PyErr::take(py);
    if let Err(error) = action() {
        error.write_unraisable(py, None);
    }
    if let Some(pending) = pending {
        pending.restore(py);
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
