import ftplib
import io

from storage import Storage


class FtpStorage(Storage):
    def __init__(self, host: str) -> None:
        self._host = host

    def put(self, key: str, data: bytes) -> None:
        ftp = ftplib.FTP(self._host)  # BUG: LW101
        ftp.login()
        ftp.storbinary(f"STOR {key}", io.BytesIO(data))

    def get(self, key: str) -> bytes:
        raise NotImplementedError
