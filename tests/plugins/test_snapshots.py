"""A module that holds other values for a while is another model meanwhile, and afterwards the same to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from myosotis_plugins.methods.snapshots import Snapshot, holding, placed, training, without_dropout
from tests.plugins import tiny


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3))


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in module.named_parameters()}


INPUTS = torch.linspace(-1, 1, 20).reshape(5, 4)


def test_it_is_the_other_model_meanwhile() -> None:
    module, other = network(0), network(1).eval()
    before = values(module)
    with holding(module, values(other)):
        found = module(INPUTS)
    assert torch.equal(found, other(INPUTS))
    assert not found.requires_grad
    assert all(torch.equal(each, before[name]) for name, each in module.named_parameters())


def test_modes_are_as_they_were() -> None:
    module = network()
    module.train()
    module[3].training = False
    modes = {name: each.training for name, each in module.named_modules()}
    with holding(module, {}):
        assert not any(each.training for each in module.modules())
    assert {name: each.training for name, each in module.named_modules()} == modes


def test_dropout_is_off_and_takes_no_random_numbers() -> None:
    module = network().train()
    state = torch.get_rng_state()
    with without_dropout(module):
        assert torch.equal(module(INPUTS), module(INPUTS))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_graph_from_before_gives_the_same_gradients() -> None:
    gradients = []
    for asks in (False, True):
        module = network().eval()
        loss = module(INPUTS).square().mean()
        if asks:
            with holding(module, values(network(1))):
                module(INPUTS)
        loss.backward()
        gradients.append([each.grad for each in module.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


def test_an_error_puts_everything_back() -> None:
    module = network().train()
    before = values(module)
    with pytest.raises(ZeroDivisionError), holding(module, values(network(1))):
        raise ZeroDivisionError
    assert all(torch.equal(each, before[name]) for name, each in module.named_parameters())
    assert module.training
    assert torch.is_autocast_cache_enabled()


def test_autocast_does_not_take_one_models_casts_for_the_others() -> None:
    module, other = network(0).eval(), network(1).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = other(INPUTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = module(INPUTS)  # fills the cache
        with holding(module, values(other)):
            found = module(INPUTS)
        again = module(INPUTS)
    assert torch.equal(found, wanted)
    assert torch.equal(again, first)
    assert not torch.equal(found, first)
    assert again.requires_grad


def test_a_tied_head_is_held_once() -> None:
    module, other = tiny.llama(seed=0), tiny.llama(seed=1)
    ids = torch.arange(10)[None]
    with holding(module, values(other)):
        found = module(ids).logits
    with torch.no_grad():
        assert torch.equal(found, other(ids).logits)


def test_a_snapshot_is_of_what_trains_and_of_the_first_time() -> None:
    module = network()
    module[0].requires_grad_(False)
    snapshot = Snapshot()
    first = copy.deepcopy(dict(snapshot.values(module)))
    assert set(first) == {"3.weight", "3.bias"}
    with torch.no_grad():
        module[3].weight.add_(1)
    assert torch.equal(snapshot.values(module)["3.weight"], first["3.weight"])


def test_what_trains_later_is_added_as_it_is_then() -> None:
    module = network()
    module[0].requires_grad_(False)
    snapshot = Snapshot()
    snapshot.values(module)
    before = values(module)
    with torch.no_grad():
        module[3].weight.add_(1)
    module.requires_grad_(True)
    assert all(torch.equal(each, before[name]) for name, each in snapshot.values(module).items())
    assert set(snapshot.taken) == set(before)


def test_values_are_put_where_the_parameters_are() -> None:
    module = network().to("meta")
    assert all(value.is_meta for value in placed(values(network()), module).values())


def test_training_names_what_trains() -> None:
    module = network()
    module[3].requires_grad_(False)
    assert list(training(module)) == ["0.weight", "0.bias"]
