//! AdaptiveLimit: permits whose number finds itself. The decisions are `loopwright_core::adaptive`.

use loopwright_core::adaptive::{Adaptive, Begun, Config, Strategy};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::args;
use crate::op::Op;
use crate::permits::{self, Acquire, Flavour, Learning, Permits, State};

/// At most as many calls at a time as the server behind them can serve, which it finds out by itself.
///
/// A server of capacity C answers C calls in the time of one. Beyond that knee a higher limit adds delay and nothing else;
/// below it capacity is left unused. Where the knee is, nobody knows, and it moves. This limit keeps to it: it settles
/// within a fifth of the knee, gives way when the capacity falls, and comes back (tests/test_adaptive_limit.py).
///
/// Wherever a :class:`Semaphore` is: ``async with limit:`` around each call, ``acquire()`` and ``release()``,
/// ``amap(limit=...)``, ``gather(limit=...)``. As there, a waiter that is cancelled, at whatever moment, takes no permit
/// with it, and waiters are served in the order in which they came.
///
/// ``strategy="gradient"`` compares how long calls take with how long they took without a queue, and keeps
/// ``limit * delay without queue / delay now`` in flight, and a few more to see the knee move. Every twenty windows it
/// halves itself for one, to measure the delay without a queue. ``strategy="aimd"`` adds one per window and, when calls
/// were too much or their mean delay is above ``target``, goes back to ``backoff`` of it. In the manner of Netflix's
/// concurrency-limits; the drain is BBR's.
///
/// Args:
///     initial: the first limit, between ``minimum`` and ``maximum``.
///     minimum: never below that; 1 or more.
///     maximum: never above that.
///     strategy: ``"gradient"`` or ``"aimd"``.
///     target: (aimd) the longest mean delay that is still right, in seconds; None: only ``overload`` makes it smaller.
///     backoff: what is left of the limit after an overload, above 0 and below 1.
///     overload: the exception type, or a tuple of them, by which a call says that the server has too much to do. Any
///         other exception, and a cancel, teaches nothing: an error is often faster than an answer.
///     name: for the repr and for metrics.
///
/// Raises:
///     TypeError, ValueError: an argument is no good.
///
/// A window is fifty calls or twice the limit, whichever is more, that began after the last change of the limit, and up to
/// four hundred where delays differ widely: changes take some seconds at a hundred calls a second. A limit that was not
/// reached does not grow. Time is the running loop's. One object serves one event loop at a time: it belongs to a loop
/// while it has waiters. Not thread-safe.
#[pyclass(module = "loopwright", name = "AdaptiveLimit", extends = Permits, frozen, subclass)]
pub struct AdaptiveLimit;

#[pymethods]
impl AdaptiveLimit {
    #[new]
    #[pyo3(
        signature = (*_args, **_kwargs),
        text_signature = "(initial=10, *, minimum=1, maximum=1000, strategy='gradient', target=None, backoff=0.9, \
                          overload=TimeoutError, name=None)"
    )]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Permits::new(Flavour::Adaptive, 1, Some(1), true)).add_subclass(Self)
    }

    #[pyo3(signature = (
        initial = None, *, minimum = None, maximum = None, strategy = "gradient", target = None, backoff = None,
        overload = None, name = None
    ))]
    #[allow(clippy::too_many_arguments, reason = "each is a choice of its own")]
    fn __init__(
        slf: &Bound<'_, Self>,
        initial: Option<&Bound<'_, PyAny>>,
        minimum: Option<&Bound<'_, PyAny>>,
        maximum: Option<&Bound<'_, PyAny>>,
        strategy: &str,
        target: Option<&Bound<'_, PyAny>>,
        backoff: Option<&Bound<'_, PyAny>>,
        overload: Option<Py<PyAny>>,
        name: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let least = number(minimum, "AdaptiveLimit(minimum=...)", 1)?;
        let initial = number(initial, "AdaptiveLimit(initial=...)", least.max(10))?;
        let most = number(maximum, "AdaptiveLimit(maximum=...)", initial.max(1000))?;
        if !(least <= initial && initial <= most) {
            return Err(PyValueError::new_err(format!(
                "AdaptiveLimit needs minimum <= initial <= maximum, got {least}, {initial}, {most}"
            )));
        }
        let target = target.map(|target| args::seconds(target, "AdaptiveLimit(target=...)")).transpose()?;
        let strategy = match (strategy, target) {
            ("gradient", None) => Strategy::Gradient,
            ("aimd", Some(target)) if target <= 0.0 => {
                return Err(PyValueError::new_err(format!(
                    "AdaptiveLimit(target=...) must be more than 0 seconds, got {target}"
                )));
            }
            ("aimd", target) => Strategy::Aimd { target },
            ("gradient", Some(_)) => {
                return Err(PyValueError::new_err(
                    "AdaptiveLimit(target=...) is for strategy='aimd': the gradient finds the delay by itself",
                ));
            }
            _ => {
                return Err(PyValueError::new_err(format!(
                    "AdaptiveLimit(strategy=...) must be 'gradient' or 'aimd', got {strategy:?}"
                )));
            }
        };
        let backoff = backoff.map_or(Ok(0.9), |backoff| args::seconds(backoff, "AdaptiveLimit(backoff=...)"))?;
        if !(0.0 < backoff && backoff < 1.0) {
            return Err(PyValueError::new_err(format!(
                "AdaptiveLimit(backoff=...) must be between 0 and 1, got {backoff}: it is what is left of the limit"
            )));
        }
        let overload = match overload {
            Some(overload) => overload,
            None => py.get_type::<pyo3::exceptions::PyTimeoutError>().into_any().unbind(),
        };
        if py.None().bind(py).is_instance(overload.bind(py)).is_err() {
            return Err(PyTypeError::new_err(format!(
                "AdaptiveLimit(overload=...) must be an exception type or a tuple of them, got {}",
                overload.bind(py).repr()?
            )));
        }
        let machine = Adaptive::new(Config { strategy, initial, least, most, backoff });
        let limit = i64::from(initial);
        let mut state = State::new(Flavour::Adaptive, limit, Some(limit), true);
        state.learning = Some(Box::new(Learning { machine, overload, name }));
        Permits::reset(slf.as_super(), state);
        Ok(())
    }

    /// Takes a permit, waiting for it in line.
    ///
    /// Returns:
    ///     An operation to await; it answers True. Nothing is taken before it is awaited.
    ///
    /// Raises:
    ///     CancelledError: the wait was cancelled; no permit was taken.
    ///     LoopMismatch: waiters of another event loop stand in line.
    fn acquire(slf: &Bound<'_, Self>) -> PyResult<Py<Op>> {
        Acquire::op(slf.as_super(), 1, true)
    }

    /// Takes a permit if one is free and nobody waits for it; never blocks.
    ///
    /// Returns:
    ///     Whether it was taken.
    fn try_acquire(slf: &Bound<'_, Self>) -> PyResult<bool> {
        permits::try_acquire(slf.as_super(), None)
    }

    /// Gives a permit back: a call has ended, the one that has been in flight longest for all it knows.
    ///
    /// Args:
    ///     error: what the call raised, if it did: an overload, or nothing to learn from.
    ///
    /// Raises:
    ///     ValueError: nobody holds one.
    #[pyo3(signature = (error = None))]
    fn release(slf: &Bound<'_, Self>, error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        Permits::learn(slf.as_super(), None, error)
    }

    /// The call of the permit that was taken last begins only now: what went on since ``acquire()`` is not its delay.
    ///
    /// Returns:
    ///     What :meth:`end` wants to have. :func:`amap` calls the two.
    fn begin(slf: &Bound<'_, Self>) -> PyResult<(f64, u64)> {
        match Permits::begin_anew(slf.as_super()) {
            Some(begun) => Ok((begun.at, begun.number)),
            None => Err(PyValueError::new_err("AdaptiveLimit.__init__ was not called")),
        }
    }

    /// Gives the permit of a call back that began with :meth:`begin`.
    ///
    /// Args:
    ///     begun: what that returned.
    ///     error: as for :meth:`release`.
    #[pyo3(signature = (begun, error = None))]
    fn end(slf: &Bound<'_, Self>, begun: (f64, u64), error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        Permits::learn(slf.as_super(), Some(Begun { at: begun.0, number: begun.1 }), error)
    }

    /// The most calls in flight that there may be now.
    #[getter]
    fn limit(slf: &Bound<'_, Self>) -> i64 {
        Permits::state(slf.as_super()).limit.unwrap_or_default()
    }

    /// The name it was given.
    #[getter]
    fn name(slf: &Bound<'_, Self>) -> Option<Py<PyAny>> {
        let permits = Permits::state(slf.as_super());
        permits.learning.as_ref().and_then(|learning| learning.name.as_ref().map(|name| name.clone_ref(slf.py())))
    }

    /// Returns:
    ///     A frozen :class:`AdaptiveLimitStats` of this moment.
    fn stats<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let counts = slf.call_method0("_stats")?.extract::<(i64, Option<i64>, usize, u64, u64, bool)>()?;
        let (value, limit, waiting, acquired, waited, _) = counts;
        let fields = {
            let permits = Permits::state(slf.as_super());
            let Some(learning) = &permits.learning else {
                return Err(PyValueError::new_err("AdaptiveLimit.__init__ was not called"));
            };
            let (machine, config) = (&learning.machine, learning.machine.config());
            (
                (limit, value, waiting, machine.in_flight(), acquired, waited),
                (machine.delay(), machine.base(), machine.windows(), machine.overloads()),
                (config.least, config.most),
            )
        };
        let ((limit, value, waiting, in_flight, acquired, waited), (delay, base, windows, overloads), bounds) = fields;
        let (least, most) = bounds;
        py.import("loopwright.limits")?
            .getattr("AdaptiveLimitStats")?
            .call1((limit, value, waiting, in_flight, acquired, waited, delay, base, windows, overloads, least, most))
    }
}

/// A number of calls, or the default.
fn number(given: Option<&Bound<'_, PyAny>>, what: &str, default: u32) -> PyResult<u32> {
    let Some(given) = given else { return Ok(default) };
    let number = args::count(given, what, 1)?;
    u32::try_from(number).map_err(|_| PyValueError::new_err(format!("{what} is out of range: {number}")))
}
