"""Reference trainings of the ready-made models (models.py), computed by PyTorch.

    python model_training.py                  # remakes model_*.safetensors and counts.json
    python model_training.py mlp dcgan28      # only these models
    python model_training.py --sensitivity    # only reports how rounding spreads
    python model_training.py --float32        # only reports how far float32 ends from it

A file holds trainings of one model, one for each strategy and optimizer, all from the same
initial values (`init.<role>.<name>`) and with the same draws, which are not stored: they
are those of draws.py by name. In iteration t, critic step s:

    real.<t>.<s>            tanh(1.5 draw), (batch, channels, height, width)
    critic_latent.<t>.<s>   1.7 draw, (batch, latent)
    epsilon.<t>.<s>         (draw + 1) / 2, (batch,)
    labels.<t>.<s>          classes(), of the real and of the fake samples
    generator_latent.<t>    1.7 draw, (batch, latent)
    generator_labels.<t>    classes()

Everything is float64 and both networks stay in train mode. The critic is called on the
real samples, then on the fake ones, then on the points of the penalty (once, whatever the
penalty), and once in the generator's step; batch statistics and power iterations move
with each of these calls.
"""

import json
import math
import os
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import models
from draws import classes as draw_classes
from draws import draw
from reference import HERE, clamp_, div, gp, input_gradients, norms_of, save

ITERATIONS, N_CRITIC, BATCH = 20, 2, 4


# ---------------------------------------------------------------------------------------
# Strategies and optimizers
# ---------------------------------------------------------------------------------------


def div_both_ends(k, p):
    """(k/2) (mean ||g_real||^p + mean ||g_fake||^p), in one call of the critic."""

    def penalty(critic, real, fake, eps):
        norms = norms_of(input_gradients(critic, torch.cat([real, fake])))
        norms_real, norms_fake = norms.chunk(2)
        return (k / 2) * ((norms_real**p).mean() + (norms_fake**p).mean()), {}

    return penalty


STRATEGIES = {
    "clip": None,
    "gp": gp(weight=10.0, target=1.0),
    "gp_one": gp(weight=10.0, target=1.0, one_sided=True),
    "div_paper": div(k=2.0, p=6.0),
    "div_authors": div(k=10.0, p=6.0),
    "div_tutorials": div_both_ends(k=2.0, p=6.0),
}

OPTIMIZERS = {
    "rmsprop": (torch.optim.RMSprop, dict(lr=5e-5, alpha=0.99, eps=1e-8)),
    "adam": (torch.optim.Adam, dict(lr=1e-4, betas=(0.0, 0.9), eps=1e-8)),
}


# ---------------------------------------------------------------------------------------
# Models
# ---------------------------------------------------------------------------------------


def mlp(shape, latent, classes):
    return (
        models.MlpGenerator(latent, [6, 8], shape, classes),
        models.MlpCritic([8, 6], shape, classes),
    )


def dcgan(width, norm="none", batch_norm=True, constant_width=False, spectral=False):
    def make(shape, latent, classes):
        channels, size, _ = shape
        generator = models.DcganGenerator(
            size, channels, width, latent, batch_norm, constant_width, classes
        )
        critic = models.DcganCritic(
            size, channels, width, norm, constant_width, classes, spectral
        )
        return generator, critic

    return make


def resnet(size, width):
    generator = getattr(models, f"ResNet{size}Generator")
    critic = getattr(models, f"ResNet{size}Critic")

    def make(shape, latent, classes):
        return (
            generator(shape[0], width, latent, classes),
            critic(shape[0], width, classes),
        )

    return make


class Recipe:
    """A model, and what keeps its training lively.

    c           the bound of the clip strategy
    gain        the critic's initial weights, relative to variance-preserving ones; chosen
                so that the norms of the penalties lie around 1, and that no gradient comes so
                near a kink that PyTorch's own float32 training leaves its float64 one
                (resnet64 and resnet32_wide, of which the tests know, leave it with any)
    strategies  those whose training is stored
    """

    def __init__(
        self, make, shape, c, gain, classes=None, strategies=tuple(STRATEGIES)
    ):
        self.make, self.shape, self.c, self.gain = make, shape, c, gain
        self.classes, self.strategies = classes, strategies
        self.latent = 3

    def networks(self):
        """Fresh networks with the initial values."""
        generator, critic = self.make(self.shape, self.latent, self.classes)
        initialise("generator", generator, 1.0)
        initialise("critic", critic, self.gain)
        return generator.train(), critic.train()


RECIPES = {
    "mlp": Recipe(mlp, (1, 4, 4), c=0.3, gain=1.45),
    "mlp_labels": Recipe(mlp, (1, 4, 4), c=0.3, gain=1.4, classes=3),
    # Of so many inputs that this crate mixes what the first layer makes of the samples.
    "mlp_wide": Recipe(
        mlp, (1, 8, 8), c=0.3, gain=1.3, strategies=("gp", "div_tutorials")
    ),
    "dcgan28": Recipe(dcgan(2), (1, 28, 28), c=0.2, gain=1.4),
    "dcgan28_labels": Recipe(dcgan(2), (1, 28, 28), c=0.2, gain=1.4, classes=3),
    "dcgan32": Recipe(dcgan(2, norm="layer"), (3, 32, 32), c=0.2, gain=0.45),
    # Batch statistics mix the samples, so no penalty: it needs each sample's own gradient.
    "dcgan32_batch": Recipe(
        dcgan(2, norm="batch"), (3, 32, 32), c=0.2, gain=1.2, strategies=("clip",)
    ),
    "dcgan64_batch": Recipe(
        dcgan(1, norm="batch"), (3, 64, 64), c=0.2, gain=1.2, strategies=("clip",)
    ),
    "dcgan64": Recipe(dcgan(1, norm="instance"), (1, 64, 64), c=0.2, gain=0.36),
    "dcgan32_constant": Recipe(
        dcgan(3, batch_norm=False, constant_width=True), (3, 32, 32), c=0.2, gain=1.35
    ),
    # These two have so many channels that this crate's convolutions take fewer multiplications.
    "dcgan32_wide": Recipe(
        dcgan(16, batch_norm=False, constant_width=True),
        (3, 32, 32),
        c=0.2,
        gain=1.2,
        strategies=("clip", "gp"),
    ),
    "resnet32_wide": Recipe(
        resnet(32, 16), (1, 32, 32), c=0.5, gain=1.2, strategies=("gp",)
    ),
    "dcgan32_labels": Recipe(dcgan(1), (3, 32, 32), c=0.2, gain=1.65, classes=3),
    "resnet32": Recipe(resnet(32, 2), (1, 32, 32), c=0.5, gain=1.9),
    "resnet32_labels": Recipe(resnet(32, 2), (1, 32, 32), c=0.5, gain=1.8, classes=3),
    "resnet64": Recipe(resnet(64, 1), (1, 64, 64), c=0.3, gain=1.1),
    # Two strategies stand for the rest, whose code knows nothing of labels: the file is large.
    "resnet64_labels": Recipe(
        resnet(64, 1), (1, 64, 64), c=0.3, gain=1.1, classes=3, strategies=("clip", "gp")
    ),
    "spectral": Recipe(dcgan(2, spectral=True), (1, 28, 28), c=0.2, gain=1.2),
}

NORMS = (nn.GroupNorm, nn.modules.batchnorm._NormBase, models.ConditionalBatchNorm)


def fan_in(module, weight):
    """How many inputs add up to one output (away from the borders)."""
    if isinstance(module, nn.ConvTranspose2d):
        # On a 1x1 input each output has one tap; with stride 2 a quarter of the taps.
        taps = 1 if module.stride == (1, 1) else math.prod(weight.shape[2:]) / 4
        return weight.shape[0] * taps
    return math.prod(weight.shape[1:])


def initialise(role, network, gain):
    with torch.no_grad():
        for path, module in network.named_modules():
            for leaf, p in module.named_parameters(prefix=path, recurse=False):
                value = draw(f"init.{role}.{leaf}", tuple(p.shape))
                if leaf.endswith("bias"):
                    p.copy_(0.1 * value)
                elif isinstance(module, NORMS):
                    p.copy_(1 + 0.2 * value)
                else:
                    p.copy_(value * math.sqrt(3) * gain / math.sqrt(fan_in(module, p)))
            for leaf, b in module.named_buffers(prefix=path, recurse=False):
                # The singular vectors of a spectral norm.
                if leaf.endswith(("weight_u", "weight_v")):
                    b.copy_(F.normalize(draw(f"init.{role}.{leaf}", tuple(b.shape)), dim=0))


# ---------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------


def stored_state(prefix, network):
    return {
        f"{prefix}.{key}": value.clone()
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def latents(name, recipe):
    return 1.7 * draw(name, (BATCH, recipe.latent))


def labels_of(name, recipe):
    return draw_classes(name, BATCH, recipe.classes) if recipe.classes else None


def labelled(critic, labels):
    """The critic as a function of the samples alone, however many times the batch."""

    def f(x):
        if labels is None:
            return critic(x)
        return critic(x, labels.repeat(len(x) // len(labels)))

    return f


def train(recipe, strategy, optimizer, perturb=0.0):
    """One training; `perturb` adds noise to the initial weights."""
    generator, critic = recipe.networks()
    if perturb:
        with torch.no_grad():
            for role, network in (("generator", generator), ("critic", critic)):
                for name, p in network.named_parameters():
                    p.add_(perturb * draw(f"noise.{role}.{name}", tuple(p.shape)))

    penalty_of = STRATEGIES[strategy]
    make_optimizer, options = OPTIMIZERS[optimizer]
    opt_g = make_optimizer(generator.parameters(), **options)
    opt_c = make_optimizer(critic.parameters(), **options)
    names = ("critic_loss", "penalty", "estimate", "generator_loss", "gradient_norm")
    history = {name: [] for name in names}
    out = {}

    for t in range(ITERATIONS):
        for s in range(N_CRITIC):
            real = torch.tanh(1.5 * draw(f"real.{t}.{s}", (BATCH, *recipe.shape)))
            eps = (draw(f"epsilon.{t}.{s}", (BATCH,)) + 1) / 2
            labels = labels_of(f"labels.{t}.{s}", recipe)
            fake = generator(latents(f"critic_latent.{t}.{s}", recipe), labels).detach()
            f = labelled(critic, labels)

            opt_c.zero_grad()
            f_real = f(real).mean()
            f_fake = f(fake).mean()
            penalty = torch.zeros(())
            if penalty_of:
                penalty, _ = penalty_of(f, real, fake, eps)
            loss = f_fake - f_real + penalty
            loss.backward()
            opt_c.step()
            if strategy == "clip":
                clamp_(critic, recipe.c)
        history["critic_loss"].append(loss.item())
        history["penalty"].append(penalty.item())
        history["estimate"].append((f_real - f_fake).item())

        opt_g.zero_grad()
        labels = labels_of(f"generator_labels.{t}", recipe)
        fake = generator(latents(f"generator_latent.{t}", recipe), labels)
        scores = labelled(critic, labels)(fake)
        grads = torch.autograd.grad(scores.sum(), fake, retain_graph=True)[0]
        loss = -scores.mean()
        loss.backward()
        opt_g.step()
        history["generator_loss"].append(loss.item())
        history["gradient_norm"].append(norms_of(grads).mean().item())

        if t + 1 in (1, ITERATIONS):
            out.update(stored_state(f"after_{t + 1}.generator", generator))
            out.update(stored_state(f"after_{t + 1}.critic", critic))

    out.update({name: torch.tensor(values) for name, values in history.items()})
    return out


def combinations(recipe):
    return [(s, o) for s in recipe.strategies for o in OPTIMIZERS]


def write(name, recipe):
    generator, critic = recipe.networks()
    out = stored_state("init.generator", generator)
    out.update(stored_state("init.critic", critic))
    hyper = dict(
        c=recipe.c,
        latent=recipe.latent,
        classes=recipe.classes or 0,
        iterations=ITERATIONS,
        n_critic=N_CRITIC,
        batch=BATCH,
    )
    out.update({f"hyper.{key}": float(value) for key, value in hyper.items()})
    for strategy, optimizer in combinations(recipe):
        for key, value in train(recipe, strategy, optimizer).items():
            out[f"{strategy}.{optimizer}.{key}"] = value
    save(f"model_{name}.safetensors", out)


def is_shift(name, key):
    """Whether a batch normalisation downstream cancels this value (see reference.py).

    In the residual generators that is every bias of every block, since the shortcuts carry
    a constant to the next batch normalisation as it is.
    """
    if key.endswith("running_mean"):
        return True
    if ".generator." not in key or not key.endswith(".bias"):
        return False
    if name.startswith("mlp"):
        return key.endswith(("fc1.bias", "fc2.bias"))
    return ".block" in key and ".bn" not in key


def sensitivity(name, recipe):
    """How far apart two runs end that differ by 1e-15 in the initial weights."""
    generator, critic = recipe.networks()
    init = stored_state("after_20.generator", generator)
    init.update(stored_state("after_20.critic", critic))
    worst = {"rest": 0.0, "shifts": 0.0, "history": 0.0}
    for strategy, optimizer in combinations(recipe):
        base = train(recipe, strategy, optimizer)
        noisy = train(recipe, strategy, optimizer, perturb=1e-15)
        assert all(value.isfinite().all() for value in base.values())
        for key in base:
            if key.startswith("after_"):
                kind = "shifts" if is_shift(name, key) else "rest"
            else:
                kind = "history"
            away = (base[key] - noisy[key]).abs()
            if kind == "history":
                away = away / base[key].abs().clamp(min=1)
            away = away.max().item()
            worst[kind] = max(worst[kind], away)
        # Parameters that never move are dead.
        still = [
            key.removeprefix("after_20.")
            for key in init
            if not is_shift(name, key)
            and not key.endswith(("running_var", "critic.fc.bias", "critic.fc3.bias"))
            and (base[key] - init[key]).abs().max() < 1e-6
        ]
        spread = lambda v: f"{v.min().item():.2g}..{v.max().item():.2g}"
        print(
            f"{name} {strategy}.{optimizer}: estimate {spread(base['estimate'])}, smallest "
            f"{base['estimate'].abs().min().item():.1e}, penalty {spread(base['penalty'])}, "
            f"gradient {spread(base['gradient_norm'])}, still {still}"
        )
    print(f"{name} deviations: " + ", ".join(f"{k} {v:.1e}" for k, v in worst.items()))


def float32(name, recipe):
    """How far PyTorch's own float32 training departs from its float64 one, beside 1."""
    global draw
    exact = draw
    worst = {}
    for strategy, optimizer in combinations(recipe):
        base = train(recipe, strategy, optimizer)
        for perturb in (0.0, 2e-8, -3e-8):
            torch.set_default_dtype(torch.float32)
            draw = lambda *args: exact(*args).float()
            rough = train(recipe, strategy, optimizer, perturb)
            torch.set_default_dtype(torch.float64)
            draw = exact
            for key, value in base.items():
                if not is_shift(name, key):
                    size = value.abs() if value.shape == (ITERATIONS,) else value.abs().max()
                    away = ((value - rough[key]).abs() / size.clamp(min=1)).max().item()
                    worst[away] = f"{strategy}.{optimizer}.{key}"
    away = max(worst)
    print(f"{name} float32: {away:.1e} in {worst[away]}")


# ---------------------------------------------------------------------------------------
# counts.json
# ---------------------------------------------------------------------------------------


class Counter(TorchDispatchMode):
    """Counts convolution passes and matrix products.

    A backward pass of a convolution makes the gradient of its input, of its weight or of
    both; each is a pass of its own.
    """

    PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")

    def __init__(self):
        super().__init__()
        self.counts = {"convolutions": 0, "matrix_products": 0}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.name().split(".")[0]
        if name == "aten::convolution":
            self.counts["convolutions"] += 1
        elif name == "aten::convolution_backward":
            mask = kwargs["output_mask"] if "output_mask" in kwargs else args[-1]
            self.counts["convolutions"] += sum(map(bool, mask[:2]))
        elif name in self.PRODUCTS:
            self.counts["matrix_products"] += 1
        return func(*args, **kwargs)


def count(critic, shape):
    """One critic step of WGAN-GP: real and fake samples in one forward pass, the penalty,
    and one backward pass to the parameters. The fake samples are there already."""
    real, fake = draw("count.real", (BATCH, *shape)), draw("count.fake", (BATCH, *shape))
    eps = (draw("count.epsilon", (BATCH,)) + 1) / 2
    initialise("critic", critic, 1.0)
    counts = {}
    total = {"convolutions": 0, "matrix_products": 0}

    def counted(phase, work):
        with Counter() as counter:
            result = work()
        counts[phase] = counter.counts
        for key, value in counter.counts.items():
            total[key] += value
        return result

    scores = counted("forward", lambda: critic(torch.cat([real, fake])))
    penalty, _ = counted("penalty", lambda: STRATEGIES["gp"](critic, real, fake, eps))
    loss = scores[BATCH:].mean() - scores[:BATCH].mean() + penalty
    counted("backward", lambda: torch.autograd.grad(loss, list(critic.parameters())))
    return {**total, "phases": counts}


def write_counts():
    counts = {
        "mlp": count(models.MlpCritic([8, 6], (1, 4, 4)), (1, 4, 4)),
        "dcgan32": count(models.DcganCritic(32, 3, 2), (3, 32, 32)),
        "resnet32": count(models.ResNet32Critic(3, 2), (3, 32, 32)),
    }
    path = os.path.join(HERE, "counts.json")
    with open(path, "w") as file:
        json.dump(counts, file, indent=2)
        file.write("\n")
    print(f"{os.path.getsize(path):8d}  counts.json")


if __name__ == "__main__":
    chosen = [a for a in sys.argv[1:] if not a.startswith("--")]
    for name in chosen or RECIPES:
        if "--sensitivity" in sys.argv[1:]:
            sensitivity(name, RECIPES[name])
        elif "--float32" in sys.argv[1:]:
            float32(name, RECIPES[name])
        else:
            write(name, RECIPES[name])
    if not sys.argv[1:]:
        write_counts()
