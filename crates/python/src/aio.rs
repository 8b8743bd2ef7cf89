//! The only room that knows asyncio: the running loop, the current task, its exceptions.
//!
//! Everything here is asyncio's documented interface, except the items of this list. Each has a public fallback, which
//! [`use_private`] switches to (a test runs the core suite that way):
//!
//! | private item | version | why | fallback |
//! |---|---|---|---|
//! | thread-state dict, `"__asyncio_running_event_loop__"` | 3.11 | `get_running_loop()` costs a `getpid` there | `asyncio.get_running_loop()` |
//! | `asyncio.tasks._current_tasks` | 3.11 | `current_task()` is Python code there (340 ns) | `asyncio.current_task(loop)` |
//! | `asyncio.coroutines._is_coroutine` (in `async_method`) | 3.11 | `asyncio.iscoroutinefunction` looks for it | none: absent, the marker is not set |
//! | `BaseEventLoop._task_factory` | all | `create_task` of asyncio's own loop without its Python frame (150-200 ns) | `loop.create_task(coroutine)` |
//!
//! Of 3.11's holder of the running loop only the *identity* is compared, nothing is read from it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyBaseException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

use crate::awaitable;
use crate::hub::Hub;

static PRIVATE: AtomicBool = AtomicBool::new(true);

/// Switches the table above on (the default) or off.
#[pyfunction]
#[pyo3(name = "_use_private")]
pub fn use_private(on: bool) {
    PRIVATE.store(on, Ordering::Relaxed);
    forget_cached_hub();
}

/// Drops this thread's cached hub. Also called in the child after a fork.
#[pyfunction]
#[pyo3(name = "_forget_cached_hub")]
pub fn forget_cached_hub() {
    CACHED.with(|cached| drop(cached.take()));
}

struct Cached {
    /// What identifies "the same loop is running": the loop, or 3.11's holder of it.
    key: Py<PyAny>,
    hub: Py<Hub>,
}

thread_local! {
    static CACHED: RefCell<Option<Cached>> = const { RefCell::new(None) };
}

fn cached_hub(py: Python<'_>, key: &Bound<'_, PyAny>) -> Option<Py<Hub>> {
    CACHED.with_borrow(|cached| match cached {
        Some(cached) if cached.key.is(key) => Some(cached.hub.clone_ref(py)),
        _ => None,
    })
}

/// Whether this thread met this hub last: then it is the running loop's, unless the thread has changed loops since.
#[inline]
pub fn met_last(hub: &Py<Hub>) -> bool {
    CACHED.with_borrow(|cached| cached.as_ref().is_some_and(|cached| cached.hub.is(hub)))
}

/// Whether this hub is the running loop's. Runs no Python code; false also when this thread has met another hub since.
#[inline]
pub fn is_running(py: Python<'_>, hub: &Py<Hub>) -> bool {
    let key = || {
        #[cfg(not(Py_3_12))]
        if PRIVATE.load(Ordering::Relaxed)
            && let Some(holder) = running_loop_holder(py)
        {
            return Some(holder);
        }
        running_loop(py).ok()
    };
    met_last(hub) && key().is_some_and(|key| CACHED.with_borrow(|met| met.as_ref().is_some_and(|met| met.key.is(&key))))
}

/// The hub of the running loop, made on first use.
///
/// # Errors
/// `RuntimeError: no running event loop`.
#[inline]
pub fn hub(py: Python<'_>) -> PyResult<Py<Hub>> {
    #[cfg(not(Py_3_12))]
    if PRIVATE.load(Ordering::Relaxed)
        && let Some(holder) = running_loop_holder(py)
    {
        return match cached_hub(py, &holder) {
            Some(hub) => Ok(hub),
            None => find_hub(&running_loop(py)?, holder),
        };
    }
    let running = running_loop(py)?;
    match cached_hub(py, &running) {
        Some(hub) => Ok(hub),
        None => find_hub(&running, running.clone()),
    }
}

#[cold]
fn find_hub<'py>(running: &Bound<'py, PyAny>, key: Bound<'py, PyAny>) -> PyResult<Py<Hub>> {
    let hub = Hub::of(running)?;
    let fresh = Cached { key: key.unbind(), hub: hub.clone_ref(running.py()) };
    // The old entry is dropped after the cell is free again: it may run finalizers that come back here.
    drop(CACHED.with(|cached| cached.replace(Some(fresh))));
    Ok(hub)
}

/// `asyncio.get_running_loop()`.
///
/// # Errors
/// `RuntimeError: no running event loop`.
pub fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET.import(py, "asyncio", "get_running_loop")?.call0()
}

/// Whether this bound `loop.create_task` is the one of asyncio's own loop, untouched: then a task without keywords can be
/// made as it would make it, see [`plain_task`].
pub fn makes_plain_tasks(create_task: &Bound<'_, PyAny>) -> bool {
    if !PRIVATE.load(Ordering::Relaxed) {
        return false;
    }
    let py = create_task.py();
    let check = || -> PyResult<bool> {
        static ORIGINAL: PyOnceLock<Option<Py<PyAny>>> = PyOnceLock::new();
        // Who wrapped it before us is found by where its code comes from, who does so later by identity.
        let original = ORIGINAL.get_or_try_init(py, || -> PyResult<Option<Py<PyAny>>> {
            let module = py.import("asyncio.base_events")?;
            let function = module.getattr("BaseEventLoop")?.getattr("create_task")?;
            let file = function.getattr("__code__")?.getattr("co_filename")?;
            let is_asyncios = file.eq(module.getattr("__spec__")?.getattr("origin")?)?;
            Ok(is_asyncios.then(|| function.unbind()))
        })?;
        let Some(original) = original else { return Ok(false) };
        let function = create_task.getattr(intern!(py, "__func__"))?;
        Ok(function.is(original) && py.import("asyncio.tasks")?.getattr("Task")?.is(task_type(py)?))
    };
    check().unwrap_or(false)
}

fn task_type(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static TASK: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    TASK.import(py, "asyncio", "Task")
}

/// `event_loop.create_task(coroutine)` where [`makes_plain_tasks`] said so; None when the loop has a task factory.
///
/// # Errors
/// What `asyncio.Task` raises.
pub fn plain_task<'py>(
    event_loop: &Bound<'py, PyAny>,
    coroutine: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    static LOOP: PyOnceLock<Py<PyTuple>> = PyOnceLock::new();
    let py = event_loop.py();
    if !event_loop.getattr(intern!(py, "_task_factory"))?.is_none() {
        return Ok(None);
    }
    let names = LOOP.get_or_try_init(py, || PyTuple::new(py, [intern!(py, "loop")]).map(Bound::unbind))?;
    awaitable::call_with_keyword(task_type(py)?, [coroutine], names.bind(py), event_loop).map(Some)
}

/// `task.add_done_callback(callback, context=context)`.
///
/// # Errors
/// What it raises.
pub fn add_done_callback(
    task: &Bound<'_, PyAny>,
    callback: &Bound<'_, PyAny>,
    context: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let add = task.getattr(intern!(task.py(), "add_done_callback"))?;
    awaitable::call_with_context(&add, [callback], context).map(drop)
}

/// Tells the tools that show task trees (`python -m asyncio pstree`, CPython 3.14+) that `parent` waits for `task`.
///
/// # Errors
/// What `asyncio.future_add_to_awaited_by` raises.
#[inline]
pub fn awaited_by(task: &Bound<'_, PyAny>, parent: &Bound<'_, PyAny>) -> PyResult<()> {
    if !cfg!(Py_3_14) {
        return Ok(());
    }
    static ADD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    ADD.import(task.py(), "asyncio", "future_add_to_awaited_by")?.call1((task, parent)).map(drop)
}

/// The end of [`awaited_by`].
///
/// # Errors
/// What `asyncio.future_discard_from_awaited_by` raises.
#[inline]
pub fn not_awaited_by(task: &Bound<'_, PyAny>, parent: &Bound<'_, PyAny>) -> PyResult<()> {
    if !cfg!(Py_3_14) {
        return Ok(());
    }
    static DISCARD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    DISCARD.import(task.py(), "asyncio", "future_discard_from_awaited_by")?.call1((task, parent)).map(drop)
}

/// 3.11 only; a new holder is made each time a loop starts or stops running in the thread.
#[cfg(not(Py_3_12))]
fn running_loop_holder(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    use pyo3::ffi;
    let name = intern!(py, "__asyncio_running_event_loop__");
    // SAFETY: the thread is attached (`py`); both calls return borrowed references or NULL and leave no exception set
    // (PyDict_GetItem suppresses them), and the reference is made strong before anything else runs.
    unsafe {
        let dict = ffi::PyThreadState_GetDict();
        if dict.is_null() {
            return None;
        }
        Bound::from_borrowed_ptr_or_opt(py, ffi::PyDict_GetItem(dict, name.as_ptr()))
    }
}

/// `asyncio.current_task(loop)`.
///
/// # Errors
/// Nothing that asyncio documents.
#[inline]
pub fn current_task<'py>(event_loop: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = event_loop.py();
    #[cfg(not(Py_3_12))]
    if PRIVATE.load(Ordering::Relaxed) {
        static TASKS: PyOnceLock<Py<pyo3::types::PyDict>> = PyOnceLock::new();
        return TASKS.import(py, "asyncio.tasks", "_current_tasks")?.get_item(event_loop);
    }
    static CURRENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let task = CURRENT.import(py, "asyncio", "current_task")?.call1((event_loop,))?;
    Ok((!task.is_none()).then_some(task))
}

/// `task.cancelling()`.
///
/// # Errors
/// `AttributeError` for a task class from before Python 3.11.
#[inline]
pub fn cancelling(task: &Bound<'_, PyAny>) -> PyResult<isize> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static METHOD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = task.py();
    if task.is_exact_instance(CLASS.import(py, "asyncio", "Task")?) {
        let method = METHOD.get_or_try_init(py, || Ok::<_, PyErr>(task.get_type().getattr("cancelling")?.unbind()))?;
        return method.bind(py).call1((task,))?.extract();
    }
    task.call_method0(intern!(py, "cancelling"))?.extract()
}

/// Calls with keywords, without a dict: the last arguments are those of `names`.
///
/// # Errors
/// What the callable raises.
#[inline]
pub fn call_with<'py, const N: usize>(
    callable: &Bound<'py, PyAny>,
    arguments: [&Bound<'py, PyAny>; N],
    names: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    use pyo3::ffi;
    let arguments = arguments.map(Bound::as_ptr);
    assert!(names.len() <= N, "more names than arguments");
    let positional = N - names.len();
    // SAFETY: the thread is attached; the arguments are borrowed references that live through the call, at least as many
    // as `positional` plus the names; without PY_VECTORCALL_ARGUMENTS_OFFSET the callee leaves the array alone.
    unsafe {
        let called = ffi::PyObject_Vectorcall(callable.as_ptr(), arguments.as_ptr(), positional, names.as_ptr());
        Bound::from_owned_ptr_or_err(callable.py(), called)
    }
}

/// `variable.get(None)` of a `contextvars.ContextVar`, without the call.
///
/// # Errors
/// `TypeError` for anything else.
#[inline]
pub fn context_value<'py>(variable: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    use pyo3::ffi;
    let mut found = std::ptr::null_mut();
    // SAFETY: the thread is attached, the variable is alive; a negative answer has set an exception, any other one has
    // set `found` to NULL or to a reference of ours.
    unsafe {
        if ffi::PyContextVar_Get(variable.as_ptr(), std::ptr::null_mut(), &raw mut found) < 0 {
            return Err(PyErr::fetch(variable.py()));
        }
        Ok(Bound::from_owned_ptr_or_opt(variable.py(), found))
    }
}

/// `asyncio.CancelledError`.
pub fn cancelled_error(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    TYPE.import(py, "asyncio", "CancelledError")
}

/// `asyncio.InvalidStateError`.
pub fn invalid_state(py: Python<'_>, message: &'static str) -> PyErr {
    static TYPE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    match TYPE.import(py, "asyncio", "InvalidStateError") {
        Ok(kind) => PyErr::from_type(kind.clone(), message),
        Err(error) => error,
    }
}

/// The classes of `loopwright.errors`, by name.
pub fn loopwright_error(py: Python<'_>, name: &str, message: String) -> PyErr {
    match loopwright_error_type(py, name) {
        Ok(class) => PyErr::from_type(class, message),
        Err(error) => error,
    }
}

/// A class of `loopwright.errors`.
///
/// # Errors
/// What the import raises.
pub fn loopwright_error_type<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyType>> {
    Ok(py.import(intern!(py, "loopwright.errors"))?.getattr(name)?.cast_into::<PyType>()?)
}

/// Makes the error that `throw(type, value, traceback)` was asked to raise.
pub fn thrown(
    error: &Bound<'_, PyAny>,
    value: Option<&Bound<'_, PyAny>>,
    traceback: Option<&Bound<'_, PyAny>>,
) -> PyErr {
    let instance = match value.filter(|value| !value.is_none()) {
        Some(value) if value.is_instance_of::<PyBaseException>() => Ok(value.clone()),
        Some(value) => error.call1((value,)),
        None if error.is_instance_of::<PyBaseException>() => Ok(error.clone()),
        None => error.call0(),
    };
    match instance {
        Ok(instance) => {
            if let Some(traceback) = traceback.filter(|traceback| !traceback.is_none())
                && let Err(error) = instance.setattr(intern!(error.py(), "__traceback__"), traceback)
            {
                return error;
            }
            PyErr::from_value(instance)
        }
        Err(error) => error,
    }
}
