//! AsyncMethod: a method descriptor that `inspect.iscoroutinefunction` believes.
//!
//! Frameworks decide by `iscoroutinefunction(f)` whether to await what `f` returns. Starlette's `BackgroundTask`, given a
//! C method, runs it in a thread and drops the awaitable in silence; `AsyncMock(spec=...)` makes plain mocks of such
//! methods. The marker they look for is an attribute, which a `method_descriptor` cannot carry; this one can.
//!
//! It has `Py_TPFLAGS_METHOD_DESCRIPTOR`, so `queue.put(item)` binds nothing, and forwards the vectorcall to the method
//! that PyO3 made. Everything but its own marks (name, documentation, signature) is that method's.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};
use pyo3::{Borrowed, PyClass, PyTypeInfo};

#[repr(C)]
struct AsyncMethod {
    header: ffi::PyObject,
    vectorcall: Option<ffi::vectorcallfunc>,
    /// The method descriptor that PyO3 made.
    method: *mut ffi::PyObject,
    /// The function behind it, called without the descriptor's own detour.
    function: Function,
    /// Whose instances it takes: borrowed from the descriptor.
    owner: *mut ffi::PyTypeObject,
    /// The marks, a dict.
    marks: *mut ffi::PyObject,
}

#[derive(Clone, Copy)]
enum Function {
    NoArguments(ffi::PyCFunction),
    /// A short cut, for calls with this many arguments besides self; others, and those it declines, go the long way.
    Short(ffi::PyCFunction, ffi::Py_ssize_t),
    Keywords(ffi::PyCFunctionFastWithKeywords),
    /// Any kind, unless this says that there is nothing to do: then the answer is None.
    Gated(unsafe extern "C" fn(*mut ffi::PyObject) -> bool),
    /// Any other kind: through the descriptor.
    Other,
}

unsafe extern "C" {
    /// Part of CPython's C API that pyo3-ffi does not declare.
    fn PyMethod_New(function: *mut ffi::PyObject, object: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

unsafe extern "C" fn call(
    slf: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    flags: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls the vectorcall of a live AsyncMethod with `count` live positional arguments (and values for
    // `names` behind them). The function gets what its kind wants, and self only if self is an instance of its class;
    // whatever does not fit goes through the descriptor, which raises what is to be raised.
    unsafe {
        let this = &*slf.cast::<AsyncMethod>();
        let count = ffi::PyVectorcall_NARGS(flags);
        if count > 0 && ffi::PyObject_TypeCheck(*arguments, this.owner) != 0 {
            match this.function {
                Function::NoArguments(function) if count == 1 && names.is_null() => {
                    return function(*arguments, null_mut());
                }
                Function::Keywords(function) => {
                    return function(*arguments, arguments.add(1).cast_mut(), count - 1, names);
                }
                Function::Gated(is_shut) if count > 1 && is_shut(*arguments) => {
                    return ffi::Py_NewRef(ffi::Py_None());
                }
                Function::Short(function, arguments_wanted) if count == 1 + arguments_wanted && names.is_null() => {
                    let argument = if arguments_wanted == 0 { null_mut() } else { *arguments.add(1) };
                    let result = function(*arguments, argument);
                    if !result.is_null() {
                        return result;
                    }
                }
                Function::NoArguments(_) | Function::Short(..) | Function::Gated(_) | Function::Other => {}
            }
        }
        ffi::PyObject_Vectorcall(this.method, arguments, flags, names)
    }
}

unsafe extern "C" fn get(
    slf: *mut ffi::PyObject,
    object: *mut ffi::PyObject,
    _kind: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a slot of a live AsyncMethod; `object` is NULL or None for a look-up on the class.
    unsafe {
        if object.is_null() || object == ffi::Py_None() {
            return ffi::Py_NewRef(slf);
        }
        PyMethod_New(slf, object)
    }
}

unsafe extern "C" fn get_attribute(slf: *mut ffi::PyObject, name: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: a slot of a live AsyncMethod, whose fields are set for life; the dict's answer is borrowed.
    unsafe {
        let this = slf.cast::<AsyncMethod>();
        let mark = ffi::PyDict_GetItemWithError((*this).marks, name);
        if !mark.is_null() {
            return ffi::Py_NewRef(mark);
        }
        if !ffi::PyErr_Occurred().is_null() {
            return null_mut();
        }
        ffi::PyObject_GetAttr((*this).method, name)
    }
}

unsafe extern "C" fn set_attribute(
    slf: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: as above; a NULL value means deletion.
    unsafe {
        let marks = (*slf.cast::<AsyncMethod>()).marks;
        if value.is_null() { ffi::PyDict_DelItem(marks, name) } else { ffi::PyDict_SetItem(marks, name, value) }
    }
}

unsafe extern "C" fn repr(slf: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as above.
    unsafe { ffi::PyObject_Repr((*slf.cast::<AsyncMethod>()).method) }
}

unsafe extern "C" fn dealloc(slf: *mut ffi::PyObject) {
    // SAFETY: the last reference is gone; both fields and the reference to the heap type are given up once.
    unsafe {
        let this = slf.cast::<AsyncMethod>();
        ffi::Py_XDECREF((*this).method);
        ffi::Py_XDECREF((*this).marks);
        let kind = ffi::Py_TYPE(slf);
        if let Some(free) = (*kind).tp_free {
            free(slf.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}

fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let make = || -> PyResult<Py<PyType>> {
        let mut members = [
            ffi::PyMemberDef {
                name: c"__vectorcalloffset__".as_ptr(),
                type_code: ffi::Py_T_PYSSIZET,
                offset: offset_of!(AsyncMethod, vectorcall) as ffi::Py_ssize_t,
                flags: ffi::Py_READONLY,
                doc: null_mut(),
            },
            ffi::PyMemberDef::default(),
        ];
        let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
        let mut slots = [
            slot(ffi::Py_tp_members, members.as_mut_ptr().cast()),
            slot(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut c_void),
            slot(ffi::Py_tp_descr_get, get as *mut c_void),
            slot(ffi::Py_tp_getattro, get_attribute as *mut c_void),
            slot(ffi::Py_tp_setattro, set_attribute as *mut c_void),
            slot(ffi::Py_tp_repr, repr as *mut c_void),
            slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
            slot(0, null_mut()),
        ];
        let mut spec = ffi::PyType_Spec {
            name: c"loopwright._loopwright._AsyncMethod".as_ptr(),
            basicsize: size_of::<AsyncMethod>() as c_int,
            itemsize: 0,
            // Immutable: the interpreter specialises look-ups only of descriptors whose class cannot change.
            flags: (ffi::Py_TPFLAGS_DEFAULT
                | ffi::Py_TPFLAGS_IMMUTABLETYPE
                | ffi::Py_TPFLAGS_METHOD_DESCRIPTOR
                | ffi::Py_TPFLAGS_HAVE_VECTORCALL) as u32,
            slots: slots.as_mut_ptr(),
        };
        // SAFETY: everything the call reads lives through it, and it copies what it keeps (`name` is static).
        unsafe {
            let class = Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec))?;
            Ok(class.cast_into_unchecked::<PyType>().unbind())
        }
    };
    CLASS.get_or_try_init(py, make).map(|class| class.bind(py))
}

/// A quicker way to make the usual result of a marked method.
pub trait Shortcut {
    /// The method's class.
    type Owner: PyClass;
    /// The result; None leaves the call to the method. No Python code may run and no `Py` be dropped: PyO3 does not know
    /// that the thread is attached.
    fn call(owner: &Bound<'_, Self::Owner>, argument: Option<&Bound<'_, PyAny>>) -> Option<Py<PyAny>>;
}

unsafe extern "C" fn short<S: Shortcut>(slf: *mut ffi::PyObject, argument: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: `call` checked that self is an instance of the class; both are alive, the argument or NULL. A panic stays
    // inside; the long way meets its cause again and reports it.
    unsafe {
        let py = Python::assume_attached();
        let owner = Borrowed::from_ptr(py, slf).cast_unchecked::<S::Owner>();
        let argument = Borrowed::from_ptr_or_opt(py, argument);
        let made = catch_unwind(AssertUnwindSafe(|| S::call(&owner, argument.as_deref())));
        made.ok().flatten().map_or_else(null_mut, Py::into_ptr)
    }
}

/// Puts a short cut in front of a method, marked or not, for calls with this many arguments.
///
/// # Errors
/// `AttributeError` when the method is not there, `TypeError` when PyO3 has not made it.
pub fn shorten<S: Shortcut>(py: Python<'_>, name: &str, arguments: ffi::Py_ssize_t) -> PyResult<()> {
    let owner = py.get_type::<S::Owner>();
    let mut method = owner.getattr(name)?;
    if !method.get_type().is(class(py)?) {
        method = wrap(&method)?;
        owner.setattr(name, &method)?;
    }
    // SAFETY: an object of our own type, which nobody calls yet.
    unsafe { (*method.as_ptr().cast::<AsyncMethod>()).function = Function::Short(short::<S>, arguments) };
    Ok(())
}

/// Says whether a method has nothing to do, whatever its arguments are.
pub trait Gate {
    /// The method's class.
    type Owner: PyClass;
    /// Whether a call is to return None at once. As for [`Shortcut::call`].
    fn is_shut(owner: &Bound<'_, Self::Owner>) -> bool;
}

unsafe extern "C" fn is_shut<G: Gate>(slf: *mut ffi::PyObject) -> bool {
    // SAFETY: `call` checked that self is a live instance of the class. A panic leaves the gate open.
    unsafe {
        let py = Python::assume_attached();
        let owner = Borrowed::from_ptr(py, slf).cast_unchecked::<G::Owner>();
        catch_unwind(AssertUnwindSafe(|| G::is_shut(&owner))).unwrap_or(false)
    }
}

/// Puts a gate in front of a method; a call without arguments goes past it.
///
/// # Errors
/// `AttributeError` when the method is not there, `TypeError` when PyO3 has not made it.
pub fn gate<G: Gate>(py: Python<'_>, name: &str) -> PyResult<()> {
    let owner = py.get_type::<G::Owner>();
    let method = wrap(&owner.getattr(name)?)?;
    // SAFETY: an object of our own type, which nobody calls yet.
    unsafe { (*method.as_ptr().cast::<AsyncMethod>()).function = Function::Gated(is_shut::<G>) };
    owner.setattr(name, method)
}

/// A method that PyO3 made, behind one of ours without any mark.
fn wrap<'py>(method: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = method.py();
    if method.get_type().name()? != "method_descriptor" {
        return Err(PyTypeError::new_err(format!("{method} is not a method that PyO3 made")));
    }
    let kind = class(py)?.as_type_ptr();
    // SAFETY: the allocation is of our own type, whose fields are all set before anybody sees the object; the two
    // references are its own. A `method_descriptor` is a PyMethodDescrObject with a definition that lives as long.
    unsafe {
        let object = Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(kind, 0))?;
        let this = object.as_ptr().cast::<AsyncMethod>();
        (*this).vectorcall = Some(call);
        let descriptor = method.as_ptr().cast::<ffi::PyMethodDescrObject>();
        let definition = (*descriptor).d_method;
        (*this).owner = (*descriptor).d_common.d_type;
        (*this).function = match (*definition).ml_flags {
            ffi::METH_NOARGS => Function::NoArguments((*definition).ml_meth.PyCFunction),
            flags if flags == ffi::METH_FASTCALL | ffi::METH_KEYWORDS => {
                Function::Keywords((*definition).ml_meth.PyCFunctionFastWithKeywords)
            }
            _ => Function::Other,
        };
        (*this).method = method.clone().into_ptr();
        (*this).marks = PyDict::new(py).into_ptr();
        Ok(object)
    }
}

/// Makes coroutine functions, in the eyes of `inspect` and `asyncio`, of methods that return an awaitable.
///
/// # Errors
/// `AttributeError` when a method is not there.
pub fn mark<T: PyTypeInfo>(py: Python<'_>, methods: &[&str]) -> PyResult<()> {
    let target = py.get_type::<T>();
    let inspect = py.import("inspect")?;
    let coroutines = py.import("asyncio.coroutines")?;
    for name in methods {
        let marked = wrap(&target.getattr(*name)?)?;
        if let Some(mark) = inspect.getattr_opt(intern!(py, "markcoroutinefunction"))? {
            mark.call1((&marked,))?;
        }
        // What asyncio.iscoroutinefunction asks for on 3.11, where inspect has no marker.
        if let Some(mark) = coroutines.getattr_opt(intern!(py, "_is_coroutine"))? {
            marked.setattr(intern!(py, "_is_coroutine"), mark)?;
        }
        target.setattr(*name, marked)?;
    }
    Ok(())
}
