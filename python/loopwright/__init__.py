"""The systems every asyncio service needs, done right in Rust and proven under a cancel at every await point."""

from __future__ import annotations

from loopwright import _interpreter as _interpreter  # first: it refuses what the extension would crash on
from loopwright._loopwright import __version__
from loopwright.background import Background, BackgroundStats, Restart
from loopwright.broadcasts import Broadcast
from loopwright.cancellation import CancelToken, CancelTokenStats, finish
from loopwright.errors import (
    CallCancelled,
    CloseError,
    CloseTimeout,
    FinishTimeout,
    GroupFull,
    LeaseLost,
    LimitUnavailable,
    LoopMismatch,
    LoopwrightError,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    QueueShutDown,
    RateLimitExceeded,
    ResourceCycle,
    ResourcesClosed,
    TokenCancelled,
)
from loopwright.groups import TaskGroup, TaskGroupStats, race
from loopwright.keyed import Keyed, KeyedStats
from loopwright.limits import (
    BoundedSemaphore,
    Event,
    EventStats,
    Lock,
    LockStats,
    Permit,
    Semaphore,
    SemaphoreStats,
)
from loopwright.mapping import AsyncMap, MapError, MapStats, Prefetch, PrefetchStats, amap, gather, prefetch
from loopwright.pools import ConnectionStrategy, Histogram, KeyedPool, Lease, Pool, PoolEvent, PoolStats
from loopwright.queues import LifoQueue, PriorityQueue, Queue, QueueStats
from loopwright.resilience import resilient, safe_execute
from loopwright.resources import Resources, ResourcesStats
from loopwright.retries import (
    Retry,
    RetryBudget,
    RetryBudgetStats,
    RetryEvent,
    RetryOn,
    RetryReport,
    RetryStats,
    http_errors,
    http_retry_after,
)
from loopwright.service import run
from loopwright.timeouts import Timeout, TimeoutStats, time_left, timeout, timeout_at

__all__ = [
    "AsyncMap",
    "Background",
    "BackgroundStats",
    "BoundedSemaphore",
    "Broadcast",
    "CallCancelled",
    "CancelToken",
    "CancelTokenStats",
    "CloseError",
    "CloseTimeout",
    "ConnectionStrategy",
    "Event",
    "EventStats",
    "FinishTimeout",
    "GroupFull",
    "Histogram",
    "Keyed",
    "KeyedPool",
    "KeyedStats",
    "Lease",
    "LeaseLost",
    "LifoQueue",
    "LimitUnavailable",
    "Lock",
    "LockStats",
    "LoopMismatch",
    "LoopwrightError",
    "MapError",
    "MapStats",
    "Permit",
    "Pool",
    "PoolClosed",
    "PoolEvent",
    "PoolFull",
    "PoolStats",
    "PoolTimeout",
    "Prefetch",
    "PrefetchStats",
    "PriorityQueue",
    "Queue",
    "QueueShutDown",
    "QueueStats",
    "RateLimitExceeded",
    "ResourceCycle",
    "Resources",
    "ResourcesClosed",
    "ResourcesStats",
    "Restart",
    "Retry",
    "RetryBudget",
    "RetryBudgetStats",
    "RetryEvent",
    "RetryOn",
    "RetryReport",
    "RetryStats",
    "Semaphore",
    "SemaphoreStats",
    "TaskGroup",
    "TaskGroupStats",
    "Timeout",
    "TimeoutStats",
    "TokenCancelled",
    "__version__",
    "amap",
    "finish",
    "gather",
    "http_errors",
    "http_retry_after",
    "prefetch",
    "race",
    "resilient",
    "run",
    "safe_execute",
    "time_left",
    "timeout",
    "timeout_at",
]
