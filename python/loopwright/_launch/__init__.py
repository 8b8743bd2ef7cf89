"""What ``loopwright run`` and :func:`loopwright.run` stand on.

``supervisor``
    the signals, the phases, the watchdog and the report: nothing is wrapped. ``loopwright.run`` uses this alone.
``guard``
    what ``loopwright run`` wraps so that an unmodified program is watched and its main task can be cancelled.
``loops``
    which event loop ``--loop`` means.
``target``
    runs ``file.py``, ``pkg.mod`` or ``pkg.mod:callable`` as ``python`` would.
``command``
    puts them together.
"""
