//! Lease: what `acquire` of a pool returns. Awaited, it is the connection; entered, it is the connection for the length
//! of a block.
//!
//! A lease whose connection is idle never meets an [`Op`]: one object per use, no task, no call into the loop. One that
//! has to wait drives an operation of its own, [`AcquireConnection`], and is told by it what it got.

use std::sync::Arc;

use loopwright_core::pool::{Conn, Resumed as Given, Ticket};
use loopwright_core::waiters::Ticket as Place;
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::{PyRuntimeError, PyRuntimeWarning};
use pyo3::prelude::*;

use crate::aio;
use crate::async_method::Shortcut;
use crate::awaitable::{self, Called, Entered, FastWith, Kept, Ready, Reused, SlowWith, Step};
use crate::gil::GilCell;
use crate::hub::Hub;
use crate::op::{self, Enlisted, Kind, Op, Operation, Resumed, Value, Waker};
use crate::pool::{Pool, Use};

/// How far a lease is.
enum Stage {
    Unstarted,
    /// In line; the operation tells in `Handed` what it got.
    Waiting(Py<Op>, Handed),
    /// In a block: this use of this connection ends with it.
    Held(Conn, Use),
    Over,
}

/// From the operation to the lease that drives it.
type Handed = Arc<GilCell<Option<(Conn, Use)>>>;

/// A connection for the length of an ``async with``, or for whoever awaits it. Made by ``acquire``.
///
/// ``async with pool.acquire() as c`` gives it back at the end of the block, whatever ends it. ``c = await
/// pool.acquire()`` leaves that to :meth:`Pool.release`. It can be used once.
#[pyclass(module = "loopwright", name = "Lease", frozen)]
pub struct Lease(GilCell<State>, Called);

struct State {
    pool: Option<Py<Pool>>,
    key: Option<Py<PyAny>>,
    /// Seconds; NaN: the pool's own.
    timeout: f64,
    /// Who asked: task and line. Only for pools that report leaks.
    site: Option<Py<PyAny>>,
    is_block: bool,
    stage: Stage,
}

impl Lease {
    /// A lease that nobody awaits yet.
    #[inline]
    pub fn make(
        pool: &Bound<'_, Pool>,
        key: Option<Py<PyAny>>,
        timeout: f64,
        site: Option<Py<PyAny>>,
    ) -> PyResult<Py<Self>> {
        let py = pool.py();
        let state =
            State { pool: Some(pool.clone().unbind()), key, timeout, site, is_block: false, stage: Stage::Unstarted };
        if let Some(lease) = awaitable::reuse::<Self>(py) {
            let old = std::mem::replace(&mut *lease.get().0.borrow(py), state);
            drop(old);
            return Ok(lease.unbind());
        }
        Py::new(py, Self(GilCell::new(state), Called::of::<Self>()))
    }

    /// A lease that is over.
    ///
    /// # Errors
    /// `MemoryError`.
    pub fn spent(py: Python<'_>) -> PyResult<Bound<'_, Self>> {
        let stage = Stage::Over;
        let state = State { pool: None, key: None, timeout: f64::NAN, site: None, is_block: false, stage };
        Bound::new(py, Self(GilCell::new(state), Called::of::<Self>()))
    }

    /// Runs to the next wait.
    fn step(slf: &Bound<'_, Self>) -> PyResult<Step> {
        let py = slf.py();
        let (pool, key, timeout, site) = {
            let mut lease = slf.get().0.borrow(py);
            match &lease.stage {
                Stage::Unstarted => {}
                Stage::Waiting(op, handed) => {
                    let (op, handed) = (op.clone_ref(py), Arc::clone(handed));
                    drop(lease);
                    return Self::advance(slf, op.bind(py), &handed);
                }
                Stage::Held(..) | Stage::Over => {
                    return Err(PyRuntimeError::new_err(
                        "cannot use a lease a second time: call acquire() of the pool again",
                    ));
                }
            }
            // Whatever comes of it, it has started.
            lease.stage = Stage::Over;
            let Some(pool) = &lease.pool else { return Err(PyRuntimeError::new_err("the lease has lost its pool")) };
            let pool = pool.clone_ref(py);
            (pool, lease.key.take(), lease.timeout, lease.site.take())
        };
        let pool = pool.bind(py);
        if let Some((object, conn, used)) = Pool::grab(pool, key.as_ref(), site.as_ref(), Self::is_block(slf))? {
            Self::got(slf, conn, used);
            return Ok(Step::Return(Some(object)));
        }
        let handed = Handed::new(GilCell::new(None));
        let acquire = AcquireConnection {
            pool: pool.clone().unbind(),
            key,
            timeout,
            site,
            is_block: Self::is_block(slf),
            handed: Arc::clone(&handed),
            ticket: None,
            since: None,
        };
        let op = Op::new(py, Kind::AcquireConnection(acquire))?.into_bound(py);
        slf.get().0.borrow(py).stage = Stage::Waiting(op.clone().unbind(), Arc::clone(&handed));
        Self::advance(slf, &op, &handed)
    }

    fn is_block(slf: &Bound<'_, Self>) -> bool {
        slf.get().0.borrow(slf.py()).is_block
    }

    fn advance(slf: &Bound<'_, Self>, op: &Bound<'_, Op>, handed: &Handed) -> PyResult<Step> {
        let stepped = Op::step(op);
        Self::after(slf, stepped, handed)
    }

    /// The operation came to something: a wait, a connection or an error.
    fn after(slf: &Bound<'_, Self>, stepped: PyResult<Step>, handed: &Handed) -> PyResult<Step> {
        if matches!(stepped, Ok(Step::Yield(_))) {
            return stepped;
        }
        let py = slf.py();
        let given = handed.borrow(py).take();
        match given {
            Some((conn, used)) => Self::got(slf, conn, used),
            None => Self::end(slf),
        }
        stepped
    }

    /// It has a connection: for its block, or for whoever awaited it.
    fn got(slf: &Bound<'_, Self>, conn: Conn, used: Use) {
        let py = slf.py();
        let mut lease = slf.get().0.borrow(py);
        if lease.is_block {
            let before = std::mem::replace(&mut lease.stage, Stage::Held(conn, used));
            drop(lease);
            drop(before);
        } else {
            drop(lease);
            Self::end(slf);
        }
    }

    fn end(slf: &Bound<'_, Self>) {
        let mut lease = slf.get().0.borrow(slf.py());
        let before = (lease.pool.take(), lease.key.take(), std::mem::replace(&mut lease.stage, Stage::Over));
        drop(lease);
        drop(before);
    }

    /// What it holds, once.
    fn take(slf: &Bound<'_, Self>) -> Option<(Py<Pool>, Conn, Use)> {
        let mut lease = slf.get().0.borrow(slf.py());
        let Stage::Held(conn, used) = lease.stage else { return None };
        lease.stage = Stage::Over;
        Some((lease.pool.take()?, conn, used))
    }
}

impl Reused for Lease {
    fn kept() -> &'static Kept {
        static KEPT: Kept = Kept::new();
        &KEPT
    }

    #[inline]
    fn is_spent(&self, py: Python<'_>) -> bool {
        let lease = self.0.borrow(py);
        matches!(lease.stage, Stage::Over) && lease.pool.is_none() && lease.key.is_none() && lease.site.is_none()
    }

    #[inline]
    fn step_at_once(&self, py: Python<'_>) -> Option<Option<Py<PyAny>>> {
        let mut lease = self.0.borrow(py);
        if !matches!(lease.stage, Stage::Unstarted) || lease.key.is_some() || lease.site.is_some() {
            return None;
        }
        let is_block = lease.is_block;
        let (object, conn, used) = lease.pool.as_ref()?.get().grab_at_once(py, is_block)?;
        if is_block {
            lease.stage = Stage::Held(conn, used);
        } else {
            lease.stage = Stage::Over;
            let pool = lease.pool.take();
            drop(lease);
            if let Some(pool) = pool {
                awaitable::give_up(py, pool);
            }
        }
        Some(Some(object))
    }
}

impl Shortcut for Lease {
    type Owner = Pool;

    #[inline]
    fn call(pool: &Bound<'_, Pool>, _argument: Option<&Bound<'_, PyAny>>) -> Option<Py<PyAny>> {
        let py = pool.py();
        if !pool.get().asks_nothing(py) {
            return None;
        }
        let fresh = awaitable::reuse::<Self>(py)?;
        {
            let mut lease = fresh.get().0.borrow(py);
            lease.pool = Some(pool.clone().unbind());
            lease.timeout = f64::NAN;
            lease.is_block = false;
            lease.stage = Stage::Unstarted;
        }
        Some(fresh.into_any().unbind())
    }
}

impl FastWith for Lease {
    const AWAITS_ITSELF: bool = true;

    #[inline]
    fn try_enter(&self, py: Python<'_>) -> bool {
        let mut lease = self.0.borrow(py);
        let fresh = !lease.is_block && matches!(lease.stage, Stage::Unstarted);
        lease.is_block |= fresh;
        fresh
    }

    #[inline]
    fn try_exit(&self, py: Python<'_>, failed: bool) -> bool {
        let mut lease = self.0.borrow(py);
        let Stage::Held(conn, used) = lease.stage else { return false };
        if failed || !lease.pool.as_ref().is_some_and(|pool| pool.get().give_back_at_once(py, conn, used)) {
            return false;
        }
        lease.stage = Stage::Over;
        let pool = lease.pool.take();
        drop(lease);
        if let Some(pool) = pool {
            awaitable::give_up(py, pool);
        }
        true
    }

    fn slow() -> &'static SlowWith {
        static SLOW: SlowWith = SlowWith::new();
        &SLOW
    }
}

impl Entered for Lease {
    fn called(&self) -> &Called {
        &self.1
    }
}

#[pymethods]
impl Lease {
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
        let py = slf.py();
        let waiting = {
            let lease = slf.get().0.borrow(py);
            match &lease.stage {
                Stage::Waiting(op, handed) => Some((op.clone_ref(py), Arc::clone(handed))),
                _ => None,
            }
        };
        let Some((op, handed)) = waiting else {
            Self::end(slf);
            return Err(aio::thrown(error, value, traceback));
        };
        let stepped = Op::throw_in(op.bind(py), aio::thrown(error, value, traceback));
        awaitable::answer_send(py, Self::after(slf, stepped, &handed)?)
    }

    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let op = {
            let lease = slf.get().0.borrow(py);
            match &lease.stage {
                Stage::Waiting(op, _) => Some(op.clone_ref(py)),
                Stage::Unstarted => None,
                Stage::Held(..) | Stage::Over => return Ok(()),
            }
        };
        let closed = op.map_or(Ok(()), |op| op.get().end_early(py));
        Self::end(slf);
        closed
    }

    fn __aenter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let mut lease = slf.get().0.borrow(slf.py());
        if lease.is_block || !matches!(lease.stage, Stage::Unstarted) {
            return Err(PyRuntimeError::new_err(
                "cannot enter a lease that was awaited or entered already: \
                 use either `async with pool.acquire() as c` or `c = await pool.acquire()`",
            ));
        }
        lease.is_block = true;
        drop(lease);
        Ok(slf.clone())
    }

    fn __aexit__(
        slf: &Bound<'_, Self>,
        kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<Ready>> {
        let py = slf.py();
        if let Some((pool, conn, used)) = Self::take(slf) {
            let error = if kind.is_none() { None } else { Some(error) };
            Pool::give_back(pool.bind(py), conn, used, error)?;
        }
        Ok(Ready::get(py))
    }

    /// Whether it was entered: the block that it is for may still wait for its connection.
    #[getter]
    fn _entered(&self, py: Python<'_>) -> bool {
        self.0.borrow(py).is_block
    }

    #[getter]
    fn __name__(&self) -> &'static str {
        "acquire"
    }

    #[getter]
    fn __qualname__(&self, py: Python<'_>) -> &'static str {
        self.name(py)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let stage = match self.0.borrow(py).stage {
            Stage::Unstarted => "not started",
            Stage::Waiting(..) => "waiting",
            Stage::Held(..) => "holds a connection",
            Stage::Over => "over",
        };
        format!("<{} {stage}>", self.name(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |lease| {
            if let Some(pool) = &lease.pool {
                visit.call(pool)?;
            }
            if let Stage::Waiting(op, _) = &lease.stage {
                visit.call(op)?;
            }
            lease.key.iter().chain(&lease.site).try_for_each(|object| visit.call(object))
        })
    }

    fn __clear__(slf: &Bound<'_, Self>) {
        // A connection it still holds goes back when the collector drops what is left of it.
        Self::end_if_idle(slf);
    }
}

impl Lease {
    fn name(&self, py: Python<'_>) -> &'static str {
        self.0.borrow(py).pool.as_ref().map_or("Pool.acquire", |pool| pool.get().acquire_name(py))
    }

    fn end_if_idle(slf: &Bound<'_, Self>) {
        let held = matches!(slf.get().0.borrow(slf.py()).stage, Stage::Held(..));
        if !held {
            Self::end(slf);
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        match (stage, self.pool.take()) {
            (Stage::Unstarted, Some(pool)) => Python::attach(|py| {
                let message = format!("'{}' was never awaited", pool.get().acquire_name(py));
                op::keeping_error(py, || {
                    let message = std::ffi::CString::new(message).unwrap_or_default();
                    PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &message, 1)
                });
            }),
            // Entered by hand and never left: nobody can say in what state the connection is.
            (Stage::Held(conn, used), Some(pool)) => Python::attach(|py| {
                op::keeping_error(py, || Pool::give_back_lost(pool.bind(py), conn, used));
            }),
            _ => {}
        }
    }
}

/// `acquire()` of a pool that has nothing idle.
pub struct AcquireConnection {
    pool: Py<Pool>,
    key: Option<Py<PyAny>>,
    timeout: f64,
    site: Option<Py<PyAny>>,
    is_block: bool,
    handed: Handed,
    ticket: Option<Ticket>,
    /// Since when it waits.
    since: Option<f64>,
}

impl AcquireConnection {
    /// At its end; the wait began with the first time.
    fn stand_in_line(&mut self, hub: &Bound<'_, Hub>, waker: Waker) -> PyResult<()> {
        let pool = self.pool.bind(hub.py());
        let (ticket, since) = Pool::enlist(pool, hub, self.key.as_ref(), self.timeout, self.since, waker)?;
        (self.ticket, self.since) = (Some(ticket), Some(since));
        Ok(())
    }

    fn hand(&self, py: Python<'_>, object: Py<PyAny>, conn: Conn, used: Use) -> Value {
        *self.handed.borrow(py) = Some((conn, used));
        Some(object)
    }
}

impl Operation for AcquireConnection {
    fn object(&self) -> Option<&Py<PyAny>> {
        Some(self.pool.as_any())
    }

    fn name(&self) -> &'static str {
        Python::attach(|py| self.pool.get().acquire_name(py))
    }

    fn attempt(&mut self, _py: Python<'_>) -> PyResult<Option<Value>> {
        Ok(None) // the lease has tried
    }

    fn enlist(&mut self, hub: &Bound<'_, Hub>, waker: Waker) -> PyResult<Enlisted> {
        let py = hub.py();
        let pool = self.pool.bind(py);
        // Making the waker may have run anything.
        if let Some((object, conn, used)) = Pool::grab(pool, self.key.as_ref(), self.site.as_ref(), self.is_block)? {
            return Ok(Enlisted::Done(self.hand(py, object, conn, used)));
        }
        self.stand_in_line(hub, waker)?;
        Ok(Enlisted::Waits(Place::default()))
    }

    fn resume(&mut self, py: Python<'_>, _place: Place) -> PyResult<Resumed> {
        let (Some(ticket), Some(since)) = (self.ticket.take(), self.since) else {
            return Err(PyRuntimeError::new_err("the acquire stood in no line"));
        };
        let pool = self.pool.bind(py);
        match Pool::resume(pool, ticket) {
            Given::Got(conn) => {
                let handed = Pool::hand_out(pool, conn, since, self.site.as_ref(), self.is_block)?;
                Ok(handed.map_or(Resumed::Again, |(object, used)| Resumed::Done(self.hand(py, object, conn, used))))
            }
            Given::Refused(refusal) => Err(Pool::refused(pool, refusal)),
            Given::Waiting => {
                Pool::leave(pool, ticket)?;
                Err(PyRuntimeError::new_err("Loopwright bug: a waiter was woken for nothing"))
            }
        }
    }

    fn enlist_again(&mut self, hub: &Bound<'_, Hub>, _place: Place, waker: Waker) -> PyResult<()> {
        self.stand_in_line(hub, waker)
    }

    fn leave(&mut self, py: Python<'_>, _place: Place) -> PyResult<()> {
        self.ticket.take().map_or(Ok(()), |ticket| Pool::leave(self.pool.bind(py), ticket))
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.pool)?;
        self.key.iter().chain(&self.site).try_for_each(|object| visit.call(object))
    }
}
