//! The awaitable protocol: every trick that CPython's C API allows and PyO3 has no word for.
//!
//! | trick | saves (per `await`) | where |
//! |---|---|---|
//! | [`Ready`], one immortal object for "done, None": `__next__` returns NULL with no exception set | an object | every uncontended path |
//! | [`answer`]: a `StopIteration` with a value from a free list, raised without `PyErr` | 60-90 ns | values, CPython 3.12-3.14 |
//! | [`install_slots`]: `am_send` in a finished PyO3 type, so that a value needs no exception at all | 100 ns | values, CPython 3.11 and 3.15; tasks |
//! | [`CachedMethod`]: `__aenter__`/`__aexit__` bound once per object | 25-45 ns each | CPython 3.11-3.13 |
//! | [`FreeList`]: the memory of dead futures and timeouts is used again | 40 ns | every wait, every timeout |
//! | [`Kept`]: dead operations are kept whole, and their first step skips what PyO3 sets up | 60 ns | every operation |
//!
//! Measured in docs/benchmarks.md.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, addr_of_mut, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;
use pyo3::{Borrowed, PyClass, PyClassInitializer, PyTypeInfo};

use crate::gil::GilCell;

/// What one step of an awaitable came to.
pub enum Step {
    /// It is over; `None` is Python's None.
    Return(Option<Py<PyAny>>),
    /// It waits for this future.
    Yield(Py<PyAny>),
}

// ------------------------------------------------------------------------------------------------ Ready

/// An awaitable that is done, with None. There is one; an uncontended `async with` meets no loop and makes no object.
#[pyclass(module = "loopwright._loopwright", name = "_Ready", frozen)]
pub struct Ready;

impl Ready {
    /// The one instance.
    #[inline]
    pub fn get(py: Python<'_>) -> Py<Self> {
        // SAFETY: `init` put a reference there that is never given up; it runs before anything of the module is used.
        unsafe { Bound::from_borrowed_ptr(py, READY.load(Ordering::Relaxed)).cast_into_unchecked().unbind() }
    }
}

/// The one [`Ready`].
static READY: AtomicPtr<ffi::PyObject> = AtomicPtr::new(null_mut());

#[pymethods]
impl Ready {
    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self) -> Option<Py<PyAny>> {
        None // declares the slot, which `install_ready_slots` replaces
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
    ) -> PyResult<()> {
        Err(crate::aio::thrown(error, value, traceback))
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
pub fn answer(py: Python<'_>, step: Step, value_wanted: bool) -> PyResult<Option<Py<PyAny>>> {
    match step {
        Step::Yield(future) => Ok(Some(future)),
        Step::Return(None) => Ok(None),
        Step::Return(Some(value)) if value_wanted => {
            VALUE.store(value.into_ptr(), Ordering::Relaxed);
            Ok(None)
        }
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
static STOPS_FREE: AtomicUsize = AtomicUsize::new(0);
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
            STOPS_FREE.store(STOPS_FREE.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
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
            STOPS_FREE.store(STOPS_FREE.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
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

// ------------------------------------------------------------------------------------------------ slots

/// Set while `am_send` runs a class's `__next__`: a value is wanted in [`VALUE`], not in an exception.
static VALUE_WANTED: AtomicBool = AtomicBool::new(false);
/// A reference on its way from [`answer`] to [`am_send`].
static VALUE: AtomicPtr<ffi::PyObject> = AtomicPtr::new(null_mut());

/// Ask this first in `__next__`, before anything else can run, and hand the answer to [`answer`].
#[inline]
pub fn value_wanted() -> bool {
    // Under the GIL a load and a store need no locked instruction.
    let wanted = VALUE_WANTED.load(Ordering::Relaxed);
    if wanted {
        VALUE_WANTED.store(false, Ordering::Relaxed);
    }
    wanted
}

/// `am_send` of a PyO3 class: runs its `__next__` (PyO3's own slot, which attaches and catches panics).
unsafe extern "C" fn am_send(
    slf: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: CPython calls the slot with the GIL held, a live instance of a class that `install_slots` was called for
    // (so it has tp_iternext, which begins with `value_wanted`), and a valid place for the result, whose reference it
    // takes. VALUE holds a reference of ours or NULL.
    unsafe {
        VALUE_WANTED.store(true, Ordering::Relaxed);
        let next = (*ffi::Py_TYPE(slf)).tp_iternext.expect("a stepped class has __next__");
        let future = next(slf);
        VALUE_WANTED.store(false, Ordering::Relaxed);
        let value = VALUE.load(Ordering::Relaxed);
        if !future.is_null() {
            *result = future;
            ffi::PySendResult::PYGEN_NEXT
        } else if !value.is_null() {
            VALUE.store(null_mut(), Ordering::Relaxed);
            *result = value;
            ffi::PySendResult::PYGEN_RETURN
        } else if ffi::PyErr_Occurred().is_null() {
            *result = ffi::Py_NewRef(ffi::Py_None());
            ffi::PySendResult::PYGEN_RETURN
        } else {
            *result = null_mut();
            ffi::PySendResult::PYGEN_ERROR
        }
    }
}

unsafe extern "C" fn itself(slf: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: CPython calls the slot with a live object.
    unsafe { ffi::Py_NewRef(slf) }
}

unsafe extern "C" fn ready_next(_slf: *mut ffi::PyObject) -> *mut ffi::PyObject {
    null_mut() // without an exception: the await is over, with None
}

unsafe extern "C" fn ready_send(
    _slf: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: CPython gives a valid place for the result and takes its reference.
    unsafe { *result = ffi::Py_NewRef(ffi::Py_None()) };
    ffi::PySendResult::PYGEN_RETURN
}

/// Gives a finished PyO3 class with `__await__` and `__next__` the slots that PyO3 cannot declare or makes slower:
/// `am_send`, and `am_await`/`tp_iter` that return the object itself.
pub fn install_slots<T: PyClass>(py: Python<'_>) {
    let kind = T::type_object_raw(py);
    // SAFETY: a heap type that this module has just made and nobody has subclassed or used yet; `__await__` made its
    // tp_as_async.
    unsafe {
        (*kind).tp_iter = Some(itself);
        if let Some(mut slots) = NonNull::new((*kind).tp_as_async) {
            slots.as_mut().am_await = Some(itself);
            slots.as_mut().am_send = Some(am_send);
        }
    }
}

fn install_ready_slots(py: Python<'_>) {
    install_slots::<Ready>(py);
    let kind = Ready::type_object_raw(py);
    // SAFETY: as in `install_slots`; Ready's steps need nothing of the object, not even that Rust knows of the call.
    unsafe {
        (*kind).tp_iternext = Some(ready_next);
        if let Some(mut slots) = NonNull::new((*kind).tp_as_async) {
            slots.as_mut().am_send = Some(ready_send);
        }
    }
}

// ------------------------------------------------------------------------------------------------ free lists

/// Dead objects of one class whose memory is kept for the next ones.
///
/// PyO3's own `freelist` takes a mutex twice per object and gives reused objects out untracked by the collector.
pub struct FreeList {
    head: AtomicPtr<ffi::PyObject>,
    kept: AtomicUsize,
}

impl FreeList {
    const KEPT: usize = 256;

    /// An empty list.
    #[allow(clippy::new_without_default, reason = "for statics only")]
    pub const fn new() -> Self {
        Self { head: AtomicPtr::new(null_mut()), kept: AtomicUsize::new(0) }
    }
}

/// A class whose objects come and go with every wait.
pub trait Recycled: PyClass {
    /// The class's free list.
    fn free_list() -> &'static FreeList;
}

unsafe extern "C" fn recycled_alloc<T: Recycled>(
    kind: *mut ffi::PyTypeObject,
    items: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    let list = T::free_list();
    let head = list.head.load(Ordering::Relaxed);
    // SAFETY: tp_alloc runs under the GIL, which makes the list's user the only one. Memory on it was allocated for
    // exactly this class (`recycled_free` is final: the class cannot be subclassed) with a GC header, holds nothing
    // alive, and keeps the link in its first field behind the object's header (there is room: a class has contents).
    // PyObject_Init sets the reference count and takes a reference to the type, as PyType_GenericAlloc does.
    unsafe {
        if head.is_null() {
            return ffi::PyType_GenericAlloc(kind, items);
        }
        list.head.store(*link(head), Ordering::Relaxed);
        list.kept.store(list.kept.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        ffi::PyObject_Init(head, kind)
    }
}

unsafe extern "C" fn recycled_free<T: Recycled>(memory: *mut c_void) {
    let list = T::free_list();
    let kept = list.kept.load(Ordering::Relaxed);
    // SAFETY: tp_free runs under the GIL, at the end of the object's deallocation, after PyO3 has untracked it and
    // dropped its contents; the reference to the type is given up by PyO3's tp_dealloc. See also `recycled_alloc`.
    unsafe {
        if kept < FreeList::KEPT {
            *link(memory.cast()) = list.head.load(Ordering::Relaxed);
            list.head.store(memory.cast(), Ordering::Relaxed);
            list.kept.store(kept + 1, Ordering::Relaxed);
        } else {
            ffi::PyObject_GC_Del(memory);
        }
    }
}

/// Where dead memory keeps its link: right behind the object header.
unsafe fn link(memory: *mut ffi::PyObject) -> *mut *mut ffi::PyObject {
    // SAFETY: the caller has an object with at least a pointer's room behind its header.
    unsafe { memory.add(1).cast() }
}

/// Gives a finished PyO3 class its free list.
pub fn install_free_list<T: Recycled>(py: Python<'_>) {
    const { assert!(size_of::<T>() >= size_of::<*mut ffi::PyObject>(), "no room for the link") };
    let kind = T::type_object_raw(py);
    // SAFETY: as in `install_slots`; both are replaced together, and the class is a GC class without subclasses.
    unsafe {
        (*kind).tp_alloc = Some(recycled_alloc::<T>);
        (*kind).tp_free = Some(recycled_free::<T>);
    }
}

// ------------------------------------------------------------------------------------------------ small helpers

// ------------------------------------------------------------------------------------------------ operations

/// A class whose objects come and go with every await: dead ones are kept whole, and a first step that ends at once
/// skips what PyO3 sets up for a call.
pub trait Reused: PyClass<Frozen = True> + Sync {
    /// The class's own place.
    fn kept() -> &'static Kept;
    /// Whether the object refers to nothing any more.
    fn is_spent(&self, py: Python<'_>) -> bool;
    /// Runs the first step if that ends the await without waiting, without an error, and without running Python code.
    /// No reference may be dropped but through [`give_up`].
    fn step_at_once(&self, py: Python<'_>) -> Option<Option<Py<PyAny>>>;
}

/// Dead objects of one class, complete but for their reference count, and the slots that PyO3 made.
pub struct Kept {
    objects: GilCell<Vec<usize>>,
    slots: OnceLock<(ffi::destructor, ffi::iternextfunc)>,
}

impl Kept {
    const MOST: usize = 256;

    /// None yet.
    #[allow(clippy::new_without_default, reason = "for statics only")]
    pub const fn new() -> Self {
        Self { objects: GilCell::new(Vec::new()), slots: OnceLock::new() }
    }
}

unsafe extern "C" fn reused_dealloc<T: Reused>(object: *mut ffi::PyObject) {
    // SAFETY: tp_dealloc of T: called with the GIL, for an object nobody refers to any more. Looking at its contents
    // makes no reference. One that is kept stays initialised and out of the collector's sight, and gives the reference
    // to its type back, which `reuse` takes again; any other goes the way that PyO3 made.
    unsafe {
        let py = Python::assume_attached();
        let contents: &T = Borrowed::from_ptr(py, object).cast_unchecked::<T>().get();
        if contents.is_spent(py) {
            let mut kept = T::kept().objects.borrow(py);
            if kept.len() < Kept::MOST {
                ffi::PyObject_GC_UnTrack(object.cast());
                kept.push(object as usize);
                drop(kept);
                ffi::Py_DECREF(ffi::Py_TYPE(object).cast());
                return;
            }
        }
        if let Some((dealloc, _)) = T::kept().slots.get() {
            dealloc(object);
        }
    }
}

/// One of the kept objects, spent as it is, to be filled anew.
#[inline]
pub fn reuse<T: Reused>(py: Python<'_>) -> Option<Bound<'_, T>> {
    let object = T::kept().objects.borrow(py).pop()? as *mut ffi::PyObject;
    // SAFETY: only `reused_dealloc` puts objects there, each once: whole instances of T without a reference to them.
    // PyObject_Init gives this one the first and takes a reference to the type.
    unsafe {
        ffi::PyObject_Init(object, T::type_object_raw(py));
        ffi::PyObject_GC_Track(object.cast());
        Some(Bound::from_owned_ptr(py, object).cast_into_unchecked())
    }
}

unsafe extern "C" fn next_at_once<T: Reused>(slf: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: tp_iternext of T: called with the GIL and a live instance. `step_at_once` drops no reference that PyO3
    // would have to know the thread for; a panic stays inside. `value` is handed over as `answer` does it.
    unsafe {
        let py = Python::assume_attached();
        let wanted = value_wanted();
        let contents: &T = Borrowed::from_ptr(py, slf).cast_unchecked::<T>().get();
        match catch_unwind(AssertUnwindSafe(|| contents.step_at_once(py))) {
            Ok(Some(None)) => null_mut(),
            Ok(Some(Some(value))) => {
                if wanted {
                    VALUE.store(value.into_ptr(), Ordering::Relaxed);
                } else if value.is_none(py) {
                    give_up(py, value);
                } else if let Err(error) = raise_stop(py, value) {
                    error.restore(py);
                }
                null_mut()
            }
            Ok(None) | Err(_) => {
                VALUE_WANTED.store(wanted, Ordering::Relaxed);
                match T::kept().slots.get() {
                    Some((_, next)) => next(slf),
                    None => null_mut(),
                }
            }
        }
    }
}

/// Drops a reference where PyO3 does not know that the thread is attached.
#[inline]
pub fn give_up<T>(_py: Python<'_>, reference: Py<T>) {
    // SAFETY: the token is proof of the GIL, and the reference was this one's own.
    unsafe { ffi::Py_DECREF(reference.into_ptr()) };
}

/// Gives a finished PyO3 class these ways. Call it after [`install_slots`].
pub fn install_reuse<T: Reused>(py: Python<'_>) {
    let kind = T::type_object_raw(py);
    // SAFETY: as in `install_slots`; the class cannot be subclassed, so every object is of this very type.
    unsafe {
        if let (Some(dealloc), Some(next)) = ((*kind).tp_dealloc, (*kind).tp_iternext)
            && T::kept().slots.set((dealloc, next)).is_ok()
        {
            (*kind).tp_dealloc = Some(reused_dealloc::<T>);
            (*kind).tp_iternext = Some(next_at_once::<T>);
        }
    }
}

/// A new object of a [`Recycled`] class, seen by the collector.
///
/// # Errors
/// `MemoryError`.
#[inline]
pub fn new_recycled<T: Recycled + Into<PyClassInitializer<T>>>(py: Python<'_>, contents: T) -> PyResult<Bound<'_, T>> {
    let object = Bound::new(py, contents)?;
    // SAFETY: a live, completely initialised instance of a class with `__traverse__`, hence with a GC header.
    unsafe {
        if ffi::PyObject_GC_IsTracked(object.as_ptr()) == 0 {
            ffi::PyObject_GC_Track(object.as_ptr().cast());
        }
    }
    Ok(object)
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
    in_context(context, || callback.call1((argument,)))
}

/// Calls `call` in a context.
///
/// # Errors
/// The call's, or `RuntimeError` when the context is entered already.
pub fn in_context<'py, T>(context: &Bound<'py, PyAny>, call: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    let py = context.py();
    // SAFETY: PyContext_Enter and _Exit check the type of their argument, which lives through both; they are paired, and
    // the error of the call is held by `called`, not pending, while _Exit runs.
    unsafe {
        if ffi::PyContext_Enter(context.as_ptr()) < 0 {
            return Err(PyErr::fetch(py));
        }
        let called = call();
        if ffi::PyContext_Exit(context.as_ptr()) < 0 {
            return Err(PyErr::fetch(py));
        }
        called
    }
}

/// `contextvars.copy_context()`.
///
/// # Errors
/// `MemoryError`.
pub fn copy_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: called with the GIL held; the result is a new reference or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// `function(*arguments, context=context)` without a tuple and a dict: `call_soon` and `call_at` of every wake.
///
/// # Errors
/// What the function raises.
pub fn call_with_context<'py, const N: usize>(
    function: &Bound<'py, PyAny>,
    arguments: [&Bound<'py, PyAny>; N],
    context: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    static NAMES: PyOnceLock<Py<PyTuple>> = PyOnceLock::new();
    let py = function.py();
    let names = NAMES.get_or_try_init(py, || PyTuple::new(py, [intern!(py, "context")]).map(Bound::unbind))?;
    call_with_keyword(function, arguments, names.bind(py), context)
}

/// `function(*arguments, name=value)`, where `names` is the tuple of that one name.
///
/// # Errors
/// What the function raises.
pub fn call_with_keyword<'py, const N: usize>(
    function: &Bound<'py, PyAny>,
    arguments: [&Bound<'py, PyAny>; N],
    names: &Bound<'py, PyTuple>,
    value: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = function.py();
    debug_assert_eq!(names.len(), 1);
    // A free slot in front of the arguments (a bound method puts its self there), the value behind them.
    let mut slots = [null_mut(); 6];
    const { assert!(N + 2 <= 6) };
    for (slot, argument) in slots[1..].iter_mut().zip(arguments.iter().chain([&value])) {
        *slot = argument.as_ptr();
    }
    // SAFETY: `slots[1..]` holds N arguments and one keyword value, all alive through the call; the offset flag allows
    // the callee to use `slots[0]` meanwhile. The result is a new reference or NULL with an exception set.
    unsafe {
        let arguments = slots.as_ptr().add(1);
        let count = N | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
        let result = ffi::PyObject_Vectorcall(function.as_ptr(), arguments, count, names.as_ptr());
        Bound::from_owned_ptr_or_err(py, result)
    }
}

// ------------------------------------------------------------------------------------------------ async with

/// A class whose `async with` usually ends at once: then its methods need nothing that PyO3 sets up for a call.
pub trait FastWith: PyClass<Frozen = True> + Sync {
    /// Whether `__aenter__` gives the object itself to be awaited.
    const AWAITS_ITSELF: bool = false;
    /// Enters if that needs no waiting. No Python object may be made, dropped or called.
    fn try_enter(&self, py: Python<'_>) -> bool;
    /// Leaves if that wakes nobody and raises nothing. As above.
    fn try_exit(&self, py: Python<'_>, failed: bool) -> bool;
    /// The class's own place for the methods that PyO3 made, which do the rest.
    fn slow() -> &'static SlowWith;
}

/// PyO3's `__aenter__` and `__aexit__` of one class.
pub struct SlowWith(PyOnceLock<[Py<PyAny>; 2]>);

impl SlowWith {
    /// An empty place.
    #[allow(clippy::new_without_default, reason = "for statics only")]
    pub const fn new() -> Self {
        Self(PyOnceLock::new())
    }
}

unsafe extern "C" fn fast_enter<T: FastWith>(
    slf: *mut ffi::PyObject,
    _no_arguments: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a method descriptor calls this with the GIL held and an instance of T as self (it checks); `try_enter`
    // makes and drops no Python object, so PyO3 need not know that the thread is attached. A panic stays inside.
    unsafe {
        let py = Python::assume_attached();
        let object = Borrowed::from_ptr(py, slf).cast_unchecked::<T>();
        let entered = catch_unwind(AssertUnwindSafe(|| object.get().try_enter(py)));
        if entered.unwrap_or(false) {
            return ffi::Py_NewRef(if T::AWAITS_ITSELF { slf } else { READY.load(Ordering::Relaxed) });
        }
        match T::slow().0.get(py) {
            Some([enter, _]) => ffi::PyObject_CallOneArg(enter.as_ptr(), slf),
            None => null_mut(),
        }
    }
}

unsafe extern "C" fn fast_exit<T: FastWith>(
    slf: *mut ffi::PyObject,
    arguments: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: as in `fast_enter`; `arguments` holds `count` live objects. The slow method gets them behind self.
    unsafe {
        let py = Python::assume_attached();
        let object = Borrowed::from_ptr(py, slf).cast_unchecked::<T>();
        let left = count == 3
            && catch_unwind(AssertUnwindSafe(|| object.get().try_exit(py, *arguments != ffi::Py_None())))
                .unwrap_or(false);
        if left {
            return ffi::Py_NewRef(READY.load(Ordering::Relaxed));
        }
        let Some([_, exit]) = T::slow().0.get(py) else { return null_mut() };
        let mut all = [null_mut(); 8];
        all[0] = slf;
        let given = count.unsigned_abs().min(all.len() - 1);
        std::ptr::copy_nonoverlapping(arguments, all.as_mut_ptr().add(1), given);
        ffi::PyObject_Vectorcall(exit.as_ptr(), all.as_ptr(), 1 + given, null_mut())
    }
}

/// Puts the fast methods into a class, in front of PyO3's. Call it before [`cache_async_with`].
///
/// # Errors
/// What `setattr` on a class raises.
pub fn install_fast_with<T: FastWith>(py: Python<'_>) -> PyResult<()> {
    let class = py.get_type::<T>();
    let slow = [class.getattr("__aenter__")?.unbind(), class.getattr("__aexit__")?.unbind()];
    T::slow().0.get_or_init(py, || slow);
    let methods = [
        ffi::PyMethodDef {
            ml_name: c"__aenter__".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: fast_enter::<T> },
            ml_flags: ffi::METH_NOARGS,
            ml_doc: null_mut(),
        },
        ffi::PyMethodDef {
            ml_name: c"__aexit__".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunctionFast: fast_exit::<T> },
            ml_flags: ffi::METH_FASTCALL,
            ml_doc: null_mut(),
        },
    ];
    for (name, method) in ["__aenter__", "__aexit__"].into_iter().zip(methods) {
        // SAFETY: the definition lives for ever (leaked, once per class); the flags fit the function's signature; the
        // result is a new reference or NULL with an exception set.
        let descriptor = unsafe {
            let definition = Box::leak(Box::new(method));
            Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewMethod(T::type_object_raw(py), definition))?
        };
        class.setattr(name, descriptor)?;
    }
    Ok(())
}

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

// ------------------------------------------------------------------------------------------------ async with, once

/// A class whose objects are entered once: too short-lived for [`CachedMethod`].
///
/// Up to CPython 3.13 `async with` makes two bound methods for each entry, a third of what a lease costs in all. Here
/// `__aenter__` and `__aexit__` of an object are the object itself, which can be called: without arguments it enters,
/// with three it leaves. From 3.14 on (LOAD_SPECIAL) nothing is bound, and this is not installed.
pub trait Entered: FastWith {
    /// Where the object keeps how it is called.
    fn called(&self) -> &Called;
}

/// How an object of an [`Entered`] class is called.
pub struct Called(#[allow(dead_code, reason = "CPython reads it")] ffi::vectorcallfunc);

impl Called {
    /// For the objects of this class.
    pub const fn of<T: Entered>() -> Self {
        Self(call_entered::<T>)
    }
}

unsafe extern "C" fn call_entered<T: Entered>(
    slf: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    flags: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the vectorcall of a live instance of T, with as many live arguments as the flags say: what the two
    // functions ask for, which leave the array as it is.
    unsafe {
        match ffi::PyVectorcall_NARGS(flags) {
            0 if names.is_null() => fast_enter::<T>(slf, null_mut()),
            3 if names.is_null() => fast_exit::<T>(slf, arguments.cast_mut(), 3),
            _ => {
                let message = c"__aenter__() takes no arguments, __aexit__() takes three".as_ptr();
                ffi::PyErr_SetString(ffi::PyExc_TypeError, message);
                null_mut()
            }
        }
    }
}

/// The descriptor in the place of both methods.
#[repr(C)]
struct Itself {
    header: ffi::PyObject,
    /// What a look-up on the class gives, as AsyncExitStack does it.
    function: *mut ffi::PyObject,
    /// Whose instances are their own methods: borrowed, the class has this descriptor in its dict.
    owner: *mut ffi::PyTypeObject,
}

unsafe extern "C" fn itself_get(
    slf: *mut ffi::PyObject,
    object: *mut ffi::PyObject,
    _kind: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a slot of a live Itself, whose fields are set for life; `object` is NULL for a look-up on the class.
    unsafe {
        let this = slf.cast::<Itself>();
        let of_instance = !object.is_null() && ffi::Py_TYPE(object) == (*this).owner;
        ffi::Py_NewRef(if of_instance { object } else { (*this).function })
    }
}

unsafe extern "C" fn itself_dealloc(slf: *mut ffi::PyObject) {
    // SAFETY: the last reference is gone; the function and the reference to the heap type are given up once.
    unsafe {
        let kind = ffi::Py_TYPE(slf);
        ffi::Py_XDECREF((*slf.cast::<Itself>()).function);
        if let Some(free) = (*kind).tp_free {
            free(slf.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}

fn itself_type(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(ffi::Py_tp_descr_get, itself_get as *mut c_void),
        slot(ffi::Py_tp_dealloc, itself_dealloc as *mut c_void),
        slot(0, null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"loopwright._loopwright._Itself".as_ptr(),
        basicsize: size_of::<Itself>() as std::ffi::c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_IMMUTABLETYPE) as u32,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: everything the call reads lives through it, and it copies what it keeps (`name` is static).
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec)) }
}

/// Makes the objects of a class their own `__aenter__` and `__aexit__`, where that pays. Call it after
/// [`install_fast_with`]; `sample` is any object of the class.
///
/// # Errors
/// What `setattr` on a class raises.
pub fn install_entered<T: Entered>(sample: &Bound<'_, T>) -> PyResult<()> {
    if cfg!(Py_3_14) {
        return Ok(());
    }
    let py = sample.py();
    let class = py.get_type::<T>();
    let descriptor = itself_type(py)?;
    let owner = T::type_object_raw(py);
    // SAFETY: `called` is inside of the object, at the same distance from its start in all of them (the class is final
    // and has no variable part), and is never written after the object was made.
    unsafe {
        let offset = std::ptr::from_ref(sample.get().called()).cast::<u8>().offset_from(sample.as_ptr().cast::<u8>());
        (*owner).tp_vectorcall_offset = offset;
        (*owner).tp_call = Some(ffi::PyVectorcall_Call);
        (*owner).tp_flags |= ffi::Py_TPFLAGS_HAVE_VECTORCALL;
    }
    for name in ["__aenter__", "__aexit__"] {
        let function = class.getattr(name)?.into_ptr();
        // SAFETY: an instance of the type just made; both fields are set before anybody sees it, and the reference to
        // the function is its own.
        let itself = unsafe {
            let itself = Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(descriptor.as_ptr().cast(), 0))?;
            (*itself.as_ptr().cast::<Itself>()).function = function;
            (*itself.as_ptr().cast::<Itself>()).owner = owner;
            itself
        };
        class.setattr(name, itself)?;
    }
    Ok(())
}

/// Prepares what this module owns.
///
/// # Errors
/// `MemoryError`.
pub fn init(py: Python<'_>) -> PyResult<()> {
    make_stop_type(py)?;
    READY.store(Py::new(py, Ready)?.into_ptr(), Ordering::Relaxed);
    install_ready_slots(py);
    Ok(())
}
