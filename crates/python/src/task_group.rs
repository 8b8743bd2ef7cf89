//! TaskGroup, and the group behind race. The machine is `loopwright_core::scope`.
//!
//! A child is an ordinary task, made by the loop from the user's own coroutine; all that is ours on it is a done
//! callback, which runs in one shared empty context (asyncio's copies a context for each). What waits, the end of the
//! block and `spawn`, are operations.

use loopwright_core::scope::{Actions, Ended, Outcome, Policy, Refusal, Scope, Slot};
use loopwright_core::waiters::Ticket;
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::{
    PyBaseExceptionGroup, PyGeneratorExit, PyKeyboardInterrupt, PyRuntimeError, PySystemExit, PyTypeError,
};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::aio;
use crate::args;
use crate::gil::GilCell;
use crate::hub::{Hub, Origin};
use crate::op::{self, Enlisted, Kind, Op, Operation, Resumed, Thrown, Value, Waker};

/// What a group has from its entry to its end.
struct Entered {
    hub: Py<Hub>,
    event_loop: Py<PyAny>,
    /// `event_loop.create_task`
    create_task: Py<PyAny>,
    /// Whether that is asyncio's own and can be done without its Python frame.
    plain: bool,
    parent: Py<PyAny>,
    /// `self._on_task_done`
    on_done: Py<PyAny>,
    /// The context that the done callbacks run in.
    context: Py<PyAny>,
}

/// A group of tasks: the block does not end before they have. A superset of :class:`asyncio.TaskGroup`::
///
///     async with TaskGroup(limit=100) as group:
///         for url in urls:
///             await group.spawn(fetch, url)
///
/// When a task fails the others are cancelled, the block too, and the errors are raised together as an
/// :class:`ExceptionGroup` once everybody has ended. Nobody is left behind, whatever is cancelled when. The behaviour is
/// that of the newest CPython on every version: a group that fails leaves the parent's ``cancelling()`` as it was, and
/// :meth:`cancel` never swallows a cancel that came from outside.
///
/// Args:
///     limit: the most tasks alive at a time, 1 or more; None for no limit. :meth:`create_task` raises
///         :class:`GroupFull` beyond it, :meth:`spawn` waits.
///     context: the :class:`contextvars.Context` that tasks run in unless :meth:`create_task` is given one. As
///         everywhere in asyncio that is this very context, shared, not a copy of it. None: each task runs in its own
///         copy of its creator's.
///
/// Raises:
///     ValueError: ``limit`` is less than 1.
///     TypeError: ``limit`` is not an int, ``context`` is not a Context.
///
/// A group is entered once, in a task, and is used on that task's event loop. Not thread-safe.
#[pyclass(module = "loopwright", name = "TaskGroup", frozen, subclass, weakref)]
pub struct TaskGroup(GilCell<State>);

struct State {
    machine: Scope<Waker, Py<PyAny>>,
    policy: Policy,
    context: Option<Py<PyAny>>,
    entered: Option<Entered>,
    /// The children that have not ended, in the order of their start: `{task: None}`.
    children: Py<PyDict>,
    /// The CancelledError to raise, if one is: that of somebody else, else the last that came.
    cancelled_by: Option<Py<PyAny>>,
    winner: Option<Py<PyAny>>,
    started: u64,
    failed: u64,
    cancelled: u64,
}

impl State {
    fn new(py: Python<'_>, policy: Policy, limit: usize, context: Option<Py<PyAny>>) -> Self {
        Self {
            machine: Scope::new(policy, limit),
            policy,
            context,
            entered: None,
            children: PyDict::new(py).unbind(),
            cancelled_by: None,
            winner: None,
            started: 0,
            failed: 0,
            cancelled: 0,
        }
    }

    fn limit(&self) -> Option<usize> {
        Some(self.machine.limit()).filter(|&limit| limit != usize::MAX)
    }
}

impl State {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for waker in self.machine.wakers() {
            waker.traverse(visit)?;
        }
        for error in self.machine.errors() {
            visit.call(error)?;
        }
        visit.call(&self.children)?;
        if let Some(entered) = &self.entered {
            visit.call(&entered.hub)?;
            visit.call(&entered.context)?;
            for object in [&entered.event_loop, &entered.create_task, &entered.parent, &entered.on_done] {
                visit.call(object)?;
            }
        }
        for object in [&self.context, &self.cancelled_by, &self.winner].into_iter().flatten() {
            visit.call(object)?;
        }
        Ok(())
    }
}

impl TaskGroup {
    fn enter(slf: &Bound<'_, Self>) -> PyResult<Value> {
        let py = slf.py();
        if slf.get().0.borrow(py).machine.is_entered() {
            return Err(PyRuntimeError::new_err(format!("TaskGroup {} has already been entered", slf.repr()?)));
        }
        let event_loop = aio::running_loop(py)?;
        let hub = aio::hub(py)?;
        let Some(parent) = aio::current_task(&event_loop)? else {
            return Err(PyRuntimeError::new_err(format!(
                "TaskGroup {} cannot determine the parent task: enter it inside a task",
                slf.repr()?
            )));
        };
        let context = hub.get().context(py).unbind();
        let create_task = event_loop.getattr(intern!(py, "create_task"))?;
        let entered = Entered {
            context,
            plain: aio::makes_plain_tasks(&create_task),
            hub,
            create_task: create_task.unbind(),
            event_loop: event_loop.unbind(),
            parent: parent.unbind(),
            on_done: slf.getattr(intern!(py, "_on_task_done"))?.unbind(),
        };
        let actions = {
            let mut group = slf.get().0.borrow(py);
            group.entered = Some(entered);
            group.machine.enter()
        };
        if let Some(actions) = actions {
            Self::carry_out(slf, actions)?;
        }
        Ok(Some(slf.clone().into_any().unbind()))
    }

    fn refused(slf: &Bound<'_, Self>, refusal: Refusal) -> PyResult<PyErr> {
        let this = slf.repr()?;
        Ok(match refusal {
            Refusal::NotEntered => PyRuntimeError::new_err(format!("TaskGroup {this} has not been entered")),
            Refusal::Over => PyRuntimeError::new_err(format!("TaskGroup {this} is finished")),
            Refusal::Stopping => PyRuntimeError::new_err(format!("TaskGroup {this} is shutting down")),
            Refusal::Full(alive) => aio::loopwright_error(
                slf.py(),
                "GroupFull",
                format!(
                    "TaskGroup is full: {alive} tasks are alive, limit={}; `await group.spawn(fn, *args)` waits for a \
                     slot, or raise the limit",
                    slf.get().0.borrow(slf.py()).machine.limit()
                ),
            ),
        })
    }

    /// Makes the task of an admitted child.
    fn start<'py>(
        slf: &Bound<'py, Self>,
        coroutine: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let made = Self::make_task(slf, coroutine, kwargs);
        if made.is_err() {
            let wakes = slf.get().0.borrow(slf.py()).machine.not_started();
            op::wake(slf.py(), wakes, Origin::Loop)?;
        }
        made
    }

    fn make_task<'py>(
        slf: &Bound<'py, Self>,
        coroutine: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        // No borrow is held while the loop makes the task: an eager one runs user code there.
        let (create_task, plain, own_context) = {
            let group = slf.get().0.borrow(py);
            let Some(entered) = &group.entered else {
                return Err(PyRuntimeError::new_err("TaskGroup has not been entered"));
            };
            let plain = entered.plain.then(|| entered.event_loop.bind(py).clone());
            (entered.create_task.clone_ref(py), plain, group.context.as_ref().map(|context| context.clone_ref(py)))
        };
        let task = match (kwargs, own_context) {
            (None, None) => {
                let plain = plain.map_or(Ok(None), |event_loop| aio::plain_task(&event_loop, coroutine))?;
                plain.map_or_else(|| create_task.bind(py).call1((coroutine,)), Ok)?
            }
            (kwargs, None) => create_task.bind(py).call((coroutine,), kwargs)?,
            (kwargs, Some(context)) => {
                let kwargs = kwargs.map_or_else(|| Ok(PyDict::new(py)), |kwargs| kwargs.copy())?;
                let name = intern!(py, "context");
                if kwargs.get_item(name)?.is_none_or(|given| given.is_none()) {
                    kwargs.set_item(name, context)?;
                }
                create_task.bind(py).call((coroutine,), Some(&kwargs))?
            }
        };
        let (children, parent, on_done, context) = {
            let group = slf.get().0.borrow(py);
            let Some(entered) = &group.entered else { return Ok(task) };
            (
                group.children.clone_ref(py),
                entered.parent.clone_ref(py),
                entered.on_done.clone_ref(py),
                entered.context.clone_ref(py),
            )
        };
        aio::awaited_by(&task, parent.bind(py))?;
        children.bind(py).set_item(&task, py.None())?;
        // Also on a task that is done already: how it ended counts when the loop says so, not in the middle of the body.
        if let Err(error) = aio::add_done_callback(&task, on_done.bind(py), context.bind(py)) {
            children.bind(py).del_item(&task)?;
            return Err(error);
        }
        let stopping = {
            let mut group = slf.get().0.borrow(py);
            group.started += 1;
            group.machine.is_stopping()
        };
        if stopping && !task.call_method0(intern!(py, "done"))?.is_truthy()? {
            task.call_method0(intern!(py, "cancel"))?; // it (an eager one) stopped the group while it was being made
        }
        Ok(task)
    }

    fn carry_out(slf: &Bound<'_, Self>, actions: Actions<Waker>) -> PyResult<()> {
        let py = slf.py();
        let mut outcome = Ok(());
        if actions.stop_children {
            let children = slf.get().0.borrow(py).children.clone_ref(py);
            for task in children.bind(py).keys() {
                outcome = outcome.and(Self::stop_child(&task));
            }
        }
        if actions.cancel_parent {
            let parent = slf.get().0.borrow(py).entered.as_ref().map(|entered| entered.parent.clone_ref(py));
            if let Some(parent) = parent {
                outcome = outcome.and(parent.bind(py).call_method0(intern!(py, "cancel")).map(drop));
            }
        }
        if actions.wakes.is_empty() { outcome } else { outcome.and(op::wake(py, actions.wakes, Origin::Loop)) }
    }

    fn stop_child(task: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = task.py();
        if !task.call_method0(intern!(py, "done"))?.is_truthy()? {
            task.call_method0(intern!(py, "cancel"))?;
        }
        Ok(())
    }

    /// How a task that is done ended.
    fn ending(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<Ended<Py<PyAny>>> {
        let py = slf.py();
        if task.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
            let group = slf.get().0.borrow(py);
            if group.policy == Policy::FirstSuccess && !group.machine.is_stopping() {
                drop(group);
                // Nobody here cancelled it, so it has not lost the race: it failed in it.
                let name = task.call_method0(intern!(py, "get_name"))?;
                let error = aio::loopwright_error(
                    py,
                    "CallCancelled",
                    format!("a coroutine of race() was cancelled, and not by the race: {name}"),
                );
                return Ok(Ended::Failed(error.into_value(py).into_any()));
            }
            return Ok(Ended::Cancelled);
        }
        let error = task.call_method0(intern!(py, "exception"))?;
        if error.is_none() {
            return Ok(Ended::Well);
        }
        if is_fatal(&error) { Ok(Ended::Fatal(error.unbind())) } else { Ok(Ended::Failed(error.unbind())) }
    }

    /// An error that nobody will be there to raise.
    fn report(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>, error: &Py<PyAny>, message: String) -> PyResult<()> {
        let py = slf.py();
        let event_loop = slf.get().0.borrow(py).entered.as_ref().map(|entered| entered.event_loop.clone_ref(py));
        let event_loop = match event_loop {
            Some(event_loop) => event_loop.into_bound(py),
            None => aio::running_loop(py)?,
        };
        let report = PyDict::new(py);
        report.set_item("message", message)?;
        report.set_item("exception", error)?;
        report.set_item("task", task)?;
        event_loop.call_method1(intern!(py, "call_exception_handler"), (report,))?;
        Ok(())
    }

    fn report_if_lost(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>, error: &Py<PyAny>) -> PyResult<()> {
        let py = slf.py();
        let (parent, lost_race) = {
            let group = slf.get().0.borrow(py);
            let parent = group.entered.as_ref().map(|entered| entered.parent.clone_ref(py));
            (parent, group.policy == Policy::FirstSuccess && group.machine.is_stopping())
        };
        if lost_race {
            // Losing is no news; failing while it cleans up after that is.
            let told = task.call_method0(intern!(py, "cancelling"))?.is_truthy()?;
            if told {
                let message = format!("{} lost a race() and failed while it was cancelled", task.repr()?);
                Self::report(slf, task, error, message)?;
            }
            return Ok(());
        }
        match parent {
            Some(parent) if !parent.bind(py).call_method0(intern!(py, "done"))?.is_truthy()? => Ok(()),
            Some(parent) => {
                let parent = parent.bind(py).repr()?;
                let message =
                    format!("Task {} has errored out but its parent task {parent} is already completed", task.repr()?);
                Self::report(slf, task, error, message)
            }
            None => {
                let message = format!("Task {} has errored out but its group is over", task.repr()?);
                Self::report(slf, task, error, message)
            }
        }
    }
}

/// What outranks every other error in a group.
fn is_fatal(error: &Bound<'_, PyAny>) -> bool {
    error.is_instance_of::<PySystemExit>() || error.is_instance_of::<PyKeyboardInterrupt>()
}

fn close(coroutine: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Some(close) = coroutine.getattr_opt(intern!(coroutine.py(), "close"))? {
        close.call0()?;
    }
    Ok(())
}

/// The group behind `race`: the first success ends it.
#[pyfunction]
#[pyo3(name = "_race_group")]
pub fn race_group(py: Python<'_>) -> PyResult<Py<TaskGroup>> {
    Py::new(py, TaskGroup(GilCell::new(State::new(py, Policy::FirstSuccess, usize::MAX, None))))
}

#[pymethods]
impl TaskGroup {
    #[new]
    #[pyo3(signature = (*args, **_kwargs), text_signature = "(*, limit=None, context=None)")]
    fn new(args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self(GilCell::new(State::new(args.py(), Policy::FirstFailure, usize::MAX, None)))
    }

    #[pyo3(signature = (*, limit = None, context = None))]
    fn __init__(
        slf: &Bound<'_, Self>,
        limit: Option<&Bound<'_, PyAny>>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let limit = match limit {
            None => usize::MAX,
            Some(limit) => usize::try_from(args::count(limit, "TaskGroup(limit=...)", 1)?).unwrap_or(usize::MAX),
        };
        if let Some(context) = context
            && !context.is_instance(&py.import("contextvars")?.getattr("Context")?)?
        {
            return Err(PyTypeError::new_err(format!(
                "TaskGroup(context=...) must be a contextvars.Context or None, got {}",
                context.repr()?
            )));
        }
        if slf.get().0.borrow(py).machine.is_entered() {
            return Err(PyRuntimeError::new_err("TaskGroup.__init__ was called on a group that has been entered"));
        }
        let fresh = State::new(py, Policy::FirstFailure, limit, context.map(|context| context.clone().unbind()));
        let old = std::mem::replace(&mut *slf.get().0.borrow(py), fresh);
        drop(old);
        Ok(())
    }

    fn __aenter__(slf: &Bound<'_, Self>) -> PyResult<Py<Op>> {
        Op::new(slf.py(), Kind::EnterGroup(EnterGroup(slf.clone().unbind())))
    }

    fn __aexit__(
        slf: &Bound<'_, Self>,
        kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<Op>> {
        let _ = traceback;
        let body = if kind.is_none() {
            Body::Well
        } else {
            let error = if error.is_none() { kind.call0()? } else { error.clone() };
            let cancelled = error.is_instance(aio::cancelled_error(slf.py())?)?;
            if cancelled { Body::Cancelled(error.unbind()) } else { Body::Failed(error.unbind()) }
        };
        Op::new(
            slf.py(),
            Kind::LeaveGroup(LeaveGroup { group: slf.clone().unbind(), body, begun: false, stopped_by_cancel: false }),
        )
    }

    /// Starts a task in the group.
    ///
    /// Args:
    ///     coro: its coroutine, which the task runs itself: tracebacks and task trees show your frames and no others.
    ///     **kwargs: as for ``loop.create_task``: ``name``, ``context`` and, where CPython knows it, ``eager_start``.
    ///
    /// Returns:
    ///     The :class:`asyncio.Task`.
    ///
    /// Raises:
    ///     GroupFull: ``limit`` tasks are alive, or a :meth:`spawn` was promised the last slot. The coroutine is closed.
    ///     RuntimeError: the group has not been entered, is shutting down or finished. The coroutine is closed.
    #[pyo3(signature = (coro, **kwargs), text_signature = "($self, coro, *, name=None, context=None, **kwargs)")]
    fn create_task<'py>(
        slf: &Bound<'py, Self>,
        coro: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let admitted = slf.get().0.borrow(slf.py()).machine.admit();
        match admitted {
            Ok(()) => Self::start(slf, coro, kwargs),
            Err(refusal) => {
                close(coro)?;
                Err(Self::refused(slf, refusal)?)
            }
        }
    }

    /// Starts ``fn(*args, **kwargs)`` as a task in the group, waiting for a free slot first if the group is full.
    /// Spawners are served in the order in which they came; ``fn`` is called when the slot is there, not before.
    ///
    /// Args:
    ///     fn: an ``async def`` function, or anything that returns a coroutine.
    ///
    /// Returns:
    ///     An operation to await; it answers the :class:`asyncio.Task`, which has been started and not awaited.
    ///
    /// Raises:
    ///     CancelledError: the wait was cancelled. No task was started, and the slot went to the next in line.
    ///     RuntimeError: the group has not been entered, is finished, or was shut down while it waited.
    ///     LoopMismatch: awaited on another event loop than the group's.
    ///     TypeError: ``fn`` is not callable; a coroutine that was passed instead is closed.
    ///
    /// A task of a full group that spawns into it waits for another one to end: when all of them do that, nobody moves.
    #[pyo3(signature = (r#fn, /, *args, **kwargs))]
    fn spawn(
        slf: &Bound<'_, Self>,
        r#fn: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<Op>> {
        if !r#fn.is_callable() {
            let given = r#fn.repr()?;
            close(r#fn)?;
            return Err(PyTypeError::new_err(format!(
                "TaskGroup.spawn takes the function and its arguments, spawn(f, x) and not spawn(f(x)): {given} is not \
                 callable"
            )));
        }
        let call = Call {
            function: r#fn.clone().unbind(),
            args: args.clone().unbind(),
            kwargs: kwargs.map(|kwargs| kwargs.clone().unbind()),
        };
        Op::new(slf.py(), Kind::Spawn(Spawn { group: slf.clone().unbind(), call: Some(call) }))
    }

    /// Cancels the tasks and the block, which then ends without an error.
    ///
    /// A cancel of the parent task that came from outside is still raised at the end of the block; so are errors. Before
    /// the block is entered, it is cancelled at its entry; after its end, or a second time, nothing happens.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<()> {
        let actions = slf.get().0.borrow(slf.py()).machine.cancel();
        Self::carry_out(slf, actions)
    }

    /// The most tasks alive at a time; None for no limit.
    #[getter]
    fn limit(&self, py: Python<'_>) -> Option<usize> {
        self.0.borrow(py).limit()
    }

    /// Tasks that have not ended.
    #[getter]
    fn alive(&self, py: Python<'_>) -> usize {
        self.0.borrow(py).machine.alive()
    }

    /// ``spawn`` calls that wait for a slot.
    #[getter]
    fn waiting(&self, py: Python<'_>) -> usize {
        self.0.borrow(py).machine.waiting()
    }

    /// Returns:
    ///     A frozen :class:`TaskGroupStats` of this moment.
    fn stats<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let fields = slf.get()._stats(slf.py());
        slf.py().import("loopwright.groups")?.getattr("TaskGroupStats")?.call1(fields)
    }

    /// `(alive, limit, waiting, started, failed, cancelled, state)`
    fn _stats(&self, py: Python<'_>) -> (usize, Option<usize>, usize, u64, u64, u64, &'static str) {
        let group = self.0.borrow(py);
        let machine = &group.machine;
        let state = match () {
            () if machine.is_over() => "over",
            () if machine.is_stopping() => "cancelling",
            () if machine.is_exiting() => "exiting",
            () if machine.is_entered() => "entered",
            () => "new",
        };
        (machine.alive(), group.limit(), machine.waiting(), group.started, group.failed, group.cancelled, state)
    }

    /// The task that won the race.
    #[getter]
    fn _winner(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.0.borrow(py).winner.as_ref().map(|winner| winner.clone_ref(py))
    }

    fn _on_task_done(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let (children, parent) = {
            let group = slf.get().0.borrow(py);
            (group.children.clone_ref(py), group.entered.as_ref().map(|entered| entered.parent.clone_ref(py)))
        };
        children.bind(py).del_item(task)?;
        if let Some(parent) = parent {
            aio::not_awaited_by(task, parent.bind(py))?;
        }
        let how = Self::ending(slf, task)?;
        if let Ended::Failed(error) | Ended::Fatal(error) = &how {
            Self::report_if_lost(slf, task, error)?;
        }
        let actions = {
            let mut group = slf.get().0.borrow(py);
            match &how {
                Ended::Well => {}
                Ended::Cancelled => group.cancelled += 1,
                Ended::Failed(_) | Ended::Fatal(_) => group.failed += 1,
            }
            let actions = group.machine.ended(how);
            if actions.won {
                group.winner = Some(task.clone().unbind());
            }
            actions
        };
        Self::carry_out(slf, actions)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let class = slf.get_type().name()?;
        let group = slf.get().0.borrow(slf.py());
        let machine = &group.machine;
        let mut text = format!("<{class}");
        if machine.alive() > 0 {
            text += &format!(" tasks={}", machine.alive());
        }
        if let Some(limit) = group.limit() {
            text += &format!(" limit={limit}");
        }
        if machine.waiting() > 0 {
            text += &format!(" waiting={}", machine.waiting());
        }
        let errors = machine.errors().count();
        if errors > 0 {
            text += &format!(" errors={errors}");
        }
        if machine.is_over() {
            text += " over";
        } else if machine.is_stopping() {
            text += " cancelling";
        } else if machine.is_entered() {
            text += " entered";
        }
        Ok(text + ">")
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |group| group.traverse(&visit))
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = {
            let mut group = self.0.borrow(py);
            let policy = group.policy;
            (
                std::mem::replace(&mut group.machine, Scope::new(policy, 1)),
                group.entered.take(),
                group.context.take(),
                group.cancelled_by.take(),
                group.winner.take(),
            )
        };
        drop(cleared);
    }
}

// ------------------------------------------------------------------------------------------------ operations

/// `TaskGroup.__aenter__`
pub struct EnterGroup(Py<TaskGroup>);

impl Operation for EnterGroup {
    fn name(&self) -> &'static str {
        "TaskGroup.__aenter__"
    }

    fn attempt(&mut self, py: Python<'_>) -> PyResult<Option<Value>> {
        TaskGroup::enter(self.0.bind(py)).map(Some)
    }

    fn enlist(&mut self, _hub: &Bound<'_, Hub>, _waker: Waker) -> PyResult<Enlisted> {
        Err(PyRuntimeError::new_err("TaskGroup.__aenter__ does not wait"))
    }

    fn resume(&mut self, _py: Python<'_>, _ticket: Ticket) -> PyResult<Resumed> {
        Err(PyRuntimeError::new_err("TaskGroup.__aenter__ does not wait"))
    }

    fn leave(&mut self, _py: Python<'_>, _ticket: Ticket) -> PyResult<()> {
        Ok(())
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

enum Body {
    Well,
    Cancelled(Py<PyAny>),
    Failed(Py<PyAny>),
}

/// `TaskGroup.__aexit__`
pub struct LeaveGroup {
    group: Py<TaskGroup>,
    body: Body,
    begun: bool,
    /// A CancelledError that arrived at the exit is what stopped the group.
    stopped_by_cancel: bool,
}

impl LeaveGroup {
    fn begin(&mut self, py: Python<'_>) -> PyResult<()> {
        let group = self.group.bind(py);
        let actions = {
            let mut group = group.get().0.borrow(py);
            match &self.body {
                Body::Well => group.machine.close_body(false, false, None),
                Body::Cancelled(error) => {
                    group.cancelled_by = Some(error.clone_ref(py));
                    group.machine.close_body(true, false, None)
                }
                Body::Failed(error) => {
                    let fatal = is_fatal(error.bind(py)).then(|| error.clone_ref(py));
                    group.machine.close_body(false, true, fatal)
                }
            }
        };
        TaskGroup::carry_out(group, actions)
    }

    /// A CancelledError arrived while the children end: they are told, if they have not been, and the wait goes on.
    fn interrupt(&mut self, py: Python<'_>, error: &PyErr) -> PyResult<Thrown> {
        if !error.matches(py, aio::cancelled_error(py)?)? {
            return Ok(Thrown::Raise);
        }
        let group = self.group.bind(py);
        let (actions, before) = {
            let mut group = group.get().0.borrow(py);
            let actions = group.machine.interrupt();
            // The cancel that stopped the group is the one to raise; else the last that came.
            let stopped_it = matches!(self.body, Body::Cancelled(_)) || self.stopped_by_cancel;
            let before = (!stopped_it).then(|| group.cancelled_by.replace(error.value(py).clone().into_any().unbind()));
            self.stopped_by_cancel |= actions.stop_children;
            (actions, before)
        };
        drop(before);
        TaskGroup::carry_out(group, actions)?;
        Ok(Thrown::WaitOn)
    }

    /// The end, when everybody has ended.
    fn conclude(&mut self, py: Python<'_>) -> PyResult<Option<Value>> {
        let group = self.group.bind(py);
        let (empty, owes_turn, owes_uncancel, parent) = {
            let group = group.get().0.borrow(py);
            let machine = &group.machine;
            let parent = group.entered.as_ref().map(|entered| entered.parent.clone_ref(py));
            (machine.is_empty(), machine.owes_turn(), machine.owes_uncancel(), parent)
        };
        // From 3.13 on, `uncancel` takes back a cancel that has not come out.
        if !empty || (owes_turn && !cfg!(Py_3_13)) {
            return Ok(None);
        }
        let parent = parent.map(|parent| parent.into_bound(py));
        let remaining = match &parent {
            Some(parent) if owes_uncancel => Some(parent.call_method0(intern!(py, "uncancel"))?.extract::<usize>()?),
            _ => None,
        };
        let body = match std::mem::replace(&mut self.body, Body::Well) {
            Body::Failed(error) => Some(error),
            Body::Well | Body::Cancelled(_) => None,
        };
        let closed = body.as_ref().filter(|body| body.bind(py).is_instance_of::<PyGeneratorExit>());
        let closed = closed.map(|body| body.clone_ref(py));
        let ((outcome, rest), cancelled_by, policy, released) = {
            let mut group = group.get().0.borrow(py);
            let finished = group.machine.finish(remaining, body);
            (finished, group.cancelled_by.take(), group.policy, group.entered.take())
        };
        drop((rest, released));
        match (outcome, cancelled_by) {
            (Outcome::Fatal(error), _) => Err(PyErr::from_value(error.into_bound(py))),
            (Outcome::Cancelled, Some(error)) => Err(PyErr::from_value(error.into_bound(py))),
            (Outcome::Quiet | Outcome::Cancelled, _) => Ok(Some(Some(op::yes(py)))),
            (Outcome::Errors(errors), _) => {
                if let Some(parent) = &parent
                    && parent.call_method0(intern!(py, "cancelling"))?.is_truthy()?
                {
                    // Cancelled from outside: the errors go first, the cancel comes out at the next await.
                    parent.call_method0(intern!(py, "uncancel"))?;
                    parent.call_method0(intern!(py, "cancel"))?;
                }
                if let (Some(closed), 1) = (closed, errors.len()) {
                    return Err(PyErr::from_value(closed.into_bound(py)));
                }
                let message = match policy {
                    Policy::FirstFailure => "unhandled errors in a TaskGroup",
                    Policy::FirstSuccess => "every coroutine of race() failed",
                };
                let raised = py.get_type::<PyBaseExceptionGroup>().call1((message, errors))?;
                let raised = PyErr::from_value(raised);
                raised.set_cause(py, None); // `from None`
                Err(raised)
            }
        }
    }
}

impl Operation for LeaveGroup {
    fn name(&self) -> &'static str {
        "TaskGroup.__aexit__"
    }

    fn attempt(&mut self, py: Python<'_>) -> PyResult<Option<Value>> {
        if !std::mem::replace(&mut self.begun, true) {
            self.begin(py)?;
        }
        self.conclude(py)
    }

    fn enlist(&mut self, hub: &Bound<'_, Hub>, waker: Waker) -> PyResult<Enlisted> {
        let py = hub.py();
        if let Some(value) = self.conclude(py)? {
            return Ok(Enlisted::Done(value));
        }
        let (ticket, wakes) = self.group.get().0.borrow(py).machine.wait_for_all(waker);
        op::wake(py, wakes, Origin::Loop)?;
        Ok(Enlisted::Waits(ticket))
    }

    fn resume(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<Resumed> {
        {
            let mut group = self.group.get().0.borrow(py);
            if group.machine.resume_exit(ticket) {
                group.machine.turn_passed();
            }
        }
        match self.conclude(py)? {
            Some(value) => Ok(Resumed::Done(value)),
            None => Err(PyRuntimeError::new_err("the end of a TaskGroup was resumed before its tasks had ended")),
        }
    }

    fn leave(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<()> {
        self.group.get().0.borrow(py).machine.leave_exit(ticket);
        Ok(())
    }

    fn thrown(&mut self, py: Python<'_>, ticket: Ticket, error: &PyErr) -> PyResult<Thrown> {
        let thrown = self.interrupt(py, error)?;
        if matches!(thrown, Thrown::Raise) {
            self.leave(py, ticket)?;
        }
        Ok(thrown)
    }

    fn outlives_cancel(&self) -> bool {
        true
    }

    fn thrown_after_leaving(&mut self, py: Python<'_>, error: &PyErr) -> PyResult<Thrown> {
        self.interrupt(py, error)
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.group)?;
        match &self.body {
            Body::Well => Ok(()),
            Body::Cancelled(error) | Body::Failed(error) => visit.call(error),
        }
    }
}

struct Call {
    function: Py<PyAny>,
    args: Py<PyTuple>,
    kwargs: Option<Py<PyDict>>,
}

/// `TaskGroup.spawn`
pub struct Spawn {
    group: Py<TaskGroup>,
    /// Taken when the slot is there.
    call: Option<Call>,
}

impl Spawn {
    /// The slot is ours: calls the function and starts its task.
    fn start(&mut self, py: Python<'_>) -> PyResult<Value> {
        let group = self.group.bind(py);
        let Some(Call { function, args, kwargs }) = self.call.take() else {
            return Err(PyRuntimeError::new_err("this spawn has started its task already"));
        };
        let coroutine = function.bind(py).call(args.bind(py), kwargs.as_ref().map(|kwargs| kwargs.bind(py)));
        match coroutine {
            Ok(coroutine) => Ok(Some(TaskGroup::start(group, &coroutine, None)?.unbind())),
            Err(error) => {
                let wakes = group.get().0.borrow(py).machine.not_started();
                op::wake(py, wakes, Origin::Loop)?;
                Err(error)
            }
        }
    }

    /// Takes a slot without waiting.
    fn try_start(&mut self, py: Python<'_>) -> PyResult<Option<Value>> {
        let group = self.group.bind(py);
        let admitted = group.get().0.borrow(py).machine.admit();
        match admitted {
            Ok(()) => self.start(py).map(Some),
            Err(Refusal::Full(_)) => Ok(None),
            Err(refusal) => Err(TaskGroup::refused(group, refusal)?),
        }
    }
}

impl Operation for Spawn {
    fn object(&self) -> Option<&Py<PyAny>> {
        Some(self.group.as_any())
    }

    fn name(&self) -> &'static str {
        "TaskGroup.spawn"
    }

    fn attempt(&mut self, py: Python<'_>) -> PyResult<Option<Value>> {
        // A task belongs to the loop of its group.
        let home = self.group.get().0.borrow(py).entered.as_ref().map(|entered| entered.hub.clone_ref(py));
        if let Some(home) = home
            && !aio::hub(py)?.is(&home)
        {
            return Err(aio::loopwright_error(
                py,
                "LoopMismatch",
                "TaskGroup.spawn was awaited on another event loop than the group's; use one group per loop".to_owned(),
            ));
        }
        self.try_start(py)
    }

    fn enlist(&mut self, hub: &Bound<'_, Hub>, waker: Waker) -> PyResult<Enlisted> {
        let py = hub.py();
        if let Some(value) = self.try_start(py)? {
            return Ok(Enlisted::Done(value));
        }
        Ok(Enlisted::Waits(self.group.get().0.borrow(py).machine.wait(waker)))
    }

    fn resume(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<Resumed> {
        let group = self.group.bind(py);
        let (slot, wakes) = group.get().0.borrow(py).machine.resume(ticket);
        op::wake(py, wakes, Origin::Loop)?;
        match slot {
            Slot::Yours => self.start(py).map(Resumed::Done),
            Slot::Refused(refusal) => Err(TaskGroup::refused(group, refusal)?),
            Slot::Waiting => Err(PyRuntimeError::new_err("TaskGroup.spawn was resumed before there was a slot")),
        }
    }

    fn leave(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<()> {
        let wakes = self.group.get().0.borrow(py).machine.leave(ticket);
        op::wake(py, wakes, Origin::Loop)
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.group)?;
        if let Some(Call { function, args, kwargs }) = &self.call {
            visit.call(function)?;
            visit.call(args)?;
            if let Some(kwargs) = kwargs {
                visit.call(kwargs)?;
            }
        }
        Ok(())
    }
}
