from tests.store.fixtures import database, key, settings

__all__ = ["database", "key", "settings"]
