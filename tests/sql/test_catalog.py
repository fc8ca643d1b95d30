from __future__ import annotations

import csv
from pathlib import Path

import pytest

from milepost.errors import NotFound
from milepost.sql import walk
from milepost.sql.catalog import CATALOG_FILE, shipped

NAMES = list(csv.DictReader((Path(__file__).parent / "names.tsv").open(), delimiter="\t"))


def test_the_shipped_catalog_is_a_fresh_walk_of_the_installed_sdk():
    assert walk.text(walk.walk()) == CATALOG_FILE.read_text()


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name['table']}.{name['method']}")
def test_a_name_of_other_tools_leads_to_the_sdks_method(name):
    catalog = shipped()
    table = catalog.table(*name["table"].split("."))
    assert catalog.method(table, name["method"]).path == name["sdk"]


def test_the_verbs_of_other_tools_are_ours_but_for_the_search_that_reads():
    catalog = shipped()
    differ = {
        name["sdk"]
        for name in NAMES
        if catalog.method(catalog.table(*name["table"].split(".")), name["method"]).verb != name["verb"]
    }
    assert differ == {"vector_stores.search"}


def test_select_is_get_but_for_the_reads_that_are_listed():
    selects = [
        method
        for root in ("openai", "openai_admin")
        for name in shipped().names(root)
        for method in shipped().table(*name.split(".")).selects
    ]
    assert {method.path for method in selects if method.http != "GET"} == {"vector_stores.search"}


def test_job_checkpoints_has_the_columns_and_types_of_its_page():
    columns = shipped().table("openai", "fine_tuning", "job_checkpoints").columns
    assert {column.name: column.datatype for column in columns} == {
        "id": "string",
        "created_at": "integer",
        "fine_tuned_model_checkpoint": "string",
        "fine_tuning_job_id": "string",
        "metrics": "object",
        "object": "string",
        "step_number": "integer",
    }


def test_columns_carry_the_sdks_descriptions():
    column = shipped().table("openai", "fine_tuning", "jobs").column("seed")
    assert column is not None
    assert column.description == "The seed used for the fine-tuning job."


def test_unions_are_json_and_models_of_one_shape_are_structs():
    table = shipped().table("openai", "fine_tuning", "jobs")
    types = {column.name: column.type for column in table.columns}
    assert types["error"] == {"code": "string", "message": "string", "param": "string"}
    assert types["hyperparameters"] == {"batch_size": "any", "learning_rate_multiplier": "any", "n_epochs": "any"}
    assert types["metadata"] == "object"


def test_a_misspelt_resource_gets_the_names_that_come_near():
    with pytest.raises(NotFound, match="Did you mean `job_checkpoints`"):
        shipped().table("openai", "fine_tuning", "job_checkpoint")
