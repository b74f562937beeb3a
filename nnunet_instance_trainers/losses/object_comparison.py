"""A prediction compared with a target, object by object: what the losses share, computed once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from nnunet_instance_trainers.instances import Cells, Objects, OverlapTable
from nnunet_instance_trainers.instances.labelling import label_objects
from nnunet_instance_trainers.instances.voxel_lists import joined
from nnunet_instance_trainers.instances.voxels import read, read_with_total, tally, total
from nnunet_instance_trainers.losses.averaging import Average
from nnunet_instance_trainers.losses.channels import places
from nnunet_instance_trainers.losses.named_criteria import Criterion
from nnunet_instance_trainers.losses.prediction import Prediction
from nnunet_instance_trainers.losses.surrogates import is_target
from nnunet_instance_trainers.losses.target_side import TargetSide

__all__ = ["Comparison"]

_TINY = 1e-6


class Comparison:
    """Target instances and predicted components of one batch of binary problems, with the sums that losses share.

    A binary problem is one class at one scale of deep supervision; its images are the B elements of the batch. All
    problems are compared at once: a sample is one image of one problem, and lists of samples (E,) go through scales,
    batch elements and classes, in this order. One class at one scale has E = B samples.

    Everything is computed when it is first asked for: a blob loss never labels the prediction, and seven
    terms label it once.

    Args:
        prediction: what is predicted.
        target: (B, *S) integer target ids of one problem, 0 is background; or the target side of many.
        components: of one problem (B, *S) integer ids of predicted components; None labels the predicted foreground.
        valid: of one problem (B, *S) bool, False where voxels are ignored; None means that all count.
        spacing: of one problem the spacing of its voxels, one number per axis; None is 1 along each.
        cells: of one problem (B, *S) for each voxel the id of the nearest object of the ``"target"`` or the
            ``"prediction"``, where that is known; of the latter with ``components`` only.

    Attributes:
        shapes: (B, *S) of each scale.
        n_classes: problems at each scale.
        n_samples: E.
        dtype: the number format of the prediction.

    Raises:
        ValueError: shapes differ.
    """

    def __init__(
        self,
        prediction: Prediction,
        target: Tensor | TargetSide,
        *,
        components: Tensor | None = None,
        valid: Tensor | None = None,
        spacing: Sequence[float] | None = None,
        cells: Mapping[str, Tensor] | None = None,
    ) -> None:
        cells = cells or {}
        given = {"ids": target, "components": components, "valid": valid}
        given |= {f"cells of the {side}": of_side for side, of_side in cells.items()}
        for name, other in given.items():
            if isinstance(other, Tensor) and other.shape != prediction.shapes[0]:
                raise ValueError(
                    f"probabilities and {name} must have one shape (B, *S), "
                    f"got {tuple(prediction.shapes[0])} and {tuple(other.shape)}"
                )
        if isinstance(target, Tensor):
            target = TargetSide(
                [target],
                valid=None if valid is None else [valid],
                spacing=spacing,
                cells=[cells["target"]] if "target" in cells else None,
            )
        self.prediction, self.target_side = prediction, target
        self.shapes, self.dtype, self.n_classes = prediction.shapes, prediction.dtype, target.n_classes
        self.n_samples = self.n_classes * sum(shape[0] for shape in self.shapes)
        self._component_ids = components
        self._given_cells = [cells["prediction"]] if "prediction" in cells else None
        self._cells: dict[str, Cells] = {}
        self._negative: dict[Criterion, list[Tensor]] = {}

    # --- samples and problems ---------------------------------------------------------------------------------

    def per_problem(self, of_samples: Tensor) -> Tensor:
        """Sums (P,) over the samples of each problem of a number (E,) per sample."""
        return of_samples.view(len(self.shapes), self.shapes[0][0], self.n_classes).sum(1).view(-1)

    def average_samples(self, losses: Tensor, occurs: Tensor | None = None) -> Average:
        """The means over all samples of losses (E,).

        Args:
            losses: one per sample.
            occurs: (E,) integers, above 0 where a sample has something that the term looks at; None where all have.
        """
        count = self.per_problem(torch.ones_like(losses, dtype=torch.int64))
        return Average(self.per_problem(losses), count, count if occurs is None else self.per_problem(occurs))

    # --- the target ---------------------------------------------------------------------------------------------

    @property
    def instances(self) -> Objects:
        return self.target_side.instances

    @property
    def whole_instances(self) -> Tensor:
        """(N,) bool, whether no ignored voxel touches the instance; else it may go on where nobody annotated."""
        return self.target_side.whole_instances

    # --- the prediction everywhere, for losses with a background ------------------------------------------------

    @cached_property
    def probabilities(self) -> list[Tensor]:
        """(B, D, *S) for each scale, 0 where voxels are ignored; the classes are some of the D channels."""
        return list(map(self._probabilities_at, range(len(self.shapes))))

    def _probabilities_at(self, scale: int) -> Tensor:
        p, valid = self.prediction.probabilities_at(scale), self.target_side.valid
        return p if valid is None else p.masked_fill(~valid[scale].unsqueeze(1), 0)

    @cached_property
    def class_probabilities(self) -> list[Tensor]:
        """The probabilities of the classes alone, sample after sample: a vector for each scale, on a GPU one of all."""
        p, channels = self.probabilities, self.prediction.channels
        if channels == tuple(range(channels[0], channels[-1] + 1)):
            own = [image[:, channels[0] : channels[-1] + 1] for image in p]
        else:
            own = [torch.stack([image[:, channel] for channel in channels], 1) for image in p]
        flat = [image.reshape(-1) for image in own]
        return flat if p[0].device.type == "cpu" else [joined(flat)]

    def negative(self, part: Criterion) -> list[Tensor]:
        """What each voxel gives to a criterion where the target is 0, as :attr:`class_probabilities`."""
        if part not in self._negative:
            self._negative[part] = [part.negative(p) for p in self.class_probabilities]
        return self._negative[part]

    @cached_property
    def inside(self) -> Tensor:
        """(K,) probabilities at the voxels of instances, in their class."""
        return self.gather(self.probabilities)

    @cached_property
    def _places(self) -> list[Tensor]:
        """Where in images like :attr:`probabilities` the voxels of instances are."""
        n_channels = self.probabilities[0].shape[1]
        return places(self.instances, n_channels, self.prediction.channels, own=True)

    def gather(self, images: Sequence[Tensor]) -> Tensor:
        """(K,) at the voxels of instances, in their class, of images like :attr:`probabilities`."""
        return read(images, self._places)[0][0]

    def totals(self, images: Sequence[Tensor]) -> Tensor:
        """(E,) sums over all voxels of images like :attr:`probabilities`."""
        return self._of_samples(total(images), images)

    def mass_at(self, scales: Collection[int]) -> Tensor:
        """(E,) summed probability of all voxels at some scales, 0 at the others, of which no image is made."""
        none = self.instances.size.new_zeros(self.n_samples).split([n * self.n_classes for n, *_ in self.shapes])
        return torch.cat(
            [self.totals([self._probabilities_at(n)]) if n in scales else zeros for n, zeros in enumerate(none)]
        )

    def gather_with_totals(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """:meth:`gather` and :meth:`totals` at once."""
        inside, everywhere = read_with_total(images, self._places)
        return inside, self._of_samples(everywhere, images)

    def _of_samples(self, of_channels: Tensor, images: Sequence[Tensor]) -> Tensor:
        n_channels, channels = images[0].shape[1], self.prediction.channels
        if n_channels == len(channels):
            return of_channels
        by_channel = of_channels.view(-1, n_channels)
        return torch.stack([by_channel[:, channel] for channel in channels], 1).view(-1)

    # --- the prediction's components -----------------------------------------------------------------------------

    @cached_property
    def _predicted(self) -> list[Tensor]:
        return self.target_side.only_valid(self.prediction.foreground)

    @cached_property
    def components(self) -> Objects:
        target = self.target_side
        if self._component_ids is not None:
            return Objects(self._component_ids, valid=None if target.valid is None else target.valid[0])
        classes = target.classes if self.prediction.exclusive else (1,)
        return label_objects(self._predicted, classes)

    @cached_property
    def table(self) -> OverlapTable:
        ids = self.target_side.ids_at(self.components, self._predicted if self._component_ids is None else ())
        return OverlapTable.between(self.instances, self.components, ids)

    def cells(self, side: str, grid: str) -> Cells:
        """The cells of the target's instances, or of the predicted components."""
        if is_target(side):
            return self.target_side.cells(grid)
        if grid not in self._cells:
            self._cells[grid] = self.target_side.cells_of(self.components, grid, self._given_cells)
        return self._cells[grid]

    @cached_property
    def missed(self) -> Tensor:
        """(N,) bool, whether no component meets the instance."""
        return tally(self.table.instance, len(self.instances)) == 0

    @cached_property
    def false(self) -> Tensor:
        """(M,) bool, whether the component meets no instance."""
        return tally(self.table.component, len(self.components)) == 0

    @cached_property
    def whole_components(self) -> Tensor:
        """(M,) bool, whether no ignored voxel touches the component."""
        return self.target_side.whole(self.components)

    # --- the prediction in objects --------------------------------------------------------------------------------

    @cached_property
    def _read(self) -> list[tuple[Tensor, Tensor | None]]:
        """Probabilities and log odds at the voxels of instances, and at those of components."""
        return self.prediction.at(self.instances, self.components)

    @cached_property
    def instance_mass(self) -> Tensor:
        """(N,) summed probability of each instance."""
        return self.instances.sum_gathered(self._read[0][0])

    @cached_property
    def component_mass(self) -> Tensor:
        """(M,) summed probability of each component."""
        return self.components.sum_gathered(self._read[1][0])

    @cached_property
    def pair_mass(self) -> Tensor:
        """(P,) summed probability of what each pair shares."""
        return self.table.sum_gathered(self._read[1][0])

    @cached_property
    def log_instance_mean(self) -> Tensor:
        """(N,) log of the mean probability in each instance."""
        odds = self._read[0][1]
        if odds is None:
            return (self.instance_mass / self.instances.size + _TINY).log()
        return _LogMeanSigmoid.apply(odds, self.instances, False)

    @cached_property
    def log_component_complement(self) -> Tensor:
        """(M,) log of one minus the mean probability in each component."""
        odds = self._read[1][1]
        if odds is None:
            return (1 - self.component_mass / self.components.size + _TINY).log()
        return _LogMeanSigmoid.apply(odds, self.components, True)


class _LogMeanSigmoid(Function):
    """(N,) log of the mean sigmoid, or that of the negated, of the logits (K,) over each object."""

    # A float32 sigmoid keeps its relative precision down to logits of -80, so no log-sum-exp is needed. What lies
    # below counts as -80 but keeps its gradient, which is the softmax of the logits and sums to 1.
    @staticmethod
    def forward(ctx: Any, logits: Tensor, objects: Objects, negated: bool) -> Tensor:
        p = (-logits if negated else logits).clamp(min=-80).sigmoid_()
        sums = objects.sum_gathered(p)
        ctx.save_for_backward(p, sums, objects.member)
        ctx.negated = negated
        return (sums / objects.size).log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        p, sums, member = ctx.saved_tensors
        share = (p / sums.index_select(0, member)).to(p.dtype)  # first, since 1 / sums may be beyond float32
        return (
            share.mul_(1 - p).mul_((-gradient if ctx.negated else gradient).to(p.dtype).index_select(0, member)),
            None,
            None,
        )
