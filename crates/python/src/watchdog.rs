//! The watchdog of `run`: a native thread that ends the process in time, whatever blocks.
//!
//! Three parties. The *signal handler* ([`on_signal`]) sits in front of whatever handler the program has, writes one
//! datagram to a socket and calls that handler. The *decider* is a thread that reads the socket and owns the clock: from
//! the first signal it counts the grace; at its end, or at a second signal, it collects what it can, writes the report
//! and exits the process. It never waits for the interpreter. The *scribe* is a thread that may: it calls back into
//! Python for what only Python knows (who holds the loop, which tasks are alive) and the decider gives it little time.
//!
//! Programs replace signal handlers (asyncio's `add_signal_handler`, uvicorn): the decider looks every [`TICK`] and
//! puts [`on_signal`] in front again. A handler that is `SIG_IGN` or `SIG_DFL` is the program's wish and stays.
//!
//! `unsafe` here is what signals need: sigaction, the handler itself, and `_exit`.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use libc::{c_int, c_void, siginfo_t};
use loopwright_cli::args::Sink;
use loopwright_cli::report::{Child, Culprit, Phase, Process, Report, Signal};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::notify::Notifier;

#[cfg(target_os = "linux")]
use libc::__errno_location as errno_location;
#[cfg(not(target_os = "linux"))]
use libc::__error as errno_location;

/// How often the decider looks around.
const TICK: Duration = Duration::from_millis(50);
/// A loop that has not turned for this long is stalled.
const STALL: Duration = Duration::from_millis(100);
/// The same key press, or a parent that forwards what we got too: repeats this close count once.
const REPEAT: Duration = Duration::from_millis(50);
/// What collecting and writing at the end may each take.
const PATIENCE: Duration = Duration::from_millis(500);
/// How many culprits are kept.
const CULPRITS: usize = 5;

const WATCHED: [c_int; 2] = [libc::SIGTERM, libc::SIGINT];

/// The write end of the socket, or -1.
static PIPE: AtomicI32 = AtomicI32::new(-1);
/// The process that reads the other end; a forked child inherits the handler but not the thread.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// Signals seen by [`on_signal`] in this process, and whether the process sent the last one to itself.
static ARRIVALS: AtomicUsize = AtomicUsize::new(0);
static LAST_FROM_SELF: AtomicBool = AtomicBool::new(false);
/// What was installed before us, by signal.
static PREVIOUS: [Previous; 2] = [Previous::new(), Previous::new()];

struct Previous {
    handler: AtomicUsize,
    flags: AtomicI32,
    /// Whether Python's handler only stands in for the default action, which a forked child is due. Python forgets
    /// signals that arrive before the child has run its first bytecode.
    stands_in: AtomicBool,
}

impl Previous {
    const fn new() -> Self {
        Self { handler: AtomicUsize::new(libc::SIG_DFL), flags: AtomicI32::new(0), stands_in: AtomicBool::new(false) }
    }

    fn of(signal: c_int) -> Option<&'static Self> {
        WATCHED.iter().position(|&watched| watched == signal).map(|index| &PREVIOUS[index])
    }

    fn store(&self, action: &libc::sigaction) {
        self.handler.store(action.sa_sigaction, Ordering::Release);
        self.flags.store(action.sa_flags, Ordering::Release);
    }
}

/// In front of the program's handler: tells the decider, then calls it. Only async-signal-safe calls.
extern "C" fn on_signal(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(previous) = Previous::of(signal) else { return };
    // SAFETY: getpid, write, signal and raise are async-signal-safe; errno belongs to this thread and is put back; `info` is what the
    // kernel passes with SA_SIGINFO, checked for null; the fd is ours and stays open while it is in PIPE.
    unsafe {
        let errno = errno_location();
        let saved = *errno;
        let me = libc::getpid();
        let pipe = PIPE.load(Ordering::Acquire);
        if pipe >= 0 && OWNER.load(Ordering::Acquire) == me {
            let from_self = !info.is_null() && (*info).si_code <= 0 && (*info).si_pid() == me;
            LAST_FROM_SELF.store(from_self, Ordering::Release);
            ARRIVALS.fetch_add(1, Ordering::AcqRel);
            let message = Message { signal: signal as u8, from_self, at: monotonic() }.pack();
            libc::write(pipe, message.as_ptr().cast(), message.len());
        }
        *errno = saved;
        let owner = OWNER.load(Ordering::Acquire);
        if owner != 0 && owner != me && previous.stands_in.load(Ordering::Acquire) {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
            return;
        }
    }
    let handler = previous.handler.load(Ordering::Acquire);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        return;
    }
    if previous.flags.load(Ordering::Acquire) & libc::SA_SIGINFO != 0 {
        // SAFETY: sigaction reported this address as a handler of the three-argument kind, and it is neither of the
        // two special values.
        let call: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = unsafe { std::mem::transmute(handler) };
        call(signal, info, context);
    } else {
        // SAFETY: as above, of the one-argument kind.
        let call: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
        call(signal);
    }
}

/// What the handler tells the decider; one datagram.
struct Message {
    signal: u8,
    from_self: bool,
    /// [`monotonic`] time of the arrival.
    at: u64,
}

impl Message {
    const LENGTH: usize = 10;

    fn pack(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = self.signal;
        bytes[1] = u8::from(self.from_self);
        bytes[2..].copy_from_slice(&self.at.to_ne_bytes());
        bytes
    }

    fn unpack(bytes: [u8; Self::LENGTH]) -> Self {
        let [signal, from_self, at @ ..] = bytes;
        Self { signal, from_self: from_self != 0, at: u64::from_ne_bytes(at) }
    }
}

/// Nanoseconds of the clock that [`Instant`] reads too; a bare system call, so a signal handler may ask.
fn monotonic() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The action installed for a signal.
fn current(signal: c_int) -> libc::sigaction {
    // SAFETY: sigaction is plain data for which zero is valid; with a null new action the call only fills `action`.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action);
        action
    }
}

/// Installs an action and returns the one it replaced.
fn install(signal: c_int, action: &libc::sigaction) -> libc::sigaction {
    // SAFETY: both pointers are valid for the call; the handler in `action` is either `on_signal` or one that
    // sigaction reported for this signal before.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, action, &raw mut old);
        old
    }
}

fn our_handler() -> usize {
    on_signal as *const () as usize
}

/// Puts [`on_signal`] in front of the program's handlers where it is not.
fn arm() {
    for signal in WATCHED {
        let Some(previous) = Previous::of(signal) else { continue };
        let mut action = current(signal);
        if [our_handler(), libc::SIG_IGN, libc::SIG_DFL].contains(&action.sa_sigaction) {
            continue;
        }
        previous.store(&action);
        action.sa_sigaction = our_handler();
        action.sa_flags |= libc::SA_SIGINFO;
        let replaced = install(signal, &action);
        if replaced.sa_sigaction != our_handler() {
            previous.store(&replaced);
        }
    }
}

/// Takes [`on_signal`] away again.
fn disarm() {
    for signal in WATCHED {
        let Some(previous) = Previous::of(signal) else { continue };
        let mut action = current(signal);
        if action.sa_sigaction == our_handler() {
            action.sa_sigaction = previous.handler.load(Ordering::Acquire);
            action.sa_flags = previous.flags.load(Ordering::Acquire);
            install(signal, &action);
        }
    }
}

/// Keeps both signals off this thread: one taken here would set Python's flag and not wake the main thread.
pub fn leave_signals_to_the_main_thread() {
    // SAFETY: sigset_t is plain data, initialised by sigemptyset; the mask changed is this thread's own.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        for signal in WATCHED {
            libc::sigaddset(&raw mut signals, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
    }
}

/// Ends the process now: no atexit functions, no finalisation, nothing that could wait.
fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// Has faulthandler's C handler write every Python thread's stack to its file, from this very thread.
fn dump_stacks(signal: c_int) {
    // SAFETY: raise takes no pointers; the signal goes to this thread and its handler, faulthandler's, returns.
    unsafe {
        libc::raise(signal);
    }
}

fn name_of(signal: c_int) -> &'static str {
    if signal == libc::SIGINT { "SIGINT" } else { "SIGTERM" }
}

/// What the decider asks of the scribe.
enum Request {
    /// Who holds the loop: stalled for so long, since the heartbeat at so many nanoseconds.
    Stall { lag: Duration, beat: u64 },
    /// Which tasks are alive; at last also flush what Python buffers. Answered after each.
    Tasks { last: bool, done: SyncSender<()> },
}

/// State that every party reads; the locks are held for moments and never across a call into Python.
struct Shared {
    started: Instant,
    /// The same moment as [`monotonic`] tells it.
    started_at: u64,
    report: Mutex<Report>,
    sinks: Vec<Sink>,
    grace: Mutex<Duration>,
    first: Mutex<Option<(Instant, c_int)>>,
    quit: AtomicBool,
    written: AtomicBool,
    /// Nanoseconds from `started` to the last heartbeat; 0 while the loop does not run.
    beat: AtomicU64,
    /// The heartbeat for which a culprit was recorded last.
    culprit_of: AtomicU64,
    /// Whether the tasks were read since the first signal.
    tasks_read: AtomicBool,
    dump: Option<(c_int, Mutex<File>)>,
    notifier: Notifier,
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        lock(&self.report)
    }

    /// Stores a section of the report.
    fn put(&self, section: &str, json: &str) -> Result<(), String> {
        self.report().put(section, json)?;
        if section == "tasks" {
            self.tasks_read.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn nanos(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn phase(&self, name: &str) {
        let at = self.now();
        self.report().phases.push(Phase { name: name.to_owned(), at });
    }

    /// How long the loop has not turned, and since which heartbeat.
    fn silence(&self) -> Option<(Duration, u64)> {
        let beat = self.beat.load(Ordering::Acquire);
        (beat != 0).then(|| (Duration::from_nanos(self.nanos().saturating_sub(beat)), beat))
    }

    /// The report as of now.
    fn finished(&self) -> Report {
        let silence = self.silence();
        let mut report = self.report();
        if let Some((lag, beat)) = silence.filter(|(lag, _)| *lag > TICK + STALL) {
            let lag = (lag - TICK).as_secs_f64();
            let health = &mut report.event_loop;
            health.worst_lag = Some(health.worst_lag.unwrap_or(0.0).max(lag));
            if self.culprit_of.load(Ordering::Acquire) == beat
                && let Some(last) = health.culprits.last_mut()
            {
                last.lag = lag;
            }
        }
        let mut report = report.clone();
        report.event_loop.culprits.sort_by(|a, b| b.lag.total_cmp(&a.lag));
        report.uptime = self.now();
        report.process = process();
        report
    }

    /// Writes the report where it was asked for.
    fn write(&self, report: &Report) {
        if self.written.swap(true, Ordering::AcqRel) {
            return;
        }
        let forced = report.exit.forced.is_some();
        if self.sinks.contains(&Sink::Text) || (forced && report.stacks.is_some()) {
            _ = std::io::stderr().write_all(report.to_text().as_bytes());
        }
        for sink in &self.sinks {
            match sink {
                Sink::Text => {}
                Sink::Json => _ = writeln!(std::io::stderr(), "{}", report.to_json()),
                Sink::File(path) => {
                    let json = path.ends_with(".json");
                    let text = if json { report.to_json_pretty() + "\n" } else { report.to_text() };
                    if let Err(error) = fs::write(path, text) {
                        _ = writeln!(std::io::stderr(), "loopwright: cannot write the report to {path}: {error}");
                    }
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The decider's thread.
struct Decider {
    shared: Arc<Shared>,
    socket: UnixDatagram,
    scribe: Sender<Request>,
    /// The heartbeat for which the scribe was asked last.
    asked: u64,
}

impl Decider {
    fn run(mut self) {
        let mut bytes = [0; Message::LENGTH];
        loop {
            _ = self.socket.set_read_timeout(Some(self.patience()));
            let count = self.socket.recv(&mut bytes).unwrap_or(0);
            if self.shared.quit.load(Ordering::Acquire) {
                return;
            }
            if count == Message::LENGTH {
                self.arrived(&Message::unpack(bytes));
            }
            arm();
            self.look_for_a_stall();
            if self.remaining().is_some_and(|left| left.is_zero()) {
                self.force("grace");
            }
        }
    }

    /// Time left before collecting for the forced end has to begin.
    fn remaining(&self) -> Option<Duration> {
        let (first, _) = (*lock(&self.shared.first))?;
        let grace = *lock(&self.shared.grace);
        let margin = (grace / 5).min(PATIENCE);
        Some((grace - margin).saturating_sub(first.elapsed()))
    }

    fn patience(&self) -> Duration {
        self.remaining().unwrap_or(TICK).clamp(Duration::from_millis(1), TICK)
    }

    fn arrived(&mut self, message: &Message) {
        let Message { from_self, at, .. } = *message;
        let signal = c_int::from(message.signal);
        let name = name_of(signal).to_owned();
        let at = Duration::from_nanos(at.saturating_sub(self.shared.started_at)).as_secs_f64();
        self.shared.report().signals.push(Signal { name, at, from_self });
        let earlier = *lock(&self.shared.first);
        match earlier {
            None => {
                *lock(&self.shared.first) = Some((Instant::now(), signal));
                self.shared.notifier.send("STOPPING=1");
                _ = self.ask(false);
            }
            Some((first, _)) if !from_self && first.elapsed() > REPEAT => {
                lock(&self.shared.first).as_mut().expect("set by the first signal").1 = signal;
                self.force("second signal");
            }
            Some(_) => {}
        }
    }

    fn look_for_a_stall(&mut self) {
        if let Some((lag, beat)) = self.shared.silence()
            && lag > TICK + STALL
            && beat != self.asked
        {
            self.asked = beat;
            _ = self.scribe.send(Request::Stall { lag: lag - TICK, beat });
        }
    }

    fn ask(&self, last: bool) -> Receiver<()> {
        let (done, answer) = mpsc::sync_channel(2);
        _ = self.scribe.send(Request::Tasks { last, done });
        answer
    }

    /// Collects, writes, exits. Each step has its time; none waits for the interpreter.
    fn force(&self, why: &str) -> ! {
        let shared = &self.shared;
        shared.phase("forced");
        let code = 128 + lock(&shared.first).map_or(libc::SIGTERM, |(_, signal)| signal);
        let margin = (*lock(&shared.grace) / 5).min(PATIENCE);
        let answers = self.ask(true);
        if answers.recv_timeout(margin / 2).is_ok() {
            _ = answers.recv_timeout(margin / 4);
        }
        let mut report = shared.finished();
        report.exit.code = Some(code);
        report.exit.forced = Some(why.to_owned());
        report.exit.reason = name_of(code - 128).to_owned();
        report.tasks.unreadable = !shared.tasks_read.load(Ordering::Acquire);
        report.stacks = Some(shared.stacks());
        let (done, written) = mpsc::sync_channel(1);
        let writer = Arc::clone(shared);
        // A reader of our stderr that does not read, or a dead file system, must not keep us.
        let spawned = thread::Builder::new().name("loopwright-report".to_owned()).spawn(move || {
            writer.written.store(false, Ordering::Release);
            writer.write(&report);
            _ = done.send(());
        });
        if spawned.is_ok() {
            _ = written.recv_timeout(PATIENCE.min(margin.max(Duration::from_millis(100))));
        }
        exit_now(code)
    }
}

impl Shared {
    /// Every Python thread's stack, read by faulthandler without the interpreter's lock.
    fn stacks(&self) -> String {
        let dump = self.dump.as_ref().filter(|(signal, _)| current(*signal).sa_sigaction != libc::SIG_DFL);
        let Some((signal, file)) = dump else { return "not available: the interpreter is gone\n".to_owned() };
        dump_stacks(*signal);
        let mut file = lock(file);
        let mut text = Vec::new();
        _ = file.rewind();
        _ = file.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// The scribe's thread. `witness("stall")` returns the stack that holds the loop, `witness("tasks")` the section `tasks`
/// as JSON, `witness("flush")` flushes what Python buffers.
fn scribe(shared: &Shared, witness: &Py<PyAny>, requests: &Receiver<Request>) {
    while let Ok(request) = requests.recv() {
        match request {
            Request::Stall { lag, beat } => {
                let seen = Python::try_attach(|py| -> PyResult<Vec<String>> {
                    if shared.beat.load(Ordering::Acquire) != beat {
                        return Ok(Vec::new());
                    }
                    witness.call1(py, ("stall",))?.extract(py)
                });
                if let Some(Ok(stack)) = seen
                    && !stack.is_empty()
                {
                    shared.culprit_of.store(beat, Ordering::Release);
                    let culprit = Culprit { lag: lag.as_secs_f64(), at: shared.now() - lag.as_secs_f64(), stack };
                    let mut report = shared.report();
                    let culprits = &mut report.event_loop.culprits;
                    if culprits.len() == CULPRITS
                        && let Some(least) = (0..CULPRITS).min_by(|&a, &b| culprits[a].lag.total_cmp(&culprits[b].lag))
                    {
                        culprits.remove(least);
                    }
                    culprits.push(culprit);
                }
            }
            Request::Tasks { last, done } => {
                let seen = Python::try_attach(|py| witness.call1(py, ("tasks",))?.extract::<String>(py));
                if let Some(Ok(json)) = seen {
                    _ = shared.put("tasks", &json);
                    _ = done.send(());
                }
                if last {
                    // A lock that the stuck thread holds may keep us here for ever; the decider goes on without us.
                    _ = Python::try_attach(|py| witness.call1(py, ("flush",)).map(drop));
                    _ = done.send(());
                }
            }
        }
    }
}

struct Threads {
    decider: thread::JoinHandle<()>,
    /// Gives an error when the scribe has ended.
    scribe_ended: Receiver<()>,
    waker: UnixDatagram,
}

/// Ends the process in time, and keeps what the report needs where a native thread can read it.
///
/// Internal: `loopwright.run` and `loopwright run` own one each.
#[pyclass(frozen, module = "loopwright._loopwright")]
pub struct Watchdog {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
}

impl Watchdog {
    /// A program may end within microseconds of its signal: gives the decider, which enters signals into the report, the
    /// time to do so. Bounded, since it has better things to do when it forces the end.
    fn wait_for_the_decider(&self) {
        let patience = Instant::now() + Duration::from_secs(1);
        while self.shared.report().signals.len() < ARRIVALS.load(Ordering::Acquire) && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[pymethods]
impl Watchdog {
    /// `report` is a list of `text`, `json` and paths; `dump_signal` the signal for which faulthandler writes stacks to
    /// the file descriptor `dump_fd`.
    #[new]
    #[pyo3(signature = (*, grace, report, dump_signal=None, dump_fd=None))]
    fn new(grace: f64, report: Vec<String>, dump_signal: Option<c_int>, dump_fd: Option<c_int>) -> PyResult<Self> {
        let dump = match (dump_signal, dump_fd) {
            (Some(signal), Some(fd)) => Some((signal, Mutex::new(File::open(format!("/dev/fd/{fd}"))?))),
            _ => None,
        };
        let sinks = report
            .into_iter()
            .map(|word| match word.as_str() {
                "text" => Sink::Text,
                "json" => Sink::Json,
                _ => Sink::File(word),
            })
            .collect();
        let mut document = Report { schema: 1, ..Report::default() };
        document.event_loop.threshold = STALL.as_secs_f64();
        Ok(Self {
            shared: Arc::new(Shared {
                started: Instant::now(),
                started_at: monotonic(),
                report: Mutex::new(document),
                sinks,
                grace: Mutex::new(duration(grace)?),
                first: Mutex::new(None),
                quit: AtomicBool::new(false),
                written: AtomicBool::new(false),
                beat: AtomicU64::new(0),
                culprit_of: AtomicU64::new(0),
                tasks_read: AtomicBool::new(false),
                dump,
                notifier: Notifier::from_env(),
            }),
            threads: Mutex::new(None),
        })
    }

    /// Starts the threads and puts the signal handler in front. One watchdog at a time in a process.
    fn start(&self, witness: Py<PyAny>) -> PyResult<()> {
        let mut threads = lock(&self.threads);
        if threads.is_some() || OWNER.load(Ordering::Acquire) == std::process::id() as i32 {
            return Err(PyRuntimeError::new_err("a watchdog runs in this process already"));
        }
        let (waker, socket) = UnixDatagram::pair()?;
        waker.set_nonblocking(true)?;
        let (scribe_sender, requests) = mpsc::channel();
        let (ended, scribe_ended) = mpsc::sync_channel(0);
        let shared = Arc::clone(&self.shared);
        thread::Builder::new().name("loopwright-scribe".to_owned()).spawn(move || {
            leave_signals_to_the_main_thread();
            scribe(&shared, &witness, &requests);
            Python::try_attach(|_| drop(witness));
            drop::<SyncSender<()>>(ended);
        })?;
        let decider = Decider { shared: Arc::clone(&self.shared), socket, scribe: scribe_sender, asked: 0 };
        let decider = thread::Builder::new().name("loopwright-watchdog".to_owned()).spawn(move || {
            leave_signals_to_the_main_thread();
            // A watchdog with a defect in it must not leave a process that nothing ends.
            let shared = Arc::clone(&decider.shared);
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| decider.run())).is_err() {
                let first = *lock(&shared.first);
                if let Some((_, signal)) = first {
                    exit_now(128 + signal);
                }
            }
        })?;
        ARRIVALS.store(0, Ordering::Release);
        PIPE.store(waker.as_raw_fd(), Ordering::Release);
        OWNER.store(std::process::id() as i32, Ordering::Release);
        arm();
        *threads = Some(Threads { decider, scribe_ended, waker });
        Ok(())
    }

    /// Stops the threads and takes the signal handler away. Harmless when not started, and in a forked child.
    fn stop(&self, py: Python<'_>) {
        PREVIOUS.iter().for_each(|previous| previous.stands_in.store(false, Ordering::Release));
        let Some(threads) = lock(&self.threads).take() else { return };
        if OWNER.load(Ordering::Acquire) != std::process::id() as i32 {
            std::mem::forget(threads);
            return;
        }
        disarm();
        self.shared.quit.store(true, Ordering::Release);
        py.detach(move || {
            _ = threads.waker.send(&[0]);
            _ = threads.decider.join();
            // The scribe has lost its asker; it may be in the middle of a call into Python.
            _ = threads.scribe_ended.recv_timeout(PATIENCE);
            PIPE.store(-1, Ordering::Release);
        });
        OWNER.store(0, Ordering::Release);
    }

    /// Puts the signal handler in front again, now instead of at the next tick.
    fn rearm(&self) {
        if OWNER.load(Ordering::Acquire) == std::process::id() as i32 {
            arm();
        }
    }

    /// Python's handler for `signal` now stands in for the default action, or no longer.
    fn stand_in(&self, signal: c_int, does: bool) {
        if let Some(previous) = Previous::of(signal) {
            previous.stands_in.store(does, Ordering::Release);
        }
    }

    /// Seconds from the first signal to the end.
    #[getter]
    fn grace(&self) -> f64 {
        lock(&self.shared.grace).as_secs_f64()
    }

    #[setter]
    fn set_grace(&self, seconds: f64) -> PyResult<()> {
        *lock(&self.shared.grace) = duration(seconds)?;
        Ok(())
    }

    /// Number of the first signal, if one arrived.
    #[getter]
    fn first_signal(&self) -> Option<c_int> {
        lock(&self.shared.first).map(|(_, signal)| signal)
    }

    /// Signals that arrived. Exact in a Python handler, unlike `first_signal`, which the thread sets.
    #[getter]
    fn arrivals(&self) -> usize {
        ARRIVALS.load(Ordering::Acquire)
    }

    /// Whether the process sent the last signal to itself.
    #[getter]
    fn last_from_self(&self) -> bool {
        LAST_FROM_SELF.load(Ordering::Acquire)
    }

    /// Seconds left of the grace; `None` before the first signal.
    #[getter]
    fn remaining(&self) -> Option<f64> {
        let (first, _) = (*lock(&self.shared.first))?;
        Some(lock(&self.shared.grace).saturating_sub(first.elapsed()).as_secs_f64())
    }

    /// A phase begins now.
    fn phase(&self, name: &str) {
        self.shared.phase(name);
    }

    /// The loop turned, `lag` seconds later than it should have. The first call starts the watch for stalls.
    fn beat(&self, lag: f64) {
        let shared = &self.shared;
        let previous = shared.beat.swap(shared.nanos().max(1), Ordering::AcqRel);
        let mut report = shared.report();
        let health = &mut report.event_loop;
        if health.worst_lag.is_none_or(|worst| lag > worst) {
            health.worst_lag = Some(lag);
        }
        if lag > STALL.as_secs_f64() {
            health.stalls += 1;
            if shared.culprit_of.load(Ordering::Acquire) == previous
                && let Some(last) = health.culprits.last_mut()
            {
                last.lag = lag;
            }
        }
    }

    /// The loop stopped running: its silence is no stall.
    fn rest(&self) {
        self.shared.beat.store(0, Ordering::Release);
    }

    /// Replaces a section of the report, given as JSON.
    fn put(&self, section: &str, json: &str) -> PyResult<()> {
        self.shared.put(section, json).map_err(PyValueError::new_err)
    }

    /// The report as of now, as JSON.
    fn report(&self) -> String {
        self.shared.finished().to_json()
    }

    /// Writes the report where it was asked for, once.
    fn write(&self, py: Python<'_>) {
        py.detach(|| {
            self.wait_for_the_decider();
            self.shared.write(&self.shared.finished());
        });
    }

    /// Sends a message to systemd, if it listens.
    fn notify(&self, message: &str) {
        self.shared.notifier.send(message);
    }

    /// Whether systemd listens.
    #[getter]
    fn notifies(&self) -> bool {
        self.shared.notifier.is_on()
    }
}

fn duration(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| PyValueError::new_err(format!("grace must be a number of seconds above 0, not {seconds}")))
}

/// What the system tells of this process.
fn process() -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let kibibytes = |name| field(name).map(|value| value * 1024);
    Process {
        rss: kibibytes("VmRSS:"),
        peak_rss: kibibytes("VmHWM:"),
        // Reading the directory opens one more.
        file_descriptors: fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as u64),
        threads: field("Threads:"),
        children: children(),
    }
}

/// A process of multiprocessing's that ends when we do.
const HELPER: &str = "multiprocessing.resource_tracker";

/// Child processes that still run (a zombie does not).
fn children() -> Vec<Child> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<u32> = lists
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|pid| pid.parse().ok())
        .collect();
    pids.into_iter()
        .filter_map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|line| !line.is_empty())?;
            let words = String::from_utf8_lossy(&line).replace('\0', " ");
            if words.contains(HELPER) {
                return None;
            }
            Some(Child { pid, command: words.trim_end().chars().take(200).collect() })
        })
        .collect()
}
