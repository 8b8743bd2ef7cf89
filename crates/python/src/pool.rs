//! _Pool, _KeyedPool: what `loopwright.pools` builds Pool and KeyedPool on. The machine is `loopwright_core::pool`.
//!
//! Lives here: the connections behind the ledger's numbers, who uses which, the loop a pool belongs to, its one
//! deadline, and the carrying out of what the ledger decides. Does not live here: what a connect, a check, a reset or a
//! close *is*: those are the user's hooks, driven by thin coroutines in `loopwright/pools.py`, whose methods this calls
//! with no borrow held and which report back (`_connected`, `_checked`, ...).
//!
//! No connection, key or exception is dropped while the pool is borrowed: dropping one may run anything.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use loopwright_core::deadlines::Key;
use loopwright_core::pool::{Action, Actions, Condition, Config, Conn, KeyId, Ledger, Order, Phase, Refusal};
use loopwright_core::pool::{Resumed as Given, State as Stage, Ticket};
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};

use crate::aio;
use crate::args;
use crate::fut::Fut;
use crate::gil::{GilCell, GilRef};
use crate::hub::{Hub, Origin};
use crate::lease::Lease;
use crate::op::Waker;
use crate::timers::{Address, Deadline};

/// One use of a connection: tells it from the uses before and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use(u64);

/// A connect's exception. The ledger keeps copies and drops them when it likes; the pool keeps one more meanwhile, so
/// that the last of them is never dropped within a borrow.
pub type Failure = Arc<Failed>;

/// See [`Failure`].
pub struct Failed {
    error: Py<PyAny>,
    /// As the connect left it: each waiter that the error is raised in adds its own frames.
    traceback: Option<Py<PyAny>>,
}

/// Who uses a connection.
struct User {
    used: Use,
    since: f64,
    /// Task and line; only for pools that report leaks.
    site: Option<Py<PyAny>>,
    /// Given back by the end of a block, not by `release`.
    is_block: bool,
}

/// A connection that exists.
struct Slot {
    conn: Conn,
    object: Py<PyAny>,
    /// The usual one.
    user: Option<User>,
    /// Those who share it.
    others: Vec<User>,
}

impl Slot {
    fn users(&self) -> impl Iterator<Item = &User> {
        self.user.iter().chain(&self.others)
    }

    fn begin(&mut self, user: User) {
        if self.user.is_none() {
            self.user = Some(user);
        } else {
            self.others.push(user);
        }
    }

    /// Ends the first use that this is true of.
    fn end(&mut self, is_it: impl Fn(&User) -> bool) -> Option<User> {
        if self.user.as_ref().is_some_and(&is_it) {
            return self.user.take();
        }
        let at = self.others.iter().position(is_it)?;
        Some(self.others.swap_remove(at))
    }

    fn is_used(&self) -> bool {
        self.user.is_some() || !self.others.is_empty()
    }
}

/// How long things took, by powers of two of a microsecond.
#[derive(Clone, Copy, Default)]
struct Histogram {
    counts: [u64; Histogram::BUCKETS],
    /// Seconds, all together.
    total: f64,
}

impl Histogram {
    /// The last one is for everything from about nine minutes on.
    const BUCKETS: usize = 30;

    #[inline]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    fn add(&mut self, seconds: f64) {
        let microseconds = (seconds * 1e6) as u64;
        let bucket = (u64::BITS - microseconds.leading_zeros()) as usize;
        self.counts[bucket.min(Self::BUCKETS - 1)] += 1;
        self.total += seconds.max(0.0);
    }
}

type ByObject = HashMap<usize, Vec<Conn>, BuildHasherDefault<Address>>;

/// See the module's documentation.
#[pyclass(module = "loopwright._loopwright", name = "_Pool", frozen, subclass, weakref)]
pub struct Pool(GilCell<State>);

struct State {
    ledger: Ledger<Waker, Failure>,
    /// What the ledger wants done, in order; `out` is its scratch paper.
    todo: VecDeque<Action<Waker>>,
    out: Actions<Waker>,
    /// Somebody further down the stack does it.
    busy: bool,
    /// By the number of the connection.
    slots: Vec<Option<Slot>>,
    by_object: ByObject,
    /// Taken from their users: the pool has closed or forgotten them, and their users have not noticed yet.
    orphans: Vec<Slot>,
    failures: Vec<Failure>,
    /// Key -> number, and back; of a KeyedPool.
    keys: Option<Py<PyDict>>,
    names: Vec<Option<(KeyId, Py<PyAny>)>>,
    /// From the first connection on, until the last is gone and another loop comes.
    hub: Option<Py<Hub>>,
    alarm: Option<(f64, Key, Py<Hub>)>,
    /// When the pool was last told the time.
    now: f64,
    timeout: f64,
    /// Is asked about every connection that comes back: whether the next user can have it.
    is_clean: Option<Py<PyAny>>,
    /// Is asked about every connection that is handed out, and without `is_clean` about those that come back.
    is_closed: Option<Py<PyAny>>,
    traces: bool,
    uses: u64,
    waits: Histogram,
    holds: Histogram,
}

impl State {
    fn new(config: Config) -> Self {
        Self {
            ledger: Ledger::new(config),
            todo: VecDeque::new(),
            out: Actions::default(),
            busy: false,
            slots: Vec::new(),
            by_object: HashMap::default(),
            orphans: Vec::new(),
            failures: Vec::new(),
            keys: None,
            names: Vec::new(),
            hub: None,
            alarm: None,
            now: 0.0,
            timeout: 30.0,
            is_clean: None,
            is_closed: None,
            traces: false,
            uses: 0,
            waits: Histogram::default(),
            holds: Histogram::default(),
        }
    }

    fn slot(&mut self, conn: Conn) -> Option<&mut Slot> {
        self.slots.get_mut(conn.index())?.as_mut().filter(|slot| slot.conn == conn)
    }

    /// Whether the pool still has this connection.
    fn has(&self, conn: Conn) -> bool {
        self.slots.get(conn.index()).and_then(Option::as_ref).is_some_and(|slot| slot.conn == conn)
    }

    fn insert(&mut self, py: Python<'_>, conn: Conn, object: &Py<PyAny>) {
        let index = conn.index();
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        debug_assert!(self.slots[index].is_none(), "the number of a connection that is still there");
        self.slots[index] = Some(Slot { conn, object: object.clone_ref(py), user: None, others: Vec::new() });
        self.by_object.entry(object.as_ptr() as usize).or_default().push(conn);
    }

    /// The pool has this connection no longer. Drop the result when no borrow is held.
    #[must_use]
    fn remove(&mut self, conn: Conn) -> Option<Slot> {
        if !self.has(conn) {
            return None;
        }
        let slot = self.slots[conn.index()].take()?;
        let address = slot.object.as_ptr() as usize;
        if let Some(conns) = self.by_object.get_mut(&address) {
            conns.retain(|&other| other != conn);
            if conns.is_empty() {
                self.by_object.remove(&address);
            }
        }
        if self.slots.len() > 1024 && self.by_object.is_empty() {
            self.slots = Vec::new();
        }
        Some(slot)
    }

    /// A connection is in use from now on.
    #[inline]
    fn hand_out(
        &mut self,
        py: Python<'_>,
        conn: Conn,
        now: f64,
        site: Option<Py<PyAny>>,
        is_block: bool,
    ) -> Option<(Py<PyAny>, Use)> {
        self.uses += 1;
        let used = Use(self.uses);
        let slot = self.slot(conn)?;
        slot.begin(User { used, since: now, site, is_block });
        Some((slot.object.clone_ref(py), used))
    }

    /// Which connection an object is, and whether the pool minds it being given back: the pool's own state, not the
    /// ledger's.
    fn find_used(&self, object: &Bound<'_, PyAny>) -> Option<(Conn, Use)> {
        let conns = self.by_object.get(&(object.as_ptr() as usize))?;
        conns.iter().find_map(|&conn| {
            let slot = self.slots.get(conn.index())?.as_ref()?;
            // A block gives back what it got itself, unless it is the only user: then `release` may be early.
            let by_hand = slot.users().find(|user| !user.is_block);
            let user = by_hand.or_else(|| slot.users().next().filter(|_| slot.others.is_empty()))?;
            Some((conn, user.used))
        })
    }

    /// Which shared connection an object is that only blocks have. Each of them gives it back itself.
    fn find_in_blocks(&self, object: &Bound<'_, PyAny>) -> Option<Conn> {
        let conns = self.by_object.get(&(object.as_ptr() as usize))?;
        conns
            .iter()
            .copied()
            .find(|conn| self.slots.get(conn.index()).is_some_and(|slot| slot.as_ref().is_some_and(Slot::is_used)))
    }

    /// A user notices that its connection has been taken from it. Drop the result when no borrow is held.
    #[must_use]
    fn remove_orphan(
        &mut self,
        is_it: impl Fn(&Slot) -> bool,
        is_user: impl Fn(&User) -> bool,
    ) -> Option<(Option<User>, Option<Slot>)> {
        let at = self.orphans.iter().position(|slot| is_it(slot) && slot.users().any(&is_user))?;
        let user = self.orphans[at].end(is_user);
        Some((user, if self.orphans[at].is_used() { None } else { Some(self.orphans.swap_remove(at)) }))
    }

    fn name_of(&self, py: Python<'_>, key: KeyId) -> Option<Py<PyAny>> {
        self.names.get(key.index())?.as_ref().map(|(_, name)| name.clone_ref(py))
    }
}

/// For messages and for Python.
fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Wait => "wait",
        Phase::Connect => "connect",
        Phase::Check => "check",
        Phase::Reset => "reset",
        Phase::Use => "use",
        Phase::Close => "close",
    }
}

/// What a pool gives out: the connection, its number, this use of it.
pub type Grabbed = (Py<PyAny>, Conn, Use);

impl Pool {
    fn state<'a>(slf: &'a Bound<'_, Self>) -> GilRef<'a, State> {
        slf.get().0.borrow(slf.py())
    }

    /// Whether an acquire needs nothing but the pool.
    #[inline]
    pub fn asks_nothing(&self, py: Python<'_>) -> bool {
        let pool = self.0.borrow(py);
        !pool.traces && pool.keys.is_none()
    }

    /// For messages.
    pub fn acquire_name(&self, py: Python<'_>) -> &'static str {
        if self.0.borrow(py).keys.is_some() { "KeyedPool.acquire" } else { "Pool.acquire" }
    }

    // --- the loop and its time ---------------------------------------------------------------------------------------

    /// The time, as the pool's loop tells it; the time it was last told when that loop is gone.
    fn now(slf: &Bound<'_, Self>) -> f64 {
        let py = slf.py();
        let (hub, last) = {
            let pool = Self::state(slf);
            (pool.hub.as_ref().map(|hub| hub.clone_ref(py)), pool.now)
        };
        let now = hub.and_then(|hub| Hub::now(hub.bind(py)).ok()).unwrap_or(last);
        Self::state(slf).now = now;
        now
    }

    /// Whether the pool's loop is the one that runs here. False when it has none.
    fn is_at_home(slf: &Bound<'_, Self>) -> bool {
        Self::state(slf).hub.as_ref().is_some_and(|hub| aio::is_running(slf.py(), hub))
    }

    /// Binds the pool to the running loop. The connections of a loop that was closed are forgotten.
    ///
    /// # Errors
    /// `LoopMismatch` while there are connections of another loop; `RuntimeError` without a running loop.
    fn settle(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Self::is_at_home(slf) {
            return Ok(());
        }
        let py = slf.py();
        let hub = aio::hub(py)?;
        let old = Self::state(slf).hub.as_ref().map(|hub| hub.clone_ref(py));
        if let Some(old) = old {
            if old.is(&hub) {
                return Ok(()); // this thread had met another loop in between
            }
            let gone = match old.get().event_loop(py) {
                Ok(event_loop) => event_loop.call_method0(intern!(py, "is_closed"))?.is_truthy()?,
                Err(_) => true,
            };
            if gone {
                slf.call_method0(intern!(py, "_loop_is_gone"))?;
            } else {
                let (open, waiting) = {
                    let pool = Self::state(slf);
                    let counts = pool.ledger.counts();
                    let open = counts.idle + counts.checking + counts.in_use + counts.resetting;
                    (open + counts.opening + counts.closing, counts.waiting)
                };
                if open + waiting > 0 {
                    return Err(Self::elsewhere(slf, open, waiting));
                }
            }
        }
        let mut pool = Self::state(slf);
        let before = (pool.hub.replace(hub), pool.alarm.take());
        drop(pool);
        if let (_, Some((_, key, hub))) = &before {
            drop(Hub::remove_deadline(hub.bind(py), *key));
        }
        drop(before);
        // The deadlines of its books, and what it keeps warm, are the new loop's now.
        Self::event(slf, |ledger, now, out| ledger.tick(now, out))
    }

    #[cold]
    fn elsewhere(slf: &Bound<'_, Self>, open: usize, waiting: usize) -> PyErr {
        let name = Self::shown(slf);
        aio::loopwright_error(
            slf.py(),
            "LoopMismatch",
            format!(
                "{name} is bound to a different event loop, which has {open} connection(s) and {waiting} waiter(s) of \
                 it: use one pool per loop, or close it there first; a thread without a loop asks the loop's own \
                 thread (`asyncio.run_coroutine_threadsafe`)"
            ),
        )
    }

    fn shown(slf: &Bound<'_, Self>) -> String {
        slf.getattr(intern!(slf.py(), "_label"))
            .and_then(|label| label.extract::<String>())
            .unwrap_or_else(|_| String::from("the pool"))
    }

    /// `release` and `discard` are for the loop's own thread too: they wake whoever waits.
    fn check_thread(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let hub = Self::state(slf).hub.as_ref().map(|hub| hub.clone_ref(py));
        match hub {
            Some(hub) if !aio::met_last(&hub) && !aio::is_running(py, &hub) => Self::settle(slf),
            _ => Ok(()),
        }
    }

    // --- events ------------------------------------------------------------------------------------------------------

    /// Tells the ledger something, and carries out what it wants done.
    fn event<T>(
        slf: &Bound<'_, Self>,
        event: impl FnOnce(&mut Ledger<Waker, Failure>, f64, &mut Actions<Waker>) -> T,
    ) -> PyResult<T> {
        let now = Self::now(slf);
        Self::event_at(slf, now, event)
    }

    /// The same at a time that was looked up already.
    fn event_at<T>(
        slf: &Bound<'_, Self>,
        now: f64,
        event: impl FnOnce(&mut Ledger<Waker, Failure>, f64, &mut Actions<Waker>) -> T,
    ) -> PyResult<T> {
        let told = {
            let mut pool = Self::state(slf);
            let State { ledger, out, todo, .. } = &mut *pool;
            let told = event(ledger, now, out);
            todo.extend(out.drain());
            told
        };
        Self::carry_out(slf)?;
        Ok(told)
    }

    /// Does what is to be done. What that brings about in turn is done by the outermost call.
    fn carry_out(slf: &Bound<'_, Self>) -> PyResult<()> {
        if std::mem::replace(&mut Self::state(slf).busy, true) {
            return Ok(());
        }
        let mut outcome = Ok(());
        loop {
            let Some(action) = Self::state(slf).todo.pop_front() else { break };
            let Err(error) = Self::carry_out_one(slf, action) else { continue };
            // What is ordinary was reported where it happened; a loop that is closed takes no wake-ups.
            let ordinary = error.is_instance_of::<PyException>(slf.py());
            outcome = outcome.and(Err(error));
            if !ordinary {
                break;
            }
        }
        Self::state(slf).busy = false;
        outcome.and(Self::set_alarm(slf))
    }

    fn carry_out_one(slf: &Bound<'_, Self>, action: Action<Waker>) -> PyResult<()> {
        let py = slf.py();
        let object = |conn: Conn| Self::state(slf).slot(conn).map(|slot| slot.object.clone_ref(py));
        match action {
            Action::Wake(Waker::Task(fut)) => Fut::wake(fut.bind(py), Origin::Loop),
            Action::Wake(Waker::Thread(thread)) => {
                thread.wake();
                Ok(())
            }
            Action::Connect(conn, key) => {
                let key = Self::state(slf).name_of(py, key);
                slf.call_method1(intern!(py, "_start_connect"), (conn.to_bits(), key)).map(drop)
            }
            Action::Check(conn) => {
                slf.call_method1(intern!(py, "_start_check"), (conn.to_bits(), object(conn))).map(drop)
            }
            Action::Reset(conn) => {
                slf.call_method1(intern!(py, "_start_reset"), (conn.to_bits(), object(conn))).map(drop)
            }
            Action::Close(conn) => {
                slf.call_method1(intern!(py, "_start_close"), (conn.to_bits(), object(conn))).map(drop)
            }
            Action::Abort(conn, phase) => {
                let object = Self::lose(slf, conn);
                slf.call_method1(intern!(py, "_abandon"), (conn.to_bits(), phase_name(phase), object)).map(drop)
            }
            Action::Forget(key) => Self::forget_key(slf, key),
            Action::Leak(conn, held) => {
                let (object, site) = {
                    let mut pool = Self::state(slf);
                    let slot = pool.slot(conn);
                    let site = slot.as_ref().and_then(|slot| slot.users().next()?.site.as_ref());
                    (slot.as_ref().map(|slot| slot.object.clone_ref(py)), site.map(|site| site.clone_ref(py)))
                };
                slf.call_method1(intern!(py, "_leaked"), (object, held, site)).map(drop)
            }
            Action::Drained => {
                // The loop's deadline would keep a closed pool alive.
                let alarm = Self::state(slf).alarm.take();
                if let Some((_, key, hub)) = alarm {
                    drop(Hub::remove_deadline(hub.bind(py), key));
                }
                slf.call_method0(intern!(py, "_drained")).map(drop)
            }
        }
    }

    /// A connection that the pool has written off. Its users keep it until they notice.
    fn lose(slf: &Bound<'_, Self>, conn: Conn) -> Option<Py<PyAny>> {
        let py = slf.py();
        let mut pool = Self::state(slf);
        let slot = pool.remove(conn)?;
        let object = slot.object.clone_ref(py);
        let unused = if slot.is_used() {
            pool.orphans.push(slot);
            None
        } else {
            Some(slot)
        };
        drop(pool);
        drop(unused);
        Some(object)
    }

    fn set_alarm(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (when, now, hub, old) = {
            let mut pool = Self::state(slf);
            let Some(when) = pool.ledger.alarm() else { return Ok(()) };
            let Some(hub) = &pool.hub else { return Ok(()) };
            (when, pool.now, hub.clone_ref(py), pool.alarm.take())
        };
        if let Some((_, key, hub)) = old {
            drop(Hub::remove_deadline(hub.bind(py), key));
        }
        let key = Hub::add_deadline(hub.bind(py), when, now, Deadline::Pool(slf.clone().unbind()))?;
        let before = Self::state(slf).alarm.replace((when, key, hub));
        if let Some((_, key, hub)) = before {
            drop(Hub::remove_deadline(hub.bind(py), key));
        }
        Ok(())
    }

    /// The deadline has come.
    ///
    /// # Errors
    /// `KeyboardInterrupt` and the like.
    pub fn go_off(slf: &Bound<'_, Self>) -> PyResult<()> {
        let spent = Self::state(slf).alarm.take();
        // A timer may go off a hair before its time. Then nothing would be due, and it would be set for the same again.
        let when = spent.as_ref().map_or(f64::NEG_INFINITY, |(when, ..)| *when);
        drop(spent);
        Self::event(slf, |ledger, now, out| ledger.tick(now.max(when), out))
    }

    // --- acquire -----------------------------------------------------------------------------------------------------

    /// As [`grab`](Self::grab), where that runs no Python code; drops nothing.
    #[inline]
    pub fn grab_at_once(&self, py: Python<'_>, is_block: bool) -> Option<Grabbed> {
        let mut pool = self.0.borrow(py);
        let hub = pool.hub.as_ref()?;
        if pool.traces || pool.is_closed.is_some() || !aio::is_running(py, hub) {
            return None;
        }
        let now = hub.get().now_at_once(py)?;
        let key = pool.ledger.pinned();
        let conn = pool.ledger.try_acquire(key, now)?;
        pool.now = now;
        pool.waits.counts[0] += 1;
        let (object, used) = pool.hand_out(py, conn, now, None, is_block)?;
        Some((object, conn, used))
    }

    /// A connection that needs no waiting.
    ///
    /// # Errors
    /// `LoopMismatch`, and what the key's `__hash__` and `__eq__` raise.
    pub fn grab(
        slf: &Bound<'_, Self>,
        key: Option<&Py<PyAny>>,
        site: Option<&Py<PyAny>>,
        is_block: bool,
    ) -> PyResult<Option<Grabbed>> {
        let py = slf.py();
        if !Self::is_at_home(slf) {
            Self::settle(slf)?;
        }
        let Some(key) = Self::find_key(slf, key)? else { return Ok(None) };
        let now = Self::now(slf);
        loop {
            let grabbed = {
                let mut pool = Self::state(slf);
                let Some(conn) = pool.ledger.try_acquire(key, now) else { return Ok(None) };
                let site = site.map(|site| site.clone_ref(py));
                pool.hand_out(py, conn, now, site, is_block).map(|(object, used)| (object, conn, used))
            };
            if let Some((object, conn, used)) = &grabbed
                && Self::is_closed(slf, object, *conn, *used)?
            {
                continue;
            }
            Self::state(slf).waits.add(0.0);
            Self::set_alarm(slf)?;
            return Ok(grabbed);
        }
    }

    /// Whether a connection that is about to be handed out turns out to be closed. Then it has been taken back.
    fn is_closed(slf: &Bound<'_, Self>, object: &Py<PyAny>, conn: Conn, used: Use) -> PyResult<bool> {
        let py = slf.py();
        let Some(is_closed) = Self::state(slf).is_closed.as_ref().map(|hook| hook.clone_ref(py)) else {
            return Ok(false);
        };
        let condition = Self::ask(slf, &is_closed, object, [Condition::Clean, Condition::Broken]);
        if let Ok(Condition::Clean) = condition {
            return Ok(false);
        }
        let user = Self::state(slf).slot(conn).and_then(|slot| slot.end(|user| user.used == used));
        drop(user);
        Self::event(slf, |ledger, now, out| ledger.release(conn, Condition::Broken, now, out))?;
        condition.map(|_| true)
    }

    /// A user's verdict on a connection: what it means when the hook answers False, and True. One that raises has
    /// reported that.
    ///
    /// # Errors
    /// `KeyboardInterrupt` and the like.
    fn ask(
        slf: &Bound<'_, Self>,
        hook: &Py<PyAny>,
        object: &Py<PyAny>,
        answers: [Condition; 2],
    ) -> PyResult<Condition> {
        let py = slf.py();
        let answer = hook.bind(py).call1((object,)).and_then(|answer| answer.is_truthy());
        match answer {
            Ok(answer) => Ok(answers[usize::from(answer)]),
            Err(error) if error.is_instance_of::<PyException>(py) => {
                slf.call_method1(intern!(py, "_verdict_failed"), (error.into_value(py),))?;
                Ok(Condition::Broken)
            }
            Err(error) => Err(error),
        }
    }

    /// Stands in line for one. `since`: of a wait that goes on.
    ///
    /// # Errors
    /// Why there is no line to stand in.
    pub fn enlist(
        slf: &Bound<'_, Self>,
        hub: &Bound<'_, Hub>,
        key: Option<&Py<PyAny>>,
        timeout: f64,
        since: Option<f64>,
        waker: Waker,
    ) -> PyResult<(Ticket, f64)> {
        let key = match Self::find_key(slf, key)? {
            Some(key) => key,
            None => Self::make_key(slf, key)?,
        };
        debug_assert!(Self::state(slf).hub.as_ref().is_some_and(|home| home.is(hub)), "the lease has settled");
        let timeout = if timeout.is_nan() { Self::state(slf).timeout } else { timeout };
        let now = Self::now(slf);
        let since = since.unwrap_or(now);
        let enlisted = {
            let mut pool = Self::state(slf);
            let State { ledger, out, todo, .. } = &mut *pool;
            let enlisted = ledger.wait(key, since + timeout, now, waker, out);
            todo.extend(out.drain());
            enlisted
        };
        let carried_out = Self::carry_out(slf);
        let ticket = enlisted.map_err(|refusal| Self::refused(slf, refusal))?;
        match carried_out {
            Ok(()) => Ok((ticket, since)),
            Err(error) => Self::leave(slf, ticket).and(Err(error)),
        }
    }

    /// The transfer.
    pub fn resume(slf: &Bound<'_, Self>, ticket: Ticket) -> Given<Failure> {
        Self::now(slf);
        Self::state(slf).ledger.resume(ticket)
    }

    /// A waiter has its connection. None: that was closed, the waiter has to wait again.
    ///
    /// # Errors
    /// What the hook that is asked raises, if that is no ordinary exception.
    pub fn hand_out(
        slf: &Bound<'_, Self>,
        conn: Conn,
        waited_since: f64,
        site: Option<&Py<PyAny>>,
        is_block: bool,
    ) -> PyResult<Option<(Py<PyAny>, Use)>> {
        let py = slf.py();
        let site = site.map(|site| site.clone_ref(py));
        let (handed, waited) = {
            let mut pool = Self::state(slf);
            let now = pool.now;
            (pool.hand_out(py, conn, now, site, is_block), now - waited_since)
        };
        let Some((object, used)) = handed else {
            return Err(PyRuntimeError::new_err("Loopwright bug: the ledger gave a connection that is not there"));
        };
        if Self::is_closed(slf, &object, conn, used)? {
            return Ok(None);
        }
        Self::state(slf).waits.add(waited);
        Self::set_alarm(slf)?;
        Ok(Some((object, used)))
    }

    /// A waiter leaves its line, with a grant or without.
    ///
    /// # Errors
    /// What carrying out what follows raises.
    pub fn leave(slf: &Bound<'_, Self>, ticket: Ticket) -> PyResult<()> {
        Self::event(slf, |ledger, now, out| ledger.leave(ticket, now, out))
    }

    /// The error for a waiter that gets nothing.
    pub fn refused(slf: &Bound<'_, Self>, refusal: Refusal<Failure>) -> PyErr {
        let py = slf.py();
        let made = match refusal {
            Refusal::Failed(failure) => {
                let error = failure.error.clone_ref(py).into_bound(py);
                let traceback = failure.traceback.as_ref().map(|traceback| traceback.clone_ref(py));
                drop(failure);
                Self::forget_failures(slf);
                error.setattr(intern!(py, "__traceback__"), traceback).map(|()| error)
            }
            Refusal::Timeout { phase, waited } => {
                slf.call_method1(intern!(py, "_timed_out"), (phase_name(phase), waited))
            }
            Refusal::Closed => slf.call_method0(intern!(py, "_is_closed_error")),
            Refusal::TooManyWaiting { waiting } => slf.call_method1(intern!(py, "_is_full_error"), (waiting,)),
        };
        made.map_or_else(|error| error, PyErr::from_value)
    }

    /// Lets go of the exceptions that the ledger has no copy of any more.
    fn forget_failures(slf: &Bound<'_, Self>) {
        let unused: Vec<Failure> = {
            let mut pool = Self::state(slf);
            let (unused, used) =
                std::mem::take(&mut pool.failures).into_iter().partition(|failure| Arc::strong_count(failure) == 1);
            pool.failures = used;
            unused
        };
        drop(unused);
    }

    // --- keys --------------------------------------------------------------------------------------------------------

    /// The ledger's number of a key; None: it has none yet.
    fn find_key(slf: &Bound<'_, Self>, key: Option<&Py<PyAny>>) -> PyResult<Option<KeyId>> {
        let py = slf.py();
        let keys = {
            let pool = Self::state(slf);
            match &pool.keys {
                Some(keys) => keys.clone_ref(py),
                None => return Ok(Some(pool.ledger.pinned())),
            }
        };
        let Some(key) = key else { return Err(PyRuntimeError::new_err("a KeyedPool is asked with a key")) };
        let Some(number) = keys.bind(py).get_item(key)? else { return Ok(None) };
        let number = KeyId::from_bits(number.extract()?);
        Ok(Self::state(slf).ledger.knows(number).then_some(number)) // else it is about to be forgotten
    }

    fn make_key(slf: &Bound<'_, Self>, key: Option<&Py<PyAny>>) -> PyResult<KeyId> {
        let py = slf.py();
        let Some(key) = key else { return Err(PyRuntimeError::new_err("a KeyedPool is asked with a key")) };
        let (number, keys) = {
            let mut pool = Self::state(slf);
            let number = pool.ledger.key();
            if pool.names.len() <= number.index() {
                pool.names.resize_with(number.index() + 1, || None);
            }
            let before = pool.names[number.index()].replace((number, key.clone_ref(py)));
            let keys = pool.keys.as_ref().map(|keys| keys.clone_ref(py));
            drop(pool);
            drop(before);
            (number, keys)
        };
        if let Some(keys) = keys {
            keys.bind(py).set_item(key, number.to_bits())?;
        }
        Ok(number)
    }

    fn forget_key(slf: &Bound<'_, Self>, key: KeyId) -> PyResult<()> {
        let py = slf.py();
        let (name, keys) = {
            let mut pool = Self::state(slf);
            let name = pool.names.get_mut(key.index()).and_then(|name| name.take_if(|(number, _)| *number == key));
            while pool.names.last().is_some_and(Option::is_none) {
                pool.names.pop();
            }
            if pool.names.capacity() > 1024 && pool.names.len() < pool.names.capacity() / 4 {
                pool.names.shrink_to_fit();
            }
            (name, pool.keys.as_ref().map(|keys| keys.clone_ref(py)))
        };
        let (Some((_, name)), Some(keys)) = (name, keys) else { return Ok(()) };
        let current = keys.bind(py).get_item(&name)?.map(|number| number.extract::<u64>()).transpose()?;
        if current == Some(key.to_bits()) { keys.bind(py).del_item(name) } else { Ok(()) }
    }

    // --- release -----------------------------------------------------------------------------------------------------

    /// As [`give_back`](Self::give_back) of a block that ended well, where that runs no Python code and wakes nobody;
    /// drops nothing. Returns whether that is so.
    #[inline]
    pub fn give_back_at_once(&self, py: Python<'_>, conn: Conn, used: Use) -> bool {
        let mut pool = self.0.borrow(py);
        let pool = &mut *pool;
        if pool.is_clean.is_some() || pool.is_closed.is_some() || pool.traces {
            return false;
        }
        let Some(now) = pool.hub.as_ref().filter(|hub| aio::met_last(hub)).and_then(|hub| hub.get().now_at_once(py))
        else {
            return false;
        };
        let Some(Some(slot)) = pool.slots.get_mut(conn.index()) else { return false };
        let Some(since) =
            slot.user.as_ref().filter(|user| user.used == used && slot.conn == conn).map(|user| user.since)
        else {
            return false;
        };
        if !pool.ledger.is_quiet(now) || !pool.ledger.try_release(conn, now) {
            return false;
        }
        slot.user = None;
        pool.now = now;
        pool.holds.add(now - since);
        true
    }

    /// The end of a block.
    ///
    /// # Errors
    /// `KeyboardInterrupt` and the like out of a hook.
    #[inline]
    pub fn give_back(slf: &Bound<'_, Self>, conn: Conn, used: Use, error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        Self::check_thread(slf)?;
        let now = Self::now(slf);
        {
            let mut pool = Self::state(slf);
            let Some(user) = pool.slot(conn).and_then(|slot| slot.end(|user| user.used == used)) else {
                let orphan = pool.remove_orphan(|slot| slot.conn == conn, |user| user.used == used);
                drop(pool);
                drop(orphan);
                return Ok(()); // given back inside of the block, or taken away by the pool
            };
            pool.holds.add(now - user.since);
            drop(pool);
            drop(user);
        }
        Self::give_back_unused(slf, conn, now, error)
    }

    /// A connection that nobody uses any more.
    fn give_back_unused(slf: &Bound<'_, Self>, conn: Conn, now: f64, error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let judged = Self::judge(slf, conn, error);
        let condition = *judged.as_ref().unwrap_or(&Condition::Broken);
        if condition == Condition::Clean && Self::state(slf).ledger.try_release(conn, now) {
            return Self::set_alarm(slf);
        }
        Self::event_at(slf, now, |ledger, now, out| ledger.release(conn, condition, now, out))?;
        judged.map(drop)
    }

    /// In what condition a connection comes back.
    fn judge(slf: &Bound<'_, Self>, conn: Conn, error: Option<&Bound<'_, PyAny>>) -> PyResult<Condition> {
        let py = slf.py();
        let (object, hook, answers) = {
            let mut pool = Self::state(slf);
            let (hook, answers) = match (&pool.is_clean, &pool.is_closed) {
                (Some(is_clean), _) => (Some(is_clean.clone_ref(py)), [Condition::Dirty, Condition::Clean]),
                (None, Some(is_closed)) => (Some(is_closed.clone_ref(py)), [Condition::Clean, Condition::Broken]),
                (None, None) if error.is_none() => return Ok(Condition::Clean),
                (None, None) => (None, [Condition::Clean; 2]),
            };
            let Some(slot) = pool.slot(conn) else { return Ok(Condition::Clean) };
            (slot.object.clone_ref(py), hook, answers)
        };
        if let (Some(hook), None) = (hook, error) {
            return Self::ask(slf, &hook, &object, answers);
        }
        let verdict = slf.call_method1(intern!(py, "_judge"), (object, error))?;
        Ok(match verdict.extract::<u8>()? {
            0 => Condition::Clean,
            1 => Condition::Dirty,
            _ => Condition::Broken,
        })
    }

    /// A block was never left: its lease has been dropped.
    ///
    /// # Errors
    /// As [`give_back`](Self::give_back).
    pub fn give_back_lost(slf: &Bound<'_, Self>, conn: Conn, used: Use) -> PyResult<()> {
        let user = Self::state(slf).slot(conn).and_then(|slot| slot.end(|user| user.used == used));
        match user {
            Some(_) => Self::event(slf, |ledger, now, out| ledger.release(conn, Condition::Dirty, now, out)).map(drop),
            None => Ok(()),
        }
    }

    /// `release(c)` and `discard(c)`.
    fn give_back_by_hand(slf: &Bound<'_, Self>, object: &Bound<'_, PyAny>, discards: bool) -> PyResult<()> {
        Self::check_thread(slf)?;
        let now = Self::now(slf);
        let found = {
            let mut pool = Self::state(slf);
            match pool.find_used(object) {
                Some((conn, used)) => {
                    let user = pool.slot(conn).and_then(|slot| slot.end(|user| user.used == used));
                    if let Some(user) = &user {
                        pool.holds.add(now - user.since);
                    }
                    drop(pool);
                    drop(user);
                    Some(conn)
                }
                None => {
                    let orphan = pool.remove_orphan(|slot| slot.object.is(object), |_| true);
                    drop(pool);
                    if orphan.is_some() {
                        return Ok(());
                    }
                    None
                }
            }
        };
        match found {
            Some(conn) if discards => {
                Self::event_at(slf, now, |ledger, now, out| ledger.release(conn, Condition::Broken, now, out)).map(drop)
            }
            Some(conn) => Self::give_back_unused(slf, conn, now, None),
            None => {
                let shared = Self::state(slf).find_in_blocks(object).filter(|_| discards);
                match shared {
                    Some(conn) => Self::event_at(slf, now, |ledger, now, out| ledger.lost(conn, now, out)).map(drop),
                    None => Err(Self::not_out(slf, object, if discards { "discard" } else { "release" })),
                }
            }
        }
    }

    #[cold]
    fn not_out(slf: &Bound<'_, Self>, object: &Bound<'_, PyAny>, method: &str) -> PyErr {
        let known = Self::state(slf).by_object.contains_key(&(object.as_ptr() as usize));
        let shown = object.repr().map_or_else(|_| object.get_type().to_string(), |repr| repr.to_string());
        let name = Self::shown(slf);
        PyValueError::new_err(if known {
            format!(
                "{name}.{method}({shown}): it is not out, it was given back already: \
                 give each connection back once, and not what `async with` gives back itself"
            )
        } else {
            format!("{name}.{method}({shown}): it is none of the pool's connections, or was discarded already")
        })
    }

    // --- what hooks report -------------------------------------------------------------------------------------------

    /// A hook has opened a connection.
    fn connected(slf: &Bound<'_, Self>, conn: Conn, object: &Py<PyAny>) -> PyResult<bool> {
        let py = slf.py();
        let now = Self::now(slf);
        let (heard, slot) = {
            let mut pool = Self::state(slf);
            let expected = pool.ledger.state(conn) == Some(Stage::Opening);
            if expected {
                pool.insert(py, conn, object);
            }
            let State { ledger, out, todo, .. } = &mut *pool;
            let heard = expected && ledger.connected(conn, now, out);
            todo.extend(out.drain());
            (heard, if expected && !heard { pool.remove(conn) } else { None })
        };
        drop(slot);
        Self::forget_failures(slf);
        Self::carry_out(slf)?;
        Ok(heard)
    }

    /// Whether the ledger still expects to hear of a hook of this connection.
    fn expects(slf: &Bound<'_, Self>, conn: Conn, stage: Stage) -> bool {
        Self::state(slf).ledger.state(conn) == Some(stage)
    }

    fn lease(slf: &Bound<'_, Self>, key: Option<Py<PyAny>>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<Lease>> {
        let timeout = match timeout.filter(|timeout| !timeout.is_none()) {
            None => f64::NAN,
            Some(timeout) => args::seconds(timeout, "acquire(timeout=...)")?,
        };
        let site = Self::site(slf)?;
        Lease::make(slf, key, timeout, site)
    }

    /// Who asks, where the pool wants to know.
    fn site(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        let traces = Self::state(slf).traces;
        if traces { slf.call_method0(intern!(slf.py(), "_site")).map(|site| Some(site.unbind())) } else { Ok(None) }
    }

    fn try_get(slf: &Bound<'_, Self>, key: Option<&Py<PyAny>>) -> PyResult<Option<Py<PyAny>>> {
        let site = Self::site(slf)?;
        Ok(Self::grab(slf, key, site.as_ref(), false)?.map(|(object, ..)| object))
    }

    /// Takes everything out, to be dropped when nothing is borrowed.
    fn clear(&self, py: Python<'_>) -> impl Sized + use<> {
        std::mem::replace(&mut *self.0.borrow(py), State::new(Config::default()))
    }
}

#[pymethods]
impl Pool {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self(GilCell::new(State::new(Config::default())))
    }

    #[classmethod]
    fn __class_getitem__(cls: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let alias = cls.py().import("types")?.getattr("GenericAlias")?;
        Ok(alias.call1((cls, item))?.unbind())
    }

    /// Begins anew, with these settings. `keyed`: its connections have keys.
    #[pyo3(signature = (*, keyed, timeout, is_clean, is_closed, **limits))]
    fn _configure(
        slf: &Bound<'_, Self>,
        keyed: bool,
        timeout: f64,
        is_clean: Option<Py<PyAny>>,
        is_closed: Option<Py<PyAny>>,
        limits: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let config = match limits {
            Some(limits) => config(limits)?,
            None => Config::default(),
        };
        let traces = config.leak_after.is_some();
        let keys = keyed.then(|| PyDict::new(slf.py()).unbind());
        let fresh = State { timeout, is_clean, is_closed, traces, keys, ..State::new(config) };
        let before = std::mem::replace(&mut *Self::state(slf), fresh);
        drop(before);
        Ok(())
    }

    /// acquire(*, timeout=None)
    /// --
    ///
    /// A connection, idle or new, as soon as it is this caller's turn.
    ///
    /// Callers are served in the order in which they came. One that is cancelled, at whatever moment, takes no
    /// connection with it: what was reserved for it, or is being opened for it, goes to the next in line.
    ///
    /// Args:
    ///     timeout: seconds to wait, 0 or more; None for the pool's ``timeout``, ``math.inf`` for no end to it.
    ///
    /// Returns:
    ///     A :class:`Lease`: ``async with pool.acquire() as c`` gives the connection back at the end of the block;
    ///     ``c = await pool.acquire()`` leaves that to :meth:`release`. Nothing happens before either.
    ///
    /// Raises:
    ///     PoolTimeout: nothing could be had in time; its ``phase`` says what it waited for.
    ///     PoolFull: ``max_waiting`` others wait.
    ///     PoolClosed: the pool is closing or closed.
    ///     CancelledError: the wait was cancelled.
    ///     LoopMismatch: the pool has connections of another event loop.
    ///     Exception: what ``connect`` raised, if there is no other connection to wait for.
    #[pyo3(signature = (*, timeout = None))]
    fn acquire(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<Lease>> {
        Self::lease(slf, None, timeout)
    }

    /// Takes an idle connection if there is one that can be had without waiting, and nobody waits for it.
    ///
    /// Returns:
    ///     The connection, to be given back with :meth:`release`; None if there is none.
    ///
    /// Raises:
    ///     LoopMismatch: the pool has connections of another event loop.
    fn try_acquire(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        Self::try_get(slf, None)
    }

    /// release(connection, /)
    /// --
    ///
    /// Gives back a connection that ``await pool.acquire()`` or :meth:`try_acquire` gave. The first in line has it
    /// reserved at once, and runs soon, not inside this call.
    ///
    /// Where the pool has an ``is_clean``, that decides whether the connection is fit for the next user.
    ///
    /// Raises:
    ///     ValueError: it is not out: given back twice, or none of this pool's.
    ///     LoopMismatch: called in another thread or loop.
    #[pyo3(signature = (connection, /))]
    fn release(slf: &Bound<'_, Self>, connection: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::give_back_by_hand(slf, connection, false)
    }

    /// discard(connection, /)
    /// --
    ///
    /// Gives back a connection that is broken: it is closed, and its place is free for a new one. One that others share
    /// gets no new users, and is closed when the last block that has it ends.
    ///
    /// Raises:
    ///     ValueError, LoopMismatch: as for :meth:`release`.
    #[pyo3(signature = (connection, /))]
    fn discard(slf: &Bound<'_, Self>, connection: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::give_back_by_hand(slf, connection, true)
    }

    /// expire_all()
    /// --
    ///
    /// Lets no connection that is open now be used again: idle ones are closed, those in use when they come back. For
    /// after a failover, or new credentials.
    fn expire_all(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::event(slf, |ledger, now, out| ledger.expire_all(now, out))
    }

    /// Starts a check of every idle connection; answers their numbers.
    fn _check_idle(slf: &Bound<'_, Self>) -> PyResult<Vec<u64>> {
        Self::check_thread(slf)?;
        let idle: Vec<u64> = {
            let pool = Self::state(slf);
            let conns = pool.slots.iter().flatten().map(|slot| slot.conn);
            conns.filter(|&conn| pool.ledger.state(conn) == Some(Stage::Idle)).map(Conn::to_bits).collect()
        };
        Self::event(slf, |ledger, now, out| ledger.check_idle(now, out))?;
        Ok(idle)
    }

    /// What a connection is doing; None: it is gone.
    fn _doing(slf: &Bound<'_, Self>, conn: u64) -> Option<&'static str> {
        Self::state(slf).ledger.state(Conn::from_bits(conn)).map(|state| state.name())
    }

    fn _resize(slf: &Bound<'_, Self>, max_size: usize, burst: usize, min_size: usize) -> PyResult<()> {
        Self::event(slf, |ledger, now, out| ledger.resize(max_size, burst, min_size, now, out))
    }

    /// Binds the pool to the running loop, and so opens what it keeps warm.
    fn _start(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::settle(slf)
    }

    fn _drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::event(slf, |ledger, now, out| ledger.drain(now, out))
    }

    fn _force(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::event(slf, |ledger, now, out| ledger.force(now, out))
    }

    /// Lets go of everything at once, and tells of which connections. Nothing is closed, nobody woken.
    fn _forget_all(slf: &Bound<'_, Self>) -> Vec<Py<PyAny>> {
        let py = slf.py();
        let mut objects = Vec::new();
        let gone = {
            let mut pool = Self::state(slf);
            // So that the ledger drops none of them last.
            let wakers: Vec<Py<Fut>> = pool
                .ledger
                .wakers()
                .filter_map(|waker| if let Waker::Task(fut) = waker { Some(fut.clone_ref(py)) } else { None })
                .collect();
            let mut unused = Vec::new();
            for conn in pool.ledger.abandon_all() {
                let Some(slot) = pool.remove(conn) else { continue };
                objects.push(slot.object.clone_ref(py));
                if slot.is_used() {
                    pool.orphans.push(slot);
                } else {
                    unused.push(slot);
                }
            }
            let todo = std::mem::take(&mut pool.todo);
            let names = std::mem::take(&mut pool.names);
            let keys = pool.keys.as_mut().map(|keys| std::mem::replace(keys, PyDict::new(py).unbind()));
            (wakers, unused, todo, names, keys, pool.hub.take(), pool.alarm.take())
        };
        if let Some((_, key, hub)) = &gone.6 {
            drop(Hub::remove_deadline(hub.bind(py), *key));
        }
        drop(gone);
        Self::forget_failures(slf);
        objects
    }

    fn _connected(slf: &Bound<'_, Self>, conn: u64, connection: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::connected(slf, Conn::from_bits(conn), &connection.clone().unbind())
    }

    fn _connect_failed(slf: &Bound<'_, Self>, conn: u64, error: &Bound<'_, PyAny>) -> PyResult<bool> {
        let conn = Conn::from_bits(conn);
        if !Self::expects(slf, conn, Stage::Opening) {
            return Ok(false);
        }
        let traceback = error.getattr(intern!(slf.py(), "__traceback__"))?.unbind();
        let failure = Failure::new(Failed { error: error.clone().unbind(), traceback: Some(traceback) });
        Self::state(slf).failures.push(Arc::clone(&failure));
        Self::event(slf, |ledger, now, out| ledger.connect_failed(conn, failure, now, out))?;
        Self::forget_failures(slf);
        Ok(true)
    }

    fn _checked(slf: &Bound<'_, Self>, conn: u64, ok: bool) -> PyResult<bool> {
        let conn = Conn::from_bits(conn);
        let heard = Self::expects(slf, conn, Stage::Checking);
        if heard {
            Self::event(slf, |ledger, now, out| ledger.checked(conn, ok, now, out))?;
        }
        Ok(heard)
    }

    fn _was_reset(slf: &Bound<'_, Self>, conn: u64, ok: bool) -> PyResult<bool> {
        let conn = Conn::from_bits(conn);
        let heard = Self::expects(slf, conn, Stage::Resetting);
        if heard {
            Self::event(slf, |ledger, now, out| ledger.reset(conn, ok, now, out))?;
        }
        Ok(heard)
    }

    fn _was_closed(slf: &Bound<'_, Self>, conn: u64, ok: bool) -> PyResult<bool> {
        let conn = Conn::from_bits(conn);
        let heard = Self::expects(slf, conn, Stage::Closing);
        if heard {
            let slot = Self::state(slf).remove(conn);
            drop(slot);
            Self::event(slf, |ledger, now, out| ledger.closed(conn, ok, now, out))?;
        }
        Ok(heard)
    }

    /// A connection has come to its end by itself.
    fn _lost(slf: &Bound<'_, Self>, conn: u64) -> PyResult<bool> {
        Self::event(slf, |ledger, now, out| ledger.lost(Conn::from_bits(conn), now, out))
    }

    /// What the ledger has counted, as a dict.
    fn _counts<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        let counts = Self::state(slf).ledger.counts();
        let dict = PyDict::new(slf.py());
        for (name, number) in [
            ("idle", counts.idle),
            ("opening", counts.opening),
            ("checking", counts.checking),
            ("in_use", counts.in_use),
            ("resetting", counts.resetting),
            ("closing", counts.closing),
            ("waiting", counts.waiting),
            ("keys", counts.keys),
        ] {
            dict.set_item(name, number)?;
        }
        for (name, number) in [
            ("opened", counts.opened),
            ("closed", counts.closed),
            ("abandoned", counts.abandoned),
            ("abandoned_connects", counts.abandoned_connects),
            ("acquired", counts.acquired),
            ("waited", counts.waited),
            ("timeouts", counts.timeouts),
            ("refused", counts.refused),
            ("connect_failures", counts.connect_failures),
            ("check_failures", counts.check_failures),
            ("reset_failures", counts.reset_failures),
            ("close_failures", counts.close_failures),
            ("expired", counts.expired),
            ("evicted", counts.evicted),
            ("leaks", counts.leaks),
        ] {
            dict.set_item(name, number)?;
        }
        Ok(dict)
    }

    /// How long acquires waited, and how long connections were out: counts by powers of two of a microsecond, and the
    /// seconds all together.
    fn _histograms<'py>(slf: &Bound<'py, Self>) -> PyResult<[(Bound<'py, PyTuple>, f64); 2]> {
        let (waits, holds) = {
            let pool = Self::state(slf);
            (pool.waits, pool.holds)
        };
        let shown = |times: Histogram| Ok::<_, PyErr>((PyTuple::new(slf.py(), times.counts)?, times.total));
        Ok([shown(waits)?, shown(holds)?])
    }

    /// `(connection, seconds it is out, where it was acquired)` of each use.
    fn _users<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        let py = slf.py();
        let now = Self::now(slf);
        let users: Vec<(Py<PyAny>, f64, Option<Py<PyAny>>)> = {
            let pool = Self::state(slf);
            let used = pool.slots.iter().flatten().flat_map(|slot| slot.users().map(move |user| (slot, user)));
            used.map(|(slot, user)| {
                let site = user.site.as_ref().map(|site| site.clone_ref(py));
                (slot.object.clone_ref(py), now - user.since, site)
            })
            .collect()
        };
        PyList::new(py, users)
    }

    /// `(connection, key, what it is doing)` of all that are open.
    fn _connections<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        let py = slf.py();
        let pool = Self::state(slf);
        let open: Vec<_> = pool
            .slots
            .iter()
            .flatten()
            .filter_map(|slot| {
                let key = pool.ledger.key_of(slot.conn).and_then(|key| pool.name_of(py, key));
                Some((slot.object.clone_ref(py), key, pool.ledger.state(slot.conn)?.name()))
            })
            .collect();
        drop(pool);
        PyList::new(py, open)
    }

    /// The key of a connection.
    fn _key(slf: &Bound<'_, Self>, conn: u64) -> Option<Py<PyAny>> {
        let pool = Self::state(slf);
        let key = pool.ledger.key_of(Conn::from_bits(conn))?;
        pool.name_of(slf.py(), key)
    }

    /// Whether an idle connection is there for a newcomer.
    #[getter]
    fn _is_free(slf: &Bound<'_, Self>) -> bool {
        let pool = Self::state(slf);
        let counts = pool.ledger.counts();
        counts.idle > 0 && counts.waiting == 0
    }

    /// Whether newcomers are refused.
    #[getter]
    fn _draining(slf: &Bound<'_, Self>) -> bool {
        Self::state(slf).ledger.is_draining()
    }

    /// The loop it belongs to at the moment.
    #[getter]
    fn _loop(slf: &Bound<'_, Self>) -> Option<Py<PyAny>> {
        let py = slf.py();
        let hub = Self::state(slf).hub.as_ref().map(|hub| hub.clone_ref(py))?;
        hub.get().event_loop(py).ok().map(Bound::unbind)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |pool| {
            pool.ledger.wakers().try_for_each(|waker| waker.traverse(&visit))?;
            for action in &pool.todo {
                if let Action::Wake(waker) = action {
                    waker.traverse(&visit)?;
                }
            }
            for slot in pool.slots.iter().flatten().chain(&pool.orphans) {
                visit.call(&slot.object)?;
                slot.users().filter_map(|user| user.site.as_ref()).try_for_each(|site| visit.call(site))?;
            }
            for failure in &pool.failures {
                visit.call(&failure.error)?;
                failure.traceback.iter().try_for_each(|traceback| visit.call(traceback))?;
            }
            pool.names.iter().flatten().try_for_each(|(_, name)| visit.call(name))?;
            pool.is_clean.iter().chain(&pool.is_closed).try_for_each(|hook| visit.call(hook))?;
            pool.keys.iter().try_for_each(|keys| visit.call(keys))?;
            pool.hub.iter().chain(pool.alarm.iter().map(|(.., hub)| hub)).try_for_each(|hub| visit.call(hub))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = self.clear(py);
        drop(cleared);
    }
}

/// The base of `KeyedPool`.
#[pyclass(module = "loopwright._loopwright", name = "_KeyedPool", extends = Pool, frozen, subclass)]
pub struct KeyedPool;

#[pymethods]
impl KeyedPool {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Pool(GilCell::new(State::new(Config::default())))).add_subclass(Self)
    }

    /// acquire(key, *, timeout=None)
    /// --
    ///
    /// A connection of this key, idle or new, as soon as it is this caller's turn.
    ///
    /// Callers of one key are served in the order in which they came; keys that wait for room under ``max_size`` take
    /// turns, so that a busy one cannot starve the others. Otherwise as :meth:`Pool.acquire`.
    ///
    /// Args:
    ///     key: what ``connect`` is called with: a host, an address; hashable.
    ///     timeout: seconds to wait, 0 or more; None for the pool's ``timeout``, ``math.inf`` for no end to it.
    ///
    /// Returns:
    ///     A :class:`Lease`, to be entered or awaited.
    ///
    /// Raises:
    ///     TypeError: the key is not hashable; from the await.
    ///     PoolTimeout, PoolFull, PoolClosed, CancelledError, LoopMismatch, Exception: as for :meth:`Pool.acquire`.
    #[pyo3(signature = (key, *, timeout = None))]
    fn acquire(slf: &Bound<'_, Self>, key: Py<PyAny>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<Lease>> {
        Pool::lease(slf.as_super(), Some(key), timeout)
    }

    /// Takes an idle connection of this key if there is one that can be had without waiting, and nobody waits for it.
    ///
    /// Returns:
    ///     The connection, to be given back with :meth:`release`; None if there is none.
    ///
    /// Raises:
    ///     TypeError: the key is not hashable.
    ///     LoopMismatch: the pool has connections of another event loop.
    #[allow(clippy::needless_pass_by_value, reason = "what PyO3 gives")]
    fn try_acquire(slf: &Bound<'_, Self>, key: Py<PyAny>) -> PyResult<Option<Py<PyAny>>> {
        Pool::try_get(slf.as_super(), Some(&key))
    }
}

/// Reads the ledger's settings; `loopwright.pools` has checked them.
fn config(given: &Bound<'_, PyDict>) -> PyResult<Config> {
    let get = |name: &str| given.as_any().get_item(name);
    Ok(Config {
        max_size: get("max_size")?.extract()?,
        burst: get("burst")?.extract()?,
        min_size: get("min_size")?.extract()?,
        max_per_key: get("max_per_key")?.extract::<Option<usize>>()?.unwrap_or(usize::MAX),
        max_shares: get("max_shares")?.extract::<Option<u32>>()?.unwrap_or(u32::MAX),
        order: if get("lifo")?.extract()? { Order::Lifo } else { Order::Fifo },
        max_waiting: get("max_waiting")?.extract()?,
        max_idle: get("max_idle")?.extract()?,
        max_lifetime: get("max_lifetime")?.extract()?,
        jitter: get("jitter")?.extract()?,
        check_after: get("check_after")?.extract()?,
        checks: get("checks")?.extract()?,
        resets: get("resets")?.extract()?,
        burst_linger: get("burst_linger")?.extract()?,
        connect_timeout: get("connect_timeout")?.extract()?,
        hook_timeout: get("hook_timeout")?.extract()?,
        leak_after: get("leak_after")?.extract()?,
        seed: get("seed")?.extract()?,
        ..Config::default()
    })
}
