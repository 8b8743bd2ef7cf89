//! `loopwright._loopwright`: carries out on asyncio what `loopwright-core` decides. One file per public object.
//!
//! How a wait works, from the leaf up: an object holds a core machine; `op` is one awaited operation on it; when it has
//! to wait it yields a `fut` to its task and leaves a waker in the machine; an event (a release, a put) returns wakers;
//! `hub` runs them, all of one turn in one go. Only `aio`, `async_method`, `awaitable`,
//! `descriptor`, `gil` and `watchdog` have `unsafe` in them.

mod adaptive_limit;
mod aio;
mod args;
mod async_method;
mod awaitable;
mod batch;
mod bound;
mod breaker;
mod cancel_token;
mod cli;
mod clocks;
mod descriptor;
mod durations;
mod event;
mod footprints;
mod fut;
mod gil;
mod guard;
mod heap;
mod hub;
mod keyed;
mod lease;
mod lock;
mod log_line;
mod log_sink;
mod logger;
mod map;
mod notify;
mod offload;
mod op;
mod permits;
mod pool;
mod process;
mod queue;
mod rate_limiter;
mod retry;
mod semaphore;
mod sim;
mod stopwatch;
mod task_group;
mod timeout;
mod timers;
mod waits;
mod watchdog;

#[pyo3::pymodule(gil_used = true)]
mod _loopwright {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::adaptive_limit::AdaptiveLimit;
    #[pymodule_export]
    use crate::aio::{forget_cached_hub, use_private};
    #[pymodule_export]
    use crate::batch::Batch;
    #[pymodule_export]
    use crate::bound::{Bind, Fields, bound, unbind};
    #[pymodule_export]
    use crate::breaker::Breaker;
    #[pymodule_export]
    use crate::cancel_token::CancelToken;
    #[pymodule_export]
    use crate::cli::{_parse_args, _wraps};
    #[pymodule_export]
    use crate::durations::Durations;
    #[pymodule_export]
    use crate::event::Event;
    #[pymodule_export]
    use crate::footprints::Footprints;
    #[pymodule_export]
    use crate::guard::TaskFactory;
    #[pymodule_export]
    use crate::keyed::Keyed;
    #[pymodule_export]
    use crate::lease::Lease;
    #[pymodule_export]
    use crate::lock::Lock;
    #[pymodule_export]
    use crate::log_sink::{LogSink, after_fork, before_fork, flush_logs};
    #[pymodule_export]
    use crate::logger::{
        Logger, get_logger, log_record, log_sink, provide_fields, render_json, set_log_levels, set_log_sink,
    };
    #[pymodule_export]
    use crate::map::{Lane, Window};
    #[pymodule_export]
    use crate::offload::{Job, Offloads};
    #[pymodule_export]
    use crate::permits::Permit;
    #[pymodule_export]
    use crate::pool::{KeyedPool, Pool};
    #[pymodule_export]
    use crate::process::{Life, Lines, Tail};
    #[pymodule_export]
    use crate::queue::{LifoQueue, PriorityQueue, Queue};
    #[pymodule_export]
    use crate::rate_limiter::RateLimiter;
    #[pymodule_export]
    use crate::retry::{RetryBudget, RetryFailures, RetryPolicy};
    #[pymodule_export]
    use crate::semaphore::{BoundedSemaphore, Semaphore};
    #[pymodule_export]
    use crate::sim::{Search, Shrink, SimCore, SimHandle};
    #[pymodule_export]
    use crate::stopwatch::Stopwatch;
    #[pymodule_export]
    use crate::task_group::{TaskGroup, race_group};
    #[pymodule_export]
    use crate::timeout::{Timeout, time_left, timeout, timeout_at};
    #[pymodule_export]
    use crate::waits::trace_waits;
    #[pymodule_export]
    use crate::watchdog::Watchdog;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        crate::awaitable::init(py)?;
        crate::awaitable::install_slots::<crate::op::Op>(py);
        crate::awaitable::install_slots::<crate::lease::Lease>(py);
        crate::awaitable::install_slots::<crate::timeout::Timeout>(py);
        crate::awaitable::install_reuse::<crate::lease::Lease>(py);
        crate::awaitable::install_reuse::<crate::op::Op>(py);
        crate::awaitable::install_free_list::<crate::timeout::Timeout>(py);
        crate::awaitable::install_free_list::<crate::fut::Fut>(py);
        crate::awaitable::install_fast_with::<crate::permits::Permits>(py)?;
        crate::awaitable::install_fast_with::<crate::lease::Lease>(py)?;
        crate::awaitable::install_fast_with::<crate::breaker::Breaker>(py)?;
        crate::awaitable::install_fast_with::<crate::rate_limiter::RateLimiter>(py)?;
        crate::awaitable::install_entered(&crate::lease::Lease::spent(py)?)?;
        crate::awaitable::cache_async_with::<crate::permits::Permits>(py)?;
        crate::async_method::mark::<crate::adaptive_limit::AdaptiveLimit>(py, &["acquire"])?;
        crate::async_method::mark::<crate::semaphore::Semaphore>(py, &["acquire"])?;
        crate::async_method::mark::<crate::lock::Lock>(py, &["acquire"])?;
        crate::async_method::mark::<crate::rate_limiter::RateLimiter>(py, &["acquire"])?;
        crate::async_method::mark::<crate::event::Event>(py, &["wait"])?;
        crate::async_method::mark::<crate::queue::Queue>(py, &["put", "get", "join"])?;
        crate::async_method::shorten::<crate::queue::Put>(py, "put", 1)?;
        crate::async_method::shorten::<crate::queue::Get>(py, "get", 0)?;
        crate::async_method::shorten::<crate::lease::Lease>(py, "acquire", 0)?;
        crate::async_method::mark::<crate::cancel_token::CancelToken>(py, &["sleep", "wait"])?;
        crate::async_method::mark::<crate::task_group::TaskGroup>(py, &["spawn"])?;
        crate::async_method::gate::<crate::logger::Below<10>>(py, "debug")?;
        crate::async_method::gate::<crate::logger::Below<20>>(py, "info")?;
        crate::async_method::gate::<crate::logger::Below<30>>(py, "warning")?;
        crate::async_method::gate::<crate::logger::Below<40>>(py, "error")?;
        crate::async_method::gate::<crate::logger::Below<50>>(py, "critical")?;
        py.import("os")?.call_method(
            "register_at_fork",
            (),
            Some(&[("after_in_child", module.getattr("_forget_cached_hub")?)].into_py_dict(py)?),
        )?;
        Ok(())
    }

    use pyo3::types::IntoPyDict;
}
