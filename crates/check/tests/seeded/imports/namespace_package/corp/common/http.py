import http.client
import json


def get_json(path):
    connection = http.client.HTTPConnection("api.internal")
    connection.request("GET", path)  # BUG: LW101
    return json.loads(connection.getresponse().read())
