from tests.store.fixtures import blank, blank_postgres, database, database_url, key, settings

__all__ = ["blank", "blank_postgres", "database", "database_url", "key", "settings"]
