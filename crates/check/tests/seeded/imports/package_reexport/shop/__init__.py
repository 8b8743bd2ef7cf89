from .db import find_product

__all__ = ["find_product"]
