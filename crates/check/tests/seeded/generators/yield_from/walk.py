import ftplib


def entries(ftp, path):
    for name, facts in ftp.mlsd(path):
        if facts["type"] == "dir":
            yield from entries(ftp, f"{path}/{name}")
        else:
            yield f"{path}/{name}"


def everything(host):
    ftp = ftplib.FTP(host)  # BUG: LW101
    yield from entries(ftp, "/")


async def index(host, save):
    for name in everything(host):
        await save(name)
