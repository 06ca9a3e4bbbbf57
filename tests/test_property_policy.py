"""Random architectures: what a policy says it keeps is kept, and what it scales is scaled.

`HYPOTHESIS_PROFILE=nightly` (`make nightly`) draws ten times as many.
"""

import copy
from collections import Counter

import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st

import fxplastic
from fxplastic.policy import Policy
from tests.architectures import programs
from tests.oracle import MODES, TOLERANCE, distance, mask_consumers, outputs, prepare, pruned
from tests.programs import Program


def drawn() -> int:
    """A quarter of what the profile draws."""
    return max(1, settings.default.max_examples // 4)


def test_zero_sum_noise_and_fresh_slots_equal_masking_on_random_architectures() -> None:
    seen: Counter[str] = Counter()

    @seed(0)
    @settings(max_examples=drawn())
    @given(programs(), st.integers(0, 999))
    def check(program: Program, number: int) -> None:
        model, inputs = prepare(program.build(), seed=number), program.inputs()
        plastic = fxplastic.plasticize(model, inputs)
        seen["drawn"] += 1
        if not plastic.groups:
            return
        scores = {
            n: torch.rand(g.size, generator=torch.Generator().manual_seed(number + i))
            for i, (n, g) in enumerate(plastic.groups.items())
        }
        for policy in (Policy(shares="signed", zero_sum=0.5), Policy(fill="fresh")):
            plan = fxplastic.plan_turnover(plastic, scores, 0.5, shares=policy.split)
            dead = {n: pruned(plastic.groups[n], edit.take) for n, edit in plan.edits.items()}
            turned = copy.deepcopy(plastic)
            fxplastic.rewrite_(turned, plan, policy=policy, seed=number)
            reference = mask_consumers(plastic, plastic.groups, dead)
            plain = copy.deepcopy(plastic)
            fxplastic.rewrite_(plain, plan)
            seen["touched"] += any(
                not torch.equal(a, b)
                for a, b in zip(turned.parameters(), plain.parameters(), strict=True)
            )
            seen["checked"] += bool(plan.edits)
            for mode in MODES:
                found = outputs(turned, inputs, mode), outputs(reference, inputs, mode)
                assert distance(*found) <= TOLERANCE, (policy, mode)

    check()
    assert seen["checked"] >= seen["drawn"]  # two policies each, and most draws have groups
    assert seen["touched"] >= 0.95 * seen["checked"]


def test_norm_scaling_restores_norms_on_random_architectures() -> None:
    seen: Counter[str] = Counter()

    @seed(1)
    @settings(max_examples=drawn())
    @given(programs(), st.integers(0, 999))
    def check(program: Program, number: int) -> None:
        model = prepare(program.build(), seed=number)
        plastic = fxplastic.plasticize(model, program.inputs())
        group = next(iter(plastic.groups.values()), None)
        if group is None or group.block_size < 2:
            return
        plan = fxplastic.plan_turnover(
            plastic, {group.name: torch.arange(1.0, group.size + 1)}, 0.5, shares="whole",
            groups=[group.name],
        )  # fmt: skip
        before = {n: p.detach().clone() for n, p in plastic.named_parameters()}
        fxplastic.rewrite_(plastic, plan, policy=Policy(scaling="norm"))
        after = dict(plastic.named_parameters())
        for site in group.consumers:
            produced = {s.axis for s in group.producers if s.parameter == site.parameter}
            others = [s for s in group.consumers if s.parameter == site.parameter]
            if site.parameter not in after or produced or len(others) > 1 or site.rows is not None:
                continue
            # Over everything: the sum of what is restored consumer by consumer.
            old, new = before[site.parameter], after[site.parameter].detach()
            torch.testing.assert_close(new.norm(), old.norm(), rtol=1e-10, atol=1e-12)
            seen["restored"] += not torch.equal(old, new)

    check()
    assert seen["restored"] >= 0.5 * drawn()
