# The order of these is the order of every list of methods.
# isort: off
from camcli.cam.methods import gradient as _gradient
from camcli.cam.methods import several as _several
from camcli.cam.methods import activation as _activation
from camcli.cam.methods import forwards as _forwards
from camcli.cam.methods import view as _view

__all__ = ["_activation", "_forwards", "_gradient", "_several", "_view"]
