import json
import urllib.request


def _post(path, payload):
    request = urllib.request.Request("https://acme.example" + path, json.dumps(payload).encode())
    return json.load(urllib.request.urlopen(request))


def charge(card, amount):
    return _post("/charges", {"card": card, "amount": amount})
