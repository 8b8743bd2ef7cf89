import subprocess


def run(host: str, command: str) -> str:
    process = subprocess.Popen(["ssh", host, command], stdout=subprocess.PIPE, text=True)  # BUG: LW101
    out, _ = process.communicate(timeout=30)  # BUG: LW101
    return out
