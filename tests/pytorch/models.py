"""The architectures of the crate's ready-made models, in PyTorch.

Attribute names are the names of the parameters in a state dict. Every generator is called
as generator(z) or generator(z, labels) with z of shape (batch, latent) and gives images in
(-1, 1) of shape (batch, channels, height, width); every critic is called as critic(x) or
critic(x, labels) and gives one score a sample, shape (batch,).
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import spectral_norm


# ---------------------------------------------------------------------------------------
# Labels
# ---------------------------------------------------------------------------------------


def append_one_hot(x, labels, classes):
    """One-hot labels after the features of (batch, features), or as constant planes after
    the channels of (batch, channels, height, width). Without classes, x itself."""
    if not classes:
        return x
    one_hot = F.one_hot(labels, classes).to(x.dtype)
    if x.dim() == 4:
        one_hot = one_hot[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, one_hot], dim=1)


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift are chosen by each sample's label."""

    def __init__(self, channels, classes, momentum=0.1, eps=1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(classes, channels))
        self.bias = nn.Parameter(torch.zeros(classes, channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x, labels):
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )
        return x * self.weight[labels][:, :, None, None] + self.bias[labels][:, :, None, None]


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that takes labels and ignores them."""

    def forward(self, x, labels=None):
        return super().forward(x)


def batch_norm(channels, classes):
    return ConditionalBatchNorm(channels, classes) if classes else BatchNorm(channels)


# ---------------------------------------------------------------------------------------
# MLP
# ---------------------------------------------------------------------------------------


class MlpGenerator(nn.Module):
    """fc1 .. fcN, the last one to the image; batch norm on every hidden layer but the first."""

    def __init__(self, latent, hidden, shape, classes=None):
        super().__init__()
        self.shape, self.classes, self.layers = shape, classes, len(hidden) + 1
        sizes = [latent + (classes or 0), *hidden, math.prod(shape)]
        for i in range(1, self.layers + 1):
            setattr(self, f"fc{i}", nn.Linear(sizes[i - 1], sizes[i]))
            if 1 < i < self.layers:
                setattr(self, f"bn{i}", nn.BatchNorm1d(sizes[i]))

    def forward(self, z, labels=None):
        x = append_one_hot(z, labels, self.classes)
        for i in range(1, self.layers):
            x = getattr(self, f"fc{i}")(x)
            if i > 1:
                x = getattr(self, f"bn{i}")(x)
            x = F.leaky_relu(x, 0.2)
        x = getattr(self, f"fc{self.layers}")(x)
        return torch.tanh(x).reshape(-1, *self.shape)


class MlpCritic(nn.Module):
    """fc1 .. fcN on the flattened sample, leaky ReLU between them."""

    def __init__(self, hidden, shape, classes=None):
        super().__init__()
        self.classes, self.layers = classes, len(hidden) + 1
        sizes = [math.prod(shape) + (classes or 0), *hidden, 1]
        for i in range(1, self.layers + 1):
            setattr(self, f"fc{i}", nn.Linear(sizes[i - 1], sizes[i]))

    def forward(self, x, labels=None):
        x = append_one_hot(x.flatten(1), labels, self.classes)
        for i in range(1, self.layers):
            x = F.leaky_relu(getattr(self, f"fc{i}")(x), 0.2)
        return getattr(self, f"fc{self.layers}")(x).squeeze(1)


# ---------------------------------------------------------------------------------------
# DCGAN
# ---------------------------------------------------------------------------------------


def dcgan_plan(size, width, constant_width):
    """The side of the smallest feature map, and the hidden channels next to the image
    first: of the critic from its first layer to its last, of the generator backwards."""
    smallest, hidden = {28: (7, 2), 32: (4, 3), 64: (4, 4)}[size]
    return smallest, [width * (1 if constant_width else 2**i) for i in range(hidden)]


class DcganGenerator(nn.Module):
    def __init__(
        self, size, channels, width, latent, batch_norm=True, constant_width=False, classes=None
    ):
        super().__init__()
        smallest, hidden = dcgan_plan(size, width, constant_width)
        self.classes, self.batch_norm, self.layers = classes, batch_norm, len(hidden) + 1
        counts = [latent + (classes or 0), *reversed(hidden), channels]
        for i in range(1, self.layers + 1):
            kernel, stride, padding = (smallest, 1, 0) if i == 1 else (4, 2, 1)
            conv = nn.ConvTranspose2d(
                counts[i - 1], counts[i], kernel, stride, padding, bias=False
            )
            setattr(self, f"conv{i}", conv)
            if batch_norm and i < self.layers:
                setattr(self, f"bn{i}", nn.BatchNorm2d(counts[i]))

    def forward(self, z, labels=None):
        x = append_one_hot(z, labels, self.classes)[:, :, None, None]
        for i in range(1, self.layers):
            x = getattr(self, f"conv{i}")(x)
            if self.batch_norm:
                x = getattr(self, f"bn{i}")(x)
            x = F.relu(x)
        return torch.tanh(getattr(self, f"conv{self.layers}")(x))


CRITIC_NORMS = {
    "batch": nn.BatchNorm2d,
    # One mean and one variance a sample, a scale and a shift a channel.
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
}


class DcganCritic(nn.Module):
    """norm: "none", "batch", "layer" or "instance", after every convolution but the first
    and the last. spectral: every convolution's weight is divided by its spectral norm."""

    def __init__(
        self,
        size,
        channels,
        width,
        norm="none",
        constant_width=False,
        classes=None,
        spectral=False,
    ):
        super().__init__()
        smallest, hidden = dcgan_plan(size, width, constant_width)
        self.classes, self.norm, self.layers = classes, norm, len(hidden) + 1
        counts = [channels + (classes or 0), *hidden, 1]
        for i in range(1, self.layers + 1):
            kernel, stride, padding = (smallest, 1, 0) if i == self.layers else (4, 2, 1)
            conv = nn.Conv2d(counts[i - 1], counts[i], kernel, stride, padding, bias=False)
            setattr(self, f"conv{i}", spectral_norm(conv) if spectral else conv)
            if norm != "none" and 1 < i < self.layers:
                setattr(self, f"norm{i}", CRITIC_NORMS[norm](counts[i]))

    def forward(self, x, labels=None):
        x = append_one_hot(x, labels, self.classes)
        for i in range(1, self.layers):
            x = getattr(self, f"conv{i}")(x)
            if self.norm != "none" and i > 1:
                x = getattr(self, f"norm{i}")(x)
            x = F.leaky_relu(x, 0.2)
        return getattr(self, f"conv{self.layers}")(x).flatten()


# ---------------------------------------------------------------------------------------
# Residual networks
# ---------------------------------------------------------------------------------------


def upsample(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


def downsample(x):
    return F.avg_pool2d(x, 2)


def conv3x3(inputs, outputs, bias=True):
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


class UpBlock(nn.Module):
    """The residual block of both generators."""

    def __init__(self, inputs, outputs, classes, conv1_bias):
        super().__init__()
        self.bn1 = batch_norm(inputs, classes)
        self.conv1 = conv3x3(inputs, outputs, bias=conv1_bias)
        self.bn2 = batch_norm(outputs, classes)
        self.conv2 = conv3x3(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, labels):
        h = self.conv1(upsample(F.relu(self.bn1(x, labels))))
        h = self.conv2(F.relu(self.bn2(h, labels)))
        return self.shortcut(upsample(x)) + h


class ResNetGenerator(nn.Module):
    """fc to 4x4, one up block after another, then bn, ReLU, conv and tanh.

    widths: the channels at 4x4 and after each block.
    """

    def __init__(self, widths, channels, latent, classes, conv1_bias):
        super().__init__()
        self.first, self.blocks = widths[0], len(widths) - 1
        self.fc = nn.Linear(latent, 4 * 4 * widths[0])
        for i in range(1, self.blocks + 1):
            setattr(self, f"block{i}", UpBlock(widths[i - 1], widths[i], classes, conv1_bias))
        self.bn = batch_norm(widths[-1], classes)
        self.conv = conv3x3(widths[-1], channels)

    def forward(self, z, labels=None):
        x = self.fc(z).reshape(-1, self.first, 4, 4)
        for i in range(1, self.blocks + 1):
            x = getattr(self, f"block{i}")(x, labels)
        return torch.tanh(self.conv(F.relu(self.bn(x, labels))))


class ResNetCritic(nn.Module):
    """What both critics end with: a linear score, and with labels the projection term."""

    def end(self, features, classes):
        self.fc = nn.Linear(features, 1)
        if classes:
            self.embedding = nn.Embedding(classes, features)

    def score(self, h, labels):
        score = self.fc(h).squeeze(1)
        if labels is not None:
            score = score + (self.embedding(labels) * h).sum(1)
        return score


# 32x32: the CIFAR-10 model of the WGAN-GP paper.


class ResNet32Generator(ResNetGenerator):
    def __init__(self, channels, width, latent, classes=None):
        super().__init__([width] * 4, channels, latent, classes, conv1_bias=True)


class FirstBlock(nn.Module):
    """Down by 2, without a ReLU on the image itself."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        h = downsample(self.conv2(F.relu(self.conv1(x))))
        return self.shortcut(downsample(x)) + h


class DownBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = conv3x3(width, width)
        self.conv2 = conv3x3(width, width)
        self.shortcut = nn.Conv2d(width, width, 1)

    def forward(self, x):
        h = downsample(self.conv2(F.relu(self.conv1(F.relu(x)))))
        return downsample(self.shortcut(x)) + h


class SameBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = conv3x3(width, width)
        self.conv2 = conv3x3(width, width)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class ResNet32Critic(ResNetCritic):
    def __init__(self, channels, width, classes=None):
        super().__init__()
        self.block1 = FirstBlock(channels, width)
        self.block2 = DownBlock(width)
        self.block3 = SameBlock(width)
        self.block4 = SameBlock(width)
        self.end(width, classes)

    def forward(self, x, labels=None):
        x = self.block4(self.block3(self.block2(self.block1(x))))
        return self.score(F.relu(x).mean((2, 3)), labels)


# 64x64: GoodGenerator and GoodDiscriminator of gan_64x64.py, the WGAN-GP paper's code.


class ResNet64Generator(ResNetGenerator):
    def __init__(self, channels, width, latent, classes=None):
        widths = [8 * width, 8 * width, 4 * width, 2 * width, width]
        super().__init__(widths, channels, latent, classes, conv1_bias=False)


class NormDownBlock(nn.Module):
    """Normalised per sample, since a penalty needs scores that do not depend on the batch."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm1 = nn.GroupNorm(1, inputs)
        self.conv1 = conv3x3(inputs, inputs, bias=False)
        self.norm2 = nn.GroupNorm(1, inputs)
        self.conv2 = conv3x3(inputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        h = self.conv1(F.relu(self.norm1(x)))
        h = downsample(self.conv2(F.relu(self.norm2(h))))
        return downsample(self.shortcut(x)) + h


class ResNet64Critic(ResNetCritic):
    def __init__(self, channels, width, classes=None):
        super().__init__()
        self.conv = conv3x3(channels, width)
        self.block1 = NormDownBlock(width, 2 * width)
        self.block2 = NormDownBlock(2 * width, 4 * width)
        self.block3 = NormDownBlock(4 * width, 8 * width)
        self.block4 = NormDownBlock(8 * width, 8 * width)
        self.end(8 * width * 4 * 4, classes)

    def forward(self, x, labels=None):
        x = self.block2(self.block1(self.conv(x)))
        x = self.block4(self.block3(x))
        return self.score(x.flatten(1), labels)
