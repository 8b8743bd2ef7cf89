import logging
import shlex

log = logging.getLogger(__name__)


async def read(connection, path):
    log.info("reading %r", path)
    result = await connection.run(f"cat {shlex.quote(path)}")  # OK: quoted for the shell
    if result.status:
        raise OSError(f"cannot read {path!r}")  # OK: a message
    return result.stdout
