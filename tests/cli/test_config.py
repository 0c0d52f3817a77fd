"""Settings: flags > CAMCLI_* > TOML > defaults, and one sentence for what does not fit."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcli.config import Config, options, parse, resolve
from camcli.errors import UsageError

CONFIGS = Path(__file__).parents[2] / "configs"


def resolved(
    flags: dict[str, object] | None = None, environment: dict[str, str] | None = None,
    file: Path | None = None,
) -> Config:  # fmt: skip
    return resolve(flags or {}, environment or {}, file)[0]


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        (tmp_path / "camcli.toml").write_text(text, encoding="utf-8")
        return tmp_path / "camcli.toml"

    return write


def test_the_nearer_source_wins(toml: Callable) -> None:
    file = toml('colormap = "turbo"\nalpha = 0.1\nblend = "flat"\n')
    environment = {"CAMCLI_COLORMAP": "jet", "CAMCLI_ALPHA": "0.2"}
    chosen, origins = resolve({"colormap": "cividis"}, environment, file)
    assert (chosen.colormap, origins["colormap"]) == ("cividis", "flag")
    assert (chosen.alpha, origins["alpha"]) == (0.2, "environment")
    assert (chosen.blend, origins["blend"]) == ("flat", str(file))
    assert (chosen.overlay_size, origins["overlay_size"]) == (1024, "default")


def test_nothing_given_is_the_defaults() -> None:
    assert resolved() == Config()
    assert resolved({"method": [], "colormap": None}) == Config()


def test_a_list_replaces_the_list_of_a_farther_source(toml: Callable) -> None:
    file = toml('method = ["hirescam", "gradcam"]')
    assert resolved(file=file).method == ("hirescam", "gradcam")
    assert resolved({"method": ["gradcam"]}, file=file).method == ("gradcam",)


def test_a_flag_can_take_back_what_a_file_switched_on(toml: Callable) -> None:
    file = toml("fail-fast = true\nbatch_size = 4\n")
    assert resolved(file=file).fail_fast
    assert not resolved({"fail_fast": False}, file=file).fail_fast
    assert resolved({"batch_size": "auto"}, file=file).batch_size is None


def test_keys_may_be_written_with_hyphens_or_underscores(toml: Callable) -> None:
    assert resolved(file=toml("overlay-size = 5")).overlay_size == 5
    assert resolved(file=toml("overlay_size = 5")).overlay_size == 5


@pytest.mark.parametrize("word", ["1", "true", "YES", " on "])
def test_switches_of_the_environment_are_words(word: str) -> None:
    assert resolved(environment={"CAMCLI_QUIET": word}).quiet
    assert resolved(environment={"CAMCLI_PROGRESS": "off"}).progress is False


def test_globs_and_file_names_may_contain_commas() -> None:
    chosen = resolved({"include": ["{a,b}.jpg"], "files_from": ["a,b.txt", "-"]})
    assert chosen.include == ("{a,b}.jpg",)
    assert chosen.files_from == ("a,b.txt", "-")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("colourmap = 'jet'", "no setting 'colourmap' in {file}; did you mean 'colormap'?"),
        ("zzz = 1", "no setting 'zzz' in {file}. List them: camcli config show"),
        ("[explain]\nalpha = 1", "no setting 'explain' in {file}"),
        ("colormap = 'virdis'", "colormap in {file} must be one of inferno, viridis, cividis, "
                                "turbo, jet, not 'virdis'; did you mean 'viridis'?"),
        ("batch-size = 2.5", "batch_size in {file} must be a whole number, not '2.5'"),
        ("batch-size = true", "batch_size in {file} must be a whole number, not 'True'"),
        ("batch-size = 0", "batch_size in {file} must be at least 1, not 0"),
        ("alpha = nan", "alpha in {file} must be a number, not 'nan'"),
        ("lock-timeout = inf", "lock_timeout in {file} must be a number, not 'inf'"),
        ("quiet = 1", "quiet in {file} must be true or false, not '1'"),
        ("target = ['predicted']", "target in {file} must be text, not '['predicted']'"),
        ("target = 1979-05-27", "target in {file} must be text, not '1979-05-27'"),
        ("output = ''", "output in {file} must be text, not ''"),
        ("method = []", "method in {file} needs at least one value"),
        ("write = ['json', 'pdf']", "write in {file} must be one of overlay, json, npz, not 'pdf'"),
        ("alpha = ", "--config {file} is not TOML: "),
        ("limit = " + "9" * 5000, "--config {file} is not TOML: "),
        ("mean = " + "[" * 5000, "--config {file} is not TOML: "),
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(toml: Callable, text: str, sentence: str) -> None:
    file = toml(text)
    with pytest.raises(UsageError) as error:
        resolved(file=file)
    assert str(error.value).startswith(sentence.format(file=file))


def test_the_source_of_a_wrong_value_is_named_as_the_user_wrote_it() -> None:
    with pytest.raises(UsageError, match=r"^CAMCLI_COLORMAP must be one of .* 'viridis'\?$"):
        resolved(environment={"CAMCLI_COLORMAP": "virdis"})
    with pytest.raises(UsageError, match=r"^--overlay-size must be a whole number, not 'big'$"):
        resolved({"overlay_size": "big"})
    with pytest.raises(UsageError, match=r"^CAMCLI_OUTPUT must be text, not ''$"):
        resolved(environment={"CAMCLI_OUTPUT": ""})


def test_a_file_that_is_not_utf8_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "camcli.toml").write_bytes(b"colormap = '\xff'")
    with pytest.raises(UsageError, match="is not TOML"):
        resolved(file=tmp_path / "camcli.toml")


scalars = (
    st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates() | st.times()
)
toml_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
close_to_valid = st.sampled_from(
    ["auto", "cpu", "json,npz", "0.5,0.5,0.5", "1", "-1", "1e400", "٣", "true", "inferno", " 7 "]
)


def assert_suits(name: str, value: object) -> None:
    """The value has the setting's type and lies within its bounds."""
    option, example = options()[name], getattr(Config(), name)
    if isinstance(example, bool | int | float | str):
        assert type(value) is type(example)
    for single in value if isinstance(value, tuple) else (value,):
        assert option.choices is None or single is None or single in option.choices
        if isinstance(single, int | float) and not isinstance(single, bool):
            assert option.low is None or single >= option.low
            assert option.high is None or single <= option.high
    dataclasses.replace(Config(), **{name: value})


@settings(max_examples=600)
@given(st.sampled_from(sorted(options())), toml_values | close_to_valid)
def test_every_value_fits_its_setting_or_is_refused_in_a_sentence(name: str, value: object) -> None:
    try:
        result = parse(name, value, name)
    except UsageError as error:
        sentence = str(error)
    else:
        assert_suits(name, result)
        return
    assert sentence.startswith(f"{name} ")


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_the_configurations_that_come_along_are_valid(file: Path) -> None:
    assert resolved(file=file) != Config()


def test_config_show_is_toml_that_gives_the_same_settings(cli: Callable, tmp_path: Path) -> None:
    given = ["--method", "hirescam,gradcam", "--mean", "0.1,0.2,0.3", "--colormap", "jet",
             "--exclude", 'a "quoted" # glob', "--no-progress", "-o", "out put"]  # fmt: skip
    done = cli("config", "show", *given)
    assert (done.status, done.stderr) == (0, "")
    (tmp_path / "shown.toml").write_text(done.stdout)
    chosen = resolved(file=tmp_path / "shown.toml")
    assert chosen.method == ("hirescam", "gradcam")
    assert chosen.exclude == ('a "quoted" # glob',)
    assert cli("config", "show", "--config", tmp_path / "shown.toml").stdout.count("shown.toml") > 9
    again = [line.split(" #")[0] for line in cli("config", "show", *given).stdout.splitlines()]
    assert again == [line.split(" #")[0] for line in done.stdout.splitlines()]
    assert resolved(file=tmp_path / "shown.toml") == dataclasses.replace(
        Config(), method=("hirescam", "gradcam"), mean=(0.1, 0.2, 0.3), colormap="jet",
        exclude=('a "quoted" # glob',), progress=False, output=Path("out put"),
    )  # fmt: skip


def test_config_show_says_where_a_value_comes_from(
    cli: Callable, toml: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMCLI_ALPHA", "0.25")
    file = toml('blend = "flat"')
    shown = cli("config", "show", "--config", file, "--colormap", "jet").stdout
    where = {line.split(" = ")[0]: line.split("# ")[-1] for line in shown.splitlines()}
    assert where["alpha"] == "environment"
    assert where["blend"] == str(file)
    assert where["colormap"] == "flag"
    assert where["model"] == "default"
    named = {key.replace("-", "_") for key in tomllib.loads(shown)}
    assert named <= set(options())
    assert "# batch-size is decided by the model or the machine" in shown
