import time
from abc import ABC, abstractmethod


class Backend(ABC):
    @abstractmethod
    def write(self, data): ...

    @abstractmethod
    async def awrite(self, data): ...


class Network(Backend):
    def write(self, data):
        time.sleep(0.2)

    async def awrite(self, data):
        return len(data)


async def save(backend: Backend, data):
    return await backend.awrite(data)  # OK: the other method is for threads


def save_sync(backend: Backend, data):
    backend.write(data)
