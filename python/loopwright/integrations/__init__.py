"""Ready pools for drivers: one small file per driver, each with the right hooks for it.

``from loopwright.integrations import asyncpg`` and then ``asyncpg.pool(dsn)``. A driver is imported when its pool is
made, not before, and is installed with its extra: ``pip install loopwright[asyncpg]``. The hooks (``close``, ``abort``,
``check``, ``is_closed``, ``is_clean``, ``reset``) are public functions: make a :class:`loopwright.Pool` of your own
from them where the ready one does not fit.

Beside them: middlewares for servers (``asgi``, ``aiohttp``) and the way in for structlog (``structlog``).
"""
