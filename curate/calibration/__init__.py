"""How well detectors tell machine-written from human rows, on rows whose origin is known."""

from curate.calibration.calibrating import Calibration, Figures, calibrate
from curate.calibration.picture import draw

__all__ = ["Calibration", "Figures", "calibrate", "draw"]
