//! Queue, PriorityQueue and LifoQueue: asyncio's 3.13 API on every version, and threads.
//!
//! The counts and the lines are `loopwright_core::queue`'s; the items live here, in a [`Store`]. A store that cannot run
//! Python (a deque, a stack) is used under the borrow, in one go with the count. One that can (a heap compares, a
//! subclass's `_put` does anything) is used between the two halves of the machine's transfer, with nothing borrowed:
//! it may raise, and it may come back into the queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loopwright_core::queue::{Claim, Denied, DoneTooOften, Queue as Machine, Shutdown, Slot, Turn};
use loopwright_core::waiters::{Ticket, Wakes};
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyTimeoutError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyTuple, PyType};

use crate::aio;
use crate::async_method::Shortcut;
use crate::awaitable;
use crate::gil::{GilCell, GilRef};
use crate::heap;
use crate::hub::{Binding, Hub, Origin};
use crate::op::{self, Enlisted, Kind, Op, Operation, Resumed, ThreadWaker, Value, Waker};

/// Which of the three classes, or a subclass of which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    Fifo,
    Priority,
    Lifo,
}

impl Flavour {
    fn class(self, py: Python<'_>) -> Bound<'_, PyType> {
        match self {
            Self::Fifo => py.get_type::<Queue>(),
            Self::Priority => py.get_type::<PriorityQueue>(),
            Self::Lifo => py.get_type::<LifoQueue>(),
        }
    }

    fn name(self) -> &'static str {
        self.named(["Queue", "PriorityQueue", "LifoQueue"])
    }

    fn named(self, names: [&'static str; 3]) -> &'static str {
        names[self as usize]
    }
}

/// Where the items are.
enum Store {
    /// Queue
    Deque(VecDeque<Py<PyAny>>),
    /// LifoQueue
    Stack(Vec<Py<PyAny>>),
    /// PriorityQueue: a heap in heapq's layout.
    Heap(Py<PyList>),
    /// A subclass's `_put` and `_get`, usually on `self._queue`.
    Own,
}

impl Store {
    fn of(py: Python<'_>, flavour: Flavour) -> Self {
        match flavour {
            Flavour::Fifo => Self::Deque(VecDeque::new()),
            Flavour::Priority => Self::Heap(PyList::empty(py).unbind()),
            Flavour::Lifo => Self::Stack(Vec::new()),
        }
    }
}

/// A store that runs Python.
enum Slow {
    Heap(Py<PyList>),
    Own,
}

impl Slow {
    /// How many items it holds, when it says so: a subclass's set merges equal ones.
    fn count(&self, slf: &Bound<'_, Queue>) -> Option<usize> {
        match self {
            Self::Heap(items) => Some(items.bind(slf.py()).len()),
            Self::Own => own_items(slf).ok()?.len().ok(),
        }
    }
}

/// What became of a newcomer's put or get.
enum Newcomer<T> {
    Done(T),
    HasToWait,
}

/// A FIFO queue between coroutines, and between threads and coroutines. A superset of :class:`asyncio.Queue` with its
/// 3.13 API (``shutdown``) on every version, 3 to 8 times as fast.
///
/// Whatever is cancelled when, no item is lost or doubled: a ``put`` that was cancelled has not enqueued, a ``get`` that
/// was cancelled has not removed anything, and what was reserved for it goes to the next in line in the same turn of
/// the loop, in order. Waiters are served first come, first served, and newcomers never overtake them.
///
/// ``async for item in queue`` gives items until the queue is shut down and drained.
///
/// A getter that was woken owns one item before it runs, a putter that was woken owns one place. :meth:`qsize` counts
/// those places, :meth:`empty` does not count those items: it is True exactly when :meth:`get_nowait` would raise, so
/// that ``while not queue.empty(): queue.get_nowait()`` never does.
///
/// A subclass that overrides ``_init``, ``_put`` or ``_get`` decides where and in which order items are kept, as in
/// asyncio.
///
/// Args:
///     maxsize: the most items it holds; ``put`` waits when it is full. 0 or less: no limit.
///
/// Raises:
///     TypeError: ``maxsize`` is not a number.
///     ValueError: ``maxsize`` is NaN.
///
/// One object serves one event loop at a time: it belongs to a loop while tasks wait at it. Only :meth:`put_threadsafe`
/// and :meth:`get_blocking` may be called from other threads.
#[pyclass(module = "loopwright", name = "Queue", subclass, weakref, frozen)]
pub struct Queue(GilCell<State>);

struct State {
    machine: Machine<Waker>,
    store: Store,
    flavour: Flavour,
    /// As given.
    maxsize: Py<PyAny>,
    /// Waiting operations of the loop in `binding`; threads that wait are not counted.
    tasks: usize,
    binding: Binding,
    put: u64,
    got: u64,
    /// Held while a store runs Python, which lets other threads run: `put_threadsafe` on a heap. An RLock, since that
    /// Python may come back.
    store_lock: Option<Py<PyAny>>,
}

impl State {
    fn new(py: Python<'_>, flavour: Flavour) -> Self {
        let maxsize = PyInt::new(py, 0).into_any().unbind();
        Self {
            machine: Machine::new(None),
            store: Store::of(py, flavour),
            flavour,
            maxsize,
            tasks: 0,
            binding: Binding::default(),
            put: 0,
            got: 0,
            store_lock: None,
        }
    }

    fn claim(&mut self, hub: &Bound<'_, Hub>) -> PyResult<()> {
        self.binding.claim(hub, self.tasks, self.flavour.name())?;
        self.tasks += 1;
        Ok(())
    }

    /// A waiting operation has ended. Drop the result when nothing is borrowed.
    #[must_use]
    fn unclaim(&mut self) -> Option<Py<Hub>> {
        self.tasks = self.tasks.saturating_sub(1);
        self.binding.release(self.tasks)
    }
}

impl Queue {
    fn new(py: Python<'_>, flavour: Flavour) -> Self {
        Self(GilCell::new(State::new(py, flavour)))
    }

    /// What it is made of, for as long as no Python code runs.
    #[inline]
    fn state<'a>(slf: &'a Bound<'_, Self>) -> GilRef<'a, State> {
        slf.get().0.borrow(slf.py())
    }

    fn flavour(slf: &Bound<'_, Self>) -> Flavour {
        Self::state(slf).flavour
    }

    fn init(slf: &Bound<'_, Self>, maxsize: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let flavour = Queue::flavour(slf);
        let mut fresh = State::new(py, flavour);
        if let Some(maxsize) = &maxsize {
            fresh.machine = Machine::new(read_maxsize(maxsize, flavour)?);
            fresh.maxsize = maxsize.clone().unbind();
        }
        let own = has_own_store(slf, flavour)?;
        if own {
            fresh.store = Store::Own;
        }
        if own || flavour == Flavour::Priority {
            fresh.store_lock = Some(py.import("threading")?.getattr("RLock")?.call0()?.unbind());
        }
        let given = fresh.maxsize.clone_ref(py);
        let old = std::mem::replace(&mut *Self::state(slf), fresh);
        drop(old);
        if own {
            slf.call_method1(intern!(py, "_init"), (given,))?;
        }
        Ok(())
    }

    // --- put ---------------------------------------------------------------------------------------------------------

    /// Puts an item if that needs no waiting; takes it out of `item` then.
    #[inline]
    fn put_now(slf: &Bound<'_, Self>, item: &mut Option<Py<PyAny>>, origin: Origin) -> PyResult<Newcomer<()>> {
        let mut queue = Queue::state(slf);
        match queue.machine.try_put() {
            Ok(slot) => {
                Self::store_item(slf, queue, slot, item, origin)?;
                Ok(Newcomer::Done(()))
            }
            Err(denied) => Self::denied(slf.py(), queue, denied),
        }
    }

    /// Why a newcomer gets nothing now: it has to wait, or there is nothing to wait for.
    #[cold]
    fn denied<T>(py: Python<'_>, queue: GilRef<'_, State>, denied: Denied) -> PyResult<Newcomer<T>> {
        match denied {
            Denied::NotNow => Ok(Newcomer::HasToWait),
            Denied::ShutDown => {
                let name = queue.flavour.name();
                drop(queue);
                Err(shut_down(py, name))
            }
        }
    }

    /// The second half of a put.
    #[inline]
    fn store_item(
        slf: &Bound<'_, Self>,
        mut queue: GilRef<'_, State>,
        slot: Slot,
        item: &mut Option<Py<PyAny>>,
        origin: Origin,
    ) -> PyResult<()> {
        let py = slf.py();
        let Some(item) = item.take() else {
            let wakes = queue.machine.put_failed(slot);
            drop(queue);
            wake(py, wakes, origin)?;
            return Err(PyRuntimeError::new_err("the item was put already"));
        };
        let this = &mut *queue;
        let slow = match &mut this.store {
            Store::Deque(items) => {
                items.push_back(item);
                None
            }
            Store::Stack(items) => {
                items.push(item);
                None
            }
            Store::Heap(items) => Some((Slow::Heap(items.clone_ref(py)), item)),
            Store::Own => Some((Slow::Own, item)),
        };
        match slow {
            None => {
                this.put += 1;
                let wakes = this.machine.put_done(slot);
                drop(queue);
                wake(py, wakes, origin)
            }
            Some((slow, item)) => {
                drop(queue);
                Self::store_slowly(slf, slow, slot, item, origin)
            }
        }
    }

    #[cold]
    fn store_slowly(slf: &Bound<'_, Self>, slow: Slow, slot: Slot, item: Py<PyAny>, origin: Origin) -> PyResult<()> {
        let py = slf.py();
        let mut held = None;
        let stored = with_store(slf, || {
            let stored = match &slow {
                Slow::Heap(items) => heap::push(items.bind(py), item.into_bound(py)),
                Slow::Own => slf.call_method1(intern!(py, "_put"), (item,)).map(drop),
            };
            held = slow.count(slf);
            stored
        });
        let wakes = {
            let mut queue = Queue::state(slf);
            queue.put += u64::from(stored.is_ok());
            let machine = &mut queue.machine;
            match (held, stored.is_ok()) {
                (Some(held), done) => machine.put_counted(slot, done, held),
                (None, true) => machine.put_done(slot),
                (None, false) => machine.put_failed(slot),
            }
        };
        stored.and(wake(py, wakes, origin))
    }

    // --- get ---------------------------------------------------------------------------------------------------------

    /// Takes an item if that needs no waiting.
    #[inline]
    fn get_now(slf: &Bound<'_, Self>, origin: Origin) -> PyResult<Newcomer<Py<PyAny>>> {
        let mut queue = Queue::state(slf);
        match queue.machine.try_get() {
            Ok(claim) => Self::take_item(slf, queue, claim, origin).map(Newcomer::Done),
            Err(denied) => Self::denied(slf.py(), queue, denied),
        }
    }

    /// The second half of a get.
    #[inline]
    fn take_item(
        slf: &Bound<'_, Self>,
        mut queue: GilRef<'_, State>,
        claim: Claim,
        origin: Origin,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = &mut *queue;
        let item = match &mut this.store {
            Store::Deque(items) => Ok(items.pop_front()),
            Store::Stack(items) => Ok(items.pop()),
            Store::Heap(items) => Err(Slow::Heap(items.clone_ref(py))),
            Store::Own => Err(Slow::Own),
        };
        match item {
            Ok(Some(item)) => {
                this.got += 1;
                let wakes = this.machine.get_done(claim);
                drop(queue);
                wake(py, wakes, origin)?;
                Ok(item)
            }
            Ok(None) => {
                let wakes = this.machine.get_counted(claim, 0);
                drop(queue);
                wake(py, wakes, origin)?;
                Err(PyRuntimeError::new_err("the queue holds less than it counted"))
            }
            Err(slow) => {
                drop(queue);
                Self::take_slowly(slf, slow, claim, origin)
            }
        }
    }

    #[cold]
    fn take_slowly(slf: &Bound<'_, Self>, slow: Slow, claim: Claim, origin: Origin) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let mut held = None;
        let item = with_store(slf, || {
            let item = match &slow {
                Slow::Heap(items) => heap::pop(items.bind(py)),
                Slow::Own => slf.call_method0(intern!(py, "_get")),
            };
            held = slow.count(slf);
            item
        });
        let wakes = {
            let mut queue = Queue::state(slf);
            queue.got += u64::from(item.is_ok());
            let machine = &mut queue.machine;
            match (held, item.is_ok()) {
                (Some(held), _) => machine.get_counted(claim, held),
                (None, true) => machine.get_done(claim),
                (None, false) => machine.get_failed(claim),
            }
        };
        let woken = wake(py, wakes, origin);
        let item = item?;
        woken.map(|()| item.unbind())
    }

    // --- lines -------------------------------------------------------------------------------------------------------

    /// Blocks this thread in a line until it is woken; None when the time is up first.
    fn block<T>(slf: &Bound<'_, Self>, timeout: Option<Duration>, line: &Line<T>) -> PyResult<Option<Turn<T>>> {
        let py = slf.py();
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut thread = Arc::new(ThreadWaker::default());
        let ticket = (line.wait)(&mut Queue::state(slf).machine, Waker::Thread(thread.clone()));
        loop {
            let left = deadline.map_or(SIGNAL_CHECK, |deadline| deadline.saturating_duration_since(Instant::now()));
            let woken = py.detach(|| thread.wait(left.min(SIGNAL_CHECK)));
            let turn = (line.resume)(&mut Queue::state(slf).machine, ticket);
            if !matches!(turn, Turn::NotYet) {
                return Ok(Some(turn));
            }
            if woken {
                // For an item that a subclass's store turned out not to hold: back to the front of the line.
                thread = Arc::new(ThreadWaker::default());
                let again = Queue::state(slf).machine.get_again(ticket, Waker::Thread(thread.clone()));
                again.map_or(Ok(()), |wakes| wake(py, wakes, Origin::Thread))?;
            }
            let interrupted = py.check_signals();
            if interrupted.is_err() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let wakes = (line.leave)(&mut Queue::state(slf).machine, ticket);
                wake(py, wakes, Origin::Thread)?;
                return interrupted.map(|()| None);
            }
        }
    }
}

/// One of the machine's lines.
struct Line<T> {
    wait: fn(&mut Machine<Waker>, Waker) -> Ticket,
    resume: fn(&mut Machine<Waker>, Ticket) -> Turn<T>,
    leave: fn(&mut Machine<Waker>, Ticket) -> Wakes<Waker>,
}

const PUTTERS: Line<Slot> = Line { wait: Machine::wait_put, resume: Machine::resume_put, leave: Machine::leave_put };
const GETTERS: Line<Claim> = Line { wait: Machine::wait_get, resume: Machine::resume_get, leave: Machine::leave_get };

/// Runs a store operation that may run Python while no other thread does.
fn with_store<T>(slf: &Bound<'_, Queue>, operation: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    let py = slf.py();
    let lock = Queue::state(slf).store_lock.as_ref().map(|lock| lock.clone_ref(py));
    let Some(lock) = lock else { return operation() };
    lock.call_method0(py, intern!(py, "acquire"))?;
    let outcome = operation();
    lock.call_method0(py, intern!(py, "release"))?;
    outcome
}

/// How often a blocked thread looks for signals (Ctrl-C).
const SIGNAL_CHECK: Duration = Duration::from_millis(50);

#[inline]
fn wake(py: Python<'_>, wakes: Wakes<Waker>, origin: Origin) -> PyResult<()> {
    if wakes.is_empty() { Ok(()) } else { op::wake(py, wakes, origin) }
}

#[cold]
fn shut_down(py: Python<'_>, name: &str) -> PyErr {
    aio::loopwright_error(py, "QueueShutDown", format!("{name} was shut down"))
}

#[cold]
fn asyncio_error(py: Python<'_>, name: &'static str) -> PyErr {
    static EMPTY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static FULL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let cell = if name == "QueueEmpty" { &EMPTY } else { &FULL };
    match cell.import(py, "asyncio", name) {
        Ok(kind) => PyErr::from_type(kind.clone(), ()),
        Err(error) => error,
    }
}

/// asyncio takes anything that compares with an int, fractions included: 1.5 is full at 2.
fn read_maxsize(given: &Bound<'_, PyAny>, flavour: Flavour) -> PyResult<Option<usize>> {
    let class = flavour.name();
    if given.is_instance_of::<PyFloat>() {
        let size: f64 = given.extract()?;
        if size.is_nan() {
            return Err(PyValueError::new_err(format!("{class}(maxsize=nan): pass a number of items, 0 for no limit")));
        }
        // Beyond usize: no limit either.
        return Ok((size > 0.0 && size.ceil() < usize::MAX as f64).then_some(size.ceil() as usize));
    }
    let is_number = given.is_instance_of::<PyInt>() || given.hasattr(intern!(given.py(), "__index__"))?;
    if !is_number || given.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err(format!(
            "{class}(maxsize=...) must be a number of items, got {}: pass an int, 0 for no limit",
            given.repr()?
        )));
    }
    Ok(if given.le(0)? { None } else { given.extract::<usize>().ok() })
}

fn read_timeout(given: Option<&Bound<'_, PyAny>>, what: &str) -> PyResult<Option<Duration>> {
    let Some(given) = given else { return Ok(None) };
    if given.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err(format!("{what}(timeout=...) must be seconds, got {}", given.repr()?)));
    }
    let seconds: f64 = given.extract().map_err(|_| {
        PyTypeError::new_err(format!(
            "{what}(timeout=...) must be seconds as a number, got {given:?}: None waits for ever"
        ))
    })?;
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!(
            "{what}(timeout={seconds}) must be 0 or more seconds: 0 does not wait, None waits for ever"
        )));
    }
    Ok(Duration::try_from_secs_f64(seconds).ok()) // beyond what a Duration holds is for ever
}

/// Whether a subclass overrides how items are stored.
fn has_own_store(slf: &Bound<'_, Queue>, flavour: Flavour) -> PyResult<bool> {
    let py = slf.py();
    let (class, base) = (slf.get_type(), flavour.class(py));
    if class.is(&base) {
        return Ok(false);
    }
    for name in [intern!(py, "_init"), intern!(py, "_put"), intern!(py, "_get")] {
        if !class.getattr(name)?.is(&base.getattr(name)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `self._queue`, which the base's `_init` makes for subclasses that override only some of the three.
fn own_items<'py>(slf: &Bound<'py, Queue>) -> PyResult<Bound<'py, PyAny>> {
    slf.as_any().getattr(intern!(slf.py(), "_queue"))
}

fn refuse_loop_thread(py: Python<'_>, what: &str, instead: &str) -> PyResult<()> {
    match aio::running_loop(py) {
        Err(_) => Ok(()),
        Ok(_) => Err(PyRuntimeError::new_err(format!(
            "{what} would block the event loop that runs in this thread: use {instead} here"
        ))),
    }
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (*args, **_kwargs), text_signature = "(maxsize=0)")]
    fn py_new(args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self::new(args.py(), Flavour::Fifo)
    }

    #[pyo3(signature = (maxsize = None))]
    fn __init__(slf: &Bound<'_, Self>, maxsize: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        Self::init(slf, maxsize)
    }

    /// ``Queue[int]``, for annotations.
    #[classmethod]
    fn __class_getitem__<'py>(class: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        static ALIAS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        ALIAS.import(class.py(), "types", "GenericAlias")?.call1((class, item))
    }

    /// The most items the queue holds, as given; 0 or less: no limit.
    #[getter]
    fn maxsize(slf: &Bound<'_, Self>) -> Py<PyAny> {
        Self::state(slf).maxsize.clone_ref(slf.py())
    }

    /// Items in the queue, and places reserved for putters that were woken: what counts against ``maxsize``.
    fn qsize(slf: &Bound<'_, Self>) -> usize {
        Self::state(slf).machine.size()
    }

    /// Whether :meth:`get_nowait` would raise: items reserved for getters that were woken are spoken for.
    fn empty(slf: &Bound<'_, Self>) -> bool {
        Self::state(slf).machine.available() == 0
    }

    /// Whether ``maxsize`` is reached: :meth:`put_nowait` would raise.
    fn full(slf: &Bound<'_, Self>) -> bool {
        Self::state(slf).machine.is_full()
    }

    /// Puts an item, waiting in line for a free place.
    ///
    /// Returns:
    ///     An operation to await; it answers None. Nothing happens before it is awaited.
    ///
    /// Raises:
    ///     QueueShutDown: the queue was shut down, before or while it waited; the item was not put.
    ///     CancelledError: the wait was cancelled; the item was not put.
    ///     LoopMismatch: tasks of another event loop wait at this queue.
    #[pyo3(name = "put")]
    #[inline]
    fn py_put(slf: &Bound<'_, Self>, item: Py<PyAny>) -> PyResult<Py<Op>> {
        Op::new(
            slf.py(),
            Kind::Put(Put { queue: slf.clone().unbind(), flavour: Queue::flavour(slf), item: Some(item) }),
        )
    }

    /// Puts an item without waiting.
    ///
    /// Raises:
    ///     asyncio.QueueFull: there is no free place, or putters stand in line for it.
    ///     QueueShutDown: the queue was shut down.
    #[inline]
    fn put_nowait(slf: &Bound<'_, Self>, item: Py<PyAny>) -> PyResult<()> {
        match Self::put_now(slf, &mut Some(item), Origin::Loop)? {
            Newcomer::Done(()) => Ok(()),
            Newcomer::HasToWait => Err(asyncio_error(slf.py(), "QueueFull")),
        }
    }

    /// Removes and returns an item, waiting in line for one.
    ///
    /// Returns:
    ///     An operation to await; it answers the item. Nothing happens before it is awaited.
    ///
    /// Raises:
    ///     QueueShutDown: the queue was shut down and has no item left.
    ///     CancelledError: the wait was cancelled; no item was removed.
    ///     LoopMismatch: tasks of another event loop wait at this queue.
    #[pyo3(name = "get")]
    #[inline]
    fn py_get(slf: &Bound<'_, Self>) -> PyResult<Py<Op>> {
        Op::new(slf.py(), Kind::Get(Get { queue: slf.clone().unbind(), flavour: Queue::flavour(slf), iterates: false }))
    }

    /// Removes and returns an item without waiting.
    ///
    /// Raises:
    ///     asyncio.QueueEmpty: there is no item, or those there are are reserved for getters that were woken.
    ///     QueueShutDown: the queue was shut down and has no item left.
    #[inline]
    fn get_nowait(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        match Self::get_now(slf, Origin::Loop)? {
            Newcomer::Done(item) => Ok(item),
            Newcomer::HasToWait => Err(asyncio_error(slf.py(), "QueueEmpty")),
        }
    }

    fn __aiter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __anext__(slf: &Bound<'_, Self>) -> PyResult<Py<Op>> {
        Op::new(slf.py(), Kind::Get(Get { queue: slf.clone().unbind(), flavour: Queue::flavour(slf), iterates: true }))
    }

    /// Reports the work on one item as done: once for each item that was got, for :meth:`join`.
    ///
    /// Raises:
    ///     ValueError: called more often than items were put.
    fn task_done(slf: &Bound<'_, Self>) -> PyResult<()> {
        let done = Queue::state(slf).machine.task_done();
        match done {
            Ok(wakes) => wake(slf.py(), wakes, Origin::Loop),
            Err(DoneTooOften) => {
                Err(PyValueError::new_err("task_done() called too many times: call it once for each item that was got"))
            }
        }
    }

    /// Waits until the work on every item is done: put, got, and reported with :meth:`task_done`.
    ///
    /// It ends at the very moment at which nothing is unfinished, whatever is put afterwards.
    ///
    /// Returns:
    ///     An operation to await; it answers None.
    #[pyo3(name = "join")]
    fn py_join(slf: &Bound<'_, Self>) -> PyResult<Py<Op>> {
        Op::new(slf.py(), Kind::Join(Join { queue: slf.clone().unbind(), flavour: Queue::flavour(slf) }))
    }

    /// Closes the queue: puts raise :class:`QueueShutDown` from now on, those that wait included, and gets do once the
    /// items that are left have been got. Wakes everybody for whom nothing can come any more.
    ///
    /// Args:
    ///     immediate: drop the items that are left, each counting as done.
    #[pyo3(signature = (immediate = false))]
    fn shutdown(slf: &Bound<'_, Self>, immediate: bool) -> PyResult<()> {
        let py = slf.py();
        let mut dropped: Vec<Py<PyAny>> = Vec::new();
        let (Shutdown { drain, wakes }, slow) = {
            let mut queue = Queue::state(slf);
            let shutdown = queue.machine.shutdown(immediate);
            let slow = match &mut queue.store {
                Store::Deque(items) => {
                    dropped.extend(items.drain(..shutdown.drain));
                    None
                }
                Store::Stack(items) => {
                    let kept = items.len() - shutdown.drain;
                    dropped.extend(items.drain(kept..));
                    None
                }
                Store::Heap(items) => Some(Slow::Heap(items.clone_ref(py))),
                Store::Own => Some(Slow::Own),
            };
            (shutdown, slow)
        };
        let mut outcome = wake(py, wakes, Origin::Loop);
        if let Some(slow) = slow.filter(|_| drain > 0) {
            outcome = outcome.and(with_store(slf, || match &slow {
                Slow::Heap(items) => {
                    let items = items.bind(py);
                    items.set_slice(0, items.len(), PyList::empty(py).as_any())
                }
                Slow::Own => (0..drain).try_for_each(|_| slf.call_method0(intern!(py, "_get")).map(drop)),
            }));
        }
        drop(dropped);
        outcome
    }

    /// Puts an item from a thread that runs no event loop, blocking it while the queue is full. Stands in the same line
    /// as the tasks that wait in :meth:`put`.
    ///
    /// Args:
    ///     item: the item.
    ///     timeout: seconds to wait for a place; None waits for ever, 0 does not wait.
    ///
    /// Raises:
    ///     TimeoutError: there was no place in time; the item was not put.
    ///     QueueShutDown: the queue was shut down; the item was not put.
    ///     RuntimeError: an event loop runs in this thread, which this call would block.
    #[pyo3(signature = (item, timeout = None))]
    fn put_threadsafe(slf: &Bound<'_, Self>, item: Py<PyAny>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let flavour = Queue::flavour(slf);
        let name = flavour.named(["Queue.put_threadsafe", "PriorityQueue.put_threadsafe", "LifoQueue.put_threadsafe"]);
        refuse_loop_thread(py, name, "`await queue.put(item)` or `queue.put_nowait(item)`")?;
        let timeout = read_timeout(timeout, name)?;
        let mut item = Some(item);
        if matches!(Self::put_now(slf, &mut item, Origin::Thread)?, Newcomer::Done(())) {
            return Ok(());
        }
        let turn = match timeout {
            Some(Duration::ZERO) => None,
            _ => Self::block(slf, timeout, &PUTTERS)?,
        };
        let queue = Queue::state(slf);
        match turn {
            Some(Turn::Yours(slot)) => Self::store_item(slf, queue, slot, &mut item, Origin::Thread),
            Some(Turn::ShutDown | Turn::NotYet) => {
                drop(queue);
                Err(shut_down(py, flavour.name()))
            }
            None => Err(PyTimeoutError::new_err(format!(
                "{name}: no free place within {} s: {} of {} taken, {} putter(s) wait; get items faster, raise maxsize \
                 or the timeout",
                timeout.unwrap_or_default().as_secs_f64(),
                queue.machine.size(),
                queue.machine.maxsize().unwrap_or_default(),
                queue.machine.putters(),
            ))),
        }
    }

    /// Removes and returns an item in a thread that runs no event loop, blocking it while there is none. Stands in the
    /// same line as the tasks that wait in :meth:`get`.
    ///
    /// Args:
    ///     timeout: seconds to wait for an item; None waits for ever, 0 does not wait.
    ///
    /// Raises:
    ///     TimeoutError: there was no item in time.
    ///     QueueShutDown: the queue was shut down and has no item left.
    ///     RuntimeError: an event loop runs in this thread, which this call would block.
    #[pyo3(signature = (timeout = None))]
    fn get_blocking(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let flavour = Queue::flavour(slf);
        let name = flavour.named(["Queue.get_blocking", "PriorityQueue.get_blocking", "LifoQueue.get_blocking"]);
        refuse_loop_thread(py, name, "`await queue.get()` or `queue.get_nowait()`")?;
        let timeout = read_timeout(timeout, name)?;
        if let Newcomer::Done(item) = Self::get_now(slf, Origin::Thread)? {
            return Ok(item);
        }
        let turn = match timeout {
            Some(Duration::ZERO) => None,
            _ => Self::block(slf, timeout, &GETTERS)?,
        };
        let queue = Queue::state(slf);
        match turn {
            Some(Turn::Yours(claim)) => Self::take_item(slf, queue, claim, Origin::Thread),
            Some(Turn::ShutDown | Turn::NotYet) => {
                drop(queue);
                Err(shut_down(py, flavour.name()))
            }
            None => Err(PyTimeoutError::new_err(format!(
                "{name}: no item within {} s, {} getter(s) wait; put items faster or raise the timeout",
                timeout.unwrap_or_default().as_secs_f64(),
                queue.machine.getters(),
            ))),
        }
    }

    // --- for subclasses ----------------------------------------------------------------------------------------------

    /// Prepares the store of a subclass that overrides how items are kept.
    fn _init(slf: &Bound<'_, Self>, _maxsize: &Bound<'_, PyAny>) -> PyResult<()> {
        let deque = slf.py().import("collections")?.getattr("deque")?.call0()?;
        slf.as_any().setattr(intern!(slf.py(), "_queue"), deque)
    }

    /// Stores an item.
    fn _put(slf: &Bound<'_, Self>, item: Py<PyAny>) -> PyResult<()> {
        own_items(slf)?.call_method1(intern!(slf.py(), "append"), (item,)).map(drop)
    }

    /// Takes an item out of the store.
    fn _get<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        own_items(slf)?.call_method0(intern!(slf.py(), "popleft"))
    }

    // --- what it tells -----------------------------------------------------------------------------------------------

    /// Whether it is as good as new: empty, nothing unfinished, nobody waits, not shut down. :class:`Keyed` gives up no
    /// other.
    fn is_quiescent(slf: &Bound<'_, Self>) -> bool {
        let queue = Queue::state(slf);
        let machine = &queue.machine;
        !machine.is_shut_down() && machine.size() == 0 && machine.unfinished() == 0 && !machine.is_awaited()
    }

    /// Returns:
    ///     A frozen :class:`QueueStats` of this moment.
    fn stats<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (counts, lines, total, shut_down) = {
            let queue = Queue::state(slf);
            let machine = &queue.machine;
            (
                (machine.maxsize(), machine.size(), machine.available(), machine.unfinished()),
                (machine.getters(), machine.putters(), machine.joiners()),
                (queue.put, queue.got),
                machine.is_shut_down(),
            )
        };
        let (maxsize, size, available, unfinished) = counts;
        let (getters, putters, joiners) = lines;
        let class = slf.py().import("loopwright.queues")?.getattr("QueueStats")?;
        class.call1((maxsize, size, available, unfinished, getters, putters, joiners, total.0, total.1, shut_down))
    }

    /// The extras of asyncio's repr: `maxsize=2 _queue=[1, 2] _getters[1] tasks=3 shutdown`.
    fn _format(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let (mut text, items, own) = {
            let queue = Queue::state(slf);
            let machine = &queue.machine;
            let mut extras = String::new();
            for (name, waiting) in
                [("_getters", machine.getters()), ("_putters", machine.putters()), ("_joiners", machine.joiners())]
            {
                if waiting > 0 {
                    extras += &format!(" {name}[{waiting}]");
                }
            }
            if machine.unfinished() > 0 {
                extras += &format!(" tasks={}", machine.unfinished());
            }
            if machine.is_shut_down() {
                extras += " shutdown";
            }
            let shown = |items: &mut dyn Iterator<Item = &Py<PyAny>>| -> Vec<Py<PyAny>> {
                items.take(ITEMS_SHOWN).map(|item| item.clone_ref(py)).collect()
            };
            let items = match &queue.store {
                Store::Deque(items) => Some((shown(&mut items.iter()), items.len())),
                Store::Stack(items) => Some((shown(&mut items.iter()), items.len())),
                Store::Heap(items) => {
                    let items = items.bind(py);
                    Some((items.iter().take(ITEMS_SHOWN).map(Bound::unbind).collect(), items.len()))
                }
                Store::Own => None,
            };
            (extras, items, matches!(queue.store, Store::Own))
        };
        let mut start = format!("maxsize={}", Queue::state(slf).maxsize.clone_ref(py).bind(py).repr()?);
        if own {
            if let Some(items) = slf.as_any().getattr_opt(intern!(py, "_queue"))?.filter(|items| items.len().is_ok()) {
                start += &format!(" _queue={}", items.repr()?);
            }
        } else if let Some((items, size)) = items.filter(|(items, _)| !items.is_empty()) {
            let reprs = items.iter().map(|item| Ok(item.bind(py).repr()?.to_string()));
            let mut list = reprs.collect::<PyResult<Vec<_>>>()?.join(", ");
            if size > ITEMS_SHOWN {
                list += &format!(", ... {} more", size - ITEMS_SHOWN);
            }
            start += &format!(" _queue=[{list}]");
        }
        start.push_str(&std::mem::take(&mut text));
        Ok(start)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let name = slf.get_type().name()?;
        Ok(format!("<{name} at {:#x} {}>", slf.as_ptr() as usize, Self::_format(slf)?))
    }

    fn __str__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Ok(format!("<{} {}>", slf.get_type().name()?, Self::_format(slf)?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |queue| {
            for waker in queue.machine.wakers() {
                waker.traverse(&visit)?;
            }
            match &queue.store {
                Store::Deque(items) => items.iter().try_for_each(|item| visit.call(item))?,
                Store::Stack(items) => items.iter().try_for_each(|item| visit.call(item))?,
                Store::Heap(items) => visit.call(items)?,
                Store::Own => {}
            }
            visit.call(&queue.maxsize)?;
            visit.call(&queue.store_lock)?;
            queue.binding.traverse(&visit)
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let empty = State::new(py, Flavour::Fifo);
        let cleared = std::mem::replace(&mut *self.0.borrow(py), empty);
        drop(cleared);
    }
}

/// How many items a repr shows.
const ITEMS_SHOWN: usize = 10;

/// Items come out in order of priority, the smallest first: usually tuples ``(priority, item)``. Otherwise a
/// :class:`Queue`.
///
/// An item that cannot be compared raises what the comparison raises, and is not put; the queue stays as it was. In
/// asyncio such an item stays inside, and a comparison that raises in ``get`` loses another.
///
/// Args:
///     maxsize: the most items it holds; 0 or less: no limit.
#[pyclass(module = "loopwright", name = "PriorityQueue", extends = Queue, subclass)]
pub struct PriorityQueue;

#[pymethods]
impl PriorityQueue {
    #[new]
    #[pyo3(signature = (*args, **_kwargs), text_signature = "(maxsize=0)")]
    fn py_new(args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Queue::new(args.py(), Flavour::Priority)).add_subclass(Self)
    }

    fn _init(slf: &Bound<'_, Self>, _maxsize: &Bound<'_, PyAny>) -> PyResult<()> {
        slf.as_any().setattr(intern!(slf.py(), "_queue"), PyList::empty(slf.py()))
    }

    fn _put<'py>(slf: &Bound<'py, Self>, item: Bound<'py, PyAny>) -> PyResult<()> {
        heap::push(own_items(slf.as_super())?.cast::<PyList>()?, item)
    }

    fn _get<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        heap::pop(own_items(slf.as_super())?.cast::<PyList>()?)
    }
}

/// The item put last comes out first. Otherwise a :class:`Queue`.
///
/// Args:
///     maxsize: the most items it holds; 0 or less: no limit.
#[pyclass(module = "loopwright", name = "LifoQueue", extends = Queue, subclass)]
pub struct LifoQueue;

#[pymethods]
impl LifoQueue {
    #[new]
    #[pyo3(signature = (*args, **_kwargs), text_signature = "(maxsize=0)")]
    fn py_new(args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Queue::new(args.py(), Flavour::Lifo)).add_subclass(Self)
    }

    fn _init(slf: &Bound<'_, Self>, _maxsize: &Bound<'_, PyAny>) -> PyResult<()> {
        slf.as_any().setattr(intern!(slf.py(), "_queue"), PyList::empty(slf.py()))
    }

    fn _get<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        own_items(slf.as_super())?.call_method0(intern!(slf.py(), "pop"))
    }
}

// --- operations ------------------------------------------------------------------------------------------------------

/// What an ended wait leaves to drop once nothing is borrowed.
fn end_wait(queue: &Bound<'_, Queue>) {
    let unbound = Queue::state(queue).unclaim();
    drop(unbound);
}

/// `put(item)`.
pub struct Put {
    queue: Py<Queue>,
    flavour: Flavour,
    item: Option<Py<PyAny>>,
}

impl Put {
    /// Drops its references, see [`awaitable::give_up`].
    pub fn give_up(self, py: Python<'_>) {
        awaitable::give_up(py, self.queue);
        if let Some(item) = self.item {
            awaitable::give_up(py, item);
        }
    }
}

impl Shortcut for Put {
    type Owner = Queue;

    #[inline]
    fn call(queue: &Bound<'_, Queue>, argument: Option<&Bound<'_, PyAny>>) -> Option<Py<PyAny>> {
        let item = argument?;
        let flavour = Queue::flavour(queue);
        Op::reused(queue.py(), || {
            Kind::Put(Self { queue: queue.clone().unbind(), flavour, item: Some(item.clone().unbind()) })
        })
    }
}

impl Operation for Put {
    #[inline]
    fn at_once(&mut self, py: Python<'_>) -> Option<Value> {
        let mut queue = self.queue.get().0.borrow(py);
        let queue = &mut *queue;
        if queue.machine.is_contended() || self.item.is_none() || matches!(queue.store, Store::Heap(_) | Store::Own) {
            return None;
        }
        let slot = queue.machine.try_put().ok()?;
        match &mut queue.store {
            Store::Deque(items) => items.extend(self.item.take()),
            Store::Stack(items) => items.extend(self.item.take()),
            Store::Heap(_) | Store::Own => {}
        }
        queue.put += 1;
        let wakes = queue.machine.put_done(slot);
        debug_assert!(wakes.is_empty(), "nobody stands in line");
        Some(None)
    }

    fn object(&self) -> Option<&Py<PyAny>> {
        Some(self.queue.as_any())
    }

    fn name(&self) -> &'static str {
        self.flavour.named(["Queue.put", "PriorityQueue.put", "LifoQueue.put"])
    }

    #[inline]
    fn attempt(&mut self, py: Python<'_>) -> PyResult<Option<Value>> {
        match Queue::put_now(self.queue.bind(py), &mut self.item, Origin::Loop)? {
            Newcomer::Done(()) => Ok(Some(None)),
            Newcomer::HasToWait => Ok(None),
        }
    }

    fn enlist(&mut self, hub: &Bound<'_, Hub>, waker: Waker) -> PyResult<Enlisted> {
        let slf = self.queue.bind(hub.py());
        if let Newcomer::Done(()) = Queue::put_now(slf, &mut self.item, Origin::Loop)? {
            return Ok(Enlisted::Done(None));
        }
        let mut queue = Queue::state(slf);
        queue.claim(hub)?;
        Ok(Enlisted::Waits(queue.machine.wait_put(waker)))
    }

    fn resume(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<Resumed> {
        let slf = self.queue.bind(py);
        let mut queue = Queue::state(slf);
        let turn = queue.machine.resume_put(ticket);
        if turn == Turn::NotYet {
            return Ok(Resumed::Again);
        }
        let unbound = queue.unclaim();
        match turn {
            Turn::Yours(slot) => Queue::store_item(slf, queue, slot, &mut self.item, Origin::Loop)?,
            _ => {
                drop(queue);
                return Err(shut_down(py, self.flavour.name()));
            }
        }
        drop(unbound);
        Ok(Resumed::Done(None))
    }

    fn leave(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<()> {
        let slf = self.queue.bind(py);
        let wakes = Queue::state(slf).machine.leave_put(ticket);
        end_wait(slf);
        wake(py, wakes, Origin::Loop)
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(item) = &self.item {
            visit.call(item)?;
        }
        visit.call(&self.queue)
    }
}

/// `get()` and `async for`.
pub struct Get {
    queue: Py<Queue>,
    flavour: Flavour,
    /// The end of the queue is the end of an iteration.
    iterates: bool,
}

impl Get {
    fn ended(&self, py: Python<'_>, error: PyErr) -> PyErr {
        let is_end = self.iterates && Queue::state(self.queue.bind(py)).machine.is_shut_down() && {
            let class = aio::loopwright_error_type(py, "QueueShutDown");
            class.is_ok_and(|class| error.is_instance(py, &class))
        };
        if is_end { PyStopAsyncIteration::new_err(()) } else { error }
    }
}

impl Get {
    /// Drops its references, see [`awaitable::give_up`].
    pub fn give_up(self, py: Python<'_>) {
        awaitable::give_up(py, self.queue);
    }
}

impl Shortcut for Get {
    type Owner = Queue;

    #[inline]
    fn call(queue: &Bound<'_, Queue>, _argument: Option<&Bound<'_, PyAny>>) -> Option<Py<PyAny>> {
        let flavour = Queue::flavour(queue);
        Op::reused(queue.py(), || Kind::Get(Self { queue: queue.clone().unbind(), flavour, iterates: false }))
    }
}

impl Operation for Get {
    #[inline]
    fn at_once(&mut self, py: Python<'_>) -> Option<Value> {
        let mut queue = self.queue.get().0.borrow(py);
        let queue = &mut *queue;
        if queue.machine.is_contended() || matches!(queue.store, Store::Heap(_) | Store::Own) {
            return None;
        }
        let claim = queue.machine.try_get().ok()?;
        let item = match &mut queue.store {
            Store::Deque(items) => items.pop_front(),
            Store::Stack(items) => items.pop(),
            Store::Heap(_) | Store::Own => None,
        };
        queue.got += 1;
        let wakes = queue.machine.get_done(claim);
        debug_assert!(wakes.is_empty(), "nobody stands in line");
        item.map(Some)
    }

    fn object(&self) -> Option<&Py<PyAny>> {
        Some(self.queue.as_any())
    }

    fn name(&self) -> &'static str {
        let names = if self.iterates {
            ["Queue.__anext__", "PriorityQueue.__anext__", "LifoQueue.__anext__"]
        } else {
            ["Queue.get", "PriorityQueue.get", "LifoQueue.get"]
        };
        self.flavour.named(names)
    }

    #[inline]
    fn attempt(&mut self, py: Python<'_>) -> PyResult<Option<Value>> {
        match Queue::get_now(self.queue.bind(py), Origin::Loop) {
            Ok(Newcomer::Done(item)) => Ok(Some(Some(item))),
            Ok(Newcomer::HasToWait) => Ok(None),
            Err(error) => Err(self.ended(py, error)),
        }
    }

    fn enlist(&mut self, hub: &Bound<'_, Hub>, waker: Waker) -> PyResult<Enlisted> {
        let py = hub.py();
        let slf = self.queue.bind(py);
        match Queue::get_now(slf, Origin::Loop) {
            Ok(Newcomer::Done(item)) => return Ok(Enlisted::Done(Some(item))),
            Ok(Newcomer::HasToWait) => {}
            Err(error) => return Err(self.ended(py, error)),
        }
        let mut queue = Queue::state(slf);
        queue.claim(hub)?;
        Ok(Enlisted::Waits(queue.machine.wait_get(waker)))
    }

    fn resume(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<Resumed> {
        let slf = self.queue.bind(py);
        let mut queue = Queue::state(slf);
        let turn = queue.machine.resume_get(ticket);
        if turn == Turn::NotYet {
            return Ok(Resumed::Again);
        }
        let unbound = queue.unclaim();
        let item = match turn {
            Turn::Yours(claim) => Queue::take_item(slf, queue, claim, Origin::Loop)?,
            _ => {
                drop(queue);
                return Err(self.ended(py, shut_down(py, self.flavour.name())));
            }
        };
        drop(unbound);
        Ok(Resumed::Done(Some(item)))
    }

    fn enlist_again(&mut self, hub: &Bound<'_, Hub>, ticket: Ticket, waker: Waker) -> PyResult<()> {
        let again = Queue::state(self.queue.bind(hub.py())).machine.get_again(ticket, waker);
        match again {
            Ok(wakes) => wake(hub.py(), wakes, Origin::Loop),
            Err(_) => Err(PyRuntimeError::new_err("the getter was not woken")),
        }
    }

    fn leave(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<()> {
        let slf = self.queue.bind(py);
        let wakes = Queue::state(slf).machine.leave_get(ticket);
        end_wait(slf);
        wake(py, wakes, Origin::Loop)
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.queue)
    }
}

/// `join()`.
pub struct Join {
    queue: Py<Queue>,
    flavour: Flavour,
}

impl Operation for Join {
    fn object(&self) -> Option<&Py<PyAny>> {
        Some(self.queue.as_any())
    }

    fn name(&self) -> &'static str {
        self.flavour.named(["Queue.join", "PriorityQueue.join", "LifoQueue.join"])
    }

    fn attempt(&mut self, py: Python<'_>) -> PyResult<Option<Value>> {
        Ok((Queue::state(self.queue.bind(py)).machine.unfinished() == 0).then_some(None))
    }

    fn enlist(&mut self, hub: &Bound<'_, Hub>, waker: Waker) -> PyResult<Enlisted> {
        let slf = self.queue.bind(hub.py());
        let mut queue = Queue::state(slf);
        if queue.machine.unfinished() == 0 {
            return Ok(Enlisted::Done(None));
        }
        queue.claim(hub)?;
        match queue.machine.wait_join(waker) {
            Ok(ticket) => Ok(Enlisted::Waits(ticket)),
            Err(_) => Ok(Enlisted::Done(None)),
        }
    }

    fn resume(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<Resumed> {
        let slf = self.queue.bind(py);
        if Queue::state(slf).machine.resume_join(ticket) == Turn::NotYet {
            return Ok(Resumed::Again);
        }
        end_wait(slf);
        Ok(Resumed::Done(None))
    }

    fn leave(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<()> {
        let slf = self.queue.bind(py);
        Queue::state(slf).machine.leave_join(ticket);
        end_wait(slf);
        Ok(())
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.queue)
    }
}
