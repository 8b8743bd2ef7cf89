import ftplib


class Local:
    def send(self, name: str) -> str:
        return name


class Ftp:
    def send(self, name: str) -> str:
        with ftplib.FTP("files.internal", "u", "p") as ftp:  # BUG: LW101
            with open(name, "rb") as file:
                return ftp.storbinary(f"STOR {name}", file)


DRIVERS = {"local": Local, "ftp": Ftp}


async def export(kind: str, name: str) -> str:
    driver = DRIVERS[kind]()
    return driver.send(name)
