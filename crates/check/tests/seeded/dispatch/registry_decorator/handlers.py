import smtplib

from registry import handles


@handles("signup")
def welcome(payload):
    smtplib.SMTP("localhost").sendmail("us", payload["email"], "welcome")  # BUG: LW101


@handles("ping")
def ping(payload):
    return "pong"
