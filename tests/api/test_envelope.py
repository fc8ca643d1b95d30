"""What every answer wears, whatever a layer or a route inside raises."""

import httpx2
import pytest

from milepost import errors
from milepost.api.envelope import Envelope
from tests.api.fakes import BugError


async def ask(method: str, error: Exception) -> httpx2.Response:
    """The answer to a request in which something raises."""

    async def app(_scope, _receive, _send):
        raise error

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=Envelope(app, "org-a"))) as http:
        return await http.request(method, "http://test/v1/things")


@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
@pytest.mark.parametrize(
    ("error", "status", "again"),
    [
        (BugError("a bug"), 500, "false"),
        (errors.Corrupt("bytes are wrong"), 500, "false"),
        (errors.Remote("an API failed"), 502, "false"),
        (errors.Unavailable("still coming up"), 503, None),
        (errors.Exhausted("too many"), 429, "false"),
        (errors.Conflict("not now"), 400, None),
        (errors.Forbidden("not with this key"), 403, None),
    ],
)
async def test_a_fault_that_may_have_done_something_is_not_to_be_asked_again(method, error, status, again):
    answer = await ask(method, error)
    assert (answer.status_code, answer.headers.get("x-should-retry")) == (status, again)
    assert answer.headers["openai-organization"] == "org-a"
    assert answer.json()["error"]["message"]


async def test_a_5xx_that_a_route_answers_itself_is_under_the_same_rule():
    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 504, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=Envelope(app, "org-a"))) as http:
        answer = await http.post("http://test/v1/things")
    assert answer.headers["x-should-retry"] == "false"
