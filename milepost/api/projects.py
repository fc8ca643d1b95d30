"""/organization/projects: projects, their API keys and their service accounts. For admin keys only (`auth.TAKES`)."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from milepost.api.bodies import StrictRoute
from milepost.api.parts import Admin, Given
from milepost.resources.admin import (
    NewServiceAccount,
    NewServiceAccountKey,
    Project,
    ProjectKey,
    ProjectKeyUpdate,
    ProjectRequest,
    ProjectUpdate,
    ServiceAccount,
    ServiceAccountKeyRequest,
    ServiceAccountRequest,
    ServiceAccountUpdate,
)
from milepost.resources.base import Deleted, Page
from milepost.store import api_keys, projects, service_accounts

router = APIRouter(prefix="/organization/projects", tags=["Projects and keys"], route_class=StrictRoute)

Limit = Annotated[int, Query(ge=0, le=100, description="How many at most.", examples=[20])]
After = Annotated[str | None, Query(description="The id of the last one already seen.")]
ProjectId = Annotated[str, Path(description="The project, `proj_…`.", examples=["proj_4f8Qw2nB7xLkZ0cVtYpR1dHs"])]
ApiKeyId = Annotated[str, Path(description="The key, `key_…`.", examples=["key_4f8Qw2nB7xLkZ0cVtYpR1dHs"])]
AccountId = Annotated[
    str, Path(description="The service account, `svc_acct_…`.", examples=["svc_acct_4f8Qw2nB7xLkZ0cVtYpR1dHs"])
]
Access = Annotated[
    Literal["active", "inactive", "any"],
    Query(description="Only keys whose owner has, or has not, access to the project; left out, all.", examples=["any"]),
]


@router.post("", summary="Create a project")
def create(body: ProjectRequest, admin: Admin, given: Given) -> Project:
    """Create a project. It has no keys yet: a service account brings the first."""
    return projects.create(given.database, admin, body, given.now())


@router.get("", summary="List projects")
def page(
    admin: Admin,
    given: Given,
    after: After = None,
    limit: Limit = 20,
    *,
    include_archived: Annotated[bool, Query(description="List archived projects too.", examples=[True])] = False,
) -> Page[Project]:
    """The projects of the organisation, oldest first: the default project is the first of all."""
    return projects.page(given.database, admin, archived=include_archived, after=after, limit=limit)


@router.get("/{project_id}", summary="Retrieve a project")
def retrieve(project_id: ProjectId, admin: Admin, given: Given) -> Project:
    """A project, archived or not."""
    return projects.get(given.database, admin, project_id)


@router.post("/{project_id}", summary="Update a project")
def update(project_id: ProjectId, body: ProjectUpdate, admin: Admin, given: Given) -> Project:
    """Give a project another name."""
    return projects.update_project(given.database, admin, project_id, body, given.now())


@router.post("/{project_id}/archive", summary="Archive a project")
def archive(project_id: ProjectId, admin: Admin, given: Given) -> Project:
    """Archive a project for good: its keys are refused from here on, and nothing in it can be changed. Jobs that were
    created run to their end. The default project cannot be archived.
    """
    return projects.archive(given.database, admin, project_id, given.now())


# ------------------------------------------------------------------------------------------------ API keys


@router.get("/{project_id}/api_keys", summary="List the API keys of a project")
def api_keys_page(
    *,
    project_id: ProjectId,
    admin: Admin,
    given: Given,
    after: After = None,
    limit: Limit = 20,
    owner_project_access: Access = "any",
) -> Page[ProjectKey]:
    """The keys that open a project, oldest first, without their values. Keys that expired are listed until deleted."""
    return api_keys.project_page(
        given.database, admin, project_id, access=owner_project_access, after=after, limit=limit
    )


@router.get("/{project_id}/api_keys/{api_key_id}", summary="Retrieve an API key of a project")
def api_keys_retrieve(project_id: ProjectId, api_key_id: ApiKeyId, admin: Admin, given: Given) -> ProjectKey:
    """A key without its value."""
    return api_keys.project_key(given.database, admin, project_id, api_key_id)


@router.post("/{project_id}/api_keys/{api_key_id}", summary="Update an API key of a project")
def api_keys_update(
    project_id: ProjectId, api_key_id: ApiKeyId, body: ProjectKeyUpdate, admin: Admin, given: Given
) -> ProjectKey:
    """Set when a key expires, in seconds from now. A key that has expired stays so."""
    return api_keys.update_project_key(given.database, admin, project_id, api_key_id, body, now=given.now())


@router.delete("/{project_id}/api_keys/{api_key_id}", summary="Delete an API key of a project")
def api_keys_delete(project_id: ProjectId, api_key_id: ApiKeyId, admin: Admin, given: Given) -> Deleted:
    """Delete a key, a service account's too: the next request with it is refused."""
    return api_keys.delete_project_key(given.database, admin, project_id, api_key_id, given.now())


# ------------------------------------------------------------------------------------------------ service accounts


@router.post("/{project_id}/service_accounts", summary="Create a service account")
def service_accounts_create(
    project_id: ProjectId, body: ServiceAccountRequest, admin: Admin, given: Given
) -> NewServiceAccount:
    """Create a service account and its first key, whose value is in this answer and nowhere else."""
    return service_accounts.create(given.database, admin, project_id, body, given.now())


@router.get("/{project_id}/service_accounts", summary="List the service accounts of a project")
def service_accounts_page(
    project_id: ProjectId, admin: Admin, given: Given, after: After = None, limit: Limit = 20
) -> Page[ServiceAccount]:
    """The service accounts of a project, oldest first."""
    return service_accounts.page(given.database, admin, project_id, after=after, limit=limit)


@router.get("/{project_id}/service_accounts/{service_account_id}", summary="Retrieve a service account")
def service_accounts_retrieve(
    project_id: ProjectId, service_account_id: AccountId, admin: Admin, given: Given
) -> ServiceAccount:
    """A service account."""
    return service_accounts.get(given.database, admin, project_id, service_account_id)


@router.post("/{project_id}/service_accounts/{service_account_id}", summary="Update a service account")
def service_accounts_update(
    project_id: ProjectId, service_account_id: AccountId, body: ServiceAccountUpdate, admin: Admin, given: Given
) -> ServiceAccount:
    """Change the name or role of a service account."""
    return service_accounts.update_account(given.database, admin, project_id, service_account_id, body, now=given.now())


@router.delete("/{project_id}/service_accounts/{service_account_id}", summary="Delete a service account")
def service_accounts_delete(
    project_id: ProjectId, service_account_id: AccountId, admin: Admin, given: Given
) -> Deleted:
    """Delete a service account and all its keys: the next request with one is refused."""
    return service_accounts.delete(given.database, admin, project_id, service_account_id, given.now())


@router.post(
    "/{project_id}/service_accounts/{service_account_id}/api_keys", summary="Create an API key of a service account"
)
def service_accounts_create_key(
    project_id: ProjectId, service_account_id: AccountId, body: ServiceAccountKeyRequest, admin: Admin, given: Given
) -> NewServiceAccountKey:
    """Create a further key of a service account, whose value is in this answer and nowhere else."""
    return service_accounts.create_key(given.database, admin, project_id, service_account_id, body, now=given.now())
