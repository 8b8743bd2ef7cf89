from ._client import charge

__all__ = ["charge"]
