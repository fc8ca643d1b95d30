"""Projects and keys, through `client.admin.organization` of the unmodified SDK."""

import openai
import pytest
from sqlalchemy import select

from milepost.errors import Denied
from milepost.jobs import leases
from milepost.store import keys
from milepost.store.schema import outbox
from tests.api.conftest import BASE, KEY, NOW


@pytest.fixture
def projects(admin):
    return admin.admin.organization.projects


@pytest.fixture
def admin_keys(admin):
    return admin.admin.organization.admin_api_keys


@pytest.fixture
async def account(projects, other_project):
    return await projects.service_accounts.create(other_project, name="trainer")


@pytest.fixture
async def trainer(client, account):
    """The client of a program that was given a service account's key."""
    return client.with_options(api_key=account.api_key.value)


# ------------------------------------------------------------------------------------------------ projects


async def test_a_project_is_created_retrieved_and_renamed(projects):
    made = await projects.create(name="nightly")
    assert (made.object, made.name, made.status, made.created_at) == (
        "organization.project",
        "nightly",
        "active",
        int(NOW),
    )
    assert made.id.startswith("proj_")
    assert (made.archived_at, made.external_key_id, made.residency) == (None, None, None)
    assert await projects.retrieve(made.id) == made
    assert (await projects.update(made.id, name="weekly")).name == "weekly"
    assert (await projects.update(made.id)).name == "weekly"
    assert (await projects.retrieve(made.id)).name == "weekly"


async def test_projects_are_listed_oldest_first_a_page_at_a_time(projects):
    for name in ("a", "b", "c"):
        await projects.create(name=name)
    page = await projects.list(limit=3)
    assert ([project.name for project in page.data], page.has_more) == (["Default", "a", "b"], True)
    assert page.last_id == page.data[-1].id
    assert [project.name async for project in projects.list(limit=1)] == ["Default", "a", "b", "c"]


async def test_an_archived_project_is_listed_when_asked_for_only(projects, other_project):
    archived = await projects.archive(other_project)
    assert (archived.status, archived.archived_at) == ("archived", int(NOW))
    assert [project.name async for project in projects.list()] == ["Default"]
    assert [project.name async for project in projects.list(include_archived=True)] == ["Default", "other"]
    assert (await projects.retrieve(other_project)).status == "archived"
    assert await projects.archive(other_project) == archived


async def test_a_key_of_an_archived_project_is_told_so(projects, trainer, other_project):
    await trainer.files.list()
    await projects.archive(other_project)
    with pytest.raises(openai.AuthenticationError, match=f"The project `{other_project}` of the API key") as caught:
        await trainer.files.list()
    assert caught.value.code == "project_archived"


async def test_jobs_of_an_archived_project_run_on(projects, trainer, other_project, database):
    line = b'{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me."}]}\n'
    file = await trainer.files.create(file=("train.jsonl", line * 12), purpose="fine-tune")
    job = await trainer.fine_tuning.jobs.create(model=BASE, training_file=file.id)
    await projects.archive(other_project)
    assert leases.claim(database, "worker", "validating_files", NOW).job_id == job.id


async def test_the_default_project_cannot_be_archived(projects, key):
    with pytest.raises(openai.BadRequestError, match="is the default project"):
        await projects.archive(key.project_id)


async def test_nothing_in_an_archived_project_can_be_changed(projects, other_project, account):
    await projects.archive(other_project)
    calls = [
        projects.update(other_project, name="b"),
        projects.service_accounts.create(other_project, name="b"),
        projects.service_accounts.update(account.id, project_id=other_project, name="b"),
        projects.service_accounts.delete(account.id, project_id=other_project),
        projects.service_accounts.api_keys.create(account.id, project_id=other_project),
        projects.api_keys.update(account.api_key.id, project_id=other_project, expires_in_seconds=60),
        projects.api_keys.delete(account.api_key.id, project_id=other_project),
    ]
    for call in calls:
        with pytest.raises(openai.BadRequestError, match="was archived on 2026-09-21 at 14:13:20 UTC"):
            await call
    listed = [key async for key in projects.api_keys.list(other_project)]
    assert [(key.id, key.owner_project_access) for key in listed] == [(account.api_key.id, "inactive")]


@pytest.mark.parametrize(
    ("field", "value"), [("residency", "EU_STORAGE_PROCESSING"), ("geography", "EU"), ("external_key_id", "ek_1")]
)
async def test_where_data_lies_is_not_promised(projects, field, value):
    with pytest.raises(openai.BadRequestError, match=f"Unsupported parameter: '{field}': ") as caught:
        await projects.create(name="a", **{field: value})
    assert (caught.value.param, caught.value.code) == (field, "unsupported_parameter")


# ------------------------------------------------------------------------------------------------ service accounts


async def test_a_service_account_comes_with_a_key_that_is_shown_once(projects, other_project, account, trainer):
    assert (account.object, account.name, account.role) == ("organization.project.service_account", "trainer", "member")
    assert account.id.startswith("svc_acct_")
    key = account.api_key
    assert (key.object, key.name, key.expires_at) == (
        "organization.project.service_account.api_key",
        "Secret Key",
        None,
    )
    assert key.value.startswith("sk-svcacct-")
    assert (await trainer.files.list()).data == []
    shown = await projects.api_keys.retrieve(key.id, project_id=other_project)
    assert key.value not in shown.to_json()
    assert (shown.owner.type, shown.owner.service_account.id) == ("service_account", account.id)


async def test_service_accounts_are_listed_renamed_and_deleted(projects, other_project, account, trainer):
    accounts = projects.service_accounts
    await accounts.create(other_project, name="second")
    assert [found.name async for found in accounts.list(other_project, limit=1)] == ["trainer", "second"]
    changed = await accounts.update(account.id, project_id=other_project, name="coach", role="owner")
    assert (changed.name, changed.role) == ("coach", "owner")
    assert await accounts.retrieve(account.id, project_id=other_project) == changed
    deleted = await accounts.delete(account.id, project_id=other_project)
    assert (deleted.id, deleted.object, deleted.deleted) == (
        account.id,
        "organization.project.service_account.deleted",
        True,
    )
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
        await trainer.files.list()
    assert [found.name async for found in accounts.list(other_project)] == ["second"]
    assert [found.owner.service_account.name async for found in projects.api_keys.list(other_project)] == ["second"]
    with pytest.raises(openai.NotFoundError, match="It was deleted on 2026-"):
        await accounts.retrieve(account.id, project_id=other_project)


async def test_an_account_without_a_role_has_no_key_and_its_keys_open_nothing(client, projects, other_project):
    account = await projects.service_accounts.create(other_project, name="later", create_service_account_only=True)
    assert (account.api_key, account.role) == (None, "none")
    key = await projects.service_accounts.api_keys.create(account.id, project_id=other_project, name="first")
    later = client.with_options(api_key=key.value)
    with pytest.raises(openai.PermissionDeniedError, match="has the role `none`"):
        await later.files.list()
    inactive = [found.id async for found in projects.api_keys.list(other_project, owner_project_access="inactive")]
    active = [found.id async for found in projects.api_keys.list(other_project, owner_project_access="active")]
    assert (inactive, active) == ([key.id], [])
    await projects.service_accounts.update(account.id, project_id=other_project, role="member")
    assert (await later.files.list()).data == []


async def test_a_lone_account_has_no_key_that_could_expire(projects, other_project):
    with pytest.raises(openai.BadRequestError, match="no key is made that 'expires_in_seconds' could be about"):
        await projects.service_accounts.create(
            other_project, name="a", create_service_account_only=True, expires_in_seconds=60
        )


# ------------------------------------------------------------------------------------------------ keys of projects


async def test_keys_made_on_the_machine_are_listed_as_nobodys(projects, key):
    listed = [found async for found in projects.api_keys.list(key.project_id)]
    (found,) = listed
    assert (found.id, found.object, found.name) == (key.id, "organization.project.api_key", "first")
    assert (found.owner.type, found.owner.user, found.owner.service_account) == (None, None, None)
    assert (found.owner_project_access, found.redacted_value) == ("active", key.hint)


async def test_a_deleted_key_is_refused_at_once(projects, other_project, account, trainer):
    await trainer.files.list()
    deleted = await projects.api_keys.delete(account.api_key.id, project_id=other_project)
    assert (deleted.id, deleted.object) == (account.api_key.id, "organization.project.api_key.deleted")
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
        await trainer.files.list()
    assert (await projects.api_keys.list(other_project)).data == []
    with pytest.raises(openai.NotFoundError, match=r"No such API key: key_\w+\. It was deleted on 2026-"):
        await projects.api_keys.delete(account.api_key.id, project_id=other_project)


async def test_a_key_ends_when_it_expires(projects, other_project, client, database):
    made = await projects.service_accounts.create(other_project, name="brief", expires_in_seconds=60)
    assert made.api_key.expires_at == int(NOW) + 60
    assert keys.authenticate(database, made.api_key.value, now=lambda: int(NOW) + 59).project_id == other_project
    with pytest.raises(Denied, match="expired on 2026-09-21 at 14:14:20 UTC") as denied:
        keys.authenticate(database, made.api_key.value, now=lambda: int(NOW) + 60)
    assert denied.value.code == "expired_api_key"


async def test_when_a_key_expires_can_be_changed_until_it_has(projects, other_project, account):
    changed = await projects.api_keys.update(account.api_key.id, project_id=other_project, expires_in_seconds=3600)
    assert changed.expires_at == int(NOW) + 3600
    kept = await projects.api_keys.update(account.api_key.id, project_id=other_project, scopes=[])
    assert kept.expires_at == int(NOW) + 3600


async def test_a_key_is_not_promised_to_do_less(projects, other_project, account):
    with pytest.raises(openai.BadRequestError, match="Unsupported parameter: 'scopes'"):
        await projects.api_keys.update(account.api_key.id, project_id=other_project, scopes=["api.all.read"])
    with pytest.raises(openai.BadRequestError, match="Unsupported parameter: 'scopes'"):
        await projects.service_accounts.api_keys.create(account.id, project_id=other_project, scopes=["api.all.read"])
    with pytest.raises(openai.BadRequestError, match="Give at least one of"):
        await projects.api_keys.update(account.api_key.id, project_id=other_project)


async def test_when_a_key_was_last_used_is_told(projects, other_project, account, trainer):
    assert (await projects.api_keys.retrieve(account.api_key.id, project_id=other_project)).last_used_at is None
    await trainer.files.list()
    assert (await projects.api_keys.retrieve(account.api_key.id, project_id=other_project)).last_used_at == int(NOW)


# ------------------------------------------------------------------------------------------------ admin keys


async def test_an_admin_key_is_made_by_another_and_shown_once(client, admin_keys):
    made = await admin_keys.create(name="terraform", expires_in_seconds=60)
    assert (made.object, made.name, made.expires_at) == ("organization.admin_api_key", "terraform", int(NOW) + 60)
    assert made.value.startswith("sk-admin-")
    new = client.with_options(admin_api_key=made.value)
    assert [project.name async for project in new.admin.organization.projects.list()] == ["Default"]
    shown = await admin_keys.retrieve(made.id)
    assert (shown.redacted_value, shown.owner.id) == (f"{made.value[:8]}***{made.value[-4:]}", None)
    assert made.value not in shown.to_json()


async def test_admin_keys_are_listed_oldest_first_or_newest_first(admin_keys):
    assert [key.name async for key in admin_keys.list(limit=1)] == ["first admin", "boss"]
    assert [key.name async for key in admin_keys.list(order="desc")] == ["boss", "first admin"]


async def test_a_deleted_admin_key_is_refused_at_once(client, admin_keys):
    made = await admin_keys.create(name="brief")
    deleted = await admin_keys.delete(made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "organization.admin_api_key.deleted", True)
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
        await client.with_options(admin_api_key=made.value).admin.organization.projects.list()
    with pytest.raises(openai.NotFoundError, match="It was deleted on"):
        await admin_keys.retrieve(made.id)


async def test_the_last_admin_key_that_works_cannot_be_deleted(admin_keys):
    await admin_keys.create(name="brief", expires_in_seconds=1)
    first, boss, _brief = [key async for key in admin_keys.list()]
    await admin_keys.delete(first.id)
    await admin_keys.delete(_brief.id)
    with pytest.raises(openai.BadRequestError, match=r"is the last admin key.*milepost keys revoke"):
        await admin_keys.delete(boss.id)
    assert [key.name async for key in admin_keys.list()] == ["boss"]


# ------------------------------------------------------------------------------------------------ who may what


async def test_a_thing_of_another_project_is_not_found_under_the_wrong_one(projects, key, account):
    wrong = key.project_id
    calls = [
        projects.api_keys.retrieve(account.api_key.id, project_id=wrong),
        projects.api_keys.update(account.api_key.id, project_id=wrong, scopes=[]),
        projects.api_keys.delete(account.api_key.id, project_id=wrong),
        projects.service_accounts.retrieve(account.id, project_id=wrong),
        projects.service_accounts.update(account.id, project_id=wrong, name="b"),
        projects.service_accounts.delete(account.id, project_id=wrong),
        projects.service_accounts.api_keys.create(account.id, project_id=wrong),
        projects.retrieve("proj_nobody"),
        projects.api_keys.list("proj_nobody"),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError):
            await call


async def test_an_admin_key_is_no_projects_key_and_a_projects_no_admin_key(projects, admin_keys, key):
    boss = [found async for found in admin_keys.list()][1]
    with pytest.raises(openai.NotFoundError):
        await projects.api_keys.retrieve(boss.id, project_id=key.project_id)
    with pytest.raises(openai.NotFoundError):
        await admin_keys.delete(key.id)


async def test_changes_are_told_to_the_outbox_with_who_made_them(projects, other_project, account, database):
    await projects.api_keys.delete(account.api_key.id, project_id=other_project)
    with database.reading() as connection:
        told = connection.execute(select(outbox).order_by(outbox.c.sequence)).all()
    assert [(row.type, row.subject_id) for row in told] == [
        ("project.created", other_project),
        ("service_account.created", account.id),
        ("api_key.created", account.api_key.id),
        ("api_key.deleted", account.api_key.id),
    ]
    boss = next(key for key in keys.list_keys(database) if key.name == "boss")
    assert {row.data["key_id"] for row in told} == {boss.id}


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("/organization/projects", {}, "name", "Missing required parameter: 'name'."),
        ("/organization/projects", {"name": ""}, "name", "Invalid 'name': string too short."),
        ("/organization/projects", {"name": "a", "budget": 1}, None, "Unrecognized request argument supplied: budget"),
        ("/organization/admin_api_keys", {"name": "a", "expires_in_seconds": 0}, "expires_in_seconds", "Invalid 'expires_in_seconds': below minimum value."),
        ("/organization/admin_api_keys", {"name": "a", "expires_in_seconds": 10**9}, "expires_in_seconds", "Invalid 'expires_in_seconds': above maximum value."),
    ],
)  # fmt: skip
async def test_a_bad_body_is_a_400(http, database, path, body, param, message):
    _, secret = keys.create(database, keys.KeyKind.ADMIN, "boss", NOW)
    answer = await http.post(path, json=body, headers={"authorization": f"Bearer {secret}"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)
    assert answer.json()["error"]["param"] == param


async def test_a_project_key_opens_no_admin_route(client):
    with pytest.raises(openai.PermissionDeniedError, match="is a project key, and this route is for admin keys"):
        await client.with_options(admin_api_key=KEY).admin.organization.projects.list()
