"""Everything Milepost raises on purpose.

::

Error:
    ├── Invalid       what you sent cannot be right, whatever the state of the world
    ├── NotFound      no such thing, or not yours to see
    ├── Denied        no key, or a key that is not known
    ├── Forbidden     a good key, but not one for this
    ├── Conflict      right in itself, wrong in the present state
    ├── Exhausted     a limit is reached; later may do
    ├── Unavailable   a part of Milepost is down or still coming up; nothing was kept, so that asking again is safe
    ├── Full          the disk has no room for what was to be kept
    ├── Corrupt       bytes on disk are not the bytes their hash promises
    ├── Remote        an API that SQL asked answered with an error
    └── TimedOut      what was waited for did not come in time

No HTTP and no SQLSTATE here: each door has one table from class to its own code. A message says what was wrong, which
value, and what to do. `param` names the field of the request, `code` is the API's machine-readable word
(reference/openai-contract.md §4.2).

"""

from __future__ import annotations


class Error(Exception):
    """The root; never raised itself."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class Invalid(Error):  # noqa: N818 (the words are the field's: job.error says "invalid", not "InvalidError")
    pass


class NotFound(Error):  # noqa: N818
    pass


class Denied(Error):  # noqa: N818
    pass


class Forbidden(Error):  # noqa: N818
    pass


class Conflict(Error):  # noqa: N818
    pass


class Exhausted(Error):  # noqa: N818
    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after_s = retry_after_s


class Unavailable(Error):  # noqa: N818
    pass


class Full(Error):  # noqa: N818
    pass


class Corrupt(Error):  # noqa: N818
    pass


class Remote(Error):  # noqa: N818
    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status
        self.request_id = request_id

    def with_more(self, said: str) -> Remote:
        """The same error, with more said of it."""
        return Remote(
            self.message + said, status=self.status, request_id=self.request_id, param=self.param, code=self.code
        )


class TimedOut(Error):  # noqa: N818
    pass
