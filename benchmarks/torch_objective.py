"""A training step of rotation feature decoupling in eager PyTorch, written straight from the method.

As in the original, three modules (backbone, rotation classifier, projection) with an SGD optimizer each, and
one `index_select` of B x (1 + K) rows of the bank.
"""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_alexnet import FEATURES, alexnet

HALF, WIDTH, TEMPERATURE, MOMENTUM = FEATURES // 2, 128, 0.07, 0.5


class Trainer:
    """The three modules, their optimizers, and the bank [N, 128]."""

    def __init__(self, num_instances: int, num_negatives: int, learning_rate: float = 0.01):
        self.num_negatives = num_negatives
        self.backbone, self.classifier = alexnet(), nn.Linear(HALF, 4)
        self.projection = nn.Linear(HALF, WIDTH)
        self.modules = (self.backbone, self.classifier, self.projection)
        self.optimizers = [
            torch.optim.SGD(m.parameters(), learning_rate, 0.9, weight_decay=5e-4, nesterov=True)
            for m in self.modules
        ]
        bound = (WIDTH / 3) ** -0.5
        self.bank = torch.empty(num_instances, WIDTH).uniform_(-bound, bound)
        self.normalizer = None

    def step(self, images: torch.Tensor, index: torch.Tensor) -> tuple[float, ...]:
        """One update on images [B, 3, S, S]; the three losses and both rotation accuracies."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        views = torch.stack([torch.rot90(images, turns, (2, 3)) for turns in range(4)], dim=1).flatten(0, 1)
        labels = torch.arange(4).repeat(len(images))
        rotation, invariant = self.backbone(views).split(HALF, dim=1)

        logits = self.classifier(rotation)
        rotation_loss = F.cross_entropy(logits, labels)
        with torch.no_grad():
            accuracy = (logits.argmax(1) == labels).float().mean()
            leaked = (self.classifier(invariant).argmax(1) == labels).float().mean()

        by_image = invariant.view(-1, 4, HALF)
        mean = by_image.mean(dim=1)
        invariance_loss = F.mse_loss(by_image, mean.detach().unsqueeze(1).expand_as(by_image))
        embedding = F.normalize(self.projection(mean))
        instance_loss = self.contrast(embedding, index)

        (rotation_loss + invariance_loss + instance_loss).backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return tuple(
            value.item() for value in (rotation_loss, invariance_loss, instance_loss, accuracy, leaked)
        )

    def contrast(self, embedding: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Noise-contrastive estimation; updates the bank."""
        batch, count = len(index), len(self.bank)
        negatives = torch.randint(0, count, (batch, self.num_negatives))
        rows = torch.cat([index[:, None], negatives], dim=1)
        compared = torch.index_select(self.bank, 0, rows.view(-1)).view(batch, -1, WIDTH)
        scores = torch.exp(torch.bmm(compared, embedding.unsqueeze(2)).squeeze(2) / TEMPERATURE)
        if self.normalizer is None:
            self.normalizer = scores.detach().mean() * count
        scores = scores / self.normalizer
        noise = self.num_negatives / count
        positive = torch.log(scores[:, 0] / (scores[:, 0] + noise + 1e-7))
        negative = torch.log(noise / (scores[:, 1:] + noise + 1e-7)).sum(1)
        with torch.no_grad():
            old = torch.index_select(self.bank, 0, index)
            self.bank.index_copy_(0, index, F.normalize(MOMENTUM * old + (1 - MOMENTUM) * embedding))
        return -(positive + negative).mean()
