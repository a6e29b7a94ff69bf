"""Exact search in PyTorch: on a GPU it reads all keys in less time than a processor takes to look at a few lists."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import StoreError
from secondlook.model.stores.store import Exhaustive, Neighbors, Store, ordered, parts

WORKING_BYTES = 1 << 30
"""Similarities of as many queries at once as fit into this."""


class TorchStore(Exhaustive):
    """Another store's keys on a device, all of them compared with each query; searched from one thread at a time.

    On a GPU keys are kept in float16, which moves a similarity by less than 1e-3; those of the k nearest are computed
    again from them in float32, so that the vote does not see the rounding of float16 products.

    Raises:
        StoreError: the device's memory does not hold the keys and the working memory.
    """

    def __init__(self, store: Store, device: str = "cuda") -> None:
        self._device = torch.device(device)
        on_gpu = self._device.type == "cuda"
        dtype = torch.float16 if on_gpu else torch.float32
        needed = store.count * store.dim * dtype.itemsize + WORKING_BYTES
        if on_gpu:
            torch.cuda.empty_cache()  # what a bundle before this one left counts as used
        if on_gpu and (free := torch.cuda.mem_get_info(self._device)[0]) < needed:
            raise StoreError(
                f"{store.count:,} keys of {store.dim} numbers need {needed / 1e9:.1f} GB on the GPU, where "
                f"{free / 1e9:.1f} GB are free"
            )
        self.values, self.count, self.dim = store.values, store.count, store.dim
        self._keys = torch.empty((store.count, store.dim), dtype=dtype, device=self._device)
        done = 0
        for keys, _ in store.chunks():
            self._keys[done : done + len(keys)] = torch.from_numpy(keys)
            done += len(keys)

    def search(self, queries: Floats, k: int, mask: NDArray[np.bool_] | None = None) -> Neighbors:
        """Exact search among the keys as they are kept."""
        nearest = min(k, self.count if mask is None else int(mask.sum()))
        left_out = None if mask is None else torch.from_numpy(~mask).to(self._device)
        at_once = max(1, WORKING_BYTES // (8 * self.count + 8 * nearest * self.dim))
        similarities = np.empty((len(queries), nearest), np.float32)
        ids = np.empty((len(queries), nearest), np.int64)
        for start in range(0, len(queries), at_once):
            rows = slice(start, start + at_once)
            some = torch.from_numpy(np.ascontiguousarray(queries[rows], np.float32)).to(self._device)
            with torch.inference_mode():
                rough = some.to(self._keys.dtype) @ self._keys.T
                if left_out is not None:
                    rough.masked_fill_(left_out, -torch.inf)
                nearest_ids = torch.topk(rough, nearest, dim=1).indices
                exact = torch.einsum("bd,bkd->bk", some, self._keys[nearest_ids].float())
                exact, order = torch.sort(exact, dim=1, descending=True)
            similarities[rows], ids[rows] = exact.cpu().numpy(), torch.gather(nearest_ids, 1, order).cpu().numpy()
        return ordered(similarities, ids, self.values, k)

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """The keys as they are kept, a chunk at a time."""
        for part in parts(self.count, self.dim):
            yield self._keys[part].float().cpu().numpy(), self.values[part]
