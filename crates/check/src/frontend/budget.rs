//! How long inference may take: some scopes make it explode or panic, and one of them must not cost the analysis.
//!
//! A thread watches the CPU time of those that infer, and cancels a query that is over its budget. What was cancelled is
//! not asked again; then our own look at the syntax is all that is known of it.

use std::cell::{Cell, RefCell};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use salsa::{CancellationToken, Database};

use super::db::Db;

/// For one scope.
const SCOPE: Duration = Duration::from_millis(2000);
/// For all of one file.
const FILE: Duration = Duration::from_millis(4500);
/// How often the watch looks.
const TICK: Duration = Duration::from_millis(20);

/// Why a question has no answer.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// It took too long.
    Slow,
    /// The file has used up its time.
    Exhausted,
    /// ty has panicked.
    Panic(String),
}

/// One thread that infers.
struct Worker {
    /// Number of the question that is being asked; 0: none.
    asked: AtomicU64,
    /// Number of the question that was cancelled.
    cancelled: AtomicU64,
    exhausted: AtomicBool,
    clock: Clock,
    file: Mutex<Option<(CancellationToken, Duration)>>,
}

/// The CPU time of a thread as another one reads it; where the system does not tell, the time on the wall.
struct Clock {
    path: Option<String>,
    begin: Instant,
}

impl Clock {
    fn of_this_thread() -> Self {
        let link = std::fs::read_link("/proc/thread-self").ok();
        let path = link.map(|link| format!("/proc/{}/schedstat", link.display()));
        Self { path: path.filter(|path| std::fs::exists(path).unwrap_or(false)), begin: Instant::now() }
    }

    fn now(&self) -> Duration {
        let read = || {
            let text = std::fs::read_to_string(self.path.as_ref()?).ok()?;
            text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
        };
        read().unwrap_or_else(|| self.begin.elapsed())
    }
}

thread_local! {
    static WORKER: RefCell<Option<Arc<Worker>>> = const { RefCell::new(None) };
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    /// A panic is caught, and told in the report.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

static WORKERS: Mutex<Vec<std::sync::Weak<Worker>>> = Mutex::new(vec![]);

/// Watches from now on, as long as the process lives.
pub(super) fn watch() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !CAUGHT.get() {
                before(info);
            }
        }));
        // Without the thread there is no budget, but an analysis.
        let _ = std::thread::Builder::new().name("watch".to_owned()).spawn(|| {
            let mut seen: Vec<(usize, u64, Duration)> = vec![];
            loop {
                std::thread::sleep(TICK);
                let mut workers = WORKERS.lock().unwrap_or_else(PoisonError::into_inner);
                workers.retain(|worker| worker.strong_count() > 0);
                let running: Vec<_> = workers.iter().filter_map(std::sync::Weak::upgrade).collect();
                drop(workers);
                seen = running.iter().filter_map(|worker| look(worker, &seen)).collect();
            }
        });
    });
}

/// One look at one thread: what it is at, and since which CPU time.
fn look(worker: &Arc<Worker>, seen: &[(usize, u64, Duration)]) -> Option<(usize, u64, Duration)> {
    let asked = worker.asked.load(Ordering::Acquire);
    if asked == 0 {
        return None;
    }
    let id = Arc::as_ptr(worker) as usize;
    let now = worker.clock.now();
    let since = seen.iter().find(|(known, number, _)| (*known, *number) == (id, asked)).map_or(now, |seen| seen.2);
    let file = worker.file.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((token, begin)) = &*file {
        let exhausted = now.saturating_sub(*begin) > FILE;
        if exhausted || now.saturating_sub(since) > SCOPE {
            worker.exhausted.store(exhausted, Ordering::Release);
            worker.cancelled.store(asked, Ordering::Release);
            token.cancel();
        }
    }
    Some((id, asked, since))
}

/// What this thread does for one file. `db` is the handle that it asks.
pub(super) fn file<T>(db: &Db, work: impl FnOnce() -> T) -> T {
    let worker = WORKER.with_borrow_mut(|worker| {
        worker
            .get_or_insert_with(|| {
                let worker = Arc::new(Worker {
                    asked: AtomicU64::new(0),
                    cancelled: AtomicU64::new(0),
                    exhausted: AtomicBool::new(false),
                    clock: Clock::of_this_thread(),
                    file: Mutex::new(None),
                });
                WORKERS.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&worker));
                worker
            })
            .clone()
    });
    let set = |value| *worker.file.lock().unwrap_or_else(PoisonError::into_inner) = value;
    set(Some((db.cancellation_token(), worker.clock.now())));
    worker.exhausted.store(false, Ordering::Release);
    let result = work();
    set(None);
    result
}

/// Asks ty something.
pub(super) fn ask<T>(question: impl Fn() -> T) -> Result<T, Failure> {
    let Some(worker) = WORKER.with_borrow(Clone::clone) else { return Ok(question()) };
    if worker.asked.load(Ordering::Relaxed) != 0 {
        // Inside another question: its budget counts.
        return Ok(question());
    }
    loop {
        if worker.exhausted.load(Ordering::Acquire) {
            return Err(Failure::Exhausted);
        }
        let number = NUMBER.get() + 1;
        NUMBER.set(number);
        worker.asked.store(number, Ordering::Release);
        let answer = caught(&question);
        worker.asked.store(0, Ordering::Release);
        match answer {
            Ok(answer) => return Ok(answer),
            Err(panic) if panic.downcast_ref::<salsa::Cancelled>().is_some() => {
                if worker.cancelled.load(Ordering::Acquire) == number {
                    return Err(Failure::Slow);
                }
                // Another thread was cancelled that was asking the same, or the cancel was for the question before.
            }
            Err(panic) => return Err(Failure::Panic(message(&*panic))),
        }
    }
}

/// Runs something; a panic is the caller's to tell.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    let before = CAUGHT.replace(true);
    let result = std::panic::catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(before);
    result
}

/// What a panic said.
pub(super) fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("no message").lines().next().unwrap_or_default())
}

impl std::fmt::Display for Failure {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Slow => {
                write!(text, "its types take longer than {SCOPE:?} of CPU time; only its syntax was looked at")
            }
            Self::Exhausted => write!(text, "the file has used up its {FILE:?} of CPU time"),
            Self::Panic(message) => write!(text, "type inference gave up ({message}); only its syntax was looked at"),
        }
    }
}
