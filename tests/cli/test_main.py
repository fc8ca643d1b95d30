import subprocess
import sys

import pytest

from milepost import errors
from milepost.cli import main
from milepost.cli.main import COMMANDS, EXIT_CODES

TREE = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Error)}


def milepost(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "milepost", *words],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "100", **environment},
    )


def test_every_error_has_an_exit_code() -> None:
    assert set(EXIT_CODES) == TREE - {errors.Error}


def test_scripts_can_tell_a_mistake_of_theirs_from_an_api_that_failed() -> None:
    mistakes = {"Invalid", "NotFound", "Denied", "Forbidden"}
    assert {kind.__name__ for kind, code in EXIT_CODES.items() if code == 2} == mistakes
    assert [kind.__name__ for kind, code in EXIT_CODES.items() if code == 3] == ["Remote"]


def test_the_version_is_told() -> None:
    assert milepost("--version").stdout == "milepost 0.1.0\n"


def test_help_names_every_command() -> None:
    told = milepost("--help").stdout
    assert [name for name in COMMANDS if f"│ {name} " not in told] == []


def test_an_unknown_command_is_a_usage_error() -> None:
    ended = milepost("tune")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "No such command 'tune'" in ended.stderr


def test_an_error_of_ours_is_one_line_on_stderr() -> None:
    ended = milepost("keys", "list", MILEPOST_DATA_DIR="/nowhere")
    assert (ended.returncode, ended.stdout) == (EXIT_CODES[errors.NotFound], "")
    assert ended.stderr == "error: There is no Milepost data in /nowhere. The first `milepost serve` makes it\n"


def test_a_misspelt_setting_is_refused() -> None:
    ended = milepost("keys", "list", MILEPOST_DATADIR="/nowhere")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: MILEPOST_DATADIR is not a setting of Milepost. Settings: ")


@pytest.mark.parametrize("command", ["serve", "keys", "--help"])
def test_help_loads_nothing_heavy(command: str) -> None:
    script = (
        "import sys\nfrom milepost.cli.main import main\n"
        f"sys.argv[1:] = [{command!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('loaded', sorted({'torch', 'sqlalchemy', 'fastapi', 'transformers'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[-1] == "loaded []"


@pytest.mark.parametrize(("module", "extras"), [("sqlalchemy", "server"), ("psycopg", "server,postgres")])
def test_what_is_not_installed_is_named_with_what_brings_it(module, extras, monkeypatch, capsys):
    def app(**_):
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.setattr(main, "app", app)
    with pytest.raises(SystemExit, match="1"):
        main.main()
    assert capsys.readouterr().err == (
        f"error: this command needs `{module}`, which is not installed\nhint: pip install 'milepost[{extras}]'\n"
    )
