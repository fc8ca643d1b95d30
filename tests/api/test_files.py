import asyncio
import base64
import resource

import httpx2
import openai
import pytest

from milepost.api.app import create_app
from milepost.config import Settings
from milepost.resources.files import Purpose
from milepost.store import blobs, files
from tests.api.conftest import BASE, KEY, NOW
from tests.api.forms import FILE, FORM, PURPOSE, form, kept, part

LINE = b'{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me."}]}\n'


async def test_an_upload_is_processed_at_once_and_comes_back_byte_for_byte(client):
    file = await client.files.create(file=("train.jsonl", LINE * 10), purpose="fine-tune")
    assert file.id.startswith("file-")
    assert (file.filename, file.bytes, file.purpose, file.status) == (
        "train.jsonl",
        10 * len(LINE),
        "fine-tune",
        "processed",
    )
    assert await client.files.retrieve(file.id) == file
    assert (await client.files.wait_for_processing(file.id)).status == "processed"
    content = await client.files.content(file.id)
    assert content.content == LINE * 10
    assert content.response.headers["content-type"] == "application/octet-stream"
    assert content.response.headers["content-disposition"] == 'attachment; filename="train.jsonl"'


async def test_bytes_that_are_not_those_uploaded_are_not_served(client, database):
    file = await client.files.create(file=("train.jsonl", LINE * 10), purpose="fine-tune")
    [blob] = (database.folder / "files").iterdir()
    blob.write_bytes((LINE * 10).replace(b"Me", b"He", 1))
    with pytest.raises(openai.InternalServerError):
        await client.files.content(file.id)
    blob.unlink()
    with pytest.raises(openai.InternalServerError):
        await client.files.content(file.id)


async def test_bytes_without_a_name_are_named_upload(client):
    file = await client.files.create(file=LINE, purpose="fine-tune")
    assert file.filename == "upload"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("", "upload"),
        ("data/2026/train.jsonl", "train.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\train.jsonl", "train.jsonl"),
        ("data/", "upload"),
        ("..", "upload"),
        ("Größe \u202f数据 🙂.jsonl", "Größe \u202f数据 🙂.jsonl"),
        ("a; filename=b.jsonl", "a; filename=b.jsonl"),
        ("x" * 255, "x" * 255),
    ],
)
async def test_a_filename_is_the_last_part_of_what_was_sent(http, sent, kept):
    answer = await http.post("/files", **form(part("purpose", b"user_data"), part("file", b"abc", sent)))
    assert (answer.status_code, answer.json()["filename"]) == (200, kept)
    content = await http.get(f"/files/{answer.json()['id']}/content")
    disposition = content.headers["content-disposition"]
    assert disposition.isascii()
    assert disposition.startswith("attachment; filename")
    assert content.content == b"abc"


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("a\0b.jsonl", "The filename has U+0000, a control character, at its place 1."),
        ("a\tb", "The filename has U+0009, a control character"),
        ("a\u2028b", "The filename has U+2028, a control character"),
        ("x" * 256, "The filename has 256 characters; 255 are the most. It begins with 'xxxx"),
    ],
)
async def test_what_names_no_file_is_refused(http, sent, message):
    answer = await http.post("/files", **form(part("purpose", b"user_data"), part("file", b"abc", sent)))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)
    assert answer.json()["error"]["param"] == "file"


async def test_a_filename_that_is_no_utf8_is_read_as_old_tools_write_it(http):
    raw = b'--x\r\nContent-Disposition: form-data; name="file"; filename="\xe9.txt"\r\n\r\nabc\r\n'
    answer = await http.post("/files", **form(raw, part("purpose", b"user_data")))
    assert answer.json()["filename"] == "é.txt"


class TestForms:
    """Multipart forms as no SDK sends them."""

    @pytest.mark.parametrize(
        ("parts", "param", "message"),
        [
            ([part("purpose", b"user_data")], "file", "Missing required parameter: 'file'. Send it as a part with a filename"),
            ([part("purpose", b"user_data"), part("file", b"a")], "file", "Missing required parameter: 'file'."),
            ([], "file", "Missing required parameter: 'file'."),
            ([PURPOSE, FILE, FILE], "file", "'file' was sent twice. Send one a request"),
            ([PURPOSE, PURPOSE, FILE], "purpose", "'purpose' was sent twice."),
            ([PURPOSE, FILE, part("other", b"a", "b.txt")], "other", "'other' was sent with a filename, but only 'file' is a file."),
            ([part("purpose", b"user_data", "p.txt"), FILE], "purpose", "'purpose' was sent with a filename"),
            ([PURPOSE, FILE, part("note", b"a")], None, "Unrecognized request argument supplied: note"),
            ([FILE], "purpose", "Missing required parameter: 'purpose'."),
            ([PURPOSE, part("file", b"a" * 70_000)], "file", "The field 'file' is larger than 65536 bytes. A file is sent as a part with a filename"),
            ([PURPOSE, FILE, part("expires_after[seconds]", b"3600")], "expires_after[anchor]", "Missing required parameter: 'expires_after[anchor]'."),
            ([PURPOSE, FILE, part("expires_after[anchor]", b"created_at")], "expires_after[seconds]", "Missing required parameter: 'expires_after[seconds]'."),
            ([PURPOSE, FILE, part("expires_after[anchor]", b"now")], "expires_after[anchor]", "Invalid value: 'now' for 'expires_after[anchor]'."),
            ([PURPOSE, FILE, part("expires_after[seconds]", b"2592001")], "expires_after[seconds]", "Invalid 'expires_after[seconds]': above maximum value."),
            ([PURPOSE, b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Transfer-Encoding: base64\r\n\r\nYQ==\r\n'], "file", "The part 'file' has the Content-Transfer-Encoding 'base64'"),
            ([b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n"], None, "We could not parse the multipart form of your request: a part has no name"),
            ([part(str(n), b"a") for n in range(40)], None, "We could not parse the multipart form of your request: it has more than 32 parts"),
        ],
    )  # fmt: skip
    async def test_what_does_not_fit_is_named(self, http, database, parts, param, message):
        answer = await http.post("/files", **form(*parts))
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith(message)
        assert answer.json()["error"]["param"] == param
        assert kept(database) == []

    @pytest.mark.parametrize(
        ("body", "content_type", "message"),
        [
            (b"", FORM, "We could not parse the multipart form of your request: it ends before its last boundary."),
            (PURPOSE + FILE, FORM, "We could not parse the multipart form of your request: it ends before its last boundary."),
            (b"--y\r\n", FORM, "We could not parse the multipart form of your request: Expected boundary character"),
            (FILE, "multipart/form-data", "We could not parse the multipart form of your request: its Content-Type has no boundary."),
            (FILE, "multipart/form-data; boundary=", "We could not parse the multipart form of your request: its Content-Type has no boundary."),
            (FILE, f"multipart/form-data; boundary={'x' * 300}", "We could not parse the multipart form of your request: Boundary length 300"),
            (b"{}", "application/json", "Expected a multipart/form-data body with the file in its part 'file', but the Content-Type is 'application/json'"),
            (b"a=b", "application/x-www-form-urlencoded", "Expected a multipart/form-data body"),
            (b"a=b", None, "Expected a multipart/form-data body with the file in its part 'file', but the Content-Type is missing"),
        ],
    )  # fmt: skip
    async def test_what_is_no_form_is_told_so(self, http, database, body, content_type, message):
        headers = {} if content_type is None else {"content-type": content_type}
        answer = await http.post("/files", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith(message)
        assert kept(database) == []

    async def test_the_boundary_may_come_in_pieces(self, http):
        whole = form(PURPOSE, part("file", b"\r\n--\r\n--x-\r\n-", "a.bin"))["content"]

        async def bytewise():
            for byte in whole:
                yield bytes([byte])

        answer = await http.post(
            "/files", content=bytewise(), headers={"content-type": FORM.upper().replace("BOUNDARY=X", "boundary=x")}
        )
        assert answer.status_code == 200
        content = await http.get(f"/files/{answer.json()['id']}/content")
        assert content.content == b"\r\n--\r\n--x-\r\n-"


async def test_a_client_that_leaves_in_mid_upload_leaves_nothing(app, database):
    arriving = iter(
        [
            {"type": "http.request", "body": PURPOSE + FILE[:-1] + b"a" * 2_000_00, "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    headers = [(b"content-type", FORM.encode()), (b"authorization", f"Bearer {KEY}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/files", "query_string": b"", "headers": headers}

    async def receive():
        return next(arriving)

    answered = []

    async def send(message):
        answered.append(message)

    await app(scope, receive, send)
    assert answered == []
    assert kept(database) == []


@pytest.fixture
def small_disk():
    """No file may grow beyond 600 kB, which is an error like that of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
async def test_a_full_disk_is_told_and_not_tried_again(http, database):
    answer = await http.post("/files", **form(PURPOSE, part("file", b"a" * 700_000, "a")))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (507, "server_error")
    assert error["message"].startswith(
        "The server's disk has no room for this (File too large); nothing of it was kept."
    )
    assert answer.headers["x-should-retry"] == "false"
    assert kept(database) == []


async def test_a_file_goes_when_it_was_asked_to(client, clock):
    file = await client.files.create(
        file=("a.jsonl", LINE), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600
    clock.time += 3599
    assert (await client.files.retrieve(file.id)).expires_at == file.expires_at
    clock.time += 1
    calls = [
        client.files.retrieve(file.id),
        client.files.content(file.id),
        client.files.delete(file.id),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError) as caught:
            await call
        assert caught.value.body["message"] == f"No such File object: {file.id} (it expired at 2026-09-21 15:13:20 UTC)"
    assert (await client.files.list()).data == []
    with pytest.raises(openai.BadRequestError, match=r"\(it expired at .* UTC\)\. Upload it with"):
        await client.fine_tuning.jobs.create(model=BASE, training_file=file.id)


async def test_a_file_for_a_batch_goes_after_thirty_days_and_others_stay(client):
    batch = await client.files.create(file=("a.jsonl", LINE), purpose="batch")
    other = await client.files.create(file=("a.jsonl", LINE), purpose="fine-tune")
    assert (batch.expires_at, other.expires_at) == (batch.created_at + 30 * 86_400, None)
    soon = await client.files.create(
        file=("a.jsonl", LINE), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert soon.expires_at == soon.created_at + 7200


async def test_a_purpose_that_answers_do_not_have_can_be_answered_as_another(http, app, settings, database, engine):
    answer = await http.post("/files", **form(part("purpose", b"evals"), FILE))
    assert answer.json()["purpose"] == "evals"
    strict = create_app(settings.model_copy(update={"evals_as_user_data": True}), database, engine, now=lambda: NOW)
    transport = httpx2.ASGITransport(app=strict)
    async with openai.AsyncOpenAI(
        api_key=KEY,
        base_url="http://test/v1",
        http_client=httpx2.AsyncClient(transport=transport),
        _strict_response_validation=True,
    ) as client:
        made = await client.files.create(file=b"a", purpose="evals")
        purposes = [made.purpose, (await client.files.retrieve(made.id)).purpose]
        purposes += [file.purpose async for file in client.files.list(purpose="evals")]
    assert purposes == ["user_data"] * 4


@pytest.mark.parametrize(
    ("wanted", "status", "body", "told"),
    [
        ("bytes=2-4", 206, b"cde", "bytes 2-4/10"),
        ("bytes=7-", 206, b"hij", "bytes 7-9/10"),
        ("bytes=-2", 206, b"ij", "bytes 8-9/10"),
        ("bytes=0-99", 206, b"abcdefghij", "bytes 0-9/10"),
    ],
)
async def test_a_range_of_a_file_may_be_asked_for(http, wanted, status, body, told):
    file = (await http.post("/files", **form(PURPOSE, part("file", b"abcdefghij", "a")))).json()
    answer = await http.get(f"/files/{file['id']}/content", headers={"range": wanted})
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (status, body, told)


@pytest.mark.parametrize(
    ("wanted", "status", "message"),
    [
        ("bytes=10-", 416, "The range 'bytes=10-' lies outside the file's 10 bytes"),
        ("bytes=-0", 416, "The range 'bytes=-0' lies outside the file's 10 bytes"),
        ("bytes=0-1,20-30", 416, "The range 'bytes=0-1,20-30' lies outside"),
        ("bytes=4-2", 400, "Invalid Range: 'bytes=4-2' ends before it begins"),
        ("bytes=-", 400, "Invalid Range: 'bytes=-'. Ask for 'bytes=0-1023', say"),
        ("lines=1-2", 400, "Invalid Range: 'lines=1-2'."),
        ("bytes", 400, "Invalid Range: 'bytes'."),
        ("bytes=" + "9" * 5000 + "-", 400, "Invalid Range: 'bytes=999"),
    ],
)
async def test_a_bad_range_is_refused_in_the_envelope(http, wanted, status, message):
    file = (await http.post("/files", **form(PURPOSE, part("file", b"abcdefghij", "a")))).json()
    answer = await http.get(f"/files/{file['id']}/content", headers={"range": wanted})
    assert answer.status_code == status
    assert answer.json()["error"]["message"].startswith(message)


class TestIdempotency:
    async def test_the_same_upload_again_is_the_same_file(self, client):
        again = {"Idempotency-Key": "k1"}
        made = [
            await client.files.create(file=("a.jsonl", LINE), purpose="fine-tune", extra_headers=again)
            for _ in range(2)
        ]
        assert made[0] == made[1]
        assert [file.id async for file in client.files.list()] == [made[0].id]

    @pytest.mark.parametrize(
        ("name", "content", "purpose"),
        [("b.jsonl", LINE, "fine-tune"), ("a.jsonl", LINE * 2, "fine-tune"), ("a.jsonl", LINE, "user_data")],
    )
    async def test_another_upload_under_the_same_key_is_refused(self, client, database, name, content, purpose):
        again = {"Idempotency-Key": "k1"}
        await client.files.create(file=("a.jsonl", LINE), purpose="fine-tune", extra_headers=again)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.files.create(file=(name, content), purpose=purpose, extra_headers=again)
        assert caught.value.body["message"] == (
            "The Idempotency-Key 'k1' was used with another request. Send the same request again, or another key"
        )
        assert len((await client.files.list()).data) == 1
        assert len(kept(database)) == 1

    async def test_at_the_same_time_one_is_made(self, client):
        again = {"Idempotency-Key": "k1"}
        made = await asyncio.gather(
            *(client.files.create(file=("a.jsonl", LINE), purpose="fine-tune", extra_headers=again) for _ in range(5))
        )
        assert len({file.id for file in made}) == 1

    async def test_a_refused_upload_does_not_use_its_key_up(self, client):
        again = {"Idempotency-Key": "k1"}
        with pytest.raises(openai.BadRequestError):
            await client.files.create(file=("a.jsonl", b"oops"), purpose="fine-tune", extra_headers=again)
        assert (await client.files.create(file=("a.jsonl", LINE), purpose="fine-tune", extra_headers=again)).id

    @pytest.mark.parametrize("key", ["", "k" * 256])
    async def test_what_can_be_no_key_is_refused(self, client, key):
        with pytest.raises(openai.BadRequestError, match="it must have 1 to 255") as caught:
            await client.files.create(file=b"a", purpose="user_data", extra_headers={"Idempotency-Key": key})
        assert caught.value.param == "Idempotency-Key"


async def test_a_file_that_is_no_training_data_may_hold_anything(client):
    file = await client.files.create(file=("notes.txt", b"\xff\x00 not JSON"), purpose="user_data")
    assert file.bytes == 11


async def test_lists_walk_all_files_newest_first(client):
    made = [(await client.files.create(file=(f"{n}.jsonl", LINE), purpose="fine-tune")).id for n in range(45)]
    walked = [file.id async for file in client.files.list(limit=10)]
    assert walked == made[::-1]
    assert [file.id async for file in client.files.list(limit=7, order="asc")] == made


async def test_a_list_keeps_to_a_purpose(client):
    await client.files.create(file=("a.jsonl", LINE), purpose="fine-tune")
    other = await client.files.create(file=("b.txt", b"b"), purpose="user_data")
    page = await client.files.list(purpose="user_data")
    assert [file.id for file in page.data] == [other.id]
    assert page.has_more is False


async def test_an_unknown_cursor_and_limit_zero_are_answered(client):
    await client.files.create(file=("a.jsonl", LINE), purpose="fine-tune")
    assert (await client.files.list(after="after", limit=0)).data == []


async def test_a_deleted_file_is_gone(client):
    file = await client.files.create(file=("a.jsonl", LINE), purpose="fine-tune")
    deleted = await client.files.delete(file.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    with pytest.raises(openai.NotFoundError, match=f"No such File object: {file.id}") as caught:
        await client.files.retrieve(file.id)
    assert (caught.value.param, caught.value.code, caught.value.type) == ("id", None, "invalid_request_error")


async def test_every_bad_line_of_an_upload_is_named(client):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.files.create(file=("a.jsonl", b"oops\n" + LINE + b'{"text": 1}\n'), purpose="fine-tune")
    message = caught.value.body["message"]
    assert message.startswith(
        'Expected file to have JSONL format, where every line is a JSON dictionary. Line 1 is not a dictionary (HINT: line starts with: "oops"'
    )
    assert "2 bad lines in all" in message
    assert "Line 3: has none of the shapes of training data" in message


async def test_what_is_wrong_within_a_line_is_the_jobs_to_find(client):
    file = await client.files.create(file=("a.jsonl", b'{"messages": [{"content": "no role"}]}\n'), purpose="fine-tune")
    assert file.status == "processed"


@pytest.fixture
def results(database, key):
    csv = b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,0.50000,0.50000,,\n"
    import io

    blob = blobs.put(database.folder, io.BytesIO(csv), limit=1000)
    file = files.add(
        database,
        key.project_id,
        filename="step_metrics.csv",
        purpose=Purpose.FINE_TUNE_RESULTS,
        blob=blob,
        lines=None,
        now=0,
    )
    return file.id, csv


async def test_results_come_as_base64_text(client, results):
    file_id, csv = results
    content = await client.files.content(file_id)
    assert base64.b64decode(content.text, validate=True) == csv
    assert content.response.headers["content-disposition"] == 'attachment; filename="step_metrics.csv"'


class TestPlainResults:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"result_csv_base64": False})

    async def test_results_are_plain_where_the_setting_says_so(self, client, results):
        file_id, csv = results
        assert (await client.files.content(file_id)).content == csv
