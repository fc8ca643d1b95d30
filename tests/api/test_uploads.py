"""Files that come in parts, by the unmodified SDK and as no SDK sends them."""

import asyncio
import hashlib

import openai
import pytest
from sqlalchemy import insert, select

from milepost.config import Settings
from milepost.store import keys
from milepost.store.schema import keys as key_rows
from milepost.store.schema import organizations, projects
from tests.api.conftest import BASE, NOW
from tests.api.forms import form, kept, part

LINE = b'{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me."}]}\n'
DATA = LINE * 12


def create(client, size, **fields):
    asked = {"filename": "train.jsonl", "purpose": "fine-tune", "mime_type": "text/jsonl", **fields}
    return client.uploads.create(bytes=size, **asked)


async def add(client, upload, *pieces) -> list[str]:
    """Add the pieces side by side; their parts' ids in the order of the pieces."""
    parts = await asyncio.gather(*(client.uploads.parts.create(upload.id, data=piece) for piece in pieces))
    return [made.id for made in parts]


def said(caught) -> str:
    return caught.value.body["message"]


async def test_parts_that_came_side_by_side_become_a_file_that_is_trained_on(client):
    upload = await create(client, len(DATA))
    assert upload.id.startswith("upload_")
    assert upload.model_dump(exclude={"id"}) == {
        "object": "upload",
        "bytes": len(DATA),
        "created_at": int(NOW),
        "expires_at": int(NOW) + 3600,
        "filename": "train.jsonl",
        "purpose": "fine-tune",
        "status": "pending",
        "file": None,
    }
    last, first, middle = await add(client, upload, DATA[700:], DATA[:100], DATA[100:700])
    done = await client.uploads.complete(
        upload.id, part_ids=[first, middle, last], md5=hashlib.md5(DATA).hexdigest().upper()
    )
    assert done.model_copy(update={"file": None}) == upload.model_copy(update={"status": "completed"})
    assert (done.file.filename, done.file.bytes, done.file.purpose, done.file.status) == (
        "train.jsonl",
        len(DATA),
        "fine-tune",
        "processed",
    )
    assert await client.files.retrieve(done.file.id) == done.file
    assert (await client.files.content(done.file.id)).content == DATA
    assert (await client.fine_tuning.jobs.create(model=BASE, training_file=done.file.id)).status == "validating_files"


async def test_a_part_is_an_object_of_its_own(client):
    upload = await create(client, len(DATA))
    made = await client.uploads.parts.create(upload.id, data=DATA)
    assert made.id.startswith("part_")
    assert (made.object, made.upload_id, made.created_at) == ("upload.part", upload.id, int(NOW))


@pytest.mark.parametrize("md5", [openai.omit, hashlib.md5(DATA).hexdigest()])
async def test_the_sdk_does_it_all_in_one_call(client, tmp_path, md5):
    path = tmp_path / "train.jsonl"
    path.write_bytes(DATA)
    done = await client.uploads.upload_file_chunked(
        file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=500, md5=md5
    )
    assert (done.status, done.file.bytes) == ("completed", len(DATA))
    assert (await client.files.content(done.file.id)).content == DATA


async def test_the_bytes_of_parts_are_dropped_with_their_upload(client, database):
    upload = await create(client, 4, purpose="user_data")
    ids = await add(client, upload, b"ab", b"cd", b"no")
    await client.uploads.complete(upload.id, part_ids=ids[:2])
    assert kept(database) == [hashlib.sha256(b"abcd").hexdigest()]
    other = await create(client, 4, purpose="user_data")
    await add(client, other, b"ef")
    assert len(kept(database)) == 2
    assert (await client.uploads.cancel(other.id)).status == "cancelled"
    assert len(kept(database)) == 1


async def test_bytes_that_are_a_part_and_a_file_stay_while_either_needs_them(client, database):
    file = await client.files.create(file=b"abcd", purpose="user_data")
    upload = await create(client, 4, purpose="user_data")
    ids = await add(client, upload, b"abcd")
    await client.files.delete(file.id)
    done = await client.uploads.complete(upload.id, part_ids=ids)
    assert (await client.files.content(done.file.id)).content == b"abcd"
    assert len(kept(database)) == 1


async def test_a_file_that_came_in_parts_goes_when_it_was_asked_to(client):
    upload = await create(client, len(DATA), expires_after={"anchor": "created_at", "seconds": 7200})
    done = await client.uploads.complete(upload.id, part_ids=await add(client, upload, DATA))
    assert done.file.expires_at == done.file.created_at + 7200
    batch = await create(client, len(DATA), purpose="batch")
    done = await client.uploads.complete(batch.id, part_ids=await add(client, batch, DATA))
    assert done.file.expires_at == done.file.created_at + 30 * 86_400


class TestCompletionsThatFail:
    """Each says why, and leaves an upload that can be completed."""

    @pytest.mark.parametrize(
        ("wrong", "param", "message"),
        [
            (lambda a, b: {"part_ids": [a]}, "part_ids", "The parts named have 100 bytes in all, but upload `{}` was made for 1020."),
            (lambda a, b: {"part_ids": [a, b, a]}, "part_ids", "Part {a} is named twice."),
            (lambda a, b: {"part_ids": [a, "part_x"]}, "part_ids", "No such part of upload `{}`: part_x (part_ids[1])."),
            (lambda a, b: {"part_ids": [a, b], "md5": "0" * 32}, "md5", "The parts in this order have the md5 {md5}, but " + "0" * 32 + " was expected."),
            (lambda a, b: {"part_ids": [b, a]}, "file", "Expected file to have JSONL format, where every line is a JSON dictionary. Line 1 is not a dictionary"),
        ],
    )  # fmt: skip
    async def test_it_stays_pending(self, client, database, wrong, param, message):
        upload = await create(client, len(DATA))
        first, last = await add(client, upload, DATA[:100], DATA[100:])
        before = kept(database)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.uploads.complete(upload.id, **wrong(first, last))
        assert said(caught).startswith(message.format(upload.id, a=first, md5=hashlib.md5(DATA).hexdigest()))
        assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
        assert kept(database) == before
        assert (await client.files.list()).data == []
        assert (await client.uploads.complete(upload.id, part_ids=[first, last])).status == "completed"

    async def test_parts_of_another_upload_are_none_of_this(self, client):
        upload, other = await create(client, len(DATA)), await create(client, len(DATA))
        ids = await add(client, other, DATA)
        with pytest.raises(openai.BadRequestError, match=f"No such part of upload `{upload.id}`: {ids[0]}"):
            await client.uploads.complete(upload.id, part_ids=ids)


class TestEndings:
    async def test_completing_again_with_the_same_parts_is_answered_the_same(self, client):
        upload = await create(client, len(DATA))
        ids = await add(client, upload, DATA[:100], DATA[100:])
        done = await client.uploads.complete(upload.id, part_ids=ids)
        assert await client.uploads.complete(upload.id, part_ids=ids) == done
        assert await client.uploads.complete(upload.id, part_ids=ids, md5=hashlib.md5(DATA).hexdigest()) == done
        assert len((await client.files.list()).data) == 1

    async def test_completing_again_with_others_is_refused(self, client):
        upload = await create(client, 4, purpose="user_data")
        ids = await add(client, upload, b"ab", b"cd")
        done = await client.uploads.complete(upload.id, part_ids=ids)
        for again in ({"part_ids": ids[::-1]}, {"part_ids": ids[:1]}):
            with pytest.raises(openai.BadRequestError) as caught:
                await client.uploads.complete(upload.id, **again)
            assert said(caught) == (
                f"Upload `{upload.id}` was completed with other parts or in another order, as file {done.file.id}. "
                "Use that file, or create another upload"
            )
        with pytest.raises(openai.BadRequestError, match="have the md5"):
            await client.uploads.complete(upload.id, part_ids=ids, md5="0" * 32)

    async def test_completing_again_when_its_file_is_deleted_says_so(self, client):
        upload = await create(client, 2, purpose="user_data")
        ids = await add(client, upload, b"ab")
        done = await client.uploads.complete(upload.id, part_ids=ids)
        await client.files.delete(done.file.id)
        with pytest.raises(openai.NotFoundError, match=f"No such File object: {done.file.id} \\(deleted at"):
            await client.uploads.complete(upload.id, part_ids=ids)

    async def test_at_the_same_time_one_file_is_made(self, client):
        upload = await create(client, len(DATA))
        ids = await add(client, upload, DATA[:100], DATA[100:])
        done = await asyncio.gather(*(client.uploads.complete(upload.id, part_ids=ids) for _ in range(4)))
        assert len({each.file.id for each in done}) == 1
        assert len((await client.files.list()).data) == 1

    async def test_cancelling_again_changes_nothing(self, client):
        upload = await create(client, 2, purpose="user_data")
        cancelled = await client.uploads.cancel(upload.id)
        assert cancelled == upload.model_copy(update={"status": "cancelled"})
        assert await client.uploads.cancel(upload.id) == cancelled

    async def end(self, client, clock, how):
        upload = await create(client, 2, purpose="user_data")
        ids = await add(client, upload, b"ab")
        if how == "completed":
            await client.uploads.complete(upload.id, part_ids=ids)
        elif how == "cancelled":
            await client.uploads.cancel(upload.id)
        else:
            clock.time += 3600
        return upload, ids

    @pytest.mark.parametrize(
        ("how", "fate"),
        [
            ("completed", "is completed, as file file-"),
            ("cancelled", "was cancelled. Only an upload that is pending takes parts"),
            ("expired", "expired at 2026-09-21 15:13:20 UTC, an hour after its start. Only an upload that is pending"),
        ],
    )
    async def test_what_is_over_takes_nothing_more(self, client, clock, how, fate):
        upload, ids = await self.end(client, clock, how)
        calls = [client.uploads.parts.create(upload.id, data=b"c")]
        if how != "completed":
            calls.append(client.uploads.complete(upload.id, part_ids=ids))
        if how != "cancelled":
            calls.append(client.uploads.cancel(upload.id))
        for call in calls:
            with pytest.raises(openai.BadRequestError) as caught:
                await call
            assert said(caught).startswith(f"Upload `{upload.id}` {fate}")
            assert caught.value.param == "upload_id"

    async def test_until_its_hour_is_over_an_upload_is_pending(self, client, clock):
        upload = await create(client, 2, purpose="user_data")
        clock.time += 3599
        ids = await add(client, upload, b"ab")
        assert (await client.uploads.complete(upload.id, part_ids=ids)).status == "completed"


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "param", "message"),
        [
            ({"bytes": 0}, "bytes", "Invalid 'bytes': below minimum value. Expected a value >= 1, but got 0 instead."),
            ({"bytes": 2**33 + 1}, "bytes", "The upload would have 8589934593 bytes; the limit of this server is 8589934592."),
            ({"bytes": 2**63}, "bytes", "Invalid 'bytes': above maximum value."),
            ({"bytes": "many"}, "bytes", "Invalid type for 'bytes': expected an integer, but got a string instead."),
            ({"bytes": None}, "bytes", "Invalid type for 'bytes': expected an integer, but got null instead."),
            ({"purpose": "tuning"}, "purpose", "Invalid value: 'tuning' for 'purpose'."),
            ({"purpose": "fine-tune-results"}, "purpose", "Files of purpose 'fine-tune-results' are made by jobs, not uploaded"),
            ({"filename": ""}, "filename", "Invalid 'filename': string too short."),
            ({"filename": "a\x00b"}, "filename", "The filename has U+0000, a control character"),
            ({"filename": "x" * 300}, "filename", "The filename has 300 characters"),
            ({"mime_type": "application/pdf"}, "mime_type", "The mime_type 'application/pdf' does not suit the purpose 'fine-tune'. Supported values are: application/json, "),
            ({"mime_type": "text/jsonl", "purpose": "vision"}, "mime_type", "The mime_type 'text/jsonl' does not suit the purpose 'vision'. Supported values are: image/gif"),
            ({"mime_type": ""}, "mime_type", "Invalid 'mime_type': string too short."),
            ({"expires_after": {"anchor": "created_at"}}, "expires_after.seconds", "Missing required parameter: 'expires_after.seconds'."),
            ({"expires_after": {"seconds": 3600}}, "expires_after.anchor", "Missing required parameter: 'expires_after.anchor'."),
            ({"expires_after": {"anchor": "created_at", "seconds": 60}}, "expires_after.seconds", "Invalid 'expires_after.seconds': below minimum value."),
            ({"colour": "red"}, None, "Unrecognized request argument supplied: colour"),
        ],
    )  # fmt: skip
    async def test_a_bad_creation(self, http, fields, param, message):
        body = {"filename": "a.jsonl", "purpose": "fine-tune", "bytes": 5, "mime_type": "text/jsonl", **fields}
        answer = await http.post("/uploads", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith(message)
        assert answer.json()["error"]["param"] == param

    @pytest.mark.parametrize(
        ("purpose", "mime_type"),
        [
            ("fine-tune", "application/jsonl"),
            ("fine-tune", "Application/JSON; charset=utf-8"),
            ("fine-tune", "text/plain"),
            ("evals", "application/x-ndjson"),
            ("vision", "image/png"),
            ("assistants", "pdf"),
            ("user_data", "application/pdf"),
        ],
    )
    async def test_types_that_suit(self, http, purpose, mime_type):
        body = {"filename": "data/a", "purpose": purpose, "bytes": 5, "mime_type": mime_type}
        answer = await http.post("/uploads", json=body)
        assert (answer.status_code, answer.json()["filename"]) == (200, "a")

    @pytest.mark.parametrize(
        ("body", "param", "message"),
        [
            ({}, "part_ids", "Missing required parameter: 'part_ids'."),
            ({"part_ids": []}, "part_ids", "Invalid 'part_ids': array too short."),
            ({"part_ids": "part_a"}, "part_ids", "Invalid type for 'part_ids': expected an array, but got a string"),
            ({"part_ids": [1]}, "part_ids[0]", "Invalid type for 'part_ids[0]': expected a string, but got an integer"),
            ({"part_ids": ["a"], "md5": "abc"}, "md5", "Invalid value for 'md5': 'abc'."),
            ({"part_ids": ["a"], "parts": 1}, None, "Unrecognized request argument supplied: parts"),
        ],
    )
    async def test_a_bad_completion(self, http, body, param, message):
        answer = await http.post("/uploads/upload_x/complete", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith(message)
        assert answer.json()["error"]["param"] == param

    @pytest.mark.parametrize(
        ("parts", "param", "message"),
        [
            ([part("data", b"", "a")], "data", "The part has 0 bytes, but upload `{}` was created for 4 in all."),
            ([part("data", b"abcde", "a")], "data", "The part has 5 bytes, but upload `{}` was created for 4 in all."),
            ([part("data", b"ab")], "data", "Missing required parameter: 'data'. Send it as a part with a filename"),
            ([part("file", b"ab", "a")], "data", "Missing required parameter: 'data'."),
            ([part("data", b"ab", "a")] * 2, "data", "'data' was sent twice."),
            ([part("data", b"ab", "a"), part("number", b"1")], None, "Unrecognized request argument supplied: number"),
            ([], "data", "Missing required parameter: 'data'."),
        ],
    )
    async def test_a_bad_part(self, http, client, database, parts, param, message):
        upload = await create(client, 4, purpose="user_data")
        answer = await http.post(f"/uploads/{upload.id}/parts", **form(*parts))
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith(message.format(upload.id))
        assert answer.json()["error"]["param"] == param
        assert kept(database) == []

    async def test_a_part_that_is_no_form(self, http, client):
        upload = await create(client, 4, purpose="user_data")
        answer = await http.post(f"/uploads/{upload.id}/parts", json={"data": "ab"})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith(
            "Expected a multipart/form-data body with the file in its part 'data'"
        )

    async def test_an_upload_that_nobody_knows(self, client):
        calls = [
            client.uploads.parts.create("upload_x", data=b"a"),
            client.uploads.complete("upload_x", part_ids=["part_x"]),
            client.uploads.cancel("upload_x"),
        ]
        for call in calls:
            with pytest.raises(openai.NotFoundError) as caught:
                await call
            assert (said(caught), caught.value.param) == ("No such Upload object: upload_x", "upload_id")

    async def test_another_projects_upload_does_not_exist(self, client, database):
        key, secret = keys.create(database, keys.KeyKind.PROJECT, "stranger", NOW)
        with database.transaction() as connection:
            organization = connection.scalar(select(organizations.c.id))
            made = {"id": "proj_b", "organization_id": organization, "name": "B", "created_at": 0}
            connection.execute(insert(projects).values(made))
            connection.execute(key_rows.update().where(key_rows.c.id == key.id).values(project_id="proj_b"))
        stranger = client.with_options(api_key=secret)
        upload = await create(client, 2, purpose="user_data")
        ids = await add(client, upload, b"ab")
        calls = [
            stranger.uploads.parts.create(upload.id, data=b"a"),
            stranger.uploads.complete(upload.id, part_ids=ids),
            stranger.uploads.cancel(upload.id),
        ]
        for call in calls:
            with pytest.raises(openai.NotFoundError, match=f"No such Upload object: {upload.id}"):
                await call
        theirs = await create(stranger, 2, purpose="user_data")
        with pytest.raises(openai.BadRequestError, match="No such part of upload"):
            await stranger.uploads.complete(theirs.id, part_ids=ids)
        assert (await client.uploads.complete(upload.id, part_ids=ids)).status == "completed"


class TestLimits:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_part_bytes": 1000, "max_upload_bytes": 5000})

    async def test_a_part_may_be_so_large(self, client, database):
        upload = await create(client, 5000, purpose="user_data")
        ids = await add(client, upload, *[b"%d" % n * 1000 for n in range(5)])
        with pytest.raises(openai.APIStatusError) as caught:
            await client.uploads.parts.create(upload.id, data=b"a" * 1001)
        assert caught.value.status_code == 413
        assert said(caught) == "Part is larger than the limit of 1000 bytes. Send the file in smaller parts"
        done = await client.uploads.complete(upload.id, part_ids=ids)
        assert (await client.files.content(done.file.id)).content == b"".join(b"%d" % n * 1000 for n in range(5))

    async def test_an_upload_may_be_so_large(self, client):
        with pytest.raises(openai.BadRequestError, match="would have 5001 bytes; the limit of this server is 5000"):
            await create(client, 5001)

    async def test_a_larger_body_is_not_even_read(self, http):
        answer = await http.post("/uploads/upload_x/parts", **form(part("data", b"a" * 70_000, "a")))
        assert answer.status_code == 413


class TestIdempotency:
    async def test_the_same_creation_again_is_the_same_upload(self, client):
        again = {"Idempotency-Key": "k1"}
        made = [await create(client, 5, extra_headers=again) for _ in range(2)]
        assert made[0] == made[1]
        with pytest.raises(openai.BadRequestError, match="was used with another request"):
            await create(client, 6, extra_headers=again)

    async def test_a_key_of_a_file_is_not_one_of_an_upload(self, client):
        again = {"Idempotency-Key": "k1"}
        await client.files.create(file=b"a", purpose="user_data", extra_headers=again)
        with pytest.raises(openai.BadRequestError, match="was used with another request"):
            await create(client, 5, extra_headers=again)
