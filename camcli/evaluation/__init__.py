"""What maps are worth, measured: over pictures, or over a finished run. No torch is loaded here."""

from camcli.evaluation import perturbation, pointing, recorded, removal, road, shape

__all__ = ["perturbation", "pointing", "recorded", "removal", "road", "shape"]
