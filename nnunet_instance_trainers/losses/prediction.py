"""What a network predicts for one class or region: probabilities everywhere, or only where they are asked for.

Losses of objects need the prediction at the voxels of objects, a few per cent of an image; there it is computed
from the logits directly, and the image of probabilities is never made. Losses that sum over the background ask
for that image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from nnunet_instance_trainers.instances.voxels import gather

__all__ = ["BinarySoftmax", "Prediction", "Probabilities", "Sigmoid", "Softmax", "SoftmaxChannel"]


class Prediction(ABC):
    """The prediction (B, *S) of one binary problem.

    Attributes:
        shape: (B, *S).
        dtype: its number format.
    """

    shape: torch.Size
    dtype: torch.dtype

    @property
    @abstractmethod
    def probabilities(self) -> Tensor:
        """(B, *S) in [0, 1]."""

    @property
    @abstractmethod
    def foreground(self) -> Tensor:
        """(B, *S) bool, the voxels that count as predicted."""

    @abstractmethod
    def at(self, voxel: Tensor) -> tuple[Tensor, Tensor | None]:
        """Probabilities (K,) at flat positions, and their log odds where logits are known."""


class Probabilities(Prediction):
    """Given probabilities.

    Args:
        probabilities: (B, *S) in [0, 1].
        logits: (B, *S) with probabilities = sigmoid(logits). Surrogates then work in log space, where they keep
            their gradient for saturated voxels.
        threshold: a voxel counts as predicted from this probability on.

    Raises:
        ValueError: shapes differ.
    """

    def __init__(self, probabilities: Tensor, *, logits: Tensor | None = None, threshold: float = 0.5) -> None:
        if logits is not None and logits.shape != probabilities.shape:
            raise ValueError(
                f"probabilities and logits must have one shape (B, *S), "
                f"got {tuple(probabilities.shape)} and {tuple(logits.shape)}"
            )
        self.shape, self.dtype = probabilities.shape, probabilities.dtype
        self._probabilities, self._logits, self._threshold = probabilities, logits, threshold

    @property
    def probabilities(self) -> Tensor:
        return self._probabilities

    @property
    def foreground(self) -> Tensor:
        return self._probabilities.detach() >= self._threshold

    def at(self, voxel: Tensor) -> tuple[Tensor, Tensor | None]:
        (p,) = gather(self._probabilities.unsqueeze(1), voxel)
        return p, None if self._logits is None else gather(self._logits.unsqueeze(1), voxel)[0]


class Sigmoid(Prediction):
    """Channel ``channel`` of logits (B, R, *S) of overlapping regions."""

    def __init__(self, output: Tensor, channel: int) -> None:
        self.shape, self.dtype = output[:, 0].shape, output.dtype
        self._output, self._channel = output, channel

    @cached_property
    def probabilities(self) -> Tensor:
        return self._output[:, self._channel].sigmoid()

    @property
    def foreground(self) -> Tensor:
        return self._output[:, self._channel].detach() >= 0

    def at(self, voxel: Tensor) -> tuple[Tensor, Tensor]:
        (logits,) = gather(self._output, voxel, [self._channel])
        return logits.sigmoid(), logits


class BinarySoftmax(Prediction):
    """The foreground of logits (B, 2, *S): the sigmoid of the difference of both channels, at half a softmax's cost.

    Predicted is where it wins, as nnU-Net has it; by threshold a tie is foreground too.
    """

    def __init__(self, output: Tensor, *, by_threshold: bool = False) -> None:
        self.shape, self.dtype = output[:, 0].shape, output.dtype
        self._output, self._by_threshold = output, by_threshold

    @cached_property
    def probabilities(self) -> Tensor:
        return _SigmoidOfDifference.apply(self._output)

    @property
    def foreground(self) -> Tensor:
        background, foreground = self._output.detach().unbind(1)
        return foreground >= background if self._by_threshold else foreground > background

    def at(self, voxel: Tensor) -> tuple[Tensor, Tensor]:
        background, foreground = gather(self._output, voxel, (0, 1))
        logits = foreground - background
        return logits.sigmoid(), logits


class _SigmoidOfDifference(Function):
    """sigmoid(x_1 - x_0) of (B, 2, *S) with one image of temporary memory in either direction."""

    @staticmethod
    def forward(ctx: Any, output: Tensor) -> Tensor:
        probabilities = (output[:, 1] - output[:, 0]).sigmoid_()
        ctx.save_for_backward(probabilities)
        return probabilities

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        of_output = torch.stack((p, p), 1)
        background, foreground = of_output.unbind(1)
        foreground.addcmul_(p, p, value=-1).mul_(gradient)
        torch.neg(foreground, out=background)
        return of_output


class Softmax:
    """The softmax (B, C, *S) of logits, or the given result of one, and its winners: made once for all classes."""

    def __init__(self, output: Tensor, from_logits: bool) -> None:
        self.output, self.from_logits = output, from_logits

    @cached_property
    def probabilities(self) -> Tensor:
        return self.output.softmax(1) if self.from_logits else self.output

    @cached_property
    def winner(self) -> Tensor:
        return self.output.detach().argmax(1)


class SoftmaxChannel(Prediction):
    """Channel ``channel`` of a softmax; predicted is where it wins, or where it has at least 0.5.

    Its log odds are its logit minus the log-sum-exp of the others.
    """

    def __init__(self, softmax: Softmax, channel: int, *, by_threshold: bool = False) -> None:
        self.shape, self.dtype = softmax.output[:, 0].shape, softmax.output.dtype
        self._softmax, self._channel, self._by_threshold = softmax, channel, by_threshold

    @property
    def probabilities(self) -> Tensor:
        return self._softmax.probabilities[:, self._channel]

    @property
    def foreground(self) -> Tensor:
        if self._by_threshold:
            return self.probabilities.detach() >= 0.5
        return self._softmax.winner == self._channel

    def at(self, voxel: Tensor) -> tuple[Tensor, Tensor | None]:
        output = self._softmax.output
        if not self._softmax.from_logits:
            return gather(output, voxel, [self._channel])[0], None
        others = [c for c in range(output.shape[1]) if c != self._channel]
        own, *rest = gather(output, voxel, [self._channel, *others])
        odds = own - torch.stack(rest).logsumexp(0)
        return odds.sigmoid(), odds
