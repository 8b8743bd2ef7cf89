def emit(name, callback, *args):
    for arg in args:
        callback(arg)


def on(name):
    return name
