"""Every notebook: what it shows of the package, its exercises, and a whole run at smoke size."""

import ast
import base64
import importlib
import inspect
import json
import re

import nbformat
import pytest

from benchmarks.bands import BANDS, outside
from dwflow_lite.course.exercises import CHECKS, check
from dwflow_lite.course.outputs import WIDGET_STATE, WIDGET_VIEW, shown_model, widgets, widgets_inside
from dwflow_lite.course.run import run

from .conftest import FILES, cells, prose

# -- what is shown is what is packaged ---------------------------------------------------------------------------


def bare(source):
    """The code of one function without docstring and annotations."""
    (function,) = ast.parse(inspect.cleandoc("\n" + source) if source.startswith(" ") else source).body
    if ast.get_docstring(function):
        function.body = function.body[1:]
    for node in ast.walk(function):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.dump(function)


def shown_functions():
    for file in FILES:
        for cell in cells(file, "code"):
            for tag in cell.metadata.get("tags", ()):
                if tag.startswith("source:"):
                    yield pytest.param(tag.removeprefix("source:"), cell.source, id=f"{file.stem}-{tag}")


@pytest.mark.parametrize("name, source", list(shown_functions()))
def test_shown_function_is_the_packaged_one(name, source):
    module, function = name.rsplit(".", 1)
    packaged = inspect.getsource(getattr(importlib.import_module(module), function))
    assert bare(source) == bare(packaged)
    assert bare(source.replace("return", "return not", 1)) != bare(packaged)  # control: a change is seen


def test_functions_are_shown():
    assert len(list(shown_functions())) >= 3


# -- exercises ---------------------------------------------------------------------------------------------------


def exercises():
    for file in FILES:
        for cell in cells(file, "code"):
            for tag in cell.metadata.get("tags", ()):
                if tag.startswith("exercise:"):
                    yield pytest.param(file, tag.removeprefix("exercise:"), cell.source, id=tag)


def solution(file, number):
    pattern = rf"<summary>Solution {re.escape(number)}</summary>\s+```python\n(.*?)```"
    found = re.findall(pattern, prose(file), re.DOTALL)
    assert len(found) == 1, f"{number}: {len(found)} solutions"
    return found[0]


def answer_name(source, number):
    return re.search(rf'check\("{re.escape(number)}", (\w+)\)', source)[1]


@pytest.mark.parametrize("file, number, stub", list(exercises()))
def test_check_accepts_the_solution_and_not_the_stub(file, number, stub, capsys):
    name = answer_name(stub, number)
    namespace = {}
    exec(solution(file, number), namespace)
    assert check(number, namespace[name]), capsys.readouterr().out
    assert "<summary>Hint " + number in prose(file)
    blank = {"check": check}
    exec(stub, blank)  # runs to its end: Run all does not stop here
    assert "not started" in capsys.readouterr().out
    assert not check(number, blank[name])


WRONG = {
    "00.1": [
        "lambda o, y: 100 * (o.argmax(-1) == y).float().mean()",
        "lambda o, y: (o.argmax(-1) == y).sum()",
        "lambda o, y: (o.argmin(-1) == y).float().mean()",
    ],
    "00.2": [
        "lambda p, z: (z - p).norm(dim=-1).max()",
        "lambda p, z: (z - p).square().sum(-1).min()",
        "lambda p, z: (z - p).abs().sum(-1).min()",
    ],
    "00.3": [
        "lambda o: o.mean(0).argmax(-1)",
        "lambda o: o.argmax(-1).mode(0).values",
        "lambda o: o.softmax(0).mean(0).argmax(-1)",
        "lambda o: o.softmax(-1).mean(0)",
    ],
    "01.1": ["lambda s: sum(m * n for m, n in zip(s, s[1:]))", "lambda s: sum(s)", "lambda s: 1 / 0"],
    "01.2": [
        "lambda f, s: [f[: a[0] * a[-1]].reshape(a) if len(a) == 2 else f[: a[0]] for a in s]",
        "lambda f, s: []",
        "lambda f, s: [f] * len(s)",
    ],
    "01.3": [
        "lambda n, p, g: {k: __import__('torch').randperm(n, generator=g)[: int(s * n)] for k, s in p.items()}",
        "lambda n, p, g: dict(zip(p, __import__('torch').arange(n).tensor_split(len(p))))",
        "lambda n, p, g: {k: __import__('torch').randint(n, (int(s * n),), generator=g) for k, s in p.items()}",
        "lambda n, p, g: dict(zip(p, __import__('torch').randperm(n).split([int(s * n) for s in p.values()])))",
    ],
    "02.1": [
        "lambda a, b, c, i, j: (a, b, c)",
        "lambda a, b, c, i, j: (a[[0, 3, 2, 1, 4]], b[[0, 3, 2, 1, 4]], c)",
        "lambda a, b, c, i, j: (a[[0, 3, 2, 1, 4]], b, c[:, [0, 3, 2, 1, 4]])",
        "lambda a, b, c, i, j: (a.zero_(), b, c)",
        "lambda a, b, c, i, j: (a[[0, 3, 2, 1, 4]], b[[0, 3, 2, 1, 4]], c[[0, 3, 2, 1, 4]])",
        "lambda a, b, c, i, j: (lambda v: (v.__setitem__(i, v[j]), v.__setitem__(j, v[i]), (v, b, c))[-1])(a.clone())",
    ],
    "02.2": [
        "lambda s: __import__('math').prod(__import__('math').factorial(n) for n in s)",
        "lambda s: sum(__import__('math').factorial(n) for n in s[1:-1])",
    ],
    "02.3": [
        "lambda a, b, c, i, k: (a * k, b * k, c / k)",
        "lambda a, b, c, i, k: (a, b, c)",
        "lambda a, b, c, i, k: (a.index_copy(0, __import__('torch').tensor([i]), a[i : i + 1] * k), b, c)",
        "lambda a, b, c, i, k: (a.mul_(1), b, c.zero_())",
    ],
    "03.1": [
        "lambda a, b: a[0] @ b[0].T + a[2].T @ b[2]",
        "lambda a, b: b[0] @ a[0].T + b[1][:, None] * a[1] + b[2].T @ a[2]",
        "lambda a, b: a[0] @ b[0].T + a[1][:, None] * b[1]",
        "lambda a, b: (a[0] - b[0]).norm()",
    ],
    "03.2": [
        "lambda x: x.max() - x[0]",
        "lambda x: x.max() - (x[0] + x[-1]) / 2",
        "lambda x: (x - __import__('torch').linspace(float(x[0]), float(x[-1]), len(x)))[1:-1].max()",
    ],
    "03.3": [
        "lambda a, b: (a[0] @ b[0].T).argmax(1)",
        "lambda a, b: __import__('torch').arange(6)",
        "lambda a, b: __import__('torch').from_numpy(__import__('scipy.optimize').optimize.linear_sum_assignment("
        "(b[0] @ a[0].T + b[1][:, None] * a[1] + b[2].T @ a[2]).numpy(), maximize=True)[1])",
        "lambda a, b: __import__('torch').from_numpy(__import__('scipy.optimize').optimize.linear_sum_assignment("
        "(a[0] @ b[0].T).numpy(), maximize=True)[1])",
    ],
    "03b.1": [
        "lambda w, b, m, s, nm, ns: (w * (ns / s)[:, None], b - m + nm)",
        "lambda w, b, m, s, nm, ns: (w * (ns / s)[:, None], b * ns / s + nm)",
        "lambda w, b, m, s, nm, ns: (w * (s / ns)[:, None], (b - m) * s / ns + nm)",
        "lambda w, b, m, s, nm, ns: (w.mul_((ns / s)[:, None]), (b - m) * ns / s + nm)",
    ],
    "03b.2": [
        "lambda x, y: x.T @ y / len(x)",
        "lambda x, y: (x - x.mean(0)).T @ (y - y.mean(0)) / len(x)",
        "lambda x, y: __import__('torch').corrcoef(__import__('torch').cat([x, y], 1).T)[:4, 4:]",
        "lambda x, y: __import__('torch').corrcoef(__import__('torch').cat([x, y], 1).T)[4:, :4].nan_to_num()",
        "lambda x, y: __import__('torch').nn.functional.normalize(x, dim=0).T"
        " @ __import__('torch').nn.functional.normalize(y, dim=0)",
    ],
    "04.1": [
        "lambda i, h: True",
        "lambda i, h: bool((i == __import__('torch').arange(len(i))).all())",
        "lambda i, h: bool((i.view(h, -1).diff() > 0).all())",
    ],
    "04.2": [
        "lambda h, d: __import__('math').factorial(h * d)",
        "lambda h, d: __import__('math').factorial(h) * __import__('math').factorial(d) ** 2",
        "lambda h, d: __import__('math').factorial(d) ** (2 * h)",
    ],
    "04.3": [
        "lambda q, k, v, o, a, b: (q[a], k[a], v[b], o[b])",
        "lambda q, k, v, o, a, b: (q[a], k[a], v[a], o[:, a])",
        "lambda q, k, v, o, a, b: (q, k, v, o)",
        "lambda q, k, v, o, a, b: (q[a], k[b], v[b], o[:, b])",
    ],
    "05.1": [
        "lambda a, b, t: (t[:, None] * a + (1 - t[:, None]) * b, b - a)",
        "lambda a, b, t: ((1 - t[:, None]) * a + t[:, None] * b, a - b)",
        "lambda a, b, t: ((1 - t[:, None]) * a + t[:, None] * b, t[:, None] * (b - a))",
    ],
    "05.2": [
        "lambda f, x, t, h: x + h * f(x, t)",
        "lambda f, x, t, h: x + h / 2 * (f(x, t) + f(x + h * f(x, t), t + h))",
        "lambda f, x, t, h: x + h * f(x + h / 2 * f(x, t), t)",
    ],
    "05.3": [
        "lambda x, t, z, s: __import__('torch').softmax(-((x - z) ** 2).sum(-1) / (2 * s**2 * (1 - t) ** 2), 0)",
        "lambda x, t, z, s: __import__('torch').softmax(-((x - t * z) ** 2).sum(-1) / (2 * s**2), 0)",
        "lambda x, t, z, s: (lambda w: w / w.sum())"
        "(__import__('torch').exp(-((x - t * z) ** 2).sum(-1) / (2 * s**2 * (1 - t) ** 2) - 200))",
    ],
    "06.1": [
        "lambda p, r: ((p - p.mean(0)) ** 2).sum(-1).mean().sqrt() / ((r - r.mean(0)) ** 2).sum(-1).mean().sqrt()",
        "lambda p, r: ((p - r.mean(0)) ** 2).sum(-1).mean() / ((r - r.mean(0)) ** 2).sum(-1).mean()",
    ],
    "06.2": [
        "lambda w, m, g: w[:m].mean(0)",
        "lambda w, m, g: w[__import__('torch').randint(len(w), (m,), generator=g)].mean(0)",
        "lambda w, m, g: w.mean(0)",
    ],
    "06.3": [
        "lambda s, d, zs, zd: ((s >= zs.quantile(0.05)).float().mean() + (d >= zd.quantile(0.05)).float().mean()) / 2",
        "lambda s, d, zs, zd: ((s >= zs.mean()) & (d >= zd.mean())).float().mean()",
        "lambda s, d, zs, zd: ((s >= zs.quantile(0.05)) | (d >= zd.quantile(0.05))).float().mean()",
        "lambda s, d, zs, zd: (s >= zs.quantile(0.05)).float().mean() * (d >= zd.quantile(0.05)).float().mean()",
    ],
    "07.1": [
        "lambda m, v, n, w: ((m + n) / 2, (v + w) / 2)",
        "lambda m, v, n, w: ((m + n) / 2, (v + w) / 2 + (m - n) ** 2)",
        "lambda m, v, n, w: (m + n, (v + w) / 2 + ((m - n) / 2) ** 2)",
    ],
    "07.2": [
        "lambda w, b, m, v, g, h, e: (w * (g / v.sqrt())[:, None], (b - m) * g / v.sqrt() + h)",
        "lambda w, b, m, v, g, h, e: (w * (g / (v + e).sqrt())[:, None], b - m * g / (v + e).sqrt() + h)",
        "lambda w, b, m, v, g, h, e: (w * (g / (v + e))[:, None], (b - m) * g / (v + e) + h)",
        "lambda w, b, m, v, g, h, e: w",
    ],
    "08.1": [
        "lambda x: (x - x.mean(0)) @ (x - x.mean(0)).T",
        "lambda x: __import__('torch').linalg.eigvalsh(x @ x.T).flip(0)[: len(x) - 1] / (len(x) - 1)",
        "lambda x: __import__('torch').linalg.eigvalsh((x - x.mean(0)) @ (x - x.mean(0)).T).flip(0)[: len(x) - 1]",
        "lambda x: __import__('torch').linalg.eigvalsh((x - x.mean(0)) @ (x - x.mean(0)).T)[1:] / (len(x) - 1)",
    ],
    "08.2": [
        "lambda r, w: w @ r",
        "lambda r, w: __import__('torch').linalg.lstsq(r.T, w).solution",
        "lambda r, w: __import__('torch').full((len(r),), 1 / len(r), dtype=r.dtype)",
    ],
    "08b.1": [
        "lambda n, d, m: -(-n * d * 4 // m)",
        "lambda n, d, m: -(-n * d * 12 // m)",
        "lambda n, d, m: d // (m // (12 * n))",
        "lambda n, d, m: -(-d // (m // n))",
    ],
    "08b.2": [
        "lambda c: (lambda x: x @ x.T)(__import__('torch').cat(list(c), 1).double())",
        "lambda c: sum((p - p.mean(0)) @ (p - p.mean(0)).T for p in c)",
        "lambda c: [(p.double() - p.double().mean(0)) @ (p.double() - p.double().mean(0)).T for p in c][-1]",
        "lambda c: sum((p - p.mean(0)).double() @ (p - p.mean(0)).double().T for p in c)",
        "lambda c: sum((p.double() - p.double().mean()) @ (p.double() - p.double().mean()).T for p in c)",
    ],
    "09.1": [
        "lambda d, z, h: min(d)",
        "lambda d, z, h: max(d)",
        "lambda d, z, h: next(f for f in d if __import__('torch').cdist(d[f], z).min(1).values.median() >= 3)",
        "lambda d, z, h: min(f for f in d if __import__('torch').cdist(d[f], z).min(1).values.mean()"
        " >= __import__('torch').cdist(h, z).min(1).values.mean())",
        "lambda d, z, h: min(f for f in d if __import__('torch').cdist(d[f], z).median()"
        " >= __import__('torch').cdist(h, z).median())",
    ],
    "09.2": [
        "lambda a, b: (a == b).float().mean()",
        "lambda a, b: (a & b).sum() / (a | b).sum()",
        "lambda a, b: (a == b).float().mean() - a.float().mean() * b.float().mean()",
        "lambda a, b: (lambda o, e: (o - e) / (1 - e))((a == b).float().mean(), a.float().mean() * b.float().mean())",
        "lambda a, b: __import__('torch').corrcoef(__import__('torch').stack([a, b]).float())[0, 1]",
    ],
    "09b.1": [
        "lambda d, r, m: d / r",
        "lambda d, r, m: m**-0.5 - (1 / m + (d / r) ** 2 - 1) ** 0.5",
        "lambda d, r, m: m**-0.5 + (1 / m + d / r - 1) ** 0.5",
        "lambda d, r, m: 1 / m + (1 / m**2 + (d / r) ** 2 - 1) ** 0.5",
        "lambda d, r, m: 2 * m**-0.5 + (1 / m + (d / r) ** 2 - 1) ** 0.5",
    ],
    "09b.2": [
        "lambda w, c, s: w[c].mean(0) + s @ (w[c] - w[c].mean(0)) / len(c) ** 0.5",
        "lambda w, c, s: w.mean(0) + s @ (w[c] - w.mean(0)) / len(c)",
        "lambda w, c, s: s @ w[c] / len(c) ** 0.5",
        "lambda w, c, s: s @ (w[c] - w.mean(0)) / len(c) ** 0.5",
        "lambda w, c, s: w.mean(0) + (w[c] - w.mean(0)).sum(0) / len(c) ** 0.5",
        "lambda w, c, s: w.sub_(w.mean(0)).mean(0)",
    ],
    "09b.3": [
        "lambda a, b, c: (c**2).sum() * b",
        "lambda a, b, c: a + (c**2).sum() * b",
        "lambda a, b, c: a + c.sum() ** 2 * (b - a)",
        "lambda a, b, c: a + (b - a) / len(c)",
        "lambda a, b, c: b",
    ],
    "09c.1": [
        "lambda a, b, v, x: (x @ a.mT + b).relu().mT[..., None] * v.mT[:, None] + 1",
        "lambda a, b, v, x: (a @ x.mT + b[:, None])[..., None] * v.mT[:, None]",
        "lambda a, b, v, x: (a @ x.mT).relu()[..., None] * v.mT[:, None]",
        "lambda a, b, v, x: ((x @ a.mT + b).relu() @ v.mT)[None].expand(len(b), -1, -1) / len(b)",
        "lambda a, b, v, x: ((a @ x.mT + b[:, None]).relu()[..., None] * v.mT[:, None]).mT",
    ],
    "09c.2": [
        "lambda s: s.var(0).sum(0).mean().sqrt()",
        "lambda s: s.sum(1).var(0, correction=0).mean().sqrt()",
        "lambda s: s.std(0, correction=0).sum(0).mean()",
        "lambda s: s.var(0, correction=0).mean().sqrt()",
        "lambda s: s.var(0, correction=0).sum(0).mean()",
        "lambda s: s.square().mean(0).sum(0).mean().sqrt()",
    ],
    "09c.3": [
        "lambda o: o.abs().argmin(0).tolist()",
        "lambda o: [0] * o.shape[1]",
        "lambda o: o.argmin(0).tolist()",
        "lambda o: [int((o[0, :i].sum() + o[:, i]).abs().argmin()) for i in range(o.shape[1])]",
        "lambda o: [int((o[0, :i].sum() + o[:, i]).abs().argmin()) for i in reversed(range(o.shape[1]))]",
    ],
    "10.1": [
        "lambda o, y: -o.mean(0).log_softmax(-1)[range(len(y)), y].mean()",
        "lambda o, y: -o.log_softmax(-1)[:, range(len(y)), y].mean()",
        "lambda o, y: -o.softmax(-1).mean(0)[range(len(y)), y].mean().log()",
        "lambda o, y: -o.softmax(-1).mean(0)[range(len(y)), y].log().sum()",
        "lambda o, y: -o.softmax(0).mean(0)[range(len(y)), y].log().mean()",
    ],
    "10.2": [
        "lambda n, c: (n[:, None] != n).float().mean()",
        "lambda n, c: (n[0] != n[1:]).float().mean()",
        "lambda n, c: 1 - (n[:, None] != n).float().sum() / (len(n) * (len(n) - 1) * n.shape[1])",
        "lambda n, c: (n != n.mode(0).values).float().mean()",
        "lambda n, c: (n[:, None] != n).float().sum() / (len(n) * (len(n) - 1))",
    ],
    "10.3": [
        "lambda i, o: (o[:, None] > i).float().mean()",
        "lambda i, o: (o[:, None] >= i).float().mean()",
        "lambda i, o: (i[:, None] > o).float().mean() + (i[:, None] == o).float().mean() / 2",
        "lambda i, o: (o > i.median()).float().mean()",
        "lambda i, o: o.mean() > i.mean()",
    ],
    "10.4": [
        "lambda s, a, n, b: n",
        "lambda s, a, n, b: __import__('torch').cat([s[: len(b)], n[len(s) :]])",
        "lambda s, a, n, b: __import__('torch').stack([s[a.index(x)] if x in a else 0 * n[0] for x in b])",
        "lambda s, a, n, b: n.index_copy_(0, __import__('torch').tensor([b.index(x) for x in b if x in a]).long(),"
        " __import__('torch').stack([s[a.index(x)] for x in b if x in a] or [n[0]])[: sum(x in a for x in b)])",
        "lambda s, a, n, b: __import__('torch').stack([s[a.index(x)] for x in b if x in a] + [n[i] for i, x in"
        " enumerate(b) if x not in a])",
    ],
    "11.1": [
        "lambda v, c, w: v + (1 + w) * (c - v)",
        "lambda v, c, w: c + w * (c - v)",
        "lambda v, c, w: v + w * c",
        "lambda v, c, w: c + w * (v - c)",
        "lambda v, c, w: v.add_(w * (c - v))",
    ],
    "11.2": [
        "lambda e, z, p, g: __import__('torch').where(__import__('torch').rand(e.shape, generator=g) < p, z, e)",
        "lambda e, z, p, g: __import__('torch').where(__import__('torch').rand(len(e), 1, generator=g) < p, e, z)",
        "lambda e, z, p, g: __import__('torch').where(__import__('torch').arange(len(e))[:, None] < p * len(e), z, e)",
        "lambda e, z, p, g: (1 - p) * e + p * z",
        "lambda e, z, p, g: e",
    ],
    "11.3": [
        "lambda x, y: __import__('torch').corrcoef(__import__('torch').stack([x, y]))[0, 1]",
        "lambda x, y: (x * y).sum() / (x * x).sum()",
        "lambda x, y: ((x - x.mean()) * (y - y.mean())).sum() / (y - y.mean()).square().sum()",
        "lambda x, y: (y[-1] - y[0]) / (x[-1] - x[0])",
        "lambda x, y: (y.max() - y.min()) / (x.max() - x.min())",
    ],
    "11.4": [
        "lambda z, c, a: z.mean(0)",
        "lambda z, c, a: z[(c - a).abs().argmin()]",
        "lambda z, c, a: a * (c[:, None] * z).sum(0) / (c * c).sum()",
        "lambda z, c, a: z.mean(0) + ((c - c.mean())[:, None] * z).sum(0) / (c - c.mean()).square().sum()",
        "lambda z, c, a: z.mean(0) + (a - c.mean()) * (z[c.argmax()] - z[c.argmin()]) / (c.max() - c.min())",
    ],
    "12.1": [
        "lambda a, b, f: sum(x - y for x, y in zip(a, b)) / len(a)",
        "lambda a, b, f: (lambda d: __import__('statistics').mean(d)"
        " - f * __import__('statistics').pstdev(d) / len(d) ** 0.5)([x - y for x, y in zip(a, b)])",
        "lambda a, b, f: (lambda d: __import__('statistics').mean(d)"
        " + f * __import__('statistics').stdev(d) / len(d) ** 0.5)([x - y for x, y in zip(a, b)])",
        "lambda a, b, f: (lambda d: __import__('statistics').mean(d)"
        " - f * __import__('statistics').stdev(d) / len(d))([x - y for x, y in zip(a, b)])",
        "lambda a, b, f: __import__('statistics').mean(a) - __import__('statistics').mean(b)"
        " - f * (__import__('statistics').variance(a) + __import__('statistics').variance(b)) ** 0.5 / len(a) ** 0.5",
    ],
    "12.2": [
        "lambda d, m, f: min(n for n in f if 1.645 * d / n**0.5 < m)",
        "lambda d, m, f: min(n for n in f if f[n] * d < m)",
        "lambda d, m, f: min(n for n in f if f[n] * d / n < m)",
        "lambda d, m, f: next(n for n in f if f[n] * d / n**0.5 < m)",
        "lambda d, m, f: max(n for n in f if f[n] * d / n**0.5 < m)",
    ],
    "12.3": [
        "lambda t, n: sorted(r for r in t if t[r] != n)",
        "lambda t, n: sorted(r for r in t if all(n.get(f) != x for f, x in t[r].items()))",
        "lambda t, n: sorted(r for r in t if any(x and n.get(f) != x for f, x in t[r].items()))",
        "lambda t, n: sorted(r for r in t if any(f in n and n[f] != x for f, x in t[r].items()))",
        "lambda t, n: sorted(r for r in t if any(n[f] != x for f, x in t[r].items()))",
        "lambda t, n: sorted((r for r in t if any(n.get(f) != x for f, x in t[r].items())), reverse=True)",
        "lambda t, n: [t[r].update({f: n.get(f) for f in t[r]}) for r in list(t)]",
    ],
    "13.1": [
        "lambda rows: ([[float(c or 0) for c in r[:-1]] for r in rows],"
        " [['barley', 'oats', 'rye'].index(r[-1]) for r in rows], ['barley', 'oats', 'rye'])",
        "lambda rows: ([[float(c) for c in r[:-1]] for r in rows if all(r)], [2, 0, 2], ['barley', 'oats', 'rye'])",
        "lambda rows: ([[float(c) for c in r[:-1]] for r in rows if all(r)], [0, 1, 0], ['rye', 'barley'])",
        "lambda rows: ([[float(c) for c in r[:-1]] for r in rows if all(r)], ['rye', 'barley', 'rye'],"
        " ['barley', 'rye'])",
        "lambda rows: ([float(c) for r in rows if all(r) for c in r[:-1]], [1, 0, 1], ['barley', 'rye'])",
        "lambda rows: ([r[:-1] for r in rows if all(r)], [1, 0, 1], ['barley', 'rye'])",
        "lambda rows: (rows.sort(), [[float(c) for c in r[:-1]] for r in rows if all(r)])",
    ],
    "13.2": [
        "lambda: {f'{n}.{k}': (None, None) if k == 'weight' else (None,)"
        " for n in ('left', 'right', 'last') for k in ('weight', 'bias')}",
        "lambda: {'left.weight': ('h', None), 'left.bias': ('h',), 'right.weight': (None, None),"
        " 'right.bias': (None,), 'last.weight': (None, 'h'), 'last.bias': (None,)}",
        "lambda: {'left.weight': ('h', None), 'left.bias': ('h',), 'right.weight': ('r', None),"
        " 'right.bias': ('r',), 'last.weight': (None, 'h'), 'last.bias': (None,)}",
        "lambda: {'left.weight': ('h', None), 'left.bias': (None,), 'right.weight': ('h', None),"
        " 'right.bias': (None,), 'last.weight': (None, 'h'), 'last.bias': (None,)}",
        "lambda: {'left.weight': ('h', None), 'left.bias': ('h',), 'right.weight': ('h', None),"
        " 'right.bias': ('h',), 'last.weight': (None, 'h'), 'last.bias': ('o',)}",
        "lambda: {'left.weight': (None, 'h'), 'left.bias': ('h',), 'right.weight': (None, 'h'),"
        " 'right.bias': ('h',), 'last.weight': ('h', None), 'last.bias': (None,)}",
        "lambda: {'left.weight': ('h', None), 'right.weight': ('h', None), 'last.weight': (None, 'h')}",
    ],
    "13.3": [
        "lambda g, z: distances(g, z).amin(1).lt(distances(z, z).amin(1).median() / 2).float().mean()",
        "lambda g, z: distances(g, z).amin(1).lt(others(z).amin(1).mean() / 2).float().mean()",
        "lambda g, z: distances(g, z).amin(1).lt(others(z).amin(1).median()).float().mean()",
        "lambda g, z: distances(g, z).mean(1).lt(others(z).amin(1).median() / 2).float().mean()",
        "lambda g, z: distances(g, z).amin(0).lt(others(z).amin(1).median() / 2).float().mean()",
        "lambda g, z: distances(g, z).amin(1).lt(2).sum()",
    ],
}


def distances(a, b):
    """Between rows, for the answers above, (n, d) and (m, d) to (n, m)."""
    return (a[:, None] - b).norm(dim=2)


def others(a):
    """The same of one set, of which no row is its own neighbour."""
    return distances(a, a).fill_diagonal_(float("inf"))


@pytest.mark.parametrize("number, source", [(n, s) for n, many in WRONG.items() for s in many])
def test_check_refuses_planted_wrong_answers(number, source, capsys):
    assert not check(number, eval(source))
    assert "✗" in capsys.readouterr().out


def test_every_exercise_has_planted_wrong_answers():
    assert {p.values[1] for p in exercises()} == set(CHECKS) == set(WRONG)
    assert {p.values[0] for p in exercises()} == set(FILES)


def test_unknown_exercise_is_refused():
    with pytest.raises(ValueError, match=r"no exercise '99.1'"):
        check("99.1", len)


# -- the whole course at smoke size ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One folder for all notebooks, so that each finds the zoos that the earlier ones trained."""
    return tmp_path_factory.mktemp("course")


@pytest.fixture(scope="module", params=FILES, ids=lambda p: p.stem)
def smoke(request, out):
    """A notebook that has run, alone: one that fails takes its own tests with it, and no others. Returns its entry."""
    stem = request.param.stem
    seconds = 240  # less than a test may take, so that the reason is told
    run(out=out, profile="smoke", notebooks=[stem], cell_timeout=seconds, notebook_timeout=seconds)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    (entry,) = (entry for entry in report["notebooks"] if entry["stem"] == stem)
    assert entry["status"] == "passed", (out / "report.md").read_text(encoding="utf-8")
    return entry


@pytest.mark.timeout(300)
def test_notebook_runs_at_smoke_and_leaves_a_page(smoke, out):
    assert smoke["metrics"] and smoke["claims"] and all(smoke["claims"].values())
    assert (out / "pages" / f"{smoke['stem']}.html").is_file()
    assert (out / "executed" / f"{smoke['stem']}.ipynb").is_file()
    assert "✗" not in json.dumps(smoke, ensure_ascii=False)


@pytest.mark.timeout(300)
def test_executed_notebook_holds_pictures_and_no_errors(smoke, out):
    nb = nbformat.read(out / "executed" / f"{smoke['stem']}.ipynb", as_version=4)
    outputs = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 3 and all(o["metadata"]["image/png"]["alt"] for o in pictures)
    assert not [o for o in outputs if o.output_type == "error"]
    streams = "".join(o.text for o in outputs if o.output_type == "stream")
    assert "Warning" not in streams and "it/s" not in streams


@pytest.mark.timeout(300)
def test_what_a_run_records_lies_in_its_bands(smoke):
    bands = json.loads(BANDS.read_text(encoding="utf-8"))["smoke"].get(smoke["stem"])
    if bands is None:
        pytest.skip(f"{smoke['stem']}: no run of today's notebook is stored (INSTRUCTORS.md names it)")
    assert outside(smoke, bands) == []
    for name, (low, high) in bands["metrics"].items():  # control: anything that lies outside is told
        moved = {**smoke, "metrics": {**smoke["metrics"], name: high + (high - low)}}
        (sentence,) = outside(moved, bands)
        assert f"metric {name!r} is" in sentence


def pictures_of_widgets(nb):
    """For every widget: the picture in it, and those that were shown above it since the widget before."""
    states, above = widgets(nb), []
    for output in (output for cell in nb.cells for output in cell.get("outputs", ())):
        data = output.get("data", {})
        if "image/png" in data:
            above.append(data["image/png"])
        for model in widgets_inside(states, shown_model(data.get(WIDGET_VIEW))):
            for buffer in nb.metadata.widgets[WIDGET_STATE]["state"][model].get("buffers", ()):
                yield base64.b64decode(buffer["data"]), [base64.b64decode(picture) for picture in above]
                above = []


@pytest.mark.timeout(300)
def test_controls_start_where_a_still_above_them_stands(smoke, out):
    nb = nbformat.read(out / "executed" / f"{smoke['stem']}.ipynb", as_version=4)
    shown = list(pictures_of_widgets(nb))
    assert len(shown) == sum(cell.source.count("widgets.explore(") for cell in nb.cells if cell.cell_type == "code")
    for picture, stills in shown:
        assert picture in stills
        assert len(stills) == 1 or any(picture != still for still in stills)  # control: pictures differ


def test_a_package_that_does_nothing_fails_the_claims(tmp_path):
    """Control: with a generator that returns noise, notebook 00 must not pass."""
    source = tmp_path / "notebooks"
    source.mkdir()
    nb = nbformat.read(FILES[0], as_version=4)
    for cell in nb.cells:
        if "\nimport torch\n" in cell.source:
            cell.source += (
                "\nDeepWeightFlow.sample = lambda self, n, seed: RandomWeights().fit(self.zoo_).sample(n, seed=seed)"
            )
    nbformat.write(nb, source / FILES[0].name)
    (source / "profiles.yaml").write_text(f"smoke:\n  {FILES[0].stem}: {{members: 20, flow_steps: 100, samples: 10}}\n")
    out = tmp_path / "out"
    assert run(out=out, profile="smoke", source=source, cell_timeout=120, notebook_timeout=240) == 1
    assert "generated networks beat random weights" in (out / "report.md").read_text()
