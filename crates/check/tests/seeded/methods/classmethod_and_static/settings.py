import configparser
import subprocess


class Settings:
    def __init__(self, values: dict[str, str]) -> None:
        self.values = values

    @staticmethod
    def _decrypt(path: str) -> str:
        return subprocess.check_output(["gpg", "--decrypt", path], text=True)  # BUG: LW101

    @classmethod
    def load(cls, path: str) -> "Settings":
        parser = configparser.ConfigParser()
        parser.read_string(cls._decrypt(path))
        return cls(dict(parser["main"]))


async def reload(request):
    request.app["settings"] = Settings.load("settings.ini.gpg")
