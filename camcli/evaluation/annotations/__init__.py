"""Where the objects are: COCO JSON, Pascal VOC XML, or a folder of mask PNGs."""

from camcli.evaluation.annotations.opened import Annotations, open_annotations

__all__ = ["Annotations", "open_annotations"]
