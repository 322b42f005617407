"""PyTorch modules written from the papers and the file layout alone, to compare with."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class AlexNet(nn.Module):
    """RFD's AlexNet; its state dict has the released layout `_feature_blocks.{i}.{j}.*`."""

    NAMES = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc_block")

    def __init__(self, width: int = 4096, spatial: int = 6):
        super().__init__()

        def conv(i, o, k, s, p):
            return nn.Sequential(nn.Conv2d(i, o, k, s, p), nn.BatchNorm2d(o), nn.ReLU())

        pool = nn.MaxPool2d(3, 2)
        fc = nn.Sequential(
            nn.Flatten(),
            nn.Linear(256 * spatial * spatial, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
        )
        self._feature_blocks = nn.ModuleList(
            [
                conv(3, 64, 11, 4, 2),
                pool,
                conv(64, 192, 5, 1, 2),
                pool,
                conv(192, 384, 3, 1, 1),
                conv(384, 256, 3, 1, 1),
                conv(256, 256, 3, 1, 1),
                pool,
                fc,
            ]
        )

    def forward(self, x):
        features = {}
        for name, block in zip(self.NAMES, self._feature_blocks, strict=True):
            x = features[name] = block(x)
        return features


class Objective(nn.Module):
    """Rotation feature decoupling: backbone, heads, bank and the sum of the three losses."""

    def __init__(self, backbone, feature_width, bank, temperature=0.07, momentum=0.5):
        super().__init__()
        half = feature_width // 2
        self.backbone = backbone
        self.rotation_head = nn.Linear(half, 4)
        self.projection = nn.Linear(half, bank.shape[1])
        self.bank = torch.tensor(bank)
        self.z = None
        self.temperature = temperature
        self.momentum = momentum

    def forward(self, images, index, negatives, instance_weights=None):
        batch = len(images)
        turned = [torch.rot90(images, k, (2, 3)) for k in range(4)]
        views = torch.stack(turned, dim=1).flatten(0, 1)
        features = self.backbone(views)["fc_block"]
        rotation, invariant = features.chunk(2, dim=1)

        labels = torch.arange(4).repeat(batch)
        losses = F.cross_entropy(self.rotation_head(rotation), labels, reduction="none")
        weights = torch.ones(4 * batch) if instance_weights is None else instance_weights.flatten()
        rotation_loss = (losses * weights).sum() / (4 * batch)

        invariant = invariant.view(batch, 4, -1)
        mean = invariant.mean(dim=1)
        invariance_loss = ((invariant - mean.detach()[:, None]) ** 2).mean()

        z = F.normalize(self.projection(mean))
        instance_loss = self.nce(z, index, negatives)
        return rotation_loss, invariance_loss, instance_loss

    def nce(self, z, index, negatives):
        rows = torch.cat([index[:, None], negatives], dim=1)
        scores = torch.exp((self.bank[rows] * z[:, None]).sum(-1) / self.temperature)
        if self.z is None:
            self.z = scores.mean().item() * len(self.bank)
        scores = scores / self.z
        noise = negatives.shape[1] / len(self.bank)
        positive = torch.log(scores[:, 0] / (scores[:, 0] + noise + 1e-7))
        negative = torch.log(noise / (scores[:, 1:] + noise + 1e-7)).sum(1)
        with torch.no_grad():
            new = self.momentum * self.bank[index] + (1 - self.momentum) * z
            self.bank[index] = F.normalize(new)
        return -(positive + negative).mean()


def copy_alexnet(torch_model: AlexNet, keras_model, spatial: int = 6) -> None:
    """Copy PyTorch's weights into our network, written apart from `zoo`'s weight maps."""
    convolutions = {"conv1": 0, "conv2": 2, "conv3": 4, "conv4": 5, "conv5": 6}
    for name, block in convolutions.items():
        conv, norm = torch_model._feature_blocks[block][:2]
        kernel = conv.weight.detach().numpy().transpose(2, 3, 1, 0)
        keras_model.get_layer(f"{name}_conv").set_weights([kernel, conv.bias.detach().numpy()])
        _copy_norm(norm, keras_model.get_layer(f"{name}_bn"))
    if "fc_block" not in [layer.name for layer in keras_model.layers]:
        return
    dense = torch_model._feature_blocks[8]
    first = dense[1].weight.detach().numpy()
    first = first.reshape(len(first), 256, spatial, spatial).transpose(2, 3, 1, 0).reshape(-1, len(first))
    keras_model.get_layer("fc6").set_weights([first])
    keras_model.get_layer("fc7").set_weights([dense[4].weight.detach().numpy().T])
    _copy_norm(dense[2], keras_model.get_layer("fc6_bn"))
    _copy_norm(dense[5], keras_model.get_layer("fc7_bn"))


def _copy_norm(norm, layer) -> None:
    values = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    layer.set_weights([value.detach().numpy() for value in values])


def randomize_batch_norm(model: nn.Module, seed: int = 0) -> None:
    """Statistics and affine parameters as after training, so that a mix-up of them shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            size = module.weight.shape
            module.weight.data = 0.5 + torch.rand(size, generator=generator)
            module.bias.data = 0.2 * torch.randn(size, generator=generator)
            module.running_mean = 0.2 * torch.randn(size, generator=generator)
            module.running_var = 0.5 + torch.rand(size, generator=generator)


def relative_difference(ours, theirs) -> float:
    """Largest absolute difference over the largest magnitude."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))
