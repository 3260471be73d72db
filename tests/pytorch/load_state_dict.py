"""Loads the weights that the example mnist_dcgan left in a folder into the PyTorch twins.

    python load_state_dict.py runs/mnist_dcgan

Every name and shape must fit (strict); the generator then makes a few digits, in evaluation
mode, whose mean and deviation are printed. It needs nothing but the folder.
"""

import json
import os
import sys

import torch
from safetensors.torch import load_file

import models

folder = sys.argv[1]
with open(os.path.join(folder, "config.json")) as file:
    config = json.load(file)


def load(network, name):
    state = load_file(os.path.join(folder, name))
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    assert not missing and not unexpected, (missing, unexpected)
    return network.eval()


g, c = config["generator"], config["critic"]
generator = models.DcganGenerator(
    g["image_size"], g["channels"], g["width"], g["latent_dim"], g["batch_norm"],
    g["constant_width"], g["classes"],
)
critic = models.DcganCritic(
    c["image_size"], c["channels"], c["width"], c["norm"], c["constant_width"], c["classes"],
)
load(generator, "generator.safetensors")
load(critic, "critic.safetensors")
torch.manual_seed(0)
latent = torch.randn(100, g["latent_dim"])
labels = torch.arange(100) % g["classes"] if g["classes"] else None
with torch.no_grad():
    images = generator(latent, labels)
    scores = critic(images, labels)
print(f"loaded; images {images.mean():.3f} +- {images.std():.3f}, scores {scores.mean():.3f}")
