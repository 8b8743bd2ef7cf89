from ports import Notifier


class Orders:
    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    async def place(self, order: dict[str, str]) -> None:
        self._notifier.notify(f"order {order['id']}")
