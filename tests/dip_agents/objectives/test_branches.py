"""Branches: a reference, and exact expected gradients on a policy small enough to enumerate."""

import itertools

import numpy as np
import pytest
import torch

from dip_agents.objectives.advantages import deviation, group_advantages
from dip_agents.objectives.branches import BranchRewards, answer_part, branch_advantages
from dip_env.errors import ConfigError


def earned(rewards, looked=None, blank=0, accuracy=None):
    rewards = torch.as_tensor(np.asarray(rewards, dtype=np.float64))
    looked = torch.ones(rewards.shape[:2], dtype=torch.bool) if looked is None else looked
    if accuracy is not None:
        accuracy = torch.as_tensor(np.asarray(accuracy, dtype=np.float64))
    return BranchRewards(rewards, torch.as_tensor(looked), blank, accuracy)


def reference(rewards, looked, blank, accuracy):
    """Return A_look (L,) and A_answer (L, K) of one scene, unscaled, loop by loop."""
    count, answers = rewards.shape
    real = answers - blank
    crop_value = rewards[:, :real].mean(axis=1)
    if blank:
        crop_value = crop_value - accuracy[:, real:].mean(axis=1)
    looks, compared = np.zeros(count), np.zeros((count, answers))
    for one in range(count):
        others = [other for other in range(count) if other != one]
        looks[one] = crop_value[one] - np.mean([crop_value[other] for other in others])
        if blank and not looked[one]:
            blank_others = np.mean([accuracy[other, real:].mean() for other in others])
            looks[one] += accuracy[one, 0] - blank_others
        for k in range(answers):
            sort = range(real) if k < real else range(real, answers)
            rest = [rewards[one, j] for j in sort if j != k]
            rest = rest or [rewards[other, k] for other in others]
            compared[one, k] = (rewards[one, k] - np.mean(rest)) * looked[one]
    return looks, compared


def drawn(seed, scenes=5, looks=3, answers=4):
    """Return random rewards, accuracies and looked; a branch without a fork holds copies."""
    rng = np.random.default_rng(seed)
    accuracy = rng.random((scenes, looks, answers)) * 0.8
    rewards = accuracy + rng.random((scenes, looks, answers)) * 0.2
    looked = rng.random((scenes, looks)) < 0.7
    for table in (accuracy, rewards):
        table[~looked] = table[~looked][:, :1]
    return rewards, looked, accuracy


@pytest.mark.parametrize("blank", [0, 1, 2, 3])
def test_looks_and_answers_are_compared_as_in_the_reference(blank):
    rewards, looked, accuracy = drawn(blank)
    found = branch_advantages(earned(rewards, looked, blank, accuracy), "rloo")
    for scene in range(len(rewards)):
        wanted = reference(rewards[scene], looked[scene], blank, accuracy[scene])
        np.testing.assert_allclose(found.looks[scene], wanted[0], atol=1e-12)
        np.testing.assert_allclose(found.answers[scene], wanted[1], atol=1e-12)


def test_by_hand():
    # Values 0.5 and 0.25; the answers 0.5 apart and equal.
    found = branch_advantages(earned([[[0.75, 0.25], [0.25, 0.25]]]), "rloo")
    assert found.looks.tolist() == [[0.25, -0.25]]
    assert found.answers.tolist() == [[[0.5, -0.5], [0.0, 0.0]]]
    # dr_grpo compares with the mean of all four: 3/4 of it.
    found = branch_advantages(earned([[[0.75, 0.25], [0.25, 0.25]]]), "dr_grpo")
    assert found.looks.tolist() == [[0.1875, -0.1875]]
    assert found.answers.tolist() == [[[0.375, -0.375], [0.0, 0.0]]]


def test_blank_answers_by_hand():
    # Accuracy weighs all but 0.1 of the first look's rewards. One real and one blank answer each:
    # values 0.9 - 0.2 = 0.7 and 0.5 - 0.5 = 0.
    accuracy = [[[0.8, 0.2], [0.5, 0.5]]]
    found = branch_advantages(earned([[[0.9, 0.3], [0.5, 0.5]]], None, 1, accuracy), "rloo")
    assert found.looks[0].tolist() == pytest.approx([0.7, -0.7])
    assert found.answers[0, :, 0].tolist() == pytest.approx([0.4, -0.4])  # real with real
    assert found.answers[0, :, 1].tolist() == pytest.approx([-0.2, 0.2])  # blank with blank


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "batch_std", "rloo"])
def test_with_one_answer_to_each_look_a_look_has_the_advantage_of_a_plain_group(kind):
    rewards = np.random.default_rng(3).random((4, 6))
    found = branch_advantages(earned(rewards[..., None]), kind)
    plain = group_advantages(torch.from_numpy(rewards), kind).values
    np.testing.assert_allclose(found.looks.float(), plain, rtol=1e-5)
    assert not found.answers.any()


@pytest.mark.parametrize("kind", ["grpo", "batch_std"])
def test_looks_and_answers_are_divided_by_the_same_deviation(kind):
    rewards, looked, _ = drawn(8)
    scaled = branch_advantages(earned(rewards, looked), kind, eps=0.0)
    plain = branch_advantages(earned(rewards, looked), "dr_grpo")
    table = torch.from_numpy(rewards).reshape(5, 12)
    by = deviation(table, dim=1) if kind == "grpo" else deviation(table)
    torch.testing.assert_close(scaled.looks, plain.looks / by)
    torch.testing.assert_close(scaled.answers, plain.answers / by[..., None])


def test_a_group_is_informative_where_any_token_has_an_advantage():
    rewards = [
        [[0.5, 0.5], [0.5, 0.5]],
        [[0.5, 0.5], [0.6, 0.6]],  # looks differ
        [[0.4, 0.6], [0.4, 0.6]],  # answers differ
    ]
    assert branch_advantages(earned(rewards)).informative.tolist() == [False, True, True]
    # Equal rewards, of which the accuracy of one look is with its crops only.
    accuracy = [[[0.5, 0.3], [0.5, 0.5]]]
    equal = earned([[[0.5, 0.5], [0.5, 0.5]]], None, 1, accuracy)
    assert branch_advantages(equal, "rloo").informative.tolist() == [True]
    # A deviation of 0 does not tell how much that is.
    assert branch_advantages(equal, "batch_std").informative.tolist() == [False]
    assert not branch_advantages(equal, "grpo").looks.any()


def test_nothing_is_gained_by_answering_worse_without_crops():
    rewards, _, accuracy = drawn(4)
    looked = np.ones((5, 3), dtype=bool)
    before = branch_advantages(earned(rewards, looked, 2, accuracy), "rloo").answers
    worse = [table.copy() for table in (rewards, accuracy)]
    for table in worse:
        table[0, 0, 3] -= 0.2  # the last answer to the first look, a blank one
    after = branch_advantages(earned(worse[0], looked, 2, worse[1]), "rloo").answers
    moved = (after - before)[0, 0].numpy()
    assert moved == pytest.approx([0.0, 0.0, 0.2, -0.2])  # itself loses, only the other one gains
    assert torch.equal(after[0, 1:], before[0, 1:])


def test_the_parts_of_terms_add_up_to_the_answers():
    rewards, looked, accuracy = drawn(5)
    found = earned(rewards, looked, 1, accuracy)
    parts = [
        answer_part(torch.from_numpy(part), found, "batch_std")
        for part in (accuracy, rewards - accuracy)
    ]
    torch.testing.assert_close(sum(parts), branch_advantages(found, "batch_std").answers)


@pytest.mark.parametrize("kind", ["gdpo", "gigpo", "ppo"])
def test_kinds_that_cannot_compare_branches_are_refused(kind):
    with pytest.raises(ConfigError, match=rf"'rloo'\] with branches, got '{kind}'"):
        branch_advantages(earned(np.ones((1, 2, 2))), kind)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((1, 1, 2)),), r"expected shape \(P, L, K\) with L >= 2, got \(1, 1, 2\)"),
        ((np.full((1, 2, 2), np.nan),), "expected finite numbers"),
        ((np.ones((1, 2, 2)), np.ones((2, 2), bool)), r"looked: expected \(1, 2\), got \(2, 2\)"),
        ((np.ones((1, 2, 2)), None, 2), "blank: expected 0 to 1, got 2"),
        ((np.ones((1, 2, 2)), None, 1), r"accuracy: expected shape \(1, 2, 2\)"),
    ],
)
def test_what_does_not_fit_together_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        earned(*arguments)


class Enumerated:
    """A policy that looks at one of two places or answers at once, then gives one of three answers.

    Rewards are a table plus noise of two signs; what a look earns by itself is the same for all
    answers to it.
    """

    LOOKS, ANSWERS, NOISE = 2, 3, 0.25

    def __init__(self, answers, blank=0, noise=NOISE):
        rng = np.random.default_rng(11)
        self.count, self.blank, self.noise = answers, blank, noise
        self.trunk = torch.tensor(rng.normal(size=3), requires_grad=True)
        # By look, without and with crops, by answer.
        self.answer = torch.tensor(rng.normal(size=(2, 2, 3)), requires_grad=True)
        self.accuracy = torch.tensor(rng.random((2, 2, 3)))
        self.own = torch.tensor([0.1, 0.3])
        self.direct = 0.45

    @property
    def parameters(self):
        return self.trunk, self.answer

    def branches(self):
        """Yield every branch: probability, rewards, accuracies, looked, scores of its tokens."""
        trunk = torch.softmax(self.trunk.detach(), 0).numpy()
        answer = torch.softmax(self.answer.detach(), 2).numpy()
        signs = (-self.noise, self.noise) if self.noise else (0.0,)
        for look in range(self.LOOKS):
            choices = list(itertools.product(range(self.ANSWERS), signs))
            for said in itertools.product(choices, repeat=self.count):
                chance, accuracy = trunk[look], np.zeros(self.count)
                scores = np.zeros((self.count, *self.answer.shape))
                for k, (word, noise) in enumerate(said):
                    crops = int(k < self.count - self.blank)
                    chance *= answer[look, crops, word] / len(signs)
                    accuracy[k] = float(self.accuracy[look, crops, word]) + noise
                    scores[k, look, crops] = (np.arange(3) == word) - answer[look, crops]
                rewards = accuracy + float(self.own[look])
                yield chance, rewards, accuracy, True, (np.arange(3) == look) - trunk, scores
        for noise in signs:
            alike = np.full(self.count, self.direct + noise)
            scores = np.zeros((self.count, *self.answer.shape))
            chance = trunk[2] / len(signs)
            yield chance, alike, alike, False, (np.arange(3) == 2) - trunk, scores

    def expected_gradient(self, kind):
        """Return the mean of sum(A * score) / G over every group of two looks."""
        groups = list(itertools.product(list(self.branches()), repeat=2))
        chance, rewards, accuracy, looked, trunks, answers = (
            np.array([[branch[part] for branch in group] for group in groups], dtype=float)
            for part in range(6)
        )
        chance = chance.prod(axis=1)
        assert chance.sum() == pytest.approx(1.0)
        found = branch_advantages(earned(rewards, looked > 0, self.blank, accuracy), kind)
        # Every member has the tokens of its look: K copies, each with the advantage of the look.
        size = 2 * self.count
        look, answer = found.looks.numpy(), found.answers.numpy()
        of_trunk = np.einsum("p,pl,plt->t", chance, look, trunks) * self.count / size
        return of_trunk, np.einsum("p,plk,plkabc->abc", chance, answer, answers) / size

    def look_noise(self, looks):
        """Return the variance of the first choice's gradient over every group of some looks."""
        groups = list(itertools.product(list(self.branches()), repeat=looks))
        chance, rewards, looked, trunks = (
            np.array([[branch[part] for branch in group] for group in groups], dtype=float)
            for part in (0, 1, 3, 4)
        )
        found = branch_advantages(earned(rewards, looked > 0), "rloo").looks.numpy()
        gradients = np.einsum("pl,plt->pt", found, trunks) / looks
        chance = chance.prod(axis=1)[:, None]
        mean = (chance * gradients).sum(axis=0)
        return float((chance * (gradients - mean) ** 2).sum())

    def values(self):
        """Return the expected accuracy by look, without and with crops."""
        return (torch.softmax(self.answer, 2) * self.accuracy).sum(dim=2)

    def gradient(self, value):
        found = torch.autograd.grad(value, self.parameters, allow_unused=True)
        return [
            torch.zeros_like(p) if g is None else g
            for g, p in zip(found, self.parameters, strict=True)
        ]


@pytest.mark.parametrize(("kind", "share"), [("rloo", 1.0), ("dr_grpo", 3 / 4)])
def test_the_expected_gradient_of_branches_is_that_of_the_expected_reward(kind, share):
    policy = Enumerated(answers=2)
    after_look = policy.values()[:, 1] + policy.own
    chances = torch.softmax(policy.trunk, 0)
    wanted = policy.gradient((chances[:2] * after_look).sum() + chances[2] * policy.direct)
    for found, true in zip(policy.expected_gradient(kind), wanted, strict=True):
        np.testing.assert_allclose(found, share * true, atol=1e-10)
        assert float(true.abs().max()) > 0.01


@pytest.mark.parametrize(("answers", "blank"), [(2, 1), (3, 1), (3, 2)])
def test_with_blank_answers_looks_follow_what_crops_bring_and_answers_their_reward(answers, blank):
    policy = Enumerated(answers, blank, noise=0.25 if answers == 2 else 0.0)
    chances, values = torch.softmax(policy.trunk, 0), policy.values()
    brought = values[:, 1] - values[:, 0] + policy.own
    # Without a look: the accuracy over that of the blank answers in another branch.
    fixed = values.detach()
    compared = (chances.detach()[:2] * fixed[:, 0]).sum() + chances.detach()[2] * policy.direct
    direct = policy.direct - compared
    looks = policy.gradient((chances[:2] * brought.detach()).sum() + chances[2] * direct)[0]
    # And each answer what it earns, real and blank ones as often as there are.
    shares = torch.tensor([blank / answers, 1 - blank / answers])
    said = policy.gradient((chances.detach()[:2, None] * values * shares).sum())[1]
    found = policy.expected_gradient("rloo")
    np.testing.assert_allclose(found[0], looks, atol=1e-10)
    np.testing.assert_allclose(found[1], said, atol=1e-10)
    # More accuracy moves the blank answers up, whatever the looks are worth.
    assert float((torch.from_numpy(found[1])[:, 0] * policy.accuracy[:, 0]).sum()) > 0


def test_more_answers_calm_the_gradient_of_as_many_looks_and_not_that_of_fewer():
    one, two = Enumerated(answers=1, noise=0.5), Enumerated(answers=2, noise=0.5)
    assert two.look_noise(looks=2) < 0.8 * one.look_noise(looks=2)
    # In groups of four, either four looks with an answer each or two with two.
    assert two.look_noise(looks=2) > 1.2 * one.look_noise(looks=4)
