import json
from pathlib import Path

# OK: read once, before any loop runs
SETTINGS = json.loads(Path(__file__).with_name("settings.json").read_text())


async def handler(request):
    return SETTINGS["greeting"]
