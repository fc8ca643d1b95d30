from tests.store.fixtures import blank, database, key, settings

__all__ = ["blank", "database", "key", "settings"]
