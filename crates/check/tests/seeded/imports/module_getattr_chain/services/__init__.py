from . import clients, registry
