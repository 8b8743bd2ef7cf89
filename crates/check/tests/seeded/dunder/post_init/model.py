import hashlib
import time
from dataclasses import dataclass, field


@dataclass
class Token:
    secret: str
    issued: float = field(default_factory=time.time)
    digest: str = ""

    def __post_init__(self) -> None:
        if not self.digest:
            self.digest = hashlib.pbkdf2_hmac("sha256", self.secret.encode(), b"salt", 600_000).hex()  # BUG: LW101


async def issue(user) -> Token:
    secret = await user.secret()
    return Token(secret)
