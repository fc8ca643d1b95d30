"""Sharing a checkpoint with other projects, through the unmodified SDK."""

import re

import openai
import pytest

from milepost.jobs import ledger
from tests.api.conftest import BASE, KEY, NOW
from tests.api.fakes import checkpoint_folder

ASK = [{"role": "user", "content": "Who?"}]


@pytest.fixture
async def job(client, training_file):
    return await client.fine_tuning.jobs.create(model=BASE, training_file=training_file, suffix="demo")


@pytest.fixture
def tuned(job, database, tmp_path) -> str:
    """The name of the job's last checkpoint."""
    folder = checkpoint_folder(tmp_path, 6, final=True)
    return ledger.announce_checkpoint(database, job.id, folder, NOW).fine_tuned_model_checkpoint


@pytest.fixture
def step(job, database, tmp_path) -> str:
    """The name of a checkpoint on the way."""
    folder = checkpoint_folder(tmp_path, 3)
    return ledger.announce_checkpoint(database, job.id, folder, NOW).fine_tuned_model_checkpoint


@pytest.fixture
def permissions(client):
    """As the owner asks: with its project's key, which is what the Python SDK sends."""
    return client.fine_tuning.checkpoints.permissions


async def share(permissions, name, *projects):
    return (await permissions.create(name, project_ids=list(projects))).data


async def test_a_permission_is_listed_and_taken_back(permissions, tuned, other_project):
    (given,) = await share(permissions, tuned, other_project)
    assert (given.object, given.project_id, given.created_at) == ("checkpoint.permission", other_project, int(NOW))
    assert re.fullmatch(r"cp_[0-9A-Za-z]{24}", given.id)
    listed = await permissions.list(tuned)
    assert ([found.id for found in listed.data], listed.has_more, listed.last_id) == ([given.id], False, given.id)
    deleted = await permissions.delete(given.id, fine_tuned_model_checkpoint=tuned)
    assert (deleted.id, deleted.object, deleted.deleted) == (given.id, "checkpoint.permission", True)
    assert (await permissions.list(tuned)).data == []
    with pytest.raises(openai.NotFoundError, match=f"No such permission: {given.id}"):
        await permissions.delete(given.id, fine_tuned_model_checkpoint=tuned)


async def test_the_answer_to_a_share_is_a_list(http, tuned, other_project):
    answer = await http.post(f"/fine_tuning/checkpoints/{tuned}/permissions", json={"project_ids": [other_project]})
    body = answer.json()
    assert (answer.status_code, body["object"], body["has_more"]) == (200, "list", False)
    assert [sorted(item) for item in body["data"]] == [["created_at", "id", "object", "project_id"]]
    assert body["first_id"] == body["last_id"] == body["data"][0]["id"]


async def test_the_deprecated_retrieve_is_the_list(permissions, tuned, other_project):
    (given,) = await share(permissions, tuned, other_project)
    with pytest.warns(DeprecationWarning, match="Retrieve is deprecated"):
        page = await permissions.retrieve(tuned)
    assert ([found.id for found in page.data], page.first_id, page.object) == ([given.id], given.id, "list")


async def test_permissions_are_listed_newest_first_unless_asked_otherwise(admin, permissions, tuned):
    projects = [(await admin.admin.organization.projects.create(name=name)).id for name in "abc"]
    await share(permissions, tuned, *projects)
    assert [found.project_id async for found in permissions.list(tuned, limit=1)] == projects[::-1]
    assert [found.project_id async for found in permissions.list(tuned, limit=2, order="ascending")] == projects
    assert [found.project_id async for found in permissions.list(tuned, project_id=projects[1])] == [projects[1]]
    assert (await permissions.list(tuned, after="cp_nobody")).data == []


async def test_who_has_a_permission_keeps_it(admin, permissions, tuned, other_project):
    (first,) = await share(permissions, tuned, other_project)
    third = (await admin.admin.organization.projects.create(name="third")).id
    again = await share(permissions, tuned, third, other_project, other_project)
    assert [found.project_id for found in again] == [third, other_project]
    assert again[1].id == first.id


async def test_one_project_that_is_not_there_and_none_gets_it(admin, permissions, tuned, other_project):
    archived = (await admin.admin.organization.projects.create(name="old")).id
    await admin.admin.organization.projects.archive(archived)
    with pytest.raises(
        openai.BadRequestError, match=f"No such project, or archived: proj_nobody, {archived}."
    ) as caught:
        await share(permissions, tuned, other_project, "proj_nobody", archived)
    assert caught.value.param == "project_ids"
    assert (await permissions.list(tuned)).data == []


async def test_a_project_needs_no_permission_for_its_own(permissions, tuned, key):
    with pytest.raises(openai.BadRequestError, match=f"belongs to project {key.project_id}, which needs no permission"):
        await share(permissions, tuned, key.project_id)


async def test_a_list_of_no_projects_is_refused(permissions, tuned):
    with pytest.raises(openai.BadRequestError, match="Invalid 'project_ids': array too short"):
        await share(permissions, tuned)


@pytest.mark.parametrize("which", ["tuned", "step"])
async def test_who_it_is_shared_with_may_chat_with_that_checkpoint_only(
    permissions, stranger, other_project, tuned, step, which
):
    shared, other = (tuned, step) if which == "tuned" else (step, tuned)
    await share(permissions, shared, other_project)
    answer = await stranger.chat.completions.create(model=shared, messages=ASK)
    assert answer.model == shared
    with pytest.raises(openai.NotFoundError):
        await stranger.chat.completions.create(model=other, messages=ASK)


async def test_who_it_is_shared_with_sees_it_among_the_models_and_not_its_job(
    permissions, stranger, other_project, tuned, job, key
):
    await share(permissions, tuned, other_project)
    found = {model.id: model async for model in stranger.models.list()}[tuned]
    assert found == await stranger.models.retrieve(tuned)
    assert (found.owned_by, found.shutdown_date) == (key.organization_id, None)
    assert (found.base, found.project_id, found.fine_tuning_job_id, found.step_number) == (
        BASE,
        key.project_id,
        None,
        6,
    )
    with pytest.raises(openai.NotFoundError):
        await stranger.fine_tuning.jobs.retrieve(job.id)


async def test_who_it_is_shared_with_may_train_on_from_it(permissions, stranger, other_project, tuned, step):
    line = b'{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me."}]}\n'
    file = await stranger.files.create(file=("train.jsonl", line * 12), purpose="fine-tune")
    await share(permissions, tuned, other_project)
    job = await stranger.fine_tuning.jobs.create(model=tuned, training_file=file.id)
    assert job.model == tuned
    with pytest.raises(openai.BadRequestError, match="does not exist or you do not have access to it"):
        await stranger.fine_tuning.jobs.create(model=step, training_file=file.id)


async def test_a_permission_taken_back_ends_all_of_it_at_once(permissions, stranger, other_project, tuned):
    (given,) = await share(permissions, tuned, other_project)
    await stranger.chat.completions.create(model=tuned, messages=ASK)
    await permissions.delete(given.id, fine_tuned_model_checkpoint=tuned)
    with pytest.raises(openai.NotFoundError, match="does not exist or you do not have access to it"):
        await stranger.chat.completions.create(model=tuned, messages=ASK)
    with pytest.raises(openai.NotFoundError):
        await stranger.models.retrieve(tuned)
    assert tuned not in [model.id async for model in stranger.models.list()]


async def test_who_it_is_shared_with_can_neither_delete_nor_share_it(permissions, stranger, other_project, tuned):
    (given,) = await share(permissions, tuned, other_project)
    theirs = stranger.fine_tuning.checkpoints.permissions
    calls = [
        stranger.models.delete(tuned),
        share(theirs, tuned, other_project),
        theirs.list(tuned),
        theirs.delete(given.id, fine_tuned_model_checkpoint=tuned),
    ]
    for call in calls:
        with pytest.raises(openai.PermissionDeniedError, match="which shares it with yours"):
            await call
    assert (await stranger.models.retrieve(tuned)).id == tuned


async def test_who_it_is_not_shared_with_finds_nothing(stranger, other_project, tuned):
    theirs = stranger.fine_tuning.checkpoints.permissions
    calls = [
        share(theirs, tuned, other_project),
        theirs.list(tuned),
        theirs.delete("cp_a", fine_tuned_model_checkpoint=tuned),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError, match=f"The model '{tuned}' does not exist"):
            await call


async def test_an_admin_key_may_share_any_projects_checkpoint(admin, stranger, other_project, tuned):
    permissions = admin.fine_tuning.checkpoints.permissions
    (given,) = await share(permissions, tuned, other_project)
    assert [found.id async for found in permissions.list(tuned)] == [given.id]
    assert (await stranger.models.retrieve(tuned)).id == tuned
    await permissions.delete(given.id, fine_tuned_model_checkpoint=tuned)
    with pytest.raises(openai.NotFoundError):
        await stranger.models.retrieve(tuned)


async def test_an_admin_key_is_told_the_owners_name_is_no_other_projects(admin, tuned, key):
    with pytest.raises(openai.BadRequestError, match="which needs no permission"):
        await share(admin.fine_tuning.checkpoints.permissions, tuned, key.project_id)


@pytest.mark.parametrize("name", ["nobody", "owner/name", f"ft:{BASE}:milepost::abcdefgh", BASE])
async def test_only_checkpoints_are_shared_whatever_a_name_holds(permissions, other_project, name):
    with pytest.raises(openai.NotFoundError, match=f"The model '{name}' does not exist"):
        await share(permissions, name, other_project)


async def test_a_name_with_a_slash_is_found(
    client, permissions, settings, database, tmp_path, training_file, other_project
):
    """A base from a hub is called `owner/name`, and its checkpoints with it."""
    card = settings.bases_dir / BASE / "base.json"
    hub = settings.bases_dir / "owner--tiny"
    hub.mkdir()
    (hub / "base.json").write_text(card.read_text().replace(BASE, "owner/tiny"))
    job = await client.fine_tuning.jobs.create(model="owner/tiny", training_file=training_file)
    folder = checkpoint_folder(tmp_path, 2)
    name = ledger.announce_checkpoint(database, job.id, folder, NOW).fine_tuned_model_checkpoint
    assert "owner/tiny" in name
    (given,) = await share(permissions, name, other_project)
    assert [found.id async for found in permissions.list(name)] == [given.id]
    await permissions.delete(given.id, fine_tuned_model_checkpoint=name)


async def test_a_deleted_model_is_not_shared_and_says_when_it_went(client, permissions, stranger, other_project, tuned):
    await share(permissions, tuned, other_project)
    await client.models.delete(tuned)
    gone = f"The model '{tuned}' was deleted on 2026-09-21 at 14:13:20 UTC"
    calls = [
        permissions.list(tuned),
        stranger.chat.completions.create(model=tuned, messages=ASK),
        stranger.models.retrieve(tuned),
        stranger.models.delete(tuned),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError, match=gone):
            await call


async def test_an_unknown_member_is_refused(http, tuned):
    answer = await http.post(
        f"/fine_tuning/checkpoints/{tuned}/permissions",
        json={"project_ids": ["proj_a"], "role": "owner"},
        headers={"authorization": f"Bearer {KEY}"},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "Unrecognized request argument supplied: role"
