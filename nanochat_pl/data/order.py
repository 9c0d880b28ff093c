"""Counter-based randomness: every shuffle and draw follows from its key alone, so none of it needs saving.

The mixing function is splitmix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014). It is
spelled out here because numpy does not promise the same stream from its generators in every version, and a resumed run
must see the same order.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def random_words(counters: np.ndarray, *key: int) -> np.ndarray:
    """A uniformly distributed uint64 for every entry of `counters` (uint64), a pure function of it and of `key`."""
    state = np.zeros(1, dtype=np.uint64)
    for part in key:
        state = _mix(state ^ np.array([part & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
    return _mix(_mix(counters.astype(np.uint64) ^ state) + state)


def permutation(n: int, *key: int) -> np.ndarray:
    """A random order of 0..n-1 as an int64 array (n,), a pure function of `n` and `key`."""
    return np.argsort(random_words(np.arange(n, dtype=np.uint64), *key), kind="stable")


def _mix(words: np.ndarray) -> np.ndarray:
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))
