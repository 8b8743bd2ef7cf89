//! Stopwatch: the calls of one timed operation. The machine is `loopwright_core::stopwatch`.
//!
//! Lives here: the histogram beside the machine, and the weak references to those that run. Does not live here: what is wrapped around a
//! function, and who is told of a slow call: `python/loopwright/monitoring.py`.

use loopwright_core::stopwatch::{Clock, Outcome, Pace, Run, Stopwatch as Machine};
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::aio;
use crate::clocks::Reading;
use crate::durations::Durations;
use crate::gil::GilCell;

/// The calls of one operation: those that run, the totals, and how long they took.
#[pyclass(module = "loopwright._loopwright", name = "_Stopwatch", frozen, weakref)]
pub struct Stopwatch {
    state: GilCell<State>,
    /// How long calls took that have ended.
    #[pyo3(get)]
    durations: Py<Durations>,
}

struct State {
    /// With a weak reference to the coroutine of each call, if somebody watches.
    machine: Machine<Option<Py<PyWeakrefReference>>>,
    watched: bool,
    pace: Pace,
}

#[inline]
fn now(py: Python<'_>) -> (f64, Clock) {
    let (now, clock) = Reading::take(py).parts();
    (now, Clock(clock))
}

fn outcome(py: Python<'_>, error: Option<&Bound<'_, PyAny>>) -> PyResult<Outcome> {
    let Some(error) = error else { return Ok(Outcome::Returned) };
    let cancelled =
        error.is_instance(aio::cancelled_error(py)?)? || error.is_instance_of::<pyo3::exceptions::PyGeneratorExit>();
    Ok(if cancelled { Outcome::Cancelled } else { Outcome::Failed })
}

#[pymethods]
impl Stopwatch {
    /// `pace`: seconds between two log lines about this operation.
    #[new]
    fn new(py: Python<'_>, pace: f64) -> PyResult<Self> {
        let state = State { machine: Machine::default(), watched: false, pace: Pace::new(pace) };
        Ok(Self { state: GilCell::new(state), durations: Py::new(py, Durations::new()?)? })
    }

    /// A call begins; the number it gets is for `end`. Of a coroutine that is watched, a weak reference is kept.
    #[pyo3(signature = (coroutine = None, /))]
    fn begin(&self, py: Python<'_>, coroutine: Option<&Bound<'_, PyAny>>) -> PyResult<u64> {
        let watched = self.state.borrow(py).watched;
        let what = match coroutine {
            Some(coroutine) if watched => Some(PyWeakrefReference::new(coroutine)?.unbind()),
            _ => None,
        };
        let (now, clock) = now(py);
        Ok(self.state.borrow(py).machine.begin(now, clock, what).pack())
    }

    /// A call has ended: None, or when it was slow, its seconds and whether that was told while it ran.
    #[pyo3(signature = (run, error = None, /))]
    fn end(&self, py: Python<'_>, run: u64, error: Option<&Bound<'_, PyAny>>) -> PyResult<Option<(f64, bool)>> {
        let outcome = outcome(py, error)?;
        let (now, clock) = now(py);
        let ended = self.state.borrow(py).machine.end(Run::unpack(run), now, clock, outcome);
        let Some(ended) = ended else { return Ok(None) };
        let Some(elapsed) = ended.elapsed else { return Ok(None) };
        self.durations.get().add(py, elapsed);
        Ok(ended.slow.then_some((elapsed, ended.told)))
    }

    /// Calls that have just become overdue: the seconds so far, and the coroutine if it is known and alive.
    fn overdue(&self, py: Python<'_>) -> Vec<(f64, Option<Py<PyAny>>)> {
        let (now, clock) = now(py);
        let found: Vec<_> = {
            let mut state = self.state.borrow(py);
            let overdue = state.machine.overdue(now, clock).into_iter();
            overdue.map(|(age, what)| (age, what.as_ref().map(|what| what.clone_ref(py)))).collect()
        };
        let alive = |what: Py<PyWeakrefReference>| what.bind(py).upgrade().map(Bound::unbind);
        found.into_iter().map(|(age, what)| (age, what.and_then(alive))).collect()
    }

    /// Seconds from which on a call is slow, and whether somebody looks for those that run.
    fn watch(&self, py: Python<'_>, threshold: f64, watched: bool) {
        let mut state = self.state.borrow(py);
        state.machine.set_threshold(threshold);
        state.watched = watched;
    }

    /// Whether a slow call may be logged now: how many were not since the last time, or None.
    fn may_log(&self, py: Python<'_>) -> Option<u64> {
        let (now, _) = now(py);
        self.state.borrow(py).pace.ask(now)
    }

    /// `(running, ended, failed, cancelled, slow)`
    fn counts(&self, py: Python<'_>) -> (usize, u64, u64, u64, u64) {
        let state = self.state.borrow(py);
        let counts = state.machine.counts();
        (state.machine.running(), counts.ended, counts.failed, counts.cancelled, counts.slow)
    }
}
