from tools.net import get_json

__all__ = ["get_json"]
