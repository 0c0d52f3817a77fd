"""What maps are worth, measured: over pictures, or over a finished run. No torch is loaded here."""

from camcli.evaluation import recorded, removal

__all__ = ["recorded", "removal"]
