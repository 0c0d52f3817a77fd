"""What maps are worth, measured: over pictures, or over a finished run. No torch is loaded here."""

from camcli.evaluation import perturbation, recorded, removal, road

__all__ = ["perturbation", "recorded", "removal", "road"]
