import pickle
from pathlib import Path


class Memory:
    def __init__(self):
        self.data = {}

    def load(self, key):
        return self.data.get(key)


class Disk:
    def __init__(self, root):
        self.root = Path(root)

    def load(self, key):
        with open(self.root / key, "rb") as file:  # BUG: LW101
            return pickle.load(file)


def make(root=None):
    if root is None:
        return Memory()
    return Disk(root)
