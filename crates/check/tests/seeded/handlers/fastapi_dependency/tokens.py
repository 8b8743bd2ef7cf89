import subprocess


def decode(token: str) -> dict:
    name = subprocess.check_output(["decode-token", token], text=True)  # BUG: LW101
    return {"name": name}
