"""HiResCAM's theorem on the paper's networks: it shows the places that were used, others do not."""

from __future__ import annotations

import pytest

from camcli.engine import Engine
from tests.benchmarks.theorem import NETWORKS, Case
from tests.conftest import noise_pictures


@pytest.mark.parametrize("name", NETWORKS)
def test_only_hirescam_shows_the_places_that_the_network_used(name: str) -> None:
    case = Case(name, 64, lambda model: noise_pictures(model, 3))
    assert Engine(case.model).layers[0].name == "features"
    found = case.distances(["hirescam", "gradcam"], 3)
    assert len(found["hirescam"]) == len(found["gradcam"]) == 3
    assert max(found["hirescam"]) <= 1e-6
    assert min(found["gradcam"]) > 1e-2
