//! The native part of CircuitBreaker. The machine is `loopwright_core::breaker`.
//!
//! Lives here: which call an `__aexit__` belongs to, what is a failure, and which clock is read. What changes is told to
//! `loopwright.breakers`, which has the listeners and drives users' code.
//!
//! **Whose exit is it?** A breaker is entered by many at once, and a call has to be known by the state in which it began
//! (and, with `slow_call`, by its time). As long as all calls under way began in one and the same closed state, there is
//! nothing to tell apart, and they are only counted. Any other is written down under the task or thread that made it.

use std::collections::HashMap;

use loopwright_core::breaker::{
    Breaker as Machine, Call, Change, Config, Refused, State as Phase, Verdict, Why, Window,
};
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::{PyException, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::aio;
use crate::args;
use crate::awaitable::{FastWith, Ready, SlowWith};
use crate::clocks::{Reading, Shown};
use crate::gil::{GilCell, GilRef};

/// The base of `loopwright.CircuitBreaker`.
#[pyclass(module = "loopwright._loopwright", name = "_Breaker", frozen, subclass, weakref)]
pub struct Breaker(GilCell<State>);

struct State {
    machine: Machine,
    shown: Shown,
    on: On,
    /// Calls under way that are alike: the epoch in which they began, and how many.
    alike: (u64, u64),
    /// The others, under who made them: innermost last.
    known: HashMap<usize, Vec<Call>>,
}

/// What is a failure.
enum On {
    /// Exceptions of this class, or of one of these.
    Classes(Py<PyAny>),
    /// Those of which this says so.
    Predicate(Py<PyAny>),
}

/// The smallest breaker there is, until `__init__` was called.
const NOTHING: Config = Config {
    failure_rate: 1.0,
    window: Window::Calls(1),
    min_calls: 1,
    slow_call: None,
    slow_rate: 1.0,
    open_for: 0.0,
    half_open: 1,
};

/// The largest window by calls.
const MOST: i64 = 1 << 20;

/// A state's name in Python.
fn word(state: Phase) -> &'static str {
    match state {
        Phase::Closed => "closed",
        Phase::Open => "open",
        Phase::HalfOpen => "half_open",
        Phase::Isolated => "isolated",
    }
}

impl State {
    fn new(config: Config, on: On) -> Self {
        Self { machine: Machine::new(config), shown: Shown::default(), on, alike: (0, 0), known: HashMap::new() }
    }

    #[inline]
    fn see(&mut self, reading: Reading) -> f64 {
        self.shown.see(reading, |now| self.machine.change_clock(now))
    }

    /// Whether a call that begins now is like all others under way.
    #[inline]
    fn is_alike(&self) -> bool {
        let (epoch, calls) = self.alike;
        self.machine.state() == Phase::Closed
            && !self.machine.times_calls()
            && (calls == 0 || epoch == self.machine.epoch())
    }

    /// Lets a call begin that is like the others, and needs no clock.
    #[inline]
    fn begin_plainly(&mut self) -> bool {
        let begun = self.is_alike() && self.machine.begin_plainly().is_some();
        if begun {
            self.alike = (self.machine.epoch(), self.alike.1 + 1);
        }
        begun
    }

    /// The call that this exit belongs to.
    fn find(&mut self, who: usize) -> Option<Call> {
        if let Some(calls) = self.known.get_mut(&who) {
            let call = calls.pop();
            if calls.is_empty() {
                self.known.remove(&who);
            }
            return call;
        }
        if self.alike.1 > 0 {
            self.alike.1 -= 1;
            return Some(Call::plain(self.alike.0));
        }
        // Left by somebody else than it was entered by (a generator that another task closes): the only one, if so.
        let who = *self.known.keys().next()?;
        self.find(who)
    }
}

/// Who calls: the running task, or else this thread.
fn caller(py: Python<'_>) -> usize {
    thread_local! {
        static HERE: u8 = const { 0 };
    }
    let task = aio::hub(py).and_then(|hub| aio::current_task(&hub.get().event_loop(py)?));
    match task {
        Ok(Some(task)) => task.as_ptr() as usize,
        Ok(None) | Err(_) => HERE.with(|here| std::ptr::from_ref(here) as usize),
    }
}

impl Breaker {
    #[inline]
    fn state<'a>(slf: &'a Bound<'_, Self>) -> GilRef<'a, State> {
        slf.get().0.borrow(slf.py())
    }

    /// Tells Python about a change.
    fn tell(slf: &Bound<'_, Self>, change: Option<Change>) -> PyResult<()> {
        let Some(Change { from, to, why }) = change else { return Ok(()) };
        let (why, rate) = match why {
            Why::Failures(rate) => ("failures", Some(rate)),
            Why::Slow(rate) => ("slow calls", Some(rate)),
            Why::Waited => ("waited", None),
            Why::Recovered => ("recovered", None),
            Why::Asked => ("asked", None),
        };
        slf.call_method1(intern!(slf.py(), "_changed"), (word(from), word(to), why, rate)).map(drop)
    }

    /// A call begins.
    fn begin(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        if Self::state(slf).begin_plainly() {
            return Ok(());
        }
        let who = caller(py);
        let reading = Reading::take(py);
        let (begun, change) = {
            let mut breaker = Self::state(slf);
            let now = breaker.see(reading);
            let alike = breaker.is_alike();
            let (begun, change) = breaker.machine.begin(now);
            if let Ok(call) = begun {
                if alike {
                    breaker.alike = (breaker.machine.epoch(), breaker.alike.1 + 1);
                } else {
                    breaker.known.entry(who).or_default().push(call);
                }
            }
            (begun, change)
        };
        if let Err(error) = Self::tell(slf, change) {
            if begun.is_ok() {
                Self::end(slf, Verdict::Nothing)?;
            }
            return Err(error);
        }
        begun.map(drop).map_err(|refused| Self::refusal(slf, refused))
    }

    /// `BreakerOpen`.
    fn refusal(slf: &Bound<'_, Self>, refused: Refused) -> PyErr {
        let made = slf.call_method1(intern!(slf.py(), "_refusal"), (refused.retry_after,));
        made.map_or_else(|error| error, PyErr::from_value)
    }

    /// The innermost call of this caller has ended.
    fn end(slf: &Bound<'_, Self>, verdict: Verdict) -> PyResult<()> {
        let py = slf.py();
        let who = caller(py);
        let reading = Reading::take(py);
        let change = {
            let mut breaker = Self::state(slf);
            let now = breaker.see(reading);
            let Some(call) = breaker.find(who) else {
                return Err(PyRuntimeError::new_err("CircuitBreaker was left without having been entered"));
            };
            breaker.machine.end(call, verdict, now)
        };
        Self::tell(slf, change)
    }

    /// What an exception says about who was called.
    fn judge(slf: &Bound<'_, Self>, error: &Bound<'_, PyAny>) -> PyResult<Verdict> {
        let py = slf.py();
        // A cancel, an interrupt, the end of the program: the call did not fail, it was given up.
        if !error.is_instance_of::<PyException>() || is_refusal(error)? {
            return Ok(Verdict::Nothing);
        }
        let (classes, predicate) = match &Self::state(slf).on {
            On::Classes(classes) => (Some(classes.clone_ref(py)), None),
            On::Predicate(predicate) => (None, Some(predicate.clone_ref(py))),
        };
        let failed = match (classes, predicate) {
            (Some(classes), _) => error.is_instance(classes.bind(py))?,
            (None, Some(predicate)) => predicate.bind(py).call1((error,))?.is_truthy()?,
            (None, None) => true,
        };
        Ok(if failed { Verdict::Failure } else { Verdict::Success })
    }

    fn leave(slf: &Bound<'_, Self>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        if error.is_none() {
            return Self::end(slf, Verdict::Success);
        }
        match Self::judge(slf, error) {
            Ok(verdict) => Self::end(slf, verdict),
            Err(trouble) => {
                Self::end(slf, Verdict::Nothing)?;
                Err(trouble)
            }
        }
    }

    fn asked(slf: &Bound<'_, Self>, change: impl FnOnce(&mut Machine, f64) -> Option<Change>) -> PyResult<()> {
        let reading = Reading::take(slf.py());
        let change = {
            let mut breaker = Self::state(slf);
            let now = breaker.see(reading);
            change(&mut breaker.machine, now)
        };
        Self::tell(slf, change)
    }
}

/// Whether an exception is a refusal of our own: then nobody was called.
fn is_refusal(error: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = error.py();
    for name in ["BreakerOpen", "RateLimitExceeded"] {
        if error.is_instance(aio::loopwright_error_type(py, name)?.as_any())? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl FastWith for Breaker {
    #[inline]
    fn try_enter(&self, py: Python<'_>) -> bool {
        self.0.borrow(py).begin_plainly()
    }

    #[inline]
    fn try_exit(&self, py: Python<'_>, failed: bool) -> bool {
        let mut breaker = self.0.borrow(py);
        let breaker = &mut *breaker;
        if failed || !breaker.known.is_empty() || breaker.alike.1 == 0 {
            return false;
        }
        let now = if breaker.machine.is_timed() {
            let Some(reading) = Reading::at_once() else { return false };
            Some(breaker.see(reading))
        } else {
            None
        };
        let ended = breaker.machine.end_plainly(Call::plain(breaker.alike.0), now);
        breaker.alike.1 -= u64::from(ended);
        ended
    }

    fn slow() -> &'static SlowWith {
        static SLOW: SlowWith = SlowWith::new();
        &SLOW
    }
}

/// Reads what is a failure.
fn read_on(on: Option<&Bound<'_, PyAny>>, py: Python<'_>) -> PyResult<On> {
    let Some(on) = on else { return Ok(On::Classes(py.get_type::<PyException>().into_any().unbind())) };
    let is_class = |class: &Bound<'_, PyAny>| {
        class.cast::<PyType>().is_ok_and(|class| class.is_subclass_of::<PyException>().unwrap_or(false))
    };
    if is_class(on) {
        return Ok(On::Classes(on.clone().unbind()));
    }
    if let Ok(classes) = on.cast::<PyTuple>()
        && !classes.is_empty()
        && classes.iter().all(|class| is_class(&class))
    {
        return Ok(On::Classes(on.clone().unbind()));
    }
    if on.is_callable() && on.cast::<PyType>().is_err() {
        return Ok(On::Predicate(on.clone().unbind()));
    }
    Err(PyTypeError::new_err(format!(
        "CircuitBreaker(on=...) must be an exception class, a tuple of them, or a function of the exception, got {}; \
         what is not an Exception (a cancel, an interrupt) is never a failure",
        on.repr()?
    )))
}

#[pymethods]
impl Breaker {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(py: Python<'_>, _args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        Ok(Self(GilCell::new(State::new(NOTHING, read_on(None, py)?))))
    }

    #[allow(clippy::too_many_arguments, reason = "each is a setting of its own")]
    #[pyo3(signature = (failure_rate, window, window_time, min_calls, slow_call, slow_rate, open_for, half_open, on))]
    fn _configure(
        slf: &Bound<'_, Self>,
        failure_rate: &Bound<'_, PyAny>,
        window: &Bound<'_, PyAny>,
        window_time: &Bound<'_, PyAny>,
        min_calls: &Bound<'_, PyAny>,
        slow_call: &Bound<'_, PyAny>,
        slow_rate: &Bound<'_, PyAny>,
        open_for: &Bound<'_, PyAny>,
        half_open: &Bound<'_, PyAny>,
        on: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = slf.py();
        let count = |given: &Bound<'_, PyAny>, what: &str| -> PyResult<i64> {
            let what = format!("CircuitBreaker({what}=...)");
            match args::count(given, &what, 1)? {
                count if count <= MOST => Ok(count),
                count => Err(PyValueError::new_err(format!("{what} must be {MOST} or less, got {count}"))),
            }
        };
        let calls = count(window, "window")?;
        let window = if window_time.is_none() {
            Window::Calls(usize::try_from(calls).unwrap_or(usize::MAX))
        } else {
            Window::Seconds(args::positive(window_time, "CircuitBreaker(window_time=...)")?)
        };
        let slow_call =
            if slow_call.is_none() { None } else { Some(args::positive(slow_call, "CircuitBreaker(slow_call=...)")?) };
        let config = Config {
            failure_rate: args::share(failure_rate, "CircuitBreaker(failure_rate=...)")?,
            window,
            min_calls: count(min_calls, "min_calls")?.unsigned_abs(),
            slow_call,
            slow_rate: args::share(slow_rate, "CircuitBreaker(slow_rate=...)")?,
            open_for: args::positive(open_for, "CircuitBreaker(open_for=...)")?,
            half_open: count(half_open, "half_open")?.unsigned_abs(),
        };
        let state = State::new(config, read_on(Some(on), py)?);
        let old = std::mem::replace(&mut *Self::state(slf), state);
        drop(old);
        Ok(())
    }

    /// ``"closed"``: calls pass. ``"open"``: they are refused, for ``open_for`` seconds; it stays open until somebody calls
    /// after that. ``"half_open"``: ``half_open`` of them pass, to see how it goes. ``"isolated"``: they are refused until
    /// somebody says otherwise.
    #[getter(state)]
    fn state_name(&self, py: Python<'_>) -> &'static str {
        word(self.0.borrow(py).machine.state())
    }

    /// Opens it, as too many failures would: for ``open_for`` seconds from now on, also when it is open already.
    fn open(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::asked(slf, Machine::open)
    }

    /// Closes it, and forgets what its rates were taken over.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::asked(slf, Machine::close)
    }

    /// Refuses all calls, until :meth:`close` or :meth:`open`. Calls under way go on.
    fn isolate(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::asked(slf, Machine::isolate)
    }

    /// How long until a call may pass.
    ///
    /// Returns:
    ///     Seconds; 0.0 where calls pass; None while it is isolated, and half open with all probes under way: that is for
    ///     others to decide.
    fn retry_after(slf: &Bound<'_, Self>) -> Option<f64> {
        let reading = Reading::take(slf.py());
        let mut breaker = Self::state(slf);
        let now = breaker.see(reading);
        breaker.machine.retry_after(now)
    }

    /// Whether a new one in its place would change nothing: no call is under way, and it is closed and remembers no failure
    /// and no slow call, or had its last trouble twice ``open_for`` seconds ago. :class:`Keyed` gives up no other.
    fn is_quiescent(slf: &Bound<'_, Self>) -> bool {
        let reading = Reading::take(slf.py());
        let mut breaker = Self::state(slf);
        let now = breaker.see(reading);
        breaker.machine.is_at_rest(now)
    }

    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::begin(slf)
    }

    fn __exit__(
        slf: &Bound<'_, Self>,
        _kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        Self::leave(slf, error)
    }

    fn __aenter__(slf: &Bound<'_, Self>) -> PyResult<Py<Ready>> {
        Self::begin(slf)?;
        Ok(Ready::get(slf.py()))
    }

    fn __aexit__(
        slf: &Bound<'_, Self>,
        _kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<Ready>> {
        Self::leave(slf, error)?;
        Ok(Ready::get(slf.py()))
    }

    /// `(state, calls, failures, slow, in_flight, retry_after)` and the totals.
    #[allow(clippy::type_complexity, reason = "the fields of the dataclass, in order")]
    fn _stats(slf: &Bound<'_, Self>) -> (&'static str, u64, u64, u64, u64, Option<f64>, u64, u64, u64, u64, u64, u64) {
        let reading = Reading::take(slf.py());
        let mut breaker = Self::state(slf);
        let now = breaker.see(reading);
        let machine = &mut breaker.machine;
        let tally = machine.tally(now);
        let totals = machine.totals();
        (
            word(machine.state()),
            tally.calls,
            tally.failures,
            tally.slow,
            machine.in_flight(),
            machine.retry_after(now),
            totals.successes,
            totals.failures,
            totals.slow,
            totals.ignored,
            totals.refused,
            totals.opened,
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |breaker| match &breaker.on {
            On::Classes(on) | On::Predicate(on) => visit.call(on),
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let nobody = On::Classes(py.get_type::<PyException>().into_any().unbind());
        let on = std::mem::replace(&mut self.0.borrow(py).on, nobody);
        drop(on);
    }
}
