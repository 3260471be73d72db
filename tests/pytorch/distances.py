"""Reference values for the distances between distributions, by SciPy and POT.

    python distances.py                 # remakes distances.safetensors next to this script

Inputs are stored beside the values. Everything is float64. Costs are |x - y|^p, distances their roots; the penalty of
entropic transport is epsilon KL(plan | a x b).

Made with SciPy 1.17.1, POT 0.9.7, torch 2.15.0, numpy 2.4.6.
"""

import os

import numpy as np
import ot
import torch
from safetensors.numpy import save_file
from scipy.integrate import quad
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist, jensenshannon
from scipy.stats import entropy, norm, wasserstein_distance

HERE = os.path.dirname(os.path.abspath(__file__))
rng = np.random.default_rng(6)
out = {}


def put(name, value):
    out[name] = np.ascontiguousarray(np.atleast_1d(np.asarray(value, dtype=np.float64)))


def share(weights):
    return weights / weights.sum()


def one_dimension():
    x, y = rng.normal(size=50), rng.gamma(2.0, size=37)
    wx, wy = rng.uniform(size=50), rng.uniform(size=37)
    wx[3] = 0.0
    for name, value in [("x", x), ("y", y), ("wx", wx), ("wy", wy)]:
        put(f"line.{name}", value)
    put("line.scipy", wasserstein_distance(x, y))
    put("line.scipy_weighted", wasserstein_distance(x, y, wx, wy))
    for p in (1, 2, 3):
        put(f"line.p{p}", ot.wasserstein_1d(x, y, p=p) ** (1 / p))
        put(f"line.p{p}_weighted", ot.wasserstein_1d(x, y, share(wx), share(wy), p=p) ** (1 / p))


def linear_program(a, b, cost):
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    result = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]),
                     method="highs", options={"primal_feasibility_tolerance": 1e-10,
                                              "dual_feasibility_tolerance": 1e-10})
    assert result.success
    return result.fun


def sets():
    a, b, c = rng.normal(size=(60, 3)), rng.normal(0.5, 1.5, size=(60, 3)), rng.normal(size=(45, 3))
    wa, wc = rng.uniform(size=60), rng.uniform(size=45)
    wa[::7] = 0.0
    for name, value in [("a", a), ("b", b), ("c", c), ("wa", wa), ("wc", wc)]:
        put(f"sets.{name}", value)
    directions = rng.normal(size=(3, 25))
    directions /= np.linalg.norm(directions, axis=0)
    put("sets.directions", directions.T)
    for p in (1, 2, 3):
        cost = cdist(a, b) ** p
        put(f"assignment.p{p}", cost[linear_sum_assignment(cost)].mean() ** (1 / p))
        cost = cdist(a, c) ** p
        uniform = [np.full(60, 1 / 60), np.full(45, 1 / 45)]
        put(f"exact.p{p}", ot.emd2(*uniform, cost, numItermax=10**7) ** (1 / p))
        weighted = [share(wa), share(wc)]
        emd = ot.emd2(*weighted, cost, numItermax=10**7) ** (1 / p)
        put(f"exact.p{p}_weighted", emd)
        assert abs(linear_program(*weighted, cost) ** (1 / p) / emd - 1) < 1e-9
        put(f"sliced.p{p}", ot.sliced_wasserstein_distance(a, c, projections=directions, p=p))
        put(f"sliced.p{p}_weighted",
            ot.sliced_wasserstein_distance(a, c, *weighted, projections=directions, p=p))
    big = [rng.normal(size=(300, 2)), rng.normal(size=(300, 2))]
    put("big.a", big[0])
    put("big.b", big[1])
    for p in (1, 2):
        cost = cdist(*big) ** p
        put(f"big.p{p}", cost[linear_sum_assignment(cost)].mean() ** (1 / p))


def entropic(a, b, cost, epsilon):
    plan, log = ot.bregman.sinkhorn_log(a, b, cost, epsilon, numItermax=10**5, stopThr=1e-13, log=True,
                                        warn=False)
    missing = abs(plan.sum(1) - a).sum() + abs(plan.sum(0) - b).sum()
    assert missing < 1e-12, (epsilon, missing)
    ratio = np.where(plan > 0, plan, 1.0) / np.where(plan > 0, np.outer(a, b), 1.0)
    linear = (plan * cost).sum()
    return linear, linear + epsilon * (plan * np.log(ratio)).sum()


def sinkhorn():
    a, c = out["sets.a"][:20], out["sets.c"][:15]
    wa, wc = share(out["sets.wa"][:20] + 0.1), share(out["sets.wc"][:15])
    put("sinkhorn.wa", wa)
    for p in (1, 2):
        for epsilon in (1.0, 5.0):
            between = entropic(wa, wc, cdist(a, c) ** p, epsilon)
            within = [entropic(w, w, cdist(x, x) ** p, epsilon) for w, x in ((wa, a), (wc, c))]
            put(f"sinkhorn.p{p}_{epsilon}", between)
            put(f"sinkhorn.divergence_p{p}_{epsilon}", between[1] - (within[0][1] + within[1][1]) / 2)


def discrete():
    p, q = rng.uniform(size=40), rng.gamma(0.5, size=40)
    p[::9] = 0.0
    put("discrete.p", p)
    put("discrete.q", q)
    put("discrete.kl", entropy(p, q))
    put("discrete.reverse_infinite", entropy(q, p))
    positive = p > 0
    put("discrete.reverse", entropy(q[positive], p[positive]))
    put("discrete.js", jensenshannon(p, q) ** 2)
    put("discrete.tv", abs(share(p) - share(q)).sum() / 2)


def gaussians():
    factors = rng.normal(size=(2, 5, 5))
    covariances = [f @ f.T + 0.1 * np.eye(5) for f in factors]
    means = rng.normal(size=(2, 5))
    for i in range(2):
        put(f"gaussian.mean{i}", means[i])
        put(f"gaussian.covariance{i}", (covariances[i] + covariances[i].T) / 2)
    normals = [torch.distributions.MultivariateNormal(torch.tensor(m), torch.tensor(c))
               for m, c in zip(means, covariances)]
    put("gaussian.kl", torch.distributions.kl_divergence(*normals).item())
    put("gaussian.reverse_kl", torch.distributions.kl_divergence(*normals[::-1]).item())
    put("gaussian.w2", ot.gaussian.bures_wasserstein_distance(*means, *covariances))
    (m0, s0), (m1, s1) = (0.3, 1.2), (-0.9, 2.1)
    put("gaussian.line", [m0, s0, m1, s1])
    fine = {"epsabs": 1e-14, "epsrel": 1e-13, "limit": 1000}
    area = lambda x: abs(norm.pdf(x, m0, s0) - norm.pdf(x, m1, s1)) / 2
    put("gaussian.line_tv", sum(quad(area, i / 4, (i + 1) / 4, **fine)[0] for i in range(-100, 100)))
    gap = lambda x: abs(norm.cdf(x, m0, s0) - norm.cdf(x, m1, s1))
    put("gaussian.line_w1", sum(quad(gap, i / 4, (i + 1) / 4, **fine)[0] for i in range(-100, 100)))


def assignment_beside_large_costs(a, b, p):
    cost = cdist(a, b) ** p
    # No pair of the best assignment costs more than all pairs of another one: what does is out of the question, and would
    # only drown the rest in its rounding.
    cost = np.minimum(cost, 2 * np.trace(cost))
    pairs = linear_sum_assignment(cost)
    assert cost[pairs].max() < 2 * np.trace(cost)
    return cost[pairs].mean() ** (1 / p)


def large_costs():
    # Most pairs of points are 10 to 100 times as far apart as partners are.
    a = rng.normal(size=(150, 2))
    b = a + 0.03 * rng.normal(size=(150, 2))
    put("near.a", a)
    put("near.b", b)
    put("near.p8", assignment_beside_large_costs(a, b, 8))
    # A far point that both sets have.
    a, b = np.vstack([[[3e7, -4e7]], a[1:]]), np.vstack([[[3e7, -4e7]], b[1:]])
    put("far.p2", assignment_beside_large_costs(a, b, 2))


for part in (one_dimension, sets, sinkhorn, discrete, gaussians, large_costs):
    part()
path = os.path.join(HERE, "distances.safetensors")
save_file(out, path)
print(os.path.getsize(path), {k: v[:2] for k, v in out.items() if v.size <= 2})
