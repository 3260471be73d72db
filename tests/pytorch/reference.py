"""Reference values for the tests of the crate `wgan`, computed by PyTorch.

    python reference.py                 # remakes every file next to this script
    python reference.py --sensitivity   # only reports how rounding spreads in training

Every weight, draw and input that a value depends on is stored beside the value, so a
test can feed exactly the same numbers to the Rust code. Everything is float64.

Conventions, the crate's own:

    critic loss     mean f(fake) - mean f(real) + penalty
    generator loss  -mean f(G(z))
    estimate        mean f(real) - mean f(fake)
"""

import json
import math
import os
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

HERE = os.path.dirname(os.path.abspath(__file__))


def save(name, tensors):
    """Writes `tensors`; Python numbers become tensors of shape (1,)."""
    out = {}
    for key, value in tensors.items():
        if not torch.is_tensor(value):
            value = torch.tensor([value], dtype=torch.float64)
        out[key] = value.detach().clone().contiguous()
    path = os.path.join(HERE, name)
    save_file(out, path)
    print(f"{os.path.getsize(path):8d}  {name}  ({len(out)} tensors)")


# ---------------------------------------------------------------------------------------
# The penalties
# ---------------------------------------------------------------------------------------


def interpolate(real, fake, eps):
    """eps_i * real_i + (1 - eps_i) * fake_i, one eps per sample."""
    eps = eps.reshape(-1, *[1] * (real.dim() - 1))
    return eps * real + (1 - eps) * fake


def input_gradients(critic, x):
    """The gradient of f at each sample of x, kept differentiable."""
    if not x.requires_grad:
        x = x.detach().requires_grad_(True)
    # f(x_i) depends on x_i alone, so the gradient of the sum holds every sample's own.
    return torch.autograd.grad(critic(x).sum(), x, create_graph=True)[0]


def norms_of(gradients):
    """The Euclidean norm over all the features of each sample."""
    return gradients.flatten(1).norm(2, dim=1)


def gradient_penalty(critic, real, fake, eps, weight, target, one_sided):
    norms = norms_of(input_gradients(critic, interpolate(real, fake, eps)))
    excess = norms - target
    if one_sided:
        excess = excess.clamp(min=0)
    return weight * (excess**2).mean(), {"norms": norms}


def divergence_interpolates(critic, real, fake, eps, k, p):
    norms = norms_of(input_gradients(critic, interpolate(real, fake, eps)))
    return k * (norms**p).mean(), {"norms": norms}


def divergence_real_and_fake(critic, real, fake, eps, k, p):
    """The version of the usual tutorials: both ends instead of the points between."""
    norms_real = norms_of(input_gradients(critic, real))
    norms_fake = norms_of(input_gradients(critic, fake))
    penalty = (k / 2) * (norms_real**p + norms_fake**p).mean()
    return penalty, {"norms_real": norms_real, "norms_fake": norms_fake}


def gp(weight=10.0, target=1.0, one_sided=False):
    return lambda f, r, g, e: gradient_penalty(f, r, g, e, weight, target, one_sided)


def div(k=2.0, p=6.0, points="interpolates"):
    of = divergence_interpolates if points == "interpolates" else divergence_real_and_fake
    return lambda f, r, g, e: of(f, r, g, e, k, p)


# ---------------------------------------------------------------------------------------
# A. losses.safetensors
# ---------------------------------------------------------------------------------------


class SmallCritic(nn.Module):
    """(batch, 2, 3) -> (batch, 1); with kinks (leaky ReLU) or smooth (tanh, softplus)."""

    def __init__(self, smooth):
        super().__init__()
        self.smooth = smooth
        self.fc1 = nn.Linear(6, 8)
        self.fc2 = nn.Linear(8, 7)
        self.fc3 = nn.Linear(7, 1)

    def forward(self, x):
        x = x.flatten(1)
        if self.smooth:
            return self.fc3(F.softplus(self.fc2(torch.tanh(self.fc1(x)))))
        x = F.leaky_relu(self.fc1(x), 0.2)
        return self.fc3(F.leaky_relu(self.fc2(x), 0.2))


LOSS_STRATEGIES = {
    "gp_two": gp(),
    "gp_one": gp(one_sided=True),
    "gp_weak": gp(weight=3.0, target=0.5),
    "div_k2": div(k=2.0),
    "div_k10": div(k=10.0),
    "div_tutorial": div(k=2.0, points="real_and_fake"),
}


def parameter_gradients(loss, critic):
    """Gradients by name; zeros for a parameter the loss does not depend on."""
    names, params = zip(*critic.named_parameters())
    grads = torch.autograd.grad(
        loss, params, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(names, grads))


def losses_of(prefix, smooth, scale, seed):
    torch.manual_seed(seed)
    critic = SmallCritic(smooth)
    with torch.no_grad():
        for p in critic.parameters():
            p.mul_(scale)
    real = torch.randn(5, 2, 3)
    fake = 0.7 * torch.randn(5, 2, 3) - 0.3
    eps = torch.rand(5)

    out = {"real": real, "fake": fake, "eps": eps}
    out.update(critic.state_dict())

    f_real, f_fake = critic(real), critic(fake)
    plain = f_fake.mean() - f_real.mean()
    out["scores_real"] = f_real.flatten()
    out["scores_fake"] = f_fake.flatten()
    out["estimate"] = (f_real.mean() - f_fake.mean()).reshape(1)
    out["critic_loss"] = plain.reshape(1)
    out["generator_loss"] = (-f_fake.mean()).reshape(1)
    x = fake.clone().requires_grad_(True)
    out["generator_loss_grad_fake"] = torch.autograd.grad(-critic(x).mean(), x)[0]
    for name, grad in parameter_gradients(plain, critic).items():
        out[f"critic_loss_grad.{name}"] = grad

    for strategy, penalty_of in LOSS_STRATEGIES.items():
        penalty, norms = penalty_of(critic, real, fake, eps)
        total = plain + penalty
        out[f"{strategy}.penalty"] = penalty.reshape(1)
        out[f"{strategy}.critic_loss"] = total.reshape(1)
        for key, value in norms.items():
            out[f"{strategy}.{key}"] = value
        for name, grad in parameter_gradients(penalty, critic).items():
            out[f"{strategy}.grad.{name}"] = grad
        for name, grad in parameter_gradients(total, critic).items():
            out[f"{strategy}.total_grad.{name}"] = grad

    # Two well-known mistakes (lambda 10, target 1): tests assert to be away from these.
    grads = input_gradients(critic, interpolate(real, fake, eps))
    out["wrong.norm_axis"] = 10 * ((grads.norm(2, dim=-1) - 1) ** 2).mean().reshape(1)
    one = eps[:1].expand(5)
    out["wrong.one_eps"] = gp()(critic, real, fake, one)[0].reshape(1)

    return {prefix + key: value for key, value in out.items()}


def section_losses():
    # Scales and seeds chosen so that the norms lie on both sides of 0.5 and of 1.
    tensors = losses_of("", smooth=False, scale=2.1, seed=210)
    tensors.update(losses_of("smooth.", smooth=True, scale=2.3, seed=228))
    save("losses.safetensors", tensors)


# ---------------------------------------------------------------------------------------
# B. optimizers.safetensors
# ---------------------------------------------------------------------------------------

# name: class, options, and the decoupled weight decay where the class itself would add it to the
# gradient.
OPTIMIZERS = {
    "rmsprop_099": (torch.optim.RMSprop, dict(lr=1e-2, alpha=0.99, eps=1e-8), 0),
    "rmsprop_09": (torch.optim.RMSprop, dict(lr=1e-2, alpha=0.9, eps=1e-8), 0),
    "adam_0_09": (torch.optim.Adam, dict(lr=1e-2, betas=(0.0, 0.9), eps=1e-8), 0),
    "adam_05_0999": (torch.optim.Adam, dict(lr=1e-2, betas=(0.5, 0.999), eps=1e-8), 0),
    "adam_09_0999": (torch.optim.Adam, dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8), 0),
    "rmsprop_momentum": (torch.optim.RMSprop, dict(lr=1e-2, alpha=0.9, momentum=0.7), 0),
    "rmsprop_centered": (torch.optim.RMSprop, dict(lr=1e-2, alpha=0.9, centered=True), 0),
    "rmsprop_centered_momentum": (
        torch.optim.RMSprop,
        dict(lr=1e-2, alpha=0.9, centered=True, momentum=0.7),
        0,
    ),
    "rmsprop_decay": (torch.optim.RMSprop, dict(lr=1e-2, alpha=0.9), 0.1),
    "adamw": (torch.optim.AdamW, dict(lr=1e-2, betas=(0.5, 0.999), weight_decay=0.1), 0),
    "sgd": (torch.optim.SGD, dict(lr=1e-2), 0),
    "sgd_decay": (torch.optim.SGD, dict(lr=1e-2), 0.1),
    "sgd_momentum": (torch.optim.SGD, dict(lr=1e-2, momentum=0.9), 0),
    "sgd_dampening": (torch.optim.SGD, dict(lr=1e-2, momentum=0.9, dampening=0.3), 0),
    "sgd_nesterov": (torch.optim.SGD, dict(lr=1e-2, momentum=0.9, nesterov=True), 0),
}
STEPS = 500


def section_optimizers():
    torch.manual_seed(201)
    init = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    # Each element has a magnitude of its own, from 1e-8 (where eps matters) to 10.
    grads = {
        key: torch.randn(50, *value.shape) * 10 ** (torch.rand(value.shape) * 9 - 8)
        for key, value in init.items()
    }
    out = {f"init.{k}": v for k, v in init.items()}
    out.update({f"grads.{k}": v for k, v in grads.items()})

    for name, (optimizer, options, decay) in OPTIMIZERS.items():
        params = {k: nn.Parameter(v.clone()) for k, v in init.items()}
        opt = optimizer(params.values(), **options)
        for step in range(STEPS):
            for key, p in params.items():
                p.grad = grads[key][step % 50].clone()
                if decay:
                    with torch.no_grad():
                        p.mul_(1 - options["lr"] * decay)
            opt.step()
            if step + 1 in (1, 2, 10, 50, STEPS):
                for key, p in params.items():
                    out[f"{name}.after_{step + 1}.{key}"] = p.detach().clone()
        for key, p in params.items():
            for state in ("square_avg", "grad_avg", "momentum_buffer", "exp_avg", "exp_avg_sq"):
                if torch.is_tensor(opt.state[p].get(state)):
                    out[f"{name}.state.{state}.{key}"] = opt.state[p][state]
    out.update(updates(init, grads))
    save("optimizers.safetensors", out)


def updates(init, grads):
    """AdamW with a group of its own, a schedule with warm-up, and both kinds of clipping."""
    warm_up, until = 20, 400
    out = {}
    for name, clip_value, clip_norm in [
        ("groups", None, None),
        ("clip_value", 0.5, None),
        ("clip_norm", None, 1.0),
        ("clip_both", 0.5, 0.3),
    ]:
        params = {k: nn.Parameter(v.clone()) for k, v in init.items()}
        opt = torch.optim.AdamW(
            [
                dict(params=[params["a"]]),
                dict(params=[params["b"]], lr=3e-2, weight_decay=0.5),
            ],
            lr=1e-2,
            betas=(0.5, 0.9),
            weight_decay=0.1,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            opt, lambda t: min(1, (t + 1) / warm_up) * max(0, 1 - t / until)
        )
        for step in range(STEPS):
            for key, p in params.items():
                p.grad = grads[key][step % 50].clone()
            if clip_value:
                nn.utils.clip_grad_value_(params.values(), clip_value)
            if clip_norm:
                nn.utils.clip_grad_norm_(params.values(), clip_norm)
            opt.step()
            schedule.step()
            if step + 1 in (1, 2, 10, 50, STEPS):
                for key, p in params.items():
                    out[f"updates.{name}.after_{step + 1}.{key}"] = p.detach().clone()
    return out


def section_schedules():
    """The factors of PyTorch's schedules over 300 steps, and an average of a parameter's values."""
    lr_scheduler = torch.optim.lr_scheduler
    schedules = {
        "linear": lambda o: lr_scheduler.LambdaLR(
            o, lambda t: 1 + (0.1 - 1) * min(1, max(0, t - 40) / 160)
        ),
        "linear_lr": lambda o: lr_scheduler.LinearLR(
            o, start_factor=1, end_factor=0.25, total_iters=200
        ),
        "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=200, eta_min=0.1),
        "step": lambda o: lr_scheduler.StepLR(o, step_size=70, gamma=0.3),
        "multi_step": lambda o: lr_scheduler.MultiStepLR(o, milestones=[20, 21, 250], gamma=0.5),
    }
    out = {}
    for name, make in schedules.items():
        # Cosine annealing goes up again after T_max.
        steps = 201 if name == "cosine" else 300
        opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = make(opt)
        out[name] = []
        for _ in range(steps):
            out[name].append(opt.param_groups[0]["lr"])
            opt.step()
            schedule.step()
    torch.manual_seed(202)
    model = nn.BatchNorm1d(2)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.95)
    )
    values, averages = [], []
    for _ in range(100):
        with torch.no_grad():
            model.weight.copy_(torch.randn(2))
        average.update_parameters(model)
        values.append(model.weight.tolist())
        averages.append(average.module.weight.tolist())
    out["values"], out["ema_095"] = values, averages
    path = os.path.join(HERE, "schedules.json")
    with open(path, "w") as file:
        json.dump(out, file)
        file.write("\n")
    print(f"{os.path.getsize(path):8d}  schedules.json")


# ---------------------------------------------------------------------------------------
# C. training_*.safetensors: 50 whole training iterations
# ---------------------------------------------------------------------------------------

ITERATIONS, N_CRITIC, BATCH, LATENT = 50, 5, 8, 6


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(LATENT, 8)
        self.fc2 = nn.Linear(8, 10)
        self.bn2 = nn.BatchNorm1d(10, eps=1e-5, momentum=0.1)
        self.fc3 = nn.Linear(10, 12)
        self.bn3 = nn.BatchNorm1d(12, eps=1e-5, momentum=0.1)
        self.fc4 = nn.Linear(12, 16)
        self.bn4 = nn.BatchNorm1d(16, eps=1e-5, momentum=0.1)
        self.fc5 = nn.Linear(16, 16)

    def forward(self, z):
        x = F.leaky_relu(self.fc1(z), 0.2)
        x = F.leaky_relu(self.bn2(self.fc2(x)), 0.2)
        x = F.leaky_relu(self.bn3(self.fc3(x)), 0.2)
        x = F.leaky_relu(self.bn4(self.fc4(x)), 0.2)
        return torch.tanh(self.fc5(x)).reshape(-1, 1, 4, 4)


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(16, 12)
        self.fc2 = nn.Linear(12, 8)
        self.fc3 = nn.Linear(8, 1)

    def forward(self, x):
        x = F.leaky_relu(self.fc1(x.flatten(1)), 0.2)
        return self.fc3(F.leaky_relu(self.fc2(x), 0.2))


def real_images(*shape):
    """Waves across a 4x4 image: random direction, phase and contrast, a little noise."""
    i = torch.arange(4.0).reshape(4, 1)
    j = torch.arange(4.0).reshape(1, 4)
    draw = lambda low, high: low + (high - low) * torch.rand(*shape, 1, 1, 1)
    phase = draw(0.3, 1.2) * i + draw(-0.6, 0.9) * j + draw(0.0, 2.0)
    noise = 0.1 * torch.randn(*shape, 1, 4, 4)
    return torch.tanh(draw(0.5, 1.5) * torch.sin(phase) + 0.3 + noise)


def rmsprop(lr):
    return lambda params: torch.optim.RMSprop(params, lr=lr, alpha=0.99, eps=1e-8)


def adam(lr, betas):
    return lambda params: torch.optim.Adam(params, lr=lr, betas=betas, eps=1e-8)


# name: seed, scale of the critic's initial weights, clip, penalty, optimiser, and the
# hyperparameters as they are stored in the file (`hyper.*`).
TRAININGS = {
    "clip": dict(
        seed=301, scale=0.3, clip=0.05, penalty=None, optimizer=rmsprop(5e-4),
        hyper=dict(clip=0.05, lr=5e-4, alpha=0.99, eps=1e-8),
    ),
    "gp": dict(
        seed=302, scale=2.0, clip=None, penalty=gp(), optimizer=adam(1e-3, (0.0, 0.9)),
        hyper=dict(weight=10, target=1, lr=1e-3, beta1=0.0, beta2=0.9, eps=1e-8),
    ),
    "gp_one": dict(
        seed=303, scale=2.0, clip=None, penalty=gp(one_sided=True),
        optimizer=adam(1e-3, (0.0, 0.9)),
        hyper=dict(weight=10, target=1, lr=1e-3, beta1=0.0, beta2=0.9, eps=1e-8),
    ),
    "div_paper": dict(
        seed=304, scale=2.0, clip=None, penalty=div(), optimizer=adam(2e-4, (0.0, 0.9)),
        hyper=dict(k=2, p=6, lr=2e-4, beta1=0.0, beta2=0.9, eps=1e-8),
    ),
    "div_tutorial": dict(
        seed=305, scale=2.0, clip=None, penalty=div(points="real_and_fake"),
        optimizer=adam(2e-4, (0.5, 0.999)),
        hyper=dict(k=2, p=6, lr=2e-4, beta1=0.5, beta2=0.999, eps=1e-8),
    ),
}


def prepare(recipe):
    """The initial networks and every draw of a training."""
    torch.manual_seed(recipe["seed"])
    generator, critic = Generator(), Critic()
    with torch.no_grad():
        for p in critic.parameters():
            p.mul_(recipe["scale"])
    draws = {
        "real": real_images(ITERATIONS, N_CRITIC, BATCH),
        "critic_latent": torch.randn(ITERATIONS, N_CRITIC, BATCH, LATENT),
        "eps": torch.rand(ITERATIONS, N_CRITIC, BATCH),
        "generator_latent": torch.randn(ITERATIONS, BATCH, LATENT),
    }
    return generator, critic, draws


def stored_state(prefix, module):
    return {
        f"{prefix}.{key}": value.clone()
        for key, value in module.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def clamp_(critic, c):
    with torch.no_grad():
        for p in critic.parameters():
            p.clamp_(-c, c)


def train(recipe, wrong=None, perturb=0.0, reverse=False):
    """Runs the training.

    `wrong` selects a wrong program: "clamp_first" clamps before the critic's step instead
    of after it; "undetached" lets the critic's loss (penalty included) reach the generator
    through the fakes and adds what arrives there to the generator's own gradient.

    `perturb` and `reverse` are for the sensitivity: noise on the initial weights, and the
    samples of every batch in reverse order (the same mathematics, other rounding).
    """
    generator, critic, draws = prepare(recipe)
    out = dict(draws)
    out.update(stored_state("init.generator", generator))
    out.update(stored_state("init.critic", critic))
    if perturb:
        with torch.no_grad():
            for p in [*generator.parameters(), *critic.parameters()]:
                p.add_(perturb * torch.randn_like(p))
    if reverse:
        batch_axis = dict(real=2, critic_latent=2, eps=2, generator_latent=1)
        draws = {key: value.flip(batch_axis[key]) for key, value in draws.items()}

    opt_g = recipe["optimizer"](generator.parameters())
    opt_c = recipe["optimizer"](critic.parameters())
    generator.train()
    names = ("critic_loss", "penalty", "estimate", "generator_loss", "gradient_norm")
    history = {name: [] for name in names}

    for t in range(ITERATIONS):
        opt_g.zero_grad()
        for s in range(N_CRITIC):
            real = draws["real"][t, s]
            # In train mode here too: batch statistics, and the running ones move.
            fake = generator(draws["critic_latent"][t, s])
            if wrong != "undetached":
                fake = fake.detach()
            opt_c.zero_grad()
            f_real, f_fake = critic(real).mean(), critic(fake).mean()
            penalty = torch.zeros(())
            if recipe["penalty"]:
                penalty, _ = recipe["penalty"](critic, real, fake, draws["eps"][t, s])
            loss = f_fake - f_real + penalty
            loss.backward()
            if wrong == "clamp_first":
                clamp_(critic, recipe["clip"])
            opt_c.step()
            if recipe["clip"] and wrong != "clamp_first":
                clamp_(critic, recipe["clip"])
        history["critic_loss"].append(loss.item())
        history["penalty"].append(penalty.item())
        history["estimate"].append((f_real - f_fake).item())

        if wrong != "undetached":
            opt_g.zero_grad()
        fake = generator(draws["generator_latent"][t])
        scores = critic(fake)
        grads = torch.autograd.grad(scores.sum(), fake, retain_graph=True)[0]
        loss = -scores.mean()
        loss.backward()
        opt_g.step()
        history["generator_loss"].append(loss.item())
        history["gradient_norm"].append(norms_of(grads).mean().item())

        if t == 0:
            out.update(stored_state("after_1.generator", generator))
            out.update(stored_state("after_1.critic", critic))

    out.update({name: torch.tensor(values) for name, values in history.items()})
    out.update(stored_state("final.generator", generator))
    out.update(stored_state("final.critic", critic))
    return out, generator


def section_training():
    for name, recipe in TRAININGS.items():
        out, generator = train(recipe)
        for key, value in recipe["hyper"].items():
            out[f"hyper.{key}"] = float(value)
        if recipe["clip"]:
            key = "final.critic.fc1.weight"
            out[f"wrong.clamp_first.{key}"] = train(recipe, "clamp_first")[0][key]
        key = "final.generator.fc1.weight"
        out[f"wrong.undetached.{key}"] = train(recipe, "undetached")[0][key]
        save(f"training_{name}.safetensors", out)
        if name == "gp":
            state_dict_files(generator)


def state_dict_files(generator):
    """A trained generator as PyTorch writes it, and what it makes in evaluation mode."""
    save("generator_state_dict.safetensors", generator.state_dict())
    torch.manual_seed(401)
    latent = torch.randn(4, LATENT)
    generator.eval()
    output = generator(latent)
    save("generator_output.safetensors", {"latent": latent, "output": output})


def is_shift(key):
    """Whether a batch normalisation downstream cancels this value (wholly or nearly).

    The exact gradient of the generator's fc2.bias, fc3.bias and fc4.bias is zero, and that
    of fc1.bias where its unit stays on one side of the leaky ReLU. What is computed is
    rounding, of the order of 1e-17, which Adam and RMSprop divide by eps = 1e-8: these
    biases wander by up to lr * 1e-9 a step, and the running means follow them. Nothing
    else feels it.
    """
    biases = [f"final.generator.fc{i}.bias" for i in (1, 2, 3, 4)]
    return key in biases or key.endswith("running_mean")


def final_difference(a, b):
    """The largest difference of the final values, first without the shifts, then theirs."""
    keys = [key for key in a if key.startswith("final.")]
    away = {key: (a[key] - b[key]).abs().max().item() for key in keys}
    rest = max(value for key, value in away.items() if not is_shift(key))
    return rest, max(value for key, value in away.items() if is_shift(key))


def sensitivity():
    """How far apart two runs end that differ in rounding only."""
    for name, recipe in TRAININGS.items():
        base, _ = train(recipe)
        moved = max(
            (base[k] - base[k.replace("final", "init")]).abs().max().item()
            for k in base
            if k.startswith("final.") and "running" not in k
        )
        noisy = final_difference(base, train(recipe, perturb=1e-15)[0])
        reverse = final_difference(base, train(recipe, reverse=True)[0])
        print(f"{name:13s} moved by up to {moved:.1e}")
        for what, (rest, shifts) in (("perturbed", noisy), ("reversed", reverse)):
            print(f"{'':13s} {what}: {rest:.1e}, the shifts {shifts:.1e}")
        key = "final.generator.fc1.weight"
        away = (train(recipe, "undetached")[0][key] - base[key]).abs().max().item()
        print(f"{'':13s} undetached differs by {away:.1e}")
        if recipe["clip"]:
            key = "final.critic.fc1.weight"
            away = (train(recipe, "clamp_first")[0][key] - base[key]).abs().max().item()
            print(f"{'':13s} clamp_first differs by {away:.1e}")
            at_bound = torch.cat(
                [v.flatten() for k, v in base.items() if k.startswith("final.critic.")]
            ).abs() == recipe["clip"]
            print(f"{'':13s} {at_bound.double().mean().item():.0%} of the weights at the bound")


# ---------------------------------------------------------------------------------------
# D. activations_f64.safetensors
# ---------------------------------------------------------------------------------------


def section_activations():
    torch.manual_seed(501)
    special = [0.0, -0.0, 1e-300, -1e-300, 1e-12, -1e-12, 1e-3, -1e-3, 0.5, -0.5, 1.0, -1.0]
    special += [3.0, -3.0, 10.0, -10.0, 19.0, -19.0, 25.0, -25.0, 40.0, -40.0]
    x = torch.cat([torch.tensor(special), 3 * torch.randn(20)])
    slope = torch.full((1,), 0.25)
    functions = {
        "relu": F.relu,
        "leaky_relu": lambda v: F.leaky_relu(v, 0.2),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        # PyTorch returns x itself above 20, so it is off by up to exp(-20) there ...
        "softplus": F.softplus,
        # ... and this one is log(1 + exp(x)) everywhere.
        "softplus_exact": lambda v: torch.logaddexp(v, torch.zeros_like(v)),
        "elu": F.elu,
        "silu": F.silu,
        "prelu": lambda v: F.prelu(v, slope),
    }
    out = {"x": x}
    for name, function in functions.items():
        v = x.clone().requires_grad_(True)
        y = function(v)
        dy = torch.autograd.grad(y.sum(), v, create_graph=True)[0]
        d2y = torch.zeros_like(v)
        if dy.requires_grad:
            d2y = torch.autograd.grad(dy.sum(), v, allow_unused=True, materialize_grads=True)[0]
        assert all(torch.isfinite(t).all() for t in (y, dy, d2y)), name
        out.update({f"{name}.y": y, f"{name}.dy": dy, f"{name}.d2y": d2y})
    save("activations_f64.safetensors", out)


# ---------------------------------------------------------------------------------------
# E. init.json
# ---------------------------------------------------------------------------------------


def section_init():
    """PyTorch's default initialisation: uniform in [-bound, bound]."""
    torch.manual_seed(601)
    # (make, fan_in, how many layers to draw). The fan-in of a transposed convolution
    # (16 -> 32 channels) counts the second axis of its weight, the *output* channels.
    layers = {
        "linear_784_512": (lambda: nn.Linear(784, 512), 784, 10),
        "conv2d_3_16_5": (lambda: nn.Conv2d(3, 16, 5), 3 * 25, 1000),
        "conv_transpose2d_16_32_4": (lambda: nn.ConvTranspose2d(16, 32, 4), 32 * 16, 200),
    }
    out = {}
    for name, (make, fan_in, count) in layers.items():
        made = [make() for _ in range(count)]
        out[name] = {}
        for part in ("weight", "bias"):
            values = torch.cat([getattr(m, part).detach().flatten() for m in made])
            bound = 1 / math.sqrt(fan_in)
            assert values.abs().max() <= bound and values.abs().max() > 0.99 * bound
            out[name][part] = {
                "bound": bound,
                "samples": values.numel(),
                "mean": values.mean().item(),
                "std": values.std().item(),
                "uniform_std": bound / math.sqrt(3),
                "max_abs": values.abs().max().item(),
            }
    path = os.path.join(HERE, "init.json")
    with open(path, "w") as file:
        json.dump(out, file, indent=2)
        file.write("\n")
    print(f"{os.path.getsize(path):8d}  init.json")


if __name__ == "__main__":
    if "--sensitivity" in sys.argv[1:]:
        sensitivity()
    else:
        section_losses()
        section_optimizers()
        section_schedules()
        section_training()
        section_activations()
        section_init()
