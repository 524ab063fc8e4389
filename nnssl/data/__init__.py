"""From files on disk to crops: datasets in nnU-Net's folders, the case store, the pool, crop sampling, the loader."""

from __future__ import annotations
