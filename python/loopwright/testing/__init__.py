"""The proof kit: virtual time, seeded schedules, a cancel at every await point, leak checks, a simulated network.

For pytest there is the plugin, which is on as soon as Loopwright is installed::

    @pytest.mark.loopwright(seeds=100, cancel="every")
    async def test_transfer() -> None: ...
"""

from loopwright.testing import strategies
from loopwright.testing._explore import Exploration, Failure, Row, explore, replay, run
from loopwright.testing._leaks import ALL as ALL_LEAKS
from loopwright.testing._leaks import Leak, leak_checks
from loopwright.testing._loop import SimLoop, SimTask
from loopwright.testing._play import Play
from loopwright.testing._points import Point, SweepReport
from loopwright.testing._seeded import seeded, virtual_clock
from loopwright.testing._sweep import InjectedError, cancel_sweep, random_cancels
from loopwright.testing._threads import bystander
from loopwright.testing.errors import Deadlock, LeakError, Livelock, Nondeterministic, ReplayError, SweepFailure

__all__ = [
    "ALL_LEAKS",
    "Deadlock",
    "Exploration",
    "Failure",
    "InjectedError",
    "Leak",
    "LeakError",
    "Livelock",
    "Nondeterministic",
    "Play",
    "Point",
    "ReplayError",
    "Row",
    "SimLoop",
    "SimTask",
    "SweepFailure",
    "SweepReport",
    "bystander",
    "cancel_sweep",
    "explore",
    "leak_checks",
    "random_cancels",
    "replay",
    "run",
    "seeded",
    "strategies",
    "virtual_clock",
]
