"""nnU-Net finds nnssl's trainers here. The classes keep their real module, so pickling and repeated look-ups work."""

from nnssl.trainers import *  # noqa: F403
