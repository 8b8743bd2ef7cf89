//! SimCore: the native part of `loopwright.testing.SimLoop`. It carries out what `loopwright_core::schedule` decides.
//!
//! Lives here: the ready queue's callbacks, timers, lanes (who is who), the turn of the loop. Does not live here: which
//! entry runs next and when the clock moves (the core), what counts as outside, selectors, reports (Python).
//!
//! One call of `_run_once` runs until the loop is stopped: a turn of asyncio's loop costs more than a step does.

use std::fmt::Write as _;
use std::thread::ThreadId;

use loopwright_core::deadlines::{Deadlines, Key};
use loopwright_core::schedule::clock::{Clock, Idle};
use loopwright_core::schedule::delays::Delays;
use loopwright_core::schedule::dpor::Dpor;
use loopwright_core::schedule::pct::Pct;
use loopwright_core::schedule::random::Random;
use loopwright_core::schedule::shrink;
use loopwright_core::schedule::trace::{Replay, Trace};
use loopwright_core::schedule::{Access, Coverage, Fifo, Kind, Lane, Level, Question, Scheduler, Strategy};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PySystemExit, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyCFunction, PyDict, PyFunction, PyTuple, PyType, PyWeakrefReference};
use pyo3::{PyTraverseError, PyVisit, intern};

use crate::awaitable;
use crate::clocks;
use crate::gil::{GilCell, GilRef};
use crate::hub::Hub;

/// Timers that are due within so many seconds from now are due: asyncio's clock resolution.
const RESOLUTION: f64 = 1e-9;
/// Under which name a task keeps its lane.
const LANE: &str = "_loopwright_lane";

/// A callback that is scheduled: what `call_soon` and `call_at` give.
#[pyclass(module = "loopwright._loopwright", name = "_SimHandle", frozen, weakref)]
pub struct SimHandle(GilCell<Call>);

struct Call {
    /// None: cancelled, or run.
    callback: Option<(Py<PyAny>, Py<PyTuple>)>,
    context: Py<PyAny>,
    cancelled: bool,
    /// A timer's time, and where it stands while it waits.
    when: Option<f64>,
    timer: Option<(Py<SimCore>, Key)>,
}

impl SimHandle {
    fn call<'a>(slf: &'a Bound<'_, Self>) -> GilRef<'a, Call> {
        slf.get().0.borrow(slf.py())
    }
}

#[pymethods]
impl SimHandle {
    /// Takes the callback back. The second and later times have no effect.
    fn cancel(slf: &Bound<'_, Self>) {
        let (callback, timer) = {
            let mut call = Self::call(slf);
            call.cancelled = true;
            (call.callback.take(), call.timer.take())
        };
        if let Some((core, key)) = timer {
            let taken = core.bind(slf.py()).get().0.borrow(slf.py()).timers.remove(key);
            drop(taken);
        }
        drop(callback);
    }

    /// Whether it was cancelled.
    fn cancelled(slf: &Bound<'_, Self>) -> bool {
        Self::call(slf).cancelled
    }

    #[getter]
    fn _cancelled(slf: &Bound<'_, Self>) -> bool {
        Self::call(slf).cancelled
    }

    /// A timer's time, in seconds of the loop's clock.
    fn when(slf: &Bound<'_, Self>) -> PyResult<f64> {
        Self::call(slf)
            .when
            .ok_or_else(|| pyo3::exceptions::PyAttributeError::new_err("this handle is of call_soon: it has no time"))
    }

    /// The context that the callback runs in.
    fn get_context(slf: &Bound<'_, Self>) -> Py<PyAny> {
        Self::call(slf).context.clone_ref(slf.py())
    }

    #[getter]
    fn _callback(slf: &Bound<'_, Self>) -> Option<Py<PyAny>> {
        Self::call(slf).callback.as_ref().map(|(callback, _)| callback.clone_ref(slf.py()))
    }

    #[getter]
    fn _args(slf: &Bound<'_, Self>) -> Option<Py<PyTuple>> {
        Self::call(slf).callback.as_ref().map(|(_, arguments)| arguments.clone_ref(slf.py()))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let (callback, when, cancelled) = {
            let call = Self::call(slf);
            (call.callback.as_ref().map(|(callback, _)| callback.clone_ref(py)), call.when, call.cancelled)
        };
        let mut text = String::from(if when.is_some() { "<TimerHandle" } else { "<Handle" });
        if cancelled {
            text.push_str(" cancelled");
        }
        if let Some(when) = when {
            let _ = write!(text, " when={when}");
        }
        if let Some(callback) = callback {
            let _ = write!(text, " {}", callback.bind(py).repr()?);
        }
        text.push('>');
        Ok(text)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |call| {
            if let Some((callback, arguments)) = &call.callback {
                visit.call(callback)?;
                visit.call(arguments)?;
            }
            if let Some((core, _)) = &call.timer {
                visit.call(core)?;
            }
            visit.call(&call.context)
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = {
            let mut call = self.0.borrow(py);
            (call.callback.take(), call.timer.take())
        };
        drop(cleared);
    }
}

/// What stands in the ready queue.
#[derive(Debug)]
enum Entry {
    Own(Py<SimHandle>),
    /// asyncio's own handle: an I/O callback or a signal's.
    Foreign(Py<PyAny>),
    /// Deadlines of the hub are due.
    Hub(Py<Hub>),
}

impl Entry {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Own(handle) => visit.call(handle),
            Self::Foreign(handle) => visit.call(handle),
            Self::Hub(hub) => visit.call(hub),
        }
    }
}

/// One task of the run. Lane 0 is what runs outside of tasks.
struct LaneInfo {
    parent: Lane,
    /// The how-manieth child of its parent it is.
    place: u32,
    children: u32,
    /// Steps begun.
    steps: u32,
    task: Option<Py<PyWeakrefReference>>,
}

impl LaneInfo {
    const OUTSIDE: Self = Self { parent: 0, place: 0, children: 0, steps: 0, task: None };
}

struct Injection {
    lane: String,
    nth: u32,
    before: bool,
    action: Py<PyAny>,
}

struct State {
    scheduler: Scheduler<Entry>,
    clock: Clock,
    timers: Deadlines<Py<SimHandle>>,
    lanes: Vec<LaneInfo>,
    /// Whose step runs.
    current: Lane,
    search: Option<Py<Search>>,
    tasks_at: Option<u32>,
    injections: Vec<Injection>,
    on_step: Option<Py<PyAny>>,
    hub: Option<Py<Hub>>,
    thread: Option<ThreadId>,
    stopping: bool,
    closed: bool,
    /// File descriptors are registered, or were: polls are needed.
    io: bool,
    virtual_time: bool,
    /// Steps run since time last moved or something came from outside.
    steps_in_place: u64,
    max_steps: u64,
}

/// See the module's documentation.
#[pyclass(module = "loopwright._loopwright", name = "_SimCore", frozen, subclass, weakref)]
pub struct SimCore(GilCell<State>);

/// The type of the callback by which CPython's own tasks step.
fn step_type(py: Python<'_>) -> PyResult<&'static Py<PyType>> {
    static STEP: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    STEP.get_or_try_init(py, || {
        let find = py.import("loopwright.testing._loop")?.getattr("task_step_type")?;
        Ok(find.call0()?.cast_into::<PyType>()?.unbind())
    })
}

/// The task of which this callback is a step or the wake-up.
fn stepping<'py>(callback: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = callback.py();
    if callback.is_exact_instance_of::<PyFunction>() {
        return Ok(None);
    }
    let is_step = callback.get_type().is(step_type(py)?);
    if !is_step {
        let name = if callback.is_exact_instance_of::<PyCFunction>() {
            callback.getattr_opt(intern!(py, "__name__"))?
        } else {
            match callback.getattr_opt(intern!(py, "__func__"))? {
                Some(function) => function.getattr_opt(intern!(py, "__name__"))?,
                None => None,
            }
        };
        // C tasks wake up by `task_wakeup`; tasks in Python step by `__step` and `__wakeup`.
        let is_wakeup = match name {
            Some(name) => {
                name.eq(intern!(py, "task_wakeup"))?
                    || name.eq(intern!(py, "__wakeup"))?
                    || name.eq(intern!(py, "__step"))?
            }
            None => false,
        };
        if !is_wakeup {
            return Ok(None);
        }
    }
    callback.getattr_opt(intern!(py, "__self__"))
}

impl SimCore {
    fn state<'a>(slf: &'a Bound<'_, Self>) -> GilRef<'a, State> {
        slf.get().0.borrow(slf.py())
    }

    /// The lane of a task; a task that is met for the first time gets one, as a child of the lane that runs.
    fn adopt(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<Lane> {
        let py = slf.py();
        if let Some(lane) = task.getattr_opt(intern!(py, LANE))? {
            return lane.extract();
        }
        let weak = PyWeakrefReference::new(task)?.unbind();
        let lane = {
            let state = &mut *Self::state(slf);
            let lane = Lane::try_from(state.lanes.len()).map_err(|_| PyRuntimeError::new_err("too many tasks"))?;
            let parent = state.current;
            let place = state.lanes[parent as usize].children;
            state.lanes[parent as usize].children += 1;
            state.lanes.push(LaneInfo { parent, place, children: 0, steps: 0, task: Some(weak) });
            lane
        };
        task.setattr(intern!(py, LANE), lane)?;
        Ok(lane)
    }

    fn path(&self, py: Python<'_>, mut lane: Lane) -> String {
        let state = self.0.borrow(py);
        let mut places = Vec::new();
        while lane != 0 {
            let Some(info) = state.lanes.get(lane as usize) else { break };
            places.push(info.place.to_string());
            lane = info.parent;
        }
        places.reverse();
        places.join(".")
    }

    fn check_open(slf: &Bound<'_, Self>) -> PyResult<()> {
        let state = Self::state(slf);
        if state.closed {
            return Err(PyRuntimeError::new_err("Event loop is closed"));
        }
        Ok(())
    }

    fn check_thread(slf: &Bound<'_, Self>, what: &str) -> PyResult<()> {
        let state = Self::state(slf);
        if state.closed {
            return Err(PyRuntimeError::new_err("Event loop is closed"));
        }
        if state.thread.is_some_and(|thread| thread != std::thread::current().id()) {
            return Err(PyRuntimeError::new_err(format!(
                "Non-thread-safe operation invoked on an event loop other than the current one: {what} was called from \
                 another thread; use loop.call_soon_threadsafe() there"
            )));
        }
        Ok(())
    }

    fn schedule<'py>(
        slf: &Bound<'py, Self>,
        callback: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyTuple>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, SimHandle>> {
        let py = slf.py();
        let task = stepping(callback)?;
        let handle = new_handle(py, callback, arguments, context, None)?;
        let entry = Entry::Own(handle.clone().unbind());
        match task {
            Some(task) => {
                let lane = Self::adopt(slf, &task)?;
                Self::state(slf).scheduler.push(lane, Kind::Step, entry);
            }
            None => {
                let state = &mut *Self::state(slf);
                let lane = if state.thread == Some(std::thread::current().id()) { state.current } else { 0 };
                state.scheduler.push(lane, Kind::Callback, entry);
            }
        }
        Ok(handle)
    }

    fn schedule_at<'py>(
        slf: &Bound<'py, Self>,
        when: f64,
        callback: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyTuple>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, SimHandle>> {
        if when.is_nan() {
            return Err(PyValueError::new_err("when is NaN: give a time of the loop's clock, in seconds"));
        }
        let handle = new_handle(slf.py(), callback, arguments, context, Some(when))?;
        let key = Self::state(slf).timers.insert(when, handle.clone().unbind());
        SimHandle::call(&handle).timer = Some((slf.clone().unbind(), key));
        Ok(handle)
    }

    /// The hub of this loop, if one of our objects has made it.
    fn hub(slf: &Bound<'_, Self>) -> PyResult<Option<Py<Hub>>> {
        let py = slf.py();
        if let Some(hub) = &Self::state(slf).hub {
            return Ok(Some(hub.clone_ref(py)));
        }
        let Some(hub) = Hub::existing(slf.as_any())? else { return Ok(None) };
        Self::state(slf).hub = Some(hub.clone_ref(py));
        Ok(Some(hub))
    }

    fn earliest(slf: &Bound<'_, Self>) -> PyResult<Option<f64>> {
        let py = slf.py();
        let ours = Self::hub(slf)?.and_then(|hub| hub.get().timers(py).earliest());
        let theirs = Self::state(slf).timers.earliest();
        Ok(match (ours, theirs) {
            (Some(ours), Some(theirs)) => Some(ours.min(theirs)),
            (ours, theirs) => ours.or(theirs),
        })
    }

    /// Moves what is due into the ready queue; ties are decided.
    fn serve_timers(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let until = Self::state(slf).clock.now() + RESOLUTION;
        let hub = Self::hub(slf)?;
        let earliest = hub.as_ref().and_then(|hub| hub.get().timers(py).earliest());
        let state = &mut *Self::state(slf);
        let due = state.timers.due(until);
        let mut group: Vec<(f64, Entry)> = Vec::new();
        let mut ours = match (earliest, hub) {
            (Some(when), Some(hub)) if when <= until => Some((when, Entry::Hub(hub))),
            _ => None,
        };
        loop {
            let when = state.timers.earliest();
            let next = match &ours {
                Some((at, _)) if when.is_none_or(|when| *at <= when) => ours.take(),
                _ => when.and_then(|when| state.timers.pop_due(due).map(|(_, handle)| (when, Entry::Own(handle)))),
            };
            let is_tied = matches!((&next, group.first()), (Some((when, _)), Some((first, _))) if when == first);
            if !is_tied && !group.is_empty() {
                let lanes = vec![0; group.len()];
                let order = if group.len() > 1 { state.scheduler.order(Question::Timers, &lanes) } else { vec![0] };
                let mut entries: Vec<_> = group.drain(..).map(|(_, entry)| Some(entry)).collect();
                for index in order {
                    if let Some(entry) = entries[index].take() {
                        state.scheduler.push(0, Kind::Callback, entry);
                    }
                }
            }
            match next {
                Some(next) => group.push(next),
                None => return Ok(()),
            }
        }
    }

    /// Runs one entry.
    fn run(slf: &Bound<'_, Self>, entry: Entry) -> PyResult<()> {
        let py = slf.py();
        let handle = match entry {
            Entry::Own(handle) => handle.into_bound(py),
            Entry::Foreign(handle) => {
                let handle = handle.bind(py);
                if !handle.getattr(intern!(py, "_cancelled"))?.is_truthy()? {
                    handle.call_method0(intern!(py, "_run"))?;
                }
                return Ok(());
            }
            Entry::Hub(hub) => return Hub::go_off(hub.bind(py)),
        };
        let (callback, context) = {
            let mut call = SimHandle::call(&handle);
            call.timer = None;
            let Some(callback) = call.callback.take() else { return Ok(()) };
            (callback, call.context.clone_ref(py))
        };
        let (callback, arguments) = (callback.0.into_bound(py), callback.1.into_bound(py));
        let called = awaitable::in_context(context.bind(py), || callback.call1(arguments));
        let Err(error) = called else { return Ok(()) };
        if error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py) {
            return Err(error);
        }
        let report = PyDict::new(py);
        report.set_item("message", format!("Exception in callback {}", callback.repr()?))?;
        report.set_item("exception", error.into_value(py))?;
        report.set_item("handle", &handle)?;
        slf.call_method1(intern!(py, "call_exception_handler"), (report,))?;
        Ok(())
    }

    /// Takes the next entry and runs it; `false` when there is none.
    fn step(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let tasks_at;
        let (lane, kind, nth, entry, injects) = {
            let state = &mut *Self::state(slf);
            let picked = if state.stopping { state.scheduler.pick_oldest() } else { state.scheduler.pick() };
            let Some((ran, entry)) = picked else { return Ok(false) };
            state.current = ran.lane;
            state.steps_in_place += 1;
            let info = &mut state.lanes[ran.lane as usize];
            if ran.kind == Kind::Step {
                info.steps += 1;
            }
            tasks_at = state.tasks_at;
            (ran.lane, ran.kind, info.steps, entry, !state.injections.is_empty())
        };
        if injects && kind == Kind::Step {
            Self::inject_now(slf, lane, nth, true)?;
        }
        let outcome = Self::run(slf, entry);
        if let Some(location) = tasks_at
            && kind == Kind::Step
        {
            Self::touch_task(slf, location, lane)?;
        }
        let watched = {
            let state = &mut *Self::state(slf);
            state.current = 0;
            state.scheduler.stepped();
            !state.injections.is_empty() || state.on_step.is_some()
        };
        outcome?;
        if watched {
            Self::watched(slf, lane, kind, nth)?;
        }
        Ok(true)
    }

    #[cold]
    fn watched(slf: &Bound<'_, Self>, lane: Lane, kind: Kind, nth: u32) -> PyResult<()> {
        let py = slf.py();
        let steps = Self::state(slf).scheduler.steps();
        if kind == Kind::Step {
            Self::inject_now(slf, lane, nth, false)?;
        }
        Self::inject_now(slf, 0, steps, false)?;
        let on_step = Self::state(slf).on_step.as_ref().map(|on_step| on_step.clone_ref(py));
        if let Some(on_step) = on_step {
            let task = if kind == Kind::Step { Self::task_of(slf, lane) } else { None };
            on_step.bind(py).call1((task, nth))?;
        }
        Ok(())
    }

    fn task_of<'py>(slf: &Bound<'py, Self>, lane: Lane) -> Option<Bound<'py, PyAny>> {
        let py = slf.py();
        let weak = Self::state(slf).lanes.get(lane as usize)?.task.as_ref()?.clone_ref(py);
        weak.bind(py).upgrade()
    }

    fn inject_now(slf: &Bound<'_, Self>, lane: Lane, nth: u32, before: bool) -> PyResult<()> {
        let py = slf.py();
        let wanted = |injection: &Injection| injection.nth == nth && injection.before == before;
        if !Self::state(slf).injections.iter().any(wanted) {
            return Ok(());
        }
        let path = slf.get().path(py, lane);
        loop {
            let injection = {
                let injections = &mut Self::state(slf).injections;
                let Some(place) = injections.iter().position(|one| wanted(one) && one.lane == path) else { break };
                injections.remove(place)
            };
            let task = Self::task_of(slf, lane);
            injection.action.bind(py).call1((task,))?;
        }
        Ok(())
    }

    /// Nothing is ready: moves time, waits for the outside, or finds that nothing will ever happen again.
    fn idle(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let next = Self::earliest(slf)?;
        let outside = slf.call_method0(intern!(py, "_outside"))?;
        // Python code ran: a thread may have scheduled something meanwhile.
        if !Self::state(slf).scheduler.is_empty() {
            return Ok(());
        }
        let quiescent = outside.is_none();
        let (decision, virtual_time, now) = {
            let state = Self::state(slf);
            (state.clock.idle(next, quiescent), state.virtual_time, state.clock.now())
        };
        let wait = match decision {
            Idle::Jump(to) if virtual_time || to <= now => {
                let state = &mut *Self::state(slf);
                state.clock.jump(to);
                state.steps_in_place = 0;
                return Ok(());
            }
            Idle::Jump(to) => Some(to - now),
            Idle::Wait(limit) => limit,
            Idle::Deadlock => {
                let error = slf.call_method0(intern!(py, "_deadlock"))?;
                return Err(PyErr::from_value(error));
            }
            Idle::Over => {
                let error = slf.call_method0(intern!(py, "_overtime"))?;
                return Err(PyErr::from_value(error));
            }
        };
        let waited: f64 = slf.call_method1(intern!(py, "_wait"), (wait,))?.extract()?;
        let next = Self::earliest(slf)?;
        let state = &mut *Self::state(slf);
        state.scheduler.outside();
        state.clock.waited(waited, next);
        state.steps_in_place = 0;
        Ok(())
    }
}

fn new_handle<'py>(
    py: Python<'py>,
    callback: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
    context: Option<&Bound<'py, PyAny>>,
    when: Option<f64>,
) -> PyResult<Bound<'py, SimHandle>> {
    let context = match context {
        Some(context) => context.clone(),
        None => awaitable::copy_context(py)?,
    };
    Bound::new(
        py,
        SimHandle(GilCell::new(Call {
            callback: Some((callback.clone().unbind(), arguments.clone().unbind())),
            context: context.unbind(),
            cancelled: false,
            when,
            timer: None,
        })),
    )
}

fn level(name: &str) -> PyResult<Level> {
    match name {
        "timing" => Ok(Level::Timing),
        "task" => Ok(Level::Task),
        "chaos" => Ok(Level::Chaos),
        other => Err(PyValueError::new_err(format!("no level {other:?}: use 'timing', 'task' or 'chaos'"))),
    }
}

#[pymethods]
impl SimCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        clocks::expect_own_time();
        Self(GilCell::new(State {
            scheduler: Scheduler::new(Level::Timing, Box::<Fifo>::default()),
            clock: Clock::default(),
            timers: Deadlines::default(),
            lanes: vec![LaneInfo::OUTSIDE],
            current: 0,
            search: None,
            tasks_at: None,
            injections: Vec::new(),
            on_step: None,
            hub: None,
            thread: None,
            stopping: false,
            closed: false,
            io: false,
            virtual_time: true,
            steps_in_place: 0,
            max_steps: u64::MAX,
        }))
    }

    /// Before the first callback: who decides, and how much.
    #[pyo3(signature = (level_name, search, virtual_time, max_steps))]
    fn _configure(
        slf: &Bound<'_, Self>,
        level_name: &str,
        search: Option<Py<Search>>,
        virtual_time: bool,
        max_steps: u64,
    ) -> PyResult<()> {
        let py = slf.py();
        let level = level(level_name)?;
        let strategy = match &search {
            Some(search) => search.bind(py).borrow_mut().take()?,
            None => Box::<Fifo>::default(),
        };
        let old = {
            let state = &mut *Self::state(slf);
            state.search = search;
            state.virtual_time = virtual_time;
            state.max_steps = max_steps;
            std::mem::replace(&mut state.scheduler, Scheduler::new(level, strategy))
        };
        drop(old);
        Ok(())
    }

    /// The loop's time at which a run is over: `_overtime` makes the error then.
    fn _limit(slf: &Bound<'_, Self>, when: f64) {
        Self::state(slf).clock.limit(when);
    }

    /// The search is told how the run went and gets its strategy back. What is run after this is first in, first out.
    fn _finish(slf: &Bound<'_, Self>, failed: bool) -> PyResult<()> {
        let py = slf.py();
        let (scheduler, search) = {
            let state = &mut *Self::state(slf);
            let Some(search) = state.search.take() else { return Ok(()) };
            let next = state.scheduler.succeed(Level::Timing, Box::<Fifo>::default());
            (std::mem::replace(&mut state.scheduler, next), search)
        };
        let (strategy, trace) = scheduler.finish(failed);
        search.bind(py).borrow_mut().give_back(strategy, trace);
        Ok(())
    }

    /// Schedules a callback for the next turn.
    #[pyo3(signature = (callback, *args, context=None))]
    fn call_soon<'py>(
        slf: &Bound<'py, Self>,
        callback: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, SimHandle>> {
        Self::check_thread(slf, "call_soon()")?;
        Self::schedule(slf, callback, args, context)
    }

    /// The same from any thread.
    #[pyo3(signature = (callback, *args, context=None))]
    fn call_soon_threadsafe<'py>(
        slf: &Bound<'py, Self>,
        callback: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, SimHandle>> {
        Self::check_open(slf)?;
        let handle = Self::schedule(slf, callback, args, context)?;
        // From the loop's own thread too: an executor's job that was quick is answered there.
        Self::state(slf).scheduler.outside();
        if Self::state(slf).thread != Some(std::thread::current().id()) {
            slf.call_method0(intern!(slf.py(), "_write_to_self"))?;
        }
        Ok(handle)
    }

    /// Schedules a callback for a time of the loop's clock, in seconds.
    #[pyo3(signature = (when, callback, *args, context=None))]
    fn call_at<'py>(
        slf: &Bound<'py, Self>,
        when: Option<f64>,
        callback: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, SimHandle>> {
        Self::check_thread(slf, "call_at()")?;
        let when = when.ok_or_else(|| PyTypeError::new_err("when cannot be None"))?;
        Self::schedule_at(slf, when, callback, args, context)
    }

    /// Schedules a callback for so many seconds from now.
    #[pyo3(signature = (delay, callback, *args, context=None))]
    fn call_later<'py>(
        slf: &Bound<'py, Self>,
        delay: Option<f64>,
        callback: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        context: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, SimHandle>> {
        Self::check_thread(slf, "call_later()")?;
        let delay = delay.ok_or_else(|| PyTypeError::new_err("delay must not be None"))?;
        let when = Self::state(slf).clock.now() + delay;
        Self::schedule_at(slf, when, callback, args, context)
    }

    /// The loop's clock: seconds since the loop was made.
    fn time(slf: &Bound<'_, Self>) -> f64 {
        Self::state(slf).clock.now()
    }

    /// The loop ends its turn and leaves `run_forever`.
    fn stop(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::state(slf).stopping = true;
        slf.setattr(intern!(slf.py(), "_stopping"), true)
    }

    fn _add_callback(slf: &Bound<'_, Self>, handle: &Bound<'_, PyAny>) {
        Self::state(slf).scheduler.push(0, Kind::Callback, Entry::Foreign(handle.clone().unbind()));
    }

    /// Turns until the loop is stopped.
    fn _run_once(slf: &Bound<'_, Self>) -> PyResult<()> {
        {
            let state = &mut *Self::state(slf);
            state.thread = Some(std::thread::current().id());
            state.steps_in_place = 0;
        }
        let outcome = Self::turn_until_stopped(slf);
        let state = &mut *Self::state(slf);
        state.thread = None;
        state.stopping = false;
        outcome
    }

    /// Something was registered with the selector.
    fn _io_begins(slf: &Bound<'_, Self>) {
        Self::state(slf).io = true;
    }

    /// The order in which so many I/O events of one poll are handled.
    fn _order_events(slf: &Bound<'_, Self>, count: usize) -> Vec<usize> {
        Self::state(slf).scheduler.order(Question::Events, &vec![0; count])
    }

    /// Something came from outside: this is not a loop that turns in place.
    fn _progressed(slf: &Bound<'_, Self>) {
        let state = &mut *Self::state(slf);
        state.steps_in_place = 0;
        state.scheduler.outside();
    }

    fn _close(slf: &Bound<'_, Self>) {
        let cleared = {
            let state = &mut *Self::state(slf);
            state.closed = true;
            (
                state.scheduler.clear(),
                state.timers.clear(),
                std::mem::take(&mut state.injections),
                state.on_step.take(),
                state.hub.take(),
            )
        };
        drop(cleared);
    }

    /// Gives a task its lane and tells its number: tasks hash by it.
    fn _adopt(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<Lane> {
        Self::adopt(slf, task)
    }

    /// How many callbacks wait in the ready queue.
    #[getter]
    fn _waiting(slf: &Bound<'_, Self>) -> usize {
        Self::state(slf).scheduler.len()
    }

    /// How many tasks were made.
    #[getter]
    fn _lanes(slf: &Bound<'_, Self>) -> usize {
        Self::state(slf).lanes.len() - 1
    }

    /// The tasks that have not ended, in the order of their creation.
    fn tasks<'py>(slf: &Bound<'py, Self>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let py = slf.py();
        let weak: Vec<_> = {
            let state = Self::state(slf);
            state.lanes.iter().filter_map(|lane| lane.task.as_ref().map(|task| task.clone_ref(py))).collect()
        };
        let mut alive = Vec::new();
        for task in weak.iter().filter_map(|weak| weak.bind(py).upgrade()) {
            if !task.call_method0(intern!(py, "done"))?.is_truthy()? {
                alive.push(task);
            }
        }
        Ok(alive)
    }

    /// A task's name by creation path: "0" is the main task, "0.2" the third task that it created.
    fn lane(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<String> {
        let lane = Self::adopt(slf, task)?;
        Ok(slf.get().path(slf.py(), lane))
    }

    /// How many steps of this task have begun.
    fn resumptions(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<u32> {
        let lane = Self::adopt(slf, task)?;
        Ok(Self::state(slf).lanes[lane as usize].steps)
    }

    /// Steps run so far: task steps and plain callbacks.
    #[getter]
    fn steps(slf: &Bound<'_, Self>) -> u32 {
        Self::state(slf).scheduler.steps()
    }

    /// The schedule so far, as bytes.
    fn _schedule<'py>(slf: &Bound<'py, Self>) -> Bound<'py, PyBytes> {
        let bytes = Self::state(slf).scheduler.trace().encode();
        PyBytes::new(slf.py(), &bytes)
    }

    /// A digest of the course of the run so far: every step's lane, every decision.
    fn digest(slf: &Bound<'_, Self>) -> u64 {
        Self::state(slf).scheduler.trace().digest()
    }

    /// Called after every step with the task (None for a plain callback) and its resumption number.
    #[getter]
    fn on_step<'py>(slf: &Bound<'py, Self>) -> Option<Py<PyAny>> {
        Self::state(slf).on_step.as_ref().map(|on_step| on_step.clone_ref(slf.py()))
    }

    #[setter]
    fn set_on_step(slf: &Bound<'_, Self>, on_step: Option<Py<PyAny>>) {
        let old = std::mem::replace(&mut Self::state(slf).on_step, on_step);
        drop(old);
    }

    /// Calls `action(task)` outside of any task right after the `nth` step of a lane, or right before it. The lane ""
    /// stands for all: its `nth` step is the nth step of the loop, counting plain callbacks.
    #[pyo3(signature = (lane, nth, action, *, before=false))]
    fn inject(slf: &Bound<'_, Self>, lane: String, nth: u32, action: Py<PyAny>, before: bool) {
        Self::state(slf).injections.push(Injection { lane, nth, before, action });
    }

    /// The running step touched shared state, for strategies that want to know.
    fn _accessed(slf: &Bound<'_, Self>, location: u32, write: bool) {
        Self::access(slf, &[(location, write)], &[]);
    }

    /// From now on each step of a task touches its task: reads whether it was cancelled, and writes when it ends. Task
    /// number n is part n + 1 of this location (see `Access`).
    fn _watch_tasks(slf: &Bound<'_, Self>, location: u32) {
        Self::state(slf).tasks_at = Some(location);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |state| {
            state.scheduler.entries().try_for_each(|entry| entry.traverse(&visit))?;
            state.timers.wakers().try_for_each(|handle| visit.call(handle))?;
            state.lanes.iter().filter_map(|lane| lane.task.as_ref()).try_for_each(|task| visit.call(task))?;
            state.injections.iter().try_for_each(|injection| visit.call(&injection.action))?;
            state.on_step.as_ref().map_or(Ok(()), |on_step| visit.call(on_step))?;
            state.search.as_ref().map_or(Ok(()), |search| visit.call(search))?;
            state.hub.as_ref().map_or(Ok(()), |hub| visit.call(hub))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = {
            let state = &mut *self.0.borrow(py);
            (
                state.scheduler.clear(),
                state.timers.clear(),
                std::mem::take(&mut state.injections),
                state.on_step.take(),
                state.hub.take(),
                state.search.take(),
            )
        };
        drop(cleared);
    }
}

impl SimCore {
    /// See `_accessed`; then meetings (see `Scheduler::met`). What another thread touches is not this loop's doing, but
    /// its moment is not known.
    pub fn access(slf: &Bound<'_, Self>, accesses: &[(u32, bool)], meetings: &[u32]) {
        let state = &mut *Self::state(slf);
        if state.thread != Some(std::thread::current().id()) {
            if state.thread.is_some() {
                state.scheduler.outside();
            }
            return;
        }
        for &(location, write) in accesses {
            state.scheduler.accessed(Access { location, write });
        }
        for &meeting in meetings {
            state.scheduler.met(meeting);
        }
    }

    /// See `_watch_tasks`.
    #[cold]
    fn touch_task(slf: &Bound<'_, Self>, location: u32, lane: Lane) -> PyResult<()> {
        let py = slf.py();
        static TASK: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let task_type = TASK.import(py, "asyncio", "Task")?;
        let ended = match Self::task_of(slf, lane).filter(|task| task.is_instance(task_type).unwrap_or(false)) {
            // Not the task's own method: that one may be watched.
            Some(task) => task_type.call_method1(intern!(py, "done"), (task,))?.is_truthy()?,
            None => true,
        };
        let part = if lane < 0xFFFF { lane + 1 } else { 0 };
        Self::access(slf, &[(location + part, ended)], &[]);
        Ok(())
    }

    fn is_stopping(slf: &Bound<'_, Self>) -> bool {
        Self::state(slf).stopping
    }

    fn turn_until_stopped(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        loop {
            if Self::state(slf).io {
                slf.call_method0(intern!(py, "_poll"))?;
            }
            Self::serve_timers(slf)?;
            let (mut left, turn_ends) = {
                let state = Self::state(slf);
                (state.scheduler.len(), state.scheduler.next_id())
            };
            if left == 0 {
                if Self::is_stopping(slf) {
                    return Ok(());
                }
                Self::idle(slf)?;
                continue;
            }
            while left > 0 && !Self::is_stopping(slf) && Self::step(slf)? {
                left -= 1;
            }
            if Self::is_stopping(slf) {
                // The rest of this turn runs, in order; what it schedules does not: as asyncio's loop does it.
                loop {
                    let more = Self::state(slf).scheduler.waits_before(turn_ends);
                    if !more {
                        return Ok(());
                    }
                    Self::step(slf)?;
                }
            }
            let livelock = {
                let state = Self::state(slf);
                state.steps_in_place > state.max_steps
            };
            if livelock {
                let error = slf.call_method0(intern!(py, "_livelock"))?;
                return Err(PyErr::from_value(error));
            }
        }
    }
}

/// A search over schedules: a strategy that is handed from run to run.
#[pyclass(module = "loopwright._loopwright", name = "_Search")]
pub struct Search {
    strategy: Option<Box<dyn Strategy>>,
    last: Option<Trace>,
}

impl Search {
    fn of(strategy: impl Strategy + 'static) -> Self {
        Self { strategy: Some(Box::new(strategy)), last: None }
    }

    fn take(&mut self) -> PyResult<Box<dyn Strategy>> {
        self.strategy.take().ok_or_else(|| PyRuntimeError::new_err("a run of this search has not finished"))
    }

    fn give_back(&mut self, strategy: Box<dyn Strategy>, trace: Trace) {
        self.strategy = Some(strategy);
        self.last = Some(trace);
    }

    fn strategy(&mut self) -> PyResult<&mut Box<dyn Strategy>> {
        self.strategy.as_mut().ok_or_else(|| PyRuntimeError::new_err("a run of this search has not finished"))
    }
}

#[pymethods]
impl Search {
    /// First in, first out; once.
    #[staticmethod]
    fn fifo() -> Self {
        Self::of(Fifo::default())
    }

    /// Random schedules of consecutive seeds; without end when `count` is None.
    #[staticmethod]
    #[pyo3(signature = (first_seed, count=None))]
    fn random(first_seed: u64, count: Option<u64>) -> Self {
        Self::of(Random::new(first_seed, count))
    }

    /// Random priorities, changed at `depth - 1` random places.
    #[staticmethod]
    fn pct(first_seed: u64, count: u64, depth: u32) -> Self {
        Self::of(Pct::new(first_seed, count, depth))
    }

    /// Every schedule with at most `bound` delays.
    #[staticmethod]
    fn delays(bound: u32) -> Self {
        Self::of(Delays::new(bound))
    }

    /// One schedule of each kind; `max` schedules at most.
    #[staticmethod]
    #[pyo3(signature = (max=None))]
    fn dpor(max: Option<u64>) -> Self {
        Self::of(Dpor::new(max))
    }

    /// The deviations of a schedule that a shrinker asked for.
    #[staticmethod]
    fn proposed(shrink: &mut Shrink) -> Option<Self> {
        Some(Self::of(Replay::new(shrink.0.next()?)))
    }

    /// One schedule again, from the bytes of `_schedule()`.
    #[staticmethod]
    fn replay(schedule: &[u8]) -> PyResult<Self> {
        let deviations = Trace::decode(schedule)
            .map_err(|_| PyValueError::new_err("this is not a schedule: it was cut off, or is something else"))?;
        Ok(Self::of(Replay::new(deviations)))
    }

    /// Begins the next schedule; False when the search is over.
    fn begin(&mut self) -> PyResult<bool> {
        Ok(self.strategy()?.begin())
    }

    /// Whether the strategy wants to know of accesses to shared state.
    #[getter]
    fn wants_accesses(&mut self) -> PyResult<bool> {
        Ok(self.strategy()?.wants_accesses())
    }

    /// Whether everything that could make a difference was run, and if not, why.
    fn coverage(&mut self) -> PyResult<(bool, String)> {
        Ok(match self.strategy()?.coverage() {
            Coverage::Complete => (true, String::new()),
            Coverage::Partial(why) => (false, why),
        })
    }

    /// For a replay: the decision at which the program first did not do what it had done.
    #[getter]
    fn diverged(&mut self) -> PyResult<Option<u32>> {
        Ok(self.strategy()?.diverged().map(|deviation| deviation.decision))
    }

    /// The digest of the last run.
    #[getter]
    fn digest(&self) -> Option<u64> {
        self.last.as_ref().map(Trace::digest)
    }

    /// The schedule of the last run, as bytes.
    #[getter]
    fn schedule<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.last.as_ref().map(|trace| PyBytes::new(py, &trace.encode()))
    }

    /// How many decisions of the last run were not first in, first out, and how many there were.
    #[getter]
    fn deviations(&self) -> (usize, u32) {
        self.last.as_ref().map_or((0, 0), |trace| (trace.deviations().len(), trace.len()))
    }
}

/// Shrinks the schedule of a search's last run, which failed: run what `_Search.proposed` gives, then `answer`.
#[pyclass(module = "loopwright._loopwright", name = "_Shrink")]
pub struct Shrink(shrink::Shrink);

#[pymethods]
impl Shrink {
    /// In at most `limit` runs.
    #[new]
    fn new(failed: &Search, limit: u32) -> PyResult<Self> {
        let trace = failed.last.as_ref().ok_or_else(|| PyRuntimeError::new_err("nothing was run yet"))?;
        Ok(Self(shrink::Shrink::new(trace, limit)))
    }

    /// How the run of the last proposal went; whether its schedule is the simplest so far.
    fn answer(&mut self, failed: bool, ran: &Search) -> bool {
        ran.last.as_ref().is_some_and(|trace| {
            self.0.answer(failed, trace);
            failed && self.0.best() == trace.deviations()
        })
    }
}
