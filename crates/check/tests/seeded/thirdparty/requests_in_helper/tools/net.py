import requests


def get_json(url, **params):
    with requests.Session() as session:
        response = session.get(url, params=params, timeout=10)  # BUG: LW101
    return response.json()
