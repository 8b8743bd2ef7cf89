//! The window of `amap` and its lanes. The decisions are `loopwright_core::map`; this file carries them out.
//!
//! A *lane* is a place for one call at a time; there are never more of them than calls that ever ran at once. With
//! `isolate` (the default) each call is a task of its own, made from the coroutine of `fn(item)`; the lane is that
//! task's done callback, and starts the next call. Without, a lane belongs to one long-lived worker task, a Python
//! coroutine (`work`) that draws items from it. Items come from a plain iterator, which the window pulls itself, or
//! from a reader task (`mapping.py`), which asks `pull`, waits for `room` and calls `start`.
//!
//! The state of a window is borrowed for moments only: while it is, nothing of Python's is called and no reference is
//! dropped.

use std::collections::HashMap;

use loopwright_core::map::{Delivery, Map, Taken};
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList, PyTuple, PyType};

use crate::aio;
use crate::gil::{GilCell, GilRef};

type Object = Py<PyAny>;

/// A tuple of keyword names, made once.
macro_rules! intern_names {
    ($py:expr, $($name:literal),+) => {{
        static NAMES: pyo3::sync::PyOnceLock<Py<PyTuple>> = pyo3::sync::PyOnceLock::new();
        NAMES.get_or_try_init($py, || PyTuple::new($py, [$(intern!($py, $name)),+]).map(Bound::unbind))?.bind($py)
    }};
}

/// What a window was made of. Never changes.
struct Wiring {
    call: Object,
    /// Pulled here; a reader feeds the window when there is none.
    source: Option<Py<PyIterator>>,
    /// `async def work(lane)`: lanes are workers. Without it, each call is a task.
    work: Option<Object>,
    /// `fn` is a coroutine function: calling it runs nothing, so it need not be called in the item's context.
    direct: bool,
    return_errors: bool,
    context: Object,
    create_task: Object,
    create_future: Object,
    /// Makes a coroutine of what `fn` gave, or of what it raised, when that is not a coroutine itself.
    adapt: Object,
    name: Object,
    /// The task that awaits the calls, `future_add_to_awaited_by` and `future_discard_from_awaited_by` (3.14+).
    edges: Option<(Object, Object, Object)>,
    /// `release` of the limiter that bounds this window from outside; or, of one that learns, `end`.
    release: Option<Object>,
    progress: Option<(Object, Object)>,
    coroutine_type: Py<PyType>,
}

#[derive(Default)]
struct LaneState {
    handle: Option<Py<Lane>>,
    task: Option<Object>,
    /// The call it runs.
    index: Option<usize>,
    /// (Worker) handed to it, not drawn yet.
    item: Option<Object>,
    /// (Worker) it waits for an item.
    waiter: Option<Object>,
}

/// The calls of one `amap`: see the module's documentation.
#[pyclass(module = "loopwright._loopwright", name = "_Window", frozen)]
pub struct Window {
    wiring: Wiring,
    state: GilCell<State>,
}

struct State {
    machine: Map<Object>,
    /// Every result, by index, if the window keeps them all.
    results: Vec<Option<Object>>,
    keeps: bool,
    lanes: Vec<LaneState>,
    idle: Vec<usize>,
    reader: Option<Object>,
    /// The reader is closing its source: a cancel would get in the way of that.
    reader_closes: bool,
    /// Tasks that have not ended.
    alive: usize,
    /// What `begin` of a limiter that learns gave for the calls that run, by their index.
    begun: HashMap<usize, Object>,
    /// Who awaits the map, and the reader when it waits for room.
    waiter: Option<Object>,
    room: Option<Object>,
    errors: Vec<(Option<usize>, Object)>,
    fatal: Option<Object>,
    failed: usize,
}

impl State {
    fn is_quiet(&self) -> bool {
        self.alive == 0 && self.machine.is_closed()
    }

    /// The pull gave an item: the index of its call.
    #[inline]
    fn pulled(&mut self) -> Option<usize> {
        let index = self.machine.pulled()?;
        if self.keeps {
            self.results.push(None);
        }
        Some(index)
    }

    #[inline]
    fn finished(&mut self, index: usize, result: Object) {
        if let Some(result) = self.machine.finished(index, result) {
            self.results[index] = Some(result);
        }
    }

    /// Whoever waits for what is true now.
    #[inline]
    fn due(&mut self) -> [Option<Object>; 2] {
        let mut due = [None, None];
        if self.waiter.is_some() && (self.is_quiet() || self.machine.has_result()) {
            due[0] = self.waiter.take();
        }
        if self.room.is_some() && (self.machine.is_closed() || self.machine.has_room()) {
            due[1] = self.room.take();
        }
        due
    }
}

/// What one call came to.
enum Verdict {
    Result(Object),
    Error(Object),
    Fatal(Object),
    /// It was cancelled because the map was stopped.
    Cancelled,
}

impl Window {
    #[inline]
    fn state<'a>(&'a self, py: Python<'a>) -> GilRef<'a, State> {
        self.state.borrow(py)
    }

    /// Pulls and starts for as long as there is room.
    fn fill(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let Some(source) = &this.wiring.source else { return Ok(()) };
        let mut source = source.bind(py).clone();
        while this.pull(py) {
            match source.next() {
                Some(Ok(item)) => {
                    Self::begin(slf, item, None)?;
                }
                Some(Err(error)) => this.broke(py, error, None)?,
                None => this.close(py)?,
            }
        }
        Ok(())
    }

    /// The call of a pulled item starts, in a lane. False: the map was stopped meanwhile, the item is nobody's.
    fn begin(slf: &Bound<'_, Self>, item: Bound<'_, PyAny>, begun: Option<Object>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        let (id, index, handle, waiter) = {
            let mut state = this.state(py);
            let Some(index) = state.pulled() else { return Ok(false) };
            if let Some(begun) = begun {
                state.begun.insert(index, begun);
            }
            let id = match state.idle.pop() {
                Some(id) => id,
                None => {
                    let id = state.lanes.len();
                    state.lanes.push(LaneState::default());
                    id
                }
            };
            let lane = &mut state.lanes[id];
            lane.index = Some(index);
            if this.wiring.work.is_some() {
                lane.item = Some(item.clone().unbind());
            }
            (id, index, lane.handle.as_ref().map(|handle| handle.clone_ref(py)), lane.waiter.take())
        };
        let handle = match handle {
            Some(handle) => handle,
            None => {
                let handle = Py::new(py, Lane { window: slf.clone().unbind(), id })?;
                this.state(py).lanes[id].handle = Some(handle.clone_ref(py));
                handle
            }
        };
        let handle = handle.into_bound(py).into_any();
        if let Some(waiter) = waiter {
            resolve(waiter.bind(py))?;
            return Ok(true);
        }
        let made = match &this.wiring.work {
            Some(work) => work.bind(py).call1((&handle,)).and_then(|worker| this.wiring.task(&worker, None)),
            None => this.wiring.call(py, &item),
        };
        let task = match made {
            Ok(task) => task,
            Err(error) => {
                // No task, no done callback: the loop would not take it.
                let held = {
                    let mut state = this.state(py);
                    state.lanes[id].index = None;
                    state.idle.push(id);
                    state.lanes[id].item.take()
                };
                drop(held);
                this.settle(py, index, Err(error.into_value(py).into_any()), None)?;
                return Ok(true);
            }
        };
        let stopped = {
            let mut state = this.state(py);
            state.lanes[id].task = Some(task.clone().unbind());
            state.alive += 1;
            state.machine.is_stopped()
        };
        if let Some((parent, add, _)) = &this.wiring.edges {
            add.bind(py).call1((&task, parent))?;
        }
        this.wiring.when_done(&task, &handle)?;
        if stopped {
            task.call_method0(intern!(py, "cancel"))?;
        }
        Ok(true)
    }

    /// A lane's task ended.
    fn task_ended(slf: &Bound<'_, Self>, id: usize, task: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let (index, held) = {
            let mut state = this.state(py);
            let Some(lane) = state.lanes.get_mut(id) else { return Ok(()) };
            let index = lane.index.take();
            let held = (lane.task.take(), lane.item.take(), lane.waiter.take());
            state.alive -= 1;
            if held.2.is_none() {
                state.idle.push(id); // a waiting worker's lane is there already
            }
            (index, held)
        };
        if let Some((parent, _, discard)) = &this.wiring.edges {
            discard.bind(py).call1((task, parent))?;
        }
        let outcome = task.call_method0(intern!(py, "result"));
        if let Some(index) = index {
            let outcome = outcome.map(Bound::unbind).map_err(|error| error.into_value(py).into_any());
            this.settle(py, index, outcome, None)?;
        }
        drop(held);
        Self::fill(slf)?;
        this.wake(py)
    }

    /// One call ended: the result is kept, the error stops the map. `lane`: the worker that reports, which is not
    /// cancelled. False when the worker has to let its exception go on.
    #[inline]
    fn settle(
        &self,
        py: Python<'_>,
        index: usize,
        outcome: Result<Object, Object>,
        lane: Option<usize>,
    ) -> PyResult<bool> {
        let told = self.wiring.release.is_some() || self.wiring.progress.is_some();
        let raised = outcome.as_ref().err().filter(|_| told).map(|error| error.clone_ref(py));
        let go_on = match outcome {
            Ok(result) => {
                self.state(py).finished(index, result);
                true
            }
            Err(error) => self.settle_error(py, index, error, lane)?,
        };
        if told {
            self.tell(py, index, raised, lane)?;
        }
        Ok(go_on)
    }

    #[cold]
    fn settle_error(&self, py: Python<'_>, index: usize, error: Object, lane: Option<usize>) -> PyResult<bool> {
        let verdict = self.judge(py, index, error)?;
        let (unwanted, go_on, stops) = {
            let mut state = self.state(py);
            match verdict {
                Verdict::Result(error) => {
                    state.failed += 1;
                    state.finished(index, error);
                    (None, true, false)
                }
                Verdict::Error(error) => {
                    state.failed += 1;
                    state.machine.ended();
                    state.errors.push((Some(index), error));
                    (None, true, true)
                }
                Verdict::Fatal(error) => {
                    state.failed += 1;
                    state.machine.ended();
                    (state.fatal.replace(error), false, true)
                }
                Verdict::Cancelled => {
                    state.machine.ended();
                    (None, false, false)
                }
            }
        };
        drop(unwanted);
        if stops {
            self.halt(py, lane, true)?;
        }
        Ok(go_on)
    }

    fn judge(&self, py: Python<'_>, index: usize, error: Object) -> PyResult<Verdict> {
        let stopped = self.state(py).machine.is_stopped();
        let mut error = error;
        if error.bind(py).is_instance(aio::cancelled_error(py)?)? {
            if stopped {
                return Ok(Verdict::Cancelled);
            }
            error = nobody_cancelled(py, &format!("call {index} of {}", self.wiring.name.bind(py)), error);
        } else if !error.bind(py).is_instance_of::<PyException>() {
            return Ok(Verdict::Fatal(error));
        }
        Ok(if self.wiring.return_errors && !stopped { Verdict::Result(error) } else { Verdict::Error(error) })
    }

    /// Tells the limiter and the progress callback that a call ended.
    fn tell(&self, py: Python<'_>, index: usize, raised: Option<Object>, lane: Option<usize>) -> PyResult<()> {
        if let Some(release) = &self.wiring.release {
            let begun = self.state(py).begun.remove(&index);
            let released = match begun {
                Some(begun) => release.bind(py).call1((begun, raised)),
                None => release.bind(py).call0(),
            };
            if let Err(error) = released {
                self.broke(py, error, lane)?;
            }
        }
        if let Some((progress, total)) = &self.wiring.progress {
            let done = self.state(py).machine.done();
            if let Err(error) = progress.bind(py).call1((done, total)) {
                self.broke(py, error, lane)?;
            }
        }
        Ok(())
    }

    /// The source, the limiter or the progress callback failed: the map cannot go on.
    fn broke(&self, py: Python<'_>, error: PyErr, lane: Option<usize>) -> PyResult<()> {
        self.broke_with(py, error.into_value(py).into_any(), lane, true)
    }

    fn broke_with(&self, py: Python<'_>, mut error: Object, lane: Option<usize>, reader: bool) -> PyResult<()> {
        if error.bind(py).is_instance(aio::cancelled_error(py)?)? {
            error = nobody_cancelled(py, &format!("the source of {}", self.wiring.name.bind(py)), error);
        }
        let ordinary = error.bind(py).is_instance_of::<PyException>();
        let unwanted = {
            let mut state = self.state(py);
            if ordinary {
                state.errors.push((None, error));
                None
            } else {
                state.fatal.replace(error)
            }
        };
        drop(unwanted);
        self.halt(py, lane, reader)
    }

    /// Stops the map: everything that runs is cancelled, once, except `lane` and (on request) the reader.
    fn halt(&self, py: Python<'_>, lane: Option<usize>, reader: bool) -> PyResult<()> {
        let tasks: Vec<Object> = {
            let mut state = self.state(py);
            if !state.machine.stop() {
                return Ok(());
            }
            let lanes = state.lanes.iter().enumerate().filter(|(id, _)| Some(*id) != lane);
            let lanes = lanes.filter_map(|(_, lane)| lane.task.as_ref());
            let reader = state.reader.as_ref().filter(|_| reader && !state.reader_closes);
            lanes.chain(reader).map(|task| task.clone_ref(py)).collect()
        };
        for task in tasks {
            task.bind(py).call_method0(intern!(py, "cancel"))?;
        }
        self.wake(py)
    }

    /// The source ended: idle workers may go home.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let waiters: Vec<Object> = {
            let mut state = self.state(py);
            state.machine.exhausted();
            state.lanes.iter_mut().filter_map(|lane| lane.waiter.take()).collect()
        };
        for waiter in waiters {
            resolve(waiter.bind(py))?;
        }
        self.wake(py)
    }

    /// Wakes whoever waits for what is true now.
    fn wake(&self, py: Python<'_>) -> PyResult<()> {
        let due = self.state(py).due();
        for future in due.into_iter().flatten() {
            resolve(future.bind(py))?;
        }
        Ok(())
    }

    fn future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.wiring.create_future.bind(py).call0()
    }
}

/// A CancelledError that is nobody's cancel is an error like any other, and must not look like one of the caller's.
fn nobody_cancelled(py: Python<'_>, who: &str, error: Object) -> Object {
    let message = format!(
        "{who} raised CancelledError although nobody had cancelled it: something it awaits was cancelled; catch that \
         where it is awaited"
    );
    let wrapped = aio::loopwright_error(py, "CallCancelled", message);
    wrapped.set_cause(py, Some(PyErr::from_value(error.into_bound(py))));
    wrapped.into_value(py).into_any()
}

fn resolve(future: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    if !future.call_method0(intern!(py, "done"))?.is_truthy()? {
        future.call_method1(intern!(py, "set_result"), (py.None(),))?;
    }
    Ok(())
}

impl Wiring {
    /// A task for `fn(item)`, in a context of its own.
    fn call<'py>(&self, py: Python<'py>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (made, context) = if self.direct {
            (self.call.bind(py).call1((item,)), None)
        } else {
            let context = self.context.bind(py).call_method0(intern!(py, "copy"))?;
            (context.call_method1(intern!(py, "run"), (&self.call, item)), Some(context))
        };
        let coroutine = match made {
            Ok(made) if made.get_type().is(self.coroutine_type.bind(py)) => made,
            Ok(made) => self.adapt.bind(py).call1((made, py.None()))?,
            // As the error of a task, it takes the same way as any other.
            Err(error) => self.adapt.bind(py).call1((py.None(), error.into_value(py)))?,
        };
        self.task(&coroutine, context)
    }

    fn task<'py>(
        &self,
        coroutine: &Bound<'py, PyAny>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = coroutine.py();
        let create = self.create_task.bind(py);
        let made = match &context {
            None => aio::call_with(create, [coroutine, self.name.bind(py)], intern_names!(py, "name")),
            Some(context) => {
                aio::call_with(create, [coroutine, self.name.bind(py), context], intern_names!(py, "name", "context"))
            }
        };
        if made.is_err() {
            coroutine.call_method0(intern!(py, "close"))?;
        }
        made
    }

    fn when_done(&self, task: &Bound<'_, PyAny>, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = task.py();
        let add = task.getattr(intern!(py, "add_done_callback"))?;
        aio::call_with(&add, [callback, self.context.bind(py)], intern_names!(py, "context"))?;
        Ok(())
    }
}

#[pymethods]
impl Window {
    #[new]
    #[allow(clippy::too_many_arguments, reason = "one private caller, all by keyword")]
    #[pyo3(signature = (
        *, call, source, limit, delivery, work, direct, return_errors, context, create_task, create_future, adapt, name,
        edges, release, progress, coroutine_type,
    ))]
    fn new(
        call: Object,
        source: Option<Py<PyIterator>>,
        limit: Option<usize>,
        delivery: &str,
        work: Option<Object>,
        direct: bool,
        return_errors: bool,
        context: Object,
        create_task: Object,
        create_future: Object,
        adapt: Object,
        name: Object,
        edges: Option<(Object, Object, Object)>,
        release: Option<Object>,
        progress: Option<(Object, Object)>,
        coroutine_type: Py<PyType>,
    ) -> PyResult<Self> {
        let delivery = match delivery {
            "all" => Delivery::AtOnce,
            "ordered" => Delivery::InOrder,
            "finished" => Delivery::AsFinished,
            other => return Err(PyValueError::new_err(format!("no such delivery: {other}"))),
        };
        let wiring = Wiring {
            call,
            source,
            work,
            direct,
            return_errors,
            context,
            create_task,
            create_future,
            adapt,
            name,
            edges,
            release,
            progress,
            coroutine_type,
        };
        let state = State {
            machine: limit.map_or_else(|| Map::unlimited(delivery), |limit| Map::new(limit, delivery)),
            results: Vec::new(),
            keeps: delivery == Delivery::AtOnce,
            lanes: Vec::new(),
            idle: Vec::new(),
            reader: None,
            reader_closes: false,
            alive: 0,
            begun: HashMap::new(),
            waiter: None,
            room: None,
            errors: Vec::new(),
            fatal: None,
            failed: 0,
        };
        Ok(Self { wiring, state: GilCell::new(state) })
    }

    /// Pulls from the plain source and starts calls for as long as there is room.
    fn pump(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::fill(slf)
    }

    // ---------------------------------------------------------------------------------------- the reader's side

    /// The reader's task: counted, cancelled and awaited like the calls.
    fn adopt(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        {
            let mut state = this.state(py);
            state.reader = Some(task.clone().unbind());
            state.alive += 1;
        }
        if let Some((parent, add, _)) = &this.wiring.edges {
            add.bind(py).call1((task, parent))?;
        }
        this.wiring.when_done(task, &slf.getattr(intern!(py, "reader_ended"))?)
    }

    fn reader_ended(&self, py: Python<'_>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        let (held, stopped) = {
            let mut state = self.state(py);
            state.alive -= 1;
            (state.reader.take(), state.machine.is_stopped())
        };
        drop(held);
        if let Some((parent, _, discard)) = &self.wiring.edges {
            discard.bind(py).call1((task, parent))?;
        }
        // The reader reports its own failures; what is left is a cancel: ours, or somebody else's.
        if let Err(error) = task.call_method0(intern!(py, "result"))
            && !(stopped && error.is_instance(py, aio::cancelled_error(py)?))
        {
            self.broke(py, error, None)?;
        }
        self.wake(py)
    }

    /// Whether the next item may be pulled now; if so the pull is under way.
    fn pull(&self, py: Python<'_>) -> bool {
        self.state(py).machine.pull()
    }

    /// A future, done when there may be room for another pull, or never will be.
    fn room<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let future = self.future(py)?;
        let old = self.state(py).room.replace(future.clone().unbind());
        drop(old);
        Ok(future)
    }

    /// The item that was pulled: its call starts. False: the map was stopped meanwhile. `begun` is for the `end` of a
    /// limiter that learns.
    #[pyo3(signature = (item, begun = None))]
    fn start(slf: &Bound<'_, Self>, item: Bound<'_, PyAny>, begun: Option<Object>) -> PyResult<bool> {
        Self::begin(slf, item, begun)
    }

    /// The source ended. From now on the reader is not cancelled: it closes the source.
    fn exhausted(&self, py: Python<'_>) -> PyResult<()> {
        self.state(py).reader_closes = true;
        self.close(py)
    }

    /// The source (or its closing, or the limiter) failed. The reader is not cancelled: it closes the source.
    fn fail(&self, py: Python<'_>, error: Object) -> PyResult<()> {
        self.state(py).reader_closes = true;
        self.broke_with(py, error, None, false)
    }

    // ------------------------------------------------------------------------------------------ the caller's side

    /// Stops the map: everything that runs is cancelled, once.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        self.halt(py, None, true)
    }

    /// A future, done when a result is due or everything has ended.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let future = self.future(py)?;
        let old = self.state(py).waiter.replace(future.clone().unbind());
        drop(old);
        Ok(future)
    }

    /// The next result as a tuple of one; None while there is none.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let (taken, due) = {
            let mut state = self.state(py);
            (state.machine.take(), state.due())
        };
        for future in due.into_iter().flatten() {
            resolve(future.bind(py))?;
        }
        match taken {
            Taken::Result(_, result) => PyTuple::new(py, [result]).map(Some),
            Taken::Pending | Taken::Over => Ok(None),
        }
    }

    /// Whether `take` would find a result.
    #[getter]
    fn has_result(&self, py: Python<'_>) -> bool {
        self.state(py).machine.has_result()
    }

    /// Nothing runs and nothing will.
    #[getter]
    fn quiet(&self, py: Python<'_>) -> bool {
        self.state(py).is_quiet()
    }

    /// No item will be pulled any more.
    #[getter]
    fn closed(&self, py: Python<'_>) -> bool {
        self.state(py).machine.is_closed()
    }

    #[getter]
    fn stopped(&self, py: Python<'_>) -> bool {
        self.state(py).machine.is_stopped()
    }

    /// The list of all results, once there are all.
    fn results<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let results = std::mem::take(&mut self.state(py).results);
        PyList::new(py, results)
    }

    /// The results that are there and that nobody took, as (index, result), after a stop.
    fn leftovers(&self, py: Python<'_>) -> Vec<(usize, Object)> {
        let mut state = self.state(py);
        let kept = std::mem::take(&mut state.results);
        let kept = kept.into_iter().enumerate().filter_map(|(index, result)| Some((index, result?)));
        kept.chain(state.machine.leftovers()).collect()
    }

    /// (index of the call, exception); the index is None for the source, the limiter and the progress callback.
    #[getter]
    fn errors(&self, py: Python<'_>) -> Vec<(Option<usize>, Object)> {
        self.state(py).errors.iter().map(|(index, error)| (*index, error.clone_ref(py))).collect()
    }

    /// KeyboardInterrupt, SystemExit and the like.
    #[getter]
    fn fatal(&self, py: Python<'_>) -> Option<Object> {
        self.state(py).fatal.as_ref().map(|error| error.clone_ref(py))
    }

    /// (started, running, waiting, done, failed, peak)
    fn stats(&self, py: Python<'_>) -> (usize, usize, usize, usize, usize, usize) {
        let state = self.state(py);
        let machine = &state.machine;
        (machine.started(), machine.running(), machine.waiting(), machine.done(), state.failed, machine.peak())
    }

    /// Lets go of the lanes and of all that was kept: the end of the cycle between a window and its lanes.
    fn forget(&self, py: Python<'_>) {
        drop(self.state(py).emptied());
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let wiring = &self.wiring;
        for object in [&wiring.call, &wiring.context, &wiring.create_task, &wiring.create_future, &wiring.adapt] {
            visit.call(object)?;
        }
        visit.call(&wiring.source)?;
        visit.call(&wiring.work)?;
        visit.call(&wiring.release)?;
        if let Some((progress, _)) = &wiring.progress {
            visit.call(progress)?;
        }
        if let Some((parent, _, _)) = &wiring.edges {
            visit.call(parent)?;
        }
        self.state.traverse(&visit, |state| {
            for result in &state.results {
                visit.call(result)?;
            }
            for result in state.machine.results() {
                visit.call(result)?;
            }
            for lane in &state.lanes {
                visit.call(&lane.handle)?;
                for object in [&lane.task, &lane.item, &lane.waiter] {
                    visit.call(object)?;
                }
            }
            for object in [&state.reader, &state.waiter, &state.room, &state.fatal] {
                visit.call(object)?;
            }
            state.begun.values().try_for_each(|begun| visit.call(begun))?;
            state.errors.iter().try_for_each(|(_, error)| visit.call(error))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        self.forget(py);
    }
}

impl State {
    /// Takes out everything that refers to anything, to be dropped when the state is free again.
    fn emptied(&mut self) -> impl Sized + use<> {
        self.idle.clear();
        (
            std::mem::take(&mut self.results),
            std::mem::take(&mut self.lanes),
            [self.reader.take(), self.waiter.take(), self.room.take(), self.fatal.take()],
            (std::mem::take(&mut self.errors), self.machine.leftovers().collect::<Vec<_>>()),
            std::mem::take(&mut self.begun),
        )
    }
}

/// A place for one call at a time: see the module's documentation.
#[pyclass(module = "loopwright._loopwright", name = "_Lane", frozen)]
pub struct Lane {
    window: Py<Window>,
    id: usize,
}

#[pymethods]
impl Lane {
    /// The done callback of the lane's task.
    fn __call__(&self, task: &Bound<'_, PyAny>) -> PyResult<()> {
        Window::task_ended(self.window.bind(task.py()), self.id, task)
    }

    /// (Worker) the next item; the lane itself when there is none right now.
    fn draw<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let window = this.window.get();
        let handed = window.state(py).lanes.get_mut(this.id).and_then(|lane| lane.item.take());
        match handed {
            Some(item) => Ok(item.into_bound(py)),
            None if window.wiring.source.is_some() && window.pull(py) => this.drawn(slf),
            None => Ok(slf.as_any().clone()),
        }
    }

    /// (Worker) the result of its call; gives the next item as `draw` does.
    fn put<'py>(slf: &Bound<'py, Self>, result: Object) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let window = this.window.get();
        let plain = window.wiring.source.is_some();
        let told = window.wiring.release.is_some() || window.wiring.progress.is_some();
        let (index, due, pulls) = {
            let mut state = window.state(py);
            let index = state.lanes[this.id].index.take();
            let Some(index) = index else { return Ok(slf.as_any().clone()) };
            state.finished(index, result);
            (index, state.due(), plain && !told && state.machine.pull())
        };
        for future in due.into_iter().flatten() {
            resolve(future.bind(py))?;
        }
        if pulls {
            return this.drawn(slf);
        }
        if told {
            window.tell(py, index, None, Some(this.id))?;
        }
        Self::draw(slf)
    }

    /// (Worker) the exception of its call. False: it ends the worker.
    fn fail(&self, py: Python<'_>, error: Object) -> PyResult<bool> {
        let window = self.window.get();
        let index = window.state(py).lanes.get_mut(self.id).and_then(|lane| lane.index.take());
        let Some(index) = index else { return Ok(false) };
        let go_on = window.settle(py, index, Err(error), Some(self.id))?;
        window.wake(py)?;
        Ok(go_on)
    }

    /// (Worker) a future, done when there is an item; None: there is nothing more to come.
    fn more<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let window = self.window.get();
        if window.closed(py) {
            return Ok(None);
        }
        let future = window.future(py)?;
        let mut state = window.state(py);
        state.lanes[self.id].waiter = Some(future.clone().unbind());
        state.idle.push(self.id);
        Ok(Some(future))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.window)
    }
}

impl Lane {
    /// A pull is under way: makes it.
    #[inline]
    fn drawn<'py>(&self, slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let window = self.window.get();
        let Some(source) = &window.wiring.source else { return Ok(slf.as_any().clone()) };
        match source.bind(py).clone().next() {
            Some(Ok(item)) => {
                let mut state = window.state(py);
                if let Some(index) = state.pulled() {
                    state.lanes[self.id].index = Some(index);
                    return Ok(item);
                }
            }
            Some(Err(error)) => window.broke(py, error, Some(self.id))?,
            None => window.close(py)?,
        }
        Ok(slf.as_any().clone())
    }
}
