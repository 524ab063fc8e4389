"""From what people have on disk (DICOM exports, NIfTI folders, published datasets) to nnU-Net's raw format."""

from __future__ import annotations
