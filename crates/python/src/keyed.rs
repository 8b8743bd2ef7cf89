//! Keyed: one value for each key. The machine is `loopwright_core::keyed`.
//!
//! Lives here: the keys and values, what makes two keys equal, whether a value is in use, and which clock is read. No
//! Python code runs while the machine is borrowed; where some had to (a key's `__eq__`, the factory, `is_quiescent`),
//! what was seen before is looked up again. So it may be called from any thread and from within itself.

use loopwright_core::keyed::{Keyed as Machine, Look, Seen, Settled};
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::{PyException, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyInt, PyIterator, PyList, PyString, PyType};

use crate::aio;
use crate::args;
use crate::gil::{self, GilCell, GilRef};
use crate::hub::Hub;
use crate::permits::Permits;
use crate::timers;

/// One value for each key, made when it is first asked for: a semaphore per host, a limiter per customer.
///
/// ``per_host = Keyed(lambda host: Semaphore(8))``, then ``async with per_host["example.org"]:``. A dict does that too,
/// but grows for ever; and what forgets by age or number alone forgets a semaphore that is held, whose host then gets a
/// second one. Here a value is given up only if it *rests*:
///
/// - nobody but this object refers to it (not a variable, not a task that waits at it, not a block that holds it);
/// - and it says itself that it is as good as new: ``is_quiescent()``, which every object of Loopwright that makes sense
///   here has, or the function ``quiescent``. A semaphore of which a permit is out is not, whoever took it.
///
/// Of those that rest, what nobody has asked for in ``idle`` seconds goes, and, above ``max_keys``, what was not asked
/// for longest. When all are in use there is nothing to give up: then it grows, and says so, once, in the log. There are
/// no timers: each new key looks at a few that may be idle, and :meth:`sweep` at all of them.
///
/// Args:
///     factory: called with a key that is not there; gives its value. A plain function.
///     max_keys: the most values there are while some of them rest, 1 or more.
///     idle: seconds without use after which a value that rests is given up, more than 0; ``math.inf``: never. Time is
///         that of the event loop that runs, virtual time included.
///     quiescent: called with a value: whether it is as good as new. For values without ``is_quiescent()``, or in its
///         place; an error of it goes to ``sys.unraisablehook`` and counts as no.
///
/// Raises:
///     TypeError, ValueError: an argument that makes no sense, named.
///
/// Thread-safe, and bound to no event loop. Two threads that ask for a new key at the same moment may both call the
/// factory; both get the value of one of them.
#[pyclass(module = "loopwright", name = "Keyed", frozen, weakref)]
pub struct Keyed(GilCell<State>);

struct State {
    machine: Machine<Held>,
    factory: Option<Py<PyAny>>,
    quiescent: Option<Py<PyAny>>,
    /// The loop that was met last has a clock of its own: ask it each time.
    virtual_time: bool,
    hits: u64,
    /// With so many values there is the next warning.
    warn_at: usize,
}

struct Held {
    key: Py<PyAny>,
    value: Py<PyAny>,
    /// References to the value when it was made, besides ours: its own, of a cycle, and the factory's.
    others: isize,
}

/// One that grows beyond `max_keys` says so; and again when it has grown by as much.
const GROWN: usize = 2;

/// A loop whose time differs from the system's by more seconds than this has a clock of its own.
const ANOTHER_CLOCK: f64 = 1.0;

impl Keyed {
    fn state<'a>(slf: &'a Bound<'_, Self>) -> GilRef<'a, State> {
        slf.get().0.borrow(slf.py())
    }

    /// The time, for a key that is there: without a word to Python, unless the clock is a loop's own.
    #[inline]
    fn now(slf: &Bound<'_, Self>) -> f64 {
        if Self::state(slf).virtual_time { Self::read_clock(slf) } else { timers::coarse() }
    }

    /// The time, and whose it is.
    #[cold]
    fn read_clock(slf: &Bound<'_, Self>) -> f64 {
        let py = slf.py();
        let system = timers::coarse();
        // No loop runs, or it is none that we could ask.
        let loops = aio::hub(py).and_then(|hub| {
            let hub = hub.bind(py);
            Ok((Hub::now(hub)?, hub.get().is_simulated(py)))
        });
        let own = loops.ok().filter(|&(now, simulated)| simulated || (now - system).abs() > ANOTHER_CLOCK);
        let now = own.map_or(system, |(now, _)| now);
        let mut state = Self::state(slf);
        if std::mem::replace(&mut state.virtual_time, own.is_some()) != own.is_some() {
            state.machine.change_clock(now);
        }
        now
    }

    /// The sight of a key's value.
    ///
    /// # Errors
    /// What the `__eq__` of a key raises.
    #[inline]
    fn find(slf: &Bound<'_, Self>, key: &Bound<'_, PyAny>, hash: u64) -> PyResult<Option<Seen>> {
        let py = slf.py();
        let plain = is_plain(key);
        'again: loop {
            let mut unsure = Vec::new();
            {
                let state = Self::state(slf);
                let mut after = None;
                while let Some((seen, held)) = state.machine.candidate(hash, after) {
                    let known = held.key.bind(py);
                    if known.is(key) {
                        return Ok(Some(seen));
                    }
                    if plain && is_plain(known) {
                        if known.get_type().is(key.get_type()) && known.eq(key)? {
                            return Ok(Some(seen));
                        }
                    } else {
                        unsure.push((seen, held.key.clone_ref(py)));
                    }
                    after = Some(seen);
                }
            }
            for (seen, known) in unsure {
                if known.bind(py).eq(key)? {
                    match Self::state(slf).machine.get(seen) {
                        Some(_) => return Ok(Some(seen)),
                        None => continue 'again,
                    }
                }
            }
            return Ok(None);
        }
    }

    /// Finds a key's value and uses it.
    #[inline]
    fn use_now(slf: &Bound<'_, Self>, key: &Bound<'_, PyAny>, hash: u64) -> PyResult<Option<Py<PyAny>>> {
        let now = Self::now(slf);
        let Some(seen) = Self::find(slf, key, hash)? else { return Ok(None) };
        let mut state = Self::state(slf);
        state.hits += 1;
        Ok(state.machine.touch(seen, now).map(|held| held.value.clone_ref(slf.py())))
    }

    #[cold]
    fn make(slf: &Bound<'_, Self>, key: &Bound<'_, PyAny>, hash: u64) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let factory = Self::state(slf).factory.as_ref().map(|factory| factory.clone_ref(py));
        let Some(factory) = factory else { return Err(PyTypeError::new_err("Keyed was cleared")) };
        let value = factory.bind(py).call1((key,))?;
        Self::check(slf, &value)?;
        let others = gil::references(&value) - own_references(&value).unwrap_or(0) - 1;
        let now = Self::read_clock(slf);
        loop {
            let made = Self::state(slf).machine.totals().made;
            if let Some(known) = Self::use_now(slf, key, hash)? {
                return Ok(known); // the factory asked for this key itself, or another thread was faster
            }
            let mut state = Self::state(slf);
            if state.machine.totals().made == made {
                let held = Held { key: key.clone().unbind(), value: value.clone().unbind(), others };
                state.machine.insert(hash, held, now);
                break;
            }
        }
        let look = Self::state(slf).machine.look();
        Self::give_up(slf, look)?;
        Ok(value.unbind())
    }

    /// Minds a value that nobody could ever ask whether it is in use.
    fn check(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let told = Self::state(slf).quiescent.is_some();
        if told || value.hasattr(intern!(py, "is_quiescent"))? {
            return Ok(());
        }
        if value.hasattr(intern!(py, "__await__"))? {
            if value.hasattr(intern!(py, "close"))? {
                value.call_method0(intern!(py, "close"))?;
            }
            return Err(PyTypeError::new_err(format!(
                "Keyed(factory=...) must be a plain function, {} gave something to be awaited: for what has to be \
                 awaited there is loopwright.Resources",
                Self::name(slf)
            )));
        }
        Err(PyTypeError::new_err(format!(
            "Keyed cannot tell whether {} is in use: give its class a method is_quiescent(), or pass \
             Keyed(quiescent=...), a function of the value (one that answers True makes this a plain cache)",
            value.get_type().fully_qualified_name()?
        )))
    }

    /// Carries a look out; answers how many values were given up.
    fn give_up(slf: &Bound<'_, Self>, mut look: Look) -> PyResult<usize> {
        let py = slf.py();
        let mut gone = 0;
        let full = Self::state(slf).machine.totals().full;
        loop {
            let next = {
                let mut state = Self::state(slf);
                state.machine.next(&mut look).map(|(seen, held)| (seen, held.value.clone_ref(py), held.others))
            };
            let Some((seen, value, others)) = next else { break };
            let value = value.into_bound(py);
            let rests = if is_referenced(&value, others) { Ok(false) } else { Self::is_quiescent(slf, &value) };
            let settled = {
                let mut state = Self::state(slf);
                // Again, since Python code has run.
                let rests = matches!(rests, Ok(true)) && !is_referenced(&value, others);
                state.machine.settle(&mut look, seen, rests)
            };
            if let Settled::Gone(held) = settled {
                gone += 1;
                dismiss(py, held);
            }
            rests?;
        }
        if Self::state(slf).machine.totals().full > full {
            Self::say_that_it_grows(slf)?;
        }
        Ok(gone)
    }

    /// Whether a value says that it is as good as new.
    ///
    /// # Errors
    /// `KeyboardInterrupt` and the like; an ordinary exception is reported, and means no.
    fn is_quiescent(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = slf.py();
        let quiescent = Self::state(slf).quiescent.as_ref().map(|quiescent| quiescent.clone_ref(py));
        let answer = match &quiescent {
            Some(quiescent) => quiescent.bind(py).call1((value,)),
            None => value.call_method0(intern!(py, "is_quiescent")),
        };
        match answer.and_then(|answer| answer.is_truthy()) {
            Err(error) if error.is_instance_of::<PyException>(py) => {
                error.write_unraisable(py, Some(value));
                Ok(false)
            }
            answer => answer,
        }
    }

    #[cold]
    fn say_that_it_grows(slf: &Bound<'_, Self>) -> PyResult<()> {
        {
            let mut state = Self::state(slf);
            let keys = state.machine.len();
            if keys < state.warn_at {
                return Ok(());
            }
            state.warn_at = keys * GROWN;
        }
        static WARN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        WARN.import(slf.py(), "loopwright.keyed", "_it_grows")?.call1((slf,)).map(drop)
    }

    /// What its values are: the factory's name.
    fn name(slf: &Bound<'_, Self>) -> String {
        let py = slf.py();
        let factory = Self::state(slf).factory.as_ref().map(|factory| factory.clone_ref(py));
        let Some(factory) = factory else { return "nothing".to_owned() };
        let factory = factory.bind(py);
        let name = factory.getattr_opt(intern!(py, "__qualname__")).ok().flatten();
        name.or_else(|| factory.repr().ok().map(Bound::into_any)).map_or_else(String::new, |name| name.to_string())
    }
}

#[pymethods]
impl Keyed {
    #[new]
    #[pyo3(
        signature = (factory, *, max_keys = None, idle = None, quiescent = None),
        text_signature = "(factory, *, max_keys=10_000, idle=300.0, quiescent=None)"
    )]
    fn new(
        factory: &Bound<'_, PyAny>,
        max_keys: Option<&Bound<'_, PyAny>>,
        idle: Option<&Bound<'_, PyAny>>,
        quiescent: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        for (name, function) in [("factory", Some(factory)), ("quiescent", quiescent)] {
            if let Some(function) = function
                && !function.is_callable()
            {
                let hint = if name == "factory" { "of the key" } else { "of the value" };
                return Err(PyTypeError::new_err(format!(
                    "Keyed({name}=...) must be a function {hint}, got {}",
                    function.repr()?
                )));
            }
        }
        let max_keys = max_keys.map_or(Ok(10_000), |max_keys| args::count(max_keys, "Keyed(max_keys=...)", 1))?;
        let idle = idle.map_or(Ok(300.0), |idle| args::seconds(idle, "Keyed(idle=...)"))?;
        if idle <= 0.0 {
            return Err(PyValueError::new_err(format!("Keyed(idle=...) must be more than 0 seconds, got {idle}")));
        }
        Ok(Self(GilCell::new(State {
            machine: Machine::new(usize::try_from(max_keys).unwrap_or(usize::MAX), idle),
            factory: Some(factory.clone().unbind()),
            quiescent: quiescent.map(|quiescent| quiescent.clone().unbind()),
            virtual_time: false,
            hits: 0,
            warn_at: 0,
        })))
    }

    /// ``Keyed[str, Semaphore]``, for annotations.
    #[classmethod]
    fn __class_getitem__<'py>(class: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        static ALIAS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        ALIAS.import(class.py(), "types", "GenericAlias")?.call1((class, item))
    }

    /// The value of a key; made by the factory if there is none.
    fn __getitem__(slf: &Bound<'_, Self>, key: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let hash = hash(key)?;
        match Self::use_now(slf, key, hash)? {
            Some(value) => Ok(value),
            None => Self::make(slf, key, hash),
        }
    }

    /// The value of a key if there is one, which counts as a use of it; else ``default``. Makes nothing.
    #[pyo3(signature = (key, default = None))]
    fn get(slf: &Bound<'_, Self>, key: &Bound<'_, PyAny>, default: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let known = Self::use_now(slf, key, hash(key)?)?;
        Ok(known.or(default).unwrap_or_else(|| slf.py().None()))
    }

    fn __contains__(slf: &Bound<'_, Self>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(Self::find(slf, key, hash(key)?)?.is_some())
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.0.borrow(py).machine.len()
    }

    /// The keys of this moment, the one that was not asked for longest first.
    fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyIterator>> {
        let py = slf.py();
        let keys: Vec<Py<PyAny>> = Self::state(slf).machine.by_use().map(|held| held.key.clone_ref(py)).collect();
        PyList::new(py, keys)?.try_iter()
    }

    /// Forgets a key, unless its value is in use.
    ///
    /// Returns:
    ///     Whether it was there and is forgotten: the next who asks gets a new value.
    fn discard(slf: &Bound<'_, Self>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = slf.py();
        let Some(seen) = Self::find(slf, key, hash(key)?)? else { return Ok(false) };
        let held = Self::state(slf).machine.get(seen).map(|held| (held.value.clone_ref(py), held.others));
        let Some((value, others)) = held else { return Ok(false) };
        let value = value.into_bound(py);
        let rests = !is_referenced(&value, others) && Self::is_quiescent(slf, &value)?;
        if !rests || is_referenced(&value, others) {
            return Ok(false);
        }
        let removed = Self::state(slf).machine.remove(seen);
        Ok(removed.map(|held| dismiss(py, held)).is_some())
    }

    /// Gives up everything that rests and that nobody has asked for in ``idle`` seconds, and, above ``max_keys``, what
    /// else rests, the oldest first.
    ///
    /// New keys do the same, a little at a time. Call this now and then where no new keys come and what is left behind
    /// is large: ``background.every(60, per_host.sweep)``.
    ///
    /// Returns:
    ///     How many values it gave up.
    fn sweep(slf: &Bound<'_, Self>) -> PyResult<usize> {
        let now = Self::read_clock(slf);
        let look = Self::state(slf).machine.sweep(now);
        Self::give_up(slf, look)
    }

    /// Returns:
    ///     A frozen :class:`KeyedStats` of this moment.
    fn stats<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        static STATS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let counts = {
            let state = Self::state(slf);
            let machine = &state.machine;
            let totals = machine.totals();
            (
                (machine.len(), machine.max_keys(), machine.idle()),
                (state.hits, totals.made, totals.evicted, totals.expired),
                (totals.full, totals.peak),
            )
        };
        let ((keys, max_keys, idle), (hits, made, evicted, expired), (full, peak)) = counts;
        STATS
            .import(slf.py(), "loopwright.keyed", "KeyedStats")?
            .call1((keys, max_keys, idle, hits, made, evicted, expired, full, peak))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let name = Self::name(slf);
        let state = Self::state(slf);
        format!("<Keyed of {name} keys={} max_keys={}>", state.machine.len(), state.machine.max_keys())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |state| {
            for held in state.machine.values() {
                visit.call(&held.key)?;
                visit.call(&held.value)?;
            }
            [&state.factory, &state.quiescent].into_iter().flatten().try_for_each(|function| visit.call(function))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = {
            let mut state = self.0.borrow(py);
            (state.machine.clear().collect::<Vec<_>>(), state.factory.take(), state.quiescent.take())
        };
        drop(cleared);
    }
}

fn hash(key: &Bound<'_, PyAny>) -> PyResult<u64> {
    Ok(key.hash()?.cast_unsigned() as u64)
}

/// Two of these are compared without running Python code.
#[inline]
fn is_plain(key: &Bound<'_, PyAny>) -> bool {
    key.is_exact_instance_of::<PyString>()
        || key.is_exact_instance_of::<PyInt>()
        || key.is_exact_instance_of::<PyBytes>()
}

/// Whether anybody else refers to a value: besides the machine, the caller's own `value`, and those who did from the
/// beginning.
fn is_referenced(value: &Bound<'_, PyAny>, others: isize) -> bool {
    match own_references(value) {
        Some(own) => gil::references(value) > 2 + own + others,
        None => true,
    }
}

/// References that a value has to itself without being a cycle of the user's; None if somebody else has one of them.
fn own_references(value: &Bound<'_, PyAny>) -> Option<isize> {
    match value.cast::<Permits>() {
        Ok(permits) => Permits::own_references(permits),
        Err(_) => Some(0),
    }
}

/// Drops what was given up, which nobody refers to, at once and not in the next garbage collection.
fn dismiss(py: Python<'_>, held: Held) {
    if let Ok(permits) = held.value.bind(py).cast::<Permits>() {
        Permits::forget_methods(permits);
    }
}
