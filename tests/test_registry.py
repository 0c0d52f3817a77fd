"""Names: how methods are spelled, what `all-gradient` is, what a name that is none is answered."""

from __future__ import annotations

import subprocess
import sys

import pytest

import camcli.cam.methods  # noqa: F401 (registers them)
from camcli.cam.methods import gradient
from camcli.errors import UsageError
from camcli.registry import METHODS, find_method, find_methods


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("hirescam", "hirescam"),
        ("HiResCAM", "hirescam"),
        ("hires-cam", "hirescam"),
        ("gradient × activation", "hirescam"),
        ("Gradient x Activation", "hirescam"),
        ("grad_cam", "gradcam"),
        ("Grad-CAM", "gradcam"),
        ("Grad-CAM++", "gradcampp"),
        ("gradcam++", "gradcampp"),
        ("GradCAMpp", "gradcampp"),
        ("Smooth Grad-CAM++", "smoothgradcampp"),
        ("XGrad-CAM", "xgradcam"),
        ("element-wise Grad-CAM", "elementwisegradcam"),
        ("LayerCAM fusion", "layercam_fusion"),
        ("layercam-fusion", "layercam_fusion"),
        ("Gradient × Input", "gradient_x_input"),
        ("guided backpropagation", "guided_backprop"),
    ],
)
def test_a_method_is_found_however_it_is_spelled(spelled: str, name: str) -> None:
    assert find_method(spelled) is METHODS[name]


@pytest.mark.parametrize("name", METHODS)
def test_names_and_titles_lead_to_their_own_method(name: str) -> None:
    assert find_method(name).name == name
    assert find_method(METHODS[name].title).name == name


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("gradcan", "gradcam"), ("HiResCAN", "hirescam"), ("all-gradients", "all-gradient")],
)
def test_a_name_that_is_none_is_a_usage_error_with_a_suggestion(wrong: str, meant: str) -> None:
    with pytest.raises(UsageError) as raised:
        find_methods([wrong])
    expected = f"no method '{wrong}'; did you mean '{meant}'? List them: camcli methods"
    assert str(raised.value) == expected
    assert raised.value.exit_status == 2


@pytest.mark.parametrize("wrong", ["", "???", "qqqq"])
def test_a_name_like_no_other_gets_no_suggestion(wrong: str) -> None:
    with pytest.raises(UsageError) as raised:
        find_method(wrong)
    assert str(raised.value) == f"no method '{wrong}'. List them: camcli methods"


@pytest.mark.parametrize("spelled", ["all-gradient", "all_gradient", "All-Gradient"])
def test_all_gradient_is_what_one_gradient_of_the_head_gives_on_one_layer(spelled: str) -> None:
    found = {method.name for method in find_methods([spelled])}
    assert found == {m.name for m in METHODS.values()
                     if (m.needs, m.scope) == ("gradient", "layer")}  # fmt: skip
    assert found >= {"hirescam", "gradcam", "gradcampp", "xgradcam", "layercam"}
    assert not found & {"eigencam", "cam", "shapleycam", "scorecam", "winsorcam", "fullgrad"}


def test_a_method_asked_for_twice_comes_once_where_it_was_asked_for_first() -> None:
    found = [m.name for m in find_methods(["Grad-CAM", "all-gradient", "fem", "gradcam"])]
    assert found[0] == "gradcam"
    assert found[-1] == "fem"
    assert len(found) == len(set(found))


def test_a_method_is_registered_under_the_name_of_its_function() -> None:
    assert METHODS["hirescam"].function is gradient.hirescam
    assert all(name == m.name == m.function.__name__ for name, m in METHODS.items())


def test_names_are_known_without_torch() -> None:
    code = (
        "import sys, camcli.cam.methods; from camcli.registry import find_method; "
        "find_method('Grad-CAM++').doc; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
