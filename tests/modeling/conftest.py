"""As the tests of serving, these compute with one thread each."""

from tests.serving.conftest import one_thread

__all__ = ["one_thread"]
