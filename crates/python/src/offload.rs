//! Work outside the loop: the calls, and the threads that run them. Who may begin and whom to wake is
//! `loopwright_core::offload`'s decision.
//!
//! Everything here is under the GIL: the queue needs no lock, and a call has ended or was left by its caller, never
//! both at once. A thread sleeps on a bell of its own, detached. No frame of Rust lies below a user's function: the loop
//! of a thread is Python's (`loopwright.offloading._work`), so that the end of the interpreter can cut it off anywhere.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use loopwright_core::offload::{Crew, KINDS, Ledger, Parting, Rouse, Work};
use loopwright_core::waiters::{Ticket, Wakes};
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::aio;
use crate::gil::{GilCell, GilRef};
use crate::hub::{Hub, Origin};
use crate::op::{self, Enlisted, Kind, Op, Operation, Resumed, ThreadWaker, Value, Waker};

/// A thread that was given nothing for so long ends.
const IDLE: Duration = Duration::from_secs(30);

/// The calls of one process, its limits and its threads.
#[pyclass(module = "loopwright._loopwright", name = "_Offloads", frozen)]
pub struct Offloads(GilCell<State>);

struct State {
    ledger: Ledger<Waker>,
    crew: Crew,
    queue: VecDeque<Py<Job>>,
    /// The threads that sleep; the last to go to sleep is the first to be woken.
    sleepers: Vec<Arc<ThreadWaker>>,
    /// Starts a thread that calls [`Offloads::take`] until it gives None.
    start: Py<PyAny>,
    /// Told of what nobody waits for: `(job, None)` when work is abandoned, `(job, error)` when it failed after that.
    report: Py<PyAny>,
    closed: bool,
    totals: Totals,
}

#[derive(Default, Clone, Copy)]
struct Totals {
    begun: u64,
    finished: u64,
    failed: u64,
    withdrawn: u64,
    abandoned: u64,
}

/// What `_stats()` gives: limit, waiting, running, abandoned; threads alive and asleep; the totals.
type Numbers = ((u64, usize, [u64; KINDS], [u64; KINDS]), (usize, usize), (u64, u64, u64, u64, u64));

impl Offloads {
    fn state<'a>(slf: &'a Bound<'_, Self>) -> GilRef<'a, State> {
        slf.get().0.borrow(slf.py())
    }

    /// Wakes those whom freed room was reserved for. Whoever cannot be woken (its loop is closed) is passed over: the
    /// line moves on when its operation is dropped.
    fn wake(py: Python<'_>, wakes: Wakes<Waker>) {
        for waker in wakes {
            op::keeping_error(py, || {
                let _ = op::wake(py, Wakes::from_iter([waker]), Origin::Thread);
                Ok(())
            });
        }
    }

    /// Puts a call that has its permit into the hands of whoever runs it.
    fn submit(slf: &Bound<'_, Self>, job: &Bound<'_, Job>) -> PyResult<()> {
        let py = slf.py();
        let submit = {
            let mut job = job.get().0.borrow(py);
            job.work.admitted();
            job.submit.take()
        };
        let submitted = match submit {
            Some(submit) => submit.bind(py).call1((job,)).map(drop),
            None => {
                let rouse = {
                    let mut state = Self::state(slf);
                    state.queue.push_back(job.clone().unbind());
                    state.crew.offered()
                };
                Self::rouse(slf, rouse)
            }
        };
        Self::state(slf).totals.begun += 1;
        submitted.or_else(|error| {
            // Nobody will run it, unless a thread is there that does.
            let (mut state, running) = (Self::state(slf), job.get().0.borrow(py).work != Work::Queued);
            let has_threads = state.crew.alive() > 0 && !state.queue.is_empty();
            if running || has_threads {
                return Ok(());
            }
            state.queue.retain(|queued| !queued.is(job));
            drop(state);
            Self::settle(job);
            Job::run_at_end(job);
            Err(error)
        })
    }

    fn rouse(slf: &Bound<'_, Self>, rouse: Rouse) -> PyResult<()> {
        let py = slf.py();
        match rouse {
            Rouse::Nobody => Ok(()),
            Rouse::Wake => {
                let sleeper = Self::state(slf).sleepers.pop();
                if let Some(sleeper) = sleeper {
                    sleeper.wake();
                }
                Ok(())
            }
            Rouse::Start => {
                let start = Self::state(slf).start.clone_ref(py);
                let started = start.bind(py).call1((slf,));
                if started.is_err() {
                    Self::state(slf).crew.ends(true);
                }
                started.map(drop)
            }
        }
    }

    /// A call is over: its permit goes to the next in line. Tells whether it had been abandoned; None: it was over.
    fn settle(job: &Bound<'_, Job>) -> Option<bool> {
        let py = job.py();
        let (abandoned, kind, offloads) = {
            let mut state = job.get().0.borrow(py);
            (state.work.ended()?, state.kind, state.offloads.clone_ref(py))
        };
        let wakes = Self::state(offloads.bind(py)).ledger.end(kind, abandoned);
        Self::wake(py, wakes);
        Some(abandoned)
    }

    fn report(slf: &Bound<'_, Self>, job: &Bound<'_, Job>, error: Option<Py<PyAny>>) {
        let py = slf.py();
        let report = Self::state(slf).report.clone_ref(py);
        op::keeping_error(py, || report.bind(py).call1((job, error)).map(drop));
    }
}

fn read_kind(kind: usize) -> PyResult<usize> {
    if kind < KINDS { Ok(kind) } else { Err(PyValueError::new_err("there is no such kind of work")) }
}

#[pymethods]
impl Offloads {
    #[new]
    fn new(limit: u64, caps: [Option<u64>; KINDS], start: Py<PyAny>, report: Py<PyAny>) -> Self {
        Self(GilCell::new(State {
            ledger: Ledger::new(limit, caps),
            crew: Crew::default(),
            queue: VecDeque::new(),
            sleepers: Vec::new(),
            start,
            report,
            closed: false,
            totals: Totals::default(),
        }))
    }

    /// The operation that runs `function(*args, **kwargs)` as work of this kind. `submit(job)` hands it to whoever runs
    /// it; None: a thread of ours.
    /// `at_end()` is called once it has ended or will never begin.
    #[pyo3(name = "_call", signature = (kind, function, args, kwargs = None, *, subject = None, submit = None, at_end = None))]
    #[allow(clippy::too_many_arguments, reason = "keywords")]
    fn call(
        slf: &Bound<'_, Self>,
        kind: usize,
        function: Py<PyAny>,
        args: Py<PyTuple>,
        kwargs: Option<Py<PyDict>>,
        subject: Option<Py<PyAny>>,
        submit: Option<Py<PyAny>>,
        at_end: Option<Py<PyAny>>,
    ) -> PyResult<Py<Op>> {
        let py = slf.py();
        let job = Py::new(
            py,
            Job(GilCell::new(Inner {
                offloads: slf.clone().unbind(),
                kind: read_kind(kind)?,
                call: Some((function, args, kwargs)),
                subject,
                context: None,
                submit,
                abort: None,
                at_end,
                work: Work::New,
                waker: None,
                outcome: None,
            })),
        )?;
        Op::new(py, Kind::Offload(Offload { offloads: slf.clone().unbind(), job, in_line: false }))
    }

    /// For a thread: the next call, as `(job, run, function, args, kwargs)`. Waits for one; None: the thread is to end.
    #[allow(clippy::type_complexity, reason = "a tuple that Python unpacks")]
    #[pyo3(name = "_take")]
    fn take(
        slf: &Bound<'_, Self>,
        mut roused: bool,
    ) -> PyResult<Option<(Py<Job>, Py<PyAny>, Py<PyAny>, Py<PyTuple>, Py<PyDict>)>> {
        let py = slf.py();
        loop {
            let mut state = Self::state(slf);
            if let Some(job) = state.queue.pop_front() {
                let more = !state.queue.is_empty();
                let rouse = state.crew.took(roused, more);
                drop(state);
                roused = false;
                // A thread that cannot be started is no loss as long as there is this one.
                let _ = Self::rouse(slf, rouse);
                if let Some((context, function, args, kwargs)) = Job::begin(job.bind(py)) {
                    let run = context.bind(py).getattr(pyo3::intern!(py, "run"))?.unbind();
                    let kwargs = kwargs.unwrap_or_else(|| PyDict::new(py).unbind());
                    return Ok(Some((job, run, function, args, kwargs)));
                }
                continue;
            }
            if state.closed {
                state.crew.ends(roused);
                return Ok(None);
            }
            state.crew.sleeps(roused);
            let bell = Arc::new(ThreadWaker::default());
            state.sleepers.push(Arc::clone(&bell));
            drop(state);
            let woken = py.detach(|| bell.wait(IDLE));
            let mut state = Self::state(slf);
            if !woken && let Some(at) = state.sleepers.iter().position(|sleeper| Arc::ptr_eq(sleeper, &bell)) {
                state.sleepers.remove(at);
                state.crew.retires();
                return Ok(None);
            }
            roused = true;
        }
    }

    /// Ends the threads that sleep, and each other one after its call.
    #[pyo3(name = "_close")]
    fn close(slf: &Bound<'_, Self>) {
        let sleepers = {
            let mut state = Self::state(slf);
            state.closed = true;
            state.crew.dismissed();
            std::mem::take(&mut state.sleepers)
        };
        for sleeper in sleepers {
            sleeper.wake();
        }
    }

    #[getter]
    fn limit(slf: &Bound<'_, Self>) -> u64 {
        Self::state(slf).ledger.limit()
    }

    #[setter]
    fn set_limit(slf: &Bound<'_, Self>, limit: u64) {
        let wakes = Self::state(slf).ledger.set_limit(limit);
        Self::wake(slf.py(), wakes);
    }

    /// The cap of one kind of work.
    #[pyo3(name = "_cap")]
    fn cap(slf: &Bound<'_, Self>, kind: usize) -> PyResult<Option<u64>> {
        Ok(Self::state(slf).ledger.cap(read_kind(kind)?))
    }

    /// Another cap for one kind of work.
    #[pyo3(name = "_set_cap")]
    fn set_cap(slf: &Bound<'_, Self>, kind: usize, cap: Option<u64>) -> PyResult<()> {
        let wakes = Self::state(slf).ledger.set_cap(read_kind(kind)?, cap);
        Self::wake(slf.py(), wakes);
        Ok(())
    }

    fn _stats(slf: &Bound<'_, Self>) -> Numbers {
        let state = Self::state(slf);
        let ledger = &state.ledger;
        let Totals { begun, finished, failed, withdrawn, abandoned } = state.totals;
        (
            (
                ledger.limit(),
                (0..KINDS).map(|kind| ledger.waiting(kind)).sum(),
                std::array::from_fn(|kind| ledger.running(kind)),
                std::array::from_fn(|kind| ledger.abandoned(kind)),
            ),
            (state.crew.alive(), state.crew.asleep()),
            (begun, finished, failed, withdrawn, abandoned),
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |state| {
            state.ledger.wakers().try_for_each(|waker| waker.traverse(&visit))?;
            state.queue.iter().try_for_each(|job| visit.call(job))?;
            visit.call(&state.start)?;
            visit.call(&state.report)
        })
    }
}

/// One call outside the loop.
#[pyclass(module = "loopwright._loopwright", name = "_Job", frozen, weakref)]
pub struct Job(GilCell<Inner>);

type Call = (Py<PyAny>, Py<PyTuple>, Option<Py<PyDict>>);

struct Inner {
    offloads: Py<Offloads>,
    kind: usize,
    call: Option<Call>,
    /// The user's function, where `call` wraps it: for reports.
    subject: Option<Py<PyAny>>,
    /// Of the caller, copied when it began to wait.
    context: Option<Py<PyAny>>,
    submit: Option<Py<PyAny>>,
    /// Stops the work, where that can be done.
    abort: Option<Py<PyAny>>,
    /// Called once the work has ended or will never begin.
    at_end: Option<Py<PyAny>>,
    work: Work,
    waker: Option<Waker>,
    outcome: Option<Result<Py<PyAny>, Py<PyAny>>>,
}

impl Job {
    /// A thread takes it: the context, and what to call there. None when its caller has gone.
    #[allow(clippy::type_complexity, reason = "a call and its context")]
    fn begin(slf: &Bound<'_, Self>) -> Option<(Py<PyAny>, Py<PyAny>, Py<PyTuple>, Option<Py<PyDict>>)> {
        let mut job = slf.get().0.borrow(slf.py());
        if !job.work.taken() {
            return None;
        }
        let context = job.context.take()?;
        let (function, args, kwargs) = job.call.take()?;
        if job.subject.is_none() {
            job.subject = Some(function.clone_ref(slf.py()));
        }
        Some((context, function, args, kwargs))
    }

    fn end(slf: &Bound<'_, Self>, outcome: Result<Py<PyAny>, Py<PyAny>>) {
        let py = slf.py();
        let offloads = slf.get().0.borrow(py).offloads.clone_ref(py);
        let offloads = offloads.bind(py);
        let Some(abandoned) = Offloads::settle(slf) else { return };
        {
            let totals = &mut Offloads::state(offloads).totals;
            *(if outcome.is_ok() { &mut totals.finished } else { &mut totals.failed }) += 1;
        }
        let waker = {
            let mut job = slf.get().0.borrow(py);
            job.abort = None;
            if abandoned { None } else { job.waker.take() }
        };
        if abandoned {
            if let Err(error) = outcome {
                Offloads::report(offloads, slf, Some(error));
            }
        } else {
            slf.get().0.borrow(py).outcome = Some(outcome);
        }
        Self::run_at_end(slf);
        if let Some(waker) = waker {
            Offloads::wake(py, Wakes::from_iter([waker]));
        }
    }

    fn run_at_end(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let at_end = slf.get().0.borrow(py).at_end.take();
        if let Some(at_end) = at_end {
            op::keeping_error(py, || at_end.bind(py).call0().map(drop));
        }
    }

    /// Its caller has gone.
    fn left(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let (parting, kind, offloads, abort) = {
            let mut job = slf.get().0.borrow(py);
            let had_permit = job.work == Work::Queued;
            let parting = job.work.left();
            drop(job.waker.take());
            let abort = (parting == Parting::Abandoned).then(|| job.abort.take()).flatten();
            ((parting, had_permit), job.kind, job.offloads.clone_ref(py), abort)
        };
        let offloads = offloads.bind(py);
        match parting {
            (Parting::TooLate, _) => {}
            (Parting::Withdrawn, had_permit) => {
                let wakes = {
                    let mut state = Offloads::state(offloads);
                    state.totals.withdrawn += 1;
                    state.queue.retain(|queued| !queued.is(slf));
                    if had_permit { state.ledger.end(kind, false) } else { Wakes::default() }
                };
                Offloads::wake(py, wakes);
                let call = slf.get().0.borrow(py).call.take();
                drop(call);
                Self::run_at_end(slf);
            }
            (Parting::Abandoned, _) => {
                {
                    let mut state = Offloads::state(offloads);
                    state.ledger.abandon(kind);
                    state.totals.abandoned += 1;
                }
                match abort {
                    Some(abort) => op::keeping_error(py, || abort.bind(py).call0().map(drop)),
                    None => Offloads::report(offloads, slf, None),
                }
            }
        }
    }
}

#[pymethods]
impl Job {
    /// The work ended with a result.
    fn finish(slf: &Bound<'_, Self>, result: Py<PyAny>) {
        Self::end(slf, Ok(result));
    }

    /// The work ended with an error.
    fn fail(slf: &Bound<'_, Self>, error: Py<PyAny>) {
        Self::end(slf, Err(error));
    }

    /// Runs elsewhere from now on: `(context, function, args, kwargs)`; None when its caller has gone.
    #[allow(clippy::type_complexity, reason = "a tuple that Python unpacks")]
    #[pyo3(name = "_begin")]
    fn py_begin(slf: &Bound<'_, Self>) -> Option<(Py<PyAny>, Py<PyAny>, Py<PyTuple>, Option<Py<PyDict>>)> {
        Self::begin(slf)
    }

    /// Whether nobody waits for it any more.
    #[getter]
    fn abandoned(slf: &Bound<'_, Self>) -> bool {
        slf.get().0.borrow(slf.py()).work == Work::Abandoned
    }

    /// What is called: the user's function.
    #[getter]
    fn subject(slf: &Bound<'_, Self>) -> Option<Py<PyAny>> {
        let job = slf.get().0.borrow(slf.py());
        job.subject.as_ref().or(job.call.as_ref().map(|call| &call.0)).map(|subject| subject.clone_ref(slf.py()))
    }

    /// Its kind: 0 thread, 1 process, 2 interpreter, 3 executor.
    #[getter]
    fn kind(slf: &Bound<'_, Self>) -> usize {
        slf.get().0.borrow(slf.py()).kind
    }

    /// `abort()` stops the work once its caller has gone; False: it has gone already.
    #[pyo3(name = "_on_abandon")]
    fn on_abandon(slf: &Bound<'_, Self>, abort: Option<Py<PyAny>>) -> bool {
        let py = slf.py();
        let (before, is_wanted) = {
            let mut job = slf.get().0.borrow(py);
            (std::mem::replace(&mut job.abort, abort), job.work != Work::Abandoned)
        };
        drop(before);
        is_wanted
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |job| {
            visit.call(&job.offloads)?;
            if let Some((function, args, kwargs)) = &job.call {
                visit.call(function)?;
                visit.call(args)?;
                visit.call(kwargs)?;
            }
            for object in [&job.subject, &job.context, &job.submit, &job.abort, &job.at_end].into_iter().flatten() {
                visit.call(object)?;
            }
            if let Some(Ok(object) | Err(object)) = &job.outcome {
                visit.call(object)?;
            }
            job.waker.as_ref().map_or(Ok(()), |waker| waker.traverse(&visit))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = {
            let mut job = self.0.borrow(py);
            (job.call.take(), job.subject.take(), job.context.take(), job.submit.take(), job.abort.take())
        };
        drop(cleared);
        let cleared = {
            let mut job = self.0.borrow(py);
            (job.at_end.take(), job.outcome.take(), job.waker.take())
        };
        drop(cleared);
    }
}

/// `offload(...)`.
pub struct Offload {
    offloads: Py<Offloads>,
    job: Py<Job>,
    /// It stands in line for its permit.
    in_line: bool,
}

impl Offload {
    fn kind(&self, py: Python<'_>) -> usize {
        self.job.get().0.borrow(py).kind
    }
}

impl Operation for Offload {
    fn name(&self) -> &'static str {
        "offload"
    }

    fn attempt(&mut self, _py: Python<'_>) -> PyResult<Option<Value>> {
        Ok(None)
    }

    fn enlist(&mut self, hub: &Bound<'_, Hub>, waker: Waker) -> PyResult<Enlisted> {
        let py = hub.py();
        let context = copy_context(py)?;
        let kind = {
            let mut job = self.job.get().0.borrow(py);
            job.context = Some(context);
            job.kind
        };
        let slf = self.offloads.bind(py);
        {
            let mut state = Offloads::state(slf);
            if !state.ledger.try_begin(kind) {
                let ticket = state.ledger.wait(kind, waker);
                self.in_line = true;
                return Ok(Enlisted::Waits(ticket));
            }
        }
        self.job.get().0.borrow(py).waker = Some(waker);
        Offloads::submit(slf, self.job.bind(py))?;
        Ok(Enlisted::Waits(Ticket::default()))
    }

    fn resume(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<Resumed> {
        if self.in_line {
            let slf = self.offloads.bind(py);
            let kind = self.kind(py);
            if Offloads::state(slf).ledger.begin(kind, ticket) {
                self.in_line = false;
                Offloads::submit(slf, self.job.bind(py))?;
            }
            return Ok(Resumed::Again);
        }
        let outcome = self.job.get().0.borrow(py).outcome.take();
        match outcome {
            Some(Ok(value)) => Ok(Resumed::Done(Some(value))),
            Some(Err(error)) => Err(raised(error.into_bound(py))),
            None => Ok(Resumed::Again),
        }
    }

    fn enlist_again(&mut self, hub: &Bound<'_, Hub>, _ticket: Ticket, waker: Waker) -> PyResult<()> {
        let py = hub.py();
        let mut job = self.job.get().0.borrow(py);
        if self.in_line {
            return Err(PyRuntimeError::new_err("the caller was not woken"));
        }
        if job.outcome.is_none() {
            job.waker = Some(waker);
            return Ok(());
        }
        drop(job);
        op::wake(py, Wakes::from_iter([waker]), Origin::Loop)
    }

    fn leave(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<()> {
        if self.in_line {
            let kind = self.kind(py);
            let wakes = Offloads::state(self.offloads.bind(py)).ledger.leave(kind, ticket);
            Offloads::wake(py, wakes);
        }
        Job::left(self.job.bind(py));
        Ok(())
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.offloads)?;
        visit.call(&self.job)
    }
}

fn copy_context(py: Python<'_>) -> PyResult<Py<PyAny>> {
    static COPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(COPY.import(py, "contextvars", "copy_context")?.call0()?.unbind())
}

/// What an await raises for the error of a call. `StopIteration` would be taken for the end of the await, and a
/// `CancelledError` for a cancel of the caller.
fn raised(error: Bound<'_, PyAny>) -> PyErr {
    let py = error.py();
    let is_cancel = aio::cancelled_error(py).and_then(|class| error.is_instance(class)).unwrap_or(false);
    let stranger = if error.is_instance_of::<PyStopIteration>() {
        PyRuntimeError::new_err("offload: the call raised StopIteration")
    } else if is_cancel {
        let message = "offload: the call raised CancelledError, although nobody had cancelled it";
        aio::loopwright_error(py, "CallCancelled", message.to_owned())
    } else {
        return PyErr::from_value(error);
    };
    stranger.set_cause(py, Some(PyErr::from_value(error)));
    stranger
}
