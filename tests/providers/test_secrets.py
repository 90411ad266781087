"""A key is shown nowhere, whatever is done with the value that holds it."""

import copy
import json
import pickle

import pytest

from pipeline_engine.providers import Secret

KEY = "sk-canary-5f1d"


@pytest.mark.parametrize("show", [repr, str, ascii, format, lambda secret: f"{secret!s} {secret!r}", lambda s: [s]])
def test_no_way_of_showing_a_secret_shows_the_key(show):
    """Keys leak through log lines that nobody meant to be about keys."""
    assert KEY not in repr(show(Secret(KEY)))


def test_a_secret_cannot_be_pickled():
    """A pickle lies on a disk or crosses to another process, where nobody redacts it."""
    with pytest.raises(TypeError, match=r"^a Secret cannot be pickled\. Read the key again where it is needed\.$"):
        pickle.dumps(Secret(KEY))


def test_a_secret_cannot_be_written_as_json():
    """A record that holds one by mistake must fail, not be stored."""
    with pytest.raises(TypeError):
        json.dumps({"key": Secret(KEY)})


def test_a_copy_is_the_same_secret():
    """Values that hold a secret stay copyable, without a second place where the key lies."""
    secret = Secret(KEY)

    assert copy.copy(secret) is secret
    assert copy.deepcopy({"key": secret})["key"] is secret


def test_a_secret_has_no_attributes_to_dump():
    """Debuggers and error reporters walk `__dict__`."""
    assert not hasattr(Secret(KEY), "__dict__")


def test_redacting_removes_every_echo_of_the_key():
    """Some servers quote the wrong key back in full."""
    assert Secret(KEY).redact(f"{KEY} is no key, {KEY}!") == "[secret] is no key, [secret]!"


def test_an_empty_key_is_refused():
    """An empty key would redact every gap between two characters."""
    with pytest.raises(ValueError, match="this one is empty"):
        Secret("")
