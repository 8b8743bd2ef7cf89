import urllib.request
from html.parser import HTMLParser


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag == "a":
            self.found.extend(value for name, value in attrs if name == "href" and value)


def visit(url: str, depth: int, seen: set[str]) -> None:
    if url in seen or depth == 0:
        return
    seen.add(url)
    follow(url, depth - 1, seen)


def follow(url: str, depth: int, seen: set[str]) -> None:
    with urllib.request.urlopen(url, timeout=10) as page:  # BUG: LW101
        parser = Links()
        parser.feed(page.read().decode("utf-8", "replace"))
    for link in parser.found:
        visit(link, depth, seen)


async def site_map(start: str) -> list[str]:
    seen: set[str] = set()
    visit(start, 3, seen)
    return sorted(seen)
