PENDING = []


def get(name):
    return [item for item in PENDING if item == name]


def post(item):
    PENDING.append(item)
