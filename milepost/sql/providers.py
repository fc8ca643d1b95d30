"""Providers: the APIs that SQL reaches, each by a name and through a typed SDK client."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from milepost.errors import Denied, NotFound
from milepost.sql.catalog import Root, Table, shipped
from milepost.sql.words import near

if TYPE_CHECKING:
    import httpx2

    from milepost.sql.calls import Call

#: Requests in flight; more gained nothing when it was measured.
AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Provider:
    """An API that SQL reaches by `name`. `connect` is called once, before the first request; the session closes it."""

    name: str
    host: str
    connect: Callable[[], Any]
    root: Root = "openai"
    at_once: int = AT_ONCE


class Client:
    """A typed SDK client, with retries taken out of its hands; SDKs of the family differ in their names only."""

    def __init__(self, client: Any) -> None:
        self.sdk = type(client).__module__.partition(".")[0]
        self.max_retries: int = client.max_retries
        self.base_url = str(client.base_url)
        self.error: type[Exception] = sys.modules[self.sdk].APIError.__mro__[1]
        self.idempotency_header: str | None = client._idempotency_header  # noqa: SLF001 (it has no public name)
        self._given = client
        self._client = client.with_options(max_retries=0)

    def method(self, path: str) -> Callable[..., Any]:
        """The SDK's method at this path, which answers raw."""
        *parts, name = path.split(".")
        target = self._client
        for part in parts:
            target = getattr(target, part)
        method: Callable[..., Any] = getattr(target.with_raw_response, name)
        return method

    async def request_of(self, call: Call) -> tuple[str, str, str]:
        """Method, URL and body of the request that the SDK would send."""
        http = next(kind for kind in type(self._given._client).__mro__ if kind.__name__ == "AsyncClient")  # noqa: SLF001
        httpx = sys.modules[http.__module__.partition(".")[0]]
        seen: list[Any] = []

        def answer(request: Any) -> Any:
            seen.append(request)
            return httpx.Response(200, json={})

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http_client:
            client = Client(self._given.with_options(http_client=http_client))
            await client.method(call.method.path)(**dict(call.arguments))
        request = seen[-1]
        kind = request.headers.get("content-type", "")
        body = _parts(call) if kind.startswith("multipart/") else (await request.aread()).decode()
        return request.method, str(request.url), body

    async def aclose(self) -> None:
        await self._given.close()


def _parts(call: Call) -> str:
    """A form with files, in words: their bytes are not for the eye."""
    shown = {
        name: f"<{value[0]}: {len(value[1])} bytes>" if isinstance(value, tuple) else value
        for name, value in call.arguments
    }
    return orjson.dumps(shown).decode()


def openai_provider(
    name: str = "openai",
    *,
    base_url: str,
    api_key: str | None,
    http_client: httpx2.AsyncClient | None = None,
    root: Root = "openai",
    key_from: str = "",
    organization: str | None = None,
    project: str | None = None,
    headers: Mapping[str, str] | None = None,
    at_once: int = AT_ONCE,
    max_retries: int = 2,
) -> Provider:
    """A provider behind the `openai` SDK, at any server that speaks its API. With `root="openai_admin"` the key is an
    admin key. The SDK is imported at the first request; `http_client` is for tests and for fakes without a socket;
    `key_from` is the hint for whoever has no key; `at_once` bounds the requests in flight.
    """

    def connect() -> Any:
        if not api_key:
            hint = f"\nhint: {key_from}" if key_from else ""
            raise Denied(f"The provider `{name}` ({base_url}) has no API key{hint}", param="api_key")
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        # A proxy has no way to this machine's own loopback address.
        direct = DefaultAsyncHttpxClient(trust_env=False) if _is_loopback(base_url) else None
        is_admin = root == "openai_admin"
        return AsyncOpenAI(
            api_key=None if is_admin else api_key,
            admin_api_key=api_key if is_admin else None,
            organization=organization,
            project=project,
            base_url=base_url,
            http_client=http_client or direct,
            default_headers=headers,
            max_retries=max_retries,
        )

    return Provider(name, base_url, connect, root, at_once)


def _is_loopback(base_url: str) -> bool:
    return urlsplit(base_url).hostname in ("127.0.0.1", "::1", "localhost")


def named(providers: Mapping[str, Provider], name: str) -> Provider:
    """The provider of this name. Raises `NotFound` with names that come near."""
    if name not in providers:
        raise NotFound(f"No provider `{name}`.{near(name, providers)}", param=name)
    return providers[name]


def table_of(providers: Mapping[str, Provider], provider: str, service: str, resource: str) -> Table:
    """The table `provider.service.resource`. Raises `NotFound` with names that come near."""
    return shipped().table(named(providers, provider).root, service, resource)
