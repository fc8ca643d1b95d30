import shutil

import pytest

from milepost.config import Settings
from milepost.errors import Invalid
from milepost.store import bases


@pytest.fixture
def settings(tiny_base):
    return Settings(bases_dir=tiny_base.parent, default_base="tiny-random-llama")


def test_a_base_is_found_by_its_name(settings, tiny_base):
    base, path = bases.get(settings, "tiny-random-llama")
    assert (base.name, path) == ("tiny-random-llama", tiny_base)


def test_what_openai_let_people_tune_stands_for_the_default_base(settings):
    assert bases.get(settings, "gpt-4o-mini")[0].name == "tiny-random-llama"


def test_aliases_can_be_turned_off(settings):
    with pytest.raises(Invalid):
        bases.get(settings.model_copy(update={"aliases": False}), "gpt-4o-mini")


def test_a_base_that_is_not_there_names_the_pull_to_run(settings):
    with pytest.raises(Invalid) as caught:
        bases.get(settings, "smollm2-135m-instruct")
    assert caught.value.message == (
        "Model smollm2-135m-instruct is not available for fine-tuning or does not exist. Fetch the base model on the "
        "server first: `milepost pull smollm2-135m-instruct`. In the cache: tiny-random-llama."
    )
    assert (caught.value.param, caught.value.code) == ("model", "model_not_available")


def test_an_alias_of_a_base_that_is_not_there_says_what_it_stands_for(settings):
    with pytest.raises(Invalid, match=r"Model gpt-4o .* \(it stands for elsewhere\).*`milepost pull elsewhere`"):
        bases.get(settings.model_copy(update={"default_base": "elsewhere"}), "gpt-4o")


def test_a_name_never_leaves_the_cache(settings, tiny_base):
    with pytest.raises(Invalid):
        bases.get(settings, "../" + tiny_base.parent.name + "/tiny-random-llama")
    with pytest.raises(Invalid):
        bases.get(settings, "..")


def test_bases_are_listed_by_name_and_drafts_are_not(settings, tiny_base, tmp_path):
    for name in ("b", "a", ".c.draft"):
        shutil.copytree(tiny_base, tmp_path / name)
    assert len(bases.list_bases(settings.model_copy(update={"bases_dir": tmp_path}))) == 2
    assert bases.list_bases(settings.model_copy(update={"bases_dir": tmp_path / "none"})) == ()


def test_a_name_of_the_hub_has_a_folder_of_its_own(settings):
    assert bases.folder(settings, "owner/name").name == "owner--name"


def test_a_name_is_looked_up_and_never_a_path(settings):
    for name in ("a" * 300, "../bases/tiny-random-llama", "."):
        with pytest.raises(Invalid):
            bases.get(settings, name)
