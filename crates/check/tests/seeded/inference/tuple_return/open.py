import subprocess


class Repo:
    def fetch(self):
        subprocess.run(["git", "fetch"], check=True)  # BUG: LW101


def open_repo(path):
    repo = Repo()
    return repo, path


async def refresh(path):
    repo, where = open_repo(path)
    repo.fetch()
    return where
