"""Laws of the names of devices; a device that this machine lacks is taken to be there for the name alone."""

import pytest
import torch

from diffaug.compute.devices import device_of, processor_of
from diffaug.errors import ConfigError


def test_a_device_of_a_mac_is_a_device_like_others_where_torch_finds_it(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_of("mps") == torch.device("mps") and device_of("mps:0").type == "mps"
    assert processor_of(torch.device("mps")).endswith("Metal")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == torch.device("cpu")  # never chosen, since nobody has measured it
    with pytest.raises(ConfigError, match="torch finds 1 devices of Apple's Metal, not mps:1"):
        device_of("mps:1")


@pytest.mark.parametrize("name", ["mps", "cuda", "cuda:7"])
def test_a_device_that_is_not_there_is_refused_with_one_that_is(monkeypatch, name):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=rf"torch finds 0 .*, not {name}; use cpu"):
        device_of(name)


@pytest.mark.parametrize("name", ["meta", "gpu", "vulkan", ""])
def test_a_name_of_no_device_is_refused_with_those_that_are(name):
    with pytest.raises(ConfigError, match="a device must be cpu, cuda, cuda:N, mps or auto"):
        device_of(name)
