//! LogSink: a file, a stream or a function behind a thread, so that whoever logs never waits for it. What is kept and
//! what is dropped is `loopwright_core::log_buffer`'s decision; here are the thread, the writing, the fork and the exit.
//!
//! One line is one `write`, and no more than one where the system takes it whole: lines of several processes do not mix.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use loopwright_core::log_buffer::{Chunk, LogBuffer, Next, Piece, Settled};
use loopwright_core::log_text::Stamp;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyInt, PyString};
use pyo3::{PyTraverseError, PyVisit};

use crate::args;
use crate::descriptor::{self, Lent};
use crate::gil::GilCell;
use crate::log_line::{self, Format};
use crate::watchdog;

/// How long the writer that has nothing to do waits before it looks again, once, and then sleeps.
const LINGER: Duration = Duration::from_millis(1);
/// How many bytes are written before the books hear of it.
const SETTLED: usize = 32 * 1024;
/// How long a fork waits for a writer to finish a line.
const BEFORE_FORK: Duration = Duration::from_millis(50);

/// Where lines go.
enum Target {
    Lent(Lent),
    Own(File),
    Call(Py<PyAny>),
}

impl Target {
    /// Writes one line. What went wrong, in words.
    fn write(&self, line: &[u8]) -> Result<(), String> {
        let written = match self {
            Self::Lent(file) => write_to(file, line),
            Self::Own(file) => write_to(file, line),
            Self::Call(function) => {
                let called = Python::try_attach(|py| {
                    let line = PyString::new(py, &String::from_utf8_lossy(line));
                    function.call1(py, (line,)).map(drop).map_err(|error| error.to_string())
                });
                return called.unwrap_or_else(|| Err("the interpreter has ended".to_owned()));
            }
        };
        written.map_err(|error| error.to_string())
    }

    fn is_terminal(&self) -> bool {
        match self {
            Self::Lent(file) => file.is_terminal(),
            Self::Own(file) => file.is_terminal(),
            Self::Call(_) => false,
        }
    }

    /// Whether a line can be written without the interpreter.
    fn is_native(&self) -> bool {
        !matches!(self, Self::Call(_))
    }
}

fn write_to(mut file: &File, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match file.write(line) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Whoever shares the stream made it non-blocking (an event loop on standard error, for one).
                let mut wanted = [rustix::event::PollFd::from_borrowed_fd(file.as_fd(), rustix::event::PollFlags::OUT)];
                match rustix::event::poll(&mut wanted, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How the sink treats a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The thread writes it.
    Behind,
    /// The interpreter ends, no thread may be left: it is written at once.
    AtOnce,
    /// It is dropped and counted.
    Closed,
}

struct State {
    buffer: LogBuffer,
    mode: Mode,
    target: Arc<Target>,
    writer: Option<JoinHandle<()>>,
    /// Whether the writer's loop has not ended.
    running: bool,
    /// The writer shall end when it has written what there is.
    quit: bool,
    /// The writer shall end, and none be started: a fork is under way.
    paused: bool,
    last_error: Option<String>,
}

struct Shared {
    state: Mutex<State>,
    /// The writer waits here.
    work: Condvar,
    /// Who waits for the writer does so here.
    progress: Condvar,
    format: Format,
    /// In which process it was made, see [`descriptor::forks`].
    forks: u64,
}

/// The sinks of the process, for its forks and its end.
static SINKS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

fn sinks() -> Vec<Arc<Shared>> {
    let forks = descriptor::forks();
    let mut sinks = lock(&SINKS);
    sinks.retain(|sink| sink.strong_count() > 0);
    // Another process's have locks that nobody releases here.
    sinks.iter().filter_map(Weak::upgrade).filter(|sink| sink.forks == forks).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn new(target: Arc<Target>, format: Format, limit: usize) -> Arc<Self> {
        let state = State {
            buffer: LogBuffer::new(limit),
            mode: Mode::Behind,
            target,
            writer: None,
            running: false,
            quit: false,
            paused: false,
            last_error: None,
        };
        let shared = Arc::new(Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            progress: Condvar::new(),
            format,
            forks: descriptor::forks(),
        });
        lock(&SINKS).push(Arc::downgrade(&shared));
        shared
    }

    /// Takes a line; never waits for the target.
    #[inline]
    fn push(self: &Arc<Self>, line: &[u8], matters: bool) -> bool {
        let mut state = lock(&self.state);
        if state.mode != Mode::Behind {
            return Self::push_late(&mut state, line);
        }
        let pushed = state.buffer.push(line, matters);
        if !state.running {
            self.start(&mut state);
        } else if pushed.wake {
            drop(state);
            self.work.notify_one();
        }
        pushed.kept
    }

    #[cold]
    fn push_late(state: &mut State, line: &[u8]) -> bool {
        if state.mode == Mode::Closed {
            state.buffer.refuse();
            return false;
        }
        let target = Arc::clone(&state.target);
        target.write(line).map_err(|error| state.last_error = Some(error)).is_ok()
    }

    #[cold]
    fn start(self: &Arc<Self>, state: &mut State) {
        if state.paused || state.buffer.is_idle() {
            return;
        }
        let shared = Arc::clone(self);
        let writer = thread::Builder::new().name("loopwright-logs".to_owned()).spawn(move || {
            watchdog::leave_signals_to_the_main_thread();
            shared.run();
        });
        match writer {
            Ok(writer) => {
                state.writer = Some(writer);
                state.running = true;
            }
            // No room for a thread: the next line tries again, and what is kept is not lost meanwhile.
            Err(error) => state.last_error = Some(error.to_string()),
        }
    }

    /// The writer.
    fn run(&self) {
        let mut chunk = Chunk::default();
        let mut stamp = Stamp::default();
        let mut gap = Vec::new();
        let mut state = lock(&self.state);
        while !state.paused {
            match state.buffer.next(std::mem::take(&mut chunk)) {
                Next::Write(taken) => {
                    let target = Arc::clone(&state.target);
                    drop(state);
                    self.write(&target, &taken, &mut stamp, &mut gap);
                    drop(target);
                    chunk = taken;
                    state = lock(&self.state);
                }
                Next::Linger | Next::Park if state.quit => break,
                Next::Linger => {
                    self.progress.notify_all();
                    let waited = self.work.wait_timeout(state, LINGER);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Next::Park => {
                    self.progress.notify_all();
                    while state.buffer.is_parked() && !state.quit && !state.paused {
                        state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        }
        state.buffer.writer_left();
        state.running = false;
        self.progress.notify_all();
    }

    fn write(&self, target: &Target, chunk: &Chunk, stamp: &mut Stamp, gap: &mut Vec<u8>) {
        let mut settled = Settled::default();
        let mut error = None;
        for piece in chunk.pieces() {
            match piece {
                Piece::Line(line) => match target.write(line) {
                    Ok(()) => {
                        settled.written += 1;
                        settled.written_bytes += line.len();
                    }
                    Err(words) => {
                        settled.failed += 1;
                        settled.failed_bytes += line.len();
                        error = Some(words);
                    }
                },
                Piece::Gap(lost) => {
                    gap.clear();
                    log_line::write_gap(gap, stamp, self.format, lost);
                    error = target.write(gap).err().or(error);
                }
            }
            if settled.written_bytes + settled.failed_bytes >= SETTLED {
                self.settle(std::mem::take(&mut settled), error.take());
            }
        }
        self.settle(settled, error);
    }

    fn settle(&self, settled: Settled, error: Option<String>) {
        let mut state = lock(&self.state);
        state.buffer.settle(settled);
        if error.is_some() {
            state.last_error = error;
        }
        self.progress.notify_all();
    }

    /// Waits until all lines of this moment are written; false when that takes longer.
    fn flush(self: &Arc<Self>, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = lock(&self.state);
        let (wanted, _) = state.buffer.progress();
        let gap = state.buffer.has_gap();
        loop {
            let (_, settled) = state.buffer.progress();
            if state.buffer.is_idle() || (settled >= wanted && !gap) {
                return true;
            }
            if !state.running {
                self.start(&mut state);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Tells the writer to end. Its thread, to be joined, if it did in time.
    fn stop(&self, patience: Duration, tell: impl FnOnce(&mut State)) -> Option<JoinHandle<()>> {
        let until = Instant::now() + patience;
        let mut state = lock(&self.state);
        tell(&mut state);
        self.work.notify_all();
        while state.running {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.writer.take()
    }
}

/// Lines to a file, a stream or a function, written by a thread of their own: whoever logs never waits.
///
/// What is not written yet waits in memory, at most ``max_bytes`` of it. A line that has no room is **dropped and
/// counted**, and where lines were dropped the output says so, in a line of its own. The last eighth of the room is for
/// warnings and worse. Lines leave in the order in which they came, each in one ``write`` (which files opened for
/// appending, and pipes up to 4 KiB, keep whole beside other processes' lines), a millisecond late at most when the
/// target is quick.
///
/// Parameters:
///     to: a path (opened for appending, made if need be); an open file or a file descriptor (written to by its number,
///         a duplicate of it unless it is 0, 1 or 2); anything else with a ``write`` method, or a function: called with
///         each line in the sink's thread, which takes the interpreter's lock for it. None: standard error.
///     format: ``"json"``, ``"console"``, or ``"auto"``: console on a terminal, else JSON. Colours on a terminal unless
///         ``NO_COLOR`` is set.
///     max_bytes: how many bytes of lines may wait, 1024 or more.
///     name: what it is called in ``repr`` and in metrics.
///
/// Raises:
///     OSError: the path cannot be opened, the descriptor is not open.
///     TypeError, ValueError: an argument makes no sense.
///
/// A forked child has a sink of its own to the same target: what waited at the fork is its parent's. A sink that is
/// collected writes what it has, then its thread ends.
#[pyclass(module = "loopwright", name = "LogSink", frozen, weakref)]
pub struct LogSink {
    shared: GilCell<Arc<Shared>>,
    target: GilCell<Arc<Target>>,
    path: Option<PathBuf>,
    limit: usize,
    format: Format,
    name: Option<String>,
}

impl LogSink {
    /// The thread's part, of this process.
    #[inline]
    fn with<T>(&self, py: Python<'_>, use_it: impl FnOnce(&Arc<Shared>) -> T) -> T {
        let mut shared = self.shared.borrow(py);
        if shared.forks != descriptor::forks() {
            let target = Arc::clone(&self.target.borrow(py));
            let fresh = Shared::new(target, self.format, self.limit);
            // The parent's: its thread is not here, and may have had its lock when it was copied.
            std::mem::forget(std::mem::replace(&mut *shared, fresh));
        }
        use_it(&shared)
    }

    fn shared(&self, py: Python<'_>) -> Arc<Shared> {
        self.with(py, Arc::clone)
    }

    /// Takes a line, line break included; tells whether there was room. `matters`: a warning, or worse.
    #[inline]
    pub fn push(&self, py: Python<'_>, line: &[u8], matters: bool) -> bool {
        self.with(py, |shared| shared.push(line, matters))
    }

    /// How lines look here.
    #[inline]
    pub fn line_format(&self) -> Format {
        self.format
    }
}

#[pymethods]
impl LogSink {
    #[new]
    #[pyo3(
        signature = (to = None, *, format = "auto", max_bytes = None, name = None),
        text_signature = "(to=None, *, format='auto', max_bytes=8_388_608, name=None)"
    )]
    fn new(
        py: Python<'_>,
        to: Option<&Bound<'_, PyAny>>,
        format: &str,
        max_bytes: Option<&Bound<'_, PyAny>>,
        name: Option<String>,
    ) -> PyResult<Self> {
        let limit = max_bytes.map_or(Ok(8 << 20), |given| args::count(given, "LogSink(max_bytes=...)", 1024))?;
        let path = to.map_or(Ok(None), path)?;
        let target = match (&path, to) {
            (Some(path), _) => Target::Own(open(path)?),
            (None, None) => Target::Lent(Lent::new(2)),
            (None, Some(to)) => target(to)?,
        };
        let format = match format {
            "json" => Format::Json,
            "console" => Format::Console { colour: colour(&target) },
            "auto" if target.is_terminal() => Format::Console { colour: colour(&target) },
            "auto" => Format::Json,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "LogSink(format=...) must be \"auto\", \"json\" or \"console\", got {}",
                    PyString::new(py, format).repr()?
                )));
            }
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let target = Arc::new(target);
        let shared = Shared::new(Arc::clone(&target), format, limit);
        Ok(Self { shared: GilCell::new(shared), target: GilCell::new(target), path, limit, format, name })
    }

    /// Takes a line of somebody else's making; a line break at its end is added if there is none.
    ///
    /// Returns:
    ///     Whether there was room for it.
    #[pyo3(signature = (line, /, *, matters = false))]
    fn write(&self, py: Python<'_>, line: &Bound<'_, PyString>, matters: bool) -> bool {
        let mut bytes = line.to_string_lossy().into_owned().into_bytes();
        if bytes.last() != Some(&b'\n') {
            bytes.push(b'\n');
        }
        self.push(py, &bytes, matters)
    }

    /// Blocks until the lines of this moment are written, at most ``timeout`` seconds; other threads go on. At the end
    /// of the process this is done by itself.
    ///
    /// Returns:
    ///     Whether they are.
    #[pyo3(signature = (timeout = None), text_signature = "($self, timeout=2.0)")]
    fn flush(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let patience = patience(timeout, "LogSink.flush(timeout=...)")?;
        let shared = self.shared(py);
        Ok(py.detach(|| shared.flush(patience)))
    }

    /// Flushes, then takes no more lines: they are counted as dropped. Closing twice is harmless.
    ///
    /// Returns:
    ///     Whether all lines were written within ``timeout`` seconds.
    #[pyo3(signature = (timeout = None), text_signature = "($self, timeout=2.0)")]
    fn close(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let patience = patience(timeout, "LogSink.close(timeout=...)")?;
        let shared = self.shared(py);
        Ok(py.detach(|| {
            let flushed = shared.flush(patience);
            let stopped = shared.stop(Duration::ZERO, |state| {
                state.mode = Mode::Closed;
                state.quit = true;
            });
            drop(stopped);
            flushed
        }))
    }

    /// Opens the path anew, for log rotation: lines that wait go to the new file.
    ///
    /// Raises:
    ///     OSError: it cannot be opened; the old file stays.
    ///     ValueError: this sink was not given a path.
    fn reopen(&self, py: Python<'_>) -> PyResult<()> {
        let Some(path) = &self.path else {
            return Err(PyValueError::new_err("only a LogSink that was given a path can be opened anew"));
        };
        let target = Arc::new(Target::Own(open(path)?));
        let shared = self.shared(py);
        let old = std::mem::replace(&mut lock(&shared.state).target, Arc::clone(&target));
        let kept = std::mem::replace(&mut *self.target.borrow(py), target);
        drop((old, kept));
        Ok(())
    }

    /// What it is called; None if nobody said.
    #[getter]
    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// ``"json"`` or ``"console"``.
    #[getter]
    fn format(&self) -> &'static str {
        match self.format {
            Format::Json => "json",
            Format::Console { .. } => "console",
        }
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> bool {
        self.with(py, |shared| lock(&shared.state).mode == Mode::Closed)
    }

    /// Returns:
    ///     A frozen :class:`LogSinkStats` of this moment.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static STATS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let (totals, waiting, last_error) = self.with(py, |shared| {
            let state = lock(&shared.state);
            let buffer = &state.buffer;
            (buffer.totals(), (buffer.held(), buffer.held_bytes()), state.last_error.clone())
        });
        let (held, held_bytes) = waiting;
        STATS.import(py, "loopwright.logs", "LogSinkStats")?.call1((
            totals.written,
            totals.written_bytes,
            totals.dropped,
            totals.failed,
            held,
            held_bytes,
            totals.peak_bytes,
            self.limit,
            last_error,
        ))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let (state, waiting, dropped) = self.with(py, |shared| {
            let state = lock(&shared.state);
            let closed = if state.mode == Mode::Closed { "closed " } else { "" };
            (closed, state.buffer.held(), state.buffer.totals().dropped)
        });
        let name = self.name.as_deref().map_or_else(String::new, |name| format!(" {name:?}"));
        format!("<LogSink{name} {state}format={} waiting={waiting} dropped={dropped}>", self.format())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.target.traverse(&visit, |target| match &**target {
            Target::Call(function) => visit.call(function),
            _ => Ok(()),
        })
    }
}

impl Drop for LogSink {
    fn drop(&mut self) {
        Python::attach(|py| {
            let shared = self.shared.borrow(py);
            if shared.forks == descriptor::forks() {
                let mut state = lock(&shared.state);
                state.quit = true;
                shared.work.notify_all();
            } else {
                std::mem::forget(Arc::clone(&shared)); // see `with`
            }
        });
    }
}

fn patience(given: Option<&Bound<'_, PyAny>>, what: &str) -> PyResult<Duration> {
    let seconds = given.map_or(Ok(2.0), |given| args::seconds(given, what))?;
    Ok(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::from_secs(u32::MAX.into())))
}

/// The path that was given, if that is what it is.
fn path(to: &Bound<'_, PyAny>) -> PyResult<Option<PathBuf>> {
    if !to.is_instance_of::<PyString>() && !to.hasattr(intern!(to.py(), "__fspath__"))? {
        return Ok(None);
    }
    to.extract().map(Some)
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn target(to: &Bound<'_, PyAny>) -> PyResult<Target> {
    let py = to.py();
    if to.is_instance_of::<PyInt>() && !to.is_instance_of::<PyBool>() {
        return of_number(to.extract()?);
    }
    if let Ok(number) = to.call_method0(intern!(py, "fileno")) {
        if to.hasattr(intern!(py, "flush"))? {
            to.call_method0(intern!(py, "flush"))?; // what is in its buffer was written before us
        }
        return of_number(number.extract()?);
    }
    if let Some(write) = to.getattr_opt(intern!(py, "write"))? {
        return Ok(Target::Call(write.unbind()));
    }
    if to.is_callable() {
        return Ok(Target::Call(to.clone().unbind()));
    }
    Err(PyTypeError::new_err(format!(
        "LogSink(to=...) must be a path, an open file, a file descriptor or a function, got {}",
        to.repr()?
    )))
}

fn of_number(number: i32) -> PyResult<Target> {
    let lent = Lent::new(number);
    if (0..=2).contains(&number) {
        return Ok(Target::Lent(lent)); // so that `os.dup2` on a standard stream is followed
    }
    let own = lent.try_clone().map_err(PyErr::from)?;
    Ok(Target::Own(own))
}

fn colour(target: &Target) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && (target.is_terminal() || set("FORCE_COLOR"))
}

/// Writes what every sink of the process has, `seconds` at most in all; tells whether that was enough. `last`: the
/// process ends, what is logged from now on is written at once.
#[pyfunction]
#[pyo3(name = "_flush_logs")]
pub fn flush_logs(py: Python<'_>, seconds: f64, last: bool) -> bool {
    let sinks = sinks();
    let until = Instant::now() + Duration::try_from_secs_f64(seconds).unwrap_or_default();
    py.detach(|| {
        let mut all = true;
        for sink in sinks {
            let flushed = sink.flush(until.saturating_duration_since(Instant::now()));
            let mut state = lock(&sink.state);
            if last && state.mode == Mode::Behind {
                // One that is stuck must not hold up the end.
                let at_once = flushed && state.target.is_native();
                state.mode = if at_once { Mode::AtOnce } else { Mode::Closed };
            }
            all &= flushed;
        }
        all
    })
}

/// Before a fork: no thread of ours shall be there, lest CPython warns of it. One that is in the middle of a slow write
/// stays; nothing depends on it.
#[pyfunction]
#[pyo3(name = "_before_fork")]
pub fn before_fork(py: Python<'_>) {
    let sinks = sinks();
    py.detach(|| {
        for sink in sinks {
            if let Some(writer) = sink.stop(BEFORE_FORK, |state| state.paused = true) {
                _ = writer.join();
            }
        }
    });
}

/// After a fork, in the parent: the writers go on.
#[pyfunction]
#[pyo3(name = "_after_fork")]
pub fn after_fork() {
    for sink in sinks() {
        let mut state = lock(&sink.state);
        state.paused = false;
        if !state.running {
            sink.start(&mut state);
        }
    }
}
