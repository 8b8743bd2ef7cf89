import shutil
import time


def cmd_status(args):
    return "up"


def cmd_restart(args):
    time.sleep(2)  # BUG: LW101
    return "restarted"


def cmd_disk(args):
    return str(shutil.disk_usage("/"))


COMMANDS = {"status": cmd_status, "restart": cmd_restart, "disk": cmd_disk}


async def on_message(message, reply):
    name, *args = message.split()
    await reply(COMMANDS[name](args))
