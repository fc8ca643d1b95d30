"""/organization/admin_api_keys: the keys that open the admin routes. For admin keys only (`auth.TAKES`)."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from milepost.api.bodies import StrictRoute
from milepost.api.parts import Admin, Given
from milepost.resources.admin import AdminKey, AdminKeyRequest, NewAdminKey
from milepost.resources.base import Deleted, Page
from milepost.store import api_keys

router = APIRouter(prefix="/organization/admin_api_keys", tags=["Projects and keys"], route_class=StrictRoute)

KeyId = Annotated[str, Path(description="The admin key, `key_…`.", examples=["key_4f8Qw2nB7xLkZ0cVtYpR1dHs"])]


@router.post("", summary="Create an admin API key")
def create(body: AdminKeyRequest, admin: Admin, given: Given) -> NewAdminKey:
    """Create an admin key, whose value is in this answer and nowhere else."""
    return api_keys.create_admin_key(given.database, admin, body, given.now())


@router.get("", summary="List admin API keys")
def page(
    admin: Admin,
    given: Given,
    after: Annotated[str | None, Query(description="The id of the last one already seen.")] = None,
    limit: Annotated[int, Query(ge=0, le=100, description="How many at most.", examples=[20])] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="By `created_at`.", examples=["desc"])] = "asc",
) -> Page[AdminKey]:
    """The admin keys of the organisation without their values, oldest first unless `order` says otherwise."""
    return api_keys.admin_page(given.database, admin, order=order, after=after, limit=limit)


@router.get("/{key_id}", summary="Retrieve an admin API key")
def retrieve(key_id: KeyId, admin: Admin, given: Given) -> AdminKey:
    """An admin key without its value."""
    return api_keys.admin_key(given.database, admin, key_id)


@router.delete("/{key_id}", summary="Delete an admin API key")
def delete(key_id: KeyId, admin: Admin, given: Given) -> Deleted:
    """Delete an admin key: the next request with it is refused. The last one cannot be deleted here."""
    return api_keys.delete_admin_key(given.database, admin, key_id, given.now())
