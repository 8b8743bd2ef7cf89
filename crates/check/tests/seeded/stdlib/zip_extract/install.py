import zipfile


def unpack(archive: str, target: str) -> list[str]:
    with zipfile.ZipFile(archive) as file:
        file.extractall(target)  # BUG: LW101
        return file.namelist()


async def install_plugin(request):
    name = await request.save_upload()
    return unpack(name, "/srv/plugins")
