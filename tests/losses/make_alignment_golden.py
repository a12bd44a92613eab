"""Writes tests/losses/alignment_golden.json: losses of direct alignment and their gradients, computed by TRL (huggingface/trl).

Nothing of this suite is imported, and TRL is called, not copied: its trainers' loss methods run on a stand-in that hands them
log-probabilities for a model's outputs. In an environment of its own:

    pip install torch==2.13.0 trl==1.16.0 requests
    python tests/losses/make_alignment_golden.py          # DPO's losses, KTO, CPO, SimPO, ORPO
    pip install --no-deps --target old trl==0.24.0        # the last ones with Nash-MD and XPO
    PYTHONPATH=old python tests/losses/make_alignment_golden.py

The second run adds to the file that the first one wrote.
"""

import collections
import importlib.machinery
import json
import pathlib
import sys
import types

import torch

missing = types.ModuleType("llm_blender")  # trl 0.24 takes it to be installed
missing.__spec__ = importlib.machinery.ModuleSpec("llm_blender", None)
sys.modules.setdefault("llm_blender", missing)

import trl  # noqa: E402

FILE = pathlib.Path(__file__).with_name("alignment_golden.json")
PAIRS, TOKENS = 4, 6
LENGTHS = torch.tensor([[6, 3], [2, 5], [4, 4], [1, 6]])  # of the better and of the worse completion of each pair
MASK = torch.arange(TOKENS) < LENGTHS[..., None]


def draw():
    """Log-probabilities of tokens [pair, completion, token] under the policy and under the reference, 0 where masked."""
    generator = torch.Generator().manual_seed(0)
    policy = -2.0 * torch.rand((PAIRS, 2, TOKENS), generator=generator, dtype=torch.float64)
    reference = policy + 0.6 * torch.randn((PAIRS, 2, TOKENS), generator=generator, dtype=torch.float64)
    return policy * MASK, reference.clamp(max=-0.01) * MASK


def stand_in(**more):
    """What the loss methods read of a trainer."""
    same = lambda x: x
    return types.SimpleNamespace(
        model=types.SimpleNamespace(training=False),
        accelerator=types.SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same),
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        aux_loss_enabled=False,
        _total_train_tokens=0,
        **more,
    )


def outputs(log_probs):
    """A model's outputs around log-probabilities [row, token]."""
    zeros = torch.zeros_like(log_probs).detach()
    return types.SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def with_prompt(mask):
    """The mask of a prompt of one token and a completion."""
    return torch.cat([torch.zeros_like(mask[:, :1]), mask], dim=1).long()


def dpo(loss_type, policy, reference, mask, divergence="reverse_kl", beta=0.5, smoothing=0.0, alpha=0.5, tau=0.05):
    trainer = stand_in(
        beta=beta,
        loss_types=[loss_type],
        loss_weights=[1.0],
        label_smoothing=smoothing,
        f_divergence_type=divergence,
        f_alpha_divergence_coef=alpha,
        ld_alpha=None,
        precompute_ref_logps=True,
        use_weighting=False,
        args=types.SimpleNamespace(discopop_tau=tau),
    )
    mask = with_prompt(mask)
    chosen, rejected = reference.sum(-1)[:, None]
    inputs = dict(completion_mask=mask, input_ids=mask, attention_mask=mask)
    inputs.update(ref_chosen_logps=chosen, ref_rejected_logps=rejected)
    return trl.DPOTrainer._compute_loss(trainer, lambda **_: outputs(policy), inputs, False)


def cpo(policy, reference, mask, loss_type="sigmoid", beta=0.5, gamma=0.0, smoothing=0.0, weight=0.0, odds=False):
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    trainer = stand_in(
        loss_type=loss_type, beta=beta, simpo_gamma=gamma, label_smoothing=smoothing, cpo_alpha=weight, alpha=0.0
    )
    total, mean = policy.sum(-1), policy.sum(-1) / mask.sum(-1)
    score = mean if odds or loss_type == "simpo" else total
    trainer.concatenated_forward = lambda *_: (score[:1], score[1:], policy.detach(), policy.detach(), -mean[0])
    kind = ORPOTrainer if odds else CPOTrainer
    for name in ("cpo_loss", "odds_ratio_loss"):
        if hasattr(kind, name):
            setattr(trainer, name, types.MethodType(getattr(kind, name), trainer))
    return kind.get_batch_loss_metrics(trainer, None, None)[0]


def kto(policy, reference, mask, others, beta=0.5, desirable=1.0, undesirable=0.7):
    """The loss of a batch of one good and one bad completion; `others` are log ratios of unrelated completions."""
    trainer = stand_in(
        beta=beta,
        loss_type="kto",
        calculate_KL=True,
        precompute_ref_logps=True,
        desirable_weight=desirable,
        undesirable_weight=undesirable,
        _compute_kl_logps=lambda model, batch: others,
    )
    mask = with_prompt(mask)
    batch = dict(label=torch.tensor([True, False]), input_ids=mask, completion_mask=mask, attention_mask=mask)
    batch.update(ref_logps=reference.sum(-1), ref_KL_logps=torch.zeros_like(others))
    return trl.KTOTrainer._compute_loss(trainer, lambda **_: outputs(policy), batch, False)


def of_pairs(name, loss, dtype=torch.float64, **numbers):
    """The case of a loss of each pair; a gradient is by the log-probability of a whole completion."""
    values, gradients = [], []
    for policy, reference, mask in zip(*draw(), MASK):
        leaf = policy.to(dtype).requires_grad_()
        value = loss(leaf, reference.to(dtype), mask)
        value.backward()
        values.append(value.item())
        gradients.append(leaf.grad[:, 0].tolist())
    return dict(name=name, library=f"trl {trl.__version__}", numbers=numbers, value=values, gradient=gradients)


def cases():
    part = lambda loss_type, **more: lambda *data: dpo(loss_type, *data, **more)
    yield of_pairs("dpo", part("sigmoid"), beta=0.5)
    yield of_pairs("rdpo", part("robust", smoothing=0.2), beta=0.5, flip=0.2)
    yield of_pairs("ipo", part("ipo"), target=1.0)
    yield of_pairs("hinge", part("hinge"), beta=0.5)
    yield of_pairs("exo", part("exo_pair", smoothing=0.01), beta=0.5, flip=0.01)
    yield of_pairs("nca", part("nca_pair"), beta=0.5)
    yield of_pairs("bco", part("bco_pair"), beta=0.5)
    yield of_pairs("sppo", part("sppo_hard"), target=1.0)
    yield of_pairs("apo_zero", part("apo_zero"), beta=0.5)
    yield of_pairs("apo_down", part("apo_down"), beta=0.5)
    yield of_pairs("discopop", part("discopop"), beta=0.5, temperature=0.05)
    yield of_pairs("average_dpo", part("sigmoid_norm"), beta=0.5)
    yield of_pairs("f_dpo_forward_kl", part("sigmoid", divergence="forward_kl"), beta=0.5)
    yield of_pairs("f_dpo_jensen_shannon", part("sigmoid", divergence="js_divergence"), beta=0.5)
    # its coefficient is 1 - alpha of the paper; the code knows no float64 there
    alpha = part("sigmoid", divergence="alpha_divergence", alpha=0.3)
    yield of_pairs("f_dpo_alpha", alpha, torch.float32, beta=0.5, alpha=0.7)
    yield of_pairs("cpo", lambda *data: cpo(*data, weight=0.8), beta=0.5, imitate=0.8)
    yield of_pairs("cdpo", lambda p, r, m: cpo(p - r, r, m, smoothing=0.2), beta=0.5, flip=0.2)
    yield of_pairs("ipo_sum", lambda p, r, m: cpo(p - r, r, m, loss_type="ipo"), target=1.0)
    simpo = lambda *data: cpo(*data, loss_type="simpo", beta=2.0, gamma=0.6)
    yield of_pairs("simpo", simpo, beta=2.0, margin=0.6)
    orpo = lambda *data: cpo(*data, beta=0.3, odds=True)  # in float32 throughout
    yield of_pairs("orpo", orpo, torch.float32, weight=0.3)
    others = torch.tensor([0.9, -0.2, 0.5], dtype=torch.float64)
    yield of_pairs("kto", lambda *data: kto(*data, others), beta=0.5, undesirable=0.7, others=others.tolist())


def dominance():
    """AOT of the whole batch, paired and unpaired."""
    for name in ("aot", "aot_unpaired"):
        policy, reference = draw()
        leaf = policy.requires_grad_()
        trainer = stand_in(beta=0.5, loss_types=[name], loss_weights=[1.0], label_smoothing=0.1, ld_alpha=None)
        trainer.f_divergence_type, trainer.precompute_ref_logps, trainer.use_weighting = "reverse_kl", True, False
        rows = leaf.transpose(0, 1).reshape(2 * PAIRS, TOKENS)  # all the better ones come first
        mask = with_prompt(MASK.transpose(0, 1).reshape(2 * PAIRS, TOKENS))
        chosen, rejected = reference.sum(-1).T
        inputs = dict(completion_mask=mask, input_ids=mask, attention_mask=mask)
        inputs.update(ref_chosen_logps=chosen, ref_rejected_logps=rejected)
        loss = trl.DPOTrainer._compute_loss(trainer, lambda rows=rows, **_: outputs(rows), inputs, False)
        loss.backward()
        numbers = dict(beta=0.5, flip=0.1)
        case = dict(name=name, library=f"trl {trl.__version__}", numbers=numbers, value=loss.item())
        yield case | dict(gradient=leaf.grad[..., 0].tolist())


def online():
    """Nash-MD of the better completions, with gradients by token, and XPO where the worse one is the reference's own."""
    from trl.trainer.nash_md_trainer import NashMDTrainer
    from trl.trainer.xpo_trainer import XPOTrainer

    policy, reference = (x[:, 0] for x in draw())
    preference = torch.tensor([0.9, 0.2, 0.5, 0.7], dtype=torch.float64)
    leaf = policy.clone().requires_grad_()
    loss, *_ = NashMDTrainer._compute_losses(types.SimpleNamespace(beta=0.3), leaf, reference, preference)
    loss.backward()
    numbers = dict(tau=0.3, preference=preference.tolist())
    library = f"trl {trl.__version__}"
    yield dict(name="nash_md", library=library, numbers=numbers, value=loss.item(), gradient=leaf.grad.tolist())

    def xpo(policy, reference, mask):
        trainer = types.SimpleNamespace(beta=0.5, alpha=0.2, args=types.SimpleNamespace(loss_type="sigmoid"))
        rows = (policy[:1], policy[1:], reference[1:], reference[:1])
        return XPOTrainer._compute_losses(trainer, *rows, torch.tensor([True]))[0]

    yield of_pairs("xpo", xpo, beta=0.5, alpha=0.2)


def main():
    policy, reference = draw()
    made = [*online()] if trl.__version__.startswith("0.") else [*cases(), *dominance()]
    kept = json.loads(FILE.read_text())["cases"] if FILE.exists() else []
    cases_of = {case["name"]: case for case in kept + made}
    note = f"Made by tests/losses/make_alignment_golden.py with torch {torch.__version__} and TRL, the version of each is in it."
    content = dict(note=note, policy=policy.tolist(), reference=reference.tolist(), length=LENGTHS.tolist())
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    listed = ",\n".join(json.dumps(case) for case in cases_of.values())
    FILE.write_text("{" + ",\n".join(lines) + ',\n"cases": [\n' + listed + "\n]}\n")


if __name__ == "__main__":
    main()
