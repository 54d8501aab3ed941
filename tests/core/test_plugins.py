"""Finding plugins, knowing where they come from, and refusing what breaks the contract."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from myosotis import __version__, plugins
from myosotis.errors import PluginError
from myosotis.plugins import load_registry
from tests import toy
from tests.core.commands import resolved
from tests.core.commands import toy as toy_command

Write = Callable[[str, str], Path]

METHOD = """
from myosotis import hookimpl
from myosotis.interfaces import Method

MYOSOTIS_API = 1


class Noise(Method):
    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale


@hookimpl
def myosotis_methods():
    return {"NAME": Noise}
"""


def method(name: str) -> str:
    return METHOD.replace("NAME", name)


@pytest.fixture
def distribute(
    isolated: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[str, str, str], Path]]:
    """Install a distribution of one plugin module, found by its entry point."""
    monkeypatch.delenv("MYOSOTIS_PLUGINS")
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def install(distribution: str, module: str, source: str) -> Path:
        path = folder / f"{module}.py"
        path.write_text(source, encoding="utf-8")
        metadata = folder / f"{distribution}-2.5.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.5\n")
        (metadata / "entry_points.txt").write_text(f"[myosotis]\n{module} = {module}\n")
        return path

    plugins._load_registry.cache_clear()
    yield install
    plugins._load_registry.cache_clear()


def test_isolation_loads_what_it_names_alone() -> None:
    found = {(each.kind, each.name): each.cls for each in load_registry()}
    assert found == {
        ("method", "plain"): toy.Plain,
        ("method", "pull"): toy.Pull,
        ("method", "still"): toy.Still,
        ("dataset", "points"): toy.Points,
        ("model", "toy"): toy.ToyModel,
        ("objective", "points"): toy.PointObjective,
        ("metric", "hits"): toy.Hits,
        ("metric", "surprise"): toy.Surprise,
    }


def test_origin_is_file_and_line() -> None:
    origin = load_registry().find("method", "pull")
    lines = Path(toy.__file__).read_text(encoding="utf-8").splitlines()
    assert Path(origin.file) == Path(toy.__file__)
    assert lines[origin.line - 1] == "class Pull(Method):"


def test_entry_point_is_found_with_its_distribution(distribute: Callable[[str, str, str], Path]) -> None:
    path = distribute("outside", "outside_noise", method("outside_noise"))
    origin = load_registry().find("method", "outside_noise")
    line = method("x").splitlines().index("class Noise(Method):") + 1
    assert (origin.distribution, origin.file, origin.line) == ("outside 2.5", str(path), line)
    assert str(origin) == f"outside 2.5 ({path}:{line})"


def test_two_with_one_name_are_refused_with_both_origins(
    distribute: Callable[[str, str, str], Path],
) -> None:
    first = distribute("first", "first_noise", method("noise"))
    second = distribute("second", "second_noise", method("noise"))
    line = method("x").splitlines().index("class Noise(Method):") + 1
    with pytest.raises(PluginError) as refused:
        load_registry()
    assert f"first 2.5 ({first}:{line})" in str(refused.value)
    assert f"second 2.5 ({second}:{line})" in str(refused.value)
    assert "'noise'" in str(refused.value)


def test_module_that_does_not_import_is_named_and_the_rest_works(
    distribute: Callable[[str, str, str], Path],
) -> None:
    distribute("torn", "torn_module", "import nothing_of_this_name\n")
    distribute("whole", "whole_module", method("whole"))
    registry = load_registry()
    assert registry.find("method", "whole").distribution == "whole 2.5"
    broken = {each.module: each for each in registry.broken}["torn_module"]
    assert broken.distribution == "torn 2.5"
    assert broken.error == "ModuleNotFoundError: No module named 'nothing_of_this_name'"
    with pytest.raises(PluginError, match=r"torn_module of torn 2.5 could not be loaded"):
        registry.find("method", "torn")


VERSIONS = (
    f"MYOSOTIS_API must be %d, the version of the hooks of myosotis {__version__}, but the module says %d; "
)
OLDER = VERSIONS % (2, 1) + "install a newer release of the plugin, or an older one of myosotis"
NEWER = VERSIONS % (1, 2) + "upgrade myosotis, or install an older release of the plugin"
NOTHING = "but the module says nothing; its author must state the version it is written for: MYOSOTIS_API = 1"
NONSENSE = "its author must give a whole number from 1"


@pytest.mark.parametrize(
    ("statement", "here", "told"),
    [
        ("MYOSOTIS_API = 1", 2, OLDER),
        ("MYOSOTIS_API = 2", 1, NEWER),
        ("MYOSOTIS_API = 2\nfrom myosotis.interfaces import Later", 1, NEWER),
        ("", 1, NOTHING),
        ("MYOSOTIS_API = '1'", 1, f"says '1'; {NONSENSE}"),
        ("MYOSOTIS_API = True", 1, f"says True; {NONSENSE}"),
        ("MYOSOTIS_API = 0", 1, f"says 0; {NONSENSE}"),
    ],
)
def test_other_version_of_the_hooks_is_refused_with_the_reason(
    write_plugin: Write, monkeypatch: pytest.MonkeyPatch, statement: str, here: int, told: str
) -> None:
    monkeypatch.setattr(plugins, "API", here)
    monkeypatch.setattr(toy, "MYOSOTIS_API", here)
    write_plugin("other_version", method("other").replace("MYOSOTIS_API = 1", statement))
    registry = load_registry()
    assert "other" not in registry.plugins["method"]
    assert "pull" in registry.plugins["method"]
    [broken] = registry.broken
    assert told in broken.error
    assert broken.module == "other_version"


def test_what_fails_to_import_for_another_reason_is_told_as_it_is(write_plugin: Write) -> None:
    write_plugin("same_version", method("other") + "\nfrom myosotis.interfaces import Later\n")
    [broken] = load_registry().broken
    assert broken.error.startswith("ImportError: cannot import name 'Later'")


@pytest.mark.parametrize(
    ("command", "code", "there"),
    [
        (("plugins",), 0, "pull"),
        (("plugins", "show", "other"), 2, "Known: hits, plain, points, pull"),
        (("plugins", "check", "other_version"), 1, "0 ok, 1 failed"),
        (("doctor",), 1, "8 of no distribution"),
        (("run", *toy_command("method=[other]")), 2, "plain, pull, still"),
    ],
    ids=["list", "show", "check", "doctor", "run"],
)
def test_every_command_tells_of_another_version(
    write_plugin: Write,
    call: Callable[..., tuple[int, str, str]],
    command: Sequence[str],
    code: int,
    there: str,
) -> None:
    write_plugin("other_version", method("other").replace("MYOSOTIS_API = 1", "MYOSOTIS_API = 2"))
    done, printed, errors = call(*command)
    assert done == code, printed + errors
    assert NEWER in printed + errors
    assert there in printed + errors


def test_the_doctor_tells_what_keeps_all_plugins_from_being_loaded(
    write_plugin: Write, call: Callable[..., tuple[int, str, str]]
) -> None:
    write_plugin("misspelt", method("noise").replace("def myosotis_methods", "def myosotis_method"))
    code, printed, _ = call("doctor")
    assert code == 1
    assert re.search(r"problem  plugins: misspelt hook.*\n +mend it, or uninstall its package", printed)


def test_misspelt_hook_is_refused(write_plugin: Write) -> None:
    write_plugin("misspelt", method("noise").replace("def myosotis_methods", "def myosotis_method"))
    with pytest.raises(PluginError, match=r"(?s)misspelt hook.*myosotis_method\b.*Hooks: .*myosotis_methods"):
        load_registry()


def test_hook_with_an_unknown_argument_is_refused(write_plugin: Write) -> None:
    write_plugin("argument", method("noise").replace("myosotis_methods()", "myosotis_methods(model)"))
    with pytest.raises(PluginError, match=r"(?s)argument of .*model"):
        load_registry()


@pytest.mark.parametrize("given", ["Noise()", "int", "'noise'"])
def test_what_is_no_class_of_its_kind_is_refused(write_plugin: Write, given: str) -> None:
    write_plugin("no_class", method("noise").replace(": Noise}", f": {given}}}"))
    with pytest.raises(PluginError, match=r"method 'noise' .* must be a class that extends .*\.Method"):
        load_registry()


def test_name_that_is_no_identifier_is_refused(write_plugin: Write) -> None:
    write_plugin("no_identifier", method("my-noise"))
    with pytest.raises(PluginError, match=r"must be an identifier, .* gives 'my-noise'"):
        load_registry()


def test_hook_that_fails_does_not_end_the_others(write_plugin: Write) -> None:
    write_plugin("failing_hook", method("noise").replace('return {"noise": Noise}', "raise OSError('gone')"))
    registry = load_registry()
    assert "pull" in registry.plugins["method"]
    assert [str(each) for each in registry.broken] == [
        "plugin module failing_hook of no distribution could not be loaded: "
        "myosotis_methods raised OSError: gone"
    ]


def test_unknown_name_gives_the_nearest_and_all() -> None:
    with pytest.raises(PluginError) as refused:
        load_registry().find("method", "pul")
    assert str(refused.value) == (
        "there is no method named 'pul'. Did you mean pull? Known: plain, pull, still"
    )


def test_edited_source_gives_another_trial_id(write_plugin: Write) -> None:
    path = write_plugin("edited", method("edited"))
    command = ("method=[edited]", "seed=0")
    before, again = resolved(*command)[0].id, resolved(*command)[0].id
    others = resolved("method=[plain]", "seed=0")[0].id
    path.write_text(path.read_text(encoding="utf-8") + "\n# another line\n", encoding="utf-8")
    assert resolved(*command)[0].id == before  # what this process has loaded
    plugins.source_hash.cache_clear()  # as in another process
    after = resolved(*command)[0].id
    assert before == again
    assert before != after
    assert resolved("method=[plain]", "seed=0")[0].id == others


def test_presets_of_a_plugin_are_found(write_plugin: Write) -> None:
    source = """
from myosotis import hookimpl

MYOSOTIS_API = 1


@hookimpl
def myosotis_config_paths():
    return ["pkg://with_presets_conf"]
"""
    folder = write_plugin("with_presets", source).parent / "with_presets_conf"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "model" / "wide.yaml").write_text("defaults:\n  - toy\nwidth: 64\n")
    [trial] = resolved("model=wide")
    assert load_registry().config_paths() == ["pkg://with_presets_conf"]
    assert vars(trial.model) == {"width": 64}
