"""A list on its way from the API to DuckDB: a few pages are held between the two, whatever its length.

Pages come on the event loop; DuckDB pulls them in a thread of its own. When it has enough, no more are asked for.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from milepost.sql.catalog import Column

#: Pages held at most.
AHEAD = 8


class Stream:
    def __init__(self, columns: Sequence[Column], batches: AsyncIterator[pa.RecordBatch]) -> None:
        self.error: BaseException | None = None
        self._columns = columns
        self._batches = batches
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(AHEAD)
        self._pages: queue.SimpleQueue[pa.RecordBatch | None] = queue.SimpleQueue()
        self._producer: asyncio.Task[None] | None = None

    async def begin(self) -> list[pa.RecordBatch] | None:
        """Ask for two pages: what there is if there are not two; else None, and the rest flows when it is read."""
        first = [batch for _ in range(2) if (batch := await anext(self._batches, None)) is not None]
        if len(first) < 2:
            return first
        for batch in first:
            await self._put(batch)
        self._producer = asyncio.create_task(self._produce())
        return None

    def reader(self) -> pa.RecordBatchReader:
        """What DuckDB reads, in its own thread."""
        import pyarrow as pa

        from milepost.sql import arrow

        return pa.RecordBatchReader.from_batches(arrow.schema(self._columns), self._pull())

    async def aclose(self) -> None:
        """End what is in flight, and the reader with it."""
        if self._producer:
            self._producer.cancel()
            await asyncio.gather(self._producer, return_exceptions=True)
        self._pages.put(None)

    async def _produce(self) -> None:
        try:
            async for batch in self._batches:
                await self._put(batch)
        except Exception as error:  # noqa: BLE001 (it is raised again where the rows are read)
            self.error = error
        finally:
            self._pages.put(None)

    async def _put(self, batch: pa.RecordBatch) -> None:
        await self._slots.acquire()
        self._pages.put(batch)

    def _pull(self) -> Iterator[pa.RecordBatch]:
        while (batch := self._pages.get()) is not None:
            self._loop.call_soon_threadsafe(self._slots.release)
            yield batch
        if self.error:
            raise self.error
