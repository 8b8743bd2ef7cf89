import asyncio
import smtplib


class Mailer:
    def __init__(self, host: str) -> None:
        self._host = host

    def send(self, to: str, text: str) -> None:
        smtp = smtplib.SMTP(self._host)  # BUG: LW101
        smtp.sendmail("alerts@internal", [to], text)
        smtp.quit()


async def drain(queue: asyncio.Queue[tuple[str, str]], mailer: Mailer) -> None:
    send = mailer.send
    while True:
        to, text = await queue.get()
        send(to, text)
