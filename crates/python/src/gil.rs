//! GilCell: interior mutability whose lock is the GIL; and reference counts, which it guards too.
//!
//! A PyO3 class that is not frozen pays two locked instructions for each `borrow_mut`; the wait of one task makes a dozen
//! of them. Under the GIL none is needed: whoever holds a [`Python`] token runs alone. What is left to check is
//! re-entrance (a borrow during which Python code comes back to the same object), and that is a plain flag here.

use std::cell::{Cell, UnsafeCell};
use std::ops::{Deref, DerefMut};

use pyo3::types::PyAny;
use pyo3::{Bound, PyTraverseError, PyVisit, Python, ffi};

/// A value that only the holder of the GIL can get at, one borrow at a time.
pub struct GilCell<T> {
    borrowed: Cell<bool>,
    value: UnsafeCell<T>,
}

// SAFETY: every access needs a `Python` token and so the GIL, which one thread holds at a time; build.rs refuses
// free-threaded builds. A guard cannot be carried across `Python::detach` (it is neither Send nor Ungil), and one that
// stays behind on the stack meanwhile keeps the flag up, which the other thread's borrow finds.
unsafe impl<T: Send> Sync for GilCell<T> {}

impl<T> GilCell<T> {
    /// A cell with a value in it.
    pub const fn new(value: T) -> Self {
        Self { borrowed: Cell::new(false), value: UnsafeCell::new(value) }
    }

    /// The value, exclusively.
    ///
    /// # Panics
    /// When it is borrowed already. Never hold a borrow while Python code runs.
    #[inline]
    #[track_caller]
    pub fn borrow<'a>(&'a self, _py: Python<'a>) -> GilRef<'a, T> {
        assert!(!self.borrowed.replace(true), "Loopwright bug: Python code ran while an object was being changed");
        GilRef(self)
    }

    /// Shows the value to the collector, unless it is borrowed (a collection can start at any allocation; an object
    /// that is skipped only lives until the next one).
    ///
    /// # Errors
    /// The visitor's.
    pub fn traverse(
        &self,
        _witness: &PyVisit<'_>,
        show: impl FnOnce(&T) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        if self.borrowed.replace(true) {
            return Ok(());
        }
        // SAFETY: the collector runs under the GIL (a PyVisit is proof of one), and the flag keeps everybody else out.
        let shown = show(unsafe { &*self.value.get() });
        self.borrowed.set(false);
        shown
    }
}

/// An exclusive borrow of a [`GilCell`].
pub struct GilRef<'a, T>(&'a GilCell<T>);

impl<T> Deref for GilRef<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the flag makes this guard the only access.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for GilRef<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed exclusively.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for GilRef<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.borrowed.set(false);
    }
}

/// How many references there are to an object, the one that is given included. Exact for as long as no Python code runs.
#[inline]
pub fn references(object: &Bound<'_, PyAny>) -> isize {
    // SAFETY: the object is alive, and only the holder of the GIL changes its count.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}
