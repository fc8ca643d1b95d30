"""Projects, service accounts and keys as OpenAI's admin routes show them: `client.admin.organization` in the SDKs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from milepost.errors import Invalid
from milepost.resources.base import Frozen

Name = Annotated[str, Field(min_length=1, max_length=256, examples=["nightly"])]
#: Five years; a key for longer is one that does not expire.
ExpiresIn = Annotated[int, Field(ge=1, le=157_680_000, examples=[86_400])]
CreatedAt = Annotated[int, Field(description="When it was created, in Unix seconds.", examples=[1_790_000_000])]
ExpiresAt = Annotated[
    int | None,
    Field(description="When the key expires, in Unix seconds; null if it does not.", examples=[1_790_086_400]),
]
LastUsedAt = Annotated[
    int | None,
    Field(
        description="When the key was last used, in Unix seconds, to the minute; null if it never was.",
        examples=[1_790_000_060],
    ),
]
Redacted = Annotated[str, Field(description="Enough of the key to tell it from others.", examples=["sk-proj-***a1b2"])]
KeyValue = Annotated[
    str, Field(description="The key itself. It is shown this once and kept nowhere.", examples=["sk-svcacct-…"])
]
KeyId = Annotated[str, Field(description="Identifier of the key, `key_…`.", examples=["key_4f8Qw2nB7xLkZ0cVtYpR1dHs"])]
AccountId = Annotated[
    str,
    Field(
        description="Identifier of the service account, `svc_acct_…`.", examples=["svc_acct_4f8Qw2nB7xLkZ0cVtYpR1dHs"]
    ),
]
Scopes = Annotated[
    tuple[str, ...],
    Field(
        description="What the key may do. Empty is everything; other scopes are not kept and refused.", examples=[[]]
    ),
]
Role = Literal["owner", "member", "none"]
AccountRole = Annotated[
    Role,
    Field(
        description="`owner` and `member` may do the same here; `none` may do nothing in the project.",
        examples=["member"],
    ),
]


# ------------------------------------------------------------------------------------------------ projects


class Project(Frozen):
    """A project: files, jobs and models belong to one, and a project key sees its own only."""

    id: Annotated[
        str, Field(description="Identifier of the project, `proj_…`.", examples=["proj_4f8Qw2nB7xLkZ0cVtYpR1dHs"])
    ]
    object: Annotated[Literal["organization.project"], Field(description="Always `organization.project`.")] = (
        "organization.project"
    )
    name: Annotated[str, Field(description="A name for people; two projects may share it.", examples=["nightly"])]
    created_at: CreatedAt
    archived_at: Annotated[
        int | None,
        Field(description="When the project was archived, in Unix seconds, or null.", examples=[1_790_000_900]),
    ]
    status: Annotated[Literal["active", "archived"], Field(description="Whether its keys open anything.")]
    external_key_id: Annotated[None, Field(description="Always null: there is no external key management.")] = None
    residency: Annotated[None, Field(description="Always null: all data is in this server's data folder.")] = None


class ProjectRequest(Frozen):
    """What a new project is called. What says where OpenAI would keep its data is refused, not ignored."""

    name: Annotated[Name, Field(description="A name for people.")]
    external_key_id: Annotated[str | None, Field(description="Not served: leave it out.", examples=[None])] = None
    geography: Annotated[str | None, Field(description="Not served: leave it out.", examples=[None])] = None
    residency: Annotated[str | None, Field(description="Not served: leave it out.", examples=[None])] = None


class ProjectUpdate(Frozen):
    """What is to be changed of a project; what is null or left out stays."""

    name: Annotated[Name | None, Field(description="Its new name.")] = None
    external_key_id: Annotated[str | None, Field(description="Not served: leave it out.", examples=[None])] = None
    geography: Annotated[str | None, Field(description="Not served: leave it out.", examples=[None])] = None


# ------------------------------------------------------------------------------------------------ service accounts


class ServiceAccount(Frozen):
    """Someone in a project who is a program. It owns keys, which end with it."""

    id: AccountId
    object: Annotated[
        Literal["organization.project.service_account"],
        Field(description="Always `organization.project.service_account`."),
    ] = "organization.project.service_account"
    name: Annotated[str, Field(description="A name for people.", examples=["trainer"])]
    role: AccountRole
    created_at: CreatedAt


class NewServiceAccountKey(Frozen):
    """A key of a service account, with its value: shown once."""

    id: KeyId
    object: Annotated[
        Literal["organization.project.service_account.api_key"],
        Field(description="Always `organization.project.service_account.api_key`."),
    ] = "organization.project.service_account.api_key"
    name: Annotated[str, Field(description="A name for people.", examples=["Secret Key"])]
    value: KeyValue
    created_at: CreatedAt
    expires_at: ExpiresAt


class NewServiceAccount(ServiceAccount):
    """A service account as it is when it has just been created, with its first key."""

    api_key: Annotated[
        NewServiceAccountKey | None,
        Field(description="Its first key, with its value; null if `create_service_account_only` was set."),
    ]


class ServiceAccountRequest(Frozen):
    """A new service account, with a key unless `create_service_account_only` is set."""

    name: Annotated[Name, Field(description="A name for people.")]
    create_service_account_only: Annotated[
        bool | None, Field(description="Make no key, and give the account the role `none`.", examples=[False])
    ] = None
    expires_in_seconds: Annotated[
        ExpiresIn | None, Field(description="Seconds until the key expires; null or left out, it does not.")
    ] = None


class ServiceAccountUpdate(Frozen):
    """What is to be changed of a service account; what is left out stays."""

    name: Annotated[Name | None, Field(description="Its new name.")] = None
    role: Annotated[
        Literal["member", "owner"] | None,
        Field(description="Its new role; one that had none may use its keys from then on.", examples=["member"]),
    ] = None


class ServiceAccountKeyRequest(Frozen):
    """A further key of a service account."""

    name: Annotated[Name, Field(description="A name for people.")] = "Secret Key"
    expires_in_seconds: Annotated[
        ExpiresIn | None, Field(description="Seconds until the key expires; null or left out, it does not.")
    ] = None
    scopes: Scopes = ()


# ------------------------------------------------------------------------------------------------ keys


class OwningAccount(Frozen):
    """The service account a key belongs to."""

    id: AccountId
    name: Annotated[str, Field(description="A name for people.", examples=["trainer"])]
    role: AccountRole
    created_at: CreatedAt


class KeyOwner(Frozen):
    """Whose key it is. Milepost has no users: the owner of a key made on the machine is nobody."""

    type: Annotated[
        Literal["service_account"] | None,
        Field(description="`service_account`, or null for a key made on the machine.", examples=["service_account"]),
    ] = None
    service_account: Annotated[OwningAccount | None, Field(description="The service account, if it is one's.")] = None
    user: Annotated[None, Field(description="Always null: there are no users.")] = None


class ProjectKey(Frozen):
    """A key that opens one project."""

    id: KeyId
    object: Annotated[
        Literal["organization.project.api_key"], Field(description="Always `organization.project.api_key`.")
    ] = "organization.project.api_key"
    name: Annotated[str, Field(description="A name for people.", examples=["Secret Key"])]
    redacted_value: Redacted
    created_at: CreatedAt
    expires_at: ExpiresAt
    last_used_at: LastUsedAt
    owner: Annotated[KeyOwner, Field(description="Whose key it is.")]
    owner_project_access: Annotated[
        Literal["active", "inactive"],
        Field(description="`inactive` if the project is archived or the service account's role is `none`."),
    ]


class ProjectKeyUpdate(Frozen):
    """What is to be changed of a key; at least one of the two."""

    expires_in_seconds: Annotated[
        ExpiresIn | None, Field(description="Seconds from now until the key expires; left out, that stays as it is.")
    ] = None
    scopes: Annotated[Scopes | None, Field(description="Empty is everything; other scopes are refused.")] = None


class AdminKeyOwner(Frozen):
    """Whose admin key it is: nobody's, since Milepost has no users."""

    type: Annotated[None, Field(description="Always null: there are no users.")] = None
    object: Annotated[None, Field(description="Always null.")] = None
    id: Annotated[None, Field(description="Always null.")] = None
    name: Annotated[None, Field(description="Always null.")] = None
    created_at: Annotated[None, Field(description="Always null.")] = None
    role: Annotated[None, Field(description="Always null.")] = None


class AdminKey(Frozen):
    """A key that opens the admin routes, and no project's."""

    id: KeyId
    object: Annotated[
        Literal["organization.admin_api_key"], Field(description="Always `organization.admin_api_key`.")
    ] = "organization.admin_api_key"
    name: Annotated[str, Field(description="A name for people.", examples=["terraform"])]
    redacted_value: Redacted
    created_at: CreatedAt
    expires_at: ExpiresAt
    last_used_at: LastUsedAt
    owner: Annotated[AdminKeyOwner, Field(description="Whose key it is.")] = AdminKeyOwner()


class NewAdminKey(AdminKey):
    """An admin key as it is when it has just been created, with its value."""

    value: KeyValue


class AdminKeyRequest(Frozen):
    """A new admin key."""

    name: Annotated[Name, Field(description="A name for people.")]
    expires_in_seconds: Annotated[
        ExpiresIn | None, Field(description="Seconds until the key expires; left out, it does not.")
    ] = None


# ------------------------------------------------------------------------------------------------ what is refused


def check_served(request: ProjectRequest | ProjectUpdate | ServiceAccountKeyRequest | ProjectKeyUpdate) -> None:
    """Refuse what would be a promise that is not kept: where data lies, and keys that may do less."""
    for field, why in UNSERVED.items():
        if getattr(request, field, None):
            raise Invalid(
                f"Unsupported parameter: '{field}': {why}. Leave it out", param=field, code="unsupported_parameter"
            )


UNSERVED = {
    "external_key_id": "Milepost keeps no external keys",
    "geography": "all data of this server is in its data folder",
    "residency": "all data of this server is in its data folder",
    "scopes": "keys of Milepost open all of their project or nothing, so a scope would be a promise it does not keep",
}
