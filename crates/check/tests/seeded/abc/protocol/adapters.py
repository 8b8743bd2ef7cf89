import urllib.parse
import urllib.request


class ConsoleNotifier:
    def notify(self, text: str) -> bool:
        print(text)
        return True


class HookNotifier:
    def __init__(self, url: str) -> None:
        self.url = url

    def notify(self, text: str) -> bool:
        body = urllib.parse.urlencode({"text": text}).encode()
        with urllib.request.urlopen(self.url, body) as answer:  # BUG: LW101
            return answer.status == 200
