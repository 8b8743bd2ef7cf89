import sqlite3
from typing import Generic, TypeVar

M = TypeVar("M", bound="Model")


class Model:
    table = ""

    def save(self, db: sqlite3.Connection) -> None:
        db.execute(f"insert into {self.table} default values")  # BUG: LW101


class Article(Model):
    table = "articles"


class Repository(Generic[M]):
    def __init__(self, db: sqlite3.Connection, kind: type[M]) -> None:
        self.db = db
        self.kind = kind

    def create(self) -> M:
        item = self.kind()
        item.save(self.db)
        return item


async def publish(articles: Repository[Article]) -> Article:
    return articles.create()
