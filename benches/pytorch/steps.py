"""Times training steps of a PyTorch twin; `cargo bench --bench against_pytorch` calls it.

    python steps.py MODEL STRATEGY BATCH WARM_UP STEPS THREADS

An iteration is one critic step and a fifth of a generator step, written as a careful PyTorch
program has it: real and generated samples in one pass, no graph for the generator in the
critic's step, no gradients for the critic in the generator's. Prints one line of JSON:
the median seconds of an iteration, the process's peak memory, the floating-point operations
of the convolutions and matrix products that an iteration needs, and how many a second a large
product makes. WARM_UP generator steps, each with its critic steps, go before the STEPS that are timed.
"""

import json
import os
import resource
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "pytorch"))

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import models

N_CRITIC = 5


def build(name):
    """The pair and the shape of a sample."""
    kind, _, width = name.partition("-")
    width = int(width) if width else None
    if kind == "mlp":
        shape = (1, 28, 28)
        generator = models.MlpGenerator(100, [128, 256, 512, 1024], shape, None)
        return generator, models.MlpCritic([512, 256], shape, None), shape, 100
    if kind.startswith("dcgan"):
        size = int(kind.removeprefix("dcgan"))
        generator = models.DcganGenerator(size, 1, width, 100, True, False, None)
        critic = models.DcganCritic(size, 1, width, "none", False, None)
        return generator, critic, (1, size, size), 100
    size = int(kind.removeprefix("resnet"))
    generator = getattr(models, f"ResNet{size}Generator")(3, width, 128, None)
    critic = getattr(models, f"ResNet{size}Critic")(3, width, None)
    return generator, critic, (3, size, size), 128


def gradient_penalty(critic, real, fake):
    epsilon = torch.rand(len(real), *[1] * (real.dim() - 1))
    points = (epsilon * real + (1 - epsilon) * fake).requires_grad_(True)
    gradients = torch.autograd.grad(critic(points).sum(), points, create_graph=True)[0]
    return 10 * ((gradients.flatten(1).norm(2, dim=1) - 1) ** 2).mean()


class Flops(TorchDispatchMode):
    """Counts the floating-point operations of convolutions and matrix products, the backward passes' too, but for products
    with zeros, which the gradient of a leaky ReLU's slope is. PyTorch's own counter refuses `autograd.grad`.
    """

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        count = flop_registry.get(function._overloadpacket)
        matrices = (x for x in args if isinstance(x, torch.Tensor) and x.dim() > 1)
        if count and all(x.any() for x in matrices):
            self.total += count(*args, **kwargs, out_val=result)
        return result


def matrix_peak():
    """Floating-point operations a second of a large product, the best of some."""
    a, b = torch.randn(2048, 1024), torch.randn(1024, 1024)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 2048 * 1024 * 1024 / best


def main(name, strategy, batch, warm_up, steps, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    generator, critic, shape, latent = build(name)
    data = torch.rand(4 * batch, *shape) * 2 - 1
    if strategy == "clip":
        optimizer = lambda p: torch.optim.RMSprop(p, lr=5e-5)
    else:
        optimizer = lambda p: torch.optim.Adam(p, lr=1e-4, betas=(0.0, 0.9))
    opt_g, opt_c = optimizer(generator.parameters()), optimizer(critic.parameters())

    def critic_step():
        real = data[torch.randint(len(data), (batch,))]
        with torch.no_grad():
            fake = generator(torch.randn(batch, latent))
        scores = critic(torch.cat([real, fake]))
        estimate = scores[:batch].mean() - scores[batch:].mean()
        loss = -estimate
        if strategy == "gp":
            loss = loss + gradient_penalty(critic, real, fake)
        opt_c.zero_grad(set_to_none=True)
        loss.backward()
        opt_c.step()
        if strategy == "clip":
            with torch.no_grad():
                for p in critic.parameters():
                    p.clamp_(-0.01, 0.01)
        return estimate.item()

    def generator_step():
        for p in critic.parameters():
            p.requires_grad_(False)
        loss = -critic(generator(torch.randn(batch, latent))).mean()
        opt_g.zero_grad(set_to_none=True)
        loss.backward()
        opt_g.step()
        for p in critic.parameters():
            p.requires_grad_(True)
        return loss.item()

    def flops_of(step):
        with Flops() as counter:
            step()
        return counter.total

    seconds = []
    for step in range(warm_up + steps):
        start = time.perf_counter()
        for _ in range(N_CRITIC):
            critic_step()
        generator_step()
        if step >= warm_up:
            seconds.append((time.perf_counter() - start) / N_CRITIC)
    seconds.sort()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    flops = flops_of(critic_step) + flops_of(generator_step) / N_CRITIC
    figures = {"seconds": seconds[len(seconds) // 2], "peak_mib": peak_mib, "flops": flops, "matrix_peak": matrix_peak()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7]))
