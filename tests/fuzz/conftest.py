from tests.api.conftest import app, clock, database, engine, first_start, http, settings

__all__ = ["app", "clock", "database", "engine", "first_start", "http", "settings"]
