import asyncio
import smtplib
from email.message import EmailMessage


def deliver(message: EmailMessage) -> int:
    with smtplib.SMTP("mail.internal", 25) as server:  # BUG: LW101
        refused = server.send_message(message)
    return len(refused)


def compose(to: str, body: str) -> EmailMessage:
    message = EmailMessage()
    message["To"] = to
    message.set_content(body)
    return message


async def notify(queue: asyncio.Queue, recorder) -> None:
    while True:
        to, body = await queue.get()
        await recorder.store(to, refused=deliver(compose(to, body)))
        queue.task_done()
