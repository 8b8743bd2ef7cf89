"""Refuses interpreters that Loopwright cannot run on, in words, before the extension fails on them in its own.

Imported first by ``loopwright/__init__.py``.
"""

from __future__ import annotations

import sysconfig


def require_gil() -> None:
    """Raises ``ImportError`` on a free-threaded build of CPython.

    It is the build that counts, not whether the GIL happens to be on (``PYTHON_GIL=1``): nothing here was ever tested
    on one, and the core relies on the GIL to keep its state machines whole.
    """
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise ImportError(
            "Loopwright does not support free-threaded builds of CPython yet: it has not been tested without the GIL. "
            f"Use the ordinary build of Python {sysconfig.get_python_version()}, the one without 't' in its name."
        )


require_gil()
