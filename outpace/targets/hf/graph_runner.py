"""Runs calls of a model: directly, or with fixed buffers, from which a captured CUDA graph reads.

A step of a small or medium model takes hundreds of kernels, and starting them one by one takes longer than they do. A captured graph
starts them all at once, for one shape. The CPU has no graphs; there a call with fixed buffers runs the same function again, so that
tests run all of this file but the capture itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch

from outpace.arrays import Array

logger = logging.getLogger("outpace")
MAX_GRAPHS = 128  # of different shapes; further ones run directly
WARM_UPS = 2  # runs before a capture, in which libraries choose kernels and allocate
Tensors = tuple[Any, ...]
Function = Callable[..., Tensors]


class Runner:
    """Runs a function of tensors on arrays."""

    def __init__(self, device: Any):
        self.device = device

    def run(self, key: Hashable, function: Function, arrays: Mapping[str, Array]) -> Tensors:
        """The function's results for these arrays, valid until the next call. It does the same for all arrays of one `key`."""
        return function(**{name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()})

    def forget(self) -> None:
        """What was captured is void: buffers that the functions use have moved."""


class GraphRunner(Runner):
    """Captures a function when it runs for the first time with a key, and replays it afterwards."""

    def __init__(self, device: Any, capture: Callable[[Callable[[], Tensors]], Callable[[], Tensors]] | None = None):
        """`capture(function)` returns a function that does the same again; by default a CUDA graph, or on the CPU the function itself."""
        super().__init__(device)
        self.capture = capture or (CudaCapture(device) if device.type == "cuda" else lambda function: function)
        self.recordings: dict[Hashable, _Recording] = {}
        self.is_off = False  # after a function that cannot be captured

    def run(self, key: Hashable, function: Function, arrays: Mapping[str, Array]) -> Tensors:
        if self.is_off or (key not in self.recordings and len(self.recordings) >= MAX_GRAPHS):
            return super().run(key, function, arrays)
        if key not in self.recordings:
            try:
                self.recordings[key] = _Recording(self.device, function, arrays, self.capture)
            except RuntimeError as error:
                self.is_off = True
                logger.warning("no CUDA graphs, because a forward pass cannot be captured: %s", str(error).splitlines()[0])
                return super().run(key, function, arrays)
        return self.recordings[key](arrays)

    def forget(self) -> None:
        self.recordings.clear()


class _Recording:
    """A function with buffers of its own for its arguments."""

    def __init__(self, device: Any, function: Function, arrays: Mapping[str, Array], capture: Callable[..., Any]):
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        is_cuda = device.type == "cuda"
        self.staged = {name: torch.empty_like(tensor, pin_memory=is_cuda) for name, tensor in tensors.items()}
        self.inputs = {name: torch.empty_like(tensor, device=device) for name, tensor in tensors.items()}
        self._set(arrays)
        self.replay: Callable[[], Tensors] = capture(lambda: function(**self.inputs))

    def __call__(self, arrays: Mapping[str, Array]) -> Tensors:
        self._set(arrays)
        return self.replay()

    def _set(self, arrays: Mapping[str, Array]) -> None:
        """Copy the arguments. The copies to the device do not wait; the caller has read the results of the call before, so that the
        staging buffers are free."""
        for name, array in arrays.items():
            self.staged[name].copy_(torch.from_numpy(array))
            self.inputs[name].copy_(self.staged[name], non_blocking=True)


class CudaCapture:
    """Captures functions as CUDA graphs that share their memory. They must not run at the same time."""

    def __init__(self, device: Any):
        self.device, self.pool = device, None
        self.stream = torch.cuda.Stream(device)  # one for all, because libraries keep work space for each stream

    def __call__(self, function: Callable[[], Tensors]) -> Callable[[], Tensors]:
        """A function that replays the graph and returns its results, whose memory the next replay overwrites. Raises RuntimeError if the
        function cannot be captured."""
        side = self.stream
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph, pool=self.pool, stream=side, capture_error_mode="thread_local"):
            results = function()
        self.pool = self.pool or graph.pool()

        def replay() -> Tensors:
            graph.replay()
            return results

        return replay
