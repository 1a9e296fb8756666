"""Tests of what is written of the machine."""

import json

import torch

import svdistill
from svdistill.records import environment


def test_environment_names_versions_and_machine():
    """Everything that a result depends on besides its recipe."""
    found = environment()
    assert found.keys() >= {"svdistill", "python", "torch", "platform", "cpu", "gpu", "threads"}
    assert found["svdistill"] == svdistill.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]
    json.dumps(found)


def test_a_machine_that_does_not_tell_its_processor(monkeypatch, tmp_path):
    """It is named by what Python knows of it."""
    monkeypatch.setattr("svdistill.records.provenance.Path", lambda _: tmp_path)  # a folder in place of a file
    assert environment()["cpu"]
