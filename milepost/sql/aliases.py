"""Names the SDK cannot tell: what other tools and older pages call our tables and methods.

Both their tables and ours can be asked by either name; a name on the left is never shown where ours is known.
"""

from __future__ import annotations

#: Other names of tables → ours.
TABLES = {
    "openai.assistants.assistants": "openai.beta.assistants",
    "openai.assistants.messages": "openai.beta.thread_messages",
    "openai.assistants.run_steps": "openai.beta.thread_run_steps",
    "openai.assistants.runs": "openai.beta.thread_runs",
    "openai.assistants.threads": "openai.beta.threads",
    "openai.batch.batches": "openai.batches.batches",
    "openai.fine_tuning.checkpoints": "openai.fine_tuning.job_checkpoints",
    "openai.fine_tuning.events": "openai.fine_tuning.job_events",
    "openai.vector_stores.vector_store_file_batches": "openai.vector_stores.file_batches",
    "openai.vector_stores.vector_store_files": "openai.vector_stores.files",
    "openai_admin.certificates.project_certificates": "openai_admin.projects.certificates",
    "openai_admin.costs.costs": "openai_admin.usage.costs",
    "openai_admin.groups.role_assignments": "openai_admin.groups.roles",
    "openai_admin.projects.group_role_assignments": "openai_admin.projects.group_roles",
    "openai_admin.projects.user_role_assignments": "openai_admin.projects.user_roles",
    "openai_admin.roles.project_roles": "openai_admin.projects.roles",
    "openai_admin.users.role_assignments": "openai_admin.users.roles",
}

#: Methods that are shown under an operation id, as older pages have them: (table, the SDK's name) → that name.
OPERATION_IDS = {
    ("openai.files.files", "delete"): "delete_file",
    ("openai.files.files", "list"): "list_files",
    ("openai.files.files", "retrieve"): "retrieve_file",
    ("openai.fine_tuning.job_checkpoints", "list"): "list_fine_tuning_job_checkpoints",
    ("openai.fine_tuning.job_events", "list_events"): "list_fine_tuning_events",
    ("openai.fine_tuning.jobs", "cancel"): "cancel_fine_tuning_job",
    ("openai.fine_tuning.jobs", "create"): "create_fine_tuning_job",
    ("openai.fine_tuning.jobs", "retrieve"): "retrieve_fine_tuning_job",
    ("openai.models.models", "delete"): "delete_model",
    ("openai.models.models", "list"): "list_models",
    ("openai.models.models", "retrieve"): "retrieve_model",
}

#: Other words for the SDK's verbs. `list` and `update` also stand for a table's only method of that kind.
WORDS = {
    "add": "create",
    "assign": "create",
    "create_thread_and_run": "create_and_run",
    "get": "retrieve",
    "remove": "delete",
    "unassign": "delete",
    "upload": "create",
}
ONLY = {"list": "SELECT", "update": "UPDATE"}

#: A method other tools have on one table that is a table of its own here.
METHODS_ELSEWHERE = {("openai.vector_stores.vector_stores", "search"): "openai.vector_stores.search"}
