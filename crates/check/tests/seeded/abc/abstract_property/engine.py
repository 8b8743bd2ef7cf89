from abc import ABC, abstractmethod
import subprocess


class Engine(ABC):
    @property
    @abstractmethod
    def version(self) -> str: ...


class LocalEngine(Engine):
    @property
    def version(self) -> str:
        return subprocess.getoutput("engine --version")  # BUG: LW101


class FakeEngine(Engine):
    version = "0.0"


async def health(engine: Engine) -> dict[str, str]:
    return {"engine": engine.version, "status": "ok"}
