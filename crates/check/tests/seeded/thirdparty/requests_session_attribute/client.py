import requests


class Client:
    def __init__(self, token: str) -> None:
        self.session = requests.Session()
        self.session.headers["authorization"] = token

    async def issue(self, number: int) -> dict:
        answer = self.session.get(f"https://tracker.internal/issues/{number}")  # BUG: LW101
        answer.raise_for_status()
        return answer.json()
