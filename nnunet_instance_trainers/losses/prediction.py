"""What a network predicts for its classes or regions: probabilities everywhere, or only where they are asked for.

Losses of objects need the prediction at the voxels of objects, a few per cent of an image; there it is computed
from the logits directly, and images of probabilities are never made. Losses that sum over the background ask
for those images. All scales of deep supervision, all samples and all classes are one prediction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from nnunet_instance_trainers.instances import Objects
from nnunet_instance_trainers.instances.voxels import read
from nnunet_instance_trainers.losses.channels import channels_of, places

__all__ = ["BinarySoftmax", "Prediction", "Probabilities", "Sigmoid", "Softmax"]


class Prediction(ABC):
    """The prediction of binary problems: each of C classes at each scale is one, with images (B, *S).

    Args:
        output: (B, D, *S) for each scale, what the network puts out.
        classes: the channels of the C classes, ascending.
        exclusive: whether at most one class is predicted at a voxel, so that a label image says all.

    Attributes:
        dtype: its number format.
        shapes: (B, *S) for each scale.
    """

    def __init__(self, output: Sequence[Tensor], classes: Sequence[int], *, exclusive: bool = False) -> None:
        self._output, self.classes = list(output), tuple(classes)
        self.exclusive = exclusive or len(self.classes) == 1
        self._made: dict[int, Tensor] = {}
        self.dtype = output[0].dtype
        self.shapes = tuple(torch.Size((len(scale), *scale.shape[2:])) for scale in output)

    @property
    def probabilities(self) -> list[Tensor]:
        """(B, D', *S) in [0, 1] for each scale; classes are their channels :attr:`channels`."""
        return [self.probabilities_at(scale) for scale in range(len(self._output))]

    def probabilities_at(self, scale: int) -> Tensor:
        """Those of one scale, made once."""
        if scale not in self._made:
            self._made[scale] = self._probabilities(self._output[scale])
        return self._made[scale]

    @abstractmethod
    def _probabilities(self, output: Tensor) -> Tensor:
        """Of the output of one scale."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Where in the images of probabilities the classes are."""
        return self.classes

    @property
    @abstractmethod
    def foreground(self) -> list[Tensor]:
        """What counts as predicted at each scale: (B, *S) bool or labels where classes are exclusive, 0 being nothing
        and labels the channels; else (B * C, *S) bool."""

    @abstractmethod
    def at(self, *sides: Objects) -> list[tuple[Tensor, Tensor | None]]:
        """For each list of objects the probabilities (K,) of their classes at their voxels, and the log odds where
        logits are known."""

    def _own_channel(self, images: Sequence[Tensor], sides: Sequence[Objects]) -> list[Tensor]:
        """(K,) for each list of objects, what images (B, D, *S) have in the channel of the object's class."""
        n_channels = images[0].shape[1]
        there = [places(side, n_channels, self.classes, own=True) for side in sides]
        return [row for (row,) in read(images, *there)]

    def _stacked(self, masks: Sequence[Tensor]) -> list[Tensor]:
        """Masks (B, D, *S) of all channels as those of the classes, (B * C, *S)."""
        return [torch.stack([mask[:, one] for one in self.classes], 1).flatten(0, 1) for mask in masks]


class Probabilities(Prediction):
    """Given probabilities.

    Args:
        probabilities: (B, *S) in [0, 1], or (B, D, *S) for each scale.
        classes: with several channels, those of the classes.
        logits: like (B, *S) probabilities, which are sigmoid(logits). Surrogates then work in log space, where they
            keep their gradient for saturated voxels.
        threshold: a voxel counts as predicted from this probability on.
        winner: instead, one class counts as predicted: the channel that is greatest.

    Raises:
        ValueError: shapes differ.
    """

    def __init__(
        self,
        probabilities: Tensor | Sequence[Tensor],
        classes: Sequence[int] = (0,),
        *,
        logits: Tensor | None = None,
        threshold: float = 0.5,
        winner: bool = False,
    ) -> None:
        if logits is not None and logits.shape != probabilities.shape:  # type: ignore[union-attr]
            raise ValueError(
                f"probabilities and logits must have one shape (B, *S), "
                f"got {tuple(probabilities.shape)} and {tuple(logits.shape)}"  # type: ignore[union-attr]
            )
        output = [probabilities.unsqueeze(1)] if isinstance(probabilities, Tensor) else probabilities
        super().__init__(output, classes, exclusive=winner)
        self._logits = None if logits is None else [logits.unsqueeze(1)]
        self._threshold, self._winner = threshold, winner

    def _probabilities(self, output: Tensor) -> Tensor:
        return output

    @property
    def foreground(self) -> list[Tensor]:
        if self._winner:
            return [winners(scale, self.classes) for scale in self._output]
        return self._stacked([scale.detach() >= self._threshold for scale in self._output])

    def at(self, *sides: Objects) -> list[tuple[Tensor, Tensor | None]]:
        p = self._own_channel(self._output, sides)
        odds = [None] * len(p) if self._logits is None else self._own_channel(self._logits, sides)
        return list(zip(p, odds))


class Sigmoid(Prediction):
    """Logits (B, R, *S) of overlapping regions."""

    def _probabilities(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    @property
    def foreground(self) -> list[Tensor]:
        return self._stacked([scale.detach() >= 0 for scale in self._output])

    def at(self, *sides: Objects) -> list[tuple[Tensor, Tensor | None]]:
        return [(logits.sigmoid(), logits) for logits in self._own_channel(self._output, sides)]


class BinarySoftmax(Prediction):
    """The foreground of logits (B, 2, *S): the sigmoid of the difference of both channels, at half a softmax's cost.

    Predicted is where it wins, as nnU-Net has it; by threshold a tie is foreground too.
    """

    channels = (0,)

    def __init__(self, output: Sequence[Tensor], *, by_threshold: bool = False) -> None:
        super().__init__(output, (1,))
        self._by_threshold = by_threshold

    def _probabilities(self, output: Tensor) -> Tensor:
        return _SigmoidOfDifference.apply(output)

    @property
    def foreground(self) -> list[Tensor]:
        pairs = [scale.detach().unbind(1) for scale in self._output]
        wins = torch.ge if self._by_threshold else torch.gt
        return [wins(foreground, background) for background, foreground in pairs]

    def at(self, *sides: Objects) -> list[tuple[Tensor, Tensor | None]]:
        there = [places(side, 2, self.classes, own=False) for side in sides]
        odds = [foreground - background for background, foreground in read(self._output, *there, channels=(0, 1))]
        return [(logits.sigmoid(), logits) for logits in odds]


class _SigmoidOfDifference(Function):
    """sigmoid(x_1 - x_0) of (B, 2, *S), (B, 1, *S), with one image of temporary memory in either direction."""

    @staticmethod
    def forward(ctx: Any, output: Tensor) -> Tensor:
        probabilities = (output[:, 1:] - output[:, :1]).sigmoid_()
        ctx.save_for_backward(probabilities)
        return probabilities

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        of_output = torch.cat((p, p), 1)
        background, foreground = of_output.unbind(1)
        foreground.addcmul_(p[:, 0], p[:, 0], value=-1).mul_(gradient[:, 0])
        torch.neg(foreground, out=background)
        return of_output


class Softmax(Prediction):
    """Logits (B, D, *S) of labels; predicted is where a class wins, or where it has at least 0.5.

    The log odds of a class are its logit minus the log-sum-exp of the others.
    """

    def __init__(self, output: Sequence[Tensor], classes: Sequence[int], *, by_threshold: bool = False) -> None:
        super().__init__(output, classes, exclusive=not by_threshold)
        self._by_threshold = by_threshold

    def _probabilities(self, output: Tensor) -> Tensor:
        return output.softmax(1)

    @property
    def foreground(self) -> list[Tensor]:
        if self._by_threshold:
            return self._stacked([scale.detach() >= 0.5 for scale in self.probabilities])
        return [winners(scale, self.classes) for scale in self._output]

    def at(self, *sides: Objects) -> list[tuple[Tensor, Tensor | None]]:
        n_channels = self._output[0].shape[1]
        there = [places(side, n_channels, self.classes, own=False) for side in sides]
        odds = [
            _odds(logits, channels_of(side, self.classes))
            for side, logits in zip(sides, read(self._output, *there, channels=range(n_channels)))
        ]
        return [(logits.sigmoid(), logits) for logits in odds]


def _odds(logits: Tensor, channel: Tensor) -> Tensor:
    """(K,) the logit of one channel each, of (D, K), minus the log-sum-exp of the others."""
    chosen = channel.long().unsqueeze(0)
    others = logits.scatter(0, chosen, -torch.inf).logsumexp(0)
    return logits.gather(0, chosen)[0] - others


def winners(output: Tensor, classes: Sequence[int]) -> Tensor:
    """(B, *S) the channel that is greatest in (B, D, *S), the first of equals; 0 where it is none of the classes.

    A bool image where there is one class.
    """
    output = output.detach()
    winner = _argmax(output) if output.device.type == "cpu" else output.argmax(1)
    if len(classes) == 1:
        return winner == classes[0]
    others = [channel for channel in range(1, output.shape[1]) if channel not in classes]
    winner = winner.to(torch.uint8 if output.shape[1] <= 256 else torch.int16)
    for channel in others:
        winner.masked_fill_(winner == channel, 0)
    return winner


def _argmax(output: Tensor) -> Tensor:
    """The same as argmax(1), which takes longer than a loss on a CPU (torch 2.15)."""
    greatest = output[:, 0].clone()
    winner = torch.zeros(greatest.shape, dtype=torch.uint8 if output.shape[1] <= 256 else torch.int16)
    for channel in range(1, output.shape[1]):
        better = output[:, channel] > greatest
        winner.mul_(~better).add_(better, alpha=channel)
        torch.maximum(greatest, output[:, channel], out=greatest)
    return winner
