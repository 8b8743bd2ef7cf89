NAMES = {"a": "http://a.internal"}
