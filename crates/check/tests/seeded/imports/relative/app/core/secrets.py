import subprocess


def read_secret(name):
    return subprocess.check_output(["pass", "show", name])  # BUG: LW101
