from ._core import connect as connect, Connection as Connection
