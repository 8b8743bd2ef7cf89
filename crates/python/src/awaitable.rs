//! The awaitable protocol: every trick that CPython's C API allows and PyO3 has no word for.
//!
//! | trick | saves (per `await`) | where |
//! |---|---|---|
//! | [`Ready`], one immortal object for "done, None": `__next__` returns NULL with no exception set | an object | every uncontended path |
//! | [`answer`]: a `StopIteration` with a value from a free list, raised without `PyErr` | 60-90 ns | values, CPython 3.12-3.14 |
//! | [`install_send`]: `am_send` in a finished PyO3 type, so that a value needs no exception at all | 100 ns | values, CPython 3.11 and 3.15; tasks |
//! | [`CachedMethod`]: `__aenter__`/`__aexit__` bound once per object | 25-45 ns each | CPython 3.11-3.13 |
//! | [`track`]: objects of a PyO3 free list are seen by the garbage collector | - | `Op`, `Fut` |
//!
//! Measured in docs/benchmarks.md. This module and `aio` are the only ones of the package with `unsafe` in them.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, addr_of_mut, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::PyClass;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

/// What one step of an awaitable came to.
pub enum Step {
    /// It is over; `None` is Python's None.
    Return(Option<Py<PyAny>>),
    /// It waits for this future.
    Yield(Py<PyAny>),
}

/// A PyO3 class that can be stepped like a coroutine.
pub trait Stepped: PyClass {
    /// Runs to the next wait.
    ///
    /// # Errors
    /// What the await raises.
    fn step(slf: &Bound<'_, Self>) -> PyResult<Step>;
}

// ------------------------------------------------------------------------------------------------ Ready

/// An awaitable that is done, with None. There is one; an uncontended `async with` meets no loop and makes no object.
#[pyclass(module = "loopwright._loopwright", name = "_Ready", frozen)]
pub struct Ready;

impl Ready {
    /// The one instance.
    #[inline]
    pub fn get(py: Python<'_>) -> Py<Self> {
        static READY: PyOnceLock<Py<Ready>> = PyOnceLock::new();
        READY.get_or_init(py, || Py::new(py, Self).expect("an empty object can be made")).clone_ref(py)
    }
}

impl Stepped for Ready {
    fn step(_: &Bound<'_, Self>) -> PyResult<Step> {
        Ok(Step::Return(None))
    }
}

#[pymethods]
impl Ready {
    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self) -> Option<Py<PyAny>> {
        None
    }

    fn send(&self, _value: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyStopIteration::new_err(()))
    }

    #[pyo3(signature = (error, value = None, traceback = None))]
    fn throw(
        &self,
        error: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyErr {
        crate::aio::thrown(error, value, traceback)
    }

    fn close(&self) {}

    fn __repr__(&self) -> &'static str {
        "<ready>"
    }
}

// ------------------------------------------------------------------------------------------------ values

/// What `__next__` returns for a step: `Ok(None)` ends the await, with the value (if any) in a pending StopIteration.
///
/// # Errors
/// `MemoryError`.
#[inline]
pub fn answer(py: Python<'_>, step: Step) -> PyResult<Option<Py<PyAny>>> {
    match step {
        Step::Yield(future) => Ok(Some(future)),
        Step::Return(None) => Ok(None),
        Step::Return(Some(value)) if value.is_none(py) => Ok(None),
        Step::Return(Some(value)) => {
            raise_stop(py, value)?;
            Ok(None)
        }
    }
}

/// What `send` does with a step: here None, too, is told by a StopIteration.
///
/// # Errors
/// `StopIteration` when the await is over.
pub fn answer_send(py: Python<'_>, step: Step) -> PyResult<Py<PyAny>> {
    match step {
        Step::Yield(future) => Ok(future),
        Step::Return(value) => {
            // The instance is made here: `new_err((1, 2))` would unpack a tuple and answer 1.
            let value = value.unwrap_or_else(|| py.None());
            Err(PyErr::from_value(py.get_type::<PyStopIteration>().call1((value,))?))
        }
    }
}

/// `StopIteration` with a dealloc that keeps its memory for the next one.
static STOP_TYPE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(null_mut());
/// The free list: dead instances, linked through their `value` field, at most [`STOPS_KEPT`].
static STOP_FREE: AtomicPtr<ffi::PyStopIterationObject> = AtomicPtr::new(null_mut());
static STOPS_FREE: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
const STOPS_KEPT: usize = 16;

fn raise_stop(py: Python<'_>, value: Py<PyAny>) -> PyResult<()> {
    let kind = STOP_TYPE.load(Ordering::Relaxed);
    if kind.is_null() {
        return Err(PyRuntimeError::new_err("loopwright._loopwright was not initialised"));
    }
    let free = STOP_FREE.load(Ordering::Relaxed);
    // SAFETY: the GIL is held throughout (`py`; free-threaded builds are refused at compile time), so the free list has
    // one user at a time. An object on it is a dead instance of STOP_TYPE of which `stop_dealloc` kept `args` (the
    // empty tuple) and cleared every other field: `PyObject_Init` makes it alive again with one reference and takes
    // the reference to its type that the deallocation gave back. Otherwise tp_new of StopIteration makes one, and the
    // reference to `value`'s old content (None) is given up before the field is overwritten. PyErr_* steal `stop`.
    unsafe {
        let stop = if free.is_null() {
            let new = (*ffi::PyExc_StopIteration.cast::<ffi::PyTypeObject>()).tp_new;
            let empty = PyTuple::empty(py);
            let stop = new.expect("StopIteration has tp_new")(kind, empty.as_ptr(), null_mut());
            if stop.is_null() {
                return Err(PyErr::fetch(py));
            }
            stop
        } else {
            STOP_FREE.store((*free).value.cast(), Ordering::Relaxed);
            STOPS_FREE.fetch_sub(1, Ordering::Relaxed);
            (*free).value = null_mut();
            let stop = ffi::PyObject_Init(free.cast(), kind);
            ffi::PyObject_GC_Track(stop.cast());
            stop
        };
        let field = addr_of_mut!((*stop.cast::<ffi::PyStopIterationObject>()).value);
        ffi::Py_XDECREF(field.replace(value.into_ptr()));
        #[cfg(Py_3_12)]
        ffi::PyErr_SetRaisedException(stop);
        #[cfg(not(Py_3_12))]
        ffi::PyErr_Restore(ffi::Py_NewRef(ffi::Py_TYPE(stop).cast()), stop, null_mut());
    }
    Ok(())
}

unsafe extern "C" fn stop_dealloc(object: *mut ffi::PyObject) {
    let stop = object.cast::<ffi::PyStopIterationObject>();
    // SAFETY: called by CPython with the GIL, once, for an instance of STOP_TYPE whose last reference is gone. It leaves
    // the collector's list first; each field is emptied before its reference is given up, since that may run anything.
    // Then the memory goes to the free list (empty but for `args`) or back to the allocator, and the instance's
    // reference to its heap type is given up, as tp_dealloc of a heap type has to.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        for field in [
            addr_of_mut!((*stop).dict),
            addr_of_mut!((*stop).notes),
            addr_of_mut!((*stop).traceback),
            addr_of_mut!((*stop).context),
            addr_of_mut!((*stop).cause),
            addr_of_mut!((*stop).value),
        ] {
            ffi::Py_XDECREF(field.replace(null_mut()));
        }
        let kind = ffi::Py_TYPE(object);
        if STOPS_FREE.load(Ordering::Relaxed) < STOPS_KEPT && !(*stop).args.is_null() {
            // One C `char` (pyo3-ffi declares a Rust `char`, four bytes).
            addr_of_mut!((*stop).suppress_context).cast::<u8>().write(0);
            (*stop).value = STOP_FREE.load(Ordering::Relaxed).cast();
            STOP_FREE.store(stop, Ordering::Relaxed);
            STOPS_FREE.fetch_add(1, Ordering::Relaxed);
        } else {
            ffi::Py_XDECREF(addr_of_mut!((*stop).args).replace(null_mut()));
            ffi::PyObject_GC_Del(object.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}

fn make_stop_type(py: Python<'_>) -> PyResult<()> {
    let mut slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_dealloc, pfunc: stop_dealloc as *mut c_void },
        // SAFETY: a static of the interpreter, alive as long as it is.
        ffi::PyType_Slot { slot: ffi::Py_tp_base, pfunc: unsafe { ffi::PyExc_StopIteration }.cast() },
        ffi::PyType_Slot { slot: 0, pfunc: null_mut() },
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"loopwright._loopwright._Stop".as_ptr(),
        basicsize: 0, // the base's
        itemsize: 0,
        // Not HAVE_GC: it is inherited, together with the base's tp_traverse and tp_clear.
        flags: ffi::Py_TPFLAGS_DEFAULT as u32,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: `spec` and `slots` live through the call, which copies them (`name` is static); the new reference is kept
    // for the life of the process.
    unsafe {
        let kind = ffi::PyType_FromSpec(&raw mut spec);
        if kind.is_null() {
            return Err(PyErr::fetch(py));
        }
        STOP_TYPE.store(kind.cast(), Ordering::Relaxed);
    }
    Ok(())
}

// ------------------------------------------------------------------------------------------------ am_send

unsafe extern "C" fn am_send<T: Stepped>(
    slf: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: CPython calls a slot of T's type with the GIL held, a live instance of T (`install_send`), and a valid
    // place for the result, of which it takes the reference.
    unsafe {
        let py = Python::assume_attached();
        let slf = Bound::from_borrowed_ptr(py, slf).cast_into_unchecked::<T>();
        let step = catch_unwind(AssertUnwindSafe(|| T::step(&slf)))
            .unwrap_or_else(|_| Err(pyo3::panic::PanicException::new_err("a Loopwright operation panicked")));
        match step {
            Ok(Step::Yield(future)) => {
                *result = future.into_ptr();
                ffi::PySendResult::PYGEN_NEXT
            }
            Ok(Step::Return(value)) => {
                *result = value.unwrap_or_else(|| py.None()).into_ptr();
                ffi::PySendResult::PYGEN_RETURN
            }
            Err(error) => {
                error.restore(py);
                *result = null_mut();
                ffi::PySendResult::PYGEN_ERROR
            }
        }
    }
}

/// Gives a finished PyO3 class, which has `__await__`, the slot that PyO3 cannot declare.
pub fn install_send<T: Stepped>(py: Python<'_>) {
    let kind = T::type_object_raw(py);
    // SAFETY: a heap type that this module has just made and no thread uses yet; `__await__` made its tp_as_async.
    unsafe {
        if let Some(mut slots) = NonNull::new((*kind).tp_as_async) {
            slots.as_mut().am_send = Some(am_send::<T>);
        }
    }
}

// ------------------------------------------------------------------------------------------------ small helpers

/// Makes sure that the collector sees an object. PyO3's free list gives reused objects out untracked.
#[inline]
pub fn track<T: PyClass>(object: &Bound<'_, T>) {
    // SAFETY: a live, completely initialised instance of a class with `__traverse__`, hence with a GC header.
    unsafe {
        if ffi::PyObject_GC_IsTracked(object.as_ptr()) == 0 {
            ffi::PyObject_GC_Track(object.as_ptr().cast());
        }
    }
}

/// `context.run(callback, argument)` without the bound method.
///
/// # Errors
/// What the callback raises, or `RuntimeError` when the context is entered already.
pub fn call_in_context<'py>(
    context: &Bound<'py, PyAny>,
    callback: &Bound<'py, PyAny>,
    argument: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = context.py();
    // SAFETY: PyContext_Enter and _Exit check the type of their argument, which lives through both; they are paired, and
    // the error of the call is held by `called`, not pending, while _Exit runs.
    unsafe {
        if ffi::PyContext_Enter(context.as_ptr()) < 0 {
            return Err(PyErr::fetch(py));
        }
        let called = callback.call1((argument,));
        if ffi::PyContext_Exit(context.as_ptr()) < 0 {
            return Err(PyErr::fetch(py));
        }
        called
    }
}

// ------------------------------------------------------------------------------------------------ async with

/// A class whose instances keep their bound `__aenter__` and `__aexit__`.
pub trait CachesMethods: PyClass {
    /// The place for `[__aenter__, __aexit__]`; part of the class's `__traverse__` and `__clear__`.
    fn cached(slf: &Bound<'_, Self>, which: Which) -> Option<Py<PyAny>>;
    /// Fills it.
    fn cache(slf: &Bound<'_, Self>, which: Which, bound: Py<PyAny>);
}

/// One of the two methods of `async with`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `__aenter__`
    Enter = 0,
    /// `__aexit__`
    Exit = 1,
}

/// Bound methods of one object, by [`Which`].
pub type Cached = [Option<Py<PyAny>>; 2];

type Lookup = fn(&Bound<'_, PyAny>, &Bound<'_, PyAny>, Which) -> PyResult<Py<PyAny>>;

/// Descriptor in the place of `__aenter__`/`__aexit__`: gives the method bound once, not bound anew at each entry.
///
/// Up to CPython 3.13 `async with` looks the method up through its descriptor, and the bound method that makes is most
/// of the cost. From 3.14 on (LOAD_SPECIAL) a plain method is faster, so this is not installed there.
#[pyclass(module = "loopwright._loopwright", name = "_CachedMethod", frozen)]
pub struct CachedMethod {
    function: Py<PyAny>,
    which: Which,
    lookup: Lookup,
}

#[pymethods]
impl CachedMethod {
    fn __get__(&self, object: &Bound<'_, PyAny>, _kind: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        if object.is_none() {
            return Ok(self.function.clone_ref(object.py())); // looked up on the class, as AsyncExitStack does
        }
        (self.lookup)(object, self.function.bind(object.py()), self.which)
    }

    fn __traverse__(&self, visit: pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        visit.call(&self.function)
    }
}

fn look_up<T: CachesMethods>(
    object: &Bound<'_, PyAny>,
    function: &Bound<'_, PyAny>,
    which: Which,
) -> PyResult<Py<PyAny>> {
    let object = object.cast::<T>()?;
    if let Some(bound) = T::cached(object, which) {
        return Ok(bound);
    }
    let bound = function.call_method1("__get__", (object, object.as_any().get_type()))?.unbind();
    T::cache(object, which, bound.clone_ref(object.py()));
    Ok(bound)
}

/// Puts [`CachedMethod`]s into a class, where they pay.
///
/// # Errors
/// What `setattr` on a class raises.
pub fn cache_async_with<T: CachesMethods>(py: Python<'_>) -> PyResult<()> {
    if cfg!(Py_3_14) {
        return Ok(());
    }
    let class = py.get_type::<T>();
    for (name, which) in [("__aenter__", Which::Enter), ("__aexit__", Which::Exit)] {
        let function = class.getattr(name)?.unbind();
        class.setattr(name, Py::new(py, CachedMethod { function, which, lookup: look_up::<T> })?)?;
    }
    Ok(())
}

/// Prepares what this module owns.
///
/// # Errors
/// `MemoryError`.
pub fn init(py: Python<'_>) -> PyResult<()> {
    make_stop_type(py)?;
    install_send::<Ready>(py);
    Ok(())
}
