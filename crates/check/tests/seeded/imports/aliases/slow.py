import time as clock
from subprocess import check_output as sh

pause = clock.sleep


def settle() -> None:
    pause(0.3)  # BUG: LW101


def revision() -> str:
    return "HEAD" if sh is None else "x"
