"""Deterministic draws that any language can reproduce bit for bit.

A draw is named. The name is hashed (FNV-1a, 64 bits, over its UTF-8 bytes), the hash seeds
a splitmix64 sequence, and the top 53 bits of each of its outputs become one element.
"""

import math

import numpy as np
import torch

MASK = (1 << 64) - 1


def fnv1a(name):
    """The 64-bit FNV-1a hash of the UTF-8 bytes of `name`."""
    h = 0xCBF29CE484222325
    for byte in name.encode("utf-8"):
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def draw(name, shape):
    """A float64 tensor, uniform in [-1, 1), filled in row-major order."""
    count = math.prod(shape)
    i = np.arange(1, count + 1, dtype=np.uint64)
    # Arrays of uint64 wrap modulo 2^64, as the algorithm wants.
    z = np.full(count, fnv1a(name), dtype=np.uint64) + i * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    # 53 bits: exact in float64, and so are the scaling and the subtraction.
    value = (z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
    return torch.from_numpy(value).reshape(tuple(shape))


def classes(name, n, k):
    """`n` labels from 0 to k - 1, int64."""
    return ((draw(name, (n,)) + 1) / 2 * k).floor().long()
