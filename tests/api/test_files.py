import base64

import openai
import pytest

from milepost.config import Settings
from milepost.resources.files import Purpose
from milepost.store import blobs, files

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


async def test_bytes_without_a_name_are_named_upload(client):
    file = await client.files.create(file=LINE, purpose="fine-tune")
    assert file.filename == "upload"


async def test_an_empty_filename_is_named_upload(http):
    form = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--x\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\nabc\r\n--x--\r\n'
    answer = await http.post("/files", content=form, headers={"content-type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, answer.json()["filename"]) == (200, "upload")


async def test_bracketed_keys_of_expires_after_are_accepted(client):
    file = await client.files.create(
        file=("a.jsonl", LINE), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.status == "processed"


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
