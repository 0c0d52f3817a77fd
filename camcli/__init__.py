"""Grad-CAM and HiResCAM over folders of pictures, from the command line or from Python."""
