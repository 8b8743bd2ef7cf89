//! What the system knows by number: open files that Python owns, and forks.
//!
//! `unsafe` here is a file descriptor taken at its word, and `pthread_atfork`.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{FromRawFd as _, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

/// An open file that somebody else closes. If they did, writing to it fails, or reaches what has the number now: lend
/// only numbers that are not given up, such as those of the standard streams.
pub struct Lent(ManuallyDrop<File>);

impl Lent {
    /// The file behind a number.
    pub fn new(descriptor: RawFd) -> Self {
        // SAFETY: the number is only written to, and never closed here. Whether it is open is found by the system.
        Self(ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) }))
    }
}

impl Deref for Lent {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

/// How many forks lie between the first process and this one.
static FORKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn in_the_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// A number that is another one in each forked child. Costs no call into the system.
#[inline]
pub fn forks() -> u64 {
    static COUNT: Once = Once::new();
    if !COUNT.is_completed() {
        COUNT.call_once(|| {
            // SAFETY: the function only adds to an atomic number, which may be done in the child of any process.
            unsafe { libc::pthread_atfork(None, None, Some(in_the_child)) };
        });
    }
    FORKS.load(Ordering::Relaxed)
}
